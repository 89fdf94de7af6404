"""Compiled kernels are kept on disk; what cannot be trusted there is compiled again."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from laplm import home
from laplm.native import isa, jit, lower


def load(told: list[tuple[str, int, int]] | None = None) -> jit.Engine:
    """A function of next to nothing: the real ones take some ten seconds to compile."""

    def build() -> lower.Kernel:
        def digits(what: int, a: int, b: int, c: int) -> int:
            return what + 10 * a + 100 * b + 1000 * c

        return lower.kernel(digits)

    progress = None if told is None else lambda *step: told.append(step)
    return jit.load(isa.choose(), "tests", build, progress)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAPLM_HOME", str(tmp_path_factory.mktemp("home")))
        load()
        (file,) = home.directory("kernels").iterdir()
    return file


@pytest.fixture
def kept(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the compiled code in a directory of its own; nothing is loaded yet."""
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path))
    monkeypatch.setattr(jit, "_loaded", {})
    return Path(shutil.copy(compiled, home.directory("kernels")))


def _flip_one_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _replace(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink()
    make(file)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one bit": _flip_one_bit,
    "cut short": lambda file: os.truncate(file, 1000),
    "empty": lambda file: os.truncate(file, 0),
    "directory": lambda file: _replace(file, Path.mkdir),
    "link to itself": lambda file: _replace(file, lambda f: f.symlink_to(f.name)),
    "pipe": lambda file: _replace(file, os.mkfifo),
}


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of Unix")
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_code_of_ours_is_compiled_again(
    damage: str, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGE[damage](kept)
    told: list[tuple[str, int, int]] = []
    assert load(told)(1, 2, 3, 4) == 4321
    assert told == [("kernels", done, 3) for done in range(4)]
    assert str(kept) in caplog.messages[0] and caplog.messages[0].endswith("compiling them again")
    jit._loaded.clear()
    load(told)
    assert len(told) == 4  # what is there now is loaded


def test_kernels_of_another_key_are_not_run(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    """For another CPU, say: only the name of the file says what it was compiled for."""
    code = kept.read_bytes()[32:]
    kept.write_bytes(jit._digest("another", code) + code)
    assert load()(1, 2, 3, 4) == 4321
    assert "compiling them again" in caplog.text


def test_good_kernels_are_loaded_and_nothing_is_said(
    kept: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(jit, "_compile")
    assert load()(1, 2, 3, 4) == 4321
    assert caplog.messages == []
