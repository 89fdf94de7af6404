"""What was measured, as tables for the model card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recipes.pocket.baseline import METHODS


def as_markdown(report: dict[str, Any]) -> str:
    """The report of ``evaluate`` as Markdown."""
    sections = (
        _heldout(report),
        _precisions(report["perplexity"]),
        _capitals(report["capitals"]),
        _samples(report["samples"]),
        _memorisation(report["memorisation"]),
    )
    return "\n\n".join(sections) + "\n"


def _heldout(report: dict[str, Any]) -> str:
    model = report["model"]
    rows = []
    for name, row in report["heldout"].items():
        # A group's line follows its sources'.
        below = row["below_best_baseline_percent"]
        mark = "**" if name == row["group"] else ""
        rows.append(
            (
                f"{mark}{name}{mark}",
                f"{row['documents']:,}",
                f"{row['bytes']:,}",
                f"**{row['bits_per_byte']:.3f}**",
                *(f"{row[method]:.3f}" for method in METHODS),
                f"{abs(below):.1f} % {'below' if below >= 0 else 'above'}",
            )
        )
    header = (
        "held-out text", "documents", "bytes", "pocket", *METHODS, "pocket, to the best of them",
    )  # fmt: skip
    return "\n\n".join(
        (
            "### Held-out text, bits per byte",
            _table(header, rows),
            f"fp32, as `laplm eval --window {model['window']}` scores a directory with one file a "
            f"document: stride {model['stride']}, the first token of each not scored nor its bytes "
            "counted. Lines in bold letters are the sources above them together.",
            "\n".join(f"- `{name}`: {text}" for name, text in METHODS.items()),
            "Each baseline has read the training text of the same group. The n-grams are scored on "
            "the same tokens as the model; xz and PPMd pay for every byte, and for a line end "
            "after each document, which counts as a byte; they go on learning from the held-out "
            "documents before, which tells where many are alike, as among the facts.",
        )
    )


def _precisions(precisions: dict[str, Any]) -> str:
    rows = [
        (name, f"{row['perplexity']:.3f}", f"{row['more_than_fp32_percent']:+.2f} %")
        for name, row in precisions.items()
    ]
    return "### Precision\n\n" + _table(
        ("precision", "perplexity per token, all held-out text", "against fp32"), rows
    )


def _capitals(capitals: dict[str, Any]) -> str:
    talk = capitals["talk"]
    lines = [
        "### Capitals",
        f"{capitals['right']} of {capitals['asked']} right: greedy, int8, asked in wordings that "
        "the training text does not have.",
        f"`{talk['prompt']}` goes on `{_one_line(talk['said'])}`.",
    ]
    if capitals["misses"]:
        rows = [
            (f"`{miss['prompt']}`", miss["answer"], f"`{_one_line(miss['said'])}`")
            for miss in capitals["misses"]
        ]
        lines.append(_table(("prompt", "answer", "said"), rows))
    return "\n\n".join(lines)


def _samples(samples: dict[str, Any]) -> str:
    repeated = samples["most_repeated_sentence"]
    unknown = ", ".join(samples["unknown_words"]) or "none"
    return "\n\n".join(
        (
            "### Samples",
            f"{samples['samples']} samples of {samples['tokens']} tokens, temperature "
            f"{samples['temperature']}, int8, other settings as `laplm run` has them; "
            f"{samples['words']:,} words.",
            _table(
                ("", ""),
                (
                    ("words in an English word list", f"{samples['in_word_list_percent']:.1f} %"),
                    (
                        "or names in the training text",
                        f"{samples['in_word_list_or_names_percent']:.1f} %",
                    ),
                    ("the others", unknown),
                    (
                        "samples that say a sentence three times",
                        str(samples["with_a_sentence_three_times"]),
                    ),
                    (
                        "most repeated sentence",
                        f'{repeated["times"]} times: "{_one_line(repeated["sentence"])}"',
                    ),
                ),
            ),
        )
    )


def _memorisation(found: dict[str, Any]) -> str:
    model, heldout = found["model"], found["heldout"]
    rows = [
        (label, f"{model[name]:g}{unit}", f"{heldout[name]:g}{unit}")
        for label, name, unit in (
            ("median", "median_words", " words"),
            ("longest", "max_words", " words"),
            ("median", "median_characters", " characters"),
            ("longest", "max_characters", " characters"),
            ("share with more than 20 words", "over_20_words_percent", " %"),
            ("share with more than 50 words", "over_50_words_percent", " %"),
        )
    ]
    return "\n\n".join(
        (
            "### Memorisation",
            f"The longest run of words that each of {found['samples']} samples shares with a "
            "document of the training text; case, punctuation and white space make no difference. "
            f"The samples go on from the first {found['prompt_words']} words of held-out stories, "
            "which are not counted; beside them the stories' own continuations, cut to the same "
            "number of words.",
            _table(("copied run", "samples", "held-out stories"), rows),
            f'The longest one in a sample: "{_one_line(model["longest"])}"',
        )
    )


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (header, tuple("---" for _ in header), *rows)
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in cells)


def _one_line(text: str) -> str:
    return " ".join(text.split())
