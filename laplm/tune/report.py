"""What a tuning changed, on one page: before and after, copies, and where the weights moved.

Written as ``report.md`` and as ``report.html``, which holds its picture, is light or dark as its
reader likes, and loads nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from laplm import html_page
from laplm.errors import InputError
from laplm.files import write_file
from laplm.metrics import METRICS
from laplm.model.chat import ChatTemplate, ControlText, encode_pieces
from laplm.model.config import ModelConfig
from laplm.model.families import tensor_specs
from laplm.model.files.checkpoint import Checkpoint
from laplm.model.tensors import TensorSpec
from laplm.model.tokenizer import Tokenizer
from laplm.progress import Progress
from laplm.tune.data.corpus import perplexity
from laplm.tune.data.read import Dataset, Example
from laplm.tune.loss_curve import loss_curve_svg
from laplm.tune.memorisation import Span, longest_copied_spans
from laplm.tune.tuning import SUMMARY, read_run, split, suitable_learning_rate
from laplm.tune_config import TuneConfig

Array = NDArray[np.float64]

_PROMPTS = 4
_SEEDS = (1, 2)
_TOKENS = 60
_PROMPT_WORDS = 6
_SPANS = 3
_MOVED = 10

Prompt = tuple[str, ...]

# Curves in Okabe and Ito's blue and vermilion, lighter on a dark ground; letters as the page's.
_STYLE = """
:root { --train: #0072b2; --heldout: #c04d00; }
@media (prefers-color-scheme: dark) { :root { --train: #56b4e9; --heldout: #e69f00; } }
/* Where the page that this one is shown in is light or dark against the system. */
@supports (color: light-dark(black, white)) {
  :root { --train: light-dark(#0072b2, #56b4e9); --heldout: light-dark(#c04d00, #e69f00); }
}
.losses { display: block; max-width: 46rem; font-size: 12px; }
.losses text { fill: currentColor; }
.losses line { stroke: currentColor; opacity: 0.2; }
.losses polyline { fill: none; stroke-width: 2; }
.losses .train { stroke: var(--train); }
.losses polyline.heldout { stroke: var(--heldout); }
.losses circle.heldout { fill: var(--heldout); }
"""


class Writer(Protocol):
    """A model that writes; ``laplm.LanguageModel`` is one."""

    name: str
    checkpoint: Checkpoint
    tokenizer: Tokenizer

    @property
    def chat_template(self) -> ChatTemplate | None:
        """Its own, which conversations are written in."""
        ...

    @property
    def generate(self) -> Callable[..., Any]:
        """From a prompt and a number of tokens to a result that has ``.text``."""
        ...


@dataclass(frozen=True)
class Sample:
    """One prompt and seed, continued by both models."""

    prompt: str
    seed: int
    before: str
    after: str


@dataclass(frozen=True)
class Moved:
    """How far weights moved, as a share of their own length before.

    Attributes:
        matrices: the names of a layer's matrices.
        layers: of each matrix of each layer, (layers, matrices).
        heads: of each head's queries, keys, values and output together, (layers, heads).
    """

    matrices: tuple[str, ...]
    layers: Array
    heads: Array


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page says.

    Attributes:
        before: the name of the model that was tuned.
        directory: where the tuned one is.
        summary: ``summary.json``.
        config: the run's settings, as they were asked for.
        resolved: the trainer's, with what went by the data and the model.
        samples: continuations by both.
        copied: the longest runs of words that samples share with the training text.
        usual: the median of such runs between the held-out and the training text, in words.
        moved: where the weights went.
    """

    before: str
    directory: Path
    summary: dict[str, Any]
    config: TuneConfig
    resolved: dict[str, Any]
    samples: list[Sample]
    copied: list[Span]
    usual: float
    moved: Moved


def make_report(
    directory: Path,
    dataset: Dataset,
    before: Writer,
    after: Writer,
    progress: Progress | None = None,
) -> Report:
    """Compare a tuned model with what it was.

    Args:
        directory: of a run that has ended.
        dataset: the data of the run.
        before: the model that was tuned.
        after: the model in ``directory``.
        progress: called with ("samples", done, in all).

    Raises:
        InputError: the run has not ended.
    """
    run = read_run(directory)
    try:
        summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"the run in {directory} has not ended; go on with it: laplm tune --resume {directory}"
        ) from None
    config: TuneConfig = run["config"]
    dataset = dataset.with_chat_template(before.chat_template)
    train, heldout = split(dataset.examples, before.tokenizer, config.heldout_share)
    samples = []
    prompts = [_prompt(example) for example in heldout[:_PROMPTS]]
    wanted = [(prompt, seed) for prompt in prompts for seed in _SEEDS]
    for done, (prompt, seed) in enumerate(wanted):
        if progress:
            progress("samples", done, len(wanted))
        texts = [
            model.generate(_ids(prompt, model.tokenizer), _TOKENS, seed=seed, slide=True).text
            for model in (before, after)
        ]
        samples.append(Sample("".join(prompt), seed, *texts))
    if progress:
        progress("samples", len(wanted), len(wanted))
    # As much of each held-out text as a sample has, so that the two can be held together.
    rest = [" ".join(e.text.split()[: 2 * _TOKENS // 3]) for e in heldout[: len(samples)]]
    spans = longest_copied_spans(
        [*(s.after for s in samples), *rest], (example.text for example in train)
    )
    copied = sorted(spans[: len(samples)], key=lambda span: -span.words)[:_SPANS]
    return Report(
        before=before.name,
        directory=directory,
        summary=summary,
        config=config,
        resolved=_resolved(run, summary, before.checkpoint.config),
        samples=samples,
        copied=copied,
        usual=float(np.median([span.words for span in spans[len(samples) :]])),
        moved=moved(before.checkpoint, after.checkpoint),
    )


def _resolved(run: dict[str, Any], summary: dict[str, Any], sizes: ModelConfig) -> dict[str, Any]:
    """The trainer's settings; a run of an earlier version has not written them down."""
    if "resolved" in run:
        return dict(run["resolved"])
    config: TuneConfig = run["config"]
    rate = config.learning_rate or suitable_learning_rate(config.method, sizes.n_embd)
    window = config.n_positions or min(256, sizes.n_ctx)
    return {"learning_rate": rate, "max_steps": summary["steps"], "n_positions": window}


def matrices(config: ModelConfig, layer: int) -> list[TensorSpec]:
    """The matrices of a layer's linear layers, in the order of the checkpoint."""
    return [s for s in tensor_specs(config).values() if s.is_linear and s.layer == layer]


def moved(before: Checkpoint, after: Checkpoint) -> Moved:
    """How far each matrix and each head went from one model to the other, of the same sizes."""
    config = before.config
    specs = matrices(config, 0)
    layers = np.zeros((config.n_layer, len(specs)))
    heads = np.zeros((config.n_layer, config.n_head))
    for layer in range(config.n_layer):
        specs = matrices(config, layer)
        ours = [before.tensor(spec.name) for spec in specs]
        change = [after.tensor(s.name) - matrix for s, matrix in zip(specs, ours, strict=True)]
        layers[layer] = [_share(d, m) for d, m in zip(change, ours, strict=True)]
        for head in range(config.n_head):
            mine = slice(head * config.head_dim, (head + 1) * config.head_dim)
            parts = [_head_weights(qkv, out, mine) for qkv, out in (change[:2], ours[:2])]
            heads[layer, head] = _share(*parts)
    return Moved(tuple(spec.kind for spec in specs), layers, heads)


def _head_weights(qkv: Any, out: Any, mine: slice) -> Any:
    """The rows of one head's queries, keys, values and output, (4 D, C)."""
    return np.concatenate([*(part[:, mine].T for part in np.split(qkv, 3, axis=1)), out[mine]])


def write_report(report: Report) -> list[Path]:
    """Write ``report.md`` and ``report.html`` into the run's directory.

    Raises:
        WriteError: the disk is full or cannot be written.
    """
    paths = [report.directory / "report.md", report.directory / "report.html"]
    write_file(paths[0], _markdown(report).encode())
    write_file(paths[1], _html(report).encode())
    return paths


def _prompt(example: Example) -> Prompt:
    """What comes before the answer, or the first words of a text, in pieces."""
    context = tuple(text for text, _ in itertools.takewhile(lambda p: not p[1], example.pieces))
    return context or (example.first_words(_PROMPT_WORDS),)


def _ids(prompt: Prompt, tokenizer: Tokenizer) -> str | list[int]:
    """What a model is given: a conversation's control tokens are single tokens."""
    if any(isinstance(text, ControlText) for text in prompt):
        return encode_pieces(prompt, tokenizer)
    return "".join(prompt)


def _share(change: Any, matrix: Any) -> float:
    length = float(np.linalg.norm(matrix))
    return float(np.linalg.norm(change)) / length if length else 0.0


# --- the page ---------------------------------------------------------------------------------


def _figures(report: Report) -> list[tuple[str, str]]:
    s = report.summary
    rows = [
        (
            "perplexity (as unsure as if it chose among so many tokens)",
            f"{perplexity(s['loss_before']):.2f}", f"{perplexity(s['loss_after']):.2f}",
        ),
        (
            "loss (its logarithm: nats a token)",
            f"{s['loss_before']:.4f}", f"{s['loss_after']:.4f}",
        ),
        (
            "bits a byte (to store the text with it; the same measure for every model)",
            f"{s['bits_before']:.4f}", f"{s['bits_after']:.4f}",
        ),
    ]  # fmt: skip
    return [(f"held-out text, {name}", f"{a} before, {b} after") for name, a, b in rows] + [
        ("steps", f"{s['steps']:,}; kept: {s['best_step']:,}, the best on held-out text"),
        ("time in steps", f"{s['seconds']:.0f} s"),
        ("memory at the peak", f"{s['peak_bytes'] / 1e9:.2f} GB" if s["peak_bytes"] else "unknown"),
    ]


def _sentence(report: Report) -> str:
    """What the tuning changed, in one sentence."""
    s = report.summary
    before, after = perplexity(s["loss_before"]), perplexity(s["loss_after"])
    how = "fell" if after < before else "did not fall:"
    i, j = np.unravel_index(np.argmax(report.moved.heads), report.moved.heads.shape)
    longest = report.copied[0].words if report.copied else 0
    return (
        f"Held-out perplexity {how} from {before:.2f} to {after:.2f} in {s['steps']:,} steps "
        f"({s['seconds']:.0f} s); head {i}.{j} moved most, by {report.moved.heads[i, j]:.2%} of "
        "its length, and the longest passage that a sample shares with the training text has "
        f"{longest} words."
    )


_RESOLVED = ("learning_rate", "max_steps", "n_positions", "warmup_steps", "precision")
_LABELS = {"n_positions": "window, in tokens", "max_steps": "steps at most"}


def _settings(report: Report) -> list[tuple[str, str]]:
    """Settings as the run had them: what was left open is what it came to."""
    values = dataclasses.asdict(report.config)
    lora = values.pop("lora")
    values |= {name: report.resolved[name] for name in _RESOLVED if name in report.resolved}
    if report.config.max_steps is not None:
        del values["epochs"]  # the steps were given
    if report.config.method == "lora":
        values |= {f"lora {name}": value for name, value in lora.items()}
    return [(_LABELS.get(name, name.replace("_", " ")), _shown(v)) for name, v in values.items()]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _moved_rows(report: Report) -> tuple[list[list[str]], list[str]]:
    rows = [
        [str(layer), *(f"{share:.2%}" for share in shares)]
        for layer, shares in enumerate(report.moved.layers)
    ]
    order = np.argsort(-report.moved.heads, axis=None)[:_MOVED]
    places = (np.unravel_index(i, report.moved.heads.shape) for i in order)
    heads = [f"head {i}.{j} {report.moved.heads[i, j]:.2%}" for i, j in places]
    return rows, heads


def _copied_text(report: Report) -> str:
    longest = report.copied[0].words if report.copied else 0
    return (
        f"The longest run of words that a sample shares with the training text has {longest} "
        f"words; held-out text of the same length usually shares {report.usual:.0f}."
    )


def _markdown(report: Report) -> str:
    rows, heads = _moved_rows(report)
    out = [f"# {report.before}, tuned", "", _sentence(report), "", "## Before and after", ""]
    out += _md_table(["what", "value"], _figures(report))
    if (report.directory / "loss_curve.png").exists():
        out += ["", "![Loss over the steps](loss_curve.png)"]
    for sample in report.samples:
        out += ["", f"### {_line(sample.prompt)} (seed {sample.seed})", ""]
        out += ["before:", "", *_verses(sample.before), "", "after:", "", *_verses(sample.after)]
    out += ["", "## Copied from the training text", "", _copied_text(report), ""]
    out += [f"- {span.words} words: {_line(span.text)}" for span in report.copied]
    out += ["", "## Where the weights moved", ""]
    out += _md_table(["layer", *report.moved.matrices], rows)
    out += ["", "Each as a share of its own length. Heads that moved most: " + ", ".join(heads)]
    out += ["", "## Settings", ""]
    out += _md_table(["setting", "value"], _settings(report))
    return "\n".join(out) + "\n"


def _verses(text: str) -> list[str]:
    """Quoted, each line a line."""
    lines = text.strip("\n").split("\n")
    return [f"> {_line(line)}" + "\\" * (i < len(lines) - 1) for i, line in enumerate(lines)]


def _line(text: str) -> str:
    """On one line, with nothing that Markdown would take for its own."""
    text = " ".join(text.split())
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|" else c for c in text)


def _md_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _html(report: Report) -> str:
    rows, heads = _moved_rows(report)
    curve = loss_curve_svg(report.directory / METRICS)
    legend = (
        "Blue: training loss; orange: loss on held-out text. Both in nats a token: how much the "
        "next token surprises the model, on average; lower is better."
    )
    body = [
        html_page.paragraph(_sentence(report)),
        html_page.heading("Before and after"),
        html_page.table(["what", "value"], _figures(report)),
        curve,
        html_page.paragraph(legend if curve else ""),
        *(
            html_page.beside(
                f"{' '.join(s.prompt.split())} … (seed {s.seed})",
                [("before", s.before.strip("\n")), ("after", s.after.strip("\n"))],
            )
            for s in report.samples
        ),
        html_page.heading("Copied from the training text"),
        html_page.paragraph(_copied_text(report)),
        html_page.bullets([f"{span.words} words: {span.text}" for span in report.copied]),
        html_page.heading("Where the weights moved"),
        html_page.table(["layer", *report.moved.matrices], rows),
        html_page.paragraph(
            f"Each as a share of its own length. Heads that moved most: {', '.join(heads)}"
        ),
        html_page.heading("Settings"),
        html_page.table(["setting", "value"], _settings(report)),
    ]
    return html_page.page(f"{report.before}, tuned", "\n".join(body), style=_STYLE)
