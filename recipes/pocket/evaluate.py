"""Step 5: measure the model directory as it is shipped, with the engine that runs it."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import progress as bars
from rich.console import Console

import laplm
from laplm.errors import InputError, LaplmError
from laplm.model.engine.quantize import Precision
from laplm.run.evaluate import Progress
from laplm.tune.loss_curve import draw_loss_curve
from recipes.pocket.baseline import baselines, read_groups
from recipes.pocket.capitals import ask_capitals, read_probes
from recipes.pocket.heldout import bits_report, precision_report, score_sources
from recipes.pocket.make_corpus import write_text
from recipes.pocket.memorisation import N_SAMPLES, copying
from recipes.pocket.report import as_markdown
from recipes.pocket.samples import PROMPTS, draw, samples_report, show

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4")  # those that are compared


def evaluate(model_dir: Path, work: Path, *, n_copies: int = N_SAMPLES) -> dict[str, Any]:
    """Measure the model in ``model_dir`` on what ``make_corpus`` wrote to ``work``.

    Bits per byte are those of fp32. Everything that is generated is what int8 gives, since
    ``laplm run`` takes it when nothing else is asked for.

    Args:
        model_dir: a model directory, as ``pack`` writes it.
        work: has ``heldout/``, ``train/`` and ``probes.jsonl``. Written there:
            ``evaluation.json`` (what is returned), ``evaluation.md`` (the same for the model
            card), ``samples.txt``, ``baselines.json`` and, with ``run/metrics.jsonl`` there,
            ``loss_curve.png`` and ``.svg``.
        n_copies: samples that are searched for copies of the training text.

    Raises:
        InputError: ``work`` has not what is needed.
        LaplmError: the model cannot be loaded.
    """
    heldout, train = read_groups(work / "heldout"), read_groups(work / "train")
    for name, groups in (("heldout", heldout), ("train", train)):
        if "stories" not in groups:
            raise InputError(f"{work / name} has no stories in it; make the corpus first")
    stories = [text for documents in heldout["stories"].values() for text in documents]
    texts = [text for group in train.values() for part in group.values() for text in part]
    probes = read_probes(work / "probes.jsonl")
    with _progress() as progress:
        models = {precision: laplm.load(model_dir, precision) for precision in PRECISIONS}
        lm = models["int8"]
        bits = baselines(work, lm.tokenizer, progress)
        scores = {name: score_sources(model, heldout, progress) for name, model in models.items()}
        samples = [
            sample for seed, prompt in enumerate(PROMPTS) for sample in draw(lm, prompt, seed=seed)
        ]
        report: dict[str, Any] = {
            "model": {
                "parameters": lm.config.n_parameters,
                "vocab_size": lm.config.vocab_size,
                "window": lm.config.n_ctx,
                "stride": lm.config.n_ctx // 2,
            },
            "heldout": bits_report(scores["fp32"], bits),
            "perplexity": precision_report(scores),
            "capitals": ask_capitals(lm, probes),
            "samples": samples_report(samples, texts),
            "memorisation": copying(lm, stories, texts, n_copies, progress),
        }
    write_text(work / "samples.txt", show(samples) + "\n")
    write_text(work / "evaluation.json", json.dumps(report, indent=2) + "\n")
    write_text(work / "evaluation.md", as_markdown(report))
    if (work / "run" / "metrics.jsonl").exists():
        draw_loss_curve(
            work / "run" / "metrics.jsonl",
            [work / "loss_curve.png", work / "loss_curve.svg"],
            f"pocket: {lm.config.n_parameters / 1e6:.1f} million parameters",
        )
    return report


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Bars on standard error, one for each thing that takes time."""
    with bars.Progress(
        bars.SpinnerColumn(),
        *bars.Progress.get_default_columns(),
        bars.TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as shown:
        tasks: dict[str, bars.TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total)
            shown.update(tasks[what], completed=done)

        yield report


def main(argv: list[str] | None = None) -> int:
    """Measure a model directory and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m recipes.pocket.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument(
        "--work", type=Path, required=True, help="directory of the recipe's work files"
    )
    args = parser.parse_args(argv)
    try:
        sys.stdout.write(as_markdown(evaluate(args.model, args.work)))
    except (LaplmError, OSError) as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
