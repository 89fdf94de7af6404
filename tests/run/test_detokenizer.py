"""Text from tokens as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from laplm.model.tokenizer import Tokenizer
from laplm.run.detokenizer import StopStringMatcher, StreamingDetokenizer
from laplm.run.results import TokenStep
from tests.run.scripted_model import say


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(tiny_model_dir)


def test_a_character_of_several_tokens_comes_whole(tokenizer) -> None:
    text = "a🙂b\N{HANGUL SYLLABLE HIH}"
    ids = [i for byte in text.encode() for i in tokenizer.encode(bytes([byte]))]
    pieces = [step.text for step in say(tokenizer, ids)]
    assert pieces == ["a", "", "", "", "🙂", "b", "", "", "\N{HANGUL SYLLABLE HIH}", ""]


def test_an_unfinished_character_at_the_end_is_shown_as_such(tokenizer) -> None:
    ids = [i for byte in "a🙂".encode()[:-1] for i in tokenizer.encode(bytes([byte]))]
    stream = say(tokenizer, ids, max_new_tokens=len(ids))
    assert [step.text for step in stream] == ["a", "", "", "\N{REPLACEMENT CHARACTER}"]


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(), st.binary()))
def test_streamed_text_is_the_decoded_whole(tokenizer, text) -> None:
    stream = say(tokenizer, text)
    pieces = [step.text for step in stream]
    expected = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    assert "".join(pieces) == stream.results()[0].text == expected


def test_a_stop_string_over_several_tokens_is_never_shown(tokenizer) -> None:
    ids = [i for c in "one END two" for i in tokenizer.encode(c)]
    stream = say(tokenizer, ids, stop="END")
    pieces = [step.text for step in stream]
    assert pieces == ["o", "n", "e", " ", "", "", ""]
    (result,) = stream.results()
    assert (result.text, result.finish_reason) == ("one ", "stop")
    assert tokenizer.decode(result.token_ids) == "one END"
    assert result.usage.completion_tokens == len(result.token_ids) == 7


def test_what_only_looked_like_a_stop_string_comes_after_all(tokenizer) -> None:
    ids = [i for c in "an ENTRY EN" for i in tokenizer.encode(c)]
    stream = say(tokenizer, ids, stop=["END", "\n\n"])
    pieces = [step.text for step in stream]
    assert pieces == ["a", "n", " ", "", "", "ENT", "R", "Y", " ", "", "", "EN"]
    assert stream.results()[0].finish_reason == "eos"


@settings(max_examples=100, deadline=None)
@given(
    st.text("abcé\n ", max_size=30),
    st.lists(st.text("abcé\n ", min_size=1, max_size=4), max_size=3),
)
@example("aab", ["ab"])
@example("abcabd", ["abd", "cab"])
def test_streamed_text_ends_before_the_first_stop_string(tokenizer, text, stop) -> None:
    stream = say(tokenizer, text, stop=stop)
    shown = "".join(step.text for step in stream)
    (result,) = stream.results()
    assert shown == result.text
    assert not any(s in shown for s in stop)
    drawn = tokenizer.decode([i for i in result.token_ids if i != tokenizer.vocab_size - 1])
    if any(s in text for s in stop):
        assert result.finish_reason == "stop"
        assert any(drawn.startswith(shown + s) for s in stop)
    else:
        assert (result.finish_reason, shown) == ("eos", text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab\n", max_size=4), max_size=10), st.text("ab\n", min_size=1, max_size=5))
def test_a_stop_string_is_found_however_the_text_is_cut(pieces, stop) -> None:
    matcher = StopStringMatcher([stop])
    shown, found = "", False
    for piece in pieces:
        more, found = matcher.feed(piece)
        shown += more
        if found:
            break
    whole = "".join(pieces)
    assert found == (stop in whole)
    assert shown + ("" if found else matcher.flush()) == whole.split(stop)[0]


def test_stop_strings_are_not_looked_for_within_the_first_tokens(tokenizer) -> None:
    text = StreamingDetokenizer(tokenizer, ["b"], min_new_tokens=2)
    ids = [i for c in "abab" for i in tokenizer.encode(c)]
    assert [text.feed(i) for i in ids] == [False, False, False, True]


def test_a_step_has_the_text_of_its_token_and_of_the_likeliest(tokenizer) -> None:
    text = StreamingDetokenizer(tokenizer, ["END"])
    (a,), (e,), end = tokenizer.encode("a"), tokenizer.encode("E"), tokenizer.vocab_size - 1
    assert not text.feed(a)
    step = text.step(TokenStep(1, a, -0.5, ((e, -0.25), (a, -0.5)), None))
    assert (step.text, step.token_id, step.logprob, step.sample) == ("a", a, -0.5, 1)
    assert [(top.text, top.logprob) for top in step.top_logprobs] == [("E", -0.25), ("a", -0.5)]
    assert text.finish_reason is None
    text.feed(e)
    assert text.step(TokenStep(1, e, -0.5, (), None)).text == ""
    # The end is no text, and what was held back comes with it.
    assert text.step(TokenStep(1, end, -0.1, (), "eos")).text == "E"
    assert text.finish_reason == "eos"
