"""The bar of long work."""

from __future__ import annotations

import io
import sys

from laplm.cli.progress import progress_bars


def test_one_long_step_shows_time_that_passes_and_no_share(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bars() as progress:
        progress("kernels", 0, 1)
        progress._bars.refresh()
        shown = sys.stderr.getvalue()
        assert "compiling for this CPU" in shown and "0:00:0" in shown and "%" not in shown
        progress("tokens", 1, 4)
        progress("kernels", 1, 1)
        progress._bars.refresh()
        shown = sys.stderr.getvalue()
        assert "100%" in shown and " 25%" in shown
