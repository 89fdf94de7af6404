"""The talk's notebooks, run once on the built-in model, and the slides made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from laplm.talk import notebooks, slides


class Deck(NamedTuple):
    """The page, and the notebooks as they were after running, by file name."""

    index: Path
    ran: dict[str, Any]


@pytest.fixture(scope="session")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Deck:
    """Everything that ``laplm talk --slides`` makes."""
    directory = tmp_path_factory.mktemp("talk")
    ran: dict[str, Any] = {}
    run = slides.run

    def kept(path: Path, model: str) -> Any:
        ran[path.name] = run(path, model)
        return ran[path.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "run", kept)
        index = slides.build(notebooks.copy_to(directory), directory / "slides", "pocket")
    return Deck(index, ran)
