"""Where the talk's notebooks are, a copy to work in, and JupyterLab on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from laplm.errors import CacheError, InputError, MissingExtraError
from laplm.home import write_whole

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
            write_whole(copy, original.read_bytes())
        except (OSError, CacheError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = getattr(cause, "strerror", None) or "unknown reason"
            raise InputError(
                f"{copy} cannot be written ({reason}); name another directory: laplm talk DIR"
            ) from None
    return copies


def environment(model: str) -> dict[str, str]:
    """What a notebook's process is started with: this process's variables, and the model."""
    return os.environ | {"LAPLM_MODEL": model}


def open_lab(directory: Path, model: str, *, browser: bool = True) -> int:
    """Open JupyterLab on a directory, and stay until it ends; gives its exit code.

    It listens on this machine alone, and asks nobody for news or newer versions.

    Raises:
        MissingExtraError: JupyterLab is not installed.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtraError("JupyterLab", "talk")
    command = [
        sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={directory.resolve()}",
        "--ServerApp.ip=127.0.0.1", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *([] if browser else ["--no-browser"]),
        # Whoever is root (in a container, say) has already chosen to run this as root.
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]  # fmt: skip
    return subprocess.run(command, env=environment(model), check=False).returncode
