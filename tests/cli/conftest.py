from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from laplm import cli


@pytest.fixture
def laplm_(capsys, monkeypatch) -> Callable[..., SimpleNamespace]:
    """Run a command in this process: ``laplm_("run", ..., stdin=b"...")``."""

    def call(*argv: object, stdin: bytes | None = None) -> SimpleNamespace:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main([str(word) for word in argv])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return call
