"""What a request for text may say, and what becomes of each field that clients send.

A field works, or it is refused in words, or it is on the list of those that change nothing here
(``IGNORED``, which docs/commands/serve.md has too). None is ignored without a word.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from laplm.errors import ContextLengthError
from laplm.run.sampler import REPETITION_PENALTY, LogitAdjustments, SamplingParams
from laplm.serve.problems import ApiError

MAX_SAMPLES = 128
MAX_PROMPTS = 64
MAX_STOPS = 128
OPENAI_MAX_STOPS = 4
MAX_LOGPROBS = 20


def _whole(value: Any) -> Any:
    """5.0 is a whole number in JSON, which has one kind of number only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


JsonInteger = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
RepetitionPenalty = Annotated[
    float, Field(ge=REPETITION_PENALTY[0], le=REPETITION_PENALTY[1], allow_inf_nan=False)
]
MaxTokens = Annotated[JsonInteger, Field(ge=-2, lt=2**31)]

# --- fields that are not there ------------------------------------------------------------------

_STRUCTURED = "output in a given form is not there yet; leave it out, and check what comes"
_TOOLS = "tools are not there; leave it out"
_REASONING = "these models do not reason before they answer; leave it out"
_SAMPLER = "this way of choosing tokens is not there; use temperature, top_k, top_p and min_p"
_PENALTY = (
    "this penalty is not there; use repetition_penalty, presence_penalty and frequency_penalty"
)
_BEAMS = "beams are not searched; ask for n samples, or the best_of several"
_MEDIA = "these models read and write text only; leave it out"
_SHAPE = "answers have OpenAI's shape; leave it out"
_LOGPROBS = "ask for logprobs, and with completions for echo to have the prompt's"
_TEMPLATE = "the model's own chat template is used; send a prompt to /v1/completions instead"
_TOP_LEVEL = "send these settings as fields of the request itself"

# Refused, unless the value is one that asks for nothing: null, false (where true does not), an
# empty text or list, or one of those beside the name.
_Refusals = dict[str, tuple[str, tuple[object, ...]]]


def _refused(why: str, *names: str, **off: tuple[object, ...]) -> _Refusals:
    return dict.fromkeys(names, (why, ())) | {name: (why, values) for name, values in off.items()}


UNSUPPORTED: _Refusals = {
    **_refused(
        _STRUCTURED, "format", "grammar", "json_schema", "guided_json", "guided_regex",
        "guided_choice", "guided_grammar", "guided_whitespace_pattern", "structured_outputs",
        "structural_tag", "regex", "ebnf", "grammar_lazy", "grammar_triggers",
        response_format=({"type": "text"},),
    ),
    **_refused(
        _TOOLS, "tools", "functions", "web_search_options", "plugins",
        tool_choice=("none", "auto"), function_call=("none", "auto"),
    ),
    **_refused(_MEDIA, "audio", "images", "prompt_embeds", modalities=(["text"],)),
    **_refused(
        _REASONING, "reasoning", "think", reasoning_effort=("none",),
        reasoning_format=("none", "auto"), thinking=({"type": "disabled"},),
        thinking_token_budget=(0, -1), reasoning_budget=(0, -1), verbosity=("medium",),
    ),
    **_refused(
        _SAMPLER, "samplers", "sampler_order", "sampler_priority", "logits_processors", "watermark",
        "bad_words", "allowed_token_ids", "banned_tokens", "negative_prompt", "temperature_last",
        mirostat=(0,), mirostat_mode=(0,), typical_p=(1,), typ_p=(1,), tfs_z=(1,), tfs=(1,),
        top_a=(0,), xtc_probability=(0,), dynatemp_range=(0,), smoothing_factor=(0,),
        top_n_sigma=(0, -1), nsigma=(0, -1), min_keep=(0, 1), epsilon_cutoff=(0,),
        eta_cutoff=(0,), penalty_alpha=(0,), guidance_scale=(1,), cfg_scale=(1,),
        adaptive_target=(-1,),
    ),
    **_refused(
        _PENALTY, dry_multiplier=(0,), no_repeat_ngram_size=(0,), encoder_repetition_penalty=(1,),
        penalize_nl=(True,), penalize_newline=(True,),
    ),
    **_refused("for the likeliest token always, set temperature to 0", do_sample=(True,)),
    **_refused(_BEAMS, "use_beam_search", num_beams=(1,)),
    **_refused(_LOGPROBS, "prompt_logprobs", n_probs=(0,)),
    **_refused(
        _SHAPE, "return_tokens", "return_tokens_as_token_ids", "post_sampling_probs",
        "timings_per_token", "return_progress", "response_fields", "include_stop_str_in_output",
        "return_full_text", "details", n_indent=(0,), n_cmpl=(1,), detokenize=(True,),
    ),
    **_refused(
        "shorten the prompt yourself", "truncate", truncate_prompt_tokens=(-1,),
        truncation=("disabled",),
    ),
    **_refused(_TEMPLATE, "chat_template", "documents", "template", "system", "raw", "context"),
    **_refused(_TOP_LEVEL, "options", "extra_body", "sampling_params", "parameters"),
    **_refused(
        "stop by max_tokens", t_max_predict_ms=(0, -1), t_max_prompt_ms=(0, -1),
    ),
    **_refused("give the adapter as a model of its own", "lora", "lora_adapters"),
    **_refused(_SHAPE, "vllm_xargs", "kv_transfer_params", "input_extra"),
}  # fmt: skip

IGNORED = frozenset((
    # OpenAI's: who asks, what is kept or charged, how fast; nothing of the text.
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prediction", "parallel_tool_calls",
    # llama-server's, Ollama's and LM Studio's: how models and caches are kept.
    "cache_prompt", "id_slot", "slot_id", "n_keep", "n_discard", "n_cache_reuse", "keep_alive",
    "ttl", "draft_model", "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread",
    "use_mmap", "use_mlock", "low_vram", "numa", "parse_tool_calls", "preserved_tokens",
    # vLLM's: the order of work, names of requests.
    "priority", "request_id", "cache_salt", "spaces_between_special_tokens",
    "guided_decoding_backend", "mm_processor_kwargs", "include_reasoning",
    # Numbers of methods that are refused where they are switched on.
    "mirostat_tau", "mirostat_eta", "xtc_threshold", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "dry_sequence_breakers", "dynatemp_exponent", "length_penalty",
    "early_stopping", "adaptive_decay",
))  # fmt: skip


# Arguments of a chat template that a request has as fields, or that are not for it to say.
_OURS = frozenset((
    "messages", "tools", "documents", "name", "add_generation_prompt", "continue_final_message",
    "self",
))  # fmt: skip


def _is_off(value: object, off: tuple[object, ...]) -> bool:
    if value is None or value == "" or value == [] or (value is False and True not in off):
        return True
    # True is 1 in Python, and neither in JSON.
    return any(value == each and (type(value) is bool) == (type(each) is bool) for each in off)


class StreamOptions(BaseModel):
    """What a stream has besides."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="Changes nothing here.")


def _describe(schema: dict[str, Any]) -> None:
    """The OpenAPI description: fields that change nothing may come, unknown ones may not."""
    harmless = {"description": "Taken from clients that send it; changes nothing here."}
    schema["properties"] |= dict.fromkeys(sorted(IGNORED), harmless)
    schema["additionalProperties"] = False


class RequestBody(BaseModel):
    """What completions and chat completions have in common."""

    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra=_describe)

    model: str | None = Field(None, max_length=300)
    n: JsonInteger | None = Field(None, ge=1, le=MAX_SAMPLES)
    max_tokens: MaxTokens | None = Field(
        None, description="At most; -1 or more than the context holds: to its end."
    )
    n_predict: MaxTokens | None = Field(None, description="llama-server's name of max_tokens.")
    min_tokens: JsonInteger | None = Field(
        None, ge=0, lt=2**31, description="Before so many, nothing ends the text."
    )
    stop: str | list[str] | None = None
    stop_token_ids: list[JsonInteger] | None = Field(None, max_length=MAX_STOPS)
    seed: JsonInteger | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    logit_bias: dict[str, Number] | None = Field(None, max_length=1024)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    top_k: JsonInteger | None = Field(None, ge=-1, lt=2**31, description="0 or -1: off.")
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: RepetitionPenalty | None = None
    repeat_penalty: RepetitionPenalty | None = Field(
        None, description="llama-server's and Ollama's name of repetition_penalty."
    )
    repeat_last_n: JsonInteger | None = Field(
        None, ge=-1, lt=2**31,
        description="Tokens that repetition_penalty looks back at: -1 all of them, 0 none.",
    )  # fmt: skip
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None

    # Fields of the other route, and what to do.
    fields_of_other_route: ClassVar[dict[str, str]] = {}

    def check_fields(self) -> None:
        """Let no field pass that would change nothing without a word.

        Raises:
            ApiError: one is not there, or not known.
        """
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED or value is None:
                continue
            if name in self.fields_of_other_route:
                raise ApiError(400, f"{name}: {self.fields_of_other_route[name]}", param=name)
            if name not in UNSUPPORTED:
                raise ApiError(400, self._unknown(name), param=name[:100], code="unknown_parameter")
            why, off = UNSUPPORTED[name]
            if not _is_off(value, off):
                raise ApiError(400, f"{name}: {why}", param=name, code="unsupported_parameter")

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name[:100], [*type(self).model_fields, *IGNORED], 1, 0.75)
        advice = f"did you mean {near[0]}?" if near else "leave it out"
        return f"there is no field {name[:100]!r}; {advice}"

    def stop_strings(self, *, strict: bool = False) -> tuple[str, ...]:
        """The stop strings.

        Raises:
            ApiError: too many (with ``strict``, more than OpenAI takes), or one is empty.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        most = OPENAI_MAX_STOPS if strict else MAX_STOPS
        if len(stops) > most:
            raise ApiError(400, f"stop has {len(stops)} strings; give at most {most}", param="stop")
        if not all(stops):
            raise ApiError(400, "a stop string is empty; leave it out", param="stop")
        return stops

    def extra_stop_token_ids(self, n_vocab: int) -> tuple[int, ...]:
        """Ids that end a text besides the model's own.

        Raises:
            ApiError: one is no token.
        """
        ids = tuple(self.stop_token_ids or ())
        for id_ in ids:
            if not 0 <= id_ < n_vocab:
                raise ApiError(
                    400,
                    f"stop_token_ids has {id_}, but token ids are 0 to {n_vocab - 1}",
                    param="stop_token_ids",
                )
        return ids

    def sampling_params(self) -> SamplingParams:
        """With OpenAI's defaults.

        Raises:
            ApiError: one setting is given under two names.
        """
        top_k = self.top_k
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0 if top_k == -1 else top_k,
            "min_p": self.min_p,
            "repetition_penalty": self._given_once("repetition_penalty", "repeat_penalty"),
        }
        defaults: dict[str, Any] = {"temperature": 1.0, "top_k": 0}
        values = defaults | {name: value for name, value in given.items() if value is not None}
        # OpenAI's seeds have a sign; those without are the seeds of `laplm run`.
        seed = None if self.seed is None else self.seed % 2**64
        return SamplingParams(**values, seed=seed)

    def penalty_window(self) -> int | None:
        """How many tokens the repetition penalty looks back at; None for all."""
        return None if self.repeat_last_n in (None, -1) else self.repeat_last_n

    def logit_adjustments(self, n_vocab: int) -> LogitAdjustments | None:
        """What is added to logits; None for nothing. Only the first ``n_vocab`` ids are drawn.

        Raises:
            ApiError: a key of ``logit_bias`` is no token, or a bias is out of its range.
        """
        bias = {}
        for key, value in (self.logit_bias or {}).items():
            if not (key.isascii() and key.isdigit()) or len(key) > 9 or int(key) >= n_vocab:
                raise ApiError(
                    400,
                    f"logit_bias has the key {key[:100]!r}, but keys are token ids from 0 to "
                    f"{n_vocab - 1}",
                    param="logit_bias",
                )
            if not -100 <= value <= 100:
                raise ApiError(
                    400, f"logit_bias is {value} for token {key}; give -100 to 100",
                    param="logit_bias",
                )  # fmt: skip
            bias[int(key)] = value
        logit_adjustments = LogitAdjustments(
            bias, self.presence_penalty or 0.0, self.frequency_penalty or 0.0
        )
        return None if logit_adjustments == LogitAdjustments() else logit_adjustments

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with counts of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def max_new_tokens(
        self, default: int | None, n_prompt: int, n_ctx: int, *, strict: bool = False
    ) -> int:
        """How many tokens to write: what was asked for, or as many as there is room.

        Args:
            default: where nothing was asked for; None is all the room.
            n_prompt: tokens of the prompt.
            n_ctx: tokens that the model holds.
            strict: refuse what does not fit, as OpenAI does.

        Raises:
            ApiError: it is given under two names, is fewer than ``min_tokens``, or is negative
                under ``strict``.
            ContextLengthError: there is no room.
        """
        asked = self._given_once("max_tokens", "n_predict", "max_completion_tokens")
        if asked is None:
            asked = default
        elif asked < 0:
            if strict:
                raise ApiError(
                    400, f"max_tokens is {asked}; give a number from 0 up", param="max_tokens"
                )
            asked = None
        if asked is not None and asked < (self.min_tokens or 0):
            raise ApiError(
                400, f"min_tokens is {self.min_tokens}, but max_tokens is {asked}; give no more",
                param="min_tokens",
            )  # fmt: skip
        room = n_ctx - n_prompt
        wanted = max(1, room) if asked is None else asked
        if wanted > room and (strict or room < 1):
            fewer = f", or set max_tokens to at most {room:,}" if room > 0 else ""
            raise ContextLengthError(
                f"this model holds {n_ctx:,} tokens, but {n_prompt:,} in the prompt and "
                f"{wanted:,} to write were asked for; shorten the prompt{fewer}"
            )
        return min(wanted, room)

    def _given_once(self, *names: str) -> Any:
        given = {name: getattr(self, name, None) for name in names}
        given = {name: value for name, value in given.items() if value is not None}
        if len(set(given.values())) > 1:
            first, second, *_ = given
            raise ApiError(
                400, f"{first} and {second} are two names of one setting; give one of them",
                param=second,
            )  # fmt: skip
        return next(iter(given.values()), None)


class CompletionRequest(RequestBody):
    """``POST /v1/completions``."""

    fields_of_other_route: ClassVar[dict[str, str]] = {
        "messages": "conversations go to /v1/chat/completions; here, give a prompt",
        "top_logprobs": "give the number as logprobs",
    }

    prompt: str | list[JsonInteger] | list[str] | list[list[JsonInteger]] | None = None
    best_of: JsonInteger | None = Field(None, ge=1, le=MAX_SAMPLES)
    echo: bool | None = None
    logprobs: JsonInteger | None = Field(None, ge=0, le=MAX_LOGPROBS)
    suffix: str | None = None

    def prompts(self) -> list[str | list[int]]:
        """All of them.

        Raises:
            ApiError: there is none, or too many.
        """
        prompt = "" if self.prompt is None else self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if not prompt:
            raise ApiError(400, "prompt is an empty list; give a text or token ids", param="prompt")
        if isinstance(prompt[0], int):
            return [prompt]
        if len(prompt) > MAX_PROMPTS:
            raise ApiError(
                400, f"prompt has {len(prompt)} texts; give at most {MAX_PROMPTS}", param="prompt"
            )
        return list(prompt)

    def check(self) -> None:
        """Let nothing pass that cannot be answered, whichever the model.

        Raises:
            ApiError: it says what and why.
        """
        self.check_fields()
        n, best_of = self.n or 1, self.best_of or self.n or 1
        if self.suffix:
            raise ApiError(
                400,
                "suffix is not possible: the model only knows what comes before; leave it out",
                param="suffix",
            )
        if best_of < n:
            raise ApiError(
                400, f"best_of is {best_of}, but n is {n}; best_of chooses among at least n",
                param="best_of",
            )  # fmt: skip
        if self.stream and best_of > n:
            raise ApiError(
                400, "best_of cannot choose while streaming; leave one of them out",
                param="best_of",
            )  # fmt: skip
        if self._given_once("max_tokens", "n_predict") == 0 and not self.echo:
            raise ApiError(
                400, "max_tokens is 0, which only makes sense with echo", param="max_tokens"
            )


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = None

    def check_fields(self) -> None:
        """Let no message pass of which a part would be lost.

        Raises:
            ApiError: it calls a tool, or has more than text.
        """
        for name, why in (
            ("tool_calls", _TOOLS), ("function_call", _TOOLS), ("audio", _MEDIA),
            ("images", _MEDIA),
        ):  # fmt: skip
            if not _is_off((self.model_extra or {}).get(name), ()):
                raise ApiError(400, f"a message has {name}: {why}", param="messages")

    def text(self) -> str:
        """What is said.

        Raises:
            ApiError: a part of it is not text.
        """
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        texts = []
        for part in self.content:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ApiError(
                    400, "a message has a part that is not text; this model reads text only",
                    param="messages",
                )  # fmt: skip
            texts.append(part["text"])
        return "".join(texts)


class ChatRequest(RequestBody):
    """``POST /v1/chat/completions``."""

    fields_of_other_route: ClassVar[dict[str, str]] = {
        "prompt": "a text to continue goes to /v1/completions; here, give messages",
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: MaxTokens | None = None
    add_generation_prompt: bool | None = Field(
        None, description="false: the model is not told that its turn begins."
    )
    continue_final_message: bool | None = Field(
        None,
        description="Go on with the last message. Without it, with one of the assistant's; false "
        "begins a new turn.",
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="More of what the model's chat template knows."
    )
    logprobs: bool | None = None
    top_logprobs: JsonInteger | None = Field(None, ge=0, le=MAX_LOGPROBS)

    def check(self) -> None:
        """Let nothing pass that cannot be answered, whichever the model.

        Raises:
            ApiError: it says what and why.
        """
        self.check_fields()
        if self._given_once("max_tokens", "n_predict", "max_completion_tokens") == 0:
            raise ApiError(400, "max_tokens is 0, which leaves no answer", param="max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            raise ApiError(
                400, "continue_final_message and add_generation_prompt cannot both be true",
                param="continue_final_message",
            )  # fmt: skip
        for name in self.chat_template_kwargs or {}:
            if name in _OURS:
                raise ApiError(
                    400, f"chat_template_kwargs has {name}; send it as a field of its own",
                    param="chat_template_kwargs",
                )  # fmt: skip
        for message in self.messages:
            message.check_fields()

    def continues_final_message(self) -> bool:
        """Whether the model goes on with the last message, rather than answer it.

        That of the assistant without being asked, as llama-server and Ollama do it, unless a
        field says otherwise, as vLLM has them.
        """
        if self.continue_final_message is not None:
            return self.continue_final_message
        return self.messages[-1].role == "assistant" and not self.add_generation_prompt

    def turns(self) -> list[dict[str, Any]]:
        """The messages as the chat template reads them, with what else it may know of them.

        Raises:
            ApiError: a part of one is not text.
        """
        return [
            {
                **(message.model_extra or {}),
                "role": "system" if message.role == "developer" else message.role,
                "content": message.text(),
            }
            for message in self.messages
        ]
