"""Figures for both decks: as they are, and drawn once more in the colours of a dark slide.

``draw_both`` is called in the process that runs a notebook; JupyterLab shows the light one.
Lightness is turned over and hue is kept, so that what is orange stays orange. Heat maps and what
is written in them stay as they are: their colours mean numbers.
"""

from __future__ import annotations

import base64
import colorsys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARK_PNG = "application/vnd.laplm.dark-png"
"""The kind of the second picture, in base64, beside "image/png" in an output."""
BACKGROUND = "#14181f"
"""Of the dark deck; what is white in a figure becomes this."""
_LIGHTEST, _DARKEST = 0.93, 0.12  # what black and nearly white become, in lightness
_COLOURFUL = 0.55  # what has a hue is at least so light


def draw_both() -> None:
    """From here on, figures that a cell of this process displays come with their dark twin."""
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    assert shell is not None, "called outside of a notebook"
    # By its name, so that a notebook without figures need not wait for matplotlib.
    shell.display_formatter.mimebundle_formatter.for_type_by_name(
        "matplotlib.figure", "Figure", _twin
    )


def _twin(figure: Figure, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """The dark picture; beside it its title, and how large its smallest letters are."""
    from IPython.core.pylabtools import retina_figure

    said = {"title": _title(figure), "letters": _smallest_letters(figure)}
    with darkened(figure):
        png, _size = retina_figure(figure)
    figure.set_layout_engine("none")  # the light one, drawn next, has everything at these places
    return {DARK_PNG: base64.b64encode(png).decode()}, {DARK_PNG: said}


def _title(figure: Figure) -> str:
    titles = [figure.get_suptitle(), *(axes.get_title(loc="left") for axes in figure.axes)]
    return next((" ".join(title.split()) for title in titles if title), "")


def _smallest_letters(figure: Figure) -> float:
    """In dots of the picture, which is drawn with twice as many as the figure says (retina)."""
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    sizes = [
        float(text.get_fontsize())
        for text in texts
        if text.get_visible() and text.get_text().strip()
    ]
    return round(min(sizes, default=0.0) * 2 * figure.dpi / 72, 1)


@contextmanager
def darkened(figure: Figure) -> Iterator[None]:
    """The figure in the colours of a dark slide, for a while."""
    before = list(_colours(figure))
    for set_colour, colour in before:
        set_colour(_dark(colour))
    try:
        yield
    finally:
        for set_colour, colour in before:
            set_colour(colour)


def _colours(figure: Figure) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    """Whatever has a colour in a figure that is not a number's: how it is set, and what it is."""
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    for artist in figure.findobj():
        if isinstance(artist, Text):
            if not _on_heat_map(artist):
                yield artist.set_color, artist.get_color()
            for patch in (artist.get_bbox_patch(), getattr(artist, "arrow_patch", None)):
                if patch is not None:
                    yield from _of_shape(patch)
        elif isinstance(artist, Line2D):
            yield artist.set_markerfacecolor, artist.get_markerfacecolor()
            yield artist.set_markeredgecolor, artist.get_markeredgecolor()
            yield artist.set_color, artist.get_color()
        elif isinstance(artist, Patch) or (
            isinstance(artist, Collection) and artist.get_array() is None
        ):
            yield from _of_shape(artist)


def _of_shape(shape: Any) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    yield shape.set_facecolor, shape.get_facecolor()
    yield shape.set_edgecolor, shape.get_edgecolor()


def _on_heat_map(text: Any) -> bool:
    axes = text.axes
    if axes is None or text not in axes.texts or text.get_transform() != axes.transData:
        return False
    return bool(axes.images) or any(c.get_array() is not None for c in axes.collections)


def _dark(colour: Any) -> Any:
    """A colour, or an array of them, for a dark slide; "none" and "auto" stay."""
    from matplotlib.colors import to_rgba, to_rgba_array

    if isinstance(colour, str) and colour in ("none", "auto"):
        return colour
    if np.ndim(colour) == 2:
        return np.array([_dark(tuple(row)) for row in to_rgba_array(colour)]).reshape(-1, 4)
    red, green, blue, alpha = to_rgba(colour)
    if min(red, green, blue) > 0.995:
        return to_rgba(BACKGROUND, alpha)
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    turned = _LIGHTEST + (_DARKEST - _LIGHTEST) * lightness
    if saturation > 0.3 and lightness < 0.8:  # of a kind of point or bar, and no pale background
        turned = max(turned, _COLOURFUL)
    return (*colorsys.hls_to_rgb(hue, turned, saturation), alpha)
