"""Fine-tuning's settings, declared once: the same from Python, the command line and HTTP."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import pytest

from laplm.cli.tune import add_parser
from laplm.errors import InputError
from laplm.serve.tuning import TuneSettings
from laplm.tune_config import (
    CONFIGS,
    DataConfig,
    LoRAConfig,
    MachineConfig,
    TuneConfig,
    settings,
)

# Of each field that HTTP has: what is asked for, and what a run then has.
ASKED: dict[str, tuple[Any, Any]] = {
    "column": ("body", "body"), "train_on_prompt": (True, True), "skip_bad": (True, True),
    "method": ("lora", "lora"), "epochs": (1.5, 1.5), "max_steps": (7, 7), "batch_size": (3, 3),
    "grad_accum_steps": (2, 2), "positions": (64, 64), "learning_rate": (1e-05, 1e-05),
    "dropout": (0.25, 0.25), "heldout": (12.5, 0.125), "patience": (4, 4),
    "checkpointing": (True, True), "seed": (9, 9), "rank": (4, 4), "alpha": (2.5, 2.5),
    "lora_dropout": (0.5, 0.5), "threads": (1, 1),
}  # fmt: skip


def parse(*argv: str) -> dict[str, Any]:
    """What ``laplm tune`` takes from its arguments."""
    parser = argparse.ArgumentParser()
    add_parser(lambda *_, **__: parser)
    return vars(parser.parse_args(list(argv)))


def test_what_http_asks_for_reaches_the_configs_by_way_of_the_command() -> None:
    assert ASKED.keys() == TuneSettings.model_fields.keys()
    asked = TuneSettings.model_validate({name: value for name, (value, _) in ASKED.items()})
    options = parse("notes.txt", *asked.argv())
    tune = TuneConfig.from_options(options)
    found = [
        DataConfig.from_options(options), tune, tune.lora, MachineConfig.from_options(options)
    ]  # fmt: skip
    for config in found:
        for field, setting in settings(type(config)):
            if setting.http is not None:
                assert getattr(config, field) == ASKED[setting.http][1], field


def test_what_is_not_given_has_its_default() -> None:
    options = parse()
    assert TuneConfig.from_options(options) == TuneConfig()
    assert DataConfig.from_options(options) == DataConfig()
    assert MachineConfig.from_options(options) == MachineConfig()
    assert TuneSettings.model_validate({}).argv() == []


def test_every_field_is_a_setting_with_help_and_numbers_have_bounds() -> None:
    for config in CONFIGS:
        named = {field for field, _ in settings(config)}
        assert named == {f.name for f in dataclasses.fields(config)} - {"lora"}
    for field, setting in settings():
        assert setting.help and setting.help.count("(default: ") < 2, field
        assert (setting.bounds is not None) == (setting.kind in (int, float)), field
    names = [setting.name for _, setting in settings()]
    assert len(names) == len(set(names))


def test_adapters_have_to_be_asked_for() -> None:
    lora = TuneConfig.from_options(
        parse("--method", "lora", "--target", "c_fc", "--target", "c_attn", "--rank", "2")
    )
    assert lora.lora == LoRAConfig(r=2, target_modules=("c_fc", "c_attn"))
    with pytest.raises(InputError, match=r"--rank, .* and --target belong to --method lora"):
        TuneConfig.from_options(parse("--rank", "2"))
    with pytest.raises(InputError, match="heldout is 100"):
        TuneConfig.from_options(parse("--heldout", "100"))
