"""What a training run measured, as it is read again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from metrics_file import write_metrics

from laplm.errors import InputError
from laplm.metrics import read_metrics, read_series


def test_measurements_are_read(tmp_path: Path) -> None:
    path = write_metrics(tmp_path / "metrics.jsonl")
    (steps, values), (bits_steps, _) = read_series(path, "train_loss", "heldout_bits_per_byte")
    assert steps == list(range(10, 301, 10))
    assert values[0] == pytest.approx(2 + 6 * math.exp(-1 / 6))
    assert bits_steps == [50, 100, 150, 200, 250, 300]


def test_a_last_line_that_is_cut_is_left_out(tmp_path: Path) -> None:
    path = write_metrics(tmp_path / "metrics.jsonl")
    whole = read_series(path, "train_loss")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 310, "train_l')
    assert read_series(path, "train_loss") == whole


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(InputError, match=r"metrics\.jsonl is missing; train"):
        read_series(path, "train_loss")
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="no measurement of the loss"):
        read_series(path, "train_loss")
    path.write_text('nonsense\n{"step": 1, "train_loss": 2.0}\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 1: not JSON"):
        read_series(path, "train_loss")


def test_damaged_lines_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('nonsense\n7\n{"step": 1, "train_loss": 2.0}\n{"st', encoding="utf-8")
    assert read_metrics(path, skip_damaged=True) == [{"step": 1, "train_loss": 2.0}]
