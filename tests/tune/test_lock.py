"""One process in a directory at a time, and never one that has gone."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from laplm.errors import InputError
from laplm.tune.lock import HOLDER, LOCK, check_unlocked, lock_directory

HOLDS = """
import sys, time
from pathlib import Path
from laplm.tune.lock import lock_directory
with lock_directory(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_held_directory_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    with lock_directory(tmp_path):
        for refuse in (check_unlocked, lambda path: lock_directory(path).__enter__()):
            with pytest.raises(InputError) as caught:
                refuse(tmp_path)
            said = rf"is in use by process {os.getpid()} on {re.escape(socket.gethostname())} since"
            assert re.search(rf"{said} \d{{4}}-\d\d-\d\d \d\d:\d\d; let that", str(caught.value))
        (tmp_path / HOLDER).write_text("{", encoding="utf-8")  # it is just being written
        with pytest.raises(InputError, match="is in use by another process; let that end"):
            check_unlocked(tmp_path)
    assert not list(tmp_path.iterdir())
    check_unlocked(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix")
def test_a_killed_process_holds_nothing_and_what_it_left_does_no_harm(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"is in use by process {process.pid} on"):
            check_unlocked(tmp_path)
    finally:
        process.kill()
        process.communicate()
    assert {p.name for p in tmp_path.iterdir()} == {LOCK, HOLDER}
    with lock_directory(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock_directory(tmp_path):
        raise KeyboardInterrupt
    check_unlocked(tmp_path)


def test_a_directory_in_the_place_of_the_lock_is_refused_plainly(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(InputError, match="cannot be locked"), lock_directory(tmp_path):
        pass
