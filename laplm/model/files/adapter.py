"""LoRA adapters as PEFT saves them: a model's checkpoint with the adapter added to it.

An adapter directory holds ``adapter_config.json`` and ``adapter_model.safetensors``, which has two
thin matrices for each matrix that was trained, A (r, inputs) and B (outputs, r): the model's own
is W + scale · B A. The sum is made one matrix at a time, when it is asked for.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
Format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from laplm.errors import ModelFormatError, shown, shown_name
from laplm.model.config import ModelConfig
from laplm.model.families import family_of, tensor_specs
from laplm.model.files.checkpoint import Checkpoint, Tensor, read_json
from laplm.model.files.safetensors_file import Array, StoredTensor, check_finite, read_table, refuse
from laplm.model.tensors import TensorSpec

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = "base"  # the folder of an adapter's own copy of its base model, where it has one
_WHOLE_MODEL = ("model.safetensors", "pytorch_model.bin")

_MERGE = (
    "merge it into its model with peft's merge_and_unload() and save_pretrained(), and copy the "
    "tokenizer's files there"
)
# What they add is an input of every pass, and no change of weights.
_PROMPTS = (
    "ADAPTION_PROMPT", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING",
    "PROMPT_TUNING",
)  # fmt: skip
_TASKS = (None, "CAUSAL_LM", "FEATURE_EXTRACTION")
# Kinds of LoRA that compute something else than W + scale · B A, or tie what is not tied here.
_VARIANTS = (
    "alora_invocation_tokens", "arrow_config", "ensure_weight_tying", "kasa_config",
    "layer_replication", "monteclora_config", "target_parameters", "trainable_token_indices",
    "use_bdlora", "use_qalora",
)  # fmt: skip
# The other ways to begin (PiSSA, OLoRA, CorDA, LoftQ, ...) change the base model's weights too.
_BEGINNINGS = ("gaussian", "eva", "mica", "orthogonal")
_DTYPES = ("F32", "F16", "BF16")
# A module saved whole is there three times when embeddings are saved as well: what was learned,
# under its plain name, and these.
_COPIES = re.compile(r"\.(?:modules_to_save|original_module)\.")
_PARTS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_B.bias": "bias",
    ".lora_embedding_A": "A",
    ".lora_embedding_B": "B",
    ".lora_magnitude_vector": "magnitude",
}


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """What ``adapter_config.json`` says, by PEFT's names.

    Attributes:
        base_model_name_or_path: the model that it was trained on.
        r: the rank, inner size of B A.
        lora_alpha: ``scale`` is lora_alpha / r, or lora_alpha / √r with ``use_rslora``.
        target_modules: the modules it was asked to train, or a pattern of their names.
        fan_in_fan_out: how PEFT took the base's matrices; of no consequence here, as it is known
            how each of GPT-2's lies.
        use_rslora: see ``lora_alpha``.
        use_dora: the columns have lengths of their own (Liu et al. 2024, "DoRA").
        rank_pattern: other ranks than ``r``, by patterns of the ends of module names.
        alpha_pattern: other values than ``lora_alpha``, likewise.
        bias: "none", "all" or "lora_only": the vectors that were trained as well.
        modules_to_save: modules trained whole.
        task_type: "CAUSAL_LM" or another of PEFT's, or None.
    """

    base_model_name_or_path: str
    r: int = 8
    lora_alpha: float = 8
    target_modules: tuple[str, ...] | str = ()
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    task_type: str | None = None

    def rank(self, module: str) -> int:
        """The rank of a module, by its full name in the PEFT model."""
        return int(_matching(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """The factor of B A for a module, by its full name in the PEFT model."""
        r, alpha = self.rank(module), _matching(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (math.sqrt(r) if self.use_rslora else r)


def _matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    # The rule of peft.utils.other.get_pattern_key: the first that fits.
    return next((value for key, value in patterns.items() if _fits(key, module)), default)


def _fits(pattern: str, module: str) -> bool:
    # Not re, which cannot be stopped: (a+)+ takes it longer than anyone waits.
    import regex

    try:
        return regex.match(rf"(.*\.)?({pattern})$", module, timeout=1) is not None
    except TimeoutError:
        raise ModelFormatError(
            f"{CONFIG}: whether the pattern {shown(pattern)} of rank_pattern or alpha_pattern fits "
            f"{module} takes too long to find out; write it without repeats of repeats"
        ) from None


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and no whole model, which would be what is loaded."""
    names = [f"{n}{end}" for n in _WHOLE_MODEL for end in ("", ".index.json")]
    try:
        is_one = (directory / CONFIG).is_file()
        return is_one and not any((directory / name).is_file() for name in names)
    except OSError:  # who opens it as a model is told why that cannot be read
        return False


# --- the config -------------------------------------------------------------------------------


def read_adapter_config(directory: Path) -> AdapterConfig:
    """Read ``adapter_config.json`` of an adapter directory.

    Raises:
        ModelFormatError: it is damaged, or describes an adapter that is not a LoRA of plain sums.
    """
    path = directory / CONFIG
    return adapter_config(read_json(path), path)


def adapter_config(values: Mapping[str, Any], path: Path) -> AdapterConfig:
    """The contents of an ``adapter_config.json``; ``path`` is what errors call it.

    Raises:
        ModelFormatError: as ``read_adapter_config``.
    """
    kind, task = values.get("peft_type"), values.get("task_type")
    if not isinstance(kind, str):
        refuse(path, "has no peft_type, so it is not PEFT's; fetch or copy it again")
    if kind in _PROMPTS:
        refuse(
            path,
            f"a {kind} adapter, which changes what a model is given and not its weights; laplm "
            "reads LoRA adapters, so train one of these instead",
        )
    if kind != "LORA":
        refuse(path, f"a {shown_name(kind)} adapter; laplm reads LoRA adapters. Instead, {_MERGE}")
    if task not in _TASKS:
        refuse(path, f"made for the task {shown(task)}; laplm continues texts, which is CAUSAL_LM")
    for name in _VARIANTS:
        if values.get(name):
            refuse(path, f"has {name}, a kind of LoRA that laplm does not read; {_MERGE}")
    begin = values.get("init_lora_weights")
    if isinstance(begin, str) and begin.lower() not in _BEGINNINGS:
        refuse(
            path,
            f"its training began with {shown(begin)}, which changes the base model as well; save "
            "it again with peft's path_initial_model_for_weight_conversion, which makes a plain "
            "LoRA",
        )
    names = [field.name for field in dataclasses.fields(AdapterConfig)]
    known = {name: values[name] for name in names if values.get(name) is not None}
    for name, value in known.items():
        if not _CHECKS[name](value):
            refuse(path, f"{name} is {shown(value)}, which cannot be; fetch or copy the file again")
    if "base_model_name_or_path" not in known:
        refuse(path, "names no base model; write its name or directory as base_model_name_or_path")
    for name in ("target_modules", "modules_to_save"):
        if isinstance(known.get(name), list):
            known[name] = tuple(known[name])
    return AdapterConfig(**known)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # NaN and infinity are not


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_mapping_of(of: Callable[[Any], bool], value: Any) -> bool:
    if not isinstance(value, dict) or len(value) > 10_000:
        return False
    return all(map(_is_pattern, value)) and all(map(of, value.values()))


def _is_pattern(value: Any) -> bool:
    import regex

    try:
        _fits(value, "")
    except (regex.error, RecursionError, OverflowError):
        return False
    return len(value) <= 1000


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "base_model_name_or_path": _is_text,
    "r": _is_rank,
    "lora_alpha": _is_number,
    "target_modules": lambda value: _is_text(value) or _is_texts(value),
    "fan_in_fan_out": _is_switch,
    "use_rslora": _is_switch,
    "use_dora": _is_switch,
    "rank_pattern": functools.partial(_is_mapping_of, _is_rank),
    "alpha_pattern": functools.partial(_is_mapping_of, _is_number),
    "bias": lambda value: value in ("none", "all", "lora_only"),
    "modules_to_save": _is_texts,
    "task_type": _is_text,
}


# --- the weights ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Changed:
    """A tensor of the base model and its change, brought together when it is asked for."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Array]
    mapped: bool = False

    def array(self) -> Array:
        return self.make()

    def rows(self) -> Callable[[NDArray[np.int64]], Array]:
        # All of it: a product of some rows can differ in the last bits from that of others, and
        # a token's logits must not depend on what is computed beside it.
        whole = self.make()
        return lambda numbers: whole[numbers]


def open_adapter(directory: Path, base: Checkpoint) -> Checkpoint:
    """A model's checkpoint with a LoRA adapter added to it; its own weights are not read yet.

    A matrix that changes is no longer one of its file's blocks of few bits, nor one of halves: the
    sum is taken to be stored in eight bits where the base's is quantised, else in fp32.

    What is trained beside B A is taken as well: DoRA's magnitudes, biases, and modules that are
    saved whole. The numbers are those of the running PEFT model. There, the output matrix that
    the base ties to the embedding stays as it was when the embedding is adapted, so the two part.

    Args:
        directory: Where ``adapter_config.json`` and ``adapter_model.safetensors`` are.
        base: The model that the adapter was trained on.

    Raises:
        ModelFormatError: names the file and what is wrong with it, or the tensor that does not
            fit the base model.
    """
    config = read_adapter_config(directory)
    path = directory / WEIGHTS
    if not path.is_file():
        _refuse_weights(directory)
    prefix = family_of(base.config).HF_PREFIX
    modules, whole = _sort(path, read_table(path)[0], prefix)
    adapted = {f"{module.removeprefix(prefix)}.weight": module for module in modules}
    if len(adapted) < len(modules):
        refuse(path, f"adapts a module twice, with and without {prefix} before its name")

    sizes = _enlarged(base.config, whole)
    untied = dataclasses.replace(sizes, tied=False)
    specs = tensor_specs(untied)
    for name, tensor in whole.items():
        _check_shape(path, name, tensor.shape, specs.get(name))
    tensors: dict[str, Tensor] = {**base.tensors, **whole}
    if sizes.tied:
        # A module saved whole is a copy of its own; what is saved otherwise is the base's matrix,
        # which serves as both.
        ends = _embeddings(untied)
        both = {each.name: (prefix if each.hf_prefix else "") + each.stem for each in ends}
        own = [n for n in both if n in whole and _is_saved_module(config, both[n])]
        shared = next((n for n in both if n in whole and n not in own), None)
        matrix = base.tensors[ends[0].name] if shared is None else whole[shared]
        tensors |= {n: matrix for n in both if n not in own}
        if own or both.keys() & adapted.keys():
            sizes = untied
    _check_vocabulary(path, sizes, tensors)

    for name, module in adapted.items():
        parts = modules[module]
        _check_parts(path, config, module, name, parts, specs.get(name))
        scale, outputs_first = config.scale(module), _outputs_first(specs[name])
        make = functools.partial(_merge, tensors[name], parts, scale, outputs_first)
        tensors[name] = _Changed(path, _dtype_of_sum(tensors[name]), specs[name].shape, make)
        if "bias" in parts:
            name = f"{module.removeprefix(prefix)}.bias"
            _check_shape(path, name, parts["bias"].shape, specs.get(name))
            make = functools.partial(_shift, tensors[name], parts["bias"], scale)
            tensors[name] = _Changed(path, _dtype_of_sum(tensors[name]), specs[name].shape, make)

    checkpoint = Checkpoint(directory, sizes, tensors, [directory / CONFIG, path])
    key = f"{base.fingerprint} {checkpoint.fingerprint}"
    checkpoint.fingerprint = hashlib.sha256(key.encode()).hexdigest()[:32]
    checkpoint.size_bytes = base.size_bytes + path.stat().st_size
    return checkpoint


def _dtype_of_sum(base: Tensor) -> str:
    """What a changed tensor counts as: rounded as its base was, small changes would vanish."""
    return "F32" if base.dtype in _DTYPES else "Q8_0"


def _enlarged(config: ModelConfig, whole: Mapping[str, StoredTensor]) -> ModelConfig:
    """The base's sizes, with as many tokens as the embeddings that came with the adapter have."""
    ends = _embeddings(dataclasses.replace(config, tied=False))
    shapes = [whole[each.name].shape for each in ends if each.name in whole]
    rows = [shape[0] for shape in shapes if len(shape) == 2 and shape[1] == config.n_embd]
    return dataclasses.replace(config, vocab_size=max([config.vocab_size, *rows]))


def _check_vocabulary(path: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a vocabulary that was enlarged where the new tokens' rows are only in one matrix."""
    rows = {each.name: tensors[each.name].shape[0] for each in _embeddings(config)}
    small = [name for name in rows if rows[name] < config.vocab_size]
    if small:
        refuse(
            path,
            f"its vocabulary was enlarged to {config.vocab_size:,} tokens, but {small[0]} is in "
            f"the base model alone, which has {rows[small[0]]:,}; save both embeddings with the "
            "adapter (modules_to_save, or save_embedding_layers=True)",
        )


def _outputs_first(spec: TensorSpec) -> bool:
    """Whether PEFT takes a matrix for (outputs, inputs): an embedding's rows are its inputs."""
    return spec.layout == "out_in" and spec.role not in ("embed", "pos_embed")


def _embeddings(config: ModelConfig) -> list[TensorSpec]:
    """The matrices that have a row for each token: one when they are tied."""
    return [s for s in tensor_specs(config).values() if s.role in ("embed", "unembed")]


def _is_saved_module(config: AdapterConfig, module: str) -> bool:
    """Whether a module, or one that it is in, was saved whole; by PEFT's rule, ends of names."""
    above = [module[: dot.start()] for dot in re.finditer(r"\.|$", module)]
    return any(name.endswith(end) for name in above for end in config.modules_to_save)


def _sort(
    path: Path, stored: Mapping[str, StoredTensor], prefix: str
) -> tuple[dict[str, dict[str, StoredTensor]], dict[str, StoredTensor]]:
    """A file's tensors: the parts of each adapted module, and those that replace the base's."""
    if not stored:
        refuse(path, "holds no tensors; the adapter was not saved whole, save it again")
    modules: dict[str, dict[str, StoredTensor]] = {}
    whole: dict[str, StoredTensor] = {}
    for key, tensor in stored.items():
        if key.startswith("__padding__."):  # between the tensors of adapters that laplm wrote once
            continue
        shown_key = shown_name(key)
        plain_key = _COPIES.sub(".", key)
        if plain_key != key and plain_key in stored:
            continue
        if tensor.dtype not in _DTYPES:
            refuse(
                path,
                f"tensor {shown_key} is stored as {tensor.dtype}; laplm reads fp32, fp16 and bf16, "
                "so save the adapter again in one of these",
            )
        check_finite(f"{shown_key} of {path}", tensor.array())
        name = key.removeprefix("base_model.model.")
        ending = next((ending for ending in _PARTS if name.endswith(ending)), None)
        if ending is not None:
            where, part = modules.setdefault(name.removesuffix(ending), {}), _PARTS[ending]
        else:
            where, part = whole, name.replace(".base_layer.", ".").removeprefix(prefix)
        if part in where:
            refuse(
                path,
                f"holds tensor {shown_key} twice, under two names; save the adapter again",
            )
        where[part] = tensor
    return modules, whole


def _check_shape(path: Path, name: str, found: tuple[int, ...], spec: TensorSpec | None) -> None:
    if spec is None:
        refuse(
            path,
            f"holds {shown_name(name)}, which the base model does not have; check that "
            f"base_model_name_or_path in {CONFIG} names the model that it was trained on",
        )
    if found != spec.shape:
        refuse(
            path,
            f"{name} is {list(found)}, but {list(spec.shape)} in the base model; check that "
            f"base_model_name_or_path in {CONFIG} names the model that it was trained on",
        )


def _check_parts(
    path: Path,
    config: AdapterConfig,
    module: str,
    name: str,
    parts: Mapping[str, StoredTensor],
    spec: TensorSpec | None,
) -> None:
    if spec is None or len(spec.shape) != 2:
        _check_shape(path, f"an adapter of {name}", (), None)
        return
    shape = spec.shape
    missing = [part for part in ("A", "B") if part not in parts]
    if config.use_dora and "magnitude" not in parts:
        missing.append("magnitude")
    if missing:
        refuse(path, f"{name} lacks its LoRA {missing[0]}; the file is incomplete, copy it again")
    if "magnitude" in parts and not config.use_dora:
        refuse(path, f"{name} has a magnitude, but use_dora is off in {CONFIG}; copy both again")
    n_in, n_out = shape[::-1] if _outputs_first(spec) else shape
    r = config.rank(module)
    wanted = {"A": (r, n_in), "B": (n_out, r), "magnitude": (n_out,), "bias": (n_out,)}
    for part, tensor in parts.items():
        if tensor.shape != wanted[part]:
            refuse(
                path,
                f"LoRA {part} of {name} is {list(tensor.shape)}, not {list(wanted[part])}: the "
                f"base model's {name} is {list(shape)}, and {CONFIG} says rank {r}; check that "
                "they belong together, and to this base model",
            )


def _merge(
    base: Tensor, parts: Mapping[str, StoredTensor], scale: float, outputs_first: bool
) -> Array:
    """W + scale · B A in the layout of W, and with DoRA's lengths where there are some."""
    a, b = parts["A"].array(), parts["B"].array()
    # Numbers beyond fp32 are found, with their tensor's name, when the sum is packed.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        b = b * np.float32(scale)
        merged: Array = b @ a if outputs_first else a.T @ b.T
        merged += base.array()
        if "magnitude" in parts:
            norms = np.linalg.norm(merged, axis=1 if outputs_first else 0)
            factors = parts["magnitude"].array() / norms
            merged *= factors[:, None] if outputs_first else factors
    return merged


def _shift(base: Tensor, bias: StoredTensor, scale: float) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        shifted: Array = base.array() + np.float32(scale) * bias.array()
    return shifted


def _refuse_weights(directory: Path) -> NoReturn:
    if (directory / "adapter_model.bin").is_file():
        refuse(
            directory / "adapter_model.bin",
            f"a pickle file, and laplm reads {WEIGHTS}; convert it where peft is installed: "
            'python -c "from peft import AutoPeftModelForCausalLM as M; '
            f"M.from_pretrained('{directory}').save_pretrained('{directory}')\"",
        )
    refuse(directory, f"has {CONFIG} and no {WEIGHTS}; copy both of the adapter's files")
