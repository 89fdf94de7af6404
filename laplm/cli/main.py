"""From what is typed to an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from laplm import __version__
from laplm.cli import (
    audit,
    bench,
    completion,
    eval,
    export,
    look,
    models,
    pull,
    run,
    serve,
    talk,
    tune,
)
from laplm.cli.arguments import Parser, option_names, selected_parser
from laplm.cli.output import INTERRUPTED, OutputClosedError, note, write
from laplm.errors import InputError, LaplmError, did_you_mean

# In the order of ``--help``. Each module has ``add_parser``, and imports what it runs when it runs.
_COMMANDS = (run, pull, models, look, tune, serve, talk, export, eval, bench, audit)


class _Version(argparse.Action):
    """Print the version, then the kernels' variant for this machine and why there is no better."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        write(f"laplm {__version__}\n")
        from laplm.native import isa

        write(f"kernels: {isa.choose().name} on {isa.cpu_name()} ({isa.why()})\n")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Every command with its options; ``run`` of a command gives the exit code."""
    parser = Parser(
        prog="laplm",
        example='laplm run "Once upon a time, there was a little girl"',
        description="Run a GPT-2-family language model on your own CPU, look inside it, teach it.",
        epilog="Exit codes: 0 fine, 1 our fault, 2 bad usage or input, 130 ended by Ctrl-C.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0,
        help="show the version, and which machine instructions are used here",
    )  # fmt: skip
    commands = parser.add_subparsers(title="commands", dest="subcommand", metavar="COMMAND")

    def add_command(
        name: str, run: Callable[[argparse.Namespace], int], description: str, **options: Any
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=description, description=description, **options)
        sub.set_defaults(run=run)
        return sub

    for command in _COMMANDS:
        command.add_parser(add_command)
    completion.add_parser(add_command, make_parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0 fine, 1 our fault, 2 bad usage or input, 130 ended by Ctrl-C.
    """
    # Model text is Unicode, whatever the terminal can show or the locale would write to a file.
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            encoding = out.encoding if out.isatty() else "utf-8"
            out.reconfigure(encoding=encoding, errors="replace")
    try:
        return _call(sys.argv[1:] if argv is None else list(argv))
    except OutputClosedError:
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("LAPLM_DEBUG"):
            raise
        if isinstance(error, LaplmError):
            note(f"laplm: {error}")
            return 2
        if isinstance(error, MemoryError):
            note("laplm: not enough memory; try --precision int4, or a smaller model")
            return 2
        note(
            f"laplm: internal error: {type(error).__name__}: {error}; please report it with what "
            "you typed (LAPLM_DEBUG=1 shows where it happened)"
        )
        return 1


def _call(argv: list[str]) -> int:
    parser = make_parser()
    try:
        args, unknown = parser.parse_known_args(argv)
    except SystemExit as end:  # --help and --version have printed what was asked for
        return int(end.code or 0)
    command = selected_parser(parser, args)
    if unknown:
        raise InputError(f"{_not_known(command, unknown)} (see {command.prog} --help)")
    if args.subcommand is None:
        write(parser.format_help())
        return 0
    try:
        code: int = args.run(args)
    except InputError as error:
        raise InputError(error.named(option_names(command))) from error
    return code


def _not_known(command: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    option = next((word for word in unknown if word.startswith("-")), None)
    if option is None:
        return f"too many arguments: {unknown[0]!r}"
    known = [name for action in command._actions for name in action.option_strings]
    return f"no such option: {option}{did_you_mean(option.split('=')[0], known)}"
