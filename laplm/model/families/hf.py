"""What ``config.json`` has alike for every family: names of settings, and ids of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laplm.errors import ModelFormatError
from laplm.model.config import ModelConfig

Names = Mapping[str, tuple[str, ...]]
"""Fields of ``ModelConfig`` to their names in the file, the first of which counts most."""


def read_settings(values: Mapping[str, Any], names: Names) -> ModelConfig:
    """The config that a file describes; what it leaves out, or says is null, stays the default.

    Raises:
        ModelFormatError: a setting is impossible; the message has its name in the file.
    """
    found = {
        field: next((name for name in own if values.get(name) is not None), None)
        for field, own in names.items()
    }
    try:
        return ModelConfig(**{field: values[name] for field, name in found.items() if name})
    except ModelFormatError as error:
        text = str(error)
        for field, name in found.items():
            text = text.replace(
                f"config.json: {field} ", f"config.json: {name or names[field][-1]} "
            )
        raise ModelFormatError(text) from None


def token_ids(
    values: Mapping[str, Any],
    generation: Mapping[str, Any] | None,
    config: ModelConfig,
    default: int,
) -> dict[str, Any]:
    """The tokens that begin, end and pad texts: of both files, if the vocabulary has them.

    ``generation_config.json`` comes before ``config.json`` where the two name another bos or pad,
    and ends of either end a text. ``default`` is what a file that is silent means.
    """
    generation = generation or {}

    # Models with a vocabulary of their own often keep their family's ids, which they do not have.
    def there(token: int | None) -> bool:
        return token is not None and 0 <= token < config.vocab_size

    ends = [*_ids(values.get("eos_token_id", default)), *_ids(generation.get("eos_token_id"))]
    out: dict[str, Any] = {"eos_token_ids": tuple(dict.fromkeys(filter(there, ends)))}
    for key, usual in (("bos_token_id", default), ("pad_token_id", None)):
        ids = _ids(generation.get(key)) or _ids(values.get(key, usual))
        out[key] = ids[0] if ids and there(ids[0]) else None
    return out


def _ids(value: object) -> tuple[int, ...]:
    """Token ids as files have them: one, or a list; whatever else stands there is none."""
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if type(v) is int)
