"""Runs of tuning as they are kept on disk, who works on one, and which names they have taken.

Each has a directory in ``runs``: ``entry.json`` says what was asked for and how it stands, and
``model`` is what ``laplm tune`` wrote, unless a person chose another directory. Who works on a run,
a command or a server, locks a file in it meanwhile: the lock goes with the process, however that
ends, so an entry that says "running" and is not locked was left behind.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from laplm import home
from laplm.errors import InputError, LaplmError
from laplm.files import json_text, make_write_error, write_file
from laplm.hub.locate import repo_folder
from laplm.hub.model_names import check_model_name, name_from_file, name_key

RUNS = "runs"
"""The directory of runs inside ``LAPLM_HOME``."""
ENTRY = "entry.json"
BUSY = ("planning", "running", "stopping")
"""States in which a process works on a run."""
_LOCK = "held.lock"  # as earlier versions call it
_NAMES_LOCK = ".names.lock"
_OPENING_WORDS = 6


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


def document_opening(record: Mapping[str, Any]) -> tuple[str | None, bool]:
    """How a document of a run begins, and whether that is a question of a conversation.

    Plans of earlier versions have the first window that is trained on, which begins with a
    document too; of conversations it does not tell the question, and there is None.
    """
    plan = record.get("plan") or {}
    if plan.get("opening"):
        return str(plan["opening"]), bool(plan.get("asks"))
    first = str(plan.get("first_window", "")).split("¶")[0].split()
    if not first or plan.get("kind", "documents") != "documents":
        return None, False
    return " ".join(first[:_OPENING_WORDS]), False


def runs_directory() -> Path:
    """Where runs are kept, which need not be there.

    Raises:
        CacheError: LAPLM_HOME begins with the home directory of nobody.
    """
    return home.directory_path(RUNS)


def new_run_directory(runs: Path) -> Path:
    """A directory in ``runs`` that no other run has; it is not made."""
    return runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


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
    for path in run_directories(runs):
        with contextlib.suppress(OSError, ValueError):
            found.append((path, read_entry(path)))
    return runs_from_entries(found)


def run_directories(runs: Path) -> list[Path]:
    """What may be runs, the oldest first; what is being deleted begins with a dot."""
    with contextlib.suppress(OSError):
        return sorted(path for path in runs.iterdir() if not path.name.startswith("."))
    return []


def runs_from_entries(
    entries: Iterable[tuple[Path, dict[str, Any]]],
) -> list[TuningRun]:
    """Runs with their names. Entries of earlier versions have none: the file's name is theirs."""
    all_ = list(entries)
    given = [record.get("model_name") for _, record in all_]
    taken = {name_key(name) for name in given if name}
    out = []
    for (path, record), name in zip(all_, given, strict=True):
        if "model_name" not in record:
            name = name_from_file(str(record["name"]), taken)
            taken.add(name_key(name))
        out.append(TuningRun(path, record, name))
    return out


@contextlib.contextmanager
def lock_run(directory: Path) -> Iterator[None]:
    """Lock a run to the end of the block: this process works on it.

    Raises:
        InputError: another process does.
        WriteError: nothing can be written there.
    """
    lock = filelock.FileLock(directory / _LOCK, thread_local=False)
    try:
        # Who only asks whether it is locked has the lock for a moment.
        lock.acquire(timeout=2)
    except filelock.Timeout:
        raise InputError(f"another process works on the run in {directory}") from None
    except OSError as error:
        raise make_write_error(directory / _LOCK, error) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(directory: Path) -> bool:
    """Whether a process works on a run, this one included."""
    if not (directory / _LOCK).exists():
        return False
    lock = filelock.FileLock(directory / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        return True
    lock.release()
    return False


def check_name_is_free(
    name: str, runs: Path, *, besides: str = "", taken: Iterable[str] = ()
) -> str:
    """A name that no other model has.

    Args:
        name: any.
        runs: where runs are kept.
        besides: The id of the run that may have it.
        taken: More names that other models have.

    Raises:
        InputError: it is taken, or cannot be a name.
    """
    name = check_model_name(name)
    for run in read_runs(runs):
        if run.name is not None and name_key(run.name) == name_key(name) and run.id != besides:
            raise InputError(
                f"{run.name} is the name of another result of tuning ({run.model_directory}); "
                "choose another one"
            )
    if name_key(name) in map(name_key, taken) or repo_folder(name).is_dir():
        raise InputError(f"{name} is the name of another model; choose another one")
    return name


def taken_names(runs: Path) -> set[str]:
    """The names that runs have, each as ``name_key``."""
    return {name_key(run.name) for run in read_runs(runs) if run.name is not None}


@contextlib.contextmanager
def lock_names(runs: Path) -> Iterator[None]:
    """To the end of the block no other process gives a name to a run.

    Raises:
        WriteError: nothing can be written there.
    """
    try:
        with filelock.FileLock(runs / _NAMES_LOCK, timeout=10):
            yield
    except filelock.Timeout:
        raise InputError(f"another process gives names in {runs}; try again") from None
    except OSError as error:
        raise make_write_error(runs / _NAMES_LOCK, error) from None


class RecordedRun:
    """A run that this process works on from the command line, so that its entry is true.

    Attributes:
        directory: of the run.
        record: as it was written last.
    """

    def __init__(self, directory: Path, record: dict[str, Any]) -> None:
        self.directory = directory
        self.record = record

    def set_state(self, state: str, message: str = "") -> None:
        """Say how it stands. On a full disk it stays as it was: the run itself says so."""
        self.record |= {"state": state, "message": message}
        with contextlib.suppress(LaplmError):
            write_entry(self.directory, self.record)


@contextlib.contextmanager
def record_run(out: Path, record: dict[str, Any], name: str | None) -> Iterator[RecordedRun | None]:
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
    earlier = find_run_by_output(out)
    if earlier is not None:
        if is_locked(earlier.directory):
            yield None
            return
        directory, record = earlier.directory, {**earlier.record, **_state_fields(record)}
        name = earlier.name
    else:
        inside = out.name == "model" and out.parent.parent == runs_directory().resolve()
        directory = out.parent if inside else new_run_directory(home.directory(RUNS))
        if not inside:
            record["directory"] = str(out)
    directory.mkdir(parents=True, exist_ok=True)
    with lock_run(directory):
        with lock_names(directory.parent):
            if name is not None and earlier is None:
                check_name_is_free(name, directory.parent)
            write_entry(directory, record | {"model_name": name})
        yield RecordedRun(directory, record | {"model_name": name})


def _state_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of an entry what is said anew when a run goes on."""
    return {key: record[key] for key in ("state", "message", "pid") if key in record}


def find_run_by_output(out: Path) -> TuningRun | None:
    """The run whose model is in a directory; None where none is known."""
    with contextlib.suppress(OSError, ValueError):
        record = read_entry(out.parent)
        if model_directory(out.parent, record) == out:
            return runs_from_entries([(out.parent, record)])[0]
    with contextlib.suppress(LaplmError):
        for run in read_runs(runs_directory()):
            if run.model_directory == out:
                return run
    return None
