"""Continuous batching: each request is answered as if it were alone, and none harms another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laplm.run.language_model import LanguageModel
from laplm.run.request import GenerationRequest
from laplm.run.results import GenerationStep
from laplm.run.sampler import LogitAdjustments, SamplingParams
from laplm.serve import scheduler as module
from laplm.serve.problems import ApiError
from laplm.serve.scheduler import Item, Job, PromptToken, Scheduler

PROMPTS = [
    [5, 6, 7],
    [(11 * i) % 300 for i in range(100)],
    [8],
    [(7 * i + 3) % 300 for i in range(61)],
]


@pytest.fixture(scope="module")
def lm(tiny_model_dir: Path) -> LanguageModel:
    model = LanguageModel(tiny_model_dir)
    assert model.gpt
    return model


def request(
    prompt: Sequence[int], tokens: int = 8, seed: int = 4, **more: Any
) -> GenerationRequest:
    params = SamplingParams(temperature=1.0, top_k=0, seed=seed)
    return GenerationRequest(
        prompt_ids=tuple(prompt), params=params, max_new_tokens=tokens,
        **{"logprobs": None, "ignore_eos": True, **more},
    )  # fmt: skip


def scheduled(
    lm: LanguageModel, scenario: Callable[[Scheduler], Coroutine[Any, Any, Any]], **settings: Any
) -> Any:
    """What a scenario comes to in an event loop with a scheduler."""

    async def main() -> Any:
        scheduler = Scheduler(lm, asyncio.get_running_loop(), **settings)
        try:
            return await asyncio.wait_for(scenario(scheduler), 120)
        finally:
            scheduler.stop()
            await asyncio.to_thread(scheduler.join, 30)

    return asyncio.run(main())


async def items_of(job: Job) -> list[Item]:
    return [item async for items in job.batches() for item in items]


def drawn(items: Sequence[Item], sample: int = 0) -> tuple[int, ...]:
    """The tokens of one sample."""
    return tuple(i.token_id for i in items if isinstance(i, GenerationStep) and i.sample == sample)


def text(items: Sequence[Item], sample: int = 0) -> str:
    return "".join(i.text for i in items if isinstance(i, GenerationStep) and i.sample == sample)


class Engine:
    """The engine's passes, watched, and held at will."""

    def __init__(self, lm: LanguageModel) -> None:
        self.passes: list[list[tuple[list[int], int]]] = []  # ids and wanted logits of each part
        self.change: Callable[[list[Any], Any], None] = lambda parts, logits: None
        self.holding = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._forward_batch = lm.gpt.forward_batch

    def forward_batch(self, parts: list[Any]) -> Any:
        self.holding.set()
        assert self.may_go_on.wait(60)
        logits = self._forward_batch(parts)
        self.passes.append([(list(ids), wanted) for ids, _, wanted in parts])
        self.change(parts, logits)
        return logits

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No pass ends meanwhile; the next one has begun already."""
        self.may_go_on.clear()
        self.holding.clear()
        yield
        self.may_go_on.set()

    async def until_held(self) -> None:
        assert await asyncio.to_thread(self.holding.wait, 60)


@pytest.fixture
def engine(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Engine:
    watched = Engine(lm)
    monkeypatch.setattr(lm.gpt, "forward_batch", watched.forward_batch)
    return watched


def test_prompts_that_are_read_in_one_pass_are_answered_as_alone(
    lm: LanguageModel, engine: Engine
) -> None:
    want = [lm.samples(p, 2, 8, seed=4, top_k=0, temperature=1, ignore_eos=True) for p in PROMPTS]

    async def scenario(scheduler: Scheduler) -> list[list[Item]]:
        with engine.held():
            first = scheduler.submit(request([1, 2], 30))
            await engine.until_held()
            jobs = [scheduler.submit(request(p, samples=2, logprobs=2)) for p in PROMPTS]
        return [await items_of(job) for job in jobs] + [await items_of(first)]

    found = scheduled(lm, scenario)
    # All but the longest were read in the first pass that had more than one prompt.
    shared = next(parts for parts in engine.passes if len(parts) > 2)
    assert sum(len(ids) for ids, _ in shared[1:]) == module.PREFILL_BUDGET_WHILE_DECODING
    for items, results in zip(found, want, strict=False):
        for sample, result in enumerate(results):
            assert drawn(items, sample) == result.token_ids
            assert text(items, sample) == result.text
        logprobs = [i.logprob for i in items if i.sample == 1]
        assert logprobs == pytest.approx(results[1].logprobs, abs=1e-5)


def test_a_prompt_is_scored_as_alone_whatever_is_beside_it(
    lm: LanguageModel, engine: Engine
) -> None:
    logits = lm.gpt.forward(PROMPTS[1]).astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    want = [logits[i - 1, token] for i, token in enumerate(PROMPTS[1]) if i]
    likeliest = logits[:-1].argmax(axis=1)

    async def scenario(scheduler: Scheduler) -> list[Item]:
        with engine.held():
            beside = scheduler.submit(request(PROMPTS[0], 40))
            await engine.until_held()
            other = scheduler.submit(request(PROMPTS[3], prompt_logprobs=True, logprobs=1))
            job = scheduler.submit(request(PROMPTS[1], 3, prompt_logprobs=True, logprobs=1))
        items = await items_of(job)
        await items_of(other)
        await items_of(beside)
        return items

    items = scheduled(lm, scenario)
    prompt = [item for item in items if isinstance(item, PromptToken)]
    assert [item.token_id for item in prompt] == PROMPTS[1]
    assert prompt[0].logprob is None
    assert [item.logprob for item in prompt[1:]] == pytest.approx(want, abs=1e-4)
    assert [item.top_logprobs[0].token_id for item in prompt[1:]] == list(likeliest)
    assert sum(len(ids) > 1 for parts in engine.passes for ids, _ in parts) >= 3  # in blocks
    assert len(drawn(items)) == 3


def test_a_prompt_may_be_read_without_writing(lm: LanguageModel) -> None:
    async def scenario(scheduler: Scheduler) -> list[Item]:
        return await items_of(scheduler.submit(request([1, 2, 3], 0, prompt_logprobs=True)))

    items = scheduled(lm, scenario)
    assert [type(item) for item in items] == [PromptToken] * 3
    assert all(item.top_logprobs == () for item in items)


def test_a_client_that_has_gone_leaves_its_places_to_others(
    lm: LanguageModel, engine: Engine
) -> None:
    async def scenario(scheduler: Scheduler) -> None:
        gone = scheduler.submit(request([1, 2], 100, samples=5))
        await anext(gone.batches())
        with engine.held():
            await engine.until_held()
            assert scheduler.running == 2
            waiting = scheduler.submit(request([3], 4, samples=2))
            gone.cancel()
        items = await items_of(waiting)
        assert [len(drawn(items, sample)) for sample in (0, 1)] == [4, 4]
        assert scheduler.running == 0
        assert scheduler.waiting == 0

    passes_before = len(engine.passes)
    scheduled(lm, scenario, slots=2)
    # It was not worked for any longer: no pass had one of its samples beside the other's.
    later = engine.passes[passes_before:]
    assert len(later) < 30


def test_a_client_that_has_gone_before_its_turn_is_not_read(
    lm: LanguageModel, engine: Engine
) -> None:
    async def scenario(scheduler: Scheduler) -> None:
        with engine.held():
            first = scheduler.submit(request([1], 3))
            await engine.until_held()
            gone = scheduler.submit(request([99, 98], 3))
            gone.cancel()
        await items_of(first)
        assert await items_of(gone) == []
        await items_of(scheduler.submit(request([2], 3)))

    scheduled(lm, scenario)
    assert not [ids for parts in engine.passes for ids, _ in parts if ids == [99, 98]]


def test_a_request_that_takes_too_long_is_ended_and_others_are_not(
    lm: LanguageModel, engine: Engine
) -> None:
    async def scenario(scheduler: Scheduler) -> list[Item]:
        with engine.held():
            late = scheduler.submit(request([1], 100))
            await engine.until_held()
            unread = scheduler.submit(request([2], 100))
            other = scheduler.submit(request(PROMPTS[0]))
            late.deadline = unread.deadline = 0.0
        for job in (late, unread):
            with pytest.raises(ApiError) as error:
                await items_of(job)
            assert (error.value.status, error.value.code) == (408, "time_limit")
            assert "7 s" in str(error.value)
        return await items_of(other)

    items = scheduled(lm, scenario, time_limit=7.0)
    (want,) = lm.samples(PROMPTS[0], 1, 8, seed=4, top_k=0, temperature=1, ignore_eos=True)
    assert drawn(items) == want.token_ids


def test_a_deadline_is_so_long_after_the_arrival(lm: LanguageModel) -> None:
    async def scenario(scheduler: Scheduler) -> None:
        job = scheduler.submit(request([1]))
        assert job.deadline - job.start == pytest.approx(7.0, abs=0.01)
        await items_of(job)

    scheduled(lm, scenario, time_limit=7.0)


def test_logits_of_one_request_that_are_no_numbers_harm_no_other(
    lm: LanguageModel, engine: Engine
) -> None:
    marked = [300, 301]

    def spoil(parts: list[Any], logits: Any) -> None:
        row = 0
        for _, cache, wanted in parts:
            if list(cache.ids[:2]) == marked and cache.length > 4:
                logits[row : row + wanted] = math.nan
            row += wanted

    engine.change = spoil

    async def scenario(scheduler: Scheduler) -> list[list[Item]]:
        with engine.held():
            first = scheduler.submit(request(PROMPTS[0]))
            await engine.until_held()
            bad = scheduler.submit(request(marked, samples=3))
            last = scheduler.submit(request(PROMPTS[3]))
        with pytest.raises(ApiError) as error:
            await items_of(bad)
        assert error.value.status == 503
        assert "not numbers" in str(error.value)
        return [await items_of(first), await items_of(last)]

    found = scheduled(lm, scenario)
    for items, prompt in zip(found, (PROMPTS[0], PROMPTS[3]), strict=True):
        (want,) = lm.samples(prompt, 1, 8, seed=4, top_k=0, temperature=1, ignore_eos=True)
        assert drawn(items) == want.token_ids


def test_a_pass_that_fails_ends_its_requests_with_a_traceback_in_the_log_and_no_later_one(
    lm: LanguageModel, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(parts: list[Any], logits: Any) -> None:
        raise RuntimeError("a broken pass")

    async def scenario(scheduler: Scheduler) -> list[Item]:
        engine.change = fail
        with pytest.raises(ApiError) as error:
            await items_of(scheduler.submit(request([1, 2])))
        assert error.value.status == 500
        assert "broken" not in str(error.value)
        engine.change = lambda parts, logits: None
        return await items_of(scheduler.submit(request([1, 2])))

    with caplog.at_level(logging.ERROR, "laplm.serve"):
        assert len(drawn(scheduled(lm, scenario))) == 8
    assert [str(r.exc_info[1]) for r in caplog.records if r.exc_info] == ["a broken pass"]


def test_as_many_requests_wait_as_there_is_room_for_and_no_more(
    lm: LanguageModel, engine: Engine
) -> None:
    async def scenario(scheduler: Scheduler) -> None:
        first = scheduler.submit(request([1], 100))
        await anext(first.batches())  # it waits no longer
        with engine.held():
            await engine.until_held()
            scheduler._durations.extend([10.0, 20.0])
            waiting = [scheduler.submit(request([2 + i], 2)) for i in range(3)]
            assert scheduler.waiting == 3
            with pytest.raises(ApiError) as error:
                scheduler.submit(request([9]))
            assert error.value.status == 429
            assert error.value.code == "queue_full"
            assert error.value.headers == {"Retry-After": "45"}  # 3 of 15 s, one at a time
            assert "45 s" in str(error.value)
        for job in waiting:
            assert len(drawn(await items_of(job))) == 2
        assert len(drawn(await items_of(scheduler.submit(request([9], 2))))) == 2
        assert len(scheduler._durations) == 2 + 5  # how long each took

    scheduled(lm, scenario, slots=1, queue=3)


@pytest.mark.parametrize(("each", "said"), [(1e-3, 1), (7.0, 7), (1000.0, 60), (None, 1)])
def test_who_is_refused_is_told_to_come_again_within_a_minute(
    lm: LanguageModel, engine: Engine, each: float | None, said: int
) -> None:
    async def scenario(scheduler: Scheduler) -> int:
        scheduler._durations.extend([] if each is None else [each])
        with engine.held():
            scheduler.submit(request([1], 2))
            await engine.until_held()
            scheduler.submit(request([1], 2))
            return scheduler._wait_seconds()

    assert scheduled(lm, scenario, slots=2) == said


def test_more_samples_than_places_take_turns_and_are_as_alone(
    lm: LanguageModel, engine: Engine
) -> None:
    async def scenario(scheduler: Scheduler) -> list[list[Item]]:
        with engine.held():
            first = scheduler.submit(request([1], 2))
            await engine.until_held()
            jobs = [scheduler.submit(request(p, samples=3)) for p in (PROMPTS[0], PROMPTS[2])]
        await items_of(first)
        return [await items_of(job) for job in jobs]

    found = scheduled(lm, scenario, slots=2)
    assert max(sum(len(ids) == 1 for ids, _ in parts) for parts in engine.passes) <= 3
    begun = [items[0].token_id for items in found]
    both = [ids[0] for ids, _ in next(p for p in engine.passes if len(p) == 2 and p[1][0] != [1])]
    assert sorted(both) == sorted(begun)  # one of each, and not two of the first
    for items, prompt in zip(found, (PROMPTS[0], PROMPTS[2]), strict=True):
        want = lm.samples(prompt, 3, 8, seed=4, top_k=0, temperature=1, ignore_eos=True)
        assert [drawn(items, sample) for sample in range(3)] == [r.token_ids for r in want]


def test_a_short_prompt_does_not_wait_for_a_long_one(
    lm: LanguageModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("MAX_BATCHED_TOKENS", 16),
        ("PREFILL_BUDGET_WHILE_DECODING", 8),
        ("PREFILL_BUDGET_PER_TURN", 16),
    ):
        monkeypatch.setattr(module, name, value)
    ended: list[str] = []

    async def note(name: str, job: Job) -> None:
        await anext(job.batches())
        ended.append(name)
        job.cancel()

    async def scenario(scheduler: Scheduler) -> None:
        with engine.held():
            long = scheduler.submit(request(PROMPTS[1], 2))
            await engine.until_held()
            short = scheduler.submit(request([8, 9], 2))
        await asyncio.gather(note("long", long), note("short", short))

    scheduled(lm, scenario)
    assert ended == ["short", "long"]
    sizes = [sum(len(ids) for ids, _ in parts) for parts in engine.passes]
    assert sizes[0] == 16
    assert max(sizes) <= 16


def test_what_a_prompt_has_in_common_with_an_earlier_one_is_not_read_again(
    lm: LanguageModel, engine: Engine
) -> None:
    async def scenario(scheduler: Scheduler) -> list[tuple[Job, list[Item]]]:
        found = []
        long = PROMPTS[1]
        for prompt, more in (
            (long, {}), ([*long[:50], 1, 2], {}), (long, {}), ([301], {}),
            (long, {"prompt_logprobs": True}), (long, {}),
        ):  # fmt: skip
            job = scheduler.submit(request(prompt, **more))
            found.append((job, await items_of(job)))
        return found

    found = scheduled(lm, scenario)
    assert [job.cached_tokens for job, _ in found] == [0, 50, 99, 0, 0, 99]
    for job, items in found:
        ids = list(job.request.prompt_ids)
        (want,) = lm.samples(ids, 1, 8, seed=4, top_k=0, temperature=1, ignore_eos=True)
        assert drawn(items) == want.token_ids


def test_settings_of_one_request_are_its_own(lm: LanguageModel) -> None:
    async def scenario(scheduler: Scheduler) -> list[list[Item]]:
        jobs = [
            scheduler.submit(request([5], logit_adjustments=LogitAdjustments({7: 100.0}))),
            scheduler.submit(
                request([5], logit_adjustments=LogitAdjustments({9: 100.0}), stop_token_ids=(9,))
            ),
            scheduler.submit(request([5])),
            scheduler.submit(request([5], seed=5)),
        ]
        return [await items_of(job) for job in jobs]

    seven, nine, plain, other_seed = map(drawn, scheduled(lm, scenario))
    assert seven == (7,) * 8
    assert nine == (9,)
    (want,) = lm.samples([5], 1, 8, seed=4, top_k=0, temperature=1, ignore_eos=True)
    assert plain == want.token_ids
    assert other_seed != plain


def test_the_end_of_a_text_ends_it_unless_it_is_to_be_ignored(lm: LanguageModel) -> None:
    eos = lm.tokenizer.eos_token_id
    assert eos is not None

    async def scenario(scheduler: Scheduler) -> list[list[Item]]:
        jobs = [
            scheduler.submit(
                request([5], logit_adjustments=LogitAdjustments({eos: 100.0}), ignore_eos=ignored)
            )
            for ignored in (False, True)
        ]
        return [await items_of(job) for job in jobs]

    ended, ignored = scheduled(lm, scenario)
    assert drawn(ended) == (eos,)
    assert text(ended) == ""
    assert ended[-1].finish_reason == "eos"
    assert drawn(ignored) == (eos,) * 8
    assert ignored[-1].finish_reason == "length"


def test_a_scheduler_that_stops_tells_everybody_why(lm: LanguageModel, engine: Engine) -> None:
    async def scenario(scheduler: Scheduler) -> None:
        with engine.held():
            jobs = [scheduler.submit(request([1], 100))]
            await engine.until_held()
            jobs.append(scheduler.submit(request([2], 100)))
            scheduler.stop(ApiError(503, "closing time"))
        for job in jobs:
            with pytest.raises(ApiError, match="closing time"):
                await items_of(job)
        with pytest.raises(ApiError, match="closing time"):
            scheduler.submit(request([3]))
        await asyncio.to_thread(scheduler.join, 30)
        assert not scheduler._thread.is_alive()

    scheduled(lm, scenario)


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.tokens: list[bool] = []
        self.passes: list[tuple[int, int]] = []

    def on_token(self, seconds: float, *, first: bool) -> None:
        assert seconds >= 0
        self.tokens.append(first)

    def on_step(self, prompt_tokens: int, new_tokens: int) -> None:
        self.passes.append((prompt_tokens, new_tokens))


def test_an_observer_is_told_of_every_token_and_step(lm: LanguageModel) -> None:
    told = Told()

    async def scenario(scheduler: Scheduler) -> None:
        for prompt in PROMPTS[:2]:
            await items_of(scheduler.submit(request(prompt, 5, samples=2)))

    scheduled(lm, scenario, observer=told)
    # Of the first sample of each request, whose first token came from the prompt's own pass.
    assert told.tokens == ([True] + [False] * 4) * 2
    assert sum(n for n, _ in told.passes) == len(PROMPTS[0]) + len(PROMPTS[1])
    assert sum(n for _, n in told.passes) == 2 * 2 * 4
