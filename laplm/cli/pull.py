"""``laplm pull``: a model downloaded from the hub."""

from __future__ import annotations

import argparse

from laplm.cli.arguments import AddCommand
from laplm.cli.output import write
from laplm.cli.progress import progress_bars
from laplm.errors import LaplmError


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command("pull", run, example="laplm pull gpt2")
    p.add_argument("name", metavar="NAME", help="gpt2, gpt2-medium, ..., or owner/name on the hub")
    p.add_argument("--force", action="store_true", help="fetch every file afresh")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from laplm.hub import locate, pull

    with progress_bars(in_bytes=True) as bars:
        path = pull.pull(
            args.name,
            force=args.force,
            # What is counted are the bytes of all files: one bar is enough.
            progress=lambda _, done, total: bars(args.name, done, total),
        )
    write(f"{args.name} is in {path}\n")
    if locate.is_adapter(path):
        from laplm.model.files.adapter import read_adapter_config

        base = read_adapter_config(path).base_model_name_or_path
        try:
            locate.locate_base(path, base)
        except LaplmError:
            write(f"it is an adapter for {base}, which is not on disk: laplm pull {base}\n")
    return 0
