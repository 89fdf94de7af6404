from __future__ import annotations

import errno
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import weakref
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from laplm.errors import ModelFormatError, WriteError
from laplm.files import BLOCK
from laplm.model.files.safetensors_file import (
    check_finite,
    map_safetensors,
    narrow_bf16,
    read_table,
    widen_bf16,
    write_safetensors,
)

CODES = {
    "F32": np.float32, "F16": np.float16, "U8": np.uint8, "I8": np.int8, "I32": np.int32,
    "I64": np.int64, "U16": np.uint16,
}  # fmt: skip

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
contents = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(
        lambda name: not name.startswith("__")
    ),
    st.tuples(st.sampled_from(sorted(CODES)), shapes),
    max_size=6,
)
relaxed = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make(what: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 100, shape).astype(CODES[code])
        for name, (code, shape) in what.items()
    }


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def raw_file(path: Path, table: object, data: bytes = b"") -> Path:
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def entry(begin: int, end: int, shape: object = None, dtype: object = "F32") -> dict[str, object]:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float16)}, path)
    return path


# --- writing and mapping ----------------------------------------------------------------------


@given(contents, st.booleans())
@relaxed
def test_written_arrays_come_back_and_the_library_reads_them(
    tmp_path: Path, what: dict[str, tuple[str, tuple[int, ...]]], align: bool
) -> None:
    path = tmp_path / "file.safetensors"
    arrays = make(what)
    entries = [(n, what[n][0], a.shape, lambda a=a: a) for n, a in arrays.items()]
    write_safetensors(path, entries, {"made by": "test"}, align=align)
    mapped, metadata = map_safetensors(path)
    assert metadata == {"made by": "test"}
    theirs = load_file(path)
    assert list(mapped) == list(arrays)
    for name, array in arrays.items():
        for found in (mapped[name], theirs[name]):
            assert found.dtype == array.dtype and found.shape == array.shape
            assert np.array_equal(found, array)
        assert not mapped[name].flags.writeable
        if align and array.size:
            assert mapped[name].__array_interface__["data"][0] % 64 == 0
    if not align:
        assert theirs.keys() == arrays.keys()
    assert names_in(tmp_path) == ["file.safetensors"]


@given(contents)
@relaxed
def test_files_of_the_library_are_mapped(
    tmp_path: Path, what: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file(make(what), path, metadata={"format": "pt"})
    mapped, metadata = map_safetensors(path)
    assert metadata == {"format": "pt"}
    assert mapped.keys() == what.keys()
    for name, array in make(what).items():
        assert np.array_equal(mapped[name], array) and mapped[name].shape == array.shape


def test_bf16_is_written_from_its_bits(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    values = torch.randn(5, 3)
    bits = narrow_bf16(values.numpy())
    write_safetensors(path, [("x", "BF16", (5, 3), lambda: bits)], {})
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("x"), values.to(torch.bfloat16))
    (tensor,) = read_table(path)[0].values()
    assert np.array_equal(tensor.array(), values.to(torch.bfloat16).float().numpy())
    with pytest.raises(ModelFormatError, match="stored as BF16, which NumPy cannot map"):
        map_safetensors(path)


def test_arrays_are_made_one_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []

    def maker() -> np.ndarray[Any, Any]:
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= 1  # the one before may be in hand
        array = np.zeros(1000, np.float32)
        alive.append(weakref.ref(array))
        return array

    entries = [(str(i), "F32", (1000,), maker) for i in range(5)]
    write_safetensors(tmp_path / "file.safetensors", entries, {})
    assert len(alive) == 5


@pytest.mark.parametrize("checksum", [False, True])
def test_blocks_reach_the_system_whole(
    tmp_path: Path, checksum: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[tuple[int, int]] = []
    path_open = Path.open

    class Recorder(io.FileIO):
        def write(self, data: Any, /) -> int:
            writes.append((self.tell(), len(data)))
            return super().write(data) or 0

    def recording_open(path: Path, mode: str, buffering: int = -1) -> Any:
        if mode != "xb":
            return path_open(path, mode, buffering)
        return io.BufferedWriter(Recorder(path, "x"), buffering)

    monkeypatch.setattr(Path, "open", recording_open)
    sizes = [100_000, BLOCK - 1, 3 * BLOCK + 5, 7]
    arrays = [np.full(size, i, np.uint8) for i, size in enumerate(sizes)]
    entries = [
        (str(i), "U8", x.shape, lambda x=x: x)  # type: ignore[misc]
        for i, x in enumerate(arrays)
    ]
    write_safetensors(tmp_path / "f", entries, {}, checksum=checksum)
    assert all(size == BLOCK and at % BLOCK == 0 for at, size in writes[:-1]), writes
    read, _ = map_safetensors(tmp_path / "f", checksum=checksum)
    assert all(np.array_equal(read[str(i)], x) for i, x in enumerate(arrays))


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="no large pages in this system"
)
def test_large_pages_are_asked_for(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "asked", [("x", "U8", (3 * BLOCK,), lambda: np.zeros(3 * BLOCK, np.uint8))], {}
    )
    arrays, _ = map_safetensors(tmp_path / "asked")
    mapping = Path("/proc/self/smaps").read_text().split(str(tmp_path / "asked"))[1]
    flags = next(line for line in mapping.splitlines() if line.startswith("VmFlags"))
    assert "hg" in flags.split(), arrays


def test_missing_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.safetensors"
    write_safetensors(path, [], {})
    assert map_safetensors(path) == ({}, {})


def test_array_views_of_any_layout_are_written(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    write_safetensors(tmp_path / "f", [("x", "F32", array.shape, lambda: array)], {})
    assert np.array_equal(map_safetensors(tmp_path / "f")[0]["x"], array)


def failing(error: BaseException) -> Callable[[], np.ndarray[Any, Any]]:
    def maker() -> np.ndarray[Any, Any]:
        raise error

    return maker


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelFormatError("NaN"), MemoryError()])
def test_failure_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, good: Path, error: BaseException
) -> None:
    before = good.read_bytes()
    entries = [
        ("x", "F32", (4,), lambda: np.zeros(4, np.float32)),
        ("y", "F32", (4,), failing(error)),
    ]
    with pytest.raises(type(error)):
        write_safetensors(good, entries, {})
    assert good.read_bytes() == before
    assert names_in(tmp_path) == [good.name]


@pytest.mark.parametrize(
    "array", [np.zeros(4, np.float64), np.zeros((2, 2), np.float32), np.zeros(5, np.float32)]
)
def test_array_other_than_announced_is_our_fault(
    tmp_path: Path, array: np.ndarray[Any, Any]
) -> None:
    with pytest.raises(ValueError, match="announced as float32 \\(4,\\)"):
        write_safetensors(tmp_path / "f", [("x", "F32", (4,), lambda: array)], {})
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("names", [["x", "x"], ["__metadata__"], ["__padding__.1"]])
def test_names_given_twice_or_reserved_are_our_fault(tmp_path: Path, names: list[str]) -> None:
    entries = [(n, "U8", (0,), lambda: np.zeros(0, np.uint8)) for n in names]
    with pytest.raises(ValueError, match="twice or is reserved"):
        write_safetensors(tmp_path / "f", entries, {"k": "v"})


def test_full_disk_is_refused_before_writing_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 2_000_000))
    entries = [("x", "F32", (1_000_000,), failing(AssertionError("not reached")))]
    with pytest.raises(WriteError, match=r"no space left \(4\.0 MB needed, 2\.0 MB free\).*choose"):
        write_safetensors(tmp_path / "f", entries, {})
    assert names_in(tmp_path) == []


def test_disk_that_fills_up_while_writing_is_left_clean(tmp_path: Path) -> None:
    """On a real full disk: a small one in memory, in a mount namespace of its own."""
    code = f"""
        import os, shutil, sys
        from collections import namedtuple
        import numpy as np
        from laplm.errors import WriteError
        from laplm.model.files import safetensors_file
        usage = namedtuple("usage", "total used free")
        shutil.disk_usage = lambda _: usage(1 << 40, 0, 1 << 40)
        entries = [("x", "F32", (1 << 20,), lambda: np.zeros(1 << 20, np.float32))]
        place = safetensors_file.Path({str(tmp_path)!r})
        try:
            safetensors_file.write_safetensors(place / "f", entries, dict())
        except WriteError as error:
            print(error)
        print(os.listdir(place))
    """
    shell = f'mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} -c "$CODE"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell]
    environment = os.environ | {"CODE": textwrap.dedent(code)}
    try:
        out = subprocess.run(command, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if "unshare" in out.stderr or "mount" in out.stderr:
        pytest.skip("this system lets nobody mount a disk")
    assert out.stderr == ""
    message, left = out.stdout.splitlines()
    assert "no space left (4.2 MB needed" in message and "choose another directory" in message
    assert left == "[]"


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match=r"cannot write .*file/x: .*; somewhere else"):
        write_safetensors(tmp_path / "file" / "x", [], {}, advice="somewhere else")


def test_write_that_the_system_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match="Read-only file system; choose another directory"):
        write_safetensors(tmp_path / "f", [], {})
    assert names_in(tmp_path) == []


# --- damaged files ----------------------------------------------------------------------------


@given(st.data())
@relaxed
def test_file_cut_anywhere_is_refused(tmp_path: Path, good: Path, data: st.DataObject) -> None:
    whole = good.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ModelFormatError, match=r"cut\.safetensors: ") as caught:
        read_table(cut)
    assert "\n" not in str(caught.value)


def test_cut_file_is_told_both_lengths(good: Path) -> None:
    whole = good.read_bytes()
    good.write_bytes(whole[:-10])
    words = f"cut short: {len(whole) - 10} bytes, but its table describes {len(whole)}"
    with pytest.raises(ModelFormatError, match=words):
        read_table(good)
    good.write_bytes(whole + b"x")
    with pytest.raises(ModelFormatError, match="too long"):
        read_table(good)


@given(st.integers(0, 150), st.binary(min_size=1, max_size=3))
@relaxed
def test_damaged_table_never_gives_anything_but_a_plain_refusal(
    tmp_path: Path, good: Path, at: int, junk: bytes
) -> None:
    whole = bytearray(good.read_bytes())
    whole[at : at + len(junk)] = junk
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(whole)
    try:
        arrays, _ = map_safetensors(bad)
    except ModelFormatError as error:
        assert "\n" not in str(error)
    else:  # a changed name, say
        assert sum(array.nbytes for array in arrays.values()) <= len(whole)


@pytest.mark.parametrize(
    ("table", "data", "words"),
    [
        (b"[]", b"", "not a table of tensors"),
        (b"{", b"", "its table is not readable"),
        (b"\xff\xfe", b"", "its table is not readable"),
        (b"[" * 200_000, b"", "its table is not readable"),
        (b'{"a": 1, "a": 2}', b"", "a name occurs twice"),
        ({"a": 5}, b"", "a has no description"),
        ({"a": entry(0, 8, dtype="F31")}, b"8bytes..", "unknown number format 'F31'"),
        ({"a": entry(0, 8, dtype=7)}, b"8bytes..", "unknown number format 7"),
        ({"a": entry(0, 8, [-1, -2])}, b"8bytes..", "impossible shape"),
        ({"a": entry(0, 4, [True])}, b"4byt", "impossible shape"),
        ({"a": entry(0, 8, [2.0])}, b"8bytes..", "impossible shape"),
        ({"a": entry(0, 8, "2")}, b"8bytes..", "impossible shape"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"8bytes..", "impossible shape"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, b"", "impossible shape"),
        ({"a": entry(8, 0, [2])}, b"8bytes..", "impossible shape"),
        ({"a": entry(0, 8, [3])}, b"8bytes..", r"\[3\] in F32 is not 8 bytes"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, b"12bytes.....", "b overlaps the one before it"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, b"12bytes.....", "b leaves a gap before it"),
        ({"a": entry(4, 8)}, b"8bytes..", "a leaves a gap before it"),
        ({"a": entry(0, 2**62)}, b"8bytes..", "cut short"),
        ({"a": entry(0, 2**70)}, b"8bytes..", "impossible shape"),
        ({"a": entry(0, 8, [1] * 65)}, b"8bytes..", "impossible shape"),
        ({"a": entry(0, 10**4299, [10**4298])}, b"8bytes..", "impossible shape"),
        (b'{"a": ' + b"9" * 4301 + b"}", b"", r"\(a number of thousands of digits\); the file is"),
        (b"[" * 100_000, b"", "levels within levels"),
        (b'{"\xff": 1}', b"", "byte 2 is no UTF-8"),
        ({"\x1b[2J": entry(0, 8, [3])}, b"8bytes..", r"tensor '\\x1b\[2J': \[3\]"),
        ({"x" * 5000: entry(0, 8, [3])}, b"8bytes..", "tensor 'x{78}…: "),
        ({"a\u202eb": 7}, b"", r"tensor 'a\\u202eb' has no description"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__ is not a table of texts"),
        ({"__metadata__": []}, b"", "__metadata__ is not a table of texts"),
    ],
)
def test_impossible_table_is_refused(
    tmp_path: Path, table: object, data: bytes, words: str
) -> None:
    path = raw_file(tmp_path / "bad.safetensors", table, data)
    with pytest.raises(ModelFormatError, match=words) as caught:
        read_table(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 500


def test_length_that_is_no_length_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ModelFormatError, match=r"a table of 18,446,744,073,709,551,615 bytes"):
        read_table(path)


@pytest.mark.parametrize("size", [0, 3, 7])
def test_almost_empty_file_is_named(tmp_path: Path, size: int) -> None:
    (tmp_path / "x").write_bytes(b"\0" * size)
    with pytest.raises(ModelFormatError, match=f"only {size} bytes long"):
        read_table(tmp_path / "x")


def test_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 548105171\n"
    (tmp_path / "x").write_text(text)
    with pytest.raises(ModelFormatError, match="Git LFS pointer, not the weights; run `git lfs"):
        read_table(tmp_path / "x")


def test_file_that_is_gone_or_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"cannot be read \(No such file"):
        read_table(tmp_path / "x")
    with pytest.raises(ModelFormatError, match=r"cannot be read \(Is a directory"):
        map_safetensors(tmp_path)


def test_file_shortened_after_it_was_opened_is_named(good: Path) -> None:
    tensors, _ = read_table(good)
    good.write_bytes(b"")
    with pytest.raises(ModelFormatError, match="changed while it was in use"):
        tensors["a"].array()


def test_unaligned_fp32_is_copied_and_right(tmp_path: Path) -> None:
    values = np.arange(3, dtype="<f4")
    table = {"a": entry(0, 1, [1], "U8"), "b": entry(1, 13, [3])}
    path = raw_file(tmp_path / "x", json.dumps(table).encode() + b"  ", b"\1" + values.tobytes())
    tensor = read_table(path)[0]["b"]
    assert tensor.offset % 4 and not tensor.mapped
    array = tensor.array()
    assert np.array_equal(array, values) and array.flags.aligned
    assert np.array_equal(map_safetensors(path)[0]["b"], values)


# --- number formats ---------------------------------------------------------------------------


def test_every_bf16_is_widened_as_torch_does() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    theirs = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(widen_bf16(bits).view(np.uint32), theirs.view(np.uint32))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_fp32_is_rounded_to_bf16_as_torch_does(patterns: list[int]) -> None:
    edges = [0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x7F800001, 0x3F808000, 0x3F818000]
    values = np.array(patterns + edges, np.uint32).view(np.float32)
    ours = narrow_bf16(values)
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    nan = np.isnan(values)
    assert np.array_equal(ours[~nan], theirs.view(np.uint16)[~nan])
    assert np.isnan(widen_bf16(ours)[nan]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numbers_that_are_none_are_named_with_their_place(bad: float, dtype: type) -> None:
    array = np.ones((30, 40), dtype)
    check_finite("wte.weight", array)
    array[2, 3] = array[29, 39] = bad
    with pytest.raises(ModelFormatError, match=r"wte\.weight holds 2 numbers.*at \[2, 3\]"):
        check_finite("wte.weight", array)


def test_large_finite_numbers_are_finite() -> None:
    check_finite("x", np.full(100, 3e38, np.float32))
    check_finite("x", np.zeros(0, np.float32))
    with pytest.raises(ModelFormatError):  # infinities that would cancel in a sum
        check_finite("x", np.array([np.inf, -np.inf], np.float32))
