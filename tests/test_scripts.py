"""``scripts/arm``: what it does when something is missing, and that it sees a wrong bit."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

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


def test_a_wrong_bit_or_another_variant_is_seen(
    arm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = arm.Comparison(emulated=None, work=tmp_path, seconds=60)
    case = arm.Case(tmp_path / "odd", "int8")
    here = {"isa": "avx2", "prefill": "aa", "decode": "bb"}
    said = {"isa": arm.MACHINES[0].variants[0], "prefill": "aa", "decode": "bb"}
    monkeypatch.setattr(comparison, "here", lambda case: here)
    monkeypatch.setattr(comparison, "there", lambda machine, case: dict(said))
    assert "prefill aa" in comparison.compare(arm.MACHINES[0], case)
    for changed in ({"decode": "bc"}, {"isa": "generic"}):
        monkeypatch.setattr(comparison, "there", lambda *_, changed=changed: said | changed)
        with pytest.raises(AssertionError, match="odd int8"):
            comparison.compare(arm.MACHINES[0], case)


def test_digests_are_of_every_bit(
    arm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the generated model, which the engine reads as any other."""
    from laplm.model.engine.model import GPT

    arm.make_odd_model(tmp_path / "odd")
    before = dict(arm.digests(str(tmp_path / "odd"), "fp32"))
    assert list(before) == ["isa", "prefill", "decode", "7 sequences"]
    shown = (SCRIPT.parent.parent / "docs" / "how" / "platforms.md").read_text(encoding="utf-8")
    _, *digests = before.values()
    assert f"| generated | fp32 | {' | '.join(f'`{d[:8]}`' for d in digests)} |" in shown
    real = GPT.forward

    def nudged(self: GPT, *arguments: object) -> np.ndarray:
        logits = real(self, *arguments)  # type: ignore[arg-type]
        logits[-1, -1] = np.nextafter(logits[-1, -1], np.float32(9))
        return logits

    monkeypatch.setattr(GPT, "forward", nudged)
    after = dict(arm.digests(str(tmp_path / "odd"), "fp32"))
    assert after["prefill"] != before["prefill"]
    assert after["7 sequences"] == before["7 sequences"]
