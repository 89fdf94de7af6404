from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tokenizers
from conftest import TEXT, make_tokenizer_json
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, GPT2Tokenizer

from laplm.errors import InputError, TokenizerError
from laplm.model import tokenizer as module
from laplm.model.tokenizer import StreamDecoder, Tokenizer

END = "<|endoftext|>"

# Every plane, and much of what the splitting rule treats specially: runs of white space of all
# kinds, contractions, digits next to letters, NUL, and the control token written out.
pieces = st.one_of(
    st.text(max_size=12),
    st.text(alphabet=" \t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u3000\u200b", max_size=8),
    st.sampled_from(["don't", "I'LL", " we've", "'s", " 1234", "x2", "\0", "\ufeff", "e\u0301"]),
    st.sampled_from(
        ["🙂", "👩‍👩‍👧", "北京", " Grüße", "\U0010ffff", "\ufffd", "Ġ", "Ċ", END, "<|end"]
    ),
)
texts = st.lists(pieces, max_size=8).map("".join)


def vocab_and_merges(source: Path, target: Path) -> None:
    """``tokenizer.json`` in the older form of two files."""
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (target / "vocab.json").write_text(json.dumps(model["vocab"]))
    (target / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer_json(path)
    (path / "config.json").write_text('{"model_type": "gpt2"}')
    return path


@pytest.fixture(scope="module")
def ours(directory: Path) -> Tokenizer:
    return Tokenizer.from_directory(directory)


@pytest.fixture(scope="module")
def theirs(directory: Path) -> GPT2Tokenizer:
    return GPT2Tokenizer.from_pretrained(directory)


@given(texts)
@settings(max_examples=300, deadline=None)
def test_ids_are_those_of_transformers(ours: Tokenizer, theirs: GPT2Tokenizer, text: str) -> None:
    assert ours.encode(text, allow_special=True) == theirs.encode(text)
    assert ours.encode(text) == theirs.encode(text, split_special_tokens=True)


@given(st.one_of(texts, st.binary(max_size=40)))
def test_words_together_are_the_ids_of_the_text(ours: Tokenizer, text: str | bytes) -> None:
    words = ours.encode_words(text)
    assert [i for word in words for i in word] == ours.encode(text)
    assert all(words)


@given(texts)
def test_words_are_those_of_the_splitting_rule(ours: Tokenizer, text: str) -> None:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    found = [ours.decode_bytes(word).decode() for word in ours.encode_words(text)]
    assert found == [text[start:end] for _, (start, end) in split]


def test_merges_are_those_of_the_file_in_bytes(ours: Tokenizer, directory: Path) -> None:
    saved = json.loads((directory / "tokenizer.json").read_text())["model"]["merges"]
    assert list(ours.merges.values()) == list(range(len(saved)))
    assert (b" ", b"t") in ours.merges
    tokens = {ours.token_bytes(i) for i in range(ours.vocab_size)}
    assert tokens >= {left + right for left, right in ours.merges}


@given(st.lists(st.integers(0, 401), max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_ids_decode_as_in_transformers(
    ours: Tokenizer, theirs: GPT2Tokenizer, ids: list[int]
) -> None:
    assert ours.decode(ids) == theirs.decode(ids)


@given(st.one_of(st.binary(max_size=60), texts.map(str.encode)))
@settings(max_examples=300, deadline=None)
@example(b"\xed\xa0\x80 a surrogate in UTF-8")
@example(b"\xf0\x9f\x99 cut \xc0\xaf overlong \xff")
def test_every_byte_string_comes_back(ours: Tokenizer, data: bytes) -> None:
    ids = ours.encode(data)
    assert ours.decode_bytes(ids) == data
    assert ours.decode(ids) == data.decode("utf-8", errors="replace")
    assert b"".join(ours.token_bytes(i) for i in ids) == data


@given(texts)
@settings(max_examples=100, deadline=None)
def test_bytes_and_text_have_the_same_ids(ours: Tokenizer, text: str) -> None:
    assert ours.encode(text.encode()) == ours.encode(text)


@given(st.lists(st.integers(0, 401), max_size=30))
@settings(max_examples=200, deadline=None)
def test_stream_decoder_gives_the_whole_text_and_never_half_a_character(
    ours: Tokenizer, ids: list[int]
) -> None:
    stream = StreamDecoder(ours)
    seen = b""
    parts = []
    for i in ids:
        part = stream.feed(i)
        seen += ours.token_bytes(i)
        parts.append(part)
        # Held back are at most the three bytes that may begin a character.
        assert len(seen.decode("utf-8", "replace")) - len("".join(parts)) <= 3
    assert "".join(parts) + stream.flush() == ours.decode(ids)
    assert stream.flush() == ""


def test_stream_decoder_waits_for_the_last_byte_of_a_character(ours: Tokenizer) -> None:
    ids = [ours.encode(bytes([b]))[0] for b in "🙂".encode()]
    stream = StreamDecoder(ours)
    assert [stream.feed(i) for i in ids] == ["", "", "", "🙂"]
    assert stream.flush() == ""


@given(st.lists(st.one_of(texts, st.sampled_from([" ", "\n", "\n\n", " a", "  "])), max_size=12))
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize("allow_special", [False, True])
def test_pieces_of_a_long_text_have_the_ids_of_the_whole(
    ours: Tokenizer, allow_special: bool, parts: list[str]
) -> None:
    text = "".join(parts)
    whole = ours.encode(text, allow_special)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", 2)
        patch.setattr(module, "_CHUNKS_AT_ONCE", 3)
        assert ours.encode(text, allow_special) == whole


def test_long_texts_are_cut(ours: Tokenizer) -> None:
    text = "one two\nthree " * 4000
    chunks = list(module._chunks(text))
    assert len(chunks) > 3 and "".join(chunks) == text


def test_ten_megabytes_encode_in_seconds(ours: Tokenizer) -> None:
    text = (TEXT * (10_000_000 // len(TEXT) + 1))[:10_000_000]
    start = time.process_time()
    ids = ours.encode(text)
    assert time.process_time() - start < 30  # all threads together; about 5 s
    assert ours.decode_bytes(ids) == text.encode()


@pytest.mark.parametrize("text", ["a" * 300_000, " " * 300_000, "\0" * 300_000, "北" * 100_000])
def test_a_text_without_places_to_cut_is_no_trap(ours: Tokenizer, text: str) -> None:
    start = time.process_time()
    assert ours.decode(ours.encode(text)) == text
    assert time.process_time() - start < 10


def test_end_of_text_is_a_text_like_any_other_unless_asked_for(ours: Tokenizer) -> None:
    end = ours.eos_token_id
    assert end == 401
    assert end not in ours.encode(f"a{END}b")
    assert ours.decode(ours.encode(f"a{END}b")) == f"a{END}b"
    assert ours.encode(f"a{END}b", allow_special=True).count(end) == 1
    assert ours.special_token_ids == (end,)
    assert ours.decode([end]) == END and ours.token_text(end) == END


@pytest.mark.parametrize("text", ["\ud800", "abc\udfff", "\udc80", "🙂"[:1] + "\ud83d"])
def test_lone_surrogate_is_refused_with_its_place(ours: Tokenizer, text: str) -> None:
    with pytest.raises(InputError, match=rf"U\+D[0-9A-F]{{3}}\) at character {len(text) - 1}\b"):
        ours.encode(text)


def test_empty_text_has_no_ids(ours: Tokenizer) -> None:
    assert ours.encode("") == ours.encode(b"") == []
    assert ours.decode([]) == ""


@pytest.mark.parametrize("token_id", [-1, 402, 2**40])
def test_id_outside_the_vocabulary_is_refused(ours: Tokenizer, token_id: int) -> None:
    for call in (ours.token_bytes, ours.token_text, lambda i: ours.decode([i])):
        with pytest.raises(TokenizerError, match=r"not in the vocabulary \(0 to 401\)"):
            call(token_id)


def test_token_text_shows_part_of_a_character_as_replacement(ours: Tokenizer) -> None:
    assert ours.token_text(ours.encode(b"\xf0")[0]) == "\ufffd"
    assert ours.token_text(ours.encode(" ")[0]) == " "


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"eos_token": "</s>", "bos_token": "<s>"},
        {"eos_token": {"__type": "AddedToken", "content": "<e>"}, "pad_token": "<p>"},
        {"add_prefix_space": True},
    ],
)
def test_vocab_and_merges_read_as_transformers_reads_them(
    directory: Path, tmp_path: Path, config: dict[str, object]
) -> None:
    vocab_and_merges(directory, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = Tokenizer.from_directory(tmp_path), GPT2Tokenizer.from_pretrained(tmp_path)
    for text in (TEXT, f"a</s>b<s>c<e>d<p>e{END}f", "  two  spaces "):
        assert ours.encode(text, allow_special=True) == theirs.encode(text)
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.special_token_ids == tuple(sorted(theirs.all_special_ids))
    assert ours.vocab_size == len(theirs)


def test_names_of_openais_release_are_read_too(directory: Path, tmp_path: Path) -> None:
    vocab_and_merges(directory, tmp_path)
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    assert Tokenizer.from_directory(tmp_path).encode(TEXT) == Tokenizer.from_directory(
        directory
    ).encode(TEXT)


def test_from_files_gives_the_same_ids(directory: Path, ours: Tokenizer, tmp_path: Path) -> None:
    vocab_and_merges(directory, tmp_path)
    tokenizer = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert tokenizer.encode(TEXT) == ours.encode(TEXT)
    assert tokenizer.eos_token_id == ours.eos_token_id


def test_end_token_in_the_vocabulary_only_is_a_control_token(
    directory: Path, tmp_path: Path
) -> None:
    values = json.loads((directory / "tokenizer.json").read_text())
    token = values["added_tokens"].pop()
    values["model"]["vocab"][token["content"]] = token["id"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.eos_token_id == token["id"]
    assert tokenizer.special_token_ids == (token["id"],)
    assert tokenizer.encode(END, allow_special=True) == [token["id"]]


def test_truncation_and_padding_set_in_the_file_are_not_applied(
    directory: Path, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_missing_tokenizer_names_the_files_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*vocab\.json with merges\.txt"):
        Tokenizer.from_directory(tmp_path)


def test_half_of_a_tokenizer_is_named(directory: Path, tmp_path: Path) -> None:
    vocab_and_merges(directory, tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match=r"merges\.txt: no such file"):
        Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "BPE"}}', "\0" * 100])
def test_damaged_tokenizer_is_one_plain_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not readable") as caught:
        Tokenizer.from_directory(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vocab", "merges"),
    [("{", "#version: 0.2\n"), ('{"a": 0}', "#version: 0.2\na b c\n"), ('{"a": 0}', "b c\n")],
)
def test_damaged_vocab_or_merges_is_one_plain_line(tmp_path: Path, vocab: str, merges: str) -> None:
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(TokenizerError, match=r"\.(txt|json): not readable") as caught:
        Tokenizer.from_directory(tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_settings_are_named(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: not readable"):
        Tokenizer.from_directory(tmp_path)


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    Backend(models.WordLevel({"a": 0, "?": 1}, unk_token="?")).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(TokenizerError, match="neither a byte-level BPE nor SentencePiece"):
        Tokenizer.from_directory(tmp_path)


def test_byte_without_a_token_is_named_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.decode(tokenizer.encode("abba")) == "abba"
    with pytest.raises(TokenizerError, match="no token for byte 0x63"):
        tokenizer.encode("abc")


def test_importing_the_tokenizer_is_light() -> None:
    code = (
        "import sys, laplm.model.tokenizer; heavy = {'torch', 'transformers', "
        "'huggingface_hub', 'socket'} & set(sys.modules); sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- added and special tokens, and what the post-processor puts ----------------------------------

FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
SPOKEN = "a</s>b<s>c<e>d<p>e<sp1> f <sp2>g[X]h<|endoftext|>"


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": {"<sp1>": 402, "<sp2>": 403}},
        {
            "added_tokens.json": {"<sp2>": 403, "<s>": 402},
            "special_tokens_map.json": {"bos_token": "<s>", "pad_token": {"content": "<p>"}},
        },
        {
            "tokenizer_config.json": {"eos_token": "</s>"},
            "special_tokens_map.json": {
                "eos_token": "<e>", "additional_special_tokens": ["<sp1>", "[X]"],
            },
        },
        {
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    "403": {"content": "<sp1>", "special": True, **FLAGS},
                    "402": {"content": "[X]", "special": False, **FLAGS, "lstrip": True},
                },
                "extra_special_tokens": ["<sp2>"], "eos_token": "<sp1>", "unk_token": None,
            },
            "special_tokens_map.json": {"eos_token": "not read"},
            "added_tokens.json": {"not read": 1000},
        },
        {
            "tokenizer_config.json": {
                "image_token": "<p>", "extra_special_tokens": {"x_token": "<e>"},
            },
        },
        {"tokenizer_config.json": FAST | {"pad_token": "[X]"}},
    ],
)  # fmt: skip
def test_tokens_of_all_files_are_those_of_transformers(
    directory: Path, tmp_path: Path, form: str, files: dict[str, dict[str, object]]
) -> None:
    if form == "tokenizer.json":
        (tmp_path / form).write_bytes((directory / form).read_bytes())
    elif "tokenizer_class" in files.get("tokenizer_config.json", {}):
        pytest.skip("such a class has no vocab.json")
    else:
        vocab_and_merges(directory, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    if form == "tokenizer.json" and "added_tokens_decoder" in str(files):
        # Its GPT2Tokenizer would leave out the file's own added tokens, and shift the ids.
        files = files | {"tokenizer_config.json": files["tokenizer_config.json"] | FAST}
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    ours, theirs = Tokenizer.from_directory(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode(SPOKEN, allow_special=True) == theirs.encode(SPOKEN)
    assert ours.vocab_size == len(theirs)
    assert dict(ours.special_tokens) == theirs.special_tokens_map
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (
        theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id,
    )  # fmt: skip
    assert set(theirs.all_special_ids) <= set(ours.special_token_ids)


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [401], "tokens": ["<s>"]}},
}
ROBERTA = {
    "type": "RobertaProcessing", "sep": [END, 401], "cls": ["a", 64], "trim_offsets": True,
    "add_prefix_space": False,
}  # fmt: skip
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


@pytest.mark.parametrize(
    "post",
    [None, TEMPLATE, ROBERTA, BYTES, {"type": "Sequence", "processors": [BYTES, TEMPLATE]}],
)
@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}])
def test_what_the_post_processor_puts_around_a_text_is_put(
    directory: Path, tmp_path: Path, post: object, settings: dict[str, object]
) -> None:
    values = json.loads((directory / "tokenizer.json").read_text()) | {"post_processor": post}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    settings = settings | FAST
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = Tokenizer.from_directory(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("", "a", "The capital of Spain"):
        ids = ours.build_inputs_with_special_tokens(ours.encode(text))
        assert ids == theirs(text)["input_ids"]


@pytest.mark.parametrize("keys", [("bos",), ("eos",), ("bos", "eos"), ()])
def test_add_bos_token_and_its_like_are_heeded_without_a_tokenizer_json(
    directory: Path, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    vocab_and_merges(directory, tmp_path)
    settings = {f"add_{key}_token": True for key in keys} | {"bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = Tokenizer.from_directory(tmp_path), GPT2Tokenizer.from_pretrained(tmp_path)
    for text in ("", "The capital of Spain"):
        ids = ours.build_inputs_with_special_tokens(ours.encode(text))
        assert ids == theirs(text)["input_ids"]


# --- files at which the library panics, or that are no tokenizer's --------------------------------


def with_parts(directory: Path, target: Path, **parts: object) -> Path:
    values = json.loads((directory / "tokenizer.json").read_text())
    model = parts.pop("model", {})
    assert isinstance(model, dict)
    vocab = values["model"]["vocab"] | model.pop("more", {})
    values["model"] |= {"vocab": vocab} | model
    (target / "tokenizer.json").write_text(json.dumps(values | parts))
    return target


def split(pattern: str) -> dict[str, object]:
    first = {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip
    return {"type": "Sequence", "pretokenizers": [first, BYTES | {"add_prefix_space": False}]}


@pytest.mark.parametrize(
    "parts",
    [
        {"model": {"continuing_subword_prefix": "##"}},
        {"model": {"end_of_word_suffix": "</w>"}},
        {"model": {"more": {"zz": 2**32 - 1}}},
        {"model": {"more": {"zz": 2**40}}},
        {"model": {"more": {"zz": -1}}},
        {"model": {"more": {"zz": None}}},
        {"added_tokens": [{"id": 2**32 - 1, "content": "zz", "special": True, **FLAGS}]},
        {"added_tokens": [{"id": None, "content": "zz", "special": True, **FLAGS}]},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAA="}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"post_processor": TEMPLATE | {"special_tokens": {}}},
        {"post_processor": TEMPLATE | {"single": [{"Sequence": {"id": "B", "type_id": 0}}]}},
        {"model": {"unk_token": "<nothing>", "more": {}}},
        {"pre_tokenizer": split("(?:a+)+$|(a|a)*\\1b")},
        {"pre_tokenizer": split("(")},
        {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
    ],
    ids=str,
)
def test_files_at_which_the_library_panics_are_one_plain_line(
    directory: Path, tmp_path: Path, parts: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    path = with_parts(directory, tmp_path, **parts)
    try:
        tokenizer = Tokenizer.from_directory(path)
        tokenizer.build_inputs_with_special_tokens(tokenizer.encode("a" * 40 + "! ab"))
    except TokenizerError as error:
        assert "\n" not in str(error) and str(tmp_path) in str(error)
    else:  # what the library does with it is right
        assert "unk_token" in str(parts)
    assert capfd.readouterr().err == ""


def test_a_pattern_that_does_not_come_to_an_end_is_given_up(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_parts(directory, tmp_path, pre_tokenizer=split(r"a*a*(a*)\1[bc]d|zz"))
    tokenizer = Tokenizer.from_directory(path)
    assert tokenizer.decode(tokenizer.encode("as usual")) == "as usual"
    monkeypatch.setattr(module, "_PATTERN_SECONDS", 0.05)
    text = "a" * 100 + "c"  # about a second
    for _ in range(2):
        with pytest.raises(TokenizerError, match="does not come to an end"):
            tokenizer.encode(text)


def test_a_model_is_read_without_chance(directory: Path, tmp_path: Path, ours: Tokenizer) -> None:
    path = with_parts(directory, tmp_path, model={"dropout": 0.9})
    assert Tokenizer.from_directory(path).encode(TEXT) == ours.encode(TEXT)


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("tokenizer_config.json", {"eos_token": "\ud800"}, r"eos_token holds U\+D800"),
        ("tokenizer_config.json", {"eos_token": 7}, "eos_token is 7, which is no token"),
        ("tokenizer_config.json", {"pad_token": {"content": ["x"]}}, "pad_token is"),
        ("tokenizer_config.json", {"eos_token": {"content": "x", "lstrip": 1}}, "neither true nor"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, "must be an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "y"}}}, "no token"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": None}}, "no token"),
        ("tokenizer_config.json", {"extra_special_tokens": "x"}, "must be a list"),
        ("tokenizer_config.json", {"additional_special_tokens": [None, 3]}, "special token is 3"),
        ("special_tokens_map.json", {"bos_token": ["<s>"]}, "bos_token is"),
        ("added_tokens.json", {"x": "y"}, "has the id 'y'"),
        ("added_tokens.json", {"\udfff": 402}, "half of a character"),
    ],
)
def test_odd_types_beside_the_tokenizer_are_named(
    directory: Path, tmp_path: Path, file: str, values: dict[str, object], words: str
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(TokenizerError, match=words) as caught:
        Tokenizer.from_directory(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        dict.fromkeys(("eos_token", "bos_token", "pad_token", "added_tokens_decoder")),
        {"eos_token": "", "add_bos_token": None, "extra_special_tokens": None},
    ],
)
def test_nulls_beside_the_tokenizer_are_nothing(
    directory: Path, tmp_path: Path, ours: Tokenizer, values: dict[str, object]
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    assert Tokenizer.from_directory(tmp_path).encode(TEXT) == ours.encode(TEXT)


def test_an_added_token_that_is_text_comes_back_as_it_is(directory: Path, tmp_path: Path) -> None:
    """It is written in its letters, where tokens of the vocabulary are written in bytes."""
    values = json.loads((directory / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    values["added_tokens"].append({"id": 402, "content": "<déjà>"} | flags)
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    tokenizer = Tokenizer.from_directory(tmp_path)
    ids = tokenizer.encode("a <déjà> b")
    assert 402 in ids
    assert tokenizer.token_bytes(402) == "<déjà>".encode()
    assert tokenizer.decode(ids) == "a <déjà> b"


def test_added_runs_of_spaces_are_spaces_where_tokens_write_them_otherwise(tmp_path: Path) -> None:
    """As Gemma has them, beside control tokens."""
    vocab = {"<unk>": 0, "▁": 1, "a": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    model = tokenizers.models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    backend.decoder = tokenizers.decoders.Sequence([
        tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(),
        tokenizers.decoders.Fuse(),
    ])  # fmt: skip
    backend.add_tokens([tokenizers.AddedToken("▁▁", normalized=False)])
    backend.add_special_tokens(["<▁end>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert [tokenizer.token_bytes(id_) for id_ in (259, 260)] == [b"  ", "<▁end>".encode()]
