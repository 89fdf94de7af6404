"""Runs of tuning on disk, for several tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from laplm.hub import tuning_runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of runs, in a home of its own; the current directory is elsewhere."""
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "home" / "runs"
    path.mkdir(parents=True)
    return path


def keep(runs: Path, id_: str, **kept: Any) -> Path:
    (runs / id_ / "model").mkdir(parents=True)
    record = {"name": "a.txt", "model": "m", "state": "done", "created": 1.0, "settings": {}}
    tuning_runs.write_entry(runs / id_, record | kept)
    return runs / id_ / "model"
