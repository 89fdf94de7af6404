"""The talk's notebooks, run once on the built-in model, and the slides made of them.

Once for all processes among which pytest-xdist divides the tests: the first one that wants them
makes them, the others wait and read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from filelock import FileLock

from laplm.talk import notebooks, slides

nbformat = slides.load_nbformat()
from nbclient import NotebookClient  # noqa: E402


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of these tests have, and no other run of them."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def kernels_start_one_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A kernel's ports are looked for first and taken later: two at once may find the same."""
    lock = FileLock(shared(tmp_path_factory) / "kernels.lock")
    setup = NotebookClient.async_start_new_kernel
    connect = NotebookClient.async_start_new_kernel_client

    async def start(client: NotebookClient, **options: Any) -> None:
        lock.acquire()
        try:
            await setup(client, **options)
        except BaseException:
            lock.release()
            raise

    async def wait(client: NotebookClient) -> Any:
        try:
            return await connect(client)
        finally:
            lock.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NotebookClient, "async_start_new_kernel", start)
        patch.setattr(NotebookClient, "async_start_new_kernel_client", wait)
        yield


SPEAKER, DATE = "Ada <Lovelace>", "1 May 2027"


class Deck(NamedTuple):
    """The page, and the notebooks as they were after running, by file name."""

    index: Path
    ran: dict[str, Any]


@pytest.fixture(scope="session")
def deck(tmp_path_factory: pytest.TempPathFactory, kernels_start_one_at_a_time: None) -> Deck:
    """Everything that ``laplm talk --slides`` makes."""
    directory = shared(tmp_path_factory) / "talk"
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

    def kept(path: Path, model: str, **occasion: str) -> Any:
        notebook = run(path, model, **occasion)
        nbformat.write(notebook, ran / path.name)
        return notebook

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "run", kept)
        slides.build_slides(
            notebooks.copy_to(copies), directory / "slides", "pocket", speaker=SPEAKER, date=DATE
        )
