"""The side-by-side benchmark runs from end to end; how fast anything is, is not tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from laplm.model.config import ModelConfig
from laplm.model.tokenizer import Tokenizer

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The programs in ``benchmarks/``, which is no package, as modules."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import engines
    import make_model
    import neighbour
    import peers
    import report

    return SimpleNamespace(
        engines=engines, make_model=make_model, neighbour=neighbour, peers=peers, report=report
    )


def test_a_run_writes_every_measurement_and_lists_the_missing_peer(
    benchmarks: SimpleNamespace,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmarks.engines.CTranslate2, "package", "no-such-distribution")
    code = benchmarks.peers.main([
        "--model", str(tiny_model_dir), "--workdir", str(tmp_path / "work"),
        "--output", str(tmp_path / "out"), "--only", "laplm int8,ctranslate2 int8",
        "--quick", "--repeats", "1", "--threads", "1", "--retries", "0",
    ])  # fmt: skip
    assert code == 0
    (json_file, table) = sorted((tmp_path / "out").iterdir())
    result = json.loads(json_file.read_text())
    assert table.read_text() in capsys.readouterr().out
    states = {entry["engine"]: entry["status"] for entry in result["engines"]}
    assert states == {"laplm int8": "ran", "ctranslate2 int8": "not installed"}
    rows = result["measurements"]
    assert not [row for row in rows if "error" in row]
    tasks = [(r["task"], r["way"], r.get("position"), r.get("n")) for r in rows]
    expected = [("memory", "", None, None)]
    expected += [
        ("decode", way, position, None) for position in (64, 120) for way in ("step", "generate")
    ]
    expected += [("samples", "together", None, n) for n in (1, 10)]
    expected += [("prefill", "", None, None), *[("cold start", "", None, None)] * 2]
    assert tasks == expected
    assert all(row["tokens_per_second"] > 0 for row in rows if row["task"] != "cold start")
    assert [row["tokens"] for row in rows if row["task"] == "samples"] == [10, 100]
    assert "laplm int8 decode: speed at 120 / at 64" in {r["name"] for r in result["ratios"]}


def test_a_run_without_any_engine_fails_and_says_which_are_missing(
    benchmarks: SimpleNamespace,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmarks.engines.LlamaCpp, "package", "no-such-distribution")
    arguments = ["--model", str(tiny_model_dir), "--output", str(tmp_path), "--only", "llama.cpp"]
    assert benchmarks.peers.main([*arguments, "--workdir", str(tmp_path)]) == 1
    assert "| llama.cpp q8_0 | – | not installed |" in capsys.readouterr().out


def test_a_ratio_says_whether_its_aim_is_met(benchmarks: SimpleNamespace) -> None:
    def row(engine: str, n: int, seconds: float, way: str = "together") -> dict[str, object]:
        return {
            "task": "samples", "way": way, "n": n, "new_tokens": 10, "engine": engine,
            "seconds": seconds, "tokens_per_second": n * 10 / seconds,
        }  # fmt: skip

    rows = [
        row("laplm int8", 1, 0.1),
        row("laplm int8", 10, 0.3),
        row("ctranslate2 int8", 10, 1.5),
        row("transformers fp32", 10, 9.0, "calls"),
    ]
    ratios = benchmarks.report.ratios({"measurements": rows, "engines": []})
    assert [(r["ratio"], r["met"]) for r in ratios] == [
        (pytest.approx(5.0), True),
        (pytest.approx(30.0), False),
        (pytest.approx(3.0), False),  # at most twice the time of one
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bind no process to a core")
def test_decoding_beside_a_busy_neighbour_is_told_stretch_by_stretch(
    benchmarks: SimpleNamespace,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmarks.neighbour, "WINDOW", 0.02)
    code = benchmarks.neighbour.main([
        "--model", str(tiny_model_dir), "--threads", "2", "--seconds", "0.1", "--repeats", "2",
        "--output", str(tmp_path),
    ])  # fmt: skip
    assert code == 0
    (file,) = tmp_path.iterdir()
    result = json.loads(file.read_text())
    assert benchmarks.neighbour.table(result["summary"]) in capsys.readouterr().out
    rows = {row["name"]: row for row in result["summary"]}
    assert rows["undisturbed"]["share"] == 1
    assert all(row["tokens_per_second"] > 0 for row in rows.values())
    assert len(rows) == 7 and [len(repeat) for repeat in result["repeats"]] == [7, 7]


def test_full_speed_is_back_when_enough_tokens_have_come_in_a_quarter_of_a_second(
    benchmarks: SimpleNamespace,
) -> None:
    slow, fast = np.arange(0, 1, 0.1), np.arange(1, 2, 0.01)
    times = [*slow, *fast]
    assert benchmarks.neighbour.back_after(times, 95) == pytest.approx(1, abs=0.11)
    assert benchmarks.neighbour.back_after(times, 110) is None
    assert benchmarks.neighbour.back_after(fast, 95) == 0


def test_a_generated_model_is_gpt2_to_transformers_and_to_laplm(
    benchmarks: SimpleNamespace, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer, GPT2LMHeadModel

    config = ModelConfig(n_layer=2, n_head=2, n_embd=32, n_ctx=64)
    benchmarks.make_model.make_model(config, tmp_path, dtype="fp16")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_directory(tmp_path)
    text = "The capital of Spain is"
    assert len(theirs) == 50257
    assert theirs(text).input_ids == ours.encode(text)
    assert len(ours.encode(text)) == 5
    awkward = "Grüße, 北京 🙂 don't\n\n 123"
    assert theirs(awkward).input_ids == ours.encode(awkward)
    model = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32)
    weights = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    assert np.std(weights["transformer.wte.weight"]) == pytest.approx(0.02, rel=0.01)
    residual = np.std(weights["transformer.h.1.mlp.c_proj.weight"])
    assert residual == pytest.approx(0.02 / np.sqrt(4), rel=0.05)
    assert all(np.all(tensor != 0) for name, tensor in weights.items() if name.endswith("bias"))
