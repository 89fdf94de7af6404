"""The trainer: AdamW or Muon, warm-up and cosine, checkpoints that a killed run goes on from.

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
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from laplm import bounds
from laplm.bounds import check_fields, check_update
from laplm.errors import CheckpointError, InputError, MissingExtraError, visible
from laplm.home import json_text
from laplm.machine import resident_bytes
from laplm.tune.data.corpus import IGNORE, Batch, Corpus

try:
    import torch
    from torch import Tensor
    from torch.nn import Parameter
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

from laplm.tune.models.gpt2 import TorchGPT, continue_ids
from laplm.tune.models.qat import rounded_matrices
from laplm.tune.optim.adamw import SplitAdamW
from laplm.tune.optim.master_weights import join
from laplm.tune.optim.muon import Muon
from laplm.tune.processes import Processes, divided_as, local, spread, whole

Tell = Callable[[str, int, int], None]  # what is done, how many, of how many
Write = Callable[[Sequence[int], int, int], list[int]]  # (ids, how many new ones, seed) -> new ids
Sample = Callable[[Write, int], str]  # (write, step) -> text for the log
_PIECE = 1 << 18  # numbers of a gradient that are in the cache together
_LOW = ".low"


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """Where a run is, told after each update and each measurement.

    Attributes:
        step: updates made.
        max_steps: updates in all.
        train_loss: of the last update, in nats a token.
        heldout_loss: as measured last, in nats a token; NaN before the first measurement.
        learning_rate: of the last update.
        tokens_per_second: of the last update.
        seconds: spent in updates so far.
    """

    step: int
    max_steps: int
    train_loss: float
    heldout_loss: float
    learning_rate: float
    tokens_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one run; refused when wrong.

    Attributes:
        max_steps: updates of the weights in all; the cosine ends exactly there.
        learning_rate: the peak, reached after ``warmup_steps``.
        final_learning_rate: where the cosine ends.
        batch_size: windows in one forward pass.
        grad_accum_steps: forward passes an update.
        n_positions: tokens of a window.
        short_positions: tokens of a window in the first ``short_share`` of the steps, in as many
            more windows (Li et al. 2022, arXiv:2108.06084): attention to long windows costs most
            when there is least to find in them. 0: all windows are long.
        short_share: share of the steps with short windows.
        int4_share: share of the steps, the last ones, in which every other update is computed on
            matrices rounded to int4 (``rounding.py``), so that int4 costs the model less.
        weight_decay: for matrices only; biases, gains and shifts are not decayed.
        dropout: share of what attention and feed-forward put out that is dropped.
        grad_clip: largest norm of all gradients together.
        eval_interval: steps between measurements on held-out text.
        eval_windows: windows of held-out text a measurement.
        patience: end early after so many measurements in a row without a new lowest held-out
            loss; 0: never.
        log_interval: steps between lines of training loss.
        checkpoint_seconds: wall-clock time between checkpoints.
        optimizer: adamw, or muon for the matrices inside the layers and AdamW for the rest:
            fewer steps to the same loss when a model is trained from nothing.
        precision: bf16 keeps weights in bfloat16 and what rounding takes from them beside them
            (``adamw.py``), and computes everything in it but sums; autocast runs matrix products
            in it over fp32 weights, which is slower, takes more memory, and suits muon.
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
    short_positions: int = 0
    short_share: float = 0.0
    int4_share: float = 0.0
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
    optimizer: Literal["adamw", "muon"] = "adamw"
    precision: Literal["fp32", "bf16", "autocast"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self, bounds.TUNING.keys() & {field.name for field in dataclasses.fields(self)}
        )
        check_update(self.batch_size, self.grad_accum_steps, self.n_positions)
        if self.short_positions and self.n_positions % self.short_positions:
            raise InputError(
                f"short_positions is {self.short_positions}, but n_positions, {self.n_positions}, "
                "must be a multiple of it"
            )
        if self.optimizer not in ("adamw", "muon"):
            raise InputError(f"optimizer is {self.optimizer!r}, but it must be adamw or muon")
        if self.precision not in ("fp32", "bf16", "autocast"):
            raise InputError(
                f"precision is {self.precision!r}, but it must be fp32, bf16 or autocast"
            )
        if self.optimizer == "muon" and self.precision == "bf16":
            raise InputError("muon needs weights in fp32: choose precision autocast")

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update learns from."""
        return self.batch_size * self.grad_accum_steps * self.n_positions

    def learning_rate_at(self, step: int) -> float:
        """The rate of update ``step`` (from 0): a straight line up, then half a cosine down."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps)
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.final_learning_rate + share * (self.learning_rate - self.final_learning_rate)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run measured last.

    Attributes:
        steps: updates made in all.
        train_loss: nats a token, of the last update.
        heldout_loss: nats a token, over ``eval_windows`` windows.
        best_step: the update after which it was lowest.
        best_heldout_loss: what it was then.
        heldout_bits_per_byte: the same, per byte of text.
        seconds: wall-clock time spent in updates, over all sittings of the run; a process that
            is paused in the middle of an update counts the pause.
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
        sample: Sample | None = None,
        console: Console | None = None,
        settings: Mapping[str, Any] | None = None,
        on_step: Callable[[Progressed], None] | None = None,
        on_eval: Callable[[Progressed], None] | None = None,
        processes: Processes | None = None,
        tensorboard: Path | None = None,
    ) -> None:
        """Prepare a run, going on from ``directory``'s checkpoint when there is one.

        Args:
            model: holds the first weights; replaced by the checkpoint's when there is one. It
                belongs to the trainer from here on, which changes its number format.
            train_data: what is learned.
            heldout_data: what is only measured.
            config: settings; a resumed run must have the same.
            directory: where checkpoint and metrics live; made when missing.
            sample: called at each measurement; its text goes into the metrics.
            console: where progress is shown; standard error by default.
            settings: what else a resumed run must share, such as those of adapters: numbers,
                texts and lists of them.
            on_step: called after each update.
            on_eval: called after each measurement.
            processes: who else trains the same model, each with its share of every batch.
            tensorboard: write TensorBoard's files there too.

        Raises:
            InputError: the checkpoint belongs to other settings, the data is too short, or it
                holds ids the model does not have.
        """
        for data in (train_data, heldout_data):
            if data.largest_id >= model.config.vocab_size:
                raise InputError(
                    f"the data holds token id {data.largest_id}, but the model's "
                    f"vocabulary ends at {model.config.vocab_size - 1}; encode it again with "
                    "this model's tokenizer"
                )
        if config.n_positions > model.config.n_ctx:
            raise InputError(
                f"n_positions is {config.n_positions}, but the model has only "
                f"{model.config.n_ctx} positions"
            )
        self.model = model
        self.config = config
        self.directory = directory
        self.processes = processes or Processes(device=next(model.parameters()).device)
        self.processes.windows_each(config.batch_size)  # before anything is written
        self.console = Console(stderr=True) if console is None else console
        if not self.processes.leads:
            self.console = Console(quiet=True)
        self._sample = sample
        self._heldout_data = heldout_data
        self._train_digest = train_data.digest()
        self._windows = train_data.windows(config.n_positions, config.seed)
        self._short_windows = self._windows
        if config.short_positions:
            self._short_windows = train_data.windows(config.short_positions, config.seed)
        self._heldout = heldout_data.heldout(config.n_positions, config.eval_windows)
        self._more_settings = dict(settings or {})
        self._on_step, self._on_eval = on_step, on_eval
        model.to(self.processes.device)
        model.set_dropout(config.dropout)
        if config.precision == "bf16" and not model.low:
            model.round_weights()
        self._low = model.low  # the optimiser changes it in place
        self._learner = spread(model, self.processes)
        for name, parameter in model.named_parameters():
            if name in self._low:
                self._low[name] = divided_as(self._low[name], parameter)
        self._optimizers = self._new_optimizers()
        self._board = _tensorboard(tensorboard) if self.processes.leads else None
        self.step = 0
        self.seconds = 0.0
        self.train_loss = math.nan
        self.last_heldout_loss = math.nan
        self.best_step, self.best_heldout_loss = 0, math.inf
        self._since_best = 0
        directory.mkdir(parents=True, exist_ok=True)
        self.processes.wait()
        if self._checkpoint_path.exists() or self._previous_path.exists():
            self._load_checkpoint()

    def run(self, stop_at: int | None = None) -> TrainResult:
        """Train to ``max_steps`` (or only up to ``stop_at``), then measure and checkpoint.

        Ctrl-C and SIGTERM end the update in hand and write a checkpoint first.

        Raises:
            CheckpointError: a checkpoint cannot be written; the one before it is kept.
            InputError: the loss is no longer a finite number.
            KeyboardInterrupt: the run was asked to stop; call it again to go on.
        """
        target = self.config.max_steps if stop_at is None else min(stop_at, self.config.max_steps)
        measured = False
        saved_at = time.monotonic()
        self.model.train()
        with _deferred_interrupt() as interrupted, self._progress() as progress:
            bar = progress.add_task("training", total=self.config.max_steps, completed=self.step)
            while (
                self.step < target
                and not self.ended_early
                and not self.processes.any(interrupted.is_set())
            ):
                started = time.monotonic()
                self.train_loss, norm = self._update()
                elapsed = time.monotonic() - started
                self.seconds += elapsed
                self.step += 1
                measured = self.step % self.config.eval_interval == 0 or self.step == target
                if self.step % self.config.log_interval == 0 or self.step == target:
                    self._log_update(norm, elapsed)
                if measured:
                    self._measure(progress.console, elapsed)
                progress.update(bar, completed=self.step, description=self._described(elapsed))
                if self._on_step is not None:
                    self._on_step(self._progressed(elapsed))
                if time.monotonic() - saved_at >= self.config.checkpoint_seconds:
                    self._save_checkpoint()
                    saved_at = time.monotonic()
            self._save_checkpoint()
        if self.step < target and not self.ended_early:
            raise KeyboardInterrupt
        if not measured:  # a finished run that is called again
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
            name: join(value, found[f"{name}{_LOW}"]) if f"{name}{_LOW}" in found else value
            for name, value in found.items()
            if not name.endswith(_LOW)
        }

    def time_updates(self, count: int = 2, tell: Tell | None = None) -> float:
        """Seconds of an update, the last of ``count``; nothing is learned and nothing changes.

        Memory is then used as it will be. To be called before ``run``. ``tell`` is told how many
        of how many are done.
        """
        seconds = 0.0
        self.model.train()
        for number in range(count):
            if tell:
                tell("timing updates", number, count)
            started = time.monotonic()
            self._update(rate=0.0)
            seconds = time.monotonic() - started
        if tell:
            tell("timing updates", count, count)
        for parameter in self.model.parameters():
            parameter.grad = None
        self._optimizers = self._new_optimizers()
        return seconds

    def heldout_loss(self) -> float:
        """Nats a token over the first ``eval_windows`` windows of held-out text, side by side."""
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad(), self._autocast():
            # Every process measures everything: it is little, and all know the same.
            for begin in range(0, len(self._heldout.inputs), self.config.batch_size):
                batch = self._heldout.rows(begin, begin + self.config.batch_size)
                learned = int((batch.targets != IGNORE).sum())
                total += float(self._loss(batch, learned)) * learned
                count += learned
        self.model.train()
        loss = total / count
        if not math.isfinite(loss):
            raise InputError(f"the held-out loss is no number at step {self.step}{self._way_out}")
        return loss

    def _update(self, rate: float | None = None) -> tuple[float, float]:
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
        with rounded_matrices(self.model) if self._is_rounded() else contextlib.nullcontext():
            # Every token counts the same, however many of them a part happens to have.
            parts = [self._batch(first + part) for part in range(config.grad_accum_steps)]
            count = sum(int((batch.targets != IGNORE).sum()) for batch in parts)
            for batch in parts:
                with self._autocast():
                    loss = self._loss(self.processes.share(batch), count)
                # Processes give the mean of their gradients; wanted is the sum.
                (loss if self.processes.size == 1 else loss * self.processes.size).backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
                if len(parts) > 1:
                    for optimizer in self._optimizers:
                        if isinstance(optimizer, SplitAdamW):
                            optimizer.collect()
        total = self.processes.total(total)
        norm = self._clip()
        if not (math.isfinite(total) and math.isfinite(norm)):
            last = first + config.grad_accum_steps - 1
            raise InputError(
                f"the loss is no longer a number at step {self.step} (batches {first} to {last})"
                f"{self._way_out}"
            )
        for optimizer in self._optimizers:
            optimizer.step()
        return total, norm

    @property
    def _way_out(self) -> str:
        """What is to be done about a loss that is no number."""
        text = "; start again with a lower learning rate"
        if self._checkpoint_path.exists():
            text += f". The last good state is in {self._checkpoint_path}"
        return text

    def _clip(self) -> float:
        """Make gradients smaller where all together are too long; how long they were."""
        found = [
            (optimizer, parameter, gradient)
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            if (gradient := _gradient(optimizer, parameter)) is not None
        ]
        norms = [length(gradient) for _, _, gradient in found]
        norm = float(torch.linalg.vector_norm(torch.stack([whole(each) for each in norms])))
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

    def _is_rounded(self) -> bool:
        """Whether this update is one of those computed on rounded matrices."""
        left = self.config.max_steps - self.step
        return left <= self.config.int4_share * self.config.max_steps and self.step % 2 == 1

    def _batch(self, number: int) -> Batch:
        """What is learned in forward pass ``number``: short windows first."""
        config = self.config
        n_short = int(config.short_share * config.max_steps) * config.grad_accum_steps
        if config.short_positions and number < n_short:
            more = config.n_positions // config.short_positions
            return self._short_windows.batch(number, config.batch_size * more)
        return self._windows.batch(number, config.batch_size)

    def _loss(self, batch: Batch, count: int) -> Tensor:
        """Sum of a batch's losses, divided by ``count``, in nats."""
        device = self.processes.device
        inputs, targets, segments = (
            None if array is None else torch.from_numpy(array).to(device) for array in batch
        )
        loss: Tensor = self._learner(inputs, targets, segments, count)
        return loss

    def _write_on(self, ids: Sequence[int], max_new_tokens: int, seed: int) -> list[int]:
        """Tokens after ``ids``; all processes draw the same, for each may hold but a part."""

        def last_logits(window: Tensor) -> Tensor:
            return self.processes.first(self._learner(window).float())

        return continue_ids(self.model, ids, max_new_tokens, seed=seed, last_logits=last_logits)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision != "autocast":
            return contextlib.nullcontext()
        return torch.autocast(self.processes.device.type, dtype=torch.bfloat16)

    def _new_optimizers(self) -> list[torch.optim.Optimizer]:
        config = self.config
        inner: list[Parameter] = []
        outer: list[Parameter] = []
        vectors: list[Parameter] = []
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.dim() < 2:
                vectors.append(parameter)
            elif config.optimizer == "muon" and name.startswith("h."):
                inner.append(parameter)
            else:
                outer.append(parameter)
        groups = [
            {"params": outer, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        rate, betas = config.learning_rate, (config.beta1, config.beta2)
        if config.precision == "bf16":
            adamw = SplitAdamW(groups, lr=rate, betas=betas)
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    adamw.state[parameter]["low"] = self._low[name]
            return [adamw]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)
        ]
        if inner:
            dtype = torch.bfloat16 if config.precision == "autocast" else torch.float32
            optimizers.append(Muon(inner, lr=rate, weight_decay=config.weight_decay, dtype=dtype))
        return optimizers

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
        found = {name: whole(p.detach()) for name, p in self._trained().items()}
        return found | {f"{name}{_LOW}": whole(low) for name, low in self._low.items()}

    def _load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(divided_as(tensors[name], parameter))
            for name, low in self._low.items():
                low.copy_(divided_as(tensors[f"{name}{_LOW}"], low))

    def _moments(self) -> list[dict[int, dict[str, Any]]]:
        """What the optimisers remember of each weight, in the weights' order."""
        return [
            {
                number: {
                    name: whole(value)
                    for name, value in optimizer.state.get(parameter, {}).items()
                    if name != "low"
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
                        value = divided_as(value, parameter)
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
        if self.processes.leads:
            temporary = self._write(state, self._checkpoint_path)
            if self._checkpoint_path.exists():
                self._checkpoint_path.replace(self._previous_path)
            temporary.replace(self._checkpoint_path)
        self.processes.wait()

    def _write(self, state: Any, path: Path) -> Path:
        """Write a state beside ``path``, whole and on the disk; returns where."""
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave an empty file
        except (OSError, RuntimeError) as error:  # torch reports a full disk as either
            with contextlib.suppress(OSError):
                temporary.unlink()
            kept = "nothing is lost but the steps since the last checkpoint, which is kept"
            raise CheckpointError(
                f"{path} cannot be written ({_reason(error)}) after step {self.step}: {kept}. Free "
                "some space, then go on with the run"
            ) from error
        return temporary

    def _load_checkpoint(self) -> None:
        state, settings = self._read_checkpoint()
        defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
        differ = [
            f"{name} {theirs!r}, not {value!r}"
            for part, values in self._settings().items()
            for name, value in values.items()
            if (theirs := settings.get(part, {}).get(name, defaults.get(name))) != value
        ]
        if differ:
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
        if self.processes.leads:
            self._drop_metrics_after(self.step)
        self.console.print(f"going on from step {self.step} of {self.config.max_steps}")

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
        kept = []
        for line in self._metrics_path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the last line may be cut short
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        temporary = self._metrics_path.with_name("metrics.jsonl.tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(self._metrics_path)

    def _log_update(self, norm: float, elapsed: float) -> None:
        config = self.config
        self._write_metrics(
            train_loss=round(self.train_loss, 5),
            grad_norm=round(norm, 4),
            learning_rate=config.learning_rate_at(self.step - 1),
            tokens_per_second=round(config.tokens_per_step / elapsed),
        )

    def _measure(self, console: Console, elapsed: float) -> None:
        """Held-out loss, and a sample where one is asked for; keeps the weights if it is lowest."""
        loss = self.last_heldout_loss = self.heldout_loss()
        bits = self._heldout_data.bits_per_byte(loss)
        if loss < self.best_heldout_loss:
            self.best_step, self.best_heldout_loss, self._since_best = self.step, loss, 0
            weights = self._weights()
            if self.processes.leads:
                self._write(weights, self._best_path).replace(self._best_path)
        else:
            self._since_best += 1
        values: dict[str, Any] = {
            "heldout_loss": round(loss, 5), "heldout_bits_per_byte": round(bits, 5),
        }  # fmt: skip
        if self._sample is not None:
            values["sample"] = self._sample(self._write_on, self.step)
        self._write_metrics(**values)
        console.print(
            f"step {self.step}/{self.config.max_steps}: held-out loss {loss:.4f} nats/token, "
            f"{bits:.4f} bits/byte, {self.seconds:.0f} s",
            highlight=False,
        )
        if "sample" in values:
            console.print(visible(values["sample"]), markup=False, highlight=False)
        if self._on_eval is not None:
            self._on_eval(self._progressed(elapsed))

    def _progressed(self, elapsed: float) -> Progressed:
        return Progressed(
            step=self.step,
            max_steps=self.config.max_steps,
            train_loss=self.train_loss,
            heldout_loss=self.last_heldout_loss,
            learning_rate=self.config.learning_rate_at(self.step - 1),
            tokens_per_second=self.config.tokens_per_step / elapsed,
            seconds=self.seconds,
        )

    def _described(self, elapsed: float) -> str:
        """The line beside the bar: losses, learning rate, speed, memory."""
        now = self._progressed(elapsed)
        heldout = "" if math.isnan(now.heldout_loss) else f" held-out {now.heldout_loss:.3f}"
        return (
            f"loss {now.train_loss:.3f}{heldout} rate {now.learning_rate:.1e} "
            f"{now.tokens_per_second:,.0f} tokens/s {resident_bytes() / 1e9:.1f} GB"
        )

    def _write_metrics(self, **values: Any) -> None:
        if not self.processes.leads:
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

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )


def _parameters(optimizer: torch.optim.Optimizer) -> list[Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _gradient(optimizer: torch.optim.Optimizer, parameter: Parameter) -> Tensor | None:
    if isinstance(optimizer, SplitAdamW):
        return optimizer.gradient(parameter)
    return parameter.grad


def length(gradient: Tensor) -> Tensor:
    """The Euclidean norm of a gradient, in fp32.

    Over tens of millions of numbers torch's sum loses digits (8e-4 of the norm for GPT-2's output
    matrix), and of a gradient in bfloat16 it makes a whole copy in fp32 first. By pieces the sum
    keeps them, the copy stays in the cache, and it takes a quarter of the time.
    """
    if local(gradient) is not gradient:
        return _norm(gradient)
    pieces: tuple[Tensor, ...] = torch.split(gradient.reshape(-1), _PIECE)
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
    """Ctrl-C and SIGTERM set the event instead of striking in the middle of an update.

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
