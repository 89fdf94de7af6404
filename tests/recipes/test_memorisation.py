from __future__ import annotations

from pathlib import Path

import pytest

from laplm.errors import InputError
from laplm.run.language_model import LanguageModel
from recipes.pocket import samples
from recipes.pocket.memorisation import copying

STORY = "Tim had a big red ball and he ran to the park with it. " * 2 + "He was happy. The end."


def test_a_copied_story_is_noticed_beside_samples_that_are_not(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "SAMPLE_TOKENS", 40)
    lm = LanguageModel(tiny_model_dir, "fp32", threads=1)
    found = copying(lm, ["too short", STORY, f"Once, {STORY}"], [STORY], n_samples=5)
    assert found["samples"] == 5
    assert found["model"]["max_words"] < found["heldout"]["max_words"]
    assert "ran to the park with it. Tim had" in found["heldout"]["longest"]
    assert found["heldout"]["longest"] in STORY
    assert found["heldout"]["max_characters"] == len(found["heldout"]["longest"])


def test_stories_too_short_to_continue_are_refused(tiny_model_dir: Path) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32", threads=1)
    with pytest.raises(InputError, match="hold out more text"):
        copying(lm, ["too short"], [STORY])
