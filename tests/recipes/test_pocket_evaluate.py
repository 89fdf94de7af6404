from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest

import laplm
from laplm.run.evaluate import Document, perplexity
from recipes.pocket import evaluate as evaluation
from recipes.pocket import samples
from recipes.pocket.evaluate import evaluate, main
from recipes.pocket.facts import Probe
from recipes.pocket.heldout import Score, bits_report, precision_report, score_sources
from recipes.pocket.make_corpus import write_documents

STORY = (
    "Once upon a time there was a little girl named Sue. She had a big red ball. One day, Sue saw "
    'a dog in the park. "Hello, dog!" she said. They played all day and were happy number {}.'
)


def make_work(work: Path) -> Path:
    for part, numbers in (("train", range(20)), ("heldout", range(90, 94))):
        (work / part).mkdir(parents=True)
        write_documents(work / part / "tinystories.txt", [STORY.format(i) for i in numbers])
        facts = [f"The capital of Spain is Madrid, said child {i}." for i in numbers]
        write_documents(work / part / "facts.txt", facts)
    probe = dataclasses.asdict(Probe("In Spain, the capital is", "Madrid | x", "Spain"))
    (work / "probes.jsonl").write_text(json.dumps(probe) + "\n", encoding="utf-8")
    (work / "run").mkdir()
    metrics = [{"step": i, "train_loss": 5 / i} for i in range(1, 9)]
    text = "".join(json.dumps(line) + "\n" for line in metrics)
    (work / "run" / "metrics.jsonl").write_text(text, encoding="utf-8")
    return work


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SAMPLE_TOKENS", 30)


def test_everything_is_measured_and_written(
    tmp_path: Path, tiny_model_dir: Path, short: None
) -> None:
    work = make_work(tmp_path / "work")
    report = evaluate(tiny_model_dir, work, n_copies=6)
    assert json.loads((work / "evaluation.json").read_text(encoding="utf-8")) == report

    stories = [Document("", STORY.format(i)) for i in range(90, 94)]
    exact = perplexity(laplm.load(tiny_model_dir, "fp32"), stories)
    row = report["heldout"]["tinystories"]
    assert row["bits_per_byte"] == round(exact.bits_per_byte, 4)
    assert row["bytes"] == report["heldout"]["stories"]["bytes"] == exact.bytes
    assert row["kneser_ney"] < 1 < row["bits_per_byte"]  # the model is untrained
    assert row["below_best_baseline_percent"] < 0
    assert set(report["perplexity"]) == {"fp32", "int8", "int4"}
    assert report["capitals"]["right"] == 0
    assert report["samples"]["samples"] == 20
    assert report["memorisation"]["samples"] == 6
    copied = {side: report["memorisation"][side]["max_words"] for side in ("model", "heldout")}
    assert copied["heldout"] > copied["model"]
    assert len((work / "samples.txt").read_text(encoding="utf-8").split("--- ")) == 21
    assert (work / "loss_curve.png").exists()
    assert (work / "loss_curve.svg").exists()


def test_the_tables_are_whole(tmp_path: Path, tiny_model_dir: Path, short: None) -> None:
    work = make_work(tmp_path / "work")
    report = evaluate(tiny_model_dir, work, n_copies=2)
    tables = [
        [line.replace("\\|", "").count("|") for line in block.splitlines()]
        for block in (work / "evaluation.md").read_text(encoding="utf-8").split("\n\n")
        if block.startswith("|")
    ]
    assert len(tables) == 5
    assert all(len(set(table)) == 1 for table in tables)
    text = (work / "evaluation.md").read_text(encoding="utf-8")
    assert f"**{report['heldout']['facts']['bits_per_byte']:.3f}**" in text
    assert "0 of 1 right" in text
    assert "% above" in text


def test_without_a_training_run_there_is_no_picture(
    tmp_path: Path, tiny_model_dir: Path, short: None
) -> None:
    work = make_work(tmp_path / "work")
    shutil.rmtree(work / "run")
    evaluate(tiny_model_dir, work, n_copies=2)
    assert not list(work.glob("loss_curve.*"))


def test_the_command_prints_the_tables(
    tmp_path: Path,
    tiny_model_dir: Path,
    short: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = make_work(tmp_path / "work")
    monkeypatch.setattr(evaluation, "PROMPTS", ("Once",))
    assert main(["--model", str(tiny_model_dir), "--work", str(work)]) == 0
    assert capsys.readouterr().out == (work / "evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("heldout", "has no stories in it; make the corpus first"),
        ("train", "has no stories in it; make the corpus first"),
        ("probes.jsonl", "probes.jsonl is missing; make the corpus first"),
    ],
)
def test_what_is_missing_is_said_plainly(
    tmp_path: Path,
    tiny_model_dir: Path,
    missing: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = make_work(tmp_path / "work")
    path = work / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert main(["--model", str(tiny_model_dir), "--work", str(work)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_a_model_that_is_not_there_is_said_plainly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(tmp_path / "work")
    assert main(["--model", str(tmp_path / "nothing"), "--work", str(work)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_scores_are_per_source(tiny_model_dir: Path) -> None:
    lm = laplm.load(tiny_model_dir, "fp32")
    heldout = {"stories": {"tinystories": [STORY], "tinystories_more": [STORY, STORY]}}
    one, two = score_sources(lm, heldout).values()
    assert (two.documents, two.tokens, two.bytes) == (2, 2 * one.tokens, 2 * one.bytes)
    assert two.bits_per_byte == pytest.approx(one.bits_per_byte)


def test_a_group_weighs_its_sources_by_their_bytes() -> None:
    scores = {
        "tinystories": Score(1, 10, 100, 100 * math.log(2)),
        "tinystories_more": Score(3, 20, 300, 600 * math.log(2)),
        "facts": Score(1, 1, 1, 1.0),
    }
    names = (*scores, "stories")
    rows = bits_report(scores, {name: {"xz": 3.5, "ppmd": 2.5} for name in names})
    assert list(rows) == ["tinystories", "tinystories_more", "stories", "facts"]
    assert rows["stories"]["bits_per_byte"] == 1.75
    assert rows["stories"]["documents"] == 4
    assert rows["stories"]["below_best_baseline_percent"] == 30.0


def test_precisions_are_compared_on_all_tokens_together() -> None:
    scores = {
        "fp32": {"a": Score(1, 10, 0, 10.0), "b": Score(1, 30, 0, 30.0)},
        "int8": {"a": Score(1, 10, 0, 14.0), "b": Score(1, 30, 0, 30.0)},
    }
    found = precision_report(scores)
    assert found["fp32"] == {"perplexity": round(math.e, 4), "more_than_fp32_percent": 0.0}
    assert found["int8"]["more_than_fp32_percent"] == pytest.approx(100 * math.expm1(0.1), abs=1e-3)
