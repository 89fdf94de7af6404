"""``scripts/arm``: what it does when something is missing, and that it sees a wrong bit."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from laplm.native import isa as isas

SCRIPT = Path(__file__).parent.parent / "scripts" / "arm"


@pytest.fixture(scope="module")
def arm() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("scripts_arm", str(SCRIPT))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(loader.name, loader)  # type: ignore[arg-type]
    )
    sys.modules[loader.name] = module  # dataclasses look there
    loader.exec_module(module)
    return module


def test_what_cannot_be_had_is_told_and_no_failure(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--short", "--directory", tmp_path / "arm"]
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 77, done.stderr
    assert "skipped: " in done.stdout


def test_a_wrong_bit_or_another_variant_is_seen(arm: ModuleType, tmp_path: Path) -> None:
    comparison = arm.Comparison(emulated=None, work=tmp_path, seconds=60)
    case = arm.Case(tmp_path / "odd", "int8")
    comparison.wanted[case.model, "int8"] = {"isa": "avx2", "prefill": "aa", "decode": "bb"}
    said = {"isa": arm.MACHINES[0].variants[0], "prefill": "aa", "decode": "bb"}
    assert "prefill aa" in comparison.compare(arm.MACHINES[0], case, said)
    for changed in ({"decode": "bc"}, {"isa": "generic"}):
        with pytest.raises(AssertionError, match="odd int8"):
            comparison.compare(arm.MACHINES[0], case, said | changed)


def test_every_precision_of_every_variant_is_compared_on_every_machine(
    arm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With made-up answers, one of which is then another."""
    wrong: list[object] = []

    def python(
        self: object, machine: Any, arguments: list[str], variant: str = "", home: str = ""
    ) -> str:
        if home:
            for directory in (home, "home-there"):
                (tmp_path / directory / "kernels").mkdir(parents=True, exist_ok=True)
                (tmp_path / directory / "kernels" / "key.o").write_bytes(b"code")
        if "--version" in arguments:
            return f"laplm\nkernels: {machine.variants[0]} on it\n"
        if "run" in arguments:
            return " Madrid.\n"
        _, _, model, *precisions = arguments
        name = variant or (machine.variants[0] if machine else isas.choose().name)
        bits = "bb" if [machine and machine.name, Path(model).name, name] == wrong else "aa"
        return json.dumps({p: {"isa": name, "prefill": f"{p} {bits}"} for p in precisions})

    monkeypatch.setattr(arm.Comparison, "python", python)
    emulated = SimpleNamespace(become=lambda machine: None)
    comparison = arm.Comparison(emulated, tmp_path, seconds=60)
    arm.check(comparison, short=False)
    printed = capsys.readouterr().out
    for machine in arm.MACHINES:
        assert f"{machine.name:<31} laplm run, int8: {arm.PROMPT} Madrid." in printed
        for variant, model, precision in itertools.product(
            machine.variants, ("odd", "pocket"), ("fp32", "int8", "int4")
        ):
            line = f"{machine.name:<31} {variant:<13} {model:<7} {precision:<5} prefill"
            assert printed.count(line) == 1
    shutil.rmtree(tmp_path / "odd")
    wrong[:] = ["Raspberry Pi 5", "pocket", "generic"]
    with pytest.raises(AssertionError, match="Raspberry Pi 5, pocket fp32 generic"):
        arm.check(comparison, short=False)


def test_other_machine_code_is_seen(arm: ModuleType, tmp_path: Path) -> None:
    comparison = arm.Comparison(emulated=None, work=tmp_path, seconds=60)
    machine = arm.MACHINES[1]
    own, kept = (
        tmp_path / home / "kernels" for home in (comparison.own_home(machine), "home-there")
    )
    for directory in (own, kept):
        directory.mkdir(parents=True)
    with pytest.raises(AssertionError, match="compiled nothing"):
        comparison.compiles(machine)
    (own / "key.o").write_bytes(b"code")
    with pytest.raises(AssertionError, match=r"Raspberry Pi 5: key\.o"):
        comparison.compiles(machine)
    (kept / "key.o").write_bytes(b"code")
    assert "the same code" in comparison.compiles(machine)
    (kept / "key.o").write_bytes(b"codf")
    with pytest.raises(AssertionError, match=r"Raspberry Pi 5: key\.o"):
        comparison.compiles(machine)


def test_digests_are_of_every_bit(
    arm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the generated model, which the engine reads as any other."""
    from laplm.model.engine.model import GPT

    arm.make_odd_model(tmp_path / "odd")
    before = dict(arm.digests(str(tmp_path / "odd"), "fp32"))
    assert list(before) == ["isa", "prefill", "decode", "7 sequences", "long"]
    shown = (SCRIPT.parent.parent / "docs" / "how" / "platforms.md").read_text(encoding="utf-8")
    _, *digests = before.values()
    assert f"| generated | fp32 | {' | '.join(f'`{d[:8]}`' for d in digests)} |" in shown
    real = GPT.forward

    def nudged(self: GPT, *arguments: object, **settings: object) -> np.ndarray:
        logits = real(self, *arguments, **settings)  # type: ignore[arg-type]
        logits[-1, -1] = np.nextafter(logits[-1, -1], np.float32(9))
        return logits

    monkeypatch.setattr(GPT, "forward", nudged)
    after = dict(arm.digests(str(tmp_path / "odd"), "fp32"))
    assert after["prefill"] != before["prefill"]
    assert after["7 sequences"] == before["7 sequences"]
