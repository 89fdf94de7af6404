"""Pages in one file: well-formed, nothing loaded, nothing of a text taken for markup."""

from __future__ import annotations

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
        html_page.table([EVIL], [[EVIL]]), html_page.passage([html_page.span(EVIL, "red", EVIL)]),
        html_page.figure(html_page.image(EVIL, "data:,")),
    ]  # fmt: skip
    tags = Tags(html_page.page(EVIL, "\n".join(body)))
    assert "script" not in tags.seen
    assert tags.texts.count(EVIL) == 2 + 6  # title and heading, then one in each place
    assert ("title", EVIL) in tags.attributes and ("alt", EVIL) in tags.attributes


def test_a_page_loads_nothing() -> None:
    page = html_page.page("A view", html_page.table(["a"], [["b"]]))
    assert not re.search(r"https?:|url\(|@import|<link|<script|src=", page)


def test_columns_of_numbers_stand_at_the_right() -> None:
    table = html_page.table(["name", "size"], [["a", "1"]], [False, True])
    assert '<th>name</th><th class="number">size</th>' in table
    assert '<td>a</td><td class="number">1</td>' in table
    assert "number" not in html_page.table(["name"], [["a"]])


def test_an_empty_paragraph_is_none() -> None:
    assert html_page.paragraph("") == ""
