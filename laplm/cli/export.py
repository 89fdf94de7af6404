"""``laplm export``: a model as other programs read it."""

from __future__ import annotations

import argparse
from pathlib import Path

from laplm.cli.arguments import AddCommand
from laplm.cli.output import write


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command("export", run, example="laplm export mine --precision q8_0 --out mine.gguf")
    p.add_argument("model", metavar="MODEL", help="a name or a directory, adapters too")
    p.add_argument(
        "--to", metavar="FORM",
        help="hf: a Hugging Face directory; peft-merged: the same, of an adapter; gguf: a file for "
        "llama.cpp and ollama (default: gguf where PATH ends in .gguf, else hf)",
    )  # fmt: skip
    p.add_argument(
        "--precision", default="f32", metavar="KIND",
        help="f32, f16 or bf16; for gguf f32, f16 or q8_0 (default: f32)",
    )  # fmt: skip
    p.add_argument("--out", type=Path, required=True, metavar="PATH", help="where it goes")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from laplm.model.files.export import export
    from laplm.run.language_model import LanguageModel

    done = export(LanguageModel(args.model, "fp32"), args.out, args.to, args.precision)
    write(
        f"{done.path}: {done.size_bytes / 1e6:,.1f} MB; read again, its logits differ by at most "
        f"{done.deviation:.2g} of their spread\n"
    )
    for path in done.also:
        write(f"{path}: for ollama create NAME -f {path}\n")
    return 0
