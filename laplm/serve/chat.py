"""Conversations as text, by the template that a model was tuned with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from laplm.serve.problems import ApiError

_SENTINEL = "laplm"  # stands for what is said, where only what is around it matters


class Message(NamedTuple):
    """One turn."""

    role: str
    content: str


class ChatTemplate:
    """A Jinja template, rendered in a sandbox as transformers renders it."""

    def __init__(self, source: str) -> None:
        """Read it.

        Raises:
            ApiError: it is not a template.
        """
        try:
            self._template = _compiled(source)
        except TemplateError as error:
            raise _broken(error) from None

    def render(self, messages: Sequence[Message]) -> str:
        """The text whose continuation is the assistant's next turn.

        Raises:
            ApiError: the template refuses the messages.
        """
        return self._render(messages, add_generation_prompt=True)

    def turn_ends(self) -> tuple[str, ...]:
        """What comes between an assistant's turn and the next one, if it can be told.

        A model that goes on by itself with the user's turn is stopped there.
        """
        user, assistant = (Message(role, _SENTINEL) for role in ("user", "assistant"))
        try:
            text = self._render([user, assistant, user], add_generation_prompt=False)
        except ApiError:
            return ()
        parts = text.split(_SENTINEL)
        end = parts[2].rstrip() if len(parts) == 4 else ""
        return (end,) if end.strip() else ()

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        turns = [message._asdict() for message in messages]
        try:
            return str(
                self._template.render(messages=turns, add_generation_prompt=add_generation_prompt)
            )
        except (TemplateError, TypeError) as error:
            raise _broken(error) from None


def _broken(error: Exception) -> ApiError:
    return ApiError(
        400,
        f"the model's chat template cannot be used with these messages ({error}); use "
        "/v1/completions",
        param="messages",
    )


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = refuse
    return environment.from_string(source)
