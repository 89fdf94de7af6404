"""The handout: a page for each slide, printed by a browser that is here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import chromium

from laplm.errors import InputError
from laplm.talk import pdf, slides


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Three slides, one with parts that come later, on a system that prefers dark."""
    made = [
        slides.Slide("One", "x.ipynb", "Part", "title"),
        slides.Slide("Two", "x.ipynb", "Part", words=['<p class="fragment">later</p>']),
        slides.Slide(
            "Three", "x.ipynb", "Part", outputs=["<pre>iii</pre>"], code=["<pre>code</pre>"]
        ),
    ]
    for name, content in slides._reveal_js().items():
        (tmp_path / "reveal" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reveal" / name).write_bytes(content)
    path = tmp_path / "index.html"
    path.write_text(slides.page(made), encoding="utf-8")
    return path


def test_every_slide_is_a_page_of_its_size(index: Path) -> None:
    out = index.with_name("talk.pdf")
    pdf.print_slides(index, out, chromium())
    content = out.read_bytes()
    assert content.startswith(b"%PDF-")
    sizes = re.findall(rb"/MediaBox \[0 0 (\d+)[.\d]* (\d+)[.\d]*\]", content)
    # Points are 1/72 inches, pixels 1/96.
    assert sizes == [(b"%d" % (slides.WIDTH * 3 / 4), b"%d" % (slides.HEIGHT * 3 / 4))] * 3


def test_on_paper_everything_is_there_and_light(index: Path, browser) -> None:
    context = browser.new_context(
        viewport={"width": slides.WIDTH, "height": slides.HEIGHT}, color_scheme="dark"
    )
    tab = context.new_page()
    tab.goto(index.as_uri())
    tab.wait_for_function("window.Reveal && Reveal.isReady()")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 31)"
    assert not tab.get_by_text("later").is_visible()
    tab.emulate_media(media="print")
    assert tab.get_by_text("later").is_visible() and tab.get_by_text("iii").is_visible()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("summary").first.is_visible()
    tops = tab.eval_on_selector_all("section", "all => all.map(s => s.getBoundingClientRect().top)")
    assert tops == [0, slides.HEIGHT, 2 * slides.HEIGHT]
    context.close()


def test_without_a_browser_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, laplm_
) -> None:
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    monkeypatch.setattr(pdf, "_elsewhere", list)
    result = laplm_("talk", str(tmp_path / "mine"), "--pdf", "--no-open", "-m", "pocket")
    assert result.code == 2 and "none of them was found; install one" in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "mine").exists()  # found out before anything is done


def test_a_browser_off_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "Google/Chrome/Application/chrome.exe"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    monkeypatch.setattr(pdf, "_elsewhere", lambda: [tmp_path / "none", program])
    assert pdf.find_browser() == str(program)
    monkeypatch.setattr(pdf.shutil, "which", lambda name: name if "edge" in name else None)
    assert pdf.find_browser() == "microsoft-edge"


@pytest.mark.skipif(sys.platform == "win32", reason="a script of the shell")
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 3", "exit code 3"),
        ('for a; do case $a in --print-to*) echo no > "${a#*=}";; esac; done', "and no PDF"),
        ("sleep 5", "it took more than"),
    ],
)  # fmt: skip
def test_a_browser_that_does_not_print_is_one_line(
    script: str, why: str, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = index.with_name("browser")
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(pdf, "_SECONDS", 0.3 if "sleep" in script else 60)
    with pytest.raises(InputError, match=f"did not print the slides .*{why}.*open .*index.html"):
        pdf.print_slides(index, index.with_name("talk.pdf"), str(program))
    assert not index.with_name("talk.pdf").exists()


def test_a_browser_that_cannot_be_started_is_one_line(index: Path) -> None:
    for browser in (str(index), str(index.with_name("nowhere"))):
        with pytest.raises(InputError, match="did not print the slides"):
            pdf.print_slides(index, index.with_name("talk.pdf"), browser)


def test_nothing_is_asked_for_outside(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(pdf.subprocess, "run", run)
    with pytest.raises(InputError):
        pdf.print_slides(index, index.with_name("talk.pdf"), "browser")
    assert "--host-resolver-rules=MAP * ~NOTFOUND" in asked[0]
    assert asked[0][-1] == index.as_uri()
