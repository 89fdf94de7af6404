from __future__ import annotations

import numpy as np
import torch

from laplm.model.config import ModelConfig
from laplm.tune.models.gpt2 import TorchGPT
from recipes.pocket.smooth import smooth
from recipes.pocket.token_data import TokenData


def uneven_model() -> TorchGPT:
    """A model with channels of very different sizes after its second norms."""
    config = ModelConfig(
        vocab_size=50, n_ctx=16, n_embd=32, n_layer=2, n_head=2, eos_token_ids=(49,)
    )
    model = TorchGPT(config)
    model.initialise(1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for block in model.h:
            block.ln_2.weight.copy_(torch.randn(32, generator=generator).exp())
            block.ln_2.bias.copy_(torch.randn(32, generator=generator))
    return model


def sizes(model: TorchGPT, ids: torch.Tensor) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    hooks = [b.ln_2.register_forward_hook(lambda *a: seen.append(a[2])) for b in model.h]
    model.hidden(ids)
    for hook in hooks:
        hook.remove()
    return [x.square().mean(dim=(0, 1)).sqrt() for x in seen]


def test_the_same_is_computed_from_evener_inputs() -> None:
    data = TokenData(
        tokens=np.random.default_rng(0).integers(0, 49, 2000).astype(np.uint16),
        starts=np.arange(0, 2000, 20),
        n_bytes=4000,
    )
    ids = torch.from_numpy(data.windows(16, 0).batch(0, 32).inputs)
    before, after = uneven_model(), uneven_model()
    smooth(after, data)
    torch.testing.assert_close(after(ids), before(ids), rtol=1e-4, atol=1e-4)
    for uneven, even in zip(sizes(before, ids), sizes(after, ids), strict=True):
        # With alpha 0.25 a ratio keeps three quarters of its exponent.
        ratio = float(uneven.max() / uneven.min())
        assert ratio > 10
        assert float(even.max() / even.min()) < 1.3 * ratio**0.75


def test_nothing_else_changes() -> None:
    data = TokenData(tokens=np.arange(40, dtype=np.uint16), starts=np.array([0]), n_bytes=80)
    before, after = uneven_model(), uneven_model()
    smooth(after, data)
    changed = {
        name for (name, one), two in zip(
            after.state_dict().items(), before.state_dict().values(), strict=True
        ) if not torch.equal(one, two)
    }  # fmt: skip
    assert changed == {
        f"h.{i}.{name}" for i in range(2)
        for name in ("ln_2.weight", "ln_2.bias", "mlp.c_fc.weight")
    }  # fmt: skip
