"""Files are written whole, readable by whom the user's umask lets read them."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from laplm import home
from laplm.errors import CacheError


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    home.write_whole(file, b"one")
    home.write_whole(file, b"two")
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are Unix")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_permissions_that_any_new_file_has(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        home.write_whole(tmp_path / "a", b"")
        (tmp_path / "b").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_what_was_there_stays_when_a_file_cannot_be_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"one")

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(CacheError, match="Permission denied"):
        home.write_whole(file, b"two")
    assert file.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(CacheError, match="cannot write"):
        home.write_whole(tmp_path / "nowhere" / "a.bin", b"")


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


def test_advice_about_a_full_disk_is_for_where_the_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    kept = home.cannot_write(tmp_path / "home" / "prepared" / "x", full)
    assert "set LAPLM_HOME" in str(kept)
    chosen = home.cannot_write(tmp_path / "mine" / "run.json", full)
    assert "LAPLM_HOME" not in str(chosen) and "another disk" in str(chosen)
