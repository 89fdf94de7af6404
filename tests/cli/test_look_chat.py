"""``laplm look chat``: one question, a pipe, and a conversation on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from calling import refused
from model_kinds import make_kind, say

from laplm.cli import look as look_command
from laplm.errors import InputError
from laplm.model.tokenizer import Tokenizer
from laplm.run.language_model import LanguageModel


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers " a girl", whatever it is asked."""
    base = tmp_path_factory.mktemp("base") / "base"
    path = make_kind("chatml", base, tmp_path_factory.mktemp("scripted") / "model")
    tokenizer = Tokenizer.from_directory(path)
    (end,) = tokenizer.encode("<|im_end|>", allow_special=True)
    say(path, [*tokenizer.encode("\n"), *tokenizer.encode(" a girl"), end, *tokenizer.encode("!!")])
    _ = LanguageModel(path, "fp32").gpt  # prepared and compiled
    return path


@pytest.fixture
def ask(laplm_: Any, scripted: Path) -> Callable[..., SimpleNamespace]:
    def call(*argv: object, stdin: bytes | None = None) -> SimpleNamespace:
        return laplm_("look", "chat", *argv, "-m", scripted, stdin=stdin)

    return call


def test_a_question_is_answered_and_shown_token_by_token(ask: Any) -> None:
    result = ask("Who is she?", "--greedy", "-n", "8", "--seed", 1)
    assert result.code == 0 and result.err == ""
    assert result.out.startswith("The answer's 2 tokens have 100")
    assert "<|im_start|>user\nWho is she?<|im_end|>" in result.out
    assert "What a token looked at" in result.out
    piped = ask("--greedy", "-n", "8", "--seed", 1, stdin=b"Who is she?")
    assert piped.out == result.out


def test_json_and_a_page_have_the_conversation(ask: Any, tmp_path: Path) -> None:
    page = tmp_path / "chat.html"
    result = ask("Who?", "--system", "Be brief.", "--earlier", "Hi", "--earlier", "Hello",
                 "--seed", 1, "--json", "--out", page)  # fmt: skip
    found = json.loads(result.out)
    assert found["answer"] == " a girl" and found["seed"] == 1 and found["words"] == ["Who?"]
    given = "".join(text for text, *_ in found["pieces"])
    assert "Be brief." in given and "Hello<|im_end|>" in given
    assert "Who?" in page.read_text()


def test_on_a_terminal_it_asks_again_and_again(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    typed: Iterator[object] = iter(
        ["Who is she?", InputError("what was typed is not UTF-8"), "", "And he?",
         KeyboardInterrupt(), "/exit"]
    )  # fmt: skip

    def read(*_: object) -> tuple[str, bool]:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return str(line), False

    monkeypatch.setattr(look_command, "is_terminal", lambda stream: True)
    monkeypatch.setattr(look_command, "read_message", read)
    result = ask("--greedy")
    assert result.code == 0
    assert result.out.count("The answer's 2 tokens") == 2
    first, second = result.out.split("The answer's 2 tokens")[1:]
    assert "user\nAnd he?<|im_end|>" not in first
    assert "Who is she?<|im_end|>" in second and "assistant\n a girl<|im_end|>" in second
    assert "not UTF-8" in result.err and "Ctrl-D or /exit leaves" in result.err
    assert next(typed, None) is None


def test_bad_usage_is_one_plain_line(ask: Any, laplm_: Any, tiny_model_dir: Path) -> None:
    refused(ask("Who?", "--earlier", "Hi"), "earlier holds 1 messages")
    refused(ask("Who?", "--top-k", "-1"), "--top-k is -1")
    refused(ask("girl " * 300), "shorten it")
    refused(laplm_("look", "chat", "Hello", "-m", tiny_model_dir), "has no chat template")
