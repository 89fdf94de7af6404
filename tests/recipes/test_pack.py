"""The last step of the recipe: a model directory with checksums, small enough for the package."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tokenizer_json
from transformers import GPT2LMHeadModel

from laplm import built_in
from laplm.errors import InputError, ModelFormatError, WriteError
from laplm.model.config import ModelConfig
from laplm.model.tokenizer import Tokenizer
from laplm.tune.models.gpt2 import TorchGPT
from recipes.pocket import pack as packing
from recipes.pocket.token_data import TokenData


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TorchGPT:
    """A model as the training step leaves it in ``tmp_path``."""
    make_tokenizer_json(tmp_path)
    size = Tokenizer.from_directory(tmp_path).vocab_size
    model = TorchGPT(
        ModelConfig(
            vocab_size=size, n_ctx=64, n_embd=32, n_layer=2, n_head=2, eos_token_ids=(size - 1,)
        )
    )
    model.initialise(seed=0)
    data = np.random.default_rng(0).integers(0, size, 1000).astype(np.uint16)
    TokenData(tokens=data, starts=np.array([0]), n_bytes=2000).save(tmp_path / "train.npz")
    # A model of its own each time: packing changes what it gets.
    monkeypatch.setattr(packing, "load_trained", lambda work: copy.deepcopy(model).eval())
    return model


def test_what_is_packed_passes_the_check_and_its_size_is_told(
    tmp_path: Path, trained: TorchGPT
) -> None:
    target = tmp_path / "model"
    size = packing.pack(tmp_path, target)
    built_in.check(target)
    assert {path.name for path in target.iterdir()} == {*built_in.FILES, built_in.CHECKSUMS}
    assert size == sum(path.stat().st_size for path in target.iterdir())


def test_transformers_gives_the_logits_of_the_model_that_was_packed(
    tmp_path: Path, trained: TorchGPT
) -> None:
    packing.pack(tmp_path, tmp_path / "model")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    ids = torch.randint(0, trained.config.vocab_size, (2, 64))
    with torch.no_grad():
        expected, found = trained(ids), theirs(ids).logits
    # Evened out, the numbers no longer fit fp16 exactly.
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3 * float(expected.std()))


def test_packing_again_replaces_the_checksums_and_keeps_the_card(
    tmp_path: Path, trained: TorchGPT
) -> None:
    target = tmp_path / "model"
    packing.pack(tmp_path, target)
    (target / built_in.CARD).write_text("# pocket\n")
    before = (target / built_in.CHECKSUMS).read_text()
    with torch.no_grad():
        trained.wte.weight += 1
    packing.pack(tmp_path, target)
    built_in.check(target)
    after = (target / built_in.CHECKSUMS).read_text()
    changed = set(after.splitlines()) - set(before.splitlines())
    assert [line.split("  ")[1] for line in changed] == ["model.safetensors"]
    assert (target / built_in.CARD).read_text() == "# pocket\n"


def test_a_packed_file_that_is_damaged_later_is_named(tmp_path: Path, trained: TorchGPT) -> None:
    target = tmp_path / "model"
    packing.pack(tmp_path, target)
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2])
    with pytest.raises(ModelFormatError, match=r"damaged: model\.safetensors"):
        built_in.check(target)


def test_the_limit_is_twenty_five_megabytes_and_counts_all_files(
    tmp_path: Path, trained: TorchGPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packing.MAX_BYTES == 25_000_000
    target = tmp_path / "model"
    size = packing.pack(tmp_path, target)
    monkeypatch.setattr(packing, "MAX_BYTES", size)
    packing.pack(tmp_path, target)
    (target / built_in.CARD).write_text("x")
    with pytest.raises(InputError, match="more than the"):
        packing.pack(tmp_path, target)


def test_checksums_that_cannot_be_written_are_named(tmp_path: Path, trained: TorchGPT) -> None:
    target = tmp_path / "model"
    packing.pack(tmp_path, target)
    (target / built_in.CHECKSUMS).unlink()
    (target / built_in.CHECKSUMS).mkdir()
    with pytest.raises(WriteError, match="SHA256SUMS"):
        packing.write_checksums(target)
