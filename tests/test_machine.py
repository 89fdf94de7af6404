"""What the machine tells: memory, and processes."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from laplm import machine


def test_memory_that_is_taken_is_seen() -> None:
    before, free = machine.resident_bytes(), machine.available_bytes()
    # Pages of its own: an array may get memory that was freed before, and is resident already.
    held = mmap.mmap(-1, 64 << 20)
    held.write(b"x" * len(held))
    assert machine.resident_bytes() >= before + len(held) * 0.9
    # What this process holds counts as available, so its own growth changes little.
    assert abs(machine.available_bytes() - free) < 2 << 30
    assert free < machine.total_bytes() + (1 << 30)
    held.close()
    assert machine.peak_bytes() >= before + (60 << 20)


def test_the_whole_memory_is_what_psutil_says(monkeypatch: pytest.MonkeyPatch) -> None:
    total = psutil.virtual_memory().total
    assert machine.total_bytes() == total
    monkeypatch.setattr(machine, "Path", lambda _: SimpleNamespace(read_text=_no_proc))
    assert machine.total_bytes() == total
    monkeypatch.undo()
    if sys.platform == "linux":  # where importing it would take a while
        monkeypatch.setitem(sys.modules, "psutil", None)
        assert machine.total_bytes() == total


def test_the_peak_is_asked_of_each_system_in_its_own_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(machine, "Path", lambda _: SimpleNamespace(read_text=_no_proc))
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    for system, expected in (("darwin", 5000), ("freebsd", 5000 * 1024)):
        monkeypatch.setattr(sys, "platform", system)
        assert machine.peak_bytes() == expected
    told = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=77))
    monkeypatch.setattr(psutil, "Process", lambda *_: told)
    monkeypatch.setattr(sys, "platform", "win32")
    assert machine.peak_bytes() == 77


def _no_proc(encoding: str) -> str:
    raise FileNotFoundError


def test_who_listens_on_a_port_is_named_and_nobody_on_a_free_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        who = machine.process_listening_on(port)
        assert who is not None
        assert who.endswith(f"(process {os.getpid()})")

        def denied(kind: str) -> None:  # macOS, to a user without rights
            raise psutil.AccessDenied

        monkeypatch.setattr(psutil, "net_connections", denied)
        assert machine.process_listening_on(port) is None
    monkeypatch.undo()
    assert machine.process_listening_on(port) is None


def test_a_process_is_ended_only_when_it_is_the_one_that_is_meant() -> None:
    code = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "--out=/runs/abc/model"]) as child:
        try:
            # Linux starts a program before its command line can be read.
            until = time.monotonic() + 20
            while not psutil.Process(child.pid).cmdline() and time.monotonic() < until:
                time.sleep(0.01)
            assert not machine.terminate_process(child.pid, naming="/runs/other/model")
            assert child.poll() is None
            assert machine.terminate_process(child.pid, naming="/runs/abc/model")
            assert child.wait(20) != 0
        finally:
            child.kill()
    assert not machine.terminate_process(child.pid, naming="/runs/abc/model")
    assert not machine.terminate_process(1 << 80, naming="")
    assert not machine.terminate_process(-1, naming="")
