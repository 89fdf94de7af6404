"""Packing is undone exactly by unpacking, and rounds as little as it says."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laplm.errors import CacheError
from laplm.gpt.checkpoint import open_checkpoint
from laplm.gpt.quantize import pack, prepared, quantise_groups, unpack

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 70)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


@settings(deadline=None)
@given(MATRICES)
def test_fp32_packing_is_exact(rows: np.ndarray) -> None:
    packed, scales = pack(rows, "fp32")
    np.testing.assert_array_equal(unpack(packed, scales, "fp32", *rows.shape), rows)


@settings(deadline=None)
@given(MATRICES)
def test_int8_is_within_half_a_step_of_every_weight(rows: np.ndarray) -> None:
    got = unpack(*pack(rows, "int8"), "int8", *rows.shape)
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    assert (np.abs(got - rows) <= step * 0.5001).all()


@settings(deadline=None)
@given(MATRICES)
def test_int4_is_no_worse_than_plain_rounding_to_sevenths(rows: np.ndarray) -> None:
    got = unpack(*pack(rows, "int4"), "int4", *rows.shape)
    n_out, n_in = rows.shape
    padded = np.zeros((n_out, -(-n_in // 32) * 32), np.float32)
    padded[:, :n_in] = rows
    groups = padded.reshape(n_out, -1, 32)
    scale = (np.abs(groups).max(axis=-1, keepdims=True) / 7).astype(np.float16).astype(np.float32)
    safe = np.where(scale == 0, 1, scale)
    plain = np.clip(np.rint(groups / safe), -8, 7) * scale
    plain_error = ((plain - groups) ** 2).sum()
    assert ((got - rows) ** 2).sum() <= plain_error * 1.001 + 1e-6


def test_int4_reaches_both_ends_of_its_grid() -> None:
    rng = np.random.default_rng(0)
    steps, scales = quantise_groups(rng.standard_normal((500, 32)).astype(np.float32))
    assert steps.min() == -8
    assert steps.max() == 7
    assert scales.dtype == np.float16


def test_zeros_stay_zero() -> None:
    for precision in ("fp32", "int8", "int4"):
        rows = np.zeros((5, 40), np.float32)
        np.testing.assert_array_equal(unpack(*pack(rows, precision), precision, 5, 40), rows)


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


def _prepare(directory: Path, home: Path) -> None:
    os.environ["LAPLM_HOME"] = str(home)
    prepared(open_checkpoint(directory), "int8")


def test_two_processes_preparing_at_once_both_get_whole_weights(tmp_path: Path) -> None:
    directory, home = make_model(tmp_path / "model"), tmp_path / "home"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_prepare, args=(directory, home)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    (file,) = (home / "prepared").iterdir()
    assert file.suffix == ".safetensors"


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
