"""Deleting a model that ``laplm pull`` fetched or ``laplm tune`` made, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from laplm.errors import InputError, WriteError
from laplm.hub import stores, tuned
from laplm.hub.locate import (
    HUB_ID,
    POCKET,
    bytes_below,
    folders_of,
    gguf_names,
    locate,
    matching_files,
    out_of_package,
    split_name,
)


def remove(name: str) -> int:
    """Delete a model that laplm fetched or made, and nothing else; the bytes that became free.

    Args:
        name: of a result of tuning, with all that belongs to its run; or a name, a hub id,
            ``owner/name:FILE.gguf`` or ``owner/name:Q4_K_M``. Of a model that lies in the hub's
            cache and came out of a package too, the one that ``locate`` gives.

    Raises:
        ModelNotFoundError: nothing of this name is on disk.
        InputError: it is another program's, built in, or a path.
        WriteError: it cannot be deleted.
    """
    if name == POCKET:
        raise InputError("pocket is part of laplm; pip uninstall laplm removes both")
    if stores.is_store_name(name):
        program = stores.PROGRAMS[name.partition(":")[0]]
        how = stores.describe_removal(name)
        raise InputError(f"{name} belongs to {program}, and laplm leaves it alone; {how}")
    if (run := tuned.find_run(name)) is not None:
        if "directory" not in run.record or not run.model_directory.is_dir():
            return tuned.remove(run)
        raise InputError(
            f"{name} is in {run.model_directory}, where its --out wanted it; delete that yourself, "
            f"then `laplm models rm {name}` forgets the name"
        )
    repo, file = split_name(name)
    if not HUB_ID.fullmatch(repo):
        raise InputError(f"{name} is no name that `laplm pull` takes; delete a path yourself")
    try:
        for folder in folders_of(repo):
            if file is None and folder.is_dir():
                return _remove_folder(folder)
            if file is not None and (found := matching_files(file, gguf_names(folder))):
                if len(found) > 1:
                    locate(name)  # which says that one of them must be named
                return _remove_file(folder, found[0])
        packaged = out_of_package(name)
        if packaged is not None and packaged.is_file():
            size = packaged.stat().st_size
            packaged.unlink()
            return size
    except OSError as error:
        raise WriteError(
            f"cannot delete {name}: {error.filename}: {error.strerror}; check who may write there"
        ) from None
    path = locate(name)  # which says that it is not there
    raise InputError(
        f"{name} is the directory {path}, and laplm did not put it there; delete it yourself"
    )


def _remove_folder(folder: Path) -> int:
    """Delete a repository of the cache: out of sight first, so that half of it is never seen."""
    import shutil

    size = bytes_below(folder / "blobs")
    gone = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.deleted")
    folder.rename(gone)
    if gone.is_symlink():  # what it leads to was put elsewhere by somebody
        gone.unlink()
        return 0
    shutil.rmtree(gone)
    return size


def _remove_file(folder: Path, file: str) -> int:
    """Delete one file of a repository, in every commit, and its contents if nothing shows them."""
    snapshots = folder / "snapshots"
    paths = [path / file for path in snapshots.iterdir() if (path / file).is_file()]
    # By links of both kinds; where the system has none, a file is its own contents.
    blobs = [b for b in (folder / "blobs").glob("*") if any(b.samefile(path) for path in paths)]
    alone = [path for path in paths if not any(path.samefile(blob) for blob in blobs)]
    freed = sum(path.stat().st_size for path in alone)
    for path in paths:
        path.unlink()
    left = [path for path in snapshots.rglob("*") if path.is_file()]
    for blob in blobs:
        if not any(blob.samefile(path) for path in left):
            freed += blob.stat().st_size
            blob.unlink()
    return freed if left else freed + _remove_folder(folder)
