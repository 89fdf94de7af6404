"""Markdown as HTML, with formulas: LaTeX between dollars becomes MathML, which browsers draw.

The same cells are read by JupyterLab, which draws the formulas with MathJax; slides cannot, since
they load nothing from outside.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from laplm.errors import InputError, shown_name

_TEXT = re.compile(r">([^<]*)<")  # what stands between the tags of MathML


def mathml(latex: str, *, block: bool = False) -> str:
    """A formula as MathML.

    Args:
        latex: without its dollars.
        block: on a line of its own, with room for limits and fractions.

    Raises:
        InputError: it is no LaTeX, or has a command that is not known.
    """
    from latex2mathml.converter import convert

    try:
        found = convert(latex.strip(), display="block" if block else "inline")
    except Exception as error:  # a dozen kinds of its own, with nothing above them
        why = re.sub(r"(?<!^)([A-Z])", r" \1", type(error).__name__.removesuffix("Error")).lower()
        raise _unreadable(latex, why) from None
    unknown = re.search(r"\\\w+", " ".join(_TEXT.findall(found)))  # they are left as they stand
    if unknown:
        raise _unreadable(latex, f"{unknown[0]} is not known")
    return found


def _unreadable(latex: str, why: str) -> InputError:
    return InputError(
        f"the formula {shown_name(latex.strip())} cannot be read ({why}); correct it in the "
        "notebook, in LaTeX as JupyterLab draws it"
    )


def markdown_html(source: str) -> str:
    """Markdown as HTML, its formulas as MathML.

    Raises:
        InputError: a formula cannot be read.
    """
    return str(_markdown().render(source))


@functools.cache
def _markdown() -> Any:
    """The Markdown of nbconvert, which already knows where formulas begin and end."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return mathml(body, block=True)

        def inline_math(self, body: str) -> str:
            return mathml(body)

        def latex_environment(self, name: str, body: str) -> str:
            return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True))
