"""``laplm eval``: how well a model predicts a text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from laplm.cli.arguments import AddCommand, add_json, add_model, open_model
from laplm.cli.output import write, write_json
from laplm.cli.progress import progress_bars
from laplm.errors import InputError


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command("eval", run, example="laplm eval notes.txt -m gpt2")
    p.add_argument("path", nargs="?", type=Path, metavar="FILE|DIR", help="UTF-8 text to score")
    p.add_argument(
        "--window", type=int, metavar="N",
        help="tokens seen at once (default: 1024, or the model's context)",
    )  # fmt: skip
    p.add_argument(
        "--stride", type=int, metavar="N",
        help="tokens scored with each further window (default: half the window)",
    )  # fmt: skip
    p.add_argument(
        "--lambada", type=Path, metavar="FILE.jsonl",
        help='guess the last word of each line\'s {"text": ...}',
    )  # fmt: skip
    add_model(p)
    add_json(p)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.path is None and args.lambada is None:
        raise InputError("nothing to score: give a text file or directory, or --lambada FILE")
    from laplm.run import evaluate

    documents = evaluate.read_documents(args.path) if args.path else []
    passages = evaluate.read_lambada(args.lambada) if args.lambada else []
    out: dict[str, Any] = {}
    reports = []
    with progress_bars() as progress:
        lm = open_model(args.model, args.precision, args.threads, progress)
        if documents:
            scored = evaluate.perplexity(
                lm, documents, window=args.window, stride=args.stride, progress=progress
            )
            out["text"] = {"path": str(args.path)} | scored.to_dict()
            reports.append(scored.report())
        if passages:
            guessed = evaluate.lambada(lm, passages, progress=progress)
            out["lambada"] = {"path": str(args.lambada)} | guessed.to_dict()
            reports.append(guessed.report())
    if args.json:
        write_json(out)
    else:
        write("\n\n".join(reports) + "\n")
    return 0
