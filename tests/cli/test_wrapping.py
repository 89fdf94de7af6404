"""Lines that break between words while the text is still coming."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from laplm.cli.wrapping import Wrapper


def wrapped(text: str, columns: int, seed: int | None = None) -> str:
    """Text fed whole, or in random pieces."""
    out: list[str] = []
    wrapper = Wrapper(lambda piece, dim: out.append(piece), lambda: columns)
    rng, at = random.Random(seed), 0
    while at < len(text):
        step = len(text) if seed is None else rng.randint(1, 5)
        wrapper.feed(text[at : at + step])
        at += step
    wrapper.flush()
    return "".join(out)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Tim was a boy", ["Tim was a", "boy"]),
        ("Tim was ten yes", ["Tim was", "ten yes"]),
        ("Tim was te", ["Tim was te"]),
        ("a\n  b\n\nc", ["a", "  b", "", "c"]),
        ("abcdefghijklmno p", ["abcdefghij", "klmno p"]),
        ("x abcdefghijklmno", ["x", "abcdefghij", "klmno"]),
        ("北京是中国的首都。我", ["北京是中国", "的首都。我"]),
        ("a北京是中国的", ["a北京是中", "国的"]),
        ("北京是中国。我", ["北京是中", "国。我"]),
        ("go 🙂🙂🙂🙂🙂", ["go 🙂🙂🙂", "🙂🙂"]),
        ("a\tb\tc", ["a       b", "c"]),
        ("ééééé ééééé", ["ééééé", "ééééé"]),
    ],
)
def test_words_go_to_the_next_line_whole(text: str, lines: list[str]) -> None:
    assert [line.expandtabs() for line in wrapped(text, 10).split("\n")] == lines


@given(st.text(alphabet="ab é北🙂\n。", max_size=60), st.integers(4, 30), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_nothing_is_too_wide_and_pieces_do_not_matter(
    text: str, columns: int, seed: int
) -> None:
    shown = wrapped(text, columns)
    assert wrapped(text, columns, seed) == shown
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)
    for line in shown.split("\n"):
        # Closing marks hang on to the last character rather than begin a line.
        assert cell_len(line.rstrip()) <= columns or "。" in line


def test_what_is_joined_stays_together() -> None:
    family = "👨\u200d👩\u200d👧"
    assert wrapped(f"abcdefg {family}", 9, seed=1) == f"abcdefg\n{family}"


def test_only_what_was_dim_is_dim() -> None:
    out: list[tuple[str, bool]] = []
    wrapper = Wrapper(lambda text, dim: out.append((text, dim)), lambda: 12)
    wrapper.feed("Once upon a ti", dim=True)
    assert "".join(text for text, _ in out) == "Once upon a"
    wrapper.feed("me there")
    wrapper.flush()
    assert [pair for pair in out if pair[0].strip()][-3:] == [
        ("ti", True), ("me", False), ("there", False)
    ]  # fmt: skip
    assert "".join(text for text, _ in out) == "Once upon a\ntime there"


def test_a_terminal_that_changes_its_width_is_followed() -> None:
    out: list[str] = []
    width = 20
    wrapper = Wrapper(lambda text, dim: out.append(text), lambda: width)
    wrapper.feed("one two three ")
    width = 10
    wrapper.feed("four five six ")
    wrapper.flush()
    assert "".join(out) == "one two three\nfour five\nsix"
