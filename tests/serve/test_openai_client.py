"""OpenAI's own client against a server in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from serving import MARKED_TURNS, started, with_chat_template
from transformers import AutoTokenizer

from laplm.run.language_model import LanguageModel

if TYPE_CHECKING:  # a second of each process that collects this file
    import openai

KEY = "correct horse"


@pytest.fixture(scope="module")
def client(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    import openai

    chat_dir = with_chat_template(tiny_model_dir, tmp_path_factory.mktemp("models") / "chat")
    marked_dir = with_chat_template(tiny_model_dir, chat_dir.with_name("marked"), MARKED_TURNS)
    names = (f"tiny={tiny_model_dir}", f"chat={chat_dir}", f"marked={marked_dir}")
    with (
        started(*names, LAPLM_API_KEY=KEY) as server,
        openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0) as client,
    ):
        yield client


def test_models_are_listed(client: openai.OpenAI) -> None:
    import openai

    assert {"tiny", "chat", "pocket"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("tiny").owned_by == "laplm"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_completion_is_the_librarys_text(client: openai.OpenAI, tiny_model_dir: Path) -> None:
    want = LanguageModel(tiny_model_dir).generate("The capital", 12, seed=7, top_k=0, temperature=1)
    answer = client.completions.create(model="tiny", prompt="The capital", max_tokens=12, seed=7)
    assert answer.choices[0].text == want.text
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(want.token_ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_adds_up_to_the_whole(client: openai.OpenAI) -> None:
    settings = {"model": "tiny", "prompt": ["One", "Two"], "max_tokens": 9, "seed": 3, "n": 2}
    whole = client.completions.create(**settings, logprobs=2)
    chunks = list(
        client.completions.create(
            **settings, logprobs=2, stream=True, stream_options={"include_usage": True}
        )
    )
    texts, tokens = [""] * 4, [[] for _ in range(4)]
    for chunk in chunks[:-1]:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_echo_scores_a_prompt_and_writes_nothing(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="The capital of Spain", max_tokens=0, echo=True, logprobs=1
    )
    choice = answer.choices[0]
    assert choice.text == "The capital of Spain" == "".join(choice.logprobs.tokens)
    assert choice.logprobs.token_logprobs[0] is None
    assert all(p < 0 for p in choice.logprobs.token_logprobs[1:])
    assert answer.usage.completion_tokens == 0


def test_a_bias_and_a_stop_string_are_obeyed(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="a", max_tokens=8, temperature=0, logit_bias={"65": 100}
    )
    assert len(set(answer.choices[0].text)) == 1
    letter = answer.choices[0].text[0]
    stopped = client.completions.create(
        model="tiny", prompt="a", max_tokens=8, temperature=0, logit_bias={"65": 100},
        stop=[letter * 3],
    ).choices[0]  # fmt: skip
    assert stopped.text == ""
    assert stopped.finish_reason == "stop"


def test_the_best_of_several_is_given(client: openai.OpenAI) -> None:
    def likelihood(choice: openai.types.CompletionChoice) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    common = {"model": "tiny", "prompt": "One", "max_tokens": 6, "seed": 1, "logprobs": 0}
    several = client.completions.create(**common, n=5, extra_body={"ignore_eos": True}).choices
    best = client.completions.create(**common, best_of=5, extra_body={"ignore_eos": True}).choices
    assert [choice.text for choice in best] == [max(several, key=likelihood).text]


def test_a_conversation_is_answered_and_streamed(client: openai.OpenAI) -> None:
    settings = {
        "model": "chat", "seed": 5, "max_completion_tokens": 10,
        "messages": [{"role": "user", "content": "Who is Sue?"}],
    }  # fmt: skip
    whole = client.chat.completions.create(**settings, logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.role == "assistant"
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    prompt = "user: Who is Sue?\nassistant: "
    plain = client.completions.create(model="chat", prompt=prompt, seed=5, max_tokens=10)
    assert plain.choices[0].text.startswith(whole.choices[0].message.content)
    parts = client.chat.completions.create(**settings, stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == whole.choices[0].message.content


def test_a_conversation_has_the_tokens_of_transformers_and_none_that_was_typed(
    client: openai.OpenAI, tiny_model_dir: Path
) -> None:
    theirs = AutoTokenizer.from_pretrained(tiny_model_dir)
    for typed, messages in (
        (False, [{"role": "user", "content": "Who is Sue?"}]),
        (True, [{"role": "user", "content": "Who <|endoftext|>is Sue?"}]),
    ):
        answer = client.chat.completions.create(
            model="marked", messages=messages, max_completion_tokens=1
        )
        ids = theirs.apply_chat_template(
            messages, chat_template=MARKED_TURNS, add_generation_prompt=True, return_dict=False,
            sanitize_control_tokens=typed,
        )  # fmt: skip
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(ids)


def test_a_model_without_a_template_names_completions(client: openai.OpenAI) -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match="/v1/completions") as error:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
    assert error.value.code == "no_chat_template"


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI) -> None:
    import openai

    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another key").models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="nobody", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="tiny", prompt="a " * 500, max_tokens=1)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as suffix:
        client.completions.create(model="tiny", prompt="a", suffix="b")
    assert suffix.value.param == "suffix"
