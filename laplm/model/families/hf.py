"""What ``config.json`` has alike for every family: names of settings, windows, ids of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laplm.errors import ModelFormatError, shown
from laplm.model.config import ModelConfig

Names = Mapping[str, tuple[str, ...]]
"""Fields of ``ModelConfig`` to their names in the file, the first of which counts most."""

# Of these null is not the family's default, but what follows from the other sizes.
_DERIVED = ("num_key_value_heads", "head_dim")


def with_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A file's contents, and a family's defaults where it leaves something out."""
    there = {k: v for k, v in values.items() if v is not None or k in _DERIVED}
    return {**defaults, **there}


def read_settings(values: Mapping[str, Any], names: Names, **fields: Any) -> ModelConfig:
    """The config that a file describes; what it leaves out, or says is null, stays the default.

    Args:
        values: contents of the file.
        names: what the fields are called there.
        fields: those that the file does not say, or not so.

    Raises:
        ModelFormatError: a setting is impossible; the message has its name in the file.
    """
    found = {
        field: next((name for name in own if values.get(name) is not None), None)
        for field, own in names.items()
    }
    given = {field: values[name] for field, name in found.items() if name}
    try:
        return ModelConfig(**given | fields)
    except ModelFormatError as error:
        text = str(error)
        for field, name in found.items():
            text = text.replace(f" {field} ", f" {name or names[field][-1]} ")
        raise ModelFormatError(text) from None


def whole_number(values: Mapping[str, Any], name: str, least: int = 1) -> int:
    """A setting that is a whole number.

    Raises:
        ModelFormatError: it is not, or is less than ``least``.
    """
    value = values.get(name)
    if type(value) is not int or not least <= value < 1 << 31:
        raise ModelFormatError(
            f"config.json: {name} is {shown(value)}, but it must be a whole number from {least} on"
        )
    return value


# --- windows ------------------------------------------------------------------------------------


def read_window(values: Mapping[str, Any]) -> int | None:
    """How many positions a query sees in layers that have a window; None: there are none.

    Raises:
        ModelFormatError: it is no whole number above 0.
    """
    if values.get("sliding_window") is None:
        return None
    return whole_number(values, "sliding_window")


def read_windows(
    values: Mapping[str, Any], window: int | None, usual: list[bool]
) -> tuple[int | None, ...]:
    """The window of each layer.

    Args:
        values: contents of the file.
        window: of the layers that have one.
        usual: for each layer whether it does, where the file has no ``layer_types``.

    Raises:
        ModelFormatError: ``layer_types`` are not one for each layer, or of another kind.
    """
    kinds = {"full_attention": False, "sliding_attention": True}
    types = values.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len(types) != len(usual):
            raise ModelFormatError(
                f"config.json: layer_types must be a list of one for each of {len(usual)} layers"
            )
        for each in types:
            if not isinstance(each, str) or each not in kinds:
                raise ModelFormatError(
                    f"config.json: layer_types has {shown(each)}; laplm runs {', '.join(kinds)}"
                )
        usual = [kinds[each] for each in types]
    return tuple(window if has_window else None for has_window in usual)


def write_windows(config: ModelConfig) -> dict[str, Any]:
    """What ``read_window`` and ``read_windows`` read."""
    windows = [config.layer_window(layer) for layer in range(config.n_layer)]
    return {
        "sliding_window": next(filter(None, windows), None),
        "layer_types": ["sliding_attention" if each else "full_attention" for each in windows],
    }


# --- tokens -------------------------------------------------------------------------------------


def special_token_ids(
    values: Mapping[str, Any],
    generation: Mapping[str, Any] | None,
    config: ModelConfig,
    default: int | None = None,
) -> dict[str, Any]:
    """The tokens that begin, end and pad texts: of both files, if the vocabulary has them.

    ``generation_config.json`` comes before ``config.json`` where the two name another bos or pad,
    and ends of either end a text. ``default`` is what a file that is silent means.
    """
    generation = generation or {}

    # Models with a vocabulary of their own often keep their family's ids, which they do not have.
    def there(token: int | None) -> bool:
        return token is not None and 0 <= token < config.vocab_size

    ends = [
        *_token_ids(values.get("eos_token_id", default)),
        *_token_ids(generation.get("eos_token_id")),
    ]
    out: dict[str, Any] = {"eos_token_ids": tuple(dict.fromkeys(filter(there, ends)))}
    for key, usual in (("bos_token_id", default), ("pad_token_id", None)):
        ids = _token_ids(generation.get(key)) or _token_ids(values.get(key, usual))
        out[key] = ids[0] if ids and there(ids[0]) else None
    return out


def _token_ids(value: object) -> tuple[int, ...]:
    """Token ids as files have them: one, or a list; whatever else stands there is none."""
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if type(v) is int)


def write_token_ids(config: ModelConfig) -> dict[str, Any]:
    """What ``special_token_ids`` reads."""
    ends = config.eos_token_ids
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(ends) if len(ends) > 1 else config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
