"""What the tests of the command line share."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace


def command(*argv: object, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "laplm", *map(str, argv)],
        capture_output=True,
        timeout=120,
        **options,
    )


def refused(result: SimpleNamespace, *parts: str) -> None:
    """One plain line on standard error that has all the parts, nothing else, exit code 2."""
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("laplm: ") and result.err.count("\n") == 1
    for part in parts:
        assert part in result.err
