"""Runs of tuning as they are kept, and the names by which their models are known.

Each has a directory in ``runs``: ``entry.json`` says what was asked for and how it stands, and
``model`` is what ``laplm tune`` wrote, unless a person chose another directory. Who works on a run,
a command or a server, holds a lock in it meanwhile: the lock goes with the process, however that
ends, so an entry that says "running" and is not held was left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from laplm import home
from laplm.errors import InputError, LaplmError, ModelNotFoundError, shown_name
from laplm.files import json_text, write_error, write_file
from laplm.hub.locate import ALIASES, POCKET, repo_folder

RUNS = "runs"
"""The directory of runs inside ``LAPLM_HOME``."""
ENTRY = "entry.json"
BUSY = ("planning", "running", "stopping")
"""States in which a process works on a run."""
_HELD = "held.lock"
_NAMES = ".names.lock"
_MOST = 64  # characters of a name
_NAME = re.compile(r"\w(?:[\w.-]*[\w-])?")
# Names that Windows keeps for devices, whatever ending they have.
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class TuningRun:
    """A run as its entry has it.

    Attributes:
        directory: Its directory in ``runs``, whose name is the run's id.
        record: What ``entry.json`` holds.
        name: What its model is called; None for a run into a directory that has no name.
    """

    directory: Path
    record: dict[str, Any]
    name: str | None

    @property
    def id(self) -> str:
        """What it is known by among runs."""
        return self.directory.name

    @property
    def model_directory(self) -> Path:
        """Where ``laplm tune`` writes."""
        return model_directory(self.directory, self.record)

    @property
    def is_done(self) -> bool:
        """Whether there is a model."""
        return self.record["state"] == "done" and self.model_directory.is_dir()


def model_directory(directory: Path, record: Mapping[str, Any]) -> Path:
    """Where the model of a run is: with it, or where a person wanted it."""
    return Path(record.get("directory") or directory / "model")


def place() -> Path:
    """Where runs are kept, which need not be there.

    Raises:
        CacheError: LAPLM_HOME begins with the home directory of nobody.
    """
    return home.place(RUNS)


def new_directory(runs: Path) -> Path:
    """A directory in ``runs`` that no other run has; it is not made."""
    return runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


# --- entries ----------------------------------------------------------------------------------


def read_entry(directory: Path) -> dict[str, Any]:
    """What a run's ``entry.json`` says.

    Raises:
        OSError: it is not there.
        ValueError: it is none.
    """
    record = json.loads((directory / ENTRY).read_bytes())
    wanted = ("name", "model", "state", "created", "settings")
    if not isinstance(record, dict) or any(key not in record for key in wanted):
        raise ValueError("no entry of a run")
    return record


def write_entry(directory: Path, record: Mapping[str, Any]) -> None:
    """Write a run's ``entry.json``.

    Raises:
        WriteError: the disk is full or cannot be written.
    """
    write_file(directory / ENTRY, json_text(record, indent=2).encode())


def read_runs(runs: Path) -> list[TuningRun]:
    """The runs in a directory, the oldest first; what cannot be read is none."""
    found: list[tuple[Path, dict[str, Any]]] = []
    for path in directories(runs):
        with contextlib.suppress(OSError, ValueError):
            found.append((path, read_entry(path)))
    return named(found)


def directories(runs: Path) -> list[Path]:
    """What may be runs, the oldest first; what is being deleted begins with a dot."""
    with contextlib.suppress(OSError):
        return sorted(path for path in runs.iterdir() if not path.name.startswith("."))
    return []


def named(found: Iterable[tuple[Path, dict[str, Any]]]) -> list[TuningRun]:
    """Runs with their names. Entries of earlier versions have none: the file's name is theirs."""
    all_ = list(found)
    given = [record.get("model_name") for _, record in all_]
    taken = {key_of(name) for name in given if name}
    out = []
    for (path, record), name in zip(all_, given, strict=True):
        if "model_name" not in record:
            name = free_name(str(record["name"]), taken)
            taken.add(key_of(name))
        out.append(TuningRun(path, record, name))
    return out


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Hold a run to the end of the block: this process works on it.

    Raises:
        InputError: another process does.
        WriteError: nothing can be written there.
    """
    lock = filelock.FileLock(directory / _HELD, thread_local=False)
    try:
        # Who only asks whether it is held has it for a moment.
        lock.acquire(timeout=2)
    except filelock.Timeout:
        raise InputError(f"another process works on the run in {directory}") from None
    except OSError as error:
        raise write_error(directory / _HELD, error) from None
    try:
        yield
    finally:
        lock.release()


def is_held(directory: Path) -> bool:
    """Whether a process works on a run, this one included."""
    if not (directory / _HELD).exists():
        return False
    lock = filelock.FileLock(directory / _HELD)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        return True
    lock.release()
    return False


class KeptRun:
    """A run that this process works on from the command line, so that its entry is true.

    Attributes:
        directory: of the run.
        record: as it was written last.
    """

    def __init__(self, directory: Path, record: dict[str, Any]) -> None:
        self.directory = directory
        self.record = record

    def set(self, state: str, message: str = "") -> None:
        """Say how it stands. On a full disk it stays as it was: the run itself says so."""
        self.record |= {"state": state, "message": message}
        with contextlib.suppress(LaplmError):
            write_entry(self.directory, self.record)


@contextlib.contextmanager
def kept(out: Path, record: dict[str, Any], name: str | None) -> Iterator[KeptRun | None]:
    """Keep the entry of a run in ``out`` to the end of the block; None where a server does.

    A run that has an entry already keeps its name, its id and its age.

    Args:
        out: The directory of the model.
        record: What the entry says.
        name: What the model will be called; None: it has no name.

    Raises:
        InputError: the name was taken meanwhile.
        WriteError: the entry cannot be written.
    """
    out = out.resolve()
    earlier = run_in(out)
    if earlier is not None:
        if is_held(earlier.directory):
            yield None
            return
        directory, record = earlier.directory, {**earlier.record, **_of_now(record)}
        name = earlier.name
    else:
        inside = out.name == "model" and out.parent.parent == place().resolve()
        directory = out.parent if inside else new_directory(home.directory(RUNS))
        if not inside:
            record["directory"] = str(out)
    directory.mkdir(parents=True, exist_ok=True)
    with hold(directory):
        with names_of(directory.parent):
            if name is not None and earlier is None:
                check_free(name, directory.parent)
            write_entry(directory, record | {"model_name": name})
        yield KeptRun(directory, record | {"model_name": name})


def _of_now(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of an entry what is said anew when a run goes on."""
    return {key: record[key] for key in ("state", "message", "pid") if key in record}


def run_in(out: Path) -> TuningRun | None:
    """The run whose model is in a directory; None where none is known."""
    with contextlib.suppress(OSError, ValueError):
        record = read_entry(out.parent)
        if model_directory(out.parent, record) == out:
            return named([(out.parent, record)])[0]
    with contextlib.suppress(LaplmError):
        for run in read_runs(place()):
            if run.model_directory == out:
                return run
    return None


# --- names ------------------------------------------------------------------------------------


def key_of(name: str) -> str:
    """What two names have in common that are one on some disks: the same letters in any case."""
    return unicodedata.normalize("NFC", name).casefold()


def check_name(name: str) -> str:
    """A name that a model can have, with its letters composed.

    Raises:
        InputError: it cannot; says why.
    """
    name = unicodedata.normalize("NFC", name.strip())
    shown = shown_name(name)
    if not name:
        raise InputError("a model's name cannot be empty; give one, such as tales")
    if len(name) > _MOST:
        raise InputError(
            f"the name {shown} has {len(name)} characters; give one of {_MOST} at most"
        )
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{shown} cannot be a model's name; letters, digits, dots, dashes and underscores "
            "can, beginning with a letter or a digit and not ending with a dot"
        )
    if _DEVICE.fullmatch(name):
        raise InputError(f"{shown} cannot be a model's name: Windows keeps it; choose another one")
    if name.lower().endswith(".gguf"):
        raise InputError(f"{shown} looks like a file; choose a name that does not end in .gguf")
    if key_of(name) in {key_of(known) for known in (POCKET, *ALIASES)}:
        raise InputError(f"{shown} is the name of another model; choose another one")
    return name


def check_free(name: str, runs: Path, *, besides: str = "", taken: Iterable[str] = ()) -> str:
    """A name that no other model has.

    Args:
        name: any.
        runs: where runs are kept.
        besides: The id of the run that may have it.
        taken: More names that other models have.

    Raises:
        InputError: it is taken, or cannot be a name.
    """
    name = check_name(name)
    for run in read_runs(runs):
        if run.name is not None and key_of(run.name) == key_of(name) and run.id != besides:
            raise InputError(
                f"{run.name} is the name of another result of tuning ({run.model_directory}); "
                "choose another one"
            )
    if key_of(name) in map(key_of, taken) or repo_folder(name).is_dir():
        raise InputError(f"{name} is the name of another model; choose another one")
    return name


def free_name(file: str, taken: Iterable[str]) -> str:
    """A name made of a file's, with a number behind it where that is taken.

    Args:
        file: what the file is called, with its ending or without, perhaps with its folder.
        taken: ``key_of`` names that cannot be had.
    """
    there = set(taken)
    stem = re.split(r"[/\\]", unicodedata.normalize("NFC", file))[-1]
    stem = re.sub(r"(?<=.)\.[A-Za-z]{1,8}(\.(gz|bz2|xz))?$", "", stem)
    stem = re.sub(r"[^\w.-]+", "-", stem).strip("-._")[: _MOST - 6].strip("-._") or "tuned"
    for number in range(1, 1_000_000):
        name = stem if number == 1 else f"{stem}-{number}"
        with contextlib.suppress(InputError):
            if key_of(name) not in there and check_name(name) and not repo_folder(name).is_dir():
                return name
    raise InputError(f"there is no free name like {stem}; give one")


def names_in(runs: Path) -> set[str]:
    """``key_of`` the names that are taken by runs."""
    return {key_of(run.name) for run in read_runs(runs) if run.name is not None}


@contextlib.contextmanager
def names_of(runs: Path) -> Iterator[None]:
    """To the end of the block no other process gives a name to a run.

    Raises:
        WriteError: nothing can be written there.
    """
    try:
        with filelock.FileLock(runs / _NAMES, timeout=10):
            yield
    except filelock.Timeout:
        raise InputError(f"another process gives names in {runs}; try again") from None
    except OSError as error:
        raise write_error(runs / _NAMES, error) from None


def by_name(name: str) -> TuningRun | None:
    """The run whose model has a name, in any case; None where there is none."""
    with contextlib.suppress(LaplmError):
        for run in read_runs(place()):
            if run.name is not None and key_of(run.name) == key_of(name):
                return run
    return None


def find(name: str) -> Path | None:
    """Where the model of a name is; None where no tuning has made one of this name.

    Raises:
        ModelNotFoundError: its tuning has not ended, or its directory is gone.
    """
    run = by_name(name)
    if run is None:
        return None
    if run.is_done:
        return run.model_directory
    if run.record["state"] == "done":
        raise ModelNotFoundError(
            f"{run.name} was in {run.model_directory}, which is gone; `laplm models rm {run.name}` "
            "forgets it"
        )
    if (run.model_directory / "run.json").is_file():
        raise ModelNotFoundError(
            f"{run.name} is a tuning that has not ended ({_state(run)}); go on with it: laplm tune "
            f"--resume {run.name}"
        )
    raise ModelNotFoundError(
        f"{run.name} is a tuning that has not begun to train ({_state(run)}); the page of laplm "
        "serve starts it"
    )


def _state(run: TuningRun) -> str:
    state = str(run.record["state"])
    return "ended from outside" if state in BUSY and not is_held(run.directory) else state


def finished() -> list[TuningRun]:
    """The runs that have made a model which has a name."""
    with contextlib.suppress(LaplmError):
        return [run for run in read_runs(place()) if run.name is not None and run.is_done]
    return []


def rename(old: str, new: str) -> str:
    """Give the model of a run another name; the name as it is kept.

    Raises:
        InputError: the new one is taken or cannot be a name, the old one is nobody's, or a process
            works on the run.
        WriteError: the entry cannot be written.
    """
    run = by_name(old)
    if run is None:
        raise InputError(
            f"{shown_name(old)} is no result of tuning; `laplm models` lists what there is"
        )
    if is_held(run.directory):
        raise InputError(f"{run.name} is being tuned; rename it when that has ended")
    runs = run.directory.parent
    with names_of(runs):
        new = check_free(new, runs, besides=run.id)
        write_entry(run.directory, read_entry(run.directory) | {"model_name": new})
    return new


def remove(run: TuningRun) -> int:
    """Take a run and what it made away; of a directory that a person chose, only the entry.

    Returns:
        Bytes that became free.

    Raises:
        InputError: a process works on it.
        WriteError: it cannot be deleted.
    """
    import shutil

    if is_held(run.directory):
        raise InputError(f"{run.name or run.id} is being tuned; stop it first")
    size = sum(path.stat().st_size for path in run.directory.rglob("*") if path.is_file())
    gone = run.directory.with_name(f".{run.directory.name}.{os.urandom(4).hex()}.deleted")
    try:
        run.directory.rename(gone)  # out of sight first, so that half of it is never seen
        shutil.rmtree(gone)
    except OSError as error:
        raise write_error(run.directory, error, "check who may write there") from None
    return size
