"""Which machine instructions the kernels may use: read from the CPU, or forced for a test.

``LAPLM_ISA`` forces one of ``ISAS`` (all but the host's own are subsets it can also run).
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from laplm.errors import InputError


@dataclass(frozen=True)
class Isa:
    """One way of doing the vector operations, and the LLVM target that it is compiled for."""

    name: str
    dot: str  # how four byte products are added: "vnni512" "vnni256" "avx2" "neon" "generic"
    native_half: bool  # the CPU converts half precision itself
    registers: int  # vector registers of 16 lanes' worth that inner loops may fill
    cpu: str = ""  # LLVM's name for the CPU to tune for; "" is the host

    @property
    def signed_dot(self) -> bool:
        """Whether ``dot4`` takes signed weights; the others take the offset ones as stored."""
        return self.dot in ("avx2", "neon")

    @property
    def family(self) -> str:
        """Whose instructions the variant is made of: "x86" or "arm"."""
        return "arm" if platform.machine().lower() in ("aarch64", "arm64") else "x86"


# name -> (CPU features it needs, the Isa), best first.
_X86 = (
    (
        ("avx512vnni", "avx512bw", "avx512vl", "f16c"),
        Isa("avx512-vnni", "vnni512", True, 32),
    ),
    (
        ("avxvnni", "avx2", "fma", "f16c"),
        Isa("avx-vnni", "vnni256", True, 8, "alderlake"),
    ),
    (("avx2", "fma", "f16c"), Isa("avx2", "avx2", True, 8, "haswell")),
    (("sse2",), Isa("generic", "generic", False, 8, "x86-64")),
)
_ARM = (
    (("dotprod", "neon"), Isa("neon-dotprod", "neon", True, 8)),
    ((), Isa("generic", "generic", False, 8)),
)


def available() -> list[Isa]:
    """The variants this machine can run, best first."""
    import llvmlite.binding as llvm

    has = llvm.get_host_cpu_features()
    table = _ARM if platform.machine().lower() in ("aarch64", "arm64") else _X86
    return [isa for needs, isa in table if all(has.get(feature) for feature in needs)]


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


def cpu_name() -> str:
    """The CPU as people know it, or as LLVM does."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
