"""A direction added to the residual stream, against hooks on the modules of transformers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laplm.errors import ContextLengthError, InputError
from laplm.look import passes
from laplm.look.views.steering import direction, steer, steering_tap
from laplm.run.language_model import LanguageModel

TEXT = "The little girl was very"


def hidden(model: Any, ids: list[int]) -> list[torch.Tensor]:
    with torch.no_grad():
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states


def steered_logits(model: Any, ids: list[int], layer: int, added: torch.Tensor) -> np.ndarray:
    block = model.transformer.h[layer]
    hook = block.register_forward_pre_hook(lambda _, inputs: (inputs[0] + added, *inputs[1:]))
    try:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0, -1].numpy()
    finally:
        hook.remove()


@pytest.mark.parametrize("layer", [0, 2])
def test_the_direction_is_the_difference_of_hidden_states(
    pocket: LanguageModel, hf_pocket: Any, layer: int
) -> None:
    got = direction(pocket, "I am happy", " sad", layer=layer)
    ends = [
        hidden(hf_pocket, passes.encode(pocket, t))[layer][0, -1] for t in ("I am happy", " sad")
    ]
    np.testing.assert_allclose(got, (ends[0] - ends[1]).numpy(), rtol=0, atol=1e-4)


def test_next_tokens_and_text_are_those_of_transformers_with_a_hook(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    look = steer(
        pocket, TEXT, " happy", " sad", layer=2, coefficients=(-1.5, 0, 2), max_new_tokens=12,
        temperature=0,
    )  # fmt: skip
    along = torch.tensor(look.direction)
    known = pocket.tokenizer.vocab_size
    for i, coefficient in enumerate(look.coefficients):
        ids = passes.encode(pocket, TEXT)
        first = steered_logits(hf_pocket, ids, 2, coefficient * along)
        probabilities = torch.tensor(first).softmax(dim=0).numpy()
        shown = dict(zip(look.candidates, look.probabilities[i], strict=True))
        best = int(first[:known].argmax())
        label = passes.token_labels(pocket, [best])[0]
        assert shown[label] == pytest.approx(float(probabilities[best]), abs=1e-4)
        for _ in range(12):
            logits = steered_logits(hf_pocket, ids, 2, coefficient * along)
            ids.append(int(logits[:known].argmax()))
        assert look.texts[i] == pocket.tokenizer.decode(ids[-12:])
    states = hidden(hf_pocket, passes.encode(pocket, TEXT))[2][0]
    assert look.residual_norm == pytest.approx(float(states.norm(dim=-1).mean()), rel=1e-4)
    assert look.direction_norm == pytest.approx(float(along.norm()), rel=1e-5)


def test_no_direction_added_is_the_model_as_it_is(pocket: LanguageModel) -> None:
    look = steer(pocket, TEXT, " happy", " sad", coefficients=[0], max_new_tokens=8, seed=3)
    plain = pocket.generate(TEXT, 8, seed=3)
    assert look.texts == [plain.text]


def test_a_quantised_model_can_be_steered(tiny_model_dir: Path) -> None:
    model = LanguageModel(tiny_model_dir, "int8")
    look = steer(model, "Once upon", " the", " a", layer=1, coefficients=(0, 30), max_new_tokens=6)
    tap = steering_tap(look.direction, layer=1, coefficient=30)
    assert model.generate("Once upon", 6, seed=1, tap=tap).text == look.texts[1]
    assert look.texts[0] != look.texts[1]


def test_the_table_has_a_text_for_each_coefficient(pocket: LanguageModel) -> None:
    look = steer(pocket, TEXT, " happy", " sad", max_new_tokens=5)
    rows = list(csv.DictReader(look.to_csv().splitlines()))
    assert [row["coefficient"] for row in rows] == ["-1", "0", "+1"]
    assert [row["text"] for row in rows] == look.texts


@pytest.mark.parametrize(
    ("prompts", "options", "error", "words"),
    [
        ((TEXT, " happy", " happy"), {}, InputError, "give no direction"),
        ((TEXT, " happy", " sad"), {"layer": 99}, InputError, "layer 99 is not there"),
        ((TEXT, " happy", " sad"), {"coefficients": []}, InputError, "coefficients must be"),
        ((TEXT, " happy", " sad"), {"coefficients": [1, -1e38]}, InputError, "coefficient is -1e"),
        ((TEXT, " happy", " sad"), {"coefficients": [float("nan")]}, InputError, "coefficients"),
        ((TEXT, " happy", " sad"), {"temperature": -1}, InputError, "temperature"),
        ((TEXT, " happy", " sad"), {"max_new_tokens": 10**6}, ContextLengthError, "ask for at"),
        ((TEXT, "", " sad"), {}, InputError, "empty"),
        (("", " happy", " sad"), {}, InputError, "empty"),
    ],
)
def test_what_cannot_be_steered_is_said_plainly(
    pocket: LanguageModel,
    prompts: tuple[str, str, str],
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        steer(pocket, *prompts, **options)


def test_pictures_and_pages_are_written(pocket: LanguageModel, tmp_path: Path) -> None:
    look = steer(pocket, TEXT, " happy", " sad", max_new_tokens=5)
    assert look.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "coefficient" in look.save(tmp_path / "a.html").read_text()


def test_of_several_prompts_the_mean_is_taken(pocket: LanguageModel, hf_pocket: Any) -> None:
    good, bad = [" happy", "I am glad", " joy and laughter"], ["Nobody came", " sad"]
    means = [
        np.mean([hidden(hf_pocket, passes.encode(pocket, t))[2][0, -1].numpy() for t in each], 0)
        for each in (good, bad)
    ]
    got = direction(pocket, good, bad, layer=2)
    np.testing.assert_allclose(got, means[0] - means[1], rtol=0, atol=1e-4)
    look = steer(pocket, TEXT, good, bad, layer=2, coefficients=(1,), max_new_tokens=1)
    np.testing.assert_array_equal(look.direction, got)
    assert (look.towards, look.away_from) == (good, bad)
    assert "from 2 texts (“Nobody·came”, …) to 3 texts (“·happy”, …)" in look.parts()[0].title
    with pytest.raises(InputError, match="no prompt to steer by"):
        steer(pocket, TEXT, [], bad)
