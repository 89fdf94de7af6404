"""The pictures of the README, made anew: the page of ``laplm serve``, and a slide of the talk.

    python scripts/pictures.py        # writes docs/images/page.png and docs/images/slide.png

It needs the extras serve, talk and test, and Chromium (``LAPLM_CHROMIUM`` names another one).
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from laplm.talk import notebooks, slides

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs/images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 128
NOTEBOOK, TITLE = "3_core_concepts.ipynb", "Attention"


@contextmanager
def served() -> Iterator[str]:
    """The address of a ``laplm serve pocket``."""
    command = [sys.executable, "-m", "laplm", "serve", "pocket", "--port", "0", "--no-open"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "the page: " in line)
            yield line.split("the page: ")[1].split()[0]
        finally:
            process.terminate()


def save(picture: bytes, name: str) -> None:
    """Few colours, which flat pictures need no more of, and told how large it is."""
    image = (
        Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    )
    path = IMAGES / name
    image.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


def the_page(browser: Any) -> None:
    """The Look inside tab, as it opens."""
    with served() as address:
        page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
        page.goto(f"{address}#/look")
        page.locator("#look .head[aria-pressed=true] b").filter(has_text="4.6").wait_for()
        page.wait_for_timeout(500)
        save(page.screenshot(), "page.png")


def a_slide(browser: Any) -> None:
    """One slide, from its notebook."""
    with tempfile.TemporaryDirectory() as directory:
        copies = notebooks.copy_to(Path(directory))
        wanted = [path for path in copies if path.name == NOTEBOOK]
        index = slides.build(wanted, Path(directory) / "slides", "pocket")
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(index.as_uri())
        titles = page.locator(".slides section h2").all_text_contents()
        page.goto(f"{index.as_uri()}#/{titles.index(TITLE)}")
        page.reload()
        page.wait_for_timeout(1500)
        save(page.screenshot(), "slide.png")


def main() -> None:
    """Make both."""
    path = os.environ.get("LAPLM_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        the_page(browser)
        a_slide(browser)
        browser.close()


if __name__ == "__main__":
    main()
