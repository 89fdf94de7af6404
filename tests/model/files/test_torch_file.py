"""Pickle files: what is read of them, and that nothing of them is run."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laplm.model.files.checkpoint import open_checkpoint
from tests.model.files.opening import assert_same_model, refused, state_of, with_head


@pytest.fixture
def directory(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_through_torchs_restricted_loader(directory: Path, legacy: bool) -> None:
    state = with_head(state_of(directory))
    state["lm_head.weight"] = state["transformer.wte.weight"]  # one storage, as transformers saves
    (directory / "model.safetensors").unlink()
    file = directory / "pytorch_model.bin"
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    checkpoint = assert_same_model(directory)
    assert checkpoint.config.tied and checkpoint.size_bytes == file.stat().st_size
    rows = checkpoint.rows("wte.weight")(np.array([3, 0, 3]))
    assert np.array_equal(rows, checkpoint.tensor("wte.weight")[[3, 0, 3]])


def test_pickle_shards_in_bf16(directory: Path) -> None:
    state = {n: t.to(torch.bfloat16) for n, t in state_of(directory).items()}
    (directory / "model.safetensors").unlink()
    parts = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    weight_map = {name: parts[i % 2] for i, name in enumerate(state)}
    for part in parts:
        torch.save({n: t for n, t in state.items() if weight_map[n] == part}, directory / part)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert assert_same_model(directory).dtype == "bf16"


def test_safetensors_are_preferred_to_a_pickle(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"not to be read")
    assert_same_model(directory)


class Payload:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.file, "done"))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickle_that_would_run_code_is_refused_and_does_not(directory: Path, writer: str) -> None:
    (directory / "model.safetensors").unlink()
    file, proof = directory / "pytorch_model.bin", directory / "proof"
    content = {"wte.weight": Payload(proof)}
    if writer == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    message = refused(directory)
    assert "pytorch_model.bin" in message
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"PK\x03\x04" + b"\0" * 40, b"\0" * 99])
def test_damaged_pickle_is_one_plain_line(directory: Path, content: bytes) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(content)
    assert "pytorch_model.bin: " in refused(directory)


@pytest.mark.parametrize("content", [[1, 2], {"step": 3}, {"wte.weight": [1.0]}])
def test_pickle_of_something_else_is_refused(directory: Path, content: object) -> None:
    (directory / "model.safetensors").unlink()
    torch.save(content, directory / "pytorch_model.bin")
    assert "not a table of tensors by name" in refused(directory)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t: t.to_sparse(), "stored as sparse_coo, on cpu"),
        (lambda t: t.to_sparse_csr(), "stored as sparse_csr, on cpu"),
        (lambda t: t.to("meta"), "stored as strided, on meta"),
        (lambda t: t.to(torch.complex64), "stored as complex64"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "stored as qint8"),
        (lambda t: t[0, 0], "another shape than config.json asks for"),
    ],
)
@pytest.mark.parametrize("name", ["transformer.wte.weight", "lm_head.weight"])
@pytest.mark.filterwarnings("ignore")
def test_pickles_of_what_is_no_plain_matrix_are_named(
    directory: Path, name: str, make: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    state = with_head(state_of(directory))
    (directory / "model.safetensors").unlink()
    torch.save(state | {name: make(state[name])}, directory / "pytorch_model.bin")
    message = refused(directory)
    assert words in message and name.removeprefix("transformer.") in message


def test_pickled_views_are_read(directory: Path) -> None:
    state = state_of(directory)
    (directory / "model.safetensors").unlink()
    name = "transformer.h.0.mlp.c_fc.weight"
    state[name] = state[name].T.contiguous().T
    state["transformer.ln_f.bias"] = torch.nn.Parameter(state["transformer.ln_f.bias"])
    torch.save(state, directory / "pytorch_model.bin")
    assert_same_model(directory)


def test_pickle_without_torch_says_how_to_convert(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state_of(directory), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    monkeypatch.setitem(sys.modules, "torch", None)
    message = refused(directory)
    assert 'pip install "laplm[tune]"' in message
    command = message.partition('python -c "')[2].rstrip('"')
    monkeypatch.undo()
    monkeypatch.chdir(directory.parent)
    exec(command)  # the command of the message does what it says
    assert open_checkpoint(Path("converted")).config == open_checkpoint(directory).config
