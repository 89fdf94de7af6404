"""The files in tests/data/openai_release were written by TensorFlow 2.21's ``tf.train.Saver``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tokenizer_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tokenizer import vocab_and_merges
from transformers import GPT2Config, GPT2LMHeadModel

from laplm.errors import ModelFormatError
from laplm.model.families import tensor_shapes
from laplm.model.files.checkpoint import open_checkpoint, read_config
from laplm.model.reference import DenseWeights, forward
from laplm.model.tokenizer import Tokenizer

RELEASE = Path(__file__).parents[2] / "data" / "openai_release"
DATA = "model.ckpt.data-00000-of-00001"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RELEASE, tmp_path / "124M"))


def test_sizes_are_those_of_hparams(directory: Path) -> None:
    config = read_config(directory)
    assert (config.vocab_size, config.n_ctx, config.n_embd) == (31, 16, 8)
    assert (config.n_head, config.n_layer, config.eos_token_id) == (2, 2, 30)


def test_every_tensor_is_what_was_written(directory: Path) -> None:
    checkpoint = open_checkpoint(directory)
    # The order of the writing program: as tensor_shapes, with the number k of each in its values.
    for k, (name, shape) in enumerate(tensor_shapes(checkpoint.config).items()):
        values = (np.arange(np.prod(shape)) * 7919 + k * 101) % 1009 / 1009 - 0.5
        expected = values.astype(np.float32).reshape(shape)
        assert np.array_equal(checkpoint.tensor(name), expected), name
        assert checkpoint.mapped(name)
    assert checkpoint.dtype == "fp32"
    assert checkpoint.size_bytes == (directory / DATA).stat().st_size


def test_model_computes_what_transformers_computes(directory: Path) -> None:
    checkpoint = open_checkpoint(directory)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    config = GPT2Config(vocab_size=31, n_positions=16, n_embd=8, n_head=2, n_layer=2)
    model = GPT2LMHeadModel(config).eval()
    state = {f"transformer.{n}": torch.from_numpy(t.copy()) for n, t in tensors.items()}
    model.load_state_dict(state, strict=False)
    ids = np.arange(10)
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)[None]).logits[0].numpy()
    ours = forward(ids, DenseWeights(tensors, checkpoint.config), checkpoint.config)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_its_tokenizer_files_are_read(directory: Path, tmp_path: Path) -> None:
    make_tokenizer_json(tmp_path)
    vocab_and_merges(tmp_path, directory)
    (directory / "vocab.json").rename(directory / "encoder.json")
    (directory / "merges.txt").rename(directory / "vocab.bpe")
    assert Tokenizer.from_directory(directory).decode([40, 41]) == Tokenizer.from_directory(
        tmp_path
    ).decode([40, 41])


def test_fingerprint_covers_the_index_and_the_data(directory: Path) -> None:
    seen = {open_checkpoint(directory).fingerprint}
    for name in ("hparams.json", "model.ckpt.index", DATA):
        (directory / name).write_bytes((directory / name).read_bytes())
        seen.add(open_checkpoint(directory).fingerprint)
    assert len(seen) == 4


def test_cut_data_is_named_with_both_lengths(directory: Path) -> None:
    data = (directory / DATA).read_bytes()
    (directory / DATA).write_bytes(data[:-4])
    with pytest.raises(ModelFormatError, match=f"{DATA}: cut short: 8,540 bytes.*8,544"):
        open_checkpoint(directory)


def test_missing_data_is_named(directory: Path) -> None:
    (directory / DATA).unlink()
    with pytest.raises(ModelFormatError, match=f"{DATA}: no such file"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_layer": 3}, "12 of 40 tensors missing"),
        ({"n_layer": 1}, "no gpt2 of these sizes has: 12"),
        ({"n_vocab": 32}, r"wte.weight is \[31, 8\], not \[32, 8\]"),
        ({"n_vocab": "x"}, "vocab_size is 'x'"),
        ({"n_head": 3}, "cannot be split"),
    ],
)
def test_hparams_that_do_not_fit_are_refused(
    directory: Path, change: dict[str, object], words: str
) -> None:
    file = directory / "hparams.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelFormatError, match=words):
        open_checkpoint(directory)


def test_incomplete_hparams_are_refused(directory: Path) -> None:
    (directory / "hparams.json").write_text('{"n_vocab": 31}')
    with pytest.raises(ModelFormatError, match=r"hparams\.json lacks n_ctx, n_embd"):
        open_checkpoint(directory)


@given(st.integers(0, 918), st.binary(min_size=1, max_size=4), st.booleans())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_index_never_gives_anything_but_a_plain_refusal(
    tmp_path: Path, at: int, junk: bytes, cut: bool
) -> None:
    place = tmp_path / "release"
    if not place.exists():
        shutil.copytree(RELEASE, place)
    raw = bytearray((RELEASE / "model.ckpt.index").read_bytes())
    raw[at : at + len(junk)] = junk
    (place / "model.ckpt.index").write_bytes(raw[:at] if cut else raw)
    try:
        checkpoint = open_checkpoint(place)
    except ModelFormatError as error:
        assert "\n" not in str(error)
    else:
        for name in checkpoint.names:
            assert checkpoint.tensor(name).shape == tensor_shapes(checkpoint.config)[name]
