"""Exports, read by the programs that they are for: transformers, peft, gguf, llama.cpp."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
from conftest import make_model
from llama_cpp import LlamaServer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import laplm
from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.model.files import export as export_module
from laplm.model.files import gguf_writer
from laplm.model.files.export import _TOLERANCE, export
from laplm.model.files.gguf_checkpoint import Layout
from laplm.model.tensors import TensorSpec
from laplm.run.language_model import LanguageModel

IDS = [[5, 60, 200, 31, 7, 7, 150, 90]]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, "fp32")


@pytest.fixture(scope="module")
def adapter(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = peft.LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    made = peft.get_peft_model(GPT2LMHeadModel.from_pretrained(tiny_model_dir), config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    directory = tmp_path_factory.mktemp("adapter")
    made.save_pretrained(directory)
    return directory


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS)).logits[0].numpy()


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-5), ("f16", 3e-3), ("bf16", 3e-2)])
def test_transformers_loads_a_directory_and_gives_the_same_logits(
    model: LanguageModel, tmp_path: Path, precision: str, tolerance: float
) -> None:
    done = export(model, tmp_path / "out", "hf", precision)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert theirs.lm_head.weight.data_ptr() == theirs.transformer.wte.weight.data_ptr()
    expected = logits(GPT2LMHeadModel.from_pretrained(model.path, dtype=torch.float32))
    np.testing.assert_allclose(logits(theirs), expected, rtol=0, atol=tolerance * 10)
    assert done.size_bytes == (done.path / "model.safetensors").stat().st_size
    n_bytes = {"f32": 4, "f16": 2, "bf16": 2}[precision] * model.config.n_parameters
    assert n_bytes < done.size_bytes < n_bytes + 20_000, "one matrix for input and output"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.encode("The dog saw") == model.tokenizer.encode("The dog saw")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is held open")
@pytest.mark.parametrize(("form", "name"), [("hf", "out"), ("gguf", "out.gguf")])
def test_what_is_given_its_name_is_not_held_open(
    model: LanguageModel, tmp_path: Path, form: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows would refuse to rename it."""
    renamed = []
    for method, real in (("replace", Path.replace), ("rename", Path.rename)):

        def named(self: Path, target: Path, real: Any = real) -> Path:
            if target == tmp_path / name:
                renamed.append(target)
                assert self.name not in Path("/proc/self/maps").read_text()
                links = [file for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
                assert not any(self.name in str(file.readlink()) for file in links)
            return real(self, target)

        monkeypatch.setattr(Path, method, named)
    export(model, tmp_path / name, form, "f32")
    assert renamed == [tmp_path / name]


def test_an_adapter_is_merged_as_peft_merges_it(
    adapter: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    export(LanguageModel(adapter, "fp32"), tmp_path / "out", "peft-merged", "f32")
    live = peft.PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(tiny_model_dir), adapter)
    found = logits(GPT2LMHeadModel.from_pretrained(tmp_path / "out"))
    np.testing.assert_allclose(found, logits(live.merge_and_unload()), rtol=0, atol=1e-4)
    assert not list((tmp_path / "out").glob("adapter*"))


def test_an_adapter_with_tokens_of_its_own_is_merged_with_them(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>"]})
    theirs = GPT2LMHeadModel.from_pretrained(tiny_model_dir)
    theirs.resize_token_embeddings(len(tokenizer))
    config = peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    live = peft.get_peft_model(theirs, config)
    adapter = tmp_path / "adapter"
    live.save_pretrained(adapter, save_embedding_layers=True)
    tokenizer.save_pretrained(adapter)
    export(LanguageModel(adapter, "fp32"), tmp_path / "out")
    merged = GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    assert merged.config.vocab_size == len(tokenizer)
    np.testing.assert_allclose(logits(merged), logits(live), rtol=0, atol=1e-4)
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "<|user|>The dog saw<|end|>"
    assert ours.encode(text) == tokenizer.encode(text)
    assert ours.encode(text)[-1] == len(tokenizer) - 1
    export(LanguageModel(adapter, "fp32"), tmp_path / "a.gguf")
    assert LlamaServer(tmp_path / "a.gguf").tokenize(text) == tokenizer.encode(text)


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-5), ("f16", 5e-3), ("q8_0", 5e-2)])
def test_transformers_reads_a_gguf_file_and_gives_the_same_logits(
    model: LanguageModel, tmp_path: Path, precision: str, tolerance: float
) -> None:
    done = export(model, tmp_path / "model.gguf", "gguf", precision)
    # Of a GGUF file transformers reads the context's length as n_ctx, but GPT-2's is n_positions.
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file="model.gguf",
        dtype=torch.float32,
        config=GPT2Config.from_pretrained(model.path),
    )
    expected = logits(GPT2LMHeadModel.from_pretrained(model.path, dtype=torch.float32))
    spread = expected.std()
    np.testing.assert_allclose(logits(theirs), expected, rtol=0, atol=tolerance * 5 * spread)
    names = {t.name: t.tensor_type.name for t in gguf.GGUFReader(str(done.path)).tensors}
    assert "output.weight" not in names, "the output matrix is the embedding"
    kind = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}[precision]
    assert names["blk.0.attn_qkv.weight"] == names["token_embd.weight"] == kind
    assert names["position_embd.weight"] == names["blk.0.attn_qkv.bias"] == "F32"


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-5), ("f16", 5e-3), ("q8_0", 5e-2)])
@pytest.mark.parametrize("tied", [True, False])
def test_laplm_reads_its_own_gguf_file_again(
    tmp_path: Path, precision: str, tolerance: float, tied: bool
) -> None:
    source = make_model(tmp_path / "m", tie_word_embeddings=tied)
    before = LanguageModel(source, "fp32")
    export(before, tmp_path / "a.gguf", "gguf", precision)
    after = LanguageModel(tmp_path / "a.gguf", "fp32")
    assert after.config == before.config
    assert after.tokenizer.encode("Once upon 12") == before.tokenizer.encode("Once upon 12")
    expected, found = (model.gpt.forward(np.array(IDS[0])) for model in (before, after))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * 5 * expected.std())


def test_a_gguf_file_has_the_tokenizer_and_a_modelfile_beside_it(
    model: LanguageModel, tmp_path: Path
) -> None:
    done = export(model, tmp_path / "mine.gguf", "gguf", "f16")
    fields = gguf.GGUFReader(str(done.path)).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == model.config.vocab_size
    ids = model.tokenizer.encode("The dog saw")
    assert [tokens[i] for i in ids] == json_tokens(model, ids)
    assert fields["tokenizer.ggml.eos_token_id"].contents() == model.config.eos_token_id
    assert done.also == (tmp_path / "Modelfile",)
    assert "\nFROM ./mine.gguf\n" in done.also[0].read_text()


def json_tokens(model: LanguageModel, ids: list[int]) -> list[str]:
    vocab = json.loads(model.tokenizer.to_json())["model"]["vocab"]
    by_id = {i: token for token, i in vocab.items()}
    return [by_id[i] for i in ids]


def test_rows_that_cannot_be_grouped_and_an_output_matrix_of_its_own(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", n_embd=48, n_head=4, tie_word_embeddings=False)
    model = LanguageModel(source, "fp32")
    done = export(model, tmp_path / "a.gguf", "gguf", "q8_0")
    names = {t.name: t.tensor_type.name for t in gguf.GGUFReader(str(done.path)).tensors}
    assert names["token_embd.weight"] == names["output.weight"] == "F16"
    assert names["blk.0.ffn_down.weight"] == "Q8_0"  # 192 inputs


def test_a_padded_vocabulary_has_a_token_for_every_row(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", vocab_size=640)
    done = export(LanguageModel(source, "fp32"), tmp_path / "a.gguf", "gguf", "f32")
    tokens = gguf.GGUFReader(str(done.path)).fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 640 and tokens[-1] == "[PAD639]"


def test_llama_cpp_continues_a_gguf_file_as_laplm_does(tmp_path: Path) -> None:
    lm = laplm.load("pocket", "fp32")
    export(lm, tmp_path / "pocket.gguf")
    prompt = "Once upon a time, there was a little girl"
    out = LlamaServer(tmp_path / "pocket.gguf").post(
        "/completion", prompt=prompt, n_predict=40, temperature=0.0, repeat_penalty=1.0
    )
    assert out["content"] == lm.generate(prompt, 40, temperature=0).text


def test_a_chat_template_goes_along(
    model: LanguageModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    export(model, tmp_path / "one", "hf", "f32")
    config = tmp_path / "one" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": "{{ 1 }}"}))
    chat = LanguageModel(tmp_path / "one", "fp32")
    export(chat, tmp_path / "two", "hf", "f16")
    assert AutoTokenizer.from_pretrained(tmp_path / "two").chat_template == "{{ 1 }}"
    done = export(chat, tmp_path / "a.gguf", "gguf", "f16")
    fields = gguf.GGUFReader(str(done.path)).fields
    assert fields["tokenizer.chat_template"].contents() == "{{ 1 }}"


def test_a_directory_that_someone_else_fills_meanwhile_is_left_to_him(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deviation = export_module._deviation

    def intrude(*arguments: Any) -> float:
        (tmp_path / "out" / "run").mkdir(parents=True)
        return deviation(*arguments)

    monkeypatch.setattr(export_module, "_deviation", intrude)
    with pytest.raises(InputError, match="out was written to by someone else meanwhile"):
        export(model, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "run"]


def test_what_was_written_wrongly_is_noticed_and_taken_away(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout_of = gguf_writer.layout_of

    def square_ones_lie_wrongly(spec: TensorSpec, config: ModelConfig) -> Layout:
        layout = layout_of(spec, config)
        return dataclasses.replace(layout, transposed=False) if spec.role == "attn_out" else layout

    monkeypatch.setattr(gguf_writer, "layout_of", square_ones_lie_wrongly)
    with pytest.raises(InputError, match="does not compute what the model computes"):
        export(model, tmp_path / "a.gguf", "gguf", "f32")
    monkeypatch.setitem(_TOLERANCE, "f16", 0.0)
    with pytest.raises(InputError, match="does not compute what the model computes"):
        export(model, tmp_path / "a", "hf", "f16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "form", "precision", "words"),
    [
        ("a", "onnx", "f32", "form is 'onnx'"),
        ("a", "hf", "q8_0", "precision is 'q8_0', but hf can be f32, f16, bf16"),
        ("a.gguf", "gguf", "bf16", "gguf can be f32, f16, q8_0"),
        ("a.bin", "gguf", "f16", "must end in .gguf"),
        ("nowhere/a.gguf", "gguf", "f16", "nowhere is not a directory"),
        ("a", "peft-merged", "f32", "is not an adapter"),
        (".", "hf", "f32", "is there already"),
        ("a.gguf", "hf", "f32", "ends in .gguf, but hf is a directory; leave out --to"),
    ],
)
def test_what_cannot_be_exported_is_said(
    model: LanguageModel, tmp_path: Path, out: str, form: Any, precision: str, words: str
) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(InputError, match=words):
        export(model, tmp_path / out, form, precision)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"activation_function": "relu"}, "gpt2 has activation 'gelu_new', and this model 'relu'"),
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "gpt2 has scale_attn_by_inverse_layer_idx",
        ),
    ],
)
def test_models_that_llama_cpp_would_run_wrongly_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    model = LanguageModel(make_model(tmp_path / "m", **changes), "fp32")
    with pytest.raises(InputError, match=f"llama.cpp's {words}.*; use hf"):
        export(model, tmp_path / "a.gguf", "gguf", "f16")
