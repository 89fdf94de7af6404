"""Every option of ``laplm look`` that takes a number, with numbers that nobody should give it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from calling import refused

from laplm.cli import look as module
from laplm.cli.main import make_parser
from laplm.run.language_model import LanguageModel

TEXT = "The capital of Spain is"
OTHER = "The capital of France is"
# A line for each way in which a view computes; options that it does not take are refused.
LINES = [
    "stats", f"tokens '{TEXT}'", "embeddings --nearest king", "embeddings king queen", "positions",
    "positions --order", f"block '{TEXT}'", f"block '{TEXT}' --all", f"attention '{TEXT}'",
    f"attention '{TEXT}' --layer 1", "attention --kinds", f"next '{TEXT}'", f"inside '{TEXT}'",
    f"lens '{TEXT}'", f"attribution '{TEXT}'", f"ablate '{TEXT}' --parts layers",
    f"ablate '{TEXT}' --without head:1.1 -n 2", f"patch '{TEXT}' '{OTHER}'",
    f"patch '{TEXT}' '{OTHER}' --layer 1 --position 1 -n 2", f"trace '{TEXT}' --name z",
    f"steer '{TEXT}' ' happy' ' sad' -n 2", f"compare tiny tiny '{TEXT}'",
    f"generation '{TEXT}' -n 2",
]  # fmt: skip
WHOLE = ["-1", "0", str(10**6), str(10**30), "nan", "٣"]
NUMBERS = [*WHOLE, "-inf", "1e400"]
EVERYWHERE = {"--rows": "stats", "--threads": None}  # the same for each view


def cases() -> list[tuple[str, str, list[str]]]:
    looks = make_parser()._subparsers._group_actions[0].choices["look"]
    views = looks._subparsers._group_actions[0].choices
    return [
        (line, action.option_strings[0], WHOLE if action.type is int else NUMBERS)
        for line in LINES for action in views[line.split()[0]]._actions
        if action.type in (int, float)
        and EVERYWHERE.get(action.option_strings[0], line) == line
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, "fp32")


@pytest.mark.parametrize(("line", "option", "numbers"), cases())
def test_a_number_gives_an_answer_or_one_plain_line(
    laplm_: Callable[..., SimpleNamespace],
    tiny: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    option: str,
    numbers: list[str],
) -> None:
    monkeypatch.setattr(module, "open_model", lambda *_: tiny)
    for number in numbers:
        result = laplm_("look", *shlex.split(line), f"{option}={number}")
        if result.code != 0:
            refused(result)
        else:
            assert math.isfinite(float(number)), f"{option} {number}"
            assert result.out and "Traceback" not in result.err


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("embeddings king queen", "-k 3"), ("positions", "-k 3"), ("positions", "--ending '. A'"),
        (f"block '{TEXT}' --all", "--layer 1"), (f"block '{TEXT}' --all", "--position 0"),
        ("attention --kinds", "--layer 0"), ("attention --kinds", "--head 0"),
        (f"ablate '{TEXT}'", "-n 3"), (f"ablate '{TEXT}'", "--seed 2"),
        (f"ablate '{TEXT}' --without head:1.1", "--layer 1"),
        (f"ablate '{TEXT}' --without head:1.1", "--parts layers"),
        (f"ablate '{TEXT}' --without head:1.1", "--target ' a'"),
        (f"patch '{TEXT}' '{OTHER}'", "--temperature 1"),
        (f"patch '{TEXT}' '{OTHER}'", "--top-k 1"),
        (f"patch '{TEXT}' '{OTHER}' --layer 1 --position 1", "--contrast ' a'"),
    ],
)  # fmt: skip
def test_an_option_that_would_change_nothing_is_refused(
    laplm_: Callable[..., SimpleNamespace],
    tiny: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    option: str,
) -> None:
    monkeypatch.setattr(module, "open_model", lambda *_: tiny)
    result = laplm_("look", *shlex.split(line), *shlex.split(option))
    refused(result, f"{option.split()[0]} changes nothing with")
