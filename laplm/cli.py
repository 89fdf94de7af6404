"""The command line: parse, call one room's function, print.

Exit codes: 0 fine, 1 our fault, 2 bad usage or input, 130 ended by Ctrl-C. Rooms are imported by
the verb that needs them, so that ``--help`` is instant. argparse, because the libraries that build
on it take longer to import than a whole short answer takes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from laplm import __version__
from laplm.errors import InputError, LaplmError

if TYPE_CHECKING:
    from laplm.gpt.tokenizer import Tokenizer
    from laplm.hub import InstalledModel
    from laplm.run.generate import GenerationResult, GenerationStream
    from laplm.run.language_model import LanguageModel

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_MAX_STDIN = 64 << 20
# What must not reach a terminal: a model may have learned escape sequences.
_CONTROL = {
    i: "\N{REPLACEMENT CHARACTER}" for i in (*range(32), *range(127, 160)) if i not in (9, 10)
}
_ONCE = {
    "weights": "preparing weights (once)",
    "kernels": "compiling for this CPU, some ten seconds (once)",
}


# --- the arguments ----------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """One plain line for a mistake, and no guessing at shortened options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += "; one that begins with a dash is joined on, as in --stop=-a"
        raise InputError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """Every verb and option. A verb's function is ``call``: parsed arguments in, exit code out."""
    parser = _Parser(
        prog="laplm",
        description="Run a GPT-2-family language model on your own CPU.",
        epilog="Exit codes: 0 fine, 1 our fault, 2 bad usage or input, 130 ended by Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"laplm {__version__}")
    verbs = parser.add_subparsers(title="commands", dest="verb", metavar="COMMAND")

    def verb(
        name: str, call: Callable[[argparse.Namespace], int], what: str, **options: Any
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=what, description=what, **options)
        sub.set_defaults(call=call)
        return sub

    _add_run(verb)
    p = verb("pull", _pull, "Download a model: the only command that opens an outside connection.")
    p.add_argument("name", metavar="NAME", help="gpt2, gpt2-medium, ..., or owner/name on the hub")
    p.add_argument("--force", action="store_true", help="fetch every file afresh")

    p = verb("models", _models, "List the models on disk.")
    _add_json(p)

    p = verb("eval", _eval, "Measure how well a model predicts a text.")
    p.add_argument("path", nargs="?", type=Path, metavar="FILE|DIR", help="UTF-8 text to score")
    p.add_argument(
        "--window", type=int, metavar="N",
        help="tokens seen at once (default: 1024, or the model's context)",
    )  # fmt: skip
    p.add_argument(
        "--stride", type=int, metavar="N",
        help="tokens scored with each further window (default: half the window)",
    )  # fmt: skip
    p.add_argument(
        "--lambada", type=Path, metavar="FILE.jsonl",
        help='guess the last word of each line\'s {"text": ...}',
    )  # fmt: skip
    _add_model(p)
    _add_json(p)

    p = verb("bench", _bench, "Time this machine beside what it could do at most.")
    p.add_argument(
        "--shape", metavar="NAME",
        help="time generated weights of the shape of gpt2, gpt2-medium, ... instead of a model",
    )  # fmt: skip
    p.add_argument(
        "--repeats", type=int, default=9, metavar="N", help="the median of N counts (default: 9)"
    )
    _add_model(p)
    _add_json(p)

    p = verb(
        "audit", _audit, "Run a command with the outside shut off; report attempts to reach it.",
        epilog="For example: laplm audit -- run 'Once upon a time'",
    )  # fmt: skip
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="after two dashes")
    return parser


def _add_run(verb: Callable[..., argparse.ArgumentParser]) -> None:
    p = verb(
        "run", _run, "Continue a prompt.",
        epilog="The text goes to standard output as it comes; a line with tokens, seconds and "
        "speed ends it on standard error. Ctrl-C ends it early and keeps what is there. A prompt "
        "that begins with a dash comes after two dashes: laplm run -- '-1 + 1 ='",
    )  # fmt: skip
    p.add_argument(
        "prompt", nargs="?", metavar="PROMPT",
        help="the text to continue; - or nothing reads it from a pipe",
    )  # fmt: skip
    p.add_argument(
        "--prompt-file", type=Path, metavar="FILE",
        help="read the prompt from a file; as with a pipe, a last newline is not part of it",
    )  # fmt: skip
    p.add_argument(
        "-n", "--max-new-tokens", type=int, metavar="N",
        help="tokens to add, at most (default: 100, or what the model still holds)",
    )  # fmt: skip
    g = p.add_argument_group("how tokens are chosen")
    g.add_argument(
        "--temperature", type=float, default=0.8, metavar="T",
        help="lower is safer, higher is wilder, 0 always takes the likeliest (default: 0.8)",
    )  # fmt: skip
    g.add_argument(
        "--greedy", action="store_const", dest="temperature", const=0.0,
        help="always the likeliest token, as --temperature 0",
    )  # fmt: skip
    g.add_argument(
        "--top-k", type=int, default=40, metavar="K",
        help="draw from the K likeliest tokens; 0 is off (default: 40)",
    )  # fmt: skip
    g.add_argument(
        "--top-p", type=float, default=1.0, metavar="P",
        help="draw from the likeliest tokens that hold this share; 1 is off (default: 1)",
    )  # fmt: skip
    g.add_argument(
        "--min-p", type=float, default=0.0, metavar="P",
        help="leave out tokens below this share of the likeliest; 0 is off (default: 0)",
    )  # fmt: skip
    g.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X",
        help="make tokens that are there already less likely; 1 is off (default: 1)",
    )  # fmt: skip
    g.add_argument(
        "--seed", type=int, metavar="N",
        help="the same seed gives the same text (default: drawn, and told)",
    )  # fmt: skip
    g = p.add_argument_group("how far and how often")
    g.add_argument(
        "--samples", type=int, default=1, metavar="N", help="continuations, computed together"
    )
    g.add_argument(
        "--stop", action="append", default=[], metavar="TEXT",
        help="end before this text; may be given several times",
    )  # fmt: skip
    g.add_argument(
        "--slide", action="store_true",
        help="when the context is full, drop its oldest half and go on",
    )  # fmt: skip
    g.add_argument("--ignore-eos", action="store_true", help="go on when the model ends its text")
    g = p.add_argument_group("what is shown")
    g.add_argument(
        "--logprobs", type=int, metavar="K",
        help="log-probability of each token and of the K likeliest in its place",
    )  # fmt: skip
    _add_json(g)
    _add_model(p.add_argument_group("the model"))


def _add_model(p: Any) -> None:
    p.add_argument(
        "-m", "--model", metavar="NAME|DIR",
        help="a model's directory, gpt2 or another name that `laplm pull` takes, or pocket, the "
        "built-in one (default: gpt2 when it is on disk, else pocket)",
    )  # fmt: skip
    p.add_argument(
        "--precision", default="int8", metavar="KIND",
        help="fp32 (exact), int8 or int4 (smallest) (default: int8)",
    )  # fmt: skip
    p.add_argument(
        "--threads", type=int, metavar="N", help="threads that work (default: one per core)"
    )


def _add_json(p: Any) -> None:
    p.add_argument("--json", action="store_true", help="print one JSON object instead")


# --- the verbs --------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    prompt = _read_prompt(args.prompt, args.prompt_file)
    with _progress() as progress:
        lm = _language_model(args, progress)
        stream = lm.stream(
            prompt,
            args.max_new_tokens,
            samples=args.samples,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            min_p=args.min_p,
            repetition_penalty=args.repetition_penalty,
            seed=args.seed,
            stop=args.stop,
            logprobs=args.logprobs or 0,
            slide=args.slide,
            ignore_eos=args.ignore_eos,
        )
    with _interruptible() as interrupted:
        if args.json:
            for _ in stream:
                if interrupted.is_set():
                    break
            _write_json(_as_json(lm, prompt, stream, with_tops=bool(args.logprobs)), indent=None)
        else:
            _print_stream(stream, interrupted)
            if args.logprobs is not None:
                _print_logprobs(stream.results(), lm.tokenizer)
    _note(_summary(lm, stream))
    return INTERRUPTED if interrupted.is_set() else 0


def _pull(args: argparse.Namespace) -> int:
    from laplm import hub

    path = hub.pull(args.name, force=args.force)
    _write(f"{args.name} is in {path}\n")
    return 0


def _models(args: argparse.Namespace) -> int:
    from laplm import hub

    found = hub.installed()
    if args.json:
        import dataclasses

        _write_json([dataclasses.asdict(m) | {"path": str(m.path)} for m in found])
        return 0
    rows = [("name", "parameters", "on disk", "stored as", "path")]
    for m in found:
        parameters = "?" if m.n_parameters is None else f"{m.n_parameters / 1e6:,.1f} M"
        path = f"{m.path} ({m.problem})" if m.problem else str(m.path)
        rows.append((m.name, parameters, f"{m.size_bytes / 1e6:,.1f} MB", m.dtype or "?", path))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for name, parameters, size, dtype, path in rows:
        _write(
            f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {size:>{widths[2]}}  "
            f"{dtype:<{widths[3]}}  {path}\n"
        )
    for m in found:
        if m.summary is not None:
            _write("\n" + _about(m))
    return 0


def _about(model: InstalledModel) -> str:
    import shutil
    import textwrap

    from laplm.built_in import CARD

    size = f"{model.size_bytes / 1e6:,.1f} MB"
    if model.n_parameters is not None:
        size = f"{model.n_parameters / 1e6:,.1f} million parameters, {size}"
    width = min(100, shutil.get_terminal_size().columns)
    lines = textwrap.wrap(
        model.summary or "", max(20, width), initial_indent="  ", subsequent_indent="  "
    )
    # The path stays whole: it is for clicking and copying.
    return "\n".join([f"{model.name}: {size}", *lines, f"  More: {model.path / CARD}", ""])


def _eval(args: argparse.Namespace) -> int:
    if args.path is None and args.lambada is None:
        raise InputError("nothing to score: give a text file or directory, or --lambada FILE")
    from laplm.run import evaluate

    documents = evaluate.read_documents(args.path) if args.path else []
    passages = evaluate.read_lambada(args.lambada) if args.lambada else []
    out: dict[str, Any] = {}
    reports = []
    with _progress() as progress:
        lm = _language_model(args, progress)
        if documents:
            scored = evaluate.perplexity(
                lm, documents, window=args.window, stride=args.stride, progress=progress
            )
            out["text"] = {"path": str(args.path)} | scored.to_dict()
            reports.append(scored.report())
        if passages:
            guessed = evaluate.lambada(lm, passages, progress=progress)
            out["lambada"] = {"path": str(args.lambada)} | guessed.to_dict()
            reports.append(guessed.report())
    if args.json:
        _write_json(out)
    else:
        _write("\n\n".join(reports) + "\n")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from laplm.gpt.model import GPT
    from laplm.run import bench

    if args.shape is not None and args.model is not None:
        raise InputError("--shape and --model: give one of them")
    if not 1 <= args.repeats <= 1000:
        raise InputError(f"--repeats is {args.repeats}, but it must be between 1 and 1000")
    with _progress() as progress:
        if args.shape is not None:
            name, cold_start = f"generated weights, shape {args.shape}", None
            checkpoint = bench.GeneratedCheckpoint(args.shape)
            gpt = GPT(checkpoint, args.precision, threads=args.threads, progress=progress)
        else:
            lm = _language_model(args, progress)
            name, gpt, cold_start = lm.name, lm.gpt, str(lm.path)
        result = bench.bench(
            gpt, name, repeats=args.repeats, cold_start=cold_start, progress=progress
        )
    if args.json:
        _write_json(result.to_dict())
    else:
        _write(bench.report(result))
    return 0


def _audit(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise InputError("nothing to run: laplm audit -- run 'Once upon a time'")
    from laplm.audit import run_audited

    return run_audited(command)


# --- in ---------------------------------------------------------------------------------------


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
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
        data = sys.stdin.buffer.read(_MAX_STDIN + 1)
        if len(data) > _MAX_STDIN:
            raise InputError(f"the prompt is longer than {_MAX_STDIN >> 20} MB; shorten it")
        text = _decode(data, "the prompt")
    # Editors and echo end the last line; a model would take it for the end of the paragraph.
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise _empty()
    return text


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


def _language_model(args: argparse.Namespace, progress: _Progress) -> LanguageModel:
    from laplm.gpt.quantize import PRECISIONS
    from laplm.run.language_model import LanguageModel, default_model

    if args.precision not in PRECISIONS:
        raise InputError(f"precision is {args.precision!r}, but it must be fp32, int8 or int4")
    name = args.model
    if name is None:
        name, why = default_model()
        _note(f"model {name}: {why}")
    return LanguageModel(name, args.precision, args.threads, progress)


# --- out --------------------------------------------------------------------------------------


def _print_stream(stream: GenerationStream, interrupted: threading.Event) -> None:
    printer = _Printer(stream.request.samples)
    for step in stream:
        printer.add(step.sample, step.text, ended=step.finish_reason is not None)
        if interrupted.is_set():
            break
    printer.finish([result.text for result in stream.results()])


class _Printer:
    """Prints samples one after the other as they come: the first unfinished one is live."""

    def __init__(self, count: int) -> None:
        self._texts = [""] * count
        self._ended = [False] * count
        self._current = 0
        self._printed = 0  # characters of the current sample
        self._head()

    def add(self, sample: int, text: str, *, ended: bool) -> None:
        self._texts[sample] += text
        self._ended[sample] = ended
        self._print()

    def finish(self, texts: list[str]) -> None:
        self._texts = texts
        self._ended = [True] * len(texts)
        self._print()
        self._end_line()

    def _print(self) -> None:
        while True:
            text = self._texts[self._current][self._printed :]
            if text:
                _write(_printable(text))
                self._printed += len(text)
            if not self._ended[self._current] or self._current == len(self._texts) - 1:
                return
            self._end_line()
            self._current, self._printed = self._current + 1, 0
            self._head()

    def _head(self) -> None:
        if len(self._texts) > 1:
            _write(_heading(self._current, len(self._texts)))

    def _end_line(self) -> None:
        if not self._texts[self._current].endswith("\n"):
            _write("\n")


def _heading(index: int, count: int) -> str:
    return f"--- sample {index + 1} of {count} ---\n"


def _printable(text: str) -> str:
    return text.translate(_CONTROL) if sys.stdout.isatty() else text


def _print_logprobs(results: list[GenerationResult], tokenizer: Tokenizer) -> None:
    import json

    def cell(text: str, logprob: float) -> str:
        return f"{_printable(json.dumps(text, ensure_ascii=False)):<16} {logprob:8.3f}"

    for result in results:
        _write(_heading(result.sample, len(results)) if len(results) > 1 else "\n")
        for i, (token, logprob) in enumerate(zip(result.token_ids, result.logprobs, strict=True)):
            cells = [cell(tokenizer.token_text(token), logprob)]
            cells += [cell(t.text, t.logprob) for t in (result.top_logprobs or [()] * (i + 1))[i]]
            _write(" | ".join(cells) + "\n")


def _summary(lm: LanguageModel, stream: GenerationStream) -> str:
    t = stream.timings
    threads = f"{lm.gpt.threads} thread{'s' if lm.gpt.threads != 1 else ''}"
    seed = "greedy" if stream.params.greedy else f"seed {stream.params.seed}"
    return (
        f"{t.tokens:,} token{'s' if t.tokens != 1 else ''} in {t.seconds:.2f} s, "
        f"{t.tokens_per_second:,.1f} tokens/s, first token after {t.first_token_seconds:.2f} s "
        f"(loaded in {lm.load_seconds:.2f} s); {lm.name}, {lm.gpt.precision}, {threads}, {seed}"
    )


def _as_json(
    lm: LanguageModel, prompt: str, stream: GenerationStream, with_tops: bool
) -> dict[str, Any]:
    import dataclasses

    def sample(result: GenerationResult) -> dict[str, Any]:
        out: dict[str, Any] = {
            "text": result.text,
            "token_ids": result.token_ids,
            "logprobs": result.logprobs,
            "finish_reason": result.finish_reason,
        }
        if with_tops:
            out["top_logprobs"] = [[t._asdict() for t in tops] for tops in result.top_logprobs]
        return out

    results = stream.results()
    timings, params = stream.timings, dataclasses.asdict(stream.params)
    out = {
        "model": lm.name,
        "precision": lm.gpt.precision,
        "threads": lm.gpt.threads,
        "prompt": prompt,
        "prompt_token_ids": stream.request.prompt_ids,
        **sample(results[0]),
        "usage": {
            "prompt_tokens": len(stream.request.prompt_ids),
            "completion_tokens": timings.tokens,
            "total_tokens": len(stream.request.prompt_ids) + timings.tokens,
        },
        "timings": {
            "load_seconds": lm.load_seconds,
            "first_token_seconds": timings.first_token_seconds,
            "seconds": timings.seconds,
            "tokens_per_second": timings.tokens_per_second,
        },
        "sampling": params,
    }
    if len(results) > 1:
        out["samples"] = [sample(result) for result in results]
    return out


def _write_json(value: Any, indent: int | None = 2) -> None:
    import json

    _write(json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


class _ReaderLeftError(Exception):
    """Whoever read standard output has closed it, as ``head`` does."""


def _write(text: str) -> None:
    """To standard output, now. A reader who has left ends the command quietly."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise _ReaderLeftError from None
        raise InputError(f"cannot write the output ({error.strerror})") from None


def _note(text: str) -> None:
    """One line for the person, on standard error."""
    with contextlib.suppress(OSError, ValueError):
        print(" ".join(text.split("\n")), file=sys.stderr, flush=True)


class _Progress:
    """A bar on a terminal, a line elsewhere; neither until something does take time."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        label = _ONCE.get(what, what)
        if sys.stderr is None or not sys.stderr.isatty():
            if what in _ONCE and what not in self._tasks:
                _note(label)
            self._tasks[what] = None
            return
        if self._bars is None:
            from rich import progress
            from rich.console import Console
            from rich.text import Text

            class Clock(progress.TimeRemainingColumn):
                def render(self, task: progress.Task) -> Text:
                    if task.total is None:
                        return progress.TimeElapsedColumn().render(task)
                    return super().render(task)

            self._bars = progress.Progress(
                progress.SpinnerColumn(),
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                Clock(elapsed_when_finished=True),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
        # Of one step alone no share is known: its bar only moves, and the clock shows time passed.
        steps = total if total > 1 or done == total else None
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(label, total=steps)
        self._bars.update(self._tasks[what], completed=done, total=steps)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()


@contextlib.contextmanager
def _progress() -> Iterator[_Progress]:
    progress = _Progress()
    try:
        yield progress
    finally:
        progress.close()


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Let the first Ctrl-C be noticed between two tokens, so that what is there is kept whole."""
    event = threading.Event()

    def handle(_signal: int, _frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one ends at once

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0 fine, 1 our fault, 2 bad usage or input, 130 ended by Ctrl-C.
    """
    # Model text is Unicode, whatever the terminal can show or the locale would write to a file.
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            encoding = out.encoding if out.isatty() else "utf-8"
            out.reconfigure(encoding=encoding, errors="replace")
    try:
        return _call(sys.argv[1:] if argv is None else list(argv))
    except _ReaderLeftError:
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("LAPLM_DEBUG"):
            raise
        if isinstance(error, LaplmError):
            _note(f"laplm: {error}")
            return 2
        if isinstance(error, MemoryError):
            _note("laplm: not enough memory; try --precision int4, or a smaller model")
            return 2
        _note(
            f"laplm: internal error: {type(error).__name__}: {error}; please report it with what "
            "you typed (LAPLM_DEBUG=1 shows where it happened)"
        )
        return 1


def _call(argv: list[str]) -> int:
    parser = make_parser()
    try:
        args, unknown = parser.parse_known_args(argv)
    except SystemExit as end:  # --help and --version have printed what was asked for
        return int(end.code or 0)
    if unknown:
        options = [word for word in unknown if word.startswith("-")]
        what = f"no such option: {options[0]}" if options else f"too many arguments: {unknown[0]!r}"
        prog = f"laplm {args.verb}" if args.verb else "laplm"
        raise InputError(f"{what} (see {prog} --help)")
    if args.verb is None:
        _write(parser.format_help())
        return 0
    code: int = args.call(args)
    return code
