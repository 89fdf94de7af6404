"""The seam: what a family must be, shown by one that laplm does not have (``toy.py``).

It goes through the reference, taps, sweeps and generation without a line outside its file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike
from transformers import LlamaConfig, LlamaForCausalLM

import laplm
from laplm.errors import ModelFormatError
from laplm.look.sweep import Branch, sweep
from laplm.model import activations, families
from laplm.model.config import ModelConfig
from laplm.model.engine.kv_cache import KVCache
from laplm.model.families import ops
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.model.reference import DenseWeights, forward
from laplm.model.weights import DenseKVCache
from laplm.run.generate import generate_tokens
from laplm.run.request import GenerationRequest
from laplm.run.sampler import SamplingParams

Array = ops.Array
IDS = [5, 17, 3, 3, 42, 8, 11, 29, 0, 96]
VALUES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": False, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.FAMILIES, "toy", toy.__name__)


@pytest.fixture(scope="module")
def theirs() -> LlamaForCausalLM:
    """The toy is Llama's architecture, so transformers has it."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**VALUES, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # gains beside 1, scores that are not flat
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.05))
    return model


@pytest.fixture
def config() -> ModelConfig:
    return families.config_from_hf(VALUES | {"model_type": "toy"})


@pytest.fixture
def weights(theirs: LlamaForCausalLM, config: ModelConfig) -> DenseWeights:
    state = {name.removeprefix("model."): t.numpy() for name, t in theirs.state_dict().items()}
    shapes = families.tensor_shapes(config)
    assert {name: state[name].shape for name in state} == shapes
    return DenseWeights(state, config)


def logits_of(theirs: LlamaForCausalLM, ids: Sequence[int]) -> Array:
    with torch.no_grad():
        out: Array = theirs(torch.tensor([ids])).logits[0].numpy()
    return out


def test_the_config_is_read_by_the_family(config: ModelConfig) -> None:
    assert (config.family, config.norm, config.positions, config.gated) == (
        "toy", "rms", "rope", True,
    )  # fmt: skip
    assert (config.n_kv_head, config.head_dim, config.eos_token_ids) == (2, 8, (2,))
    assert families.config_from_hf(families.config_to_hf(config)) == config
    with pytest.raises(ModelFormatError, match="hidden_size is 0, but it must be a whole number"):
        families.config_from_hf(VALUES | {"model_type": "toy", "hidden_size": 0})
    with pytest.raises(ModelFormatError, match="cannot share"):
        families.config_from_hf(VALUES | {"model_type": "toy", "num_key_value_heads": 4})


def test_parameters_and_multiplications_are_counted(
    theirs: LlamaForCausalLM, config: ModelConfig
) -> None:
    assert config.n_parameters == theirs.num_parameters()
    linear = [s.shape for s in families.tensor_specs(config).values() if s.is_linear]
    assert config.n_multiplied == sum(a * b for a, b in linear)


def test_the_reference_runs_it_as_transformers_does(
    theirs: LlamaForCausalLM, config: ModelConfig, weights: DenseWeights
) -> None:
    want = logits_of(theirs, IDS)
    np.testing.assert_allclose(forward(np.array(IDS), weights, config), want, rtol=0, atol=1e-4)
    past = DenseKVCache()
    parts = [forward(np.array([token]), weights, config, past) for token in IDS]
    np.testing.assert_allclose(np.concatenate(parts), want, rtol=0, atol=1e-4)
    last = forward(np.array(IDS), weights, config, last_only=True)
    np.testing.assert_allclose(last, want[-1:], rtol=0, atol=1e-4)


def test_taps_see_and_change_its_own_activations(
    config: ModelConfig, weights: DenseWeights
) -> None:
    cache = activations.run_with_cache(
        lambda tap: forward(np.array(IDS), weights, config, tap=tap), config, IDS
    )
    assert set(cache) == set(activations.every_key(config))
    assert ("pos_embed", None) not in list(cache)
    for name, layer in cache:
        assert cache[name, layer].shape == activations.activation_shape(config, name, len(IDS)), (
            name
        )
    # Rotating changes no length, and nothing at position 0.
    np.testing.assert_allclose(cache["rot_k", 1][0], cache["k", 1][0])
    lengths = [np.linalg.norm(cache[name, 1], axis=-1) for name in ("q", "rot_q")]
    np.testing.assert_allclose(*lengths, rtol=1e-5)

    def no_gate(name: str, layer: int | None, x: Array) -> Array | None:
        return np.zeros_like(x) if name == "mlp_pre" else None

    silent = activations.run_with_cache(
        lambda tap: forward(np.array(IDS), weights, config, tap=tap), config, IDS, tap=no_gate
    )
    assert not silent["mlp_out", 2].any()  # silu(0) is 0


def test_a_sweep_runs_it_from_any_sublayer_on(config: ModelConfig, weights: DenseWeights) -> None:
    cache = activations.run_with_cache(
        lambda tap: forward(np.array(IDS), weights, config, tap=tap), config, IDS
    )
    steps = [(0, cache["resid_pre", 0]), (3, cache["resid_mid", 1]), (6, cache["resid_post", 2])]
    branches = [
        Branch(step, 2, lambda some, x=x: np.repeat(x[None], 2, axis=0)[some]) for step, x in steps
    ]
    finished = [f.logits for f in sweep(branches, weights, config, len(IDS))]
    want = np.repeat(cache["logits"][-1:], 6, axis=0)
    np.testing.assert_allclose(np.concatenate(finished), want, rtol=0, atol=1e-4)


class InNumPy:
    """The reference as what ``generate_tokens`` draws from."""

    precision, threads = "fp32", 1

    def __init__(self, config: ModelConfig, weights: DenseWeights) -> None:
        self.config, self._weights, self.context = config, weights, config.n_ctx

    def new_cache(self) -> KVCache:
        return KVCache(self.config, "fp32")

    def forward(
        self, ids: ArrayLike, kv_cache: KVCache | None = None, *, last_only: bool = False
    ) -> Array:
        cache, ids = kv_cache or self.new_cache(), np.asarray(ids)
        out = forward(ids, self._weights, self.config, cache, last_only=last_only)
        cache.append_ids(ids.tolist())
        return out

    def decode(self, ids: ArrayLike, kv_caches: Sequence[KVCache]) -> Array:
        pairs = zip(np.asarray(ids).tolist(), kv_caches, strict=True)
        return np.concatenate([self.forward([token], cache) for token, cache in pairs])

    def logsumexp(self, logits: Array) -> float:
        return float(np.logaddexp.reduce(logits.astype(np.float64)))


def test_text_is_generated_with_it(
    theirs: LlamaForCausalLM, config: ModelConfig, weights: DenseWeights
) -> None:
    request = GenerationRequest(
        prompt_ids=tuple(IDS), params=SamplingParams(temperature=0.0), max_new_tokens=20, samples=2
    )
    steps = list(generate_tokens(InNumPy(config, weights), request))
    for sample in (0, 1):
        drawn = [step.token_id for step in steps if step.sample == sample]
        want = theirs.generate(
            torch.tensor([IDS]), max_new_tokens=20, do_sample=False, eos_token_id=-1
        )[0, len(IDS) :]
        assert drawn == want.tolist()


def test_files_of_it_are_written_and_read(
    config: ModelConfig, weights: DenseWeights, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "toy", config, weights.tensors)
    checkpoint = open_checkpoint(tmp_path / "toy")
    assert checkpoint.config == config
    for name, array in weights.tensors.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), array)


# --- operations ---------------------------------------------------------------------------------

VECTORS = hnp.arrays(np.float32, (3, 8), elements=st.floats(-10, 10, width=32))


@settings(deadline=None, max_examples=30)
@given(VECTORS, VECTORS)
def test_norms_are_torchs(x: np.ndarray, gain: np.ndarray) -> None:
    t, g = torch.tensor(x), torch.tensor(gain[0])
    rms = torch.nn.functional.rms_norm(t, (8,), g, 1e-5).numpy()
    got = ops.rms_norm(x, gain[0], 1e-5, "ln1", 0, ops.identity)
    np.testing.assert_allclose(got, rms, rtol=1e-4, atol=1e-4)
    norm = torch.nn.functional.layer_norm(t, (8,), g, torch.tensor(gain[1]), 1e-5).numpy()
    got = ops.layer_norm(x, gain[0], gain[1], 1e-5, "ln1", 0, ops.identity)
    np.testing.assert_allclose(got, norm, rtol=1e-3, atol=1e-3)


def test_a_window_hides_what_is_further_back() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((6, 2, 4)).astype(np.float32) for _ in range(3))
    seen: dict[str, Array] = {}

    def hook(name: str, layer: int | None, x: Array) -> Array:
        seen[name] = x
        return x

    ops.causal_attention(q[-2:], k, v, 0.5, 0, hook, window=3)
    assert (seen["pattern"] > 0).any(axis=0).tolist() == [
        [False, False, True, True, True, False],
        [False, False, False, True, True, True],
    ]


# --- names --------------------------------------------------------------------------------------

OWN_NAMES = re.compile(
    r"\bc_attn|\bc_proj|\bc_fc|\bln_1\b|\bln_2\b|\bln_f\b|\bwte\b|\bwpe\b|\blm_head|\bembed_out"
    r"|\bembed_tokens|\bembed_in\b|\b(?:[qkvo]|qkv|gate|up|down|gate_up)_proj\b|\bself_attn\b"
    r"|_layernorm\b|\bquery_key_value|\bdense_\w*h_to|\bfinal_layer_norm"
)
# The torch model's attributes have the names of its checkpoint, which training writes.
MAY_NAME = {"tune/models/gpt2.py", "tune/models/lora.py", "tune_config.py"}


SOURCES = sorted(Path(laplm.__file__).parent.rglob("*.py"))


def test_names_of_tensors_stand_in_the_families_alone() -> None:
    wrong = []
    for file in SOURCES:
        here = file.relative_to(Path(laplm.__file__).parent).as_posix()
        if here in MAY_NAME or here.startswith("model/families/"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = ""
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            elif isinstance(node, ast.Attribute):
                text = node.attr
            elif isinstance(node, ast.Name):
                text = node.id
            if OWN_NAMES.search(text):
                wrong.append(f"{here}: {text}")
    assert SOURCES and not wrong
