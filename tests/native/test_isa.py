"""Which variant a machine gets, why no better one, and what LLVM is told of it."""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest

from laplm.errors import InputError
from laplm.native import cpu_features, isa, jit

AVX2 = {"sse2", "sse4.1", "avx", "fma", "f16c", "avx2"}
ARM = {"neon", "lse", "dotprod"}
AVX512 = {*AVX2, "avx512f", "avx512bw", "avx512vl", "avx512vnni"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Make this machine another one: ``machine("arm", {"neon"})``."""
    monkeypatch.delenv("LAPLM_ISA", raising=False)

    def become(family: str, features: set[str]) -> None:
        monkeypatch.setattr(cpu_features, "cpu_family", lambda: family)
        monkeypatch.setattr(cpu_features, "cpu_features", lambda: frozenset(features))

    return become


@pytest.mark.parametrize(
    ("family", "features", "names"),
    [
        ("x86", {*AVX512, "avxvnni"}, ["avx512-vnni", "avx-vnni", "avx2", "generic"]),  # Zen 5
        ("x86", AVX512, ["avx512-vnni", "avx2", "generic"]),  # Zen 4, Tiger Lake
        ("x86", AVX512 - {"avx512vnni"}, ["avx2", "generic"]),  # Skylake-X
        ("x86", {*AVX2, "avxvnni"}, ["avx-vnni", "avx2", "generic"]),  # Alder Lake
        ("x86", AVX2, ["avx2", "generic"]),  # Zen 2, Zen 3, Haswell, Skylake
        ("x86", AVX2 - {"fma"}, ["generic"]),
        ("x86", {"sse2", "sse4.1"}, ["generic"]),  # Nehalem
        ("arm", {*ARM, "i8mm"}, ["neon-i8mm", "neon-dotprod", "generic"]),  # M2, Snapdragon X
        ("arm", ARM, ["neon-dotprod", "generic"]),  # M1, Graviton 2, Raspberry Pi 5
        ("arm", {"neon"}, ["generic"]),  # Raspberry Pi 4
        ("", set(), ["generic"]),  # RISC-V
    ],
)
def test_variants_that_a_machine_can_run(machine, family, features, names) -> None:
    machine(family, features)
    assert [variant.name for variant in isa.available()] == names
    assert isa.choose().name == names[0]


def test_a_variant_that_the_machine_cannot_run_is_refused(machine, monkeypatch) -> None:
    machine("arm", {"neon"})
    monkeypatch.setenv("LAPLM_ISA", "neon-dotprod")
    with pytest.raises(InputError, match="this machine can run generic;"):
        isa.choose()


def test_why_no_better_variant(machine, monkeypatch) -> None:
    machine("x86", AVX2)
    assert isa.why() == (
        "no avx512-vnni: the CPU has no avx512vnni and no avx512bw and no avx512vl; "
        "no avx-vnni: the CPU has no avxvnni"
    )
    machine("x86", AVX512)
    assert isa.why() == "the best there is for this kind of CPU"
    monkeypatch.setenv("LAPLM_ISA", "generic")
    assert isa.why() == "forced by LAPLM_ISA; avx512-vnni would be chosen"
    monkeypatch.setenv("LAPLM_ISA", "avx512-vnni")
    assert isa.why() == "forced by LAPLM_ISA"


def test_an_x86_python_on_an_arm_mac_is_told_of(machine, monkeypatch) -> None:
    machine("x86", AVX2)
    monkeypatch.setattr(cpu_features, "is_translated", lambda: True)
    assert isa.why().endswith("an x86 Python on an ARM machine: one made for ARM is much faster")


def test_llvm_is_told_of_features_that_it_does_not_list(machine, monkeypatch) -> None:
    """Nor does it choose the CPU: its model of the Snapdragon X ends the process."""
    machine("arm", ARM)
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "oryon-1")
    monkeypatch.setattr(llvm, "get_host_cpu_features", llvm.FeatureMap)
    neon, generic = isa.available()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    arm = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    monkeypatch.setattr(llvm.Target, "from_default_triple", lambda: arm)
    module = llvm.parse_assembly("""
        declare <4 x i32> @llvm.aarch64.neon.sdot.v4i32.v16i8(<4 x i32>, <16 x i8>, <16 x i8>)
        define <4 x i32> @f(<4 x i32> %a, <16 x i8> %b, <16 x i8> %c) {
          %r = call <4 x i32> @llvm.aarch64.neon.sdot.v4i32.v16i8(
            <4 x i32> %a, <16 x i8> %b, <16 x i8> %c)
          ret <4 x i32> %r
        }
        define i64 @g(ptr %p) {
          %r = atomicrmw add ptr %p, i64 1 seq_cst
          ret i64 %r
        }""")
    assembly = jit._target_machine(neon).emit_assembly(module)
    assert "sdot" in assembly and "ldaddal" in assembly
    assert jit._cache_key(neon, "spec", None) != jit._cache_key(generic, "spec", None)


def test_the_kernel_cache_tells_cpus_apart(machine, monkeypatch) -> None:
    machine("x86", AVX512)
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "znver4")
    best = isa.choose()
    before = jit._cache_key(best, "spec", None)
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: llvm.FeatureMap(avx512bf16=True))
    assert jit._cache_key(best, "spec", None) != before
    monkeypatch.setattr(llvm, "get_host_cpu_features", llvm.FeatureMap)
    assert jit._cache_key(best, "spec", None) != jit._cache_key(isa.available()[-1], "spec", None)
    before = jit._cache_key(best, "spec", None)
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "znver5")
    assert jit._cache_key(best, "spec", None) != before


def test_code_for_no_cpu_in_particular_is_found_by_another_cpu(machine, monkeypatch) -> None:
    machine("arm", ARM)
    for variant in isa.available():
        keys = set()
        for host in ("oryon-1", "cortex-a76"):
            monkeypatch.setattr(llvm, "get_host_cpu_name", lambda host=host: host)
            monkeypatch.setattr(
                llvm, "get_host_cpu_features", lambda host=host: llvm.FeatureMap({host: True})
            )
            keys.add(jit._cache_key(variant, "spec", None))
        assert len(keys) == 1


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"/proc/cpuinfo": "processor : 0\nmodel name\t: AMD Ryzen 7\n"}, "AMD Ryzen 7"),
        (
            {
                "/proc/cpuinfo": "processor : 0\nCPU part : 0xd0b\n",
                "/sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            },
            "Raspberry Pi 5 Model B Rev 1.0",
        ),
        ({"/proc/cpuinfo": "processor : 0\nCPU part : 0xd0b\n"}, ""),
        ({}, ""),
    ],
)
def test_the_name_of_the_cpu(files: dict[str, str], name: str) -> None:
    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    assert isa._linux_cpu_name(read) == name
