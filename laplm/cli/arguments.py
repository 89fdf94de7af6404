"""What is typed: options that several commands share, prompts, and the model."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from laplm.cli.output import note, write
from laplm.cli.progress import ProgressBars
from laplm.errors import InputError, LaplmError, did_you_mean, format_bytes, one_of, shown

if TYPE_CHECKING:
    from laplm.run.language_model import LanguageModel

_MAX_STDIN = 64 << 20
_DAY = 86_400  # seconds


AddCommand = Callable[..., argparse.ArgumentParser]
"""Adds a command: its name, its function, what it does, and options of ``Parser``."""


class Parser(argparse.ArgumentParser):
    """One plain line for a mistake, and no guessing at shortened options."""

    def __init__(self, *, example: str | None = None, **options: Any) -> None:
        super().__init__(
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
            allow_abbrev=False,
            **options,
        )
        self.example = example

    def format_help(self) -> str:
        """What ``--help`` prints: first of all, a command to copy."""
        page = super().format_help()
        return f"For example: {self.example}\n\n{page}" if self.example else page

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with a page of usage."""
        if message.endswith("expected one argument"):
            message += "; one that begins with a dash is joined on, as in --stop=-a"
        message = re.sub(
            r"^argument (\S+): invalid (int|float) value: (.*)$",
            lambda found: f"{_first(found[1])} is {found[3]}, but it must be a {_KINDS[found[2]]}",
            message,
            flags=re.DOTALL,
        )
        raise InputError(f"{message} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            kind = action.dest.replace("subcommand", "command")
            hint = did_you_mean(value, action.choices)
            if kind == "command" and value in _OTHERS_COMMANDS:
                hint = f"; here it is laplm {_OTHERS_COMMANDS[value]}"
            elif kind == "command" and " " in value:
                hint = f"; to continue a text: laplm run {shlex.quote(value)}"
            raise InputError(f"no such {kind}: {value!r}{hint} (see {self.prog} --help)")
        super()._check_value(action, value)

    def _print_message(self, message: str, file: Any = None) -> None:
        # Pages of help and the version, which go where all output goes.
        if message:
            write(message)


# Commands of Ollama, and what stands for them here.
_OTHERS_COMMANDS = {
    "list": "models", "ls": "models", "show": "models show NAME", "rm": "models rm NAME",
    "create": "tune", "ps": "models",
}  # fmt: skip
_KINDS = {"int": "whole number", "float": "number"}


def _first(option: str) -> str:
    """``-n/--max-new-tokens`` by the name that comes first."""
    return option.split("/")[0]


def selected_parser(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> argparse.ArgumentParser:
    """The parser of the command, or of the view, that was typed."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            word = getattr(args, action.dest, None)
            return selected_parser(action.choices[word], args) if word in action.choices else parser
    return parser


def option_names(parser: argparse.ArgumentParser) -> dict[str, str]:
    """What the parameters of a command are called when they are typed: ``{"top_k": "--top-k"}``."""
    # Of several, as --temperature and --greedy, the one that was added first.
    return {a.dest: a.option_strings[0] for a in parser._actions[::-1] if a.option_strings}


def add_model(p: Any, *, model: bool = True, precision: str | None = None) -> None:
    """Which model (unless it is an argument of its own), in which precision, how many threads."""
    if model:
        p.add_argument(
            "-m", "--model", metavar="NAME|DIR",
            help="a model's directory or GGUF file, gpt2 or another name that `laplm pull` takes, "
            "ollama:NAME, or pocket, the built-in one (default: gpt2 when it is on disk, else "
            "pocket)",
        )  # fmt: skip
    p.add_argument(
        "--precision", default=precision, metavar="KIND",
        help="fp32 (exact), stored (as the file has it), int8 or int4 (smallest) (default: "
        f"{precision or 'int8; stored for a quantised file'})",
    )  # fmt: skip
    p.add_argument(
        "--threads", type=int, metavar="N", help="threads that work (default: one per core)"
    )


def add_context(p: Any) -> None:
    """How many positions a sequence may have."""
    p.add_argument(
        "--context", type=int, metavar="N",
        help="positions of a text at most, the prompt's too (default: as many as the model was "
        "trained on, or half of the memory that is left holds)",
    )  # fmt: skip


def add_sampling(p: Any) -> Any:
    """How tokens are chosen, but for the seed, which goes to the group that is returned."""
    g = p.add_argument_group(
        "how tokens are chosen (default: as the model's makers say, else temperature 0.8, top-k 40)"
    )

    def add(name: str, metavar: str, about: str) -> None:
        kind = int if name == "top_k" else float
        g.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=about)

    add("temperature", "T", "lower is safer, higher is wilder, 0 always takes the likeliest")
    g.add_argument(
        "--greedy", action="store_const", dest="temperature", const=0.0,
        help="always the likeliest token, as --temperature 0",
    )  # fmt: skip
    add("top_k", "K", "draw from the K likeliest tokens; 0 is off")
    add("top_p", "P", "draw from the likeliest tokens that hold this share; 1 is off")
    add("min_p", "P", "leave out tokens below this share of the likeliest; 0 is off")
    add("repetition_penalty", "X", "make tokens that are there already less likely; 1 is off")
    return g


def add_json(p: Any) -> None:
    """``--json``."""
    p.add_argument("--json", action="store_true", help="print one JSON object instead")


def read_prompt(prompt: str | None, prompt_file: Path | None = None) -> str:
    """The text that was typed, or piped in, or is in a file.

    Raises:
        InputError: it is empty, not UTF-8, too long, or given twice.
    """
    if prompt is not None and prompt_file is not None:
        raise InputError("give the prompt or --prompt-file, not both")
    if prompt_file is not None:
        try:
            text = _decode(prompt_file.read_bytes(), f"{prompt_file}")
        except OSError as error:
            raise InputError(f"{prompt_file} cannot be read ({error.strerror})") from None
    elif prompt is not None and prompt != "-":
        # What a terminal passes on that is not UTF-8 comes as lone surrogates.
        text = _decode(os.fsencode(prompt), "the prompt")
        if not text:
            raise _empty()
        return text
    else:
        if sys.stdin is None or (prompt is None and sys.stdin.isatty()):
            raise InputError('no prompt: write laplm run "Once upon a time", or pipe one in')
        text = read_piped()
    # Editors and echo end the last line; a model would take it for the end of the paragraph.
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise _empty()
    return text


def read_piped() -> str:
    """All of standard input, which may be empty.

    Raises:
        InputError: it is not UTF-8, or too long.
    """
    data = sys.stdin.buffer.read(_MAX_STDIN + 1)
    if len(data) > _MAX_STDIN:
        raise InputError(f"the prompt is longer than {_MAX_STDIN >> 20} MB; shorten it")
    return _decode(data, "the prompt")


def _empty() -> InputError:
    return InputError('the prompt is empty; write the beginning of a text: "Once upon a time"')


def _decode(data: bytes, what: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{what} is UTF-16, not UTF-8; convert it: iconv -f utf-16 -t utf-8")
    zero = data.find(b"\0")
    if zero >= 0:
        raise InputError(
            f"{what} has a NUL byte (position {zero:,}), so it is not text; give text in UTF-8"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} is not UTF-8 (byte 0x{error.object[error.start]:02x} at position "
            f"{error.start:,}); convert it, for instance with iconv -f latin1 -t utf-8"
        ) from None


def model_named_by(text: str) -> str | None:
    """The model that a text rather names than says, as ``-m`` takes it; None for any other text.

    A GGUF file, a name that ``laplm pull`` takes or the beginning of one, or what is on disk.
    """
    from laplm.hub import locate

    if locate.is_gguf_name(text):
        return text
    if any(each.isspace() for each in text):
        return None
    from laplm.hub import stores  # not for every prompt

    known = [locate.POCKET, *locate.ALIASES]
    if stores.is_store_name(text) or text in known:
        return text
    if others := stores.names_like(text, whole=True):
        return others[0]
    if any(name.startswith(f"{text}-") for name in known):
        return text
    try:  # a directory that happens to be called as a text is none
        return text if locate.describe(text).problem is None else None
    except LaplmError:
        return None


def refuse_model_name(text: str | None, args: argparse.Namespace) -> None:
    """Refuse to take a model for a text: other programs have it behind the command, ours by -m.

    Only of what was typed, and where no model is named beside it.

    Raises:
        InputError: it is the name of a model.
    """
    if text is None or text == "-" or args.model is not None:
        return
    model = model_named_by(text)
    if model is not None:
        raise InputError(
            f"{shown(text)} is the name of a model, and stands where a text is expected; -m names "
            f"a model: laplm {args.subcommand} -m {shlex.quote(model)}"
        )


def note_trailing_space(text: str, lm: LanguageModel) -> None:
    """Say why what follows a prompt that ends in a space is poor."""
    from laplm.run.request import ends_in_space_token

    if ends_in_space_token(text, lm.tokenizer):
        note(
            "the prompt ends in a space, but tokens of words begin with theirs: without the last "
            "space the text goes on better",
            dim=True,
        )


def note_model(name: str, why: str) -> None:
    """Say which model was taken where none was named: once a day, not before every command."""
    from laplm import home

    told = None
    with contextlib.suppress(OSError, LaplmError):
        told = home.directory("told") / f"model-{name}"
        if 0 <= time.time() - told.stat().st_mtime < _DAY:
            return
    note(f"model {name}: {why}", dim=True)
    with contextlib.suppress(OSError):
        if told is not None:
            told.touch()


@contextlib.contextmanager
def fast_startup() -> Iterator[None]:
    """Import NumPy and load a model here, without what takes a tenth of that and gives nothing.

    Python looks for no garbage, neither now nor later among what is made: hundreds of thousands of
    objects, of which nearly all stay. And OpenBLAS's threads, which begin with NumPy's import and
    would keep the other cores busy for 2^26 cycles before they sleep, sleep at once.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2^4 cycles, the least that it takes
    gc.unfreeze()  # what was made for a model before this one
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def open_model(
    name: str | None,
    precision: str | None,
    threads: int | None,
    progress: ProgressBars,
    context: int | None = None,
) -> LanguageModel:
    """The model that ``add_model``'s options name; which one, when none was named, is noted.

    Raises:
        LaplmError: it cannot be opened.
    """
    from laplm.model.engine.quantize import PRECISIONS
    from laplm.run.language_model import LanguageModel, default_model

    if precision is not None and precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}, but it must be {one_of(PRECISIONS)}")
    if name is None:
        name, why = default_model()
        note_model(name, why)
    return LanguageModel(name, precision, threads, progress, context=context)


def open_for_generation(args: argparse.Namespace, progress: ProgressBars) -> LanguageModel:
    """The model that the options of ``add_model`` and ``add_context`` name.

    What its context takes of memory is noted where it was set, or is not the whole of the model's.

    Raises:
        LaplmError: it cannot be opened.
    """
    lm = open_model(args.model, args.precision, args.threads, progress, args.context)
    if args.context is not None:
        note(described_context(lm), dim=True)
    elif lm.context < lm.config.n_ctx:
        note(
            f"{described_context(lm)}, of the model's {lm.config.n_ctx:,}: it shall not take more "
            "than half of the memory that is left; --context sets another",
            dim=True,
        )
    return lm


def described_context(lm: LanguageModel) -> str:
    """A model's context and what it takes: "context of 2,048 positions, 36.1 MB when full"."""
    size = format_bytes(lm.context_bytes)
    return f"context of {lm.context:,} position{'s' if lm.context != 1 else ''}, {size} when full"
