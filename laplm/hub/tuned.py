"""Results of tuning by the names of their models: found, renamed, taken away."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from laplm.errors import InputError, LaplmError, ModelNotFoundError, shown_name
from laplm.files import make_write_error
from laplm.hub.model_names import name_key
from laplm.hub.tuning_runs import (
    BUSY,
    TuningRun,
    check_name_is_free,
    is_locked,
    lock_names,
    read_entry,
    read_runs,
    runs_directory,
    write_entry,
)


def find_run(name: str) -> TuningRun | None:
    """The run whose model has a name, in any case; None where there is none."""
    with contextlib.suppress(LaplmError):
        for run in read_runs(runs_directory()):
            if run.name is not None and name_key(run.name) == name_key(name):
                return run
    return None


def find_model(name: str) -> Path | None:
    """Where the model of a name is; None where no tuning has made one of this name.

    Raises:
        ModelNotFoundError: its tuning has not ended, or its directory is gone.
    """
    run = find_run(name)
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
    return "ended from outside" if state in BUSY and not is_locked(run.directory) else state


def finished_runs() -> list[TuningRun]:
    """The runs that have made a model which has a name."""
    with contextlib.suppress(LaplmError):
        return [run for run in read_runs(runs_directory()) if run.name is not None and run.is_done]
    return []


def rename(old: str, new: str) -> str:
    """Give the model of a run another name; the name as it is kept.

    Raises:
        InputError: the new one is taken or cannot be a name, the old one is nobody's, or a process
            works on the run.
        WriteError: the entry cannot be written.
    """
    run = find_run(old)
    if run is None:
        raise InputError(
            f"{shown_name(old)} is no result of tuning; `laplm models` lists what there is"
        )
    if is_locked(run.directory):
        raise InputError(f"{run.name} is being tuned; rename it when that has ended")
    runs = run.directory.parent
    with lock_names(runs):
        new = check_name_is_free(new, runs, besides=run.id)
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

    if is_locked(run.directory):
        raise InputError(f"{run.name or run.id} is being tuned; stop it first")
    size = sum(path.stat().st_size for path in run.directory.rglob("*") if path.is_file())
    gone = run.directory.with_name(f".{run.directory.name}.{os.urandom(4).hex()}.deleted")
    try:
        run.directory.rename(gone)  # out of sight first, so that half of it is never seen
        shutil.rmtree(gone)
    except OSError as error:
        raise make_write_error(run.directory, error, "check who may write there") from None
    return size
