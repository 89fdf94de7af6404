"""Views of models that are no GPT-2: they work, or say in one line what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_tokenizer_json
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from laplm import look
from laplm.look.path_patching import Node, PathPatching
from laplm.model.families.ops import softmax
from laplm.run.language_model import LanguageModel

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 4,
                    "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neox": {"rotary_pct": 0.5},
    "phi3": {"num_key_value_heads": 2},
}  # fmt: skip
TEXT, OTHER = "The capital of Spain is", "The capital is Spain is"
# One of each view, as it is typed; those that need a table of positions, or no norm in between.
COMMANDS: dict[str, tuple[str, ...]] = {
    "stats": ("stats",), "tokens": ("tokens", TEXT), "embeddings": ("embeddings", "is"),
    "block": ("block", TEXT), "stream": ("block", TEXT, "--all"), "patch": ("patch", TEXT, OTHER),
    "attention": ("attention", TEXT), "kinds": ("attention", "--kinds"), "next": ("next", TEXT),
    "lens": ("lens", TEXT), "trace": ("trace", TEXT), "ablate": ("ablate", TEXT),
    "generation": ("generation", TEXT, "-n", "4"), "attribution": ("attribution", TEXT),
    "inside": ("inside", TEXT), "positions": ("positions",), "why": ("why", TEXT, "-k", "3"),
    "circuit": ("circuit", TEXT, "--corrupted", OTHER), "means": ("circuit", TEXT),
}  # fmt: skip
REFUSED = {"positions": "rotary positions"}
PARALLEL = ("block", "stream", "ablate", "patch")  # go from attention to the feed-forward


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / request.param
    path.mkdir()
    make_tokenizer_json(path)
    n = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(0)
    values = (
        SIZES
        | FAMILIES[request.param]
        | {"vocab_size": n, "eos_token_id": n - 1, "pad_token_id": n - 1, "bos_token_id": n - 1}
    )
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_view_works_or_says_what_it_needs(
    name: str, directory: Path, laplm_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = laplm_("look", *COMMANDS[name], "-m", directory)
    cause = REFUSED.get(name)
    if name in ("attribution", "why") and directory.name == "gemma3_text":
        cause = "norms after attention"
    if name in PARALLEL and directory.name == "gpt_neox":
        cause = "read the same input"
    if cause:
        assert result.code == 2 and cause in result.err
        assert len(result.err.strip().splitlines()) == 1
    else:
        assert result.code == 0, result.err
        assert result.out


def test_attributed_parts_sum_to_the_logit_difference(directory: Path) -> None:
    if directory.name == "gemma3_text":
        pytest.skip("it has norms after its sublayers, and is refused")
    model = LanguageModel(str(directory), "fp32")
    found = look.logit_attribution(model, TEXT)
    parts = found.embed + found.heads.sum() + found.feed_forward.sum()
    parts += found.attention_bias.sum() + found.norm_shift
    assert parts == pytest.approx(found.total, abs=1e-3)
    assert abs(found.rounding) < 1e-3 and found.pos_embed == 0


def test_all_edges_together_are_the_model(directory: Path) -> None:
    model = LanguageModel(str(directory), "fp32")
    ids, other = (model.tokenizer.encode(text) for text in (TEXT, OTHER))
    patching = PathPatching(model, ids, other)
    every = [edge for sender in range(1, patching.n_senders + 1) for position in range(len(ids))
             if sender < patching.n_senders or position == len(ids) - 1
             for edge in patching.edges_into(Node(sender, position))]  # fmt: skip
    logits = patching.run(every)
    np.testing.assert_allclose(logits, model.gpt.forward(ids)[-1], atol=2e-3)
    nothing = patching.run([])
    np.testing.assert_allclose(nothing, model.gpt.forward(other)[-1], atol=2e-3)
    assert np.abs(logits - nothing).max() > 0.1
    assert patching.grouped == (directory.name == "gemma3_text")


def test_operations_count_the_matrices_that_there_are(directory: Path) -> None:
    model = LanguageModel(str(directory), "fp32")
    stats = look.stats(model)
    linear = sum(row.first for row in stats.operations if "scores" not in row.part)
    config = model.config
    assert linear == 2 * (config.n_multiplied + config.n_embd * config.vocab_size)
    assert sum(size.parameters for size in stats.sizes) == config.n_parameters


def test_an_open_head_compares_the_queries_and_keys_that_are_scored(directory: Path) -> None:
    model = LanguageModel(str(directory), "fp32")
    config, head = model.config, model.config.n_head - 1
    block = look.inside(model, TEXT, layer=1, head=head).block
    assert block is not None and block.opened is not None
    found, seen = block.opened, np.array([s is not None for s in block.opened.scores])
    assert found.key_head == config.n_kv_head - 1
    # A window of 4 masks the first ones where the model has one.
    window = config.layer_window(1)
    assert sum(seen) == min(len(seen), window or len(seen)) and seen[-1]
    want = found.keys @ found.query * found.scale
    got = [score for score in found.scores if score is not None]
    np.testing.assert_allclose(got, want[seen], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.pattern[seen], softmax(want[seen]), rtol=1e-4, atol=1e-6)
    assert not found.pattern[~seen].any()
