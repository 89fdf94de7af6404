"""The slides as a PDF file to hand out, printed by a browser that is on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from laplm.errors import InputError, WriteError
from laplm.files import reason_of, write_file

# All are Chromium inside, which alone prints from the command line.
_NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "brave-browser", "microsoft-edge", "msedge",
)  # fmt: skip
_MAC = (
    "Google Chrome.app/Contents/MacOS/Google Chrome", "Chromium.app/Contents/MacOS/Chromium",
    "Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "Brave Browser.app/Contents/MacOS/Brave Browser",
)  # fmt: skip
_WINDOWS = (
    r"Google\Chrome\Application\chrome.exe", r"Microsoft\Edge\Application\msedge.exe",
    r"Chromium\Application\chrome.exe",
)  # fmt: skip
_SECONDS = 180
# Nothing is asked for outside, by the browser itself neither.
_OPTIONS = (
    "--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND", "--no-pdf-header-footer",
)  # fmt: skip


def find_browser() -> str:
    """The program that prints: Chromium, Chrome, Edge or Brave.

    Raises:
        InputError: none of them is here.
    """
    for name in _NAMES:
        found = shutil.which(name)
        if found:
            return found
    for path in _elsewhere():
        if path.is_file():
            return str(path)
    raise InputError(
        "the PDF is printed by Chromium, Chrome, Edge or Brave, and none of them was found; "
        "install one, or make the slides with laplm talk --slides and print them from another "
        "browser"
    )


def _elsewhere() -> list[Path]:
    """Where programs are that are on no path."""
    if sys.platform == "darwin":
        return [place / name for place in (Path("/Applications"), Path.home() / "Applications")
                for name in _MAC]  # fmt: skip
    roots = (os.environ.get(n) for n in ("ProgramFiles", "ProgramFiles(x86)", "LOCALAPPDATA"))
    return [Path(root) / name for root in roots if root for name in _WINDOWS]


def print_slides(index: Path, out: Path, browser: str) -> None:
    """Print slides to a PDF file, a page for each; what a page is like on paper, slides.css says.

    Args:
        index: the page of slides.
        out: the PDF file.
        browser: what ``find_browser`` gave.

    Raises:
        InputError: the browser could not, or ``out`` cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="laplm-pdf-", ignore_cleanup_errors=True) as work:
        made = Path(work) / "slides.pdf"
        command = [
            browser, *_OPTIONS, f"--user-data-dir={Path(work) / 'profile'}",
            # Its sandbox cannot be had by root (in a container, say); the page is our own.
            *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
            f"--print-to-pdf={made}", index.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
            content = made.read_bytes() if made.is_file() else b""
        except subprocess.TimeoutExpired:
            raise _failed(browser, index, f"it took more than {_SECONDS} seconds") from None
        except OSError as error:
            raise _failed(browser, index, reason_of(error)) from None
        if not content.startswith(b"%PDF-"):
            raise _failed(browser, index, f"exit code {done.returncode}, and no PDF")
    try:
        write_file(out, content)
    except (OSError, WriteError) as error:
        raise InputError(
            f"{out} cannot be written ({reason_of(error)}); name another directory"
        ) from None


def _failed(browser: str, index: Path, why: str) -> InputError:
    return InputError(
        f"{browser} did not print the slides ({why}); open {index} in a browser "
        "and print it from there"
    )
