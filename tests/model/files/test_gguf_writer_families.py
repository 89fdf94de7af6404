"""Every family as a GGUF file, opened again by laplm, by transformers and by llama.cpp."""

from __future__ import annotations

import dataclasses
import itertools
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import gguf
import numpy as np
import peft
import pytest
import torch
from conftest import make_tokenizer_json
from gguf_files import (
    GROUPED,
    MODELS,
    SIZES,
    make_hf_model,
    sentencepiece_tokens,
    write_gguf,
)
from llama_cpp import LlamaServer
from model_kinds import strings
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoModelForCausalLM

from laplm.errors import InputError
from laplm.model import reference
from laplm.model.config import ModelConfig
from laplm.model.families.gguf import to_gguf_config
from laplm.model.files.adapter import open_adapter
from laplm.model.files.checkpoint import Checkpoint, open_checkpoint
from laplm.model.files.export import Model, export
from laplm.model.files.gguf_tokenizer import read_gguf_tokenizer
from laplm.model.pretrained_settings import PretrainedSettings
from laplm.model.reference import DenseWeights
from laplm.model.tokenizer import Tokenizer

IDS = np.arange(1, 25) * 7919 % 300
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_linear": ("LlamaConfig", GROUPED | {"rope_scaling": {
        "rope_type": "linear", "factor": 2.5,
    }}),
    "llama_linear_1": ("LlamaConfig", GROUPED | {"rope_scaling": {
        "rope_type": "linear", "factor": 1.0,
    }}),
    "qwen3_yarn_1": ("Qwen3Config", GROUPED | {"rope_scaling": YARN | {"factor": 1.0}}),
    "llama_yarn": ("LlamaConfig", GROUPED | {"rope_scaling": YARN | {
        "beta_fast": 20.0, "attention_factor": 1.3,
    }}),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": None, "head_dim": 32}),
    "mistral_window": ("MistralConfig", GROUPED | {"sliding_window": 32}),
    "qwen2_tied": ("Qwen2Config", GROUPED | {"tie_word_embeddings": True}),
    "gemma3_period": ("Gemma3TextConfig", GROUPED | {
        "head_dim": 32, "sliding_window": 4, "query_pre_attn_scalar": 32,
        "layer_types": [LOCAL, GLOBAL], "tie_word_embeddings": False,
    }),
    "gpt_neox_tied": ("GPTNeoXConfig", SIZES | {"rotary_pct": 0.25, "tie_word_embeddings": True}),
    "phi3": ("Phi3Config", GROUPED | {"sliding_window": None, "partial_rotary_factor": 0.5}),
    "phi3_tied": ("Phi3Config", GROUPED | {"tie_word_embeddings": True}),
}  # fmt: skip
# What transformers makes of a file: it has neither GPT-NeoX nor SmolLM3 there, and does not read
# rotary scalings, which shares of heads turn, or which layers are local.
IN_TRANSFORMERS = (
    "llama", "llama3", "mistral", "qwen2", "qwen2_tied", "qwen3", "gemma3", "phi3_tied",
)  # fmt: skip


class Made(NamedTuple):
    theirs: Any
    model: Model
    path: Path


def opened(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Any:
    """A model as ``export`` wants it, without an engine to run it."""
    return SimpleNamespace(
        path=checkpoint.path, name="a model", checkpoint=checkpoint, tokenizer=tokenizer,
        settings=PretrainedSettings(), chat_template=None,
    )  # fmt: skip


def byte_level(directory: Path) -> Tokenizer:
    make_tokenizer_json(directory, vocab_size=300)
    return Tokenizer.from_directory(directory)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A model of transformers, the same opened from its directory, and its GGUF file; made once."""
    MODELS.update(MORE)
    found: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in found:
            directory = tmp_path_factory.mktemp(name)
            theirs = make_hf_model(name)
            theirs.save_pretrained(directory)
            model = opened(open_checkpoint(directory), byte_level(directory))
            export(model, directory / "a.gguf")
            found[name] = Made(theirs, model, directory / "a.gguf")
        return found[name]

    return make


def logits(checkpoint: Checkpoint) -> np.ndarray:
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.names}
    weights = DenseWeights(tensors, checkpoint.config)
    return reference.forward(IDS, weights, checkpoint.config)


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max()
    out: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return out


def without_tokens(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, bos_token_id=None, eos_token_ids=(), pad_token_id=None)


ALL = [name for name in (*MODELS, *MORE) if name != "gpt2"]


@pytest.mark.parametrize("name", ALL)
def test_laplm_opens_the_same_model_again(make: Any, name: str) -> None:
    made = make(name)
    again = open_checkpoint(made.path)
    np.testing.assert_allclose(logits(again), logits(made.model.checkpoint), rtol=0, atol=2e-6)
    expected = without_tokens(to_gguf_config(made.model.checkpoint.config))
    found = without_tokens(again.config)
    if name == "llama_yarn":  # of which a file holds another number, in fp32
        assert found.rope_scaling is not None and expected.rope_scaling is not None
        factor = expected.rope_scaling.attention_factor
        assert found.rope_scaling.attention_factor == pytest.approx(factor, rel=1e-6)
        found = dataclasses.replace(found, rope_scaling=expected.rope_scaling)
    assert found == expected


@pytest.mark.parametrize("name", ALL)
def test_llama_cpp_computes_the_same(make: Any, name: str) -> None:
    made = make(name)
    with torch.no_grad():
        theirs = made.theirs(torch.tensor(IDS)[None]).logits[0, -1].numpy()
    found = LlamaServer(made.path).logprobs(IDS.tolist(), 300)
    # llama.cpp has GELU in half precision, and of GPT-NeoX's tanh's approximation.
    atol = 2e-2 if "neox" in name else 5e-3 if "gemma" in name else 1e-3
    np.testing.assert_allclose(found, log_softmax(theirs), rtol=0, atol=atol)
    assert found.argmax() == theirs.argmax()


@pytest.mark.parametrize("name", IN_TRANSFORMERS)
def test_transformers_computes_the_same(make: Any, name: str) -> None:
    made = make(name)
    # It does not find every setting in a file, whoever wrote it: of these it is told.
    told = name in ("llama3", "qwen3", "gemma3", "phi3_tied")
    changes = {"config": made.theirs.config} if told else {}
    again = AutoModelForCausalLM.from_pretrained(
        made.path.parent, gguf_file=made.path.name, dtype=torch.float32, **changes
    )
    with torch.no_grad():
        found, expected = (m(torch.tensor(IDS)[None]).logits.numpy() for m in (again, made.theirs))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("gpt2", *MORE)])
def test_tensors_and_settings_are_those_of_llama_cpps_converter(
    make: Any, name: str, tmp_path: Path
) -> None:
    made = make(name)
    expected, found = (
        gguf.GGUFReader(str(path))
        for path in (write_gguf(tmp_path / "b.gguf", made.theirs), made.path)
    )
    ours = {tensor.name: tensor.data for tensor in found.tensors}
    assert ours.keys() == {tensor.name for tensor in expected.tensors}
    for tensor in expected.tensors:
        np.testing.assert_allclose(ours[tensor.name], tensor.data, rtol=1e-6, err_msg=tensor.name)
    for key, field in expected.fields.items():
        if not key.startswith(("GGUF.", "tokenizer.")):
            assert found.fields[key].contents() == field.contents(), key


@pytest.mark.parametrize("precision", ["f16", "q8_0"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox", "phi3"])
def test_narrower_types_are_read_by_llama_cpp(
    make: Any, name: str, precision: str, tmp_path: Path
) -> None:
    made = make(name)
    done = export(made.model, tmp_path / "a.gguf", precision=precision)
    assert done.deviation > 0
    expected = log_softmax(logits(open_checkpoint(done.path))[-1])
    found = LlamaServer(done.path).logprobs(IDS.tolist(), 300)
    # llama.cpp narrows what comes in too.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.3 if precision == "q8_0" else 0.05)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(str(done.path)).tensors}
    assert kinds["blk.0.ffn_down.weight"] == precision.upper()
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_a_window_shortens_the_context(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    made = make("mistral_window")
    config = open_checkpoint(made.path).config
    assert (config.family, config.n_ctx, config.window) == ("llama", 32, ())
    export(made.model, made.path.with_name("b.gguf"))
    assert "no windows in mistral, so the file holds 32 of 128 positions" in caplog.text


CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_act": "gelu"}, "llama has activation 'silu', and this model 'gelu'"),
    ("qwen3", {"attention_bias": True}, "qwen3 has attn_bias False, and this model True"),
    ("qwen3", {"rope_scaling": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0,
                                "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
     "qwen3 has no rotary scaling of Llama 3's kind"),
    ("llama", {"rope_scaling": YARN | {"truncate": False}}, "llama has rope_scaling"),
    ("gemma3", {"query_pre_attn_scalar": 24}, "gemma3 has attn_scale"),
    ("gemma3", {"layer_types": [LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, LOCAL, GLOBAL]},
     "gemma3 has window"),
    ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "smollm3 has rope_layers"),
    ("smollm3", {"attention_bias": True}, "smollm3 has attn_bias False"),
    ("gpt_neox", {"attention_bias": False}, "gptneox has attn_bias True, and this model False"),
    ("phi3", {"head_dim": 32}, "phi3 has heads as wide as the stream, 64, and this model 4 of 32"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "words"), CHANGES)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    make: Any, tmp_path: Path, name: str, changes: dict[str, Any], words: str
) -> None:
    make("llama")  # MODELS has all
    theirs = make_hf_model(name, **changes)
    theirs.save_pretrained(tmp_path / "m")
    model = opened(open_checkpoint(tmp_path / "m"), byte_level(tmp_path))
    with pytest.raises(InputError, match=f"llama.cpp's {words}") as error:
        export(model, tmp_path / "a.gguf")
    assert str(error.value).endswith("; use hf") and "\n" not in str(error.value)
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize("name", ["llama", "gemma3", "phi3_tied"])
def test_an_adapter_is_merged(make: Any, name: str, tmp_path: Path) -> None:
    made = make(name)
    targets = ["qkv_proj", "gate_up_proj"] if "phi3" in name else ["q_proj", "k_proj", "down_proj"]
    lora = peft.LoraConfig(
        r=3, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False
    )
    live = peft.get_peft_model(make_hf_model(name), lora).eval()
    live.peft_config["default"].base_model_name_or_path = str(made.model.path)
    live.save_pretrained(tmp_path / "adapter")
    checkpoint = open_adapter(tmp_path / "adapter", made.model.checkpoint)
    export(opened(checkpoint, made.model.tokenizer), tmp_path / "a.gguf")
    with torch.no_grad():
        theirs = live(torch.tensor(IDS)[None]).logits[0].numpy()
    again = logits(open_checkpoint(tmp_path / "a.gguf"))
    np.testing.assert_allclose(again, theirs, rtol=0, atol=1e-4 * max(1, np.abs(theirs).max()))
    found = LlamaServer(tmp_path / "a.gguf").logprobs(IDS.tolist(), 300)
    np.testing.assert_allclose(found, log_softmax(theirs[-1]), rtol=0, atol=2e-3)
    assert np.abs(theirs - logits(made.model.checkpoint)).max() > 0.01


# --- tokenizers ---------------------------------------------------------------------------------

TEXTS = strings()


def sentencepiece(form: str) -> Tokenizer:
    """SentencePiece's vocabulary in the forms that ``tokenizer.json`` has of it."""
    metadata = sentencepiece_tokens(**({} if form in ("prepend", "phi3", "first") else
                            {"ggml.add_space_prefix": False}))  # fmt: skip
    if form == "phi3":
        metadata["ggml.tokens"] += ["<|endoftext|>", "<|user|>"]
    if form == "gemma":
        metadata["ggml.tokens"] += ["\n\n"]
    more = len(metadata["ggml.tokens"]) - len(metadata["ggml.scores"])
    scores = [*metadata["ggml.scores"], *[-1000.0] * more]
    kinds = [*metadata["ggml.token_type"], *[3 if form == "phi3" else 4] * more]
    if form == "gemma":  # whose runs of spaces are merged before all else
        first = kinds.index(1)
        for values, value in ((metadata["ggml.tokens"], "  "), (scores, 0.0), (kinds, 4)):
            values.insert(first, value)
    metadata |= {"ggml.scores": np.array(scores), "ggml.token_type": np.array(kinds)}
    metadata = {f"tokenizer.{key}": value for key, value in metadata.items()}
    if form == "gemma":
        metadata["general.architecture"] = "gemma3"
    files = read_gguf_tokenizer(metadata, form)
    backend = files.backend
    if form in ("prepend", "phi3"):
        stored = json.loads(backend.to_str()) | {"pre_tokenizer": None}
        if form == "phi3":
            for token in stored["added_tokens"]:
                token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
        backend = Backend.from_str(json.dumps(stored))
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    if form == "gemma":
        backend.add_tokens([AddedToken("▁▁", special=False, normalized=False)])
    return Tokenizer(backend, files.special_tokens)


def exported(name: str, tokenizer: Tokenizer, directory: Path, **sizes: Any) -> Path:
    """A small model of a family, with a vocabulary for a tokenizer and three rows more."""
    theirs = make_hf_model(name, vocab_size=tokenizer.vocab_size + 3, **sizes)
    theirs.save_pretrained(directory / "m")
    export(opened(open_checkpoint(directory / "m"), tokenizer), directory / "a.gguf")
    return directory / "a.gguf"


@pytest.mark.parametrize(
    ("form", "name"),
    [("prepend", "llama"), ("first", "mistral"), ("never", "llama"), ("gemma", "gemma3"),
     ("phi3", "phi3_tied")],
)  # fmt: skip
def test_sentencepiece_ids_are_the_same_everywhere(
    make: Any, form: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make("llama")  # MODELS has all
    ours = sentencepiece(form)
    path = exported(name, ours, tmp_path, bos_token_id=1, eos_token_id=2)
    theirs, again = LlamaServer(path), Tokenizer.from_directory(path)
    texts = TEXTS
    if form == "first":
        texts = [t for t in texts if not t.startswith(" ") and "<" not in t]
        assert "llama.cpp puts a space before texts that begin with one" in caplog.text
    for special in (True, False):
        wanted = [ours.encode(text, allow_special=special) for text in texts]
        assert theirs.tokenize(*texts, parse_special=special) == list(itertools.chain(*wanted))
        for text, ids in zip(texts, wanted, strict=True):
            # As in transformers, no second space is put before a text of a GGUF file.
            if not text.startswith(" ") and "<" not in text:
                assert again.encode(text, allow_special=special) == ids
    whole = theirs.tokenize("Once", add_special=True)
    assert whole == ours.build_inputs_with_special_tokens(ours.encode("Once"))
    if form == "phi3":
        assert theirs.tokenize("<|user|> \n a") == ours.encode("<|user|> \n a", allow_special=True)
        assert again.encode("<|user|> \n a", allow_special=True)[1:] == again.encode(
            "a", within=True
        )
    tokens = gguf.GGUFReader(str(path)).fields["tokenizer.ggml.tokens"].contents()
    assert tokens[-1].startswith("[PAD") and ("  " in tokens) == (form == "gemma")


def test_a_vocabulary_that_sentencepiece_would_merge_otherwise_is_refused(
    make: Any, tmp_path: Path
) -> None:
    make("llama")
    stored = json.loads(sentencepiece("prepend").to_json())
    groups = [list(each) for _, each in itertools.groupby(stored["model"]["merges"], "".join)]
    group = next(each for each in groups if len(each) > 1)
    for changed in ([*groups[:-1], groups[-1][1:]], [*groups, [group.pop()]]):
        stored["model"]["merges"] = list(itertools.chain(*changed))
        tokenizer = Tokenizer(Backend.from_str(json.dumps(stored)), {"eos_token": "</s>"})
        with pytest.raises(InputError, match="not those that SentencePiece makes"):
            exported("llama", tokenizer, tmp_path)


def test_scores_follow_the_order_of_merges(make: Any, tmp_path: Path) -> None:
    make("llama")
    stored = json.loads(sentencepiece("prepend").to_json())
    groups = [list(each) for _, each in itertools.groupby(stored["model"]["merges"], "".join)]
    before = Tokenizer(Backend.from_str(json.dumps(stored)), {"eos_token": "</s>"})
    stored["model"]["merges"] = list(itertools.chain(*reversed(groups)))
    ours = Tokenizer(Backend.from_str(json.dumps(stored)), {"eos_token": "</s>"})
    wanted = list(itertools.chain(*map(ours.encode, TEXTS)))
    assert wanted != list(itertools.chain(*map(before.encode, TEXTS)))
    theirs = LlamaServer(exported("llama", ours, tmp_path))
    assert theirs.tokenize(*TEXTS, parse_special=False) == wanted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalizer": {"type": "Lowercase"}}, r"reads spaces in a way .* \(Lowercase\)"),
        ({"normalizer": None, "pre_tokenizer": None}, r"\(nothing for spaces\)"),
    ],
)
def test_spaces_that_are_read_otherwise_are_refused(
    make: Any, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    make("llama")
    stored = json.loads(sentencepiece("prepend").to_json()) | changes
    tokenizer = Tokenizer(Backend.from_str(json.dumps(stored)), {"eos_token": "</s>"})
    with pytest.raises(InputError, match=words):
        exported("llama", tokenizer, tmp_path)


def test_composed_texts_have_the_same_ids_where_a_tokenizer_composes_them(
    make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make("llama")
    byte_level(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.normalizer, backend.decoder = normalizers.NFC(), decoders.ByteLevel()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ours = Tokenizer(backend, {"eos_token": "<|endoftext|>"})
    theirs = LlamaServer(exported("qwen2", ours, tmp_path))
    assert "are written apart, as this tokenizer does (NFC)" in caplog.text
    texts = [unicodedata.normalize("NFC", text) for text in TEXTS]
    wanted = [ours.encode(text, allow_special=True) for text in texts]
    assert theirs.tokenize(*texts) == list(itertools.chain(*wanted))
    assert theirs.tokenize("e\u0301") != ours.encode("e\u0301")
