"""Runs of tuning on disk: their entries, who works on them, and the names they have taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_entries import keep

from laplm.errors import InputError
from laplm.hub import locate, model_names, tuning_runs

pytest_plugins = ("run_entries",)  # its fixture; a second conftest would hide the first one


def test_letters_are_composed_and_case_makes_no_other_name(runs: Path) -> None:
    keep(runs, "1", model_name="größe")
    assert model_names.check_model_name("gro\u0308ße") == "größe"
    for taken in ("größe", "GRÖSSE", "gro\u0308ße"):
        with pytest.raises(InputError, match="another result of tuning"):
            tuning_runs.check_name_is_free(taken, runs)
    assert tuning_runs.check_name_is_free("Größe", runs, besides="1") == "Größe", (
        "its own, in another case"
    )
    with pytest.raises(InputError, match="another model"):
        tuning_runs.check_name_is_free("tiny", runs, taken=["Tiny"])
    (locate.hub_cache_dir() / "models--bert").mkdir(parents=True)
    with pytest.raises(InputError, match="another model"):
        tuning_runs.check_name_is_free("bert", runs)


def test_a_run_that_goes_on_keeps_its_name_and_its_place(runs: Path, tmp_path: Path) -> None:
    record = {"name": "a.txt", "model": "m", "state": "running", "created": 1.0, "settings": {}}
    out = tmp_path / "mine"
    with tuning_runs.record_run(out, {**record, "pid": 1}, "tales") as run:
        assert run is not None
        run.set_state("stopped")
        with tuning_runs.record_run(out, record, None) as again:
            assert again is None, "it is kept already"
    with tuning_runs.record_run(out, {**record, "created": 2.0, "pid": 2}, None):
        pass
    (entry,) = tuning_runs.read_runs(runs)
    assert (entry.name, entry.model_directory) == ("tales", out)
    assert (entry.record["created"], entry.record["pid"]) == (1.0, 2)
    with (
        pytest.raises(InputError, match="another result"),
        tuning_runs.record_run(runs, record, "Tales"),
    ):
        pass


def test_entries_without_names_have_their_files_names(runs: Path) -> None:
    keep(runs, "1", name="tales.txt")
    keep(runs, "2", name="tales.txt")
    keep(runs, "3", name="x.txt", model_name="TALES-2")
    keep(runs, "4", model_name=None)
    keep(runs, ".6.ab.deleted", model_name="gone")
    (runs / "5").mkdir()
    (runs / "5" / "entry.json").write_text(json.dumps({"name": "x"}))
    names = [run.name for run in tuning_runs.read_runs(runs)]
    assert names == ["tales", "tales-3", "TALES-2", None]


@pytest.mark.parametrize(
    ("plan", "opening"),
    [
        (None, (None, False)),
        ({"opening": "Hey\nyou", "asks": False, "first_window": "Not it"}, ("Hey\nyou", False)),
        ({"opening": "Why?", "asks": True}, ("Why?", True)),
        # Plans of earlier versions.
        ({"first_window": "a b c d e f g"}, ("a b c d e f", False)),
        ({"first_window": "a b¶c d", "kind": "documents"}, ("a b", False)),
        ({"first_window": "### User:\nHi", "kind": "conversations"}, (None, False)),
    ],
)
def test_a_run_knows_how_its_documents_begin(
    plan: dict[str, Any] | None, opening: tuple[str | None, bool]
) -> None:
    assert tuning_runs.document_opening({"plan": plan}) == opening
