"""Conversations as token ids, by the template that a model was tuned with.

Templates are rendered as transformers' ``apply_chat_template`` renders them, and their text is
encoded as it encodes it: control tokens that a template writes are those tokens. Beyond that, what
a person writes inside a message is never a control token.

jinja2 is imported when a template is used, and not before.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplm.errors import InputError
from laplm.model.tokenizer import Tokenizer
from laplm.model.tokenizer_file import read_settings

if TYPE_CHECKING:
    from jinja2 import Environment, Template

    from laplm.model.files.gguf_reader import GGUFFile

Message = Mapping[str, Any]
_Change = Callable[[str], str]

DEFAULT = "default"
# Names that reasoning is passed by; templates of today read the first.
_REASONING = ("reasoning_content", "thinking", "reasoning")
_SENTINEL = "laplm"  # stands for what is said, where only what is around it matters
_CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "
_MAX_SOURCE = 1 << 18  # characters of a template; the longest that models have are a tenth of it
_PRIVATE = range(0x100000, 0x10FFFE)  # characters that nobody writes: a private use plane


class ChatTemplateError(InputError):
    """A chat template is damaged, or cannot be used with these messages."""


@dataclasses.dataclass(frozen=True)
class TurnEnd:
    """What a model writes at the end of the assistant's turn, where its template tells.

    Attributes:
        token_ids: a control token that ends the turn.
        stop: text that ends it, where no control token does.
    """

    token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()


class ChatTemplate:
    """The chat template of a model, or its templates by name.

    Attributes:
        sources: Jinja texts by name; that of most models is called "default".
    """

    def __init__(self, sources: str | Mapping[str, str], tokenizer: Tokenizer) -> None:
        """A template for a tokenizer; ``from_directory`` finds a model's own."""
        self.sources: Mapping[str, str] = (
            {DEFAULT: sources} if isinstance(sources, str) else dict(sources)
        )
        self._tokenizer = tokenizer

    @classmethod
    def from_directory(cls, directory: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template of a model directory or of a GGUF file, or None.

        Raises:
            ChatTemplateError: the files cannot be read.
            TokenizerError: ``tokenizer_config.json`` is damaged.
        """
        sources = read_chat_templates(directory)
        return cls(sources, tokenizer) if sources else None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        name: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """A conversation as text.

        Args:
            messages: turns, each with ``role`` and ``content``, and with what else the template
                knows.
            tools: JSON schemas of functions that may be called.
            documents: texts to draw on.
            name: of the template, where a model has several; else "tool_use" where there are
                tools and such a template, and "default".
            add_generation_prompt: end with what begins the assistant's next turn.
            continue_final_message: end within the last message, so that the model goes on with it.
            **variables: more of what the template knows.

        Raises:
            ChatTemplateError: the template refuses the messages, or is damaged.
        """
        inputs = _Inputs(messages, tools, documents, variables)
        return self._render(inputs, name, add_generation_prompt, continue_final_message)

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        name: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> list[int]:
        """A conversation as token ids. Arguments and errors as ``render``.

        Control tokens inside messages, tools, documents and variables are read as plain text.
        """
        pieces = self.pieces(
            messages,
            tools=tools,
            documents=documents,
            name=name,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **variables,
        )
        return encode_pieces(pieces, self._tokenizer)

    def pieces(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        name: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> list[str]:
        """The text of ``render`` in pieces that are encoded one by one (``encode_piece``).

        It is one piece, ``ControlText``, unless a message holds a control token. Arguments and
        errors as ``render``.
        """
        inputs = _Inputs(messages, tools, documents, variables)

        def render(inputs: _Inputs) -> str:
            return self._render(inputs, name, add_generation_prompt, continue_final_message)

        text = render(inputs)
        tokens = self._control_tokens(self._source(name, inputs.tools))
        if tokens.every.search(text) is None:
            return [ControlText(text)] if text else []
        return _separate(text, inputs, tokens, render)

    def training_pieces(
        self, messages: Sequence[Message], learned: Sequence[bool]
    ) -> list[list[tuple[str, bool]]]:
        """Documents to learn a conversation from: pieces of text, and whether they are learned.

        Args:
            messages: the conversation.
            learned: for each message, whether it is learned: what the model is to write of it,
                from behind what begins its turn to the end of the turn.

        Returns:
            One document, or, with a template that renders earlier turns in another way once others
            follow, one for each message that is learned.

        Raises:
            ChatTemplateError: as ``render``.
        """
        whole = self._learned_pieces(messages, learned)
        if whole is not None:
            return [whole]
        documents = []
        for n in (i + 1 for i, each in enumerate(learned) if each):
            document = self._learned_pieces(messages[:n], [False] * (n - 1) + [True])
            if document is None:
                raise ChatTemplateError(
                    "the model's chat template does not begin the assistant's turn as it asks for "
                    "one, so what is to be learned cannot be told"
                )
            documents.append(document)
        return documents

    def _learned_pieces(
        self, messages: Sequence[Message], learned: Sequence[bool]
    ) -> list[tuple[str, bool]] | None:
        pieces = self.pieces(messages)
        text = "".join(pieces)
        spans = []
        for i in (i for i, each in enumerate(learned) if each):
            after = self.render(messages[: i + 1]).rstrip()
            begins = [
                self.render(messages[:i], add_generation_prompt=p) for p in (True, False) if i
            ]
            before = next((b for b in begins if after.startswith(b)), None if begins else "")
            if before is None or not text.startswith(after):
                return None
            spans.append((len(before), len(after)))
        # White space behind the last turn is nothing that a model has to write.
        end = spans[-1][1] if spans and not text[spans[-1][1] :].strip() else len(text)
        return list(_cut(pieces, spans, end))

    @functools.cached_property
    def turn_end(self) -> TurnEnd:
        """What ends the assistant's turn, as far as the template tells."""
        turns = [{"role": role, "content": _SENTINEL} for role in ("user", "assistant", "user")]
        try:
            text = self.render(turns)
            control = self._control_tokens(self._source(None, None)).every
        except ChatTemplateError:
            return TurnEnd()
        parts = text.split(_SENTINEL)
        if len(parts) != 4:
            return TurnEnd()
        behind = parts[2]
        match = control.search(behind)
        if match is None:
            stop = behind.rstrip()
            return TurnEnd(stop=(stop,) if stop.strip() else ())
        stop = behind[: match.start()]
        if stop.strip():
            return TurnEnd(stop=(stop.rstrip(),))
        return TurnEnd(token_ids=(self._tokenizer.added_tokens[match.group()],))

    def _source(self, name: str | None, tools: object) -> str:
        if name is None:
            name = "tool_use" if tools is not None and "tool_use" in self.sources else DEFAULT
        if name not in self.sources:
            names = ", ".join(sorted(self.sources))
            raise ChatTemplateError(f"the model has no chat template {name!r}, but {names}")
        return self.sources[name]

    def _control_tokens(self, source: str) -> _ControlTokens:
        special = set(self._tokenizer.special_token_ids)
        literals = _literals(source)
        tokens = [
            token
            for token, id_ in self._tokenizer.added_tokens.items()
            if id_ in special or (token in literals and not token.isspace())
        ]
        others = [t for t in tokens if self._tokenizer.added_tokens[t] not in special]
        return _ControlTokens(
            every=_any_of(tokens),
            special=_any_of([token for token in tokens if token not in others]),
            others=_any_of(others),
            signs=_marking_characters(tokens),
        )

    def _render(
        self,
        inputs: _Inputs,
        name: str | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> str:
        source = self._source(name, inputs.tools)
        template = _compiled(source)
        messages = inputs.messages
        final = ""
        if continue_final_message:
            if add_generation_prompt:
                raise ChatTemplateError(
                    "the last message is to be continued and a new one begun; choose one of them"
                )
            final, messages = _with_marker(messages)
        from laplm.model.bounded_jinja import limited

        try:
            with limited():
                text = template.render(
                    messages=messages,
                    tools=inputs.tools,
                    documents=inputs.documents,
                    add_generation_prompt=add_generation_prompt,
                    **{**self._tokenizer.special_tokens, **inputs.variables},
                )
        except Exception as error:  # a template may do anything that Python's expressions can
            raise _broken(error) from None
        return _up_to_mark(text, final) if continue_final_message else text


class ControlText(str):
    """Text in which control tokens that are written out are control tokens."""

    __slots__ = ()


def _cut(
    pieces: Sequence[str], spans: Sequence[tuple[int, int]], end: int
) -> Iterator[tuple[str, bool]]:
    """Pieces cut where the spans of their joined text begin and end, and whether within one."""
    cuts = sorted({0, end, *(place for span in spans for place in span)})
    start = 0
    for piece in pieces:
        inner = [c - start for c in cuts if start < c < start + len(piece)]
        for a, b in itertools.pairwise([0, *inner, len(piece)]):
            if start + a < end:
                part = piece[a:b]
                inside = any(first <= start + a < last for first, last in spans)
                yield ControlText(part) if isinstance(piece, ControlText) else part, inside
        start += len(piece)


def encode_pieces(pieces: Iterable[str], tokenizer: Tokenizer) -> list[int]:
    """Token ids of a rendered conversation that came in pieces.

    Raises:
        InputError: as ``Tokenizer.encode``.
        TokenizerError: as ``Tokenizer.encode``.
    """
    return [i for n, piece in enumerate(pieces) for i in encode_piece(piece, tokenizer, n > 0)]


def encode_piece(text: str, tokenizer: Tokenizer, within: bool) -> list[int]:
    """Token ids of a piece of a rendered conversation: of ``ControlText``, or of plain text.

    Args:
        text: the piece.
        tokenizer: the model's.
        within: whether something of the conversation came before it.

    Raises:
        InputError: as ``Tokenizer.encode``.
        TokenizerError: as ``Tokenizer.encode``.
    """
    if isinstance(text, ControlText):
        return tokenizer.encode(text, allow_special=True, within=within)
    return tokenizer.encode_without_added_tokens(text, within)


def read_chat_templates(directory: Path, file: GGUFFile | None = None) -> dict[str, str]:
    """The Jinja texts of a model by name, found where transformers finds them.

    Of a GGUF file they are those of its settings. In a directory files of their own come before
    ``tokenizer_config.json``, and that before the ``chat_template.json`` of older models.

    Args:
        directory: the model's directory, or its GGUF file.
        file: the tables of that GGUF file, where they have been read already.

    Raises:
        ChatTemplateError: a file cannot be read.
        TokenizerError: ``tokenizer_config.json`` is damaged.
    """
    if file is not None or directory.is_file():
        from laplm.model.files.gguf_reader import read_gguf
        from laplm.model.files.gguf_tokenizer import chat_templates

        return chat_templates((file or read_gguf(directory)).metadata)
    files = {DEFAULT: directory / "chat_template.jinja"}
    if (named := directory / "additional_chat_templates").is_dir():
        more = sorted(named.glob("*.jinja"))
        files |= {file.name.removesuffix(".jinja"): file for file in more}
    own = {name: _read_text(file) for name, file in files.items() if file.is_file()}
    if own:
        return own
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = directory / name
        found = read_settings(path).get("chat_template")
        if isinstance(found, str):
            return {DEFAULT: found}
        if isinstance(found, dict):
            found = [{"name": key, "template": value} for key, value in found.items()]
        if found is not None:
            return _named_templates(path, found)
    return {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ChatTemplateError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ChatTemplateError(f"{path} is not UTF-8; fetch or copy it again") from None


def _named_templates(path: Path, found: object) -> dict[str, str]:
    templates = {}
    for each in found if isinstance(found, list) else [found]:
        name, text = (each.get("name"), each.get("template")) if isinstance(each, dict) else (0, 0)
        if not isinstance(name, str) or not isinstance(text, str):
            raise ChatTemplateError(
                f"{path}: chat_template is neither text nor a list of texts with names; fetch or "
                "copy it again"
            )
        templates[name] = text
    return templates


# --- what a template sees ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """All that comes from outside of a template."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None
    documents: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.messages:
            raise ChatTemplateError("there are no messages; give at least one")
        if not all(isinstance(message, Mapping) for message in self.messages):
            raise ChatTemplateError("a message is no object with role and content; correct it")
        turns = [{k: v for k, v in message.items() if v is not None} for message in self.messages]
        object.__setattr__(self, "messages", [_with_reasoning(turn) for turn in turns])
        for field in ("tools", "documents"):
            if (values := getattr(self, field)) is not None:
                object.__setattr__(self, field, list(values))

    def map(self, change: _Change, in_answers: _Change) -> _Inputs:
        """The same with every text changed, but for names of fields.

        Args:
            change: what becomes of a text.
            in_answers: what becomes of one in a message of the assistant.
        """
        changed = object.__new__(_Inputs)
        for field in dataclasses.fields(self):
            object.__setattr__(changed, field.name, _mapped(getattr(self, field.name), change))
        messages = [
            _mapped(message, in_answers if message.get("role") == "assistant" else change)
            for message in self.messages
        ]
        object.__setattr__(changed, "messages", messages)
        return changed

    def texts(self) -> Iterator[str]:
        """Every text."""
        found: list[str] = []

        def look(text: str) -> str:
            found.append(text)
            return text

        self.map(look, look)
        yield from found


def _mapped(value: Any, change: _Change) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    found = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    if found is None:
        return message
    return {"thinking": found, **message, "reasoning_content": found}


def _with_marker(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """The last message's text, and the messages with a mark behind it."""
    last = dict(messages[-1])
    content = last.get("content")
    if isinstance(content, str):
        final, last["content"] = content, content + _CONTINUED
        return final, [*messages[:-1], last]
    parts = list(content) if isinstance(content, list | tuple) else []
    for i in reversed(range(len(parts))):
        if isinstance(parts[i], Mapping) and isinstance(parts[i].get("text"), str):
            final = parts[i]["text"]
            parts[i] = {**parts[i], "text": final + _CONTINUED}
            return final, [*messages[:-1], {**last, "content": parts}]
    raise ChatTemplateError("the last message has no text to continue; give it some")


def _up_to_mark(text: str, final: str) -> str:
    if final.strip() not in text or _CONTINUED.strip() not in text:
        raise ChatTemplateError(
            "the model's chat template leaves out the last message, so it cannot be continued"
        )
    end = text.rindex(_CONTINUED.strip())
    # A template that trims messages trims the one to be continued as well.
    return text[:end] if text[end:].startswith(_CONTINUED) else text[:end].rstrip()


# --- control tokens that are only written about ------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _ControlTokens:
    """What finds control tokens in a text.

    Attributes:
        every: special tokens, and others that the template writes itself (``<tool_call>``).
        special: the first.
        others: the second. The assistant writes them too, and in its messages they are tokens.
        signs: characters of which every one of them has one at least.
    """

    every: re.Pattern[str]
    special: re.Pattern[str]
    others: re.Pattern[str]
    signs: frozenset[str]


def _separate(
    text: str, inputs: _Inputs, tokens: _ControlTokens, render: Callable[[_Inputs], str]
) -> list[str]:
    """Pieces of a rendered text, of which those that are plain are control tokens of messages.

    Every character of the messages that may be part of a control token is rendered a second time
    as a stand-in, a character that templates take no notice of, so that it can be told whose it is.
    """
    written = "".join(inputs.texts())
    if tokens.signs.isdisjoint(written):
        return [ControlText(text)]
    free = (chr(i) for i in _PRIVATE if chr(i) not in written and chr(i) not in text)
    stand_ins = dict(zip(sorted(tokens.signs), free, strict=False))
    there = str.maketrans(stand_ins)
    back = str.maketrans({new: old for old, new in stand_ins.items()})

    def in_answers(text: str) -> str:
        found = iter(tokens.others.findall(text))
        parts = [part.translate(there) for part in tokens.others.split(text)]
        return "".join(part + next(found, "") for part in parts)

    marked = render(inputs.map(lambda text: text.translate(there), in_answers))
    if marked.translate(back) != text:
        return _separate_marked(inputs, tokens, render, free)
    taken = frozenset(stand_ins.values())
    pieces: list[str] = []
    start = 0
    for match in tokens.every.finditer(text):
        begin, end = match.span()
        if taken.isdisjoint(marked[begin:end]):
            continue
        pieces += [ControlText(text[start:begin]), text[begin:end]]
        start = end
    return [piece for piece in (*pieces, ControlText(text[start:])) if piece]


def _separate_marked(
    inputs: _Inputs,
    tokens: _ControlTokens,
    render: Callable[[_Inputs], str],
    free: Iterator[str],
) -> list[str]:
    """The same for a template that looks into messages, as transformers does it.

    Only control tokens that messages hold whole are marked, between two private characters.
    """
    begin, end = next(free), next(free)

    def mark(pattern: re.Pattern[str]) -> _Change:
        return lambda text: pattern.sub(f"{begin}\\g<0>{end}", text)

    text = render(inputs.map(mark(tokens.every), mark(tokens.special)))
    pieces = re.split(f"{begin}({tokens.every.pattern}){end}|[{begin}{end}]", text)
    # Every second piece is a control token, or nothing for a mark that has lost the other one.
    return [piece if i % 2 else ControlText(piece) for i, piece in enumerate(pieces) if piece]


def _marking_characters(tokens: Sequence[str]) -> frozenset[str]:
    """Characters of which every token has one at least: signs rather than letters."""
    signs = frozenset(c for token in tokens for c in token if not c.isalnum() and not c.isspace())
    return signs.union(*(token for token in tokens if signs.isdisjoint(token)))


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


# --- Jinja, as transformers sets it up --------------------------------------------------------


def _broken(error: Exception) -> ChatTemplateError:
    cause = " ".join(str(error).split())[:300] or type(error).__name__
    return ChatTemplateError(
        f"the model's chat template cannot be used with these messages ({cause})"
    )


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    if len(source) > _MAX_SOURCE:
        raise ChatTemplateError(
            f"the model's chat template is damaged ({len(source):,} characters; none has more than "
            f"{_MAX_SOURCE:,}); fetch or copy it again"
        )
    try:
        return _environment().from_string(source)
    except Exception as error:
        raise ChatTemplateError(
            f"the model's chat template is damaged ({' '.join(str(error).split())[:300]})"
        ) from None


@functools.lru_cache(maxsize=8)
def _literals(source: str) -> str:
    """The texts that a template writes itself, with a character between that no token has."""
    from jinja2 import nodes

    tree = _environment().parse(source)
    data = [node.data for node in tree.find_all(nodes.TemplateData)]
    constants = [n.value for n in tree.find_all(nodes.Const) if isinstance(n.value, str)]
    return "\0".join([*data, *constants])


@functools.cache
def _environment() -> Environment:
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock, Node

    from laplm.model.bounded_jinja import BoundedEnvironment

    class Generation(Extension):
        """``{% generation %}``, which marks the assistant's turns and writes nothing itself."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_written")
            return CallBlock(call, [], [], body).set_lineno(line)

        def _written(self, caller: Callable[[], str]) -> str:
            return caller()

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment
