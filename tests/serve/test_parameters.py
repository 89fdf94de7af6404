"""Fields of a request: each works, is refused in words, or is documented to change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest

from laplm.errors import ContextLengthError
from laplm.serve.parameters import (
    IGNORED,
    UNSUPPORTED,
    ChatRequest,
    CompletionRequest,
    RequestBody,
)
from laplm.serve.problems import ApiError

DOCUMENTED = Path(__file__).parents[2] / "docs" / "commands" / "serve.md"
MESSAGES = [{"role": "user", "content": "Hi"}]


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"prompt": "a", **fields})


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": MESSAGES, **fields})


def refused(body: CompletionRequest | ChatRequest) -> ApiError:
    with pytest.raises(ApiError) as error:
        body.check()
    assert error.value.status == 400
    return error.value


# What asks for something that is not there, as clients would send it.
ASKED: dict[str, Any] = {
    "response_format": {"type": "json_object"}, "tools": [{"type": "function"}],
    "tool_choice": "required", "functions": [{"name": "f"}], "function_call": {"name": "f"},
    "grammar": "root ::= \"a\"", "json_schema": {}, "guided_json": {}, "guided_choice": ["a"],
    "structured_outputs": {"regex": "a"}, "format": "json", "mirostat": 2, "typical_p": 0.9,
    "dry_multiplier": 0.8, "xtc_probability": 0.5, "use_beam_search": True, "num_beams": 4,
    "prompt_logprobs": 0, "n_probs": 5, "chat_template": "{{ m }}", "reasoning_effort": "low",
    "modalities": ["text", "audio"], "do_sample": False, "options": {"top_k": 1},
    "logits_processors": ["x"], "min_keep": 5, "penalize_nl": False, "truncate_prompt_tokens": 10,
}  # fmt: skip
# The same fields where they ask for nothing.
NOTHING: dict[str, Any] = {
    "response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "functions": None,
    "function_call": "auto", "grammar": "", "guided_json": None, "mirostat": 0, "typical_p": 1.0,
    "dry_multiplier": 0.0, "use_beam_search": False, "num_beams": 1, "modalities": ["text"],
    "do_sample": True, "min_keep": 0, "n_probs": 0, "lora": [],
}  # fmt: skip
# What leaves a method off, as its clients send it by themselves, and what switches it on.
OFF_AND_ON: dict[str, tuple[Any, Any]] = {
    "mirostat_mode": (0, 2), "typ_p": (1, 0.9), "tfs_z": (1, 0.9), "tfs": (1, 0.9),
    "top_a": (0, 0.2), "xtc_probability": (0, 0.5), "dynatemp_range": (0, 0.5),
    "smoothing_factor": (0, 0.3), "top_n_sigma": (-1, 1), "nsigma": (-1, 1),
    "epsilon_cutoff": (0, 1e-4), "eta_cutoff": (0, 1e-4), "penalty_alpha": (0, 0.6),
    "guidance_scale": (1, 1.5), "cfg_scale": (1, 1.5), "adaptive_target": (-1, 0.5),
    "no_repeat_ngram_size": (0, 3), "encoder_repetition_penalty": (1, 1.2),
    "penalize_nl": (True, False), "penalize_newline": (True, False), "n_indent": (0, 4),
    "n_cmpl": (1, 2), "detokenize": (True, False), "truncation": ("disabled", "auto"),
    "truncate_prompt_tokens": (-1, 10), "t_max_predict_ms": (0, 100), "t_max_prompt_ms": (-1, 100),
    "reasoning_effort": ("none", "high"), "reasoning_format": ("auto", "deepseek"),
    "thinking": ({"type": "disabled"}, {"type": "enabled"}), "thinking_token_budget": (0, 100),
    "reasoning_budget": (-1, 100), "verbosity": ("medium", "low"), "num_beams": (1, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_what_is_not_there_is_refused_by_its_name(name: str) -> None:
    for body in (completion(**{name: ASKED[name]}), chat(**{name: ASKED[name]})):
        error = refused(body)
        assert error.param == name
        assert str(error).startswith(f"{name}: ")
        assert error.code == "unsupported_parameter"


@pytest.mark.parametrize("name", NOTHING)
def test_a_field_that_asks_for_nothing_is_taken(name: str) -> None:
    completion(**{name: NOTHING[name]}).check()
    chat(**{name: NOTHING[name]}).check()


@pytest.mark.parametrize("name", OFF_AND_ON)
def test_a_method_that_is_not_there_may_be_left_off(name: str) -> None:
    off, on = OFF_AND_ON[name]
    completion(**{name: off}).check()
    assert refused(completion(**{name: on})).param == name


@pytest.mark.parametrize(
    ("name", "value"), [("mirostat", False), ("num_beams", True), ("typical_p", 0), ("tools", {})]
)
def test_a_switch_is_no_number_and_an_empty_object_is_something(name: str, value: Any) -> None:
    if value is False:
        completion(**{name: value}).check()
    else:
        refused(completion(**{name: value}))


def test_every_harmless_field_is_taken_and_documented() -> None:
    text = DOCUMENTED.read_text(encoding="utf-8")
    for name in IGNORED:
        completion(**{name: "anything"}).check()
        assert f"`{name}`" in text, name
    known = {*CompletionRequest.model_fields, *ChatRequest.model_fields}
    assert not IGNORED & (UNSUPPORTED.keys() | known)
    assert not UNSUPPORTED.keys() & known


def test_a_field_that_nobody_knows_is_refused_with_what_was_meant() -> None:
    error = refused(completion(temprature=1))
    assert (error.param, error.code) == ("temprature", "unknown_parameter")
    assert "temperature" in str(error)
    assert "leave it out" in str(refused(chat(qqqq=1)))
    assert len(str(refused(completion(**{"x" * 5000: 1})))) < 300
    completion(temprature=None).check()  # null is as if it were not there
    assert "/v1/chat/completions" in str(refused(completion(messages=MESSAGES)))
    assert "/v1/completions" in str(refused(chat(prompt="a")))


def test_a_message_of_which_a_part_would_be_lost_is_refused() -> None:
    said = {"role": "assistant", "content": "a"}
    for more in ({"tool_calls": [{}]}, {"images": ["x"]}, {"audio": {"id": "x"}}):
        assert refused(chat(messages=[said | more])).param == "messages"
    named = chat(messages=[said | {"tool_calls": None, "refusal": None, "name": "Sue"}])
    named.check()
    assert named.turns()[0]["name"] == "Sue"  # a template may know what to do with it
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = chat(messages=[{"role": "user", "content": parts}, {"role": "user"}])
    assert [message.text() for message in body.messages] == ["ab", ""]
    for part in ({"type": "image_url", "text": "a"}, {"type": "text", "text": 1}):
        with pytest.raises(ApiError, match="not text"):
            chat(messages=[{"role": "user", "content": [part]}]).messages[0].text()


@pytest.mark.parametrize("name", ["n", "max_tokens", "top_k", "seed", "min_tokens", "logprobs"])
def test_a_whole_number_may_be_written_with_a_point(name: str) -> None:
    assert getattr(completion(**{name: 5.0}), name) == 5
    assert type(getattr(completion(**{name: 5.0}), name)) is int
    for wrong in (5.5, "5", True):
        with pytest.raises(pydantic.ValidationError):
            completion(**{name: wrong})


def test_token_ids_may_be_written_with_a_point() -> None:
    assert completion(prompt=[1.0, 2]).prompts() == [[1, 2]]
    assert completion(prompt=[[1.0], [2.0, 3]]).prompts() == [[1], [2, 3]]
    assert completion(stop_token_ids=[3.0]).extra_stop_token_ids(4) == (3,)


def test_a_prompt_is_one_or_several() -> None:
    assert completion(prompt=None).prompts() == [""]
    assert completion(prompt=["a", "b"]).prompts() == ["a", "b"]
    assert len(completion(prompt=["a"] * 64).prompts()) == 64
    for wrong in ([], ["a"] * 65):
        with pytest.raises(ApiError, match="prompt"):
            completion(prompt=wrong).prompts()


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, 16),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": -1}, 90),
        ({"max_tokens": -2}, 90),
        ({"n_predict": 7}, 7),
        ({"n_predict": -1}, 90),
        ({"max_tokens": None, "n_predict": 8}, 8),
        ({"max_tokens": 8, "n_predict": 8}, 8),
        ({"max_tokens": 90}, 90),
        ({"max_tokens": 91}, 90),
        ({"max_tokens": 10**6}, 90),
        ({"max_tokens": 0}, 0),
    ],
)
def test_more_tokens_than_fit_are_as_many_as_fit(fields: dict[str, Any], want: int) -> None:
    assert completion(**fields).max_new_tokens(16, 10, 100) == want


def test_strict_refuses_what_openai_refuses() -> None:
    for fields in ({"max_tokens": 91}, {"max_tokens": 10**6}):
        with pytest.raises(ContextLengthError, match="at most 90"):
            completion(**fields).max_new_tokens(16, 10, 100, strict=True)
    assert completion(max_tokens=90).max_new_tokens(16, 10, 100, strict=True) == 90
    with pytest.raises(ApiError, match="max_tokens"):
        completion(max_tokens=-1).max_new_tokens(16, 10, 100, strict=True)
    assert chat().max_new_tokens(None, 10, 100, strict=True) == 90
    five = completion(stop=list("abcde"))
    assert five.stop_strings() == tuple("abcde")
    with pytest.raises(ApiError, match="at most 4"):
        five.stop_strings(strict=True)
    assert completion(stop=list("abcd")).stop_strings(strict=True) == tuple("abcd")


def test_a_prompt_that_fills_the_context_is_refused_unless_nothing_is_written() -> None:
    assert chat().max_new_tokens(None, 99, 100) == 1
    assert completion(max_tokens=0).max_new_tokens(16, 100, 100) == 0
    for body, n_prompt in (
        (chat(), 100), (completion(max_tokens=-1), 100), (completion(), 101),
        (completion(max_tokens=0), 101),
    ):  # fmt: skip
        with pytest.raises(ContextLengthError, match="shorten the prompt"):
            body.max_new_tokens(16, n_prompt, 100)


def test_of_a_full_context_the_least_that_was_asked_for_is_told() -> None:
    with pytest.raises(ContextLengthError, match="100 in the prompt and 1 to write"):
        chat().max_new_tokens(None, 100, 100)
    assert chat().max_new_tokens(None, 99, 100, strict=True) == 1


def test_tokens_for_chat_have_the_names_that_openai_gave_them() -> None:
    assert chat(max_tokens=5).max_new_tokens(None, 10, 100) == 5
    assert chat(max_completion_tokens=5).max_new_tokens(None, 10, 100) == 5
    assert refused(chat(max_tokens=0)).param == "max_tokens"
    assert refused(completion(max_tokens=0)).param == "max_tokens"
    completion(max_tokens=0, echo=True).check()
    assert refused(chat(top_logprobs=2)).param == "top_logprobs"
    chat(top_logprobs=2, logprobs=True).check()


def test_one_setting_under_two_names_has_one_value() -> None:
    assert completion(repeat_penalty=1.5).sampling_params().repetition_penalty == 1.5
    both = completion(repeat_penalty=1.5, repetition_penalty=1.5)
    assert both.sampling_params().repetition_penalty == 1.5
    with pytest.raises(ApiError, match="two names") as refused:
        completion(repeat_penalty=1.5, repetition_penalty=1.2).sampling_params()
    assert (refused.value.status, refused.value.param) == (400, "repeat_penalty")
    with pytest.raises(ApiError, match="two names"):
        completion(max_tokens=1, n_predict=2).max_new_tokens(16, 1, 100)


def test_more_tokens_at_least_than_at_most_are_refused() -> None:
    assert completion(min_tokens=5, max_tokens=5).max_new_tokens(16, 1, 100) == 5
    for body in (completion(min_tokens=6, max_tokens=5), completion(min_tokens=17)):
        with pytest.raises(ApiError, match="min_tokens"):
            body.max_new_tokens(16, 1, 100)
    assert chat(min_tokens=50).max_new_tokens(None, 1, 100) == 99


def test_settings_are_openais_where_none_are_given() -> None:
    params = completion(seed=3).sampling_params()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (1.0, 0, 1.0, 0.0)
    assert (params.repetition_penalty, params.seed) == (1.0, 3)
    assert completion(seed=-1).sampling_params().seed == 2**64 - 1
    assert completion().sampling_params().seed is None  # the request draws one
    given = completion(temperature=0.5, top_p=0.4, top_k=7, min_p=0.1).sampling_params()
    assert (given.temperature, given.top_p, given.top_k, given.min_p) == (0.5, 0.4, 7, 0.1)
    for off in (0, -1):
        assert completion(top_k=off).sampling_params().top_k == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1e-300}, {"repeat_penalty": 1e-300}, {"repetition_penalty": 0},
        {"repetition_penalty": 1e300}, {"temperature": 2.1}, {"temperature": -0.1}, {"top_k": -2},
        {"top_p": 1.1}, {"min_p": -0.1}, {"n": 0}, {"n": 129}, {"max_tokens": -3},
        {"presence_penalty": 2.1}, {"frequency_penalty": -2.1}, {"logprobs": 21}, {"best_of": 0},
        {"repeat_last_n": -2}, {"stop_token_ids": [0] * 129}, {"stream_options": {"more": True}},
        {"seed": 2**63}, {"seed": -(2**63) - 1}, {"logprobs": -1}, {"best_of": 129},
        {"min_tokens": -1}, {"presence_penalty": -2.1}, {"frequency_penalty": 2.1},
        {"top_p": -0.1}, {"min_p": 1.1},
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        completion(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2}, {"temperature": 0}, {"top_k": -1}, {"top_p": 1}, {"min_p": 0},
        {"min_p": 1}, {"n": 1}, {"n": 128}, {"best_of": 128}, {"logprobs": 0}, {"logprobs": 20},
        {"presence_penalty": 2}, {"frequency_penalty": -2}, {"repeat_last_n": -1},
        {"stop_token_ids": [0] * 128}, {"seed": 2**63 - 1}, {"seed": -(2**63)}, {"min_tokens": 0},
    ],
)  # fmt: skip
def test_numbers_at_the_end_of_their_range_are_taken(fields: dict[str, Any]) -> None:
    completion(**fields)


@pytest.mark.parametrize(("last_n", "window"), [(None, None), (-1, None), (0, 0), (64, 64)])
def test_how_far_a_penalty_looks_back(last_n: int | None, window: int | None) -> None:
    assert completion(repeat_last_n=last_n).penalty_window() == window


def test_a_bias_is_for_a_token_that_can_be_drawn() -> None:
    logit_adjustments = completion(
        logit_bias={"0": 5, "9": -100}, presence_penalty=1
    ).logit_adjustments(10)
    assert logit_adjustments is not None
    assert logit_adjustments.logit_bias == {0: 5, 9: -100}
    assert (logit_adjustments.presence_penalty, logit_adjustments.frequency_penalty) == (1.0, 0.0)
    assert completion().logit_adjustments(10) is None
    assert completion(frequency_penalty=0.5).logit_adjustments(10).frequency_penalty == 0.5
    for bias in ({"10": 1}, {"-1": 1}, {"a": 1}, {"1": 101}, {"1": -101}, {"٣": 1}, {"": 1}):
        with pytest.raises(ApiError, match="logit_bias"):
            completion(logit_bias=bias).logit_adjustments(10)
    for ids in ([10], [-1]):
        with pytest.raises(ApiError, match=r"stop_token_ids has .*, but token ids are 0 to 9"):
            completion(stop_token_ids=ids).extra_stop_token_ids(10)


def test_stop_strings_are_one_or_several_and_none_is_empty() -> None:
    assert completion().stop_strings() == completion(stop=[]).stop_strings() == ()
    assert completion(stop="ab").stop_strings() == ("ab",)
    assert len(completion(stop=["a"] * 128).stop_strings()) == 128
    for wrong in ("", ["a", ""], ["a"] * 129):
        with pytest.raises(ApiError, match="stop"):
            completion(stop=wrong).stop_strings()


def test_best_of_chooses_among_at_least_as_many_as_are_given() -> None:
    completion(n=3, best_of=3, stream=True).check()
    completion(n=2, best_of=3).check()
    assert refused(completion(n=3, best_of=2)).param == "best_of"
    assert refused(completion(best_of=2, stream=True)).param == "best_of"
    assert refused(completion(suffix="b")).param == "suffix"


def test_usage_in_a_stream_is_asked_for() -> None:
    assert completion(stream_options={"include_usage": True}).with_usage
    assert not completion(stream_options={"include_usage": False}).with_usage
    assert not completion().with_usage


def test_the_description_names_what_may_come() -> None:
    for kind in (CompletionRequest, ChatRequest, RequestBody):
        schema = kind.model_json_schema()
        assert schema["additionalProperties"] is False
        assert {"repeat_penalty", "n_predict", *IGNORED} <= schema["properties"].keys()
