from __future__ import annotations

import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pyppmd
import pytest

from laplm.model.tokenizer import Tokenizer
from laplm.run.evaluate import Document, perplexity
from laplm.run.language_model import LanguageModel
from recipes.pocket import baseline
from recipes.pocket.baseline import (
    baselines,
    group_of,
    kneser_ney_costs,
    ppmd_costs,
    read_groups,
    xz_costs,
)
from recipes.pocket.make_corpus import write_documents

WORDS = "the cat dog Tim saw a big red ball and then ran home to his mom who was glad"


def stories(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS.split(), k=rng.randint(10, 40))) + "." for _ in range(n)]


def make_work(work: Path) -> Path:
    for seed, part in enumerate(("train", "heldout")):
        (work / part).mkdir(parents=True)
        n = 60 if part == "train" else 6
        for number, name in enumerate(("tinystories", "tinystories_more", "facts")):
            write_documents(work / part / f"{name}.txt", stories(n, 10 * seed + number))
        write_documents(work / part / "tf1_fables.txt", [])
    return work


@pytest.fixture
def tokenizer(tiny_model_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(tiny_model_dir)


def test_sources_are_stories_tales_or_facts() -> None:
    names = ("tinystories", "tinystories_more", "gutenberg_more", "tf1_fables", "facts")
    assert [group_of(name) for name in names] == ["stories", "stories", "tales", "tales", "facts"]


def test_a_source_without_documents_is_left_out(tmp_path: Path) -> None:
    groups = read_groups(make_work(tmp_path) / "heldout")
    assert {group: list(part) for group, part in groups.items()} == {
        "facts": ["facts"], "stories": ["tinystories", "tinystories_more"],
    }  # fmt: skip
    assert groups["facts"]["facts"] == stories(6, 12)


@pytest.mark.parametrize("costs", [xz_costs, ppmd_costs])
def test_what_was_read_before_costs_next_to_nothing(costs: Callable[..., baseline.Costs]) -> None:
    train = stories(300, 0)
    found = costs(train, {"copy": train[:100], "new": stories(100, 1)})
    (copied, n_bytes), (new, _) = found["copy"], found["new"]
    assert n_bytes == sum(len(text) + 1 for text in train[:100])
    assert new / n_bytes > 0.8
    assert copied / n_bytes < 0.1


@pytest.mark.parametrize("costs", [xz_costs, ppmd_costs])
def test_noise_costs_what_it_holds(costs: Callable[..., baseline.Costs]) -> None:
    rng = random.Random(0)
    noise = "".join(rng.choices("abcdefgh", k=20_000))  # three bits each
    ((bits, n_bytes),) = costs(stories(300, 0), {"noise": [noise]}).values()
    assert 3 <= bits / n_bytes < 3.7


def test_ppmd_costs_add_up_to_the_archive_of_all() -> None:
    train, heldout = stories(200, 0), {"a": stories(20, 1), "b": stories(30, 2)}
    text = "".join(f"{t}\n" for part in (train, *heldout.values()) for t in part).encode()
    settings = {"max_order": baseline.PPMD_ORDER, "mem_size": 64 << 20, "variant": "I"}
    whole = len(pyppmd.compress(text, **settings))
    before = len(pyppmd.compress("".join(f"{t}\n" for t in train).encode(), **settings))
    costs = ppmd_costs(train, heldout)
    assert sum(bits for bits, _ in costs.values()) / 8 == pytest.approx(whole - before, abs=8)


def test_xz_reaches_back_over_all_of_the_training_text() -> None:
    rng = random.Random(1)
    first = "".join(chr(rng.randrange(97, 123)) for _ in range(5_000))
    train = [first, *("".join(rng.choices("xyz", k=100_000)) for _ in range(3))]
    ((bits, n_bytes),) = xz_costs(train, {"again": [first]}).values()
    assert bits / n_bytes < 0.1
    assert 8 * len(lzma.compress(first.encode())) / len(first) > 4


def test_n_grams_are_scored_on_the_tokens_that_eval_scores(
    tiny_model_dir: Path, tokenizer: Tokenizer
) -> None:
    texts = [*stories(5, 1), "🙂 naïve"]
    ((bits, n_bytes),) = kneser_ney_costs(stories(50, 0), {"a": texts}, tokenizer).values()
    lm = LanguageModel(tiny_model_dir, "fp32", threads=1)
    assert n_bytes == perplexity(lm, [Document("", text) for text in texts]).bytes
    assert bits > 0


def test_n_grams_predict_the_beginning_of_a_document(tokenizer: Tokenizer) -> None:
    """All but the first token of a text that the training text has over and over."""
    ((bits, n_bytes),) = kneser_ney_costs(
        ["The cat ran home."] * 200, {"a": ["The cat ran home."]}, tokenizer
    ).values()
    assert n_bytes == len("The cat ran home.") - len(
        tokenizer.token_bytes(tokenizer.encode("The")[0])
    )
    assert bits < 1


def test_a_group_is_its_sources_together(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = baselines(make_work(tmp_path), tokenizer)
    assert set(found) == {"tinystories", "tinystories_more", "stories", "facts"}
    for method in baseline.METHODS:
        parts = sorted(found[name][method] for name in ("tinystories", "tinystories_more"))
        assert parts[0] <= found["stories"][method] <= parts[1]


def test_they_are_measured_again_only_when_something_changed(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path)
    found = baselines(work, tokenizer)
    calls = []
    measure = baseline.ppmd_costs

    def counted(train: list[str], heldout: baseline.Documents) -> baseline.Costs:
        calls.append(list(heldout))
        return measure(train, heldout)

    monkeypatch.setattr(baseline, "ppmd_costs", counted)
    assert baselines(work, tokenizer) == found
    assert calls == []
    write_documents(work / "heldout" / "facts.txt", stories(6, 99))
    assert baselines(work, tokenizer)["facts"] != found["facts"]
    assert calls == [["facts"], ["tinystories", "tinystories_more"]]
