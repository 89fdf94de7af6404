"""What a pattern's page does with a server, done with one."""

from __future__ import annotations

import subprocess
import sys

from tests.documents import BLOCKS
from tests.serve.serving import started


def test_a_filter_for_editors_gives_the_text_back_and_goes_on() -> None:
    page = "docs/patterns/serve_to_an_editor.md"
    (program,) = (b.text for b in BLOCKS if b.document == page and b.language == "python")
    assert "http://127.0.0.1:8080" in program
    with started("pocket") as server:
        done = subprocess.run(
            [sys.executable, "-c", program.replace("http://127.0.0.1:8080", server.address)],
            input="Once upon a time\n", capture_output=True, encoding="utf-8", timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    begun, more = done.stdout[:16], done.stdout[16:]
    assert begun == "Once upon a time" and more.strip() and more.count("\n") == 1
