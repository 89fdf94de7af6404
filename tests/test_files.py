"""Files are written whole, through to the disk, and readable by whom the umask lets read them."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections import namedtuple
from pathlib import Path
from typing import IO

import pytest

from laplm.errors import CacheError, WriteError
from laplm.files import make_write_error, new_file, write_file


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    write_file(file, b"one")
    write_file(file, b"two")
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are Unix")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_permissions_that_any_new_file_has(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_file(tmp_path / "a", b"")
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
    with pytest.raises(WriteError, match="Permission denied"):
        write_file(file, b"two")
    assert file.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(WriteError, match="cannot write"):
        write_file(file / "a.bin", b"")


def test_a_function_may_write_the_content_and_nothing_is_left_when_it_fails(
    tmp_path: Path,
) -> None:
    write_file(tmp_path / "new" / "a", lambda file: file.write(b"one"))
    assert (tmp_path / "new" / "a").read_bytes() == b"one"

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "new" / "a", fail)
    assert (tmp_path / "new" / "a").read_bytes() == b"one"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no directories")
def test_the_file_is_on_the_disk_before_it_takes_its_name_and_then_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        happened.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        happened.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_file(tmp_path / "a", b"one")
    assert happened == ["file", "rename", "directory"]


def test_the_advice_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 8, 1_000_000))
    with pytest.raises(WriteError) as caught:
        write_file(tmp_path / "a", b"", size=2_000_000)
    assert str(caught.value) == (
        f"cannot write {tmp_path / 'a'}: no space left (2.0 MB needed, 1.0 MB free); free some "
        "space, or choose another directory"
    )
    with pytest.raises(CacheError, match=r"free some space, or set X to another directory$"):
        write_file(
            tmp_path / "a", b"", size=2_000_000,
            advice="set X to another directory", error=CacheError,
        )  # fmt: skip
    denied = PermissionError(errno.EACCES, "Permission denied")
    assert (
        str(make_write_error(Path("a"), denied, "ask")) == "cannot write a: Permission denied; ask"
    )


def test_what_a_process_that_died_has_left_is_removed(tmp_path: Path) -> None:
    old, new, other = (
        tmp_path / f".{name}.{part * 12}.tmp" for name, part in (("a", "0"), ("a", "1"), ("b", "0"))
    )
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    write_file(tmp_path / "a", b"")
    assert not old.exists() and new.exists() and other.exists()


def test_the_name_in_a_message_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match=r"cannot write \S+[/\\]model[/\\]a: Permission denied; "),
        new_file(tmp_path / ".model.0123456789ab.tmp" / "a"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")
