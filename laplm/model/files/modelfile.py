"""A Modelfile, from which ``ollama create`` makes a model of a GGUF file.

ollama does not run the Jinja of a chat template. It has Go templates, of which it takes the one
whose Jinja is most like the file's, or else none: then a conversation reaches the model without
its turns. So what the Jinja does is told in Go, where it only puts texts around what is said.

Formats: https://docs.ollama.com/modelfile, https://docs.ollama.com/template.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laplm.errors import LaplmError
from laplm.files import write_file
from laplm.model.chat import ChatTemplate
from laplm.model.config import ModelConfig
from laplm.model.files.gguf_tokenizer_writer import end_tokens
from laplm.model.pretrained_settings import PretrainedSettings
from laplm.model.tokenizer import Tokenizer

_FROM_GGUF = re.compile(r"^[ \t]*FROM[ \t]+[^\n]*\.gguf\"?[ \t]*$", re.IGNORECASE | re.MULTILINE)
_WRITTEN = re.compile(r"# Written by laplm export \(([0-9a-f]{12})\)[^\n]*\n")
# laplm's own defaults; those that transformers' generation_config.json names come before them.
_SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 1.0, "repeat_penalty": 1.0}
_THEIR_NAMES = {"repeat_penalty": "repetition_penalty"}
_NO_TEMPLATE = (
    "# The chat template does more than could be told here. ollama takes one of its own that is\n"
    "# like it, or none; TEMPLATE says another one.\n"
)


def modelfile(
    name: str,
    tokenizer: Tokenizer,
    config: ModelConfig,
    settings: PretrainedSettings,
    template: ChatTemplate | None,
) -> str:
    """The text of a Modelfile.

    Args:
        name: of the GGUF file beside it.
        tokenizer: the model's.
        config: its context and end tokens.
        settings: with ``generation_config``.
        template: its chat template; a model without one continues texts as they are.
    """
    lines = [f"FROM ./{name}\n"]
    stops = [token.decode() for token in _control_texts(tokenizer, config)]
    if template is None:
        lines.append(f"TEMPLATE {_quoted('{{ .Prompt }}')}\n")
    else:
        layout = find_layout(template)
        go = None if layout is None else layout.go_template(_first_text(tokenizer))
        lines.append(_NO_TEMPLATE if go is None or '"""' in go else f"TEMPLATE {_quoted(go)}\n")
        stops += template.turn_end.stop
    values = {"num_ctx": config.n_ctx, **_sampling(settings.generation_config or {})}
    lines += (f"PARAMETER {key} {value}\n" for key, value in values.items())
    lines += (f"PARAMETER stop {_quoted(s)}\n" for s in dict.fromkeys(stops) if '"""' not in s)
    text = "".join(lines)
    return f"# Written by laplm export ({_digest(text)}); change what you like.\n{text}"


def write_modelfile(path: Path, text: str, name: str) -> bool:
    """Write a Modelfile; of one that someone has changed, only which GGUF file it is from.

    Returns:
        Whether it was written: a Modelfile that is from no GGUF file is left as it is.

    Raises:
        WriteError: the disk is full or cannot be written.
    """
    if path.is_file():
        there = path.read_text(encoding="utf-8", errors="surrogateescape")
        mark = _WRITTEN.match(there)
        if mark is None or mark[1] != _digest(there[mark.end() :]):
            text, count = _FROM_GGUF.subn(lambda _: f"FROM ./{name}", there, count=1)
            if count == 0:
                return False
    write_file(path, text.encode(errors="surrogateescape"))
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def _quoted(text: str) -> str:
    return f'"{text}"' if not set(text) & {'"', "\n"} else f'"""{text}"""'


def _sampling(generation: Mapping[str, Any]) -> dict[str, float]:
    """Parameters of ollama; transformers draws, and has settings for it, with do_sample alone."""
    found = dict(_SAMPLING)
    if generation.get("do_sample") is True:
        for key in found:
            value = generation.get(_THEIR_NAMES.get(key, key))
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[key] = value
    return found


def _control_texts(tokenizer: Tokenizer, config: ModelConfig) -> list[bytes]:
    ends = end_tokens(tokenizer, config)
    return [tokenizer.token_bytes(i) for i in ends if i in tokenizer.special_token_ids]


def _first_text(tokenizer: Tokenizer) -> str:
    """What the tokenizer puts before each text by itself, so that a template must not."""
    before = itertools.takewhile(
        lambda i: i != -1, tokenizer.build_inputs_with_special_tokens([-1])
    )
    return tokenizer.decode(list(before))


# --- Jinja to Go ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A template that puts texts around messages, and does nothing else.

    Attributes:
        first: what stands before a message that is the first one, by its role: user or system.
        later: before any other: user or assistant.
        after: what stands after a message, by all three.
        reply: what begins the assistant's next one.
    """

    first: Mapping[str, str]
    later: Mapping[str, str]
    after: Mapping[str, str]
    reply: str

    def render(self, messages: Sequence[Mapping[str, str]], reply: bool) -> str:
        """A conversation as text."""
        before = (self.first, *(self.later for _ in messages[1:]))
        turns = (
            each[m["role"]] + m["content"] + self.after[m["role"]]
            for each, m in zip(before, messages, strict=True)
        )
        return "".join(turns) + (self.reply if reply else "")

    def go_template(self, given: str = "") -> str:
        """The same for ollama, which leaves an answer that it was given open, to go on with it.

        Args:
            given: what is put before the text by itself, and so must not be here.
        """
        branches = []
        for role in self.after:
            first = self.first.get(role, self.later.get(role, "")).removeprefix(given)
            later = self.later.get(role, first)
            text = _go(first)
            if later != first:
                text = f"{{{{ if $i }}}}{_go(later)}{{{{ else }}}}{text}{{{{ end }}}}"
            after = _go(self.after[role])
            if role == "assistant" and after:
                after = f"{{{{ if not $last }}}}{after}{{{{ end }}}}"
            branches.append(f'if eq .Role "{role}" }}}}{text}{{{{ .Content }}}}{after}')
        turn = "{{ " + "{{ else ".join(branches) + "{{ end }}"
        reply = f'{{{{ if and $last (ne .Role "assistant") }}}}{_go(self.reply)}{{{{ end }}}}'
        last = "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        return f"{{{{ range $i, $m := .Messages }}}}{last}{turn}{reply}{{{{ end }}}}"


def _go(text: str) -> str:
    """Text as it stands in a Go template, where braces begin actions."""
    return text.replace("{", '{{ "{" }}')


def find_layout(template: ChatTemplate) -> Layout | None:
    """What a template puts around messages; None when it does more than that."""
    try:
        user, after_user = _around(template, ["user"])
        _, to_assistant, after_assistant = _around(template, ["user", "assistant"])
        _, _, to_user, _ = _around(template, ["user", "assistant", "user"])
        _, reply = _around(template, ["user"], reply=True)
        layout = Layout(
            first={"user": user},
            later={
                "user": _without(to_user, after_assistant),
                "assistant": _without(to_assistant, after_user),
            },
            after={"user": after_user, "assistant": after_assistant},
            reply=_without(reply, after_user),
        )
        layout = _with_system(template, layout)
        for roles in (["user"], ["user", "assistant"], ["user", "assistant"] * 2 + ["user"]):
            for system in ([], ["system"])[: 1 + ("system" in layout.first)]:
                if not _agree(template, layout, [*system, *roles]):
                    return None
    except (LaplmError, ValueError):
        return None
    return layout


def _with_system(template: ChatTemplate, layout: Layout) -> Layout:
    try:
        system, to_user, _ = _around(template, ["system", "user"])
    except (LaplmError, ValueError):  # it knows no such messages
        return layout
    if not to_user.endswith(layout.later["user"]):
        raise ValueError
    after = to_user.removesuffix(layout.later["user"])
    return Layout(
        first={"system": system, **layout.first},
        later=layout.later,
        after={"system": after, **layout.after},
        reply=layout.reply,
    )


def _agree(template: ChatTemplate, layout: Layout, roles: Sequence[str]) -> bool:
    messages = [{"role": r, "content": f"{i} {r}.\n\nMore, {i}"} for i, r in enumerate(roles)]
    return all(
        layout.render(messages, reply) == template.render(messages, add_generation_prompt=reply)
        for reply in (False, True)
    )


def _around(template: ChatTemplate, roles: Sequence[str], reply: bool = False) -> list[str]:
    """The texts before, between and after messages.

    Raises:
        ChatTemplateError: the template refuses them.
        ValueError: it leaves one out, or has it twice.
    """
    marks = [f"what{i}said" for i in range(len(roles))]
    messages = [{"role": r, "content": mark} for r, mark in zip(roles, marks, strict=True)]
    text = template.render(messages, add_generation_prompt=reply)
    parts = re.split("|".join(marks), text)
    if re.findall("|".join(marks), text) != marks:
        raise ValueError
    return parts


def _without(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise ValueError
    return text.removeprefix(prefix)
