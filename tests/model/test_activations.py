"""All activations by name against transformers; what a cache gives back and what it will take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_model
from hf_activations import hf_activations
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from laplm.errors import InputError
from laplm.model import activations, reference
from laplm.model.activations import ActivationCache, activation_names
from laplm.model.config import NAMED_SIZES, ModelConfig
from laplm.model.files.checkpoint import open_checkpoint

IDS = [7, 3, 3, 100, 42, 7, 250, 0, 3]


def run(directory: Path, ids: list[int], names: Any = None, tap: Any = None) -> ActivationCache:
    checkpoint = open_checkpoint(directory)
    weights = reference.DenseWeights(
        {n: checkpoint.tensor(n) for n in checkpoint.names}, checkpoint.config
    )
    return activations.run_with_cache(
        lambda record: reference.forward(np.array(ids), weights, checkpoint.config, None, record),
        checkpoint.config, ids, names, tap,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tiny_model_dir: Path) -> ActivationCache:
    return run(tiny_model_dir, IDS)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"scale_attn_by_inverse_layer_idx": True}, id="inverse-layer-scale"),
        pytest.param({"scale_attn_weights": False}, id="no-scale"),
        pytest.param({"tie_word_embeddings": False}, id="untied"),
        pytest.param({"layer_norm_epsilon": 1e-2, "n_inner": 72}, id="epsilon"),
    ],
)
def test_every_activation_is_that_of_transformers(tmp_path: Path, sizes: dict[str, Any]) -> None:
    directory = make_model(tmp_path / "model", **sizes)
    hf = GPT2LMHeadModel.from_pretrained(directory, attn_implementation="eager").eval()
    cache = run(directory, IDS)
    want = hf_activations(hf, IDS)
    assert set(cache) == set(want)
    for key, array in want.items():
        np.testing.assert_allclose(cache[key], array, rtol=0, atol=1e-4, err_msg=str(key))


def test_keys_come_in_the_order_of_the_forward_pass(cache: ActivationCache) -> None:
    order = activations.every_key(cache.config)
    assert list(cache) == order
    assert {name for name, _ in order} == set(activation_names(cache.config))


def test_shapes_and_bytes_are_known_before(cache: ActivationCache) -> None:
    for (name, layer), array in cache.items():
        assert array.shape == activations.activation_shape(cache.config, name, len(IDS)), (
            name,
            layer,
        )
    assert activations.trace_bytes(cache.config, len(IDS)) == cache.nbytes


def test_patterns_of_gpt2_small_take_600_mb() -> None:
    size = activations.trace_bytes(NAMED_SIZES["gpt2"], 1024, ["pattern"])
    assert size == 12 * 12 * 1024 * 1024 * 4


@given(
    n_positions=st.integers(1, 128),
    names=st.none() | st.lists(st.sampled_from(activation_names(ModelConfig())), min_size=1),
    limit=st.integers(0, 10_000_000),
)
def test_a_cache_is_refused_exactly_when_it_is_too_large(
    n_positions: int, names: list[str] | None, limit: int
) -> None:
    config = ModelConfig(vocab_size=500, n_ctx=128, n_embd=64, n_layer=3, n_head=4)
    size = activations.trace_bytes(config, n_positions, names)
    if size <= limit:
        assert activations.check_bytes(config, n_positions, names, limit) == size
    else:
        with pytest.raises(InputError, match="max_bytes") as caught:
            activations.check_bytes(config, n_positions, names, limit)
        assert f"{size / 1e6:,.0f} MB" in str(caught.value)


def test_a_too_large_cache_is_refused_with_its_largest_parts() -> None:
    with pytest.raises(InputError) as caught:
        activations.check_bytes(NAMED_SIZES["gpt2"], 1024, None, activations.MAX_BYTES)
    message = str(caught.value)
    assert "1,024 tokens take" in message
    assert "attn_scores 604 MB" in message
    assert "pattern 604 MB" in message


def test_an_activation_is_found_by_each_of_its_names(cache: ActivationCache) -> None:
    last = cache.config.n_layer - 1
    assert cache["resid_post", last] is cache["resid_post", -1]
    assert cache[f"blocks.{last}.hook_resid_post"] is cache["resid_post", last]
    assert cache["embed"] is cache["embed", None]
    assert cache["hook_embed"] is cache["embed"]
    np.testing.assert_array_equal(cache.stack("q")[1], cache["q", 1])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("nothing", "no activation is called 'nothing'; they are embed, pos_embed"),
        (("q", 3), r"write cache\['q', 0\] to cache\['q', 2\]"),
        (("q", -4), r"write cache\['q', 0\] to cache\['q', 2\]"),
        ("q", r"write cache\['q', 0\] to cache\['q', 2\]"),
    ],
)
def test_what_is_not_there_is_told_plainly(cache: ActivationCache, key: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cache[key]


def test_only_named_activations_are_recorded(tiny_model_dir: Path) -> None:
    kept = run(tiny_model_dir, IDS, ["z", "logits"])
    assert list(kept) == [("z", 0), ("z", 1), ("z", 2), ("logits", None)]
    with pytest.raises(InputError, match="'q' was not recorded"):
        kept["q", 0]
    with pytest.raises(InputError, match="no activation is called 'Q'"):
        run(tiny_model_dir, IDS, ["Q"])


def test_a_frozen_norm_makes_the_model_linear_in_its_last_residual(tiny_model_dir: Path) -> None:
    """What direct logit attribution stands on: with its scale held, the last norm adds up."""
    scale = run(tiny_model_dir, IDS, ["ln_final_scale"])["ln_final_scale"]
    base = run(tiny_model_dir, IDS)["logits"]

    def logits(factor: float) -> np.ndarray:
        def tap(name: str, layer: int | None, x: np.ndarray) -> np.ndarray | None:
            if name == "ln_final_scale":
                return scale
            return x * np.float32(factor) if (name, layer) == ("resid_post", 2) else None

        return run(tiny_model_dir, IDS, ["logits"], tap)["logits"]

    nothing, double = logits(0.0), logits(2.0)
    np.testing.assert_allclose(double - base, base - nothing, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "name", "because"),
    [
        (ModelConfig(n_layer=1), "rot_q", "its positions are learned"),
        (ModelConfig(n_layer=1, positions="rope"), "pos_embed", "its positions are rotary"),
        (
            ModelConfig(n_layer=1, parallel_residual=True),
            "resid_mid",
            "both read the layer's input",
        ),
        (ModelConfig(n_layer=1), "mlp_pre_linear", "its feed-forward has no gate"),
        (ModelConfig(n_layer=1), "k_norm_scale", "it has no norms of q and k"),
        (ModelConfig(n_layer=1), "ln2_post", "it has no norms after sublayers"),
    ],
)
def test_what_another_kind_of_model_has_is_refused_with_the_reason(
    config: ModelConfig, name: str, because: str
) -> None:
    with pytest.raises(InputError, match=f"this gpt2 model has no {name!r}: .*{because}"):
        activations.every_key(config, [name])
    assert name not in activations.activation_names(config)
