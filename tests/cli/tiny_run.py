"""``laplm run`` on the tiny model, as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from laplm.run.language_model import LanguageModel


@pytest.fixture
def run(laplm_, tiny_model_dir) -> Callable[..., SimpleNamespace]:
    """``laplm run`` with the tiny model, its weights and kernels prepared."""
    _ = LanguageModel(tiny_model_dir, "fp32").gpt

    def call(*argv: object, stdin: bytes | None = None) -> SimpleNamespace:
        return laplm_("run", *argv, "-m", tiny_model_dir, "--precision", "fp32", stdin=stdin)

    return call


@pytest.fixture(scope="module")
def lm(tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, "fp32")
