"""The logit lens against transformers' hidden states, last norm and output matrix."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model

from laplm.errors import ContextLengthError, InputError
from laplm.look import passes
from laplm.look.views import logit_lens as module
from laplm.look.views.logit_lens import Lens, logit_lens
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little dog. The capital of Spain is"


def oracle(hf: Any, ids: list[int]) -> np.ndarray:
    """Probabilities (S, T, V); transformers has put its last hidden state through ln_f already."""
    with torch.no_grad():
        out = hf(torch.tensor([ids]), output_hidden_states=True)
        early = [hf.lm_head(hf.transformer.ln_f(h)) for h in out.hidden_states[:-1]]
        logits = torch.cat([*early, out.logits])
    return logits.softmax(-1).numpy()


@pytest.fixture(scope="module")
def want(pocket: LanguageModel, hf_pocket: Any) -> np.ndarray:
    return oracle(hf_pocket, passes.encode(pocket, TEXT))


@pytest.fixture(scope="module")
def found(pocket: LanguageModel) -> Lens:
    return logit_lens(pocket, TEXT)


def test_every_layer_predicts_what_transformers_would(found: Lens, want: np.ndarray) -> None:
    assert found.stages == ["embedding", *map(str, range(len(want) - 1))]
    np.testing.assert_array_equal(found.top_ids, want.argmax(-1))
    np.testing.assert_allclose(found.top_probabilities, want.max(-1), rtol=0, atol=1e-4)


def test_the_answer_is_followed_down_the_layers(found: Lens, want: np.ndarray) -> None:
    answer = want[-1].argmax(-1)
    chances = np.take_along_axis(want, answer[None, :, None], axis=-1)
    np.testing.assert_allclose(found.answer_probabilities, chances[..., 0], rtol=0, atol=1e-4)
    ranks = 1 + (want > chances).sum(-1)
    assert (found.answer_ranks[-1] == 1).all()
    # Far down the order, neighbours are nearly equal and may change places.
    assert (np.abs(found.answer_ranks - ranks) <= 0.01 * ranks).all()


def test_first_and_settled_are_found_layer_by_layer(found: Lens) -> None:
    for position, answer in enumerate(found.top_ids[-1]):
        column = found.top_ids[:, position].tolist()
        assert found.first[position] == column.index(answer)
        stage = len(column) - 1
        while stage and column[stage - 1] == answer:
            stage -= 1
        assert found.settled[position] == stage


def test_the_last_stage_is_the_models_own_answer(pocket: LanguageModel, found: Lens) -> None:
    logits = passes.forward(pocket, passes.encode(pocket, TEXT))
    np.testing.assert_array_equal(found.top_ids[-1], logits.argmax(-1))


def test_long_texts_are_read_in_parts(
    pocket: LanguageModel, found: Lens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOGITS", 3 * pocket.config.vocab_size)
    parts = logit_lens(pocket, TEXT)
    np.testing.assert_array_equal(parts.top_ids, found.top_ids)
    np.testing.assert_allclose(parts.answer_probabilities, found.answer_probabilities, atol=1e-5)


def test_a_padded_vocabulary_is_not_answered_from(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "padded")
    from safetensors.numpy import load_file, save_file

    vocab = LanguageModel(directory, "fp32").config.vocab_size
    file, config = directory / "model.safetensors", directory / "config.json"
    tensors = load_file(file)
    name = "transformer.wte.weight"
    # Rows beyond the tokenizer's, so long that they would win everywhere.
    tensors[name] = np.concatenate(
        [tensors[name], 100 * tensors[name][:16], -100 * tensors[name][:16]]
    )
    save_file(tensors, file)
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "vocab_size": vocab + 32}))
    found = logit_lens(LanguageModel(directory, "fp32"), "Once upon a time")
    assert found.top_ids.max() < vocab
    assert (found.answer_ranks[-1] == 1).all()


def test_quantised_models_end_in_their_own_answer(tiny_model_dir: Path) -> None:
    model = LanguageModel(tiny_model_dir, "int8")
    found = logit_lens(model, "Once upon a time")
    logits = passes.forward(model, passes.encode(model, "Once upon a time"))
    np.testing.assert_array_equal(found.top_ids[-1], logits.argmax(-1))


@pytest.mark.parametrize("text", [TEXT, "Once"])
def test_pictures_and_data_say_what_was_found(
    pocket: LanguageModel, text: str, tmp_path: Path
) -> None:
    found = logit_lens(pocket, text)
    axes = found.plot().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == found.stages[::-1]
    rows = list(csv.DictReader(io.StringIO(found.save(tmp_path / "lens.csv").read_text())))
    assert [row[found.stages[-1]] for row in rows] == found.top_tokens[-1]
    assert [row["first at"] for row in rows] == [found.stages[i] for i in found.first]
    data = json.loads(found.save(tmp_path / "lens.json").read_text())
    assert data["top_ids"] == found.top_ids.tolist()


def test_progress_is_told_by_layer(pocket: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(module, "_LOGITS", pocket.config.vocab_size)
    logit_lens(pocket, "Once", progress=lambda *event: told.append(event))
    stages = pocket.config.n_layer + 1
    assert told == [("layers", i, stages) for i in range(stages + 1)]


def test_the_output_matrix_is_unpacked_once_for_all_layers_where_memory_allows(
    pocket: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    probabilities = module._probabilities
    monkeypatch.setattr(
        module, "_probabilities", lambda m, x: (counts.append(len(x)), probabilities(m, x))[1]
    )
    found = logit_lens(pocket, "Once upon")
    assert counts == [found.top_ids.size]


def test_texts_that_cannot_be_read_are_refused(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        logit_lens(pocket, "")
    with pytest.raises(ContextLengthError):
        logit_lens(pocket, [1] * (pocket.config.n_ctx + 1))


def test_the_sentence_and_the_first_table_follow_the_last_position(pocket: LanguageModel) -> None:
    for text in ("The capital of Spain is", "Once upon a time, there was a little"):
        found = logit_lens(pocket, text)
        settled, answer = int(found.settled[-1]), found.top_tokens[-1][-1]
        said = found.sentence()
        assert said.startswith(f"After “{found.tokens[-1]}”, “{answer}” leads from ")
        assert f"with {100 * found.top_probabilities[-1, -1]:.1f}% at the end" in said
        assert (f"layer {settled - 1} (" in said) == (settled > 0)
        if settled:
            led = found.top_tokens[settled - 1][-1]
            share = 100 * found.top_probabilities[settled - 1, -1]
            assert f"before that, “{led}” leads with {share:.1f}%" in said
        rows = found.parts()[0].rows  # type: ignore[union-attr]
        assert [row[0] for row in rows] == found.stages[::-1]
        assert [row[1] for row in rows] == [row[-1] for row in found.top_tokens[::-1]]
