"""The pictures that views are drawn with, such as ``figures.heatmap``, ``figures.bars``.

Each is built once, for all rooms, in a module by what is drawn; ``canvas.py`` has what all share.
"""

from laplm.look.figures.bar_charts import (
    bar_panels,
    bars,
    grouped_bars,
    neuron_panels,
    story,
    token_columns,
)
from laplm.look.figures.box_diagrams import boxes, network, tower
from laplm.look.figures.canvas import (
    FRAME,
    OKABE_ITO,
    ending,
    magnify,
    new_figure,
    other_scripts,
    sheet_title,
    shorten,
    style_context,
)
from laplm.look.figures.curves import learning_curves, lines, map_and_lines
from laplm.look.figures.matrices import (
    Panel,
    heatmap,
    paint,
    panels,
    small_multiples,
    ticks,
    write_numbers,
    write_texts,
)
from laplm.look.figures.scatter_plots import Dated, scatter, timeline

__all__ = [
    "FRAME",
    "OKABE_ITO",
    "Dated",
    "Panel",
    "bar_panels",
    "bars",
    "boxes",
    "ending",
    "grouped_bars",
    "heatmap",
    "learning_curves",
    "lines",
    "magnify",
    "map_and_lines",
    "network",
    "neuron_panels",
    "new_figure",
    "other_scripts",
    "paint",
    "panels",
    "scatter",
    "sheet_title",
    "shorten",
    "small_multiples",
    "story",
    "style_context",
    "ticks",
    "timeline",
    "token_columns",
    "tower",
    "write_numbers",
    "write_texts",
]
