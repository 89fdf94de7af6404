"""Markdown with formulas: MathML that browsers draw, and plain errors for what is no formula."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from laplm.errors import InputError
from laplm.talk.formulas import markdown_html, mathml

MATHML = "{http://www.w3.org/1998/Math/MathML}"


def tags(text: str) -> list[str]:
    """The elements of a formula, in order."""
    return [element.tag.removeprefix(MATHML) for element in ElementTree.fromstring(text).iter()]


def test_a_formula_becomes_fractions_roots_and_brackets_that_grow() -> None:
    found = mathml(r"\operatorname{softmax}\left(\frac{QK^\top}{\sqrt{d}}\right)V", block=True)
    assert 'display="block"' in found and "<mo>softmax</mo>" in found
    assert {"mfrac", "msqrt", "msup"} <= set(tags(found))
    assert found.count('stretchy="true"') == 2


def test_formulas_in_words_and_on_lines_of_their_own() -> None:
    found = markdown_html(
        "Here $x_1$ is.\n\n$$\ny = x\n$$\n\nAnd:\n\\begin{matrix}a & b\\end{matrix}"
    )
    assert found.count("<math") == 3 and found.count('display="inline"') == 1
    assert "$" not in found and "\\" not in found


def test_dollars_in_code_and_behind_a_backslash_are_dollars() -> None:
    found = markdown_html(r"`$x$` costs \$5 or \$6")
    assert "<code>$x$</code>" in found and "$5 or $6" in found and "<math" not in found


@pytest.mark.parametrize(
    ("latex", "why"),
    [
        (r"\nosuch x", r"\nosuch is not known"), (r"\left( x", "extra left or missing right"),
        ("{", "no available tokens"), ("a^b^c", "double superscripts"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line_that_names_the_formula(latex: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        markdown_html(f"Words ${latex}$ go on.")
    message = str(caught.value)
    assert latex in message and why in message and "notebook" in message and "\n" not in message


def test_formulas_are_drawn_by_a_browser(browser: Any) -> None:
    tab = browser.new_page()
    tab.set_content(markdown_html(r"$$\frac{a}{b}$$") + markdown_html("$$a$$"))
    tall, low = tab.eval_on_selector_all(
        "math", "found => found.map(math => math.getBoundingClientRect().height)"
    )
    tab.close()
    assert tall > 1.5 * low  # a fraction is drawn as one, and not as letters in a row
