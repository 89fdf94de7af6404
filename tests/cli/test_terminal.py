"""How looks are drawn in a terminal: colours, bars, widths, and what stands in for them."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib import colormaps
from rich.console import Console

from laplm.cli import terminal
from laplm.look.view import Column, Grid, Maps, Part, Passage, Span, Table

Draw = Callable[..., str]


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Draw:
    """What a terminal of some width and colours is sent."""

    def call(
        *parts: Part, width: int = 80, colours: str | None = "truecolor", rows: int | None = 40,
        encoding: str = "utf-8", is_terminal: bool = True,
    ) -> str:  # fmt: skip
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
        written: list[str] = []

        def console(**options: object) -> Console:
            settings = {"force_terminal": is_terminal, "width": width}
            settings["color_system"] = colours if is_terminal else None
            return Console(**(settings | options | {"file": out}), legacy_windows=False)

        monkeypatch.setattr("rich.console.Console", console)
        monkeypatch.setattr(terminal, "write", written.append)
        terminal.print_parts(parts, rows)
        return "".join(written)

    return call


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def table(n_columns: int = 3, n_rows: int = 2, cell: str = "word") -> Table:
    columns = [Column("position"), *(Column(f"column {i}") for i in range(1, n_columns))]
    rows = [[i, *[f"{cell} {i}.{j}" for j in range(1, n_columns)]] for i in range(n_rows)]
    return Table(title="a table", columns=columns, rows=rows, note="a note")


def grid(size: int = 3, **changes: object) -> Grid:
    values = np.tril(np.linspace(0, 1, size * size, dtype=np.float32).reshape(size, size))
    values[np.triu_indices(size, 1)] = math.nan
    labels = [f"{i} word" for i in range(size)]
    settings: dict[str, object] = {
        "title": "a matrix", "values": values, "row_labels": labels, "column_labels": labels,
    }  # fmt: skip
    return Grid(**(settings | changes))


def test_title_heading_rows_and_note_come_in_order(draw: Draw) -> None:
    lines = plain(draw(table())).splitlines()
    assert lines[0] == "a table"
    assert lines[1].split() == ["position", "column", "1", "column", "2"]
    assert set(lines[2]) == {"─"}
    assert lines[3].split() == ["0", "word", "0.1", "word", "0.2"]
    assert lines[5:] == ["a note"]


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_a_wide_table_is_cut_into_sheets_that_fit_and_repeat_the_first_columns(
    draw: Draw, width: int
) -> None:
    text = plain(draw(table(n_columns=15, n_rows=3), width=width))
    assert max(map(len, text.splitlines())) <= width
    for i in range(3):
        for j in range(1, 15):
            assert f"word {i}.{j}" in text
    sheets = text.count("position")
    assert sheets > 1
    assert len(re.findall(r"^ +1 ", text, re.MULTILINE)) == sheets


def test_by_default_24_rows_are_shown_and_what_is_left_out_is_told(draw: Draw) -> None:
    text = plain(draw(table(n_rows=20), table(n_rows=3), grid(5), maps(4), rows=None))
    assert text.count("a table") == 2 and "a matrix" not in text and "maps" not in text
    assert text.splitlines()[-1] == "… 2 more tables: --all shows all"
    text = plain(draw(table(n_rows=30), table(n_rows=1), rows=None))
    assert "word 23.1" in text and "word 24.1" not in text
    lines = text.splitlines()
    assert lines[-3:] == [
        "… 6 more rows: --all shows all", "a note", "… 1 more table: --all shows all",
    ]  # fmt: skip
    text = plain(draw(table(n_rows=30), grid(30), rows=0))
    assert "word 29.1" in text and "a matrix" in text and "…" not in text


def test_headings_go_on_in_further_lines_where_columns_would_have_no_room(draw: Draw) -> None:
    columns = [Column("part"), *(Column(f"a long heading {i}", 2) for i in range(4))]
    part = Table(title="t", columns=columns, rows=[["head 4.6", 0.25, 0.5, 0.75, 1.0]])
    lines = plain(draw(part, width=50)).splitlines()
    assert max(map(len, lines)) <= 50
    assert " ".join(" ".join(lines[1:-2]).split()).count("heading") == 4
    assert lines[-1].split() == ["head", "4.6", "0.25", "0.50", "0.75", "1.00"]
    assert len(plain(draw(part, width=90)).splitlines()) == 4, "in one line where there is room"


def test_bars_make_way_where_columns_would_have_no_room_beside_each_other(draw: Draw) -> None:
    columns = [Column("token"), *(Column(f"p{i}", 2, bar=True) for i in range(3))]
    part = Table(title="t", columns=columns, rows=[["·is", 1.0, 0.5, 0.25]])
    assert "█" in plain(draw(part, width=60))
    narrow = plain(draw(part, width=40))
    assert "█" not in narrow and narrow.splitlines()[-1].split()[1:] == ["1.00", "0.50", "0.25"]


def test_long_text_goes_on_in_further_lines_and_nothing_of_it_is_lost(draw: Draw) -> None:
    text = "once upon a time there was a little girl who " * 4
    part = Table(title="t", columns=[Column("layer"), Column("text")], rows=[[1, text]])
    lines = plain(draw(part, width=50)).splitlines()
    assert max(map(len, lines)) <= 50
    assert " ".join(" ".join(lines[3:]).split()) == f"1 {text.strip()}"


def test_bars_have_the_length_of_their_share(draw: Draw) -> None:
    rows = [[share] for share in (0.0, 0.04, 0.5, 1.0, None, math.nan)]
    part = Table(title="t", columns=[Column("p", digits=2, bar=True)], rows=rows)
    cells = [line.split() for line in plain(draw(part)).splitlines()[3:9]]
    bars = [cell[1] if len(cell) > 1 else "" for cell in cells]
    assert bars[:4] == ["", "▍", "█████", "██████████"]
    assert bars[4:] == ["", ""]
    assert cells[5] == ["nan"]


def test_bars_are_plain_characters_where_the_terminal_has_no_others(draw: Draw) -> None:
    part = Table(title="t", columns=[Column("p", digits=2, bar=True)], rows=[[0.5]])
    assert "0.50 #####" in plain(draw(part, encoding="latin-1"))


def test_a_matrix_has_the_colours_of_the_pictures(draw: Draw) -> None:
    text = draw(grid(2, values=np.array([[0.0, math.nan], [0.5, 1.0]], np.float32)))
    found = [tuple(map(int, rgb)) for rgb in re.findall(r"48;2;(\d+);(\d+);(\d+)m", text)]
    viridis = [tuple(round(255 * c) for c in colormaps["viridis"](v)[:3]) for v in (0.0, 0.5, 1.0)]
    assert len(found) == 3, "what is masked has no colour"
    np.testing.assert_allclose(found, viridis, atol=3)


@pytest.mark.parametrize("name", ["viridis", "PuOr"])
def test_blended_colours_are_those_of_matplotlib(name: str) -> None:
    anchors = terminal._VIRIDIS if name == "viridis" else terminal._PURPLE_ORANGE
    for share in np.linspace(0, 1, 41):
        ours = terminal._blend(anchors, float(share))
        theirs = [round(255 * c) for c in colormaps[name](float(share))[:3]]
        np.testing.assert_allclose([int(ours[i : i + 2], 16) for i in (0, 2, 4)], theirs, atol=12)


def test_numbers_in_a_matrix_are_readable_on_every_colour() -> None:
    def luminance(rgb: list[int]) -> float:
        parts = [c / 255 for c in rgb]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colours in (terminal._VIRIDIS, terminal._PURPLE_ORANGE):
        for share in np.linspace(0, 1, 50):
            colour = terminal._blend(colours, float(share))
            back = luminance([int(colour[i : i + 2], 16) for i in (0, 2, 4)])
            ink = {"black": 0.0, "white": 1.0}[terminal._ink(colour)]
            high, low = max(back, ink), min(back, ink)
            assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def test_a_matrix_that_has_no_room_for_numbers_is_only_coloured(draw: Draw) -> None:
    roomy, tight = draw(grid(8), width=80), draw(grid(8), width=32)
    assert "0.98" in plain(roomy) and "1.00" in plain(roomy)
    assert "0.98" not in plain(tight)
    assert "48;2;" in tight
    assert max(map(len, plain(tight).splitlines())) <= 32


def test_without_colours_shades_stand_in(draw: Draw) -> None:
    text = draw(grid(8), width=32, colours=None)
    assert "\x1b[48" not in text
    assert "█" in text and "░" in text


def test_a_matrix_wider_than_the_terminal_says_where_to_see_it(draw: Draw) -> None:
    assert "--out x.png" in draw(grid(90), width=60)


def test_columns_with_numbered_labels_are_named_by_their_number(draw: Draw) -> None:
    heading = plain(draw(grid(4))).splitlines()[1]
    assert heading.split() == ["0", "1", "2", "3"]


def test_names_of_columns_stand_over_them(draw: Draw) -> None:
    part = grid(3, column_labels=["one", "two", "a very long name"], digits=2)
    lines = plain(draw(part)).splitlines()
    for name in ("one", "two"):
        end = lines[1].index(name) + len(name)
        assert lines[4][:end].endswith(("0.75", "0.88"))
    assert "a very" in lines[1] and "…" in lines[1]


def maps(size: int, rows: int = 2, across: int = 3) -> Maps:
    values = np.zeros((rows, across, size, size), np.float32)
    values[..., np.arange(size), np.arange(size)] = 1
    values[..., np.triu_indices(size, 1)[0], np.triu_indices(size, 1)[1]] = math.nan
    return Maps(
        title="maps",
        values=values,
        row_labels=[f"layer {i}" for i in range(rows)],
        column_labels=[f"head {i}" for i in range(across)],
    )


def test_small_maps_stand_side_by_side_two_rows_to_a_line(draw: Draw) -> None:
    lines = plain(draw(maps(4))).splitlines()
    assert lines[1].split() == ["head", "0", "head", "1", "head", "2"]
    assert [line[:8].strip() for line in lines[2:7]] == ["layer 0", "", "", "layer 1", ""]
    assert plain(draw(maps(4), colours=None)).splitlines()[2:6] == [
        "layer 0 █      █      █", "         █      █      █",
        "          █      █      █", "           █      █      █",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 200])
def test_large_maps_are_made_smaller_and_keep_their_strongest_points(
    draw: Draw, width: int
) -> None:
    text = plain(draw(maps(64), width=width, colours=None))
    assert max(map(len, text.splitlines())) <= width
    diagonal = [line for line in text.splitlines() if "█" in line]
    assert len(diagonal) == 2 * min(16, (width - 8) // 3 - 1)


def labelled(size: int) -> Maps:
    values = maps(size, rows=1).values * 0.25
    tokens = [f"word{i}" for i in range(size)]
    return Maps(
        title="heads", values=values, row_labels=[""], column_labels=["4.6", "3.7", "4.2"],
        tokens=tokens,
    )  # fmt: skip


def test_labelled_maps_have_tokens_beside_them_and_shares_in_percent(draw: Draw) -> None:
    lines = plain(draw(labelled(5), colours=None)).splitlines()
    assert lines[1].split() == ["4.6", "3.7", "4.2"]
    assert lines[2].split() == ["0", "1", "2", "3", "4"] * 3
    assert [line[:8].strip() for line in lines[3:]] == [f"{i} word{i}" for i in range(5)]
    assert lines[7].split()[2:] == ["0", "0", "0", "0", "25"] * 3
    end = lines[2].index("4") + 1
    assert lines[7][:end].endswith("25"), "numbers stand under their position"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_labelled_maps_of_a_long_text_show_its_end_and_fit(draw: Draw, width: int) -> None:
    lines = plain(draw(labelled(50), width=width, colours=None)).splitlines()
    assert max(map(len, lines)) <= width
    names = [line.split()[0] for line in lines if "word" in line]
    assert names == [str(i) for i in range(34, 50)]


def test_text_is_coloured_by_its_strength(draw: Draw) -> None:
    part = Passage(title="t", spans=[Span("As it "), Span("was", 0.0), Span(" is", 1.0)])
    text = draw(part)
    assert plain(text).splitlines()[1] == "As it was is"
    assert re.findall(r"48;2;([\d;]+)m", text) == ["253;184;99", "140;190;235"]


def test_into_a_pipe_nothing_is_cut_and_nothing_is_coloured(draw: Draw) -> None:
    text = draw(table(n_columns=30), grid(60), is_terminal=False, rows=0)
    assert "\x1b" not in text and "…" not in text
    assert "word 1.29" in text and "1.00" in text


def test_what_would_control_a_terminal_is_not_sent(
    draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", type("Terminal", (), {"isatty": lambda self: True})())
    evil = "\x1b[2Jbad"
    parts = [
        Table(title=evil, columns=[Column(evil)], rows=[[evil]], note=evil),
        Passage(title="t", spans=[Span(evil), Span(evil, 0.5)]),
    ]
    assert "\x1b[2J" not in draw(*parts)
