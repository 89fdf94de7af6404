"""``laplm tune``: what was read, the plan, the training, what came of it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplm.cli.arguments import open_model
from laplm.cli.output import INTERRUPTED, note, progress_bars, write
from laplm.errors import InputError

if TYPE_CHECKING:
    from laplm.run.language_model import LanguageModel
    from laplm.tune.data.read import Reading
    from laplm.tune.trainer import Progressed
    from laplm.tune.tuning import Plan, TuneConfig, TuneResult

# Kept in run.json, so that --resume needs nothing else.
_READING = ("column", "train_on_prompt", "skip_bad")
# Where a run is computed may change when it goes on.
_MACHINE = ("device", "shard", "tensorboard", "threads")
_MOST_NOTES = 10  # of a directory with many tables


def add_tune(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    p = verb(
        "tune", _tune, "Teach a model on your own text.",
        example="laplm tune notes.txt -m pocket --out mine",
        epilog="Then: laplm run -m mine. Ctrl-C keeps everything; laplm tune --resume mine goes "
        "on.",
    )  # fmt: skip
    p.add_argument(
        "data", nargs="?", type=Path, metavar="DATA",
        help=".txt (documents separated by <|endoftext|>), .jsonl, .csv, .parquet, or a directory",
    )  # fmt: skip
    p.add_argument("--out", type=Path, metavar="DIR", help="where the tuned model goes")
    p.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    p.add_argument(
        "--report", type=Path, metavar="DIR", help="write the report of a run that has ended again"
    )
    p.add_argument("--dry-run", action="store_true", help="only show what was read, and the plan")
    p.add_argument(
        "--json", action="store_true",
        help="for programs: one JSON object a line, of plan, step, eval and done",
    )  # fmt: skip
    g = p.add_argument_group("the data")
    g.add_argument("--column", metavar="NAME", help="which column or key holds the text")
    g.add_argument(
        "--train-on-prompt", action="store_true", help="learn prompts too, not only what follows"
    )
    g.add_argument("--skip-bad", action="store_true", help="leave bad rows out instead of stopping")
    g.add_argument(
        "--heldout", type=float, metavar="PERCENT",
        help="documents that are only measured on (default: 5)",
    )  # fmt: skip
    g = p.add_argument_group("how it learns")
    g.add_argument(
        "--method", metavar="HOW",
        help="full: every weight; lora: small matrices beside them (default: full)",
    )  # fmt: skip
    g.add_argument("--epochs", type=float, metavar="N", help="how often to read it (default: 3)")
    g.add_argument("--max-steps", type=int, metavar="N", help="updates, instead of --epochs")
    g.add_argument("--batch-size", type=int, metavar="N", help="windows at once (default: 4)")
    g.add_argument(
        "--grad-accum-steps", type=int, metavar="N", help="batches an update (default: 1)"
    )
    g.add_argument("--window", type=int, metavar="T", help="tokens of a window (default: 256)")
    g.add_argument(
        "--learning-rate", type=float, metavar="X",
        help="the peak (default: one that suits method and model)",
    )  # fmt: skip
    g.add_argument(
        "--dropout", type=float, metavar="X",
        help="share of attention's and feed-forward's output that is dropped (default: 0.1)",
    )  # fmt: skip
    g.add_argument(
        "--patience", type=int, metavar="N",
        help="end after N measurements that are not better (default: never)",
    )  # fmt: skip
    g.add_argument("--seed", type=int, metavar="N", help="of everything that is drawn (default: 1)")
    g.add_argument(
        "--checkpointing", action="store_true", default=None,
        help="less memory, about a third more time",
    )  # fmt: skip
    g = p.add_argument_group("adapters (--method lora)")
    g.add_argument("--rank", type=int, metavar="R", help="(default: 8)")
    g.add_argument("--alpha", type=float, metavar="X", help="(default: 16)")
    g.add_argument("--lora-dropout", type=float, metavar="X", help="(default: 0)")
    g.add_argument(
        "--target", action="append", metavar="NAME",
        help="c_attn, c_proj or c_fc; may be given several times (default: all three)",
    )  # fmt: skip
    g = p.add_argument_group("the model")
    g.add_argument(
        "-m", "--model", metavar="NAME|DIR",
        help="what to begin from (default: gpt2 when it is on disk, else pocket)",
    )  # fmt: skip
    g.add_argument(
        "--base-precision", metavar="P",
        help="of the weights that adapters stand beside: fp32 or int8 (default: fp32)",
    )  # fmt: skip
    g = p.add_argument_group(
        "the machine", "several processes, or machines, train together when torchrun starts them"
    )
    g.add_argument(
        "--precision", metavar="P", help="bf16 or fp32 (default: what the device is fastest in)"
    )
    g.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: cpu)")
    g.add_argument(
        "--shard", action="store_true",
        help="divide the weights among the processes (FSDP2), where one could not hold them",
    )  # fmt: skip
    g.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard's files to DIR/run too"
    )
    g.add_argument("--threads", type=int, metavar="N", help="threads (default: one per core)")


def _tune(args: argparse.Namespace) -> int:
    with contextlib.ExitStack() as at_the_end:
        try:
            return _tune_until(args, at_the_end)
        except InputError as error:
            # What the command itself calls otherwise.
            raise InputError(error.named({"n_positions": "--window"})) from error


def _tune_until(args: argparse.Namespace, at_the_end: contextlib.ExitStack) -> int:
    earlier = args.resume or args.report
    if earlier is not None:
        _alone(args)
        from laplm.tune.tuning import read_run

        run = read_run(earlier)
        for name, value in run["request"].items():
            if getattr(args, name) is None or name in _READING:
                setattr(args, name, Path(value) if name == "data" else value)
        args.model, args.out, config = run["model"], earlier, run["config"]
    else:
        if args.data is None:
            raise InputError("no data: write laplm tune notes.txt --out mine")
        if args.out is None:
            if not args.dry_run:
                raise InputError("where should the model go? Add --out DIR")
            import tempfile

            place = at_the_end.enter_context(tempfile.TemporaryDirectory(prefix="laplm-plan-"))
            args.out = Path(place) / "run"
        config = _config(args)
    from laplm.bounds import TUNING
    from laplm.tune.data.read import read_examples
    from laplm.tune.tuning import tune

    if args.threads is not None:
        TUNING["threads"].check("threads", args.threads)
    reading = read_examples(args.data, **{name: getattr(args, name) for name in _READING})
    _note_reading(reading)
    with progress_bars() as progress:
        lm = open_model(args.model, "fp32", args.threads, progress)

    if args.report is not None:
        paths = _report(args.report, reading, lm)
        write(f"before and after: {' '.join(map(str, paths))}\n")
        return 0

    speaks = os.environ.get("RANK", "0") == "0"  # as torchrun numbers processes

    progress = at_the_end.enter_context(progress_bars())

    def planned(plan: Plan) -> bool:
        progress.close()  # the trainer has a bar of its own
        if args.json and speaks:
            _tell("plan", **_plan_json(plan, config, lm.name))
        elif speaks:
            write(_plan_text(plan, config, lm.name))
        return not args.dry_run

    request = {name: getattr(args, name) for name in (*_READING, "threads")}
    try:
        result = tune(
            reading, lm, args.out, config,
            resume=args.resume is not None, planned=planned, threads=args.threads,
            device=args.device, shard=args.shard, tensorboard=args.tensorboard,
            request=request | {"data": str(args.data.resolve())}, progress=progress,
            on_step=_tell_step if args.json and speaks else None,
            on_eval=(lambda now: _tell_eval(now, args.out)) if args.json and speaks else None,
        )  # fmt: skip
    except KeyboardInterrupt:
        if speaks:
            note(f"stopped; everything is kept. Go on with: laplm tune --resume {args.out}")
        return INTERRUPTED
    if result is not None and speaks:
        if not args.json:
            write(_result_text(result))
        paths = _report(args.out, reading, lm)
        if args.json:
            _tell("done", **dataclasses.asdict(result), report=paths)
        else:
            write(f"before and after: {' '.join(map(str, paths))}\n")
    return 0


def _note_reading(reading: Reading) -> None:
    for line in reading.notes[:_MOST_NOTES]:
        note(line)
    if (more := len(reading.notes) - _MOST_NOTES) > 0:
        note(f"and {more:,} more")
    for line in reading.skipped:
        note(f"left out: {line}")


def _report(directory: Path, reading: Reading, before: LanguageModel) -> list[Path]:
    from laplm.run.language_model import LanguageModel
    from laplm.tune.report import make_report, write_report

    with progress_bars() as progress:
        # Texts as they will be read: with the precision that laplm run takes.
        old, new = (
            LanguageModel(name, "int8", None, progress) for name in (before.name, str(directory))
        )
        return list(write_report(make_report(directory, reading, old, new, progress)))


def _alone(args: argparse.Namespace) -> None:
    """A run that goes on, or is reported on, has the settings it began with."""
    which = "resume" if args.resume is not None else "report"
    given = [
        name for name in vars(args)
        if name not in (which, "dry_run", "json", "call", "verb", *_MACHINE)
        and getattr(args, name) not in (None, False)
    ]  # fmt: skip
    if given:
        option = {"data": "DATA", "model": "--model"}.get(given[0], f"--{given[0]}")
        raise InputError(
            f"{option.replace('_', '-')}: a run keeps the settings it began with; give "
            f"--{which} DIR without it"
        )


def _config(args: argparse.Namespace) -> TuneConfig:
    from laplm.bounds import TUNING
    from laplm.tune.models.lora import LoRAConfig
    from laplm.tune.tuning import TuneConfig

    def given(**names: str) -> dict[str, Any]:
        return {
            field: getattr(args, option) for field, option in names.items()
            if getattr(args, option) is not None
        }  # fmt: skip

    lora = given(r="rank", alpha="alpha", dropout="lora_dropout", target_modules="target")
    if "target_modules" in lora:
        lora["target_modules"] = tuple(lora["target_modules"])
    settings = given(
        method="method", epochs="epochs", max_steps="max_steps", batch_size="batch_size",
        grad_accum_steps="grad_accum_steps", n_positions="window", learning_rate="learning_rate",
        dropout="dropout", patience="patience", seed="seed", checkpointing="checkpointing",
        base_precision="base_precision", precision="precision",
    )  # fmt: skip
    if lora and settings.get("method") != "lora":
        raise InputError("--rank, --alpha, --lora-dropout and --target belong to --method lora")
    if args.heldout is not None:
        settings["heldout_share"] = TUNING["heldout"].check("heldout", args.heldout) / 100
    return TuneConfig(**settings, lora=LoRAConfig(**lora))


# --- what programs are told -------------------------------------------------------------------


def _tell(event: str, **values: Any) -> None:
    """One line of ``--json``; what is not known, such as a loss not yet measured, is null."""
    from laplm.home import json_text

    write(json_text({"event": event, **values}, ensure_ascii=False, default=str) + "\n")


def _tell_step(now: Progressed) -> None:
    _tell("step", **dataclasses.asdict(now))


def _tell_eval(now: Progressed, directory: Path) -> None:
    """With what the model wrote, which the trainer has just put into its metrics."""
    lines = (directory / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    text = json.loads(lines[-1]).get("sample")
    _tell("eval", step=now.step, heldout_loss=now.heldout_loss, text=text)


def _plan_json(plan: Plan, config: TuneConfig, model: str) -> dict[str, Any]:
    train, heldout, settings = plan.train, plan.heldout, plan.settings
    return {
        "model": model,
        "kind": plan.reading.kind,
        "documents": len(plan.reading.examples),
        "bytes": plan.reading.n_bytes,
        "tokens": train.n_tokens + heldout.n_tokens,
        "learned_tokens": train.n_learned + heldout.n_learned,
        "skipped": list(plan.reading.skipped),
        "notes": list(plan.reading.notes),
        "train_documents": len(train.documents),
        "heldout_documents": len(heldout.documents),
        "heldout_tokens": heldout.n_tokens,
        "window": settings.n_positions,
        "filled": plan.filled,
        "split": plan.n_split,
        "first_window": plan.peek,
        "method": config.method,
        "rank": config.lora.r if config.method == "lora" else None,
        "trained": plan.trained,
        "learning_rate": settings.learning_rate,
        "precision": settings.precision,
        "max_steps": plan.steps,
        "tokens_per_step": plan.tokens_per_step,
        "memory_bytes": plan.memory.total,
        "peak_bytes": plan.measured_peak or None,
        "machine_bytes": plan.machine or None,
        "seconds_per_step": plan.seconds_per_step,
        "seconds": plan.minutes * 60,
        "text": _plan_text(plan, config, model),
    }


# --- what is told -----------------------------------------------------------------------------


def _plan_text(plan: Plan, config: TuneConfig, model: str) -> str:
    reading, settings = plan.reading, plan.settings
    n_heldout, n_train = len(plan.heldout.documents), len(plan.train.documents)
    tokens = plan.train.n_tokens + plan.heldout.n_tokens
    learned = plan.train.n_learned + plan.heldout.n_learned
    some = "" if learned == tokens else f", {learned:,} of them learned"
    whole = f"; {plan.n_split:,} longer than a window, read in parts" if plan.n_split else ""
    rows = [
        (
            "read", f"{len(reading.examples):,} {reading.kind}, {tokens:,} tokens{some}, "
            f"{reading.n_bytes:,} bytes",
        ),
        (
            "held out", f"{n_heldout:,} of {n_heldout + n_train:,} "
            f"({plan.heldout.n_tokens / tokens:.1%} of the tokens), only measured on",
        ),
        (
            "windows", f"{settings.n_positions:,} tokens, {plan.filled:.0%} filled{whole}",
        ),
        ("first window", _shortened(plan.peek)),
        (
            "method", f"{config.method}, {plan.trained:,} numbers trained"
            + (f" (rank {config.lora.r})" if config.method == "lora" else "")
            + (", on weights in int8" if config.base_precision == "int8" else "")
            + f", learning rate {settings.learning_rate:.2g}, {settings.precision}",
        ),
        (
            "steps", f"{plan.steps:,} of {plan.tokens_per_step:,} tokens"
            + (f", shared by {plan.processes} processes" if plan.processes > 1 else ""),
        ),
        ("memory", _memory(plan)),
    ]  # fmt: skip
    if not math.isnan(plan.minutes):
        rows.append(
            (
                "time", f"about {_time(plan.minutes * 60)} ({plan.seconds_per_step:.2f} s a step, "
                "measured), measuring left out",
            )
        )  # fmt: skip
    width = max(len(name) for name, _ in rows)
    return f"tuning {model}\n" + "".join(f"  {name:<{width}}  {text}\n" for name, text in rows)


def _memory(plan: Plan) -> str:
    text = f"about {plan.memory.total / 1e9:.1f} GB at the peak"
    if plan.measured_peak:
        text += f" ({plan.measured_peak / 1e9:.1f} GB measured)"
    text += f" of {plan.machine / 1e9:.1f} GB" if plan.machine else ""
    return text + (", activations computed twice" if plan.checkpointing else "")


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 70 else text[:69] + "…"


def _time(seconds: float) -> str:
    if seconds < 90:
        whole = max(1, round(seconds))
        return f"{whole} second{'s' if whole > 1 else ''}"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _result_text(result: TuneResult) -> str:
    from laplm.tune.data.corpus import perplexity

    before, after = perplexity(result.loss_before), perplexity(result.loss_after)
    peak = f", {result.peak_bytes / 1e9:.1f} GB at the peak" if result.peak_bytes else ""
    return (
        f"held-out perplexity {before:.2f} before, {after:.2f} after "
        f"({result.bits_before:.3f} and {result.bits_after:.3f} bits per byte)\n"
        f"{result.steps:,} steps in {_time(result.seconds)}{peak}; kept: step "
        f"{result.best_step:,}, the best on held-out text\n"
        f"the model is in {result.directory}: laplm run -m {result.directory} "
        '"your prompt"\n'
    )
