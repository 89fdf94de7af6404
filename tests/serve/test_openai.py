"""Completions over HTTP: the same text as the command line's, and errors in OpenAI's shape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_model
from fastapi.testclient import TestClient
from serving import with_chat_template

from laplm.model.chat import ChatTemplate
from laplm.model.tokenizer import Tokenizer
from laplm.run.language_model import LanguageModel
from laplm.run.results import GenerationStep
from laplm.serve import openai
from laplm.serve.app import ServerOptions, make_app
from laplm.serve.models import ServingSettings

PADDED_ROWS = 40  # of the padded model's table, which its tokenizer has no tokens for


@pytest.fixture(scope="module")
def client(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    models = tmp_path_factory.mktemp("models")
    n_tokens = Tokenizer.from_directory(tiny_model_dir).vocab_size
    padded = make_model(models / "padded", vocab_size=n_tokens + PADDED_ROWS, n_layer=1)
    chat = with_chat_template(tiny_model_dir, models / "chat")
    given = {"tiny": tiny_model_dir, "padded": padded, "chat": chat}
    app, _ = make_app(ServerOptions({name: str(path) for name, path in given.items()}, "tiny"))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(tiny_model_dir)


def complete(client: TestClient, **body: Any) -> dict[str, Any]:
    """The answer to a completion; the seed is 4 unless another one is given."""
    answer = client.post("/v1/completions", json={"seed": 4, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def converse(client: TestClient, **body: Any) -> dict[str, Any]:
    """The answer to a conversation with the model that has a template."""
    answer = client.post("/v1/chat/completions", json={"model": "chat", "seed": 4, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def chunks(client: TestClient, path: str, **body: Any) -> list[dict[str, Any]]:
    """What a stream brings."""
    answer = client.post(path, json={"seed": 4, "stream": True, **body})
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("length", [1, 4, 5, 70])
def test_a_seed_gives_the_text_that_the_library_gives(
    client: TestClient, tiny_model_dir: Path, length: int
) -> None:
    ids = [(7 * i) % 300 for i in range(length)]
    want = LanguageModel(tiny_model_dir).samples(ids, 3, 12, seed=4, ignore_eos=True)
    body = {"prompt": ids, "n": 3, "max_tokens": 12, "seed": 4, "temperature": 0.8, "top_k": 40}
    body |= {"ignore_eos": True, "return_token_ids": True}
    choices = client.post("/v1/completions", json=body).json()["choices"]
    assert [tuple(c["token_ids"]) for c in choices] == [r.token_ids for r in want]
    assert [c["text"] for c in choices] == [r.text for r in want]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"prompt": "a", "temperature": -1}, 400, "temperature"),
        ({"prompt": "a " * 200, "max_tokens": 1}, 400, None),
        ({"prompt": "a", "stop_token_ids": [480000]}, 400, "stop_token_ids"),
        ({"prompt": "a", "tools": [{"type": "function"}]}, 400, "tools"),
        ({"prompt": "a", "max_token": 5}, 400, "max_token"),
        ({"prompt": "a", "repetition_penalty": 1e-300}, 400, "repetition_penalty"),
        ({"prompt": "a", "n": 3, "best_of": 2}, 400, "best_of"),
        ({"prompt": "a", "model": "../tiny"}, 404, "model"),
    ],
)
def test_what_cannot_be_answered_says_why(
    client: TestClient, body: dict[str, object], status: int, param: str | None
) -> None:
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_a_foreign_host_or_origin_is_refused(client: TestClient) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert client.get("/v1/models", headers=headers).status_code == 403


# --- how long, and where it ends ----------------------------------------------------------------


@pytest.mark.parametrize("asked", [{"max_tokens": -1}, {"max_tokens": 10**6}, {"n_predict": -1}])
def test_a_text_that_may_be_longer_than_the_context_ends_with_it(
    client: TestClient, asked: dict[str, int]
) -> None:
    body = {"prompt": [5, 6, 7], "ignore_eos": True}
    answer = complete(client, **body, **asked)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 128 - 3
    streamed = chunks(client, "/v1/completions", **body, **asked)
    assert streamed[-1]["choices"][0]["finish_reason"] == "length"
    text = "".join(chunk["choices"][0]["text"] for chunk in streamed)
    assert text == answer["choices"][0]["text"]


def test_a_conversation_may_ask_for_all_the_room(client: TestClient) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for asked in ({}, {"max_tokens": -1}, {"max_completion_tokens": 5000}):
        answer = converse(client, messages=messages, ignore_eos=True, **asked)
        assert answer["choices"][0]["finish_reason"] in ("length", "stop")
        assert answer["usage"]["total_tokens"] <= 128
        if answer["choices"][0]["finish_reason"] == "length":
            assert answer["usage"]["total_tokens"] == 128


def test_strict_refuses_what_does_not_fit_and_a_fifth_stop_string(tiny_model_dir: Path) -> None:
    options = ServerOptions(
        {"tiny": str(tiny_model_dir)}, "tiny", settings=ServingSettings(strict=True)
    )
    app, _ = make_app(options)
    with TestClient(app, base_url="http://localhost") as strict:
        for body, code in (
            ({"max_tokens": 1000}, "context_length_exceeded"), ({"max_tokens": -1}, None),
            ({"stop": list("vwxyz")}, None),
        ):  # fmt: skip
            answer = strict.post("/v1/completions", json={"prompt": "a", **body})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_each_of_many_stop_strings_stops(client: TestClient) -> None:
    free = complete(client, prompt="The", max_tokens=30, ignore_eos=True)["choices"][0]["text"]
    stop = free[10:13]
    answer = complete(
        client, prompt="The", max_tokens=30, ignore_eos=True, stop=[*"\1\2\3\4\5\6\7", stop]
    )["choices"][0]
    assert answer["text"] == free[: free.index(stop)]
    assert answer["finish_reason"] == "stop"


def test_a_stop_token_ends_a_text_and_is_not_part_of_it(
    client: TestClient, tokenizer: Tokenizer
) -> None:
    body = {"prompt": "The", "max_tokens": 20, "return_token_ids": True, "ignore_eos": True}
    ids = complete(client, **body)["choices"][0]["token_ids"]
    stop = next(i for i in ids[5:] if i not in ids[:5])
    at = ids.index(stop)
    choice = complete(client, **body, stop_token_ids=[stop])["choices"][0]
    assert choice["token_ids"] == ids[: at + 1]
    assert choice["text"] == tokenizer.decode(ids[:at])
    assert choice["finish_reason"] == "stop"


def test_nothing_ends_a_text_before_its_least_length(
    client: TestClient, tokenizer: Tokenizer
) -> None:
    letter = tokenizer.encode("a")[0]
    always = {"prompt": "The", "max_tokens": 9, "temperature": 0, "return_token_ids": True}
    biased = always | {"logit_bias": {str(letter): 100}}
    assert complete(client, **biased)["choices"][0]["text"] == "a" * 9
    # A stop string: it is looked for only behind the least length.
    for least, want in ((0, ""), (4, "aaaa"), (5, "aaaaa")):
        choice = complete(client, **biased, stop="a", min_tokens=least)["choices"][0]
        assert (choice["text"], len(choice["token_ids"])) == (want, least + 1)
    # A token that ends: another one is drawn in its place.
    choice = complete(client, **biased, stop_token_ids=[letter], min_tokens=4)["choices"][0]
    assert letter not in choice["token_ids"][:4]
    assert choice["token_ids"][4:] == [letter]
    eos = tokenizer.eos_token_id
    at_once = always | {"logit_bias": {str(eos): 100}}
    assert complete(client, **at_once)["choices"][0]["token_ids"] == [eos]
    choice = complete(client, **at_once, min_tokens=9)["choices"][0]
    assert len(choice["token_ids"]) == 9
    assert eos not in choice["token_ids"][:8]


# --- penalties and biases -----------------------------------------------------------------------


def test_a_penalty_has_two_names_and_looks_back_as_far_as_it_is_told(
    client: TestClient, tiny_model_dir: Path
) -> None:
    want = LanguageModel(tiny_model_dir).generate(
        "The the the", 12, seed=4, top_k=0, temperature=1, repetition_penalty=3, ignore_eos=True
    )
    body = {"prompt": "The the the", "max_tokens": 12, "ignore_eos": True}
    for name in ("repetition_penalty", "repeat_penalty"):
        assert complete(client, **body, **{name: 3})["choices"][0]["text"] == want.text
    plain = complete(client, **body)["choices"]
    for far, same in ((-1, False), (100, False), (0, True)):
        choices = complete(client, **body, repeat_penalty=3, repeat_last_n=far)["choices"]
        assert (choices == plain) is same
        assert (choices[0]["text"] == want.text) is not same


def test_a_penalty_that_looks_back_a_little_forgets_the_rest(
    client: TestClient, tokenizer: Tokenizer
) -> None:
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    # Of two tokens that are far likelier than all others, the one that came last loses by half.
    body = {"prompt": "x", "max_tokens": 6, "temperature": 0, "return_token_ids": True}
    body |= {"logit_bias": {str(a): 100, str(b): 99}, "repetition_penalty": 2}
    last = complete(client, **body, repeat_last_n=1)["choices"][0]["token_ids"]
    assert last == [a, b] * 3
    every = complete(client, **body)["choices"][0]["token_ids"]
    assert every == [a, b, a, a, a, a]


def test_ids_that_the_tokenizer_lacks_harm_nothing(
    client: TestClient, tokenizer: Tokenizer
) -> None:
    beyond = tokenizer.vocab_size + 3
    prompt = [tokenizer.encode("a")[0], beyond, tokenizer.encode("b")[0]]
    body = {"model": "padded", "prompt": prompt, "max_tokens": 5, "logprobs": 20}
    for more in ({}, {"repetition_penalty": 1.3}, {"echo": True}, {"frequency_penalty": 1}):
        choice = complete(client, **body, **more)["choices"][0]
        assert choice["text"].startswith("ab" if "echo" in more else "")
        assert all(offset >= 0 for offset in choice["logprobs"]["text_offset"])
        streamed = chunks(client, "/v1/completions", **body, **more)
        assert "".join(c["choices"][0]["text"] for c in streamed) == choice["text"]
    assert complete(client, **body, echo=True)["choices"][0]["logprobs"]["tokens"][:3] == [
        "a", "", "b",
    ]  # fmt: skip
    for name, value in (
        ("logit_bias", {str(tokenizer.vocab_size): 5}), ("stop_token_ids", [tokenizer.vocab_size]),
        ("prompt", [tokenizer.vocab_size + PADDED_ROWS]),
    ):  # fmt: skip
        answer = client.post("/v1/completions", json=body | {name: value})
        assert answer.status_code == 400
    last = {str(tokenizer.vocab_size - 1): 100}
    assert complete(client, **body, logit_bias=last, temperature=0, ignore_eos=True)


# --- log-probabilities --------------------------------------------------------------------------


def test_offsets_point_at_each_token(client: TestClient) -> None:
    prompt = "The capital, 北京, naïve"
    body = {"prompt": prompt, "max_tokens": 30, "logprobs": 3, "ignore_eos": True, "n": 2}
    for echo in (True, False):
        answer = complete(client, **body, echo=echo)
        for choice in answer["choices"]:
            text = choice["text"] if echo else prompt + choice["text"]
            found = choice["logprobs"]
            assert len(found["tokens"]) == len(found["text_offset"]) >= 30
            assert found["text_offset"][0] == (0 if echo else len(prompt))
            for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
                if not token.startswith("bytes:"):
                    assert text[offset : offset + len(token)] == token
                assert offset <= len(text)
        offsets: list[list[int]] = [[], []]
        for chunk in chunks(client, "/v1/completions", **body, echo=echo):
            for choice in chunk["choices"]:
                offsets[choice["index"]] += choice["logprobs"]["text_offset"]
        assert offsets == [choice["logprobs"]["text_offset"] for choice in answer["choices"]]


def test_parts_of_characters_are_told_apart_and_have_the_characters_place(
    client: TestClient, tokenizer: Tokenizer
) -> None:
    ids = [i for b in "🙂".encode() for i in tokenizer.encode(bytes([b]))]
    prompt = [*tokenizer.encode("a"), *ids, *tokenizer.encode("b")]
    logprobs = complete(client, prompt=prompt, max_tokens=0, echo=True, logprobs=20)
    found = logprobs["choices"][0]["logprobs"]
    assert found["tokens"] == ["a", *(f"bytes:\\x{b:02x}" for b in "🙂".encode()), "b"]
    assert found["text_offset"] == [0, 1, 1, 1, 1, 2]
    # With 20 of 480 tokens asked for, and one more, each has a key of its own.
    for token, top in zip(found["tokens"][1:], found["top_logprobs"][1:], strict=True):
        assert len(top) in (20, 21)
        assert token in top


def test_a_prompt_that_fills_the_context_can_be_scored(
    client: TestClient, tokenizer: Tokenizer
) -> None:
    ids = (tokenizer.encode("Once upon a time") * 128)[:128]
    scored = complete(client, prompt=ids, max_tokens=0, echo=True, logprobs=1)
    assert len(scored["choices"][0]["logprobs"]["tokens"]) == len(ids)


# --- conversations ------------------------------------------------------------------------------


@pytest.mark.parametrize("logprobs", [[-1.0], [-0.5, -1.0], [-0.25, -0.25, -1.0]])
def test_best_of_goes_by_the_mean_of_an_answers_tokens(logprobs: list[float]) -> None:
    choice = openai._ChoiceBuilder(0)
    assert choice.score == 0
    for logprob in logprobs:
        choice.add(GenerationStep("a", 1, logprob))
    assert choice.score == pytest.approx(sum(logprobs) / len(logprobs))


def test_the_assistants_last_message_is_gone_on_with(client: TestClient) -> None:
    messages = [
        {"role": "user", "content": "Who is Sue?"},
        {"role": "assistant", "content": "The capital of"},
    ]
    said = "user: Who is Sue?\nassistant: The capital of"
    want = {
        True: complete(client, model="chat", prompt=said, max_tokens=8, stop="\n"),
        False: complete(client, model="chat", prompt=f"{said}\nassistant: ", max_tokens=8,
                        stop="\n"),
    }  # fmt: skip
    for fields, going_on in (
        ({}, True),
        ({"continue_final_message": True}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
        ({"continue_final_message": False}, False),
        ({"add_generation_prompt": True}, False),
    ):
        answer = converse(client, messages=messages, max_tokens=8, **fields)
        assert answer["usage"]["prompt_tokens"] == want[going_on]["usage"]["prompt_tokens"]
        text = answer["choices"][0]["message"]["content"]
        assert text == want[going_on]["choices"][0]["text"]
        assert answer["choices"][0]["message"]["role"] == "assistant"
    asked = messages[:1]
    open_end = converse(client, messages=asked, max_tokens=3, add_generation_prompt=False)
    told = converse(client, messages=asked, max_tokens=3)
    assert open_end["usage"]["prompt_tokens"] < told["usage"]["prompt_tokens"]
    both = {"continue_final_message": True, "add_generation_prompt": True}
    answer = client.post("/v1/chat/completions", json={
        "model": "chat", "messages": messages, **both,
    })  # fmt: skip
    assert answer.status_code == 400


def test_what_a_template_cannot_be_given_is_refused(client: TestClient) -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    said = {"role": "user", "content": "Hi"}
    for body in (
        {"messages": [said], "chat_template_kwargs": {"self": 1}},
        {"messages": [said], "chat_template_kwargs": {"messages": []}},
        {"messages": [said], "chat_template_kwargs": {"deep": deep}},
        {"messages": [said | {"more": deep}]},
    ):
        answer = client.post("/v1/chat/completions", json={"model": "chat", **body})
        assert answer.status_code in (200, 400)
        assert ("self" in str(body)) <= (answer.status_code == 400)
    plain = converse(client, messages=[said], max_tokens=3)
    more = converse(client, messages=[said], max_tokens=3, chat_template_kwargs={"x": [1]})
    assert more["choices"] == plain["choices"]


def test_messages_too_deep_for_a_template_are_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_deep(*_: object, **__: object) -> list[int]:
        raise RecursionError

    monkeypatch.setattr(ChatTemplate, "encode", too_deep)
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "nested too deeply" in error["message"] and error["param"] == "messages"


def test_what_is_no_json_is_answered_with_the_reason(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/completions", content=b'{"prompt": ', headers=headers)
    assert answer.status_code == 400
    assert re.search(r"is not JSON \(.*[vV]alue", answer.json()["error"]["message"])


@pytest.mark.parametrize(("asked", "given"), [(None, 0), (0, 0), (3, 3)])
def test_as_many_alternatives_of_a_conversations_tokens_come_as_are_asked_for(
    client: TestClient, asked: int | None, given: int
) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "ignore_eos": True}
    choice = converse(client, **body, logprobs=True, top_logprobs=asked)["choices"][0]
    assert [len(token["top_logprobs"]) for token in choice["logprobs"]["content"]] == [given] * 4


def test_streamed_chat_of_two_is_the_whole_answer(client: TestClient, tokenizer: Tokenizer) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "n": 2, "max_tokens": 12}
    body |= {"logprobs": True, "top_logprobs": 1, "ignore_eos": True, "return_token_ids": True}
    whole = converse(client, **body)
    streamed = chunks(client, "/v1/chat/completions", model="chat", **body,
                      stream_options={"include_usage": True})  # fmt: skip
    texts, tokens, ends, ids = ["", ""], [[], []], [None, None], [[], []]
    roles, prompts = [], []
    for chunk in streamed[:-1]:
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        at = choice["index"]
        texts[at] += choice["delta"].get("content", "")
        roles += [at] if choice["delta"].get("role") == "assistant" else []
        tokens[at] += (choice["logprobs"] or {"content": []})["content"]
        ids[at] += choice["token_ids"]
        prompts += [chunk["prompt_token_ids"]] if "prompt_token_ids" in chunk else []
        ends[at] = choice["finish_reason"] or ends[at]
    assert sorted(roles) == [0, 1]
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert texts[0] != texts[1]
    assert tokens == [choice["logprobs"]["content"] for choice in whole["choices"]]
    assert ends == [choice["finish_reason"] for choice in whole["choices"]]
    assert ids == [choice["token_ids"] for choice in whole["choices"]]
    assert [len(each) for each in ids] == [12, 12]
    assert prompts == [whole["prompt_token_ids"]]
    assert tokenizer.decode(prompts[0]) == "user: Hi\nassistant: "
    assert tokenizer.decode(ids[0]) == texts[0]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    usage = streamed[-1]["usage"]
    assert streamed[-1]["choices"] == []
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert usage["prompt_tokens"] == whole["usage"]["prompt_tokens"]
