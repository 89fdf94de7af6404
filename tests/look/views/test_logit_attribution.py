"""Direct logit attribution: it sums to the logit, and each part is what its module writes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_activations import hf_activations

from laplm.errors import InputError
from laplm.look import passes
from laplm.look.views.logit_attribution import Attribution, logit_attribution
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little"


def of_sum(found: Attribution) -> float:
    return (
        found.embed
        + found.pos_embed
        + float(found.heads.sum())
        + float(found.feed_forward.sum())
        + float(found.attention_bias.sum())
        + found.norm_shift
    )


@pytest.fixture(scope="module")
def hf(pocket: LanguageModel, hf_pocket: Any) -> dict[Any, np.ndarray]:
    return hf_activations(hf_pocket, passes.encode(pocket, TEXT))


@pytest.mark.parametrize("position", [-1, 0, 3])
@pytest.mark.parametrize("contrast", [None, " boy"])
def test_parts_sum_to_transformers_logit_or_difference(
    pocket: LanguageModel, hf: dict[Any, np.ndarray], contrast: str | None, position: int
) -> None:
    found = logit_attribution(pocket, TEXT, target=" girl", contrast=contrast, position=position)
    logits = hf["logits", None][position]
    want = logits[passes.one_token(pocket, " girl")]
    if contrast is not None:
        want = want - logits[passes.one_token(pocket, contrast)]
    assert found.total == pytest.approx(float(want), abs=1e-3)
    assert of_sum(found) == pytest.approx(float(want), abs=1e-3)
    assert abs(found.rounding) < 1e-3


def test_gpt2s_own_sizes_sum_too(tmp_path: Path) -> None:
    from conftest import make_model

    sizes = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 32}
    model = LanguageModel(make_model(tmp_path / "wide", **sizes), "fp32")
    found = logit_attribution(model, "Once upon a time", target="a", contrast="b")
    assert found.heads.shape == (12, 12)
    assert of_sum(found) == pytest.approx(found.total, abs=1e-3)


def test_every_part_is_what_its_module_writes(
    pocket: LanguageModel, hf_pocket: Any, hf: dict[Any, np.ndarray]
) -> None:
    """Each part, put alone through transformers' last norm with its scale held."""
    found = logit_attribution(pocket, TEXT, target=" girl", contrast=" boy")
    girl, boy = passes.one_token(pocket, " girl"), passes.one_token(pocket, " boy")
    norm, head = hf_pocket.transformer.ln_f, hf_pocket.lm_head
    scale = torch.from_numpy(hf["ln_final_scale", None][-1])

    def adds(vector: torch.Tensor) -> float:
        with torch.no_grad():
            logits = head((vector - vector.mean()) / scale * norm.weight)
        return float(logits[girl] - logits[boy])

    def at_end(name: str, layer: int | None) -> torch.Tensor:
        return torch.from_numpy(hf[name, layer][-1])

    assert found.embed == pytest.approx(adds(at_end("embed", None)), abs=1e-4)
    assert found.pos_embed == pytest.approx(adds(at_end("pos_embed", None)), abs=1e-4)
    with torch.no_grad():
        shift = head(norm.bias)
    assert found.norm_shift == pytest.approx(float(shift[girl] - shift[boy]), abs=1e-4)
    for layer, block in enumerate(hf_pocket.transformer.h):
        project, z = block.attn.c_proj, at_end("z", layer)
        assert found.feed_forward[layer] == pytest.approx(adds(at_end("mlp_out", layer)), abs=1e-4)
        assert found.attention_bias[layer] == pytest.approx(adds(project.bias), abs=1e-4)
        weights = project.weight.reshape(*z.shape, -1)  # (H, D, C)
        for i in range(len(z)):
            assert found.heads[layer, i] == pytest.approx(adds(z[i] @ weights[i]), abs=1e-4)


def test_a_head_that_is_silenced_takes_its_share_along(tiny_model_dir: Path) -> None:
    """In the last layer a head speaks to nothing but the logits."""
    model = LanguageModel(tiny_model_dir, "fp32")
    ids = passes.encode(model, TEXT)
    found = logit_attribution(model, ids, target="a", contrast="b")
    a, b = passes.one_token(model, "a"), passes.one_token(model, "b")
    last, head = model.config.n_layer - 1, 2
    base = passes.run_with_cache(model, ids, ["ln_final_scale", "mlp_out"])

    def tap(name: str, layer: int | None, x: np.ndarray) -> np.ndarray | None:
        if (name, layer) == ("z", last):
            x = x.copy()
            x[:, head] = 0
            return x
        if name in ("ln_final_scale", "mlp_out") and layer in (None, last):
            return base[name, layer]
        return None

    logits = passes.forward(model, ids, tap)[-1]
    lost = found.total - float(logits[a] - logits[b])
    assert lost == pytest.approx(float(found.heads[last, head]), abs=1e-4)


def test_quantised_models_show_what_rounding_hides(tiny_model_dir: Path) -> None:
    model = LanguageModel(tiny_model_dir, "int4")
    found = logit_attribution(model, TEXT, target="a", contrast="b")
    logits = passes.run_with_cache(model, passes.encode(model, TEXT), ["logits"])["logits"][-1]
    a, b = passes.one_token(model, "a"), passes.one_token(model, "b")
    assert found.total == pytest.approx(float(logits[a] - logits[b]), abs=1e-5)
    assert of_sum(found) + found.rounding == pytest.approx(found.total, abs=1e-4)


def test_the_models_own_answer_is_taken_when_none_is_asked_for(
    pocket: LanguageModel, hf: dict[Any, np.ndarray]
) -> None:
    found = logit_attribution(pocket, TEXT)
    assert found.target_id == hf["logits", None][-1].argmax()
    assert found.total == pytest.approx(float(hf["logits", None][-1].max()), abs=1e-3)


def test_tables_and_data_add_up(pocket: LanguageModel, tmp_path: Path) -> None:
    found = logit_attribution(pocket, TEXT, target=" girl", contrast=" boy")
    strongest, by_kind, *_ = found.parts()
    adds = [abs(row["adds"]) for row in strongest.records()]  # type: ignore[union-attr]
    assert adds == sorted(adds, reverse=True)
    kinds = by_kind.records()  # type: ignore[union-attr]
    assert sum(row["adds"] for row in kinds[:-1]) == pytest.approx(kinds[-1]["adds"], abs=1e-3)
    rows = list(csv.DictReader(io.StringIO(found.save(tmp_path / "a.csv").read_text())))
    assert sum(float(row["adds"]) for row in rows) == pytest.approx(found.total, abs=1e-4)
    heads = [row for row in rows if row["part"] == "head"]
    assert len(heads) == found.heads.size
    for row in heads:
        want = found.heads[int(row["layer"]), int(row["head"])]
        assert float(row["adds"]) == pytest.approx(float(want))


def test_the_sentence_names_what_adds_most_and_what_takes_away(pocket: LanguageModel) -> None:
    found = logit_attribution(pocket, TEXT, target=" girl", contrast=" boy")
    layer, head = np.unravel_index(found.heads.argmax(), found.heads.shape)
    block = int(found.feed_forward.argmax())
    name, *where, least = min(found.components(), key=lambda part: part[3])
    part = f"head {where[0]}.{where[1]}" if name == "head" else f"{name} {where[0]}"
    assert found.sentence() == (
        f"To the logit of “·girl” less that of “·boy” ({found.total:+.1f} in all) head "
        f"{layer}.{head} adds most of the heads, {found.heads[layer, head]:+.1f}, and "
        f"feed-forward {block} of the feed-forwards, {found.feed_forward[block]:+.1f}; {part} "
        f"takes most away, {least:+.1f}."
    )


def test_the_picture_has_a_cell_for_each_head_and_feed_forward(pocket: LanguageModel) -> None:
    found = logit_attribution(pocket, TEXT, target=" girl", contrast=" boy")
    axes = found.plot().axes[0]
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown[:, : found.heads.shape[1]], found.heads)
    np.testing.assert_allclose(shown[:, -1], found.feed_forward)
    assert "less that of" in axes.get_title(loc="left") + str(axes.figure.texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": " xylophagous"}, "' xylophagous' is not one token but"),
        ({"target": " girl", "contrast": " girl"}, "is compared with itself"),
        ({"target": ""}, "target is empty"),
        ({"position": 99}, "position 99 is not there"),
    ],
)
def test_what_cannot_be_is_told(
    pocket: LanguageModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        logit_attribution(pocket, TEXT, **options)


def test_an_empty_text_is_refused(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        logit_attribution(pocket, "")
