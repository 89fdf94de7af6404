"""Time taking out every attention head in turn: laplm beside transformers with hooks.

    python benchmarks/ablation_sweep.py                  # GPT-2 small shape, 144 heads, 16 tokens
    python benchmarks/ablation_sweep.py --tokens 64 --repeats 9

Each way runs in a process of its own, loaded once, that waits while another is measured; repeats
are interleaved (A B C A B C ...), the first is not counted, medians are reported. Every way has the
same threads and gives the same result: the change of one token's logit for each head, zero-ablated,
which is compared. README.md in this folder states the protocol.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import machine  # noqa: E402
import numpy as np  # noqa: E402

from laplm.model.config import NAMED_SIZES  # noqa: E402

Array = np.ndarray
Sweep = Callable[[list[int], int], Array]
OURS, PEER, AIM = "laplm fp32", "transformers, a pass for each head", 3.0


def laplm_sweep(model: Path, threads: int, precision: str) -> Sweep:
    """``laplm.look``: runs together, from where they part."""
    from laplm.look import ablate
    from laplm.run.language_model import LanguageModel

    lm = LanguageModel(model, precision, threads)

    def run(ids: list[int], target: int) -> Array:
        return ablate(lm, ids, target=lm.tokenizer.token_text(target)).effect

    return run


def hooked_sweep(model: Path, threads: int, together: bool) -> Sweep:
    """A hook on the input of each ``c_proj`` that puts zeros where a head's result is.

    ``together``: the heads of a layer are the rows of one batch; else each head has its own pass.
    Only the last position's logits are worked out.
    """
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(threads)
    hf = GPT2LMHeadModel.from_pretrained(model, dtype=torch.float32).eval()
    n_head, size = hf.config.n_head, hf.config.n_embd // hf.config.n_head

    def logits(ids: list[int], rows: int, target: int) -> Any:
        batch = torch.tensor([ids] * rows)
        return hf(batch, use_cache=False, logits_to_keep=1).logits[:, -1, target]

    def without(projection: Any, heads: Sequence[int], ids: list[int], target: int) -> Any:
        def take_out(_: Any, inputs: Any) -> Any:
            z = inputs[0].unflatten(-1, (n_head, size)).clone()
            for row, head in enumerate(heads):
                z[row, :, head] = 0
            return (z.flatten(-2), *inputs[1:])

        hook = projection.register_forward_pre_hook(take_out)
        try:
            return logits(ids, len(heads), target)
        finally:
            hook.remove()

    def run(ids: list[int], target: int) -> Array:
        with torch.inference_mode():
            base = logits(ids, 1, target)
            rows = []
            for block in hf.transformer.h:
                groups = [range(n_head)] if together else [[head] for head in range(n_head)]
                parts = [without(block.attn.c_proj, group, ids, target) for group in groups]
                rows.append(torch.cat(parts) - base)
            return torch.stack(rows).numpy()

    return run


WAYS: dict[str, Callable[[Path, int], Sweep]] = {
    OURS: lambda model, threads: laplm_sweep(model, threads, "fp32"),
    "laplm int8": lambda model, threads: laplm_sweep(model, threads, "int8"),
    PEER: lambda model, threads: hooked_sweep(model, threads, together=False),
    "transformers, the heads of a layer in one batch": lambda model, threads: hooked_sweep(
        model, threads, together=True
    ),
}


def serve(way: str, model: Path, threads: int, connection: Connection) -> None:
    """In a process of its own: load, then answer each (ids, target) with (seconds, effects)."""
    sweep = WAYS[way](model, threads)
    connection.send("ready")
    while (request := connection.recv()) is not None:
        start = time.perf_counter()
        effect = sweep(*request)
        connection.send((time.perf_counter() - start, effect))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run every way ``args.repeats`` times and once before; seconds and differences by way."""
    # Read by OpenBLAS and OpenMP when they are loaded, in the processes that are started here.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    context = multiprocessing.get_context("spawn")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 256, args.tokens).tolist()
    target = int(rng.integers(0, 94))  # a printable character by itself, in any byte-level BPE
    workers = {}
    for way in args.ways:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(way, args.model, args.threads, theirs), daemon=True
        )
        process.start()
        ours.recv()
        workers[way] = process, ours
    rows: dict[str, dict[str, Any]] = {
        way: {"seconds_each": [], "disturbed": []} for way in workers
    }
    effects: dict[str, Array] = {}
    for repeat in range(args.repeats + 1):
        for way, (process, connection) in workers.items():
            print(f"repeat {repeat}/{args.repeats}: {way}", file=sys.stderr, flush=True)
            before = machine.CpuTimes.now(process.pid, time.monotonic())
            connection.send((ids, target))
            seconds, effects[way] = connection.recv()
            after = machine.CpuTimes.now(process.pid, time.monotonic())
            if repeat:
                rows[way]["seconds_each"].append(seconds)
                if before and after:
                    rows[way]["disturbed"].append(after.disturbed_since(before))
    for process, connection in workers.values():
        connection.send(None)
        process.join()
    reference = effects.get(PEER, next(iter(effects.values())))
    for way, row in rows.items():
        row["seconds"] = statistics.median(row["seconds_each"])
        row["largest_difference"] = float(np.abs(effects[way] - reference).max())
        row["disturbed"] = statistics.median(row["disturbed"]) if row["disturbed"] else None
    return {"largest_effect": float(np.abs(reference).max()), "ways": rows}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = result["ways"]
    about = result["machine"]
    lines = [
        f"{result['date'][:10]}, {about['cpu']}, {about['cores']} cores, {result['threads']} "
        f"threads; {result['heads']} heads, {result['tokens']} tokens, medians of "
        f"{result['repeats']}.",
        "",
        "| way | seconds | slowest | largest difference of an effect | CPU taken by others |",
        "|---|---|---|---|---|",
    ]
    for way, row in rows.items():
        disturbed = "" if row["disturbed"] is None else f"{row['disturbed']:.0%}"
        lines.append(
            f"| {way} | {row['seconds']:.2f} | {max(row['seconds_each']):.2f} | "
            f"{row['largest_difference']:.1e} | {disturbed} |"
        )
    lines += ["", f"The largest effect of a head is {result['largest_effect']:.1e}."]
    if OURS in rows:
        for way, row in rows.items():
            if way.startswith("transformers"):
                ratio = row["seconds"] / rows[OURS]["seconds"]
                aim = (
                    f" (aim {AIM:g}: {'met' if ratio >= AIM else 'missed'})" if way == PEER else ""
                )
                lines.append(f"{way} / {OURS}: {ratio:.2f} times the time{aim}.")
    return "\n".join(lines) + "\n"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", type=Path, help="a Hugging Face GPT-2 directory (default: generated weights)")
    add("--workdir", type=Path, help="where the generated model is kept (default: user cache)")
    add("--tokens", type=int, default=16, help="length of the prompt (default 16)")
    add("--repeats", type=int, default=5, help="counted repeats (default 5)")
    add("--threads", type=int, default=machine.cores(), help="for every way (default: cores)")
    add(
        "--only", action="append", choices=list(WAYS), dest="ways", help="only this way; repeatable"
    )
    add("--output", type=Path, help="folder for DATE-ablation-sweep.json and .md")
    args = parser.parse_args(argv)
    args.ways = args.ways or list(WAYS)
    if min(args.tokens, args.repeats, args.threads) < 1:
        parser.error("--tokens, --repeats and --threads must be at least 1")
    if args.workdir is None:
        from platformdirs import user_cache_path

        args.workdir = user_cache_path("laplm") / "benchmarks"
    if args.model is None:
        args.model = args.workdir / "gpt2-shape"
        if not (args.model / "config.json").exists():
            from make_model import make_model

            print(f"making {args.model}", file=sys.stderr)
            make_model(NAMED_SIZES["gpt2"], args.model)
    args.model = args.model.resolve()
    os.environ.setdefault("LAPLM_HOME", str(args.workdir.resolve() / "laplm-home"))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and keep it where it is asked for."""
    args = parse(argv)
    config = json.loads((args.model / "config.json").read_text(encoding="utf-8"))
    now = datetime.datetime.now().astimezone()
    result = {
        "schema": 1,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "threads": args.threads,
        "repeats": args.repeats,
        "tokens": args.tokens,
        "heads": config["n_layer"] * config["n_head"],
    } | measure(args)
    text = table(result)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        stem = f"{now:%Y-%m-%d}-ablation-sweep"
        for suffix, content in ((".json", json.dumps(result, indent=1) + "\n"), (".md", text)):
            temporary = args.output / f".{os.getpid()}-{stem}{suffix}"
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(args.output / f"{stem}{suffix}")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
