"""``laplm look``: every view of ``laplm.look``, printed, drawn and saved.

A view's function takes the parsed arguments, the model and a progress bar, and gives a ``View``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplm.cli.arguments import add_json, add_model, note_trailing_space, open_model, read_prompt
from laplm.cli.output import Progress, note, progress_bars, write, write_json
from laplm.errors import InputError

if TYPE_CHECKING:
    from laplm.look.view import View
    from laplm.run.language_model import LanguageModel

Make = Callable[[argparse.Namespace, "LanguageModel", Progress], "View"]

# What comes after the text matters to these.
_CONTINUING = frozenset(
    ("next", "inside", "lens", "attribution", "ablate", "patch", "steer", "compare", "generation")
)
_FILES = "FILE.png|svg|html|csv|json"


def add_look(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command, its views and their options."""

    def help_page(_: argparse.Namespace) -> int:
        write(look.format_help())
        return 0

    look = verb(
        "look", help_page, "See what happens inside.",
        example="laplm look next 'The capital of Spain is'",
    )  # fmt: skip
    views = look.add_subparsers(title="views", dest="view", metavar="VIEW")

    def view(
        name: str,
        make: Make,
        what: str,
        files: str = _FILES,
        *,
        models: bool = True,
        **options: Any,
    ) -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = views.add_parser(name, help=what, description=what, **options)
        p.set_defaults(call=_show, make=make, default=p.get_default)
        g = p.add_argument_group("what comes out")
        g.add_argument(
            "--out", type=Path, action="append", default=[], metavar=files,
            help="also write a picture, a page or data; may be given several times",
        )  # fmt: skip
        g.add_argument(
            "--rows", type=int, metavar="N", help="rows of a table at most; 0: all (default: 40)"
        )
        add_json(g)
        add_model(
            p.add_argument_group("the model"), model=models, precision="fp32",
        )  # fmt: skip
        return p

    p = view("stats", _stats, "Sizes, parameters, memory and operations of a model.")
    p.add_argument(
        "--scale", action="store_true", help="published models by year instead, and this one"
    )

    p = view("tokens", _tokens, "A text as tokens.")
    _add_text(p)
    p.add_argument("--merges", action="store_true", help="how each word was put together")

    p = view("embeddings", _embeddings, "Words as points: a picture, neighbours, analogies.")
    p.add_argument("words", nargs="*", metavar="WORD", help="words to look at (default: --set)")
    p.add_argument(
        "--set", action="append", dest="word_sets", metavar="NAME",
        help="family, gender, animals or cities; may be given several times (default: the first "
        "three)",
    )  # fmt: skip
    p.add_argument(
        "--nearest", metavar="WORDS",
        help="tokens nearest to a word, or to a sum: --nearest 'king - man + woman'",
    )  # fmt: skip
    _add_count(p, "nearest tokens")

    p = view("positions", _positions, "The position embedding, and what the order of words does.")
    p.add_argument(
        "--order", nargs="?", const=_ORDER, metavar="TEXT",
        help=f"show what comes next after a text and after its words in another order "
        f"(default: {_ORDER!r})",
    )  # fmt: skip
    p.add_argument("--other", metavar="TEXT", help="the other order (default: two words swapped)")
    p.add_argument(
        "--ending", default=". The", metavar="TEXT", help="put after both (default: '. The')"
    )
    _add_count(p, "next tokens")

    p = view("block", _block, "One block followed in numbers, or the residual stream through all.")
    _add_text(p)
    _add_layer(p, "which block (default: 0)")
    _add_position(p, "the token to follow closely")
    p.add_argument("--all", action="store_true", help="the residual stream through all layers")

    p = view("attention", _attention, "Where heads look, and what kinds of heads they are.")
    _add_text(p)
    _add_layer(p, "only this layer (default: all)")
    p.add_argument("--head", type=int, metavar="H", help="only this head (default: all)")
    p.add_argument(
        "--kinds", action="store_true", help="only the kinds of heads; needs no text",
    )  # fmt: skip

    p = view("next", _next, "The next token, and what the settings of sampling make of it.")
    _add_text(p)
    _add_count(p, "tokens")
    _add_sampling(p, "each shown by itself, and all together (default: an example of each)")

    p = view(
        "inside", _inside, "One pass at a glance, with parts switched off.",
        example="laplm look inside 'The capital of Spain is' --layer 4 --without head:4.2",
    )  # fmt: skip
    _add_text(p)
    _add_layer(p, "open this block (default: none)")
    _add_position(p, "the token to follow")
    p.add_argument(
        "--without", action="append", default=[], metavar="PART",
        help="switch off head:LAYER.HEAD, attention:LAYER, feed-forward:LAYER or "
        "neuron:LAYER.NEURON; may be given several times",
    )  # fmt: skip
    _add_count(p, "next tokens")
    g = p.add_argument_group("settings of sampling", "all together (default: off)")
    g.add_argument("--temperature", type=float, default=1.0, metavar="T")
    g.add_argument("--top-k", type=int, default=0, metavar="K")
    g.add_argument("--top-p", type=float, default=1.0, metavar="P")

    p = view("lens", _lens, "What every layer would say comes next, if it were the last.")
    _add_text(p)

    p = view("attribution", _attribution, "A logit, split among the parts that wrote it.")
    _add_text(p)
    _add_target(p)
    _add_position(p, "after which token")

    p = view(
        "ablate", _ablate, "What changes when heads, layers or neurons are taken out.",
        example="laplm look ablate 'The capital of Spain is' --target ' Madrid'",
        epilog="With --without, text is written without these parts: --without head:3.1 --without "
        "feed-forward:2",
    )  # fmt: skip
    _add_text(p)
    p.add_argument(
        "--parts", dest="components", default="heads", metavar="KIND",
        help="heads, layers, or neurons of one layer (default: heads)",
    )  # fmt: skip
    _add_layer(p, "only this layer; neurons need one")
    p.add_argument("--how", default="zero", metavar="HOW", help="zero or mean (default: zero)")
    p.add_argument(
        "--mean-of", action="append", metavar="TEXT",
        help="take the mean over this text (default: over the prompt); may be given several times",
    )  # fmt: skip
    _add_target(p)
    p.add_argument(
        "--without", action="append", default=[], metavar="PART",
        help="write text without head:LAYER.HEAD, attention:LAYER, feed-forward:LAYER or "
        "neuron:LAYER.NEURON; may be given several times",
    )  # fmt: skip
    _add_writing(p)

    p = view(
        "patch", _patch, "What brings a clean prompt's answer back into a corrupted one.",
        example="laplm look patch 'The capital of Spain is' 'The capital of France is'",
        epilog="With --layer and --position, text is written under that one patch.",
    )  # fmt: skip
    p.add_argument("clean", metavar="CLEAN", help="the prompt with the answer")
    p.add_argument("corrupted", metavar="CORRUPTED", help="one of as many tokens without it")
    _add_target(p)
    p.add_argument(
        "--stage", action="append", metavar="NAME",
        help="resid_pre, attn_out or mlp_out; may be given several times (default: all three)",
    )  # fmt: skip
    _add_layer(p, "write text with this layer patched")
    p.add_argument(
        "--position", type=int, action="append", metavar="N", help="and only at this position"
    )
    _add_writing(p)

    p = view(
        "steer", _steer, "Text written with more or less of a direction.",
        example="laplm look steer 'The girl was' ' happy' ' sad'",
    )  # fmt: skip
    _add_text(p)
    p.add_argument("towards", metavar="TOWARDS", help="the prompt to lead to")
    p.add_argument("away_from", metavar="AWAY", help="the prompt to lead away from")
    _add_layer(p, "where (default: the one in the middle)")
    p.add_argument(
        "--coefficient", type=float, action="append", metavar="X",
        help="how much of it; may be given several times (default: -1, 0 and 1)",
    )  # fmt: skip
    _add_writing(p)

    p = view(
        "trace", _trace, "Every activation of one pass, under TransformerLens's names.",
        f"{_FILES}|npz",
    )  # fmt: skip
    _add_text(p)
    p.add_argument(
        "--name", action="append", metavar="NAME",
        help="only this activation, such as pattern; may be given several times",
    )  # fmt: skip

    p = view(
        "compare",
        _compare,
        "Two models on one prompt: what they say, where they differ.",
        models=False,
    )
    p.add_argument("model", metavar="MODEL", help="a name or a directory")
    p.add_argument("other", metavar="OTHER", help="another")
    _add_text(p)
    _add_count(p, "next tokens")

    p = view("generation", _generation, "A continuation, token by token, with what else there was.")
    _add_text(p)
    p.add_argument(
        "-n", "--max-new-tokens", type=int, default=20, metavar="N", help="(default: 20)"
    )
    p.add_argument(
        "--alternatives", type=int, default=3, metavar="N",
        help="other tokens shown for each (default: 3)",
    )  # fmt: skip
    _add_sampling(p, "as for laplm run, and with its defaults")
    p.add_argument("--greedy", action="store_const", dest="temperature", const=0.0)
    p.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this")
    p.add_argument("--ignore-eos", action="store_true", help="go on when the model ends its text")


_ORDER = "the cat chased the mouse"


# --- options that several views share ---------------------------------------------------------


def _add_text(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "text", nargs="?", metavar="TEXT", help="the text; - or nothing reads it from a pipe"
    )


def _add_layer(p: argparse.ArgumentParser, what: str) -> None:
    p.add_argument("--layer", type=int, metavar="L", help=what)


def _add_position(p: argparse.ArgumentParser, what: str) -> None:
    p.add_argument(
        "--position", type=int, default=-1, metavar="N",
        help=f"{what}; negative ones count from the end (default: -1)",
    )  # fmt: skip


def _add_count(p: argparse.ArgumentParser, what: str) -> None:
    p.add_argument("-k", type=int, default=10, metavar="K", help=f"how many {what} (default: 10)")


def _add_target(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--target", metavar="TOKEN",
        help="the token that is followed, with its space: ' Madrid' (default: the likeliest)",
    )  # fmt: skip
    p.add_argument("--against", metavar="TOKEN", help="follow its lead over this one instead")


def _add_sampling(p: argparse.ArgumentParser, what: str) -> None:
    g = p.add_argument_group("settings of sampling", what)
    g.add_argument("--temperature", type=float, metavar="T")
    g.add_argument("--top-k", type=int, metavar="K")
    g.add_argument("--top-p", type=float, metavar="P")
    g.add_argument("--min-p", type=float, metavar="P")
    g.add_argument("--repetition-penalty", type=float, metavar="X")


def _add_writing(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("text that is written")
    g.add_argument(
        "-n", "--max-new-tokens", type=int, default=30, metavar="N", help="(default: 30)"
    )
    g.add_argument("--temperature", type=float, default=0.8, metavar="T", help="(default: 0.8)")
    g.add_argument("--top-k", type=int, default=40, metavar="K", help="(default: 40)")
    g.add_argument("--seed", type=int, default=1, metavar="N", help="(default: 1)")


_WRITING = ("-n", "--temperature", "--top-k", "--seed")


def _refuse(args: argparse.Namespace, when: str, *options: str) -> None:
    """Refuse options that change nothing beside what else was asked for."""
    for option in options:
        name = "max_new_tokens" if option == "-n" else option.lstrip("-").replace("-", "_")
        name = "components" if option == "--parts" else name
        if getattr(args, name) != args.default(name):
            raise InputError(f"{option} changes nothing {when}; leave it out")


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _writing(args: argparse.Namespace) -> dict[str, Any]:
    names = ("max_new_tokens", "temperature", "top_k", "seed")
    return {name: getattr(args, name) for name in names}


# --- showing ----------------------------------------------------------------------------------


def _show(args: argparse.Namespace) -> int:
    from laplm.cli import terminal
    from laplm.look.trace import Trace
    from laplm.look.view import EXTENSIONS, check_extension

    rows = terminal.ROWS if args.rows is None else args.rows
    if rows < 0:
        raise InputError(f"--rows is {rows}, but it must be 0 (all) or more")
    for path in args.out:
        # Before anything is computed.
        check_extension(path, Trace.extensions if args.view == "trace" else EXTENSIONS)
    if hasattr(args, "text") and not getattr(args, "kinds", False):
        args.text = read_prompt(args.text)
    with progress_bars() as progress:
        lm = open_model(args.model, args.precision, args.threads, progress)
        view = args.make(args, lm, progress)
    if args.view in _CONTINUING:
        text: str = args.corrupted if args.view == "patch" else args.text
        note_trailing_space(text, lm)
    for path in args.out:
        view.save(path)
        note(f"{path} written")
    if args.json:
        write_json(view.to_dict())
    else:
        terminal.draw(view.parts(), rows)
    return 0


# --- the views --------------------------------------------------------------------------------


def _stats(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look import stats

    return stats.model_scale(lm) if args.scale else stats.stats(lm)


def _tokens(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look.tokens import tokens

    return tokens(lm, args.text, merges=args.merges)


def _embeddings(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look import embeddings

    if args.nearest is not None:
        if args.words or args.word_sets:
            raise InputError("--nearest takes its words by itself; leave the others out")
        return embeddings.nearest(lm, args.nearest, k=args.k)
    _refuse(args, "without --nearest", "-k")
    if args.word_sets:
        return embeddings.embeddings(lm, args.words, word_sets=args.word_sets)
    return embeddings.embeddings(lm, args.words)


def _positions(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look import positions

    if args.order is None and args.other is None:
        _refuse(args, "without --order", "-k", "--ending")
        return positions.positions(lm)
    return positions.word_order(
        lm, args.order or _ORDER, args.other, ending=args.ending, k=args.k
    )  # fmt: skip


def _block(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look import block

    if args.all:
        _refuse(args, "with --all", "--layer", "--position")
        return block.residual_stream(lm, args.text)
    return block.block(lm, args.text, layer=args.layer or 0, position=args.position)


def _attention(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look import attention

    if args.kinds:
        _refuse(args, "with --kinds", "--layer", "--head")
        return attention.head_kinds(lm)
    return attention.attention(lm, args.text, layer=args.layer, head=args.head)


def _next(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look.next_token import next_token

    return next_token(lm, args.text, k=args.k, **_sampling(args))


def _inside(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look.inside import inside

    names = ("without", "position", "layer", "k", "temperature", "top_k", "top_p")
    return inside(lm, args.text, **{name: getattr(args, name) for name in names})


def _lens(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look.lens import lens

    return lens(lm, args.text, progress=progress)


def _attribution(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look.attribution import attribution

    return attribution(
        lm, args.text, target=args.target, against=args.against, position=args.position
    )


def _ablate(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look import ablation
    from laplm.look.continuations import continuations

    if args.without:
        _refuse(args, "with --without", "--parts", "--layer", "--target", "--against")
        tap = ablation.ablation_tap(
            lm, **ablation.parts_named(args.without), how=args.how, mean_of=args.mean_of
        )
        changes = {"nothing": None, f"without {', '.join(args.without)}": tap}
        return continuations(lm, args.text, changes, **_writing(args))
    _refuse(args, "without --without", *_WRITING)
    return ablation.ablate(
        lm,
        args.text,
        components=args.components,
        how=args.how,
        target=args.target,
        against=args.against,
        layer=args.layer,
        mean_of=args.mean_of,
        progress=progress,
    )


def _patch(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look import patching
    from laplm.look.continuations import continuations

    stages = args.stage or list(patching.STAGES)
    if args.layer is None and args.position is None:
        _refuse(args, "without --layer and --position", *_WRITING)
        return patching.patch(
            lm,
            args.clean,
            args.corrupted,
            target=args.target,
            against=args.against,
            stages=stages,
            progress=progress,
        )
    if args.layer is None or args.position is None:
        raise InputError("give both --layer and --position to write text under one patch")
    _refuse(args, "with --layer and --position", "--target", "--against")
    changes: dict[str, Any] = {"nothing": None}
    for stage in args.stage or ["resid_pre"]:
        where = ", ".join(map(str, args.position))
        changes[f"{stage} of layer {args.layer} at {where}"] = patching.patching_tap(
            lm, args.clean, args.corrupted, stage=stage, layer=args.layer, positions=args.position
        )
    return continuations(lm, args.corrupted, changes, **_writing(args))


def _steer(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look.steering import steer

    return steer(
        lm,
        args.text,
        args.towards,
        args.away_from,
        layer=args.layer,
        coefficients=args.coefficient or (-1.0, 0.0, 1.0),
        **_writing(args),
    )


def _trace(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look.trace import trace

    def told(what: str, done: int, total: int) -> None:
        if done == 0:
            note(f"keeping {total / 1e6:,.1f} MB of activations")
        progress(what, done, total)

    return trace(lm, args.text, names=args.name, progress=told)


def _compare(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look.compare import compare

    other = open_model(args.other, args.precision, args.threads, progress)
    return compare(lm, other, args.text, k=args.k)


def _generation(args: argparse.Namespace, lm: LanguageModel, progress: Progress) -> View:
    from laplm.look.generation import generation

    return generation(
        lm,
        args.text,
        max_new_tokens=args.max_new_tokens,
        alternatives=args.alternatives,
        seed=args.seed,
        stop=args.stop,
        ignore_eos=args.ignore_eos,
        **_sampling(args),
    )
