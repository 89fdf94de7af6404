"""The page in a browser, on a ``laplm serve`` process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.serving import started


@pytest.fixture(scope="module")
def address(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, browser: Any
) -> Iterator[str]:
    """Where a real ``laplm serve`` listens, of the built-in model and a tiny one."""
    runs = str(tmp_path_factory.mktemp("serve") / "runs")
    words = ("pocket", f"tiny={tiny_model_dir}", "--runs", runs, "--threads", "1", "--no-open")
    with started(*words, OMP_NUM_THREADS="1") as server:
        yield f"{server.address}/"


class Watched:
    """A page with what it complained of and whom it asked."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.address = address
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        self.context = browser.new_context(reduced_motion="reduce", **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on(
            "console",
            lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, tab: str) -> Any:
        """Go to a tab."""
        self.page.goto(f"{self.address}#/{tab}")
        self.page.locator("#model option").first.wait_for(state="attached")
        return self.page


@pytest.fixture
def watched(browser: Any, address: str) -> Iterator[Watched]:
    """A fresh page; it may neither complain nor ask anybody but its own server."""
    found = Watched(browser, address)
    yield found
    found.context.close()
    assert not found.complaints
    outside = [u for u in found.requests if not u.startswith((address, "blob:", "data:"))]
    assert found.requests and not outside
