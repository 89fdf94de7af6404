"""The plan of a model: its parameters are all in its stages, its sizes in the picture."""

from __future__ import annotations

from pathlib import Path

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
