"""A conversation with a model: what was said, answers as they come, and a context that fills.

``Conversation`` talks with a model that was taught to: its own template makes token ids of the
messages. ``Continuation`` has the same methods for a model that was not, and goes on with a text.
Neither knows of a terminal.

What a turn shares with the one before it stays in the model's key/value cache, so only what is new
is prefilled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from laplm.errors import ContextLengthError, InputError
from laplm.model.chat import ChatTemplate
from laplm.run.generate import GenerationStream
from laplm.run.language_model import LanguageModel
from laplm.run.request import (
    DEFAULT_MAX_NEW_TOKENS,
    GenerationRequest,
    check_count,
    context_limit_phrases,
    encode_prompt,
    make_request,
)
from laplm.run.results import GenerationResult
from laplm.run.sampler import SamplingParams

Message = dict[str, Any]

SETTINGS = (*(each.name for each in dataclasses.fields(SamplingParams)), "max_new_tokens", "stop")
"""What ``set`` takes."""

_COUNTED = 1 << 20  # characters of a message from which on its tokens are estimated first
_ESTIMATE_FROM = 1 << 17  # characters of that estimate


class Answer(Iterator[str]):
    """An answer in pieces of text, as they come.

    It is part of what was said once it has ended, or ``close`` has ended it.

    Attributes:
        stream: what it comes from, with its request.
    """

    def __init__(self, stream: GenerationStream, keep: Callable[[GenerationResult], None]) -> None:
        """Begin; nothing is computed before the first piece. ``keep`` is called at the end."""
        self.stream = stream
        self._keep = keep
        self._result: GenerationResult | None = None

    def __next__(self) -> str:
        try:
            return next(self.stream).text
        except StopIteration:
            self.close()
            raise

    def close(self) -> GenerationResult:
        """End it here, if it has not ended; what was said is kept.

        Returns:
            The whole of it.
        """
        if self._result is None:
            (self._result,) = self.stream.results()
            self._keep(self._result)
        return self._result


class _Session:
    """What a conversation and a continuation have alike: a model, and how it is sampled."""

    def __init__(self, lm: LanguageModel, settings: Mapping[str, Any] | None = None) -> None:
        self.lm = lm
        self._defaults = lm.sampling_defaults
        self._settings: dict[str, Any] = {}
        for name, value in (settings or {}).items():
            self.set(name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """What every name of ``SETTINGS`` is now; None where a default depends on more."""
        found = dataclasses.asdict(self._defaults) | {"max_new_tokens": None, "stop": ()}
        return found | self._settings

    def set(self, name: str, value: Any) -> None:
        """Change a setting of the answers to come; a value of None brings back the default.

        Raises:
            InputError: the value cannot be used.
        """
        assert name in SETTINGS
        if value is None:
            self._settings.pop(name, None)
            return
        if name == "max_new_tokens":
            value = check_count(name, value)
        elif name == "stop":
            value = (value,) if isinstance(value, str) else tuple(value)
            if not all(value):
                raise InputError("a stop string is empty; give at least one character")
        else:
            value = getattr(SamplingParams(**{name: value}), name)
        self._settings[name] = value

    @property
    def _params(self) -> SamplingParams:
        mine = {name: v for name, v in self._settings.items() if hasattr(self._defaults, name)}
        return dataclasses.replace(self._defaults, **mine)

    @property
    def _stop(self) -> tuple[str, ...]:
        return tuple(self._settings.get("stop", ()))


class Conversation(_Session):
    """Turns of a person and a model.

    Attributes:
        messages: what was said, the oldest first, the system message excepted.
        forgotten: how many of the oldest messages the model is no longer given, since its context
            was full. The system message it is always given.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        system: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin.

        Args:
            lm: a model with a chat template.
            system: what the model is told about all its answers.
            settings: of ``SETTINGS``; what is not there is the model's own, or laplm's.

        Raises:
            ChatTemplateError: the template cannot be read, or refuses system messages.
            InputError: the model has no chat template, or a setting cannot be used.
        """
        super().__init__(lm, settings)
        self._template = _template_of(lm)
        self.messages: list[Message] = []
        self.forgotten = 0
        self._system: str | None = None
        self.system = system

    @property
    def system(self) -> str | None:
        """What the model is told about all its answers.

        Raises:
            ChatTemplateError: (when it is set) the template refuses it.
        """
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        text = text or None
        if text is not None:
            _check_text(text, "the system message")
            turn = {"role": "user", "content": "x"}
            self._template.render([_system_message(text), turn], add_generation_prompt=True)
        self._system = text

    def say(self, text: str) -> Answer:
        """The model's answer to what a person says.

        Raises:
            ChatTemplateError: the template refuses the messages.
            ContextLengthError: what was said does not fit the model's context by itself.
            InputError: it is not Unicode.
        """
        _check_text(text, "what was said")
        return self._answer([*self.messages, {"role": "user", "content": text}])

    def regenerate(self) -> Answer:
        """Another answer in place of the last one, which stays when nothing is said.

        Raises:
            ChatTemplateError: as ``say``.
            ContextLengthError: as ``say``.
            InputError: nothing was said yet.
        """
        last = _last_of(self.messages, "user")
        if last is None:
            raise InputError("nothing was said yet, so there is no answer to give again")
        return self._answer(self.messages[: last + 1])

    def undo(self) -> str:
        """Take back the last turn: what the person said, which is returned, and the answer.

        Raises:
            InputError: nothing was said yet.
        """
        last = _last_of(self.messages, "user")
        if last is None:
            raise InputError("nothing was said yet, so there is nothing to take back")
        text: str = self.messages[last]["content"]
        del self.messages[last:]
        self.forgotten = min(self.forgotten, len(self.messages))
        return text

    def clear(self) -> None:
        """Begin anew; the system message and the settings stay."""
        self.messages = []
        self.forgotten = 0

    def to_json(self) -> dict[str, Any]:
        """All of it, as OpenAI's API and training files have conversations."""
        return {"messages": [*self._system_messages, *self.messages]}

    def restore(self, value: Any) -> None:
        """Put another conversation in the place of this one.

        Args:
            value: as ``to_json``, or the messages alone.

        Raises:
            ChatTemplateError: the template refuses the messages.
            InputError: it is none.
        """
        messages = _checked_messages(value)
        first = messages[0]["content"] if messages[0]["role"] == "system" else None
        self._template.render(messages)
        self.messages = messages[1:] if first is not None else messages
        self._system, self.forgotten = first, 0

    def last_answer(self) -> tuple[list[int], int]:
        """Token ids of what the model was given and answered last, and where the answer begins.

        Only their end, where an answer that is no proper text has grown by being encoded again.

        Raises:
            InputError: there is no answer yet.
        """
        if not self.messages or _is_users(self.messages[-1]):
            raise InputError("there is no answer yet")
        before = self._encode(self.messages[:-1], self.forgotten)
        whole = self._template.encode(self._given(self.messages, self.forgotten))
        # What the template writes behind the end of a turn, the model is never asked for.
        ends = self._template.turn_end.token_ids
        end = [i for i in range(len(before), len(whole)) if whole[i] in ends]
        whole = whole[: end[-1] + 1] if end else whole
        return _end_of(whole, len(before), self.lm.context)

    @property
    def _system_messages(self) -> list[Message]:
        return [] if self._system is None else [_system_message(self._system)]

    def _given(self, messages: Sequence[Message], forgotten: int) -> list[Message]:
        return [*self._system_messages, *messages[forgotten:]]

    def _answer(self, messages: list[Message]) -> Answer:
        """The answer to messages, which take the place of what was said when it has come."""
        ids = self._fitting_ids(messages)
        room = self.lm.context - len(ids)
        end = self._template.turn_end
        request = GenerationRequest(
            prompt_ids=tuple(ids),
            max_new_tokens=min(self._settings.get("max_new_tokens", room), room),
            params=self._params,
            stop=(*self._stop, *end.stop),
            stop_token_ids=end.token_ids,
        )

        def keep(result: GenerationResult) -> None:
            if result.text or result.finish_reason != "interrupted":
                self.messages = [*messages, {"role": "assistant", "content": result.text}]

        return Answer(self.lm.stream_request(request), keep)

    def _fitting_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of messages, the oldest left out where the context has no room for them.

        A quarter of the context is for the answer, or as much as may be asked for. Turns are left
        out until half is free: each time, what stays must be prefilled again.
        """
        n_ctx = self.lm.context
        self._check_length(messages[-1]["content"])
        room = min(self._settings.get("max_new_tokens", n_ctx), max(1, n_ctx // 4))
        forgotten = min(self.forgotten, len(messages) - 1)
        ids = self._encode(messages, forgotten)
        if len(ids) > n_ctx - room:
            turns = [i for i in range(forgotten + 1, len(messages)) if _is_users(messages[i])]
            for forgotten in turns:
                ids = self._encode(messages, forgotten)
                if len(ids) <= n_ctx // 2:
                    break
        if len(ids) >= n_ctx:
            raise _too_long(f"{len(ids):,}", self.lm)
        self.forgotten = forgotten
        return ids

    def _encode(self, messages: Sequence[Message], forgotten: int) -> list[int]:
        given = self._given(messages, forgotten)
        return self._template.encode(given, add_generation_prompt=True)

    def _check_length(self, text: str) -> None:
        """Refuse megabytes after a part of them, before a template and a tokenizer work on all."""
        if len(text) < _COUNTED:
            return
        share = len(self.lm.tokenizer.encode(text[:_ESTIMATE_FROM])) / _ESTIMATE_FROM
        if share * len(text) > 2 * self.lm.context:
            raise _too_long(f"about {share * len(text):,.0f}", self.lm)


class Continuation(_Session):
    """A text that a person and a model write by turns: for models without a chat template.

    Attributes:
        pieces: of the text, by turns a person's and the model's.
    """

    def __init__(self, lm: LanguageModel, *, settings: Mapping[str, Any] | None = None) -> None:
        """Begin.

        Args:
            lm: the model.
            settings: of ``SETTINGS``; what is not there is the model's own, or laplm's.

        Raises:
            InputError: a setting cannot be used.
        """
        super().__init__(lm, settings)
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        """What stands there so far."""
        return "".join(self.pieces)

    def say(self, text: str) -> Answer:
        """The model's continuation of another text; of what stands there where it is empty.

        Raises:
            InputError: both are empty.
        """
        _check_text(text, "the text")
        if not text and not self.pieces:
            raise InputError("there is no text to go on with; write the beginning of one")
        return self._answer([text] if text else [*self.pieces, ""])

    def regenerate(self) -> Answer:
        """Another continuation in place of the last one, which stays when nothing is written.

        Raises:
            InputError: nothing was written yet.
        """
        if not self.pieces:
            raise InputError("nothing was written yet, so there is nothing to write again")
        return self._answer(self.pieces[:-1])

    def undo(self) -> str:
        """Take back the last continuation and what a person wrote before it, which is returned.

        Raises:
            InputError: nothing was written yet.
        """
        if not self.pieces:
            raise InputError("nothing was written yet, so there is nothing to take back")
        text = self.pieces[-2]
        del self.pieces[-2:]
        return text

    def clear(self) -> None:
        """Begin anew; the settings stay."""
        self.pieces = []

    def to_json(self) -> dict[str, Any]:
        """The text, as training files have it."""
        return {"text": self.text}

    def restore(self, value: Any) -> None:
        """Put another text in the place of this one. Errors as ``Conversation.restore``."""
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str) or not text:
            raise InputError('it holds no text; it must be an object with "text"')
        _check_text(text, "its text")
        self.pieces = [text, ""]

    def last_answer(self) -> tuple[list[int], int]:
        """Token ids of the text, its end at least, and where the last continuation begins.

        Raises:
            InputError: there is none yet.
        """
        if not self.pieces or not self.pieces[-1]:
            raise InputError("there is no continuation yet")
        lm = self.lm
        before, whole = (
            encode_prompt(text, lm.tokenizer, lm.config, slide=True)
            for text in ("".join(self.pieces[:-1]), self.text)
        )
        return _end_of(whole, len(before), lm.context)

    def _answer(self, pieces: list[str]) -> Answer:
        lm = self.lm
        options: Any = dataclasses.asdict(self._params) | {"stop": self._stop, "slide": True}
        count = self._settings.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
        request = make_request(
            "".join(pieces), lm.tokenizer, lm.config, count, context=lm.context, **options
        )

        def keep(result: GenerationResult) -> None:
            if result.text or result.finish_reason != "interrupted":
                self.pieces = [*pieces, result.text]

        return Answer(lm.stream_request(request), keep)


def _template_of(lm: LanguageModel) -> ChatTemplate:
    template = lm.chat_template
    if template is None:
        raise InputError(
            f"{lm.name} has no chat template, so it continues texts: laplm run, or take a model "
            "that was tuned on conversations"
        )
    return template


def _system_message(text: str) -> Message:
    return {"role": "system", "content": text}


def _end_of(ids: list[int], start: int, count: int) -> tuple[list[int], int]:
    """At most so many of the last ids, and where what began at ``start`` begins in them."""
    cut = max(0, len(ids) - count)
    return ids[cut:], max(1, start - cut)


def _is_users(message: Message) -> bool:
    return bool(message["role"] == "user")


def _last_of(messages: Sequence[Message], role: str) -> int | None:
    return next((i for i in reversed(range(len(messages))) if messages[i]["role"] == role), None)


def _checked_messages(value: Any) -> list[Message]:
    messages = value.get("messages") if isinstance(value, dict) else value
    wrong = 'it holds no conversation; it must be an object with "messages", a list'
    if not isinstance(messages, list) or not messages:
        raise InputError(wrong)
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(f"message {number} has no role; it must be an object with one")
        if not isinstance(message.get("content"), str):
            raise InputError(f"message {number} has a content that is no text; only text is read")
        _check_text(message["content"], f"message {number}")
    return [dict(message) for message in messages]


def _check_text(text: str, what: str) -> None:
    """Refuse bytes that are not UTF-8, as a terminal or JSON may bring them into a text.

    Raises:
        InputError: there are some.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} is not Unicode; take out what is no character") from None


def _too_long(tokens: str, lm: LanguageModel) -> ContextLengthError:
    holds, larger = context_limit_phrases(lm.config, lm.context)
    return ContextLengthError(
        f"the message has {tokens} tokens with what must stand before it, but the model {holds} "
        f"and needs room to answer: {larger}{'or ' if larger else ''}shorten it",
        "context",
    )
