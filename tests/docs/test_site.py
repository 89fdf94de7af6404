"""The documentation site: built strictly, nothing in it from outside, true to the program."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import laplm
from laplm import look
from laplm.cli.main import make_parser
from tests.docs import reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HEADING = re.compile(r"^## (?:``|`) ?(.*?) ?`+$", re.MULTILINE)
ERRORS = sorted((DOCS / "errors").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error; of a copy, for beside it a cache is left."""
    there = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, there / "docs")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "paths: [.]" in settings
    settings = settings.replace("paths: [.]", f"paths: ['{ROOT.as_posix()}']")
    (there / "mkdocs.yml").write_text(settings, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=there, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return there / "site"


class Loads(HTMLParser):
    """What a page makes a browser load by itself, and where it leads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given.get("id", "")}
        if tag in ("img", "script", "iframe") and given.get("src"):
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.loaded.append(given["href"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


def pages(site: Path) -> Iterator[tuple[Path, Loads]]:
    for path in sorted(site.rglob("*.html")):
        yield path, Loads(path)


def test_pages_load_nothing_from_outside(site: Path) -> None:
    for path, page in pages(site):
        outside = [url for url in page.loaded if re.match(r"(https?:)?//", url)]
        assert page.loaded and not outside, path.relative_to(site)
        for url in page.loaded if path.name != "404.html" else ():
            there = path.parent / url.partition("?")[0]
            assert there.is_file(), f"{path.relative_to(site)}: {url}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:", style.read_text(encoding="utf-8")), style.name


def test_a_browser_searches_from_the_disk_and_asks_nobody(site: Path, browser: Any) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((site / "index.html").as_uri())
    tab.locator(".md-search__button").click()
    box = tab.get_by_role("combobox", name="Search")
    box.press_sequentially("induction")
    found = tab.get_by_role("option").filter(has_text="Find an induction head").first
    found.wait_for()
    assert "find_an_induction_head.html" in (found.get_attribute("href") or "")
    assert box.input_value() == "induction"
    tab.goto((site / "reference/python.html").as_uri())
    tab.close()
    assert len(asked) > 10 and all(url.startswith("file:") for url in asked)
    assert not complaints


def test_links_among_pages_lead_to_a_page_and_a_place_on_it(site: Path) -> None:
    found = dict(pages(site))
    for path, page in found.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            if re.match(r"\w+:|//", link):
                continue
            target, _, place = link.partition("#")
            there = (path.parent / target).resolve() if target else path
            there = there / "index.html" if there.is_dir() else there
            assert there in found or there.is_file(), f"{path.relative_to(site)}: {link}"
            if place and there in found and not place.startswith("__"):
                assert place in found[there].ids, f"{path.relative_to(site)}: {link}"


def test_the_reference_of_python_has_what_it_names(site: Path) -> None:
    ids = Loads(site / "reference/python.html").ids
    named = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference/python.md").read_text(), re.MULTILINE)
    assert len(named) > 20 and set(named) <= ids


def test_the_reference_of_python_has_every_public_name(site: Path) -> None:
    ids = Loads(site / "reference/python.html").ids
    for name in set(laplm.__all__) - {"__version__", "fine_tune"}:
        assert {f"laplm.{name}", f"laplm.errors.{name}"} & ids, name
    assert "laplm.tune.tuning.fine_tune" in ids
    assert "laplm.look.view.View" in ids
    for entry in look.VIEWS:
        assert f"laplm.look.views.{entry.function}" in ids, entry.name
    assert {
        "laplm.look.views.architecture.architecture",
        "laplm.look.views.learning.learning",
    } <= ids


def test_the_reference_of_commands_is_what_the_program_has() -> None:
    on_disk = reference.PAGE.read_text(encoding="utf-8")
    assert on_disk == reference.text(), "it has drifted: python -m tests.docs.reference writes it"
    assert "## laplm run" in on_disk and "### laplm look attention" in on_disk


def test_every_command_has_a_page() -> None:
    help_text = make_parser().format_help().split("COMMAND\n", 1)[1]
    verbs = set(re.findall(r"^    (\w+)", help_text, re.MULTILINE))
    there = {path.stem for path in (DOCS / "commands").glob("*.md")}
    assert there == verbs


def test_the_order_of_pages_names_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    named = set(re.findall(r"([\w/]+\.md)$", nav, re.MULTILINE))
    assert named == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def texts() -> Iterator[str]:
    """Every text in the package but docstrings; … for what differs."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return text(node.left) + text(node.right)
        return "…"

    for path in sorted((ROOT / "laplm").rglob("*.py")):
        waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                yield re.sub("…+", "…", text(node))
            elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                waiting += ast.iter_child_nodes(node)


@functools.cache
def messages() -> list[str]:
    return [text for text in texts() if len(text) > 10]


def is_said(message: str) -> bool:
    """Whether the package has this text, … standing for anything."""
    pattern = re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL)
    return any(map(pattern.search, messages()))


@pytest.mark.parametrize("page", ERRORS, ids=lambda path: path.stem)
def test_errors_that_are_explained_are_errors_that_there_are(page: Path) -> None:
    explained = HEADING.findall(page.read_text(encoding="utf-8"))
    if page.stem != "index":
        assert len(explained) > 5
    for message in explained:
        assert is_said(message), message


def test_errors_that_patterns_quote_are_errors_that_there_are() -> None:
    quoted = [
        message
        for page in (DOCS / "patterns").glob("*.md")
        for message in re.findall(
            r"^\| `(.+?)` \|",
            page.read_text(encoding="utf-8").partition("## What goes wrong")[2],
            re.MULTILINE,
        )
    ]
    assert len(quoted) > 10
    for message in quoted:
        assert is_said(message), message


def test_figures_of_how_it_works_are_those_of_the_measurements() -> None:
    def rows(*paths: Path) -> set[str]:
        text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
        cells = text.replace("**", "").replace(" tokens/s", "")
        return set(re.findall(r"^\| [^|]+(?: \| [^|]*\d[^|]*)+ \|$", cells, re.MULTILINE))

    engine = rows(DOCS / "how/engine.md")
    assert len(engine) == 6
    assert engine <= rows(ROOT / "README.md")  # those of memory stand in one place alone
    card = (ROOT / "laplm/pocket/MODEL_CARD.md").read_text(encoding="utf-8")
    peers = (ROOT / "benchmarks/results/2026-11-23-peers.md").read_text(encoding="utf-8")
    page = (DOCS / "how/precision.md").read_text(encoding="utf-8")
    for name, perplexity in re.findall(r"^\| (\w+) \| (17\.\d+|18\.\d+) \|", page, re.MULTILINE):
        assert f"| {name} | {perplexity} |" in card
    moved = re.findall(r"^\| (\S+ \w+) \| ([\d.]+) \| (\d\.\d+) \|$", page, re.MULTILINE)
    assert len(moved) == 5
    for name, difference, cosine in moved:
        assert re.search(
            rf"\| {re.escape(name)} \|.* {float(difference):.1e}, {cosine} \|", peers
        ), name


@pytest.mark.parametrize("page", ERRORS, ids=lambda path: path.stem)
def test_each_error_has_a_cause_and_what_to_do(page: Path) -> None:
    for section in page.read_text(encoding="utf-8").split("\n## ")[1:]:
        assert re.search(r"\n\*\*Cause\.\*\* \S.{10,}\n", section), section
        assert re.search(r"\n\*\*What to do\.\*\* \S", section), section


def test_spelling() -> None:
    places = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
    places += ["docs", "notebooks", "examples", "laplm", "mkdocs.yml"]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *places],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
