"""What the kernels multiply with is the model's tensors, joined and cut as the kernels want it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy

from laplm.model import families
from laplm.model.engine.matrices import HEAD, matrices
from laplm.model.engine.model import GPT
from laplm.model.files.checkpoint import Checkpoint, open_checkpoint, save_checkpoint

VALUES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "model_type": "toy",
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setitem(families.FAMILIES, "toy", toy.__name__)
    config = families.config_from_hf(VALUES)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in families.tensor_shapes(config).items()
    }
    save_checkpoint(tmp_path / "model", config, tensors)
    return open_checkpoint(tmp_path / "model")


def test_queries_keys_and_values_are_one_matrix_and_gate_and_up_another(
    checkpoint: Checkpoint,
) -> None:
    found = [m for m in matrices(checkpoint, "int4") if m.layer == 1]
    assert [[s.spec.role for s in m.sources] for m in found] == [
        ["q", "k", "v"], ["attn_out"], ["gate", "up"], ["down"],
    ]  # fmt: skip
    assert [(m.n_out, m.n_in) for m in found] == [(80, 48), (48, 48), (96, 48), (48, 40)]
    assert {m.form.name for m in found} == {"int4"}
    *_, head = matrices(checkpoint, "int4")
    assert (head.name, head.layer, head.form.name, head.n_out) == (HEAD, None, "int8", 97)


def test_what_is_stored_differently_is_multiplied_apart_and_goes_to_its_own_columns(
    checkpoint: Checkpoint,
) -> None:
    checkpoint.tensors["layers.0.self_attn.v_proj.weight"] = _Stored("Q6_K")
    checkpoint.tensors["layers.0.self_attn.q_proj.weight"] = _Stored("F16")
    checkpoint.tensors["layers.0.mlp.up_proj.weight"] = _Stored("Q4_1")
    found = [m for m in matrices(checkpoint, "stored") if m.layer == 0]
    qkv = [(m.form.name, [s.spec.role for s in m.sources], m.place, m.column) for m in found[:3]]
    assert qkv == [("fp16", ["q"], 0, 0), ("fp32", ["k"], 1, 48), ("q8_0", ["v"], 2, 64)]
    assert (found[4].alternate, found[4].form.name) == (True, "fp32")  # the other is: widened
    checkpoint.tensors["layers.0.mlp.gate_proj.weight"] = _Stored("Q4_0")
    found = [m for m in matrices(checkpoint, "stored") if m.layer == 0]
    assert (found[4].alternate, found[4].form.name) == (True, "q8_0")


@pytest.mark.parametrize(
    ("dtype", "form"),
    [("Q4_0", "int4"), ("Q4_1", "q4_1"), ("Q4_K", "q4_k"), ("Q5_1", "int4"), ("BF16", "int4")],
)
def test_in_int4_what_has_four_bits_already_is_not_rounded_again(
    dtype: str, form: str, checkpoint: Checkpoint
) -> None:
    checkpoint.tensors["layers.0.mlp.down_proj.weight"] = _Stored(dtype)
    down = [m for m in matrices(checkpoint, "int4") if m.layer == 0][-1]
    assert ([s.spec.role for s in down.sources], down.form.name) == (["down"], form)
    in_bytes = [m for m in matrices(checkpoint, "int8") if m.layer == 0][-1]
    assert in_bytes.form.name == "int8"


class _Stored:
    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


def test_every_tensor_is_found_again_in_the_packed_weights(checkpoint: Checkpoint) -> None:
    gpt = GPT(checkpoint, "fp32", threads=1)
    rng = np.random.default_rng(1)
    for spec in families.tensor_specs(checkpoint.config).values():
        if spec.is_linear:
            x = rng.standard_normal((3, spec.shape[1])).astype(np.float32)
            want = x @ checkpoint.tensor(spec.name).T
            assert spec.layer is not None
            np.testing.assert_allclose(
                gpt.weights.linear(spec.role, spec.layer, x), want, rtol=1e-5, atol=1e-5
            )
