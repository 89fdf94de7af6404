"""Opens inputs, one after another, in a process with limits: see ``driver.py``.

Reads a line ``FORMAT SEED`` for each, and answers with a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from random import Random

from tests.fuzz.formats import FORMATS, emptied

MEMORY = 6 << 30  # bytes of data that the process may have


def outcome(name: str, seed: int, directory: Path) -> str:
    """What became of one input: nothing to tell, or what no input may cause."""
    chosen = FORMATS[name]
    chosen.make(Random(f"{name} {seed}"), directory)
    try:
        chosen.use(directory)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        where = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{type(error).__name__}: {error!s:.700} ({Path(where.filename).name}:{where.lineno})"
        )
    return ""


def main() -> None:
    """Answer until nothing more is asked."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory(prefix="laplm-fuzz-") as scratch:
        directory = Path(scratch) / "input"
        directory.mkdir()
        for line in sys.stdin:
            name, seed = line.split()
            said = outcome(name, int(seed), directory)
            emptied(directory)
            answers.write(json.dumps(said) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
