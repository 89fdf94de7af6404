"""A tuning from the files that people have to a model directory: read, plan, train, keep the best.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from laplm import bounds, built_in
from laplm.bounds import check_fields, check_update
from laplm.errors import CheckpointError, InputError, MissingExtraError
from laplm.home import json_text, write_whole
from laplm.machine import available_bytes, peak_bytes
from laplm.model.chat import DEFAULT
from laplm.model.files.adapter import BASE, is_adapter
from laplm.model.files.checkpoint import Checkpoint, save_checkpoint
from laplm.model.pretrained_settings import PretrainedModel
from laplm.model.tokenizer import Tokenizer, end_tokens
from laplm.progress import Progress
from laplm.tune.curve import draw_loss_curve
from laplm.tune.data.packing import Documents, encode_example
from laplm.tune.data.read import Example, Reading, read_examples
from laplm.tune.kernels import attention, pointwise
from laplm.tune.lock import check_unlocked, lock_directory
from laplm.tune.memory import MemoryPlan, plan_memory
from laplm.tune.models.gpt2 import TorchGPT
from laplm.tune.models.lora import LoRAConfig, adapter_card, add_lora, save_adapter
from laplm.tune.optim import adamw
from laplm.tune.processes import Processes, join_processes
from laplm.tune.trainer import Progressed, TrainConfig, Trainer, Write, best_precision

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error

METHODS = ("full", "lora")
RUN = "run.json"
RUN_FILES = "run"
SUMMARY = "summary.json"
_SAMPLE_TOKENS = 40
_PROMPT_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How a model is tuned.

    Attributes:
        method: "full" trains every weight; "lora" small matrices beside them.
        lora: how large these are, and where.
        epochs: how often every document is read.
        max_steps: updates instead; None goes by ``epochs``.
        batch_size: windows of one forward pass.
        grad_accum_steps: forward passes an update.
        n_positions: tokens of a window; None takes 256, or the model's context if that is less.
        learning_rate: the peak; None takes one that suits method and width
            (``suitable_learning_rate``).
        weight_decay: for matrices.
        dropout: share of what attention and feed-forward put out that is dropped.
        heldout_share: share of the documents that is only measured on.
        evaluations: how often the held-out loss is measured.
        patience: end early after so many measurements without a new lowest; 0: never.
        checkpointing: trade time for memory (``TorchGPT.checkpointing``); done in any case when
            memory would not do otherwise.
        base_precision: of the weights that adapters stand beside: "int8" takes a quarter of the
            memory of "fp32", half of that of bfloat16.
        precision: "bf16" or "fp32"; None takes what the device is fastest in.
        seed: of everything that is drawn.

    Raises:
        InputError: a setting is out of range.
    """

    method: Literal["full", "lora"] = "full"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 4
    grad_accum_steps: int = 1
    n_positions: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.1
    dropout: float = 0.1
    heldout_share: float = 0.05
    evaluations: int = 10
    patience: int = 0
    checkpointing: bool = False
    base_precision: Literal["fp32", "int8"] = "fp32"
    precision: Literal["fp32", "bf16"] | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method is {self.method!r}, but it must be full or lora")
        if self.base_precision not in ("fp32", "int8"):
            raise InputError(
                f"base precision is {self.base_precision!r}, but it must be fp32 or int8"
            )
        if self.base_precision == "int8" and self.method == "full":
            raise InputError(
                "weights in int8 cannot be trained: --base-precision int8 belongs to --method lora"
            )
        if self.precision not in (None, "fp32", "bf16"):
            raise InputError(f"precision is {self.precision!r}, but it must be fp32 or bf16")
        check_fields(
            self, bounds.TUNING.keys() & {field.name for field in dataclasses.fields(self)}
        )
        check_update(self.batch_size, self.grad_accum_steps, self.n_positions or 1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TuneConfig:
        """What ``dataclasses.asdict`` made, from JSON."""
        lora = dict(values["lora"])
        lora["target_modules"] = tuple(lora["target_modules"])
        return cls(**(values | {"lora": LoRAConfig(**lora)}))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will be, told before it begins.

    Attributes:
        reading: what was read.
        train: the documents that are learned.
        heldout: those that are only measured on.
        n_split: documents longer than a window, which are read in parts.
        filled: share of the windows' positions that hold text.
        peek: the first window as text, ``¶`` between its documents.
        tokens_per_step: positions of an update.
        steps: updates in all.
        trained: numbers that are trained.
        memory: bytes at the peak, counted.
        machine: bytes that could be had; 0 where the system does not tell.
        seconds_per_step: measured; NaN before that.
        measured_peak: bytes at the peak of the timed updates; 0 before that.
        settings: the trainer's settings.
        checkpointing: whether activations are computed twice, because asked for or because memory
            would not do otherwise.
        processes: that share every batch.
    """

    reading: Reading
    train: Documents
    heldout: Documents
    n_split: int
    filled: float
    peek: str
    tokens_per_step: int
    steps: int
    trained: int
    memory: MemoryPlan
    machine: int
    settings: TrainConfig
    checkpointing: bool
    processes: int = 1
    seconds_per_step: float = math.nan
    measured_peak: int = 0

    @property
    def minutes(self) -> float:
        """Estimated length of the run; NaN before updates were timed."""
        return self.seconds_per_step * self.steps / 60

    @property
    def fits(self) -> bool:
        """Whether the memory that is counted can be had; True where nobody tells."""
        return not self.machine or self.memory.total <= self.machine


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What came of a tuning.

    Attributes:
        directory: where the model is.
        steps: updates made.
        best_step: the update whose weights were kept: those of the lowest held-out loss.
        loss_before: held-out loss of the model as it came, in nats a token.
        loss_after: of the weights that were kept.
        bits_before: the same before, in bits per byte.
        bits_after: and after.
        seconds: spent in updates.
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
    """2e-4 for full tuning at GPT-2's width of 768, more where it is less; five times for LoRA.

    Wider layers want smaller steps, about as the inverse of their width (Yang et al. 2022,
    arXiv:2203.03466, table 8).
    """
    return (2e-4 if method == "full" else 1e-3) * 768 / n_embd


def tune(
    data: str | Path | Reading,
    model: PretrainedModel,
    out: str | Path,
    config: TuneConfig | None = None,
    *,
    resume: bool = False,
    planned: Callable[[Plan], bool] | None = None,
    on_step: Callable[[Progressed], None] | None = None,
    on_eval: Callable[[Progressed], None] | None = None,
    threads: int | None = None,
    device: str | None = None,
    shard: bool = False,
    tensorboard: bool = False,
    request: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> TuneResult | None:
    """Tune a model on data; the model as it was stays as it is.

    Args:
        data: what ``read_examples`` takes, or what it gave.
        model: to begin from.
        out: the run's directory, made when missing.
        config: settings.
        resume: go on with the run in ``out``.
        planned: called with the plan after two updates were timed; False ends here.
        on_step: called after each update.
        on_eval: called after each measurement.
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
    config = config or TuneConfig()
    if config.method == "lora" and is_adapter(model.checkpoint.path):
        raise InputError(
            f"{model.name} is an adapter, and one adapter cannot stand on another; merge it first "
            f"(laplm export {model.name} --to peft-merged --out DIR), or tune it with method full"
        )
    directory = Path(out)
    if threads is not None:
        torch.set_num_threads(int(bounds.TUNING["threads"].check("threads", threads)))
    reading = data if isinstance(data, Reading) else read_examples(Path(data))
    reading = reading.in_template(model.chat_template)
    with contextlib.ExitStack() as held, join_processes(device, shard=shard) as processes:
        if processes.leads:
            held.enter_context(_claim(directory, resume))
        processes.wait()
        return _tune_together(
            processes, reading, model, directory, config,
            resume=resume, planned=planned, on_step=on_step, on_eval=on_eval,
            tensorboard=tensorboard, request=request or {},
            progress=progress if processes.leads else None,
        )  # fmt: skip


def _tune_together(
    processes: Processes,
    reading: Reading,
    model: PretrainedModel,
    directory: Path,
    config: TuneConfig,
    *,
    resume: bool,
    planned: Callable[[Plan], bool] | None,
    on_step: Callable[[Progressed], None] | None,
    on_eval: Callable[[Progressed], None] | None,
    tensorboard: bool,
    request: dict[str, Any],
    progress: Progress | None,
) -> TuneResult | None:
    """What every process of a run does; the first one writes."""
    end = _end_of_text(model)
    parts = [
        _encode(examples, model.tokenizer, end)
        for examples in split(reading.examples, model.tokenizer, config.heldout_share)
    ]
    train, heldout = parts
    precision = config.precision or best_precision(processes.device)
    gpt = model_to_train(model.checkpoint, config, precision, progress)
    plan = _plan(reading, train, heldout, model, gpt, config, precision, processes)
    if not plan.fits and not gpt.checkpointing:
        gpt.checkpointing = True
        less = _plan(reading, train, heldout, model, gpt, config, precision, processes)
        gpt.checkpointing = less.fits
        plan = less if less.fits else plan
    if not plan.fits:
        raise InputError(_does_not_fit(plan, gpt, config))
    digest = _digest(plan)
    if resume:
        _check_resumed(directory, digest)
    prompt = _sample_prompt(heldout)

    ends = end_tokens(model.tokenizer, model.checkpoint.config)

    def sample(write: Write, step: int) -> str:
        drawn = write(prompt, _SAMPLE_TOKENS, config.seed)
        return model.tokenizer.decode(
            [*prompt, *itertools.takewhile(lambda i: i not in ends, drawn)]
        )

    trainer = Trainer(
        gpt,
        train,
        heldout,
        plan.settings,
        directory / RUN_FILES,
        sample=sample,
        settings=_json(dataclasses.asdict(config.lora)) if config.method == "lora" else {},
        on_step=on_step,
        on_eval=on_eval,
        processes=processes,
        tensorboard=directory / RUN_FILES / "tensorboard" if tensorboard else None,
    )
    if trainer.step == 0:
        seconds = trainer.time_updates(tell=progress)
        plan = dataclasses.replace(plan, seconds_per_step=seconds, measured_peak=peak_bytes())
    if planned is not None and not planned(plan):
        return None
    before = _loss_before(directory, trainer)
    record = {
        "model": _lasting_name(model),
        "data": digest,
        "config": _json(dataclasses.asdict(dataclasses.replace(config, precision=precision))),
        "loss_before": before,
        "request": request,
    }
    if processes.leads:
        write_whole(directory / RUN, (json_text(record, indent=2) + "\n").encode())
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
    if processes.leads:
        _save(directory, weights, model, config, reading)
        summary = _json(dataclasses.asdict(done)) | {"directory": str(directory)}
        write_whole(directory / SUMMARY, (json_text(summary, indent=2) + "\n").encode())
        with contextlib.suppress(MissingExtraError):  # a picture is not worth a failed run
            draw_loss_curve(
                directory / RUN_FILES / "metrics.jsonl",
                [directory / "loss_curve.png"],
                directory.name,
            )
    processes.wait()
    return done


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
    """Documents to learn and documents to measure with: those whose text has the lowest hashes.

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
    text, learned = pieces[-1]
    at = round(len(text) * (1 - share))
    # Not within a word, and both parts more than a word.
    while 0 < at < len(text) and not text[at].isspace():
        at -= 1
    if not learned or len(pieces) > 1 or min(at, len(text) - at) < 2:
        raise InputError(
            "there is one document and too little in it to hold some out; add more text"
        )
    return (
        [Example(((text[:at], True),))],
        [Example(((text[at:].lstrip() or text[at:], True),))],
    )


def _encode(examples: Sequence[Example], tokenizer: Tokenizer, end: int) -> Documents:
    encoded = [encode_example(example, tokenizer, end) for example in examples]
    n_bytes = sum(
        len(text.encode()) for example in examples for text, learned in example.pieces if learned
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
        gpt.round_weights()
    prepare_loops(checkpoint.config.head_dim, precision, progress)
    return gpt


def prepare_loops(head_dim: int, precision: str, progress: Progress | None = None) -> None:
    """Compile now, so that the time and the memory it takes are not an update's."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if precision == "bf16":
        adamw.prepare(progress)
    attention.prepare(head_dim, dtype, progress)
    pointwise.prepare(dtype, progress)


def _plan(
    reading: Reading,
    train: Documents,
    heldout: Documents,
    model: PretrainedModel,
    gpt: TorchGPT,
    config: TuneConfig,
    precision: Literal["fp32", "bf16"],
    processes: Processes,
) -> Plan:
    n_ctx = gpt.config.n_ctx
    n_positions = min(256, n_ctx) if config.n_positions is None else config.n_positions
    windows = train.windows(n_positions, config.seed)
    per_step = config.batch_size * config.grad_accum_steps
    steps = config.max_steps or max(1, math.ceil(config.epochs * len(windows) / per_step))
    rate = config.learning_rate or suitable_learning_rate(config.method, gpt.config.n_embd)
    settings = TrainConfig(
        max_steps=steps,
        learning_rate=rate,
        final_learning_rate=rate / 10,
        batch_size=config.batch_size,
        grad_accum_steps=config.grad_accum_steps,
        n_positions=n_positions,
        warmup_steps=min(100, math.ceil(steps / 20)),
        weight_decay=config.weight_decay,
        dropout=config.dropout,
        eval_interval=max(1, math.ceil(steps / config.evaluations)),
        patience=config.patience,
        log_interval=max(1, steps // 1000),
        precision=precision,
        seed=config.seed,
    )
    return Plan(
        reading=reading,
        train=train,
        heldout=heldout,
        n_split=windows.n_split,
        filled=windows.filled,
        peek=_peek(train, n_positions, model.tokenizer),
        tokens_per_step=settings.tokens_per_step,
        steps=steps,
        trained=sum(p.numel() for p in gpt.parameters() if p.requires_grad),
        memory=plan_memory(
            gpt,
            batch_size=max(1, config.batch_size // processes.size),
            n_positions=n_positions,
            grad_accum_steps=config.grad_accum_steps,
        ),
        machine=available_bytes(),
        settings=settings,
        checkpointing=gpt.checkpointing,
        processes=processes.size,
    )


def _peek(data: Documents, n_positions: int, tokenizer: Tokenizer) -> str:
    """The first window that is learned, as text."""
    batch = data.heldout(n_positions, 1)
    ids = batch.inputs[0]
    if batch.segments is None:
        return tokenizer.decode(ids.tolist())
    marks = batch.segments[0]
    return "¶".join(
        tokenizer.decode(ids[marks == segment].tolist()) for segment in range(marks.max() + 1)
    )


def _does_not_fit(plan: Plan, gpt: TorchGPT, config: TuneConfig) -> str:
    """What would: smaller parts of a batch, then less kept for the backward pass, then LoRA."""
    said = (
        f"this run needs about {plan.memory.total / 1e9:.1f} GB, and {plan.machine / 1e9:.1f} GB "
        "can be had"
    )
    for checkpointing in dict.fromkeys((config.checkpointing, True)):
        size = config.batch_size
        while size >= 1:
            gpt.checkpointing = checkpointing
            memory = plan_memory(
                gpt, batch_size=size, n_positions=plan.settings.n_positions, grad_accum_steps=2
            )
            if memory.total <= plan.machine:
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
    n_prompt = int(first.learned.argmax())
    return [int(i) for i in first.ids[: n_prompt or _PROMPT_TOKENS]]


def _digest(plan: Plan) -> str:
    return hashlib.sha256(f"{plan.train.digest()} {plan.heldout.digest()}".encode()).hexdigest()


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


def _lasting_name(model: PretrainedModel) -> str:
    """A name stays a name; of a directory the whole path, which is still right elsewhere."""
    return str(model.checkpoint.path.resolve()) if Path(model.name).exists() else model.name


def _save(
    directory: Path,
    weights: dict[str, torch.Tensor],
    model: PretrainedModel,
    config: TuneConfig,
    reading: Reading,
) -> None:
    settings, tokenizer = model.settings, model.tokenizer.to_json()
    if not settings.chat_templates and reading.chat_template is not None:
        settings = dataclasses.replace(settings, chat_templates={DEFAULT: reading.chat_template})
    if config.method == "full":
        arrays = {name: value.to("cpu", torch.float32).numpy() for name, value in weights.items()}
        save_checkpoint(directory, model.checkpoint.config, arrays, "fp32", tokenizer, settings)
        return
    values = settings.tokenizer_config_json(model.checkpoint.config, tokenizer)
    write_whole(directory / "tokenizer.json", tokenizer.encode())
    write_whole(directory / "tokenizer_config.json", (json_text(values, indent=2) + "\n").encode())
    base = _base_for_others(directory, model)
    save_adapter(directory, weights, config.lora, base)
    write_whole(directory / "README.md", adapter_card(directory, base).encode())


def _base_for_others(directory: Path, model: PretrainedModel) -> str:
    """What peft finds the base model by. The built-in one, which no hub has, is put beside."""
    path = model.checkpoint.path
    if path.resolve() != built_in.DIRECTORY.resolve():
        in_hub_cache = re.fullmatch(r"models--(.+)", path.parent.parent.name)
        # In full, as gpt2 alone is found by those who ask the hub, and not in its cache.
        return in_hub_cache[1].replace("--", "/") if in_hub_cache else _lasting_name(model)
    copy = directory / BASE
    copy.mkdir(exist_ok=True)
    for name in (*built_in.FILES, built_in.CARD):
        write_whole(copy / name, (built_in.DIRECTORY / name).read_bytes())
    return str(copy.resolve())


def _json(values: dict[str, Any]) -> dict[str, Any]:
    """The same in what JSON gives back."""
    return dict(json.loads(json_text(values, default=str)))
