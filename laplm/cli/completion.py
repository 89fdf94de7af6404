"""``laplm completion``: a shell's completion of commands, views, options, models and files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laplm.cli.arguments import AddCommand
from laplm.cli.output import write
from laplm.errors import InputError, did_you_mean

SHELLS = ("bash", "zsh", "fish")


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command(
        "completion", run,
        example="laplm completion bash > ~/.local/share/bash-completion/completions/laplm",
        epilog="zsh: laplm completion zsh > ~/.zfunc/_laplm, where fpath has ~/.zfunc. fish: laplm "
        "completion fish > ~/.config/fish/completions/laplm.fish. For this shell alone: "
        'eval "$(laplm completion bash)". Write it again when laplm is a new version.',
    )  # fmt: skip
    p.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.shell not in SHELLS:
        hint = did_you_mean(args.shell, SHELLS)
        raise InputError(f"shell is {args.shell!r}, but it must be bash, zsh or fish{hint}")
    from laplm.cli.main import make_parser

    write(script(make_parser(), args.shell))
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of ``SHELLS``."""
    import shtab

    for action in _actions(parser):
        if action.dest == "directory" or action.metavar == "DIR":
            _complete(action, shtab.DIRECTORY)
        elif action.type is Path:
            _complete(action, shtab.FILE)
        elif action.dest in ("model", "models", "other"):
            _complete(action, _models())
    text: str = shtab.complete(parser, shell)
    return text if text.endswith("\n") else f"{text}\n"


def _complete(action: argparse.Action, how: dict[str, Any]) -> None:
    vars(action)["complete"] = how  # where shtab looks


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)
        else:
            yield action


def _models() -> dict[str, Any]:
    """Names that every laplm knows, and directories; not what is on disk, which takes a moment."""
    from laplm.hub.locate import ALIASES, POCKET

    names = " ".join([POCKET, *ALIASES])
    return {
        "bash": "_laplm_models",
        "zsh": "_laplm_models",
        "fish": rf"(printf '%s\n' {names}; __fish_complete_directories)",
        "preamble": {
            "bash": f'_laplm_models() {{ compgen -W "{names}" -- "$1"; compgen -d -- "$1"; }}',
            "zsh": f"_laplm_models() {{ compadd {names}; _path_files -/ }}",
        },
    }
