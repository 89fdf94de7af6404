"""Counts against torch's own: parameters of transformers' models, operations that torch counts."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from laplm.look import figures
from laplm.look.views.stats import Stats, model_scale, stats
from laplm.model.config import NAMED_SIZES
from laplm.model.engine.prepared import packed_bytes, prepared
from laplm.run.bench import GeneratedCheckpoint
from laplm.run.language_model import LanguageModel


class Shape:
    """A model of a named shape, without weights."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.checkpoint = GeneratedCheckpoint(name)
        self.config = self.checkpoint.config


def of_shape(name: str) -> Stats:
    return stats(Shape(name))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMED_SIZES)
def test_parameters_are_those_of_transformers_model(name: str) -> None:
    c = NAMED_SIZES[name]
    with torch.device("meta"):
        hf = GPT2LMHeadModel(GPT2Config(n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head))
    view = of_shape(name)
    assert view.n_parameters == sum(p.numel() for p in hf.parameters())
    assert sum(size.parameters for size in view.sizes) == view.n_parameters


def test_gpt2_small_has_its_well_known_size() -> None:
    view = of_shape("gpt2")
    assert view.n_parameters == 124_439_808
    by_part = {size.tensor: size for size in view.sizes}
    assert by_part["wte"].parameters == 38_597_376
    assert by_part["attn.c_attn"].shape == (768, 2304)
    assert by_part["ln_1"].count == 12
    assert "lm_head" not in by_part
    assert {row.precision: row.bare_bytes for row in view.memory} == {
        "fp32": 497_759_232, "16 bits": 248_879_616, "int8": 124_439_808, "int4": 62_219_904,
    }  # fmt: skip


def test_every_part_counts_the_tensors_of_that_name(pocket: LanguageModel, hf_pocket: Any) -> None:
    counted: Counter[str] = Counter()
    for name, tensor in hf_pocket.named_parameters():
        counted[re.sub(r"^transformer\.(h\.\d+\.)?|\.(weight|bias)$", "", name)] += tensor.numel()
    assert {size.tensor: size.parameters for size in stats(pocket).sizes} == counted


def test_a_separate_output_matrix_is_a_part_of_its_own(tmp_path: Path) -> None:
    path = make_model(tmp_path / "untied", tie_word_embeddings=False)
    view = stats(LanguageModel(path))
    last = view.sizes[-1]
    assert (last.tensor, last.count) == ("lm_head", 1)
    assert last.parameters == view.config.vocab_size * view.config.n_embd
    assert view.n_parameters == sum(size.parameters for size in view.sizes)


@pytest.mark.parametrize("position", [1, 7, 64])
def test_operations_are_those_that_torch_counts(hf_pocket: Any, position: int) -> None:
    """One more token after ``position - 1`` others, as torch counts what it multiplies."""
    hf = GPT2LMHeadModel(hf_pocket.config).eval()
    hf.set_attn_implementation("eager")
    past = DynamicCache(config=hf.config)
    counter = FlopCounterMode(display=False)
    with torch.no_grad():
        if position > 1:
            hf(torch.zeros(1, position - 1, dtype=torch.long), past_key_values=past)
        with counter:
            hf(torch.zeros(1, 1, dtype=torch.long), past_key_values=past)

    pocket = LanguageModel("pocket")
    first = stats(pocket).flops[0]
    pocket.checkpoint.config = dataclasses.replace(pocket.config, n_ctx=position)
    assert stats(pocket).flops == (first, counter.get_total_flops())


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_memory_is_what_the_engine_holds(pocket: LanguageModel, precision: Any) -> None:
    row = next(row for row in stats(pocket).memory if row.precision == precision)
    packed = prepared(pocket.checkpoint, precision)
    assert row.packed_bytes == sum(array.nbytes for array in packed.values())
    assert row.packed_bytes == packed_bytes(pocket.checkpoint, precision)
    engine = LanguageModel("pocket", precision).gpt
    assert row.kv_cache_bytes == engine.new_cache().bytes_per_position


def test_the_scale_of_models_names_a_source_for_every_figure(pocket: LanguageModel) -> None:
    view = model_scale(pocket)
    assert view.n_parameters == pocket.config.n_parameters
    years = [m.year for m in view.models]
    assert years == sorted(years) and years[0] <= 2018 and years[-1] >= 2024
    assert len({m.name for m in view.models}) == len(view.models) >= 15
    for m in view.models:
        assert len(m.source) > 15, m.name
        assert m.kind in ("dense", "mixture of experts")
        assert m.active is None or (m.active < m.parameters and m.kind != "dense")
        for number in re.findall(r"arXiv:(\d\d)\d\d\.\d{5}", m.source):
            assert m.year == 2000 + int(number) or m.estimate
    sizes = {m.name: m.parameters for m in view.models}
    assert sizes["GPT-2 XL"] == NAMED_SIZES["gpt2-xl"].n_parameters
    assert (sizes["GPT-3"], sizes["Llama 3.1 405B"]) == (175_000_000_000, 405_000_000_000)


def test_the_points_of_the_talk_are_there_and_the_years_go_on_to_this_one(
    pocket: LanguageModel,
) -> None:
    sizes = {m.name: (m.year, m.parameters, m.estimate) for m in model_scale(pocket).models}
    assert sizes["GPT-2 small"] == (2019, NAMED_SIZES["gpt2"].n_parameters, False)
    assert sizes["GPT-3"] == (2020, 175_000_000_000, False)
    assert sizes["Llama 3 8B"] == (2024, 8_030_261_248, False)
    assert {name: size[0] for name, size in sizes.items() if size[2]} == {
        "GPT-4": 2023, "Claude 3.5 Sonnet": 2024, "GPT-5.2": 2026,
    }  # fmt: skip
    for name, least, most in (
        ("GPT-4", 1e12, 2e12), ("Claude 3.5 Sonnet", 1.7e11, 1.9e11), ("GPT-5.2", 2e12, 2e12),
    ):  # fmt: skip
        assert least <= sizes[name][1] <= most


def test_estimates_are_marked_wherever_they_are_shown(pocket: LanguageModel) -> None:
    view = model_scale(pocket)
    guesses = [m for m in view.models if m.estimate]
    assert guesses and all("never published" in m.source for m in guesses)
    rows = {r[0]: r[4] for r in view.parts()[0].rows}  # type: ignore[union-attr]
    assert {name for name, kind in rows.items() if "ESTIMATE" in kind} == {m.name for m in guesses}
    figure = view.plot()
    assert {"GPT-4 ≈ 1.8T", "GPT-5.2 ≈ 2T", "estimate by others"} <= texts(figure)
    hollow = [p for p in figure.axes[0].collections if not len(p.get_facecolor())]
    assert sorted(p.get_offsets()[0, 1] for p in hollow) == sorted(m.parameters for m in guesses)


@pytest.mark.parametrize(
    ("name", "parameters", "magnified"),
    [
        ("pocket", 6_180_864, 1.0),
        ("pocket", 6_180_864, 1.6),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", 134_515_008, 1.6),
        ("m", 70_000_000_000, 1.6),
    ],
)
def test_every_point_of_the_scale_is_named_and_nothing_collides(
    name: str, parameters: int, magnified: float, pocket: LanguageModel
) -> None:
    view = dataclasses.replace(model_scale(pocket), model=name, n_parameters=parameters)
    figures.magnify(magnified)
    try:
        figure = view.plot()
    finally:
        figures.magnify(1)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    subtitle = next(text for text in boxes if text.startswith("hollow"))
    frame = axes.get_window_extent()
    assert boxes.pop(subtitle).y0 >= frame.y1
    assert len(boxes) == len(view.models) + 1  # and the line's
    for a, b in itertools.combinations(boxes, 2):
        assert not boxes[a].overlaps(boxes[b]), (a, b)
    height = axes.transData.transform((2020, parameters))[1]
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    for text, box in boxes.items():
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1, text
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1, text
        if box.y0 < height < box.y1:  # it interrupts the line, which must be beneath it
            (drawn,) = [t for t in axes.texts if t.get_text() == text]
            assert drawn.get_bbox_patch() and drawn.zorder > line.zorder, text
        for mark in axes.collections:
            x, y = axes.transData.transform(mark.get_offsets()[0])
            assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1), text
    star = [p for p in axes.collections if p.get_sizes()[0] > 100]
    assert [p.get_offsets()[0, 1] for p in star] == [NAMED_SIZES["gpt2"].n_parameters]


def test_pictures_show_every_part(pocket: LanguageModel) -> None:
    view = stats(pocket)
    shown = texts(view.plot())
    assert {size.name for size in view.sizes} <= shown
    assert {"1 billion", "1 trillion"} <= texts(model_scale(pocket).plot())


def texts(figure: Any) -> set[str]:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(Text)}
