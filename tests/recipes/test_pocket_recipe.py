from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2LMHeadModel

from laplm.errors import InputError
from laplm.gpt.config import GPTConfig
from laplm.tune.data import TokenData
from laplm.tune.trainer import TrainConfig
from recipes.pocket import __main__ as recipe
from recipes.pocket import evaluate as evaluation
from recipes.pocket import pack as packing
from recipes.pocket import train as training
from recipes.pocket.make_corpus import is_held_out, make_corpus, read_documents, split_documents
from recipes.pocket.train_tokenizer import encode_corpus, encode_documents, train_tokenizer

NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eve")
THINGS = ("ball", "kite", "boat", "cake", "drum")


def make_source(directory: Path, n_documents: int = 600, seed: int = 0) -> Path:
    rng = random.Random(seed)
    documents = []
    for _ in range(n_documents):
        lines = [
            f"{rng.choice(NAMES)} gave {rng.choice(NAMES)} {rng.randint(2, 99)} {thing}s."
            for thing in rng.choices(THINGS, k=rng.randint(3, 9))
        ]
        documents.append("\n".join(lines))
    directory.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{document}\n<|endoftext|>\n" for document in documents)
    (directory / "tinystories.txt").write_text(text, encoding="utf-8")
    return directory


def small_model(tokenizer: Tokenizer) -> GPTConfig:
    return GPTConfig(
        vocab_size=tokenizer.get_vocab_size(), n_ctx=64, n_embd=32, n_layer=2, n_head=2,
        eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )  # fmt: skip


def small_training(max_steps: int) -> TrainConfig:
    return TrainConfig(
        max_steps=max_steps, learning_rate=1e-2, batch_size=8, n_positions=64, warmup_steps=5,
        eval_interval=20, eval_windows=4, seed=1,
    )  # fmt: skip


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "model_config", small_model)
    monkeypatch.setattr(recipe, "train_config", small_training)
    monkeypatch.setattr(evaluation, "SAMPLES_PER_PROMPT", 2)
    monkeypatch.setattr(evaluation, "SAMPLE_TOKENS", 20)


def run(tmp_path: Path, *more: str, output: str = "model") -> int:
    return recipe.main(
        ["--corpus", str(tmp_path / "corpus"), "--work", str(tmp_path / "work"),
         "--output", str(tmp_path / output), "--max-steps", "60", *more]
    )  # fmt: skip


def test_one_command_makes_a_model_that_transformers_loads(
    tmp_path: Path, small_recipe: None
) -> None:
    make_source(tmp_path / "corpus")
    assert run(tmp_path) == 0
    work, model_dir = tmp_path / "work", tmp_path / "model"

    report = json.loads((work / "evaluation.json").read_text())
    assert report["heldout_bits_per_byte"] < 0.9 * report["xz_bits_per_byte"]
    assert len((work / "samples.txt").read_text().split("---")) == report["samples"] == 10
    cost = json.loads((work / "training.json").read_text())
    assert cost["steps"] == 60
    assert cost["tokens"] == 60 * 8 * 64
    assert not (work / "train.pid").exists()

    theirs, info = GPT2LMHeadModel.from_pretrained(
        model_dir, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours = evaluation.load_trained(work)
    ids = torch.randint(0, ours.config.vocab_size, (2, 64))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-5)

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    own = Tokenizer.from_file(str(work / "tokenizer.json"))
    text = "Ann gave Bob 7 balls.\n"
    assert tokenizer(text)["input_ids"] == own.encode(text).ids
    assert tokenizer.eos_token_id == ours.config.eos_token_id == ours.config.vocab_size - 1


def test_stopped_recipe_called_again_ends_with_the_same_files(
    tmp_path: Path, small_recipe: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source(tmp_path / "corpus")
    assert run(tmp_path, output="whole") == 0
    (tmp_path / "work").rename(tmp_path / "done")

    trainer_run = training.Trainer.run

    def stop_half_way(self: training.Trainer) -> object:
        trainer_run(self, stop_at=25)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "run", stop_half_way)
        assert run(tmp_path) == 130
    assert not (tmp_path / "model").exists()
    assert run(tmp_path) == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_changed_corpus_does_not_go_on_with_the_old_training(
    tmp_path: Path, small_recipe: None, capsys: pytest.CaptureFixture[str]
) -> None:
    make_source(tmp_path / "corpus")
    assert run(tmp_path) == 0
    make_source(tmp_path / "corpus", seed=1)
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "another directory" in error
    assert "Traceback" not in error


def test_two_trainings_do_not_share_a_directory(
    tmp_path: Path, small_recipe: None, capsys: pytest.CaptureFixture[str]
) -> None:
    make_source(tmp_path / "corpus")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "train.pid").write_text(f"{os.getpid()}\n")
    assert run(tmp_path) == 2
    assert f"process {os.getpid()} is training in" in capsys.readouterr().err
    # Left behind by a killed process (one that has just ended, so its id is free).
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "work" / "train.pid").write_text(f"{ended.pid}\n")
    assert run(tmp_path) == 0


def test_missing_corpus_is_one_line_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "tinystories.txt is missing; --corpus must name" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good \xff bad", "not UTF-8 text"),
        (b"one story\n<|endoftext|>\n", "1 documents, too few"),
        (b"", "0 documents"),
    ],
)
def test_unusable_corpus_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tinystories.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        make_corpus(tmp_path, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_held_out_documents_are_a_fixed_one_percent_whatever_their_order(tmp_path: Path) -> None:
    documents = [f"story number {i}" for i in range(20_000)]
    out = [d for d in documents if is_held_out(d, 1.0)]
    assert 150 < len(out) < 250
    for name, order in (("a", documents), ("b", documents[::-1])):
        (tmp_path / name).mkdir()
        text = "\n<|endoftext|>\n".join(order)
        (tmp_path / name / "tinystories.txt").write_text(text, encoding="utf-8")
        make_corpus(tmp_path / name, tmp_path / name / "work")
        work = tmp_path / name / "work"
        train, heldout = (read_documents(work / f"{part}.txt") for part in ("train", "heldout"))
        assert set(heldout) == set(out)
        assert set(train) == set(documents) - set(out)


def test_report_names_source_and_licence(tmp_path: Path) -> None:
    make_corpus(make_source(tmp_path / "corpus"), tmp_path / "work")
    (report,) = json.loads((tmp_path / "work" / "corpus.json").read_text())
    assert report["licence"] == "CDLA-Sharing-1.0"
    assert report["train_documents"] + report["heldout_documents"] == 600


def test_encoded_documents_decode_to_the_text(tmp_path: Path) -> None:
    work = tmp_path / "work"
    make_corpus(make_source(tmp_path / "corpus"), work)
    train_tokenizer(work, 330)
    encode_corpus(work)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 330
    assert tokenizer.token_to_id("<|endoftext|>") == 329
    for part in ("train", "heldout"):
        data = TokenData.load(work / f"{part}.npz")
        documents = read_documents(work / f"{part}.txt")
        text = tokenizer.decode(data.tokens.tolist(), skip_special_tokens=False)
        assert split_documents(text) == documents
        assert data.n_bytes == sum(len(d.encode()) for d in documents)
        ends = np.flatnonzero(data.tokens == 329)
        assert [0, *(ends[:-1] + 1)] == data.starts.tolist()


def test_tokenizer_of_the_same_corpus_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_corpus(make_source(tmp_path / name), tmp_path / name / "work")
        train_tokenizer(tmp_path / name / "work", 500)
    a, b = ((tmp_path / n / "work" / "tokenizer.json").read_bytes() for n in ("a", "b"))
    assert a == b


def test_strided_loss_counts_every_token_but_the_first_once(tmp_path: Path) -> None:
    """With a window longer than the stream it is transformers' own loss of the whole stream."""
    make_corpus(make_source(tmp_path / "corpus"), tmp_path)
    train_tokenizer(tmp_path, 300)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    data = encode_documents(tokenizer, read_documents(tmp_path / "heldout.txt"))
    model = training.TorchGPT(small_model(tokenizer))
    model.initialise(0)
    tokens = torch.from_numpy(data.tokens.astype(np.int64))
    n = len(tokens)
    assert n > 64
    theirs = GPT2LMHeadModel.config_class(**model.config.to_dict())
    reference = GPT2LMHeadModel(theirs).eval()
    reference.load_state_dict(
        {f"transformer.{k}": v for k, v in model.state_dict().items()}
        | {"lm_head.weight": model.wte.weight}
    )
    short = TokenData(tokens=data.tokens[:60], starts=data.starts, n_bytes=1)
    with torch.no_grad():
        expected = reference(tokens[None, :60], labels=tokens[None, :60]).loss
        assert evaluation.strided_loss(model, short, 64, 32) == pytest.approx(
            float(expected), rel=1e-5
        )
        # The usual sliding loop: targets that were counted before are masked.
        total, counted, previous = 0.0, 0, 0
        for begin in range(0, n, 16):
            end = min(begin + 33, n)
            labels = tokens[None, begin:end].clone()
            labels[:, : previous - begin] = -100
            number = int((labels[:, 1:] != -100).sum())
            if number:
                loss = reference(tokens[None, begin:end], labels=labels).loss
                total, counted = total + float(loss) * number, counted + number
            previous = end
            if end == n:
                break
    assert counted == n - 1
    assert evaluation.strided_loss(model, data, 32, 16) == pytest.approx(total / counted, rel=1e-5)


def test_known_words_counts_misspelt_ones() -> None:
    text = "the cat sat on a hat; the cat's"
    assert evaluation.known_words(["The cat sat.", "Teh cat's hat"], text) == pytest.approx(5 / 6)


def test_model_too_large_for_the_package_is_refused_before_writing(
    tmp_path: Path, small_recipe: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source(tmp_path / "corpus")
    monkeypatch.setattr(packing, "MAX_BYTES", 50_000)
    assert run(tmp_path) == 2
    assert not (tmp_path / "model").exists()


def test_nothing_trained_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train the model first"):
        packing.pack(tmp_path, tmp_path / "model")
