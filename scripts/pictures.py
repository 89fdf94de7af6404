"""The pictures of the README and of the start page, made anew.

    python scripts/pictures.py            # those that are older than what they show
    python scripts/pictures.py --all      # every one
    python scripts/pictures.py --check    # says which are too old; makes nothing

``docs/images/made_from.json`` keeps for each picture a digest of what it was made from: the page's
sources, or the slides' and the notebook's, and the built-in model. ``tests/test_pictures.py``
compares them. Making them needs the extras serve, talk and test, and Chromium (``LAPLM_CHROMIUM``
names another one).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs/images"
MADE_FROM = IMAGES / "made_from.json"
COMMAND = "python scripts/pictures.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 128
NOTEBOOK, TITLE = "3_core_concepts.ipynb", "The telling head"
PROMPT = "The dog saw the cat. The dog saw the"


class Picture(NamedTuple):
    """One picture.

    Attributes:
        made_of: files that it depends on, as patterns from the repository's root.
        make: draws it; gets a browser.
    """

    made_of: tuple[str, ...]
    make: Callable[[Any], bytes]


# --- how each is made -------------------------------------------------------------------------


@contextmanager
def served() -> Iterator[str]:
    """The address of a ``laplm serve pocket``."""
    command = [sys.executable, "-m", "laplm", "serve", "pocket", "--port", "0", "--no-open"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "the page: " in line)
            yield line.split("the page: ")[1].split()[0]
        finally:
            process.terminate()


def the_page(browser: Any) -> bytes:
    """The Look inside tab, as it opens."""
    with served() as address:
        page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
        page.goto(f"{address}#/look")
        page.locator("#look .head[aria-pressed=true] b").filter(has_text="4.6").wait_for()
        page.wait_for_timeout(500)
        return bytes(page.screenshot())


def a_slide(browser: Any) -> bytes:
    """One slide, from its notebook, with all that it shows step by step."""
    with tempfile.TemporaryDirectory() as directory:
        # In a process of its own: the browser has this one's event loop, and a notebook needs one.
        command = [sys.executable, "-c", _BUILD, str(ROOT / "notebooks" / NOTEBOOK), directory]
        subprocess.run(command, check=True, cwd=ROOT)
        index = Path(directory) / "index.html"
        page = browser.new_page(viewport={"width": 1280, "height": 720}, color_scheme="light")
        page.goto(index.as_uri())
        titles = [title.strip() for title in page.evaluate(_TITLES)]
        assert TITLE in titles, f"{NOTEBOOK} has no slide {TITLE!r}: {titles}"
        page.goto(f"{index.as_uri()}#/{titles.index(TITLE)}")
        page.reload()
        page.evaluate("Reveal.configure({fragments: false})")
        page.wait_for_timeout(1500)
        return bytes(page.screenshot())


_BUILD = """
import sys
from pathlib import Path
from laplm.talk import slides
slides.build_slides([Path(sys.argv[1])], Path(sys.argv[2]), "pocket")
"""
_TITLES = """[...document.querySelectorAll(".slides > section")].map(
  (slide) => slide.querySelector("h1, h2")?.textContent ?? "")"""


def heads(_browser: Any) -> bytes:
    """Every head's map, as ``laplm look attention --out`` draws them."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "heads.png"
        words = ["look", "attention", PROMPT, "-m", "pocket", "--out", str(out)]
        subprocess.run(
            [sys.executable, "-m", "laplm", *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        return out.read_bytes()


PICTURES = {
    "page.png": Picture(("laplm/web/index.html", "laplm/web/assets/**/*"), the_page),
    "slide.png": Picture(
        (
            "laplm/talk/slides.*",
            "laplm/talk/formulas.py",
            "laplm/talk/words.py",
            "laplm/look/figures/*.py",
            "laplm/look/diagrams.py",
            f"notebooks/{NOTEBOOK}",
        ),
        a_slide,
    ),
    "attention.png": Picture(("laplm/look/figures/*.py", "laplm/look/views/attention.py"), heads),
}
OF_ALL = ("laplm/pocket/model.safetensors",)


# --- whether it is older than that ------------------------------------------------------------


def digest(picture: Picture) -> str:
    """Of all that a picture is made of."""
    total = hashlib.sha256()
    for pattern in (*picture.made_of, *OF_ALL):
        paths = sorted(path for path in ROOT.glob(pattern) if path.is_file())
        assert paths, f"{pattern}: no such file"
        for path in paths:
            total.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
            total.update(hashlib.sha256(content(path)).digest())
    return total.hexdigest()


def content(path: Path) -> bytes:
    """A file as a picture depends on it: lines end in one way, of a notebook what slides show."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        return data
    data = data.replace(b"\r\n", b"\n")
    if path.suffix == ".ipynb":
        cells = json.loads(data)["cells"]
        kinds = [cell["metadata"].get("slideshow", {}).get("slide_type") for cell in cells]
        shown = [
            [kind, cell["metadata"].get("tags", []), cell["source"]]
            for kind, cell in zip(kinds, cells, strict=True)
            if kind not in ("skip", "notes")
        ]
        data = json.dumps(shown).encode()
    return data


def too_old() -> list[str]:
    """The pictures that show what is no longer so, or that are missing."""
    made_from = json.loads(MADE_FROM.read_text(encoding="utf-8")) if MADE_FROM.exists() else {}
    return [
        name
        for name, picture in PICTURES.items()
        if made_from.get(name) != digest(picture) or not (IMAGES / name).is_file()
    ]


# --- making them ------------------------------------------------------------------------------


def save(picture: bytes, name: str) -> None:
    """Few colours, which flat pictures need no more of, and told how large it is."""
    from PIL import Image

    image = (
        Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    )
    path = IMAGES / name
    image.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


def make(names: Iterable[str]) -> None:
    """Make these, and write down what they were made from."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("LAPLM_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name in names:
            before = digest(PICTURES[name])
            save(PICTURES[name].make(browser), name)
            made_from = json.loads(MADE_FROM.read_text("utf-8")) if MADE_FROM.exists() else {}
            made_from = {key: made_from[key] for key in PICTURES if key in made_from}
            made_from[name] = before
            MADE_FROM.write_text(
                json.dumps(made_from, indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )
        browser.close()


def main() -> int:
    """Make what is too old, or all, or say which."""
    parser = argparse.ArgumentParser(description="The pictures of the README and the start page.")
    parser.add_argument("--all", action="store_true", help="make every one")
    parser.add_argument("--check", action="store_true", help="only say which are too old")
    args = parser.parse_args()
    names = list(PICTURES) if args.all else too_old()
    if args.check:
        for name in names:
            print(f"docs/images/{name} is older than what it shows: {COMMAND}")
        return 1 if names else 0
    make(names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
