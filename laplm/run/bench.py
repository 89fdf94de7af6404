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
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.model.engine.kv_cache import KVCache
from laplm.model.engine.model import GPT
from laplm.model.families import tensor_specs
from laplm.model.files.checkpoint import Checkpoint, Tensor
from laplm.model.shapes import SHAPES
from laplm.model.tensors import NORMS
from laplm.native import isa as isas
from laplm.native import jit
from laplm.native.memory import aligned
from laplm.progress import Progress

Array = NDArray[np.float32]
DECODE_STEPS = 16  # decode steps timed together


@dataclass(frozen=True)
class _GeneratedTensor:
    """How ``GeneratedCheckpoint``'s numbers would be stored."""

    dtype: str = "F32"


class GeneratedCheckpoint(Checkpoint):
    """Random weights in the shape of a named model: for timing, with nothing downloaded."""

    def __init__(self, shape: str) -> None:
        """Take the sizes of ``shape``.

        Raises:
            InputError: no model of that name is known.
        """
        if shape not in SHAPES:
            raise InputError(f"--shape {shape} is not one of {', '.join(SHAPES)}")
        self.path = Path(f"shape-{shape}")
        self.config: ModelConfig = SHAPES[shape]
        self.names = tuple(tensor_specs(self.config))
        self.dtype = "fp32"
        self.tensors = dict.fromkeys(self.names, cast(Tensor, _GeneratedTensor()))
        self.size_bytes = 0
        self.fingerprint = f"generated-{shape}".ljust(32, "-")

    def tensor(self, name: str) -> Array:
        """Numbers of GPT-2's initial scale, the same at every call."""
        spec = tensor_specs(self.config)[name]
        if spec.role in NORMS:
            return np.full(spec.shape, float(spec.part == "weight"), np.float32)
        rng = np.random.default_rng(list(name.encode()))
        out = rng.standard_normal(math.prod(spec.shape), dtype=np.float32).reshape(spec.shape)
        out *= np.float32(0.02)
        return out

    def rows(self, name: str) -> Callable[[NDArray[np.int64]], Array]:
        """Rows that are made from their number, so that no matrix is held."""
        specs = tensor_specs(self.config).values()
        wide = (self.config.n_embd,)
        some = self.tensor(next(s.name for s in specs if s.is_linear and s.shape[1:] == wide))
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


class Roofline:
    """The machine's memory bandwidth and arithmetic rate, with the kernels' own instructions."""

    def __init__(self, gpt: GPT) -> None:
        from laplm.model.engine import kernel_args

        def build() -> Any:
            from laplm.model.engine.kernels import probe

            return probe.build_probe(gpt.isa, form)

        self._threads = gpt.threads
        form = gpt.main_format
        spec, sources = f"probe {form.name}", Path(kernel_args.__file__).parent
        self._probe = jit.load(gpt.isa, spec, build, sources=sources)
        self._scratch = aligned(gpt.threads << 20, np.uint8)
        self._inputs = 768 // kernel_args.GROUP * kernel_args.GROUP

    def _time_all_threads(self, work: Callable[[int], Any]) -> float:
        """Seconds until ``work(thread)`` has ended on all threads, started together."""
        threads = [threading.Thread(target=work, args=(i,)) for i in range(1, self._threads)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        work(0)
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    def read_bandwidth(self, address: int, size: int) -> float:
        """Bytes per second at which all threads together read this memory."""
        part = size // self._threads // 256 * 256
        repeats = max(1, (400 << 20) // max(part, 1))  # long beside a thread's start

        def work(i: int) -> None:
            for _ in range(repeats):
                self._probe(0, address + i * part, part, 0)

        return repeats * part * self._threads / self._time_all_threads(work)

    def arithmetic_rate(self) -> float:
        """Operations per second of all threads; a fused multiply-add counts as two."""
        base, repeats = self._scratch.ctypes.data, 50_000
        counts = [0] * self._threads

        def work(i: int) -> None:
            counts[i] = self._probe(1, base + (i << 20), self._inputs, repeats)

        seconds = self._time_all_threads(work)
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
    timing = _Timing(gpt, repeats)
    positions = [n for n in positions if n + DECODE_STEPS <= gpt.context]
    steps: list[Callable[[], list[BenchRow]]] = [
        timing.roofline,
        timing.prefill,
        *(partial(timing.decode_at, position) for position in positions),
        *(partial(timing.decode_samples, count) for count in samples),
    ]
    if cold_start is not None:
        steps.append(lambda: [_cold_start_row(cold_start, gpt)])
    rows: list[BenchRow] = []
    for done, step in enumerate(steps):
        if progress:
            progress("timing", done, len(steps))
        rows += step()
    if progress:
        progress("timing", len(steps), len(steps))
    return BenchResult(
        model, gpt.precision, gpt.threads, gpt.isa.name, isas.why(), isas.cpu_name(), rows
    )


class _Timing:
    """The measurements of one model, each beside the machine's limit for it."""

    def __init__(self, gpt: GPT, repeats: int) -> None:
        self._gpt = gpt
        self._repeats = repeats
        self._roofline = Roofline(gpt)
        self._rng = np.random.default_rng(0)
        self._weights, self._weight_bytes = gpt.weights_span()

    def roofline(self) -> list[BenchRow]:
        """The machine's limits by themselves."""
        roofline, repeats = self._roofline, range(self._repeats)
        bandwidth = statistics.median(self._read_weights() for _ in repeats)
        rate = statistics.median(roofline.arithmetic_rate() for _ in repeats)
        return [
            BenchRow("memory read bandwidth", bandwidth / 1e9, "GB/s"),
            BenchRow(f"{self._gpt.precision} multiplication", rate / 1e9, "GOP/s"),
        ]

    def prefill(self) -> list[BenchRow]:
        """A long prompt, which is bound by arithmetic."""
        gpt, n_tokens = self._gpt, min(1000, self._gpt.context)
        prompt, cache = self._tokens(n_tokens), gpt.new_cache()

        def run() -> None:
            cache.reset()
            gpt.forward(prompt, cache, last_only=True)

        times, rates = _time_interleaved(self._repeats, run, self._roofline.arithmetic_rate)
        operations = 2 * gpt.config.n_multiplied * n_tokens
        share = statistics.median(operations / t / r for t, r in zip(times, rates, strict=True))
        speed = n_tokens / statistics.median(times)
        return [BenchRow(f"prefill, {n_tokens} tokens", speed, "tokens/s", share, "arithmetic")]

    def decode_at(self, position: int) -> list[BenchRow]:
        """One sequence after ``position`` tokens, which is bound by memory."""
        cache = self._prefilled(position)
        return [self._decode(f"decode at position {position}", [cache], position, beside=True)]

    def decode_samples(self, count: int) -> list[BenchRow]:
        """``count`` sequences decoded together."""
        name = f"{count} sample{'s' if count > 1 else ''} together"
        caches = self._prefilled(5).fork(count)
        return [self._decode(name, caches, 5, beside=count == 1)]

    def _decode(self, name: str, caches: list[KVCache], length: int, *, beside: bool) -> BenchRow:
        """Decode steps; ``beside``: with the share of the memory bandwidth that they reach."""
        ids = self._tokens(DECODE_STEPS)

        def run() -> None:
            for token in ids:
                self._gpt.decode([int(token)] * len(caches), caches)

        def rewind_and_read() -> float:
            for cache in caches:
                cache.trim(length)
            return self._read_weights() if beside else 1.0

        times, bandwidths = _time_interleaved(self._repeats, run, rewind_and_read)
        seconds = [t / DECODE_STEPS for t in times]
        speed = len(caches) / statistics.median(seconds)
        if not beside:
            return BenchRow(name, speed, "tokens/s")
        cache_bytes = (length + DECODE_STEPS / 2) * caches[0].bytes_per_position
        per_token = self._weight_bytes + cache_bytes
        share = statistics.median(
            per_token / t / b for t, b in zip(seconds, bandwidths, strict=True)
        )
        return BenchRow(name, speed, "tokens/s", share, "memory")

    def _prefilled(self, length: int) -> KVCache:
        cache = self._gpt.new_cache()
        self._gpt.forward(self._tokens(length), cache, last_only=True)
        return cache

    def _read_weights(self) -> float:
        return self._roofline.read_bandwidth(self._weights, self._weight_bytes)

    def _tokens(self, count: int) -> NDArray[np.int64]:
        return self._rng.integers(0, self._gpt.config.vocab_size, count)


def _time_interleaved(
    repeats: int, work: Callable[[], None], limit: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of ``work`` and values of ``limit``, measured by turns after a warm-up of each."""
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


def _cold_start_row(model: str, gpt: GPT) -> BenchRow:
    seconds = statistics.median(_cold_start(model, gpt) for _ in range(3))
    return BenchRow("cold start to first token", seconds, "s")


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
