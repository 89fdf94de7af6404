"""Downloads from a stand-in for the hub, and that nothing else goes outside."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from conftest import make_model
from hub_server import Hub, start

import laplm
from laplm.errors import DownloadError, ModelNotFoundError
from laplm.hub import pull as pulling
from laplm.hub.locate import ADAPTER_FILES, installed, locate
from laplm.hub.pull import pull
from laplm.hub.remove import remove
from laplm.model.files.checkpoint import open_checkpoint
from laplm.model.tokenizer import Tokenizer

Usage = namedtuple("Usage", "total used free")
BLOCK = 100_000  # bytes
pytest_plugins = ("hub_cache",)  # its fixture; a second conftest would hide the first one


@pytest.fixture
def hub(cache: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the tiny model under the name of gpt2, with files that are not wanted."""
    from huggingface_hub import constants

    files = cache.parent / "files"
    shutil.copytree(tiny_model_dir, files)
    (files / "pytorch_model.bin").write_bytes(b"\0" * 20_000)
    (files / "tf_model.h5").write_bytes(b"\0" * 20_000)
    (files / "README.md").write_text("about")
    hub = Hub()
    hub.add("openai-community/gpt2", files)
    server = start(hub)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # The weights in some blocks, and no waiting before something is tried again.
    monkeypatch.setattr(pulling, "_SMALLEST_BLOCK", BLOCK)
    monkeypatch.setattr(pulling, "_LARGEST_BLOCK", BLOCK)
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield hub
    server.shutdown()
    server.server_close()


def quiet(what: str, done: int, total: int) -> None: ...


def asked_for(hub: Hub, name: str = "model.safetensors") -> list[tuple[int, int]]:
    """Bytes of a file that were asked for and came: from, to; parts in a row are one."""
    parts: list[tuple[int, int]] = []
    for request in hub.downloads():
        if request.path.endswith(name):
            start, end = map(int, str(request.range).removeprefix("bytes=").split("-"))
            assert request.served == end + 1 - start
            joins = parts and parts[-1][1] == start
            parts[-1 if joins else len(parts) :] = [(parts[-1][0] if joins else start, end + 1)]
    return parts


# --- pull -------------------------------------------------------------------------------------


def test_pull_fetches_what_is_needed_and_transformers_loads_it(
    hub: Hub, cache: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from transformers import AutoTokenizer, GPT2LMHeadModel

    told: list[tuple[str, int, int]] = []
    path = pull("gpt2", progress=lambda *args: told.append(args))
    assert path == locate("gpt2") == locate("openai-community/gpt2")
    got = {file.name for file in path.iterdir()}
    assert got == {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}
    for name in got:
        assert (path / name).read_bytes() == (tiny_model_dir / name).read_bytes()
    assert told[0][1] == 0 and told[-1][1] == told[-1][2] > 100_000
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)

    # The layout is the library's own: transformers finds it there, with no connection.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    settings = {"cache_dir": cache, "local_files_only": True}
    theirs = GPT2LMHeadModel.from_pretrained("openai-community/gpt2", **settings)
    wte = theirs.transformer.wte.weight.detach().numpy()
    assert np.array_equal(open_checkpoint(path).tensor("wte.weight"), wte)
    tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2", **settings)
    assert tokenizer.encode("Hi there") == Tokenizer.from_directory(path).encode("Hi there")


def test_an_adapter_is_pulled_and_runs_on_its_base_model(
    hub: Hub, cache: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(tiny_model_dir)
    model.name_or_path = "gpt2"
    config = LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = "gpt2"
    adapted.save_pretrained(tmp_path / "adapter")
    hub.add("me/poet", tmp_path / "adapter")
    path = pull("me/poet")
    assert {file.name for file in path.iterdir()} == set(ADAPTER_FILES)
    with pytest.raises(ModelNotFoundError, match="gpt2"):
        laplm.load("me/poet", "fp32")
    pull("gpt2")
    assert laplm.load("me/poet", "fp32").generate("Hi", 2, temperature=0).token_ids
    assert "me/poet" not in {m.name for m in installed()}
    (tmp_path / "adapter" / ADAPTER_FILES[1]).unlink()
    hub.add("me/half", tmp_path / "adapter")
    with pytest.raises(DownloadError, match="an adapter without adapter_model"):
        pull("me/half")


def test_named_chat_templates_are_pulled_and_found_where_transformers_finds_them(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from transformers import AutoTokenizer

    files = hub.repos["openai-community/gpt2"]
    (files / "chat_template.jinja").write_text("{{ messages | length }} by default")
    named = files / "additional_chat_templates"
    (named / "deeper").mkdir(parents=True)
    (named / "tool_use.jinja").write_text("{{ tools | length }} tools")
    (named / "rag.jinja").write_text("documents")
    for other in ("notes.txt", ".jinja", "deeper/no.jinja"):
        (named / other).write_text("something else")
    path = pull("gpt2", progress=quiet)
    found = sorted(p.name for p in (path / "additional_chat_templates").iterdir())
    assert found == ["rag.jinja", "tool_use.jinja"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    settings = {"cache_dir": cache, "local_files_only": True}
    theirs = AutoTokenizer.from_pretrained("openai-community/gpt2", **settings)
    template = laplm.load("gpt2", "fp32").chat_template
    assert template is not None and template.sources == theirs.chat_template
    turns, tools = [{"role": "user", "content": "Hi"}], [{"type": "function"}]
    for given in ({}, {"tools": tools}):
        wanted = theirs.apply_chat_template(turns, tokenize=False, **given)
        assert template.render(turns, **given) == wanted
    assert template.render(turns, name="rag") == "documents"


def test_second_pull_downloads_nothing(hub: Hub) -> None:
    path = pull("gpt2", progress=quiet)
    hub.requests.clear()
    assert pull("gpt2", progress=quiet) == path
    assert hub.downloads() == []
    assert all(r.method == "HEAD" or r.path.startswith("/api/") for r in hub.requests)


def test_force_downloads_everything_afresh(hub: Hub) -> None:
    path = pull("gpt2", progress=quiet)
    blob = (path / "model.safetensors").resolve()
    good = blob.read_bytes()
    blob.write_bytes(b"\0" * len(good))  # damage that only the contents show
    pull("gpt2", progress=quiet)
    assert (path / "model.safetensors").read_bytes() != good
    hub.requests.clear()
    pull("gpt2", force=True, progress=quiet)
    assert (path / "model.safetensors").read_bytes() == good
    assert asked_for(hub) == [(0, len(good))]


def test_interrupted_pull_goes_on_where_it_stopped(hub: Hub, cache: Path) -> None:
    size = (hub.repos["openai-community/gpt2"] / "model.safetensors").stat().st_size

    def stop(what: str, done: int, total: int) -> None:
        if what == "model.safetensors" and done > total - size + 200_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("gpt2", progress=stop)
    with pytest.raises(ModelNotFoundError, match="only in part"):
        locate("gpt2")
    (part,) = cache.glob("models--*/blobs/*.incomplete")
    kept = part.stat().st_size
    assert kept == 3 * BLOCK
    assert {m.name: m.problem for m in installed()}["gpt2"] == "its download did not finish"

    hub.requests.clear()
    path = pull("gpt2", progress=quiet)
    assert asked_for(hub) == [(kept, size)] and len({r.path for r in hub.downloads()}) == 1
    assert open_checkpoint(path).tensor("wte.weight").size
    assert not list(cache.glob("models--*/blobs/*.incomplete"))


def test_connection_cut_once_is_mended_within_the_pull(hub: Hub) -> None:
    files = hub.repos["openai-community/gpt2"]
    tokenizer = (files / "tokenizer.json").stat().st_size
    assert tokenizer >= 10_000  # it comes from the storage too, before the weights
    hub.cuts = [tokenizer, BLOCK, 30_000]
    path = pull("gpt2", progress=quiet)
    expected = (files / "model.safetensors").read_bytes()
    assert (path / "model.safetensors").read_bytes() == expected
    first, cut, again, *_ = (r for r in hub.downloads() if r.path.endswith("model.safetensors"))
    assert (first.served, cut.served, again.served) == (BLOCK, 30_000, BLOCK)
    assert cut.range == again.range == f"bytes={BLOCK}-{2 * BLOCK - 1}"


def test_a_line_that_breaks_again_and_again_keeps_what_has_arrived(hub: Hub, cache: Path) -> None:
    tokenizer = (hub.repos["openai-community/gpt2"] / "tokenizer.json").stat().st_size
    hub.cuts = [tokenizer, BLOCK, *[30_000] * 20]
    with pytest.raises(DownloadError, match=r"the connection to .* failed .*goes on where"):
        pull("gpt2", progress=quiet)
    (part,) = cache.glob("models--*/blobs/*.incomplete")
    assert part.stat().st_size == BLOCK


def test_a_hub_that_is_not_reached_is_told_with_the_other_way_there_is(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(DownloadError, match=r"connection .* failed .*`laplm pull smollm2 --from "):
        pull("smollm2", progress=quiet)
    with pytest.raises(DownloadError, match=r"connection .* failed .*goes on where it stopped$"):
        pull("gpt2", progress=quiet)


def test_a_server_that_gives_no_parts_is_read_whole(hub: Hub, cache: Path) -> None:
    expected = (hub.repos["openai-community/gpt2"] / "model.safetensors").read_bytes()
    blobs = cache / "models--openai-community--gpt2" / "blobs"
    blobs.mkdir(parents=True)
    part = blobs / f"{hashlib.sha256(expected).hexdigest()}.laplm.incomplete"
    part.write_bytes(expected[:1234])
    hub.no_ranges = True
    path = pull("gpt2", progress=quiet)
    assert (path / "model.safetensors").read_bytes() == expected
    assert len([r for r in hub.downloads() if r.path.endswith("model.safetensors")]) == 1


def test_blocks_grow_and_shrink_with_the_speed_of_the_line() -> None:
    least, most = pulling._SMALLEST_BLOCK, pulling._LARGEST_BLOCK
    assert pulling._next_block(4 * least, 0.1) == 8 * least, "no more than twice at once"
    assert pulling._next_block(4 * least, 4.0) == 2 * least
    assert pulling._next_block(least, 60.0) == least
    assert pulling._next_block(most, 0.0) == most


def test_model_on_disk_stays_usable_until_the_new_one_is_whole(hub: Hub) -> None:
    old = pull("gpt2", progress=quiet)
    files = hub.repos["openai-community/gpt2"]
    data = bytearray((files / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (files / "model.safetensors").write_bytes(data)
    hub.add("openai-community/gpt2", files, "c" * 40)
    hub.failing = 503
    with pytest.raises(DownloadError, match="error 503; try again later"):
        pull("gpt2", progress=quiet)
    assert locate("gpt2") == old
    hub.failing = None
    new = pull("gpt2", progress=quiet)
    assert new != old and locate("gpt2") == new
    assert (new / "model.safetensors").read_bytes() == bytes(data)


def test_damaged_download_is_noticed_and_thrown_away(hub: Hub, cache: Path) -> None:
    hub.corrupt = True
    with pytest.raises(DownloadError, match="its checksum differs"):
        pull("gpt2", progress=quiet)
    assert not list(cache.glob("models--*/blobs/*.incomplete"))
    hub.corrupt = False
    assert pull("gpt2", progress=quiet) == locate("gpt2")


def test_damaged_small_file_is_noticed_by_its_git_checksum(hub: Hub, cache: Path) -> None:
    file = "config.json"
    assert (hub.repos["openai-community/gpt2"] / file).stat().st_size < 10_000
    hub.corrupt_small = file
    with pytest.raises(DownloadError, match="its checksum differs"):
        pull("gpt2", progress=quiet)
    assert not [path for path in cache.glob("models--*/blobs/*") if path.is_file()]
    with pytest.raises(ModelNotFoundError):
        locate("gpt2")
    hub.corrupt_small = ""
    assert pull("gpt2", progress=quiet) == locate("gpt2")


@pytest.mark.parametrize(
    ("part", "force"),
    [("longer", False), ("longer", True), ("half", True), ("whole", True), ("wrong", True)],
)
def test_left_over_part_that_is_too_long_or_not_to_be_trusted_is_not_gone_on_with(
    hub: Hub, cache: Path, part: str, force: bool
) -> None:
    data = (hub.repos["openai-community/gpt2"] / "model.safetensors").read_bytes()
    left = {"longer": data + b"?", "half": data[: len(data) // 2], "whole": data,
            "wrong": bytes(len(data) // 2)}[part]  # fmt: skip
    blobs = cache / "models--openai-community--gpt2" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(data).hexdigest()}.laplm.incomplete").write_bytes(left)
    path = pull("gpt2", force=force, progress=quiet)
    assert (path / "model.safetensors").read_bytes() == data
    assert asked_for(hub) == [(0, len(data))]
    assert not list(blobs.glob("*.incomplete"))


def test_part_that_was_whole_already_is_used(hub: Hub, cache: Path) -> None:
    data = (hub.repos["openai-community/gpt2"] / "model.safetensors").read_bytes()
    blobs = cache / "models--openai-community--gpt2" / "blobs"
    blobs.mkdir(parents=True)
    part = blobs / f"{hashlib.sha256(data).hexdigest()}.laplm.incomplete"
    part.write_bytes(bytes(len(data)))
    with pytest.raises(DownloadError, match="its checksum differs"):
        pull("gpt2", progress=quiet)
    part.write_bytes(data)
    path = pull("gpt2", progress=quiet)
    assert (path / "model.safetensors").read_bytes() == data
    assert not any(r.served for r in hub.downloads() if r.path.endswith("model.safetensors"))


def test_sharded_model_is_fetched_whole(hub: Hub, tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    source = make_model(tmp_path / "sharded")
    GPT2LMHeadModel.from_pretrained(source).save_pretrained(source, max_shard_size="300KB")
    (source / "model.safetensors").unlink()
    hub.add("someone/sharded", source)
    path = pull("someone/sharded", progress=quiet)
    assert len(list(path.glob("model-*.safetensors"))) > 1
    assert open_checkpoint(path).tensor("wpe.weight").shape == (128, 64)


def test_pickle_is_fetched_only_when_there_is_nothing_else(hub: Hub, tmp_path: Path) -> None:
    import torch
    from transformers import GPT2LMHeadModel

    source = make_model(tmp_path / "pickled")
    state = GPT2LMHeadModel.from_pretrained(source).state_dict()
    (source / "model.safetensors").unlink()
    torch.save(state, source / "pytorch_model.bin")
    hub.add("someone/pickled", source)
    path = pull("someone/pickled", progress=quiet)
    assert (path / "pytorch_model.bin").is_file()


def test_access_token_goes_to_the_hub_and_not_to_its_storage(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    hub.gated.add("openai-community/gpt2")
    pull("gpt2", progress=quiet)
    assert {r.token for r in hub.requests if "/resolve/" in r.path} == {"Bearer hf_test"}
    assert {r.token for r in hub.downloads()} == {None}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"model_type": "bloom"}, "model_type is 'bloom'"),
        ({"model_type": None}, "model_type"),
        ({"n_head": 7}, "n_head 7"),
    ],
)
def test_other_kinds_of_model_are_refused_before_the_weights(
    hub: Hub, change: dict[str, object], cause: str
) -> None:
    file = hub.repos["openai-community/gpt2"] / "config.json"
    values = json.loads(file.read_text()) | change
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    with pytest.raises(DownloadError, match=f"not a model that laplm can run.*{cause}"):
        pull("gpt2", progress=quiet)
    assert hub.downloads() == []


@pytest.mark.parametrize(
    ("missing", "cause"),
    [
        ("config.json", r"no config\.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", r"neither model\.safetensors nor"),
    ],
)
def test_incomplete_repository_is_refused(hub: Hub, missing: str, cause: str) -> None:
    files = hub.repos["openai-community/gpt2"]
    (files / "pytorch_model.bin").unlink()
    (files / missing).unlink()
    with pytest.raises(DownloadError, match=cause):
        pull("gpt2", progress=quiet)


def test_index_that_leads_elsewhere_is_refused(hub: Hub, cache: Path) -> None:
    files = hub.repos["openai-community/gpt2"]
    (files / "model.safetensors").unlink()
    index = {"weight_map": {"wte.weight": "../../../evil"}}
    (files / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DownloadError, match="not a plain file name"):
        pull("gpt2", progress=quiet)


def test_unknown_model_is_refused_with_close_names(hub: Hub) -> None:
    with pytest.raises(DownloadError, match=r"has no public model gtp2;.*Did you mean.* gpt2"):
        pull("gtp2", progress=quiet)


def test_gated_model_says_where_to_accept_its_terms(hub: Hub) -> None:
    hub.gated.add("openai-community/gpt2")
    with pytest.raises(
        DownloadError, match=r"gated: accept its licence \(mit\) at http.*hf auth login.*HF_TOKEN"
    ):
        pull("gpt2", progress=quiet)


def test_no_network_is_one_plain_line(
    cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"the connection to http://127\.0\.0\.1:9") as caught:
        pull("gpt2", progress=quiet)
    assert "\n" not in str(caught.value)


def test_offline_setting_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        pull("gpt2", progress=quiet)
    assert hub.requests == []


def test_full_disk_is_refused_before_the_weights(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 10**6 - 9, 9))
    with pytest.raises(DownloadError, match=r"no space left.*7\d\d\.\d kB needed.*HF_HUB_CACHE"):
        pull("gpt2", progress=quiet)
    assert hub.downloads() == []


@pytest.fixture
def lying_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has room when it is asked, and then another program takes it."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**12))


def test_disk_that_becomes_full_is_one_line_and_the_pull_goes_on(
    hub: Hub, cache: Path, lying_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 230_000

    def append(file: IO[bytes], data: bytes) -> None:
        there = file.tell()
        file.write(data[: room - there])
        if there + len(data) > room:  # as the system does: what fits is written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pulling, "_append", append)
        with pytest.raises(DownloadError, match=r"no space left in .*; free some.*is kept") as said:
            pull("gpt2", progress=quiet)
    assert "\n" not in str(said.value)
    with pytest.raises(ModelNotFoundError, match="only in part"):
        locate("gpt2")
    hub.requests.clear()
    # What is left fits, where the whole would not.
    weights = hub.repos["openai-community/gpt2"] / "model.safetensors"
    size = weights.stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(size, room, size - room + 20_000))
    path = pull("gpt2", progress=quiet)
    assert asked_for(hub) == [(room, size)]
    assert (path / "model.safetensors").read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("where", ["refs", "copy"])
def test_disk_that_is_full_at_the_end_leaves_no_pieces(
    hub: Hub, cache: Path, lying_disk: None, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*arguments: object) -> None:
        Path(str(arguments[-1])).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_at_the_end(path: Path, target: Path) -> Path:
        if target.name == "main":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    replace = Path.replace

    def no_link(*_: object) -> None:
        raise OSError("no links here")

    with monkeypatch.context() as patch:
        if where == "refs":
            patch.setattr(Path, "replace", full_at_the_end)
        else:
            for name in ("symlink_to", "hardlink_to"):
                patch.setattr(Path, name, no_link)
            patch.setattr(shutil, "copyfile", full)
        with pytest.raises(DownloadError, match="no space left in"):
            pull("gpt2", progress=quiet)
    assert not list(cache.rglob("*.tmp"))
    hub.requests.clear()
    assert pull("gpt2", progress=quiet) == locate("gpt2")
    assert hub.downloads() == []


def test_cache_that_cannot_be_written_is_named(hub: Hub, cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(DownloadError, match=r"cannot write to .*HF_HUB_CACHE"):
        pull("gpt2", progress=quiet)


def test_server_that_is_no_hub_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commits["openai-community/gpt2"] = "<html>"
    with pytest.raises(DownloadError, match="does not answer as a model hub"):
        pull("gpt2", progress=quiet)


@pytest.mark.parametrize("name", ["a/b/c", "../x", "", "https://huggingface.co/gpt2", "a b"])
def test_impossible_names_are_not_sent_anywhere(hub: Hub, name: str) -> None:
    with pytest.raises(DownloadError, match="not the name of a model on the hub"):
        pull(name, progress=quiet)
    assert hub.requests == []


def test_two_pulls_at_once_leave_one_whole_model(hub: Hub) -> None:
    code = "from laplm.hub.pull import pull; print(pull('gpt2'))"
    environment = os.environ | {"HF_HUB_OFFLINE": "0"}
    pulls = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    paths = [process.communicate()[0].decode().strip() for process in pulls]
    assert [process.returncode for process in pulls] == [0, 0]
    assert paths == [str(locate("gpt2"))] * 2
    assert len(asked_for(hub)) == 1


def test_snapshot_without_symbolic_links_is_whole_too(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no right to make symbolic links")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    path = pull("gpt2", progress=quiet)
    assert not (path / "model.safetensors").is_symlink()
    assert open_checkpoint(path).names
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert open_checkpoint(pull("gpt2", progress=quiet)).names


# --- one file ---------------------------------------------------------------------------------


@pytest.fixture
def ggufs(hub: Hub, cache: Path, tiny_model_dir: Path) -> Path:
    """A repository on the hub with two GGUF files of the tiny model and nothing else."""
    from laplm.model.files.export import export

    files = cache.parent / "ggufs"
    (files / "more").mkdir(parents=True)
    export(laplm.load(tiny_model_dir, "fp32"), files / "a-F32.gguf", "gguf", "f32")
    shutil.copy(files / "a-F32.gguf", files / "more" / "b.GGUF")
    hub.add("me/tiny-GGUF", files, "c" * 40)
    return files


def test_one_gguf_file_is_pulled_listed_and_opened(hub: Hub, ggufs: Path) -> None:
    (ggufs / "mmproj-a.gguf").write_bytes(b"sees")
    with pytest.raises(ModelNotFoundError, match=r"`laplm pull me/tiny-GGUF:a-F32.gguf`"):
        locate("me/tiny-GGUF:a-F32.gguf")
    with pytest.raises(DownloadError, match=r"has 2 GGUF files; pull one.*a-F32.gguf, more/b.GGUF"):
        pull("me/tiny-GGUF")
    assert hub.downloads() == []
    path = pull("me/tiny-GGUF:a-F32.gguf", progress=quiet)
    assert path == locate("me/tiny-GGUF:a-F32.gguf") == locate("me/tiny-GGUF")
    assert path.read_bytes() == (ggufs / "a-F32.gguf").read_bytes()
    assert {r.path.split("/")[-1] for r in hub.downloads()} == {"a-F32.gguf"}
    listed = {m.name: m for m in installed()}["me/tiny-GGUF"]
    assert (listed.path, listed.family, listed.dtype) == (path, "gpt2", "fp32")
    assert listed.problem is None and listed.size_bytes == path.stat().st_size
    with pytest.raises(ModelNotFoundError, match=r"Did you mean a-F32\.gguf"):
        locate("me/tiny-GGUF:a-F16.gguf")

    pull("me/tiny-GGUF:more/b.GGUF", progress=quiet)
    assert locate("me/tiny-GGUF:more/b.GGUF").name == "b.GGUF"
    with pytest.raises(ModelNotFoundError, match="as 2 GGUF files; name one of them"):
        locate("me/tiny-GGUF")
    both = {"me/tiny-GGUF:a-F32.gguf", "me/tiny-GGUF:more/b.GGUF"}
    assert {m.name for m in installed()} == {"pocket", *both}


def test_a_gguf_file_is_named_by_how_it_is_quantised(hub: Hub, ggufs: Path) -> None:
    contents = (ggufs / "a-F32.gguf").read_bytes()
    for name in (
        "Tiny-Q4_K_M.gguf", "Tiny-Q4_K_S.gguf", "Tiny-Q4_K_M_L.gguf", "Tiny-UD-Q4_K_M.gguf",
        "tiny.q8_0.gguf", "more/Tiny-IQ4_XS.gguf", "mmproj-Q8_0.gguf",
    ):  # fmt: skip
        (ggufs / name).write_bytes(contents + name.encode())
    meant = {
        "Q4_K_M": "Tiny-Q4_K_M.gguf", "q4_k_m": "Tiny-Q4_K_M.gguf", "Q8_0": "tiny.q8_0.gguf",
        "UD-Q4_K_M": "Tiny-UD-Q4_K_M.gguf", "iq4_xs": "more/Tiny-IQ4_XS.gguf", "f32": "a-F32.gguf",
    }  # fmt: skip
    for tag, name in meant.items():
        if tag != "q4_k_m":  # which is there by then
            with pytest.raises(ModelNotFoundError, match=f"`laplm pull me/tiny-GGUF:{tag}` downl"):
                locate(f"me/tiny-GGUF:{tag}")
        path = pull(f"me/tiny-GGUF:{tag}", progress=quiet)
        assert path == locate(f"me/tiny-GGUF:{tag}") == locate(f"me/tiny-GGUF:{name}")
        assert path.read_bytes() == (ggufs / name).read_bytes()
    assert {r.path.removeprefix("/storage/me/tiny-GGUF/") for r in hub.downloads()} == {
        *meant.values()
    }
    assert remove("me/tiny-GGUF:q8_0") and "me/tiny-GGUF:tiny.q8_0.gguf" not in {
        m.name for m in installed()
    }


def test_a_quantisation_that_several_files_have_or_none_lists_them(hub: Hub, ggufs: Path) -> None:
    for name in ("small-Q4_0.gguf", "large-Q4_0.gguf"):
        shutil.copy(ggufs / "a-F32.gguf", ggufs / name)
    with pytest.raises(
        DownloadError,
        match=r"has 2 GGUF files in q4_0; pull one of them, as in `laplm pull "
        r"me/tiny-GGUF:large-Q4_0.gguf`\. They are large-Q4_0.gguf, small-Q4_0.gguf$",
    ):
        pull("me/tiny-GGUF:q4_0")
    with pytest.raises(
        DownloadError,
        match=r"no GGUF file in Q6_K\. It has a-F32.gguf, large.*, more/b.GGUF, small",
    ):
        pull("me/tiny-GGUF:Q6_K")
    with pytest.raises(DownloadError, match=r"no GGUF file in Q6_K\. It has no GGUF file$"):
        pull("gpt2:Q6_K")
    for name in ("big-Q8_0-00001-of-00002.gguf", "big-Q8_0-00002-of-00002.gguf"):
        (ggufs / name).write_bytes(b"GGUF")
    with pytest.raises(DownloadError, match=r"one of several parts.*llama-gguf-split --merge"):
        pull("me/tiny-GGUF:Q8_0")
    assert hub.downloads() == []
    for name in ("small", "large"):
        pull(f"me/tiny-GGUF:{name}-Q4_0.gguf", progress=quiet)
    for act in (locate, remove):
        with pytest.raises(
            ModelNotFoundError, match=r"may be large-Q4_0\.gguf or small-Q4_0\.gguf"
        ):
            act("me/tiny-GGUF:Q4_0")
    for name in ("me/tiny-GGUF:latest", "me/tiny-GGUF:Q", "me/tiny-GGUF:4_0"):
        with pytest.raises(DownloadError, match="not the name of a model on the hub"):
            pull(name)


def test_a_repository_of_one_gguf_file_needs_no_name_of_it(hub: Hub, ggufs: Path) -> None:
    (ggufs / "a-F32.gguf").unlink()
    (ggufs / "config.json").write_text("{}")  # some have one that says nothing
    path = pull("me/tiny-GGUF", progress=quiet)
    assert path == locate("me/tiny-GGUF") and path.name == "b.GGUF"
    assert open_checkpoint(path).names


def test_a_file_of_a_newer_commit_leaves_the_whole_model_and_older_files(
    hub: Hub, ggufs: Path
) -> None:
    whole = pull("gpt2", progress=quiet)
    shutil.copy(ggufs / "a-F32.gguf", hub.repos["openai-community/gpt2"])
    hub.commits["openai-community/gpt2"] = "d" * 40
    file = pull("gpt2:a-F32.gguf", progress=quiet)
    hub.commits["openai-community/gpt2"] = "e" * 40
    pull("gpt2", progress=quiet)
    assert "d" * 40 in file.parts and "e" * 40 in locate("gpt2").parts
    assert file == locate("gpt2:a-F32.gguf") == locate("openai-community/gpt2:a-F32.gguf")
    assert whole.is_dir() and {"gpt2", "gpt2:a-F32.gguf"} <= {m.name for m in installed()}


def test_a_file_that_is_not_there_or_is_a_part_is_refused(hub: Hub, ggufs: Path) -> None:
    with pytest.raises(DownloadError, match=r"no file a-F16.gguf. Did you mean a-F32\.gguf\?"):
        pull("me/tiny-GGUF:a-F16.gguf")
    with pytest.raises(DownloadError, match=r"no file x.gguf. It has no GGUF file"):
        pull("gpt2:x.gguf")
    (ggufs / "a-00001-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(DownloadError, match=r"one of several parts.*llama-gguf-split --merge"):
        pull("me/tiny-GGUF:a-00001-of-00002.gguf")
    for name in ("me/tiny-GGUF:../x.gguf", "me/tiny-GGUF:/x.gguf", "me/x:y:z.gguf", "me/x:a.bin"):
        with pytest.raises(DownloadError, match="not the name of a model on the hub"):
            pull(name)


def test_files_of_a_sentencepiece_tokenizer_are_pulled(hub: Hub) -> None:
    for name in ("tokenizer.model", "special_tokens_map.json", "tokenizer_config.json"):
        (hub.repos["openai-community/gpt2"] / name).write_text("{}")
    path = pull("gpt2", progress=quiet)
    assert (path / "tokenizer.model").is_file() and (path / "special_tokens_map.json").is_file()


# --- the only way out -------------------------------------------------------------------------

NETWORK = {
    "aiohttp", "asyncio", "ftplib", "http", "httpx", "httpx2", "huggingface_hub", "requests",
    "smtplib", "socket", "socketserver", "ssl", "telnetlib", "urllib", "urllib3", "websockets",
    "xmlrpc",
}  # fmt: skip
# The audit names socket constants; serve listens, and opens no connection itself.
ALLOWED = {"hub/pull.py": {"huggingface_hub"}, "audit.py": {"socket"}}


def imports(file: Path) -> set[str]:
    """Top-level names of everything a module imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found if name != "urllib.parse"}


def test_only_the_hub_module_can_open_connections() -> None:
    package = Path(laplm.__file__).parent
    files = sorted(package.rglob("*.py"))
    assert len(files) > 10
    for file in files:
        name = file.relative_to(package).as_posix()
        if name.startswith("serve/"):
            continue
        assert imports(file) & NETWORK <= ALLOWED.get(name, set()), name
