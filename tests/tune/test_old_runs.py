"""What the first edition wrote is still opened: a run that was stopped half-way, and an adapter.

``tests/data/old_tuning`` holds them as they were, with BASE and DATA in the place of paths: a model
of 3,000 weights, the text, the run at step 3 of 6, and the adapter that it ended with.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from laplm.run.language_model import LanguageModel
from laplm.tune.tuning import read_run

OLD = Path(__file__).parents[1] / "data" / "old_tuning"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy, with paths that are right here."""
    directory = tmp_path / "old"
    shutil.copytree(OLD, directory)
    places = {"BASE": directory / "base", "DATA": directory / "text.txt"}
    for path in (directory / "run/run.json", directory / "adapter/adapter_config.json"):
        text = path.read_text(encoding="utf-8")
        for name, place in places.items():
            text = text.replace(json.dumps(name), json.dumps(str(place)))
        path.write_text(text, encoding="utf-8")
    return directory


def test_an_old_run_goes_on_and_ends_as_it_would_have(laplm_, old: Path) -> None:
    config = read_run(old / "run")["config"]
    assert (config.method, config.precision, config.lora.r) == ("lora", "bf16", 2)
    result = laplm_("tune", "--resume", old / "run")
    assert result.code == 0 and "going on from step 3 of 6" in result.err
    ours, theirs = (
        load_file(old / name / "adapter_model.safetensors") for name in ("run", "adapter")
    )
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        # To the bit on the same machine; others add up in another order.
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=2e-3, err_msg=name)
    moved = max(np.abs(array).max() for name, array in theirs.items() if "lora_B" in name)
    assert moved > 4e-3, "what was trained is more than what is allowed for"
    lines = (old / "run/run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "train_loss" in line]
    assert steps == list(range(1, 7))


def test_an_old_run_refuses_other_settings(laplm_, old: Path) -> None:
    path = old / "run/run.json"
    path.write_text(path.read_text().replace('"dropout": 0.1', '"dropout": 0.2'))
    result = laplm_("tune", "--resume", old / "run")
    assert result.code == 2 and "a run with dropout 0.1, not 0.2" in result.err


def test_an_old_adapter_gives_the_logits_that_it_gave(old: Path) -> None:
    model = LanguageModel(old / "adapter", "fp32")
    logits = model.gpt.forward(model.tokenizer.encode("The dog saw"))[-1]
    expected = [0.04161384, 0.02652115, 0.04981909, -0.09463186]
    np.testing.assert_allclose(logits[:4], expected, rtol=0, atol=1e-5)
    plain = LanguageModel(old / "base", "fp32").gpt.forward(model.tokenizer.encode("The dog saw"))
    assert np.abs(plain[-1][:4] - logits[:4]).max() > 1e-3
