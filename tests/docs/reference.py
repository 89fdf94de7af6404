"""The reference of commands, from the program: ``python -m tests.docs.reference`` writes it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from laplm.cli.main import make_parser

PAGE = Path(__file__).parents[2] / "docs/reference/commands.md"
_INTRO = """# Commands

Every command, argument and option. This page is made from the program; a test compares the two.

Exit codes: 0 fine, 1 our fault, 2 bad usage or input, 130 ended by Ctrl-C.
"""


def text() -> str:
    """The page as the program would have it."""
    parser = make_parser()
    return "\n".join([_INTRO, *_commands(parser, "laplm", 2)]) + "\n"


def _commands(parser: argparse.ArgumentParser, name: str, level: int) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, sub in action.choices.items():
                yield f"{'#' * level} {name} {word}\n"
                yield f"{_plain(sub.description or '')}\n"
                yield from _arguments(sub)
                if sub.example:
                    yield f"For example: `{sub.example}`\n"
                if sub.epilog:
                    yield f"{_plain(sub.epilog)}\n"
                yield from _commands(sub, f"{name} {word}", level + 1)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for group in parser._action_groups:
        rows = [
            f"| {_code(_invocation(action))} | {_plain(_help(action, parser))} |"
            for action in group._group_actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
            and action.help != argparse.SUPPRESS
        ]
        if rows:
            title = {"options": "option", "positional arguments": "argument"}.get(
                group.title or "", group.title or ""
            )
            yield "\n".join([f"| {title} | what it does |", "|---|---|", *rows, ""])


def _invocation(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if not action.option_strings:
        more = {"?": f"[{value}]", "*": f"[{value} ...]"}
        return more.get(str(action.nargs), f"{value}")
    takes = f" [{value}]" if action.nargs == "?" else f" {value}" if action.nargs != 0 else ""
    return ", ".join(action.option_strings) + takes


def _code(words: str) -> str:
    # A bar ends a cell, in some readers of Markdown even between backticks.
    return f"`{words}`" if "|" not in words else f"<code>{words.replace('|', '&#124;')}</code>"


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    return (action.help or "") % (vars(action) | {"prog": parser.prog})


def _plain(words: str) -> str:
    """As Markdown shows it word for word."""
    words = " ".join(words.split())
    for character in "\\*_<>|":
        words = words.replace(character, f"\\{character}")
    return words


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
