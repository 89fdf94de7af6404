"""The pictures that views are drawn with, such as ``figures.heatmap``, ``figures.bar_chart``.

Each is built once, for all rooms, in a module by what is drawn; ``canvas.py`` has what all share.
"""

from laplm.look.figures.bar_charts import (
    bar_chart,
    bar_panels,
    grouped_bars,
    neuron_panels,
    token_columns,
    why_panels,
)
from laplm.look.figures.box_diagrams import block_diagram, boxes, network
from laplm.look.figures.canvas import (
    FRAME,
    OKABE_ITO,
    fallback_fonts,
    magnify,
    new_figure,
    sheet_title,
    shorten,
    shorten_start,
    style_context,
)
from laplm.look.figures.curves import learning_curves, line_chart, map_and_lines
from laplm.look.figures.matrices import (
    Panel,
    draw_heatmap,
    heatmap,
    label_ticks,
    panels,
    small_multiples,
    write_numbers,
    write_texts,
)
from laplm.look.figures.scatter_plots import TimelinePoint, scatter, timeline

__all__ = [
    "FRAME",
    "OKABE_ITO",
    "Panel",
    "TimelinePoint",
    "bar_chart",
    "bar_panels",
    "block_diagram",
    "boxes",
    "draw_heatmap",
    "fallback_fonts",
    "grouped_bars",
    "heatmap",
    "label_ticks",
    "learning_curves",
    "line_chart",
    "magnify",
    "map_and_lines",
    "network",
    "neuron_panels",
    "new_figure",
    "panels",
    "scatter",
    "sheet_title",
    "shorten",
    "shorten_start",
    "small_multiples",
    "style_context",
    "timeline",
    "token_columns",
    "why_panels",
    "write_numbers",
    "write_texts",
]
