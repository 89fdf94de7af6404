"""The readers on what real machines answered, each from the public source that is named."""

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from laplm.native import cpu_features

ARM = {"neon", "lse", "dotprod"}
ARM_I8MM = {*ARM, "i8mm"}

# Linux on ARM: the line "Features" of /proc/cpuinfo.
_ARM_82 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop"
)
_APPLE = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
    "lrcpc dcpop sha3 asimddp sha512 asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg dcpodp "
    "flagm2 frint"
)
LINUX_ARM = {
    # github.com/hrw/arm-socs-table, cpuinfo-data/raspberry-pi4
    "Raspberry Pi 4": ("fp asimd evtstrm crc32 cpuid", {"neon"}),
    # the same, cpuinfo-data/raspberry-pi5
    "Raspberry Pi 5": (f"{_ARM_82} asimddp", ARM),
    # github.com/archspec/archspec-json, tests/targets/linux-amazon-graviton2
    "Graviton 2": (f"{_ARM_82} asimddp ssbs", ARM),
    # github.com/hrw/arm-socs-table, cpuinfo-data/graviton3
    "Graviton 3": (
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
        "lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca "
        "pacg dcpodp svei8mm svebf16 i8mm bf16 dgh rng",
        ARM_I8MM,
    ),
    # github.com/hrw/arm-socs-table/issues/124
    "Snapdragon X": (
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
        "lrcpc dcpop sha3 sm3 sm4 asimddp sha512 asimdfhm uscat ilrcpc flagm ssbs sb paca pacg "
        "dcpodp flagm2 frint i8mm bf16 rng afp rpres",
        ARM_I8MM,
    ),
    # github.com/hrw/arm-socs-table, cpuinfo-data/apple-m1 and cpuinfo-data/apple-m2
    "M1 under Linux": (_APPLE, ARM),
    "M2 under Linux": (f"{_APPLE} i8mm bf16 bti ecv", ARM_I8MM),
}

# The kernel's own order of these names: bit 0 and on of AT_HWCAP, then of AT_HWCAP2
# (arch/arm64/kernel/cpuinfo.c).
_HWCAP = """
    fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc
    dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg
"""
_HWCAP2 = """
    dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm
    svebf16 i8mm bf16 dgh rng bti mte ecv afp rpres
"""


@pytest.mark.parametrize("machine", LINUX_ARM)
def test_linux_on_arm(machine: str) -> None:
    line, want = LINUX_ARM[machine]
    names = line.split()
    orders = [_HWCAP.split(), _HWCAP2.split()]
    assert set(names) <= {*orders[0], *orders[1]}
    words = [sum(1 << order.index(n) for n in names if n in order) for order in orders]
    assert cpu_features.from_hwcaps(*words) == want
    core = f"processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: {line}\nCPU implementer\t: 0x41\n\n"
    assert cpu_features.from_cpuinfo(core * 4) == want


def test_linux_on_arm_takes_what_every_core_has() -> None:
    cores = [f"Features : {LINUX_ARM[name][0]}\n" for name in ("Raspberry Pi 4", "Raspberry Pi 5")]
    assert cpu_features.from_cpuinfo("".join(cores)) == {"neon"}
    assert cpu_features.from_cpuinfo("processor : 0\n") == set()


# macOS on ARM: `sysctl hw.optional`, the lines with the features that are read.
MAC = {
    # github.com/google/cpu_features/issues/121: macOS 11 had no names for features yet
    "M1, macOS 11": ({"arm64": 1, "armv8_2_fhm": 1, "neon": 1}, ARM),
    # zenn.dev/mod_poppo/articles/detect-processor-features-arm
    "M1, macOS 13": (
        {
            "arm.FEAT_DotProd": 1,
            "arm.FEAT_LSE": 1,
            "arm.FEAT_I8MM": 0,
            "arm.FEAT_BF16": 0,
            "arm64": 1,
        },
        ARM,
    ),
    # qiita.com/zacky1972/items/5deec6b139a76246aeee: how the M2's answers differ from the M1's
    "M2": (
        {
            "arm.FEAT_DotProd": 1,
            "arm.FEAT_LSE": 1,
            "arm.FEAT_I8MM": 1,
            "arm.FEAT_BF16": 1,
            "arm64": 1,
        },
        ARM_I8MM,
    ),
    # github.com/archspec/archspec-json, tests/targets/darwin-sequoia-m4
    "M4": (
        {
            "arm.FEAT_DotProd": 1,
            "arm.FEAT_LSE": 1,
            "arm.FEAT_I8MM": 1,
            "arm.FEAT_SME": 1,
            "arm64": 1,
        },
        ARM_I8MM,
    ),
}


@pytest.mark.parametrize("machine", MAC)
def test_macos_on_arm(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, want = MAC[machine]

    def sysctlbyname(name: bytes, value: Any, size: Any, *_: object) -> int:
        known = answers.get(name.decode().removeprefix("hw.optional."))
        if known is None:
            return -1
        ctypes.memmove(value, ctypes.byref(ctypes.c_int32(known)), 4)  # as macOS does: 4 bytes
        return 0

    library = SimpleNamespace(sysctlbyname=sysctlbyname)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert cpu_features.from_sysctl(cpu_features.sysctl) == want


# Windows on ARM: the numbers that IsProcessorFeaturePresent affirms, and the registry's copies of
# ID_AA64ISAR0_EL1 and ID_AA64ISAR1_EL1.
WINDOWS_ARM: dict[str, tuple[set[int], dict[str, int], set[str]]] = {
    # github.com/google/cpu_features, test/cpuinfo_aarch64_test.cc: VFP 32, NEON, CRC32
    "Raspberry Pi 4": ({18, 19, 31}, {}, {"neon"}),
    # github.com/Dr-Noob/cpufetch/issues/226: a ThinkPad X13s, whose registry alone is shown
    "Snapdragon 8cx Gen 3": (
        set(),
        {"CP 4030": 0x10100010211120, "CP 4031": 0x1200031},
        ARM,
    ),
    # What github.com/hrw/arm-socs-table/issues/124 has of the CPU, as Windows 11 24H2 numbers it
    # (github.com/pytorch/cpuinfo/pull/333); and as 23H2 does, which knows 43 alone
    # (github.com/pytorch/cpuinfo/issues/279).
    "Snapdragon X, 24H2": ({34, 43, 66, 68}, {}, ARM_I8MM),
    "Snapdragon X, 23H2": ({34, 43}, {"CP 4031": 1 << 52}, ARM_I8MM),
}


@pytest.mark.parametrize("machine", WINDOWS_ARM)
def test_windows_on_arm(machine: str) -> None:
    present, registers, want = WINDOWS_ARM[machine]
    found = cpu_features.from_windows(
        lambda number: number in present, lambda name: registers.get(name, 0)
    )
    assert found == want


# x86: what `cpuid` gives for leaf 0 (eax), 1 (ecx, edx), 7 (eax, ebx, ecx, edx) and 7.1 (eax), and
# the bits of XCR0 that the CPU has (leaf 0DH, eax). All from github.com/InstLatx64/InstLatx64, the
# files whose names begin as noted.
_AVX2 = {"sse2", "sse4.1", "avx", "fma", "f16c", "avx2"}
_AVX512 = {"avx512f", "avx512bw", "avx512vl"}
_VNNI = {*_AVX512, "avx512vnni"}
X86 = {
    "Nehalem": (  # GenuineIntel00106A1_Nehalem
        0xB, (0x00BCE3BD, 0xB7EBFBFF), (0, 0, 0, 0), 0, 0, {"sse2", "sse4.1"},
    ),
    "Haswell": (  # GenuineIntel00306C3_Haswell
        0xD, (0x7FFAFBFF, 0xBFEBFBFF), (0, 0x000027AB, 0, 0), 0, 0x7, _AVX2,
    ),
    "Skylake": (  # GenuineIntel00506E3_Skylake
        0x16, (0x7FFAFBFF, 0xBFEBFBFF), (0, 0x029C67AF, 0, 0), 0, 0x1F, _AVX2,
    ),
    "Skylake-X": (  # GenuineIntel0050654_SkylakeX
        0x16, (0x7FFEFBBF, 0xBFEBFBFF), (0, 0xD39FFFFB, 0, 0), 0, 0xFF, _AVX2 | _AVX512,
    ),
    "Tiger Lake": (  # GenuineIntel00806C1_TigerLake_01
        0x1B, (0x7FFAFBBF, 0xBFEBFBFF), (0, 0xF3BFA7EB, 0x18C05FCE, 0xFC100510), 0, 0x2E7,
        _AVX2 | _VNNI,
    ),
    "Alder Lake": (  # GenuineIntel00906A2_AlderLakeP_00
        0x20, (0x7FFAFBFF, 0xBFEBFBFF), (1, 0x239CA7EB, 0x98C007AC, 0xFC18C410), 0x00400810, 0x207,
        {*_AVX2, "avxvnni"},
    ),
    "Zen 2": (  # AuthenticAMD0870F10_K17_Matisse
        0x10, (0x7ED8320B, 0x178BFBFF), (0, 0x219C91A9, 0x00400004, 0), 0, 0x207, _AVX2,
    ),
    "Zen 3": (  # AuthenticAMD0A20F10_K19_Vermeer
        0x10, (0x7ED8320B, 0x178BFBFF), (0, 0x219C97A9, 0x0040068C, 0x10), 0, 0x207, _AVX2,
    ),
    "Zen 4": (  # AuthenticAMD0A60F12_K19_Raphael_01
        0x10, (0x7EF8320B, 0x178BFBFF), (1, 0xF1BF97A9, 0x00405FCE, 0x10000010), 0x20, 0x2E7,
        {*_AVX2, *_VNNI, "avx512bf16"},
    ),
    "Zen 5": (  # AuthenticAMD0B40F40_K20_GraniteRidge_02
        0x10, (0x7ED8320B, 0x178BFBFF), (1, 0xF1BF97AB, 0x19405FCE, 0x10000110), 0x30, 0x2E7,
        {*_AVX2, *_VNNI, "avx512bf16", "avxvnni"},
    ),
}  # fmt: skip


def _cpuid(machine: str) -> tuple[Any, int]:
    last, (ecx, edx), seven, seven_one, xcr0, _ = X86[machine]
    leaves = {
        (0, 0): (last, 0, 0, 0),
        (1, 0): (0, 0, ecx, edx),
        (7, 0): seven,
        (7, 1): (seven_one, 0, 0, 0),
    }
    return lambda leaf, subleaf: leaves[leaf, subleaf], xcr0


@pytest.mark.parametrize("machine", X86)
def test_x86(machine: str) -> None:
    cpuid, xcr0 = _cpuid(machine)
    assert cpu_features.from_cpuid(cpuid, lambda: xcr0) == X86[machine][-1]


def test_x86_uses_only_registers_that_the_system_keeps() -> None:
    cpuid, _ = _cpuid("Zen 4")
    assert cpu_features.from_cpuid(cpuid, lambda: 0x2) == {"sse2", "sse4.1"}
    assert cpu_features.from_cpuid(cpuid, lambda: 0x7) == _AVX2
    # macOS keeps those of AVX-512 from a thread's first use of them on
    mac = cpu_features.from_cpuid(cpuid, lambda: 0x7, darwin=True)
    assert mac == X86["Zen 4"][-1]


@pytest.mark.skipif(cpu_features.cpu_family() != "x86", reason="CPUID is an instruction of x86")
def test_llvm_lists_what_cpuid_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import llvmlite.binding as llvm

    listed = cpu_features.cpu_features()
    asked: list[object] = []
    real = cpu_features.from_cpuid
    monkeypatch.setattr(
        cpu_features, "from_cpuid", lambda *a, **k: asked.append(a) or real(*a, **k)
    )
    monkeypatch.setattr(llvm, "get_host_cpu_features", dict)  # where LLVM is silent
    assert cpu_features.cpu_features.__wrapped__() == listed
    assert asked
    assert "sse2" in listed


@pytest.mark.skipif(sys.platform != "linux", reason="the words are Linux's")
def test_linux_asks_the_kernel_and_else_reads_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"Features\t: {_APPLE}\n")
    monkeypatch.setattr(cpu_features, "CPUINFO", file)
    words = {16: 1 << 1, 26: 1 << 13}

    def getauxval(which: int) -> int:
        return words[which]

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(getauxval=getauxval))
    assert cpu_features._linux_arm() == {"neon", "i8mm"}
    words[16] = 0  # what a kernel without the words gives
    assert cpu_features._linux_arm() == ARM
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())  # no such function
    assert cpu_features._linux_arm() == ARM
    file.unlink()
    assert cpu_features._linux_arm() == set()
