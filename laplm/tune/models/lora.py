"""LoRA: small matrices beside the frozen ones, trained in their place, and files that peft reads.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1: a layer
computes x W + (alpha / r) x A^T B^T, with A of r rows drawn at random and B, of r columns, at zero.

Shapes: r rank; A (r, inputs), B (outputs, r), as peft stores them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError, MissingExtraError
from laplm.files import json_text, write_file
from laplm.model.files.adapter import BASE, CONFIG, WEIGHTS
from laplm.model.files.checkpoint import write_safetensors
from laplm.tune.models.gpt2 import Conv1D, TorchGPT
from laplm.tune.models.int8_base import Int8Conv1D
from laplm.tune_config import TARGETS, LoRAConfig

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

_PREFIX = "base_model.model.transformer."


class LoRA(nn.Module):
    """A frozen linear layer with an adapter beside it."""

    def __init__(
        self, base: Conv1D | Int8Conv1D, config: LoRAConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        n_in, n_out = base.weight.shape
        if config.r > min(n_in, n_out):
            raise InputError(
                f"rank is {config.r}, but a matrix of {n_in} × {n_out} has rank "
                f"{min(n_in, n_out)} at most; choose a lower one"
            )
        self.base = base
        self.scale = config.scale
        self.dropout = config.dropout
        # As nn.Linear begins, which is where peft begins too; drawn on the CPU, so that a seed
        # gives the same numbers on every device.
        bound = 1 / math.sqrt(n_in)
        drawn = torch.rand(config.r, n_in, generator=generator) * 2 * bound - bound
        self.lora_A = nn.Parameter(drawn.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(n_out, config.r, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, inputs) -> (B, T, outputs)."""
        dropped = functional.dropout(x, self.dropout, self.training) if self.dropout else x
        small = functional.linear(dropped, self.lora_A)
        out: Tensor = self.base(x) + self.scale * functional.linear(small, self.lora_B)
        return out

    def delta(self) -> Tensor:
        """What the adapter adds to the layer's weight, (inputs, outputs)."""
        return self.scale * (self.lora_B @ self.lora_A).t()


def add_lora(model: TorchGPT, config: LoRAConfig, seed: int = 0) -> None:
    """Freeze a model and put adapters beside its target layers; it computes the same as before.

    Raises:
        InputError: the rank is higher than a layer's.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for _, parent, child, layer in _linear_layers(model):
        if child in config.target_modules:
            setattr(parent, child, LoRA(layer, config, generator))


def merge_lora(model: TorchGPT) -> None:
    """Add the adapters to the weights beside them and take them away."""
    for block in model.h:
        for parent in (block.attn, block.mlp):
            assert isinstance(parent, nn.Module)
            for child in TARGETS:
                layer = getattr(parent, child, None)
                if isinstance(layer, LoRA):
                    assert isinstance(layer.base, Conv1D), "adapters on int8 are merged in fp32"
                    with torch.no_grad():
                        layer.base.weight.add_(layer.delta().to(layer.base.weight.dtype))
                    setattr(parent, child, layer.base)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def adapters(model: TorchGPT) -> dict[str, LoRA]:
    """The adapters of a model by the GPT-2 name of the layer beside them."""
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, LoRA)
    }  # fmt: skip


def save_adapter(
    directory: Path, tensors: Mapping[str, Tensor], config: LoRAConfig, base: str
) -> None:
    """Write adapters as peft does: ``adapter_config.json``, ``adapter_model.safetensors``.

    Args:
        directory: is there already.
        tensors: ``lora_A`` and ``lora_B`` of each layer, by their names in the model.
        config: theirs.
        base: the name or path of the model without them.

    Raises:
        WriteError: the disk is full or cannot be written.
    """
    arrays: dict[str, NDArray[np.float32]] = {
        f"{_PREFIX}{name}.weight": tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        for name, tensor in tensors.items()
    }
    entries = [
        (name, "F32", array.shape, lambda array=array: array) for name, array in arrays.items()
    ]
    advice = "free some space, or choose another directory"
    write_safetensors(directory / WEIGHTS, entries, {"format": "pt"}, align=False, advice=advice)
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(config.target_modules),
        "fan_in_fan_out": True,  # GPT-2 keeps its weights as (inputs, outputs)
        "bias": "none",
        "inference_mode": True,
    }
    write_file(directory / CONFIG, (json_text(values, indent=2) + "\n").encode())


def adapter_card(directory: Path, base: str) -> str:
    """The README of an adapter's directory: how it is opened, and how its base model is found.

    Args:
        directory: where it is.
        base: as ``save_adapter``.
    """
    name = directory.name
    own = Path(base) == (directory / BASE).resolve()
    found = f"in `{BASE}/`, the model that comes with laplm" if own else f"`{base}`"
    hub_id = "" if Path(base).is_absolute() else f"\nbase_model: {base}"
    return f"""---
library_name: peft{hub_id}
---

# {name}

A LoRA adapter, made by `laplm tune`. Its base model is {found}.

    laplm run -m {name} "your prompt"

With [peft](https://huggingface.co/docs/peft):

    from peft import AutoPeftModelForCausalLM
    model = AutoPeftModelForCausalLM.from_pretrained("{name}")

peft looks for the base model where `base_model_name_or_path` in `{CONFIG}` says. When that is a
directory and has been moved, change it there, or name it:

    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    base = AutoModelForCausalLM.from_pretrained("{f"{name}/{BASE}" if own else base}")
    model = PeftModel.from_pretrained(base, "{name}")

One model that needs no other: `laplm export {name} --out whole`.
"""


def _linear_layers(model: TorchGPT) -> Iterator[tuple[str, nn.Module, str, Conv1D | Int8Conv1D]]:
    """Every linear layer of the blocks: its name, its parent, its name there, itself."""
    modules = dict(model.named_modules())
    for name, layer in modules.items():
        if isinstance(layer, Conv1D | Int8Conv1D):
            parent, _, child = name.rpartition(".")
            yield name, modules[parent], child, layer
