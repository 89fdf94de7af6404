"""What laplm writes again, opened by transformers beside what it was made of."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from model_kinds import CHATML, KINDS, MESSAGES, make_kind, strings
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from laplm.errors import LaplmError
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.model.pretrained_settings import PretrainedSettings
from laplm.model.tokenizer import Tokenizer

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "all_special_tokens")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds") / "base"


def write_again(source: Path, out: Path) -> Path:
    checkpoint = open_checkpoint(source)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    tokenizer = Tokenizer.from_directory(source)
    settings = PretrainedSettings.from_directories(source, source, tokenizer)
    save_checkpoint(out, checkpoint.config, tensors, "fp16", tokenizer.to_json(), settings)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_tokens_template_and_ends(
    base: Path, tmp_path: Path, kind: str
) -> None:
    source = make_kind(kind, base, tmp_path / "source")
    out = write_again(source, tmp_path / "out")
    theirs, ours = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(out)
    for text in strings():
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], repr(text)
    for name in NAMED:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs)
    assert ours.chat_template == theirs.chat_template
    if theirs.chat_template is not None:
        for prompt in (True, False):
            options = {"tokenize": False, "add_generation_prompt": prompt}
            found, wanted = (t.apply_chat_template(MESSAGES, **options) for t in (ours, theirs))
            assert found == wanted
    wanted_ends, found_ends = (
        AutoModelForCausalLM.from_pretrained(path).generation_config for path in (source, out)
    )
    assert found_ends.to_dict() == wanted_ends.to_dict()


def configs(*directories: Path) -> list[dict[str, Any]]:
    return [AutoConfig.from_pretrained(path).to_dict() for path in directories]


def test_every_setting_of_the_config_is_kept(base: Path, tmp_path: Path) -> None:
    source = make_kind("plain", base, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config |= {
        "activation_function": "gelu_pytorch_tanh", "n_inner": None, "resid_pdrop": 0.25,
        "initializer_range": 0.5, "scale_attn_by_inverse_layer_idx": True, "dtype": "bfloat16",
        "task_specific_params": {"text-generation": {"do_sample": True}}, "id2label": {"0": "x"},
        "reorder_and_upcast_attn": True, "my_own": [1, 2], "auto_map": {"AutoConfig": "own.Config"},
        "bos_token_id": 3, "_name_or_path": "somewhere",
    }  # fmt: skip
    del config["pad_token_id"]
    (source / "config.json").write_text(json.dumps(config))
    out = write_again(source, tmp_path / "out")
    wanted, found = configs(source, out)
    changed = {name for name in {*wanted, *found} if wanted.get(name) != found.get(name)}
    # The numbers are fp16 now; code of the model's own does not come along; null means 4 · C.
    assert changed <= {"dtype", "torch_dtype", "auto_map", "n_inner", "_name_or_path", "n_ctx"}
    assert found["dtype"] == "float16" or str(found["dtype"]) == "torch.float16"
    assert "auto_map" not in json.loads((out / "config.json").read_text())


def test_the_names_of_sizes_that_all_models_share_become_gpt2s(base: Path, tmp_path: Path) -> None:
    config = open_checkpoint(make_kind("plain", base, tmp_path / "source")).config
    shared = {"hidden_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 128}
    written = PretrainedSettings(config=shared).files(config, "float32", None)["config.json"]
    assert not shared.keys() & written.keys()
    assert (written["n_embd"], written["n_layer"], written["n_positions"]) == (64, 3, 128)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (None, "<|endoftext|>"),
        ({}, "<|endoftext|>"),
        ({"tokenizer_class": "GPT2Tokenizer"}, "<|endoftext|>"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ({"eos_token": None}, None),
    ],
)
def test_tokens_that_no_file_names_are_those_of_the_class(
    base: Path, tmp_path: Path, settings: dict[str, Any] | None, wanted: str | None
) -> None:
    source = make_kind("plain", base, tmp_path / "source")
    (source / "tokenizer_config.json").unlink()
    if settings is not None:
        (source / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = AutoTokenizer.from_pretrained(source)
    ours = AutoTokenizer.from_pretrained(write_again(source, tmp_path / "out"))
    assert ours.eos_token == theirs.eos_token == wanted
    assert (ours.bos_token, len(ours)) == (theirs.bos_token, len(theirs))


@pytest.mark.parametrize("where", ["file", "folder", "config", "list"])
def test_a_chat_template_is_found_where_transformers_finds_it(
    base: Path, tmp_path: Path, where: str
) -> None:
    source = make_kind("plain", base, tmp_path / "source")
    named = {"default": CHATML, "rag": "{{ documents }}"}
    config = source / "tokenizer_config.json"
    values = json.loads(config.read_text()) | {"chat_template": "{{ 'older' }}"}
    if where in ("file", "folder"):
        (source / "chat_template.jinja").write_text(CHATML)
    if where == "folder":
        (source / "additional_chat_templates").mkdir()
        (source / "additional_chat_templates" / "rag.jinja").write_text(named["rag"])
    if where == "list":
        values["chat_template"] = [{"name": n, "template": t} for n, t in named.items()]
    config.write_text(json.dumps(values))
    theirs = AutoTokenizer.from_pretrained(source).chat_template
    ours = AutoTokenizer.from_pretrained(write_again(source, tmp_path / "out")).chat_template
    assert ours == theirs == {"file": CHATML, "config": "{{ 'older' }}"}.get(where, named)


def test_an_adapter_takes_from_its_base_what_it_does_not_have(base: Path, tmp_path: Path) -> None:
    model = make_kind("chatml", base, tmp_path / "model")
    (model / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "config.json").write_text("{}")  # some come with a file of that name
    tokenizer = Tokenizer.from_directory(model)
    settings = PretrainedSettings.from_directories(adapter, model, tokenizer)
    assert settings == PretrainedSettings.from_directories(model, model, tokenizer)
    (adapter / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    (adapter / "tokenizer_config.json").write_text('{"pad_token": "<|im_end|>"}')
    settings = PretrainedSettings.from_directories(adapter, model, tokenizer)
    assert settings.tokenizer_config == {"pad_token": "<|im_end|>"}
    assert settings.chat_templates == {"default": CHATML}


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]
)
def test_a_damaged_file_is_named(base: Path, tmp_path: Path, name: str) -> None:
    source = make_kind("plain", base, tmp_path / "source")
    tokenizer = Tokenizer.from_directory(source)
    (source / name).write_text("{")
    with pytest.raises(LaplmError, match=f"{name}: not readable as "):
        PretrainedSettings.from_directories(source, source, tokenizer)


def test_a_model_of_our_own_making_has_gpt2s_settings(base: Path, tmp_path: Path) -> None:
    source = make_kind("plain", base, tmp_path / "source")
    checkpoint = open_checkpoint(source)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    text = (source / "tokenizer.json").read_text().replace("<|endoftext|>", "<eot>")
    save_checkpoint(tmp_path / "out", checkpoint.config, tensors, "fp32", text)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token == tokenizer.bos_token == "<eot>"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = GenerationConfig.from_model_config(AutoConfig.from_pretrained(tmp_path / "out"))
    assert ends.eos_token_id == ends.bos_token_id == checkpoint.config.eos_token_id
