"""Damaged and hostile inputs: refused plainly or opened, and nothing else."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from laplm.run.language_model import LanguageModel
from tests.fuzz import formats, gguf_bytes
from tests.fuzz.driver import Finding, findings
from tests.fuzz.formats import FORMATS

INPUTS = 325


@pytest.mark.timeout(600)
def test_inputs_made_by_chance_are_opened_or_refused_in_plain_words() -> None:
    each = INPUTS // len(FORMATS)
    inputs = [(name, seed) for name in FORMATS for seed in range(each)]
    assert len(inputs) == INPUTS
    found = list(findings(inputs))
    assert found == [], "\n".join(
        f"{f.what}\n    python -m tests.fuzz --format {f.format} --seed {f.seed} --count 1"
        for f in found
    )


@pytest.mark.parametrize("name", ["safetensors", "tokenizer", "adapter", "gguf", "data", "http"])
def test_a_seed_makes_one_input(name: str, tmp_path: Path) -> None:
    made = []
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
        FORMATS[name].make(Random(5), tmp_path / directory)
        files = sorted(p for p in (tmp_path / directory).rglob("*") if p.is_file())
        contents = [p.read_bytes().replace(str(tmp_path / directory).encode(), b"") for p in files]
        made.append(contents)
    assert made[0] == made[1]


def test_what_is_good_is_opened(tmp_path: Path) -> None:
    for file, content in formats.good_model().items():
        (tmp_path / file).write_bytes(content)
    formats.open_model(tmp_path)


def test_a_gguf_file_that_is_good_is_opened(tmp_path: Path) -> None:
    settings, tensors = formats.good_gguf()
    raw = gguf_bytes.to_bytes(settings, tensors, [len(tensors), len(settings)], 3)
    (tmp_path / "a.gguf").write_bytes(raw)
    lm = LanguageModel(tmp_path, "fp32")
    assert lm.chat_template is not None and lm.checkpoint.dtype == "Q4_0"
    formats.run_command("look", "next", "The capital of", "-m", str(tmp_path))


def test_faults_hangs_and_deaths_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The worker is a process of its own: a stand-in for it speaks its protocol.
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys, time\n"
        "for line in sys.stdin:\n"
        "    seed = int(line.split()[1])\n"
        "    if seed == 1: raise SystemExit(3)\n"
        "    if seed == 2: print('\"ValueError: odd\"', flush=True); continue\n"
        "    while seed == 3: pass\n"
        "    print('\"\"', flush=True)\n"
    )
    import subprocess
    import sys

    from tests.fuzz import driver

    real = subprocess.Popen
    monkeypatch.setattr(
        driver.subprocess, "Popen", lambda _, **options: real([sys.executable, script], **options)
    )
    monkeypatch.setattr(driver, "SECONDS", 0.5)
    found = list(findings([("x", seed) for seed in (0, 1, 0, 2, 0, 3, 0)]))
    assert [f.seed for f in found] == [1, 2, 3]
    assert found[1] == Finding("x", 2, "ValueError: odd")
    assert found[0].what.startswith("died with 3")
    assert found[2].what.startswith("hangs")
