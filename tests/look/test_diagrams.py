"""Pictures of the machine: their numbers are those they are given, and can be read on a slide."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.text import Text

from laplm.look import diagrams, figures
from laplm.look.figures import Panel

ROWS = ["The", "·capital", "·of", "·Spain", "·is"]
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def magnified() -> Iterator[None]:
    figures.magnify(1.6)
    yield
    figures.magnify(1)


def drawn(figure: Figure) -> list[Text]:
    """The texts that can be seen: not those of ticks beyond the axes, nor of axes that are off."""
    figure.draw_without_rendering()
    found = [figure._suptitle, *figure.texts]  # type: ignore[attr-defined]
    for axes in figure.axes:
        found += [axes.title, *axes.texts]
        if axes.axison:
            found += [axes.xaxis.label, axes.yaxis.label]
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
                labels = [label for tick in ticks for label in (tick.label1, tick.label2)]
                found += [label for label in labels if label.get_visible()]
    return [text for text in dict.fromkeys(found) if text is not None and text.get_text().strip()]


def panel(title: str, values: np.ndarray) -> Panel:
    return Panel(values=values, title=title, row_labels=ROWS, column_labels=ROWS)


def pattern(size: int = 5) -> np.ndarray:
    shares = np.tri(size) * RNG.random((size, size))
    return shares / shares.sum(-1, keepdims=True)


A, B = RNG.standard_normal((2, 5, 5))
DRAWN: dict[str, Callable[[], Figure]] = {
    "a sum": lambda: diagrams.equation(
        [panel("a (5, 768)", A), panel("b", B), panel("c", A + B)], ["+", "="], "a title"
    ),
    "a sequential block": lambda: diagrams.block(
        [(["layer norm", "attention,\n12 heads"], "|ΔX| = 54.32"),
         (["layer norm", "feed-forward,\n3,072 wide"], "|ΔX| = 3.96")],
        ("T × 768\n|X| = 2.05", "T × 768\n|X| = 56.28"), "a title",
    ),
    "a parallel block with norms after": lambda: diagrams.block(
        [(["RMS norm", "attention,\n12 heads", "RMS norm"], "|ΔX| = 54.32"),
         (["RMS norm", "feed-forward,\n3,072 wide", "RMS norm"], "|ΔX| = 3.96")],
        ("T × 768\n|X| = 2.05", "T × 768\n|X| = 56.28"), "a title", parallel=True,
    ),
    "a block with norms after": lambda: diagrams.block(
        [(["RMS norm", "attention,\n12 heads", "RMS norm"], "|ΔX| = 54.32"),
         (["RMS norm", "feed-forward,\n16,384 wide", "RMS norm"], "|ΔX| = 3.96")],
        ("T × 768\n|X| = 2.05", "T × 768\n|X| = 56.28"), "a title",
    ),
    "a head": lambda: diagrams.head(ROWS, pattern(), "a title"),
    "all heads": lambda: diagrams.all_heads(
        np.stack([[pattern() for _ in range(12)]] * 30), (4, 6), "a title"
    ),
    "a feed-forward": lambda: diagrams.feed_forward(768, 3072, "GELU", "a title"),
    "a gated one": lambda: diagrams.feed_forward(2560, 10240, "SiLU", "a title", gated=True),
    "an activation": lambda: diagrams.activation_curves(
        np.linspace(-4, 4, 9), {"GELU": np.zeros(9), "ReLU": np.ones(9)}, A, "a title"
    ),
    "tokens by rank": lambda: diagrams.ranked(
        [(str(50_000 - i), f"·token{i}", f"{-100.25 - i:.2f}") for i in range(10)],
        [0.5, *[0.01] * 8, 0.00002], "a title",
    ),
    "words": lambda: diagrams.word_grid(
        np.abs(A) / 10, [[f"·word{i}"] * 5 for i in range(5)],
        [f"after block {i}" for i in range(5)], ROWS, "a title",
    ),
    "numbers": lambda: diagrams.big_numbers([("50,257", "vocabulary, in tokens")] * 5, "a title"),
}  # fmt: skip


@pytest.mark.parametrize("what", DRAWN)
def test_letters_are_large_and_cover_no_others(what: str) -> None:
    figure = DRAWN[what]()
    texts = drawn(figure)
    assert min(t.get_fontsize() for t in texts) >= 10  # type: ignore[attr-defined]
    boxes = [t.get_window_extent() for t in texts]
    for i, box in enumerate(boxes):
        for k, other in enumerate(boxes[:i]):
            both = box.overlaps(other) and (texts[i].get_text(), texts[k].get_text())
            assert not both, both
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, texts[i].get_text()
        assert box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1, texts[i].get_text()


def shown(figure: Figure) -> set[str]:
    return {t.get_text() for t in figure.findobj(Text)}  # type: ignore[attr-defined]


def test_an_equation_has_its_numbers_and_signs() -> None:
    texts = shown(DRAWN["a sum"]())
    assert {"+", "=", "a (5, 768)", "b", "c", *ROWS} <= texts
    assert {f"{value:.2f}" for value in (A + B).ravel()} <= texts


def test_large_numbers_of_an_equation_have_fewer_digits_and_cover_no_others() -> None:
    figure = diagrams.equation([panel("a", -40 + A), panel("b", B)], ["+"], "t", height=3.6)
    assert {f"{x:.1f}" for x in (-40 + A).ravel()} <= shown(figure)
    texts = [t for t in figure.axes[0].texts if t.get_text().startswith("-4")]
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in texts]
    assert boxes and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_terms_of_an_equation_have_one_scale_but_for_those_that_are_named() -> None:
    terms = [panel("small", A), panel("large", 100 * B), panel("shares", pattern())]

    def limits(**more: list[int]) -> list[float]:
        figure = diagrams.equation(terms, ["", ""], "t", **more)
        return [axes.images[0].norm.vmax for axes in figure.axes]

    one = limits()
    assert one[0] == one[1] == one[2]
    small, large, shares = limits(apart=[0], shares=[2])
    assert small < 5 < large and shares == 1


def test_what_a_window_hides_has_no_arc() -> None:
    shares = pattern(4)
    shares[-1] = [np.nan, np.nan, 0.25, 0.75]
    figure = diagrams.head(list("abcd"), shares, "a title")
    assert len([p for p in figure.axes[0].patches if isinstance(p, PathPatch)]) == 1
    assert {"0%", "25%", "75%"} <= shown(figure) and "nan%" not in shown(figure)


def test_a_head_has_an_arc_for_every_token_that_it_looks_at() -> None:
    shares = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.7, 0.005, 0.295]])
    figure = diagrams.head(["a", "b", "c"], shares, "a title")
    arcs = [p for p in figure.axes[0].patches if isinstance(p, PathPatch)]
    assert len(arcs) == 1  # 0.5 % is nothing to see, and itself is no arc
    assert arcs[0].get_path().vertices[-1].tolist() == [0, 0]
    assert {"70%", "0%", "30%", "0.70"} <= shown(figure)  # 29.5 rounds to even
    image = figure.axes[1].images[0].get_array()
    assert np.ma.count_masked(image) == 3  # the future


@pytest.mark.parametrize(("layers", "heads"), [(6, 8), (30, 9)])
def test_all_heads_are_there_and_the_one_that_is_meant_has_a_frame(layers: int, heads: int) -> None:
    every = np.arange(layers * heads).reshape(layers, heads, 1, 1) / 1000 * np.ones((3, 3))
    figure = diagrams.all_heads(every, (4, 6), "a title")
    (axes,) = figure.axes
    sheet = axes.images[0].get_array()
    (frame,) = [p for p in axes.patches if isinstance(p, Rectangle) and not p.get_fill()]
    column = round(frame.get_x() + frame.get_width() / 2)
    row = round(frame.get_y() + frame.get_height() / 2)
    assert sheet[row, column] == every[4, 6, 0, 0]
    assert np.unique(sheet.compressed()).size == layers * heads
    across, down = (axes.get_xlabel(), axes.get_ylabel())
    assert (across, down) == (("layer", "head") if layers > heads else ("head", "layer"))


def test_a_gate_has_two_wide_rows_and_a_product() -> None:
    gated, plain = (shown(DRAWN[name]()) for name in ("a gated one", "a feed-forward"))
    assert {"×", "gate", "up", "SiLU"} <= gated and "×" not in plain
    assert {"768", "3,072", "GELU"} <= plain


def test_very_small_shares_are_not_written_as_nothing() -> None:
    texts = shown(DRAWN["tokens by rank"]())
    assert "0.002%" in texts and "50.0%" in texts and "0.0%" not in texts
