"""Step 3: train the model, with the tuning room's trainer."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.tune.data.corpus import Corpus
from laplm.tune.models.gpt2 import TorchGPT
from laplm.tune.trainer import (
    GenerateFn,
    TrainConfig,
    Trainer,
    TrainResult,
    best_precision,
    checkpoint_model,
    decay_groups,
)
from recipes.pocket.make_corpus import END_OF_TEXT, write_text
from recipes.pocket.muon import Muon
from recipes.pocket.qat import fake_quantized_weights
from recipes.pocket.token_data import ShortFirst, TokenData

VOCAB_SIZE = 5120
SAMPLE_PROMPT = "Once upon a time"


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """How the built-in model is trained from nothing, beyond what the trainer does for every one.

    Attributes:
        train: the trainer's own settings.
        optimizer: adamw, or muon for the matrices inside the layers and AdamW for the rest: fewer
            steps to the same loss when a model is trained from nothing.
        short_positions: tokens of a window in the first ``short_share`` of the steps; 0: all
            windows are long (``token_data.ShortFirst``).
        short_share: share of the steps with short windows.
        int4_share: share of the steps, the last ones, of which every other is computed on weights
            rounded to int4 (``qat.py``), so that int4 costs the model less.

    Raises:
        InputError: a setting is out of range.
    """

    train: TrainConfig
    optimizer: Literal["adamw", "muon"] = "adamw"
    short_positions: int = 0
    short_share: float = 0.0
    int4_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("short_share", "int4_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but must be from 0 to below 1")
        if self.short_positions < 0:
            raise InputError(f"short_positions is {self.short_positions}, but must be from 0")
        if self.optimizer not in ("adamw", "muon"):
            raise InputError(f"optimizer is {self.optimizer!r}, but it must be adamw or muon")
        if self.optimizer == "muon" and self.train.precision == "bf16":
            raise InputError("muon needs weights in fp32: choose precision autocast")

    @property
    def own_settings(self) -> dict[str, Any]:
        """What a resumed run must share besides the trainer's settings."""
        values = dataclasses.asdict(self)
        del values["train"]
        return values

    def data(self, tokens: TokenData) -> Corpus:
        """Token files in the windows of this recipe."""
        if not self.short_positions:
            return tokens
        steps = int(self.short_share * self.train.max_steps)
        return ShortFirst(tokens, self.short_positions, steps * self.train.grad_accum_steps)

    def optimizers(self, model: TorchGPT) -> list[torch.optim.Optimizer]:
        """AdamW, and Muon where it is chosen."""
        train, named = self.train, list(model.named_parameters())
        inner = [
            parameter
            for name, parameter in named
            if self.optimizer == "muon" and name.startswith("h.") and parameter.dim() == 2
        ]
        others = [p for _, p in named if not any(p is matrix for matrix in inner)]
        groups = decay_groups(others, train.weight_decay)
        rate, betas = train.learning_rate, (train.beta1, train.beta2)
        adamw = torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)
        if not inner:
            return [adamw]
        dtype = torch.bfloat16 if train.precision == "autocast" else torch.float32
        return [adamw, Muon(inner, lr=rate, weight_decay=train.weight_decay, dtype=dtype)]

    def is_quantized(self, step: int) -> bool:
        """Whether this step (from 0) is one of those computed on rounded weights."""
        left = self.train.max_steps - step
        return left <= self.int4_share * self.train.max_steps and step % 2 == 1


def make_trainer(
    model: TorchGPT, train: TokenData, heldout: TokenData, config: RecipeConfig, directory: Path,
    **more: Any,
) -> Trainer:  # fmt: skip
    """The trainer of this recipe; ``more`` as ``Trainer`` takes it."""

    def step_context(step: int) -> contextlib.AbstractContextManager[None]:
        if config.is_quantized(step):
            return fake_quantized_weights(model)
        return contextlib.nullcontext()

    return Trainer(
        model, config.data(train), heldout, config.train, directory,
        settings=config.own_settings,
        # In bf16 the trainer has an AdamW of its own.
        make_optimizers=None if config.train.precision == "bf16" else config.optimizers,
        step_context=step_context,
        **more,
    )  # fmt: skip


def model_config(tokenizer: Tokenizer) -> ModelConfig:
    """The built-in model: 6.2 million parameters, 12.4 MB in fp16."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    return ModelConfig(
        vocab_size=tokenizer.get_vocab_size(),
        n_ctx=512,
        n_embd=256,
        n_layer=6,
        n_head=8,
        bos_token_id=end,
        eos_token_ids=(end,),
    )


def train_config(max_steps: int) -> RecipeConfig:
    """The settings of the built-in model's training: 8192 tokens a step."""
    train = TrainConfig(
        max_steps=max_steps,
        learning_rate=4e-3,
        batch_size=16,
        n_positions=512,
        warmup_steps=60,
        eval_interval=100,
        eval_windows=96,
        precision="autocast" if best_precision() == "bf16" else "fp32",
        seed=1,
    )
    return RecipeConfig(
        train=train, optimizer="muon", short_positions=256, short_share=0.36, int4_share=0.3
    )


def train(
    work: Path,
    *,
    config: RecipeConfig,
    model: ModelConfig | None = None,
    threads: int | None = None,
) -> TrainResult:
    """Train on ``train.npz``; go on from the last checkpoint when there is one.

    The process id is in ``train.pid`` while it runs, so that it can be paused
    (``kill -STOP``/``-CONT``). Writes ``training.json``, the settings and what they cost.

    Raises:
        InputError: another process trains in ``work``, or its checkpoint has other settings.
    """
    pid = work / "train.pid"
    if pid.exists() and _is_running(int(pid.read_text(encoding="utf-8"))):
        raise InputError(
            f"process {pid.read_text(encoding='utf-8').strip()} is training in {work}; wait for "
            f"it, or delete {pid} if that is another program"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    gpt = TorchGPT(model_config(tokenizer) if model is None else model)
    gpt.initialise(config.train.seed)
    gpt.to("cuda" if torch.cuda.is_available() else "cpu")
    prompt = tokenizer.encode(SAMPLE_PROMPT).ids

    def sample(generate: GenerateFn, step: int) -> str:
        return str(tokenizer.decode(prompt + generate(prompt, 60, step)))

    trainer = make_trainer(
        gpt,
        TokenData.load(work / "train.npz"),
        TokenData.load(work / "heldout.npz"),
        config,
        work / "run",
        sample=sample,
    )
    pid.write_text(f"{os.getpid()}\n", encoding="utf-8")
    try:
        result = trainer.run()
    finally:
        pid.unlink(missing_ok=True)
    report = {
        "parameters": gpt.config.n_parameters,
        "steps": result.steps,
        "tokens": result.steps * config.train.tokens_per_step,
        "seconds": round(result.seconds),
        "threads": torch.get_num_threads(),
        "precision": config.train.precision,
        "train_loss": round(result.train_loss, 4),
        "heldout_loss": round(result.heldout_loss, 4),
        "heldout_bits_per_byte": round(result.heldout_bits_per_byte, 4),
    }
    write_text(work / "training.json", json.dumps(report, indent=2) + "\n")
    return result


def load_trained(work: Path) -> TorchGPT:
    """The model of the last checkpoint.

    Raises:
        InputError: nothing has been trained yet.
    """
    path = work / "run" / "checkpoint.pt"
    if not path.exists():
        raise InputError(f"{path} is missing; train the model first")
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = TorchGPT(checkpoint_model(state["settings"]["model"]))
    model.load_state_dict(state["model"])
    return model.eval()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
