"""Patches from one prompt's run into another's, against hooks on the modules of transformers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laplm.errors import InputError
from laplm.look import passes
from laplm.look.views.patching import STAGES, patch, patching_tap
from laplm.run.language_model import LanguageModel

CLEAN = "Lily had a dog. Lily loved her"
CORRUPTED = "Lily had a cat. Lily loved her"


def module_of(model: Any, stage: str, layer: int) -> Any:
    block = model.transformer.h[layer]
    return {"resid_pre": block, "attn_out": block.attn.c_proj, "mlp_out": block.mlp.c_proj}[stage]


def run(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].numpy()


def donated(model: Any, ids: list[int], stage: str, layer: int) -> torch.Tensor:
    """An activation of a whole prompt, (T, C)."""
    kept: list[torch.Tensor] = []
    module = module_of(model, stage, layer)
    if stage == "resid_pre":
        hook = module.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0][0]))
    else:
        hook = module.register_forward_hook(lambda _, inputs, out: kept.append(out[0]))
    run(model, ids)
    hook.remove()
    return kept[0]


def patched_logits(
    model: Any, ids: list[int], stage: str, layer: int, at: list[int], donor: torch.Tensor
) -> np.ndarray:
    """A run for each of some positions, that one patched in it: (runs, V)."""

    def put(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[range(len(at)), at] = donor[at]
        return x

    module = module_of(model, stage, layer)
    if stage == "resid_pre":
        hook = module.register_forward_pre_hook(lambda _, inputs: (put(inputs[0]), *inputs[1:]))
    else:
        hook = module.register_forward_hook(lambda _, inputs, out: put(out))
    try:
        with torch.no_grad():
            return model(torch.tensor([ids] * len(at))).logits[:, -1].numpy()
    finally:
        hook.remove()


def test_every_patch_gives_the_logits_that_hooks_give(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    look = patch(pocket, CLEAN, CORRUPTED, target=" dog", contrast=" cat")
    clean, ids = passes.encode(pocket, CLEAN), passes.encode(pocket, CORRUPTED)
    dog, cat = (passes.one_token(pocket, token) for token in (" dog", " cat"))

    def logit_diff(logits: np.ndarray) -> np.ndarray:
        return logits[..., dog] - logits[..., cat]

    assert look.clean_logit_diff == pytest.approx(logit_diff(run(hf_pocket, clean)), abs=1e-4)
    assert look.corrupted_logit_diff == pytest.approx(logit_diff(run(hf_pocket, ids)), abs=1e-4)
    want = np.empty_like(look.logit_diffs)
    assert want.shape == (len(STAGES), pocket.config.n_layer, len(ids))
    for i, stage in enumerate(look.stages):
        for layer in range(pocket.config.n_layer):
            donor = donated(hf_pocket, clean, stage, layer)
            every = list(range(len(ids)))
            want[i, layer] = logit_diff(patched_logits(hf_pocket, ids, stage, layer, every, donor))
    np.testing.assert_allclose(look.logit_diffs, want, rtol=0, atol=1e-4)
    gap = look.clean_logit_diff - look.corrupted_logit_diff
    np.testing.assert_allclose(
        look.recovered, (want - look.corrupted_logit_diff) / gap, rtol=0, atol=1e-3
    )


def test_nothing_comes_back_before_the_prompts_differ_and_all_at_the_changed_word(
    pocket: LanguageModel,
) -> None:
    look = patch(pocket, CLEAN, CORRUPTED, stages=["resid_pre"], target=" dog", contrast=" cat")
    differ = [a != b for a, b in zip(look.clean, look.corrupted, strict=True)]
    assert sum(differ) == 1
    at = differ.index(True)
    (recovered,) = look.recovered
    np.testing.assert_allclose(recovered[:, :at], 0, atol=1e-4)
    assert recovered[0, at] == pytest.approx(1, abs=1e-4)
    assert look.stages == ["resid_pre"]


def test_stages_come_in_their_own_order(pocket: LanguageModel) -> None:
    one = patch(pocket, CLEAN, CORRUPTED, stages=["mlp_out"])
    two = patch(pocket, CLEAN, CORRUPTED, stages=["mlp_out", "resid_pre"])
    assert two.stages == ["resid_pre", "mlp_out"]
    np.testing.assert_allclose(two.logit_diffs[1], one.logit_diffs[0], rtol=0, atol=1e-5)


def test_without_targets_the_two_runs_own_answers_are_compared(
    pocket: LanguageModel, hf_pocket: Any
) -> None:
    prompts = ("One day, Tom was very", "One day, Tom saw a")
    look = patch(pocket, *prompts, stages=["resid_pre"])
    known = pocket.tokenizer.vocab_size
    best = [int(run(hf_pocket, passes.encode(pocket, p))[:known].argmax()) for p in prompts]
    assert [look.target, look.contrast] == passes.token_labels(pocket, best)
    assert look.clean_logit_diff > 0 > look.corrupted_logit_diff


@pytest.mark.parametrize("stage", STAGES)
def test_a_patched_prompt_is_continued_as_with_hooks(
    pocket: LanguageModel, hf_pocket: Any, stage: str
) -> None:
    ids, clean = passes.encode(pocket, CORRUPTED), passes.encode(pocket, CLEAN)
    at = [a != b for a, b in zip(ids, clean, strict=True)].index(True)
    tap = patching_tap(pocket, CLEAN, CORRUPTED, stage=stage, layer=1, positions=[at])
    text = pocket.generate(CORRUPTED, 12, temperature=0, ignore_eos=True, tap=tap)
    donor = donated(hf_pocket, clean, stage, 1)
    for _ in range(12):
        (logits,) = patched_logits(hf_pocket, ids, stage, 1, [at], donor)
        ids = [*ids, int(logits[: pocket.tokenizer.vocab_size].argmax())]
    assert list(text.token_ids) == ids[-12:]


def test_the_table_names_both_tokens_of_a_position(pocket: LanguageModel) -> None:
    look = patch(pocket, CLEAN, CORRUPTED, stages=["resid_pre"])
    rows = list(csv.DictReader(look.to_csv().splitlines()))
    assert len(rows) == look.logit_diffs.size
    pairs = {(row["clean token"], row["corrupted token"]) for row in rows}
    assert ("·dog", "·cat") in pairs
    shares = [abs(float(row["recovered"])) for row in rows]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ((CLEAN, "Lily had a cat"), {}, r"the clean prompt has \d+ tokens \(.*they must have as"),
        ((CLEAN, CLEAN), {}, "the two prompts are the same"),
        ((CLEAN, CORRUPTED), {"stages": ["z"]}, "stage is 'z', but it must be one of resid_pre"),
        ((CLEAN, CORRUPTED), {"stages": []}, "stages is empty"),
        ((CLEAN, CORRUPTED), {"target": "a long target"}, "is not one token"),
        (("", CORRUPTED), {}, "empty"),
    ],
)
def test_what_cannot_be_patched_is_said_plainly(
    pocket: LanguageModel, prompts: tuple[str, str], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        patch(pocket, *prompts, **options)


def test_prompts_with_the_same_answer_have_nothing_to_bring_back(tiny_model_dir: Path) -> None:
    model = LanguageModel(tiny_model_dir, "fp32")

    dense = passes.dense_weights(model)
    dense.tensors = dict(dense.tensors) | {"wte.weight": np.zeros_like(dense.tensors["wte.weight"])}
    with pytest.raises(InputError, match="both prompts lead to the same logit"):
        patch(model, "Once upon a", "Once upon the", target=" the", contrast=" time")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stage": "z"}, "stage is 'z'"),
        ({"layer": 99}, "layer 99 is not there"),
        ({"positions": [99]}, "position 99 is not there"),
    ],
)
def test_a_tap_for_a_place_that_is_not_there_is_refused(
    pocket: LanguageModel, options: dict[str, Any], words: str
) -> None:
    settings: dict[str, Any] = {"stage": "resid_pre", "layer": 0, "positions": [0]} | options
    with pytest.raises(InputError, match=words):
        patching_tap(pocket, CLEAN, CORRUPTED, **settings)
    with pytest.raises(InputError, match="one token cannot be told"):
        patching_tap(pocket, " dog", " cat", stage="resid_pre", layer=0, positions=[0])


def test_pictures_and_pages_are_written(pocket: LanguageModel, tmp_path: Path) -> None:
    look = patch(pocket, CLEAN, CORRUPTED)
    assert look.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "recovered" in look.save(tmp_path / "a.html").read_text()


def test_the_sentence_says_where_the_answer_sits_and_what_moves_it(pocket: LanguageModel) -> None:
    found = patch(pocket, "The capital of Spain is", "The capital of France is")
    stream = found.recovered[found.stages.index("resid_pre")].argmax(axis=-1)
    moved = int(np.argmax(stream == stream[-1]))
    said = found.sentence()
    assert "at position 3 (“·Spain” for “·France”) up to layer " in said
    assert f"at position 4 (“·is”) from layer {moved} on" in said
    rest = found.recovered[1:]
    assert f", {100 * rest.max():.0f}%, where 100% is the logit of “·Madrid” less that of" in said
    only = patch(
        pocket, "The capital of Spain is", "The capital of France is", stages=["attn_out"]
    ).sentence()
    assert only.startswith("Attn_out of layer ") and "residual" not in only
