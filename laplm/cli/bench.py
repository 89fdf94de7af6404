"""``laplm bench``: how fast this machine is, beside what it could be at most."""

from __future__ import annotations

import argparse

from laplm.cli.arguments import AddCommand, add_json, add_model, open_model
from laplm.cli.output import write, write_json
from laplm.cli.progress import progress_bars
from laplm.errors import InputError


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command("bench", run, example="laplm bench --shape gpt2")
    p.add_argument(
        "--shape", metavar="NAME",
        help="time generated weights of the shape of gpt2, smollm2, llama3.2-1b, ... instead of a "
        "model",
    )  # fmt: skip
    p.add_argument(
        "--repeats", type=int, default=9, metavar="N", help="the median of N counts (default: 9)"
    )
    add_model(p)
    add_json(p)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from laplm.model.engine.model import GPT
    from laplm.run import bench

    if args.shape is not None and args.model is not None:
        raise InputError("--shape and --model: give one of them")
    if not 1 <= args.repeats <= 1000:
        raise InputError(f"--repeats is {args.repeats}, but it must be between 1 and 1000")
    with progress_bars() as progress:
        if args.shape is not None:
            name, cold_start = f"generated weights, shape {args.shape}", None
            checkpoint = bench.GeneratedCheckpoint(args.shape)
            gpt = GPT(checkpoint, args.precision, threads=args.threads, progress=progress)
        else:
            lm = open_model(args.model, args.precision, args.threads, progress)
            name, gpt, cold_start = lm.name, lm.gpt, str(lm.path)
        result = bench.bench(
            gpt, name, repeats=args.repeats, cold_start=cold_start, progress=progress
        )
    if args.json:
        write_json(result.to_dict())
    else:
        write(bench.report(result))
    return 0
