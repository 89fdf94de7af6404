"""A trace against TransformerLens's own cache of the same weights, nothing folded or centred."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from laplm.look.views.trace import Trace, trace
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little dog. The little dog"


@pytest.fixture(scope="module")
def found(pocket: LanguageModel) -> Trace:
    return trace(pocket, TEXT)


@pytest.fixture(scope="module")
def cache(pocket: LanguageModel, found: Trace) -> dict[str, np.ndarray]:
    from transformer_lens import model_bridge as bridge  # seconds, which others need not wait

    # Its own copy of the model: the bridge rebuilds what it is given.
    hf = GPT2LMHeadModel.from_pretrained(
        pocket.path, dtype=torch.float32, attn_implementation="eager"
    )
    model: Any = bridge.TransformerBridge.boot_transformers(
        str(pocket.path), hf_model=hf.eval(), device="cpu"
    )
    model.enable_compatibility_mode(no_processing=True)
    with torch.no_grad():
        _, arrays = model.run_with_cache(torch.tensor([found.ids]))
    return {name: array[0].numpy() for name, array in arrays.items()}


def test_every_name_of_ours_is_the_same_array_there(
    found: Trace, cache: dict[str, np.ndarray]
) -> None:
    for hook, array in found.cache.by_hook_name().items():
        np.testing.assert_allclose(cache[hook], array, rtol=0, atol=1e-4, err_msg=hook)


def test_nothing_that_it_keeps_is_missing_here(found: Trace, cache: dict[str, np.ndarray]) -> None:
    """Its other names are further names of the same arrays: what goes into a part or comes out."""
    ours = found.cache.by_hook_name()
    missing = []
    for hook, array in cache.items():
        if hook in ours or array.dtype.kind in "iu":  # token ids and positions
            continue
        flat = array.reshape(len(array), -1)
        if not any(
            a.shape[0] == len(flat)
            and a.size == flat.size
            and np.allclose(a.reshape(flat.shape), flat, rtol=0, atol=1e-4)
            for a in ours.values()
        ):
            missing.append(hook)
    assert not missing
