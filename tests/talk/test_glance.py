"""Models at a glance: what their files say, and of known ones what their makers said."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import laplm
from laplm import built_in
from laplm.hub.known import KNOWN
from laplm.model.config import NAMED_SIZES
from laplm.talk import glance


def test_every_known_model_has_a_maker_a_date_and_its_texts() -> None:
    facts = glance._facts()
    assert list(facts) == list(KNOWN)
    for name, said in facts.items():
        assert set(said) == {"maker", "released", "trained_on", "source"}, name
        assert all(said.values()) and said["source"].startswith("https://"), name


def test_sizes_are_said_as_people_say_them() -> None:
    assert [glance.short(n) for n in (500, 6_180_864, 124_439_808, 1_557_611_200, 2 * 10**12)] == [
        "500", "6.18 million", "124 million", "1.56 billion", "2 trillion",
    ]  # fmt: skip


def test_the_built_in_model_says_what_its_files_say(pocket: laplm.LanguageModel) -> None:
    seen = glance.of(pocket)
    assert seen.parameters == "6,180,864" and seen.inside == "6 blocks of 8 heads, 256 wide"
    assert "children's stories" in seen.trained_on and "MB on disk, in fp16" in seen.used
    card = (built_in.DIRECTORY / built_in.CARD).read_text(encoding="utf-8")
    texts = re.findall(r"^\| `\w+` \|.*?\| ([\d.]+) MB \|", card, re.MULTILINE)
    assert f": {round(sum(map(float, texts)))} MB of text" in seen.trained_on


def test_a_model_that_nobody_knows_says_so(tiny_model_dir: Path) -> None:
    seen = glance.of(laplm.load(str(tiny_model_dir)))
    assert seen.name == tiny_model_dir.name
    unknown = {seen.maker, seen.released, seen.trained_on, seen.sizes}
    assert unknown == {"its files do not say"}


@pytest.mark.parametrize(
    ("name", "parameters", "known"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", KNOWN["smollm2"].n_parameters, "smollm2"),
        ("smollm2-135m-instruct", KNOWN["smollm2"].n_parameters, "smollm2"),
        ("gpt2", NAMED_SIZES["gpt2"].n_parameters, "gpt2"),
        ("gpt2", 12_345, None),  # another one of the same name
        ("letters", NAMED_SIZES["gpt2"].n_parameters, None),  # tuned, say: other texts
    ],
)
def test_known_models_are_known_wherever_they_lie(
    name: str, parameters: int, known: str | None
) -> None:
    lm = SimpleNamespace(
        path=Path("/models") / name, config=SimpleNamespace(n_parameters=parameters)
    )
    found = glance._known(lm)  # type: ignore[arg-type]
    assert (found.name if found else None) == known


def test_other_sizes_of_the_same_kind_are_told() -> None:
    assert glance._relatives(KNOWN["gpt2"]) == "124M · 355M · 774M · 1.56B"
    assert glance._relatives(KNOWN["pythia-160m"]) == "only this one"
