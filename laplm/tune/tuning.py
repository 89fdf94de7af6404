"""Fine-tuning, from the files that people have to a model directory: read, plan, train, keep.

A run's directory holds ``run.json`` (what was asked for), ``run/`` (checkpoints and measurements
of ``trainer.py``) and, when it has ended, the model: a Hugging Face directory, or an adapter's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from laplm import bounds, built_in
from laplm.errors import CheckpointError, InputError, MissingExtraError
from laplm.files import json_text, write_file
from laplm.machine import available_bytes, peak_bytes
from laplm.metrics import METRICS
from laplm.model.chat import DEFAULT
from laplm.model.files.adapter import BASE, is_adapter
from laplm.model.files.checkpoint import Checkpoint, save_checkpoint
from laplm.model.pretrained_settings import PretrainedModel
from laplm.model.tokenizer import Tokenizer, end_tokens
from laplm.progress import Progress
from laplm.tune.data.packing import Documents, PackedWindows, encode_example
from laplm.tune.data.read import Dataset, Example, read_examples
from laplm.tune.families import check_family
from laplm.tune.kernels import attention, pointwise
from laplm.tune.lock import check_unlocked, lock_directory
from laplm.tune.loss_curve import draw_loss_curve
from laplm.tune.memory import MemoryEstimate, estimate_memory
from laplm.tune.models.gpt2 import TorchGPT
from laplm.tune.models.lora import adapter_card, add_lora, save_adapter
from laplm.tune.optim import adamw
from laplm.tune.processes import Processes, join_processes
from laplm.tune.trainer import (
    EvalMetrics,
    GenerateFn,
    SampleFn,
    StepMetrics,
    TrainConfig,
    Trainer,
    best_precision,
)
from laplm.tune_config import TuneConfig

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

RUN = "run.json"
RUN_FILES = "run"
SUMMARY = "summary.json"
_SAMPLE_TOKENS = 40
_PROMPT_TOKENS = 8
_OPENING_WORDS = 6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will be, told before it begins.

    Attributes:
        model: to begin from.
        directory: of the run.
        config: settings, with the number format that was chosen.
        dataset: what was read.
        train: the documents that it is trained on.
        heldout: those that it is only evaluated on.
        windows: the training documents in windows.
        first_window: of these as text, ``¶`` between its documents.
        opening: what a person would have the tuned model go on from, out of a held-out document:
            its question, its prompt, or its first words. Of a text that is one document, its own.
        asks: whether that is a question of a conversation.
        settings: the trainer's settings.
        n_trainable: numbers that are trained.
        memory: bytes at the peak, counted.
        available: bytes that could be had; 0 where the system does not tell.
        checkpointing: whether activations are computed twice, because asked for or because memory
            would not do otherwise.
        n_processes: that share every batch.
        trainer: ready to run.
        seconds_per_step: measured; NaN before that.
        measured_peak: bytes at the peak of the timed steps; 0 before that.
    """

    model: PretrainedModel
    directory: Path
    config: TuneConfig
    dataset: Dataset
    train: Documents
    heldout: Documents
    windows: PackedWindows
    first_window: str
    opening: str
    asks: bool
    settings: TrainConfig
    n_trainable: int
    memory: MemoryEstimate
    available: int
    checkpointing: bool
    n_processes: int
    trainer: Trainer
    seconds_per_step: float = math.nan
    measured_peak: int = 0

    @property
    def minutes(self) -> float:
        """Estimated length of the run; NaN before steps were timed."""
        return self.seconds_per_step * self.settings.max_steps / 60


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What came of fine-tuning.

    Attributes:
        directory: where the model is.
        steps: steps made.
        best_step: the step whose weights were kept: those of the lowest held-out loss.
        loss_before: held-out loss of the model as it came, in nats a token.
        loss_after: of the weights that were kept.
        bits_before: the same before, in bits per byte.
        bits_after: and after.
        seconds: spent in steps.
        peak_bytes: the most memory that the process held.
    """

    directory: Path
    steps: int
    best_step: int
    loss_before: float
    loss_after: float
    bits_before: float
    bits_after: float
    seconds: float
    peak_bytes: int


def suitable_learning_rate(method: str, n_embd: int) -> float:
    """2e-4 for all weights at GPT-2's width of 768, more where it is less; five times for LoRA.

    Wider layers want smaller steps, about as the inverse of their width (Yang et al. 2022,
    arXiv:2203.03466, table 8).
    """
    return (2e-4 if method == "full" else 1e-3) * 768 / n_embd


def fine_tune(
    data: str | Path | Dataset,
    model: PretrainedModel,
    out: str | Path,
    config: TuneConfig | None = None,
    *,
    resume: bool = False,
    planned: Callable[[Plan], bool] | None = None,
    on_step: Callable[[StepMetrics], None] | None = None,
    on_eval: Callable[[EvalMetrics], None] | None = None,
    threads: int | None = None,
    device: str | None = None,
    shard: bool = False,
    tensorboard: bool = False,
    request: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> TuneResult | None:
    """Fine-tune a model on data; the model as it was stays as it is.

    Args:
        data: what ``read_examples`` takes, or what it gave.
        model: to begin from.
        out: the run's directory, made when missing.
        config: settings.
        resume: go on with the run in ``out``.
        planned: called with the plan after two steps were timed; False ends here.
        on_step: called after each step.
        on_eval: called after each evaluation.
        threads: threads that work; None leaves that to torch.
        device: cpu (None), cuda, mps, ... Several processes started by ``torchrun`` train together.
        shard: divide the weights among those processes, for models that one could not hold.
        tensorboard: write TensorBoard's files to ``run/tensorboard`` too.
        request: kept in ``run.json`` besides, for who goes on with the run.
        progress: told what goes on before ``planned`` is called: what, done, total.

    Returns:
        What came of it; None when ``planned`` said no.

    Raises:
        CheckpointError: a checkpoint cannot be written; the one before it is kept.
        InputError: the data, a setting or ``out`` cannot be used, another process trains there, or
            memory will not do.
        KeyboardInterrupt: Ctrl-C; everything is kept, and ``resume`` goes on.
    """
    config, directory = config or TuneConfig(), Path(out)
    _check_base(model, config)
    if threads is not None:
        torch.set_num_threads(int(bounds.TUNING["threads"].check("threads", threads)))
    dataset = data if isinstance(data, Dataset) else read_examples(Path(data))
    with _session(directory, resume, device, shard) as processes:
        plan = prepare(
            dataset, model, directory, config, resume=resume, processes=processes,
            tensorboard=tensorboard, on_step=on_step, on_eval=on_eval,
            progress=progress if processes.is_main else None,
        )  # fmt: skip
        if planned is not None and not planned(plan):
            return None
        return run(plan, request)


def prepare(
    dataset: Dataset,
    model: PretrainedModel,
    directory: Path,
    config: TuneConfig,
    *,
    resume: bool = False,
    processes: Processes | None = None,
    tensorboard: bool = False,
    on_step: Callable[[StepMetrics], None] | None = None,
    on_eval: Callable[[EvalMetrics], None] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Everything before the first step: documents, windows, memory, a trainer, two timed steps.

    Raises:
        InputError: the data or a setting cannot be used, or memory will not do.
    """
    processes = processes or Processes()
    dataset = dataset.with_chat_template(model.chat_template)
    apart = split(dataset.examples, model.tokenizer, config.heldout_share)
    train, heldout = _encode(*apart, model)
    shown = (apart[1] if len(dataset.examples) > 1 else apart[0])[0]
    precision = config.precision or best_precision(processes.device)
    config = dataclasses.replace(config, precision=precision)
    gpt = model_to_train(model.checkpoint, config, precision, progress)
    windows = train.windows(_window_length(config, gpt), config.seed)
    settings = _train_config(config, precision, gpt, windows)
    memory, available = _fit_memory(gpt, config, settings, processes)
    if resume:
        _check_resumed(directory, _digest(train, heldout))
    run_files = directory / RUN_FILES
    trainer = Trainer(
        gpt, train, heldout, settings, run_files,
        sample=_sample(model, heldout, config.seed), on_step=on_step, on_eval=on_eval,
        settings=_json(dataclasses.asdict(config.lora)) if config.method == "lora" else {},
        processes=processes, tensorboard=run_files / "tensorboard" if tensorboard else None,
    )  # fmt: skip
    plan = Plan(
        model=model, directory=directory, config=config, dataset=dataset,
        train=train, heldout=heldout, windows=windows,
        first_window=_first_window(windows, model.tokenizer),
        opening=shown.opening(_OPENING_WORDS),
        asks=any(turn.role == "user" for turn in shown.turns), settings=settings,
        n_trainable=sum(p.numel() for p in gpt.parameters() if p.requires_grad),
        memory=memory, available=available, checkpointing=gpt.checkpointing,
        n_processes=processes.size, trainer=trainer,
    )  # fmt: skip
    if trainer.step:  # it goes on
        return plan
    seconds = trainer.time_steps(progress=progress)
    return dataclasses.replace(plan, seconds_per_step=seconds, measured_peak=peak_bytes())


def run(plan: Plan, request: dict[str, Any] | None = None) -> TuneResult:
    """Train as planned, and write the model.

    Args:
        plan: from ``prepare``; runs once.
        request: kept in ``run.json`` besides.

    Raises:
        CheckpointError: a checkpoint cannot be written; the one before it is kept.
        InputError: the loss is no longer a number.
        KeyboardInterrupt: Ctrl-C; everything is kept, and the run can go on.
    """
    directory, trainer, heldout = plan.directory, plan.trainer, plan.heldout
    is_main = trainer.processes.is_main
    before = _loss_before(directory, trainer)
    record = {
        "model": _portable_name(plan.model),
        "data": _digest(plan.train, heldout),
        "config": _json(dataclasses.asdict(plan.config)),
        "resolved": _json(dataclasses.asdict(plan.settings)),
        "loss_before": before,
        "request": request or {},
    }
    if is_main:
        write_file(directory / RUN, (json_text(record, indent=2) + "\n").encode())
    try:
        result = trainer.run()
    except CheckpointError as error:
        raise CheckpointError(f"{error}: laplm tune --resume {directory}") from error
    weights = trainer.best_weights()
    done = TuneResult(
        directory=directory,
        steps=result.steps,
        best_step=result.best_step,
        loss_before=before,
        loss_after=result.best_heldout_loss,
        bits_before=heldout.bits_per_byte(before),
        bits_after=heldout.bits_per_byte(result.best_heldout_loss),
        seconds=result.seconds,
        peak_bytes=peak_bytes(),
    )
    if is_main:
        _save(directory, weights, plan.model, plan.config, plan.dataset)
        summary = _json(dataclasses.asdict(done)) | {"directory": str(directory)}
        write_file(directory / SUMMARY, (json_text(summary, indent=2) + "\n").encode())
        with contextlib.suppress(MissingExtraError):  # a picture is not worth a failed run
            draw_loss_curve(directory / METRICS, [directory / "loss_curve.png"], directory.name)
    trainer.processes.barrier()
    return done


@contextlib.contextmanager
def _session(directory: Path, resume: bool, device: str | None, shard: bool) -> Iterator[Processes]:
    """The processes that train together; the main one holds the run's directory."""
    with contextlib.ExitStack() as held, join_processes(device, shard=shard) as processes:
        if processes.is_main:
            held.enter_context(_claim(directory, resume))
        processes.barrier()
        yield processes


def _check_base(model: PretrainedModel, config: TuneConfig) -> None:
    check_family(model)
    if config.method == "lora" and is_adapter(model.checkpoint.path):
        raise InputError(
            f"{model.name} is an adapter, and one adapter cannot stand on another; merge it first "
            f"(laplm export {model.name} --to peft-merged --out DIR), or tune it with method full"
        )


def _sample(model: PretrainedModel, heldout: Documents, seed: int) -> SampleFn:
    """What an evaluation shows: a continuation of a held-out document."""
    prompt = _sample_prompt(heldout)
    ends = end_tokens(model.tokenizer, model.checkpoint.config)

    def sample(generate: GenerateFn, step: int) -> str:
        drawn = generate(prompt, _SAMPLE_TOKENS, seed)
        return model.tokenizer.decode(
            [*prompt, *itertools.takewhile(lambda i: i not in ends, drawn)]
        )

    return sample


def read_run(directory: Path) -> dict[str, Any]:
    """What ``run.json`` of a run says.

    Raises:
        InputError: there is no run.
    """
    path = directory / RUN
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["config"] = TuneConfig.from_dict(values["config"])
    except FileNotFoundError:
        raise InputError(f"{directory} holds no run to go on with (no {RUN})") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error}); start the run again") from None
    return dict(values)


def split(
    examples: Sequence[Example], tokenizer: Tokenizer, share: float
) -> tuple[list[Example], list[Example]]:
    """Documents to train on and documents to evaluate on: those whose text has the lowest hashes.

    So the choice depends on no order, and a document that comes twice is never on both sides. Of
    a single document, the last part is held out.

    Raises:
        InputError: there is too little text for both.
    """
    texts = {example.text for example in examples}
    if len(texts) > 1:
        ordered = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())
        count = min(len(ordered) - 1, max(1, round(share * len(ordered))))
        apart = set(ordered[:count])
        return (
            [e for e in examples if e.text not in apart],
            list(dict.fromkeys(e for e in examples if e.text in apart)),
        )
    pieces = examples[0].pieces
    text, in_loss = pieces[-1]
    at = round(len(text) * (1 - share))
    # Not within a word, and both parts more than a word.
    while 0 < at < len(text) and not text[at].isspace():
        at -= 1
    if not in_loss or len(pieces) > 1 or min(at, len(text) - at) < 2:
        raise InputError(
            "there is one document and too little in it to hold some out; add more text"
        )
    return (
        [Example(((text[:at], True),))],
        [Example(((text[at:].lstrip() or text[at:], True),))],
    )


def _encode(
    train: Sequence[Example], heldout: Sequence[Example], model: PretrainedModel
) -> tuple[Documents, Documents]:
    """Documents to train on and to evaluate on, as tokens."""
    end = _end_of_text(model)
    return _documents(train, model.tokenizer, end), _documents(heldout, model.tokenizer, end)


def _documents(examples: Sequence[Example], tokenizer: Tokenizer, end: int) -> Documents:
    encoded = [encode_example(example, tokenizer, end) for example in examples]
    n_bytes = sum(
        len(text.encode()) for example in examples for text, in_loss in example.pieces if in_loss
    )
    return Documents([d for d in encoded if len(d.ids) > 1], n_bytes, padding=end)


def _end_of_text(model: PretrainedModel) -> int:
    for token in (model.checkpoint.config.eos_token_id, model.tokenizer.eos_token_id):
        if token is not None and token < model.checkpoint.config.vocab_size:
            return token
    raise InputError(
        f"{model.name} has no token that ends a text, so it could not learn to stop; set "
        "eos_token_id in its config.json"
    )


def model_to_train(
    checkpoint: Checkpoint, config: TuneConfig, precision: str, progress: Progress | None = None
) -> TorchGPT:
    """The model as it is trained: with adapters or without, its weights in the format they have.

    Args:
        checkpoint: the model's files.
        config: settings.
        precision: fp32 or bf16.
        progress: told what is read and compiled.

    Raises:
        InputError: the rank is higher than a layer's.
        ModelFormatError: the file changed since it was opened.
    """
    gpt = TorchGPT.from_checkpoint(checkpoint, config.base_precision, progress)
    gpt.checkpointing = config.checkpointing
    if config.method == "lora":
        add_lora(gpt, config.lora, config.seed)
    if precision == "bf16":
        gpt.split_master_weights()
    precompile_kernels(checkpoint.config.head_dim, precision, progress)
    return gpt


def precompile_kernels(head_dim: int, precision: str, progress: Progress | None = None) -> None:
    """Compile now, so that the time and the memory it takes are not a step's."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if precision == "bf16":
        adamw.precompile(progress)
    attention.precompile(head_dim, dtype, progress)
    pointwise.precompile(dtype, progress)


def _window_length(config: TuneConfig, gpt: TorchGPT) -> int:
    return min(256, gpt.config.n_ctx) if config.n_positions is None else config.n_positions


def _train_config(
    config: TuneConfig,
    precision: Literal["fp32", "bf16"],
    gpt: TorchGPT,
    windows: PackedWindows,
) -> TrainConfig:
    """The trainer's settings, with what goes by the number of windows and the model's width."""
    per_step = config.batch_size * config.grad_accum_steps
    steps = config.max_steps or max(1, math.ceil(config.epochs * len(windows) / per_step))
    rate = config.learning_rate or suitable_learning_rate(config.method, gpt.config.n_embd)
    return TrainConfig(
        max_steps=steps,
        learning_rate=rate,
        final_learning_rate=rate / 10,
        batch_size=config.batch_size,
        grad_accum_steps=config.grad_accum_steps,
        n_positions=windows.n_positions,
        warmup_steps=min(100, math.ceil(steps / 20)),
        weight_decay=config.weight_decay,
        dropout=config.dropout,
        eval_interval=max(1, math.ceil(steps / config.evaluations)),
        patience=config.patience,
        log_interval=max(1, steps // 1000),
        precision=precision,
        seed=config.seed,
    )


def _fit_memory(
    gpt: TorchGPT, config: TuneConfig, settings: TrainConfig, processes: Processes
) -> tuple[MemoryEstimate, int]:
    """Bytes that are needed and available; sets ``gpt.checkpointing`` where that must be.

    Raises:
        InputError: memory will not do.
    """

    def estimate() -> MemoryEstimate:
        return estimate_memory(
            gpt,
            batch_size=max(1, config.batch_size // processes.size),
            n_positions=settings.n_positions,
            grad_accum_steps=config.grad_accum_steps,
        )

    available, memory = available_bytes(), estimate()
    if available and memory.total > available and not gpt.checkpointing:
        gpt.checkpointing = True
        less = estimate()
        gpt.checkpointing = less.total <= available
        memory = less if gpt.checkpointing else memory
    if available and memory.total > available:
        raise InputError(_does_not_fit(memory, available, gpt, config, settings.n_positions))
    return memory, available


def _first_window(windows: PackedWindows, tokenizer: Tokenizer) -> str:
    """The first window that is trained on, as text."""
    batch = windows.windows([0])
    ids = batch.inputs[0]
    if batch.segments is None:
        return tokenizer.decode(ids.tolist())
    marks = batch.segments[0]
    return "¶".join(
        tokenizer.decode(ids[marks == segment].tolist()) for segment in range(marks.max() + 1)
    )


def _does_not_fit(
    needed: MemoryEstimate, available: int, gpt: TorchGPT, config: TuneConfig, n_positions: int
) -> str:
    """What would: smaller parts of a batch, then less kept for the backward pass, then LoRA."""
    said = (
        f"this run needs about {needed.total / 1e9:.1f} GB, and {available / 1e9:.1f} GB can be had"
    )
    for checkpointing in dict.fromkeys((config.checkpointing, True)):
        size = config.batch_size
        while size >= 1:
            gpt.checkpointing = checkpointing
            memory = estimate_memory(
                gpt, batch_size=size, n_positions=n_positions, grad_accum_steps=2
            )
            if memory.total <= available:
                steps = math.ceil(config.batch_size * config.grad_accum_steps / size)
                more = " --checkpointing" if checkpointing else ""
                return (
                    f"{said}. The same run with less: --batch-size {size} --grad-accum-steps "
                    f"{steps}{more} ({memory.total / 1e9:.1f} GB)"
                )
            size //= 2
    if config.method == "full":
        return f"{said}. Try --method lora, a shorter --window, or a smaller model"
    return f"{said}. Try a shorter --window, or a smaller model"


def _sample_prompt(heldout: Documents) -> list[int]:
    """What samples go on from: the prompt of a held-out document, or the beginning of its text."""
    first = heldout.documents[0]
    n_prompt = int(first.loss_mask.argmax())
    return [int(i) for i in first.ids[: n_prompt or _PROMPT_TOKENS]]


def _digest(train: Documents, heldout: Documents) -> str:
    return hashlib.sha256(f"{train.digest()} {heldout.digest()}".encode()).hexdigest()


@contextlib.contextmanager
def _claim(directory: Path, resume: bool) -> Iterator[None]:
    """Check the run's directory and hold it; if it is made here and stays empty, take it away.

    Under torchrun the first process holds it for all.
    """
    run = directory / RUN_FILES
    was_there = directory.exists()
    check_unlocked(run)  # what another one has written there until now says nothing
    _check_directory(directory, resume)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be made ({error.strerror})") from None
    try:
        with lock_directory(run):
            _check_directory(directory, resume)  # another one may have been quicker
            yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            run.rmdir()
            if not was_there:
                directory.rmdir()


def _check_directory(directory: Path, resume: bool) -> None:
    if resume:
        read_run(directory)
        return
    if (directory / RUN).exists():
        raise InputError(
            f"{directory} holds a run; go on with it (laplm tune --resume {directory}), or choose "
            "another directory"
        )
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file; choose a directory")
    if directory.is_dir() and any(
        not p.name.startswith(".") and p.name != RUN_FILES for p in directory.iterdir()
    ):
        raise InputError(f"{directory} is not empty; choose another directory")


def _check_resumed(directory: Path, digest: str) -> None:
    if read_run(directory)["data"] != digest:
        raise InputError(
            f"the data is no longer what the run in {directory} began with; give it the same "
            "data, or start another run"
        )


def _loss_before(directory: Path, trainer: Trainer) -> float:
    """The held-out loss of the model as it came: measured once, and kept."""
    if trainer.step == 0 or not (directory / RUN).exists():
        return trainer.heldout_loss()
    return float(read_run(directory)["loss_before"])


def _portable_name(model: PretrainedModel) -> str:
    """A name stays a name; of a directory the whole path, which is still right elsewhere.

    So is that of a result of tuning, whose name may be another one tomorrow.
    """
    path = model.checkpoint.path
    changes = Path(model.name).exists() or (path / RUN).exists()
    return str(path.resolve()) if changes else model.name


def _save(
    directory: Path,
    weights: dict[str, torch.Tensor],
    model: PretrainedModel,
    config: TuneConfig,
    dataset: Dataset,
) -> None:
    settings, tokenizer = model.settings, model.tokenizer.to_json()
    if not settings.chat_templates and dataset.chat_template is not None:
        settings = dataclasses.replace(settings, chat_templates={DEFAULT: dataset.chat_template})
    if config.method == "full":
        arrays = {name: value.to("cpu", torch.float32).numpy() for name, value in weights.items()}
        save_checkpoint(directory, model.checkpoint.config, arrays, "fp32", tokenizer, settings)
        return
    values = settings.tokenizer_config_json(model.checkpoint.config, tokenizer)
    write_file(directory / "tokenizer.json", tokenizer.encode())
    write_file(directory / "tokenizer_config.json", (json_text(values, indent=2) + "\n").encode())
    base = _base_for_others(directory, model)
    save_adapter(directory, weights, config.lora, base)
    write_file(directory / "README.md", adapter_card(directory, base).encode())


def _base_for_others(directory: Path, model: PretrainedModel) -> str:
    """What peft finds the base model by. The built-in one, which no hub has, is put beside."""
    path = model.checkpoint.path
    if path.resolve() != built_in.DIRECTORY.resolve():
        in_hub_cache = re.fullmatch(r"models--(.+)", path.parent.parent.name)
        # In full, as gpt2 alone is found by those who ask the hub, and not in its cache.
        return in_hub_cache[1].replace("--", "/") if in_hub_cache else _portable_name(model)
    copy = directory / BASE
    copy.mkdir(exist_ok=True)
    for name in (*built_in.FILES, built_in.CARD):
        write_file(copy / name, (built_in.DIRECTORY / name).read_bytes())
    return str(copy.resolve())


def _json(values: dict[str, Any]) -> dict[str, Any]:
    """The same in what JSON gives back."""
    return dict(json.loads(json_text(values, default=str)))
