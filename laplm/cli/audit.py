"""``laplm audit``: a command run with the outside shut off."""

from __future__ import annotations

import argparse

from laplm.cli.arguments import AddCommand
from laplm.errors import InputError


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command("audit", run, example="laplm audit -- run 'Once upon a time'")
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="after two dashes")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise InputError("nothing to run: laplm audit -- run 'Once upon a time'")
    from laplm.audit import run_audited

    return run_audited(command)
