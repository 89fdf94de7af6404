"""The talk's notebooks, run once on the built-in model, and the slides made of them.

Once for all processes among which pytest-xdist divides the tests: the first one that wants them
makes them, the others wait and read.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from filelock import FileLock

from laplm.talk import notebooks, slides


class Deck(NamedTuple):
    """The page, and the notebooks as they were after running, by file name."""

    index: Path
    ran: dict[str, Any]


@pytest.fixture(scope="session")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Deck:
    """Everything that ``laplm talk --slides`` makes."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "talk"
    with FileLock(directory.with_suffix(".lock")):
        if not directory.exists():
            made = directory.with_suffix(".making")
            shutil.rmtree(made, ignore_errors=True)  # of one that failed
            _make(made)
            made.rename(directory)
    paths = sorted((directory / "ran").iterdir())
    ran = {path.name: nbformat.read(path, as_version=4) for path in paths}
    return Deck(directory / "slides" / "index.html", ran)


def _make(directory: Path) -> None:
    copies, ran = directory / "notebooks", directory / "ran"
    ran.mkdir(parents=True)
    run = slides.run

    def kept(path: Path, model: str) -> Any:
        notebook = run(path, model)
        nbformat.write(notebook, ran / path.name)
        return notebook

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "run", kept)
        slides.build_slides(notebooks.copy_to(copies), directory / "slides", "pocket")
