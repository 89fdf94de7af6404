"""Models that are known by a short name: the few of ``known_models.json``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class KnownModel:
    """A model on the hub that has a short name here.

    Attributes:
        name: What ``laplm pull`` and ``-m`` take.
        hub_id: Where it is on the hub; of a model that comes in two kinds, the one to talk with.
        n_parameters: Count of trained numbers.
        licence: Its licence, as the hub calls it.
        gated: Whether the hub gives it only to those who have accepted its licence.
    """

    name: str
    hub_id: str
    n_parameters: int
    licence: str
    gated: bool


def _read() -> dict[str, KnownModel]:
    text = Path(__file__).with_name("known_models.json").read_text(encoding="utf-8")
    return {values["name"]: KnownModel(**values) for values in json.loads(text)}


KNOWN = _read()
"""By name."""
