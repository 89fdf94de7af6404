"""One command from a directory of texts to the model in the package; see README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

import laplm
from laplm.errors import LaplmError
from recipes.pocket.evaluate import evaluate
from recipes.pocket.make_corpus import make_corpus
from recipes.pocket.pack import MAX_BYTES, pack
from recipes.pocket.train import VOCAB_SIZE, train, train_config
from recipes.pocket.train_tokenizer import encode_corpus, train_tokenizer

HERE = Path(__file__).parent
PACKAGE = Path(next(iter(laplm.__path__))) / "pocket"


def main(argv: list[str] | None = None) -> int:
    """Do every step; training goes on from its last checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m recipes.pocket", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="directory of the source texts")
    parser.add_argument(
        "--work", type=Path, default=HERE / "work", help="where work files go (%(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=PACKAGE, help="where the model goes (%(default)s)"
    )
    parser.add_argument("--max-steps", type=int, default=4000, help="training steps (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    args = parser.parse_args(argv)
    console = Console(stderr=True, highlight=False)
    try:
        config = train_config(args.max_steps)
        if args.threads is not None and args.threads < 1:
            parser.error(f"--threads is {args.threads}, but it must be at least 1")
        # The first two steps take seconds and always give the same files, so they simply run
        # again; training notices when its data is no longer the same.
        console.print("1/5 corpus")
        make_corpus(args.corpus, args.work)
        console.print("2/5 tokenizer")
        train_tokenizer(args.work, VOCAB_SIZE)
        encode_corpus(args.work)
        console.print("3/5 training")
        train(args.work, config=config, threads=args.threads)
        console.print("4/5 packing")
        size = pack(args.work, args.output)
        console.print(f"  {args.output}: {size:,} of {MAX_BYTES:,} bytes")
        console.print("5/5 evaluation")
        evaluate(args.output, args.work)
        console.print(f"  {args.work / 'evaluation.md'}")
    except (LaplmError, OSError) as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
