from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model
from safetensors.torch import save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2FN

import laplm
from laplm.errors import InputError, ModelFormatError, WriteError
from laplm.model.config import NAMED_SIZES, ModelConfig
from laplm.model.families import config_to_hf, tensor_shapes
from laplm.model.files.checkpoint import (
    check_finite,
    open_checkpoint,
    read_config,
    save_checkpoint,
)
from tests.model.files.opening import (
    State,
    assert_same_model,
    our_logits,
    refused,
    state_of,
    their_logits,
    with_head,
)

VOCAB = 402  # of the tiny model


@pytest.fixture
def directory(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def rewrite(directory: Path, change: Callable[[State], State]) -> None:
    save_file(change(state_of(directory)), directory / "model.safetensors", {"format": "pt"})


def configure(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# --- what is opened ---------------------------------------------------------------------------


def test_model_as_transformers_saves_it(directory: Path) -> None:
    checkpoint = assert_same_model(directory)
    assert checkpoint.dtype == "fp32" and checkpoint.path == directory
    assert checkpoint.size_bytes == (directory / "model.safetensors").stat().st_size
    assert "184,000 parameters" in repr(checkpoint)


def without_prefix(state: State) -> State:
    return {name.removeprefix("transformer."): tensor for name, tensor in state.items()}


def with_masks(state: State) -> State:
    mask = torch.ones(128, 128).tril().view(1, 1, 128, 128)
    more = {f"transformer.h.{i}.attn.bias": mask.clone() for i in range(3)}
    more |= {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(3)}
    more["transformer.h.0.attn.bias"] = mask.to(torch.uint8)
    more["transformer.h.1.attn.bias"] = mask.to(torch.bool)
    return state | more


@pytest.mark.parametrize(
    "change",
    [
        without_prefix,
        with_masks,
        with_head,
        lambda state: without_prefix(with_masks(with_head(state))),
    ],
)
def test_names_and_buffers_of_every_age(directory: Path, change: Callable[[State], State]) -> None:
    rewrite(directory, change)
    assert assert_same_model(directory).config.tied


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16")])
def test_half_precision_is_widened(directory: Path, dtype: torch.dtype, name: str) -> None:
    rewrite(directory, lambda state: {n: t.to(dtype) for n, t in state.items()})
    checkpoint = assert_same_model(directory)
    assert checkpoint.dtype == name
    assert not any(checkpoint.mapped(n) for n in checkpoint.names)


def test_dtype_is_that_of_most_numbers(directory: Path) -> None:
    rewrite(
        directory,
        lambda state: {n: t if t.ndim == 1 else t.to(torch.bfloat16) for n, t in state.items()},
    )
    checkpoint = assert_same_model(directory)
    assert checkpoint.dtype == "bf16"
    assert checkpoint.mapped("ln_f.weight") and not checkpoint.mapped("wte.weight")


def test_every_activation_of_transformers_is_computed_or_refused(directory: Path) -> None:
    rewrite(directory, lambda state: {n: t * 3 if "c_fc" in n else t for n, t in state.items()})
    refusals = []
    for name in ACT2FN:
        configure(directory, activation_function=name)
        try:
            checkpoint = open_checkpoint(directory)
        except ModelFormatError as error:
            refusals.append(name)
            assert f"'{name}' is not one of gelu, gelu_10, " in str(error)
        else:
            ours, theirs = our_logits(checkpoint), their_logits(directory)
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
    assert refusals == ["sqrtsoftplus", "prelu", "xielu"]  # the last two have weights of their own


def test_shards(directory: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="200KB")
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 2
    checkpoint = assert_same_model(directory)
    assert checkpoint.size_bytes == sum(shard.stat().st_size for shard in shards)


@pytest.mark.parametrize("name", ["wte.weight", "h.0.mlp.c_fc.weight", "ln_f.bias"])
def test_tensors_cannot_be_written_to(directory: Path, name: str) -> None:
    array = open_checkpoint(directory).tensor(name)
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_are_those_of_the_tensor(directory: Path, dtype: torch.dtype) -> None:
    rewrite(directory, lambda state: {n: t.to(dtype) for n, t in state.items()})
    checkpoint = open_checkpoint(directory)
    wanted = np.array([7, 0, 7, 127])
    for name in ("wte.weight", "wpe.weight"):
        rows = checkpoint.rows(name)(wanted)
        assert rows.dtype == np.float32
        assert np.array_equal(rows, checkpoint.tensor(name)[wanted])


def test_unknown_tensor_is_a_key_error(directory: Path) -> None:
    checkpoint = open_checkpoint(directory)
    for call in (checkpoint.tensor, checkpoint.mapped, checkpoint.rows):
        with pytest.raises(KeyError):
            call("lm_head.weight")


def test_opening_reads_no_weights_and_mapping_copies_none(tmp_path: Path) -> None:
    """GPT-2 XL in a file of holes: 6 GB that no disk holds and no memory could."""
    config = NAMED_SIZES["gpt2-xl"]
    table: dict[str, Any] = {}
    end = 0
    for name, shape in tensor_shapes(config).items():
        begin, end = end, end + 4 * int(np.prod(shape))
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(file, 8 + len(header) + end)
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(config)))
    code = f"""
import resource, time
from pathlib import Path
from laplm.model.files.checkpoint import open_checkpoint
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
checkpoint = open_checkpoint(Path({str(tmp_path)!r}))
arrays = [checkpoint.tensor(name) for name in checkpoint.names]
assert all(map(checkpoint.mapped, checkpoint.names))
assert sum(a.nbytes for a in arrays) == {end}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - start)
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(out[0]) < 20_000  # kilobytes
    assert float(out[1]) < 2


def test_fingerprint_follows_the_files(directory: Path) -> None:
    first = open_checkpoint(directory).fingerprint
    assert open_checkpoint(directory).fingerprint == first
    link = directory.parent / "link"
    link.symlink_to(directory)
    assert open_checkpoint(link).fingerprint == first
    seen = {first}
    for name in ("model.safetensors", "config.json"):
        later = time.time_ns() + 10**9
        os.utime(directory / name, ns=(later, later))
        seen.add(open_checkpoint(directory).fingerprint)
    seen.add(open_checkpoint(shutil.copytree(directory, directory.parent / "b")).fingerprint)
    assert len(seen) == 4
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in seen)


# --- one output matrix or two -----------------------------------------------------------------


def test_output_matrix_of_its_own(tmp_path: Path) -> None:
    model = make_model(tmp_path / "untied", tie_word_embeddings=False)
    checkpoint = assert_same_model(model)
    assert not checkpoint.config.tied and checkpoint.names[-1] == "lm_head.weight"


def other_head(state: State) -> State:
    return state | {"lm_head.weight": state["transformer.wte.weight"] * 1.5}


def test_stored_output_matrix_that_differs_is_used_whatever_the_config_says(
    directory: Path,
) -> None:
    tied = our_logits(open_checkpoint(directory))
    rewrite(directory, other_head)
    checkpoint = assert_same_model(directory)
    assert not checkpoint.config.tied and "lm_head.weight" in checkpoint.names
    assert np.abs(our_logits(checkpoint) - tied).max() > 0.01


def test_matrices_that_differ_in_the_last_number_are_two(directory: Path) -> None:
    def change(state: State) -> State:
        state = with_head(state)
        state["lm_head.weight"][-1, -1] += 1
        return state

    rewrite(directory, change)
    assert not assert_same_model(directory).config.tied


@pytest.mark.parametrize("where", ["first", "last of the first 2^20", "last"])
def test_large_matrices_that_differ_in_one_number_are_two(where: str, tmp_path: Path) -> None:
    """They are compared in pieces of about a million numbers."""
    rng = np.random.default_rng(0)
    config = ModelConfig(vocab_size=9000, n_embd=128, n_head=2, n_layer=1, n_ctx=8)
    tensors = {
        name: rng.standard_normal(shape, np.float32) / 10
        for name, shape in tensor_shapes(config).items()
    }
    head = tensors["wte.weight"].copy()
    assert head.size > 1 << 20
    at = {"first": 0, "last of the first 2^20": (1 << 20) - 1, "last": head.size - 1}[where]
    head.reshape(-1)[at] += 1
    untied = dataclasses.replace(config, tied=False)
    save_checkpoint(tmp_path / "two", untied, tensors | {"lm_head.weight": head})
    configure(tmp_path / "two", tie_word_embeddings=True)
    assert not open_checkpoint(tmp_path / "two").config.tied
    assert assert_same_model(tmp_path / "two").names[-1] == "lm_head.weight"
    save_checkpoint(tmp_path / "two", untied, tensors | {"lm_head.weight": tensors["wte.weight"]})
    configure(tmp_path / "two", tie_word_embeddings=True)
    assert open_checkpoint(tmp_path / "two").config.tied


def test_zeros_of_either_sign_are_equal(directory: Path) -> None:
    def change(state: State) -> State:
        state["transformer.wte.weight"][3, 3] = 0.0
        state = with_head(state)
        state["lm_head.weight"][3, 3] = -0.0
        return state

    rewrite(directory, change)
    assert assert_same_model(directory).config.tied


def test_output_matrix_alone_serves_as_both(directory: Path) -> None:
    def change(state: State) -> State:
        state["lm_head.weight"] = state.pop("transformer.wte.weight")
        return state

    rewrite(directory, change)
    assert assert_same_model(directory).config.tied


def test_untied_config_without_the_matrix_is_refused(directory: Path) -> None:
    configure(directory, tie_word_embeddings=False)
    with pytest.raises(ModelFormatError, match=r"1 of 41 tensors missing \(lm_head\.weight\)"):
        open_checkpoint(directory)


# --- what is refused --------------------------------------------------------------------------


def test_missing_directory(tmp_path: Path) -> None:
    assert "neither a directory nor a GGUF file; give the directory" in refused(
        tmp_path / "nothing"
    )
    (tmp_path / "file").write_text("")
    assert "neither a directory" in refused(tmp_path / "file")


def test_missing_tensors_are_counted_and_the_first_named(directory: Path) -> None:
    def change(state: State) -> State:
        return {name: tensor for name, tensor in state.items() if ".h.1." not in name}

    rewrite(directory, change)
    message = refused(directory)
    assert "12 of 40 tensors missing" in message
    assert "(h.1.ln_1.weight, h.1.ln_1.bias, h.1.attn.c_attn.weight and 9 more)" in message


def test_extra_tensors_are_counted_and_the_first_named(directory: Path) -> None:
    configure(directory, n_layer=2)
    message = refused(directory)
    assert (
        "no gpt2 of these sizes has: 12 (" in message and "h.2." in message and "n_layer" in message
    )


@pytest.mark.parametrize(
    "name", ["h.0.crossattention.c_attn.weight", "transformer.h.1.attn.q_norm.weight", "h.9.x"]
)
def test_part_of_a_block_that_gpt2_does_not_have_is_refused(directory: Path, name: str) -> None:
    rewrite(directory, lambda state: state | {name: torch.zeros(64)})
    assert f"({name.removeprefix('transformer.')}); check n_layer" in refused(directory)


@pytest.mark.parametrize(
    ("by", "endings", "replaces"),
    [
        ("GPTQ or AWQ", [".qweight", ".qzeros", ".scales"], True),
        ("bitsandbytes", [".weight.absmax", ".weight.quant_map"], False),
        ("bitsandbytes", [".SCB", ".weight_format"], False),
        ("compressed-tensors", [".weight_packed", ".weight_scale"], True),
        ("MLX", [".biases", ".scales"], False),
    ],
)
def test_weights_of_programs_that_quantise_are_known_by_their_tensors(
    directory: Path, by: str, endings: list[str], replaces: bool
) -> None:
    name = "transformer.h.1.attn.c_proj"

    def change(state: State) -> State:
        if replaces:
            del state[f"{name}.weight"]
        return state | {name + ending: torch.zeros(64) for ending in endings}

    rewrite(directory, change)
    message = refused(directory)
    assert any(f"quantised ({by}, by tensor h.1.attn.c_proj{e})" in message for e in endings)
    assert "in fp32, fp16 or bf16, or as a GGUF file" in message


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_file_beside_the_config_is_named_once(directory: Path, text: str) -> None:
    (directory / "generation_config.json").write_text(text)
    message = refused(directory)
    assert message.startswith(f"{directory / 'generation_config.json'}: not ")
    assert message.count(str(directory)) == 1


HEADS = {
    "value": ["v_head.summary.weight", "v_head.summary.bias"],
    "classifier": ["score.weight"],
    "tokens": ["classifier.weight", "classifier.bias"],
    "choices": ["multiple_choice_head.summary.weight", "multiple_choice_head.summary.bias"],
    "questions": ["qa_outputs.weight", "qa_outputs.bias"],
    "many": ["a", "b.weight", "c.weight", "d.weight"],
    "biased": ["lm_head.bias"],
    "hostile": ["\x1b]0;PWNED\x07\x1b[2J", "x" * 3000],
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_beside_a_whole_model_are_left_out_and_named_once(
    head: str, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = {name: torch.randn(2, 64) for name in HEADS[head]}
    rewrite(directory, lambda state: state | more)
    assert_same_model(directory)
    open_checkpoint(directory)
    (line,) = (record.getMessage() for record in caplog.records if record.name == "laplm")
    assert str(directory) in line and line.isprintable() and len(line) < 400
    assert head == "hostile" or HEADS[head][0] in line


def test_whole_model_says_nothing(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(directory, with_masks)
    open_checkpoint(directory)
    assert caplog.messages == []


def test_config_with_the_names_that_all_models_share(directory: Path) -> None:
    names = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers",
             "n_head": "num_attention_heads", "n_positions": "max_position_embeddings"}  # fmt: skip
    file = directory / "config.json"
    values = json.loads(file.read_text())
    values = {names.get(key, key): value for key, value in values.items() if key != "n_ctx"}
    assert values.keys() >= set(names.values())
    file.write_text(json.dumps(values))
    assert_same_model(directory)


def test_wrong_shapes_are_named_with_both_shapes(directory: Path) -> None:
    configure(directory, n_positions=64, n_ctx=64)
    message = refused(directory)
    assert "another shape than config.json asks for: 1 (" in message
    assert "wpe.weight is [128, 64], not [64, 64]" in message


def test_transposed_weights_are_refused(directory: Path) -> None:
    name = "transformer.h.0.mlp.c_fc.weight"
    rewrite(directory, lambda state: state | {name: state[name].T.contiguous()})
    assert "h.0.mlp.c_fc.weight is [256, 64], not [64, 256]" in refused(directory)


@pytest.mark.parametrize(
    ("dtype", "code"),
    [(torch.float64, "F64"), (torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3")],
)
def test_other_number_formats_are_named(directory: Path, dtype: torch.dtype, code: str) -> None:
    rewrite(directory, lambda state: {n: t.to(dtype) for n, t in state.items()})
    assert f"is stored as {code}; laplm reads fp32, fp16 and bf16" in refused(directory)


@pytest.mark.parametrize("name", ["transformer.wte.weight", "lm_head.weight"])
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros((), dtype=torch.int64), "another shape than config.json asks for"),
        (torch.zeros(()), "another shape than config.json asks for"),
        (torch.zeros(VOCAB), "another shape than config.json asks for"),
        (torch.zeros(0, 64), "another shape than config.json asks for"),
        (torch.zeros(VOCAB, 64, 1), "another shape than config.json asks for"),
        (torch.zeros(VOCAB, 64, dtype=torch.int8), "stored as I8"),
        (torch.zeros(VOCAB, 64, dtype=torch.bool), "stored as BOOL"),
        (torch.zeros(VOCAB, 64, dtype=torch.complex64), "stored as C64"),
        (torch.zeros(VOCAB, 64, dtype=torch.float8_e5m2), "stored as F8_E5M2"),
    ],
)
def test_embeddings_of_odd_shapes_and_formats_are_named(
    directory: Path, name: str, tensor: torch.Tensor, words: str
) -> None:
    rewrite(directory, lambda state: with_head(state) | {name: tensor})
    message = refused(directory)
    assert words in message and name.removeprefix("transformer.") in message


def test_same_tensor_with_and_without_prefix_is_refused(directory: Path) -> None:
    rewrite(directory, lambda state: state | {"ln_f.bias": torch.zeros(64)})
    assert "holds tensor ln_f.bias twice" in refused(directory)


def test_truncated_file_is_named_with_both_lengths(directory: Path) -> None:
    file = directory / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, size - 1000)
    assert f"model.safetensors: cut short: {size - 1000:,} bytes" in refused(directory)
    assert f"describes {size:,}" in refused(directory)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not readable as JSON"),
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "not a JSON object"),
        ("\ud800", "not readable as JSON"),
        ('{"model_type": "bloom"}', "model_type is 'bloom'"),
        ('{"n_embd": -1}', "n_embd is -1"),
        ('{"n_layer": 1e9}', "n_layer"),
        ('{"n_head": 7}', "cannot be split"),
        ('{"activation_function": "tanhshrink"}', "'tanhshrink' is not one of"),
        ('{"add_cross_attention": true}', "decoder-only"),
    ],
)
def test_config_that_is_none_or_another_models(directory: Path, content: str, words: str) -> None:
    (directory / "config.json").write_text(content, errors="surrogatepass")
    assert words in refused(directory)


def put_index(directory: Path, weight_map: object) -> None:
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "C:x",
        "a\\b.safetensors", "a\0b", None, 7, ["x"], "x" * 300, "ü" * 130, "\ud800" * 100,
    ],
)  # fmt: skip
def test_index_cannot_lead_out_of_the_directory(directory: Path, shard: object) -> None:
    (directory / "model.safetensors").rename(directory.parent / "outside.safetensors")
    put_index(directory, {"wte.weight": shard})
    assert "which is not a plain file name" in refused(directory)


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_index_without_a_map_is_refused(directory: Path, weight_map: object) -> None:
    (directory / "model.safetensors").unlink()
    put_index(directory, weight_map)
    assert "has no weight_map" in refused(directory)


def test_index_and_shards_must_agree(directory: Path) -> None:
    names = list(state_of(directory))
    (directory / "model.safetensors").rename(directory / "a.safetensors")
    whole = dict.fromkeys(names, "a.safetensors")
    put_index(directory, whole)
    assert_same_model(directory)
    put_index(directory, whole | {names[0]: "b.safetensors", names[1]: "c.safetensors"})
    assert "2 of 3 files missing (b.safetensors, c.safetensors)" in refused(directory)
    put_index(directory, dict.fromkeys(names[1:], "a.safetensors"))
    assert "which the index does not place there" in refused(directory)
    put_index(directory, whole | {"more": "a.safetensors"})
    assert "lacks tensors that the index names: 1 (more)" in refused(directory)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "this directory is empty"),
        (["notes.txt"], "has no config.json (notes.txt)"),
        (["model.safetensors"], "has no config.json (model.safetensors)"),
        (["config.json", "tokenizer.json"], "has no weights (config.json, tokenizer.json)"),
        (["mmproj.gguf"], "has no config.json (mmproj.gguf)"),
        (["config.json", "tf_model.h5"], "tf_model.h5 (TensorFlow)"),
        (["config.json", "flax_model.msgpack"], "flax_model.msgpack (Flax)"),
        (["decoder_model.onnx", "config.json"], "decoder_model.onnx (ONNX)"),
        (["rust_model.ot", "config.json"], "rust_model.ot (Rust)"),
        (["ckpt.pt"], "ckpt.pt (PyTorch)"),
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter"),
        (["model.ckpt.index", "model.ckpt.data-00000-of-00001"], "not all of it"),
    ],
)
def test_other_layouts_are_told_apart(
    directory: Path, tmp_path: Path, files: list[str], words: str
) -> None:
    place = tmp_path / "other"
    place.mkdir()
    for name in files:
        shutil.copyfile(directory / "config.json", place / name)
    message = refused(place)
    assert words in message
    assert "with model.safetensors" in message or "merge" in message or "fetch" in message


def test_weights_that_are_no_numbers_are_opened_and_found_by_the_check(directory: Path) -> None:
    def change(state: State) -> State:
        state["transformer.h.1.ln_2.weight"][5] = float("nan")
        return state

    rewrite(directory, change)
    checkpoint = open_checkpoint(directory)
    with pytest.raises(ModelFormatError, match=r"h\.1\.ln_2\.weight holds 1 numbers.*at \[5\]"):
        for name in checkpoint.names:
            check_finite(name, checkpoint.tensor(name))


def test_opening_needs_no_torch(directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from laplm.model.files.checkpoint import open_checkpoint; "
        f"c = open_checkpoint(Path({str(directory)!r})); c.tensor('wte.weight'); "
        "heavy = {'torch', 'safetensors', 'transformers'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- files that may not be read ---------------------------------------------------------------

LOOK = """
import os, sys
from laplm.hub import locate
from laplm.errors import LaplmError
from laplm.run.language_model import LanguageModel
LanguageModel(sys.argv[1])
locate.installed()  # all is imported: Python itself may be closed to others
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for path in sys.argv[2:]:
    try:
        LanguageModel(path)
        print("opened")
    except LaplmError as error:
        print(error)
print([model.problem for model in locate.installed()[1:]])  # the package itself may be closed too
"""


@pytest.mark.skipif(
    not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can be another"
)
def test_what_another_user_may_not_read_is_one_plain_line(directory: Path, tmp_path: Path) -> None:
    parts = {}
    for file in directory.iterdir():
        file.chmod(0o644)
    for part in ("config.json", "model.safetensors", "tokenizer.json"):
        parts[part] = Path(shutil.copytree(directory, tmp_path / f"no-{part}"))
        (parts[part] / part).chmod(0)
    for mode in (0o0, 0o4, 0o1):  # nothing, listing alone, entering alone
        parts[str(mode)] = Path(shutil.copytree(directory, tmp_path / f"mode{mode}"))
    folder = tmp_path / "hub" / "models--gpt2"
    shutil.copytree(directory, folder / "snapshots" / "b")
    above = Path(shutil.copytree(directory, tmp_path / "above" / "model"))
    parts["above"] = above
    for path in (tmp_path, *tmp_path.parents[:-1]):
        if path.stat().st_uid == 0 and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o5)
    for mode in (0o0, 0o4, 0o1):
        parts[str(mode)].chmod(mode)
    above.parent.chmod(0)
    (folder / "snapshots").chmod(0)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub")}
    out = subprocess.run(
        [sys.executable, "-c", LOOK, str(directory), *map(str, parts.values())],
        env=environment, cwd=Path(laplm.__file__).parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    *lines, listed = out.stdout.splitlines()
    told = dict(zip(parts, lines, strict=True))
    assert told.pop("1") == "opened"
    for name, line in told.items():
        assert "Permission denied" in line and str(parts[name].parent) in line, (name, line)
    assert listed == "['its download did not finish']"


def test_permission_denied_is_one_plain_line(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those who are not root; ``is_file`` raises it where a directory may not be entered."""

    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", denied)
    words = "cannot be read (Permission denied); check who may read"
    assert words in refused(directory)
    with pytest.raises(ModelFormatError, match=re.escape(words)):
        read_config(directory)


# --- saving -----------------------------------------------------------------------------------


def opened(directory: Path) -> tuple[ModelConfig, dict[str, np.ndarray[Any, Any]]]:
    checkpoint = open_checkpoint(directory)
    return checkpoint.config, {name: checkpoint.tensor(name) for name in checkpoint.names}


@pytest.mark.parametrize(
    ("dtype", "theirs"),
    [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_saved_model_is_what_transformers_loads(
    directory: Path, tmp_path: Path, dtype: Any, theirs: torch.dtype
) -> None:
    config, tensors = opened(directory)
    tokenizer_json = (directory / "tokenizer.json").read_text()
    save_checkpoint(tmp_path / "new" / "saved", config, tensors, dtype, tokenizer_json)
    saved = tmp_path / "new" / "saved"
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    model, report = GPT2LMHeadModel.from_pretrained(saved, output_loading_info=True)
    assert not any(report.values()) and model.dtype == theirs
    original = GPT2LMHeadModel.from_pretrained(directory).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, original[name].to(theirs)), name
    assert open_checkpoint(saved).dtype == dtype
    assert open_checkpoint(saved).config == config
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.model_max_length == 128
    assert tokenizer.encode("Once upon") == AutoTokenizer.from_pretrained(directory).encode(
        "Once upon"
    )


def test_saved_model_with_an_output_matrix_of_its_own(tmp_path: Path) -> None:
    config, tensors = opened(make_model(tmp_path / "untied", tie_word_embeddings=False))
    save_checkpoint(tmp_path / "saved", config, tensors)
    # transformers would find the matrix without being told; its other readers would not.
    assert GPT2Config.from_pretrained(tmp_path / "saved").tie_word_embeddings is False
    assert_same_model(tmp_path / "saved")
    assert np.allclose(their_logits(tmp_path / "untied"), their_logits(tmp_path / "saved"))


def test_saving_over_a_model_keeps_its_other_files(directory: Path) -> None:
    (directory / "notes.txt").write_text("mine")
    config, tensors = opened(directory)
    tensors = {name: tensor * 2 for name, tensor in tensors.items()}
    save_checkpoint(directory, config, tensors)
    assert np.array_equal(open_checkpoint(directory).tensor("ln_f.bias"), tensors["ln_f.bias"])
    assert (directory / "notes.txt").read_text() == "mine"
    assert (directory / "tokenizer.json").is_file()
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("there", [False, True])
def test_failed_save_leaves_what_was_there(
    directory: Path, tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tensors = opened(directory)
    target = directory if there else tmp_path / "new"
    before = {p.name: p.read_bytes() for p in directory.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"no space left.*choose another directory"):
        save_checkpoint(target, config, tensors)
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_numbers_too_large_for_fp16_are_refused(directory: Path, tmp_path: Path) -> None:
    config, tensors = opened(directory)
    tensors["ln_f.weight"] = np.full(64, 70000, np.float32)
    with pytest.raises(InputError, match=r"ln_f\.weight has numbers beyond 65504"):
        save_checkpoint(tmp_path / "new", config, tensors, "fp16")
    save_checkpoint(tmp_path / "new", config, tensors, "bf16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "new"]


def test_tensors_that_do_not_fit_are_refused(directory: Path, tmp_path: Path) -> None:
    config, tensors = opened(directory)
    with pytest.raises(InputError, match=r"ln_f\.bias is \[3\], not \[64\]"):
        save_checkpoint(tmp_path / "new", config, tensors | {"ln_f.bias": np.zeros(3)})
    del tensors["ln_f.bias"]
    with pytest.raises(InputError, match=r"ln_f\.bias is missing, not \[64\]"):
        save_checkpoint(tmp_path / "new", config, tensors)
    assert not (tmp_path / "new").exists()
