"""``laplm models``: the models on disk."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from laplm.cli.arguments import AddCommand, add_json
from laplm.cli.output import write, write_json
from laplm.errors import visible

if TYPE_CHECKING:
    from laplm.hub.locate import InstalledModel


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command("models", run, example="laplm models")
    add_json(p)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from laplm.hub import locate

    found = locate.installed()
    if args.json:
        import dataclasses

        write_json([dataclasses.asdict(m) | {"path": str(m.path)} for m in found])
        return 0
    rows: list[tuple[str, ...]] = [("name", "parameters", "on disk", "stored as", "path")]
    for m in found:
        parameters = "?" if m.n_parameters is None else f"{m.n_parameters / 1e6:,.1f} M"
        path = f"{m.path} ({m.problem})" if m.problem else str(m.path)
        row = (m.name, parameters, f"{m.size_bytes / 1e6:,.1f} MB", m.dtype or "?", path)
        # What a directory is called may hold anything.
        rows.append(tuple(visible(" ".join(cell.split("\n"))) for cell in row))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for name, parameters, size, dtype, path in rows:
        write(
            f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {size:>{widths[2]}}  "
            f"{dtype:<{widths[3]}}  {path}\n"
        )
    for m in found:
        if m.summary is not None:
            write("\n" + _about(m))
    return 0


def _about(model: InstalledModel) -> str:
    import shutil
    import textwrap

    from laplm.built_in import CARD

    size = f"{model.size_bytes / 1e6:,.1f} MB"
    if model.n_parameters is not None:
        size = f"{model.n_parameters / 1e6:,.1f} million parameters, {size}"
    width = min(100, shutil.get_terminal_size().columns)
    lines = textwrap.wrap(
        model.summary or "", max(20, width), initial_indent="  ", subsequent_indent="  "
    )
    # The path stays whole: it is for clicking and copying.
    return "\n".join([f"{model.name}: {size}", *lines, f"  More: {model.path / CARD}", ""])
