"""Tokenizers in GGUF files, against transformers, SentencePiece and llama.cpp reading the same."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from conftest import TEXT
from gguf_files import byte_tokens, make_hf_model, write_gguf
from gguf_files import sentencepiece_tokens as sentences
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama_cpp import LlamaServer
from transformers import AutoTokenizer

from laplm.errors import TokenizerError
from laplm.model.chat import ChatTemplate
from laplm.model.files.gguf_tokenizer import (
    PRE_TOKENIZERS,
    chat_templates,
    read_gguf_tokenizer,
    split_merges,
)
from laplm.model.tokenizer import Tokenizer
from laplm.run.language_model import LanguageModel

EXAMPLES = int(os.environ.get("LAPLM_TEST_STRINGS", "300"))

# Texts of every script, and of what tokenizers stumble over.
words = st.sampled_from(
    ["the", " The", "'ll", "I'M", " 12", "3456", "\n\n", "   ", "\t", "naïve", "北京", "🙂", "é",
     "\u200d", "\u0301", "ÄÖ", "don't", "...", "<|im_end|>", "</s>", "<s>", "x=1;", "\r\n",
     "\u2581", "\u00a0", "ſ", "Ⅷ", "١٢٣", "<0x0A>"]
)  # fmt: skip
strings = st.one_of(st.text(max_size=60), st.lists(words, max_size=12).map("".join))
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a small Llama with a tokenizer, of which the settings are given."""
    directory = tmp_path_factory.mktemp("tokenizers")
    models: dict[tuple[str, int], Any] = {}

    def make(name: str, tokenizer: dict[str, Any], model: str = "llama") -> Path:
        count = len(tokenizer["ggml.tokens"])
        if (model, count) not in models:
            models[model, count] = make_hf_model(model, vocab_size=count)
        (directory / name).mkdir(exist_ok=True)
        return write_gguf(directory / name / "a.gguf", models[model, count], tokenizer=tokenizer)

    return make


def bpe(pre: str, **more: Any) -> dict[str, Any]:
    """A byte-level vocabulary that merges across what pre-tokenizers keep apart."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=6,
    )
    texts = [TEXT, "12 345 6789 2024 10 20 30 " * 20, "It's they'LL (don't)... 'tis!! " * 20]
    backend.train_from_iterator(texts, trainer)
    import json

    stored = json.loads(backend.to_str())["model"]
    tokens = sorted(stored["vocab"], key=stored["vocab"].__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in stored["merges"]]
    kinds = [1] * len(tokens) + [3, 3, 3, 4]
    first = len(tokens)
    return {
        "ggml.model": "gpt2", "ggml.pre": pre, "ggml.merges": merges, "ggml.token_type": kinds,
        "ggml.tokens": [*tokens, "<s>", "<|im_start|>", "<|im_end|>", "<think>"],
        "ggml.bos_token_id": first, "ggml.eos_token_id": first + 2, **more,
    }  # fmt: skip


def hf_tokenizer(path: Path) -> Any:
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


# transformers takes GPT-2's rules for names that it does not have, and never takes whole words.
SAME_IN_TRANSFORMERS = ["gpt-2", "default", "qwen2", "dbrx", "gpt-4o", "olmo", "smaug-bpe"]


@pytest.mark.parametrize("pre", SAME_IN_TRANSFORMERS)
def test_byte_level_ids_are_those_of_transformers(write: Any, pre: str) -> None:
    path = write(pre, bpe(pre))
    ours, theirs = Tokenizer.from_directory(path), hf_tokenizer(path)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
    @given(strings)
    def check(text: str) -> None:
        assert ours.encode(text, allow_special=True) == theirs.encode(
            text, add_special_tokens=False
        )
        assert ours.decode(ours.encode(text)) == text

    check()


@pytest.mark.parametrize(
    "pre", ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken", "gpt-4o", "refact"]
)
def test_byte_level_ids_are_those_of_llama_cpp(write: Any, pre: str) -> None:
    path = write(f"cpp-{pre}", bpe(pre))
    ours, theirs = Tokenizer.from_directory(path), LlamaServer(path)
    texts = [
        "I'M 12 and 3456, don't!", "naïve café\n\n  北京 x=1;\r\n", "\t'tis  100%  (so) they'LL",
        "a <|im_end|> b<think>c", "It's It'S 7 77 777 7777", "the tHe THE ÄÖ\n\n12  34",
    ]  # fmt: skip
    for special in (True, False):
        wanted = [ours.encode(text, allow_special=special) for text in texts]
        found = theirs.tokenize(*texts, parse_special=special)
        assert found == [i for ids in wanted for i in ids]
    whole = theirs.tokenize("Once", add_special=True)
    assert whole == ours.build_inputs_with_special_tokens(ours.encode("Once"))
    assert (len(ours.prefix_ids) == 1) == (pre in ("llama-bpe", "tekken"))


def test_sentencepiece_ids_are_those_of_transformers_and_of_sentencepiece(write: Any) -> None:
    path = write("spm", sentences())
    model = sentences.model  # type: ignore[attr-defined]
    ours, theirs = Tokenizer.from_directory(path), hf_tokenizer(path)
    assert ours.prefix_ids == (1,)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
    @given(strings)
    def check(text: str) -> None:
        found = ours.encode(text, allow_special=True)
        assert found == theirs.encode(text, add_special_tokens=False)
        # Before a text that begins with a space, SentencePiece and llama.cpp put another one.
        if not text.startswith(" ") and not any(mark in text for mark in ("<", "\u2581", "\0")):
            assert ours.encode(text) == model.encode(text)
        if not text.startswith((" ", "\u2581")) and "\u2581" not in text:
            assert ours.decode(ours.encode(text)) == text

    check()


def test_sentencepiece_is_read_from_tokenizer_json_too(write: Any, tmp_path: Path) -> None:
    path = write("spm", sentences())
    hf_tokenizer(path).save_pretrained(tmp_path)
    ours, same = Tokenizer.from_directory(path), Tokenizer.from_directory(tmp_path)
    assert same.prefix_ids == ours.prefix_ids == (1,)
    for text in ("Once upon 12", "naïve\n北京 <think>", "", "x</s>", b"\xff a"):
        assert same.encode(text) == ours.encode(text)
        assert same.encode(text, allow_special=True) == ours.encode(text, allow_special=True)
    assert same.decode(same.encode("Once 北京")) == "Once 北京"


def test_a_file_may_ask_for_no_space_in_front(write: Any) -> None:
    asked = {"ggml.add_space_prefix": False, "ggml.add_bos_token": False}
    path = write("no-space", sentences(**asked))
    model = sentences.model  # type: ignore[attr-defined]
    ours = Tokenizer.from_directory(path)
    assert ours.prefix_ids == ()
    for text in ("Once upon", " a", "naïve 12", "\n\nx", "北京"):
        assert ours.encode(text) == model.encode(text) == LlamaServer(path).tokenize(text)
        assert ours.decode(ours.encode(text)) == text


def test_gemmas_vocabulary_is_read_as_transformers_reads_it(write: Any) -> None:
    tokenizer = sentences(**{"ggml.add_space_prefix": False})
    tokenizer["ggml.tokens"][-2:] = ["  ", "\n\n"]
    tokenizer["ggml.token_type"][-2:] = [4, 4]
    path = write("gemma", tokenizer, model="gemma3")
    ours, theirs = Tokenizer.from_directory(path), hf_tokenizer(path)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
    @given(strings)
    def check(text: str) -> None:
        found = ours.encode(text, allow_special=True)
        assert found == theirs.encode(text, add_special_tokens=False)
        if "\u2581" not in text:
            assert ours.decode(ours.encode(text)) == text

    check()
    assert ours.encode_without_added_tokens("a\n\nb") == ours.encode("a\n\nb")


@given(st.binary(max_size=40))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_bytes_that_are_no_text_come_back_from_sentencepiece(raw: bytes) -> None:
    tokenizer = _shared_sentencepiece()
    if not raw.startswith(b" ") and "\u2581".encode() not in raw:
        assert tokenizer.decode_bytes(tokenizer.encode(raw)) == raw


def _shared_sentencepiece(found: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006
    if not found:
        metadata = {f"tokenizer.{key}": value for key, value in sentences().items()}
        for name in ("scores", "token_type"):
            key = f"tokenizer.ggml.{name}"
            metadata[key] = np.array(metadata[key])
        files = read_gguf_tokenizer(metadata, "a.gguf")
        found.append(Tokenizer(files.backend, files.special_tokens))
    return found[0]


def test_a_text_that_goes_on_has_no_space_in_front() -> None:
    tokenizer = _shared_sentencepiece()
    first, second = tokenizer.encode("Once"), tokenizer.encode("Once", within=True)
    assert tokenizer.token_bytes(first[0]).startswith(b" ")
    assert not tokenizer.token_bytes(second[0]).startswith(b" ")
    assert tokenizer.decode([*first, *second]) == "OnceOnce"
    plain = tokenizer.encode_without_added_tokens("<think>", within=True)
    assert tokenizer.added_tokens["<think>"] not in plain


def test_control_tokens_are_tokens_only_where_they_are_asked_for(write: Any) -> None:
    ours = Tokenizer.from_directory(write("control", bpe("gpt-2")))
    ends = ours.added_tokens["<|im_end|>"]
    assert ends in ours.encode("a<|im_end|>", allow_special=True)
    assert ends not in ours.encode("a<|im_end|>")
    assert ours.added_tokens["<think>"] in ours.encode("a<think>")
    assert ours.added_tokens["<think>"] not in ours.special_token_ids
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "<|im_end|>"}


@pytest.mark.parametrize("make", [lambda: bpe("gpt-2"), sentences], ids=["bytes", "pieces"])
@pytest.mark.parametrize("has_types", [True, False])
def test_named_tokens_are_control_tokens_whatever_their_types_say(
    write: Any, make: Callable[[], dict[str, Any]], has_types: bool
) -> None:
    tokenizer = make()
    tokens, names = tokenizer["ggml.tokens"], ("bos", "eos", "unknown")
    ids = [tokenizer[key] for name in names if (key := f"ggml.{name}_token_id") in tokenizer]
    for i in ids:
        tokenizer["ggml.token_type"][i] = 1
    tokenizer["ggml.padding_token_id"] = tokens.index("!" if "!" in tokens else ".")
    if not has_types:
        del tokenizer["ggml.token_type"]
    path = write(f"named-{len(ids)}-{has_types}", tokenizer)
    ours, theirs = Tokenizer.from_directory(path), hf_tokenizer(path)
    assert {*ids} <= {*ours.special_token_ids} and ours.pad_token_id not in ours.special_token_ids
    for i in ids:
        text = f"Once{tokens[i]}\n"
        assert ours.encode(text, allow_special=True) == theirs.encode(
            text, add_special_tokens=False
        )
        assert i not in ours.encode(text)


def test_beginnings_and_ends_are_put_around_texts(write: Any) -> None:
    asked = {"ggml.add_bos_token": True, "ggml.add_eos_token": True}
    ours = Tokenizer.from_directory(write("around", bpe("gpt-2", **asked)))
    begin, end = ours.bos_token_id, ours.eos_token_id
    assert (ours.prefix_ids, ours.suffix_ids) == ((begin,), (end,))


def test_a_model_has_its_files_template_ends_and_sampling(write: Any) -> None:
    more = {"chat_template": CHATML, "chat_template.tool_use": "{{ tools | length }}"}
    tokenizer = bpe("gpt-2") | more
    path = write("chat", tokenizer)
    lm = LanguageModel(path, "fp32")
    assert lm.path == path and lm.config.family == "llama"
    assert lm.settings.chat_templates == {"default": CHATML, "tool_use": "{{ tools | length }}"}
    assert lm.config.eos_token_ids == (lm.tokenizer.added_tokens["<|im_end|>"],)
    messages = [{"role": "user", "content": "Hi <|im_end|>\n"}]
    template = lm.chat_template
    assert template is not None
    expected = hf_tokenizer(path).apply_chat_template(messages, tokenize=False)
    assert template.render(messages) == expected
    ids = template.encode(messages)
    assert ids.count(lm.tokenizer.added_tokens["<|im_end|>"]) == 1
    alone = ChatTemplate.from_directory(path, lm.tokenizer)
    assert alone is not None and alone.sources == template.sources
    assert Tokenizer.from_directory(path).to_json() == lm.tokenizer.to_json()
    assert LanguageModel(path.parent, "fp32").path == path


def test_sampling_goes_along() -> None:
    from laplm.model.pretrained_settings import PretrainedSettings

    metadata = {"general.sampling.temp": 0.6, "general.sampling.top_k": 20}
    found = PretrainedSettings.from_gguf(metadata, _shared_sentencepiece())
    assert found.generation_config == {"temperature": 0.6, "top_k": 20}
    assert PretrainedSettings.from_gguf({}, _shared_sentencepiece()).generation_config is None
    assert chat_templates({"tokenizer.chat_template": b"?"}) == {}


def test_every_name_has_one_meaning() -> None:
    names = [name for names in PRE_TOKENIZERS.values() for name in names]
    assert len(names) == len(set(names))


def changed(**changes: Any) -> dict[str, Any]:
    tokenizer = byte_tokens(300)
    tokenizer["ggml.token_type"] = np.array(tokenizer["ggml.token_type"])
    tokenizer |= {f"ggml.{key}": value for key, value in changes.items()}
    return {f"tokenizer.{key}": value for key, value in tokenizer.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "bert"}, r"of the kind 'bert' \(tokenizer.ggml.model\), and laplm reads gpt2"),
        ({"model": "t5"}, "of the kind 't5'"),
        ({"model": "rwkv"}, "of the kind 'rwkv'"),
        ({"model": None}, "it has no tokenizer"),
        ({"tokens": None}, "it has no tokenizer"),
        ({"tokens": []}, "it has no tokenizer"),
        ({"pre": "deepseek-llm"}, r"the way 'deepseek-llm' \(tokenizer.ggml.pre\), and laplm"),
        ({"pre": 7}, "tokenizer.ggml.pre is 7, which is no text"),
        ({"pre": np.array([1, 2])}, r"tokenizer.ggml.pre is array\(\[1, 2\]\), which is no"),
        ({"merges": None}, "has no tokenizer.ggml.merges"),
        ({"merges": ["zz zz"]}, "not readable as a tokenizer"),
        ({"merges": ["alone"]}, "not readable as a tokenizer"),
        ({"tokens": ["a", "b", "a"]}, "the token 'a' stands twice"),
        ({"token_type": np.array([1, 2])}, "token_type is not a number for each token"),
        ({"model": "llama"}, r"no token for 256 of 256 bytes \(<0x00>\)"),
        (
            {"model": "llama", "tokens": [*(f"<0x{b:02X}>" for b in range(256)), "x" * 1025],
             "merges": None, "token_type": None, "scores": np.zeros(257)},
            "a token of its vocabulary has 1,025 characters",
        ),
        (
            {"model": "llama", "tokens": [f"<0x{b:02X}>" for b in range(256)], "merges": None,
             "token_type": None},
            "has no tokenizer.ggml.scores",
        ),
    ],
)  # fmt: skip
def test_a_tokenizer_that_is_not_read_is_one_plain_line(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(TokenizerError, match=words) as error:
        read_gguf_tokenizer(changed(**changes), "a.gguf")
    message = str(error.value)
    assert message.startswith("a.gguf: ") and "\n" not in message


@given(st.lists(st.text(" ab", min_size=1)))
@example(["a b a", "b"])  # as many spaces as merges, but not one in each
def test_the_space_between_two_tokens_is_the_first_but_at_the_beginning(merges: list[str]) -> None:
    def pair(merge: str) -> tuple[str, str]:
        left, _, right = merge[1:].partition(" ")
        return merge[0] + left, right

    assert split_merges(merges) == [pair(merge) for merge in merges]


# --- a model that people have -------------------------------------------------------------------


def test_smollm2_has_the_ids_of_transformers(smollm2: Path) -> None:
    ours, theirs = Tokenizer.from_directory(smollm2), hf_tokenizer(smollm2)
    # Its vocabulary lacks these bytes; transformers leaves them out, and laplm says so.
    unwritable = re.compile("[\x04\x06\x13\x14\x16\x1d\U00040000-\U000bffff]")

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
    @given(strings)
    def check(text: str) -> None:
        text = unwritable.sub("?", text)
        # transformers does not take digits singly, and so joins them with spaces and one another.
        text = regex.sub(r"\s*\p{N}+", "7", text)
        found = ours.encode(text, allow_special=True)
        assert found == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(found) == text

    check()
