"""``laplm bench`` measures what it says, on a model and on a generated shape. No times asserted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from laplm.errors import InputError
from laplm.model.config import NAMED_SIZES
from laplm.model.engine.model import GPT
from laplm.model.families import tensor_shapes
from laplm.model.files.checkpoint import open_checkpoint
from laplm.native import isa
from laplm.run.bench import GeneratedCheckpoint, Roofline, bench, report


def test_every_measurement_is_there_once_and_positive(tiny_model_dir: Path) -> None:
    gpt = GPT(open_checkpoint(tiny_model_dir), "int8", threads=2)
    told: list[tuple[str, int, int]] = []
    result = bench(gpt, "tiny", repeats=2, samples=(1, 3), progress=lambda *x: told.append(x))
    assert [row.name for row in result.rows] == [
        "memory read bandwidth", "int8 multiplication", "prefill, 128 tokens",
        "decode at position 64", "1 sample together", "3 samples together",
    ]  # fmt: skip
    assert all(row.value > 0 for row in result.rows)
    assert {row.limit for row in result.rows if row.share} == {"memory", "arithmetic"}
    assert told[-1][1] == told[-1][2]
    assert "decode at position 64" in report(result)
    assert f"\n{result.isa}: {isa.why()}\n" in report(result)
    assert result.cpu
    assert result.threads == 2


def test_a_generated_table_has_a_row_for_every_token() -> None:
    rows = GeneratedCheckpoint("distilgpt2").rows("transformer.wte.weight")
    some = rows(np.array([0, 1, 767, 50_000]))
    assert some.shape == (4, 768)
    assert not np.array_equal(some[0], some[1]) and not np.array_equal(some[1], some[2])
    assert np.isfinite(some).all()


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_limits_are_measured_at_every_precision(tiny_model_dir: Path, precision: str) -> None:
    gpt = GPT(open_checkpoint(tiny_model_dir), precision, threads=1)  # type: ignore[arg-type]
    limits = Roofline(gpt)
    assert limits.arithmetic_rate() > 1e8
    data = np.ones(1 << 20, np.uint8)
    assert limits.read_bandwidth(data.ctypes.data, data.nbytes) > 1e8


def test_generated_weights_have_the_shape_of_the_model() -> None:
    checkpoint = GeneratedCheckpoint("distilgpt2")
    assert checkpoint.config == NAMED_SIZES["distilgpt2"]
    for name in ("h.0.attn.c_attn.weight", "ln_f.weight", "wpe.weight"):
        assert checkpoint.tensor(name).shape == tensor_shapes(checkpoint.config)[name]
    rows = checkpoint.rows("wte.weight")(np.array([0, 50256]))
    assert rows.shape == (2, 768)
    again = checkpoint.tensor("wpe.weight")
    np.testing.assert_array_equal(checkpoint.tensor("wpe.weight"), again)


def test_an_unknown_shape_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="gpt2-xl"):
        GeneratedCheckpoint("gpt5")
