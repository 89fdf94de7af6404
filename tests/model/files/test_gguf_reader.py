"""GGUF files: what stands in them, and every way in which they are damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laplm.errors import ModelFormatError
from laplm.model.files import gguf_reader
from laplm.model.files.gguf_reader import is_gguf, read_gguf

SETTINGS: dict[str, tuple[Any, gguf.GGUFValueType]] = {
    "a.text": ("naïve 北京", gguf.GGUFValueType.STRING),
    "a.flag": (True, gguf.GGUFValueType.BOOL),
    "a.small": (-3, gguf.GGUFValueType.INT8),
    "a.whole": (1 << 40, gguf.GGUFValueType.UINT64),
    "a.number": (0.25, gguf.GGUFValueType.FLOAT32),
    "a.double": (0.1, gguf.GGUFValueType.FLOAT64),
}


def write(path: Path, **changes: Any) -> Path:
    """A small file with settings of every kind and three tensors."""
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, (value, kind) in SETTINGS.items():
        writer.add_key_value(key, value, kind)
    writer.add_array("a.texts", ["b", "", "ć"])
    writer.add_array("a.numbers", [1, 2, 3])
    if "alignment" in changes:
        writer.add_custom_alignment(changes["alignment"])
    rng = np.random.default_rng(0)
    writer.add_tensor("one.weight", rng.normal(size=(3, 64)).astype(np.float32))
    blocks = gguf.quants.quantize(
        rng.normal(size=(5, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q4_0
    )
    writer.add_tensor("two.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("three.bias", rng.normal(size=7).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [32, 64])
def test_settings_and_tensors_are_those_of_the_gguf_package(tmp_path: Path, alignment: int) -> None:
    path = write(tmp_path / "a.gguf", **{} if alignment == 32 else {"alignment": alignment})
    ours, theirs = read_gguf(path), gguf.GGUFReader(str(path))
    fields = {k: v for k, v in theirs.fields.items() if not k.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, field in fields.items():
        value = ours.metadata[key]
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents(), key
    assert ours.metadata["a.text"] == "naïve 北京"
    assert list(ours.tensors) == [each.name for each in theirs.tensors]
    for each in theirs.tensors:
        tensor = ours.tensors[each.name]
        assert tensor.shape == tuple(int(n) for n in each.shape[::-1])
        expected = gguf.quants.dequantize(each.data, each.tensor_type)
        np.testing.assert_array_equal(tensor.array(), expected)
    assert ours.tensors["one.weight"].mapped and not ours.tensors["two.weight"].mapped


# --- damage -----------------------------------------------------------------------------------


def header(n_tensors: int = 0, n_settings: int = 0, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_settings) + body


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def setting(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(
    name: str, dims: list[int], kind: int = 0, offset: int = 0, n_dims: int | None = None
) -> bytes:
    count = len(dims) if n_dims is None else n_dims
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


def texts(count: int) -> bytes:
    return struct.pack("<IQ", 8, count)


short = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
lists = st.lists(
    st.one_of(short, short, short, st.text(), st.integers(240, 800).map("x".__mul__)), max_size=30
)


@given(st.one_of(st.lists(short.filter(lambda t: len(t) < 60), max_size=30), lists), lists)
def test_lists_of_texts_come_back(first: list[str], second: list[str]) -> None:
    def listed(values: list[str]) -> bytes:
        return texts(len(values)) + b"".join(map(text, values))

    settings = setting("a", 9, listed(first)) + setting("b", 9, listed(second))
    with TemporaryDirectory() as directory:
        path = Path(directory, "a.gguf")
        path.write_bytes(header(0, 3, settings + setting("c", 8, text("end")) + bytes(1000)))
        assert read_gguf(path).metadata == {"a": first, "b": second, "c": "end"}


def test_a_usual_vocabulary_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One by one the texts of a large vocabulary take a tenth of a start.
    found: list[list[str] | None] = []
    at_once = gguf_reader._Header._short_texts

    def listed(header: gguf_reader._Header, count: int) -> list[str] | None:
        found.append(at_once(header, count))
        return found[-1]

    monkeypatch.setattr(gguf_reader._Header, "_short_texts", listed)
    words = [*["a", "Ġthe", "北京"] * 9, "x" * 200]
    settings = setting("a", 9, texts(len(words)) + b"".join(map(text, words)))
    (tmp_path / "a.gguf").write_bytes(header(0, 1, settings + bytes(1000)))
    assert read_gguf(tmp_path / "a.gguf").metadata == {"a": words}
    assert found == [words]


@pytest.mark.parametrize("last", ["b\0c", "b\0", "\0", "\0\0"])
def test_a_zero_in_the_last_text_of_a_list_is_part_of_it(tmp_path: Path, last: str) -> None:
    path = tmp_path / "a.gguf"
    listed = setting("a", 9, texts(2) + text("a") + text(last))
    path.write_bytes(header(0, 2, listed + setting("b", 8, text("end")) + bytes(1000)))
    assert read_gguf(path).metadata == {"a": ["a", last], "b": "end"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (setting("a", 9, texts(9) + bytes(100)), "a list of 9 before byte 49"),
        (setting("a", 9, struct.pack("<IQ", 10, 9) + bytes(100)), "a list of 9 before byte 49"),
        (setting("a", 8, text("x" * 9)), "its text at byte 45 has 9 bytes"),
    ],
)
def test_what_would_fill_memory_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    # Smaller limits, instead of a file of gigabytes.
    monkeypatch.setattr(gguf_reader, "_MAX_ITEMS", 8)
    monkeypatch.setattr(gguf_reader, "_MAX_TEXT", 8)
    (tmp_path / "a.gguf").write_bytes(header(0, 1, content))
    with pytest.raises(ModelFormatError, match=words):
        read_gguf(tmp_path / "a.gguf")


HUGE = (1 << 63) + 5
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a GGUF file"),
    "another format": (b"PK\x03\x04" + bytes(60), "not a GGUF file, although its name says so"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "before GGUF": (b"tjgg" + bytes(60), "a GGML file, which came before GGUF"),
    "magic alone": (b"GGUF", "only 4 bytes long"),
    "version 1": (header(version=1), "GGUF version 1, of August 2023"),
    "version 0": (header(version=0), "GGUF version 0"),
    "newer": (header(version=4), "GGUF version 4, and laplm reads up to 3; a newer laplm"),
    "big endian": (header(version=3 << 24), "big-endian numbers"),
    "huge counts": (header(HUGE, HUGE), "ends within its own tables"),
    "huge name": (header(0, 1, struct.pack("<Q", HUGE) + b"abc"), "ends within its own tables"),
    "huge list": (header(0, 1, setting("a", 9, texts(HUGE))), "within a list of 9,223,372,036"),
    "a list cut short": (header(0, 1, setting("a", 9, texts(3) + text("b") + text("c") + bytes(7))),
                         "ends within a list of 3 texts|ends within its own tables"),
    "huge text in a list": (header(0, 1, setting("a", 9, texts(2) + struct.pack("<Q", HUGE) * 2)),
                            "ends within a list of 2 texts"),
    "huge list of numbers": (header(0, 1, setting("a", 9, struct.pack("<IQ", 4, HUGE))),
                             "ends within its own tables"),
    "list of lists": (header(0, 1, setting("a", 9, struct.pack("<IQ", 9, 1))), "of type 9"),
    "unknown type": (header(0, 1, setting("a", 77, bytes(8))), "of type 77"),
    "a text of no UTF-8": (header(0, 1, text(b"\xff\xfe") + bytes(12)), "is no UTF-8"),
    "zeros alone": (header(0, 1, setting("a", 9, texts(9) + bytes(7 * 9))), "ends within"),
    "the last of short texts cut": (header(0, 1, setting("a", 9, texts(1) + text("long")[:-1])),
                                    "ends within a list of 1 texts"),
    "texts of no UTF-8": (header(0, 1, setting("a", 9, texts(1) + text(b"\xff"))), "is no UTF-8"),
    "a setting twice": (header(0, 2, setting("a", 7, b"\x01") * 2), "the setting a stands there"),
    "a tensor twice": (header(2, 0, tensor("t", [4]) * 2 + bytes(64)), "tensor t stands there"),
    "no dimensions": (header(1, 0, tensor("t", [], n_dims=0)), "tensor t has 0 dimensions"),
    "many dimensions": (header(1, 0, tensor("t", [1] * 5)), "tensor t has 5 dimensions"),
    "countless dimensions": (header(1, 0, tensor("t", [1], n_dims=1 << 31)), "dimensions"),
    "an empty shape": (header(1, 0, tensor("t", [0, 4])), "the impossible shape"),
    "an endless shape": (header(1, 0, tensor("t", [HUGE, HUGE])), "the impossible shape"),
    "a new type": (header(1, 0, tensor("t", [32], kind=99)), "as type 99, which laplm does not"),
    "half a block": (header(1, 0, tensor("t", [33], kind=2)), "no multiple of Q4_0's 32"),
    "an odd place": (header(1, 0, tensor("t", [4], offset=3) + bytes(64)), "no multiple of 32"),
    "far outside": (header(1, 0, tensor("t", [4], offset=1 << 60)), "cut short: .* lie outside"),
    "beyond 64 bits": (header(1, 0, tensor("t", [4], offset=(1 << 64) - 32)), "cut short"),
    "overlapping": (header(2, 0, tensor("t", [64]) + tensor("u", [64], offset=32) + bytes(999)),
                    r"tensor u overlaps the one before it \(byte 32\)"),
    "an odd alignment": (header(1, 1, setting("general.alignment", 4, struct.pack("<I", 24))
                                + tensor("t", [4])), "no power of two"),
    "alignment 0": (header(0, 1, setting("general.alignment", 4, bytes(4))), "no power of two"),
    "alignment is a text": (header(0, 1, setting("general.alignment", 8, text("x"))), "no power"),
    "one of several parts": (header(0, 1, setting("split.count", 2, b"\x03\x00")),
                             "one of 3 parts of a model.*llama-gguf-split --merge"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_damaged_or_foreign_is_one_plain_line(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=words) as error:
        read_gguf(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 400


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    tables = whole.index(b"three.bias") + 40
    for length in [*range(0, tables, 7), *range(tables, len(whole) - 32, 50)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelFormatError):
            read_gguf(cut)


def test_a_file_that_cannot_be_read_or_changes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.gguf")
    found = read_gguf(path).tensors["one.weight"]
    path.write_bytes(b"short")
    with pytest.raises(ModelFormatError, match="changed while it was in use"):
        found.array()

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelFormatError, match=r"cannot be read \(Permission denied\)"):
        read_gguf(path)


def test_files_are_known_by_name_or_by_their_first_bytes(tmp_path: Path) -> None:
    blob = tmp_path / "sha256-77"
    write(blob)
    assert is_gguf(blob)
    blob.write_bytes(b"something else")
    assert not is_gguf(blob)
    assert is_gguf(tmp_path / "A.GGUF")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"row_order": np.array([2, 0, 1])}, lambda a: a[[2, 0, 1]]),
        ({"transposed": True}, lambda a: a.T),
        ({"plus": -1.0}, lambda a: a - np.float32(1)),
    ],
)
def test_a_tensor_in_another_layout(
    tmp_path: Path, change: dict[str, Any], expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    import dataclasses

    plain = read_gguf(write(tmp_path / "a.gguf")).tensors["one.weight"]
    tensor = dataclasses.replace(plain, **change)
    wanted = expected(plain.array())
    assert tensor.shape == wanted.shape and not tensor.mapped
    np.testing.assert_array_equal(tensor.array(), wanted)
    numbers = np.array([1, 2, 1])
    np.testing.assert_array_equal(tensor.rows()(numbers), wanted[numbers])
