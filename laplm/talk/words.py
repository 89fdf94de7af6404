"""What slides say where models differ: sentences and formulas made of a model's sizes and settings.

A family is never asked for by name: what its config says is what is said here. Everything is
Markdown, formulas in it LaTeX between dollar signs.
"""

from __future__ import annotations

import math

from laplm.look.views.block import ACTIVATIONS
from laplm.look.words import counted, ranges
from laplm.model.config import NAMED_SIZES, ModelConfig
from laplm.model.families import has

GPT2 = NAMED_SIZES["gpt2"]
"""GPT-2 small, the model of the talk that this one began with."""

_FORMULAS = {
    "GELU": r"\mathrm{GELU}(x) = x \cdot \Phi(x)",
    "SiLU": r"\mathrm{SiLU}(x) = \frac{x}{1 + e^{-x}}",
    "ReLU": r"\mathrm{ReLU}(x) = \max(0, x)",
    "ReLU²": r"\mathrm{ReLU}(x)^2 = \max(0, x)^2",
    "quick GELU": r"y = \frac{x}{1 + e^{-1.702\, x}}",
}
_GATED = {"SiLU": "SwiGLU", "GELU": "GeGLU", "ReLU": "ReGLU"}
"""Gated feed-forwards by their activation: Shazeer 2020, "GLU Variants Improve Transformer"."""


# --- what the parts are called ----------------------------------------------------------------


def activation_name(config: ModelConfig) -> str:
    """The activation function's name, such as "GELU"."""
    return ACTIVATIONS[config.activation]


def feed_forward_name(config: ModelConfig) -> str:
    """What the feed-forward's kind is called: "GELU", or "SwiGLU" where it has a gate."""
    name = activation_name(config)
    return _GATED.get(name, f"{name} with a gate") if config.gated else name


def norm_name(config: ModelConfig) -> str:
    """Layer norm, or RMS norm."""
    return "RMS norm" if config.norm == "rms" else "layer norm"


def _a(noun: str) -> str:
    return f"an {noun}" if noun.startswith("RMS") else f"a {noun}"


# --- the slides -------------------------------------------------------------------------------


def plan(config: ModelConfig) -> str:
    """The architecture in a paragraph."""
    added = (
        "To each row a second one is added, for its **position**."
        if config.positions == "learned"
        else "Where a token stands is told later, inside attention."
    )
    return f"""## The plan of the machine

Text becomes **tokens**. Each token becomes a row of {config.n_embd:,} numbers. {added}

{config.n_layer} **blocks** work on the rows, all built alike. A **linear layer** makes
{config.vocab_size:,}
**logits** of the last one, and softmax makes **probabilities** of those.
"""


def hidden(config: ModelConfig, n_tokens: int) -> str:
    """Hidden states: their shape."""
    return f"""## Hidden states have a shape

**(batch, sequence, hidden)** = (1, {n_tokens}, {config.n_embd:,}): one text, {n_tokens} tokens,
{config.n_embd:,} numbers for each. A text may have up to {config.n_ctx:,} tokens.
"""


def position_table(config: ModelConfig) -> str:
    """How the model knows what comes first: its table of positions, or rotation."""
    if config.positions == "learned":
        return f"""## A row for each position

A second table has a row for each of {config.n_ctx:,} positions, as long as a token's:
**{config.n_ctx:,} × {config.n_embd:,}**. It was learned, like everything else.

That is the **context window**: there is no row for position {config.n_ctx + 1:,}.
"""
    some = f"{config.rotary_dim} of the {config.head_dim} numbers"
    if config.rotary_dim == config.head_dim:
        some = f"the {config.head_dim} numbers"
    without = [i for i in range(config.n_layer) if not config.uses_rope(i)]
    none = f" Layers {ranges(without)} have no positions at all." if without else ""
    return f"""## Rotary positions

GPT-2 adds a learned row for each position. This model has **no such table**: it **turns** queries
and
keys. In pairs, {some} of a head turn, at each position a little farther, so that their product
tells
**how far apart** two tokens are.{none}

The context window is {config.n_ctx:,} tokens, and a position has {config.rotary_dim // 2} angles.
"""


def before_blocks(config: ModelConfig) -> str:
    """What happens before the blocks."""
    if config.positions == "learned":
        return r"""## What happens before the blocks

Look up the token's row, look up the position's row, add the two.

$$X = E_{\mathrm{token}} + P_{\mathrm{position}}$$
"""
    times = (
        r"\sqrt{C} \cdot "
        if math.isclose(config.embed_scale, config.n_embd**0.5, rel_tol=0.01)
        else ""
    )
    if not times and config.embed_scale != 1:
        times = rf"{config.embed_scale:g} \cdot "
    longer = " and makes it longer" if times else ""
    return rf"""## What happens before the blocks

GPT-2 adds a row for the position here. This model only looks up the token's row{longer}; the
positions
come as **angles**, by which queries and keys turn in every block.

$$X = {times}E_{{\mathrm{{token}}}}$$
"""


def residual_formula(config: ModelConfig) -> str:
    """What goes out of a block, in LaTeX."""
    norm = r"\mathrm{Norm}"
    attention, feed = (
        (
            rf"{norm}(\mathrm{{{name}}}({norm}("
            if config.post_norms
            else rf"\mathrm{{{name}}}({norm}("
        )
        for name in ("Attention", "FeedForward")
    )
    close = ")))" if config.post_norms else "))"
    if config.parallel_residual:
        return rf"$$X_{{new}} = X + {attention}X{close} + {feed}X{close}$$"
    first = rf"X_{{mid}} = X + {attention}X{close}"
    return rf"$${first} \qquad X_{{new}} = X_{{mid}} + {feed}X_{{mid}}{close}$$"


def block(config: ModelConfig) -> str:
    """The transformer block."""
    order = (
        "Twice something is **added** to it: once by attention, then once by the feed-forward layer"
    )
    if config.parallel_residual:
        order = (
            "Attention and the feed-forward layer read it **side by side**, where GPT-2 has them "
            "one after the other, and both **add** to it"
        )
    norms = f"each behind {_a(norm_name(config))}"
    if config.post_norms:
        norms = "each between two norms; GPT-2 has only the first"
    return f"""## The transformer block

What comes in goes straight through, and comes out in the **same shape**. {order}; {norms}.
"""


def norm(config: ModelConfig) -> str:
    """Layer norm or RMS norm, with its formula."""
    if config.norm == "layer":
        return rf"""## Layer norm

Each token **by itself**, across its {config.n_embd:,} numbers: to mean 0 and variance 1, then
times a
**gain** and plus a **shift** that were learned. It keeps the scale the same, however deep the
stack.

$$\mathrm{{LayerNorm}}(x) = \frac{{x - \mu}}{{\sqrt{{\sigma^2 + \varepsilon}}}} \cdot \gamma +
\beta$$
"""
    return rf"""## RMS norm

GPT-2 has a layer norm here, with a mean and a shift. This model has the simpler **RMS norm**:
each token
**by itself**, its {config.n_embd:,} numbers to a mean square of 1, then times a learned **gain**.

$$\mathrm{{RMSNorm}}(x) = \frac{{x}}{{\sqrt{{\frac{{1}}{{C}} \sum_i x_i^2 + \varepsilon}}}} \cdot
\gamma$$
"""


def residual(config: ModelConfig, update: float) -> str:
    """The residual stream.

    Args:
        config: the model's.
        update: the median update's length, as a share of the stream's.
    """
    twice = "both at once" if config.parallel_residual else "twice in each block"
    return rf"""## The residual stream

$$X_{{new}} = X + \Delta X$$

Nothing is overwritten. Attention and the feed-forward layer **add**, {twice}, and every layer
reads what
all before it have written. The median update is **{update:.0%}** as long as the stream.
"""


def attention(config: ModelConfig) -> str:
    """Attention in one formula."""
    scale = config.attention_scale(0)
    inside = r"\frac{Q K^\top}{\sqrt{d}}"
    why = f"With d = {config.head_dim}, the numbers of one head."
    if not math.isclose(scale, config.head_dim**-0.5, rel_tol=1e-3):
        inside, why = rf"{scale:.4g} \cdot Q K^\top", "The factor takes the place of GPT-2's 1/√d."
    turned = " Both are **turned** by their position first." if config.positions == "rope" else ""
    normed = " Queries and keys are **normalised** first, each by itself." if config.qk_norm else ""
    return rf"""## Attention in one formula

$$\mathrm{{Attention}}(Q, K, V) = \mathrm{{softmax}}\left({inside}\right) V$$

Each token asks with a **query**, offers a **key**, and hands over a **value**.
{why}{normed}{turned}
"""


def mask(config: ModelConfig) -> str:
    """The causal mask, and windows."""
    windows = {size for size in config.window if size is not None}
    seen = ""
    if windows:
        many = [i for i in range(config.n_layer) if config.layer_window(i) is not None]
        which = (
            "Every layer looks" if len(many) == config.n_layer else f"Layers {ranges(many)} look"
        )
        seen = f"\n\n{which} no further back than **{max(windows):,} tokens**, a sliding window"
        seen += "; GPT-2 has none."
    return f"""## The mask: nobody sees the future

Every query meets every key, but a token may look **back only**: what lies ahead is taken out
before the softmax, or training would be copying.{seen}
"""


def telling_head(name: str, token: str, answer: str, adds: float) -> str:
    """The head that does most for the answer.

    Args:
        name: of the head, such as "4.6".
        token: the last one, from which it looks.
        answer: the likeliest next token.
        adds: what it adds to its logit.
    """
    return f"""## The telling head

Head **{name}** does most for the answer, “{answer}”: it adds **{adds:+.1f}** to its logit. Where
does it look,
from “{token}”?
"""


def all_heads(config: ModelConfig) -> str:
    """All heads of a layer, and how they come together."""
    wide = config.n_head * config.head_dim
    size = f"**{config.n_head} heads × {config.head_dim} = {wide:,}**"
    shared = ""
    if config.n_head_per_kv_head > 1:
        sharing = "all" if config.n_kv_head == 1 else config.n_head_per_kv_head
        shared = (
            " In GPT-2 each head has keys and values of its own. Here "
            f"{sharing} query heads **share** one key head: "
            f"{counted(config.n_kv_head, 'key head')} for {config.n_head} (grouped heads)."
        )
    back = "projected" if wide == config.n_embd else f"projected to {config.n_embd:,} numbers"
    return f"""## All heads

{size}: think of {config.n_head} linguists who read one sentence, each from another angle. What
they find is put side by side and {back} by one matrix.{shared}
"""


def feed_forward(config: ModelConfig) -> str:
    """The feed-forward layer and its sizes."""
    name = activation_name(config)
    way = (
        f"{config.n_embd:,} → {config.n_inner:,} → {name} → {config.n_inner:,} → {config.n_embd:,}"
    )
    if not config.gated:
        return f"""## Feed-forward

**{way}**, for each token by itself. Attention moves things between tokens; here each token thinks
about
what it has.
"""
    return rf"""## Feed-forward

**{config.n_embd:,} → 2 × {config.n_inner:,} → {config.n_embd:,}**, for each token by itself.
GPT-2 has one wide
row and a GELU. This model has **{feed_forward_name(config)}**: two wide rows, and one is the
**gate** of the other.

$$\left(\mathrm{{{name}}}(x W_{{gate}}) \odot x W_{{up}}\right) W_{{down}}$$
"""


def activation_function(config: ModelConfig) -> str:
    """The activation function, with its formula."""
    name = activation_name(config)
    formula = _FORMULAS.get(name, rf"y = \mathrm{{{name.replace(' ', '~')}}}(x)")
    if name == "GELU":
        tail = r"""$$\Phi(x) = \int_{-\infty}^{x} \frac{1}{\sqrt{2\pi}}\, e^{-t^2/2}\, dt$$

How much goes through is the **area under the normal curve** up to x."""
        if config.activation in ("gelu_new", "gelu_pytorch_tanh"):
            tail += " In practice a tanh stands for the integral; nobody can see the difference."
    else:
        tail = f"GPT-2 has the GELU here, dashed in the picture:\n\n$${_FORMULAS['GELU']}$$"
    return f"""## {name}: the bend

Without a bend two matrices would be no more than one. Large numbers pass, negative ones are held
near 0.

$${formula}$$

{tail}
"""


def final_norm(config: ModelConfig) -> str:
    """The norm after the last block."""
    return f"""## The final norm

After the last block, one {norm_name(config)} more, as before. It takes the **length** out of the
stream:
what counts from here on is the direction.
"""


def output(config: ModelConfig) -> str:
    """The output layer with its formulas."""
    tied = "It is the token embedding once more, turned round: GPT-2 does that, and this model too."
    if not config.tied:
        tied = "It is a table of its own; GPT-2 uses its token embedding a second time."
    return rf"""## The output layer

One more matrix, **{config.n_embd:,} × {config.vocab_size:,}**: a column for each token. {tied}

$$\mathrm{{logits}} = h^\top W_O \qquad
p_i = \frac{{e^{{\mathrm{{logit}}_i / T}}}}{{\sum_j e^{{\mathrm{{logit}}_j / T}}}}$$

T is the **temperature**. Greedy, the default of transformers, takes the largest logit and needs
no T.
"""


# --- GPT-2 beside it --------------------------------------------------------------------------


def facts(config: ModelConfig) -> dict[str, str]:
    """A model in a column: what it has, by what that is."""
    windows = {size for size in config.window if size is not None}
    if config.positions == "learned":
        positions = "learned, added"
    elif config.rotary_dim < config.head_dim:
        positions = f"rotary, {config.rotary_dim} of {config.head_dim} turn"
    else:
        positions = "rotary" if not config.rope_layers else "rotary, not in all layers"
    if config.post_norms:
        norms = f"{norm_name(config)}, before and after"
    else:
        norms = f"{norm_name(config)}, before"
    biases = [
        name
        for name, there in (
            ("q, k, v", config.attn_bias), ("attention's output", config.attn_out_bias),
            ("feed-forward", config.mlp_bias),
        )
        if there
    ]  # fmt: skip
    return {
        "parameters": f"{config.n_parameters:,}",
        "blocks": f"{config.n_layer}",
        "heads": f"{config.n_head}, {config.head_dim} wide",
        "key heads": f"{config.n_kv_head}" + " (one each)" * (config.n_head_per_kv_head == 1),
        "embedding size": f"{config.n_embd:,}",
        "feed-forward": f"{config.n_inner:,}, {feed_forward_name(config)}",
        "norm": norms,
        "norms on q and k": "yes" if config.qk_norm else "none",
        "positions": positions,
        "context": f"{config.n_ctx:,} tokens",
        "window": f"{max(windows):,} tokens" if windows else "none",
        "sublayers": "side by side" if config.parallel_residual else "one after the other",
        "biases": "all" if len(biases) == 3 else ", ".join(biases) or "none",
        "vocabulary": f"{config.vocab_size:,} tokens",
        "output matrix": "its own" if has(config, "unembed") else "the embedding",
    }


def two_columns(config: ModelConfig) -> dict[str, tuple[str, str]]:
    """GPT-2 small's facts and a model's; what neither has is left out."""
    theirs, ours = facts(GPT2), facts(config)
    rare = ("norms on q and k", "window", "sublayers")
    shown = [what for what in theirs if what not in rare or theirs[what] != ours[what]]
    return {what: (theirs[what], ours[what]) for what in shown}


# What differs, by the fact that tells it; whatever is not here is only another size.
_SAID = {
    "key heads": "grouped heads", "feed-forward": "the feed-forward", "norm": "the norm",
    "norms on q and k": "norms on queries and keys", "positions": "positions",
    "window": "a sliding window", "sublayers": "parallel sublayers", "biases": "fewer biases",
    "output matrix": "the output matrix",
}  # fmt: skip


def _how(name: str, config: ModelConfig) -> str:
    """What is so about something that is not as in GPT-2, in a few words."""
    if name == "the feed-forward":
        return f"{feed_forward_name(config)}, not {feed_forward_name(GPT2)}"
    if name == "the norm":
        after = "after each part too"
        if config.norm == "layer":
            return after
        return "no mean and no shift" + f", and {after}" * config.post_norms
    return {
        "grouped heads": "several share one set of keys, so that less must be kept",
        "norms on queries and keys": "they keep the scores in bounds",
        "positions": "turned, not added",
        "a sliding window": "layers that look back only so far",
        "parallel sublayers": "both read what comes in",
        "fewer biases": "matrices that only multiply",
        "the output matrix": "not the embedding again",
    }[name]


def differing(config: ModelConfig) -> list[str]:
    """The kinds of things in which a model is another machine than GPT-2, not only another size."""
    ours, theirs = facts(config), facts(GPT2)
    found = [_SAID[what] for what in _SAID if ours[what] != theirs[what]]
    if feed_forward_name(config) == feed_forward_name(GPT2):
        found = [name for name in found if name != "the feed-forward"]  # it is only wider
    if config.n_head_per_kv_head == 1:
        found = [name for name in found if name != "grouped heads"]
    return found


def beside(config: ModelConfig) -> str:
    """GPT-2 small beside the model at hand."""
    found = differing(config)
    if not found:
        said = (
            "**The same machine** in another size: every part that you have seen on these slides "
            "is in GPT-2 too."
        )
        if config.n_parameters == GPT2.n_parameters:
            said = "**The same machine**, in the same size: every part that you have seen is in it."
    else:
        listed = "\n".join(f"- **{name}**: {_how(name, config)}" for name in found)
        said = f"The same plan. What is **not** as in GPT-2:\n\n{listed}"
    return f"""## GPT-2 beside it

{said}
"""


def tuned_model(name: str, refusal: str) -> str:
    """Which model is tuned on the slides of part 5.

    Args:
        name: of the model at hand.
        refusal: why it cannot be tuned, as the program says it; "" where it can.
    """
    if not refusal:
        return f"We tune **{name}**, here and now: all of it, or small matrices beside it."
    why = refusal.partition(";")[0]
    return f"{why}. So on these slides it is the **built-in model** that learns."
