"""Tune the built-in model on a text with laplm and with transformers' Trainer, and compare.

    python benchmarks/tune_text.py shakespeare.txt --picture curves.png

Both get the same windows in the same order, the same schedule, AdamW, clipping and no dropout;
the held-out loss is measured by the same function at the same steps. In fp32 the two should differ
by no more than the order in which numbers are added; laplm in bfloat16 is shown beside them.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from laplm.built_in import DIRECTORY  # noqa: E402
from laplm.model.files.checkpoint import open_checkpoint  # noqa: E402
from laplm.model.tokenizer import Tokenizer  # noqa: E402
from laplm.tune.models.gpt2 import TorchGPT  # noqa: E402
from laplm.tune.trainer import TrainConfig, Trainer  # noqa: E402
from recipes.pocket.token_data import TokenData  # noqa: E402

Curve = dict[int, float]  # step -> held-out loss, nats a token


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, train three times, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--every", type=int, default=25, help="steps between evaluations")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args(argv)
    tokenizer = Tokenizer.from_directory(DIRECTORY)
    text = args.text.read_text(encoding="utf-8")
    cut = round(0.95 * len(text))
    train, heldout = (_data(part, tokenizer) for part in (text[:cut], text[cut:]))
    config = {
        "max_steps": args.steps, "learning_rate": args.learning_rate, "weight_decay": 0.1,
        "batch_size": args.batch_size, "n_positions": args.positions,
        "warmup_steps": max(1, args.steps // 20), "eval_interval": args.every,
        "eval_windows": 64, "seed": 1,
    }  # fmt: skip
    curves = {
        "laplm fp32": laplm_curve(train, heldout, TrainConfig(**config)),
        "Trainer fp32": trainer_curve(train, heldout, TrainConfig(**config)),
        "laplm bf16": laplm_curve(train, heldout, TrainConfig(**config, precision="bf16")),
    }
    steps = sorted(curves["laplm fp32"])
    print("held-out perplexity after steps " + ", ".join(map(str, steps)))
    for name, curve in curves.items():
        print(f"  {name:13}" + " ".join(f"{math.exp(curve[step]):8.3f}" for step in steps))
    last = {name: curve[steps[-1]] for name, curve in curves.items()}
    apart = {name: abs(loss / last["Trainer fp32"] - 1) for name, loss in last.items()}
    print("last loss, beside Trainer's: " + ", ".join(f"{n} {a:.3%}" for n, a in apart.items()))
    if args.picture:
        draw(curves, args.picture, args.text.name)
    return 0


def _data(text: str, tokenizer: Tokenizer) -> TokenData:
    ids = tokenizer.encode(text)
    return TokenData(
        tokens=np.array(ids, np.uint16), starts=np.array([0]), n_bytes=len(text.encode())
    )


def laplm_curve(train: TokenData, heldout: TokenData, config: TrainConfig) -> Curve:
    """Our trainer."""
    model = TorchGPT.from_checkpoint(open_checkpoint(DIRECTORY))
    curve: Curve = {}
    with tempfile.TemporaryDirectory() as place:
        trainer = Trainer(
            model, train, heldout, config, Path(place),
            on_eval=lambda now: curve.__setitem__(now.step, now.heldout_loss),
        )  # fmt: skip
        curve[0] = trainer.heldout_loss()
        trainer.run()
    return curve


def trainer_curve(train: TokenData, heldout: TokenData, config: TrainConfig) -> Curve:
    """Transformers' Trainer on the same windows."""
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(
        DIRECTORY, dtype=torch.float32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    windows = train.windows(config.n_positions, config.seed)
    batches = [windows.batch(i, config.batch_size) for i in range(config.max_steps)]
    rows = [
        {"input_ids": torch.from_numpy(i), "labels": torch.from_numpy(t)}
        for batch in batches for i, t in zip(batch.inputs, batch.targets, strict=True)
    ]  # fmt: skip
    measured = heldout.heldout(config.n_positions, config.eval_windows)
    curve: Curve = {}

    def measure(step: int) -> None:
        model.eval()
        with torch.no_grad():
            losses = [
                float(_next_token_loss(model(torch.from_numpy(i)[None]).logits, t))
                for i, t in zip(measured.inputs, map(torch.from_numpy, measured.targets),
                                strict=True)
            ]  # fmt: skip
        model.train()
        curve[step] = sum(losses) / len(losses)

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step % config.eval_interval == 0:
                measure(state.global_step)

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

        def compute_loss(self, model: Any, inputs: Any, **_: Any) -> Any:
            # The targets are the next tokens already.
            return _next_token_loss(model(inputs["input_ids"]).logits, inputs["labels"])

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            peak = config.learning_rate
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, _share_of(config.learning_rate_at, peak)
            )
            return self.lr_scheduler

    with tempfile.TemporaryDirectory() as place:
        measure(0)
        InOrder(
            model,
            transformers.TrainingArguments(
                output_dir=place, per_device_train_batch_size=config.batch_size,
                max_steps=config.max_steps, learning_rate=config.learning_rate,
                weight_decay=config.weight_decay, adam_beta2=config.beta2, max_grad_norm=1.0,
                use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=rows, callbacks=[Watch()],
        ).train()  # fmt: skip
    return curve


def _next_token_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def _share_of(rate: Callable[[int], float], peak: float) -> Callable[[int], float]:
    return lambda step: rate(step) / peak


def draw(curves: dict[str, Curve], path: Path, title: str) -> None:
    """Held-out perplexity over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for (name, curve), style in zip(curves.items(), ("-", "--", ":"), strict=True):
        axes.plot(list(curve), [math.exp(v) for v in curve.values()], style, label=name, lw=2)
    axes.set(xlabel="step", ylabel="held-out perplexity", title=title, yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
