"""The search for a circuit: what it opens, and that it goes on until enough is kept.

That no edge of what it finds can be spared is in ``views/test_circuit``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from laplm import look
from laplm.look import circuit_search
from laplm.run.language_model import LanguageModel


def test_more_parts_are_opened_until_enough_is_kept(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_search, "_OPENED", 2)
    model = LanguageModel(str(tiny_model_dir), "fp32")
    options: dict[str, Any] = {"corrupted": "Once upon a girl", "keep": 1.0}
    few = look.circuit(model, "Once upon a time", **options | {"keep": 0.01})
    assert few.n_opened == 2 and few.kept >= 0.01
    found = look.circuit(model, "Once upon a time", **options)
    assert found.n_opened > 2 and found.n_opened % 2 == 0
