"""Time laplm and its peers side by side: the same work, weights and threads, in one run.

    python benchmarks/peers.py                     # everything that is installed, GPT-2 small shape
    python benchmarks/peers.py --quick --only laplm
    python benchmarks/peers.py --only "laplm int8,llama.cpp" --repeats 9

Each engine runs in a process of its own, loaded once and stopped (SIGSTOP) while another is
measured. Repeats are interleaved (A B C A B C ...), so that whatever disturbs the machine hits
every engine. README.md in this folder states the protocol.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import engines  # noqa: E402
import machine  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from laplm.model.config import NAMED_SIZES  # noqa: E402

PROMPT = "The capital of Spain is"
REPLY_SECONDS = 900  # longest single request: a slow engine on a large model
PREPARE_SECONDS = 3600
SIZES = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")


@dataclass(frozen=True)
class Variant:
    """One engine as it is run: its name in the tables, and the environment that forces it."""

    name: str
    engine: str
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One piece of work, the same for every engine that offers this way of doing it."""

    kind: str
    way: str
    size: dict[str, int]
    request: dict[str, Any]

    @property
    def label(self) -> str:
        """For the progress line."""
        return " ".join([self.kind, self.way, *(f"{k} {v}" for k, v in self.size.items())])


class EngineError(Exception):
    """An engine could not be prepared or did not answer; the text says why."""


class Worker:
    """A process that has one engine loaded; it does not run between two requests."""

    def __init__(self, variant: Variant, args: argparse.Namespace) -> None:
        self.variant = variant
        self.log = args.workdir / "logs" / f"{variant.name.replace(' ', '-')}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._command = [
            sys.executable,
            str(HERE / "engines.py"),
            "MODE",
            variant.engine,
            *("--model", str(args.model), "--workdir", str(args.conversions)),
            *("--threads", str(args.threads)),
        ]
        self._env = environment() | variant.env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, Any]:
        """Prepare in a first process, then load in the one that stays."""
        with self.log.open("wb") as log:
            prepare = [part.replace("MODE", "prepare") for part in self._command]
            try:
                done = subprocess.run(
                    prepare,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=self._env,
                    timeout=PREPARE_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise EngineError(f"not prepared within {PREPARE_SECONDS} s") from None
            if done.returncode:
                raise EngineError(self._last_line())
            serve = [part.replace("MODE", "serve") for part in self._command]
            self._process = subprocess.Popen(
                serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._env
            )
        return self.ask({"do": "start", "ids": [0, 1, 2]})

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Wake the process, let it do one thing, stop it again.

        Returns:
            Its reply, with ``disturbed``: the share of CPU time that others took meanwhile, or
            None where the system does not tell.
        """
        process = self._process
        if process is None:
            raise EngineError("it ended earlier")
        assert process.stdin is not None
        assert process.stdout is not None
        _signal(process, "SIGCONT")
        before = machine.CpuTimes.now(process.pid, time.monotonic())
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            ready: list[Any] | None
            ready, _, _ = select.select([process.stdout], [], [], REPLY_SECONDS)
            line = process.stdout.readline() if ready else b""
        except OSError:
            ready, line = None, b""
        after = machine.CpuTimes.now(process.pid, time.monotonic())
        if not line:
            why = (
                f"no reply within {REPLY_SECONDS} s"
                if ready is not None and not ready
                else self._last_line()
            )
            self.stop()
            raise EngineError(f"{request['do']}: {why}")
        _signal(process, "SIGSTOP")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise EngineError(reply["error"])
        reply["disturbed"] = after.disturbed_since(before) if before and after else None
        return reply

    def stop(self) -> None:
        """End the process, stopped or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            self._process = None

    def _last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1].strip()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                return f"it ended without a word, exit code {self._process.wait(5)}"
        return "it closed its output"


def environment() -> dict[str, str]:
    """Nothing is looked up on a network while measuring; a checkout need not be installed."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env["PYTHONPATH"] = os.pathsep.join(
        part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part
    )
    return env


def _signal(process: subprocess.Popen[bytes], name: str) -> None:
    if hasattr(signal, name) and process.poll() is None:
        process.send_signal(getattr(signal, name))


def variants(args: argparse.Namespace) -> list[Variant]:
    """The engines asked for, and the AVX2 ones where they can be forced."""
    found = [Variant(name, name) for name in engines.ENGINES]
    if "avx2" in machine.describe()["flags"]:
        for name in ("laplm int4", "laplm int8"):
            found.insert(1, Variant(f"{name} avx2", name, {"LAPLM_ISA": "avx2"}))
        if args.llama_avx2:
            env = {"LLAMA_CPP_LIB_PATH": str(args.llama_avx2)}
            found.append(Variant("llama.cpp q8_0 avx2", "llama.cpp q8_0", env))
    if args.only:
        names = {v.name for v in found}  # a whole name is that engine alone
        found = [
            v
            for v in found
            if any(p == v.name or (p not in names and p in v.name) for p in args.only)
        ]
    return found


def tasks(args: argparse.Namespace, ids: Sequence[int], n_ctx: int, vocab: int) -> list[Task]:
    """What is measured, cut to the positions that the model has."""
    out = [Task("memory", "", {}, {"do": "memory", "ids": []})]
    count = 8 if args.quick else 24
    filler = list(ids) * (n_ctx // len(ids) + 1)
    wanted = (64, 1000) if args.quick else (64, 512, 1000)
    for position in sorted({min(p, n_ctx - count) for p in wanted}):
        for way in ("step", "generate"):
            request = {"do": "decode", "ids": filler[:position], "count": count, "way": way}
            out.append(Task("decode", way, {"position": position}, request))
    for new in (10,) if args.quick else (10, 50):
        for n in (1, 10):
            for way in ("together", "calls"):
                if n == 1 and way == "calls":
                    continue  # one call is one call
                request = {"do": "samples", "ids": list(ids), "n": n, "count": new, "way": way}
                out.append(Task("samples", way, {"n": n, "new_tokens": new}, request))
    length = min(1000, n_ctx - count)
    random = np.random.default_rng(0).integers(0, vocab - 1, length).tolist()
    out.append(Task("prefill", "", {"positions": length}, {"do": "prefill", "ids": random}))
    return out


def measure(
    workers: Sequence[Worker], work: Sequence[Task], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Run every task on every engine: one repeat that is not counted, then ``args.repeats``."""
    rows: list[dict[str, Any]] = []
    failed: set[tuple[str, str]] = set()
    for task in work:
        able = [w for w in workers if offers(w.variant.engine, task)]
        measured: dict[str, list[dict[str, Any]]] = {w.variant.name: [] for w in able}
        for repeat in range(args.repeats + 1):
            for worker in able:
                name = worker.variant.name
                say(f"{task.label}: repeat {repeat}/{args.repeats}, {name}")
                if (name, task.label) in failed:
                    continue
                try:
                    reply = quiet_reply(worker, task.request, args)
                except EngineError as error:
                    failed.add((name, task.label))
                    say(f"{name}: {task.label} failed: {error}", keep=True)
                    rows.append(row(task, name) | {"error": str(error)})
                    continue
                if repeat:
                    measured[name].append(reply)
        for name, replies in measured.items():
            if replies and (name, task.label) not in failed:
                rows.append(row(task, name) | summary(replies))
    return rows


def offers(engine: str, task: Task) -> bool:
    """Whether this engine has that way of doing it."""
    kind, _ = engines.ENGINES[engine]
    ways = {
        "memory": ("",) if hasattr(kind, "read_weights") else (),
        "decode": kind.decode_ways,
        "samples": kind.sample_ways,
    }.get(task.kind, ("",))
    return task.way in ways


def row(task: Task, name: str) -> dict[str, Any]:
    """The keys that name one measurement."""
    return {"task": task.kind, "way": task.way, **task.size, "engine": name}


def quiet_reply(
    worker: Worker, request: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Ask again while other processes disturb; the choice looks at them, never at the time."""
    reply = worker.ask(request)
    for _ in range(args.retries):
        if (reply["disturbed"] or 0.0) <= args.max_disturbed:
            break
        deadline = time.monotonic() + args.patience
        while machine.busy_share(0.5) > args.max_disturbed and time.monotonic() < deadline:
            pass  # every engine is stopped: what is busy now is somebody else
        reply = worker.ask(request)
    return reply


def summary(replies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and spread of the repeats of one measurement."""
    seconds = [reply["seconds"] for reply in replies]
    rates = [reply["tokens"] / reply["seconds"] for reply in replies]
    disturbed = [reply["disturbed"] for reply in replies if reply["disturbed"] is not None]
    return {
        "tokens": replies[0]["tokens"],
        "seconds": statistics.median(seconds),
        "seconds_each": seconds,
        "tokens_per_second": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "repeats": len(rates),
        "disturbed": statistics.median(disturbed) if disturbed else None,
    }


def same_model(workers: Sequence[Worker], ids: Sequence[int], workdir: Path) -> dict[str, Any]:
    """Compare every engine's logits on the prompt with the most exact engine's of this run.

    Returns:
        For each engine the largest absolute difference and the cosine similarity.
    """
    order = ("transformers fp32", "onnxruntime fp32", "laplm fp32", "ctranslate2 fp32")
    logits = {}
    for worker in workers:
        name = worker.variant.name
        file = workdir / "logs" / f"{name.replace(' ', '-')}.npy"
        try:
            worker.ask({"do": "logits", "ids": list(ids), "file": str(file)})
            logits[name] = np.load(file).astype(np.float64)
        except EngineError as error:
            say(f"{name}: logits failed: {error}", keep=True)
        finally:
            file.unlink(missing_ok=True)
    base = next((name for name in order if name in logits), None)
    if base is None:
        return {}
    out: dict[str, Any] = {}
    for name, values in logits.items():
        truth = logits[base]
        cosine = values @ truth / np.linalg.norm(values) / np.linalg.norm(truth)
        out[name] = {
            "against": base,
            "largest_difference": float(np.abs(values - truth).max()),
            "cosine": float(cosine),
        }
    return out


def cold_start(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds from starting a process to its first output, and to its end, caches warm."""
    chosen = {"laplm": "laplm", "transformers": "transformers"}
    if args.only:
        chosen = {k: v for k, v in chosen.items() if any(v in part for part in args.only)}
    if engines.Transformers.installed() is None:
        chosen.pop("transformers", None)
    python = sys.executable
    model, threads = str(args.model), str(args.threads)
    run = [python, "-m", "laplm", "run", PROMPT, "-m", model, "-n", "1", "--threads", threads]
    commands = []
    if "laplm" in chosen:
        commands += [("laplm run", run), ("laplm --help", [python, "-m", "laplm", "--help"])]
    if "transformers" in chosen:
        script = [python, str(HERE / "talk_script.py"), model, "1"]
        commands.append(("transformers, the talk's script", script))
    env = environment() | {"OMP_NUM_THREADS": threads}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in commands}
    errors: dict[str, str] = {}
    for repeat in range(args.repeats + 1):
        for name, command in commands:
            if name in errors:
                continue
            say(f"cold start: repeat {repeat}/{args.repeats}, {name}")
            try:
                times = first_output(command, env)
            except EngineError as error:
                errors[name] = str(error)
                say(f"{name}: {error}", keep=True)
                continue
            if repeat:
                taken[name].append(times)
    rows: list[dict[str, Any]] = []
    for name, _ in commands:
        entry: dict[str, Any] = {"task": "cold start", "way": "", "engine": name}
        if name in errors:
            rows.append(entry | {"error": errors[name]})
        else:
            first, end = (statistics.median(t[i] for t in taken[name]) for i in (0, 1))
            fastest = min(t[0] for t in taken[name])
            slowest = max(t[0] for t in taken[name])
            times = {"first_output": first, "end": end, "fastest": fastest, "slowest": slowest}
            rows.append(entry | times | {"repeats": args.repeats})
    return rows


def first_output(command: Sequence[str], env: dict[str, str]) -> tuple[float, float]:
    """Run a command; seconds to the first byte on its stdout, and to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        bufsize=0,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    first = time.perf_counter() - start
    _, stderr = process.communicate()
    end = time.perf_counter() - start
    if process.returncode:
        lines = stderr.decode(errors="replace").strip().splitlines()
        raise EngineError(lines[-1] if lines else f"exit code {process.returncode}")
    return first, end


@contextlib.contextmanager
def started(args: argparse.Namespace, rows: list[dict[str, Any]]) -> Iterator[list[Worker]]:
    """Load every installed engine; ``rows`` gets one entry for each, also for the missing."""
    workers: list[Worker] = []
    try:
        for variant in variants(args):
            kind, precision = engines.ENGINES[variant.engine]
            entry: dict[str, Any] = {
                "engine": variant.name,
                "package": kind.package,
                "precision": precision,
                "version": kind.installed(),
                "notes": kind.notes,
            }
            rows.append(entry)
            if entry["version"] is None:
                entry["status"] = "not installed"
                continue
            say(f"preparing {variant.name}")
            worker = Worker(variant, args)
            try:
                reply = worker.start()
            except EngineError as error:
                worker.stop()
                entry["status"] = f"failed: {error}"
                say(f"{variant.name} failed: {error}", keep=True)
                continue
            entry |= {k: reply[k] for k in ("peak_memory_mb", "system_info")}
            entry["status"] = "ran"
            workers.append(worker)
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def say(text: str, keep: bool = False) -> None:
    """Progress on stderr: one line that is overwritten where it is a terminal."""
    if keep or not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
    else:
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--size", default="gpt2", help="a named shape with generated weights (default gpt2)")
    add("--model", type=Path, help="time this Hugging Face GPT-2 directory instead")
    add("--only", type=lambda s: [p.strip() for p in s.split(",") if p.strip()],
        help='names of engines or parts of them, such as "laplm,llama.cpp q8_0"')  # fmt: skip
    add("--task", choices=["memory", "decode", "samples", "prefill"],
        help="this alone, and no cold start")  # fmt: skip
    add("--quick", action="store_true", help="two repeats of the shorter tasks")
    add("--repeats", type=int, help="counted repeats (default 5, quick 2)")
    add("--threads", type=int, default=machine.cores(), help="for every engine (default: cores)")
    add("--workdir", type=Path, help="where models and conversions are kept (default: user cache)")
    add("--output", type=Path, default=HERE / "results", help="folder of the results")
    add("--llama-avx2", type=Path, metavar="DIR",
        help="the lib folder of another llama.cpp build, for AVX2 only, timed too")  # fmt: skip
    add("--max-disturbed", type=float, default=0.1, metavar="SHARE",
        help="repeat a measurement when others took more of the CPU (default 0.1)")  # fmt: skip
    add("--retries", type=int, default=2, help="at most so often (default 2)")
    add("--patience", type=float, default=5.0, metavar="SECONDS",
        help="before that, wait so long for the others to be quiet (default 5)")  # fmt: skip
    args = parser.parse_args(argv)
    args.repeats = args.repeats if args.repeats is not None else (2 if args.quick else 5)
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    if args.workdir is None:
        from platformdirs import user_cache_path

        args.workdir = user_cache_path("laplm") / "benchmarks"
    if args.model is None:
        if args.size not in NAMED_SIZES:
            parser.error(f"--size must be one of {', '.join(NAMED_SIZES)}")
        args.model = args.workdir / f"{args.size}-shape"
        if not (args.model / "config.json").exists():
            from make_model import make_model

            say(f"making {args.model}", keep=True)
            dtype = "fp32" if args.size in ("gpt2", "distilgpt2") else "fp16"
            make_model(NAMED_SIZES[args.size], args.model, dtype=dtype)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (args.model / name).exists():
            parser.error(f"--model {args.model}: there is no {name}")
    args.model = args.model.resolve()
    args.workdir = args.workdir.resolve()
    # Another model of the same name, or new weights in the same place, is converted again.
    weights = (args.model / "model.safetensors").stat()
    mark = zlib.crc32(f"{args.model} {weights.st_size} {weights.st_mtime_ns}".encode())
    args.conversions = args.workdir / "converted" / f"{args.model.name}-{mark:08x}"
    os.environ.setdefault("LAPLM_HOME", str(args.workdir / "laplm-home"))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write ``DATE-peers.json`` and ``DATE-peers.md`` (-part), print the table."""
    args = parse(argv)
    config = json.loads((args.model / "config.json").read_text(encoding="utf-8"))
    ids = Tokenizer.from_file(str(args.model / "tokenizer.json")).encode(PROMPT).ids
    now = datetime.datetime.now().astimezone()
    result: dict[str, Any] = {
        "schema": 1,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "model": {k: config[k] for k in SIZES},
        "settings": {
            "threads": args.threads,
            "repeats": args.repeats,
            "quick": args.quick,
            "prompt": PROMPT,
            "prompt_tokens": len(ids),
            "temperature": engines.TEMPERATURE,
            "top_k": engines.TOP_K,
            "max_disturbed": args.max_disturbed,
        },
        "engines": [],
    }
    work = tasks(args, ids, config["n_positions"], config["vocab_size"])
    if args.task:
        work = [task for task in work if task.kind == args.task]
    with started(args, result["engines"]) as workers:
        result["same_model"] = same_model(workers, ids, args.workdir)
        result["measurements"] = measure(workers, work, args)
        if not args.task:
            result["measurements"] += cold_start(args)
    result["ratios"] = report.ratios(result)

    args.output.mkdir(parents=True, exist_ok=True)
    # A look at some engines, or at another model, does not replace the day's whole result.
    part = "-part" if args.quick or args.only or args.task else ""
    other = "" if args.model.name == "gpt2-shape" else f"-{args.model.name}"
    stem = args.output / f"{now:%Y-%m-%d}-peers{other}{part}"
    table = report.markdown(result)
    for path, text in (
        (stem.with_name(stem.name + ".json"), json.dumps(result, indent=1) + "\n"),
        (stem.with_name(stem.name + ".md"), table),
    ):
        temporary = path.with_name(f".{os.getpid()}-{path.name}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        say(f"wrote {path}", keep=True)
    print(table)
    ran = any(entry.get("status") == "ran" for entry in result["engines"])
    return 0 if ran else 1


if __name__ == "__main__":
    sys.exit(main())
