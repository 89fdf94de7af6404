"""Where the talk's notebooks are, a copy to work in, and JupyterLab on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

from laplm.errors import InputError, MissingExtraError, WriteError
from laplm.files import reason_of, write_file

_PLACE = "share/laplm/notebooks"  # below the environment, where the wheel puts them


def originals() -> list[Path]:
    """The talk's notebooks, in its order: of this repository, or as they were installed.

    Raises:
        InputError: they are in neither place.
    """
    root = Path(__file__).parents[2]
    in_repository = (root / "pyproject.toml").is_file()
    found = sorted((root / "notebooks").glob("[0-9]*.ipynb")) if in_repository else []
    if not found:
        try:
            files = importlib.metadata.files("laplm") or []
        except importlib.metadata.PackageNotFoundError:
            files = []
        paths = [Path(str(f.locate())) for f in files if f.as_posix().endswith(".ipynb")]
        found = sorted(p.resolve() for p in paths if _PLACE in p.as_posix() and p.is_file())
    if not found:
        raise InputError(
            "the talk's notebooks did not come with this copy of laplm; install it again from its "
            'repository (pip install ".[talk]"), where they are in notebooks/'
        )
    return found


def copy_to(directory: Path) -> list[Path]:
    """The notebooks in a directory of yours; those that are there stay as you have made them.

    Raises:
        InputError: the directory or a file in it cannot be written.
    """
    copies = []
    for original in originals():
        copy = directory / original.name
        copies.append(copy)
        if copy.exists():
            continue
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_file(copy, original.read_bytes())
        except (OSError, WriteError) as error:
            raise InputError(
                f"{copy} cannot be written ({reason_of(error)}); name another directory: "
                "laplm talk DIR"
            ) from None
    return copies


def environment(model: str, speaker: str = "", date: str = "") -> dict[str, str]:
    """What a notebook's process is started with: this process's variables, and what is given here.

    torch's threads wait for each other asleep: awake they would take the cores from each other, and
    from the browser that shows the talk.
    """
    given = {"LAPLM_MODEL": model, "LAPLM_SPEAKER": speaker, "LAPLM_DATE": date}
    return {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {k: v for k, v in given.items() if v}


def require() -> None:
    """See that JupyterLab is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtraError("JupyterLab", "talk")


def open_lab(
    directory: Path, model: str, *, speaker: str = "", date: str = "", browser: bool = True
) -> None:
    """Open JupyterLab on a directory, and stay until it ends.

    It listens on this machine alone, at the first free port from 8888 on, and asks nobody for news
    or newer versions. Ctrl-C ends it and the notebooks' processes.

    Raises:
        InputError: it ended by itself, with an error.
        MissingExtraError: JupyterLab is not installed.
    """
    require()
    command = [
        sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={directory.resolve()}",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.answer_yes=True", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *([] if browser else ["--no-browser"]),
        # Whoever is root (in a container, say) has already chosen to run this as root.
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]  # fmt: skip
    with subprocess.Popen(command, env=environment(model, speaker, date)) as process:
        # It gets Ctrl-C as well, and stops the notebooks' processes; until then we wait for it.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        end = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        finally:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, end)
    if code > 0:  # below 0 it was ended by a signal, as somebody wished
        raise InputError(
            f"JupyterLab ended with exit code {code}; what it wrote above says why. Slides need no "
            "JupyterLab: laplm talk --slides"
        )
