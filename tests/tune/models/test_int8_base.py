from __future__ import annotations

import torch
from tuning_examples import tiny_config

from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.tune.models.gpt2 import Conv1D, TorchGPT
from laplm.tune.models.int8_base import Int8Conv1D
from laplm.tune.models.lora import add_lora
from laplm.tune_config import LoRAConfig


def layers() -> tuple[Conv1D, Int8Conv1D]:
    torch.manual_seed(0)
    layer = Conv1D(48, 32)
    with torch.no_grad():
        layer.weight.normal_()
        layer.weight[:, 3] = 0
        layer.bias.normal_()
    return layer, Int8Conv1D(layer.weight.detach(), layer.bias.detach())


def test_a_weight_is_rounded_by_half_a_step_at_most() -> None:
    layer, small = layers()
    step = layer.weight.abs().amax(dim=0) / 127
    assert ((small.dequantized() - layer.weight).abs() <= step / 2 + 1e-6).all()
    assert small.weight.dtype == torch.int8


def test_it_computes_with_the_rounded_weight_forwards_and_backwards() -> None:
    layer, small = layers()
    with torch.no_grad():
        layer.weight.copy_(small.dequantized())
    one, two = (torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1)) for _ in "ab")
    for x, way in ((one, layer), (two, small)):
        x.requires_grad_(True)
        way(x).square().sum().backward()
    torch.testing.assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(small(one), layer(one), rtol=1e-5, atol=1e-5)


def test_a_model_is_opened_with_its_linear_layers_in_int8(tmp_path) -> None:
    model = TorchGPT(tiny_config())
    model.initialise(0)
    save_checkpoint(tmp_path, model.config, model.tensors(), "fp32", None)
    opened = TorchGPT.from_checkpoint(open_checkpoint(tmp_path), "int8")
    kinds = {
        type(m) for name, m in opened.named_modules() if name.endswith(("c_attn", "c_proj", "c_fc"))
    }
    assert kinds == {Int8Conv1D}
    ids = torch.randint(0, 60, (2, 9))
    torch.testing.assert_close(opened(ids), model(ids), rtol=0.05, atol=0.05)
    add_lora(opened, LoRAConfig(r=2))
    opened(ids).square().mean().backward()
    assert all((p.grad is not None) == ("lora" in name) for name, p in opened.named_parameters())
