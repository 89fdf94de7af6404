"""Memory that is given back."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

RESIDENT = """
    from pathlib import Path

    def resident(access):
        counts, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0] and not line.split()[0].endswith(":"):
                inside = "libllvmlite" in line and f" {access}" in line
            elif inside and line.startswith("Rss:"):
                counts += int(line.split()[1])
        return counts
"""
COMPILE_TWICE = """
    import llvmlite.binding as llvm
    from laplm.native.memory import release_code_pages

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()

    def compiled():
        machine = llvm.Target.from_default_triple().create_target_machine()
        text = "define i64 @f(i64 %x) { %y = mul i64 %x, 3  ret i64 %y }"
        return machine.emit_object(llvm.parse_assembly(text))

    once = compiled()
    before = resident("r-xp"), resident("rw-p")
    release_code_pages("libllvmlite")
    print(*before, resident("r-xp"), resident("rw-p"))
    assert compiled() == once
"""
LOAD = """
    import laplm

    laplm.load("pocket").gpt
    print(resident("r-xp"))
"""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux")


def numbers(program: str) -> list[int]:
    """What a process of its own prints; in kB."""
    command = [sys.executable, "-c", textwrap.dedent(RESIDENT) + textwrap.dedent(program)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
    return [int(number) for number in out.split()]


@on_linux
def test_a_library_gives_its_code_back_and_goes_on_working() -> None:
    code, data, code_after, data_after = numbers(COMPILE_TWICE)
    assert code > 5000 > 500 > code_after
    assert 0 < data == data_after


@on_linux
def test_a_loaded_model_holds_none_of_llvms_code() -> None:
    (code,) = numbers(LOAD)
    assert code < 500
