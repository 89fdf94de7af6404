"""The trainer: AdamW, warm-up and cosine, checkpoints that a killed run goes on from.

A run lives in one directory: ``checkpoint.pt`` (trained weights, optimiser, step; written under a
temporary name and moved into place), ``checkpoint.previous.pt`` (the one before), ``best.pt`` (the
trained weights at the lowest held-out loss) and ``metrics.jsonl`` (one line a measurement). The
order of the data, and what dropout drops, are pure functions of seed and step, so a resumed run
ends with the same weights, bit for bit, as one that was never stopped (same machine, threads and
torch).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from laplm import bounds
from laplm.bounds import check_fields, check_step
from laplm.errors import CheckpointError, InputError, MissingExtraError, WriteError, visible
from laplm.files import json_text, new_file, write_file
from laplm.machine import resident_bytes
from laplm.metrics import read_metrics
from laplm.model.config import ModelConfig
from laplm.progress import Progress
from laplm.tune.data.corpus import IGNORE, Batch, Corpus

try:
    import torch
    from torch import Tensor
    from torch.nn import Parameter
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

from laplm.tune.models.gpt2 import QKVCache, TorchGPT, continue_ids
from laplm.tune.optim.adamw import SplitAdamW
from laplm.tune.optim.master_weights import join_master
from laplm.tune.optim.optimizer import AdamW
from laplm.tune.processes import Processes, full_tensor, local_shard, shard_like, wrap_ddp

GenerateFn = Callable[[Sequence[int], int, int], list[int]]
"""(prompt ids, how many new ones at most, seed) -> new ids."""
SampleFn = Callable[[GenerateFn, int], str]
"""(generate, step) -> a text for the metrics."""
OptimizersFn = Callable[[TorchGPT], list[torch.optim.Optimizer]]
"""The optimisers of the trained weights; the trainer sets the learning rate of their groups."""
StepContextFn = Callable[[int], contextlib.AbstractContextManager[None]]
"""step (from 0) -> what its forward and backward passes are computed within."""

_NORM_CHUNK = 1 << 18  # numbers of a gradient that are in the cache together
_EARLIER_NAMES = {
    "layer_norm_epsilon": "norm_eps", "activation_function": "activation",
    "tie_word_embeddings": "tied",
}  # fmt: skip
_MASTER_LOW = ".low"  # in a checkpoint, behind the name of the weight


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Where a run is, told after each step.

    Attributes:
        step: steps made.
        max_steps: steps in all.
        train_loss: of the last step, in nats a token.
        heldout_loss: as measured last, in nats a token; NaN before the first measurement.
        learning_rate: of the last step.
        tokens_per_second: of the last step.
        seconds: spent in steps so far.
    """

    step: int
    max_steps: int
    train_loss: float
    heldout_loss: float
    learning_rate: float
    tokens_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EvalMetrics(StepMetrics):
    """The same, told after each evaluation on held-out text.

    Attributes:
        sample: what the model generated then; None where no sample is asked for.
    """

    sample: str | None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one run; refused when wrong.

    Attributes:
        max_steps: optimiser steps in all; the cosine ends exactly there.
        learning_rate: the peak, reached after ``warmup_steps``.
        final_learning_rate: where the cosine ends.
        batch_size: windows in one forward pass.
        grad_accum_steps: forward passes a step.
        n_positions: tokens of a window.
        weight_decay: for matrices only; biases, gains and shifts are not decayed.
        dropout: share of what attention and feed-forward put out that is dropped.
        grad_clip: largest norm of all gradients together.
        eval_interval: steps between measurements on held-out text.
        eval_windows: windows of held-out text a measurement.
        patience: end early after so many measurements in a row without a new lowest held-out
            loss; 0: never.
        log_interval: steps between lines of training loss.
        checkpoint_seconds: wall-clock time between checkpoints.
        precision: bf16 keeps weights in bfloat16 and what rounding takes from them beside them
            (``adamw.py``), and computes everything in it but sums; autocast runs matrix products
            in it over fp32 weights: slower and with more memory, but for any optimiser.
        seed: order of the data.

    Raises:
        InputError: a setting is out of range.
    """

    max_steps: int
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.0
    batch_size: int = 8
    grad_accum_steps: int = 1
    n_positions: int = 512
    warmup_steps: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    dropout: float = 0.0
    grad_clip: float = 1.0
    eval_interval: int = 250
    eval_windows: int = 64
    patience: int = 0
    log_interval: int = 10
    checkpoint_seconds: float = 120.0
    precision: Literal["fp32", "bf16", "autocast"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self, bounds.TUNING.keys() & {field.name for field in dataclasses.fields(self)}
        )
        check_step(self.batch_size, self.grad_accum_steps, self.n_positions)
        if self.precision not in ("fp32", "bf16", "autocast"):
            raise InputError(
                f"precision is {self.precision!r}, but it must be fp32, bf16 or autocast"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step."""
        return self.batch_size * self.grad_accum_steps * self.n_positions

    def learning_rate_at(self, step: int) -> float:
        """The rate of step ``step`` (from 0): a straight line up, then half a cosine down."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps)
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.final_learning_rate + share * (self.learning_rate - self.final_learning_rate)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run measured last.

    Attributes:
        steps: steps made in all.
        train_loss: nats a token, of the last step.
        heldout_loss: nats a token, over ``eval_windows`` windows.
        best_step: the step after which it was lowest.
        best_heldout_loss: what it was then.
        heldout_bits_per_byte: the same, per byte of text.
        seconds: wall-clock time spent in steps, over all sittings of the run; a process that
            is paused in the middle of a step counts the pause.
    """

    steps: int
    train_loss: float
    heldout_loss: float
    best_step: int
    best_heldout_loss: float
    heldout_bits_per_byte: float
    seconds: float


def best_precision(device: torch.device | None = None) -> Literal["fp32", "bf16"]:
    """``bf16`` where the device multiplies bfloat16 in hardware, else ``fp32``.

    Without such instructions torch emulates bfloat16 and is slower than in fp32.
    """
    if device is not None and device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device is not None and device.type != "cpu":
        return "fp32"
    # Told by recent torch only; an older one trains in fp32, slower but as well.
    tell = getattr(torch.cpu, "get_capabilities", None)
    features = tell() if tell is not None else {}
    if features.get("avx512_bf16") or features.get("amx_bf16"):
        return "bf16"
    return "fp32"


class Trainer:
    """Trains ``model`` on ``train_data``; ``run`` may be killed at any time and called again."""

    def __init__(
        self,
        model: TorchGPT,
        train_data: Corpus,
        heldout_data: Corpus,
        config: TrainConfig,
        directory: Path,
        *,
        sample: SampleFn | None = None,
        console: Console | None = None,
        settings: Mapping[str, Any] | None = None,
        on_step: Callable[[StepMetrics], None] | None = None,
        on_eval: Callable[[EvalMetrics], None] | None = None,
        processes: Processes | None = None,
        tensorboard: Path | None = None,
        make_optimizers: OptimizersFn | None = None,
        step_context: StepContextFn | None = None,
    ) -> None:
        """Prepare a run, going on from ``directory``'s checkpoint when there is one.

        Args:
            model: holds the first weights; replaced by the checkpoint's when there is one. It
                belongs to the trainer from here on, which changes its number format.
            train_data: what the model is trained on.
            heldout_data: what it is only evaluated on.
            config: settings; a resumed run must have the same.
            directory: where checkpoint and metrics live; made when missing.
            sample: called at each evaluation; its text goes into the metrics.
            console: where progress is shown; standard error by default.
            settings: what else a resumed run must share, such as those of adapters: numbers,
                texts and lists of them.
            on_step: called after each step.
            on_eval: called after each evaluation.
            processes: who else trains the same model, each with its share of every batch.
            tensorboard: write TensorBoard's files there too.
            make_optimizers: other optimisers than AdamW.
            step_context: what each step's passes are computed within.

        Raises:
            InputError: the checkpoint belongs to other settings, the data is too short, or it
                holds ids the model does not have.
        """
        _check_fit(model, (train_data, heldout_data), config)
        self.model = model
        self.config = config
        self.directory = directory
        self.processes = processes or Processes(device=next(model.parameters()).device)
        self.processes.local_batch_size(config.batch_size)  # before anything is written
        self.console = Console(stderr=True) if console is None else console
        if not self.processes.is_main:
            self.console = Console(quiet=True)
        self._sample = sample
        self._heldout_data = heldout_data
        self._train_digest = train_data.digest()
        self._windows = train_data.windows(config.n_positions, config.seed)
        self._heldout = heldout_data.heldout(config.n_positions, config.eval_windows)
        self._more_settings = dict(settings or {})
        self._on_step, self._on_eval = on_step, on_eval
        model.to(self.processes.device)
        model.set_dropout(config.dropout)
        if config.precision == "bf16" and not model.master_low:
            model.split_master_weights()
        self._model_with_loss = wrap_ddp(model, self.processes)
        self._master_low = model.master_low  # the optimiser changes it in place
        self._shard_master_low()
        self._make_optimizers = make_optimizers or self._adamw
        self._step_context = step_context or (lambda step: contextlib.nullcontext())
        self._optimizers = self._make_optimizers(model)
        self._board = _tensorboard(tensorboard) if self.processes.is_main else None
        self.step = 0
        self.seconds = 0.0
        self.train_loss = math.nan
        self.last_heldout_loss = math.nan
        self.best_step, self.best_heldout_loss = 0, math.inf
        self._since_best = 0
        directory.mkdir(parents=True, exist_ok=True)
        self.processes.barrier()
        if self._checkpoint_path.exists() or self._previous_path.exists():
            self._load_checkpoint()

    def _shard_master_low(self) -> None:
        for name, parameter in self.model.named_parameters():
            if name in self._master_low:
                self._master_low[name] = shard_like(self._master_low[name], parameter)

    def run(self, stop_at: int | None = None) -> TrainResult:
        """Train to ``max_steps`` (or only up to ``stop_at``), then measure and checkpoint.

        Ctrl-C and SIGTERM end the step in hand and write a checkpoint first.

        Raises:
            CheckpointError: a checkpoint cannot be written; the one before it is kept.
            InputError: the loss is no longer a finite number.
            KeyboardInterrupt: the run was asked to stop; call it again to go on.
        """
        target = self.config.max_steps if stop_at is None else min(stop_at, self.config.max_steps)
        evaluated = False
        saved_at = time.monotonic()
        self.model.train()
        with _deferred_interrupt() as interrupted, self._progress_bar() as bars:
            bar = bars.add_task("training", total=self.config.max_steps, completed=self.step)
            while (
                self.step < target
                and not self.ended_early
                and not self.processes.any(interrupted.is_set())
            ):
                started = time.monotonic()
                self.train_loss, norm = self._train_step()
                elapsed = time.monotonic() - started
                self.seconds += elapsed
                self.step += 1
                evaluated = self.step % self.config.eval_interval == 0 or self.step == target
                if self.step % self.config.log_interval == 0 or self.step == target:
                    self._log_step(norm, elapsed)
                if evaluated:
                    self._evaluate(bars.console, elapsed)
                bars.update(bar, completed=self.step, description=self._bar_text(elapsed))
                if self._on_step is not None:
                    self._on_step(self._step_metrics(elapsed))
                if time.monotonic() - saved_at >= self.config.checkpoint_seconds:
                    self._save_checkpoint()
                    saved_at = time.monotonic()
            self._save_checkpoint()
        if self.step < target and not self.ended_early:
            raise KeyboardInterrupt
        if not evaluated:  # a finished run that is called again
            self.last_heldout_loss = self.heldout_loss()
        if not math.isfinite(self.best_heldout_loss):
            self.best_step, self.best_heldout_loss = self.step, self.last_heldout_loss
        return TrainResult(
            steps=self.step,
            train_loss=self.train_loss,
            heldout_loss=self.last_heldout_loss,
            best_step=self.best_step,
            best_heldout_loss=self.best_heldout_loss,
            heldout_bits_per_byte=self._heldout_data.bits_per_byte(self.last_heldout_loss),
            seconds=self.seconds,
        )

    @property
    def ended_early(self) -> bool:
        """Whether the held-out loss has stood still for longer than ``patience`` allows."""
        return 0 < self.config.patience <= self._since_best

    def best_weights(self) -> dict[str, Tensor]:
        """The trained weights by name, in fp32: those that had the lowest held-out loss."""
        if self._best_path.exists():
            found = torch.load(self._best_path, weights_only=True, map_location="cpu")
        else:
            found = {name: value.cpu() for name, value in self._weights().items()}
        return {
            name: join_master(value, found[f"{name}{_MASTER_LOW}"])
            if f"{name}{_MASTER_LOW}" in found
            else value
            for name, value in found.items()
            if not name.endswith(_MASTER_LOW)
        }

    def time_steps(self, count: int = 2, progress: Progress | None = None) -> float:
        """Seconds of a step, the last of ``count``; no weight changes.

        Memory is then used as it will be. To be called before ``run``. ``progress`` is told how
        many of how many are done.
        """
        seconds = 0.0
        self.model.train()
        for number in range(count):
            if progress:
                progress("timing steps", number, count)
            started = time.monotonic()
            self._train_step(rate=0.0)
            seconds = time.monotonic() - started
        if progress:
            progress("timing steps", count, count)
        for parameter in self.model.parameters():
            parameter.grad = None
        self._optimizers = self._make_optimizers(self.model)
        return seconds

    def heldout_loss(self) -> float:
        """Nats a token over the first ``eval_windows`` windows of held-out text, side by side."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad(), self._autocast():
            # Every process measures everything: it is little, and all know the same.
            for begin in range(0, len(self._heldout.inputs), self.config.batch_size):
                batch = self._heldout.rows(begin, begin + self.config.batch_size)
                n_targets = int((batch.targets != IGNORE).sum())
                total += float(self._loss(batch, n_targets)) * n_targets
                count += n_targets
        self.model.train()
        loss = total / count
        if not math.isfinite(loss):
            raise InputError(
                f"the held-out loss is no number at step {self.step}{self._nan_loss_advice}"
            )
        return loss

    def _train_step(self, rate: float | None = None) -> tuple[float, float]:
        """One step of the optimiser: its loss (nats a token) and gradient norm before clipping."""
        config = self.config
        if rate is None:
            rate = config.learning_rate_at(self.step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        # Chance is a function of seed and step, so a resumed run drops what the first would have.
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        total, first = 0.0, self.step * config.grad_accum_steps
        with self._step_context(self.step):
            # Every token counts the same, however many of them a part happens to have.
            parts = [
                self._windows.batch(first + part, config.batch_size)
                for part in range(config.grad_accum_steps)
            ]
            count = sum(int((batch.targets != IGNORE).sum()) for batch in parts)
            for batch in parts:
                with self._autocast():
                    loss = self._loss(self.processes.local_batch(batch), count)
                # Processes give the mean of their gradients; wanted is the sum.
                (loss if self.processes.size == 1 else loss * self.processes.size).backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
                if len(parts) > 1:
                    for optimizer in self._optimizers:
                        if isinstance(optimizer, SplitAdamW):
                            optimizer.accumulate()
        total = self.processes.sum(total)
        norm = self._clip()
        if not (math.isfinite(total) and math.isfinite(norm)):
            last = first + config.grad_accum_steps - 1
            raise InputError(
                f"the loss is no longer a number at step {self.step} (batches {first} to {last})"
                f"{self._nan_loss_advice}"
            )
        for optimizer in self._optimizers:
            optimizer.step()
        return total, norm

    @property
    def _nan_loss_advice(self) -> str:
        """What is to be done about a loss that is no number."""
        text = "; start again with a lower learning rate"
        if self._checkpoint_path.exists():
            text += f". The last good state is in {self._checkpoint_path}"
        return text

    def _clip(self) -> float:
        """Scale gradients down to ``grad_clip`` in norm; their norm before that."""
        found = [
            (optimizer, parameter, gradient)
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            if (gradient := _gradient(optimizer, parameter)) is not None
        ]
        norms = [grad_norm(gradient) for _, _, gradient in found]
        norm = float(torch.linalg.vector_norm(torch.stack([full_tensor(each) for each in norms])))
        scale = min(1.0, self.config.grad_clip / (norm + 1e-6))
        for optimizer in self._optimizers:
            if isinstance(optimizer, SplitAdamW):
                for group in optimizer.param_groups:
                    group["scale"] = scale
        if scale < 1:
            for optimizer, _, gradient in found:
                if not isinstance(optimizer, SplitAdamW):
                    gradient.mul_(scale)
        return norm

    def _loss(self, batch: Batch, count: int) -> Tensor:
        """Sum of a batch's losses, divided by ``count``, in nats."""
        device = self.processes.device
        inputs, targets, segments = (
            None if array is None else torch.from_numpy(array).to(device) for array in batch
        )
        loss: Tensor = self._model_with_loss(inputs, targets, segments, count)
        return loss

    def _generate(self, ids: Sequence[int], max_new_tokens: int, seed: int) -> list[int]:
        """Tokens after ``ids``; all processes draw the same, for each may hold but a part."""

        def last_logits(tokens: Tensor, kv_cache: QKVCache) -> Tensor:
            return self.processes.broadcast(
                self._model_with_loss(tokens, kv_cache=kv_cache).float()
            )

        return continue_ids(self.model, ids, max_new_tokens, seed=seed, last_logits=last_logits)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision != "autocast":
            return contextlib.nullcontext()
        return torch.autocast(self.processes.device.type, dtype=torch.bfloat16)

    def _adamw(self, model: TorchGPT) -> list[torch.optim.Optimizer]:
        """AdamW; in bf16 over split master weights."""
        config = self.config
        groups = decay_groups(model.parameters(), config.weight_decay)
        rate, betas = config.learning_rate, (config.beta1, config.beta2)
        if config.precision != "bf16":
            return [AdamW(groups, lr=rate, betas=betas)]
        adamw = SplitAdamW(groups, lr=rate, betas=betas)
        for name, parameter in self._trained().items():
            adamw.state[parameter]["master_low"] = self._master_low[name]
        return [adamw]

    @property
    def _checkpoint_path(self) -> Path:
        return self.directory / "checkpoint.pt"

    @property
    def _previous_path(self) -> Path:
        return self.directory / "checkpoint.previous.pt"

    @property
    def _best_path(self) -> Path:
        return self.directory / "best.pt"

    @property
    def _metrics_path(self) -> Path:
        return self.directory / "metrics.jsonl"

    def _settings(self) -> dict[str, Any]:
        """Everything a resumed run must share with the run it continues."""
        train = dataclasses.asdict(self.config)
        # These do not touch the weights, and max_steps only those still to come: a run may be
        # shortened or lengthened, and its cosine then ends at the new last step.
        for name in (
            "checkpoint_seconds", "log_interval", "eval_interval", "eval_windows", "max_steps",
            "patience",
        ):  # fmt: skip
            del train[name]
        return {
            "model": dataclasses.asdict(self.model.config),
            "train": train,
            "data": {"train_data": self._train_digest},
            "run": self._more_settings,
        }

    def _trained(self) -> dict[str, Parameter]:
        """What the optimiser changes, by name: frozen weights are in the model's own files."""
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def _weights(self) -> dict[str, Tensor]:
        """The trained weights by name, and what rounding took from them under ``….low``."""
        found = {name: full_tensor(p.detach()) for name, p in self._trained().items()}
        return found | {
            f"{name}{_MASTER_LOW}": full_tensor(low) for name, low in self._master_low.items()
        }

    def _load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(shard_like(tensors[name], parameter))
            for name, low in self._master_low.items():
                low.copy_(shard_like(tensors[f"{name}{_MASTER_LOW}"], low))

    def _moments(self) -> list[dict[int, dict[str, Any]]]:
        """What the optimisers remember of each weight, in the weights' order."""
        return [
            {
                number: {
                    name: full_tensor(value)
                    for name, value in optimizer.state.get(parameter, {}).items()
                    if name != "master_low"
                }
                for number, parameter in enumerate(_parameters(optimizer))
            }
            for optimizer in self._optimizers
        ]

    def _load_moments(self, saved: list[dict[int, dict[str, Any]]]) -> None:
        for optimizer, values in zip(self._optimizers, saved, strict=True):
            for number, parameter in enumerate(_parameters(optimizer)):
                for name, value in values[number].items():
                    if torch.is_tensor(value) and value.dim():
                        value = shard_like(value, parameter)
                    optimizer.state[parameter][name] = value

    def _save_checkpoint(self) -> None:
        state = {
            "settings": self._settings(),
            "step": self.step,
            "seconds": self.seconds,
            "train_loss": self.train_loss,
            "heldout_loss": self.last_heldout_loss,
            "best": [self.best_step, self.best_heldout_loss, self._since_best],
            "model": self._weights(),
            "optimizers": self._moments(),
        }
        if self.processes.is_main:
            self._write(state, self._checkpoint_path, self._previous_path)
        self.processes.barrier()

    def _write(self, state: Any, path: Path, previous: Path | None = None) -> None:
        """Write a state whole; what ``path`` held before is kept as ``previous``."""
        try:
            with new_file(path) as temporary:
                with temporary.open("xb") as file:
                    torch.save(state, file)
                if previous is not None and path.exists():
                    path.replace(previous)
        except (WriteError, RuntimeError) as error:  # torch reports a full disk as either
            kept = "nothing is lost but the steps since the last checkpoint, which is kept"
            raise CheckpointError(
                f"{path} cannot be written ({_reason(error)}) after step {self.step}: {kept}. Free "
                "some space, then go on with the run"
            ) from error

    def _load_checkpoint(self) -> None:
        state, settings = self._read_checkpoint()
        if differ := self._differences(settings):
            raise InputError(
                f"{self.directory} holds a run with {'; '.join(differ)}; use the same settings to "
                "go on with it, or another directory"
            )
        self._load_weights(state["model"])
        self._load_moments(state["optimizers"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.train_loss = state["train_loss"]
        self.last_heldout_loss = state.get("heldout_loss", math.nan)
        best = state.get("best", [0, math.inf, 0])
        self.best_step, self.best_heldout_loss, self._since_best = best
        if self.processes.is_main:
            self._drop_metrics_after(self.step)
        self.console.print(f"going on from step {self.step} of {self.config.max_steps}")

    def _differences(self, theirs: dict[str, dict[str, Any]]) -> list[str]:
        """Settings in which a checkpoint is of another run; one that it has not was the default."""
        defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
        model = dataclasses.asdict(checkpoint_model(theirs["model"]))
        found = []
        for part, values in self._settings().items():
            # Settings of a recipe stood once beside those of every training.
            kept = model if part == "model" else theirs.get("train", {}) | theirs.get(part, {})
            for name, value in values.items():
                if (before := kept.get(name, defaults.get(name))) != value:
                    found.append(f"{name} {before!r}, not {value!r}")
        return found

    def _read_checkpoint(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state and its settings: of the last checkpoint, or of the one before it."""
        for path in (self._checkpoint_path, self._previous_path):
            try:
                state = torch.load(path, weights_only=True, map_location="cpu")
                return state, state["settings"]
            except FileNotFoundError:
                continue
            except Exception as error:
                if path == self._previous_path or not self._previous_path.exists():
                    raise InputError(
                        f"{path} cannot be read; delete it to start this run again"
                    ) from error
                note = f"{visible(str(path))} cannot be read; taking the checkpoint before it"
                self.console.print(note, markup=False)
        raise InputError(f"{self.directory} has no checkpoint")

    def _drop_metrics_after(self, step: int) -> None:
        """Forget lines a killed run wrote after its checkpoint: those steps come again."""
        if not self._metrics_path.exists():
            return
        kept = [
            json_text(record) + "\n"
            for record in read_metrics(self._metrics_path, skip_damaged=True)
            if record.get("step", math.inf) <= step
        ]
        write_file(self._metrics_path, "".join(kept).encode())

    def _log_step(self, norm: float, elapsed: float) -> None:
        config = self.config
        self._write_metrics(
            train_loss=round(self.train_loss, 5),
            grad_norm=round(norm, 4),
            learning_rate=config.learning_rate_at(self.step - 1),
            tokens_per_second=round(config.tokens_per_step / elapsed),
        )

    def _evaluate(self, console: Console, elapsed: float) -> None:
        """Held-out loss, and a sample where one is asked for; keeps the weights if it is lowest."""
        loss = self.last_heldout_loss = self.heldout_loss()
        bits = self._heldout_data.bits_per_byte(loss)
        if loss < self.best_heldout_loss:
            self.best_step, self.best_heldout_loss, self._since_best = self.step, loss, 0
            weights = self._weights()
            if self.processes.is_main:
                self._write(weights, self._best_path)
        else:
            self._since_best += 1
        values: dict[str, Any] = {
            "heldout_loss": round(loss, 5), "heldout_bits_per_byte": round(bits, 5),
        }  # fmt: skip
        sample = None if self._sample is None else self._sample(self._generate, self.step)
        self._write_metrics(**values | ({} if sample is None else {"sample": sample}))
        console.print(
            f"step {self.step}/{self.config.max_steps}: held-out loss {loss:.4f} nats/token, "
            f"{bits:.4f} bits/byte, {self.seconds:.0f} s",
            highlight=False,
        )
        if sample is not None:
            console.print(visible(sample), markup=False, highlight=False)
        if self._on_eval is not None:
            self._on_eval(EvalMetrics(**vars(self._step_metrics(elapsed)), sample=sample))

    def _step_metrics(self, elapsed: float) -> StepMetrics:
        return StepMetrics(
            step=self.step,
            max_steps=self.config.max_steps,
            train_loss=self.train_loss,
            heldout_loss=self.last_heldout_loss,
            learning_rate=self.config.learning_rate_at(self.step - 1),
            tokens_per_second=self.config.tokens_per_step / elapsed,
            seconds=self.seconds,
        )

    def _bar_text(self, elapsed: float) -> str:
        """The line beside the bar: losses, learning rate, speed, memory."""
        now = self._step_metrics(elapsed)
        heldout = "" if math.isnan(now.heldout_loss) else f" held-out {now.heldout_loss:.3f}"
        return (
            f"loss {now.train_loss:.3f}{heldout} rate {now.learning_rate:.1e} "
            f"{now.tokens_per_second:,.0f} tokens/s {resident_bytes() / 1e9:.1f} GB"
        )

    def _write_metrics(self, **values: Any) -> None:
        if not self.processes.is_main:
            return
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, str):
                    self._board.add_text(name, value, self.step)
                else:
                    self._board.add_scalar(name, value, self.step)
            self._board.flush()
        line = json_text({"step": self.step, "seconds": round(self.seconds, 1), **values})
        with self._metrics_path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _progress_bar(self) -> ProgressBar:
        return ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )


def checkpoint_model(values: Mapping[str, Any]) -> ModelConfig:
    """The model that a checkpoint's settings are of, by the names they have or once had."""
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    named = {_EARLIER_NAMES.get(name, name): value for name, value in values.items()}
    return ModelConfig(**{name: value for name, value in named.items() if name in fields})


def decay_groups(parameters: Iterable[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """An optimiser's groups: matrices, which are decayed, and vectors, which are not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def _check_fit(model: TorchGPT, data: Iterable[Corpus], config: TrainConfig) -> None:
    """Refuse ids and windows that the model has no place for."""
    for each in data:
        if each.largest_id >= model.config.vocab_size:
            raise InputError(
                f"the data holds token id {each.largest_id}, but the model's "
                f"vocabulary ends at {model.config.vocab_size - 1}; encode it again with "
                "this model's tokenizer"
            )
    if config.n_positions > model.config.n_ctx:
        raise InputError(
            f"n_positions is {config.n_positions}, but the model has only "
            f"{model.config.n_ctx} positions"
        )


def _parameters(optimizer: torch.optim.Optimizer) -> list[Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _gradient(optimizer: torch.optim.Optimizer, parameter: Parameter) -> Tensor | None:
    if isinstance(optimizer, SplitAdamW):
        return optimizer.gradient(parameter)
    return parameter.grad


def grad_norm(gradient: Tensor) -> Tensor:
    """The Euclidean norm of a gradient, in fp32.

    Over tens of millions of numbers torch's sum loses digits (8e-4 of the norm for GPT-2's output
    matrix), and of a gradient in bfloat16 it makes a whole copy in fp32 first. By pieces the sum
    keeps them, the copy stays in the cache, and it takes a quarter of the time.
    """
    if local_shard(gradient) is not gradient:
        return _norm(gradient)
    pieces: tuple[Tensor, ...] = torch.split(gradient.reshape(-1), _NORM_CHUNK)
    return _norm(torch.stack([_norm(piece) for piece in pieces]))


def _reason(error: BaseException) -> str:
    """What the system said: torch wraps a full disk into words about its own code."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    return "the disk may be full"


def _norm(x: Tensor) -> Tensor:
    out: Tensor = torch.linalg.vector_norm(x, dtype=torch.float32)
    return out


def _tensorboard(directory: Path | None) -> Any:
    """TensorBoard's writer; None when nobody asked for it."""
    if directory is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise InputError(
            "--tensorboard needs TensorBoard, which is not installed: pip install tensorboard"
        ) from None
    return SummaryWriter(str(directory))


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event instead of striking in the middle of a step.

    A second Ctrl-C strikes at once. Outside the main thread, where Python has no signals, the
    event is never set.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def ask_to_stop(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    # SIGBREAK is how one process asks another to end on Windows, where SIGTERM strikes at once.
    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {n: signal.signal(n, ask_to_stop) for n in numbers}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
