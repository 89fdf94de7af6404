"""``laplm look``: every view of ``laplm.look.VIEWS``, printed, drawn and saved.

Commands and their options are made from the entries. A command has one entry, or several of which
an option chooses: ``laplm look attention --kinds`` is the entry "kinds".
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplm.cli.arguments import (
    AddCommand,
    add_json,
    add_model,
    note_trailing_space,
    open_model,
    read_prompt,
)
from laplm.cli.line_reader import LineReader, read_message
from laplm.cli.output import is_terminal, note, write, write_json
from laplm.cli.progress import ProgressBars, progress_bars
from laplm.errors import InputError, LaplmError

if TYPE_CHECKING:
    from laplm.look.registry import Group, Parameter, ViewEntry
    from laplm.look.view import View

_FILES = "FILE.png|svg|html|csv|json"


def add_parser(add_command: AddCommand) -> None:
    """Add the command, its views and their options."""
    from laplm.look import VIEWS

    def help_page(_: argparse.Namespace) -> int:
        write(look.format_help())
        return 0

    look = add_command("look", help_page, example="laplm look next 'The capital of Spain is'")
    views = look.add_subparsers(title="views", dest="view", metavar="VIEW")
    for command in (entry for entry in VIEWS if not entry.command):
        entries = [entry for entry in VIEWS if command.name in (entry.name, entry.command)]
        _add_command(views, entries)


def _add_command(views: Any, entries: Sequence[ViewEntry]) -> None:
    main = entries[0]
    p = views.add_parser(
        main.name, help=main.summary, description=main.summary, example=main.example,
        epilog=main.epilog,
    )  # fmt: skip
    p.set_defaults(run=_show, entries=entries)
    g = p.add_argument_group("what comes out")
    endings = "".join(f"|{ending.removeprefix('.')}" for ending in main.saves)
    g.add_argument(
        "--out", type=Path, action="append", default=[], metavar=_FILES + endings,
        help="also write a picture, a page or data; may be given several times",
    )  # fmt: skip
    g.add_argument(
        "--rows", type=int, metavar="N",
        help="rows of each table at most; 0: all (default: 24 of all tables together)",
    )  # fmt: skip
    if _shows_all(entries) == "--all":
        g.add_argument("--all", action="store_true", dest="every_row", help="every row and table")
    add_json(g)
    several = bool(main.other_models)
    add_model(p.add_argument_group("the model"), model=not several, precision="fp32")
    if several:
        p.add_argument("model", metavar="MODEL", help="a name or a directory")
    groups: dict[Group, Any] = {}
    added: set[str] = set()
    for entry in entries:
        if entry.flag is not None:
            p.add_argument(entry.flag[0], action="store_true", help=entry.flag[1])
        for parameter in entry.parameters:
            if not parameter.typed or parameter.name in added:
                continue
            added.add(parameter.name)
            place = p
            if (group := parameter.group) is not None:
                if group not in groups:
                    groups[group] = p.add_argument_group(*group)
                place = groups[group]
            _add_parameter(place, parameter)


def _shows_all(entries: Sequence[ViewEntry]) -> str:
    """The option that shows every row: --all, where that does not choose a view."""
    taken = {entry.flag[0] for entry in entries if entry.flag is not None}
    return "--rows 0" if "--all" in taken else "--all"


def _add_parameter(p: Any, parameter: Parameter) -> None:
    """One argument or option; what is not typed is None, or an empty list."""
    help_text = parameter.help
    default = parameter.default
    told = "(default" in help_text or isinstance(default, bool)
    if isinstance(default, int | float | str) and not told:
        shown = repr(default) if isinstance(default, str) and " " in default else default
        help_text = f"{help_text} (default: {shown})".lstrip()
    kind = {"int": int, "float": float}.get(parameter.kind, str)
    options: dict[str, Any] = {"help": help_text, "type": kind}
    if parameter.positional:
        (options["metavar"],) = parameter.typed
        if parameter.required and parameter.files:
            options["nargs"] = "?"
        elif parameter.many or parameter.piped:
            options["nargs"] = "*" if parameter.many else "?"
        p.add_argument(parameter.name, **options)
        if parameter.files:
            what = "each of its lines one" if parameter.lines else "read as one"
            p.add_argument(
                parameter.files, action="append", default=[], type=Path, metavar="FILE",
                dest=f"{parameter.name}_files",
                help=f"the same from a file of text, {what}; may be given several times",
            )  # fmt: skip
        return
    options["dest"] = parameter.name
    if parameter.kind == "bool":
        del options["type"]
        options["action"] = "store_true"
    else:
        options["metavar"] = parameter.metavar
        if parameter.many:
            options |= {"action": "append", "default": []}
        if parameter.bare is not None:
            options |= {"nargs": "?", "const": parameter.bare}
    p.add_argument(*parameter.typed, **options)
    for flag, value in parameter.shorthands.items():
        p.add_argument(flag, action="store_const", dest=parameter.name, const=value)
    for name in parameter.former:
        p.add_argument(f"--{name}", dest=parameter.name, type=kind, help=argparse.SUPPRESS)


def _read_texts(p: Parameter, args: argparse.Namespace) -> list[str]:
    """The texts of the files that were given for a parameter.

    Raises:
        InputError: a file cannot be read, or is not text.
    """
    from laplm.run.evaluate import read_documents

    texts: list[str] = []
    for path in getattr(args, f"{p.name}_files"):
        for document in read_documents(path):
            lines = document.text.splitlines() if p.lines else [document.text]
            texts += [line for line in lines if line.strip()]
    return texts


# --- from what was typed to a view ------------------------------------------------------------


def _show(args: argparse.Namespace) -> int:
    from laplm.look.view import EXTENSIONS, check_extension

    entry = _chosen(args)
    rows = 0 if getattr(args, "every_row", False) else args.rows
    if rows is not None and rows < 0:
        raise InputError(f"--rows is {rows}, but it must be 0 (all) or more")
    for path in args.out:
        # Before anything is computed.
        check_extension(path, (*EXTENSIONS, *entry.saves))
    if entry.converses and _asked_for(args, entry):
        return _converse(args, entry, rows)
    for parameter in entry.parameters:
        if parameter.piped:
            setattr(args, parameter.name, read_prompt(getattr(args, parameter.name)))
    with progress_bars() as progress:
        lm = open_model(args.model, args.precision, args.threads, progress)
        view = entry.load()(lm, **_arguments(entry, args, progress))
    if entry.continues:
        note_trailing_space(getattr(args, entry.continues), lm)
    _give(args, view, rows)
    return 0


def _give(args: argparse.Namespace, view: View, rows: int | None) -> None:
    """Save and print a view."""
    from laplm.cli import terminal

    for path in args.out:
        view.save(path)
        note(f"{path} written")
    if args.json:
        write_json(view.to_dict())
    else:
        terminal.print_parts(view.parts(), rows, view.sentence(), _shows_all(args.entries))


def _asked_for(args: argparse.Namespace, entry: ViewEntry) -> bool:
    """Whether a person is asked again and again what to say, as nothing was typed."""
    typed = getattr(args, entry.parameters[0].name)
    return typed is None and sys.stdin is not None and is_terminal(sys.stdin)


def _converse(args: argparse.Namespace, entry: ViewEntry, rows: int | None) -> int:
    """A view of each answer of a conversation, until the person leaves."""
    message = entry.parameters[0].name
    with progress_bars() as progress:
        lm = open_model(args.model, args.precision, args.threads, progress)
        arguments = _arguments(entry, args, progress)
        _ = lm.gpt
    said = list(arguments.pop(entry.converses, ()))
    reader = LineReader(["/exit"])
    note('each answer is shown from inside; """ begins and ends several lines, Ctrl-D leaves',
         dim=True)  # fmt: skip
    while True:
        try:
            text, _ = read_message(reader, ">>> ", "... ")
            if text.strip() in ("/exit", "/bye"):
                return 0
            if not text.strip():
                continue
            view = entry.load()(lm, **arguments, **{message: text, entry.converses: said})
            _give(args, view, rows)
            said += [text, view.answer]
        except EOFError:
            write("\n")
            return 0
        except KeyboardInterrupt:
            write("\n")
            note("Ctrl-D or /exit leaves", dim=True)
        except LaplmError as error:
            note(f"{error}")


def _chosen(args: argparse.Namespace) -> ViewEntry:
    """Which of a command's views was typed.

    Raises:
        InputError: half of what chooses one was given, or what only another one takes.
    """
    main, *others = args.entries
    chosen: ViewEntry = main
    for entry in others:
        by_flag = entry.flag is not None and getattr(args, entry.flag[0].removeprefix("--"))
        given = [name for name in entry.chosen_by if _given(args, name)]
        if entry.needs and 0 < len(given) < len(entry.chosen_by):
            raise InputError(f"give both {_choice(entry)} {entry.needs}")
        if by_flag or given:
            chosen = entry
    own = {p.name for p in chosen.parameters}
    for entry in args.entries:
        for p in entry.parameters:
            if p.name in own or not p.typed or not _given(args, p.name):
                continue
            if chosen.alone:
                raise InputError(chosen.alone)
            if not p.positional:
                when = f"without {_choice(entry)}" if chosen is main else f"with {_choice(chosen)}"
                raise InputError(f"{p.typed[0]} changes nothing {when}; leave it out")
    return chosen


def _choice(entry: ViewEntry) -> str:
    """What is typed to choose a view of a command."""
    if entry.flag is not None:
        return entry.flag[0]
    options = {p.name: p.typed[0] for p in entry.parameters if p.typed}
    names = entry.chosen_by if entry.needs else entry.chosen_by[:1]
    return " and ".join(options[name] for name in names)


def _given(args: argparse.Namespace, name: str) -> bool:
    value = getattr(args, name, None)
    return value is not None and value is not False and value != []


def _arguments(
    entry: ViewEntry, args: argparse.Namespace, progress: ProgressBars
) -> dict[str, Any]:
    """The arguments of a view's function: those that were typed, models opened."""
    found = {p.name: getattr(args, p.name) for p in entry.parameters if _given(args, p.name)}
    for p in entry.parameters:
        if p.files:
            typed = found.pop(p.name, [])
            texts = [*([typed] if isinstance(typed, str) else typed), *_read_texts(p, args)]
            if texts:
                found[p.name] = texts
            elif p.required:
                raise InputError(f"give {p.typed[0]}, or {p.files} FILE")
    for name in entry.other_models:
        found[name] = open_model(found[name], args.precision, args.threads, progress)

    def told(what: str, done: int, total: int) -> None:
        if done == 0 and entry.announce:
            note(entry.announce.format(f"{total / 1e6:,.1f}"))
        progress(what, done, total)

    if "progress" in inspect.signature(entry.load()).parameters:
        found["progress"] = told
    return found
