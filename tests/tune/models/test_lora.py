from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.numpy import load_file
from transformers import GPT2Config, GPT2LMHeadModel
from tuning_examples import tiny_config, tiny_model

from laplm.errors import InputError
from laplm.model.families import config_to_hf
from laplm.model.files.adapter import WEIGHTS, open_adapter
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.model.files.safetensors_file import write_safetensors
from laplm.tune.models.gpt2 import TorchGPT
from laplm.tune.models.lora import adapters, add_lora, merge_lora, save_adapter
from laplm.tune_config import LoRAConfig

IDS = torch.randint(0, 60, (2, 20), generator=torch.Generator().manual_seed(0))


def adapted(config: LoRAConfig, seed: int = 0) -> TorchGPT:
    """A model whose adapters do something: B begins at zero."""
    model = tiny_model()
    add_lora(model, config, seed)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for layer in adapters(model).values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator))
    return model


def in_transformers(model: TorchGPT) -> GPT2LMHeadModel:
    theirs = GPT2LMHeadModel(GPT2Config(**config_to_hf(model.config)))
    state = {f"transformer.{name}": torch.tensor(v) for name, v in model.tensors().items()}
    theirs.load_state_dict(state | {"lm_head.weight": state["transformer.wte.weight"]})
    return theirs.eval()


def test_a_new_adapter_changes_nothing_and_only_it_is_trained() -> None:
    model, plain = tiny_model(), tiny_model()
    add_lora(model, LoRAConfig(r=4))
    assert torch.equal(model(IDS), plain(IDS))
    model(IDS).square().mean().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {
        f"h.{i}.{name}.{part}"
        for i in range(2)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        for part in ("lora_A", "lora_B")
    }
    assert all(p.requires_grad == (name in trained) for name, p in model.named_parameters())


@pytest.mark.parametrize("targets", [("c_attn",), ("c_proj",), ("c_attn", "c_proj", "c_fc")])
def test_peft_loads_the_saved_adapter_and_gives_the_same_logits(
    tmp_path: Path, targets: tuple[str, ...]
) -> None:
    config = LoRAConfig(r=3, alpha=7.0, target_modules=targets)
    model = adapted(config)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    save_adapter(tmp_path, weights, config, "tiny")
    theirs = peft.PeftModel.from_pretrained(in_transformers(tiny_model()), tmp_path).eval()
    with torch.no_grad():
        expected = theirs(IDS).logits
    assert (expected - in_transformers(tiny_model())(IDS).logits).abs().max() > 0.1
    torch.testing.assert_close(model(IDS), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        merged = theirs.merge_and_unload()(IDS).logits
    torch.testing.assert_close(model(IDS), merged, rtol=1e-4, atol=1e-4)


def test_merged_is_live() -> None:
    config = LoRAConfig(r=4)
    model = adapted(config)
    live = model(IDS)
    merge_lora(model)
    assert not adapters(model)
    assert model.state_dict().keys() == tiny_model().state_dict().keys()
    torch.testing.assert_close(model(IDS), live, rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad for p in model.parameters())


def test_the_same_seed_draws_the_same_adapter() -> None:
    one, two, other = (adapted(LoRAConfig(), seed) for seed in (1, 1, 2))
    pairs = zip(adapters(one).values(), adapters(two).values(), strict=True)
    assert all(torch.equal(a.lora_A, b.lora_A) for a, b in pairs)
    name = next(iter(adapters(one)))
    assert not torch.equal(adapters(one)[name].lora_A, adapters(other)[name].lora_A)


def test_dropout_acts_on_the_adapter_and_only_while_training() -> None:
    model = adapted(LoRAConfig(dropout=0.5))
    model.train()
    assert not torch.equal(model(IDS), model(IDS))
    model.eval()
    assert torch.equal(model(IDS), model(IDS))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 0}, "rank is 0"),
        ({"r": 2.5}, "rank is 2.5"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"target_modules": ("c_nose",)}, "c_nose.*c_attn, c_proj, c_fc"),
        ({"target_modules": ()}, "none"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LoRAConfig(**settings)


def test_a_rank_higher_than_the_matrix_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(InputError, match=r"rank is 33.*32 × 96"):
        add_lora(model, LoRAConfig(r=33))
    assert tiny_config().n_embd == 32


def test_adapters_of_odd_sizes_are_opened_and_hold_nothing_else(tmp_path: Path) -> None:
    """Rows that end within 64 bytes; laplm once wrote padding between them, and refused it."""
    model = tiny_model(n_embd=24)
    save_checkpoint(tmp_path / "base", model.config, model.tensors(), "fp32", None)
    add_lora(model, LoRAConfig(r=1))
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name in ("now", "before"):
        (tmp_path / name).mkdir()
        save_adapter(tmp_path / name, weights, LoRAConfig(r=1), str(tmp_path / "base"))
    stored = load_file(tmp_path / "now" / WEIGHTS)
    assert len(stored) == len(weights) and not any("padding" in key for key in stored)
    entries = [(k, "F32", a.shape, lambda a=a: a) for k, a in stored.items()]
    write_safetensors(tmp_path / "before" / WEIGHTS, entries, {"format": "pt"})
    assert len(load_file(tmp_path / "before" / WEIGHTS)) > len(weights)
    for name in ("now", "before"):
        found = open_adapter(tmp_path / name, open_checkpoint(tmp_path / "base"))
        assert found.tensor("wte.weight").shape == (model.config.vocab_size, 24)
