"""The context: how many positions a sequence may have, whatever the model was trained on."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from laplm import machine
from laplm.errors import ContextLengthError, InputError
from laplm.model.engine.kv_cache import bytes_per_position
from laplm.model.engine.model import GPT
from laplm.model.engine.prepared import packed_bytes
from laplm.model.files.checkpoint import Checkpoint, open_checkpoint
from laplm.run import language_model
from laplm.run.generate import generate_tokens
from laplm.run.language_model import LanguageModel
from laplm.run.request import GenerationRequest
from laplm.run.sampler import SamplingParams, sample, sample_rng

SIZES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
GQA = SIZES | {"num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "llama": GQA | {"rope_scaling": LLAMA3, "max_position_embeddings": 512},
    "gemma3_text": GQA | {
        "head_dim": 16, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 16, "rope_local_base_freq": 100.0,
    },
    "gpt_neox": SIZES | {"rotary_pct": 0.5},
}  # fmt: skip


def make(family: str, directory: Path, **values: Any) -> tuple[Checkpoint, Any]:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **values)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(directory)
    return open_checkpoint(directory), theirs


@pytest.fixture(scope="module", params=CASES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Any]:
    """A small model with random weights and rotary positions, and transformers' of the same."""
    return make(request.param, tmp_path_factory.mktemp("model"), **CASES[request.param])


def logits_of(theirs: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return theirs(torch.tensor([ids])).logits[0].numpy()


# --- the numbers --------------------------------------------------------------------------------


def test_a_context_of_128k_is_prefilled_beyond_8k_and_costs_nothing_before(tmp_path: Path) -> None:
    long = {"max_position_embeddings": 131072, "rope_scaling": LLAMA3, "rope_theta": 5e5}
    checkpoint, theirs = make("llama", tmp_path, **GQA | long)
    GPT(checkpoint, "fp32")  # compiled, which takes memory for a while
    tracemalloc.start()
    gpt = GPT(checkpoint, "fp32", threads=2)
    caches = [gpt.new_cache() for _ in range(4)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert gpt.context == 131072
    assert held < 32e6
    ids = np.random.default_rng(0).integers(0, 97, 8300).tolist()
    logits = [gpt.forward(ids[:8200], caches[0])]
    logits += [gpt.decode([token], caches[:1]) for token in ids[8200:8210]]
    got = np.concatenate(logits)
    want = logits_of(theirs, ids[:8210])
    np.testing.assert_allclose(got[-60:], want[-60:], rtol=0, atol=2e-4 * np.abs(want).max())


def test_rotary_positions_go_on_beyond_those_of_training(made: tuple[Checkpoint, Any]) -> None:
    checkpoint, theirs = made
    n_ctx = checkpoint.config.n_ctx
    ids = np.random.default_rng(1).integers(0, 97, n_ctx + 30).tolist()
    with pytest.raises(InputError, match="do not fit"):
        GPT(checkpoint, "fp32", threads=1).forward(ids)
    got = GPT(checkpoint, "fp32", threads=1, context=n_ctx + 30).forward(ids)
    want = logits_of(theirs, ids)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_the_context_changes_no_bit(made: tuple[Checkpoint, Any]) -> None:
    checkpoint, _ = made
    ids = np.random.default_rng(2).integers(0, 97, 40).tolist()
    for precision in ("fp32", "int8"):
        found = [
            GPT(checkpoint, precision, threads=1, context=context).forward(ids)
            for context in (40, None, 5000)
        ]
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[2], found[1])


# --- the slide ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt_length", [5, 32, 33, 75])
def test_a_slide_goes_on_as_if_what_stays_began_at_0(
    made: tuple[Checkpoint, Any], prompt_length: int
) -> None:
    checkpoint, theirs = made
    context, count = 32, 60
    prompt = [(7 * i) % 97 for i in range(prompt_length)]
    params = SamplingParams(temperature=1.0, top_k=0, seed=4)
    request = GenerationRequest(
        prompt_ids=tuple(prompt), max_new_tokens=count, params=params, slide=True, ignore_eos=True
    )
    gpt = GPT(checkpoint, "fp32", threads=1, context=context)
    cache = gpt.new_cache()
    got = [step.token_id for step in generate_tokens(gpt, request, kv_cache=cache)]

    rng, kept, want = sample_rng(4, 0), list(prompt), []
    for _ in range(count):
        while len(kept) > context:
            kept = kept[context // 2 :]
        want.append(sample(logits_of(theirs, kept)[-1], params, rng, []))
        kept.append(want[-1])
    assert got == want
    assert cache.ids == kept[: cache.length] and cache.length <= context


# --- how long it is -----------------------------------------------------------------------------


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine that has room for so many positions beside the weights of a model."""

    def set_to(checkpoint: Checkpoint, positions: int, kv: str = "int8") -> None:
        room = positions * bytes_per_position(checkpoint.config, kv)
        precision = "fp32" if kv == "fp32" else "int8"
        total = packed_bytes(checkpoint, precision) + room
        monkeypatch.setattr(language_model, "_UNCHECKED_BYTES", 0)
        monkeypatch.setattr(machine, "total_bytes", lambda: total)

    return set_to


def test_the_default_is_the_models_own_or_what_fits_comfortably(
    tiny_llama_dir: Path, small_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(tiny_llama_dir)
    monkeypatch.setattr(language_model, "_STEP", 32)
    for kv, precision in (("int8", "int8"), ("fp32", "fp32")):
        small_machine(checkpoint, 2 * 128, kv)
        assert LanguageModel(tiny_llama_dir, precision).context == 128
        small_machine(checkpoint, 2 * 100, kv)
        lm = LanguageModel(tiny_llama_dir, precision, threads=1)
        assert lm.context == 96
        assert lm.context_bytes == 96 * bytes_per_position(checkpoint.config, kv)
        small_machine(checkpoint, 5, kv)
        assert LanguageModel(tiny_llama_dir, precision).context == 32
    cache = lm.gpt.new_cache()
    assert (cache.context, lm.gpt.context) == (96, 96)
    assert lm.context_bytes == 96 * cache.bytes_per_position


def test_a_context_larger_than_memory_is_refused_before_weights_are_read(
    tiny_llama_dir: Path, small_machine: Any
) -> None:
    checkpoint = open_checkpoint(tiny_llama_dir)
    small_machine(checkpoint, 100)
    assert LanguageModel(tiny_llama_dir, "int8", context=100).context == 100
    each = bytes_per_position(checkpoint.config, "int8")
    small_machine(checkpoint, 10**6)
    with pytest.raises(
        InputError,
        match=rf"context is 2,000,000, whose keys and values take {2e6 * each / 1e9:,.1f} GB, .* "
        rf"memory for {1e6 * each / 1e9:,.1f} GB: give at most 1,000,000$",
    ):
        LanguageModel(tiny_llama_dir, "int8", context=2_000_000)


def test_where_memory_is_plentiful_the_matrices_are_not_asked(
    tiny_llama_dir: Path, small_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(tiny_llama_dir)
    asked: list[Checkpoint] = []

    def packed_bytes(checkpoint: Checkpoint, precision: Any) -> int:
        asked.append(checkpoint)
        return 0

    small_machine(checkpoint, 2 * 128)
    monkeypatch.setattr(language_model, "packed_bytes", packed_bytes)
    assert LanguageModel(tiny_llama_dir, "int8").context == 128
    assert asked
    asked.clear()
    small_machine(checkpoint, 100 * 128)
    assert LanguageModel(tiny_llama_dir, "int8").context == 128
    assert not asked


def test_learned_positions_end_where_they_end(
    tiny_model_dir: Path, tiny_llama_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match=r"context is 129, but .* for 128 positions and none"):
        LanguageModel(tiny_model_dir, "fp32", context=129)
    with pytest.raises(InputError, match=r"context is 129, but .* 128 positions and none"):
        GPT(open_checkpoint(tiny_model_dir), "fp32", context=129)
    assert LanguageModel(tiny_llama_dir, "fp32", context=128).context == 128
    assert not caplog.text
    lm = LanguageModel(tiny_llama_dir, "fp32", threads=1, context=200)
    assert "200 positions is longer than the 128" in caplog.text
    assert len(lm.generate([1] * 150, 50, seed=1, ignore_eos=True).token_ids) == 50


@pytest.mark.parametrize("value", [0, -1, 2**31 + 1, 10**30, "8", 1.5, True])
def test_what_is_no_context_is_refused(tiny_llama_dir: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"^context is .* must be a whole number from 1 up to"):
        LanguageModel(tiny_llama_dir, "fp32", context=value)


def test_a_shorter_context_is_what_a_request_must_fit(tiny_model_dir: Path) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32", threads=1, context=40)
    assert lm.config.n_ctx == 128
    assert len(lm.generate([1] * 30, seed=1, ignore_eos=True).token_ids) == 10
    for ids, count in (([1] * 30, 11), ([1] * 40, 1)):
        with pytest.raises(ContextLengthError, match=r"hold 40 of its 128.* larger"):
            lm.generate(ids, count)
    with pytest.raises(ContextLengthError, match="holds 40"):
        lm.run_with_cache([1] * 41)
    assert len(lm.generate([1] * 50, 60, seed=1, slide=True, ignore_eos=True).token_ids) == 60
