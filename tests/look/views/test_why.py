"""``look why``: the numbers of the single views in one story, and the sentence that tells it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laplm import look
from laplm.errors import InputError
from laplm.look import passes
from laplm.look.view import Maps, Table
from laplm.look.views.why import SwitchedOff, Why
from laplm.run.language_model import LanguageModel

TEXT = "The capital of Spain is"


@pytest.fixture(scope="module")
def spain(pocket: LanguageModel) -> Why:
    return look.why(pocket, TEXT)


@contextmanager
def switched_off(hf: Any, parts: list[SwitchedOff]) -> Iterator[None]:
    """A ``GPT2LMHeadModel`` whose heads and feed-forwards add nothing."""
    size = hf.config.n_embd // hf.config.n_head
    hooks = []
    for part in parts:
        block = hf.transformer.h[part.layer]
        if part.head is None:
            hooks.append(block.mlp.register_forward_hook(lambda module, x, out: out * 0))
            continue

        def silence(module: Any, x: Any, at: int = part.head * size) -> Any:
            z = x[0].clone()
            z[..., at : at + size] = 0
            return (z,)

        hooks.append(block.attn.c_proj.register_forward_pre_hook(silence))
    yield
    for hook in hooks:
        hook.remove()


def probability(hf: Any, lm: LanguageModel, target: str) -> float:
    ids = passes.encode(lm, TEXT)
    with torch.no_grad():
        logits = hf(torch.tensor([ids])).logits[0, -1]
    return float(torch.softmax(logits, -1)[passes.one_token(lm, target)])


def test_what_is_left_is_what_transformers_leaves(
    pocket: LanguageModel, hf_pocket: Any, spain: Why
) -> None:
    assert spain.probability == pytest.approx(probability(hf_pocket, pocket, " Madrid"), abs=1e-5)
    for i, part in enumerate(spain.strongest):
        for parts, want in (
            ([part], part.probability), (spain.strongest[: i + 1], part.together),
        ):  # fmt: skip
            with switched_off(hf_pocket, parts):
                got = probability(hf_pocket, pocket, " Madrid")
            assert got == pytest.approx(want, abs=1e-5), part.name


@pytest.mark.parametrize("target", [None, " Paris"])
@pytest.mark.parametrize("contrast", [None, " Rome"])
def test_numbers_are_those_of_the_single_views(
    pocket: LanguageModel, target: str | None, contrast: str | None
) -> None:
    found = look.why(pocket, TEXT, target=target, contrast=contrast, k=6)
    token = target or " Madrid"
    other = contrast or (" Spain" if target is None else " Madrid")
    lens = look.logit_lens(pocket, TEXT)
    np.testing.assert_array_equal(found.lens.top_ids[:, 0], lens.top_ids[:, -1])
    np.testing.assert_allclose(
        found.lens.top_probabilities[:, 0], lens.top_probabilities[:, -1], rtol=1e-5, atol=1e-6
    )
    if target is None:
        np.testing.assert_allclose(
            found.lens.answer_probabilities[:, 0],
            lens.answer_probabilities[:, -1],
            rtol=1e-5,
            atol=1e-6,
        )
        np.testing.assert_array_equal(found.lens.answer_ranks[:, 0], lens.answer_ranks[:, -1])
        assert found.leads_from == lens.settled[-1]
    else:
        assert found.leads_from is None
    for ours, view in (
        (found.attribution, look.logit_attribution(pocket, TEXT, target=token)),
        (
            found.contrast_attribution,
            look.logit_attribution(pocket, TEXT, target=token, contrast=other),
        ),
    ):
        np.testing.assert_allclose(ours.heads, view.heads, atol=1e-5)
        np.testing.assert_allclose(ours.feed_forward, view.feed_forward, atol=1e-5)
        assert ours.total == pytest.approx(view.total, abs=1e-5)
    pattern = look.attention(pocket, TEXT).pattern
    np.testing.assert_allclose(found.looks, pattern[:, :, -1], atol=1e-6)
    heads = look.ablate(pocket, TEXT, target=token)
    layers = look.ablate(pocket, TEXT, target=token, components="layers")
    for part in found.strongest:
        want = (
            layers.probabilities[part.layer, layers.names.index("feed-forward")]
            if part.head is None
            else heads.probabilities[part.layer, part.head]
        )
        assert part.probability == pytest.approx(float(want), abs=1e-5)


def test_parts_come_in_the_order_of_what_they_add(pocket: LanguageModel) -> None:
    for contrast in (None, " Rome"):
        found = look.why(pocket, TEXT, contrast=contrast, k=7)
        leading = found.contrast_attribution if contrast else found.attribution
        every = sorted([*leading.heads.ravel(), *leading.feed_forward], reverse=True)
        shown = [p.over if contrast else p.adds for p in found.strongest]
        np.testing.assert_allclose(shown, every[:7], atol=1e-6)


def test_a_head_is_among_the_parts_though_feed_forwards_add_more(pocket: LanguageModel) -> None:
    (only,) = look.why(pocket, TEXT, k=1).strongest
    assert only.name == "head 4.6"


def test_the_head_that_reads_the_country_is_found(spain: Why) -> None:
    lead = next(part for part in spain.strongest if part.head is not None)
    assert (lead.layer, lead.head) == (4, 6)
    (position, share), *_ = spain.looked_at(4, 6)
    assert spain.tokens[position] == "·Spain" and share > 0.9
    assert lead.probability < spain.probability


def test_the_sentence_says_the_numbers(spain: Why) -> None:
    lead = next(part for part in spain.strongest if part.head is not None)
    (_, share), *_ = spain.looked_at(lead.layer, lead.head)
    assert spain.sentence() == (
        f"“·Madrid” leads from layer {spain.lens.stages[spain.leads_from or 0]} (the last) on; "
        f"head 4.6, which looks at “·Spain” with {100 * share:.0f}%, adds most of the heads, "
        f"{lead.adds:+.1f} (feed-forward 5: {spain.strongest[0].adds:+.1f}); switched off, "
        f"“·Madrid” falls from {100 * spain.probability:.1f} to {100 * lead.probability:.1f}%, and "
        "without the 8 strongest parts together it has less than 0.1%."
    )


def test_the_sentence_says_which_of_several_same_words_it_means(pocket: LanguageModel) -> None:
    twice = look.why(pocket, "The king of Spain is old. The capital of Spain is", k=1)
    position, _ = twice.looked_at(4, 6)[0]
    assert twice.tokens.count("·Spain") == 2 and twice.tokens[position] == "·Spain"
    said = f"head 4.6, which looks at “·Spain” (position {position}) with"
    assert said in twice.sentence()


def test_the_sentence_follows_the_prompt_and_the_target(pocket: LanguageModel, spain: Why) -> None:
    dog = look.why(pocket, "The dog saw the cat. The dog saw the", k=3)
    assert dog.sentence().startswith("“·cat” leads from layer ")
    lead = max((p for p in dog.strongest if p.head is not None), key=lambda p: p.adds)
    assert f"{lead.name}, which looks at" in dog.sentence()
    assert "3 strongest parts" in dog.sentence()
    paris = look.why(pocket, TEXT, target=" Paris", k=2).sentence()
    assert re.match(r"“·Paris” comes in place \d+ with less than 0.1%, behind “·Madrid”", paris)
    rome = look.why(pocket, "The capital of Italy is", contrast=" Paris", k=2).sentence()
    assert "“·Rome” leads" in rome and "over “·Paris”" in rome and "“·Italy”" in rome


def test_one_token_and_one_layer_have_their_sentence(tmp_path: Path) -> None:
    from conftest import make_model

    model = LanguageModel(make_model(tmp_path / "one", n_layer=1), "fp32")
    found = look.why(model, "a", k=1)
    assert re.search(r"leads (after the only layer|from the embedding on); head 0\.\d, which looks "
                     r"at “a” with 100%, adds most, ", found.sentence())  # fmt: skip


def test_tables_hold_every_part_and_layers_that_agree_are_one_row(spain: Why) -> None:
    strongest, stages, every = spain.parts()
    assert isinstance(stages, Table) and isinstance(every, Table) and isinstance(strongest, Table)
    assert [row[0] for row in strongest.rows] == [part.name for part in spain.strongest]
    assert len(every.rows) == spain.attribution.heads.size + len(spain.attribution.feed_forward)
    adds = [abs(row[1]) for row in every.rows]
    assert adds == sorted(adds, reverse=True)
    shown = [row[1] for row in stages.rows]
    tops = [row[0] for row in spain.lens.top_tokens][::-1]
    assert shown == [t for i, t in enumerate(tops) if i == 0 or tops[i - 1] != t]


def test_the_picture_has_the_same_numbers(spain: Why) -> None:
    rising, adds, left = spain.plot().axes
    widths = [bar.get_width() for bar in rising.patches]
    np.testing.assert_allclose(widths, spain.lens.answer_probabilities[:, 0])
    np.testing.assert_allclose([bar.get_width() for bar in adds.patches],
                               [p.adds for p in spain.strongest])  # fmt: skip
    np.testing.assert_allclose([bar.get_width() for bar in left.patches],
                               [p.probability for p in spain.strongest]
                               + [p.together for p in spain.strongest])  # fmt: skip
    assert "head 4.6" in " ".join(spain.plot().get_suptitle().split())


def test_the_page_begins_with_the_sentence_and_has_the_picture_and_the_heads(spain: Why) -> None:
    page = spain.to_html()
    sentence = page.index(spain.sentence())
    assert sentence < page.index("<svg") < page.index('data-kind="maps"') < page.index("<table")
    (looks,) = [part for part in spain.page_parts() if isinstance(part, Maps)]
    np.testing.assert_array_equal(looks.values[:, :, 0], spain.looks)
    heads = [(p.layer, p.head) for p in spain.strongest if p.head is not None]
    assert list(looks.marked) == heads and heads[0] == (4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0, but it must be a whole number from 1 to 54"),
        ({"target": " xylophagous"}, "is not one token but"),
        ({"target": " Madrid", "contrast": " Madrid"}, "is compared with itself"),
    ],
)
def test_what_cannot_be_is_told(
    pocket: LanguageModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        look.why(pocket, TEXT, **options)
