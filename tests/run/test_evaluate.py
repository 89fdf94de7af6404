"""Perplexity and LAMBADA against the same loops over transformers."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from conftest import TEXT, make_model
from transformers import AutoTokenizer, GPT2LMHeadModel

from laplm.errors import InputError, ModelFormatError
from laplm.run import evaluate
from laplm.run.evaluate import (
    Document,
    lambada,
    perplexity,
    read_documents,
    read_lambada,
)
from laplm.run.language_model import LanguageModel

LONG = TEXT * 4


@pytest.fixture(scope="module")
def lm(tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, "fp32", threads=1)


@pytest.fixture(scope="module")
def oracle(tiny_model_dir: Path) -> GPT2LMHeadModel:
    torch.set_num_threads(1)  # more only wait for each other on so small a model
    return GPT2LMHeadModel.from_pretrained(tiny_model_dir).eval()


def transformers_loss(oracle, ids: list[int], window: int, stride: int) -> tuple[float, int]:
    """The loop of "Perplexity of fixed-length models", its mean turned into a sum and a count."""
    total, count, previous_end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        inputs = torch.tensor([ids[begin:end]])
        targets = inputs.clone()
        targets[:, : -(end - previous_end)] = -100
        scored = int((targets[:, 1:] != -100).sum())
        if scored:
            with torch.no_grad():
                total += float(oracle(inputs, labels=targets).loss) * scored
            count += scored
        previous_end = end
        if end == len(ids):
            break
    return total, count


@pytest.mark.parametrize(
    ("window", "stride"), [(None, None), (128, 128), (100, 30), (2, 1), (128, 1000), (500, 100)]
)
def test_perplexity_is_that_of_the_same_loop_in_transformers(lm, oracle, window, stride) -> None:
    if window is not None and (window > 128 or (stride or 0) > window):
        with pytest.raises(InputError, match=r"must be a whole number from \d up to"):
            perplexity(lm, [Document("a", LONG)], window=window, stride=stride)
        return
    text = LONG if window != 2 else TEXT
    result = perplexity(lm, [Document("a", text)], window=window, stride=stride)
    ids = lm.tokenizer.encode(text)
    total, count = transformers_loss(oracle, ids, window or 128, stride or 64)
    assert result.tokens == count
    assert result.perplexity == pytest.approx(math.exp(total / count), rel=2e-5)
    assert result.negative_log_likelihood == pytest.approx(total, rel=2e-5)
    assert (result.window, result.stride) == (window or 128, stride or 64)


def test_documents_are_scored_apart_and_counted_together(lm, oracle) -> None:
    documents = [Document("a", TEXT), Document("b", "The capital of France"), Document("c", "T")]
    result = perplexity(lm, documents)
    losses = [
        transformers_loss(oracle, lm.tokenizer.encode(d.text), 128, 64) for d in documents[:2]
    ]
    total, count = (sum(values) for values in zip(*losses, strict=True))
    assert (result.documents, result.tokens) == (2, count)
    assert result.negative_log_likelihood == pytest.approx(total, rel=2e-5)


def test_a_bos_stands_before_each_document_and_is_not_scored(oracle, bos_model_dir) -> None:
    lm = LanguageModel(bos_model_dir, "fp32", threads=1)
    result = perplexity(lm, [Document("a", LONG)])
    ids = AutoTokenizer.from_pretrained(bos_model_dir)(LONG)["input_ids"]
    total, count = transformers_loss(oracle, ids, 128, 64)
    assert result.tokens == count == len(lm.tokenizer.encode(LONG))
    assert result.negative_log_likelihood == pytest.approx(total, rel=2e-5)
    assert result.bytes == len(LONG.encode())


def test_bits_and_words_follow_from_what_was_scored(lm) -> None:
    result = perplexity(lm, [Document("a", LONG)])
    ids = lm.tokenizer.encode(LONG)
    assert result.tokens == len(ids) - 1
    assert result.bytes == len(LONG.encode()) - len(lm.tokenizer.token_bytes(ids[0]))
    assert result.words == len(LONG.split())
    nll = result.negative_log_likelihood
    assert result.bits_per_byte == pytest.approx(nll / math.log(2) / result.bytes)
    assert result.word_perplexity == pytest.approx(math.exp(nll / result.words))
    assert result.tokens_per_second == pytest.approx(result.tokens_run / result.seconds)
    apart = perplexity(lm, [Document("a", LONG)], stride=128)
    starts = [lm.tokenizer.token_bytes(i) for i in ids[::128]]
    assert apart.tokens == len(ids) - len(starts)
    assert apart.bytes == len(LONG.encode()) - sum(map(len, starts))


def test_every_number_stands_beside_its_protocol(lm) -> None:
    result = perplexity(lm, [Document("a", LONG)], window=64, stride=16)
    for part in ("window 64", "stride 16", "not detokenised", "not scored"):
        assert part in result.report() and part in result.to_dict()["protocol"]
    assert "per token" in result.report() and "per word" in result.report()
    assert f"{result.tokens:,} tokens, {result.bytes:,} bytes" in result.report()
    assert json.loads(json.dumps(result.to_dict()))["perplexity"] == result.perplexity


def test_progress_ends_at_the_whole(lm) -> None:
    seen = []
    perplexity(lm, [Document("a", TEXT), Document("b", TEXT)], progress=lambda *a: seen.append(a))
    total = 2 * len(lm.tokenizer.encode(TEXT))
    assert seen[-1] == ("tokens", total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


PASSAGES = [
    "The capital of Spain is Madrid. The capital of France is Paris",
    "Once upon a time, there was a little girl named Sue",
    "She had a regular day at her play school",
    "naïve café",
    "word " * 200 + "end",
]


def test_lambada_is_that_of_the_same_steps_in_transformers(lm, oracle, tiny_model_dir) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    # One passage whose answer the model does get, so that accuracy is neither 0 nor 1.
    context = tokenizer("The capital of")["input_ids"]
    with torch.no_grad():
        for _ in range(300):
            token = int(oracle(torch.tensor([context])).logits[0, -1].argmax())
            word = tokenizer.decode([token])
            if word.startswith(" ") and word[1:].isalpha():
                break
            context = [*context, token]
            if len(context) > 100:
                pytest.fail("no passage found; choose another seed for the model")
    passages = [*PASSAGES, tokenizer.decode(context) + word]

    correct, total, count = 0, 0.0, 0
    for passage in passages:
        words = passage.split(" ")
        given = len(tokenizer(" ".join(words[:-1]))["input_ids"])
        ids = tokenizer(passage)["input_ids"]
        inputs, answer = ids[:-1][-128:], ids[given:]
        with torch.no_grad():
            logits = oracle(torch.tensor([inputs])).logits[0, -len(answer) :].double()
        correct += logits.argmax(-1).tolist() == answer
        total -= float(torch.log_softmax(logits, -1)[range(len(answer)), answer].sum())
        count += len(answer)

    score = lambada(lm, passages)
    assert 0 < correct < len(passages)
    assert (score.examples, score.correct, score.tokens) == (len(passages), correct, count)
    assert score.perplexity == pytest.approx(math.exp(total / len(passages)), rel=2e-5)
    assert score.accuracy == correct / len(passages)
    # The last token of a passage is an answer, and nothing is computed of it.
    run = [min(128, len(tokenizer(passage)["input_ids"]) - 1) for passage in passages]
    assert score.tokens_run == sum(run)
    assert "per word" in score.protocol and score.protocol in score.report()


def test_lambada_files_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "l.jsonl"
    file.write_text('{"text": "a b\\n"}\n\n{"text": "c \\u2028d", "x": 1}\n', encoding="utf-8")
    assert read_lambada(file) == ["a b", "c \u2028d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no passages"),
        (b'{"text": "a b"}\n{"txt": "a b"}', 'line 2: not a JSON object with a "text"'),
        (b'{"text": 5}', "line 1: not a JSON object"),
        (b"[1]", "line 1: not a JSON object"),
        (b"plain", "line 1: not a JSON object"),
        (b'{"text": "word"}', "line 1: a passage needs at least two words"),
        (b'{"text": " word"}', "needs at least two words"),
        (b"\xff", "not UTF-8 text"),
    ],
)
def test_a_lambada_file_that_cannot_be_used_is_named_with_its_line(
    lm, tmp_path, content, message
) -> None:
    file = tmp_path / "l.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        lambada(lm, read_lambada(file))


def test_a_directory_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b.txt", "a.md", "sub/c.txt", ".hidden", ".git/d.txt"):
        (tmp_path / name).write_bytes(name.encode() + b"\r\n")
    documents = read_documents(tmp_path)
    assert [d.text for d in documents] == ["a.md\r\n", "b.txt\r\n", "sub/c.txt\r\n"]
    assert documents[0].name == str(tmp_path / "a.md")
    assert read_documents(tmp_path / "b.txt")[0].text == "b.txt\r\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.mkdir(), "has no files"),
        (lambda p: p.write_bytes(b"ab\xffcd"), r"not UTF-8 text \(byte 0xff at position 2\)"),
        (lambda p: None, "No such file"),
        (lambda p: p.write_bytes(b""), "at least two tokens"),
    ],
)
def test_a_text_that_cannot_be_scored_is_named(lm, tmp_path, make, message) -> None:
    make(tmp_path / "x")
    with pytest.raises(InputError, match=message):
        perplexity(lm, read_documents(tmp_path / "x"))


def test_a_last_word_longer_than_the_context_is_refused(lm) -> None:
    with pytest.raises(InputError, match="last word of passage 2 is longer"):
        lambada(lm, ["a b", "the " + "x" * 400])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 7])  # in the context, and in a position that is scored
def test_a_model_that_gives_no_numbers_cannot_be_measured(
    tiny_model_dir: Path, tmp_path: Path, laplm_, bad: float, where: int
) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    tensors["transformer.wpe.weight"][where] = bad
    safetensors.numpy.save_file(tensors, file, {"format": "pt"})
    damaged = LanguageModel(tmp_path / "m", "fp32", threads=1)
    for measure in (
        lambda: perplexity(damaged, [Document("a", TEXT)]),
        lambda: lambada(damaged, [TEXT.strip()]),
    ):
        with pytest.raises(ModelFormatError):
            measure()
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    result = laplm_("eval", tmp_path / "text.txt", "-m", tmp_path / "m", "--json", "--threads", 1)
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith("laplm: the model's output holds values that are")


def test_a_perplexity_beyond_all_numbers_is_null_in_json(
    tiny_model_dir: Path, tmp_path: Path, laplm_
) -> None:
    """One word of a thousand letters: the exponential of its loss is more than a float."""
    (tmp_path / "text.txt").write_text("x?" * 500, encoding="utf-8")
    result = laplm_("eval", tmp_path / "text.txt", "-m", tiny_model_dir, "--json", "--threads", 1)
    found = json.loads(result.out, parse_constant=lambda name: pytest.fail(name))["text"]
    assert found["word_perplexity"] is None and found["perplexity"] > 1


def test_a_window_is_1024_tokens_where_the_model_holds_more(tmp_path: Path) -> None:
    lm = LanguageModel(make_model(tmp_path / "m", n_positions=1100, n_layer=1), "fp32", threads=1)
    assert perplexity(lm, [Document("a", TEXT)]).window == 1024


def test_a_window_is_scored_piece_by_piece(lm, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = perplexity(lm, [Document("a", LONG)], window=100, stride=25)
    monkeypatch.setattr(evaluate, "_BLOCK", 8)
    pieces = perplexity(lm, [Document("a", LONG)], window=100, stride=25)
    assert dataclasses.replace(pieces, seconds=whole.seconds) == whole


@pytest.mark.parametrize("value", [0, 2.0, True, "9", -(10**300), math.nan])
@pytest.mark.parametrize("name", ["window", "stride"])
def test_windows_and_strides_are_whole_numbers_that_fit(lm, name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{name} is .{{1,60}}, but it must be a whole number"):
        perplexity(lm, [Document("a", TEXT)], **{name: value})


def test_losses_are_exact_for_extreme_logits(lm) -> None:
    from laplm.run.evaluate import _losses

    logits = np.array([[1e4, 0.0, -1e4], [5.0, 5.0, 5.0]], np.float32)
    losses, likeliest = _losses(logits, np.array([0, 2]))
    np.testing.assert_allclose(losses, [0.0, math.log(3)], atol=1e-7)
    assert likeliest.tolist() == [True, False]
