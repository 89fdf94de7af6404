"""Continuous batching with chunked prefill: all running samples share one forward pass.

There is one engine thread for each loaded model. Each step decodes one token of every running
sample and prefills a chunk of the waiting prompts, long ones in turns (round robin). So a long
prompt blocks nobody, and a sample that ends frees its slot for the next step. Samples of one
request share the prefill of their prompt; prompts with a common prefix share its key/value cache.
Logits do not depend on the batch, so a seed always gives the same text.
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
from laplm.model.engine.model import MAX_BATCHED_TOKENS
from laplm.model.tokenizer import end_tokens
from laplm.run.detokenizer import StreamingDetokenizer
from laplm.run.generate import SampleState, shared_prefix_length
from laplm.run.request import GenerationRequest
from laplm.run.results import GenerationStep, TokenLogprob
from laplm.run.sampler import top_logprobs
from laplm.serve.problems import ApiError, to_logged_api_error

if TYPE_CHECKING:
    from laplm.run.language_model import LanguageModel

Array = NDArray[np.float32]

PREFILL_BUDGET_WHILE_DECODING = 64
"""Prompt tokens in a step that also decodes: they delay the decoded tokens by milliseconds."""

PREFILL_BUDGET_PER_TURN = 256
"""Prompt tokens of one request before the next one's turn; most prompts need a single turn."""

MAX_SLOTS = MAX_BATCHED_TOKENS - PREFILL_BUDGET_WHILE_DECODING
_MAX_PREFIX_CACHES = 4  # key/value caches of past prompts, for prompts with the same beginning
_DURATIONS_KEPT = 32  # durations of past requests, from which waiting times are estimated


class SchedulerObserver(Protocol):
    """Is told of the scheduler's work; ``metrics.Metrics`` is one."""

    def on_token(self, seconds: float, *, first: bool) -> None:
        """A token was sampled, so many seconds after the previous one or after its request."""

    def on_step(self, prompt_tokens: int, new_tokens: int) -> None:
        """A forward pass has processed so many tokens."""


@dataclass(frozen=True)
class PromptToken:
    """A prompt token with its log-probability: for ``echo`` with ``logprobs``."""

    token_id: int
    logprob: float | None
    top_logprobs: tuple[TokenLogprob, ...] = ()


Item = GenerationStep | PromptToken


class Job:
    """A request in the engine. The event loop reads its results, the engine thread writes them.

    Attributes:
        request: what was asked for.
        cached_tokens: those of the prompt that an earlier request had already worked out.
    """

    def __init__(self, request: GenerationRequest, deadline: float) -> None:
        self.request = request
        self.deadline = deadline
        self.cached_tokens = 0
        self.cancelled = False
        # The engine's thread alone uses these.
        self.cache: KVCache | None = None
        self.logits: Array | None = None  # after the prompt, for samples not yet started
        self.last_logits: Array | None = None  # of the chunk before, for the next prompt token
        self.turn_tokens = 0  # prompt tokens prefilled in this turn
        self.started = 0  # samples started so far
        self.decoding = 0  # samples being decoded
        self.start = self.last = time.perf_counter()
        # The event loop alone uses these.
        self._items: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._error: ApiError | None = None

    @property
    def remaining_prompt(self) -> int:
        """Prompt tokens not prefilled yet."""
        return len(self.request.prompt_ids) - (self.cache.length if self.cache else 0)

    def cancel(self) -> None:
        """The client has disconnected: free its slots with the next step. In the event loop."""
        self.cancelled = self._ended = True
        self._arrived.set()

    async def batches(self) -> AsyncIterator[list[Item]]:
        """Everything that has come since the last time, until the end.

        Raises:
            ApiError: the request cannot be finished.
        """
        while True:
            await self._arrived.wait()
            self._arrived.clear()
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
        self._arrived.set()


@dataclass(eq=False)
class _Sample:
    job: Job
    state: SampleState
    text: StreamingDetokenizer


@dataclass
class _Results:
    """What a step has produced for one job."""

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
        observer: SchedulerObserver | None = None,
    ) -> None:
        """Start.

        Args:
            lm: the model; its engine is made already.
            loop: where results are delivered.
            slots: samples decoded in one batch, at most ``MAX_SLOTS``.
            queue: requests that wait, at most; more are refused.
            time_limit: seconds from a request's arrival to its end.
            observer: is told of tokens and steps.
        """
        self._lm = lm
        self._gpt = lm.gpt
        self._loop = loop
        self._slots = slots
        self._queue = queue
        self._time_limit = time_limit
        self._observer = observer
        self._eos_token_ids = end_tokens(lm.tokenizer, lm.config)
        self._n_vocab = min(lm.tokenizer.vocab_size, lm.config.vocab_size)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._new: deque[Job] = deque()  # shared between threads, under the lock
        self._stopped: ApiError | None = None
        # From here on the engine thread's own.
        self._prefilling: deque[Job] = deque()
        self._prefilled: deque[Job] = deque()  # with samples that have not started
        self._samples: list[_Sample] = []
        self._prefix_caches: deque[KVCache] = deque(maxlen=_MAX_PREFIX_CACHES)
        self._durations: deque[float] = deque(maxlen=_DURATIONS_KEPT)
        self._results: dict[Job, _Results] = {}
        self._thread = threading.Thread(target=self._run, name="laplm-engine", daemon=True)
        self._thread.start()

    # --- for the event loop ---

    @property
    def n_vocab(self) -> int:
        """How many ids can be drawn, from 0 on: a vocabulary may be padded beyond its tokens."""
        return self._n_vocab

    @property
    def waiting(self) -> int:
        """Requests none of whose samples has started."""
        return len(self._new) + len(self._prefilling) + len(self._prefilled)

    @property
    def running(self) -> int:
        """Samples that are being decoded."""
        return len(self._samples)

    def submit(self, request: GenerationRequest) -> Job:
        """Put a request into the queue.

        Raises:
            ApiError: the queue is full (429), or the engine has stopped.
        """
        job = Job(request, time.perf_counter() + self._time_limit)
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
        each = sum(self._durations) / len(self._durations) if self._durations else 1.0
        return max(1, min(60, round(each * self.waiting / self._slots)))

    # --- the engine's thread ---

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (
                    self._new
                    or self._prefilling
                    or self._prefilled
                    or self._samples
                    or self._stopped
                ):
                    self._work.wait()
                self._prefilling += self._new
                self._new.clear()
                stopped = self._stopped
            if stopped is not None:
                for job in self._jobs():
                    self._fail(job, stopped)
                self._deliver()
                return
            try:
                self._drop_ended()
                self._step()
            except Exception as error:  # one bad step must not end the thread
                problem = to_logged_api_error(error)
                for job in self._jobs():
                    self._fail(job, problem)
            self._deliver()

    def _jobs(self) -> list[Job]:
        jobs = [*self._prefilling, *self._prefilled, *(sample.job for sample in self._samples)]
        return list(dict.fromkeys(jobs))

    def _drop_ended(self) -> None:
        """Free the slots of cancelled requests and of those past their deadline."""
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
        self._results.setdefault(job, _Results()).error = error
        self._remove(job)

    def _remove(self, job: Job) -> None:
        for jobs in (self._prefilling, self._prefilled):
            with contextlib.suppress(ValueError):
                jobs.remove(job)
        self._samples = [sample for sample in self._samples if sample.job is not job]

    def _step(self) -> None:
        """One forward pass: a token of every running sample, and a chunk of prompts."""
        self._start_samples()
        samples = list(self._samples)
        parts: list[tuple[Sequence[int], KVCache, int]] = [
            (sample.state.ids[-1:], sample.state.cache, 1) for sample in samples
        ]
        chunks = self._schedule_prefill(
            PREFILL_BUDGET_WHILE_DECODING if parts else MAX_BATCHED_TOKENS
        )
        for job, count in chunks:
            assert job.cache is not None
            start = job.cache.length
            last = count if job.request.prompt_logprobs else int(count == job.remaining_prompt)
            parts.append((job.request.prompt_ids[start : start + count], job.cache, last))
        if not parts:
            return
        logits = self._gpt.forward_batch(parts)
        for sample, x in zip(samples, logits, strict=False):
            self._sample_token(sample, x)
        row = len(samples)
        for job, count in chunks:
            wanted = count if job.request.prompt_logprobs else int(job.remaining_prompt == 0)
            self._finish_chunk(job, count, logits[row : row + wanted])
            row += wanted
        if self._observer is not None:
            self._observer.on_step(sum(count for _, count in chunks), len(samples))
        self._start_samples()

    def _schedule_prefill(self, budget: int) -> list[tuple[Job, int]]:
        """Prompts to prefill in this step, and how many tokens of each: round robin."""
        chunks: list[tuple[Job, int]] = []
        for job in list(self._prefilling):
            if budget < 1:
                break
            if job.cache is None:
                job.cache = self._prefix_cache(job)
                job.cached_tokens = job.cache.length
            count = min(job.remaining_prompt, budget)
            chunks.append((job, count))
            budget -= count
            job.turn_tokens += count
            if job.turn_tokens >= PREFILL_BUDGET_PER_TURN:  # to the end of the queue
                job.turn_tokens = 0
                self._prefilling.remove(job)
                self._prefilling.append(job)
        return chunks

    def _prefix_cache(self, job: Job) -> KVCache:
        """A key/value cache with the longest prefix shared with an earlier prompt."""
        ids = job.request.prompt_ids
        if job.request.prompt_logprobs or not self._prefix_caches:
            return self._gpt.new_cache()
        best = max(self._prefix_caches, key=lambda cache: shared_prefix_length(cache.ids, ids))
        shared = shared_prefix_length(best.ids, ids)
        if not shared:
            return self._gpt.new_cache()
        (cache,) = best.fork(1)
        cache.trim(shared)
        return cache

    def _finish_chunk(self, job: Job, count: int, logits: Array) -> None:
        """Record a chunk of a prompt that has been prefilled."""
        assert job.cache is not None
        if job.request.prompt_logprobs:
            self._score_prompt(job, count, logits)
        if job.remaining_prompt:
            return
        self._prefilling.remove(job)
        self._prefix_caches.append(job.cache.fork(1)[0])
        if job.request.max_new_tokens == 0:
            self._finish(job)
            return
        job.logits = logits[-1].copy()
        self._prefilled.append(job)

    def _score_prompt(self, job: Job, count: int, logits: Array) -> None:
        """The log-probability of each prompt token of the chunk, given the tokens before it."""
        assert job.cache is not None
        request, start = job.request, job.cache.length - count
        tokenizer = self._lm.tokenizer
        items: list[Item] = self._results.setdefault(job, _Results()).items
        for i, token in enumerate(request.prompt_ids[start : start + count]):
            x = job.last_logits if i == 0 else logits[i - 1]
            if x is None:
                items.append(PromptToken(token, None))
                continue
            x = x[: self._n_vocab]
            normalizer = self._gpt.logsumexp(x)
            tops = tuple(
                TokenLogprob(t, tokenizer.token_text(t), logprob)
                for t, logprob in top_logprobs(x, request.logprobs or 0, normalizer)
            )
            logprob = float(x[token]) - normalizer if token < len(x) else float("-inf")
            items.append(PromptToken(token, logprob, tops))
        job.last_logits = logits[-1].copy()

    def _start_samples(self) -> None:
        """Give free slots to samples of prefilled prompts, one request after the other."""
        while self._prefilled and len(self._samples) < self._slots:
            job = self._prefilled[0]
            self._prefilled.rotate(-1)
            request = job.request
            assert job.cache is not None and job.logits is not None
            index, job.started, job.decoding = job.started, job.started + 1, job.decoding + 1
            last = job.started == request.samples
            text = StreamingDetokenizer(self._lm.tokenizer, request.stop, request.min_new_tokens)
            state = SampleState(
                index,
                request,
                job.cache if last else job.cache.fork(1)[0],
                n_vocab=self._n_vocab,
                eos_token_ids=self._eos_token_ids,
                should_stop=lambda _, token, text=text: text.feed(token),  # type: ignore[misc]
            )
            sample = _Sample(job, state, text)
            self._samples.append(sample)
            logits = job.logits
            if last:
                self._prefilled.remove(job)
                job.logits = None
            self._sample_token(sample, logits)

    def _sample_token(self, sample: _Sample, logits: Array) -> None:
        """Sample the next token, and end the sample if it is the last one."""
        job = sample.job
        if sample not in self._samples:  # another sample of its request has failed in this step
            return
        try:
            step = sample.text.step(sample.state.sample_token(self._gpt, logits))
        except Exception as error:  # logits that are not numbers: this request's trouble alone
            self._fail(job, to_logged_api_error(error))
            return
        self._results.setdefault(job, _Results()).items.append(step)
        if self._observer is not None:
            now = time.perf_counter()
            first = job.last == job.start
            if sample.state.index == 0:
                self._observer.on_token(now - job.last, first=first)
                job.last = now
        if step.finish_reason is not None:
            self._samples.remove(sample)
            job.decoding -= 1
            if job.decoding == 0 and job.started == job.request.samples:
                self._finish(job)

    def _finish(self, job: Job) -> None:
        self._results.setdefault(job, _Results()).ended = True
        self._durations.append(time.perf_counter() - job.start)

    def _deliver(self) -> None:
        """Hand the results of a step to the event loop, in one call."""
        if not self._results:
            return
        results, self._results = self._results, {}

        def deliver() -> None:
            for job, each in results.items():
                job.deliver(each.items, each.ended, each.error)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(deliver)
