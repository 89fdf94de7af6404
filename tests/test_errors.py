"""How messages are worded: parameters by other names, what a terminal would obey, near misses."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laplm.errors import ContextLengthError, InputError, did_you_mean, format_bytes, visible


@given(st.text())
@settings(max_examples=50)
def test_visible_text_controls_no_terminal_and_text_without_controls_stays(text: str) -> None:
    shown = visible(text)
    for character in shown:
        assert unicodedata.category(character) != "Cc" or character in "\t\n"
        assert unicodedata.bidirectional(character) not in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"
        )  # fmt: skip
    if all(unicodedata.category(c)[0] in "LNPSM" or c in " \t\n" for c in text):
        assert shown == text


def test_what_is_hidden_is_written_as_python_writes_it() -> None:
    assert visible("a\x1b[2J\x9b\x7f\r\u202eb\u2066\u2028") == (
        r"a\x1b[2J\x9b\x7f\x0d\u202eb\u2066\u2028"
    )
    # Joined emoji and Persian need the joiners that they are written with.
    assert visible("👩‍👧 می‌خواهم") == "👩‍👧 می‌خواهم"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("top_k is -1, but it must be 0"), "--top-k is -1, but it must be 0"),
        (InputError("learning rate is 9, but"), "--learning-rate is 9, but"),
        (InputError("the top_k is -1"), "the top_k is -1"),
        (InputError("'top_k is' no name"), "'top_k is' no name"),
        (InputError("window is 3"), "window is 3"),
        (ContextLengthError("less, or turn on slide", "slide"), "less, or turn on --slide"),
        (InputError("landslide: turn on slide.", "slide"), "landslide: turn on --slide."),
    ],
)  # fmt: skip
def test_parameters_are_named_as_the_caller_knows_them(error: InputError, text: str) -> None:
    names = {"top_k": "--top-k", "slide": "--slide", "learning_rate": "--learning-rate"}
    assert error.with_parameter_names(names) == text


def test_a_near_miss_is_told_and_nothing_else() -> None:
    assert did_you_mean("runn", ["run", "tune", "look"]) == ". Did you mean run?"
    assert did_you_mean("gpt", ["gpt2", "gpt2-xl", "tune"]) == ". Did you mean gpt2 or gpt2-xl?"
    assert did_you_mean("xyz", ["run", "tune"]) == ""


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0.0 kB"), (3_400, "3.4 kB"), (36_149_000, "36.1 MB"), (1_234_000_000_000, "1,234.0 GB")],
)
def test_sizes_are_in_the_unit_that_people_would_say(size: int, text: str) -> None:
    assert format_bytes(size) == text
