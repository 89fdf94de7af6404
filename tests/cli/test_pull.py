"""``laplm pull``: what is said; downloads themselves are in tests/hub."""

from __future__ import annotations

from pathlib import Path

from calling import refused

from laplm.errors import DownloadError
from laplm.hub import pull


def test_pull_says_where_the_model_is(laplm_, monkeypatch, tmp_path) -> None:
    asked = []
    monkeypatch.setattr(
        pull, "pull", lambda name, *, force, progress: asked.append((name, force)) or tmp_path
    )
    assert laplm_("pull", "gpt2").out == f"gpt2 is in {tmp_path}\n"
    laplm_("pull", "gpt2", "--force")
    assert asked == [("gpt2", False), ("gpt2", True)]

    def fail(name: str, *, force: bool, progress: object) -> Path:
        raise DownloadError("cannot pull gpt2: the network is down; check it")

    monkeypatch.setattr(pull, "pull", fail)
    refused(laplm_("pull", "gpt2"), "the network is down; check it")
