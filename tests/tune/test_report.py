from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from laplm.errors import InputError
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.run.language_model import LanguageModel
from laplm.tune.data.read import Dataset, Example
from laplm.tune.report import _prompt, _verses, make_report, moved, write_report
from laplm.tune.tuning import fine_tune
from laplm.tune_config import TuneConfig

CONFIG = TuneConfig(max_steps=3, batch_size=2, n_positions=32, evaluations=1)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    examples = [Example(((f"The dog | number {i} <saw> the cat.", True),)) for i in range(30)]
    return Dataset(
        examples=tuple(examples), kind="documents", files=(), n_bytes=900, skipped=(),
        chat_template=None,
    )  # fmt: skip


def test_weights_that_moved_are_told_by_layer_and_head(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    before = open_checkpoint(tiny_model_dir)
    tensors = {name: before.tensor(name).copy() for name in before.names}
    width = before.config.head_dim
    c = before.config.n_embd
    for part in range(3):  # queries, keys and values of head 2
        tensors["h.1.attn.c_attn.weight"][:, part * c + 2 * width : part * c + 3 * width] *= 1.1
    tensors["h.1.attn.c_proj.weight"][2 * width : 3 * width] *= 1.1
    tensors["h.2.mlp.c_fc.weight"] *= 0.8
    save_checkpoint(tmp_path, before.config, tensors)
    found = moved(before, open_checkpoint(tmp_path))
    expected = np.zeros_like(found.heads)
    expected[1, 2] = 0.1
    np.testing.assert_allclose(found.heads, expected, atol=1e-6)
    assert found.layers[2, 2] == pytest.approx(0.2)
    assert found.layers[0].tolist() == [0, 0, 0, 0]
    assert found.layers[1, 0] > 0 == found.layers[1, 3]


def test_copies_of_the_training_text_are_shown(
    tiny_model_dir: Path, tmp_path: Path, dataset: Dataset
) -> None:
    model = LanguageModel(tiny_model_dir, "fp32")
    fine_tune(dataset, model, tmp_path / "out", CONFIG)

    class Parrot:
        name, checkpoint, tokenizer = "parrot", model.checkpoint, model.tokenizer

        def generate(self, prompt: Any, n: Any = None, **options: Any) -> Any:
            return SimpleNamespace(text=" and the dog number 7 saw the cat once more")

    report = make_report(tmp_path / "out", dataset, model, Parrot())
    assert report.copied[0].words >= 5
    assert report.copied[0].text.startswith("the dog number 7 saw the cat")
    assert {s.seed for s in report.samples} == {1, 2}
    assert report.samples[0].before == model.generate(report.samples[0].prompt, 60, seed=1).text
    markdown, page = (path.read_text() for path in write_report(report))
    assert "The dog \\| number" in markdown
    assert "&lt;saw&gt;" in page and "<saw>" not in page
    assert f"{report.summary['loss_after']:.4f}" in markdown
    # The figures first; settings as they were; curves in the page's own colours.
    before, after = (math.exp(report.summary[key]) for key in ("loss_before", "loss_after"))
    first = f"Held-out perplexity fell from {before:.2f} to {after:.2f} in 3 steps"
    assert markdown.split("\n")[2].startswith(first) and page.index(first) < page.index("<h2>")
    rate = report.resolved["learning_rate"]
    assert rate == pytest.approx(2e-4 * 768 / model.config.n_embd)
    assert f"| learning rate | {rate:.4g} |" in markdown and f"<td>{rate:.4g}</td>" in page
    assert "| None |" not in markdown and ">None<" not in page
    assert "prefers-color-scheme: dark" in page and "fill: currentColor" in page
    assert page.count("<circle") == 1 and "<img" not in page
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    del run["resolved"]  # of an earlier version
    (tmp_path / "out" / "run.json").write_text(json.dumps(run))
    again = make_report(tmp_path / "out", dataset, model, Parrot())
    for name, value in again.resolved.items():
        assert report.resolved[name] == value, name


def test_verses_keep_their_lines() -> None:
    verses = "Hey diddle diddle,\nthe cat and the\tfiddle, <b>\nthe cow"
    (prompt,) = _prompt(Example(((f"\n{verses} jumped.", True),)))
    assert prompt == "Hey diddle diddle,\nthe cat and"
    assert _verses(verses) == [
        "> Hey diddle diddle,\\", "> the cat and the fiddle, \\<b\\>\\", "> the cow",
    ]  # fmt: skip
    assert _prompt(Example((("one", True),))) == ("one",)


def test_a_prompt_is_what_was_given_to_the_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = LanguageModel(tiny_model_dir, "fp32")
    examples = tuple(Example(((f"Say {i}:", False), (" the dog", True))) for i in range(20))
    data = Dataset(
        examples=examples, kind="prompts", files=(), n_bytes=9, skipped=(), chat_template=None
    )
    fine_tune(data, model, tmp_path / "out", dataclasses.replace(CONFIG, method="lora"))
    report = make_report(tmp_path / "out", data, model, LanguageModel(tmp_path / "out", "fp32"))
    assert all(s.prompt.startswith("Say ") and s.prompt.endswith(":") for s in report.samples)


def test_a_run_that_has_not_ended_has_no_report(
    tiny_model_dir: Path, tmp_path: Path, dataset: Dataset
) -> None:
    model = LanguageModel(tiny_model_dir, "fp32")
    fine_tune(dataset, model, tmp_path / "out", CONFIG)
    (tmp_path / "out" / "summary.json").unlink()
    with pytest.raises(InputError, match="has not ended; go on with it"):
        make_report(tmp_path / "out", dataset, model, model)
