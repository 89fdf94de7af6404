"""Many runs together against single passes with a tap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laplm.look import passes, sweep
from laplm.look.sweep import Branch
from laplm.run.language_model import LanguageModel

TEXT = "The capital of Spain is"


def single(model: LanguageModel, ids: list[int], step: int, stream: np.ndarray) -> np.ndarray:
    """Logits after the last position when the residual stream is replaced at a step."""
    layer, past_attention = divmod(step, 2)
    name = "resid_mid" if past_attention else "resid_pre"
    if layer == model.config.n_layer:
        layer, name = layer - 1, "resid_post"
    return passes.forward(
        model, ids, lambda n, at, x: stream if (n, at) == (name, layer) else None, last_only=True
    )[0]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("rows", [1, 20, 512])
def test_runs_that_part_anywhere_end_as_they_do_alone(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, rows: int, precision: Any
) -> None:
    model = LanguageModel(tiny_model_dir, precision)
    ids = passes.encode(model, TEXT)
    monkeypatch.setattr(sweep, "ROWS", rows)
    end = 2 * model.config.n_layer
    rng = np.random.default_rng(0)
    shape = (len(ids), model.config.n_embd)
    counts = [1, 3, 0, 2, 1, 4, 2]
    streams = [rng.standard_normal((n, *shape), np.float32) for n in counts]
    branches = [Branch(step, counts[step], streams[step].__getitem__) for step in range(end + 1)]
    weights, done = passes.weights(model), []
    found = list(
        sweep.sweep(
            branches, weights, model.config, len(ids), lambda what, n, of: done.append((n, of))
        )
    )
    starts = np.cumsum([0, *(len(some.logits) for some in found)])
    assert [some.start for some in found] == starts[:-1].tolist()
    got = np.concatenate([some.logits for some in found])
    want = [
        single(model, ids, step, stream) for step, some in enumerate(streams) for stream in some
    ]
    # In int8 a number between two bytes may be rounded either way.
    atol = 1e-4 if precision == "fp32" else 5e-3
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)
    assert done[-1][0] == done[-1][1]
    assert done == sorted(done)


def test_past_the_last_attention_the_last_position_is_enough(tiny_model_dir: Path) -> None:
    model = LanguageModel(tiny_model_dir, "fp32")
    ids = passes.encode(model, TEXT)
    end = 2 * model.config.n_layer
    streams = np.random.default_rng(0).standard_normal((2, len(ids), 64), np.float32)
    logits = [
        next(sweep.sweep([branch], passes.weights(model), model.config, len(ids))).logits
        for step in (end - 1, end)
        for branch in (
            Branch(step, 2, streams.__getitem__),
            Branch(step, 2, streams[:, -1:].__getitem__),
        )
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[2], logits[3])
