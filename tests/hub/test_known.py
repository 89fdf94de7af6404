"""Models known by a short name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from laplm.errors import ModelNotFoundError
from laplm.hub.known import KNOWN
from laplm.hub.locate import ALIASES, HUB_ID, locate
from laplm.model.shapes import SHAPES


def test_names_are_those_that_are_timed_and_their_sizes_are_what_their_configs_make() -> None:
    assert set(SHAPES) <= set(KNOWN)
    sizes = {name: shape.n_parameters for name, shape in SHAPES.items()}
    assert {name: KNOWN[name].n_parameters for name in SHAPES} == sizes


def test_each_is_one_model_on_the_hub_under_one_name() -> None:
    for name, model in KNOWN.items():
        assert model.name == name and re.fullmatch(r"[a-z][a-z0-9.-]*", name)
        assert HUB_ID.fullmatch(model.hub_id) and "/" in model.hub_id
        assert re.fullmatch(r"[a-z][a-z0-9.-]+", model.licence)
        assert model.gated == (model.hub_id.split("/")[0] in ("meta-llama", "google"))
    assert len({model.hub_id for model in KNOWN.values()}) == len(KNOWN)
    assert ALIASES["smollm2"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    ("typed", "meant"), [("smolm2", "smollm2"), ("llama-3.2-1b", "llama3.2-1b")]
)
def test_close_names_are_suggested(typed: str, meant: str) -> None:
    with pytest.raises(ModelNotFoundError, match=rf"Did you mean.*\b{re.escape(meant)}\b"):
        locate(typed)


def test_a_name_like_none_is_answered_with_all_of_them() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        locate("zzz")
    assert str(caught.value).endswith(f"Names without an owner: pocket, {', '.join(KNOWN)}")
    with pytest.raises(ModelNotFoundError) as caught:
        locate("somebody/zzz")
    assert "Names" not in str(caught.value)


def test_the_page_about_pulling_lists_each_with_its_size_and_licence() -> None:
    page = Path(__file__).parents[2] / "docs" / "commands" / "pull.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert rows == [
        f"| `{model.name}` | {model.hub_id} | {model.n_parameters / 1e6:,.1f} M | "
        + model.licence
        + (r" \*" if model.gated else "")
        + " |"
        for model in KNOWN.values()
    ]
