"""The recipe of the built-in model, on a corpus and with a model that take seconds."""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2LMHeadModel

from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.tune.trainer import TrainConfig
from recipes.pocket import __main__ as recipe
from recipes.pocket import make_corpus as corpus_step
from recipes.pocket import pack as packing
from recipes.pocket import train as training
from recipes.pocket.facts import make_facts
from recipes.pocket.make_corpus import (
    FACTS,
    SOURCES,
    held_out,
    make_corpus,
    read_documents,
    split_documents,
)
from recipes.pocket.token_data import TokenData
from recipes.pocket.train import RecipeConfig
from recipes.pocket.train_tokenizer import encode_corpus, train_tokenizer

NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eve")
THINGS = ("ball", "kite", "boat", "cake", "drum")
EVERY = (*SOURCES, FACTS)


def make_documents(n_documents: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    documents = []
    for _ in range(n_documents):
        lines = [
            f"{rng.choice(NAMES)} gave {rng.choice(NAMES)} {rng.randint(2, 99)} {thing}s."
            for thing in rng.choices(THINGS, k=rng.randint(3, 9))
        ]
        documents.append("\n".join(lines))
    return documents


def write_source(path: Path, documents: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{d}\n<|endoftext|>\n" for d in documents), encoding="utf-8")


def make_sources(directory: Path, n_documents: int = 60, seed: int = 0) -> Path:
    """A corpus directory with a small file for every source of the recipe."""
    for i, source in enumerate(SOURCES):
        documents = make_documents(n_documents, 100 * seed + i)
        write_source(directory / f"{source.name}.txt", documents)
    return directory


def documents_of(work: Path, part: str) -> dict[str, list[str]]:
    return {s.name: read_documents(work / part / f"{s.name}.txt") for s in EVERY}


def small_model(tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig(
        vocab_size=tokenizer.get_vocab_size(), n_ctx=64, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=(end := tokenizer.token_to_id("<|endoftext|>")), eos_token_ids=(end,),
    )  # fmt: skip


def small_training(max_steps: int) -> RecipeConfig:
    train = TrainConfig(
        max_steps=max_steps, learning_rate=1e-2, batch_size=8, n_positions=64, warmup_steps=5,
        eval_interval=20, eval_windows=4, seed=1,
    )  # fmt: skip
    return RecipeConfig(train=train, short_positions=32, short_share=0.5, optimizer="muon")


@pytest.fixture(autouse=True)
def few_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_step, "make_facts", functools.partial(make_facts, exposures=2))


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The whole recipe in a few seconds; the directories that were to be evaluated.

    Evaluation has its own tests, in test_pocket_evaluate.py.
    """
    evaluated: list[Path] = []

    def evaluate(model_dir: Path, work: Path) -> dict[str, object]:
        evaluated.append(model_dir)
        return {}

    monkeypatch.setattr(recipe, "evaluate", evaluate)
    monkeypatch.setattr(recipe, "VOCAB_SIZE", 600)
    monkeypatch.setattr(training, "model_config", small_model)
    monkeypatch.setattr(recipe, "train_config", small_training)
    return evaluated


def run(tmp_path: Path, *more: str, output: str = "model") -> int:
    return recipe.main(
        ["--corpus", str(tmp_path / "corpus"), "--work", str(tmp_path / "work"),
         "--output", str(tmp_path / output), "--max-steps", "40", *more]
    )  # fmt: skip


def test_one_command_makes_a_model_that_transformers_loads(
    tmp_path: Path, small_recipe: list[Path]
) -> None:
    make_sources(tmp_path / "corpus")
    assert run(tmp_path) == 0
    work, model_dir = tmp_path / "work", tmp_path / "model"
    assert small_recipe == [model_dir]

    cost = json.loads((work / "training.json").read_text())
    assert cost["steps"] == 40
    assert cost["tokens"] == 40 * 8 * 64
    assert cost["heldout_bits_per_byte"] < 8
    assert not (work / "train.pid").exists()

    theirs, info = GPT2LMHeadModel.from_pretrained(
        model_dir, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    trained = training.load_trained(work)
    ids = torch.randint(0, trained.config.vocab_size, (2, 64))
    expected = trained(ids)
    # Packed in fp16.
    tolerance = 5e-3 * float(expected.std())
    torch.testing.assert_close(theirs(ids).logits, expected, rtol=0, atol=tolerance)

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    own = Tokenizer.from_file(str(work / "tokenizer.json"))
    text = "Ann gave Bob 7 balls.\n"
    assert tokenizer(text)["input_ids"] == own.encode(text).ids
    assert tokenizer.eos_token_id == trained.config.eos_token_id == trained.config.vocab_size - 1


def test_stopped_recipe_called_again_ends_with_the_same_files(
    tmp_path: Path, small_recipe: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sources(tmp_path / "corpus")
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
    for name in ("model.safetensors", "config.json", "tokenizer.json", "SHA256SUMS"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_changed_corpus_does_not_go_on_with_the_old_training(
    tmp_path: Path, small_recipe: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_sources(tmp_path / "corpus")
    assert run(tmp_path) == 0
    make_sources(tmp_path / "corpus", seed=1)
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "another directory" in error
    assert "Traceback" not in error


def test_two_trainings_do_not_share_a_directory(
    tmp_path: Path, small_recipe: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_sources(tmp_path / "corpus")
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
        (b"one story\n<|endoftext|>\n" * 9, "9 documents, too few"),
        (b"", "0 documents"),
    ],
)
def test_unusable_corpus_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    make_sources(tmp_path)
    (tmp_path / "tf1_fables.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        make_corpus(tmp_path, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_held_out_documents_are_one_percent_whatever_their_order() -> None:
    documents = [f"story number {i}" for i in range(20_000)]
    out = held_out(documents, 1.0)
    assert len(out) == 200
    assert out == held_out(documents[::-1] + documents[:50], 1.0)
    assert out < set(documents)
    # More documents move only those at the edge: the others stay on their side.
    assert len(out - held_out([*documents, *(f"tale {i}" for i in range(100))], 1.0)) <= 10


def test_a_source_of_few_documents_holds_three_out() -> None:
    assert len(held_out([f"tale {i}" for i in range(92)], 1.0)) == 3


def test_no_document_is_both_trained_on_and_held_out(tmp_path: Path) -> None:
    """Not even when it is held out of one source and also stands in another."""
    make_sources(tmp_path)
    twice = make_documents(60, 0)
    write_source(tmp_path / f"{SOURCES[1].name}.txt", [*twice, *make_documents(60, 77)])
    make_corpus(tmp_path, tmp_path / "work")
    train, heldout = (documents_of(tmp_path / "work", part) for part in ("train", "heldout"))
    apart = {text for documents in heldout.values() for text in documents}
    assert not apart & {text for documents in train.values() for text in documents}
    out = held_out(twice, 1.0)
    assert len(out) == 3
    assert not out & set(train[SOURCES[1].name])
    for source in SOURCES:
        documents = set(read_documents(tmp_path / f"{source.name}.txt"))
        assert set(heldout[source.name]) == held_out(sorted(documents), 1.0)
        assert set(train[source.name]) | apart >= documents


def test_report_names_sources_licences_and_sizes(tmp_path: Path) -> None:
    make_corpus(make_sources(tmp_path / "corpus"), tmp_path / "work")
    report = {r["name"]: r for r in json.loads((tmp_path / "work" / "corpus.json").read_text())}
    assert report.keys() == {source.name for source in EVERY}
    assert report["tinystories"]["licence"] == "CDLA-Sharing-1.0"
    assert report["tinystories"]["train_documents"] == 57
    assert report["tinystories"]["heldout_documents"] == 3
    train = documents_of(tmp_path / "work", "train")
    for name, each in report.items():
        assert each["licence"]
        assert each["train_bytes"] == sum(len(text.encode()) for text in train[name])


def test_probes_ask_what_the_training_text_tells_in_other_words(tmp_path: Path) -> None:
    work = tmp_path / "work"
    make_corpus(make_sources(tmp_path / "corpus"), work)
    probes = [json.loads(line) for line in (work / "probes.jsonl").read_text().splitlines()]
    assert len(probes) == 40
    told = "\n".join(documents_of(work, "train")["facts"])
    for probe in probes:
        assert probe["prompt"] not in told
        assert probe["answer"] in told
    pairs = json.loads((work / "heldout_pairs.json").read_text())
    capitals = {object_ for relation, _, object_ in pairs if relation == "capital"}
    assert len(capitals) >= 4
    assert not any(capital in told for capital in capitals)


def test_encoded_documents_decode_to_the_text_as_often_as_their_source_says(
    tmp_path: Path,
) -> None:
    work = tmp_path / "work"
    make_corpus(make_sources(tmp_path / "corpus"), work)
    train_tokenizer(work, 700)
    encode_corpus(work)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 700
    assert tokenizer.token_to_id("<|endoftext|>") == 699
    for part in ("train", "heldout"):
        data = TokenData.load(work / f"{part}.npz")
        text = tokenizer.decode(data.tokens.tolist(), skip_special_tokens=False)
        expected: Counter[str] = Counter()
        for source in EVERY:
            times = source.repeats if part == "train" else 1
            for document in documents_of(work, part)[source.name]:
                expected[document] += times
        assert Counter(split_documents(text)) == expected
        assert data.n_bytes == sum(len(d.encode()) * n for d, n in expected.items())
        ends = np.flatnonzero(data.tokens == 699)
        assert [0, *(ends[:-1] + 1)] == data.starts.tolist()


def test_same_corpus_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        work = tmp_path / name / "work"
        make_corpus(make_sources(tmp_path / name), work)
        train_tokenizer(work, 500)
        encode_corpus(work)
    for file in ("tokenizer.json", "corpus.json", "probes.jsonl", "train/facts.txt"):
        a, b = ((tmp_path / n / "work" / file).read_bytes() for n in ("a", "b"))
        assert a == b
    a, b = (TokenData.load(tmp_path / n / "work" / "train.npz").digest() for n in ("a", "b"))
    assert a == b


def test_model_too_large_for_the_package_is_refused_before_writing(
    tmp_path: Path, small_recipe: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sources(tmp_path / "corpus")
    monkeypatch.setattr(packing, "MAX_BYTES", 50_000)
    assert run(tmp_path) == 2
    assert not (tmp_path / "model").exists()


def test_nothing_trained_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train the model first"):
        packing.pack(tmp_path, tmp_path / "model")
