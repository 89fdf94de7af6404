"""Rotary positions in ``config.json``, as transformers 5 writes them and as it did before."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from laplm.errors import ModelFormatError, shown
from laplm.model.config import ModelConfig, RopeScaling

# Numbers that each kind of scaling has, by the same names in the file.
_NUMBERS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "beta_fast", "beta_slow", "attention_factor"),
}


def rope_parameters(values: Mapping[str, Any], theta: float = 10_000.0) -> dict[str, Any]:
    """The rotary settings of a file in one place, where transformers 5 has them.

    Args:
        values: contents of the file.
        theta: the base where it says none.

    Raises:
        ModelFormatError: they are no object.
    """
    own = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(own, Mapping):
        raise ModelFormatError(f"config.json: rope_scaling is {shown(own)}, not an object")
    own = {name: value for name, value in own.items() if value is not None}
    around = {name: values.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    return {
        "rope_theta": theta,
        **{name: value for name, value in around.items() if value is not None},
        **own,
        "rope_type": own.get("rope_type", own.get("type", "default")),
    }


def read_rope(
    parameters: Mapping[str, Any], config: ModelConfig, original_n_ctx: Any = None
) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling`` of a config.

    Args:
        parameters: as ``rope_parameters`` gives them.
        config: the sizes.
        original_n_ctx: positions in pretraining, where the file has them outside the parameters.

    Raises:
        ModelFormatError: a number is missing or impossible, or the kind of scaling is not known.
    """
    kind, theta = parameters["rope_type"], parameters["rope_theta"]
    if kind == "default":
        return {"rope_theta": theta}
    scaling = RopeScaling(kind=kind)  # or it is refused
    numbers: dict[str, Any] = {name: _number(parameters, name) for name in _NUMBERS[kind]}
    if kind != "linear":
        original = original_n_ctx or parameters.get("original_max_position_embeddings")
        scaling = dataclasses.replace(scaling, original_n_ctx=_size(original or config.n_ctx))
    if kind == "yarn":
        if numbers["factor"] is None:
            numbers["factor"] = config.n_ctx / scaling.original_n_ctx
        # transformers takes 0 for none.
        numbers["beta_fast"] = numbers["beta_fast"] or 32.0
        numbers["beta_slow"] = numbers["beta_slow"] or 1.0
        if numbers["attention_factor"] is None:
            numbers["attention_factor"] = _attention_factor(parameters, numbers["factor"])
        scaling = dataclasses.replace(scaling, truncate=parameters.get("truncate", True))
    if absent := [name for name, number in numbers.items() if number is None]:
        raise ModelFormatError(
            f"config.json: rope_scaling of type {kind} lacks {', '.join(absent)}; take the file "
            "that the model was published with"
        )
    return {"rope_theta": theta, "rope_scaling": dataclasses.replace(scaling, **numbers)}


def _attention_factor(parameters: Mapping[str, Any], factor: float) -> float:
    """Peng et al. 2023, "YaRN", section 3.4; with ``mscale`` as DeepSeek has generalised it."""
    growth = 0.1 * math.log(factor) if factor > 1 else 0.0
    above, below = (_number(parameters, name) for name in ("mscale", "mscale_all_dim"))
    if above and below:
        return (above * growth + 1.0) / (below * growth + 1.0)
    return growth + 1.0


def _number(parameters: Mapping[str, Any], name: str) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ModelFormatError(f"config.json: {name} of rope_scaling cannot be {shown(value)}")
    return float(value)


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        name = "original_max_position_embeddings"
        raise ModelFormatError(f"config.json: {name} cannot be {shown(value)}")
    return value


def read_rotary_dim(parameters: Mapping[str, Any], config: ModelConfig) -> int:
    """How many components of a head turn where ``partial_rotary_factor`` says which share does.

    Raises:
        ModelFormatError: it is no share, or none would turn.
    """
    share = _number(parameters, "partial_rotary_factor") or 0.0
    dim = int(config.head_dim * share)
    if not 0 < dim <= config.head_dim or dim % 2:
        raise ModelFormatError(
            f"config.json: partial_rotary_factor {share:g} of {config.head_dim} components of a "
            "head must be an even number of them"
        )
    return dim


def rotary_share(config: ModelConfig) -> float:
    """What ``read_rotary_dim`` reads."""
    share = config.rotary_dim / config.head_dim
    exact = int(config.head_dim * share) == config.rotary_dim
    return share if exact else math.nextafter(share, 1.0)


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """What ``rope_parameters`` finds: as transformers 5 reads it, and as those before it do."""
    scaling = config.rope_scaling
    own: dict[str, Any] = {}
    if scaling is not None:
        own["rope_type"] = scaling.kind
        own |= {name: getattr(scaling, name) for name in _NUMBERS[scaling.kind]}
        if scaling.kind != "linear":
            own["original_max_position_embeddings"] = scaling.original_n_ctx
        if scaling.kind == "yarn":
            own["truncate"] = scaling.truncate
    parameters = {"rope_theta": config.rope_theta, "rope_type": "default"} | own
    return {
        "rope_theta": config.rope_theta, "rope_scaling": own or None, "rope_parameters": parameters,
    }  # fmt: skip
