"""Fine-tuning's settings, each declared once, for Python, the command line and HTTP alike.

Nothing here needs torch. The command line (``cli/tune.py``) and the server (``serve/tuning.py``)
make their options and fields from ``settings()``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from laplm.bounds import TUNING, Bounds, check_step
from laplm.errors import InputError

TRAINED_FAMILIES = ("gpt2",)
"""The families that are trained here so far."""
METHODS = ("full", "lora")
TARGETS = ("c_attn", "c_proj", "c_fc")
"""The layers that can have an adapter; ``c_proj`` are two, of attention and of the feed-forward."""

DATA, TRAINING, ADAPTERS, MODEL, MACHINE = (
    "the data", "training", "adapters (--method lora)", "the model", "the machine",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How people give one setting.

    Attributes:
        help: what the command's help says.
        group: of the command's options.
        metavar: of the option's value.
        kind: int, float, str, bool, or list (of several strings).
        name: in messages, for HTTP and, with dashes, as an option, where nothing else is said.
        option: of the command, if it is called otherwise there; None: it has no such option.
        http: the field of a request, if it is called otherwise there; None: there is no such field.
        bounds: of a number.
        choices: of a text.
        percent: whether people give it as a percentage, and it is kept as a share.
    """

    help: str
    group: str
    metavar: str | None
    kind: type
    name: str
    option: str | None
    http: str | None
    bounds: Bounds | None
    choices: tuple[str, ...]
    percent: bool

    @property
    def dest(self) -> str:
        """The option's name in what argparse gives."""
        return (self.option or self.name).replace("-", "_")


_SAME = "the same name"


def _setting(
    default: Any,
    help: str,
    group: str,
    kind: type,
    metavar: str | None = None,
    *,
    name: str | None = None,
    option: str | None = _SAME,
    http: str | None = _SAME,
    bounds: Bounds | None = None,
    choices: tuple[str, ...] = (),
    percent: bool = False,
) -> Any:
    """A field of one of the dataclasses below; its name is filled in by ``settings``."""
    return field(
        default=default,
        metadata={
            "setting": {
                "help": help, "group": group, "kind": kind, "metavar": metavar, "name": name,
                "option": option, "http": http, "bounds": bounds, "choices": choices,
                "percent": percent,
            }
        },
    )  # fmt: skip


def _check_settings(config: Any) -> None:
    """Check a config's numbers and choices, and make the numbers Python's own.

    Raises:
        InputError: one is out of its bounds.
    """
    for name, setting in settings(type(config)):
        value = getattr(config, name)
        if value is None:
            continue
        if setting.bounds is not None:
            shown = name if setting.percent else setting.name
            object.__setattr__(config, name, setting.bounds.check(shown, value))
        elif setting.choices and setting.kind is str and value not in setting.choices:
            said = f"{setting.name.replace('_', ' ')} is {value!r}"
            raise InputError(f"{said}, but it must be {' or '.join(setting.choices)}")


class _Config:
    """A config that options make alone."""

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """From what people gave, by the names of the command's options; None was not given."""
        return cls(**_given(cls, options))

    def __post_init__(self) -> None:
        _check_settings(self)


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Config):
    """How files become documents (``read_examples``).

    Attributes:
        column: the column or key that holds the text, where that is not ``text``.
        train_on_prompt: count prompts, instructions and all turns in the loss too.
        skip_bad: leave out rows that cannot be used.
    """

    column: str | None = _setting(None, "which column or key holds the text", DATA, str, "NAME")
    train_on_prompt: bool = _setting(False, "learn prompts too, not only what follows", DATA, bool)
    skip_bad: bool = _setting(False, "leave bad rows out instead of stopping", DATA, bool)


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """How large adapters are, and where.

    Attributes:
        r: rank.
        alpha: what an adapter adds is scaled by ``alpha / r``.
        dropout: share of an adapter's inputs that is dropped while training.
        target_modules: of ``TARGETS``.

    Raises:
        InputError: a setting is out of range.
    """

    r: int = _setting(8, "(default: 8)", ADAPTERS, int, "R", name="rank", bounds=TUNING["rank"])
    alpha: float = _setting(16.0, "(default: 16)", ADAPTERS, float, "X", bounds=TUNING["alpha"])
    dropout: float = _setting(
        0.0, "(default: 0)", ADAPTERS, float, "X",
        name="lora_dropout", bounds=TUNING["lora_dropout"],
    )  # fmt: skip
    target_modules: tuple[str, ...] = _setting(
        TARGETS, "c_attn, c_proj or c_fc; may be given several times (default: all three)",
        ADAPTERS, list, "NAME", name="target", http=None, choices=TARGETS,
    )  # fmt: skip

    def __post_init__(self) -> None:
        _check_settings(self)
        unknown = [name for name in self.target_modules if name not in TARGETS]
        if unknown or not self.target_modules:
            raise InputError(
                f"target modules are {', '.join(self.target_modules) or 'none'}, but they must be "
                f"some of {', '.join(TARGETS)}"
            )

    @property
    def scale(self) -> float:
        """Alpha / r."""
        return self.alpha / self.r


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How a model is fine-tuned.

    Attributes:
        method: "full" trains every weight; "lora" small matrices beside them.
        lora: how large these are, and where.
        epochs: how often every document is read.
        max_steps: optimiser steps instead; None goes by ``epochs``.
        batch_size: windows of one forward pass.
        grad_accum_steps: forward passes a step.
        n_positions: tokens of a window; None takes 256, or the model's context if that is less.
        learning_rate: the peak; None takes one that suits method and width
            (``suitable_learning_rate``).
        weight_decay: for matrices.
        dropout: share of what attention and feed-forward put out that is dropped.
        heldout_share: share of the documents that is only evaluated on.
        evaluations: how often the held-out loss is measured.
        patience: end early after so many evaluations without a new lowest; 0: never.
        checkpointing: trade time for memory (``TorchGPT.checkpointing``); done in any case when
            memory would not do otherwise.
        base_precision: of the weights that adapters stand beside: "int8" takes a quarter of the
            memory of "fp32", half of that of bfloat16.
        precision: "bf16" or "fp32"; None takes what the device is fastest in.
        seed: of everything that is drawn.

    Raises:
        InputError: a setting is out of range.
    """

    method: Literal["full", "lora"] = _setting(
        "full", "full: every weight; lora: small matrices beside them (default: full)",
        TRAINING, str, "HOW", choices=METHODS,
    )  # fmt: skip
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    epochs: float = _setting(
        3.0, "how often to read it (default: 3)", TRAINING, float, "N", bounds=TUNING["epochs"]
    )
    max_steps: int | None = _setting(
        None, "optimiser steps, instead of --epochs", TRAINING, int, "N",
        bounds=TUNING["max_steps"],
    )  # fmt: skip
    batch_size: int = _setting(
        4, "windows at once (default: 4)", TRAINING, int, "N", bounds=TUNING["batch_size"]
    )
    grad_accum_steps: int = _setting(
        1, "batches a step (default: 1)", TRAINING, int, "N", bounds=TUNING["grad_accum_steps"]
    )
    n_positions: int | None = _setting(
        None, "tokens of a window (default: 256)", TRAINING, int, "T",
        option="window", http="positions", bounds=TUNING["n_positions"],
    )  # fmt: skip
    learning_rate: float | None = _setting(
        None, "the peak (default: one that suits method and model)", TRAINING, float, "X",
        bounds=TUNING["learning_rate"],
    )  # fmt: skip
    weight_decay: float = _setting(
        0.1, "for matrices", TRAINING, float, option=None, http=None, bounds=TUNING["weight_decay"]
    )
    dropout: float = _setting(
        0.1, "share of attention's and feed-forward's output that is dropped (default: 0.1)",
        TRAINING, float, "X", bounds=TUNING["dropout"],
    )  # fmt: skip
    heldout_share: float = _setting(
        0.05, "documents that are only measured on (default: 5)", DATA, float, "PERCENT",
        name="heldout", percent=True, bounds=TUNING["heldout_share"],
    )  # fmt: skip
    evaluations: int = _setting(
        10, "how often the held-out loss is measured", TRAINING, int,
        option=None, http=None, bounds=TUNING["evaluations"],
    )  # fmt: skip
    patience: int = _setting(
        0, "end after N measurements that are not better (default: never)", TRAINING, int, "N",
        bounds=TUNING["patience"],
    )  # fmt: skip
    checkpointing: bool = _setting(False, "less memory, about a third more time", TRAINING, bool)
    base_precision: Literal["fp32", "int8"] = _setting(
        "fp32", "of the weights that adapters stand beside: fp32 or int8 (default: fp32)",
        MODEL, str, "P", http=None, choices=("fp32", "int8"),
    )  # fmt: skip
    precision: Literal["fp32", "bf16"] | None = _setting(
        None, "bf16 or fp32 (default: what the device is fastest in)", MACHINE, str, "P",
        http=None, choices=("fp32", "bf16"),
    )  # fmt: skip
    seed: int = _setting(
        1, "of everything that is drawn (default: 1)", TRAINING, int, "N", bounds=TUNING["seed"]
    )

    def __post_init__(self) -> None:
        _check_settings(self)
        if self.base_precision == "int8" and self.method == "full":
            raise InputError(
                "weights in int8 cannot be trained: --base-precision int8 belongs to --method lora"
            )
        check_step(self.batch_size, self.grad_accum_steps, self.n_positions or 1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TuneConfig:
        """What ``dataclasses.asdict`` made, from JSON."""
        lora = dict(values["lora"])
        lora["target_modules"] = tuple(lora["target_modules"])
        return cls(**(values | {"lora": LoRAConfig(**lora)}))

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> TuneConfig:
        """From what people gave, by the names of the command's options; None was not given.

        Raises:
            InputError: a setting is out of range, or belongs to adapters and there are none.
        """
        lora = _given(LoRAConfig, options)
        given = _given(cls, options)
        if lora and given.get("method") != "lora":
            names = [f"--{s.dest.replace('_', '-')}" for _, s in settings(LoRAConfig)]
            raise InputError(f"{', '.join(names[:-1])} and {names[-1]} belong to --method lora")
        if "target_modules" in lora:
            lora["target_modules"] = tuple(lora["target_modules"])
        return cls(**given, lora=LoRAConfig(**lora))


@dataclass(frozen=True, kw_only=True)
class MachineConfig(_Config):
    """Where a run is computed, which may change when it goes on.

    Attributes:
        device: cpu (None), cuda, mps, ...
        shard: divide the weights among the processes that torchrun started.
        tensorboard: write TensorBoard's files too.
        threads: threads that work; None leaves that to torch.
    """

    device: str | None = _setting(
        None, "cpu, cuda or mps (default: cpu)", MACHINE, str, "NAME", http=None
    )
    shard: bool = _setting(
        False, "divide the weights among the processes (FSDP2), where one could not hold them",
        MACHINE, bool, http=None,
    )  # fmt: skip
    tensorboard: bool = _setting(
        False, "write TensorBoard's files to DIR/run too", MACHINE, bool, http=None
    )
    threads: int | None = _setting(
        None, "threads (default: one per core)", MACHINE, int, "N", bounds=TUNING["threads"]
    )


CONFIGS = (DataConfig, TuneConfig, LoRAConfig, MachineConfig)


def settings(*configs: Any) -> Iterator[tuple[str, Setting]]:
    """The settings of some of ``CONFIGS``, or of all: the field's name, and how people give it."""
    for config in configs or CONFIGS:
        for each in dataclasses.fields(config):
            if (said := each.metadata.get("setting")) is not None:
                name = said["name"] or each.name
                names = {
                    key: name if said[key] == _SAME else said[key] for key in ("option", "http")
                }
                yield each.name, Setting(**(said | names | {"name": name}))


def _given(config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """A config's fields from the options that were given; percentages become shares."""
    found = {}
    for name, setting in settings(config):
        value = options.get(setting.dest) if setting.option is not None else None
        if value is None:
            continue
        if setting.percent:
            value = TUNING[setting.name].check(setting.name, value) / 100
        found[name] = value
    return found
