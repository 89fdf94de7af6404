"""Two models on one prompt, against the hidden states and attentions of transformers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model
from transformers import GPT2LMHeadModel

from laplm.errors import InputError
from laplm.look import passes
from laplm.look.views.compare import compare
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, LanguageModel]:
    """A model and the same one after its third layer's weights have moved."""
    base = make_model(tmp_path_factory.mktemp("models") / "before", initializer_range=0.1)
    model = GPT2LMHeadModel.from_pretrained(base)
    after = base.with_name("after")
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in model.transformer.h[2].parameters():
            tensor.add_(torch.randn_like(tensor) * 0.05)
    model.save_pretrained(after)
    (after / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    return LanguageModel(base, "fp32"), LanguageModel(after, "fp32")


def hf_run(model: LanguageModel) -> Any:
    hf = GPT2LMHeadModel.from_pretrained(
        model.path, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return hf.eval()(
            torch.tensor([passes.encode(model, TEXT)]),
            output_attentions=True,
            output_hidden_states=True,
        )


def test_what_moved_is_what_moved_in_transformers(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    look = compare(*pair, TEXT, k=5)
    first, second = map(hf_run, pair)
    patterns = [torch.cat(out.attentions).numpy() for out in (first, second)]
    moved = np.abs(patterns[0] - patterns[1]).sum(axis=-1).mean(axis=-1) / 2
    assert look.attention is not None
    np.testing.assert_allclose(look.attention, moved, rtol=0, atol=1e-4)
    assert not look.attention[:2].any()
    assert look.attention[2].max() > 0.01

    assert look.residual is not None
    for at in range(3):  # transformers' last hidden state is behind the last norm
        a, b = (out.hidden_states[at][0] for out in (first, second))
        want = (b - a).norm(dim=-1) / a.norm(dim=-1)
        np.testing.assert_allclose(look.residual[at], want.numpy(), rtol=0, atol=1e-4)
    assert look.residual.shape == (4, len(look.tokens))
    assert not look.residual[:3].any()
    assert look.residual[3].all()


def test_next_tokens_stand_side_by_side_with_their_probabilities(
    pair: tuple[LanguageModel, LanguageModel],
) -> None:
    look = compare(*pair, TEXT, k=5)
    p, q = (out.logits[0, -1].double().softmax(dim=0) for out in map(hf_run, pair))
    for own, other, next_ in ((p, q, look.next), (q, p, look.other_next)):
        best = own.argsort(descending=True)[:5]
        assert next_.tokens == passes.token_labels(pair[0], best.tolist())
        np.testing.assert_allclose(next_.probabilities, own[best].numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(next_.in_other, other[best].numpy(), rtol=0, atol=1e-4)
    want = float((q * (q / p).log2()).sum())
    assert look.divergence == pytest.approx(want, abs=1e-4)
    rows = list(csv.DictReader(look.to_csv().splitlines()))
    assert [row["before says"] for row in rows] == look.next.tokens
    assert [row["after says"] for row in rows] == look.other_next.tokens


def test_a_model_does_not_differ_from_itself(pocket: LanguageModel) -> None:
    look = compare(pocket, pocket, TEXT)
    assert look.divergence == pytest.approx(0, abs=1e-9)
    assert look.attention is not None and not look.attention.any()
    assert look.residual is not None and not look.residual.any()
    assert look.next == look.other_next


def test_a_model_in_two_precisions_is_told_apart(tiny_model_dir: Path) -> None:
    models = [LanguageModel(tiny_model_dir, precision) for precision in ("fp32", "int8")]
    look = compare(*models, TEXT)
    assert [look.model, look.other] == [f"{tiny_model_dir} (fp32)", f"{tiny_model_dir} (int8)"]
    assert look.residual is not None
    assert 0 < look.residual.max() < 0.1


def test_models_of_another_shape_are_compared_by_what_they_say(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    small = LanguageModel(make_model(tmp_path / "small", n_layer=1), "fp32")
    look = compare(LanguageModel(tiny_model_dir, "fp32"), small, TEXT)
    assert look.attention is None and look.residual is None
    assert look.divergence is not None
    assert "3 layers of 4 heads, 64 wide, and 1 layer" in look.why
    assert len(look.parts()) == 1
    assert look.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_models_with_other_tokens_are_compared_by_what_they_say(
    pocket: LanguageModel, tiny_model_dir: Path
) -> None:
    tiny = LanguageModel(tiny_model_dir, "fp32")
    look = compare(tiny, pocket, TEXT, k=20)
    assert "split the prompt into" in look.why
    assert look.divergence is None
    known = {pocket.tokenizer.token_bytes(i) for i in range(min(5000, pocket.tokenizer.vocab_size))}
    for token, p in zip(look.next.tokens, look.next.in_other, strict=True):
        if token.replace("·", " ").encode() in known:
            assert p is not None and 0 <= p <= 1
    assert None in look.next.in_other or all(p is not None for p in look.next.in_other)


@pytest.mark.parametrize("k", [0, 10**6])
def test_an_impossible_number_of_tokens_is_refused(pocket: LanguageModel, k: int) -> None:
    with pytest.raises(InputError, match=r"k is .*must be between 1 and"):
        compare(pocket, pocket, TEXT, k=k)


def test_pictures_pages_and_data_are_written(
    pair: tuple[LanguageModel, LanguageModel], tmp_path: Path
) -> None:
    look = compare(*pair, TEXT)
    assert look.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "before says" in look.save(tmp_path / "a.html").read_text()
    data = json.loads(look.save(tmp_path / "a.json").read_text())
    assert data["next"]["tokens"] == look.next.tokens
