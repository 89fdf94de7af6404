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
        "A second vector is added to it for the token's **position**."
        if config.positions == "learned"
        else "The token's **position** comes in later, inside attention."
    )
    return f"""## The architecture

Text is split into **tokens**. Each token becomes a vector of {config.n_embd:,} numbers. {added}

The vectors go through {config.n_layer} **blocks** of the same design. A **linear layer** turns the
last vector into {config.vocab_size:,} **logits**, and softmax turns those into **probabilities**.
"""


def hidden(config: ModelConfig, n_tokens: int) -> str:
    """Hidden states: their shape."""
    return f"""## Hidden states have a shape

**(batch, sequence, hidden)** = (1, {n_tokens}, {config.n_embd:,}): one text, {n_tokens} tokens,
{config.n_embd:,} numbers for each token. A text can have up to {config.n_ctx:,} tokens.
"""


def position_table(config: ModelConfig) -> str:
    """How the model knows what comes first: its table of positions, or rotation."""
    if config.positions == "learned":
        return f"""## A row for each position

A second table has a row for each of {config.n_ctx:,} positions, as long as a token's:
**{config.n_ctx:,} × {config.n_embd:,}**. It is learned, like everything else.

This sets the **context window**: there is no row for position {config.n_ctx + 1:,}.
"""
    some = f"{config.rotary_dim} of the {config.head_dim} numbers"
    if config.rotary_dim == config.head_dim:
        some = f"the {config.head_dim} numbers"
    without = [i for i in range(config.n_layer) if not config.uses_rope(i)]
    none = f" Layers {ranges(without)} have no positions at all." if without else ""
    return f"""## Rotary positions

GPT-2 adds a learned vector for each position. This model has **no such table**: it **rotates**
queries and keys. Of each head, {some} are rotated in pairs, a little further at each position, so
that their product depends on **how far apart** two tokens are.{none}

The context window is {config.n_ctx:,} tokens. Each position has {config.rotary_dim // 2} angles.
"""


def before_blocks(config: ModelConfig) -> str:
    """What happens before the blocks."""
    if config.positions == "learned":
        return r"""## What happens before the blocks

Look up the token's row, look up the position's row, and add them.

$$X = E_{\mathrm{token}} + P_{\mathrm{position}}$$
"""
    times = (
        r"\sqrt{C} \cdot "
        if math.isclose(config.embed_scale, config.n_embd**0.5, rel_tol=0.01)
        else ""
    )
    if not times and config.embed_scale != 1:
        times = rf"{config.embed_scale:g} \cdot "
    scaled = " and scales it" if times else ""
    return rf"""## What happens before the blocks

GPT-2 adds a vector for the position here. This model only looks up the token's row{scaled}.
Positions come in later, as the **angles** by which queries and keys are rotated.

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
    order = "Attention reads it and **adds** its output, then the feed-forward layer does the same"
    if config.parallel_residual:
        order = (
            "Attention and the feed-forward layer read it **side by side**, while in GPT-2 one "
            "comes after the other, and both **add** their outputs"
        )
    norms = f"Each of them has {_a(norm_name(config))} in front"
    if config.post_norms:
        norms = "Each of them sits between two norms; GPT-2 has only the first"
    return f"""## The transformer block

What comes in goes straight through and comes out in the **same shape**. {order}. {norms}.
"""


def norm(config: ModelConfig) -> str:
    """Layer norm or RMS norm, with its formula."""
    if config.norm == "layer":
        return rf"""## Layer norm

Each token **by itself**: its {config.n_embd:,} numbers are brought to mean 0 and variance 1, then
multiplied by a learned **gain** and shifted by a learned **bias**. This keeps the numbers at the
same scale, however deep the model.

$$\mathrm{{LayerNorm}}(x) = \frac{{x - \mu}}{{\sqrt{{\sigma^2 + \varepsilon}}}} \cdot \gamma +
\beta$$
"""
    return rf"""## RMS norm

GPT-2 has a layer norm here, which also subtracts the mean and adds a bias. This model has the
simpler **RMS norm**. Each token **by itself**: its {config.n_embd:,} numbers are brought to
a mean square of 1, then multiplied by a learned **gain**.

$$\mathrm{{RMSNorm}}(x) = \frac{{x}}{{\sqrt{{\frac{{1}}{{C}} \sum_i x_i^2 + \varepsilon}}}} \cdot
\gamma$$
"""


def residual(config: ModelConfig, update: float) -> str:
    """The residual stream.

    Args:
        config: the model's.
        update: the median update's length, as a share of the stream's.
    """
    return rf"""## The residual stream

$$X_{{new}} = X + \Delta X$$

Nothing is overwritten. In each block attention and the feed-forward layer **add** something, and
every layer reads what all the earlier ones wrote. The median update is **{update:.0%}** as long as
the stream.
"""


def attention(config: ModelConfig) -> str:
    """Attention in one formula."""
    scale = config.attention_scale(0)
    inside = r"\frac{Q K^\top}{\sqrt{d}}"
    why = f"The size of a head is d = {config.head_dim}."
    if not math.isclose(scale, config.head_dim**-0.5, rel_tol=1e-3):
        inside, why = rf"{scale:.4g} \cdot Q K^\top", "The factor replaces GPT-2's 1/√d."
    first = ["**normalised**"] * config.qk_norm
    first += ["**rotated** by their position"] * (config.positions == "rope")
    before = f" Queries and keys are {' and '.join(first)} first." if first else ""
    return rf"""## Attention in one formula

$$\mathrm{{Attention}}(Q, K, V) = \mathrm{{softmax}}\left({inside}\right) V$$

Each token has a **query**, a **key** and a **value**. {why}{before}
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
    return f"""## The causal mask

Every query meets every key, but a token may only look **back**: later tokens are masked before the
softmax. Otherwise, in training, the model could simply copy the next token.{seen}
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

Head **{name}** does most for the answer “{answer}”: it adds **{adds:.1f}** to its logit. Where does
it look from “{token}”?
"""


def all_heads(config: ModelConfig) -> str:
    """All heads of a layer, and how they come together."""
    wide = config.n_head * config.head_dim
    size = f"**{config.n_head} heads × {config.head_dim} = {wide:,}**"
    shared = ""
    if config.n_head_per_kv_head > 1:
        sharing = "all" if config.n_kv_head == 1 else config.n_head_per_kv_head
        shared = (
            " In GPT-2 each head has its own keys and values. Here "
            f"{sharing} query heads **share** one key head: "
            f"{counted(config.n_kv_head, 'key head')} for {config.n_head}: grouped-query attention."
        )
    back = "projected" if wide == config.n_embd else f"projected to {config.n_embd:,} numbers"
    return f"""## All heads

{size}. Think of {config.n_head} linguists who read the same sentence, each from a different angle.
What they find is concatenated and {back} by one matrix.{shared}
"""


def feed_forward(config: ModelConfig) -> str:
    """The feed-forward layer and its sizes."""
    name = activation_name(config)
    way = (
        f"{config.n_embd:,} → {config.n_inner:,} → {name} → {config.n_inner:,} → {config.n_embd:,}"
    )
    if not config.gated:
        return f"""## Feed-forward

**{way}**, for each token by itself. Attention moves information between tokens; here each token
works on what it has.
"""
    return rf"""## Feed-forward

**{config.n_embd:,} → 2 × {config.n_inner:,} → {config.n_embd:,}**, for each token by itself.
GPT-2 has one wide layer with a GELU. This model has **{feed_forward_name(config)}**: two wide
layers side by side, and one is the **gate** of the other.

$$\left(\mathrm{{{name}}}(x W_{{gate}}) \odot x W_{{up}}\right) W_{{down}}$$
"""


def activation_function(config: ModelConfig) -> str:
    """The activation function, with its formula."""
    name = activation_name(config)
    formula = _FORMULAS.get(name, rf"y = \mathrm{{{name.replace(' ', '~')}}}(x)")
    if name == "GELU":
        tail = r"""$$\Phi(x) = \int_{-\infty}^{x} \frac{1}{\sqrt{2\pi}}\, e^{-t^2/2}\, dt$$

Φ(x), the fraction that goes through, is the **area under the normal curve** up to x."""
        if config.activation in ("gelu_new", "gelu_pytorch_tanh"):
            tail += " In practice the integral is approximated with a tanh."
    else:
        tail = f"GPT-2 has a GELU here, dashed in the figure:\n\n$${_FORMULAS['GELU']}$$"
    return f"""## {name}: the activation function

Without a nonlinearity, two matrices could do no more than one. Large numbers go through, negative
ones are held near 0.

$${formula}$$

{tail}
"""


def final_norm(config: ModelConfig) -> str:
    """The norm after the last block."""
    return f"""## The final norm

After the last block comes one more {norm_name(config)}, like the ones before. It brings all vectors
to the same **length**: from here on, what counts is the direction.
"""


def output(config: ModelConfig) -> str:
    """The output layer with its formulas."""
    tied = "It is the token embedding again, transposed, as in GPT-2."
    if not config.tied:
        tied = "It is a table of its own; GPT-2 uses its token embedding again."
    return rf"""## The output layer

One more matrix, **{config.n_embd:,} × {config.vocab_size:,}**, with a column for each token. {tied}

$$\mathrm{{logits}} = h^\top W_O \qquad
p_i = \frac{{e^{{\mathrm{{logit}}_i / T}}}}{{\sum_j e^{{\mathrm{{logit}}_j / T}}}}$$

T is the **temperature**. Greedy decoding, the default in transformers, takes the largest logit and
needs no T.
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
        after = "also after each sublayer"
        if config.norm == "layer":
            return after
        return "no mean, no bias" + f", and {after}" * config.post_norms
    biased = "no" if facts(config)["biases"] == "none" else "hardly any"
    return {
        "grouped heads": "several share keys and values, so the cache is smaller",
        "norms on queries and keys": "they keep the scores in bounds",
        "positions": "rotary, not learned",
        "a sliding window": "a token looks back only so far",
        "parallel sublayers": "both read the same input",
        "fewer biases": f"{biased} matrix has one",
        "the output matrix": "a table of its own, not the embedding",
    }[name]


def differing(config: ModelConfig) -> list[str]:
    """In what a model's architecture differs from GPT-2's, apart from its size."""
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
            "**The same architecture** in another size: every part that you have seen on these "
            "slides is in GPT-2 too."
        )
        if config.n_parameters == GPT2.n_parameters:
            said = "**The same architecture**, in the same size: it has every part you have seen."
    else:
        listed = "\n".join(f"- **{name}**: {_how(name, config)}" for name in found)
        said = f"The same design, but these parts **differ** from GPT-2:\n\n{listed}"
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
        return f"We fine-tune **{name}**, live: all of it, or small matrices beside it."
    why = refusal.partition(";")[0]
    return f"{why}. So on these slides we fine-tune the **built-in model** instead."
