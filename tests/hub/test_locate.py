"""Where models are on disk, by name or path, and which there are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_files import make_hf_model, matrices_as, write_gguf
from hub_cache import put

from laplm import load
from laplm.errors import ModelNotFoundError
from laplm.hub.known import KNOWN
from laplm.hub.locate import hub_cache_dir, installed, known_model, locate, out_of_package
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint

pytest_plugins = ("hub_cache",)  # its fixture; a second conftest would hide the first one

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"

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
        "from laplm.hub.locate import hub_cache_dir; "
        "from huggingface_hub.constants import HF_HUB_CACHE; "
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


def test_only_names_that_can_be_pulled_are_offered_to_be(cache: Path) -> None:
    for name in ("gpt2-xl", "owner/name"):
        with pytest.raises(ModelNotFoundError, match=f"`laplm pull {name}` downloads it"):
            locate(name)
    for name in ("nobody-has-this", "nobody:has-this"):
        with pytest.raises(ModelNotFoundError, match="no short name that") as caught:
            locate(name)
        assert f"pull {name}" not in str(caught.value)


def test_a_gguf_file_that_is_not_there_is_no_name_to_pull(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "SmolLM2.Q4_1.gguf").touch()
    for name in ("SmolLM2.gguf", str(tmp_path / "none.gguf"), "./none.GGUF", "owner/none.gguf"):
        with pytest.raises(ModelNotFoundError, match="there is no such GGUF file") as caught:
            locate(name)
        assert "pull" not in str(caught.value)
    with pytest.raises(ModelNotFoundError, match=r"Did you mean SmolLM2\.Q4_1\.gguf"):
        locate(str(tmp_path / "SmolLM2.gguf"))


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


def test_a_gguf_file_is_found_by_itself_in_its_directory_and_in_the_cache(
    tiny_model_dir: Path, cache: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "small-GGUF"
    directory.mkdir()
    file = write_gguf(directory / "small.gguf", make_hf_model("llama"), matrices_as("Q4_0"))
    (directory / "README.md").write_text("A model.")
    assert locate(str(file)) == file
    assert locate(str(directory)) == file
    snapshot = put(cache, "someone/small-GGUF", directory)
    assert locate("someone/small-GGUF") == snapshot / "small.gguf"
    (model,) = (m for m in installed() if m.name == "someone/small-GGUF")
    assert (model.dtype, model.problem) == ("Q4_0", None)
    assert model.n_parameters == open_checkpoint(file).config.n_parameters
    blob = tmp_path / "sha256-12"
    shutil.copy(file, blob)
    assert locate(str(blob)) == blob
    shutil.copy(file, directory / "other.gguf")
    assert locate(str(directory)) == directory, "which of the two is asked when it is opened"


def test_file_is_not_taken_for_a_model(tiny_model_dir: Path, cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is a file and no GGUF; give the directory"):
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
        "import sys; from laplm.hub import locate\n"
        "try: locate.locate('gpt2')\n"
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
        "import sys; from laplm.hub.locate import installed\n"
        "models = {m.name: m for m in installed()}\n"
        "assert models['gpt2'].problem is None and models['gpt2'].n_parameters, models\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_cache_at_all_lists_the_built_in_model_only(cache: Path) -> None:
    assert [model.name for model in installed()] == ["pocket"]


def test_saved_models_are_found_by_path(tiny_model_dir: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_model_dir)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    save_checkpoint(tmp_path / "saved", checkpoint.config, tensors)
    assert locate(str(tmp_path / "saved")) == tmp_path / "saved"
    assert hub_cache_dir() != tmp_path


def test_a_known_model_is_known_by_where_it_lies(
    cache: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    put(cache, SMOLLM2, tiny_model_dir)
    packaged = out_of_package("smollm2")
    assert packaged is not None
    assert known_model(locate(SMOLLM2)) == known_model(packaged) == KNOWN["smollm2"]
    put(cache, "someone/SmolLM2-135M-Instruct", tiny_model_dir)
    for path in (locate("someone/SmolLM2-135M-Instruct"), tiny_model_dir, locate("pocket")):
        assert known_model(path) is None


def test_a_model_is_sampled_as_its_page_says_where_its_files_say_nothing(
    cache: Path, tiny_model_dir: Path
) -> None:
    directory = put(cache, SMOLLM2, tiny_model_dir)
    assert load("smollm2").sampling == {"temperature": 0.2, "top_p": 0.9}
    assert load(str(tiny_model_dir)).sampling == {}
    said = directory / "generation_config.json"
    said.unlink(missing_ok=True)
    said.write_text('{"do_sample": true, "temperature": 0.7}', encoding="utf-8")
    sampling = load("smollm2").sampling
    assert sampling["temperature"] == 0.7 and sampling.get("top_p", 1) == 1
