"""The shapes are those of the published models: as many parameters as their cards say."""

from __future__ import annotations

from laplm.model.shapes import SHAPES

# From the models' cards and their safetensors files on Hugging Face.
PARAMETERS = {
    "smollm2": 134_515_008, "smollm2-360m": 361_821_120, "smollm2-1.7b": 1_711_376_384,
    "llama3.2-1b": 1_235_814_400, "llama3.2-3b": 3_212_749_824, "qwen2.5-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952, "pythia-160m": 162_322_944,
}  # fmt: skip


def test_shapes_have_as_many_parameters_as_the_models() -> None:
    counts = {name: config.n_parameters for name, config in SHAPES.items()}
    assert counts | PARAMETERS == counts


def test_gemma_looks_back_at_512_positions_in_five_layers_of_six() -> None:
    window = SHAPES["gemma3-270m"].window
    assert [i for i, size in enumerate(window) if size is None] == [5, 11, 17]
    assert set(window) == {512, None}
