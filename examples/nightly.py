"""Tune a model on a folder of notes, but only when something in it has changed.

For cron: 30 2 * * * /path/to/.venv/bin/python nightly.py ~/notes ~/tuned

OUT/current names the directory of the newest model; a run that fails leaves the one before it in
place. Old models stay: delete those that you do not need.
"""

import argparse
import hashlib
import math
import sys
from datetime import datetime
from pathlib import Path

import laplm


def write(path: Path, text: str) -> None:
    """Whole or not at all: whoever reads it never sees half of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main() -> None:
    """Read, compare with what was read last time, tune."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notes", type=Path, help="a folder of .txt, .md, .jsonl and .csv files")
    parser.add_argument("out", type=Path, help="where the models go")
    parser.add_argument("model", nargs="?", default="pocket", help="the model to begin from")
    args = parser.parse_args()

    from laplm.tune.data.read import read_examples
    from laplm.tune_config import TuneConfig

    dataset = read_examples(args.notes)
    texts = (example.text for example in dataset.examples)
    seen = hashlib.sha256("\0".join([args.model, *texts]).encode()).hexdigest()
    stamp = args.out / "seen"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == seen:
        print("nothing has changed since the last run")
        return

    directory = args.out / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    config = TuneConfig(method="lora", patience=3)  # ends early when it gets no better
    result = laplm.fine_tune(dataset, laplm.load(args.model), directory, config)
    write(args.out / "current", f"{directory.name}\n")
    write(stamp, seen)
    before, after = math.exp(result.loss_before), math.exp(result.loss_after)
    print(f"perplexity on notes kept back: {before:.1f} before, {after:.1f} after")
    print(f"try it: laplm run -m {directory}")


if __name__ == "__main__":
    try:
        main()
    except (laplm.LaplmError, OSError) as error:  # too little text, torch missing, a full disk, ...
        sys.exit(f"not tuned: {error}")
