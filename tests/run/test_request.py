"""One request: its options are those of the dataclasses, and it is checked where it is made."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from laplm.errors import InputError
from laplm.run.request import GenerationOptions, GenerationRequest
from laplm.run.sampler import SamplingParams


def names(cls: type) -> set[str]:
    return {each.name for each in dataclasses.fields(cls)}


def test_every_option_is_a_field_of_the_request_or_of_its_sampling() -> None:
    options = GenerationOptions.__annotations__.keys()
    assert names(SamplingParams) < options
    assert options - names(SamplingParams) < names(GenerationRequest)
    assert not names(SamplingParams) & names(GenerationRequest)


def test_a_request_always_has_a_seed_and_keeps_the_one_it_was_given() -> None:
    seeds = {GenerationRequest(prompt_ids=(1,)).params.seed for _ in range(3)}
    assert None not in seeds and len(seeds) == 3
    assert GenerationRequest(prompt_ids=(1,), params=SamplingParams(seed=7)).params.seed == 7


def test_the_models_end_tokens_end_a_sample_unless_they_are_ignored() -> None:
    request = GenerationRequest(prompt_ids=(1,), stop_token_ids=(5, 6))
    assert request.end_token_ids({9}) == {5, 6, 9}
    assert dataclasses.replace(request, ignore_eos=True).end_token_ids({9}) == {5, 6}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt_ids": ()}, "the prompt is empty"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"min_new_tokens": 1.5}, "min_new_tokens is 1.5"),
        ({"penalty_window": -1}, "penalty_window is -1"),
        ({"logprobs": True}, "logprobs is True"),
        ({"samples": 1025}, "at most 1,024 are drawn together"),
        ({"stop": ("a", "")}, "stop string is empty"),
    ],
)
def test_what_cannot_be_generated_is_refused_where_the_request_is_made(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        GenerationRequest(**({"prompt_ids": (1,)} | values))
