"""GGUF files, opened by llama.cpp."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from llama_cpp import LlamaServer
from model_kinds import KINDS, MESSAGES, make_kind, strings

from laplm.errors import InputError
from laplm.model.files.export import export
from laplm.run.language_model import LanguageModel

PRE = {"single_digits": "smollm", "llama3_words": "llama-bpe", "qwen2_words": "qwen2"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds") / "base"


def written(base: Path, directory: Path, kind: str, **changes: Any) -> LanguageModel:
    """A model of a kind, with further changes of its tokenizer.json."""
    source = make_kind(kind, base, directory / "source")
    if changes:
        values = json.loads((source / "tokenizer.json").read_text())
        (source / "tokenizer.json").write_text(json.dumps(values | changes))
    return LanguageModel(source, "fp32")


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "prefix_space"])
def test_llama_cpp_reads_the_same_tokens_template_and_ends(
    base: Path, tmp_path: Path, kind: str
) -> None:
    model = written(base, tmp_path, kind)
    export(model, tmp_path / "a.gguf")
    theirs, tokenizer = LlamaServer(tmp_path / "a.gguf"), model.tokenizer
    texts = strings()
    for special in (True, False):
        wanted = [tokenizer.encode(text, allow_special=special) for text in texts]
        assert theirs.tokenize(*texts, parse_special=special) == list(itertools.chain(*wanted))
    one = "Once upon 12"
    found = theirs.tokenize(one, add_special=True)
    assert found == tokenizer.build_inputs_with_special_tokens(tokenizer.encode(one))
    if model.chat_template is not None:
        prompt = theirs.post("/apply-template", messages=MESSAGES)["prompt"]
        assert prompt == model.chat_template.render(MESSAGES, add_generation_prompt=True)
    for token in {tokenizer.eos_token_id, *model.config.eos_token_ids}:
        assert theirs.force(token)["stop_type"] == "eos", token
    word = tokenizer.encode(" girl")[0]
    assert theirs.force(word)["stop_type"] == "limit"
    assert theirs.force(word)["content"] == tokenizer.decode([word])
    for content, token in tokenizer.added_tokens.items():
        control = token in tokenizer.special_token_ids
        assert theirs.force(token)["content"] == ("" if control else content)
    fields = gguf.GGUFReader(str(tmp_path / "a.gguf")).fields
    assert fields["tokenizer.ggml.pre"].contents() == PRE.get(kind, "gpt-2")


def test_beginning_and_padding_go_along(base: Path, tmp_path: Path) -> None:
    model = written(base, tmp_path, "bos_and_pad")
    export(model, tmp_path / "a.gguf")
    fields = gguf.GGUFReader(str(tmp_path / "a.gguf")).fields
    found = {key: fields[f"tokenizer.ggml.{key}_token_id"].contents() for key in ("bos", "padding")}
    tokens = model.tokenizer.added_tokens
    assert found == {"bos": tokens["<s>"], "padding": tokens["<pad>"]}
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert kinds[-1] == gguf.TokenType.UNUSED, "a row that no token has"


def test_named_templates_keep_their_names(base: Path, tmp_path: Path) -> None:
    model = written(base, tmp_path, "named_templates")
    export(model, tmp_path / "a.gguf")
    fields = gguf.GGUFReader(str(tmp_path / "a.gguf")).fields
    assert fields["tokenizer.chat_template.tool_use"].contents() == "{{ tools | length }}"


GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": False}
LOWER = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
FLAGS = {"single_word": False, "lstrip": True, "rstrip": False, "normalized": False}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pre_tokenizer": GPT2 | {"add_prefix_space": True}}, "puts a space before texts"),
        (
            {"pre_tokenizer": GPT2 | {"use_regex": False}},
            r"way that llama\.cpp has not \(ByteLevel",
        ),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, GPT2]}},
            r"way that llama\.cpp has not \(Digits then ByteLevel\)",
        ),
        ({"pre_tokenizer": None}, "no pre-tokenizer"),
        ({"normalizer": LOWER}, r"changes texts before reading them \(Lowercase\)"),
        (
            {"added_tokens": [{"id": 0, "content": "<x>", "special": True, **FLAGS}]},
            "'<x>' has lstrip, which llama.cpp lacks",
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_cannot_follow_is_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    model = written(base, tmp_path, "plain", **changes)
    with pytest.raises(InputError, match=words) as error:
        export(model, tmp_path / "a.gguf")
    assert str(error.value).endswith("a directory for transformers keeps it all: --to hf")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_words_that_are_taken_whole_are_not_called_gpt2s(base: Path, tmp_path: Path) -> None:
    model = written(base, tmp_path, "plain")
    stored = json.loads((model.path / "tokenizer.json").read_text())
    model = written(
        base, tmp_path / "2", "plain", model=stored["model"] | {"ignore_merges": True}
    )  # fmt: skip
    with pytest.raises(InputError, match=r"in a way that llama\.cpp has not"):
        export(model, tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("ends", "words"), [([], "no token that ends"), ([1, 2, 3, 4], "3 at most")]
)
def test_a_gguf_file_must_have_an_end_and_has_place_for_three(
    base: Path, tmp_path: Path, ends: list[int], words: str
) -> None:
    source = make_kind("plain", base, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"eos_token_id": ends or None}))
    (source / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    with pytest.raises(InputError, match=words):
        export(LanguageModel(source, "fp32"), tmp_path / "a.gguf")
