"""``laplm bench``: how fast this machine runs a model, beside what the machine could do at most.

Decoding one stream reads every weight once a token, so its limit is the memory; prefilling a
prompt multiplies, so its limit is the arithmetic. Both limits are measured here, in turn with the
work itself (A B A B), so that a noisy machine disturbs both alike. Medians are reported.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.model.config import NAMED_SIZES, GPTConfig, tensor_shapes
from laplm.model.engine.kv_cache import KVCache
from laplm.model.engine.model import GPT
from laplm.model.files.checkpoint import Checkpoint
from laplm.native import isa as isas
from laplm.native import jit
from laplm.native.memory import aligned
from laplm.progress import Progress

Array = NDArray[np.float32]
STEPS = 16  # decode steps timed together


class GeneratedCheckpoint(Checkpoint):
    """Random weights in the shape of a named model: for timing, with nothing downloaded."""

    def __init__(self, shape: str) -> None:
        """Take the sizes of ``shape``.

        Raises:
            InputError: no model of that name is known.
        """
        if shape not in NAMED_SIZES:
            raise InputError(f"--shape {shape} is not one of {', '.join(NAMED_SIZES)}")
        self.path = Path(f"shape-{shape}")
        self.config: GPTConfig = NAMED_SIZES[shape]
        self.names = tuple(tensor_shapes(self.config))
        self.dtype = "fp32"
        self.size_bytes = 0
        self.fingerprint = f"generated-{shape}".ljust(32, "-")

    def tensor(self, name: str) -> Array:
        """Numbers of GPT-2's initial scale, the same at every call."""
        shape = tensor_shapes(self.config)[name]
        if ".ln_" in name or name.startswith("ln_f"):
            return np.full(shape, float(name.endswith("weight")), np.float32)
        rng = np.random.default_rng(list(name.encode()))
        out = rng.standard_normal(math.prod(shape), dtype=np.float32).reshape(shape)
        out *= np.float32(0.02)
        return out

    def rows(self, name: str) -> Callable[[NDArray[np.int64]], Array]:
        """Rows that are made from their number, so that no matrix is held."""
        some = self.tensor("h.0.attn.c_proj.weight")
        return lambda ids: some[ids % len(some)]

    def mapped(self, name: str) -> bool:
        """Nothing is mapped: there is no file."""
        return False


@dataclass(frozen=True)
class BenchRow:
    """One measurement: ``value`` in ``unit``, and its share of the machine's limit, if any."""

    name: str
    value: float
    unit: str
    share: float | None = None
    limit: str = ""


@dataclass(frozen=True)
class BenchResult:
    """What ``laplm bench`` found, with what it was found on."""

    model: str
    precision: str
    threads: int
    isa: str
    isa_reason: str  # why no better variant of the kernels runs
    cpu: str
    rows: list[BenchRow] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, for JSON."""
        return asdict(self)


class Limits:
    """The machine's own limits, measured with the kernels' own instructions."""

    def __init__(self, gpt: GPT) -> None:
        from laplm.model.engine import kernel_args

        def build() -> Any:
            from laplm.model.engine.kernels import probe

            return probe.build_probe(gpt.isa, gpt.precision)

        self._threads = gpt.threads
        spec, sources = f"probe {gpt.precision}", Path(kernel_args.__file__).parent
        self._probe = jit.load(gpt.isa, spec, build, sources=sources)
        self._scratch = aligned(gpt.threads << 20, np.uint8)
        self._inputs = 768 // kernel_args.GROUP * kernel_args.GROUP

    def _together(self, work: Callable[[int], Any]) -> float:
        """Seconds that all threads need to do ``work(thread)`` at the same time."""
        threads = [threading.Thread(target=work, args=(i,)) for i in range(1, self._threads)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        work(0)
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    def read(self, address: int, size: int) -> float:
        """Bytes a second at which all threads read this memory together."""
        part = size // self._threads // 256 * 256
        repeats = max(1, (400 << 20) // max(part, 1))  # long beside a thread's start

        def work(i: int) -> None:
            for _ in range(repeats):
                self._probe(0, address + i * part, part, 0)

        return repeats * part * self._threads / self._together(work)

    def multiply(self) -> float:
        """Operations a second (a multiplication and an addition are two) of all threads."""
        base, repeats = self._scratch.ctypes.data, 50_000
        counts = [0] * self._threads

        def work(i: int) -> None:
            counts[i] = self._probe(1, base + (i << 20), self._inputs, repeats)

        seconds = self._together(work)
        return 2 * sum(counts) / seconds


def bench(
    gpt: GPT,
    model: str,
    *,
    repeats: int = 9,
    samples: Sequence[int] = (1, 4, 10, 32),
    positions: Sequence[int] = (64, 512, 1000),
    cold_start: str | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Time one model on this machine.

    Args:
        gpt: The model.
        model: Its name, for the report.
        repeats: How often each thing is timed; the median counts.
        samples: How many sequences are decoded together.
        positions: Where single-stream decoding is timed; those beyond the context are left out.
        cold_start: A model name to time ``laplm run`` with, from a new process to its first
            token; None leaves it out.
        progress: Told how much of it is done.
    """
    limits = Limits(gpt)
    config, rng = gpt.config, np.random.default_rng(0)
    start, size = gpt.weights_span()
    positions = [n for n in positions if n + STEPS <= config.n_ctx]
    n_prefill = min(1000, config.n_ctx)
    total = len(positions) + len(samples) + 3
    done = 0

    def tell() -> None:
        nonlocal done
        if progress:
            progress("timing", done, total)
        done += 1

    def tokens(count: int) -> NDArray[np.int64]:
        return rng.integers(0, config.vocab_size, count)

    rows: list[BenchRow] = []
    tell()
    bandwidth = statistics.median(limits.read(start, size) for _ in range(repeats))
    rows.append(BenchRow("memory read bandwidth", bandwidth / 1e9, "GB/s"))
    rate = statistics.median(limits.multiply() for _ in range(repeats))
    rows.append(BenchRow(f"{gpt.precision} multiplication", rate / 1e9, "GOP/s"))

    tell()
    prompt = tokens(n_prefill)
    cache = gpt.new_cache()

    def prefill() -> None:
        cache.reset()
        gpt.forward(prompt, cache, last_only=True)

    times, rates = _in_turn(repeats, prefill, limits.multiply)
    operations = 2 * config.n_multiplied * n_prefill
    share = statistics.median(operations / t / r for t, r in zip(times, rates, strict=True))
    speed = n_prefill / statistics.median(times)
    rows.append(BenchRow(f"prefill, {n_prefill} tokens", speed, "tokens/s", share, "arithmetic"))

    def decode_row(name: str, caches: list[KVCache], length: int, limit: bool) -> BenchRow:
        steps = tokens(STEPS)

        def decode() -> None:
            for token in steps:
                gpt.decode([int(token)] * len(caches), caches)

        def read() -> float:
            for one in caches:
                one.trim(length)
            return limits.read(start, size) if limit else 1.0

        times, speeds = _in_turn(repeats, decode, read)
        seconds = [t / STEPS for t in times]
        per_token = size + (length + STEPS / 2) * caches[0].bytes_per_position
        share = statistics.median(per_token / t / s for t, s in zip(seconds, speeds, strict=True))
        speed = len(caches) / statistics.median(seconds)
        return BenchRow(
            name, speed, "tokens/s", share if limit else None, "memory" if limit else ""
        )

    for position in positions:
        tell()
        cache = gpt.new_cache()
        gpt.forward(tokens(position), cache, last_only=True)
        rows.append(decode_row(f"decode at position {position}", [cache], position, True))
    for count in samples:
        tell()
        cache = gpt.new_cache()
        gpt.forward(tokens(5), cache, last_only=True)
        name = f"{count} sample{'s' if count > 1 else ''} together"
        rows.append(decode_row(name, cache.fork(count), 5, count == 1))
    tell()
    if cold_start is not None:
        seconds = statistics.median(_cold_start(cold_start, gpt) for _ in range(3))
        rows.append(BenchRow("cold start to first token", seconds, "s"))
    if progress:
        progress("timing", total, total)
    return BenchResult(
        model, gpt.precision, gpt.threads, gpt.isa.name, isas.why(), isas.cpu_name(), rows
    )


def _in_turn(
    repeats: int, work: Callable[[], None], limit: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of ``work`` and values of ``limit``, taken in turn after a warm-up of each."""
    times, values = [], []
    for i in range(repeats + 1):
        value = limit()
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        if i:
            times.append(seconds)
            values.append(value)
    return times, values


def _cold_start(model: str, gpt: GPT) -> float:
    command = [
        sys.executable, "-m", "laplm", "run", "The capital of Spain is", "-m", model, "-n", "1",
        "--precision", gpt.precision, "--threads", str(gpt.threads), "--greedy",
    ]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def report(result: BenchResult) -> str:
    """The result as text for a person, with a table of what, how fast, and share of the limit."""
    out = [
        f"{result.model}, {result.precision}, {result.threads} threads, {result.isa}, {result.cpu}",
        f"{result.isa}: {result.isa_reason}",
    ]
    for row in result.rows:
        digits = 2 if row.unit == "s" else 1
        share = "" if row.share is None else f"  {row.share:.0%} of what {row.limit} allows"
        out.append(f"{row.name:<28} {row.value:>10,.{digits}f} {row.unit:<9}{share}".rstrip())
    return "\n".join(out) + "\n"
