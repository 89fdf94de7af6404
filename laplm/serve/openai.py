"""OpenAI's routes: models, completions, chat completions, and their streams.

Source: https://platform.openai.com/docs/api-reference. Beyond it, completions take ``top_k``,
``min_p``, ``repetition_penalty``, ``ignore_eos`` and ``return_token_ids``. Fields that are not
known are ignored, as by OpenAI's own server.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from laplm.errors import ContextLengthError
from laplm.gpt.tokenizer import Tokenizer
from laplm.run.generate import GenerationStep, encode_prompt, seeded
from laplm.run.sampler import Nudges, SamplingParams
from laplm.serve.models import Registry, Served
from laplm.serve.problems import BODY, ApiError, Json, answers, given
from laplm.serve.scheduler import Item, Job, Order, PromptToken
from laplm.serve.streams import DONE, EventStream, event, unless_gone

MOST_SAMPLES = 128
MOST_PROMPTS = 64
MOST_STOPS = 4
MOST_LOGPROBS = 20
_LONG = 8000  # bytes of a request whose text takes a thousandth of a second to cut into tokens

T = TypeVar("T")

Number = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    """What a stream has besides."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class Sampling(BaseModel):
    """What completions and chat completions have in common."""

    model_config = ConfigDict(strict=True)

    model: str | None = Field(None, max_length=300)
    n: int | None = Field(None, ge=1, le=MOST_SAMPLES)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    logit_bias: dict[str, Number] | None = Field(None, max_length=1024)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    user: str | None = None
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: float | None = Field(None, gt=0, le=100, allow_inf_nan=False)
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None

    def stops(self) -> tuple[str, ...]:
        """The stop strings.

        Raises:
            ApiError: too many, or one is empty.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > MOST_STOPS:
            raise ApiError(
                400, f"stop has {len(stops)} strings; give at most {MOST_STOPS}", param="stop"
            )
        if not all(stops):
            raise ApiError(400, "a stop string is empty; leave it out", param="stop")
        return stops

    def sampling_params(self) -> SamplingParams:
        """With OpenAI's defaults, and a seed."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }
        defaults: dict[str, Any] = {"temperature": 1.0, "top_k": 0}
        values = defaults | {name: value for name, value in given.items() if value is not None}
        # OpenAI's seeds have a sign; those without are the seeds of `laplm run`.
        seed = None if self.seed is None else self.seed % 2**64
        return seeded(SamplingParams(**values, seed=seed))

    def nudges(self, vocab_size: int) -> Nudges | None:
        """What is added to logits; None for nothing.

        Raises:
            ApiError: a key of ``logit_bias`` is no token, or a bias is out of its range.
        """
        bias = {}
        for key, value in (self.logit_bias or {}).items():
            if not (key.isascii() and key.isdigit()) or len(key) > 9 or int(key) >= vocab_size:
                raise ApiError(
                    400,
                    f"logit_bias has the key {key!r}, but keys are token ids from 0 to "
                    f"{vocab_size - 1}",
                    param="logit_bias",
                )
            if not -100 <= value <= 100:
                raise ApiError(
                    400, f"logit_bias is {value} for token {key}; give -100 to 100",
                    param="logit_bias",
                )  # fmt: skip
            bias[int(key)] = value
        nudges = Nudges(bias, self.presence_penalty or 0.0, self.frequency_penalty or 0.0)
        return None if nudges == Nudges() else nudges

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with counts of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(Sampling):
    """``POST /v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]] | None = None
    best_of: int | None = Field(None, ge=1, le=MOST_SAMPLES)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    suffix: str | None = None


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(Sampling):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)


# --- what comes back --------------------------------------------------------------------------


class _Choice:
    """One sample of one prompt, gathered, or told token by token."""

    def __init__(self, tokenizer: Tokenizer, index: int, offset: int = 0) -> None:
        self.index = index
        self.steps: list[GenerationStep] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.offset = offset  # characters before the next token
        self._tokenizer = tokenizer

    @property
    def score(self) -> float:
        """Mean log-probability of a token: what ``best_of`` goes by."""
        return sum(step.logprob for step in self.steps) / max(1, len(self.steps))

    def add(self, step: GenerationStep) -> None:
        self.steps.append(step)
        self.text += step.text
        if step.finish_reason is not None:
            self.finish_reason = "length" if step.finish_reason == "length" else "stop"

    def legacy(
        self, tokens: Sequence[GenerationStep | PromptToken], count: int, with_ids: bool
    ) -> dict[str, Any]:
        """``logprobs`` as completions have it."""
        out: dict[str, Any] = {
            "tokens": [], "token_logprobs": [], "top_logprobs": [] if count else None,
            "text_offset": [],
        }  # fmt: skip
        if with_ids:
            out |= {"top_token_ids": [], "top_texts": [], "top_token_logprobs": []}
        for token in tokens:
            text = self._tokenizer.token_text(token.token_id)
            out["tokens"].append(text)
            out["token_logprobs"].append(_finite(token.logprob))
            out["text_offset"].append(self.offset)
            self.offset += len(text)
            tops = token.top_logprobs
            if count:
                found = {t.text: t.logprob for t in reversed(tops)}
                if token.logprob is None:
                    out["top_logprobs"].append(None)
                else:  # the token itself always, as OpenAI has it
                    out["top_logprobs"].append({**found, text: _finite(token.logprob)})
            if with_ids:
                out["top_token_ids"].append([t.token_id for t in tops])
                out["top_texts"].append([t.text for t in tops])
                out["top_token_logprobs"].append([t.logprob for t in tops])
        return out

    def chat(self, steps: Sequence[GenerationStep]) -> dict[str, Any]:
        """``logprobs`` as chat completions have it."""
        return {
            "content": [
                self._chat_token(step.token_id, step.logprob)
                | {
                    "top_logprobs": [
                        self._chat_token(t.token_id, t.logprob) for t in step.top_logprobs
                    ]
                }
                for step in steps
            ],
            "refusal": None,
        }

    def _chat_token(self, token_id: int, logprob: float) -> dict[str, Any]:
        raw = self._tokenizer.token_bytes(token_id)
        return {
            "token": raw.decode("utf-8", "replace"),
            "logprob": _finite(logprob),
            "bytes": list(raw),
        }


def _finite(number: float | None) -> float | None:
    return number if number is None or math.isfinite(number) else -9999.0


class _Batch:
    """The jobs of one request, and the answer that is made of them."""

    def __init__(
        self, served: Served, request: Request, body: Sampling, kind: str, jobs: list[Job]
    ) -> None:
        self.served = served
        self.request = request
        self.body = body
        self.jobs = jobs
        self.head = {
            "id": f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.name,
        }
        self.prompt_tokens = sum(len(job.order.prompt_ids) for job in jobs)
        self.new_tokens = 0

    def cancel(self) -> None:
        for job in self.jobs:
            job.cancel()

    def usage(self) -> dict[str, Any]:
        cached = sum(job.cached_tokens for job in self.jobs)
        self.request.scope.setdefault("laplm", {}).update(
            model=self.served.name,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.new_tokens,
            cached_tokens=cached,
        )
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": self.prompt_tokens + self.new_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    async def whole(self) -> list[tuple[list[PromptToken], list[GenerationStep]]]:
        """Every job's items, when all have ended."""
        out = []
        for job in self.jobs:
            prompt: list[PromptToken] = []
            steps: list[GenerationStep] = []
            async for items in job.batches():
                for item in items:
                    if isinstance(item, PromptToken):
                        prompt.append(item)
                    else:
                        steps.append(item)
            self.new_tokens += len(steps)
            out.append((prompt, steps))
        return out


def _submit(served: Served, orders: list[Order]) -> list[Job]:
    jobs: list[Job] = []
    try:
        for order in orders:
            jobs.append(served.scheduler.submit(order))
    except ApiError:
        for job in jobs:
            job.cancel()
        raise
    return jobs


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    prompt = "" if body.prompt is None else body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise ApiError(400, "prompt is an empty list; give a text or token ids", param="prompt")
    if isinstance(prompt[0], int):
        return [prompt]
    if len(prompt) > MOST_PROMPTS:
        raise ApiError(
            400, f"prompt has {len(prompt)} texts; give at most {MOST_PROMPTS}", param="prompt"
        )
    return list(prompt)


def _check_room(n_prompt: int, new: int, n_ctx: int) -> None:
    if n_prompt + new > n_ctx:
        fewer = f", or set max_tokens to at most {n_ctx - n_prompt:,}" if n_prompt < n_ctx else ""
        raise ContextLengthError(
            f"this model holds {n_ctx:,} tokens, but {n_prompt:,} in the prompt and {new:,} to "
            f"write were asked for; shorten the prompt{fewer}"
        )


def router(registry: Registry) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/v1", tags=["OpenAI"])
    written = given("text/event-stream") | answers(*BODY, 404, 429)

    @api.get("/models")
    async def models() -> Response:
        """The models that can be asked for."""
        return Json({"object": "list", "data": [_model(name) for name in await registry.names()]})

    @api.get("/models/{name:path}", responses=answers(404))
    async def model(name: str) -> Response:
        """One of them."""
        await registry.entry(name)
        return Json(_model(name))

    @api.post("/completions", responses=written)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a prompt."""
        _check_completion(body)
        async with contextlib.AsyncExitStack() as stack:
            served = await stack.enter_async_context(registry.use(body.model))
            prompts = _prompts(body)
            orders = await _made(
                request, lambda: [_completion_order(served, body, prompt) for prompt in prompts]
            )
            batch = _Batch(served, request, body, "text", _submit(served, orders))
            stack.callback(batch.cancel)
            if body.stream:
                return EventStream(_stream_completion(batch, body), stack.pop_all())
            return Json(await unless_gone(request, _completion(batch, body), batch.cancel))
        raise AssertionError  # for the type checker: the stack swallows nothing

    @api.post("/chat/completions", responses=written)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        async with contextlib.AsyncExitStack() as stack:
            served = await stack.enter_async_context(registry.use(body.model))
            order = await _made(request, lambda: _chat_order(served, body))
            batch = _Batch(served, request, body, "chat", _submit(served, [order]))
            stack.callback(batch.cancel)
            if body.stream:
                return EventStream(_stream_chat(batch, body), stack.pop_all())
            return Json(await unless_gone(request, _chat(batch, body), batch.cancel))
        raise AssertionError

    return api


async def _made(request: Request, make: Callable[[], T]) -> T:
    """What ``make`` gives; a long text is cut into tokens beside the streams of others."""
    return make() if len(await request.body()) < _LONG else await asyncio.to_thread(make)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "laplm"}


# --- completions ------------------------------------------------------------------------------


def _check_completion(body: CompletionRequest) -> None:
    n, best_of = body.n or 1, body.best_of or body.n or 1
    if body.suffix:
        raise ApiError(
            400,
            "suffix is not possible: the model only knows what comes before; leave it out",
            param="suffix",
        )
    if best_of < n:
        raise ApiError(400, f"best_of is {best_of}, but n is {n}; best_of chooses among at least n",
                       param="best_of")  # fmt: skip
    if body.stream and best_of > n:
        raise ApiError(400, "best_of cannot choose while streaming; leave one of them out",
                       param="best_of")  # fmt: skip
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens is 0, which only makes sense with echo", param="max_tokens")


def _completion_order(served: Served, body: CompletionRequest, prompt: str | list[int]) -> Order:
    lm = served.lm
    new = 16 if body.max_tokens is None else body.max_tokens
    ids = encode_prompt(prompt, lm.tokenizer, lm.config, slide=True)
    _check_room(len(ids), new, lm.config.n_ctx)
    choosing = (body.best_of or 1) > (body.n or 1)
    logprobs = body.logprobs
    return Order(
        prompt_ids=tuple(ids),
        params=body.sampling_params(),
        max_new_tokens=new,
        samples=body.best_of or body.n or 1,
        stop=body.stops(),
        logprobs=0 if logprobs is None and choosing else logprobs,
        score_prompt=bool(body.echo) and logprobs is not None,
        ignore_eos=bool(body.ignore_eos),
        nudges=body.nudges(lm.config.vocab_size),
    )


async def _completion(batch: _Batch, body: CompletionRequest) -> dict[str, Any]:
    tokenizer, n = batch.served.lm.tokenizer, body.n or 1
    choices: list[dict[str, Any]] = []
    for job, (prompt, steps) in zip(batch.jobs, await batch.whole(), strict=True):
        order = job.order
        shown = tokenizer.decode(order.prompt_ids) if body.echo else ""
        drawn = [_Choice(tokenizer, i) for i in range(order.samples)]
        for step in steps:
            drawn[step.sample].add(step)
        best = sorted(drawn, key=lambda choice: -choice.score) if order.samples > n else drawn
        for choice in best[:n]:
            choice.index = len(choices)
            out: dict[str, Any] = {
                "index": choice.index,
                "text": shown + choice.text,
                "logprobs": None,
                "finish_reason": choice.finish_reason or "length",
            }
            if body.logprobs is not None:
                choice.offset = 0 if body.echo else len(tokenizer.decode(order.prompt_ids))
                out["logprobs"] = choice.legacy(
                    [*prompt, *choice.steps], body.logprobs, bool(body.return_token_ids)
                )
            if body.return_token_ids:
                out["token_ids"] = [step.token_id for step in choice.steps]
                out["prompt_token_ids"] = list(order.prompt_ids)
            choices.append(out)
    answer: dict[str, Any] = {
        **batch.head, "object": "text_completion", "choices": choices, "usage": batch.usage(),
    }  # fmt: skip
    if body.return_token_ids:
        answer["prompt_token_ids"] = list(batch.jobs[0].order.prompt_ids)
    return answer


async def _merged(jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, list[Item]]]:
    """What comes for any of the jobs, with the number of the job, as it comes."""
    if len(jobs) == 1:
        async for items in jobs[0].batches():
            yield 0, items
        return
    ready: asyncio.Queue[tuple[int, list[Item] | Exception | None]] = asyncio.Queue()

    async def read(i: int) -> None:
        try:
            async for items in jobs[i].batches():
                ready.put_nowait((i, items))
            ready.put_nowait((i, None))
        except Exception as error:
            ready.put_nowait((i, error))

    readers = [asyncio.create_task(read(i)) for i in range(len(jobs))]
    try:
        left = len(jobs)
        while left:
            i, news = await ready.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                left -= 1
            else:
                yield i, news
    finally:
        for reader in readers:
            reader.cancel()


async def _stream_completion(batch: _Batch, body: CompletionRequest) -> AsyncGenerator[bytes]:
    tokenizer, n = batch.served.lm.tokenizer, body.n or 1
    head = {**batch.head, "object": "text_completion"}
    usage = {"usage": None} if body.with_usage else {}
    prompts = [tokenizer.decode(job.order.prompt_ids) for job in batch.jobs]
    choices = [
        _Choice(tokenizer, job * n + i, 0 if body.echo else len(prompts[job]))
        for job in range(len(batch.jobs))
        for i in range(n)
    ]
    told = [False] * len(batch.jobs)  # whether a job's prompt ids, and with echo its text, are out
    scored: list[list[PromptToken]] = [[] for _ in batch.jobs]

    def chunk(choice: _Choice, text: str, steps: list[GenerationStep], job: int) -> bytes:
        out: dict[str, Any] = {
            "index": choice.index, "text": text, "logprobs": None,
            "finish_reason": choice.finish_reason,
        }  # fmt: skip
        more: dict[str, Any] = {}
        first = not choice.steps
        for step in steps:
            choice.add(step)
        out["finish_reason"] = choice.finish_reason
        if body.logprobs is not None:
            tokens = [*(scored[job] if body.echo and first else ()), *steps]
            out["logprobs"] = choice.legacy(tokens, body.logprobs, bool(body.return_token_ids))
        if body.return_token_ids:
            out["token_ids"] = [step.token_id for step in steps]
            if not told[job]:
                more["prompt_token_ids"] = list(batch.jobs[job].order.prompt_ids)
                told[job] = True
        return event({**head, "choices": [out], **more, **usage})

    async for job, items in _merged(batch.jobs):
        by_choice: dict[int, list[GenerationStep]] = {}
        for item in items:
            if isinstance(item, PromptToken):
                scored[job].append(item)
            else:
                by_choice.setdefault(job * n + item.sample, []).append(item)
        for i, steps in by_choice.items():
            batch.new_tokens += len(steps)
            text = "".join(step.text for step in steps)
            if body.echo and not choices[i].steps:
                text = prompts[job] + text
            yield chunk(choices[i], text, steps, job)
    for job, each in enumerate(batch.jobs):
        if each.order.max_new_tokens == 0 and not each.cancelled:  # nothing but the echo
            for i in range(n):
                choices[job * n + i].finish_reason = "length"
                yield chunk(choices[job * n + i], prompts[job], [], job)
    counts = batch.usage()
    if body.with_usage:
        yield event({**head, "choices": [], "usage": counts})
    yield DONE


# --- chat -------------------------------------------------------------------------------------


def _chat_order(served: Served, body: ChatRequest) -> Order:
    lm = served.lm
    template = lm.chat_template
    if template is None:
        raise ApiError(
            400,
            f"{served.name} was not tuned on conversations and has no chat template; use "
            "/v1/completions, or tune it on rows with messages (laplm tune)",
            param="model",
            code="no_chat_template",
        )
    messages = [
        {"role": _role(message.role), "content": _content(message)} for message in body.messages
    ]
    ids = template.encode(messages, add_generation_prompt=True)
    ids = encode_prompt(ids, lm.tokenizer, lm.config, slide=True)
    asked = body.max_completion_tokens or body.max_tokens
    room = lm.config.n_ctx - len(ids)
    new = max(1, room) if asked is None else asked
    _check_room(len(ids), new, lm.config.n_ctx)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    return Order(
        prompt_ids=tuple(ids),
        params=body.sampling_params(),
        max_new_tokens=new,
        samples=body.n or 1,
        stop=(*body.stops(), *template.turn_end.stop),
        end_token_ids=template.turn_end.token_ids,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        ignore_eos=bool(body.ignore_eos),
        nudges=body.nudges(lm.config.vocab_size),
    )


def _role(role: str) -> str:
    return "system" if role == "developer" else role


def _content(message: ChatMessage) -> str:
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for part in message.content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(
                400, "a message has a part that is not text; this model reads text only",
                param="messages",
            )  # fmt: skip
        texts.append(part["text"])
    return "".join(texts)


async def _chat(batch: _Batch, body: ChatRequest) -> dict[str, Any]:
    tokenizer = batch.served.lm.tokenizer
    ((_, steps),) = await batch.whole()
    choices = [_Choice(tokenizer, i) for i in range(body.n or 1)]
    for step in steps:
        choices[step.sample].add(step)
    return {
        **batch.head,
        "object": "chat.completion",
        "choices": [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": choice.chat(choice.steps) if body.logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ],
        "usage": batch.usage(),
    }


async def _stream_chat(batch: _Batch, body: ChatRequest) -> AsyncGenerator[bytes]:
    tokenizer = batch.served.lm.tokenizer
    head = {**batch.head, "object": "chat.completion.chunk"}
    usage = {"usage": None} if body.with_usage else {}
    choices = [_Choice(tokenizer, i) for i in range(body.n or 1)]

    def chunk(choice: _Choice, delta: dict[str, Any], logprobs: Any = None) -> bytes:
        out = {
            "index": choice.index, "delta": delta, "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
        }  # fmt: skip
        return event({**head, "choices": [out], **usage})

    for choice in choices:
        yield chunk(choice, {"role": "assistant", "content": ""})
    async for items in batch.jobs[0].batches():
        by_choice: dict[int, list[GenerationStep]] = {}
        for item in items:
            assert isinstance(item, GenerationStep)
            by_choice.setdefault(item.sample, []).append(item)
        for i, steps in by_choice.items():
            batch.new_tokens += len(steps)
            for step in steps:
                choices[i].add(step)
            text = "".join(step.text for step in steps)
            logprobs = choices[i].chat(steps) if body.logprobs else None
            yield chunk(choices[i], {"content": text} if text else {}, logprobs)
    counts = batch.usage()
    if body.with_usage:
        yield event({**head, "choices": [], "usage": counts})
    yield DONE
