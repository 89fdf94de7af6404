"""Log-probabilities: tokens told apart, and where each stands in the text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from laplm.model.tokenizer import Tokenizer
from laplm.run.results import GenerationStep, TokenLogprob
from laplm.serve.logprobs import (
    TextOffsets,
    chat_logprobs,
    completion_logprobs,
    finite,
    prompt_text,
    token_label,
)
from laplm.serve.scheduler import PromptToken


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir) -> Tokenizer:
    return Tokenizer.from_directory(tiny_model_dir)


def step(tokenizer: Tokenizer, token_id: int, *tops: int, logprob: float = -1.0) -> GenerationStep:
    alternatives = tuple(
        TokenLogprob(t, tokenizer.token_text(t), -0.5 * (i + 1)) for i, t in enumerate(tops)
    )
    return GenerationStep("", token_id, logprob, alternatives)


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        (b" the", " the"),
        ("北".encode(), "北"),
        ("\N{REPLACEMENT CHARACTER}".encode(), "\N{REPLACEMENT CHARACTER}"),
        (b"\xf0\x9f", r"bytes:\xf0\x9f"),
        (b"\x99", r"bytes:\x99"),
        (b" \xe5\x8c", r"bytes: \xe5\x8c"),  # as OpenAI writes it: what is ASCII stays
        (b"\xff", r"bytes:\xff"),
    ],
)
def test_a_token_that_is_no_whole_character_is_labelled_by_its_bytes(raw, label) -> None:
    assert token_label(raw) == label


@settings(max_examples=50, deadline=None)
@given(st.sets(st.binary(min_size=1, max_size=4), max_size=20))
def test_tokens_that_differ_have_labels_that_differ(tokens: set[bytes]) -> None:
    assert len({token_label(raw) for raw in tokens}) == len(tokens)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(st.text(max_size=12).map(str.encode), st.binary(max_size=8)).flatmap(
        lambda raw: st.tuples(st.just(raw), st.sets(st.integers(0, len(raw)), max_size=8))
    )
)
@example(("北京".encode(), {1, 2, 4}))
@example((b"a\xe5've", {1, 2}))
@example((b"\xe5\x8c\xff\xe5", {1, 2, 3}))
def test_an_offset_is_where_the_character_is_in_which_a_token_begins(
    case: tuple[bytes, set[int]],
) -> None:
    raw, cuts = case
    shown = raw.decode("utf-8", "replace")
    offsets = TextOffsets(3)
    for start, end in itertools.pairwise(sorted({0, len(raw)} | cuts)):
        before, behind = (part.decode("utf-8", "replace") for part in (raw[:start], raw[start:]))
        inside = before + behind != shown  # the cut is within a character
        assert offsets.add(raw[start:end]) == 3 + len(before) - inside


def test_a_text_that_ends_within_a_character_has_one_for_it() -> None:
    offsets = TextOffsets()
    shown = b"a\xe5\x8c".decode("utf-8", "replace")  # as the prompt is shown
    assert offsets.add(b"a") == 0
    assert offsets.add(b"\xe5\x8c") == 1
    offsets.end()
    assert offsets.add(b"\x97") == len(shown)
    assert offsets.add(b"b") == len(shown) + 1


def test_alternatives_within_a_character_are_told_apart(tokenizer: Tokenizer) -> None:
    parts = [tokenizer.encode(bytes([b]))[0] for b in (0xE5, 0x8C, 0x97, 0xF0, 0x9F)]
    steps = [step(tokenizer, parts[0], *parts[1:])]
    out = completion_logprobs(tokenizer, steps, TextOffsets(), count=4, with_ids=True)
    assert out["tokens"] == [r"bytes:\xe5"]
    assert out["top_logprobs"] == [
        {r"bytes:\x9f": -2.0, r"bytes:\xf0": -1.5, r"bytes:\x97": -1.0, r"bytes:\x8c": -0.5,
         r"bytes:\xe5": -1.0}
    ]  # fmt: skip
    assert out["token_texts"] == ["\N{REPLACEMENT CHARACTER}"]
    assert out["top_token_ids"] == [parts[1:]]


def test_the_token_itself_is_always_among_the_alternatives(tokenizer: Tokenizer) -> None:
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    for steps, want in (
        ([step(tokenizer, a, b, logprob=-3.0)], {"b": -0.5, "a": -3.0}),
        ([step(tokenizer, a, a, logprob=-0.5)], {"a": -0.5}),
    ):
        out = completion_logprobs(tokenizer, steps, TextOffsets(), count=1, with_ids=False)
        assert out["top_logprobs"] == [want]
    out = completion_logprobs(tokenizer, steps, TextOffsets(), count=0, with_ids=False)
    assert out["top_logprobs"] is None
    assert "top_token_ids" not in out


def test_what_has_no_finite_logarithm_is_a_number_all_the_same(tokenizer: Tokenizer) -> None:
    a = tokenizer.encode("a")[0]
    first, never = PromptToken(a, None), PromptToken(a, float("-inf"))
    out = completion_logprobs(tokenizer, [first, never], TextOffsets(), count=1, with_ids=True)
    assert out["token_logprobs"] == [None, -9999.0]
    assert out["top_logprobs"] == [None, {"a": -9999.0}]
    assert finite(float("nan")) == -9999.0
    assert finite(-2.5) == -2.5


def test_an_id_that_the_tokenizer_lacks_is_no_text(tokenizer: Tokenizer) -> None:
    beyond = tokenizer.vocab_size + 3
    a = tokenizer.encode("a")[0]
    assert prompt_text(tokenizer, [a, beyond, a]) == "aa"
    tokens = [PromptToken(a, None), PromptToken(beyond, -1.0), PromptToken(a, -1.0)]
    out = completion_logprobs(tokenizer, tokens, TextOffsets(), count=0, with_ids=False)
    assert out["tokens"] == ["a", "", "a"]
    assert out["text_offset"] == [0, 1, 1]


def test_chat_gives_text_and_bytes(tokenizer: Tokenizer) -> None:
    (part,) = tokenizer.encode(b"\xe5")
    (token,) = chat_logprobs(tokenizer, [step(tokenizer, part, part)])["content"]
    assert token["bytes"] == [0xE5]
    assert token["top_logprobs"][0]["bytes"] == [0xE5]
    assert token["logprob"] == -1.0
