"""Tokens against the tokenizer: every merge is followed to the ids that it gives."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TEXT, make_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from laplm.errors import InputError
from laplm.look.view import Column, Passage, Table
from laplm.look.views.tokens import MAX_MERGED, merge_steps, shown, tokens
from laplm.run.language_model import LanguageModel

texts = st.lists(
    st.one_of(
        st.text(max_size=10),
        st.sampled_from(["Once upon", " the", " \n\t", "don't", "🙂", "北京", " Grüße", "e\u0301"]),
    ),
    min_size=1, max_size=6,
).map("".join).filter(bool)  # fmt: skip


@given(texts)
@settings(deadline=None)
def test_any_text_comes_back_from_its_tokens(pocket: LanguageModel, text: str) -> None:
    view = tokens(pocket, text)
    assert b"".join(map(bytes.fromhex, view.bytes_hex)) == text.encode()
    assert view.ids.tolist() == pocket.tokenizer.encode(text)
    assert len(view.labels) == len(view.ids) == len(view.parts()[0].rows)  # type: ignore[union-attr]


@given(st.binary(min_size=1, max_size=40))
@settings(deadline=None)
def test_any_bytes_come_back_from_their_tokens(pocket: LanguageModel, data: bytes) -> None:
    view = tokens(pocket, data, merges=True)
    assert b"".join(map(bytes.fromhex, view.bytes_hex)) == data
    assert sum(len(w.merges[-1].pieces if w.merges else w.pieces) for w in view.words) == len(
        view.ids
    )


@given(texts)
@example("Once upon a time, there's  北京 \n\n x🙂")
@settings(deadline=None)
def test_merging_step_by_step_ends_in_the_tokenizers_tokens(
    pocket: LanguageModel, text: str
) -> None:
    tokenizer = pocket.tokenizer
    view = tokens(pocket, text, merges=True)
    assert all(word.merged for word in view.words)
    last = [w.merges[-1].pieces if w.merges else w.pieces for w in view.words]
    assert tuple(itertools.chain(*last)) == view.labels
    assert [w.first for w in view.words] == list(itertools.accumulate(map(len, last), initial=0))[
        :-1
    ]
    for word in tokenizer.encode_words(text):
        whole = tokenizer.decode_bytes(word)
        pieces = [bytes([b]) for b in whole]
        for pair, after in merge_steps(whole, tokenizer.merges):
            # The best pair there was: none of a lesser rank, and it became one.
            ranks = [tokenizer.merges.get(p, 1 << 30) for p in itertools.pairwise(pieces)]
            assert tokenizer.merges[pair] == min(ranks)
            at = ranks.index(min(ranks))
            assert after == [*pieces[:at], b"".join(pair), *pieces[at + 2 :]]
            pieces = after
        assert not {*itertools.pairwise(pieces)} & tokenizer.merges.keys()


def test_merges_of_a_table_that_can_be_followed_by_hand() -> None:
    ranks = {(b"a", b"b"): 2, (b"b", b"c"): 1, (b"a", b"bc"): 3, (b"x", b"y"): 0}
    assert merge_steps(b"abcab", ranks) == [
        ((b"b", b"c"), [b"a", b"bc", b"a", b"b"]),
        ((b"a", b"b"), [b"a", b"bc", b"ab"]),
        ((b"a", b"bc"), [b"abc", b"ab"]),
    ]
    assert merge_steps(b"q", ranks) == [] == merge_steps(b"", ranks)


def test_white_space_and_parts_of_characters_can_be_seen(pocket: LanguageModel) -> None:
    assert shown(b" a\n\t") == "·a↵→"
    assert shown("é".encode()) == "é"
    assert shown("é".encode()[:1]) == "\\xc3"
    assert shown(b"\0") == "\N{REPLACEMENT CHARACTER}"
    view = tokens(pocket, "a\U0001f9ff")
    assert "\\xf0" in view.labels[1]
    assert "no token here holds whole" in view.parts()[0].note
    assert "no token here holds whole" not in tokens(pocket, r"a \x41").parts()[0].note


def test_ids_are_names_and_have_no_thousands_separators() -> None:
    assert Column("id", label=True).text(50256) == "50256"
    assert Column("count").text(50256) == "50,256"


def test_a_token_added_by_itself_is_said_not_to_be_merged(tmp_path: Path) -> None:
    path = make_model(tmp_path / "added")
    file = path / "tokenizer.json"
    saved = json.loads(file.read_text())
    added = dict(saved["added_tokens"][0], id=len(saved["model"]["vocab"]) + 1, special=False)
    saved["added_tokens"].append(added | {"content": "play school"})
    file.write_text(json.dumps(saved))
    view = tokens(LanguageModel(path), "a play school", merges=True)
    assert view.ids[-1] == added["id"]
    assert [word.merged for word in view.words] == [True, True, False]
    table = view.parts()[-1]
    assert isinstance(table, Table)
    assert table.rows[-1][2] == "not made by merging"


def test_a_text_beyond_the_context_is_shown_and_said_to_be(tiny_model_dir: Path) -> None:
    model = LanguageModel(tiny_model_dir)
    view = tokens(model, TEXT * 3)
    assert len(view.ids) > model.config.n_ctx
    assert f"more than the {model.config.n_ctx}" in view.parts()[0].note


def test_empty_texts_and_texts_too_long_for_merges_are_refused(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        tokens(pocket, "")
    with pytest.raises(InputError, match=r"has 1,001 bytes.*at most 1,000"):
        tokens(pocket, "a" * (MAX_MERGED + 1), merges=True)
    with pytest.raises(InputError, match="lone surrogate"):
        tokens(pocket, "a\ud800", merges=True)


def test_the_picture_has_every_token_with_its_id(pocket: LanguageModel) -> None:
    from matplotlib.text import Text

    view = tokens(pocket, "Once upon a $time$\n" * 30)
    figure = view.plot()
    figure.draw_without_rendering()
    written = [t.get_text() for t in figure.findobj(Text)]
    assert set(view.labels) <= set(written)
    assert sum(t.isdigit() for t in written) >= len(view.ids)
    passage = view.parts()[1]
    assert isinstance(passage, Passage)
    assert [span.tip for span in passage.spans] == [str(i) for i in view.ids]


def test_saved_data_has_what_was_seen(pocket: LanguageModel, tmp_path: Path) -> None:
    view = tokens(pocket, "Once\nupon", merges=True)
    saved: Any = json.loads(view.save(tmp_path / "t.json").read_text())
    np.testing.assert_array_equal(saved["ids"], view.ids)
    assert saved["words"][0]["merges"][-1]["pieces"] == list(view.words[0].merges[-1].pieces)
    lines = view.save(tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "position,id,text,bytes" and len(lines) == 1 + len(view.ids)
