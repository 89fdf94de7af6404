"""What Prometheus is told at ``/metrics``: requests, queue, tokens, latencies, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from laplm.machine import resident_bytes

if TYPE_CHECKING:
    from laplm.serve.models import ServedModel

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_LONG = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    """Counters of one server; none of them knows what was asked or answered."""

    def __init__(self, models: Callable[[], Iterable[ServedModel]]) -> None:
        """Begin at zero; ``models`` gives those in memory."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "laplm_requests", "Requests answered.", ["route", "method", "status"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "laplm_request_seconds", "From a request's arrival to the end of its answer.",
            ["route"], buckets=_LONG, registry=registry,
        )  # fmt: skip
        self._prompt = Counter(
            "laplm_prompt_tokens", "Prompt tokens that went through a model.", registry=registry
        )
        self._new = Counter("laplm_generated_tokens", "Tokens that were drawn.", registry=registry)
        self._first = Histogram(
            "laplm_first_token_seconds", "From a request's arrival to its first token.",
            buckets=_FAST, registry=registry,
        )  # fmt: skip
        self._next = Histogram(
            "laplm_next_token_seconds", "From a token of a request to the next one.",
            buckets=_FAST, registry=registry,
        )  # fmt: skip
        registry.register(_Now(models))

    def record_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        # A client may invent methods, and each would be kept for good.
        named = method if method in _METHODS else "other"
        self._requests.labels(route, named, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def on_token(self, seconds: float, *, first: bool) -> None:
        """See ``scheduler.SchedulerObserver``."""
        (self._first if first else self._next).observe(seconds)

    def on_step(self, prompt_tokens: int, new_tokens: int) -> None:
        """See ``scheduler.SchedulerObserver``."""
        self._prompt.inc(prompt_tokens)
        self._new.inc(new_tokens)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)


class _Now:
    """What is counted when it is asked for."""

    def __init__(self, models: Callable[[], Iterable[ServedModel]]) -> None:
        self._models = models

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        memory = GaugeMetricFamily("laplm_resident_bytes", "Memory that the server holds.")
        memory.add_metric([], resident_bytes())
        yield memory
        told = {
            "laplm_queue": "Requests that wait for a model.",
            "laplm_samples": "Samples that are being decoded.",
            "laplm_model_bytes": "Weights in memory.",
        }
        families = {name: GaugeMetricFamily(name, what, labels=["model"])
                    for name, what in told.items()}  # fmt: skip
        for served in self._models():
            families["laplm_queue"].add_metric([served.name], served.scheduler.waiting)
            families["laplm_samples"].add_metric([served.name], served.scheduler.running)
            families["laplm_model_bytes"].add_metric([served.name], served.memory_bytes)
        yield from families.values()
