from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import make_model
from hub_server import Hub, start

import laplm
from laplm.errors import DownloadError, ModelNotFoundError
from laplm.hub import ADAPTER_FILES, hub_cache_dir, installed, locate, pull
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.model.tokenizer import Tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


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
    yield hub
    server.shutdown()
    server.server_close()


def put(cache: Path, repo: str, files: Path, commit: str = "b" * 40) -> Path:
    """A model in the cache, as huggingface_hub leaves it."""
    folder = cache / ("models--" + repo.replace("/", "--"))
    shutil.copytree(files, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def quiet(what: str, done: int, total: int) -> None: ...


# --- where things are -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HF_HOME": "~/elsewhere"},
        {"XDG_CACHE_HOME": "/x/cache"},
        {"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"},
        {"HF_HUB_CACHE": "$HOME/new", "HUGGINGFACE_HUB_CACHE": "/old"},
        {"HF_HUB_CACHE": ""},
        {"HF_HUB_CACHE": "~nosuchuser/x"},
        {"HF_HOME": "~nosuchuser/x"},
    ],
)
def test_cache_directory_is_the_one_of_huggingface_hub(environment: dict[str, str]) -> None:
    names = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    code = (
        "from laplm.hub import hub_cache_dir; from huggingface_hub.constants import HF_HUB_CACHE; "
        "from pathlib import Path; print(hub_cache_dir()); print(Path(HF_HUB_CACHE))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    ours, theirs = out.stdout.splitlines()
    assert ours == theirs


def test_directory_is_taken_as_it_is(tiny_model_dir: Path, cache: Path) -> None:
    assert locate(str(tiny_model_dir)) == tiny_model_dir


def test_empty_directory_of_a_known_name_does_not_hide_the_model(
    cache: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    snapshot = put(cache, "gpt2", tiny_model_dir)
    assert locate("gpt2") == snapshot
    shutil.copytree(tiny_model_dir, tmp_path / "gpt2", dirs_exist_ok=True)
    assert locate("gpt2").resolve() == tmp_path / "gpt2"


@pytest.mark.parametrize("stored", ["gpt2", "openai-community/gpt2"])
@pytest.mark.parametrize("asked", ["gpt2", "openai-community/gpt2"])
def test_gpt2_is_found_under_its_old_and_its_new_name(
    cache: Path, tiny_model_dir: Path, stored: str, asked: str
) -> None:
    snapshot = put(cache, stored, tiny_model_dir)
    assert locate(asked) == snapshot


def test_other_hub_ids_are_found(cache: Path, tiny_model_dir: Path) -> None:
    snapshot = put(cache, "someone/their--model", tiny_model_dir)
    assert locate("someone/their--model") == snapshot


def test_whole_model_is_preferred_to_a_partial_one(cache: Path, tiny_model_dir: Path) -> None:
    (put(cache, "openai-community/gpt2", tiny_model_dir) / "model.safetensors").unlink()
    snapshot = put(cache, "gpt2", tiny_model_dir)
    assert locate("gpt2") == snapshot


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("config.json", r"config\.json is missing"),
        ("model.safetensors", "the weights are missing"),
        ("tokenizer.json", "its tokenizer is missing"),
    ],
)
def test_partial_model_is_refused_with_what_is_missing(
    cache: Path, tiny_model_dir: Path, file: str, reason: str
) -> None:
    (put(cache, "gpt2", tiny_model_dir) / file).unlink()
    with pytest.raises(ModelNotFoundError, match=rf"{reason}.*`laplm pull gpt2`"):
        locate("gpt2")


def test_link_to_nothing_counts_as_missing(cache: Path, tiny_model_dir: Path) -> None:
    snapshot = put(cache, "gpt2", tiny_model_dir)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../blobs/gone")
    with pytest.raises(ModelNotFoundError, match="the weights are missing"):
        locate("gpt2")


def test_missing_shard_is_counted(cache: Path, tiny_model_dir: Path) -> None:
    snapshot = put(cache, "gpt2", tiny_model_dir)
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = snapshot / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelNotFoundError, match="1 of 2 weight files are missing"):
        locate("gpt2")
    index.write_text("{")
    with pytest.raises(ModelNotFoundError, match=r"index\.json cannot be read"):
        locate("gpt2")


def test_model_that_is_not_there_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="`laplm pull gpt2-xl` downloads it") as caught:
        locate("gpt2-xl")
    assert str(cache) in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "meant"), [("gtp2", "gpt2"), ("gpt2-midium", "gpt2-medium"), ("poket", "pocket")]
)
def test_close_names_are_suggested(cache: Path, typed: str, meant: str) -> None:
    with pytest.raises(ModelNotFoundError, match=rf"Did you mean.* {meant}\b"):
        locate(typed)


def test_names_on_disk_are_suggested_too(cache: Path, tiny_model_dir: Path) -> None:
    put(cache, "someone/story-writer", tiny_model_dir)
    with pytest.raises(ModelNotFoundError, match="Did you mean someone/story-writer"):
        locate("someone/storywriter")


def test_a_name_that_is_right_is_not_taken_for_another(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        locate("gpt2")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["./no/such", "../..//x", "/no/such/dir", "a/b/c", "", "gpt2\0", "~nobody9/x", "-m"]
)
def test_impossible_names_are_refused_plainly(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "empty" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "here")
    with pytest.raises(ModelNotFoundError, match="no such directory"):
        locate(name)


def test_very_long_name_is_refused_plainly(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        locate("a" * 5000)


def test_unreadable_cache_is_named(
    cache: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = put(cache, "gpt2", tiny_model_dir)
    real = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent == snapshot:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    with pytest.raises(ModelNotFoundError, match="cannot be read: Permission denied"):
        locate("gpt2")


def test_file_is_not_taken_for_a_model(tiny_model_dir: Path, cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is a file; give the directory"):
        locate(str(tiny_model_dir / "model.safetensors"))


def test_one_snapshot_is_taken_where_the_cache_names_no_branch(
    cache: Path, tiny_model_dir: Path
) -> None:
    snapshot = put(cache, "gpt2", tiny_model_dir)
    shutil.rmtree(snapshot.parents[1] / "refs")
    assert locate("gpt2") == snapshot
    assert {m.name: m.problem for m in installed()}["gpt2"] is None
    (snapshot.parents[1] / "refs").mkdir()
    os.mkfifo(snapshot.parents[1] / "refs" / "main")
    assert locate("gpt2") == snapshot


def test_newest_whole_snapshot_is_taken_where_the_cache_names_no_branch(
    cache: Path, tiny_model_dir: Path
) -> None:
    old = put(cache, "gpt2", tiny_model_dir)
    new, partial = old.with_name("c" * 40), old.with_name("a" * 40)
    for time, path in enumerate((new, partial)):
        shutil.copytree(tiny_model_dir, path)
        os.utime(path, (2e9 + time, 2e9 + time))
    (partial / "tokenizer.json").unlink()
    os.utime(partial, (3e9, 3e9))
    assert locate("gpt2") == old
    (old.parents[1] / "refs" / "main").unlink()
    assert locate("gpt2") == new
    (new / "config.json").unlink()
    assert locate("gpt2") == old


def test_directory_that_may_not_be_read_is_named(
    cache: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(ModelNotFoundError, match=r"tiny cannot be read \(Permission denied\)"):
        locate(str(tiny_model_dir))


def test_branch_reference_cannot_lead_out_of_the_cache(cache: Path, tiny_model_dir: Path) -> None:
    put(cache, "gpt2", tiny_model_dir)
    shutil.copytree(tiny_model_dir, cache / "models--gpt2" / "outside")
    (cache / "models--gpt2" / "refs" / "main").write_text("../outside")
    with pytest.raises(ModelNotFoundError):
        locate("gpt2")


def test_locating_imports_nothing_slow() -> None:
    code = (
        "import sys; from laplm import hub\n"
        "try: hub.locate('gpt2')\n"
        "except Exception as e: assert 'pull' in str(e)\n"
        "slow = {'huggingface_hub', 'numpy', 'torch', 'rich', 'socket'} & set(sys.modules)\n"
        "sys.exit(repr(slow) if slow else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what is installed ------------------------------------------------------------------------


def test_models_on_disk_are_listed(cache: Path, tiny_model_dir: Path) -> None:
    snapshot = put(cache, "openai-community/gpt2", tiny_model_dir)
    (put(cache, "someone/half", tiny_model_dir) / "model.safetensors").unlink()
    other = put(cache, "someone/bert", tiny_model_dir)
    (other / "config.json").write_text('{"model_type": "bert"}')
    (cache / "models--distilbert--distilgpt2" / "blobs").mkdir(parents=True)
    (cache / "models--someone--unknown" / "blobs").mkdir(parents=True)
    listed = {model.name: model for model in installed()}
    assert set(listed) == {"pocket", "gpt2", "someone/half", "distilgpt2"}
    gpt2 = listed["gpt2"]
    assert gpt2.path == snapshot and gpt2.problem is None and gpt2.dtype == "fp32"
    assert gpt2.n_parameters == open_checkpoint(tiny_model_dir).config.n_parameters
    assert gpt2.size_bytes == sum(f.stat().st_size for f in tiny_model_dir.iterdir())
    assert listed["someone/half"].problem == "the weights are missing"
    assert listed["distilgpt2"].problem == "its download did not finish"


def test_damaged_model_is_listed_with_the_reason(cache: Path, tiny_model_dir: Path) -> None:
    snapshot = put(cache, "gpt2", tiny_model_dir)
    data = (snapshot / "model.safetensors").read_bytes()
    (snapshot / "model.safetensors").write_bytes(data[:-5])
    (put(cache, "other", tiny_model_dir) / "config.json").write_text("{")
    listed = {model.name: model for model in installed()}
    assert "cut short" in (listed["gpt2"].problem or "")
    assert "not readable as JSON" in (listed["other"].problem or "")
    assert listed["other"].n_parameters is None


def test_listing_does_not_import_torch_for_a_pickle(cache: Path, tiny_model_dir: Path) -> None:
    snapshot = put(cache, "gpt2", tiny_model_dir)
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    code = (
        "import sys; from laplm import hub; models = {m.name: m for m in hub.installed()}\n"
        "assert models['gpt2'].problem is None and models['gpt2'].n_parameters, models\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_cache_at_all_lists_the_built_in_model_only(cache: Path) -> None:
    assert [model.name for model in installed()] == ["pocket"]


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
    assert [
        (r.range, r.served) for r in hub.downloads() if r.path.endswith("model.safetensors")
    ] == [(None, len(good))]


def test_interrupted_pull_goes_on_where_it_stopped(hub: Hub, cache: Path) -> None:
    size = (hub.repos["openai-community/gpt2"] / "model.safetensors").stat().st_size
    pull_tokenizer = (hub.repos["openai-community/gpt2"] / "tokenizer.json").stat().st_size
    assert pull_tokenizer >= 10_000  # it comes from the storage too, before the weights

    def stop(what: str, done: int, total: int) -> None:
        if what == "model.safetensors" and done > total - size + 200_000:
            raise KeyboardInterrupt

    hub.cuts = [pull_tokenizer, 300_000]
    with pytest.raises(KeyboardInterrupt):
        pull("gpt2", progress=stop)
    with pytest.raises(ModelNotFoundError, match="only in part"):
        locate("gpt2")
    (part,) = cache.glob("models--*/blobs/*.incomplete")
    kept = part.stat().st_size
    assert 200_000 < kept <= 300_000
    assert {m.name: m.problem for m in installed()}["gpt2"] == "its download did not finish"

    hub.requests.clear()
    hub.cuts = []
    path = pull("gpt2", progress=quiet)
    (weights,) = hub.downloads()
    assert weights.range == f"bytes={kept}-" and weights.served == size - kept
    assert open_checkpoint(path).tensor("wte.weight").size
    assert not list(cache.glob("models--*/blobs/*.incomplete"))


def test_connection_cut_once_is_mended_within_the_pull(hub: Hub) -> None:
    files = hub.repos["openai-community/gpt2"]
    hub.cuts = [(files / "tokenizer.json").stat().st_size, 300_000]
    path = pull("gpt2", progress=quiet)
    expected = (files / "model.safetensors").read_bytes()
    assert (path / "model.safetensors").read_bytes() == expected
    first, second = (r for r in hub.downloads() if r.path.endswith("model.safetensors"))
    assert (first.range, first.served) == (None, 300_000)
    assert second.range is not None and second.served < len(expected)


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
    assert [
        (r.range, r.served) for r in hub.downloads() if r.path.endswith("model.safetensors")
    ] == [(None, len(data))]
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
        ({"model_type": "llama"}, "model_type is 'llama'"),
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
    with pytest.raises(DownloadError, match=r"gated; accept its terms at http.*HF_TOKEN"):
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
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 9, 9))
    with pytest.raises(DownloadError, match=r"no space left.*needed.*HF_HUB_CACHE"):
        pull("gpt2", progress=quiet)
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
    code = "from laplm import hub; print(hub.pull('gpt2'))"
    environment = os.environ | {"HF_HUB_OFFLINE": "0"}
    pulls = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    paths = [process.communicate()[0].decode().strip() for process in pulls]
    assert [process.returncode for process in pulls] == [0, 0]
    assert paths == [str(locate("gpt2"))] * 2
    assert len([r for r in hub.downloads() if r.path.endswith("model.safetensors")]) == 1


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


# --- the only way out -------------------------------------------------------------------------

NETWORK = {
    "aiohttp", "asyncio", "ftplib", "http", "httpx", "httpx2", "huggingface_hub", "requests",
    "smtplib", "socket", "socketserver", "ssl", "telnetlib", "urllib", "urllib3", "websockets",
    "xmlrpc",
}  # fmt: skip
# The audit names socket constants; serve listens, and opens no connection itself.
ALLOWED = {"hub.py": {"huggingface_hub"}, "audit.py": {"socket"}}


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


def test_saved_models_are_found_by_path(tiny_model_dir: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_model_dir)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    save_checkpoint(tmp_path / "saved", checkpoint.config, tensors)
    assert locate(str(tmp_path / "saved")) == tmp_path / "saved"
    assert hub_cache_dir() != tmp_path
