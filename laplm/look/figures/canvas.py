"""What all figures are drawn upon and with: colours, fonts, sizes, titles, numbers on axes.

Colours can be told apart by colour-blind people: viridis for sizes, purple to orange (PuOr) for
two directions, Okabe and Ito's eight for kinds. matplotlib's ``Figure`` is used without pyplot, so
no window opens and nothing is left behind.
"""

from __future__ import annotations

import functools
import textwrap
import unicodedata
import warnings
from typing import TYPE_CHECKING, Any, Literal

from laplm.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
_FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "Noto Emoji", "Symbola",
    "Segoe UI Emoji",
)  # fmt: skip
_RC: Any = {
    "font.size": 10.0,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a dollar sign in a token is a dollar sign
}
MAX_TICK_LABELS = 64  # beyond that they would overlap: every n-th is shown
MAX_LABEL_LENGTH = 22  # letters
FRAME = "#D55E00"
_NARROW = 5.5  # inches: magnified letters make no figure narrower
SMALLEST_POINTS = 10.5  # the smallest letters on a slide
_magnified = 1.0  # how much larger than on a page letters are, beside the rest


def magnify(letters: float) -> None:
    """From here on, draw letters so much larger beside the rest: 1 for a page, 1.5 for a slide.

    Raises:
        InputError: ``letters`` is not a number from 0.5 to 3.
    """
    global _magnified
    if isinstance(letters, bool) or not isinstance(letters, int | float) or not 0.5 <= letters <= 3:
        raise InputError(f"letters are magnified by {letters!r}, but it must be from 0.5 to 3")
    _magnified = float(letters)


def magnification() -> float:
    """How much larger letters are drawn than on a page: what ``magnify`` was told last."""
    return _magnified


def font_points(size: float) -> float:
    """The size of small letters: on a slide at least ``SMALLEST_POINTS``."""
    return size if _magnified <= 1 else max(size, SMALLEST_POINTS)


def style_context() -> Any:
    """The context in which every figure is made and drawn upon."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise MissingExtraError("A picture", "look") from error
    # A character that no font here has is drawn as an empty box, which says enough.
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
    families = {"font.family": ["DejaVu Sans", *fallback_fonts()]}
    return mpl.rc_context(_RC | families | {"font.size": font_points(_RC["font.size"])})


@functools.cache
def fallback_fonts() -> list[str]:
    """Fonts of this machine for what DejaVu lacks: Chinese, Japanese, Korean, emoji."""
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return [name for name in _FALLBACKS if name in installed]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; of fewer, with as many dots, when letters are magnified.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with style_context():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        by = min(_magnified, max(1.0, width / _NARROW)) if _magnified > 1 else _magnified
        figure = Figure(figsize=(width / by, height / by), dpi=100 * by, facecolor="white")
        FigureCanvasAgg(figure)
    return figure


def titled_axes(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches that is one pair of axes with a title."""
    figure = new_figure(width, height)
    with style_context():
        axes = figure.add_subplot()
        # It begins where the axes do; large labels beside them leave it less room.
        labels = 1.3 if _magnified > 1 else 0.0
        axes.set_title(_wrapped(title, figure.get_size_inches()[0] - labels))
    return figure, axes


def _wrapped(title: str, width: float) -> str:
    """A title in lines that fit a figure of so many inches."""
    return textwrap.fill(title, max(20, int(width * 8)), break_on_hyphens=False)


def sheet_title(figure: Figure, title: str, subtitle: str = "") -> None:
    """A title for a sheet of several matrices, with a line below it that is no title."""
    width = figure.get_size_inches()[0]
    text = _wrapped(title, width)
    below = _subtitle_lines(subtitle, width)
    figure.suptitle(text + "\n" * len(below), x=0.01, ha="left", fontweight="bold")
    if below:
        lines = text.count("\n") + 1
        figure.text(
            0.01, 1 - (0.1 + 0.2 * lines) / figure.get_size_inches()[1], "\n".join(below),
            fontsize=font_points(9), color="#555555", va="top",
        )  # fmt: skip


def add_subtitle(axes: Axes, text: str) -> None:
    """A smaller line between the title of ``titled_axes`` and the axes; nothing where it is ""."""
    if not text:
        return
    title = axes.get_title(loc="left")
    figure = axes.get_figure(root=True)
    assert figure is not None
    lines = _subtitle_lines(text, figure.get_size_inches()[0] - 1)
    axes.set_title(title + "\n" * len(lines), loc="left", pad=10.0 if _magnified > 1 else None)
    line = axes.annotate(
        "\n".join(lines), (0, 1), xycoords="axes fraction", linespacing=1.3,
        xytext=(0, 6), textcoords="offset points", fontsize=font_points(9), color="#555555",
        va="bottom",
    )  # fmt: skip
    line.set_in_layout(False)  # else a long line would squeeze the picture


def _subtitle_lines(text: str, width: float) -> list[str]:
    """At most three lines that fit so many inches; of a longer text the end, where it goes on."""
    lines = textwrap.wrap(text, max(20, int(width * 12)), break_on_hyphens=False)
    return lines if len(lines) <= 3 else [f"…{lines[-3][1:]}", *lines[-2:]]


def panel_title(axes: Axes, text: str) -> None:
    """The title of one of several axes on a sheet."""
    axes.set_title(textwrap.fill(text, 46), fontsize=font_points(10), fontweight="normal")


def format_numbers(axes: Axes, axis: Literal["x", "y"], *, log: bool) -> None:
    """Write an axis's numbers as people read them; matplotlib writes 1e6, and formulas on logs."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    scaled = axes.xaxis if axis == "x" else axes.yaxis
    if log:
        axes.set(**{f"{axis}scale": "log"})
        scaled.set_minor_formatter(NullFormatter())
    scaled.set_major_formatter(FuncFormatter(lambda value, _: _in_words(value)))


def _in_words(value: float) -> str:
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= size:
            return f"{value / size:,.4g} {word}"
    return f"{value:,.6g}"


def shorten(label: str) -> str:
    """A label of bounded length, so that a long token does not push the picture away."""
    return label if len(label) <= MAX_LABEL_LENGTH else label[: MAX_LABEL_LENGTH - 1] + "…"


def shorten_start(text: str) -> str:
    """The end of a text on one line, for a subtitle."""
    text = text.replace("\n", "↵")
    return text if len(text) <= 60 else f"…{text[-59:]}"


def display_width(text: str) -> int:
    """Width of a text in letters of a font in which all are equally wide."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    marks = sum(unicodedata.combining(c) > 0 for c in text)
    return len(text) + wide - marks
