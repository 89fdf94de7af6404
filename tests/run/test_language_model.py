"""A model as one object: its activations by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_activations import hf_activations
from safetensors.numpy import save_file
from transformers import GPT2LMHeadModel

from laplm.errors import ContextLengthError, InputError
from laplm.model.activations import trace_bytes
from laplm.model.engine.prepared import packed_bytes
from laplm.run import language_model
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was"


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, "fp32")


def test_a_cache_holds_what_transformers_computes(
    tiny: LanguageModel, tiny_model_dir: Path
) -> None:
    hf = GPT2LMHeadModel.from_pretrained(tiny_model_dir, attn_implementation="eager").eval()
    cache = tiny.run_with_cache(TEXT)
    assert cache.ids == tiny.tokenizer.encode(TEXT)
    want = hf_activations(hf, cache.ids)
    assert set(cache) == set(want)
    for key, array in want.items():
        np.testing.assert_allclose(cache[key], array, rtol=0, atol=1e-4, err_msg=str(key))


def test_a_cache_holds_what_is_named_and_what_a_tap_left(tiny: LanguageModel) -> None:
    def silence(name: str, layer: int | None, x: Any) -> Any:
        return np.zeros_like(x) if name == "attn_out" else None

    cache = tiny.run_with_cache(TEXT, (name for name in ["attn_out", "logits"]), tap=silence)
    assert {name for name, _ in cache} == {"attn_out", "logits"}
    assert not cache.stack("attn_out").any()
    plain = tiny.run_with_cache(TEXT, "logits")
    assert np.abs(cache["logits"] - plain["logits"]).max() > 1e-3


def test_a_prompt_may_fill_the_context_but_not_more(tiny: LanguageModel) -> None:
    n_ctx = tiny.config.n_ctx
    assert tiny.run_with_cache([1] * n_ctx, ["embed"])["embed"].shape[0] == n_ctx
    with pytest.raises(ContextLengthError, match=rf"{n_ctx + 1} tokens.* holds {n_ctx}"):
        tiny.run_with_cache([1] * (n_ctx + 1), ["embed"])


def test_too_much_memory_is_refused(tiny: LanguageModel) -> None:
    needed = trace_bytes(tiny.config, 8)
    tiny.run_with_cache([1] * 8, max_bytes=needed)
    with pytest.raises(InputError, match="max_bytes"):
        tiny.run_with_cache([1] * 8, max_bytes=needed - 1)


def test_a_model_larger_than_memory_is_refused_before_it_is_read(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32")
    sizes = {p: packed_bytes(lm.checkpoint, p) for p in ("fp32", "int8", "int4")}
    monkeypatch.setattr(language_model, "_UNCHECKED_BYTES", 0)
    monkeypatch.setattr(type(lm.checkpoint), "tensor", lambda *_: pytest.fail("it was read"))
    for there, advice in (
        (sizes["fp32"] - 1, "--precision int8 fits"),
        (sizes["int8"] - 1, "--precision int4 fits"),
        (sizes["int4"] - 1, "take a smaller model"),
    ):
        monkeypatch.setattr("laplm.machine.total_bytes", lambda there=there: there)
        with pytest.raises(InputError, match=r"take 0\.0 GB in fp32, and this machine") as error:
            _ = lm.gpt
        assert str(error.value).endswith(f"has 0.0 GB of memory; {advice}")


def test_wrong_names_are_told_with_the_right_ones(tiny: LanguageModel) -> None:
    with pytest.raises(InputError, match="no activation is called 'resid'; they are embed"):
        tiny.run_with_cache(TEXT, ["resid"])


def test_an_adapter_has_the_chat_template_of_its_base(tiny_model_dir: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_model_dir, base)
    (base / "chat_template.jinja").write_text("base")
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "lora_alpha": 4,
                "target_modules": ["c_attn"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM",
            }
        )
    )  # fmt: skip
    a, b = np.zeros((2, 64), np.float32), np.zeros((192, 2), np.float32)
    names = [f"base_model.model.transformer.h.{i}.attn.c_attn" for i in range(3)]
    tensors = {f"{n}.lora_A.weight": a for n in names} | {f"{n}.lora_B.weight": b for n in names}
    save_file(tensors, adapter / "adapter_model.safetensors")
    messages = [{"role": "user", "content": "Hi"}]

    def rendered() -> str:
        template = LanguageModel(adapter, "fp32").chat_template
        assert template is not None
        return template.render(messages)

    assert rendered() == "base"
    (adapter / "chat_template.jinja").write_text("own")
    assert rendered() == "own"
    assert LanguageModel(tiny_model_dir, "fp32").chat_template is None
