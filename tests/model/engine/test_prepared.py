"""Weights are packed once, read as they were written, and made again when they are not."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_model
from safetensors.numpy import save_file

from laplm.errors import CacheError
from laplm.model.config import ModelConfig
from laplm.model.engine import prepared as prepared_weights
from laplm.model.engine.formats import FORMATS
from laplm.model.engine.packing import unpack
from laplm.model.engine.prepared import prepared
from laplm.model.engine.quantize import Precision, output_matrix_precision, pack
from laplm.model.families import tensor_shapes
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.model.files.safetensors_file import Entry, map_safetensors


def test_weights_are_prepared_once_and_mapped_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    checkpoint = open_checkpoint(make_model(tmp_path / "model"))
    told: list[tuple[str, int, int]] = []
    prepared(checkpoint, "int8", lambda *step: told.append(step))
    assert told[0][1] == 0
    assert told[-1][1] == told[-1][2] > 0
    (file,) = (tmp_path / "home" / "prepared").iterdir()
    before = file.stat().st_mtime_ns
    again = prepared(checkpoint, "int8", lambda *step: told.append(("again", 0, 0)))
    assert ("again", 0, 0) not in told
    assert file.stat().st_mtime_ns == before
    assert not again["head.packed"].flags.writeable


def test_a_model_that_was_replaced_is_prepared_again_and_the_old_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    directory = make_model(tmp_path / "model", seed=1)
    first = prepared(open_checkpoint(directory), "int8")["head.packed"].copy()
    make_model(directory, seed=2)
    second = prepared(open_checkpoint(directory), "int8")["head.packed"]
    assert (first != second).any()
    assert len(list((tmp_path / "home" / "prepared").iterdir())) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_at_once_both_get_whole_weights(
    damaged: bool, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path))
    want = {name: array.copy() for name, array in _prepare(tiny_model_dir).items()}
    (file,) = (tmp_path / "prepared").iterdir()
    good = file.read_bytes()
    _flip_one_bit(file) if damaged else file.unlink()
    code = f"""
import sys, time, zlib
from pathlib import Path
from laplm.model.files.checkpoint import open_checkpoint, save_checkpoint
from laplm.model.config import ModelConfig
from laplm.model.families import tensor_shapes
from laplm.model.engine.prepared import prepared
checkpoint = open_checkpoint(Path({str(tiny_model_dir)!r}))
print("ready", flush=True)
sys.stdin.readline()
print({{name: zlib.crc32(array) for name, array in prepared(checkpoint, "int8").items()}})
"""
    options: dict[str, Any] = {"text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    workers = [subprocess.Popen([sys.executable, "-c", code], **options) for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    told = {worker.communicate("go\n")[0] for worker in workers}
    assert told == {f"{ {name: zlib.crc32(array) for name, array in want.items()} }\n"}
    assert file.read_bytes() == good and list(file.parent.iterdir()) == [file]


def _prepare(directory: Path) -> dict[str, np.ndarray[Any, Any]]:
    return prepared(open_checkpoint(directory), "int8")


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_every_row_of_a_large_matrix_has_its_own_scale(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrices are packed a thousand rows at a time."""
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    config = ModelConfig(vocab_size=2100, n_ctx=4, n_embd=32, n_layer=1, n_head=1, n_inner=1100)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        values = rng.standard_normal(shape, np.float32)
        largest = rng.uniform(0.01, 100, (shape[0], *[1] * (len(shape) - 1)))
        tensors[name] = (values * largest).astype(np.float32)
    save_checkpoint(tmp_path / "model", config, tensors)
    arrays = prepared(open_checkpoint(tmp_path / "model"), precision)
    for name, rows, how in (
        ("head", tensors["wte.weight"], output_matrix_precision(precision)),
        ("h.0.mlp.c_fc", tensors["h.0.mlp.c_fc.weight"].T, precision),
    ):
        form = FORMATS[how]
        want = unpack(*pack(rows, how), form, *rows.shape)
        got = unpack(arrays[f"{name}.packed"], arrays[f"{name}.scales"], form, *rows.shape)
        np.testing.assert_array_equal(got, want)


# --- what lies where the prepared weights should ------------------------------------------------


def _flip_one_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) * 2 // 3] ^= 16
    file.write_bytes(data)


def _zero_a_page(file: Path) -> None:
    with file.open("r+b") as out:
        out.seek(file.stat().st_size // 2)
        out.write(bytes(4096))


def _change_the_table(file: Path) -> None:
    """Two vectors of the same size trade their names: every length stays right."""
    data = file.read_bytes()
    a, b = b'"h.0.ln_1.weight"', b'"h.1.ln_1.weight"'
    data = data.replace(a, b"?" * len(a)).replace(b, a).replace(b"?" * len(a), b)
    file.write_bytes(data)


def _without_checksum(file: Path) -> None:
    arrays, metadata = map_safetensors(file)
    save_file({name: array.copy() for name, array in arrays.items()}, file, metadata)


def _of_another_model(file: Path) -> None:
    other = open_checkpoint(make_model(file.parent.parent.parent / "other", seed=9))
    home = file.parent.parent.parent / "other-home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAPLM_HOME", str(home))
        prepared(other, "int8")
    (made,) = (home / "prepared").iterdir()
    shutil.copyfile(made, file)


def _replace(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink()
    make(file)


def _socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(file))  # an address of at most some hundred letters


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one bit": _flip_one_bit,
    "zeros": _zero_a_page,
    "names": _change_the_table,
    "last byte": lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"),
    "cut short": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0" * 16),
    "other contents": lambda file: file.write_bytes(os.urandom(5000)),
    "no checksum": _without_checksum,
    "another model's": _of_another_model,
}
FOREIGN: dict[str, Callable[[Path], object]] = {
    "directory": lambda file: _replace(file, Path.mkdir),
    "link to nowhere": lambda file: _replace(file, lambda f: f.symlink_to("nowhere")),
    "link to itself": lambda file: _replace(file, lambda f: f.symlink_to(f.name)),
    "pipe": lambda file: _replace(file, os.mkfifo),
    "socket": lambda file: _replace(file, _socket),
}


@pytest.fixture
def made(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared weights of the tiny model, in a cache directory of their own."""
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    _prepare(tiny_model_dir)
    (file,) = (tmp_path / "home" / "prepared").iterdir()
    return file


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_prepared_weights_are_made_again(
    damage: str, made: Path, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = made.read_bytes()
    DAMAGE[damage](made)
    assert made.read_bytes() != good
    arrays = _prepare(tiny_model_dir)
    assert made.read_bytes() == good
    (line,) = caplog.messages
    assert str(made) in line and line.endswith("making them again") and "\n" not in line
    want, _ = map_safetensors(made)
    assert arrays.keys() == want.keys()
    assert all(np.array_equal(arrays[name], want[name]) for name in want)
    caplog.clear()
    _prepare(tiny_model_dir)
    assert caplog.messages == []


def _without_the_last(entries: list[Entry]) -> list[Entry]:
    return entries[:-1]


def _the_last_in_another_shape(entries: list[Entry]) -> list[Entry]:
    *others, (name, dtype, shape, make) = entries
    return [*others, (name, dtype, (1, *shape), lambda: make()[None])]


@pytest.mark.parametrize("change", [_without_the_last, _the_last_in_another_shape])
def test_a_file_with_other_matrices_is_made_again(
    change: Callable[[list[Entry]], list[Entry]], made: Path, tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """As another version may have joined or kept them, in a file that is whole."""
    good, entries = made.read_bytes(), prepared_weights._entries
    made.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(prepared_weights, "_entries", lambda *given: change(list(entries(*given))))
        _prepare(tiny_model_dir)
    _prepare(tiny_model_dir)
    assert made.read_bytes() == good
    assert "made by another version of laplm; making them again" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and sockets of Unix")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_is_no_file_is_moved_aside_and_not_deleted(
    foreign: str, made: Path, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = made.read_bytes()
    FOREIGN[foreign](made)
    if made.is_dir():
        (made / "mine").write_text("kept")
    kind = stat.S_IFMT(made.lstat().st_mode)
    for _ in range(2):  # the second time it is in nobody's way
        _prepare(tiny_model_dir)
        assert made.read_bytes() == good
    (aside,) = (path for path in made.parent.iterdir() if path != made)
    assert stat.S_IFMT(aside.lstat().st_mode) == kind
    assert not aside.is_dir() or (aside / "mine").read_text() == "kept"
    assert aside.name in "\n".join(caplog.messages) and len(caplog.messages) == 2


def test_prepared_weights_that_may_not_be_read_are_made_again(
    made: Path, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The system refuses to open it once; root, who runs many tests, is refused nothing."""
    real, number = Path.open, made.stat().st_ino

    def open_(path: Path, *args: object, **options: object) -> object:
        if path == made and path.stat().st_ino == number:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)  # type: ignore[call-overload]

    keep = made.with_name("keep")  # else the new file might get the number of the old one
    keep.hardlink_to(made)
    monkeypatch.setattr(Path, "open", open_)
    _prepare(tiny_model_dir)
    assert "cannot be read (Permission denied); making them again" in caplog.text
    assert made.read_bytes() == keep.read_bytes()


def test_a_link_to_prepared_weights_elsewhere_is_followed(
    made: Path, tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.move(made, tmp_path / "elsewhere")
    made.symlink_to(tmp_path / "elsewhere")
    _prepare(tiny_model_dir)
    assert made.is_symlink() and caplog.messages == []


def test_files_of_an_earlier_format_and_of_a_process_that_died_are_removed(
    made: Path, tiny_model_dir: Path
) -> None:
    old = made.with_name(made.name.replace(f"-v{prepared_weights.FORMAT}.", "-v1."))
    left, writing = (made.with_name(f".{made.name}.{part}.tmp") for part in ("0a", "0b"))
    for file in (old, left, writing):
        shutil.copyfile(made, file)
    os.utime(left, (0, 0))
    made.unlink()
    _prepare(tiny_model_dir)
    assert sorted(made.parent.iterdir()) == sorted([made, writing])


def test_a_file_that_is_never_read_as_it_was_written_is_refused_in_the_end(
    made: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared_weights, "_write", lambda *_: None)
    _flip_one_bit(made)
    with pytest.raises(CacheError, match=r"not read as it was written.*LAPLM_HOME"):
        _prepare(tiny_model_dir)


def test_a_cache_directory_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(CacheError, match="LAPLM_HOME"):
        prepared(open_checkpoint(make_model(tmp_path / "model")), "int8")


def test_no_space_leaves_no_half_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("LAPLM_HOME", str(home))
    checkpoint = open_checkpoint(make_model(tmp_path / "model"))

    def full(self: object, array: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", lambda handle: full(None, None))
    with pytest.raises(CacheError, match="space"):
        prepared(checkpoint, "int8")
    assert list((home / "prepared").iterdir()) == []


def test_a_file_that_was_prepared_before_the_rooms_moved_still_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``tests/data/prepared`` holds one; its model is made here again."""
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    config = ModelConfig(vocab_size=40, n_ctx=8, n_embd=32, n_layer=1, n_head=2)
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.standard_normal(shape) * 0.1).astype(np.float32)
        for name, shape in tensor_shapes(config).items()
    }
    save_checkpoint(tmp_path / "model", config, tensors)
    checkpoint = open_checkpoint(tmp_path / "model")
    old = Path(__file__).parents[2] / "data" / "prepared" / "int8-v2.safetensors"
    # The fingerprint is of places and times, so a copy has another.
    checkpoint.fingerprint = map_safetensors(old)[1]["model"]
    made = {name: array.copy() for name, array in prepared(checkpoint, "int8").items()}
    (file,) = (tmp_path / "home" / "prepared").iterdir()
    shutil.copy(old, file)
    told: list[object] = []
    opened = prepared(checkpoint, "int8", lambda *step: told.append(step))
    assert not told  # nothing was made again
    assert file.read_bytes() == old.read_bytes()
    assert opened.keys() == made.keys()
    for name, array in made.items():
        np.testing.assert_array_equal(opened[name], array)
