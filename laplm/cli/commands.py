"""Every command but the two large ones, and the way from what is typed to an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplm import __version__
from laplm.cli.arguments import (
    Parser,
    add_json,
    add_model,
    chosen,
    open_model,
    option_names,
)
from laplm.cli.completion import add_completion
from laplm.cli.look import add_look
from laplm.cli.output import (
    INTERRUPTED,
    OutputClosedError,
    note,
    progress_bars,
    write,
    write_json,
)
from laplm.cli.run import add_run
from laplm.cli.serve import add_serve
from laplm.cli.talk import add_talk
from laplm.cli.tune import add_tune
from laplm.errors import InputError, LaplmError, did_you_mean, visible

if TYPE_CHECKING:
    from laplm.hub.locate import InstalledModel


class _Version(argparse.Action):
    """Print the version, then the kernels' variant for this machine and why there is no better."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        write(f"laplm {__version__}\n")
        from laplm.native import isa

        write(f"kernels: {isa.choose().name} on {isa.cpu_name()} ({isa.why()})\n")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Every verb and option. A verb's function is ``call``: parsed arguments in, exit code out."""
    parser = Parser(
        prog="laplm",
        example='laplm run "Once upon a time, there was a little girl"',
        description="Run a GPT-2-family language model on your own CPU, look inside it, teach it.",
        epilog="Exit codes: 0 fine, 1 our fault, 2 bad usage or input, 130 ended by Ctrl-C.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0,
        help="show the version, and which machine instructions are used here",
    )  # fmt: skip
    verbs = parser.add_subparsers(title="commands", dest="verb", metavar="COMMAND")

    def verb(
        name: str, call: Callable[[argparse.Namespace], int], what: str, **options: Any
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=what, description=what, **options)
        sub.set_defaults(call=call)
        return sub

    add_run(verb)
    p = verb(
        "pull", _pull, "Download a model: the only command that opens an outside connection.",
        example="laplm pull gpt2",
    )  # fmt: skip
    p.add_argument("name", metavar="NAME", help="gpt2, gpt2-medium, ..., or owner/name on the hub")
    p.add_argument("--force", action="store_true", help="fetch every file afresh")

    p = verb("models", _models, "List the models on disk.", example="laplm models")
    add_json(p)

    add_look(verb)
    add_tune(verb)
    add_serve(verb)
    add_talk(verb)

    p = verb(
        "export", _export, "Write a model as other programs read it.",
        example="laplm export mine --precision q8_0 --out mine.gguf",
    )  # fmt: skip
    p.add_argument("model", metavar="MODEL", help="a name or a directory, adapters too")
    p.add_argument(
        "--to", metavar="FORM",
        help="hf: a Hugging Face directory; peft-merged: the same, of an adapter; gguf: a file for "
        "llama.cpp and ollama (default: gguf where PATH ends in .gguf, else hf)",
    )  # fmt: skip
    p.add_argument(
        "--precision", default="f32", metavar="KIND",
        help="f32, f16 or bf16; for gguf f32, f16 or q8_0 (default: f32)",
    )  # fmt: skip
    p.add_argument("--out", type=Path, required=True, metavar="PATH", help="where it goes")

    p = verb("eval", _eval, "Measure how well a model predicts a text.",
             example="laplm eval notes.txt -m gpt2")  # fmt: skip
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
    add_model(p)
    add_json(p)

    p = verb("bench", _bench, "Time this machine beside what it could do at most.",
             example="laplm bench --shape gpt2")  # fmt: skip
    p.add_argument(
        "--shape", metavar="NAME",
        help="time generated weights of the shape of gpt2, gpt2-medium, ... instead of a model",
    )  # fmt: skip
    p.add_argument(
        "--repeats", type=int, default=9, metavar="N", help="the median of N counts (default: 9)"
    )
    add_model(p)
    add_json(p)

    p = verb(
        "audit", _audit, "Run a command with the outside shut off; report attempts to reach it.",
        example="laplm audit -- run 'Once upon a time'",
    )  # fmt: skip
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="after two dashes")
    add_completion(verb, make_parser)
    return parser


def _pull(args: argparse.Namespace) -> int:
    from laplm.hub import locate, pull

    path = pull.pull(args.name, force=args.force)
    write(f"{args.name} is in {path}\n")
    if locate.is_adapter(path):
        from laplm.model.files.adapter import read_adapter_config

        base = read_adapter_config(path).base_model_name_or_path
        try:
            locate.locate_base(path, base)
        except LaplmError:
            write(f"it is an adapter for {base}, which is not on disk: laplm pull {base}\n")
    return 0


def _models(args: argparse.Namespace) -> int:
    from laplm.hub import locate

    found = locate.installed()
    if args.json:
        import dataclasses

        write_json([dataclasses.asdict(m) | {"path": str(m.path)} for m in found])
        return 0
    rows: list[tuple[str, ...]] = [("name", "parameters", "on disk", "stored as", "path")]
    for m in found:
        parameters = "?" if m.n_parameters is None else f"{m.n_parameters / 1e6:,.1f} M"
        path = f"{m.path} ({m.problem})" if m.problem else str(m.path)
        row = (m.name, parameters, f"{m.size_bytes / 1e6:,.1f} MB", m.dtype or "?", path)
        # What a directory is called may hold anything.
        rows.append(tuple(visible(" ".join(cell.split("\n"))) for cell in row))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for name, parameters, size, dtype, path in rows:
        write(
            f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {size:>{widths[2]}}  "
            f"{dtype:<{widths[3]}}  {path}\n"
        )
    for m in found:
        if m.summary is not None:
            write("\n" + _about(m))
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


def _export(args: argparse.Namespace) -> int:
    from laplm.model.files.export import export
    from laplm.run.language_model import LanguageModel

    done = export(LanguageModel(args.model, "fp32"), args.out, args.to, args.precision)
    write(
        f"{done.path}: {done.size_bytes / 1e6:,.1f} MB; read again, its logits differ by at most "
        f"{done.deviation:.2g} of their spread\n"
    )
    for path in done.also:
        write(f"{path}: for ollama create NAME -f {path}\n")
    return 0


def _eval(args: argparse.Namespace) -> int:
    if args.path is None and args.lambada is None:
        raise InputError("nothing to score: give a text file or directory, or --lambada FILE")
    from laplm.run import evaluate

    documents = evaluate.read_documents(args.path) if args.path else []
    passages = evaluate.read_lambada(args.lambada) if args.lambada else []
    out: dict[str, Any] = {}
    reports = []
    with progress_bars() as progress:
        lm = open_model(args.model, args.precision, args.threads, progress)
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
        write_json(out)
    else:
        write("\n\n".join(reports) + "\n")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from laplm.model.engine.model import GPT
    from laplm.run import bench

    if args.shape is not None and args.model is not None:
        raise InputError("--shape and --model: give one of them")
    if not 1 <= args.repeats <= 1000:
        raise InputError(f"--repeats is {args.repeats}, but it must be between 1 and 1000")
    with progress_bars() as progress:
        if args.shape is not None:
            name, cold_start = f"generated weights, shape {args.shape}", None
            checkpoint = bench.GeneratedCheckpoint(args.shape)
            gpt = GPT(checkpoint, args.precision, threads=args.threads, progress=progress)
        else:
            lm = open_model(args.model, args.precision, args.threads, progress)
            name, gpt, cold_start = lm.name, lm.gpt, str(lm.path)
        result = bench.bench(
            gpt, name, repeats=args.repeats, cold_start=cold_start, progress=progress
        )
    if args.json:
        write_json(result.to_dict())
    else:
        write(bench.report(result))
    return 0


def _audit(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise InputError("nothing to run: laplm audit -- run 'Once upon a time'")
    from laplm.audit import run_audited

    return run_audited(command)


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
    except OutputClosedError:
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("LAPLM_DEBUG"):
            raise
        if isinstance(error, LaplmError):
            note(f"laplm: {error}")
            return 2
        if isinstance(error, MemoryError):
            note("laplm: not enough memory; try --precision int4, or a smaller model")
            return 2
        note(
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
    command = chosen(parser, args)
    if unknown:
        raise InputError(f"{_not_known(command, unknown)} (see {command.prog} --help)")
    if args.verb is None:
        write(parser.format_help())
        return 0
    try:
        code: int = args.call(args)
    except InputError as error:
        raise InputError(error.named(option_names(command))) from error
    return code


def _not_known(command: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    option = next((word for word in unknown if word.startswith("-")), None)
    if option is None:
        return f"too many arguments: {unknown[0]!r}"
    known = [name for action in command._actions for name in action.option_strings]
    return f"no such option: {option}{did_you_mean(option.split('=')[0], known)}"
