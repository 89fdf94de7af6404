from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from laplm.errors import InputError
from laplm.run.language_model import LanguageModel
from recipes.pocket.capitals import ask_capitals, begins_with, read_probes
from recipes.pocket.facts import Probe

SPAIN = Probe("The capital city of Spain is called", "Madrid", "Spain")


@pytest.mark.parametrize(
    ("continuation", "answer", "right"),
    [
        (" Madrid.", "Madrid", True),
        (" Madrid", "Madrid", True),
        (" Washington, D.C. is", "Washington, D.C.", True),
        (" Madrids", "Madrid", False),
        ("Madrid.", "Madrid", False),
        (" the city of Madrid", "Madrid", False),
        (" madrid", "Madrid", False),
        ("", "Madrid", False),
    ],
)
def test_an_answer_comes_first_and_whole(continuation: str, answer: str, right: bool) -> None:
    assert begins_with(continuation, answer) is right


def test_probes_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text(f"{json.dumps(dataclasses.asdict(SPAIN))}\n", encoding="utf-8")
    assert read_probes(path) == [SPAIN]


def test_missing_or_damaged_probes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    with pytest.raises(InputError, match=r"probes\.jsonl is missing; make the corpus"):
        read_probes(path)
    for line in ("{", "[]", '{"prompt": "x"}'):
        path.write_text(f"{json.dumps(dataclasses.asdict(SPAIN))}\n{line}\n", encoding="utf-8")
        with pytest.raises(InputError, match="line 2: not a prompt"):
            read_probes(path)


def test_right_answers_are_counted_and_others_shown(pocket: LanguageModel) -> None:
    probes = [Probe("Once upon a", "time", ""), Probe("Once upon a", "Tokyo", "Japan")]
    found = ask_capitals(pocket, probes)
    assert (found["asked"], found["right"]) == (2, 1)
    (miss,) = found["misses"]
    assert miss["answer"] == "Tokyo"
    assert miss["said"].startswith(" time")
    expected = pocket.generate(found["talk"]["prompt"], 3, temperature=0.0).text
    assert found["talk"]["said"].startswith(expected)
