"""Models that end their texts: each way to run them ends there, and prints nothing of the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from model_kinds import CHATML, make_kind, say
from transformers import AutoTokenizer, GPT2LMHeadModel

from laplm.model.tokenizer import Tokenizer
from laplm.run.chat import Conversation
from laplm.run.language_model import LanguageModel
from laplm.serve.app import ServerOptions, make_app

PROMPT = "Who is she?\n"
ANSWER = " a girl"
REST = "!"  # what would come, again and again, if the end were none
LONG = 20
TURNS = [{"role": "user", "content": "Who is she?"}]
ENDING_TURNS = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
GPT2_END, CHATML_END = "<|endoftext|>", "<|im_end|>"


@dataclass(frozen=True)
class Ending:
    """A model, and what its answer ends with.

    Attributes:
        kind: of ``model_kinds``.
        end: the token that it writes behind the answer.
        named_in: the one file that names it.
        template: its chat template, if it has one.
        before: the last token of what it answers to.
    """

    kind: str
    end: str
    named_in: str
    template: str | None = None
    before: str = "\n"

    @property
    def name(self) -> str:
        return f"{self.end.strip('<|>')}-{self.named_in}"

    def write(self, base: Path, directory: Path) -> Path:
        make_kind(self.kind, base, directory)
        tokenizer = Tokenizer.from_directory(directory)
        (end,) = tokenizer.encode(self.end, allow_special=True)
        (other,) = tokenizer.encode("?")
        self._name(directory / "config.json", "eos_token_id", end, other)
        self._name(directory / "generation_config.json", "eos_token_id", [other, end], [other])
        self._name(directory / "tokenizer_config.json", "eos_token", self.end, "?")
        if self.template is not None:
            (directory / "chat_template.jinja").write_text(self.template)
        rest = [] if self.before == self.end else tokenizer.encode(REST + REST)
        before = tokenizer.encode(self.before, allow_special=True)
        say(directory, [*before, *tokenizer.encode(ANSWER), end, *rest])
        return directory

    def _name(self, file: Path, key: str, end: object, other: object) -> None:
        values = json.loads(file.read_text()) if file.is_file() else {}
        values[key] = end if file.name == self.named_in else other
        file.write_text(json.dumps(values))


TEXTS = [
    Ending("chatml", CHATML_END, "config.json", CHATML),
    Ending("chatml", CHATML_END, "generation_config.json", CHATML),
    Ending("chatml", CHATML_END, "tokenizer_config.json", CHATML),
    Ending("plain", GPT2_END, "config.json"),
    Ending("plain", ".", "generation_config.json"),
]
# What ends a turn need not end every text.
TURNS_ALONE = [
    Ending("chatml", CHATML_END, "chat_template.jinja", CHATML),
    Ending("plain", GPT2_END, "tokenizer_config.json", ENDING_TURNS, before=GPT2_END),
]
CHATS = [*(model for model in TEXTS if model.template), *TURNS_ALONE]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("ends")
    models = {model.name: model for model in (*TEXTS, *TURNS_ALONE)}
    return {name: model.write(place / "base", place / name) for name, model in models.items()}


@pytest.fixture(scope="module")
def client(directories: dict[str, Path]) -> Iterator[TestClient]:
    app, _ = make_app(
        ServerOptions({n: str(p) for n, p in directories.items()}, next(iter(directories)))
    )
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def each(models: list[Ending]) -> Any:
    return pytest.mark.parametrize("model", models, ids=[model.name for model in models])


@each(CHATS)
def test_a_conversation_ends_an_answer_at_its_end(
    directories: dict[str, Path], model: Ending
) -> None:
    answer = Conversation(LanguageModel(directories[model.name])).say("Who is she?")
    assert "".join(answer) == ANSWER


@each(TEXTS)
def test_python_ends_a_text_at_its_end(directories: dict[str, Path], model: Ending) -> None:
    lm = LanguageModel(directories[model.name])
    result = lm.generate(PROMPT, LONG)
    assert (result.text, result.finish_reason) == (ANSWER, "eos")
    steps = list(lm.stream(PROMPT, LONG, samples=2))
    for sample in (0, 1):
        assert "".join(step.text for step in steps if step.sample == sample) == ANSWER
    going_on = lm.generate(PROMPT, LONG, ignore_eos=True)
    assert going_on.finish_reason == "length" and going_on.text.endswith(REST * 9)


@each([model for model in TEXTS if model.named_in == "generation_config.json"])
def test_transformers_ends_it_there_too(directories: dict[str, Path], model: Ending) -> None:
    path = directories[model.name]
    ids = AutoTokenizer.from_pretrained(path)(PROMPT, return_tensors="pt")["input_ids"]
    theirs = GPT2LMHeadModel.from_pretrained(path)
    mask = torch.ones_like(ids)
    drawn = theirs.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=LONG)
    ours = LanguageModel(path).generate(PROMPT, LONG, temperature=0)
    assert drawn[0].tolist() == [*ids[0].tolist(), *ours.token_ids]


@each(TEXTS)
def test_the_command_line_ends_a_text_at_its_end(
    laplm_, directories: dict[str, Path], model: Ending
) -> None:
    words = ("run", PROMPT, "-m", directories[model.name], "-n", LONG)
    result = laplm_(*words)
    assert (result.code, result.out) == (0, ANSWER + "\n")
    value = json.loads(laplm_(*words, "--json").out)
    assert (value["text"], value["finish_reason"]) == (ANSWER, "eos")


def events(client: TestClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = client.post(path, json=body | {"stream": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]


@each(TEXTS)
def test_the_server_ends_a_text_at_its_end(client: TestClient, model: Ending) -> None:
    body = {"model": model.name, "prompt": PROMPT, "max_tokens": LONG}
    (choice,) = client.post("/v1/completions", json=body).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == (ANSWER, "stop")
    streamed = events(client, "/v1/completions", body)
    assert "".join(part["text"] for part in streamed) == ANSWER
    assert streamed[-1]["finish_reason"] == "stop"


@each(CHATS)
def test_the_server_ends_an_answer_at_the_end_of_the_turn(
    client: TestClient, model: Ending
) -> None:
    body = {"model": model.name, "messages": TURNS, "max_tokens": LONG}
    (choice,) = client.post("/v1/chat/completions", json=body).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (ANSWER, "stop")
    streamed = events(client, "/v1/chat/completions", body)
    assert "".join(part["delta"].get("content", "") for part in streamed) == ANSWER
    assert streamed[-1]["finish_reason"] == "stop"
