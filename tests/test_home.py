"""The cache directory, wherever it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from laplm import home
from laplm.errors import CacheError


@pytest.mark.skipif(sys.platform == "win32", reason="links of Unix")
@pytest.mark.parametrize("kind", ["file", "link to nowhere"])
def test_what_stands_in_a_directorys_place_is_moved_aside(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path))
    place = tmp_path / "prepared"
    place.write_text("mine") if kind == "file" else place.symlink_to("nowhere")
    assert home.directory("prepared") == place and place.is_dir()
    (aside,) = (path for path in tmp_path.iterdir() if path != place)
    assert aside.is_symlink() or aside.read_text() == "mine"
    (line,) = caplog.messages
    assert str(place) in line and aside.name in line


@pytest.mark.skipif(sys.platform == "win32", reason="names of users in paths are Unix")
def test_a_home_of_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAPLM_HOME", "~nosuchuser/x")
    with pytest.raises(CacheError, match=r"LAPLM_HOME is '~nosuchuser/x'.*set it to a directory"):
        home.directory("prepared")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
def test_a_cache_that_cannot_be_made_is_named_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAPLM_HOME", "/proc/laplm")
    with pytest.raises(CacheError, match=r"cannot write /proc/laplm/x: .*; set LAPLM_HOME to"):
        home.directory("x")
