"""The page in a browser, on a ``laplm serve`` process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import chromium
from pages import Watched

from tests.serve.serving import started, with_chat_template


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[str]:
    """Where a real ``laplm serve`` listens: the built-in model, a tiny one, one that chats."""
    chromium()
    path = tmp_path_factory.mktemp("serve")
    chat = with_chat_template(tiny_model_dir, path / "chat")
    models = ("pocket", f"tiny={tiny_model_dir}", f"talker={chat}")
    words = (*models, "--runs", str(path / "runs"), "--threads", "1", "--no-open")
    with started(*words, OMP_NUM_THREADS="1") as server:
        yield f"{server.address}/"


@pytest.fixture
def watched(browser: Any, address: str) -> Iterator[Watched]:
    """A fresh page; it may neither complain nor ask anybody but its own server."""
    found = Watched(browser, address)
    yield found
    found.context.close()
    assert not found.complaints
    outside = [u for u in found.requests if not u.startswith((address, "blob:", "data:"))]
    assert found.requests and not outside
