"""The model in the package, as shipped."""

from __future__ import annotations

import importlib.resources
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer, GPT2LMHeadModel

from laplm.gpt.checkpoint import open_checkpoint
from laplm.gpt.config import GPTConfig, tensor_shapes
from laplm.gpt.tokenizer import Tokenizer
from laplm.tune.torch_model import TorchGPT

# Common words, as any small child's story is made of.
COMMON = """
a able about after again all along always am an and animals another any apple are around as ask
asked at ate away back bad ball be bear beautiful became because bed been before began being best
better big bird birds blue boat book both box boy bread bright bring brother brown but by cake
called came can car care careful cat catch chair child children close cold come could cried cry
dad dark day decided did different do dog doll door down dress drink each eat end enjoyed even
ever every everyone everything excited eyes face fall family far fast father feel fell felt few
find first fish floor flower flowers fly food for forest forever found friend friends from fun
game games garden gave get girl give go going good got grass great green grew had hair hand hands
happily happy hard has hat have he heard help helped her here hey hid high him his hole home hot
house how hug hugged hungry i if in inside into is it its jump jumped just keep kind knew know
laugh laughed learn learned leave left let like liked little lived long look looked looking lot
lots loud love loved made magic make man many may maybe me met mom moment mommy more morning
mother mouse mum my name named near new next nice night no noise not now of off oh ok old on once
one only open opened or other out outside over own park parents party people pick picked picture
place play played playing please pond pretty proud pull push put quickly rabbit ran ready really
red remember right river road rock room run running sad safe said same sat saw say scared school
see shared she shiny shoes show showed side sister sky sleep small smile smiled so some someone
something soon special squirrel started stay stop stopped store story strong stuck sun swim take
talk tall tell than thank that the their them then there they thing things think this thought
three time tired to together told too took top town toy toys tree trees tried trip truck try two
under until up upon us very wait walk walked walking wanted was water way we well went were what
when where which while white who why will wind window wise wish with woman wonderful wood woods
words work world would yard years yellow yes you young your
"""
NAMES = """
lily tim tom timmy ben mia sue jack max sam lucy anna sara spot amy jane emma bob john billy daisy
mary
"""
WORDS = frozenset((COMMON + NAMES).split())


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


def test_it_takes_at_most_four_megabytes(pocket: Path) -> None:
    assert sum(file.stat().st_size for file in pocket.rglob("*") if file.is_file()) <= 4_000_000


def test_weights_are_finite_fp16_of_the_stated_sizes(pocket: Path) -> None:
    config = GPTConfig.from_dict(json.loads((pocket / "config.json").read_text()))
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
    words = re.findall(r"[a-z]+", text.lower().replace("<|endoftext|>", ""))
    assert len(words) > 30, text
    known = [word for word in words if word in WORDS]
    assert len(known) >= 0.9 * len(words), text
    assert len(set(words)) > 15, text  # not one word over and over
    assert re.search(r"\. [A-Z]", text), text  # sentences


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
    for needed in ("TinyStories", "CDLA-Sharing-1.0", "bits per byte", "not good for"):
        assert needed in card
    config = json.loads((pocket / "config.json").read_text())
    assert f"{GPTConfig.from_dict(config).n_parameters:,}" in card
