"""Training runs side by side, from what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from laplm.errors import InputError
from laplm.look.views.learning import learning
from laplm.metrics import METRICS, read_series

LINES = [
    {"step": 1, "train_loss": 4.0},
    {"step": 2, "train_loss": 3.0},
    {"step": 2, "heldout_loss": 2.5, "heldout_bits_per_byte": 1.0},
    {"step": 3, "train_loss": 2.0},
    {"step": 4, "train_loss": 1.5},
    {"step": 4, "heldout_loss": 2.0, "heldout_bits_per_byte": 0.8},
    {"step": 5, "train_loss": 1.0},
    {"step": 5, "heldout_loss": 2.25, "heldout_bits_per_byte": 0.9},
]


def run(directory: Path, text: str | None = None) -> Path:
    path = directory / METRICS
    path.parent.mkdir(parents=True)
    path.write_text(text if text is not None else "".join(json.dumps(x) + "\n" for x in LINES))
    return directory


def test_losses_are_read_with_their_steps(tmp_path: Path) -> None:
    one = run(tmp_path / "one")
    (read,) = learning({"mine": one}).runs
    assert (read.steps, read.train_loss) == ((1, 2, 3, 4, 5), (4.0, 3.0, 2.0, 1.5, 1.0))
    assert (read.heldout_steps, read.heldout_loss) == ((2, 4, 5), (2.5, 2.0, 2.25))
    # The picture of a run is drawn from the same.
    ((steps, losses),) = read_series(one / METRICS, "train_loss")
    assert (tuple(steps), tuple(losses)) == (read.steps, read.train_loss)


def test_the_table_has_a_column_for_each_run_and_the_lowest_loss(tmp_path: Path) -> None:
    short = "".join(json.dumps(x) + "\n" for x in LINES[:3])
    view = learning({"a": run(tmp_path / "a"), "b": run(tmp_path / "b", short)})
    heldout, ends = view.parts()
    assert [column.name for column in heldout.columns] == ["step", "a", "b"]
    assert heldout.rows == [[2, 2.5, 2.5], [4, 2.0, None], [5, 2.25, None]]
    assert [row[-2:] for row in ends.rows] == [[2.0, 4], [2.5, 2]]


def test_the_picture_has_both_curves_of_each_run(tmp_path: Path) -> None:
    view = learning({"a": run(tmp_path / "a"), "b": run(tmp_path / "b")})
    (axes,) = view.plot().axes
    curves = [line.get_xydata().tolist() for line in axes.lines]
    assert len(curves) == 4
    assert [[2, 2.5], [4, 2.0], [5, 2.25]] in curves
    assert np.shape(curves[0]) == (5, 2)
    names = [text.get_text() for text in axes.get_legend().texts]
    assert names == ["a: 2.25 at the end", "b: 2.25 at the end"]


def test_what_a_killed_run_leaves_is_read_and_damage_is_named(tmp_path: Path) -> None:
    whole = "".join(json.dumps(x) + "\n" for x in LINES[:2])
    (read,) = learning({"cut": run(tmp_path / "cut", whole + '{"step": 3, "tra')}).runs
    assert read.steps == (1, 2) and read.heldout_loss == ()
    assert learning({"cut": tmp_path / "cut"}).parts()[1].rows[0][-2:] == [None, None]
    learning({"cut": tmp_path / "cut"}).plot()
    with pytest.raises(InputError, match="line 1: not JSON"):
        learning({"damaged": run(tmp_path / "damaged", "?\n" + whole)})


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing holds no measurements .* laplm tune wrote"):
        learning({"x": tmp_path / "nothing"})
    with pytest.raises(InputError, match="train the model first"):
        learning({"x": run(tmp_path / "empty", "")})
    with pytest.raises(InputError, match="at least one run"):
        learning({})
