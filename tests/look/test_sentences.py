"""The sentence that every view begins with: there is one, and its numbers are right.

Numbers are worked out in another way: by transformers, or from the files themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from any_view import TEMPLATE, TEXT, check_sentence, make_view
from conftest import make_model
from hf_activations import hf_activations
from torch.nn.functional import cosine_similarity

from laplm import look
from laplm.look import VIEWS, passes
from laplm.look.registry import ViewEntry
from laplm.look.target import likeliest
from laplm.look.views.continuations import continuations
from laplm.metrics import METRICS
from laplm.run.language_model import LanguageModel

HEAD = (4, 6)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """One layer of one head, with a chat template."""
    path = tmp_path_factory.mktemp("models") / "small"
    make_model(path, n_layer=1, n_head=1, n_positions=64)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return LanguageModel(path, "fp32")


@pytest.mark.parametrize("entry", VIEWS, ids=lambda entry: entry.name)
def test_every_view_begins_with_a_sentence_that_has_numbers(
    entry: ViewEntry, pocket: LanguageModel, small: LanguageModel
) -> None:
    # Of the two the small one alone is taken for one that talks.
    check_sentence(make_view(entry, small if entry.name == "chat" else pocket, TEXT))


@pytest.mark.parametrize("entry", VIEWS, ids=lambda entry: entry.name)
def test_a_model_of_one_layer_and_a_text_of_one_token_have_theirs(
    entry: ViewEntry, small: LanguageModel
) -> None:
    more: dict[str, Any] = {}
    if entry.name in ("patch", "patched"):
        more = {"clean": "a", "corrupted": "b"}
        if entry.name == "patched":  # which cannot be told from what follows
            more = {"clean": "ab", "corrupted": "ba", "positions": [0]}
    if entry.name == "kinds":
        more = {"length": 10}
    if entry.name == "circuit":  # the mean over one position is what is there
        more = {"how": "zero"}
    if entry.name in ("order", "steer"):
        more = {"text": "a b"}
    if entry.name == "nearest":
        more = {"expression": "a"}
    check_sentence(make_view(entry, small, "a", **more))


def test_of_several_distributions_the_likeliest_of_each_is_shown() -> None:
    flat, peaks = np.full(8, 0.1), np.zeros(8)
    flat[5], peaks[:4] = 0.2, 0.25
    assert likeliest(np.stack([peaks, flat]), 4).tolist() == [0, 1, 2, 5]
    assert likeliest(np.stack([peaks, flat]), 1).tolist() == [0, 5]
    assert likeliest(flat[None], 2).tolist() == [5, 0]


# --- the numbers of each ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf(pocket: LanguageModel, hf_pocket: Any) -> dict[tuple[str, int | None], np.ndarray]:
    return hf_activations(hf_pocket, passes.encode(pocket, TEXT))


def chances(hf_pocket: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        out: np.ndarray = torch.softmax(hf_pocket(torch.tensor([ids])).logits[0, -1], -1).numpy()
    return out


def silenced(hf_pocket: Any, ids: list[int], layer: int, head: int) -> np.ndarray:
    """What follows with a head's output at 0."""
    size = hf_pocket.config.n_embd // hf_pocket.config.n_head

    def hook(module: Any, x: Any) -> Any:
        z = x[0].clone()
        z[..., head * size : (head + 1) * size] = 0
        return (z,)

    handle = hf_pocket.transformer.h[layer].attn.c_proj.register_forward_pre_hook(hook)
    try:
        return chances(hf_pocket, ids)
    finally:
        handle.remove()


def test_sizes(pocket: LanguageModel, hf_pocket: Any) -> None:
    count = {name: p.numel() for name, p in hf_pocket.named_parameters()}
    total = sum(count.values())
    shares = [
        sum(n for name, n in count.items() if any(part in name for part in parts)) / total
        for parts in ((".mlp.", ".ln_2."), (".attn.", ".ln_1."))
    ]
    said = look.stats(pocket).sentence()
    assert said.startswith(
        f"pocket has {total:,} parameters, {shares[0]:.1%} of them in feed-forwards and "
        f"{shares[1]:.1%} in attention; in int8 its weights take "
    )
    said = look.architecture(pocket).sentence()
    assert said == (
        "Each token becomes 256 numbers, passes 6 blocks of 8 heads and a feed-forward 1,024 "
        "wide, and comes out as 5,120 logits; of the "
        f"{total:,} parameters the feed-forward has most, {shares[0]:.1%}."
    )


def test_models_by_year(pocket: LanguageModel, hf_pocket: Any) -> None:
    ours = sum(p.numel() for p in hf_pocket.parameters())
    said = look.model_scale(pocket).sentence()
    assert "GPT-1 (2018), the nearest" in said and f"{117_000_000 / ours:,.0f} times" in said
    largest = max((m for m in look.model_scale(pocket).models if not m.estimate),
                  key=lambda m: m.parameters)  # fmt: skip
    assert said.endswith(f"published, {largest.parameters / ours:,.0f} times.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The", "The text is 1 token for 3 bytes."),
        ("aa", None),
        ("The dog", "The text is 2 tokens for 7 bytes, 3.5 bytes each on average; the longest, "
                    "“·dog”, has 4."),
        ("The dog cat", "The text is 3 tokens for 11 bytes, 3.7 bytes each on average; the 2 "
                        "longest, such as “·dog”, have 4."),
    ],
)  # fmt: skip
def test_tokens(pocket: LanguageModel, text: str, said: str | None) -> None:
    got = look.tokens(pocket, text).sentence()
    if said is None:
        assert re.fullmatch(r"The text is (1 token for 2 bytes|2 tokens for 2 bytes: each has 1)\.",
                            got)  # fmt: skip
    else:
        assert got == said


def test_words_that_are_nearest(pocket: LanguageModel, hf_pocket: Any) -> None:
    words = ["mother", "father", "dog", "king", "queen"]
    rows = hf_pocket.transformer.wte.weight.detach()
    vectors = [rows[pocket.tokenizer.encode(f" {word}")].mean(0) for word in words]
    best = max(
        (float(cosine_similarity(vectors[i], vectors[j], 0)), words[i], words[j])
        for i in range(5)
        for j in range(i)
    )
    said = look.embeddings(pocket, words).sentence()
    assert f"“{best[2]}” and “{best[1]}” are nearest to each other" in said
    assert f"a cosine of {best[0]:.2f}; the picture holds " in said
    (token,) = pocket.tokenizer.encode(" king")
    cosines = cosine_similarity(rows, rows[token][None])
    for i in range(len(cosines)):  # its own words, in any spelling
        if pocket.tokenizer.token_text(i).strip().casefold() == "king":
            cosines[i] = -1
    value, at = cosines.max(0)
    label = passes.token_labels(pocket, [int(at)])[0]
    said = look.nearest_tokens(pocket, "king").sentence()
    assert said.startswith(f"“{label}” is nearest to king, with a cosine of {value:.2f}, before ")


def test_positions_near_and_far(pocket: LanguageModel, hf_pocket: Any) -> None:
    wpe = hf_pocket.transformer.wpe.weight.detach()
    near, far = (float(cosine_similarity(wpe[d:], wpe[:-d]).mean()) for d in (1, 64))
    said = look.positions(pocket).sentence()
    assert said.startswith(
        f"Neighbouring positions have a cosine of {near:.2f}, those 64 apart {far:.2f}"
    )
    variance = torch.linalg.svdvals((wpe - wpe.mean(0)).double()) ** 2
    assert f"{variance[:6].sum() / variance.sum():.1%} of what tells them apart" in said


def test_words_in_another_order(pocket: LanguageModel, hf_pocket: Any) -> None:
    texts = ("the cat chased the mouse. The", "the mouse chased the cat. The")
    p, q = (chances(hf_pocket, passes.encode(pocket, text)) for text in texts)
    said = look.word_order(pocket).sentence()
    first, second = (passes.token_labels(pocket, [int(x.argmax())])[0] for x in (p, q))
    assert f"After “{texts[0]}” comes “{first}” with {p.max():.1%}" in said
    assert f"“{second}” with {q.max():.1%}" in said
    assert f"probability {np.abs(p - q).sum() / 2:.1%} lies elsewhere" in said


def test_a_block_and_all_of_them(pocket: LanguageModel, hf: Any) -> None:
    found = look.block(pocket, TEXT, layer=2)
    attention, feed_forward, stream, end = (
        np.linalg.norm(hf[name, 2][-1]) for name in ("attn_out", "mlp_out", "resid_pre",
                                                     "resid_post")
    )  # fmt: skip
    neuron = int(hf["mlp_post", 2][-1].argmax())
    said = found.sentence()
    assert f"a vector {attention:.2f} long and the feed-forward one of {feed_forward:.2f}" in said
    assert f"to a stream of {stream:.2f}, which leaves with {end:.2f}" in said
    assert f"{(hf['mlp_post', 2][-1] > 0).mean():.1%} of the neurons are on" in said
    assert f"the most {neuron} with {hf['mlp_post', 2][-1, neuron]:+.2f}" in said
    assert f"promotes “{found.neurons[0].promotes[0]}”" in said
    assert "the most" not in look.block(pocket, TEXT, neurons=0).sentence()
    assert "promotes" not in look.block(pocket, TEXT, words=0).sentence()

    def lengths(name: str) -> list[float]:
        return [float(np.median(np.linalg.norm(hf[name, i], axis=-1))) for i in range(6)]

    said = look.residual_stream(pocket, TEXT).sentence()
    assert f"grows from {lengths('resid_pre')[0]:.2f} to {lengths('resid_post')[5]:.2f}" in said
    for name in ("attn_out", "mlp_out"):
        most = int(np.argmax(lengths(name)))
        assert f"in layer {most}, {lengths(name)[most]:.2f}" in said


def test_kinds_of_heads(pocket: LanguageModel, hf_pocket: Any) -> None:
    ids = look.views.attention.repeated_tokens(pocket)  # type: ignore[attr-defined]
    with torch.no_grad():
        maps = hf_pocket(torch.tensor([ids]), output_attentions=True).attentions
    first = len(ids) % 25

    def share(where: Callable[[int], list[int]]) -> np.ndarray:
        rows = [(t, where(t)) for t in range(len(ids)) if where(t)]
        return np.array([
            [float(np.mean([float(head[t, at].sum()) for t, at in rows])) for head in layer[0]]
            for layer in maps
        ])  # fmt: skip

    before = share(lambda t: [t - 1] if t else [])
    same = share(lambda t: list(range(t - 25, first - 1, -25)))
    after = share(lambda t: list(range(t - 24, first, -25)))
    rest = share(lambda t: [0] if t else [])
    places = [np.unravel_index(x.argmax(), x.shape) for x in (before, same, after)]
    names = [f"{layer}.{head}" for layer, head in places]
    assert look.head_kinds(pocket).sentence() == (
        f"On random tokens that come 4 times head {names[0]} gives {before.max():.0%} of its "
        f"attention to the token before, the most of all, head {names[1]} {same.max():.0%} to the "
        f"same token earlier and head {names[2]} {after.max():.0%} to what followed that "
        f"(induction); {(rest > 0.5).sum()} of 48 heads give more than half to the first token."
    )


def test_a_pass_with_a_part_switched_off(pocket: LanguageModel, hf_pocket: Any) -> None:
    ids = passes.encode(pocket, TEXT)
    (madrid,) = pocket.tokenizer.encode(" Madrid")
    whole, without = chances(hf_pocket, ids)[madrid], silenced(hf_pocket, ids, *HEAD)[madrid]
    said = look.inside(pocket, TEXT, without=["head:4.6"], temperature=2.0).sentence()
    assert said.startswith(f"After “·is” comes “·Madrid” with {without:.1%}, ")
    assert said.endswith(
        f"; without head:4.6 “·Madrid” falls from {100 * whole:.1f} to {without:.1%}."
    )
    assert look.inside(pocket, TEXT).sentence() == (
        f"After “·is” comes “·Madrid” with {whole:.1%}."
    )
    written = look.ablated_generation(pocket, TEXT, without=["head:4.6"], max_new_tokens=1)
    assert written.sentence() == (
        f"Changed: without head:4.6; as the next token “·Madrid” falls from {100 * whole:.1f} to "
        f"{without:.1%}, and “·Madrid” stays the likeliest."
    )
    alone = continuations(pocket, TEXT, {"as it is": None}, max_new_tokens=1).sentence()
    assert alone == f"“·Madrid” is likeliest next, with {whole:.1%} (as it is)."


def test_a_patch_that_changes_the_answer(pocket: LanguageModel, hf_pocket: Any) -> None:
    clean, ids = (
        passes.encode(pocket, text) for text in (TEXT, "The capital of France is")
    )  # fmt: skip
    (paris,), (madrid,) = (pocket.tokenizer.encode(f" {word}") for word in ("Paris", "Madrid"))
    paths = look.patched_generation(
        pocket, TEXT, "The capital of France is", layer=0, positions=[3], max_new_tokens=1
    )
    # Before the first layer the patched prompt is the clean one.
    before, after = chances(hf_pocket, ids), chances(hf_pocket, clean)
    assert int(after.argmax()) == madrid and before[paris] > 0.99
    assert paths.sentence() == (
        f"Changed: resid_pre of layer 0 at 3; as the next token “·Paris” falls from "
        f"{100 * before[paris]:.1f} to less than 0.1%, and “·Madrid” is likeliest, no longer "
        "“·Paris”."
    )


def test_steering(pocket: LanguageModel, hf_pocket: Any) -> None:
    ends = [
        hf_activations(hf_pocket, passes.encode(pocket, text))["resid_pre", 3][-1]
        for text in (" happy", " sad")
    ]
    ids = passes.encode(pocket, "The girl was")

    def under(coefficient: float) -> np.ndarray:
        added = torch.tensor(coefficient * (ends[0] - ends[1]))
        handle = hf_pocket.transformer.h[3].register_forward_pre_hook(
            lambda _, x: (x[0] + added, *x[1:])
        )
        try:
            return chances(hf_pocket, ids)
        finally:
            handle.remove()

    low, high = under(-4), under(4)
    names = passes.token_labels(pocket, [int(low.argmax()), int(high.argmax())])
    said = look.steer(
        pocket, "The girl was", " happy", " sad", coefficients=(4, -4, 0), max_new_tokens=1
    ).sentence()
    most = int(np.abs(high - low).argmax())
    label = passes.token_labels(pocket, [most])[0]
    assert said.startswith(f"From -4 to +4 of the direction before layer 3 “{label}” rises ")
    assert f"from {100 * low[most]:.1f} to {high[most]:.1%} as the next token" in said
    assert said.endswith(f"“{names[0]}” is likeliest at -4, “{names[1]}” at +4.")
    one = look.steer(
        pocket, "The girl was", " happy", " sad", coefficients=(4,), max_new_tokens=1
    ).sentence()
    assert one.endswith(f"“{names[1]}” is likeliest next, with {high.max():.1%}.")


def test_the_largest_number_of_a_trace(pocket: LanguageModel, hf: Any) -> None:
    finite = {key: np.where(np.isfinite(x), x, 0) for key, x in hf.items()}
    (name, layer), array = max(finite.items(), key=lambda item: np.abs(item[1]).max())
    value = array.flat[np.abs(array).argmax()]
    said = look.trace(pocket, TEXT).sentence()
    assert said.endswith(f"the number farthest from 0 is {value:+.2f}, in {name} of layer {layer}.")
    least = np.argmin([hf["mlp_pre", i].min() for i in range(6)])
    said = look.trace(pocket, TEXT, names=["mlp_pre"]).sentence()
    greatest = max(abs(hf["mlp_pre", i]).max() for i in range(6))
    assert f"{greatest:,.2f}" in said or f"{hf['mlp_pre', least].min():.2f}" in said


def test_two_models(
    pocket: LanguageModel, tiny_model_dir: Path, tmp_path: Path, hf_pocket: Any
) -> None:
    tiny = LanguageModel(tiny_model_dir, "fp32")
    other = LanguageModel(make_model(tmp_path / "other", seed=1), "fp32")
    ids = torch.tensor([passes.encode(tiny, TEXT)])
    rows, maps = [], []
    for model in (tiny, other):
        from transformers import GPT2LMHeadModel

        theirs = GPT2LMHeadModel.from_pretrained(model.path, attn_implementation="eager").eval()
        with torch.no_grad():
            out = theirs(ids, output_attentions=True)
        rows.append(torch.log_softmax(out.logits[0, -1].double(), -1))
        maps.append(torch.stack(out.attentions)[:, 0].double())
    bits = float((rows[1].exp() * (rows[1] - rows[0])).sum() / np.log(2))
    moved = (maps[0] - maps[1]).abs().sum(-1).mean(-1) / 2
    layer, head = divmod(int(moved.argmax()), moved.shape[1])
    says = [
        f"“{passes.token_labels(tiny, [int(row.argmax())])[0]}”, with {row.max().exp():.1%}"
        for row in rows
    ]
    assert look.compare(tiny, other, TEXT).sentence() == (
        f"tiny says {says[0].replace('”,', '” next,')}, other {says[1]}; they diverge by "
        f"{bits:.4f} bits; head {layer}.{head} moved {moved.max():.1%} of its attention, the most."
    )
    same = look.compare(pocket, pocket, TEXT).sentence()
    chance = f"{chances(hf_pocket, passes.encode(pocket, TEXT)).max():.1%}"
    assert same == (
        f"Both say “·Madrid” next, pocket (first) with {chance} and pocket (second) with {chance}; "
        "they diverge by 0.0000 bits; no head looks elsewhere."
    )
    # Other tokens: neither can be said.
    assert re.fullmatch(r"pocket says .+ next, with [\d.]+%, tiny .+, with [\d.]+%\.",
                        look.compare(pocket, tiny, TEXT).sentence())  # fmt: skip


def test_a_continuation(pocket: LanguageModel, hf_pocket: Any) -> None:
    found = look.generation(
        pocket, TEXT, max_new_tokens=12, seed=3, temperature=1.5, ignore_eos=True
    )
    prompt, own = passes.encode(pocket, TEXT), []
    for i in range(len(found.ids)):
        own.append(chances(hf_pocket, [*prompt, *found.ids[:i].tolist()]).astype(np.float64))
    p = [row[i] for row, i in zip(own, found.ids, strict=True)]
    ranks = [int((row > row[i]).sum()) + 1 for row, i in zip(own, found.ids, strict=True)]
    bits = np.mean([-(row * np.log2(row)).sum() for row in own])
    least = int(np.argmin(p))
    said = found.sentence()
    assert said.startswith(f"{ranks.count(1)} of {len(p)} tokens w")
    assert f"the least likely is “{found.labels[least]}” with " in said
    assert f"in place {ranks[least]:,}; the entropy is {bits:.2f} bits" in said
    one = look.generation(pocket, TEXT, max_new_tokens=1, temperature=0.0).sentence()
    assert re.fullmatch(r"1 token was drawn: “·Madrid” with 98\.9%, the likeliest\.", one)


def test_training_runs(tmp_path: Path) -> None:
    def run(name: str, *lines: dict[str, float]) -> Path:
        path = tmp_path / name / METRICS
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / name

    a = run("a", {"step": 1, "train_loss": 4.0}, {"step": 1, "heldout_loss": 3.5},
            {"step": 9, "train_loss": 2.0}, {"step": 9, "heldout_loss": 2.25})  # fmt: skip
    b = run("b", {"step": 1, "train_loss": 5.0}, {"step": 2, "train_loss": 1.5})
    assert look.learning({"one": a, "two": b}).sentence() == (
        "Of 2 runs “one” comes to the lowest loss on held-out text, 2.250 at step 9; it began "
        "with 3.500."
    )
    assert look.learning({"two": b}).sentence() == (
        "“two” ends with the lowest training loss, 1.500 after 2 steps, from 5.000; no held-out "
        "text was measured."
    )
