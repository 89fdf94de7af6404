"""From what is typed to an exit code."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from laplm import __version__
from laplm.cli.arguments import Parser, model_named_by, option_names, selected_parser
from laplm.cli.output import INTERRUPTED, OutputClosedError, note, write
from laplm.errors import InputError, LaplmError, did_you_mean

# A command's module has its name. ``--help`` is made from this table alone, so it is instant.
COMMANDS = {
    "run": "Continue a prompt.",
    "chat": "Talk with a model, or ask it one question.",
    "pull": "Download a model: the only command that opens an outside connection.",
    "models": "List the models on disk; show, rename or delete one.",
    "look": "See what happens inside.",
    "tune": "Fine-tune a model on your own text.",
    "serve": "Serve models over HTTP: OpenAI's API, and a page to look and teach with.",
    "talk": "Open the talk: notebooks from text to the next token, or their slides.",
    "export": "Write a model as other programs read it.",
    "eval": "Measure how well a model predicts a text.",
    "bench": "Time this machine beside what it could do at most.",
    "audit": "Run a command with the outside shut off; report attempts to reach it.",
    "completion": "Print a script that lets a shell complete laplm's words.",
}


class _Version(argparse.Action):
    """Print the version, then the kernels' variant for this machine and why there is no better."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        write(f"laplm {__version__}\n")
        from laplm.native import isa

        write(f"kernels: {isa.choose().name} on {isa.cpu_name()} ({isa.why()})\n")
        parser.exit()


def make_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of what may be typed; a command's ``run`` gives the exit code.

    Args:
        only: the one command whose options are needed; "" for none, None for every one.
    """
    parser = Parser(
        prog="laplm",
        example='laplm run "Once upon a time, there was a little girl"',
        description="Run language models on your own CPU, look inside them, teach them.",
        epilog="Exit codes: 0 fine, 1 our fault, 2 bad usage or input, 130 ended by Ctrl-C.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0,
        help="show the version, and which machine instructions are used here",
    )  # fmt: skip
    commands = parser.add_subparsers(title="commands", dest="subcommand", metavar="COMMAND")

    def add_command(
        name: str, run: Callable[[argparse.Namespace], int], **options: Any
    ) -> argparse.ArgumentParser:
        about = COMMANDS[name]
        sub: argparse.ArgumentParser = commands.add_parser(
            name, help=about, description=about, **options
        )
        sub.set_defaults(run=run)
        return sub

    for name, about in COMMANDS.items():
        if only is None or name == only:
            importlib.import_module(f"laplm.cli.{name}").add_parser(add_command)
        else:
            commands.add_parser(name, help=about)
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
    # Options before a command take no value, so the first other word names it.
    parser = make_parser(next((word for word in argv if not word.startswith("-")), ""))
    try:
        args, unknown = parser.parse_known_args(argv)
    except SystemExit as end:  # --help and --version have printed what was asked for
        return int(end.code or 0)
    command = selected_parser(parser, args)
    if unknown:
        raise InputError(
            f"{_unknown_arguments_message(command, unknown, args)} (see {command.prog} --help)"
        )
    if args.subcommand is None:
        write(parser.format_help())
        return 0
    try:
        code: int = args.run(args)
    except InputError as error:
        raise InputError(error.with_parameter_names(option_names(command))) from error
    return code


# What others call it: options of llama.cpp and Ollama, each with what stands for it here.
_OTHERS_OPTIONS = {
    "--temp": "--temperature", "-c": "--context", "--ctx-size": "--context",
    "--n-predict": "-n", "--predict": "-n", "-t": "--threads", "-s": "--seed",
    "--repeat-penalty": "--repetition-penalty", "-sys": "--system", "--system-prompt": "--system",
    "-f": "--prompt-file", "--file": "--prompt-file", "-r": "--stop",
    "--reverse-prompt": "--stop", "-np": "--slots", "--parallel": "--slots",
}  # fmt: skip
_OTHERS_PROMPTS = ("-p", "--prompt")
_OTHERS_MODELS = ("-m", "--model")


def _unknown_arguments_message(
    command: argparse.ArgumentParser, unknown: Sequence[str], args: argparse.Namespace
) -> str:
    typed = {each.dest: getattr(args, each.dest, None) for each in command._actions}
    prompt = next((typed[name] for name in ("prompt", "question") if name in typed), None)
    option = next((word for word in unknown if word.startswith("-")), None)
    if option is None:
        said = f"too many arguments: {unknown[0]!r}"
        if not isinstance(prompt, str):
            return said
        if typed.get("model") is None and (model := model_named_by(prompt)) is not None:
            return f"{said}; -m names a model: {command.prog} -m {shlex.quote(model)} …"
        return f"{said}; a text of several words stands in quotation marks"
    known = [name for action in command._actions for name in action.option_strings]
    name = option.split("=")[0]
    if (ours := _OTHERS_OPTIONS.get(name)) in known:
        return f"no such option: {option}; here it is {ours}"
    positional = {each.dest for each in command._actions if not each.option_strings}
    if name in _OTHERS_PROMPTS and positional & {"prompt", "question"}:
        return f"no such option: {option}; the text stands by itself, in quotation marks"
    if name in _OTHERS_MODELS and positional & {"model", "models"}:
        return f"no such option: {option}; the model stands by itself: {command.prog} NAME"
    return f"no such option: {option}{did_you_mean(name, known)}"
