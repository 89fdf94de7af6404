"""What happens inside: every stage between text and the next token, as arrays and pictures.

Each view is a function of a model (``laplm.load(...)``) that gives a ``View``: an object with the
arrays, ``.table()`` and ``.plot()``. NumPy alone; pictures need the "look" extra (matplotlib).

``VIEWS`` lists them with what they take. The commands of ``laplm look``, the routes of
``/api/look`` and the names of this package are made from it. A new view is one module in
``laplm/look/views`` and one entry here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from laplm.look.registry import REQUIRED, Group, Kind, Parameter, ViewEntry

if TYPE_CHECKING:
    from laplm.look.views.ablation import ablate, ablated_generation, ablation_tap
    from laplm.look.views.architecture import architecture
    from laplm.look.views.attention import attention, head_kinds
    from laplm.look.views.block import block, residual_stream
    from laplm.look.views.chat import chat
    from laplm.look.views.circuit import circuit
    from laplm.look.views.compare import compare
    from laplm.look.views.embeddings import embeddings, nearest_tokens
    from laplm.look.views.generation import generation
    from laplm.look.views.inside import inside
    from laplm.look.views.learning import learning
    from laplm.look.views.logit_attribution import logit_attribution
    from laplm.look.views.logit_lens import logit_lens
    from laplm.look.views.neuron import neuron
    from laplm.look.views.next_token import next_token
    from laplm.look.views.one_head import one_head
    from laplm.look.views.patching import patch, patched_generation, patching_tap
    from laplm.look.views.positions import positions, word_order
    from laplm.look.views.stats import model_scale, stats
    from laplm.look.views.steering import steer, steering_tap
    from laplm.look.views.tokens import tokens
    from laplm.look.views.trace import trace
    from laplm.look.views.why import why

_SEED = (0, 2**63 - 1)
_PARTS = (
    "head:LAYER.HEAD, attention:LAYER, feed-forward:LAYER or neuron:LAYER.NEURON; may be given "
    "several times"
)

# --- parameters that several views take -------------------------------------------------------


def _prompt_parameter(name: str = "text", kind: Kind = "prompt") -> Parameter:
    return Parameter(
        name, kind, "the text; - or nothing reads it from a pipe", typed=("TEXT",), piped=True
    )


def _layer(what: str, default: Any = None) -> Parameter:
    return Parameter("layer", "int", what, default, typed=("--layer",), metavar="L")


def _position(what: str) -> Parameter:
    help_text = f"{what}; negative ones count from the end"
    return Parameter("position", "int", help_text, -1, typed=("--position",), metavar="N")


def _count(what: str, default: int = 10) -> Parameter:
    return Parameter("k", "int", f"how many {what}", default, typed=("-k",), metavar="K")


_TARGET = Parameter(
    "target", "string",
    "the token that is followed, with its space: ' Madrid' (default: the likeliest)", None,
    typed=("--target",), metavar="TOKEN",
)  # fmt: skip
_CONTRAST = Parameter(
    "contrast", "string", "follow the logit difference from this token instead", None,
    typed=("--contrast",), metavar="TOKEN", former=("against",),
)  # fmt: skip
_HOW = Parameter(
    "how", "string", "zero or mean", "zero", typed=("--how",), metavar="HOW",
    choices=("zero", "mean"),
)  # fmt: skip
_MEAN_OF = Parameter(
    "mean_of", "string",
    "take the mean over this text (default: over the prompt); may be given several times", None,
    typed=("--mean-of",), metavar="TEXT", many="or one",
)  # fmt: skip


def _without(what: str, default: Any = REQUIRED) -> Parameter:
    return Parameter(
        "without", "string", f"{what} {_PARTS}", default, typed=("--without",), metavar="PART",
        many=True,
    )  # fmt: skip


def _sampling(group: Group, greedy: bool = False, **defaults: Any) -> tuple[Parameter, ...]:
    """The settings of sampling that are named, in the sampler's order, with their defaults."""
    metavars = {"temperature": "T", "top_k": "K", "repetition_penalty": "X"}
    return tuple(
        Parameter(
            name, "int" if name == "top_k" else "float", "", default, group=group,
            typed=(f"--{name.replace('_', '-')}",), metavar=metavars.get(name, "P"),
            shorthands={"--greedy": 0.0} if greedy and name == "temperature" else {},
        )
        for name, default in defaults.items()
    )  # fmt: skip


def _new_tokens(default: int, group: Group | None = None) -> Parameter:
    return Parameter(
        "max_new_tokens", "int", "", default, typed=("-n", "--max-new-tokens"), metavar="N",
        group=group,
    )  # fmt: skip


_TEXT_WRITTEN = Group("text that is written")
_WRITTEN = (
    _new_tokens(30, _TEXT_WRITTEN),
    *_sampling(_TEXT_WRITTEN, temperature=0.8, top_k=40),
    Parameter(
        "seed", "int", "", 1, typed=("--seed",), metavar="N", bounds=_SEED, group=_TEXT_WRITTEN
    ),
)
_OFF = {"temperature": None, "top_k": None, "top_p": None, "min_p": None}

# --- the views --------------------------------------------------------------------------------

VIEWS: tuple[ViewEntry, ...] = (
    ViewEntry(
        name="why", function="why.why", title="Why this token",
        summary="How a prompt comes to its next token: when, by which parts, what falls without.",
        parameters=(
            _prompt_parameter(),
            _TARGET,
            Parameter(
                "contrast", "string",
                "sort by the lead over this token (default: by what is added to the target itself)",
                None, typed=("--against", "--contrast"), metavar="TOKEN",
            ),
            _count("of the strongest heads and feed-forwards are switched off", 8),
        ),
        continues="text",
        example="laplm look why 'The capital of Spain is'",
    ),
    ViewEntry(
        name="circuit", function="circuit.circuit", title="Circuit",
        summary="Which heads and feed-forwards bring a token, and how they reach each other.",
        parameters=(
            _prompt_parameter(),
            Parameter(
                "corrupted", "prompt",
                "a prompt of as many tokens with another answer, whose numbers take the place of "
                "those of edges that are patched (default: none)",
                None, typed=("--corrupted",), metavar="TEXT",
            ),
            _TARGET, _CONTRAST,
            Parameter(
                "how", "string", "what patched edges carry without a corrupted prompt: the mean "
                "over the prompt, or zero", "mean", typed=("--how",), metavar="HOW",
                choices=("zero", "mean"),
            ),
            Parameter(
                "keep", "float", "the share of the logit difference that is to be kept", 0.9,
                typed=("--keep",), metavar="SHARE",
            ),
        ),
        continues="text",
        example="laplm look circuit 'The capital of Spain is' "
        "--corrupted 'The capital of France is' --out circuit.html",
    ),
    ViewEntry(
        name="stats", function="stats.stats", title="Sizes",
        summary="Sizes, parameters, memory and operations of a model.",
    ),
    ViewEntry(
        name="scale", function="stats.model_scale", title="Models by year",
        summary="Sizes of published language models by year, beside this one.",
        command="stats", flag=("--scale", "published models by year instead, and this one"),
    ),
    ViewEntry(
        name="tokens", function="tokens.tokens", title="Tokens", summary="A text as tokens.",
        parameters=(
            _prompt_parameter(kind="string"),
            Parameter("merges", "bool", "how each word was put together", False,
                      typed=("--merges",)),
        ),
    ),
    ViewEntry(
        name="embeddings", function="embeddings.embeddings", title="Embeddings",
        summary="Words as points: a picture, neighbours, analogies.",
        parameters=(
            Parameter("words", "string", "words to look at (default: --set)", (),
                      typed=("WORD",), many=True),
            Parameter(
                "word_sets", "string",
                "family, gender, animals or cities; may be given several times (default: the "
                "first three)",
                ("family", "gender", "animals"), typed=("--set",), metavar="NAME", many=True,
            ),
        ),
    ),
    ViewEntry(
        name="nearest", function="embeddings.nearest_tokens", title="Nearest tokens",
        summary="The tokens nearest to a word, or to a sum such as 'king - man + woman'.",
        parameters=(
            Parameter(
                "expression", "string",
                "tokens nearest to a word, or to a sum: --nearest 'king - man + woman'",
                typed=("--nearest",), metavar="WORDS",
            ),
            _count("nearest tokens"),
        ),
        command="embeddings", chosen_by=("expression",),
        alone="--nearest takes its words by itself; leave the others out",
    ),
    ViewEntry(
        name="positions", function="positions.positions", title="Positions",
        summary="The position embedding, and what the order of words does.",
        parameters=(Parameter("samples", "int", "positions compared with each other", 128),),
    ),
    ViewEntry(
        name="order", function="positions.word_order", title="The order of words",
        summary="What comes next after a text, and after its words in another order.",
        parameters=(
            Parameter(
                "text", "string",
                "show what comes next after a text and after its words in another order (default: "
                "'the cat chased the mouse')",
                "the cat chased the mouse", typed=("--order",), metavar="TEXT",
                bare="the cat chased the mouse",
            ),
            Parameter("other", "string", "the other order (default: two words swapped)", None,
                      typed=("--other",), metavar="TEXT"),
            Parameter("ending", "string", "put after both", ". The", typed=("--ending",),
                      metavar="TEXT"),
            _count("next tokens"),
        ),
        command="positions", chosen_by=("text", "other"),
    ),
    ViewEntry(
        name="block", function="block.block", title="One block",
        summary="One block followed in numbers, or the residual stream through all.",
        parameters=(
            _prompt_parameter(),
            _layer("which block", 0),
            _position("the token to follow closely"),
            Parameter("neurons", "int", "how many of the most active neurons", 5),
            Parameter("words", "int", "how many tokens that each promotes and suppresses", 6),
        ),
    ),
    ViewEntry(
        name="residual", function="block.residual_stream", title="The residual stream",
        summary="The residual stream followed through all layers.",
        parameters=(_prompt_parameter(),),
        command="block", flag=("--all", "the residual stream through all layers"),
    ),
    ViewEntry(
        name="attention", function="attention.attention", title="Attention",
        summary="Where heads attend to, and what kinds of heads they are.",
        parameters=(
            _prompt_parameter(),
            _layer("only this layer (default: all)"),
            Parameter("head", "int", "only this head (default: all)", None, typed=("--head",),
                      metavar="H"),
        ),
    ),
    ViewEntry(
        name="kinds", function="attention.head_kinds", title="Kinds of heads",
        summary="Every head scored as the kinds that are known, on repeated random tokens.",
        parameters=(
            Parameter("length", "int", "how many random tokens", 25),
            Parameter("repeats", "int", "how often they come", 4),
            Parameter("seed", "int", "which tokens", 0, bounds=_SEED),
        ),
        command="attention", flag=("--kinds", "only the kinds of heads; needs no text"),
    ),
    ViewEntry(
        name="next", function="next_token.next_token", title="The next token",
        summary="The next token, and what the settings of sampling make of it.",
        parameters=(
            _prompt_parameter(),
            _count("tokens"),
            *_sampling(
                Group("settings of sampling",
                      "each shown by itself, and all together (default: an example of each)"),
                **dict[str, Any](_OFF), repetition_penalty=None,
            ),
        ),
        continues="text",
    ),
    ViewEntry(
        name="inside", function="inside.inside", title="One pass at a glance",
        summary="One pass at a glance, with parts switched off.",
        parameters=(
            _prompt_parameter(),
            _without("switch off", ()),
            _position("the token to follow"),
            _layer("open this block (default: none)"),
            Parameter("head", "int", "of that block, show the query and keys of this head", None),
            Parameter("words", "string", "shown among the tokens' embeddings", (), many=True),
            Parameter("window", "int", "how many positions are shown in full", 24),
            Parameter("lens", "bool", "read every layer as a prediction", True),
            Parameter("lens_positions", "int", "at so many positions (default: all shown)", None),
            _count("next tokens", 15),
            *_sampling(
                Group("settings of sampling", "all together (default: off)"),
                temperature=1.0, top_k=0, top_p=1.0,
            ),
        ),
        continues="text",
        example="laplm look inside 'The capital of Spain is' --layer 4 --without head:4.2",
    ),
    ViewEntry(
        name="lens", function="logit_lens.logit_lens", title="Logit lens",
        summary="The residual stream after every layer, read as a prediction (logit lens).",
        parameters=(_prompt_parameter(),),
        continues="text",
    ),
    ViewEntry(
        name="attribution", function="logit_attribution.logit_attribution", title="Attribution",
        summary="A logit, split among the parts whose sum it is (direct logit attribution).",
        parameters=(_prompt_parameter(), _TARGET, _CONTRAST, _position("after which token")),
        continues="text",
    ),
    ViewEntry(
        name="ablate", function="ablation.ablate", title="Ablation",
        summary="What changes when heads, layers or neurons are ablated.",
        parameters=(
            _prompt_parameter(),
            Parameter("components", "string", "heads, layers, or neurons of one layer", "heads",
                      typed=("--parts",), metavar="KIND", choices=("heads", "layers", "neurons")),
            _layer("only this layer; neurons need one"),
            _HOW, _MEAN_OF, _TARGET, _CONTRAST,
        ),
        continues="text",
        example="laplm look ablate 'The capital of Spain is' --target ' Madrid'",
        epilog="With --without, text is written without these parts: --without head:3.1 --without "
        "feed-forward:2",
    ),
    ViewEntry(
        name="without", function="ablation.ablated_generation", title="Text without parts",
        summary="Text written with heads, layers or neurons ablated.",
        parameters=(
            _prompt_parameter(), _without("write text without"), _HOW, _MEAN_OF, *_WRITTEN,
        ),
        continues="text", command="ablate", chosen_by=("without",),
    ),
    ViewEntry(
        name="neuron", function="neuron.neuron", title="One neuron",
        summary="What a neuron of a feed-forward does: what excites it, what it promotes.",
        parameters=(
            Parameter("unit", "string", "which neuron: 4.17 is number 17 of layer 4",
                      typed=("LAYER.NEURON",)),
            Parameter(
                "texts", "string",
                "texts to find what excites it (default: twelve short ones)", (), typed=("TEXT",),
                many="or one", files="--data",
            ),
            _count("of the tokens that excite it most"),
            Parameter("words", "int", "how many tokens that it promotes and suppresses", 8,
                      typed=("--words",), metavar="N"),
            Parameter("max_tokens", "int", "how many tokens of the texts are read at most", 20_000,
                      typed=("--max-tokens",), metavar="N"),
        ),
        example="laplm look neuron 5.458 --data notes.txt",
    ),
    ViewEntry(
        name="patch", function="patching.patch", title="Patching",
        summary="What brings a clean prompt's answer back into a corrupted one.",
        parameters=(
            Parameter("clean", "prompt", "the prompt with the answer", typed=("CLEAN",)),
            Parameter("corrupted", "prompt", "one of as many tokens without it",
                      typed=("CORRUPTED",)),
            _TARGET, _CONTRAST,
            Parameter(
                "stages", "string",
                "resid_pre, attn_out or mlp_out; may be given several times (default: all three)",
                ("resid_pre", "attn_out", "mlp_out"), typed=("--stage",), metavar="NAME",
                many=True,
            ),
        ),
        continues="corrupted",
        example="laplm look patch 'The capital of Spain is' 'The capital of France is'",
        epilog="With --layer and --position, text is written under that one patch.",
    ),
    ViewEntry(
        name="patched", function="patching.patched_generation", title="Text under a patch",
        summary="Text written after a corrupted prompt with positions of one layer patched.",
        parameters=(
            Parameter("clean", "prompt", "the prompt with the answer", typed=("CLEAN",)),
            Parameter("corrupted", "prompt", "one of as many tokens without it",
                      typed=("CORRUPTED",)),
            Parameter("layer", "int", "write text with this layer patched", typed=("--layer",),
                      metavar="L"),
            Parameter("positions", "int", "and only at this position", typed=("--position",),
                      metavar="N", many=True),
            Parameter("stages", "string", "what is patched", ("resid_pre",), typed=("--stage",),
                      metavar="NAME", many=True),
            *_WRITTEN,
        ),
        continues="corrupted", command="patch", chosen_by=("layer", "positions"),
        needs="to write text under one patch",
    ),
    ViewEntry(
        name="steer", function="steering.steer", title="Steering",
        summary="Text written with more or less of a direction.",
        parameters=(
            _prompt_parameter(kind="string"),
            Parameter("towards", "string", "the prompt to lead to", typed=("TOWARDS",),
                      many="or one", files="--towards", lines=True),
            Parameter("away_from", "string", "the prompt to lead away from", typed=("AWAY",),
                      many="or one", files="--away", lines=True),
            _layer("where (default: the one in the middle)"),
            Parameter(
                "coefficients", "float",
                "how much of it; may be given several times (default: -1, 0 and 1)",
                (-1.0, 0.0, 1.0), typed=("--coefficient",), metavar="X", many=True,
            ),
            *_WRITTEN,
        ),
        continues="text",
        example="laplm look steer 'The girl was' ' happy' ' sad'",
    ),
    ViewEntry(
        name="trace", function="trace.trace", title="Every activation",
        summary="Every activation of one pass, under TransformerLens's names.",
        parameters=(
            _prompt_parameter(),
            Parameter(
                "names", "string",
                "only this activation, such as pattern; may be given several times", None,
                typed=("--name",), metavar="NAME", many=True,
            ),
        ),
        saves=(".npz",), announce="keeping {} MB of activations",
    ),
    ViewEntry(
        name="compare", function="compare.compare", title="Two models",
        summary="Two models on one prompt: what they predict, where they differ.",
        parameters=(
            Parameter("other", "model", "another", typed=("OTHER",)),
            _prompt_parameter(),
            _count("next tokens"),
        ),
        continues="text",
    ),
    ViewEntry(
        name="generation", function="generation.generation", title="A continuation",
        summary="A continuation, token by token, with what else there was.",
        parameters=(
            _prompt_parameter("prompt"),
            _new_tokens(20),
            Parameter("alternatives", "int", "other tokens shown for each", 3,
                      typed=("--alternatives",), metavar="N"),
            *_sampling(
                Group("settings of sampling", "as for laplm run, and with its defaults"),
                greedy=True, temperature=0.8, top_k=40, top_p=1.0, min_p=0.0,
                repetition_penalty=1.0,
            ),
            Parameter("seed", "int", "the same seed gives the same text", None, typed=("--seed",),
                      metavar="N", bounds=_SEED),
            Parameter("stop", "string", "end before this", (), typed=("--stop",), metavar="TEXT",
                      many="or one"),
            Parameter("ignore_eos", "bool", "go on when the model ends its text", False,
                      typed=("--ignore-eos",)),
        ),
        continues="prompt",
    ),
    ViewEntry(
        name="chat", function="chat.chat", title="A conversation",
        summary="An answer of a chat model: how sure each token is, and what it looked at.",
        parameters=(
            Parameter(
                "message", "string",
                "what is asked; - or nothing reads it from a pipe, nothing on a terminal begins a "
                "conversation",
                typed=("MESSAGE",), piped=True,
            ),
            Parameter("system", "string", "tell the model how to answer", None,
                      typed=("--system",), metavar="TEXT"),
            Parameter(
                "earlier", "string",
                "what was said before, by turns yours and the model's; may be given several times",
                (), typed=("--earlier",), metavar="TEXT", many=True,
            ),
            _new_tokens(64),
            *_sampling(
                Group("settings of sampling", "as for laplm chat, and with its defaults"),
                greedy=True, **dict[str, Any](_OFF), repetition_penalty=None,
            ),
            Parameter("seed", "int", "the same seed gives the same answer", None,
                      typed=("--seed",), metavar="N", bounds=_SEED),
        ),
        converses="earlier",
        example="laplm look chat 'What is the capital of Spain?' -n 20 --out chat.html",
    ),
)  # fmt: skip
"""Every view, in the order of a pass."""

_FUNCTIONS = {entry.python_name: entry.function.split(".")[0] for entry in VIEWS} | {
    "ablation_tap": "ablation", "architecture": "architecture", "learning": "learning",
    "one_head": "one_head", "patching_tap": "patching", "steering_tap": "steering",
}  # fmt: skip

__all__ = [
    "VIEWS", "ablate", "ablated_generation", "ablation_tap", "architecture", "attention",
    "block", "chat", "circuit", "compare", "embeddings", "generation", "head_kinds", "inside",
    "learning", "logit_attribution", "logit_lens", "model_scale", "nearest_tokens", "neuron",
    "next_token", "one_head", "patch", "patched_generation", "patching_tap", "positions",
    "residual_stream", "stats", "steer", "steering_tap", "tokens", "trace", "why", "word_order",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # A view's module is imported when the view is first used.
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"laplm.look.views.{_FUNCTIONS[name]}"), name)
