"""Any view of the registry, with whatever it must be given; and what each one's sentence is."""

from __future__ import annotations

import re
from typing import Any

from laplm.look.registry import Parameter, ViewEntry
from laplm.look.view import View
from laplm.run.language_model import LanguageModel

TEXT = "The capital of Spain is"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "nearest": {"expression": "king - man + woman"}, "without": {"without": ["head:0.0"]},
    "patch": {"clean": TEXT, "corrupted": "The capital of France is"},
    "patched": {"clean": TEXT, "corrupted": "The capital of France is", "layer": 0,
                "positions": [3]},
    "neuron": {"unit": "0.1"}, "circuit": {"keep": 0.5},  # the fewest edges: soon found
    "steer": {"text": TEXT, "towards": " happy", "away_from": " sad"},
}  # fmt: skip
TEMPLATE = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
FEW_TOKENS = {"max_new_tokens": 2}


def make_view(entry: ViewEntry, model: LanguageModel, prompt: str, **more: Any) -> View:
    """A view of a prompt; ``more`` are arguments by name."""
    names = [p.name for p in entry.parameters]
    given = ARGUMENTS.get(entry.name, {})
    needed: list[Parameter] = [p for p in entry.parameters if p.required and p.name not in given]
    given = {p.name: model if p.kind == "model" else prompt for p in needed} | given | more
    given |= {name: value for name, value in FEW_TOKENS.items() if name in names}
    view: View = entry.load()(model, **given)
    return view


def check_sentence(view: View) -> str:
    """Its sentence: one, with numbers."""
    said = view.sentence()
    assert said.endswith(".") and ". " not in said.replace(". The” ", ""), "one sentence"
    assert re.search(r"\d", said) and "nan" not in said and "\n" not in said, said
    assert len(said) < 400, said
    return said
