"""Models of other programs: found, opened, and left alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf_files import make_hf_model, matrices_as, write_gguf

from laplm.errors import InputError, ModelNotFoundError
from laplm.hub import stores
from laplm.hub.locate import installed, locate
from laplm.hub.remove import remove
from laplm.model.files.checkpoint import open_checkpoint

pytest_plugins = ("hub_cache",)  # its fixture; a second conftest would hide the first one
HEX = "0123456789abcdef" * 4
MODEL = "application/vnd.ollama.image.model"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return write_gguf(path, make_hf_model("llama"), matrices_as("Q4_0"))


@pytest.fixture
def ollama(cache: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ollama's store with one model, as ``ollama pull`` leaves it."""
    top = tmp_path / "ollama"
    (top / "blobs").mkdir(parents=True)
    shutil.copy(gguf, top / "blobs" / f"sha256-{HEX}")
    monkeypatch.setenv("OLLAMA_MODELS", str(top))
    put(top, "registry.ollama.ai/library/small/1b")
    return top


def put(top: Path, name: str, content: Any = None, **layers: str) -> Path:
    """A manifest of Ollama's: with its text, or its layers' digests by their kinds."""
    manifest = top / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    digests = layers or {"model": f"sha256:{HEX}", "template": f"sha256:{'0' * 64}"}
    listed = [
        {"mediaType": MODEL.replace("model", kind), "digest": digest, "size": 1}
        for kind, digest in digests.items()
    ]
    manifest.write_text(content or json.dumps({"schemaVersion": 2, "layers": listed}))
    return manifest


def test_models_of_ollama_are_listed_and_opened_by_name(ollama: Path, gguf: Path) -> None:
    put(ollama, "registry.ollama.ai/me/other/latest")
    put(ollama, "hf.co/you/third-GGUF/Q4_0")
    listed = {m.name: m for m in installed() if m.name.startswith("ollama:")}
    assert set(listed) == {
        "ollama:small:1b", "ollama:me/other:latest", "ollama:hf.co/you/third-GGUF:Q4_0",
    }  # fmt: skip
    model = listed["ollama:small:1b"]
    assert (model.family, model.dtype, model.problem) == ("llama", "Q4_0", None)
    assert model.size_bytes == gguf.stat().st_size
    assert model.n_parameters == open_checkpoint(gguf).config.n_parameters
    assert locate("ollama:small:1b") == ollama / "blobs" / f"sha256-{HEX}"
    assert locate("ollama:me/other") == locate("ollama:me/other:latest")
    assert open_checkpoint(locate("ollama:small:1b")).names
    with pytest.raises(ModelNotFoundError, match=r"of Ollama .*Did you mean ollama:small:1b\?"):
        locate("ollama:small:2b")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("small", "ollama:small:1b"), ("Small:1b", "ollama:small:1b"),
        ("other", "ollama:me/other:latest"), ("me/other", "ollama:me/other:latest"),
        ("studio-q4", "lmstudio:you/Studio-Q4_0.gguf"),
    ],
)  # fmt: skip
def test_a_name_without_its_program_is_told_with_it(
    ollama: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str,
    meant: str,
) -> None:  # fmt: skip
    put(ollama, "registry.ollama.ai/me/other/latest")
    put(ollama, "registry.ollama.ai/library/damaged-small/latest", "no JSON")
    studio = tmp_path / "studio"
    (studio / "you").mkdir(parents=True)
    shutil.copy(gguf, studio / "you/Studio-Q4_0.gguf")
    monkeypatch.setattr(stores, "LM_STUDIO", (str(studio),))
    with pytest.raises(ModelNotFoundError) as caught:
        locate(typed)
    assert f"but another program has {meant}: that whole name opens it" in str(caught.value)
    assert stores.names_like("sm") == []  # in too many


def test_the_system_message_of_a_modelfile_is_found(ollama: Path) -> None:
    digest = "1" * 64
    (ollama / f"blobs/sha256-{digest}").write_text("You are Mario.\n")
    layers = {"model": f"sha256:{HEX}", "system": f"sha256:{digest}"}
    put(ollama, "registry.ollama.ai/me/mario/latest", None, **layers)
    put(ollama, "registry.ollama.ai/me/out/latest", None, **(layers | {"system": "sha256:../x"}))
    assert stores.system_message("ollama:me/mario") == "You are Mario."
    assert stores.system_message("ollama:me/mario:latest") == "You are Mario."
    for name in ("ollama:small:1b", "ollama:me/out", "ollama:none", "pocket"):
        assert stores.system_message(name) is None


def test_a_file_is_read_once_until_it_changes(
    ollama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from laplm.model.files import gguf_reader

    (model,) = (m for m in installed() if m.name == "ollama:small:1b")
    with monkeypatch.context() as patch:
        patch.setattr(gguf_reader, "read_gguf", None)
        assert model in installed()
    data = model.path.read_bytes()
    model.path.write_bytes(data[:-1000])
    (cut,) = (m for m in installed() if m.name == "ollama:small:1b")
    assert cut.problem and cut.size_bytes == len(data) - 1000


@pytest.mark.parametrize(
    ("content", "layers", "reason"),
    [
        ("{", {}, "damaged"),
        ("[]", {}, "damaged"),
        ('{"layers": [1]}', {}, "damaged"),
        ('{"layers": [{"mediaType": [], "digest": 1}]}', {}, "damaged"),
        ("[" * 50_000, {}, "damaged"),
        (" " * 2_000_000, {}, "no such file"),
        (None, {"license": f"sha256:{HEX}"}, "names no GGUF file"),
        (None, {"model": "sha256:../../../etc/passwd"}, "digest is none"),
        (None, {"model": f"sha256:{HEX}/../x"}, "digest is none"),
        (None, {"model": f"sha256:{'f' * 64}"}, "is missing; `ollama pull`"),
        (None, {"model": f"sha256:{HEX}", "adapter": f"sha256:{HEX}"}, "an adapter beside"),
    ],
)
def test_bad_manifests_are_listed_with_the_reason_and_refused(
    ollama: Path, content: str | None, layers: dict[str, str], reason: str
) -> None:
    put(ollama, "registry.ollama.ai/library/bad/latest", content, **layers)
    listed = {m.name: m.problem for m in installed()}
    assert listed["ollama:small:1b"] is None
    assert reason in (listed["ollama:bad:latest"] or "")
    with pytest.raises(ModelNotFoundError, match="ollama:bad cannot be used: "):
        locate("ollama:bad")


def test_links_in_circles_pipes_and_blobs_that_are_no_models_come_to_an_end(ollama: Path) -> None:
    library = ollama / "manifests" / "registry.ollama.ai" / "library"
    (library / "loop").symlink_to(library)
    (library / "small" / "self").symlink_to(library / "small" / "self")
    os.mkfifo(library / "small" / "pipe")
    (ollama / "blobs" / f"sha256-{'1' * 64}").write_bytes(b"GGUF\3\0\0\0 and no more")
    put(ollama, "registry.ollama.ai/library/junk/latest", model=f"sha256:{'1' * 64}")
    listed = {m.name: m.problem for m in installed()}
    assert listed["ollama:small:1b"] is None
    assert listed["ollama:small:self"] and listed["ollama:small:pipe"]
    assert listed["ollama:junk:latest"]


def test_files_of_lm_studio_and_llama_cpp_are_listed_and_opened(
    cache: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, llama_cpp = tmp_path / "studio", tmp_path / "llama.cpp"
    (studio / "me" / "small-GGUF").mkdir(parents=True)
    llama_cpp.mkdir()
    shutil.copy(gguf, studio / "me" / "small-GGUF" / "a.gguf")
    (studio / "me" / "small-GGUF" / "mmproj-a.gguf").write_bytes(b"sees")
    (studio / "me" / "again").symlink_to(studio)
    shutil.copy(gguf, llama_cpp / "me_small.gguf")
    (llama_cpp / "half.gguf.downloadInProgress").write_bytes(b"GGUF")
    monkeypatch.setattr(stores, "LM_STUDIO", (str(studio), str(tmp_path / "none")))
    monkeypatch.setenv("LLAMA_CACHE", str(llama_cpp))
    listed = {m.name: m for m in installed()}
    assert set(listed) == {"pocket", "lmstudio:me/small-GGUF/a.gguf", "llama.cpp:me_small.gguf"}
    assert all(m.problem is None for m in listed.values())
    assert locate("lmstudio:me/small-GGUF/a.gguf") == studio / "me" / "small-GGUF" / "a.gguf"
    assert locate("llama.cpp:me_small.gguf") == llama_cpp / "me_small.gguf"


def test_models_of_other_programs_are_never_removed(
    ollama: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "llama.cpp"))
    (tmp_path / "llama.cpp").mkdir()
    shutil.copy(gguf, tmp_path / "llama.cpp" / "a.gguf")
    before = sorted(tmp_path.rglob("*"))
    for name, command in (
        ("ollama:small:1b", "`ollama rm small:1b` removes it"),
        ("lmstudio:a/b/c.gguf", "LM Studio removes it"),
        ("llama.cpp:a.gguf", "delete .*a.gguf yourself"),
    ):
        with pytest.raises(InputError, match=f"laplm leaves it alone; .*{command}"):
            remove(name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("platform", "environment", "places"),
    [
        ("linux", {}, ["~/.ollama/models", "/usr/share/ollama/.ollama/models",
                       "~/.cache/llama.cpp"]),
        ("linux", {"XDG_CACHE_HOME": "/x", "OLLAMA_MODELS": "/o"}, ["/o", "/x/llama.cpp"]),
        ("darwin", {}, ["~/.ollama/models", "~/Library/Caches/llama.cpp"]),
        ("win32", {"LOCALAPPDATA": "/l"}, ["~/.ollama/models", "/l/llama.cpp"]),
        ("linux", {"LLAMA_CACHE": "/c", "OLLAMA_MODELS": "~nosuchuser/x"}, ["~nosuchuser/x", "/c"]),
    ],
)  # fmt: skip
def test_places_are_those_of_the_programs(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], places: list[str]
) -> None:
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores.sys, "platform", platform)
    found = stores._places()
    expected = [Path(os.path.expanduser(place)) for place in places]  # noqa: PTH111
    assert [*found["ollama"], *found["llama.cpp"]] == expected
