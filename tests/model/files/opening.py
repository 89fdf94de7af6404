"""What a model directory is opened as, here and in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from laplm.errors import ModelFormatError
from laplm.model.families import tensor_shapes
from laplm.model.files.checkpoint import Checkpoint, open_checkpoint
from laplm.model.reference import DenseWeights, forward

IDS = [5, 17, 300, 2, 2, 40]
State = dict[str, torch.Tensor]


def state_of(directory: Path) -> State:
    return dict(load_file(directory / "model.safetensors"))


def our_logits(checkpoint: Checkpoint) -> np.ndarray[Any, Any]:
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    return forward(np.array(IDS), DenseWeights(tensors, checkpoint.config), checkpoint.config)


def their_logits(directory: Path) -> np.ndarray[Any, Any]:
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model(torch.tensor([IDS])).logits[0].numpy()
    return logits


def assert_same_model(directory: Path) -> Checkpoint:
    """What we open is what transformers opens: every number, and the logits."""
    checkpoint = open_checkpoint(directory)
    state = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).state_dict()
    assert list(checkpoint.names) == list(tensor_shapes(checkpoint.config))
    for name in checkpoint.names:
        theirs = state.get(f"transformer.{name}", state.get(name))
        assert theirs is not None
        ours = checkpoint.tensor(name)
        assert ours.dtype == np.float32 and np.array_equal(ours, theirs.numpy()), name
    np.testing.assert_allclose(our_logits(checkpoint), their_logits(directory), atol=1e-5)
    return checkpoint


def with_head(state: State) -> State:
    return state | {"lm_head.weight": state["transformer.wte.weight"].clone()}


def refused(directory: Path) -> str:
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(directory)
    message = str(caught.value)
    assert str(directory) in message and "\n" not in message
    return message
