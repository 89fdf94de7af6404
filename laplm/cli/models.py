"""``laplm models``: the models on disk, one of them, or one less."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from laplm.cli.arguments import AddCommand, add_json
from laplm.cli.output import note, terminal_columns, write, write_json
from laplm.errors import InputError, visible

if TYPE_CHECKING:
    from laplm.hub.locate import InstalledModel


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command("models", run, example="laplm models show pocket")
    p.add_argument(
        "action", nargs="?", choices=("show", "rm", "rename"), metavar="show|rm|rename",
        help="show tells more of one model, rm deletes one that `laplm pull` fetched or `laplm "
        "tune` made, rename gives a result of tuning another name (default: list all, those of "
        "Ollama, LM Studio and llama.cpp too)",
    )  # fmt: skip
    p.add_argument("model", nargs="?", metavar="NAME", help="the model that is meant")
    p.add_argument("new", nargs="?", metavar="NEW", help="with rename: its new name")
    add_json(p)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from laplm.hub import locate

    if args.action is not None and args.model is None:
        raise InputError(f"which model? laplm models {args.action} NAME; `laplm models` lists them")
    if (args.action == "rename") != (args.new is not None):
        if args.new is not None:
            raise InputError(f"{args.new!r} is too much; laplm models {args.action} takes one NAME")
        raise InputError(f"what shall it be called? laplm models rename {args.model} NEW")
    if args.action == "rename":
        from laplm.hub import tuned

        write(f"{visible(args.model)} is now {tuned.rename(args.model, args.new)}\n")
        return 0
    if args.action == "rm":
        from laplm.hub.remove import remove

        freed = remove(args.model)
        write(f"{visible(args.model)} is deleted, {freed / 1e6:,.1f} MB are free\n")
        return 0
    if args.action == "show":
        return _show(args.model, as_json=args.json)
    found = locate.installed()
    if args.json:
        write_json([_values(m) for m in found])
        return 0
    _print_table(found)
    for m in found:
        if m.summary is not None:
            write("\n" + _about(m))
    return 0


def _print_table(found: list[InstalledModel]) -> None:
    """One line for each model; on a terminal that is narrower than these, without the paths."""
    rows: list[tuple[str, ...]] = [("name", "family", "parameters", "on disk", "stored as", "path")]
    for m in found:
        parameters = "?" if m.n_parameters is None else f"{m.n_parameters / 1e6:,.1f} M"
        path = f"{m.path} ({m.problem})" if m.problem else str(m.path)
        size = f"{m.size_bytes / 1e6:,.1f} MB"
        cells = (m.name, m.family or "?", parameters, size, m.dtype or "?", path)
        # What a directory is called may hold anything.
        rows.append(tuple(visible(" ".join(cell.split("\n"))) for cell in cells))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]

    def format_middle_cells(row: tuple[str, ...]) -> str:
        _, family, parameters, size, dtype, _ = row
        return (
            f"{family:<{widths[1]}}  {parameters:>{widths[2]}}  {size:>{widths[3]}}  "
            f"{dtype:<{widths[4]}}"
        )

    columns = terminal_columns()
    if columns is None or sum(widths) + 10 <= columns:
        for row in rows:
            write(f"{row[0]:<{widths[0]}}  {format_middle_cells(row)}  {row[5]}\n")
        return
    room = max(len("name"), min(widths[0], columns - len(format_middle_cells(rows[0])) - 2))
    for row, model in zip(rows, [None, *found], strict=True):
        name = row[0] if len(row[0]) <= room else f"{row[0]}\n{'':<{room}}"
        write(f"{name:<{room}}  {format_middle_cells(row)}".rstrip() + "\n")
        if model is not None and model.problem:
            write(f"  {visible(' '.join(model.problem.splitlines()))}\n")
    note("laplm models show NAME tells where one lies", dim=True)


def _values(model: InstalledModel) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(model) | {"path": str(model.path)}


_LABELS = {
    "n_parameters": "parameters", "size_bytes": "bytes on disk", "dtype": "stored as",
    "n_layer": "layers", "n_embd": "width", "n_head": "heads", "n_kv_head": "key heads",
    "n_ctx": "context", "vocab_size": "vocabulary",
}  # fmt: skip


def _show(name: str, *, as_json: bool) -> int:
    """One model: what it is, and what it is made of."""
    from laplm.hub import locate
    from laplm.hub.licence import licence_of
    from laplm.model.chat import read_chat_templates
    from laplm.model.files.checkpoint import open_checkpoint, read_config

    file = locate.gguf_tables(name)
    model = locate.describe(name, file)
    values = _values(model)
    if locate.is_adapter(model.path):
        from laplm.model.files.adapter import read_adapter_config

        values["base_model"] = read_adapter_config(model.path).base_model_name_or_path
    elif model.n_parameters is not None:
        config = read_config(model.path, file)
        names = ("n_layer", "n_embd", "n_head", "n_kv_head", "n_ctx", "vocab_size")
        values |= {each: getattr(config, each) for each in names}
        if model.dtype is not None and model.problem is None:
            from laplm.model.engine.matrices import default_precision
            from laplm.model.engine.model import cache_bytes

            checkpoint = open_checkpoint(model.path, file)
            position_bytes = cache_bytes(checkpoint, default_precision(checkpoint))
            values["context_bytes"] = config.n_ctx * position_bytes
            values["chat"] = bool(read_chat_templates(model.path, file))
    values["licence"] = licence_of(model.path, file)
    if as_json:
        write_json(values)
        return 0
    for key, value in values.items():
        if value is not None:
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            if isinstance(value, bool):
                shown = "yes" if value else "no"
            label = _LABELS.get(key, key.replace("_", " "))
            write(visible(f"{label:<14}  {' '.join(shown.splitlines())}") + "\n")
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
