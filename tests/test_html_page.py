"""Pages in one file: well-formed, nothing loaded, nothing of a text taken for markup."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from laplm import html_page

EVIL = "<script>alert(1)</script> & \"quoted\" 'too'"


class Tags(HTMLParser):
    """Opens and closes tags in their order; keeps texts and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_texts_of_all_parts_come_back_as_they_were_and_are_never_markup() -> None:
    body = [
        html_page.heading(EVIL), html_page.paragraph(EVIL), html_page.bullets([EVIL]),
        html_page.table([EVIL], [[EVIL]]), html_page.beside(EVIL, [(EVIL, EVIL)]),
        html_page.passage([html_page.span(EVIL, "red", EVIL)]),
        html_page.figure(html_page.image(EVIL, "data:,")),
    ]  # fmt: skip
    tags = Tags(html_page.page(EVIL, "\n".join(body)))
    assert "script" not in tags.seen
    assert tags.texts.count(EVIL) == 2 + 9  # title and heading, then one in each place
    assert ("title", EVIL) in tags.attributes and ("alt", EVIL) in tags.attributes


def test_a_page_loads_nothing() -> None:
    page = html_page.page("A view", html_page.table(["a"], [["b"]]))
    assert not re.search(r"https?:|url\(|@import|<link|<script|src=", page)


def test_the_one_script_of_a_page_is_allowed_by_its_hash_and_data_cannot_end_it() -> None:
    held = html_page.section("grid", html_page.paragraph("x", "note"), f'["{EVIL}"]')
    page = html_page.page("A", held, style="p { color: red }", script="let a = 1;")
    digest = base64.b64encode(hashlib.sha256(b"let a = 1;").digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    tags = Tags(page)
    assert tags.seen.count("script") == 2 and "let a = 1;" in tags.texts
    (data,) = [text for text in tags.texts if text.startswith("[")]
    assert not re.search("[<>&]", data) and "\\u003cscript\\u003e" in data


def test_a_page_in_a_frame_comes_back_as_it_was() -> None:
    page = html_page.page(EVIL, html_page.paragraph(EVIL))
    tags = Tags(html_page.iframe(page, EVIL, 300))
    assert ("srcdoc", page) in tags.attributes and ("sandbox", "allow-scripts") in tags.attributes
    assert tags.seen == ["iframe"]


def test_cells_have_bars_of_their_share() -> None:
    table = html_page.table(["p"], [["0.25"], [""]], [True], [[0.25], [None]])
    assert '<td class="bar" style="--share: 0.25">0.25</td>' in table
    assert '<td class="number"></td>' in table


def test_columns_of_numbers_stand_at_the_right() -> None:
    table = html_page.table(["name", "size"], [["a", "1"]], [False, True])
    assert '<th>name</th><th class="number">size</th>' in table
    assert '<td>a</td><td class="number">1</td>' in table
    assert "number" not in html_page.table(["name"], [["a"]])


def test_an_empty_paragraph_is_none() -> None:
    assert html_page.paragraph("") == ""
