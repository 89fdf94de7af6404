"""Time tuning: laplm beside transformers' Trainer and PEFT, and the memory each takes.

    python benchmarks/tune.py                                   # GPT-2 small shape, 20 minutes
    python benchmarks/tune.py --only lora --shapes 4x256 --steps 4

Every way trains the same generated weights on the same tokens, with the same batch, AdamW, number
of threads and dropout, each time in a process of its own, so that its peak memory is its own.
Rounds are interleaved (A B C A B C ...); the first steps of a process are not counted; medians
are reported. Losses of the first step are shown. The machine's rate of matrix products is
measured beside them. README.md in this folder states the protocol.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import machine  # noqa: E402
import numpy as np  # noqa: E402

from laplm.model.config import NAMED_SIZES, ModelConfig  # noqa: E402

# (engine, method, precision); "best" is what laplm takes on this machine.
WAYS = {
    "full": [
        ("laplm", "best"), ("Trainer", "fp32"), ("Trainer", "bf16"),
    ],
    "lora": [
        ("laplm", "best"), ("PEFT", "fp32"), ("PEFT", "bf16"),
    ],
}  # fmt: skip
SHAPES = {"full": ["4x256", "1x1024"], "lora": ["4x256", "1x1024"]}
# What is aimed at: ours is so many times as fast, in so much of the memory.
AIMS = {
    ("full", "4x256"): {"fp32": 2.7, "bf16": 1.5, "memory": 0.45},
    ("full", "1x1024"): {"fp32": 4.0, "bf16": 2.2, "memory": 0.45},
    ("lora", "4x256"): {"fp32": 2.0, "bf16": 1.4, "memory": 0.5},
    ("lora", "1x1024"): {"fp32": 2.0, "bf16": 1.4, "memory": 0.5},
}
UNCOUNTED = 2
RATE = 1e-4
RANK = 8


# --- one process: so many steps ----------------------------------------------------------------


def tokens(vocab_size: int, n: int, seed: int = 0) -> np.ndarray:
    """Ids that a model can learn something from: few are frequent, most are rare."""
    rng = np.random.default_rng(seed)
    return np.minimum(rng.zipf(1.3, n) - 1, vocab_size - 1).astype(np.int64)


class Enough(Exception):  # noqa: N818
    """All steps that are timed have been made."""


def train_laplm(args: argparse.Namespace) -> dict[str, Any]:
    """``laplm.fine_tune``'s own trainer, as ``laplm tune`` sets it up."""
    import torch

    from laplm.machine import peak_bytes
    from laplm.model.files.checkpoint import open_checkpoint
    from laplm.tune.data.packing import Documents, EncodedDocument
    from laplm.tune.trainer import TrainConfig, Trainer, best_precision
    from laplm.tune.tuning import model_to_train
    from laplm.tune_config import LoRAConfig, TuneConfig

    torch.set_num_threads(args.threads)
    checkpoint = open_checkpoint(Path(args.model))
    precision = best_precision() if args.precision == "best" else args.precision
    settings = TuneConfig(
        method=args.method, lora=LoRAConfig(r=RANK), base_precision=args.base, precision=precision
    )
    model = model_to_train(checkpoint, settings, precision)
    # Documents of a whole window each, which is the usual causal mask.
    n = args.positions + 1
    ids = tokens(checkpoint.config.vocab_size, args.batch * n * (args.steps + 1)).astype(np.int32)
    documents = [EncodedDocument(row, np.ones(n, np.bool_)) for row in ids.reshape(-1, n)]
    data = Documents(documents, n_bytes=len(ids), padding=0)
    times: list[float] = []
    losses: list[float] = []
    last = time.perf_counter()

    def on_step(now: Any) -> None:
        nonlocal last
        times.append(time.perf_counter() - last)
        losses.append(now.train_loss)
        peak = peak_bytes()
        result["peak_bytes"] = peak
        if len(times) == args.steps:
            raise Enough
        last = time.perf_counter()

    result: dict[str, Any] = {}
    config = TrainConfig(
        max_steps=args.steps + 1, learning_rate=RATE, final_learning_rate=RATE,
        batch_size=args.batch, n_positions=args.positions, warmup_steps=0,
        dropout=args.dropout, weight_decay=0.0,
        eval_interval=10**6, eval_windows=1, checkpoint_seconds=1e6, precision=precision,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(model, data, data, config, Path(directory), on_step=on_step)
        with contextlib.suppress(Enough):  # before anything is measured or saved
            trainer.run()
    return result | {"seconds": times, "losses": losses, "precision": precision}


def train_transformers(args: argparse.Namespace) -> dict[str, Any]:
    """Transformers' Trainer with its defaults; with an adapter, PEFT's."""
    import torch
    from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    from laplm.machine import peak_bytes

    torch.set_num_threads(args.threads)
    dropouts = {f"{name}_pdrop": args.dropout for name in ("embd", "resid", "attn")}
    model: Any = GPT2LMHeadModel.from_pretrained(args.model, dtype=torch.float32, **dropouts)
    if args.method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model,
            LoraConfig(
                r=RANK, lora_alpha=16, target_modules=["c_attn", "c_proj", "c_fc"],
                fan_in_fan_out=True, task_type="CAUSAL_LM",
            ),
        )  # fmt: skip
    n = args.positions
    ids = tokens(model.config.vocab_size, args.batch * n * args.steps)
    rows = torch.from_numpy(ids).view(-1, n)
    times: list[float] = []
    losses: list[float] = []
    result: dict[str, Any] = {}

    class Watch(TrainerCallback):
        last = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter() - self.last)
            result["peak_bytes"] = peak_bytes()
            self.last = time.perf_counter()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=directory, per_device_train_batch_size=args.batch,
                max_steps=args.steps, learning_rate=RATE, lr_scheduler_type="constant",
                bf16=args.precision == "bf16", use_cpu=True, save_strategy="no", report_to=[],
                logging_steps=1, disable_tqdm=True, adam_beta2=0.95,
            ),
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            callbacks=[Watch()],
        )  # fmt: skip
        trainer.train()
    return result | {"seconds": times, "losses": losses, "precision": args.precision}


def product_rate(threads: int, tokens_together: int) -> dict[str, float]:
    """Operations a second of the products that training is made of, in each number format."""
    import torch

    torch.set_num_threads(threads)
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x, w = (torch.randn(shape).to(dtype) for shape in ((tokens_together, 768), (3072, 768)))
        seconds = []
        for _ in range(30):
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            seconds.append(time.perf_counter() - start)
        rates[name] = 2 * tokens_together * 768 * 3072 / statistics.median(seconds[5:])
    return rates


def operations(config: ModelConfig, tokens_together: int, positions: int, method: str) -> float:
    """Of the products of one step (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).

    Two a weight and token forwards, as many for what the inputs get and, where a weight is
    trained, as many for what it gets; attention's products are 4 * C a pair of tokens.
    """
    c = config.n_embd
    inside = config.n_layer * (4 * c * c + 2 * c * config.n_inner)
    outside = c * config.vocab_size
    times = 6 if method == "full" else 4
    attention = config.n_layer * 3 * 4 * c * positions / 2  # half of the pairs are masked
    return tokens_together * (times * (inside + outside) + attention)


# --- all of them, interleaved ------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a model directory (default: GPT-2 small shape)")
    parser.add_argument("--only", choices=("full", "lora"), help="one method (default: both)")
    parser.add_argument("--shapes", help="such as 4x256,1x1024: windows x tokens")
    parser.add_argument("--steps", type=int, default=8, help="steps a process (default: 8)")
    parser.add_argument("--repeats", type=int, default=3, help="processes a way (default: 3)")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--ways", help="such as laplm-best,Trainer-bf16 (default: all)")
    parser.add_argument("--json", type=Path, help="write everything measured there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    for name in ("--method", "--precision", "--base"):
        parser.add_argument(name, default="fp32", help=argparse.SUPPRESS)
    for name in ("--batch", "--positions"):
        parser.add_argument(name, type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        result: Any
        if args.worker == "rate":
            result = product_rate(args.threads, args.batch * args.positions)
        else:
            result = (train_laplm if args.worker == "laplm" else train_transformers)(args)
        print(json.dumps(result))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        if args.model is None:
            import make_model

            args.model = make_model.make_model(NAMED_SIZES["gpt2"], Path(directory) / "gpt2")
        return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    from laplm.model.files.checkpoint import open_checkpoint

    config = open_checkpoint(args.model).config
    everything: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "machine": machine.describe(),
        "threads": args.threads, "dropout": args.dropout, "runs": [],
    }  # fmt: skip
    print(f"{everything['machine']['cpu']}, {args.threads} threads, dropout {args.dropout}")
    for method in WAYS if args.only is None else (args.only,):
        for shape in args.shapes.split(",") if args.shapes else SHAPES[method]:
            batch, positions = map(int, shape.split("x"))
            ways = [
                way for way in WAYS[method]
                if args.ways is None or "-".join(way) in args.ways.split(",")
            ]  # fmt: skip
            found: dict[tuple[str, str], list[dict[str, Any]]] = {way: [] for way in ways}
            rates = []
            for _, way in itertools.product(range(args.repeats), ways):
                rates.append(_process(args, "rate", method, "fp32", batch, positions))
                found[way].append(_process(args, *way[:1], method, way[1], batch, positions))
            rate = {k: statistics.median(r[k] for r in rates) for k in ("fp32", "bf16")}
            work = operations(config, batch * positions, positions, method)
            _report(method, shape, batch * positions, found, rate, work)
            everything["runs"] += [
                {"method": method, "shape": shape, "way": "-".join(way), "rates": rate,
                 "processes": results}
                for way, results in found.items()
            ]  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return 0


def _process(
    args: argparse.Namespace, worker: str, method: str, precision: str, batch: int, positions: int
) -> dict[str, Any]:
    command = [
        sys.executable, __file__, "--worker", worker, "--model", str(args.model),
        "--method", method, "--precision", precision, "--batch", str(batch),
        "--positions", str(positions), "--steps", str(args.steps + UNCOUNTED),
        "--threads", str(args.threads), "--dropout", str(args.dropout),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _report(
    method: str,
    shape: str,
    tokens_together: int,
    found: dict[tuple[str, str], list[dict[str, Any]]],
    rate: dict[str, float],
    work: float,
) -> None:
    print(
        f"\n{method}, {shape} tokens a step; products: "
        + ", ".join(f"{value / 1e9:,.0f} GFLOP/s in {name}" for name, value in rate.items())
    )
    ours: tuple[float, float] | None = None
    aims = AIMS.get((method, shape), {})
    for (engine, precision), results in found.items():
        seconds = statistics.median(
            statistics.median(result["seconds"][UNCOUNTED:]) for result in results
        )
        peak = statistics.median(result["peak_bytes"] for result in results)
        first = results[0]["losses"][0]
        used = results[0]["precision"]
        share = work / seconds / rate[used]
        line = (
            f"  {engine:8} {used:5} {tokens_together / seconds:8,.0f} tokens/s {peak / 1e9:5.2f} GB"
            f"  {share:4.0%} of the rate of products  first loss {first:.4f}"
        )
        if ours is None:
            ours = seconds, peak
        else:
            line += f"  ours: {seconds / ours[0]:.2f} x as fast"
            if precision in aims:
                line += f" (aim {aims[precision]})"
            line += f", {ours[1] / peak:.2f} of the memory"
            if precision == "fp32" and aims:
                line += f" (aim {aims['memory']})"
        print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
