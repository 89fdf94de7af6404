"""``laplm bench`` from the command line; what it measures is tested in tests/run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from calling import refused

from laplm.model.config import ModelConfig
from laplm.run import bench


def test_json_has_every_row_and_a_cold_start_last(laplm_, tiny_model_dir: Path) -> None:
    result = laplm_("bench", "-m", tiny_model_dir, "--repeats", 1, "--json")
    assert result.code == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert rows[-1]["name"] == "cold start to first token"
    assert rows[-1]["unit"] == "s"


def test_a_shape_is_timed_with_generated_weights_and_printed(
    laplm_, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def measured(gpt: Any, name: str, **options: Any) -> str:
        asked.append((gpt.config.n_embd, gpt.precision, gpt.threads, name, options["cold_start"]))
        assert options["repeats"] == 3
        return "measured"

    sizes = ModelConfig(vocab_size=500, n_ctx=64, n_embd=64, n_layer=1, n_head=4)
    monkeypatch.setitem(bench.SHAPES, "small", sizes)
    monkeypatch.setattr(bench, "bench", measured)
    monkeypatch.setattr(bench, "report", lambda result: f"{result}: a table\n")
    result = laplm_(
        "bench", "--shape", "small", "--precision", "int4", "--threads", 1, "--repeats", 3
    )
    assert (result.code, result.out) == (0, "measured: a table\n")
    assert asked == [(64, "int4", 1, "generated weights, shape small", None)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shape", "gpt5"], "gpt2-xl"),
        (["--shape", "gpt2", "-m", "pocket"], "--shape and --model"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--repeats", "1001"], "between 1 and 1000"),
    ],
)
def test_bad_options_are_refused_in_one_line(laplm_, options: list[str], said: str) -> None:
    refused(laplm_("bench", *options), said)
