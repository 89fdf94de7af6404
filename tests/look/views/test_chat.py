"""``look chat``: an answer's numbers against transformers, and which tokens are words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_kinds import make_kind, say
from transformers import AutoModelForCausalLM, AutoTokenizer

from laplm import look
from laplm.errors import InputError
from laplm.look.view import AnswerAttention, Passage, Table
from laplm.look.views.chat import Chat
from laplm.model.tokenizer import Tokenizer
from laplm.run.language_model import LanguageModel

QUESTION = "Who is  the girl,\n <|im_end|> Sue?"
EARLIER = ("Once upon a time", "there was a little girl")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base") / "base"
    return make_kind("chatml", base, tmp_path_factory.mktemp("chatml") / "model")


@pytest.fixture(scope="module")
def model(directory: Path) -> LanguageModel:
    return LanguageModel(directory, "fp32")


@pytest.fixture(scope="module")
def found(model: LanguageModel) -> Chat:
    return look.chat(model, QUESTION, system="Be brief.", earlier=EARLIER, max_new_tokens=6, seed=3)


@pytest.fixture(scope="module")
def oracle(directory: Path, found: Chat) -> dict[str, Any]:
    """The same conversation in transformers, and where its tokens stand in its text."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    messages = [{"role": "system", "content": "Be brief."}]
    for role, text in zip(("user", "assistant", "user"), (*EARLIER, QUESTION), strict=True):
        messages.append({"role": role, "content": text})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    begin = text.rindex(QUESTION)
    # What a person writes is never a control token: it is encoded by itself.
    pieces = [(text[:begin], False), (QUESTION, True), (text[begin + len(QUESTION) :], False)]
    ids, words, at = [], [], 0
    for piece, plain in pieces:
        cut = ["Who is  the girl,\n ", "<|im_end|>", " Sue?"] if plain else [piece]
        for part in cut:
            whole = tokenizer(part, return_offsets_mapping=True, split_special_tokens=plain)
            for token, (a, b) in zip(whole["input_ids"], whole["offset_mapping"], strict=True):
                ids.append(token)
                words.append(word_of(text, begin, at + a, at + b) if plain else None)
            at += len(part)
    hf = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    whole_ids = [*ids, *found.ids.tolist()]
    with torch.no_grad():
        out = hf(torch.tensor([whole_ids]), output_attentions=True)
    return {"ids": ids, "known": len(tokenizer), "words": words, "logits": out.logits[0],
            "text": text,
            "attentions": torch.stack(out.attentions)[:, 0]}  # fmt: skip


def word_of(text: str, begin: int, a: int, b: int) -> int | None:
    """Which word of the question a token of a span is of, counted by white space before it."""
    solid = [i for i in range(a, b) if not text[i].isspace()]
    return len(text[begin : solid[0] + 1].split()) - 1 if solid else None


def test_probability_and_entropy_are_those_of_transformers(
    found: Chat, oracle: dict[str, Any]
) -> None:
    n = len(found.ids)
    # Of the tokens that there are; the output has rows beyond them.
    logits = oracle["logits"][len(oracle["ids"]) - 1 : -1, : oracle["known"]].double()
    p = torch.softmax(logits, -1).numpy()
    np.testing.assert_allclose(found.probabilities, p[np.arange(n), found.ids], rtol=1e-4)
    np.testing.assert_allclose(found.entropies, -(p * np.log2(p)).sum(-1), atol=1e-3)


def test_shares_are_the_attention_of_the_positions_that_wrote_the_tokens(
    found: Chat, oracle: dict[str, Any]
) -> None:
    assert found.words == QUESTION.split()
    start, n_words = len(oracle["ids"]), len(found.words)
    of = np.zeros((start, n_words))
    for position, word in enumerate(oracle["words"]):
        if word is not None:
            of[position, word] = 1
    assert of.sum(axis=0).min() >= 1
    layers = range(found.layers[0], found.layers[1] + 1)
    assert (len(layers), found.layers[1]) == (2, 2), "the upper half of three"
    rows = oracle["attentions"][list(layers)][:, :, start - 1 : -1, :start].numpy()
    shares = rows @ of  # (layers, heads, N, W)
    np.testing.assert_allclose(found.shares, shares.mean(axis=(0, 1)), atol=1e-5)
    for i in range(len(found.ids)):
        layer, head, word = np.unravel_index(shares[:, :, i].argmax(), shares[:, :, i].shape)
        assert found.heads[i].tolist() == [layers[layer], head]
        assert found.head_words[i] == word
        assert found.head_shares[i] == pytest.approx(shares[layer, head, i, word], abs=1e-5)


def test_what_the_model_was_given_is_cut_into_words_control_tokens_and_template(
    found: Chat, oracle: dict[str, Any]
) -> None:
    assert "".join(piece.text for piece in found.pieces) == oracle["text"]
    control = [piece.text for piece in found.pieces if piece.kind == "control"]
    assert control == ["<|im_start|>", "<|im_end|>"] * 4 + ["<|im_start|>"]
    (written,) = [p for p in found.pieces if p.text == "<|im_end|>" and p.kind == "word"]
    assert found.words[written.word] == "<|im_end|>", "what a person writes is a word"
    template = "".join(piece.text for piece in found.pieces if piece.kind == "template")
    assert template.split() == ["system", "user", "assistant", "user", "assistant"]
    others = [p.text for p in found.pieces if p.kind == "word" and p.word is None]
    assert {"Be brief.", *EARLIER} <= set(others)


def test_a_control_token_that_ends_the_answer_is_shown_and_not_counted(
    directory: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    path = make_kind("chatml", base, tmp_path / "scripted")
    tokenizer = Tokenizer.from_directory(path)
    (end,) = tokenizer.encode("<|im_end|>", allow_special=True)
    say(path, [*tokenizer.encode("\n"), *tokenizer.encode(" a girl"), end, *tokenizer.encode("!!")])
    found = look.chat(LanguageModel(path, "fp32"), "Who is she?", temperature=0.0)
    assert found.answer == " a girl" and found.finish_reason == "eos"
    assert found.labels[-1] == "<|im_end|>" and found.control == [False] * (len(found.ids) - 1) + [
        True
    ]
    assert found.sentence().startswith(f"The answer's {len(found.ids) - 1} tokens have 100")
    reading, _ = found.page_parts()
    assert isinstance(reading, AnswerAttention) and reading.answer[-1].text == "<|im_end|>"


def test_the_sentence_and_the_tables_say_the_numbers(found: Chat) -> None:
    passage, table = found.parts()
    assert isinstance(passage, Passage) and isinstance(table, Table)
    assert len(table.rows) == len(found.ids) == 6
    least = int(found.probabilities.argmin())
    word = int(found.shares.mean(axis=0).argmax())
    most = int(found.shares[:, word].argmax())
    sentence = found.sentence()
    assert f"least sure is “{found.labels[least]}” with" in sentence
    assert f"of the question it looks most at “{found.words[word]}”" in sentence
    assert f"most of all for “{found.labels[most]}”" in sentence
    layer, head = found.heads[most]
    assert f"head {layer}.{head} gives “{found.words[found.head_words[most]]}”" in sentence
    assert table.rows[most][4] == pytest.approx(found.shares[most].max())
    reading, _ = found.page_parts()
    assert isinstance(reading, AnswerAttention)
    np.testing.assert_array_equal(reading.weights, found.shares)
    assert [w.column for w in reading.words if w.column is not None] == list(range(6))


def test_the_picture_and_the_files(found: Chat, tmp_path: Path) -> None:
    axes = found.plot().axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == found.words
    assert "im_start" in found.save(tmp_path / "a.html").read_text()
    assert found.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert found.to_svg() == found.to_svg(), "the same look is the same file"


def test_the_answer_is_that_of_a_conversation(model: LanguageModel, found: Chat) -> None:
    from laplm.run.chat import Conversation

    conversation = Conversation(
        model, system="Be brief.", settings={"max_new_tokens": 6, "seed": found.seed}
    )
    roles = ("user", "assistant")
    conversation.messages = [{"role": roles[i], "content": text} for i, text in enumerate(EARLIER)]
    assert "".join(conversation.say(QUESTION)) == found.answer


def test_what_cannot_be_is_told(model: LanguageModel, tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match="has no chat template"):
        look.chat(LanguageModel(str(tiny_model_dir), "fp32"), "Hello")
    with pytest.raises(InputError, match="the message is empty"):
        look.chat(model, "  ")
    with pytest.raises(InputError, match="earlier holds 1 messages, but they come in pairs"):
        look.chat(model, "Hello", earlier=["Hi"])
