"""The model in the package, as shipped."""

from __future__ import annotations

import importlib.resources
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer, GPT2LMHeadModel

import laplm
from laplm.model.families import config_from_hf, tensor_shapes
from laplm.model.files.checkpoint import open_checkpoint
from laplm.model.tokenizer import Tokenizer
from laplm.tune.models.gpt2 import TorchGPT
from recipes.pocket.capitals import begins_with
from recipes.pocket.facts import make_facts
from recipes.pocket.make_corpus import FACTS_SEED
from recipes.pocket.samples import (
    PROMPTS,
    check_words,
    draw,
    is_english,
    most_repeated_sentence,
)


@pytest.fixture(scope="module")
def pocket() -> Path:
    directory = importlib.resources.files("laplm") / "pocket"
    assert isinstance(directory, Path)
    return directory


@pytest.fixture(scope="module")
def hugging_face(pocket: Path) -> GPT2LMHeadModel:
    model, info = GPT2LMHeadModel.from_pretrained(
        pocket, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


def test_it_takes_at_most_twenty_five_megabytes(pocket: Path) -> None:
    assert sum(file.stat().st_size for file in pocket.rglob("*") if file.is_file()) <= 25_000_000


def test_weights_are_finite_fp16_of_the_stated_sizes(pocket: Path) -> None:
    config = config_from_hf(json.loads((pocket / "config.json").read_text()))
    tensors = load_file(pocket / "model.safetensors")
    shapes = {name.removeprefix("transformer."): t.shape for name, t in tensors.items()}
    assert shapes == tensor_shapes(config)
    assert {t.dtype for t in tensors.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(t).all() for t in tensors.values())
    assert config.head_dim % 16 == 0


def test_transformers_and_our_torch_model_give_the_same_logits(
    pocket: Path, hugging_face: GPT2LMHeadModel
) -> None:
    checkpoint = open_checkpoint(pocket)
    ours = TorchGPT(checkpoint.config)
    ours.load_tensors({name: checkpoint.tensor(name) for name in checkpoint.names})
    n_ctx = checkpoint.config.n_ctx
    ids = torch.randint(0, checkpoint.config.vocab_size, (2, n_ctx))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), hugging_face(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_hugging_face_copy_and_the_engine_give_the_same_logits(
    pocket: Path, tmp_path: Path
) -> None:
    """Both ways: transformers reads a plain copy of ours, the engine what transformers saves."""
    copy, saved = tmp_path / "copy", tmp_path / "saved"
    shutil.copytree(pocket, copy)
    theirs = GPT2LMHeadModel.from_pretrained(copy, dtype=torch.float32).eval()
    theirs.save_pretrained(saved)
    shutil.copy(pocket / "tokenizer.json", saved)
    ours, again = laplm.load("pocket", "fp32"), laplm.load(saved, "fp32")
    text = "Once upon a time, there was a little girl. The capital of Spain is Madrid.\n" * 20
    ids = np.array(ours.tokenizer.encode(text)[: ours.config.n_ctx])
    assert len(ids) > 200
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)[None]).logits[0].numpy()
    logits = ours.gpt.forward(ids)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(again.gpt.forward(ids), logits)


def test_both_tokenizers_agree_and_the_end_mark_is_the_last_id(pocket: Path) -> None:
    ours, theirs = Tokenizer.from_directory(pocket), AutoTokenizer.from_pretrained(pocket)
    text = 'One day, Lily said, "Hello!"\nÄ日本 🙂 \t  x'
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.decode(ours.encode(text)) == text
    assert ours.eos_token_id == theirs.eos_token_id == ours.vocab_size - 1


def test_once_upon_a_time_goes_on_in_english_words(
    pocket: Path, hugging_face: GPT2LMHeadModel
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pocket)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    end = tokenizer.eos_token_id
    out = hugging_face.generate(**prompt, max_new_tokens=60, do_sample=False, pad_token_id=end)
    text = tokenizer.decode(out[0])
    words = re.findall(r"[A-Za-z]+(?:'[a-z]+)?", text.replace("<|endoftext|>", ""))
    assert len(words) > 30, text
    assert sum(map(is_english, words)) >= 0.95 * len(words), text
    assert len(set(words)) > 15, text  # not one word over and over
    assert re.search(r"\. [A-Z]", text), text  # sentences


def test_it_knows_capitals_in_wordings_it_has_read_and_in_others() -> None:
    lm = laplm.load("pocket")
    said = lm.generate("The capital of Spain is", 3, temperature=0.0).text
    assert said.startswith(" Madrid"), said
    right = [
        probe.country
        for probe in make_facts(FACTS_SEED).probes
        if begins_with(lm.generate(probe.prompt, 8, temperature=0.0).text, probe.answer)
    ]
    assert len(right) >= 25, right


def test_stories_are_english_and_say_nothing_three_times() -> None:
    lm = laplm.load("pocket")
    samples = [
        sample for seed, prompt in enumerate(PROMPTS) for sample in draw(lm, prompt, seed=seed)
    ]
    assert len(samples) == 20
    checked = check_words(samples, frozenset())
    assert checked.words > 1000
    assert checked.share_in_list >= 0.95, checked.unknown
    assert max(most_repeated_sentence(sample.text)[1] for sample in samples) < 3


def test_it_predicts_a_story_far_better_than_its_scrambled_words(
    pocket: Path, hugging_face: GPT2LMHeadModel
) -> None:
    """A story written for this test, so it cannot have been trained on."""
    tokenizer = AutoTokenizer.from_pretrained(pocket)
    story = (
        "One day, a little frog sat by the pond. He wanted to play with the ducks, but he was too "
        'small. A kind duck saw him and said, "You can sit on my back." The frog was very happy.'
    )
    scrambled = " ".join(np.random.default_rng(0).permutation(story.split()))

    def bits_per_byte(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = float(hugging_face(ids, labels=ids).loss)
        return loss * (ids.shape[1] - 1) / math.log(2) / len(text.encode())

    assert bits_per_byte(story) < 1.4
    assert bits_per_byte(scrambled) > 1.5 * bits_per_byte(story)


def test_the_card_names_data_licence_and_limits(pocket: Path) -> None:
    card = (pocket / "MODEL_CARD.md").read_text(encoding="utf-8")
    for needed in ("TinyStories", "CDLA-Sharing-1.0", "GeoNames", "bits per byte", "not good for"):
        assert needed in card
    config = json.loads((pocket / "config.json").read_text())
    assert f"{config_from_hf(config).n_parameters:,}" in card
