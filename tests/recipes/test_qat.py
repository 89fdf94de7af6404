from __future__ import annotations

import numpy as np
import pytest
import torch
from tuning_examples import counting_data, tiny_model

from laplm.model.engine.model import GPT
from laplm.model.engine.quantize import Precision
from laplm.model.families import tensor_specs
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.tune.models.gpt2 import TorchGPT
from recipes.pocket.qat import fake_quantize, fake_quantized_weights


def matrices(model: TorchGPT) -> dict[str, torch.Tensor]:
    specs = tensor_specs(model.config)
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if name in specs and specs[name].is_linear
    }


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_matrices_are_the_ones_that_the_engine_multiplies_with(
    tmp_path, precision: Precision
) -> None:
    model = tiny_model()
    save_checkpoint(tmp_path, model.config, model.tensors(), "fp32", None)
    engine = GPT(open_checkpoint(tmp_path), precision).weights
    found = {name: fake_quantize(matrix, precision) for name, matrix in matrices(model).items()}
    x = np.eye(model.config.n_embd, dtype=np.float32)
    for layer in range(model.config.n_layer):
        name = f"h.{layer}.attn.c_attn"
        theirs = engine.linear("qkv", layer, x) - engine.linear("qkv", layer, np.zeros_like(x))
        np.testing.assert_allclose(found[f"{name}.weight"].numpy(), theirs, rtol=0, atol=1e-5)


def test_within_gradients_are_those_of_rounded_matrices_and_after_it_the_exact_ones_are_back() -> (
    None
):
    model, by_hand = tiny_model(), tiny_model()
    exact = matrices(model)
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            if name in exact:
                parameter.copy_(fake_quantize(parameter, "int4"))
    ids = torch.from_numpy(counting_data(4, seed=1).tokens[:24].astype(np.int64))[None]
    with fake_quantized_weights(model):
        logits = model(ids)
        logits.square().mean().backward()
    expected = by_hand(ids)
    expected.square().mean().backward()
    assert torch.equal(logits, expected)
    for (name, one), two in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
        if name in exact:
            assert torch.equal(one.detach(), exact[name])
            assert not torch.equal(one.detach(), two.detach())
        else:
            assert torch.equal(one.detach(), two.detach())


def test_exact_matrices_are_back_after_an_error() -> None:
    model = tiny_model()
    exact = matrices(model)
    with pytest.raises(KeyError), fake_quantized_weights(model):
        raise KeyError
    for name, matrix in matrices(model).items():
        assert torch.equal(matrix, exact[name])
