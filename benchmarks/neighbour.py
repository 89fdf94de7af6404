"""How fast single tokens are made while another program keeps a core busy, and soon after.

    python benchmarks/neighbour.py
    python benchmarks/neighbour.py --precision int4 --seconds 8 --repeats 5

In each repeat the same model is decoded in stretches, one after the other: undisturbed; with a
process that does nothing but spin, bound to one core; after that has been killed; with one that the
system puts where it likes; after that. At last one thread alone, with and without such a neighbour,
for comparison. Medians of the repeats go to a table on standard output and, with each repeat, to a
JSON file.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import machine  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402

from laplm.model.config import NAMED_SIZES  # noqa: E402
from laplm.model.engine.model import GPT  # noqa: E402
from laplm.model.files.checkpoint import open_checkpoint  # noqa: E402

POSITIONS = 64, 192  # tokens are decoded between these, over and over
BACK = 0.95  # of the undisturbed speed
WINDOW = 0.25  # seconds over which the speed is taken that must reach it
# It says that it runs, and ends with whoever has started it, whatever becomes of that.
SPIN = "import os; print(flush=True)\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@dataclass(frozen=True)
class Stretch:
    """What was seen in some seconds of decoding."""

    name: str
    tokens_per_second: float
    others: float | None  # share of the CPUs that neither we nor the neighbour took
    back_after: float | None = None  # seconds from the neighbour's end to 95 % of the speed


class Decoder:
    """A model that makes one token after the other."""

    def __init__(self, gpt: GPT) -> None:
        self.gpt = gpt
        first, end = POSITIONS
        rng = np.random.default_rng(0)
        self._ids = rng.integers(0, gpt.config.vocab_size, min(end, gpt.config.n_ctx)).tolist()
        self._first = min(first, len(self._ids) // 2)
        self._prompt = gpt.new_cache()
        gpt.forward(self._ids[: self._first], self._prompt, last_only=True)

    def run(self, seconds: float) -> list[float]:
        """Decode for so long; returns the time at the beginning and at the end of each token."""
        times = [time.perf_counter()]
        while True:
            (cache,) = self._prompt.fork(1)
            for token in self._ids[self._first :]:
                self.gpt.decode([token], [cache])
                times.append(time.perf_counter())
                if times[-1] - times[0] > seconds:
                    return times


@contextlib.contextmanager
def neighbour(cpu: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that keeps a core busy: that one, or any when it is None."""
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as process:
        try:
            if cpu is not None:
                os.sched_setaffinity(process.pid, {cpu})
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def rate(times: Sequence[float]) -> float:
    """Tokens a second."""
    return (len(times) - 1) / (times[-1] - times[0])


def back_after(times: Sequence[float], wanted: float) -> float | None:
    """Seconds until tokens come at the ``wanted`` rate, None when they never do.

    That is the beginning of the first ``WINDOW`` that holds enough of them.
    """
    for start in times:
        if start + WINDOW > times[-1]:
            return None
        inside = sum(start < t <= start + WINDOW for t in times)
        if inside >= wanted * WINDOW - 1:  # a window cuts a token at each end
            return start - times[0]
    return None


def stretch(
    name: str,
    decoder: Decoder,
    seconds: float,
    busy: subprocess.Popen[bytes] | None = None,
    undisturbed: float | None = None,
) -> Stretch:
    """Decode for so long, beside the process ``busy``, or back to the ``undisturbed`` speed."""

    def cpu_times(pid: int) -> machine.CpuTimes | None:
        return machine.CpuTimes.now(pid, time.monotonic())

    pids = [os.getpid()] + ([busy.pid] if busy else [])
    before = [cpu_times(pid) for pid in pids]
    times = decoder.run(seconds)
    after = [cpu_times(pid) for pid in pids]
    others = None
    if before[0] and after[0]:
        others = after[0].disturbed_since(before[0])
        for old, new in zip(before[1:], after[1:], strict=True):
            assert old and new
            wall = (os.cpu_count() or 1) * (new.wall - old.wall)
            others = max(0.0, others - (new.process - old.process) / wall)
    back = None if undisturbed is None else back_after(times, BACK * undisturbed)
    return Stretch(name, rate(times), others, back)


def measure(team: Decoder, one: Decoder, seconds: float) -> list[Stretch]:
    """All stretches, once."""
    cpus = sorted(os.sched_getaffinity(0))
    out = [stretch("undisturbed", team, seconds)]
    for name, cpu in (("a neighbour on one core", cpus[-1]), ("a neighbour on any core", None)):
        with neighbour(cpu) as busy:
            out.append(stretch(name, team, seconds, busy))
        out.append(stretch(f"{name}, ended", team, seconds, None, out[0].tokens_per_second))
    out.append(stretch("one thread alone", one, seconds))
    with neighbour(cpus[-1]) as busy:
        out.append(stretch("one thread, a neighbour on one core", one, seconds, busy))
    return out


def summary(repeats: Sequence[Sequence[Stretch]]) -> list[dict[str, Any]]:
    """Medians of each stretch; its share of the undisturbed speed is taken in each repeat."""
    rows = []
    for same in zip(*repeats, strict=True):
        shares = [
            found.tokens_per_second / all_of_it[0].tokens_per_second
            for found, all_of_it in zip(same, repeats, strict=True)
        ]
        others = [found.others for found in same if found.others is not None]
        backs = [found.back_after for found in same]
        never = any(back is None for back in backs)
        rows.append({
            "name": same[0].name,
            "tokens_per_second": statistics.median(found.tokens_per_second for found in same),
            "share": statistics.median(shares),
            "least_share": min(shares),
            "back_after": None if never else statistics.median(b for b in backs if b is not None),
            "longest_back_after": None if never else max(b for b in backs if b is not None),
            "others": statistics.median(others) if others else None,
        })  # fmt: skip
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The summary, to be read."""
    head = ["", "tokens/s", "of undisturbed (least)", "back to 95 % after (longest)", "others' CPU"]
    cells = []
    for row in rows:
        back = "–"
        if row["name"].endswith("ended"):
            back = "not at all"
            if row["back_after"] is not None:
                back = f"{row['back_after']:.2f} s ({row['longest_back_after']:.2f})"
        cells.append([
            f"{row['tokens_per_second']:.0f}",
            f"{row['share']:.0%} ({row['least_share']:.0%})",
            back,
            "–" if row["others"] is None else f"{row['others']:.0%}",
        ])  # fmt: skip
    return "\n".join(report.table(head, [row["name"] for row in rows], cells))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, help="a directory (default: GPT-2 small's shape, made)")
    add("--precision", choices=["fp32", "int8", "int4"], default="int8")
    add("--threads", type=int, default=machine.cores(), help="of the team (default: cores)")
    add("--seconds", type=float, default=4.0, help="of each stretch (default 4)")
    add("--repeats", type=int, default=3, help="of all of them (default 3)")
    add("--output", type=Path, default=HERE / "results", help="folder of the results")
    args = parser.parse_args(argv)
    if not hasattr(os, "sched_setaffinity"):
        parser.error("this system binds no process to a core; Linux does")
    if args.seconds < 2 * WINDOW or args.repeats < 1 or args.threads < 2:
        parser.error(f"at least {2 * WINDOW} seconds, one repeat and two threads are needed")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write ``DATE-neighbour.json``, print the table."""
    args = parse(argv)
    with contextlib.ExitStack() as stack:
        if args.model is None:
            from make_model import make_model

            directory = stack.enter_context(tempfile.TemporaryDirectory())
            args.model = make_model(NAMED_SIZES["gpt2"], Path(directory) / "gpt2-shape")
        checkpoint = open_checkpoint(args.model)
        decoders = [Decoder(GPT(checkpoint, args.precision, threads=n)) for n in (args.threads, 1)]
        for decoder in decoders:  # from memory to cache, and a first choice of threads
            decoder.run(min(1.0, args.seconds))
        repeats = [measure(*decoders, args.seconds) for _ in range(args.repeats)]
    rows = summary(repeats)
    now = datetime.datetime.now().astimezone()
    result = {
        "schema": 1,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "isa": decoders[0].gpt.isa.name,
        "settings": {
            "model": args.model.name, "precision": args.precision, "threads": args.threads,
            "seconds": args.seconds, "repeats": args.repeats,
        },
        "summary": rows,
        "repeats": [[asdict(found) for found in repeat] for repeat in repeats],
    }  # fmt: skip
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / f"{now:%Y-%m-%d}-neighbour-{args.precision}.json"
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
