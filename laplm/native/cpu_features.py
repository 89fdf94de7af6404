"""Which vector instructions this machine has: what the CPU or the system itself says.

LLVM's list of the host's features is right on x86, where LLVM asks the CPU. On ARM a program may
not ask the CPU, only the system, and LLVM's list leaves out what the kernels need most: under Linux
``dotprod`` is never in it. So the system is asked here: Linux by the words that it gives to every
process, macOS by ``sysctl``, Windows by ``IsProcessorFeaturePresent`` and the registry, which has
copies of the CPU's registers.

Features have LLVM's names, because its code generator is told of them. Those that nothing here uses
are left out.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Registers = tuple[int, int, int, int]  # eax, ebx, ecx, edx

CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def cpu_family() -> str:
    """Whose instructions this process is made of: "x86", "arm" (64 bits), or "" for others.

    Not ``platform.machine()``: that names the machine even where an x86 Python runs on an ARM one.
    """
    import llvmlite.binding as llvm

    cpu = llvm.get_default_triple().split("-")[0]
    if cpu in ("aarch64", "arm64", "arm64e"):
        return "arm"
    return "x86" if cpu in ("x86_64", "amd64") else ""


@functools.cache
def cpu_features() -> frozenset[str]:
    """The features that this process can use, by LLVM's names."""
    if cpu_family() == "x86":
        return _x86()
    if cpu_family() != "arm":
        return frozenset()
    if sys.platform == "darwin":
        return from_sysctl(sysctl)
    if sys.platform == "win32":
        return from_windows(_is_processor_feature_present, _processor_register)
    return _linux_arm()


# --- ARM: Linux ----------------------------------------------------------------------------------

# Linux's name of the feature, the word that it is in and its bit
# (arch/arm64/include/uapi/asm/hwcap.h).
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_LINUX = {
    "neon": ("asimd", _AT_HWCAP, 1),
    "lse": ("atomics", _AT_HWCAP, 8),
    "dotprod": ("asimddp", _AT_HWCAP, 20),
    "i8mm": ("i8mm", _AT_HWCAP2, 13),
}


def from_hwcaps(hwcap: int, hwcap2: int) -> frozenset[str]:
    """Features of the two words that Linux gives to every process."""
    words = {_AT_HWCAP: hwcap, _AT_HWCAP2: hwcap2}
    return frozenset(name for name, (_, word, bit) in _LINUX.items() if words[word] >> bit & 1)


def from_cpuinfo(text: str) -> frozenset[str]:
    """Features of ``/proc/cpuinfo``: what every core of it has, where they differ."""
    lists = [
        set(line.partition(":")[2].split())
        for line in text.splitlines()
        if line.startswith("Features")
    ]
    everywhere = set.intersection(*lists) if lists else set()
    return frozenset(name for name, (linux, _, _) in _LINUX.items() if linux in everywhere)


def _linux_arm() -> frozenset[str]:
    getauxval = getattr(ctypes.CDLL(None), "getauxval", None)
    if getauxval is not None:
        getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        if hwcap := getauxval(_AT_HWCAP):
            return from_hwcaps(hwcap, getauxval(_AT_HWCAP2))
    try:
        return from_cpuinfo(CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return frozenset()


# --- ARM: macOS ----------------------------------------------------------------------------------


def from_sysctl(ask: Callable[[str], int | None]) -> frozenset[str]:
    """Features by ``ask(name)``, the number that macOS has under a name, or None.

    The names of features came with macOS 12; every Mac with ARM has ``dotprod`` and ``lse``.
    """
    i8mm, dotprod, lse = (
        ask(f"hw.optional.arm.FEAT_{name}") for name in ("I8MM", "DotProd", "LSE")
    )
    if dotprod is None:
        dotprod = lse = ask("hw.optional.arm64")
    has = {"neon": True, "lse": lse, "dotprod": dotprod, "i8mm": i8mm}
    return frozenset(name for name, value in has.items() if value)


def sysctl(name: str) -> int | None:
    """The number that macOS has under a name; None where it knows none."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    function = ctypes.CDLL(None).sysctlbyname
    arguments = (name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return value.value if function(*arguments) == 0 else None


def sysctl_text(name: str) -> str:
    """The text that macOS has under a name; "" where it knows none."""
    value = ctypes.create_string_buffer(256)
    size = ctypes.c_size_t(len(value))
    function = ctypes.CDLL(None).sysctlbyname
    arguments = (name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0))
    return value.value.decode(errors="replace") if function(*arguments) == 0 else ""


def is_translated() -> bool:
    """Whether this is an x86 process on an ARM Mac: Rosetta runs it, at a part of its speed."""
    return sys.platform == "darwin" and sysctl("sysctl.proc_translated") == 1


# --- ARM: Windows --------------------------------------------------------------------------------

# What winnt.h numbers, and where the CPU itself has it: a register's name in the registry, and the
# lowest of the field's four bits. Windows 11 before 24H2 does not know the number for i8mm.
_WINDOWS = {
    "lse": (34, "CP 4030", 20),  # PF_ARM_V81_ATOMIC_INSTRUCTIONS_AVAILABLE; ID_AA64ISAR0_EL1.Atomic
    "dotprod": (43, "CP 4030", 44),  # PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; ID_AA64ISAR0_EL1.DP
    "i8mm": (66, "CP 4031", 52),  # PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE; ID_AA64ISAR1_EL1.I8MM
}


def from_windows(
    is_present: Callable[[int], bool], register: Callable[[str], int]
) -> frozenset[str]:
    """Features by ``IsProcessorFeaturePresent``, or the registry's copies of the registers."""
    found = {
        name
        for name, (number, copy, bit) in _WINDOWS.items()
        if is_present(number) or register(copy) >> bit & 15
    }
    return frozenset(found | {"neon"})  # Windows runs on no ARM CPU without it


def _is_processor_feature_present(number: int) -> bool:
    kernel32: Any = ctypes.CDLL("kernel32")
    return bool(kernel32.IsProcessorFeaturePresent(number))


def _processor_register(name: str) -> int:
    value = processor_key(name)
    return value if isinstance(value, int) else 0


def processor_key(name: str) -> Any:
    """What Windows' registry has of the first core under a name; None where there is nothing."""
    if sys.platform == "win32":
        import winreg

        path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
                return winreg.QueryValueEx(key, name)[0]
        except OSError:
            return None
    return None


# --- x86 -----------------------------------------------------------------------------------------

# (leaf, subleaf), which of eax, ebx, ecx and edx, the bit, and which registers the system must keep
# for a thread that another one interrupts, as bits of XCR0.
_SSE, _AVX, _AVX512, _AMX = 0, 0x6, 0xE6, 0x60006
_CPUID = {
    "sse2": ((1, 0), 3, 26, _SSE),
    "sse4.1": ((1, 0), 2, 19, _SSE),
    "avx": ((1, 0), 2, 28, _AVX),
    "fma": ((1, 0), 2, 12, _AVX),
    "f16c": ((1, 0), 2, 29, _AVX),
    "avx2": ((7, 0), 1, 5, _AVX),
    "avxvnni": ((7, 1), 0, 4, _AVX),
    "avx512f": ((7, 0), 1, 16, _AVX512),
    "avx512bw": ((7, 0), 1, 30, _AVX512),
    "avx512vl": ((7, 0), 1, 31, _AVX512),
    "avx512vnni": ((7, 0), 2, 11, _AVX512),
    "avx512bf16": ((7, 1), 0, 5, _AVX512),
    "amx-bf16": ((7, 0), 3, 22, _AMX),
}


def from_cpuid(
    cpuid: Callable[[int, int], Registers], xgetbv: Callable[[], int], *, darwin: bool = False
) -> frozenset[str]:
    """Features by ``cpuid(leaf, subleaf)`` and ``xgetbv()``, which gives XCR0.

    macOS (``darwin``) sets XCR0's bits for AVX-512 when a thread first uses it.
    """
    kept = 0
    if cpuid(1, 0)[2] >> 27 & 1:  # OSXSAVE: else there is no such instruction as xgetbv
        kept = xgetbv()
        if darwin and kept & _AVX == _AVX:
            kept |= _AVX512
    last_leaf = cpuid(0, 0)[0]
    last_subleaf = cpuid(7, 0)[0] if last_leaf >= 7 else 0

    def has(leaf: int, subleaf: int, register: int, bit: int) -> bool:
        if leaf > last_leaf or (leaf == 7 and subleaf > last_subleaf):
            return False
        return bool(cpuid(leaf, subleaf)[register] >> bit & 1)

    return frozenset(
        name
        for name, (leaf, register, bit, needs) in _CPUID.items()
        if kept & needs == needs and has(*leaf, register, bit)
    )


def _x86() -> frozenset[str]:
    """LLVM's list, which is the CPU's own answers; they are asked for here where it has none."""
    import llvmlite.binding as llvm

    listed = llvm.get_host_cpu_features()
    if any(listed.values()):
        return frozenset(name for name in _CPUID if listed.get(name))
    cpu = _Asked()
    return from_cpuid(cpu.cpuid, cpu.xgetbv, darwin=sys.platform == "darwin")


_ASK = """
define void @cpuid(i32 %leaf, i32 %subleaf, ptr %out) {
  %all = call { i32, i32, i32, i32 } asm sideeffect "cpuid", "={ax},={bx},={cx},={dx},{ax},{cx}"(
    i32 %leaf, i32 %subleaf)
  store { i32, i32, i32, i32 } %all, ptr %out, align 4
  ret void
}
define i32 @xgetbv() {
  %low = call i32 asm sideeffect "xgetbv", "={ax},{cx},~{dx}"(i32 0)
  ret i32 %low
}
"""


class _Asked:
    """The two instructions, compiled by LLVM, which takes some 30 ms."""

    def __init__(self) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        machine = llvm.Target.from_default_triple().create_target_machine(opt=0, jit=True)
        self._code = llvm.create_mcjit_compiler(llvm.parse_assembly(_ASK), machine)
        self._code.finalize_object()
        word, address = ctypes.c_uint32, self._code.get_function_address
        self._cpuid = ctypes.CFUNCTYPE(None, word, word, ctypes.c_void_p)(address("cpuid"))
        self._xgetbv = ctypes.CFUNCTYPE(word)(address("xgetbv"))

    def cpuid(self, leaf: int, subleaf: int) -> Registers:
        """The four registers after ``cpuid``."""
        out = (ctypes.c_uint32 * 4)()
        self._cpuid(leaf, subleaf, out)
        return out[0], out[1], out[2], out[3]

    def xgetbv(self) -> int:
        """The low word of XCR0."""
        return int(self._xgetbv())
