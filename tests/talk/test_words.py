"""What slides say where models differ: true of every model that people have."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
from published import PUBLISHED

from laplm.model.config import NAMED_SIZES, ModelConfig
from laplm.model.families import FAMILIES, config_from_hf
from laplm.talk import words
from laplm.talk.formulas import markdown_html

MODELS = NAMED_SIZES | {name: config_from_hf(values) for name, (_, values) in PUBLISHED.items()}
SLIDES: dict[str, Callable[[ModelConfig], str]] = {
    "plan": words.plan,
    "hidden": lambda config: words.hidden(config, 5),
    "position_table": words.position_table,
    "before_blocks": words.before_blocks,
    "block": words.block,
    "norm": words.norm,
    "residual": lambda config: words.residual(config, 0.25),
    "attention": words.attention,
    "mask": words.mask,
    "all_heads": words.all_heads,
    "feed_forward": words.feed_forward,
    "activation_function": words.activation_function,
    "final_norm": words.final_norm,
    "output": words.output,
    "beside": words.beside,
}


def heading(text: str) -> str:
    return text.partition("\n")[0].removeprefix("## ")


def everything(config: ModelConfig) -> str:
    return "\n".join(slide(config) for slide in SLIDES.values())


def test_a_model_of_every_family_is_talked_about() -> None:
    assert {config.family for config in MODELS.values()} == FAMILIES.keys()


@pytest.mark.parametrize("name", MODELS)
def test_every_slide_has_a_heading_few_words_and_formulas_that_can_be_read(name: str) -> None:
    for slide in SLIDES.values():
        text = slide(MODELS[name])
        assert re.match(r"## \S", text) and text.count("## ") == 1
        assert len(re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)) < 480, text
        assert not re.search(r"None|nan|\w  \w", text)
        assert text.count("$$") % 2 == 0 and text.count("**") % 2 == 0
        html = markdown_html(text)
        assert html.count("<math") == len(re.findall(r"\$\$.*?\$\$", text, re.DOTALL))
        assert "$" not in html


def test_of_gpt2_nothing_is_said_to_differ_and_nothing_of_later_models_is_said() -> None:
    for name, config in NAMED_SIZES.items():
        assert words.differing(config) == [], name
        assert not re.search(
            r"(?i)rotary|RMS|swiglu|share|window;|rotate(s|d)\*\*", everything(config)
        )
    assert "Layer norm" in everything(words.GPT2) and r"\Phi(x)" in everything(words.GPT2)
    assert words.facts(words.GPT2)["heads"] == "12, 64 wide"


@pytest.mark.parametrize(
    ("name", "said", "differing"),
    [
        ("SmolLM2-135M", ["Rotary positions", "RMS norm", "SwiGLU", "3 key heads for 9"],
         {"positions", "the norm", "the feed-forward", "grouped heads", "fewer biases"}),
        ("Llama-2-7b", ["Rotary", "RMS", "a table of its own"], {"the output matrix"}),
        ("Mistral-7B-v0.1", ["4,096 tokens**, a sliding window"], {"a sliding window"}),
    ],
)  # fmt: skip
def test_what_differs_from_gpt2_is_said(name: str, said: list[str], differing: set[str]) -> None:
    text = everything(MODELS[name])
    for piece in said:
        assert piece in text
    assert differing <= {*words.differing(MODELS[name])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parallel_residual": True}, "read it **side by side**"),
        ({"qk_norm": True}, "**normalised** first"),
        ({"post_norms": True}, "between two norms"),
        ({"n_kv_head": 1}, "all query heads **share** one key head"),
        ({"n_kv_head": 4}, "3 query heads **share**"),
        ({"positions": "rope", "rotary_dim": 16}, "16 of the 64 numbers"),
        ({"positions": "rope", "rope_layers": (True, False) * 6}, "have no positions at all"),
        ({"window": (8, None) * 6}, "no further back than **8 tokens**"),
        ({"embed_scale": 768**0.5}, r"X = \sqrt{C} \cdot"),
        ({"attn_scale": 0.5}, r"0.5 \cdot Q K^\top"),
        ({"gated": True, "activation": "silu"}, "SwiGLU"),
        ({"gated": True}, "GeGLU"),
        ({"activation": "relu2"}, "ReLU²"),
        ({"activation": "mish"}, "Mish: the activation function"),
        ({"tied": False}, "a table of its own"),
        ({"norm": "rms"}, "mean square of 1"),
    ],
)  # fmt: skip
def test_each_setting_has_its_sentence(change: dict[str, object], said: str) -> None:
    if "embed_scale" in change:
        change = change | {"positions": "rope"}
    changed = dataclasses.replace(words.GPT2, **change)  # type: ignore[arg-type]
    assert said in everything(changed)
    assert said not in everything(words.GPT2)


def test_facts_are_the_same_things_of_every_model() -> None:
    for config in MODELS.values():
        assert words.facts(config).keys() == words.facts(words.GPT2).keys()
        assert all(words.facts(config).values())
        assert heading(words.beside(config)) == "GPT-2 beside it"
        assert words.beside(config).count("\n- **") == len(words.differing(config))
        assert len(words.two_columns(config)) <= 15  # as many as a slide holds


def test_a_model_that_cannot_be_tuned_is_said_to_be_so() -> None:
    refusal = "smol is a llama model, and laplm tune trains GPT-2's family alone so far; but"
    said = words.tuned_model("smol", refusal)
    assert said.startswith("smol is a llama model") and "built-in model" in said
    assert "built-in" not in words.tuned_model("pocket", "")
