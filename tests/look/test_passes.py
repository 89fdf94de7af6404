"""Passes against transformers, and the plain words for what cannot be looked at."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from laplm.errors import ContextLengthError, InputError, ModelFormatError
from laplm.look import passes
from laplm.model.activations import activation_names
from laplm.run.language_model import LanguageModel

TEXT = "Once upon a time, there was a little dog. The little dog"


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, "fp32")


def test_fp32_logits_are_those_of_transformers(pocket: LanguageModel, hf_pocket: Any) -> None:
    ids = passes.encode(pocket, TEXT)
    with torch.no_grad():
        want = hf_pocket(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(passes.forward(pocket, ids), want, rtol=0, atol=1e-4)
    last = passes.forward(pocket, ids, last_only=True)
    np.testing.assert_allclose(last, want[-1:], rtol=0, atol=1e-4)


def test_an_fp32_pass_needs_no_engine(tiny_model_dir: Path) -> None:
    model = LanguageModel(tiny_model_dir, "fp32")
    passes.run_with_cache(model, passes.encode(model, TEXT))
    assert "gpt" not in vars(model)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_passes_are_the_engines(tiny_model_dir: Path, precision: Any) -> None:
    model = LanguageModel(tiny_model_dir, precision)
    ids = passes.encode(model, TEXT)
    logits = passes.forward(model, ids)
    np.testing.assert_array_equal(logits, model.gpt.forward(ids))
    kept = passes.run_with_cache(model, ids)["logits"]
    np.testing.assert_allclose(kept, logits, rtol=0, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_text_in_two_parts_gives_what_it_gives_whole(
    tiny_model_dir: Path, precision: Any
) -> None:
    model = LanguageModel(tiny_model_dir, precision)
    ids = passes.encode(model, TEXT)
    kv_cache = passes.new_kv_cache(model)
    passes.forward(model, ids[:5], kv_cache=kv_cache)
    rest = passes.forward(model, ids[5:], kv_cache=kv_cache)
    assert kv_cache.length == len(ids)
    np.testing.assert_allclose(rest, passes.forward(model, ids)[5:], rtol=0, atol=1e-5)


def test_only_the_named_activations_are_kept(tiny: LanguageModel) -> None:
    kept = passes.run_with_cache(tiny, passes.encode(tiny, TEXT), ["pattern", "embed"])
    assert set(kept) == {("embed", None), *(("pattern", i) for i in range(tiny.config.n_layer))}
    assert set(activation_names(tiny.config)) == {
        name for name, _ in passes.run_with_cache(tiny, [1, 2])
    }


def test_a_tap_changes_what_is_kept_and_what_follows(tiny: LanguageModel) -> None:
    def silence(name: str, layer: int | None, array: Any) -> Any:
        return np.zeros_like(array) if (name, layer) == ("attn_out", 1) else None

    kept = passes.run_with_cache(tiny, [5, 6, 7], tap=silence)
    assert not kept["attn_out", 1].any()
    np.testing.assert_array_equal(kept["resid_mid", 1], kept["resid_pre", 1])


def test_weights_are_read_once_and_let_go_with_the_model(tiny_model_dir: Path) -> None:
    model = LanguageModel(tiny_model_dir, "fp32")
    before = len(passes._dense)
    first = passes.dense_weights(model)
    assert passes.dense_weights(model) is first
    assert len(passes._dense) == before + 1
    del model
    assert len(passes._dense) == before


def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "damaged")
    tensors = load_file(directory / "model.safetensors")
    tensors["transformer.h.1.ln_2.weight"][3] = np.nan
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ModelFormatError, match=r"h\.1\.ln_2\.weight"):
        passes.forward(LanguageModel(directory, "fp32"), [1, 2])


# --- text and indices ---


def test_an_empty_text_is_refused(tiny: LanguageModel) -> None:
    for empty in ("", b"", []):
        with pytest.raises(InputError, match="the text is empty"):
            passes.encode(tiny, empty)


def test_a_text_may_fill_the_context_but_not_more(tiny: LanguageModel) -> None:
    n_ctx = tiny.config.n_ctx
    assert passes.forward(tiny, passes.encode(tiny, [1] * n_ctx), last_only=True).shape[0] == 1
    with pytest.raises(ContextLengthError, match=rf"{n_ctx + 1} tokens.* holds {n_ctx}"):
        passes.encode(tiny, [1] * (n_ctx + 1))
    kv_cache = passes.new_kv_cache(tiny)
    passes.forward(tiny, [1] * n_ctx, kv_cache=kv_cache)
    with pytest.raises(ContextLengthError, match=f"{n_ctx + 1} tokens"):
        passes.forward(tiny, [1], kv_cache=kv_cache)


def test_ids_outside_the_vocabulary_are_refused(tiny: LanguageModel) -> None:
    for wrong in (-1, tiny.config.vocab_size):
        with pytest.raises(InputError, match=rf"token id {wrong} .*0 to"):
            passes.encode(tiny, [1, wrong])


def test_one_token_is_found_with_its_space(pocket: LanguageModel) -> None:
    assert [passes.one_token(pocket, " the")] == pocket.tokenizer.encode(" the")


def test_a_target_of_several_tokens_is_shown_with_its_pieces(pocket: LanguageModel) -> None:
    ids = pocket.tokenizer.encode(" xylophagous")
    with pytest.raises(InputError) as caught:
        passes.one_token(pocket, " xylophagous")
    message = str(caught.value)
    assert message.startswith("' xylophagous' is not one token but ")
    for piece in ids:
        assert repr(pocket.tokenizer.token_text(piece)) in message


def test_a_forgotten_space_is_pointed_out(pocket: LanguageModel) -> None:
    word = next(
        text
        for i in range(pocket.config.vocab_size)
        if (text := pocket.tokenizer.token_text(i)).startswith(" ")
        and len(pocket.tokenizer.encode(text[1:])) > 1
    )
    with pytest.raises(InputError, match=r"with a space before it, .* it is one"):
        passes.one_token(pocket, word[1:])


def test_an_empty_target_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(InputError, match="target is empty"):
        passes.one_token(tiny, "")


def test_labels_show_spaces_and_bytes_of_unfinished_characters(tiny: LanguageModel) -> None:
    ids = tiny.tokenizer.encode(b" \xe5\n")
    assert "".join(passes.token_labels(tiny, ids)) == "·\\xe5↵"
    assert passes.token_labels(tiny, [ids[0], ids[0]], numbered=True) == ["0 ·", "1 ·"]


@pytest.mark.parametrize("wrong", [-1, 3, 10**9, True, 1.0])
def test_a_layer_that_is_not_there_is_told_with_the_range(tiny: LanguageModel, wrong: Any) -> None:
    with pytest.raises(InputError, match="is not there: the model has layers 0 to 2"):
        passes.check_layer(tiny, wrong)
    assert [passes.check_layer(tiny, i) for i in range(3)] == [0, 1, 2]


def test_a_head_or_position_that_is_not_there_is_told_with_the_range(tiny: LanguageModel) -> None:
    with pytest.raises(InputError, match="head 4 is not there: each layer has heads 0 to 3"):
        passes.check_head(tiny, 4)
    with pytest.raises(InputError, match="position -3 is not there: the text has positions 0 to 1"):
        passes.check_position([1, 2], -3)
    with pytest.raises(InputError, match="position 1 is not there: the text has position 0 only"):
        passes.check_position([1], 1)
    assert passes.check_position([1, 2], -1) == 1


def test_the_bos_of_a_tokenizer_is_looked_at_too(bos_model_dir: Path) -> None:
    model = LanguageModel(bos_model_dir, "fp32")
    theirs = AutoTokenizer.from_pretrained(bos_model_dir)
    assert passes.encode(model, TEXT[:50]) == theirs(TEXT[:50])["input_ids"]
    assert passes.encode(model, [5, 6]) == [5, 6]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_model_whose_numbers_grow_too_large_is_refused_without_warnings(
    tiny_model_dir: Path, tmp_path: Path, precision: Any
) -> None:
    directory = tmp_path / "huge"
    shutil.copytree(tiny_model_dir, directory)
    tensors = load_file(directory / "model.safetensors")
    for name in tensors:
        if "mlp" in name and name.endswith("weight"):
            tensors[name] *= np.float32(1e25)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    huge = LanguageModel(directory, precision)
    with pytest.raises(ModelFormatError, match="not numbers"):
        passes.run_with_cache(huge, [1, 2, 3], ["pattern"])
