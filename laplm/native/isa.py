"""Which machine instructions the kernels use: the best that the CPU has, or forced for a test.

``LAPLM_ISA`` forces one of ``available()``: they all give the same bits.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from laplm.errors import InputError
from laplm.native import cpu_features


@dataclass(frozen=True)
class Isa:
    """One way of doing the vector operations, and the LLVM target that it is compiled for."""

    name: str
    dot: str  # how four byte products are added: "vnni512" "vnni256" "avx2" "i8mm" "neon" "generic"
    native_half: bool  # the CPU converts half precision itself
    registers: int  # vector registers of 16 lanes' worth that inner loops may fill
    needs: tuple[str, ...] = ()  # CPU features, by LLVM's names
    cpu: str = ""  # LLVM's name for the CPU to tune for; "" is the host

    @property
    def signed_dot(self) -> bool:
        """Whether ``dot4`` takes signed weights; the others take the offset ones as stored."""
        return self.dot in ("avx2", "neon")

    @property
    def family(self) -> str:
        """Whose instructions the variant is made of: "x86", "arm", or "" for others."""
        return cpu_features.cpu_family()


_AVX512 = ("avx512vnni", "avx512bw", "avx512vl", "f16c")

# Best first.
_VARIANTS = {
    "x86": (
        Isa("avx512-vnni", "vnni512", True, 32, _AVX512),
        Isa("avx-vnni", "vnni256", True, 8, ("avxvnni", "avx2", "fma", "f16c"), "alderlake"),
        Isa("avx2", "avx2", True, 8, ("avx2", "fma", "f16c"), "haswell"),
        Isa("generic", "generic", False, 8, (), "x86-64"),
    ),
    "arm": (
        # For no CPU in particular: LLVM 22's models of some end the process (Snapdragon X), and so
        # what is tried on an emulated CPU is what runs on all of them.
        Isa("neon-i8mm", "i8mm", True, 8, ("i8mm", "dotprod", "lse", "neon"), "generic"),
        Isa("neon-dotprod", "neon", True, 8, ("dotprod", "lse", "neon"), "generic"),
        Isa("generic", "generic", False, 8, (), "generic"),
    ),
    "": (Isa("generic", "generic", False, 8),),
}


def variants() -> tuple[Isa, ...]:
    """What is written for CPUs of this family, best first, whether this one can run it or not."""
    return _VARIANTS[cpu_features.cpu_family()]


def missing(isa: Isa) -> list[str]:
    """The features that this machine lacks for a variant."""
    return [feature for feature in isa.needs if feature not in cpu_features.cpu_features()]


def available() -> list[Isa]:
    """The variants this machine can run, best first."""
    return [isa for isa in variants() if not missing(isa)]


def choose() -> Isa:
    """The variant named by ``LAPLM_ISA``, else the best this machine can run.

    Raises:
        InputError: ``LAPLM_ISA`` names a variant that this machine cannot run.
    """
    options = available()
    wanted = os.environ.get("LAPLM_ISA")
    if not wanted:
        return options[0]
    for isa in options:
        if isa.name == wanted:
            return isa
    names = ", ".join(isa.name for isa in options)
    raise InputError(f"LAPLM_ISA={wanted}: this machine can run {names}; unset it or choose one")


def why() -> str:
    """Why ``choose()`` gives no better variant: what the CPU lacks for each, or who forced it."""
    chosen = choose()
    if os.environ.get("LAPLM_ISA"):
        best = available()[0].name
        return "forced by LAPLM_ISA" + ("" if best == chosen.name else f"; {best} would be chosen")
    better = variants()[: variants().index(chosen)]
    if not better:
        reasons = ["the best there is for this kind of CPU"]
    else:
        lacks = [(isa.name, " and no ".join(missing(isa))) for isa in better]
        reasons = [f"no {name}: the CPU has no {features}" for name, features in lacks]
    if cpu_features.is_translated():
        reasons.append("this is an x86 Python on an ARM machine: one made for ARM is much faster")
    return "; ".join(reasons)


def cpu_name() -> str:
    """The CPU as people know it, or as LLVM does."""
    if sys.platform == "darwin":
        name = cpu_features.sysctl_text("machdep.cpu.brand_string")
    elif sys.platform == "win32":
        name = str(cpu_features.processor_key("ProcessorNameString") or "").strip()
    else:
        name = _linux_cpu_name(lambda path: Path(path).read_bytes().decode(errors="replace"))
    return name or _llvm_cpu_name() or platform.processor() or platform.machine()


def _linux_cpu_name(read: Callable[[str], str]) -> str:
    """The CPU's name in ``/proc/cpuinfo``, else the board's: ARM's CPUs have numbers only."""
    try:
        for line in read("/proc/cpuinfo").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
        return read("/sys/firmware/devicetree/base/model").strip("\0\n ")
    except OSError:
        return ""


def _llvm_cpu_name() -> str:
    import llvmlite.binding as llvm

    name: str = llvm.get_host_cpu_name()
    return "" if name == "generic" else name
