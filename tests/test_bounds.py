"""Numbers that people set: one list of bounds for Python, the command line and HTTP."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from laplm.bounds import STEP_TOKENS, TUNING, Bounds
from laplm.errors import InputError
from laplm.serve.tuning import TuneSettings
from laplm.tune.trainer import TrainConfig
from laplm.tune_config import LoRAConfig, TuneConfig


def beyond(bounds: Bounds) -> list[Any]:
    """Numbers just outside, and others that are none."""
    low = (
        bounds.minimum
        if bounds.exclusive_minimum
        else bounds.minimum - (1 if bounds.integer else 1e-9)
    )
    high = (
        bounds.maximum if bounds.exclusive_maximum else bounds.maximum * (1 + 1e-9) + bounds.integer
    )
    found = [low, -1, -(10**30), math.nan, -math.inf, "1", True, [1]]
    if math.isfinite(bounds.maximum):
        found += [high, 10**30, math.inf]
    return [*found, 1.5] if bounds.integer else found


def within(bounds: Bounds) -> list[Any]:
    low = bounds.minimum if not bounds.exclusive_minimum else 1e-300
    high = bounds.maximum if not bounds.exclusive_maximum else np.nextafter(bounds.maximum, 0)
    return [int(low), int(high)] if bounds.integer else [low, float(high)]


@pytest.mark.parametrize("name", TUNING)
def test_numbers_within_are_taken_and_all_others_refused_with_the_reason(name: str) -> None:
    bounds = TUNING[name]
    for value in within(bounds):
        found = bounds.check(name, np.array(value)[()])
        assert found == value and type(found) is (int if bounds.integer else float)
    for value in beyond(bounds):
        with pytest.raises(InputError) as caught:
            bounds.check(name, value)
        text = str(caught.value)
        assert text.startswith(f"{name} is ") and text.endswith(bounds.reason) and "\n" not in text


def test_a_number_of_many_digits_is_told_shortly() -> None:
    for value in (10**200, 10**5000):
        with pytest.raises(InputError) as caught:
            TUNING["seed"].check("seed", value)
        assert len(str(caught.value)) < 200


def test_words_say_what_may_be() -> None:
    assert Bounds(
        0, 100, "", integer=False, exclusive_minimum=True, exclusive_maximum=True
    ).description == ("a number above 0 and below 100")
    assert (
        Bounds(0, 1, "", integer=False, exclusive_maximum=True).description
        == "a number from 0 below 1"
    )
    assert Bounds(1, 65536, "").description == "a whole number from 1 up to 65,536"
    assert (
        Bounds(0, math.inf, "", integer=False, exclusive_minimum=True).description
        == "a number above 0"
    )
    assert (
        Bounds(0, 1, "", integer=False, exclusive_minimum=True).description
        == "a number above 0 and up to 1"
    )


CONFIGS = {
    TuneConfig: {"epochs", "max_steps", "seed", "learning_rate", "heldout_share", "weight_decay"},
    TrainConfig: {"max_steps", "warmup_steps", "beta1", "grad_clip", "seed", "eval_windows"},
}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_of_a_config_is_bounded(config: type) -> None:
    numbers = {
        f.name for f in dataclasses.fields(config)
        if any(word in str(f.type) for word in ("int", "float")) and "Literal" not in str(f.type)
    }  # fmt: skip
    assert CONFIGS[config] < numbers <= TUNING.keys()
    for name in numbers:
        for value in beyond(TUNING[name])[:2]:
            with pytest.raises(InputError, match=f"^{name} is "):
                config(**({"max_steps": 9} | {name: value}))


def test_adapters_are_bounded() -> None:
    for field, name in (("r", "rank"), ("alpha", "alpha"), ("dropout", "lora_dropout")):
        for value in beyond(TUNING[name]):
            with pytest.raises(InputError, match=f"^{name} is "):
                LoRAConfig(**{field: value})


def test_http_has_the_same_bounds() -> None:
    names = {"positions": "n_positions"}
    numbers = {
        field: TUNING[names.get(field, field)]
        for field in TuneSettings.model_fields
        if names.get(field, field) in TUNING
    }
    assert len(numbers) == 14
    for field, bounds in numbers.items():
        for value in within(bounds):
            TuneSettings.model_validate({field: value})
        for value in beyond(bounds):
            if isinstance(value, int | float) and math.isfinite(value):
                with pytest.raises(ValidationError):
                    TuneSettings.model_validate({field: value})


def test_a_step_may_not_be_larger_than_memory_before_anything_is_counted() -> None:
    TuneConfig(batch_size=1 << 16, grad_accum_steps=1 << 8)
    with pytest.raises(InputError, match=r"of 512 tokens has .* at most 16,777,216"):
        TrainConfig(max_steps=1, batch_size=1 << 15, grad_accum_steps=2, n_positions=512)
    assert STEP_TOKENS == 1 << 24
    TrainConfig(max_steps=1, batch_size=1 << 15, grad_accum_steps=1, n_positions=512)


def test_what_was_checked_goes_into_json_and_back() -> None:
    config = TuneConfig(batch_size=np.int64(2), learning_rate=np.float32(0.5))
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert TuneConfig.from_dict(values) == config
