"""A trace against transformers, its archive, and its memory told before it starts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_activations import hf_activations

from laplm.errors import InputError
from laplm.look import passes
from laplm.look.views.trace import trace
from laplm.model.activations import activation_names, hook_name, trace_bytes
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little dog. The little dog"


def test_every_activation_is_that_of_transformers(pocket: LanguageModel, hf_pocket: Any) -> None:
    found = trace(pocket, TEXT)
    want = hf_activations(hf_pocket, found.ids)
    assert set(found.cache) == set(want)
    for key, array in want.items():
        np.testing.assert_allclose(found.cache[key], array, rtol=0, atol=1e-4, err_msg=str(key))


def test_the_archive_has_every_array_under_its_hook(pocket: LanguageModel, tmp_path: Path) -> None:
    found = trace(pocket, TEXT)
    with np.load(found.save(tmp_path / "trace.npz")) as archive:
        assert set(archive) == {"token_ids", "tokens", *(hook_name(*key) for key in found.cache)}
        for key, array in found.cache.items():
            np.testing.assert_array_equal(archive[hook_name(*key)], array)
        assert archive["token_ids"].tolist() == passes.encode(pocket, TEXT)
        assert archive["tokens"].tolist() == found.tokens
    assert [file.name for file in tmp_path.iterdir()] == ["trace.npz"]


def test_only_the_named_are_kept(pocket: LanguageModel) -> None:
    found = trace(pocket, TEXT, names=["pattern"])
    assert {name for name, _ in found.cache} == {"pattern"}
    assert list(trace(pocket, TEXT, names="embed").cache) == [("embed", None)]


def test_memory_is_told_before_anything_runs(pocket: LanguageModel) -> None:
    told: list[tuple[str, int, int]] = []
    found = trace(pocket, TEXT, progress=lambda *event: told.append(event))
    size = trace_bytes(pocket.config, len(found.ids))
    assert told[0] == ("bytes of activations", 0, size)
    assert told[-1] == ("bytes of activations", size, size)
    assert found.cache.nbytes == size


def test_more_than_the_limit_is_refused_before_anything_runs(
    pocket: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "run_with_cache", lambda *_: pytest.fail("it ran"))
    with pytest.raises(InputError, match="the limit is 0 MB: name fewer"):
        trace(pocket, TEXT, max_bytes=1000)


def test_summaries_are_of_the_numbers(pocket: LanguageModel) -> None:
    found = trace(pocket, TEXT)
    for item in found.summary:
        array = found.cache[item.name, item.layer]
        seen = array[np.isfinite(array)].astype(np.float64)
        assert item.shape == array.shape
        assert item.rms == pytest.approx(np.sqrt((seen**2).mean()), rel=1e-5)
        assert (item.lowest, item.highest) == (seen.min(), seen.max())


def test_data_files_name_every_activation(pocket: LanguageModel, tmp_path: Path) -> None:
    found = trace(pocket, TEXT)
    rows = list(csv.DictReader(io.StringIO(found.save(tmp_path / "t.csv").read_text())))
    assert [row["name"] for row in rows] == list(dict.fromkeys(name for name, _ in found.cache))
    assert {row["name"] for row in rows} == set(activation_names(pocket.config))
    data = json.loads(found.save(tmp_path / "t.json").read_text())
    assert [(a["name"], a["layer"]) for a in data["activations"]] == list(found.cache)


@pytest.mark.parametrize("names", [None, ["embed"], ["resid_post"], ["logits", "z"]])
def test_pictures_have_a_row_for_each_name(pocket: LanguageModel, names: Any) -> None:
    found = trace(pocket, TEXT, names=names)
    axes = found.plot().axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == list(dict.fromkeys(name for name, _ in found.cache))


def test_wrong_names_and_files_are_refused(pocket: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no activation is called 'attention'; they are embed"):
        trace(pocket, TEXT, names=["attention"])
    with pytest.raises(InputError, match="no activation is named"):
        trace(pocket, TEXT, names=[])
    with pytest.raises(InputError, match="the text is empty"):
        trace(pocket, "")
    found = trace(pocket, TEXT, names=["embed"])
    with pytest.raises(InputError, match=r"\.json or \.npz"):
        found.save(tmp_path / "trace.txt")
    with pytest.raises(InputError, match="is not a directory; make it first"):
        found.save(tmp_path / "nowhere" / "trace.npz")


def test_an_archive_that_cannot_be_written_is_told(pocket: LanguageModel) -> None:
    found = trace(pocket, TEXT, names=["embed"])
    with pytest.raises(InputError, match=r"cannot write /proc/trace\.npz"):
        found.save("/proc/trace.npz")
