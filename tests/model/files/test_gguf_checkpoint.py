"""Models in GGUF files, against the models of transformers that they were made of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import MODELS, make_hf_model, matrices_as, plain, write_gguf
from transformers import AutoModelForCausalLM

from laplm.errors import ModelFormatError
from laplm.model import reference
from laplm.model.families import config_from_hf, family_of, tensor_specs
from laplm.model.files.checkpoint import Checkpoint, open_checkpoint, read_config
from laplm.model.files.gguf_reader import GGUFTensor
from laplm.model.reference import DenseWeights

IDS = np.arange(1, 25) * 7919 % 300


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """A model of transformers and a GGUF file of it, made once."""
    directory, found = tmp_path_factory.mktemp("gguf"), {}

    def make(name: str, kind: str = "F32") -> tuple[Any, Path]:
        if name not in found:
            found[name] = make_hf_model(name)
        path = directory / f"{name}-{kind}.gguf"
        if not path.exists():
            write_gguf(path, found[name], plain if kind == "F32" else matrices_as(kind))
        return found[name], path

    return make


def logits(checkpoint: Checkpoint) -> np.ndarray:
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    weights = DenseWeights(tensors, checkpoint.config)
    return reference.forward(IDS, weights, checkpoint.config)


def hf_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        out: np.ndarray = model(torch.tensor(IDS)[None]).logits[0].float().numpy()
    return out


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_model_that_was_converted(made: Any, name: str) -> None:
    model, path = made(name)
    np.testing.assert_allclose(logits(open_checkpoint(path)), hf_logits(model), atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_config_is_that_of_config_json(made: Any, name: str) -> None:
    model, path = made(name)
    expected = config_from_hf(json.loads(model.config.to_json_string(use_diff=False)))
    found = read_config(path)
    assert found.eos_token_ids == (1,) and found.bos_token_id == 0
    for field in ("activation", "bos_token_id", "eos_token_ids", "pad_token_id"):
        object.__setattr__(found, field, getattr(expected, field))
    assert found == expected


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_quantised_rows_come_in_the_familys_order(made: Any, name: str, kind: str) -> None:
    model, path = made(name, kind)
    checkpoint = open_checkpoint(path)
    code = gguf.GGMLQuantizationType[kind]
    prefix, specs = family_of(checkpoint.config).HF_PREFIX, tensor_specs(checkpoint.config)
    state = {key.removeprefix(prefix): value.numpy() for key, value in model.state_dict().items()}
    n_quantised = 0
    for spec_name, spec in specs.items():
        tensor = checkpoint.tensors[spec_name]
        assert isinstance(tensor, GGUFTensor)
        expected = state["lm_head.weight" if spec.role == "unembed" else spec_name]
        if tensor.ggml_type == kind:
            n_quantised += 1
            by_output = expected.T if spec.layout == "in_out" else expected
            blocks = gguf.quants.quantize(np.ascontiguousarray(by_output), code)
            np.testing.assert_array_equal(tensor.blocks(), blocks.view(np.uint8))
            by_output = gguf.quants.dequantize(blocks, code).reshape(by_output.shape)
            expected = by_output.T if spec.layout == "in_out" else by_output
        found = checkpoint.tensor(spec_name)
        assert found.dtype == np.float32 and found.shape == spec.shape
        np.testing.assert_array_equal(found, expected)
        if spec.role == "embed":
            numbers = np.array([3, 0, 299, 3])
            np.testing.assert_array_equal(checkpoint.rows(spec_name)(numbers), expected[numbers])
    assert n_quantised > 8
    assert checkpoint.dtype == {"F16": "fp16", "BF16": "bf16"}.get(kind, kind)


def test_matrices_are_mapped_where_their_rows_lie_as_the_family_has_them(made: Any) -> None:
    _, path = made("llama")
    checkpoint = open_checkpoint(path)
    mapped = {name for name in checkpoint.names if checkpoint.mapped(name)}
    turned = {name for name in checkpoint.names if "q_proj" in name or "k_proj" in name}
    assert mapped == set(checkpoint.names) - turned and len(turned) == 4
    assert checkpoint.size_bytes == path.stat().st_size


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3"])
def test_transformers_reads_the_same_numbers_from_the_file(made: Any, name: str) -> None:
    _, path = made(name, "Q4_1")
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, config=made(name)[0].config
    )
    checkpoint = open_checkpoint(path)
    state = {key.removeprefix("model."): value for key, value in theirs.state_dict().items()}
    for each in checkpoint.names:
        np.testing.assert_array_equal(checkpoint.tensor(each), state[each].numpy(), each)


def test_smollm2_has_the_weights_and_logits_of_transformers(
    smollm2: Path, smollm2_in_transformers: Any
) -> None:
    theirs = smollm2_in_transformers
    checkpoint = open_checkpoint(smollm2)
    assert checkpoint.dtype == "Q4_1" and checkpoint.config.n_parameters == 134_515_008
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    state = theirs.state_dict()
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, state[f"model.{name}"].numpy(), name)
    weights = DenseWeights(tensors, checkpoint.config)
    ids = np.array([504, 3575, 282, 4649, 314, 7041, 30, 378, 3575, 282, 4649])
    ours = reference.forward(ids, weights, checkpoint.config)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=5e-4)


def test_a_directory_with_one_file_is_that_model(made: Any, tmp_path: Path) -> None:
    _, path = made("llama")
    (tmp_path / "mmproj-model.gguf").write_bytes(b"what sees images")
    os.link(path, tmp_path / "a.GGUF")
    assert open_checkpoint(tmp_path).path == tmp_path / "a.GGUF"
    assert read_config(tmp_path) == read_config(path)
    os.link(path, tmp_path / "b.gguf")
    with pytest.raises(ModelFormatError, match=r"holds 2 GGUF files \(a.GGUF, b.gguf\); give one"):
        open_checkpoint(tmp_path)
    made("gpt2")[0].save_pretrained(tmp_path)
    assert open_checkpoint(tmp_path).config.family == "gpt2", "other weights come first"


def test_a_file_of_another_name_is_known_by_its_first_bytes(made: Any, tmp_path: Path) -> None:
    _, path = made("llama")
    os.link(path, tmp_path / "sha256-0123")
    assert open_checkpoint(tmp_path / "sha256-0123").config == read_config(path)


def test_the_fingerprint_changes_with_the_file(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(made("llama")[1].read_bytes())
    first = open_checkpoint(path).fingerprint
    assert open_checkpoint(path).fingerprint == first
    os.utime(path, (1, 1))
    assert open_checkpoint(path).fingerprint != first


def rewritten(
    path: Path,
    out: Path,
    change: Callable[[str, Any], tuple[str, Any] | None] = lambda name, data: (name, data),
    **more: np.ndarray,
) -> Path:
    """A copy of a file with tensors left out, renamed or exchanged, and with more of them."""
    reader = gguf.GGUFReader(str(path))
    writer = gguf.GGUFWriter(str(out), reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    for changed in (change(tensor.name, tensor.data) for tensor in reader.tensors):
        if changed is not None:
            writer.add_tensor(*changed)
    for name, array in more.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("blk.0.attn_q.weight", None, r"1 of 21 tensors missing \(blk.0.attn_q.weight\)"),
        ("blk.1.ffn_up.weight", "blk.1.ffn_up_exps.weight", r"1 of 21 tensors missing"),
        ("output.weight", "blk.0.attn_q_norm.weight", r"1 tensors that no model of this kind has"),
    ],
)
def test_tensors_that_are_not_a_models_are_refused(
    made: Any, tmp_path: Path, old: str, new: str | None, words: str
) -> None:
    def change(name: str, data: Any) -> tuple[str, Any] | None:
        return (name, data) if name != old else None if new is None else (new, data)

    path = rewritten(made("llama")[1], tmp_path / "a.gguf", change)
    with pytest.raises(ModelFormatError, match=words) as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))


def test_a_tensor_of_another_shape_or_type_is_named(made: Any, tmp_path: Path) -> None:
    source = made("llama")[1]
    path = rewritten(
        source, tmp_path / "a.gguf",
        lambda name, data: (name, data[:8] if name == "blk.0.attn_k.weight" else data),
    )  # fmt: skip
    with pytest.raises(ModelFormatError, match=r"blk.0.attn_k.weight is \[8, 64\], not \[32"):
        open_checkpoint(path)
    path = rewritten(
        source, tmp_path / "b.gguf",
        lambda name, data: (name, data.astype(np.float64) if name == "output.weight" else data),
    )  # fmt: skip
    with pytest.raises(ModelFormatError, match=r"output.weight is stored as F64; laplm reads F32"):
        open_checkpoint(path)


def test_what_sees_images_in_the_same_file_is_left_out(
    made: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, source = made("llama")
    more = {"v.patch_embd.weight": np.zeros((4, 4), np.float32)}
    path = rewritten(source, tmp_path / "a.gguf", **more)
    np.testing.assert_allclose(logits(open_checkpoint(path)), hf_logits(model), atol=1e-4)
    assert "not used, no part of the language model: v.patch_embd.weight" in caplog.text
