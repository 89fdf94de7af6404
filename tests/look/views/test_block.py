"""One block, and the stream through all, against what transformers' modules do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model
from hf_activations import hf_activations

from laplm.errors import InputError
from laplm.look import passes
from laplm.look.views.block import block, cosine, residual_stream
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little dog. The little dog"


@pytest.fixture(scope="module")
def hf(pocket: LanguageModel, hf_pocket: Any) -> dict[Any, np.ndarray]:
    return hf_activations(hf_pocket, passes.encode(pocket, TEXT))


def test_every_step_has_the_norm_mean_and_variance_of_transformers(
    pocket: LanguageModel, hf: dict[Any, np.ndarray]
) -> None:
    for layer in (0, pocket.config.n_layer - 1):
        found = block(pocket, TEXT, layer=layer)
        assert found.steps == [
            "resid_pre", "ln1_normalized", "ln1", "attn_out", "resid_mid", "ln2_normalized", "ln2",
            "mlp_pre", "mlp_post", "mlp_out", "resid_post",
        ]  # fmt: skip
        for i, step in enumerate(found.steps):
            x = torch.from_numpy(hf[step, layer])
            assert found.widths[i] == x.shape[-1]
            for got, want in (
                (found.norms[i], x.norm(dim=-1)),
                (found.means[i], x.mean(dim=-1)),
                (found.variances[i], x.var(dim=-1, unbiased=False)),
            ):
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=step)


def test_cosines_are_between_what_is_added_and_what_it_is_added_to(
    pocket: LanguageModel, hf: dict[Any, np.ndarray]
) -> None:
    found = block(pocket, TEXT, layer=1)
    similarity = torch.nn.functional.cosine_similarity
    for got, x, added in (
        (found.attention_cosine, "resid_pre", "attn_out"),
        (found.feed_forward_cosine, "resid_mid", "mlp_out"),
    ):
        want = similarity(torch.from_numpy(hf[x, 1]), torch.from_numpy(hf[added, 1]), dim=-1)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_the_most_active_neurons_come_first(
    pocket: LanguageModel, hf_pocket: Any, hf: dict[Any, np.ndarray]
) -> None:
    layer, position = 1, 3
    found = block(pocket, TEXT, layer=layer, position=position, neurons=4)
    after = torch.from_numpy(hf["mlp_post", layer][position])
    values, indices = after.topk(4)
    assert [n.index for n in found.neurons] == indices.tolist()
    assert [n.activation for n in found.neurons] == pytest.approx(values.tolist(), abs=1e-4)
    down = hf_pocket.transformer.h[layer].mlp.c_proj.weight.detach()
    for neuron in found.neurons:
        added = down[neuron.index] * after[neuron.index]
        assert neuron.norm == pytest.approx(added.norm().item(), rel=1e-3)
        assert neuron.before == pytest.approx(
            float(hf["mlp_pre", layer][position, neuron.index]), abs=1e-4
        )


def test_a_neuron_raises_the_logits_it_is_said_to_raise(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    """Its output weights, added to the stream's end with the last norm's scale held."""
    found = block(pocket, TEXT, layer=0, neurons=3, words=4)
    norm, head = hf_pocket.transformer.ln_f, hf_pocket.lm_head
    for neuron in found.neurons:
        direction = hf_pocket.transformer.h[0].mlp.c_proj.weight.detach()[neuron.index]
        with torch.no_grad():
            change = head((direction - direction.mean()) * norm.weight)
        change = change[: pocket.tokenizer.vocab_size]
        assert neuron.promotes == passes.token_labels(pocket, change.topk(4).indices.tolist())
        assert neuron.suppresses == passes.token_labels(pocket, (-change).topk(4).indices.tolist())


def test_the_stream_is_that_of_transformers_in_every_layer(
    pocket: LanguageModel, hf: dict[Any, np.ndarray]
) -> None:
    found = residual_stream(pocket, TEXT)
    layers = range(pocket.config.n_layer)
    stream = [hf["resid_pre", i] for i in layers] + [hf["resid_post", layers[-1]]]
    for got, want in (
        (found.norms, stream),
        (found.attention_norms, [hf["attn_out", i] for i in layers]),
        (found.feed_forward_norms, [hf["mlp_out", i] for i in layers]),
    ):
        np.testing.assert_allclose(got, np.linalg.norm(want, axis=-1), rtol=1e-4, atol=1e-4)
    for i in layers:
        np.testing.assert_allclose(
            found.attention_cosine[i], block(pocket, TEXT, layer=i).attention_cosine, atol=1e-5
        )
        np.testing.assert_allclose(
            found.to_final[i], cosine(stream[i], stream[-1]), rtol=0, atol=1e-4
        )
    np.testing.assert_allclose(found.to_final[-1], 1, atol=1e-5)


@pytest.mark.parametrize("text", [TEXT, "Once"])
def test_tables_pictures_and_data_can_be_had(
    pocket: LanguageModel, text: str, tmp_path: Path
) -> None:
    for found in (block(pocket, text, layer=1), residual_stream(pocket, text)):
        assert found.plot().axes[0].get_title(loc="left").strip()
        data = json.loads(found.save(tmp_path / "look.json").read_text())
        assert data["tokens"] == passes.token_labels(pocket, passes.encode(pocket, text))
        assert "</html>" in found.save(tmp_path / "look.html").read_text()
        for part in found.parts():
            records = getattr(part, "records", list)()
            assert all(len(record) == len(part.columns) for record in records)


def test_no_neurons_may_be_asked_for(pocket: LanguageModel) -> None:
    found = block(pocket, TEXT, neurons=0)
    assert found.neurons == []
    assert len(found.parts()) == 3


def test_a_model_of_silence_has_no_cosines(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "silent")
    from safetensors.numpy import load_file, save_file

    file = directory / "model.safetensors"
    tensors = {name: tensor * ("c_proj" not in name) for name, tensor in load_file(file).items()}
    save_file({n: np.ascontiguousarray(t, np.float32) for n, t in tensors.items()}, file)
    found = block(LanguageModel(directory, "fp32"), "Once", layer=0)
    assert not found.attention_cosine.any()
    assert np.isfinite(found.to_dict()["norms"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 99}, r"layer 99 is not there: the model has layers 0 to \d+"),
        ({"position": 99}, r"position 99 is not there: the text has positions 0 to \d+"),
        ({"neurons": -1}, "neurons is -1"),
        ({"words": 1.5}, r"words is 1\.5"),
    ],
)
def test_what_cannot_be_is_told(
    pocket: LanguageModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        block(pocket, TEXT, **options)


def test_an_empty_text_is_refused(pocket: LanguageModel) -> None:
    for look in (block, residual_stream):
        with pytest.raises(InputError, match="the text is empty"):
            look(pocket, "")
