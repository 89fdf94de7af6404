"""The plan of a model: its parameters are all in its stages, its sizes in the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_families import make_family

from laplm.look.views.architecture import architecture
from laplm.run.language_model import LanguageModel, load


def test_every_parameter_is_in_one_stage(pocket: LanguageModel, tiny_model_dir: Path) -> None:
    for model in (pocket, load(str(tiny_model_dir), "fp32")):
        view = architecture(model)
        assert sum(stage.parameters for stage in view.stages) == model.config.n_parameters
        assert view.stages[0].name == "tokenizer"
        assert view.stages[-1].shape == f"T × {model.config.vocab_size:,}"


def test_the_shapes_are_those_of_a_pass(pocket: LanguageModel) -> None:
    run = pocket.run_with_cache("The capital of Spain is", ["embed", "ln_final", "logits"])
    by_name = {stage.name: stage.shape for stage in architecture(pocket).stages}
    for name, activation in (
        ("token embedding", "embed"), ("final norm", "ln_final"), ("output layer", "logits"),
    ):  # fmt: skip
        assert by_name[name] == f"T × {run[activation].shape[-1]:,}"


@pytest.mark.parametrize(("family", "norms"), [("gpt_neox", 2), ("gemma3_text", 4)])
def test_the_picture_has_the_norms_and_the_branches_of_the_family(
    family: str, norms: int, tmp_path: Path
) -> None:
    make_family(family, tmp_path / family)
    view = architecture(load(str(tmp_path / family), "fp32"))
    (axes,) = view.plot().axes
    shown = [text.get_text() for text in axes.texts]
    assert sum(text.endswith(" norm") and text != "final norm" for text in shown) == norms
    # Beside the line that goes through there is one for the second branch, if both leave at once.
    angular = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(angular) == view.config.parallel_residual


def test_the_picture_names_the_sizes_of_the_model(pocket: LanguageModel) -> None:
    config = pocket.config
    (axes,) = architecture(pocket).plot().axes
    shown = {text.get_text() for text in axes.texts}
    assert {
        f"{config.n_layer} blocks", f"attention, {config.n_head} heads",
        f"feed-forward, {config.n_inner:,} wide", f"T × {config.n_embd:,}",
        f"T × {config.vocab_size:,} logits", "next token",
    } <= shown  # fmt: skip
    assert sum(text.get_text() == "+" for text in axes.texts) == 2  # added twice
