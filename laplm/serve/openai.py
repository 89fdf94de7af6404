"""OpenAI's routes: models, completions, chat completions, and their streams.

Source: https://platform.openai.com/docs/api-reference. What else a request may say, and what
becomes of fields that clients send, is in ``parameters``.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from laplm.run.request import GenerationRequest, encode_prompt
from laplm.run.results import GenerationStep
from laplm.serve.logprobs import TextOffsets, chat_logprobs, completion_logprobs, prompt_text
from laplm.serve.models import ModelRegistry, ServedModel
from laplm.serve.parameters import ChatRequest, CompletionRequest, RequestBody
from laplm.serve.problems import BODY, ApiError, JsonResponse, error_responses, response_content
from laplm.serve.scheduler import Item, Job, PromptToken
from laplm.serve.streams import DONE, EventStream, cancel_on_disconnect, event

_LONG = 8000  # bytes of a request whose text takes a thousandth of a second to cut into tokens

T = TypeVar("T")

# --- what comes back --------------------------------------------------------------------------


class _ChoiceBuilder:
    """One of an answer's ``choices``: a sample of a prompt, by its steps so far."""

    def __init__(self, index: int, offset: int = 0) -> None:
        self.index = index
        self.steps: list[GenerationStep] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.offsets = TextOffsets(offset)

    @property
    def score(self) -> float:
        """Mean log-probability of a token: what ``best_of`` goes by."""
        return sum(step.logprob for step in self.steps) / max(1, len(self.steps))

    def add(self, step: GenerationStep) -> None:
        self.steps.append(step)
        self.text += step.text
        if step.finish_reason is not None:
            self.finish_reason = "length" if step.finish_reason == "length" else "stop"


class _ResponseBuilder:
    """What is answered to one request, made of what its jobs give."""

    def __init__(
        self, served: ServedModel, request: Request, body: RequestBody, kind: str, jobs: list[Job]
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
        self.prompt_tokens = sum(len(job.request.prompt_ids) for job in jobs)
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

    async def collect(self) -> list[tuple[list[PromptToken], list[GenerationStep]]]:
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


def _submit(served: ServedModel, requests: list[GenerationRequest]) -> list[Job]:
    jobs: list[Job] = []
    try:
        for each in requests:
            jobs.append(served.scheduler.submit(each))
    except ApiError:
        for job in jobs:
            job.cancel()
        raise
    return jobs


def router(registry: ModelRegistry) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/v1", tags=["OpenAI"])
    responses = response_content("text/event-stream") | error_responses(*BODY, 404, 429)

    @api.get("/models")
    async def models() -> Response:
        """The models that can be asked for."""
        return JsonResponse(
            {"object": "list", "data": [_model(name) for name in await registry.names()]}
        )

    @api.get("/models/{name:path}", responses=error_responses(404))
    async def model(name: str) -> Response:
        """One of them."""
        await registry.entry(name)
        return JsonResponse(_model(name))

    @api.post("/completions", responses=responses)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a prompt."""
        body.check()
        async with contextlib.AsyncExitStack() as stack:
            served = await stack.enter_async_context(registry.use(body.model))
            prompts, strict = body.prompts(), registry.settings.strict
            requests = await _prepare(
                request,
                lambda: [_completion_request(served, body, prompt, strict) for prompt in prompts],
            )
            builder = _ResponseBuilder(served, request, body, "text", _submit(served, requests))
            stack.callback(builder.cancel)
            if body.stream:
                return EventStream(_stream_completion(builder, body), stack.pop_all())
            return JsonResponse(
                await cancel_on_disconnect(request, _completion(builder, body), builder.cancel)
            )
        raise AssertionError  # for the type checker: the stack swallows nothing

    @api.post("/chat/completions", responses=responses)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation, or go on with its last message where that is the assistant's."""
        body.check()
        async with contextlib.AsyncExitStack() as stack:
            served = await stack.enter_async_context(registry.use(body.model))
            generation_request = await _prepare(
                request, lambda: _chat_request(served, body, registry.settings.strict)
            )
            builder = _ResponseBuilder(
                served, request, body, "chat", _submit(served, [generation_request])
            )
            stack.callback(builder.cancel)
            if body.stream:
                return EventStream(_stream_chat(builder, body), stack.pop_all())
            return JsonResponse(
                await cancel_on_disconnect(request, _chat(builder, body), builder.cancel)
            )
        raise AssertionError

    return api


async def _prepare(request: Request, make: Callable[[], T]) -> T:
    """Call ``make``, in a thread when the body is long: tokenizing must not block other streams."""
    return make() if len(await request.body()) < _LONG else await asyncio.to_thread(make)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "laplm"}


# --- completions ------------------------------------------------------------------------------


def _completion_request(
    served: ServedModel, body: CompletionRequest, prompt: str | list[int], strict: bool
) -> GenerationRequest:
    lm = served.lm
    ids = encode_prompt(prompt, lm.tokenizer, lm.config, slide=True)
    choosing = (body.best_of or 1) > (body.n or 1)
    logprobs = body.logprobs
    return _make_request(
        served,
        body,
        ids,
        max_new_tokens=body.max_new_tokens(16, len(ids), lm.context, strict=strict),
        samples=body.best_of or body.n or 1,
        stop=body.stop_strings(strict=strict),
        logprobs=0 if logprobs is None and choosing else logprobs,
        prompt_logprobs=bool(body.echo) and logprobs is not None,
    )


def _make_request(
    served: ServedModel,
    body: RequestBody,
    ids: Sequence[int],
    *,
    stop_token_ids: Sequence[int] = (),
    **more: Any,
) -> GenerationRequest:
    """What is the same for completions and chat."""
    n_vocab = served.scheduler.n_vocab
    return GenerationRequest(
        prompt_ids=tuple(ids),
        params=body.sampling_params(),
        min_new_tokens=body.min_tokens or 0,
        stop_token_ids=(*stop_token_ids, *body.extra_stop_token_ids(n_vocab)),
        ignore_eos=bool(body.ignore_eos),
        logit_adjustments=body.logit_adjustments(n_vocab),
        penalty_window=body.penalty_window(),
        **more,
    )


async def _completion(builder: _ResponseBuilder, body: CompletionRequest) -> dict[str, Any]:
    tokenizer, n = builder.served.lm.tokenizer, body.n or 1
    choices: list[dict[str, Any]] = []
    for job, (prompt_tokens, steps) in zip(builder.jobs, await builder.collect(), strict=True):
        request = job.request
        prompt = prompt_text(tokenizer, request.prompt_ids)
        # With echo the prompt's tokens come too, where their log-probabilities do.
        begin = 0 if request.prompt_logprobs else len(prompt)
        drawn = [_ChoiceBuilder(i, begin) for i in range(request.samples)]
        for step in steps:
            drawn[step.sample].add(step)
        best = sorted(drawn, key=lambda choice: -choice.score) if request.samples > n else drawn
        for choice in best[:n]:
            choice.index = len(choices)
            out: dict[str, Any] = {
                "index": choice.index,
                "text": prompt + choice.text if body.echo else choice.text,
                "logprobs": None,
                "finish_reason": choice.finish_reason or "length",
            }
            if body.logprobs is not None:
                out["logprobs"] = completion_logprobs(
                    tokenizer,
                    [*prompt_tokens, *choice.steps],
                    choice.offsets,
                    count=body.logprobs,
                    with_ids=bool(body.return_token_ids),
                )
            if body.return_token_ids:
                out["token_ids"] = [step.token_id for step in choice.steps]
                out["prompt_token_ids"] = list(request.prompt_ids)
            choices.append(out)
    answer: dict[str, Any] = {
        **builder.head, "object": "text_completion", "choices": choices, "usage": builder.usage(),
    }  # fmt: skip
    if body.return_token_ids:
        answer["prompt_token_ids"] = list(builder.jobs[0].request.prompt_ids)
    return answer


async def _merge_jobs(jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, list[Item]]]:
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


async def _stream_completion(
    builder: _ResponseBuilder, body: CompletionRequest
) -> AsyncGenerator[bytes]:
    tokenizer, n = builder.served.lm.tokenizer, body.n or 1
    head = {**builder.head, "object": "text_completion"}
    usage = {"usage": None} if body.with_usage else {}
    prompts = [prompt_text(tokenizer, job.request.prompt_ids) for job in builder.jobs]
    choices = [
        _ChoiceBuilder(job * n + i, 0 if body.echo else len(prompts[job]))
        for job in range(len(builder.jobs))
        for i in range(n)
    ]
    prompt_sent = [False] * len(builder.jobs)  # whether a job's prompt ids have been sent
    scored: list[list[PromptToken]] = [[] for _ in builder.jobs]

    def chunk(choice: _ChoiceBuilder, text: str, steps: list[GenerationStep], job: int) -> bytes:
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
            out["logprobs"] = completion_logprobs(
                tokenizer,
                tokens,
                choice.offsets,
                count=body.logprobs,
                with_ids=bool(body.return_token_ids),
            )
        if body.return_token_ids:
            out["token_ids"] = [step.token_id for step in steps]
            if not prompt_sent[job]:
                more["prompt_token_ids"] = list(builder.jobs[job].request.prompt_ids)
                prompt_sent[job] = True
        return event({**head, "choices": [out], **more, **usage})

    async for job, items in _merge_jobs(builder.jobs):
        by_choice: dict[int, list[GenerationStep]] = {}
        for item in items:
            if isinstance(item, PromptToken):
                scored[job].append(item)
            else:
                by_choice.setdefault(job * n + item.sample, []).append(item)
        for i, steps in by_choice.items():
            builder.new_tokens += len(steps)
            text = "".join(step.text for step in steps)
            if body.echo and not choices[i].steps:
                text = prompts[job] + text
            yield chunk(choices[i], text, steps, job)
    for job, each in enumerate(builder.jobs):
        if each.request.max_new_tokens == 0 and not each.cancelled:  # nothing but the echo
            for i in range(n):
                choices[job * n + i].finish_reason = "length"
                yield chunk(choices[job * n + i], prompts[job], [], job)
    counts = builder.usage()
    if body.with_usage:
        yield event({**head, "choices": [], "usage": counts})
    yield DONE


# --- chat -------------------------------------------------------------------------------------


def _chat_request(served: ServedModel, body: ChatRequest, strict: bool) -> GenerationRequest:
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
    going_on = body.continues_final_message()
    try:
        ids = template.encode(
            body.turns(),
            add_generation_prompt=not going_on and body.add_generation_prompt is not False,
            continue_final_message=going_on,
            **(body.chat_template_kwargs or {}),
        )
    except RecursionError:
        raise ApiError(
            400, "the messages are nested too deeply for a chat template", param="messages"
        ) from None
    ids = encode_prompt(ids, lm.tokenizer, lm.config, slide=True)
    return _make_request(
        served,
        body,
        ids,
        max_new_tokens=body.max_new_tokens(None, len(ids), lm.context, strict=strict),
        samples=body.n or 1,
        stop=(*body.stop_strings(strict=strict), *template.turn_end.stop),
        stop_token_ids=template.turn_end.token_ids,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


async def _chat(builder: _ResponseBuilder, body: ChatRequest) -> dict[str, Any]:
    tokenizer = builder.served.lm.tokenizer
    ((_, steps),) = await builder.collect()
    choices = [_ChoiceBuilder(i) for i in range(body.n or 1)]
    for step in steps:
        choices[step.sample].add(step)
    with_ids = bool(body.return_token_ids)
    return {
        **builder.head,
        "object": "chat.completion",
        "choices": [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": chat_logprobs(tokenizer, choice.steps) if body.logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            | ({"token_ids": [step.token_id for step in choice.steps]} if with_ids else {})
            for choice in choices
        ],
        "usage": builder.usage(),
        **({"prompt_token_ids": list(builder.jobs[0].request.prompt_ids)} if with_ids else {}),
    }


async def _stream_chat(builder: _ResponseBuilder, body: ChatRequest) -> AsyncGenerator[bytes]:
    tokenizer = builder.served.lm.tokenizer
    head = {**builder.head, "object": "chat.completion.chunk"}
    usage = {"usage": None} if body.with_usage else {}
    choices = [_ChoiceBuilder(i) for i in range(body.n or 1)]

    def chunk(
        choice: _ChoiceBuilder, delta: dict[str, Any], steps: Sequence[GenerationStep] = ()
    ) -> bytes:
        out: dict[str, Any] = {
            "index": choice.index, "delta": delta, "logprobs": None,
            "finish_reason": choice.finish_reason,
        }  # fmt: skip
        more: dict[str, Any] = {}
        if steps and body.logprobs:
            out["logprobs"] = chat_logprobs(tokenizer, steps)
        if body.return_token_ids:  # as vLLM: the prompt's in the first chunk
            out["token_ids"] = [step.token_id for step in steps]
            if choice is choices[0] and not choice.steps:
                more["prompt_token_ids"] = list(builder.jobs[0].request.prompt_ids)
        return event({**head, "choices": [out], **more, **usage})

    for choice in choices:
        yield chunk(choice, {"role": "assistant", "content": ""})
    async for items in builder.jobs[0].batches():
        by_choice: dict[int, list[GenerationStep]] = {}
        for item in items:
            assert isinstance(item, GenerationStep)
            by_choice.setdefault(item.sample, []).append(item)
        for i, steps in by_choice.items():
            builder.new_tokens += len(steps)
            for step in steps:
                choices[i].add(step)
            text = "".join(step.text for step in steps)
            yield chunk(choices[i], {"content": text} if text else {}, steps)
    counts = builder.usage()
    if body.with_usage:
        yield event({**head, "choices": [], "usage": counts})
    yield DONE
