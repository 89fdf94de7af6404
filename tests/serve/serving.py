"""Servers as users start them: a process, a port, a terminal's signals."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Running:
    """A server in a process of its own."""

    address: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def started(*words: str, before: str = "", **environment: str) -> Iterator[Running]:
    """``laplm serve`` with these words; ``before`` is run in its process before all else."""
    program = f"{before}\nimport sys\nfrom laplm.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    start = ["-c", program] if before else ["-m", "laplm"]
    command = [sys.executable, *start, "serve", *words, "--port", "0", "--quiet"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                found = re.search(r"the page: (http://\S+?:\d+)/", line)
                if found:
                    yield Running(found[1], process)
                    break
            else:
                pytest.fail("the server did not begin to listen")
        finally:
            process.terminate()
            process.wait(60)


PLAIN_TURNS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# With a control token behind each turn.
MARKED_TURNS = PLAIN_TURNS.replace("\n{% endfor %}", "<|endoftext|>\n{% endfor %}")


def with_chat_template(tiny_model_dir: Path, path: Path, source: str = PLAIN_TURNS) -> Path:
    """A model that was tuned on conversations."""
    path.mkdir()
    for file in tiny_model_dir.iterdir():
        (path / file.name).symlink_to(file)
    (path / "chat_template.jinja").write_text(source)
    return path
