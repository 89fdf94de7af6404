"""``laplm tune``: what was read, the plan, the training, what came of it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplm.cli.arguments import AddCommand, open_model
from laplm.cli.output import INTERRUPTED, note, write
from laplm.cli.progress import progress_bars
from laplm.errors import InputError, LaplmError

if TYPE_CHECKING:
    from laplm.hub.tuning_runs import RecordedRun
    from laplm.run.language_model import LanguageModel
    from laplm.tune.data.read import Dataset
    from laplm.tune.trainer import EvalMetrics, StepMetrics
    from laplm.tune.tuning import Plan, TuneResult
    from laplm.tune_config import DataConfig, MachineConfig, TuneConfig

_MOST_NOTES = 10  # of a directory with many tables


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    from laplm import tune_config

    p = add_command(
        "tune", run, example="laplm tune notes.txt -m pocket --name mine",
        epilog="Then: laplm run -m mine. Ctrl-C keeps everything; laplm tune --resume mine goes "
        "on.",
    )  # fmt: skip
    p.add_argument(
        "data", nargs="?", type=Path, metavar="DATA",
        help=".txt (documents separated by <|endoftext|>), .jsonl, .csv, .parquet, or a directory",
    )  # fmt: skip
    p.add_argument(
        "--name", metavar="NAME",
        help="what the tuned model is called from then on, as in laplm run -m NAME (default: as "
        "the file, unless --out is given)",
    )  # fmt: skip
    p.add_argument(
        "--out", type=Path, metavar="DIR",
        help="where the tuned model goes (default: runs, in LAPLM_HOME)",
    )  # fmt: skip
    p.add_argument(
        "--resume", type=Path, metavar="NAME|DIR", help="go on with a run, by its name or in DIR"
    )
    p.add_argument(
        "--report", type=Path, metavar="NAME|DIR",
        help="write the report of a run that has ended again",
    )  # fmt: skip
    p.add_argument("--dry-run", action="store_true", help="only show what was read, and the plan")
    p.add_argument(
        "--json", action="store_true",
        help="for programs: one JSON object a line, of plan, step, eval and done",
    )  # fmt: skip
    for name in (tune_config.DATA, tune_config.TRAINING, tune_config.ADAPTERS):
        _add_settings(p.add_argument_group(name), name)
    model = p.add_argument_group(tune_config.MODEL)
    model.add_argument(
        "-m", "--model", metavar="NAME|DIR",
        help="what to begin from (default: gpt2 when it is on disk, else pocket)",
    )  # fmt: skip
    _add_settings(model, tune_config.MODEL)
    machine = p.add_argument_group(
        tune_config.MACHINE,
        "several processes, or machines, train together when torchrun starts them",
    )
    _add_settings(machine, tune_config.MACHINE)


def _add_settings(parser: argparse._ArgumentGroup, group: str) -> None:
    """The options of a group, as ``tune_config.py`` declares them; None: not given."""
    from laplm.tune_config import settings

    for _, setting in settings():
        if setting.group != group or setting.option is None:
            continue
        more: dict[str, Any] = {"metavar": setting.metavar}
        if setting.kind is bool:
            more = {"action": "store_true", "default": None}
        elif setting.kind is list:
            more["action"] = "append"
        else:
            more["type"] = setting.kind
        parser.add_argument(f"--{setting.dest.replace('_', '-')}", help=setting.help, **more)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    with contextlib.ExitStack() as at_the_end:
        try:
            return _tune_until(args, at_the_end)
        except InputError as error:
            # What the command itself calls otherwise.
            raise InputError(error.with_parameter_names({"n_positions": "--window"})) from error


def _tune_until(args: argparse.Namespace, at_the_end: contextlib.ExitStack) -> int:
    config, reading, machine = _settings(args, at_the_end)
    from laplm.tune.data.read import read_examples
    from laplm.tune.families import check_family

    with progress_bars() as progress:
        lm = open_model(args.model, "fp32", args.threads, progress)
    check_family(lm)
    dataset = read_examples(args.data, **dataclasses.asdict(reading))
    _note_dataset(dataset)
    if args.report is not None:
        paths = _report(args.out, dataset, lm)
        write(f"before and after: {' '.join(map(str, paths))}\n")
        return 0
    speaks = _speaks()
    entry = _Entry(args, config) if speaks and not args.dry_run else None
    with entry or contextlib.nullcontext():
        result = _fine_tune(args, dataset, lm, config, reading, machine, entry, at_the_end)
        if isinstance(result, int):
            return result
        if result is not None and speaks:
            if not args.json:
                write(_result_text(result, args.name))
            paths = _report(args.out, dataset, lm)
            if args.json:
                _print_event("done", **dataclasses.asdict(result), report=paths)
            else:
                write(f"before and after: {' '.join(map(str, paths))}\n")
    return 0


class _Entry:
    """The run among those that are known by name and shown on the page, while it is at work."""

    def __init__(self, args: argparse.Namespace, config: TuneConfig) -> None:
        self._args, self._config = args, config
        self._recording = contextlib.ExitStack()
        self._run: RecordedRun | None = None

    def __enter__(self) -> None:
        """Nothing yet: what cannot be planned is no run."""

    def begin(self, plan: Plan) -> None:
        """Write it down.

        Raises:
            LaplmError: that cannot be, and it has a name that must be kept.
        """
        from laplm.hub import tuning_runs

        args = self._args
        record = {
            "name": args.data.name, "model": args.model or plan.model.name,
            "target": str(args.model or plan.model.name), "data": None,
            "settings": _given_settings(self._config), "argv": [], "created": time.time(),
            "state": "running", "message": "", "plan": _plan_json(plan), "pid": os.getpid(),
        }  # fmt: skip
        try:
            recorded = tuning_runs.record_run(args.out, record, args.name)
            self._run = self._recording.enter_context(recorded)
        except LaplmError:
            if args.name is not None:
                raise
            # The list of runs is a convenience; the run itself needs no more than its directory.

    def __exit__(self, kind: Any, error: BaseException | None, *_: object) -> None:
        """Write down how it ended."""
        with self._recording:
            if self._run is None:
                return
            if (Path(self._args.out) / "summary.json").is_file():
                self._run.set_state("done")
            elif isinstance(error, LaplmError):
                self._run.set_state("failed", str(error))
            elif error is not None:
                self._run.set_state("failed", f"it ended with {kind.__name__}")
            else:
                self._run.set_state("stopped")


def _given_settings(config: TuneConfig) -> dict[str, Any]:
    """The settings that are not their default, by the names that requests have for them."""
    from laplm.tune_config import LoRAConfig, TuneConfig, settings

    out: dict[str, Any] = {}
    for part, kind in ((config, TuneConfig), (config.lora, LoRAConfig)):
        for name, setting in settings(kind):
            value, usual = getattr(part, name), getattr(kind(), name)
            if setting.http is not None and value != usual:
                out[setting.http] = value * 100 if setting.percent else value
    return out


def _settings(
    args: argparse.Namespace, at_the_end: contextlib.ExitStack
) -> tuple[TuneConfig, DataConfig, MachineConfig]:
    """Of a new run those that are given, of an earlier one its own; completes ``args``."""
    from laplm.tune_config import DataConfig, MachineConfig, TuneConfig, settings

    earlier = args.resume or args.report
    if earlier is not None:
        _check_alone(args)
        from laplm.tune.tuning import read_run

        earlier = _directory_of(earlier)
        run = read_run(earlier)
        reads = {setting.dest for _, setting in settings(DataConfig)}
        for name, value in run["request"].items():
            if getattr(args, name) is None or name in reads:
                setattr(args, name, Path(value) if name == "data" else value)
        args.model, args.out, config = run["model"], earlier, run["config"]
    else:
        if args.data is None:
            raise InputError("no data: write laplm tune notes.txt --out mine")
        _choose_place(args, at_the_end)
        config = TuneConfig.from_options(vars(args))
    given = vars(args)
    return config, DataConfig.from_options(given), MachineConfig.from_options(given)


def _choose_place(args: argparse.Namespace, at_the_end: contextlib.ExitStack) -> None:
    """Where a new run goes, and what its model is called; completes ``args``."""
    from laplm.hub import tuning_runs
    from laplm.hub.model_names import name_from_file

    if args.name is not None:
        args.name = tuning_runs.check_name_is_free(args.name, tuning_runs.runs_directory())
    if args.out is not None:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # each would choose a place of its own
        raise InputError("several processes train together: say where the model goes, with --out")
    if args.dry_run:
        place = at_the_end.enter_context(tempfile.TemporaryDirectory(prefix="laplm-plan-"))
        args.out = Path(place) / "run"
        return
    runs = tuning_runs.runs_directory()
    if args.name is None:
        args.name = name_from_file(args.data.name, tuning_runs.taken_names(runs))
    directory = tuning_runs.new_run_directory(runs)
    args.out = directory / "model"

    def leave_nothing() -> None:
        with contextlib.suppress(OSError):  # there is a run in it
            directory.rmdir()

    at_the_end.callback(leave_nothing)


def _directory_of(earlier: Path) -> Path:
    """A run's directory, which may be given by the run's name."""
    from laplm.hub import tuned

    if (earlier / "run.json").is_file() or len(earlier.parts) != 1:
        return earlier
    named = tuned.find_run(str(earlier))
    return earlier if named is None else named.model_directory


def _fine_tune(
    args: argparse.Namespace,
    dataset: Dataset,
    lm: LanguageModel,
    config: TuneConfig,
    reading: DataConfig,
    machine: MachineConfig,
    entry: _Entry | None,
    at_the_end: contextlib.ExitStack,
) -> TuneResult | int | None:
    """Plan, and train unless it is a dry run; the exit status where that was interrupted."""
    from laplm.tune.tuning import fine_tune

    speaks = _speaks()
    progress = at_the_end.enter_context(progress_bars())

    def planned(plan: Plan) -> bool:
        progress.close()  # the trainer has a bar of its own
        if args.json and speaks:
            _print_event("plan", **_plan_json(plan))
        elif speaks:
            write(_plan_text(plan))
        if entry is not None:
            entry.begin(plan)
        return not args.dry_run

    # Kept in run.json, so that --resume needs nothing else.
    request = dataclasses.asdict(reading) | {
        "threads": machine.threads, "data": str(args.data.resolve()),
    }  # fmt: skip
    events = args.json and speaks
    try:
        return fine_tune(
            dataset, lm, args.out, config, **dataclasses.asdict(machine),
            resume=args.resume is not None, planned=planned, request=request, progress=progress,
            on_step=_print_step if events else None, on_eval=_print_eval if events else None,
        )  # fmt: skip
    except KeyboardInterrupt:
        if speaks:
            known = args.name or args.out
            note(f"stopped; everything is kept. Go on with: laplm tune --resume {known}")
        return INTERRUPTED


def _speaks() -> bool:
    """Whether this process is the one that tells: the first, as torchrun numbers them."""
    return os.environ.get("RANK", "0") == "0"


def _note_dataset(dataset: Dataset) -> None:
    for line in dataset.notes[:_MOST_NOTES]:
        note(line)
    if (more := len(dataset.notes) - _MOST_NOTES) > 0:
        note(f"and {more:,} more")
    for line in dataset.skipped:
        note(f"left out: {line}")


def _report(directory: Path, dataset: Dataset, before: LanguageModel) -> list[Path]:
    from laplm.run.language_model import LanguageModel
    from laplm.tune.report import make_report, write_report

    with progress_bars() as progress:
        # Texts as they will be read: with the precision that laplm run takes.
        old, new = (
            LanguageModel(name, "int8", None, progress) for name in (before.name, str(directory))
        )
        return list(write_report(make_report(directory, dataset, old, new, progress)))


def _check_alone(args: argparse.Namespace) -> None:
    """A run that goes on, or is reported on, has the settings it began with."""
    from laplm.tune_config import MachineConfig, settings

    which = "resume" if args.resume is not None else "report"
    machine = [setting.dest for _, setting in settings(MachineConfig)]
    given = [
        name for name in vars(args)
        if name not in (which, "dry_run", "json", "run", "subcommand", *machine)
        and getattr(args, name) not in (None, False)
    ]  # fmt: skip
    if given:
        option = {"data": "DATA", "model": "--model"}.get(given[0], f"--{given[0]}")
        raise InputError(
            f"{option.replace('_', '-')}: a run keeps the settings it began with; give "
            f"--{which} DIR without it"
        )


# --- what programs read -------------------------------------------------------------------


def _print_event(event: str, **values: Any) -> None:
    """One line of ``--json``; what is not known, such as a loss not yet measured, is null."""
    from laplm.files import json_text

    write(json_text({"event": event, **values}, ensure_ascii=False, default=str) + "\n")


def _print_step(now: StepMetrics) -> None:
    _print_event("step", **dataclasses.asdict(now))


def _print_eval(now: EvalMetrics) -> None:
    _print_event("eval", step=now.step, heldout_loss=now.heldout_loss, text=now.sample)


def _plan_json(plan: Plan) -> dict[str, Any]:
    train, heldout, settings = plan.train, plan.heldout, plan.settings
    config = plan.config
    return {
        "model": plan.model.name,
        "kind": plan.dataset.kind,
        "documents": len(plan.dataset.examples),
        "bytes": plan.dataset.n_bytes,
        "tokens": train.n_tokens + heldout.n_tokens,
        "learned_tokens": train.n_loss_tokens + heldout.n_loss_tokens,
        "skipped": list(plan.dataset.skipped),
        "notes": list(plan.dataset.notes),
        "train_documents": len(train.documents),
        "heldout_documents": len(heldout.documents),
        "heldout_tokens": heldout.n_tokens,
        "window": settings.n_positions,
        "filled": plan.windows.filled,
        "split": plan.windows.n_split,
        "first_window": plan.first_window,
        "opening": plan.opening,
        "asks": plan.asks,
        "method": config.method,
        "rank": config.lora.r if config.method == "lora" else None,
        "trained": plan.n_trainable,
        "learning_rate": settings.learning_rate,
        "precision": settings.precision,
        "max_steps": settings.max_steps,
        "tokens_per_step": settings.tokens_per_step,
        "memory_bytes": plan.memory.total,
        "peak_bytes": plan.measured_peak or None,
        "machine_bytes": plan.available or None,
        "seconds_per_step": plan.seconds_per_step,
        "seconds": plan.minutes * 60,
        "text": _plan_text(plan),
    }


# --- what people read -----------------------------------------------------------------------------


def _plan_text(plan: Plan) -> str:
    dataset, config, settings = plan.dataset, plan.config, plan.settings
    n_heldout, n_train = len(plan.heldout.documents), len(plan.train.documents)
    tokens = plan.train.n_tokens + plan.heldout.n_tokens
    loss_tokens = plan.train.n_loss_tokens + plan.heldout.n_loss_tokens
    some = "" if loss_tokens == tokens else f", {loss_tokens:,} of them learned"
    whole = (
        f"; {plan.windows.n_split:,} longer than a window, read in parts"
        if plan.windows.n_split
        else ""
    )
    rows = [
        (
            "read", f"{len(dataset.examples):,} {dataset.kind}, {tokens:,} tokens{some}, "
            f"{dataset.n_bytes:,} bytes",
        ),
        (
            "held out", f"{n_heldout:,} of {n_heldout + n_train:,} "
            f"({plan.heldout.n_tokens / tokens:.1%} of the tokens), only measured on",
        ),
        (
            "windows", f"{settings.n_positions:,} tokens, {plan.windows.filled:.0%} filled{whole}",
        ),
        ("first window", _shortened(plan.first_window)),
        (
            "method", f"{config.method}, {plan.n_trainable:,} numbers trained"
            + (f" (rank {config.lora.r})" if config.method == "lora" else "")
            + (", on weights in int8" if config.base_precision == "int8" else "")
            + f", learning rate {settings.learning_rate:.2g}, {settings.precision}",
        ),
        (
            "steps", f"{settings.max_steps:,} of {settings.tokens_per_step:,} tokens"
            + (f", shared by {plan.n_processes} processes" if plan.n_processes > 1 else ""),
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
    return f"tuning {plan.model.name}\n" + "".join(
        f"  {name:<{width}}  {text}\n" for name, text in rows
    )


def _memory(plan: Plan) -> str:
    text = f"about {plan.memory.total / 1e9:.1f} GB at the peak"
    if plan.measured_peak:
        text += f" ({plan.measured_peak / 1e9:.1f} GB measured)"
    text += f" of {plan.available / 1e9:.1f} GB" if plan.available else ""
    return text + (", activations computed twice" if plan.checkpointing else "")


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 70 else text[:69] + "…"


def _time(seconds: float) -> str:
    if seconds < 90:
        whole = max(1, round(seconds))
        return f"{whole} second{'s' if whole > 1 else ''}"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _result_text(result: TuneResult, name: str | None) -> str:
    from laplm.tune.data.corpus import perplexity

    before, after = perplexity(result.loss_before), perplexity(result.loss_after)
    peak = f", {result.peak_bytes / 1e9:.1f} GB at the peak" if result.peak_bytes else ""
    return (
        f"held-out perplexity {before:.2f} before, {after:.2f} after "
        f"({result.bits_before:.3f} and {result.bits_after:.3f} bits per byte)\n"
        f"{result.steps:,} steps in {_time(result.seconds)}{peak}; kept: step "
        f"{result.best_step:,}, the best on held-out text\n"
        f"the model is in {result.directory}: laplm run -m {name or result.directory} "
        '"your prompt"\n'
    )
