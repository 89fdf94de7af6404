"""Continuous batching: everything that is decoded at one time shares each reading of the weights.

One engine thread a loaded model. Each of its passes takes the next token of every sample that is
on its way and, beside them, a block of the prompts that are still to be read, one after the other
and long ones by turns. So a long prompt stops nobody, and a sample that ends frees its place for
the next pass. Samples of one request share their prompt's prefill; prompts that begin alike share
it between requests. Logits do not depend on what else is in a pass, so a seed gives one text
always.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from laplm.model.engine.kv_cache import KVCache
from laplm.model.engine.model import PREFILL_CHUNK
from laplm.model.tokenizer import end_tokens
from laplm.run.generate import (
    GenerationStep,
    Row,
    SampleText,
    TokenLogprob,
    shared_prefix,
)
from laplm.run.sampler import Nudges, SamplingParams, top_logprobs
from laplm.serve.problems import ApiError, logged_problem_of

if TYPE_CHECKING:
    from laplm.run.language_model import LanguageModel

Array = NDArray[np.float32]

BESIDE = 64  # tokens of prompts in a pass that others are waiting for: some milliseconds
TURN = 256  # tokens that a prompt has read before others are: most prompts go through whole
MAX_SLOTS = PREFILL_CHUNK - BESIDE
_KEPT = 4  # prompts whose caches are kept for those that begin alike
_RECENT = 32  # requests whose length says how long the next ones will take


class Watcher(Protocol):
    """Who is told of the scheduler's work; ``metrics.Metrics`` is one."""

    def token(self, seconds: float, *, first: bool) -> None:
        """A token came so long after the one before it, or after its request."""

    def passed(self, prompt_tokens: int, new_tokens: int) -> None:
        """A pass has gone through so many tokens."""


@dataclass(frozen=True)
class PromptToken:
    """A token of a prompt as the model expected it: for ``echo`` with ``logprobs``."""

    token_id: int
    logprob: float | None
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Order:
    """What a request asks of the engine, checked.

    Attributes:
        prompt_ids: at least one id.
        params: with a seed.
        max_new_tokens: for each sample; 0 only reads the prompt.
        samples: how many.
        min_new_tokens: before so many, nothing but ``max_new_tokens`` ends a text.
        stop: strings that end a text.
        end_token_ids: tokens that end it, besides those that end every text of the model.
        logprobs: alternatives reported with each token; None reports no probabilities.
        score_prompt: report the prompt's tokens too.
        ignore_eos: go on when the model ends its text.
        nudges: what is added to logits.
        penalty_window: tokens that the repetition penalty looks back at; None for all.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    max_new_tokens: int
    samples: int = 1
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    end_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    score_prompt: bool = False
    ignore_eos: bool = False
    nudges: Nudges | None = None
    penalty_window: int | None = None


Item = GenerationStep | PromptToken


class Job:
    """One order on its way through the engine. The event loop reads, the engine's thread writes.

    Attributes:
        order: what was asked for.
        cached_tokens: those of the prompt that an earlier request had already worked out.
    """

    def __init__(self, order: Order, deadline: float) -> None:
        self.order = order
        self.deadline = deadline
        self.cached_tokens = 0
        self.cancelled = False
        # The engine's thread alone uses these.
        self.cache: KVCache | None = None
        self.logits: Array | None = None  # after the prompt, for samples that have yet to begin
        self.score: Array | None = None  # after the block before, for the next prompt token
        self.turn = 0  # tokens of the prompt that were read in this turn
        self.begun = 0  # samples that have begun
        self.going = 0  # samples on their way
        self.start = self.last = time.perf_counter()
        # The event loop alone uses these.
        self._items: deque[Item] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._error: ApiError | None = None

    @property
    def unread(self) -> int:
        """Tokens of the prompt that the engine has yet to read."""
        return len(self.order.prompt_ids) - (self.cache.length if self.cache else 0)

    def cancel(self) -> None:
        """The client has gone: its place is free from the next pass on. In the event loop."""
        self.cancelled = self._ended = True
        self._news.set()

    async def batches(self) -> AsyncIterator[list[Item]]:
        """Everything that has come since the last time, until the end.

        Raises:
            ApiError: the order cannot be finished.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            if self._items:
                items = list(self._items)
                self._items.clear()
                yield items
            if self._error is not None:
                raise self._error
            if self._ended and not self._items:
                return

    def deliver(self, items: list[Item], ended: bool, error: ApiError | None) -> None:
        """Called in the event loop."""
        self._items += items
        self._ended = self._ended or ended
        self._error = self._error or error
        self._news.set()


@dataclass(eq=False)
class _Sample:
    job: Job
    row: Row
    text: SampleText


@dataclass
class _News:
    """What a pass has for one job."""

    items: list[Item] = field(default_factory=list)
    ended: bool = False
    error: ApiError | None = None


class Scheduler:
    """The engine thread of one model, and the queue before it."""

    def __init__(
        self,
        lm: LanguageModel,
        loop: asyncio.AbstractEventLoop,
        *,
        slots: int = 16,
        queue: int = 64,
        time_limit: float = 600.0,
        watcher: Watcher | None = None,
    ) -> None:
        """Start.

        Args:
            lm: the model; its engine is made already.
            loop: where results are delivered.
            slots: samples decoded together, at most ``MAX_SLOTS``.
            queue: requests that wait, at most; more are refused.
            time_limit: seconds from a request's arrival to its end.
            watcher: told of tokens and passes.
        """
        self._lm = lm
        self._gpt = lm.gpt
        self._loop = loop
        self._slots = slots
        self._queue = queue
        self._time_limit = time_limit
        self._watcher = watcher
        self._eos = end_tokens(lm.tokenizer, lm.config)
        self._known = min(lm.tokenizer.vocab_size, lm.config.vocab_size)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._new: deque[Job] = deque()  # shared between threads, under the lock
        self._stopped: ApiError | None = None
        self._reading: deque[Job] = deque()  # prompts on their way; the thread's own from here on
        self._ready: deque[Job] = deque()  # prompts read, samples yet to begin
        self._samples: list[_Sample] = []
        self._kept: deque[KVCache] = deque(maxlen=_KEPT)
        self._seconds: deque[float] = deque(maxlen=_RECENT)
        self._news: dict[Job, _News] = {}
        self._thread = threading.Thread(target=self._run, name="laplm-engine", daemon=True)
        self._thread.start()

    # --- for the event loop ---

    @property
    def n_vocab(self) -> int:
        """How many ids can be drawn, from 0 on: a vocabulary may be padded beyond its tokens."""
        return self._known

    @property
    def waiting(self) -> int:
        """Requests none of whose samples has begun."""
        return len(self._new) + len(self._reading) + len(self._ready)

    @property
    def running(self) -> int:
        """Samples that are being decoded."""
        return len(self._samples)

    def submit(self, order: Order) -> Job:
        """Put an order into the queue.

        Raises:
            ApiError: the queue is full (429), or the engine has stopped.
        """
        job = Job(order, time.perf_counter() + self._time_limit)
        with self._lock:
            if self._stopped is not None:
                raise self._stopped
            if self.waiting >= self._queue:
                seconds = self._wait_seconds()
                raise ApiError(
                    429,
                    f"{self.waiting} requests are waiting already; try again in {seconds} s",
                    code="queue_full",
                    headers={"Retry-After": str(seconds)},
                )
            self._new.append(job)
            self._work.notify()
        return job

    def stop(self, reason: ApiError | None = None) -> None:
        """End everything that is on its way, and the thread; returns at once."""
        with self._lock:
            self._stopped = reason or ApiError(
                503, "the model was unloaded; send the request again"
            )
            self._work.notify()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(seconds)

    def _wait_seconds(self) -> int:
        each = sum(self._seconds) / len(self._seconds) if self._seconds else 1.0
        return max(1, min(60, round(each * self.waiting / self._slots)))

    # --- the engine's thread ---

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (
                    self._new or self._reading or self._ready or self._samples or self._stopped
                ):
                    self._work.wait()
                self._reading += self._new
                self._new.clear()
                stopped = self._stopped
            if stopped is not None:
                for job in self._jobs():
                    self._fail(job, stopped)
                self._deliver()
                return
            try:
                self._drop()
                self._pass()
            except Exception as error:  # one bad pass must not end the thread
                problem = logged_problem_of(error)
                for job in self._jobs():
                    self._fail(job, problem)
            self._deliver()

    def _jobs(self) -> list[Job]:
        jobs = [*self._reading, *self._ready, *(sample.job for sample in self._samples)]
        return list(dict.fromkeys(jobs))

    def _drop(self) -> None:
        """Free the places of clients that have gone and of requests that took too long."""
        now = time.perf_counter()
        for job in self._jobs():
            if job.cancelled:
                self._remove(job)
            elif now > job.deadline:
                self._fail(
                    job,
                    ApiError(
                        408,
                        f"the request took longer than {self._time_limit:g} s and was ended; ask "
                        "for fewer tokens or samples",
                        code="time_limit",
                    ),
                )

    def _fail(self, job: Job, error: ApiError) -> None:
        self._news.setdefault(job, _News()).error = error
        self._remove(job)

    def _remove(self, job: Job) -> None:
        for jobs in (self._reading, self._ready):
            with contextlib.suppress(ValueError):
                jobs.remove(job)
        self._samples = [sample for sample in self._samples if sample.job is not job]

    def _pass(self) -> None:
        """Begin samples that have a place, and take every one and some prompts a step further."""
        self._begin()
        samples = list(self._samples)
        parts: list[tuple[Sequence[int], KVCache, int]] = [
            (sample.row.ids[-1:], sample.row.cache, 1) for sample in samples
        ]
        blocks = self._blocks(BESIDE if parts else PREFILL_CHUNK)
        for job, count in blocks:
            assert job.cache is not None
            start = job.cache.length
            last = count if job.order.score_prompt else int(count == job.unread)
            parts.append((job.order.prompt_ids[start : start + count], job.cache, last))
        if not parts:
            return
        logits = self._gpt.forward_batch(parts)
        for sample, x in zip(samples, logits, strict=False):
            self._draw(sample, x)
        row = len(samples)
        for job, count in blocks:
            wanted = count if job.order.score_prompt else int(job.unread == 0)
            self._read(job, count, logits[row : row + wanted])
            row += wanted
        if self._watcher is not None:
            self._watcher.passed(sum(count for _, count in blocks), len(samples))
        self._begin()

    def _blocks(self, most: int) -> list[tuple[Job, int]]:
        """Prompts to read in this pass and how many tokens of each, in turn."""
        blocks: list[tuple[Job, int]] = []
        for job in list(self._reading):
            if most < 1:
                break
            if job.cache is None:
                job.cache = self._cache_for(job)
                job.cached_tokens = job.cache.length
            count = min(job.unread, most)
            blocks.append((job, count))
            most -= count
            job.turn += count
            if job.turn >= TURN:  # its turn is over: to the end of the queue
                job.turn = 0
                self._reading.remove(job)
                self._reading.append(job)
        return blocks

    def _cache_for(self, job: Job) -> KVCache:
        """A cache that holds what an earlier prompt had in common with this one."""
        ids = job.order.prompt_ids
        if job.order.score_prompt or not self._kept:
            return self._gpt.new_cache()
        best = max(self._kept, key=lambda cache: shared_prefix(cache.ids, ids))
        shared = shared_prefix(best.ids, ids)
        if not shared:
            return self._gpt.new_cache()
        (cache,) = best.fork(1)
        cache.trim(shared)
        return cache

    def _read(self, job: Job, count: int, logits: Array) -> None:
        """Take note of a block of a prompt that has gone through."""
        assert job.cache is not None
        if job.order.score_prompt:
            self._score(job, count, logits)
        if job.unread:
            return
        self._reading.remove(job)
        self._kept.append(job.cache.fork(1)[0])
        if job.order.max_new_tokens == 0:
            self._end(job)
            return
        job.logits = logits[-1].copy()
        self._ready.append(job)

    def _score(self, job: Job, count: int, logits: Array) -> None:
        """The log-probability of each prompt token of the block, given what came before it."""
        assert job.cache is not None
        order, start = job.order, job.cache.length - count
        tokenizer = self._lm.tokenizer
        items: list[Item] = self._news.setdefault(job, _News()).items
        for i, token in enumerate(order.prompt_ids[start : start + count]):
            x = job.score if i == 0 else logits[i - 1]
            if x is None:
                items.append(PromptToken(token, None))
                continue
            x = x[: self._known]
            normaliser = self._gpt.log_normaliser(x)
            tops = tuple(
                TokenLogprob(t, tokenizer.token_text(t), logprob)
                for t, logprob in top_logprobs(x, order.logprobs or 0, normaliser)
            )
            logprob = float(x[token]) - normaliser if token < len(x) else float("-inf")
            items.append(PromptToken(token, logprob, tops))
        job.score = logits[-1].copy()

    def _begin(self) -> None:
        """Give free places to samples whose prompts are read, one request after the other."""
        while self._ready and len(self._samples) < self._slots:
            job = self._ready[0]
            self._ready.rotate(-1)
            order = job.order
            assert job.cache is not None and job.logits is not None
            index, job.begun, job.going = job.begun, job.begun + 1, job.going + 1
            last = job.begun == order.samples
            text = SampleText(self._lm.tokenizer, order.stop, order.min_new_tokens)
            ends = frozenset() if order.ignore_eos else self._eos
            row = Row(
                index,
                order.prompt_ids,
                order.params,
                job.cache if last else job.cache.fork(1)[0],
                max_new_tokens=order.max_new_tokens,
                known=self._known,
                min_new_tokens=order.min_new_tokens,
                eos_token_ids=ends.union(order.end_token_ids),
                logprobs=order.logprobs,
                ended=lambda _, token, text=text: text.feed(token),  # type: ignore[misc]
                nudges=order.nudges,
                penalty_window=order.penalty_window,
            )
            sample = _Sample(job, row, text)
            self._samples.append(sample)
            logits = job.logits
            if last:
                self._ready.remove(job)
                job.logits = None
            self._draw(sample, logits)

    def _draw(self, sample: _Sample, logits: Array) -> None:
        """The next token of a sample, and its end, if that is what it is."""
        job = sample.job
        if sample not in self._samples:  # another sample of its request has failed in this pass
            return
        try:
            step = sample.text.step(sample.row.draw(self._gpt, logits))
        except Exception as error:  # logits that are not numbers: this request's trouble alone
            self._fail(job, logged_problem_of(error))
            return
        self._news.setdefault(job, _News()).items.append(step)
        if self._watcher is not None:
            now = time.perf_counter()
            first = job.last == job.start
            if sample.row.index == 0:
                self._watcher.token(now - job.last, first=first)
                job.last = now
        if step.finish_reason is not None:
            self._samples.remove(sample)
            job.going -= 1
            if job.going == 0 and job.begun == job.order.samples:
                self._end(job)

    def _end(self, job: Job) -> None:
        self._news.setdefault(job, _News()).ended = True
        self._seconds.append(time.perf_counter() - job.start)

    def _deliver(self) -> None:
        """Hand everything that a pass has brought to the event loop, in one call."""
        if not self._news:
            return
        news, self._news = self._news, {}

        def deliver() -> None:
            for job, each in news.items():
                job.deliver(each.items, each.ended, each.error)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(deliver)
