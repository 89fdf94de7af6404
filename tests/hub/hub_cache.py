"""A cache of the hub that is empty, and models in it as huggingface_hub leaves them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, repo: str, files: Path, commit: str = "b" * 40) -> Path:
    """A model in the cache, as huggingface_hub leaves it."""
    folder = cache / ("models--" + repo.replace("/", "--"))
    shutil.copytree(files, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit
