"""The sampler against transformers' own processors, and its draws against its distribution."""

from __future__ import annotations

import dataclasses
import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from laplm.errors import InputError, LaplmError, ModelFormatError
from laplm.run.generate import SampleState
from laplm.run.request import GenerationRequest
from laplm.run.sampler import (
    LogitAdjustments,
    SamplingParams,
    filtered_logits,
    logsumexp,
    probabilities,
    sample,
    sample_rng,
    top_logprobs,
)

OFF = SamplingParams(temperature=1.0, top_k=0)


def transformers_filtered(logits, params: SamplingParams, previous_ids) -> np.ndarray:
    """The order in which ``GenerationMixin`` builds its list, values at rest left out as there."""
    processors = LogitsProcessorList()
    if params.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        processors.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0.0:
        processors.append(MinPLogitsWarper(params.min_p))
    ids = torch.tensor([list(previous_ids)], dtype=torch.long)
    return processors(ids, torch.tensor(np.array(logits)[None], dtype=torch.float32))[0].numpy()


def on_a_border(logits, params: SamplingParams, previous_ids) -> bool:
    """Whether rounding may decide about a token, in which case no two libraries need agree."""
    without = dataclasses.replace(params, top_p=1.0, min_p=0.0)
    x = np.sort(transformers_filtered(logits, without, previous_ids).astype(np.float64))
    p = np.exp(x - x.max())
    cumulative = np.cumsum(p / p.sum())
    close = bool(np.any(np.abs(cumulative - (1 - params.top_p)) < 2e-5)) and params.top_p < 1.0
    ratio = np.abs(p - params.min_p)
    return close or (0 < params.min_p < 1 and bool(np.any(ratio < 1e-5 * params.min_p)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max())
    return e / e.sum()


def assert_agrees(logits, params: SamplingParams, previous_ids=()) -> None:
    theirs = transformers_filtered(logits, params, previous_ids)
    ours = filtered_logits(logits, params, previous_ids)
    # torch's sort does not say which of two equal tokens comes first, so at a border that falls
    # between equal tokens only the values can be compared.
    np.testing.assert_array_equal(np.sort(ours), np.sort(theirs))
    border = ours[np.isfinite(ours)].min()
    inside = (ours > border) | (theirs > border)
    np.testing.assert_array_equal(ours[inside], theirs[inside])
    np.testing.assert_allclose(
        np.sort(probabilities(logits, params, previous_ids)), np.sort(softmax(theirs)), atol=1e-6
    )


coarse = st.integers(-12, 12).map(lambda n: n / 2)  # many ties
fine = st.floats(-20, 20, width=32)
small_logits = st.one_of(
    st.lists(coarse, min_size=2, max_size=40), st.lists(fine, min_size=2, max_size=40)
)
all_params = st.builds(
    SamplingParams,
    temperature=st.one_of(st.just(1.0), st.floats(0.05, 5.0)),
    top_k=st.one_of(st.just(0), st.integers(1, 50)),
    top_p=st.one_of(st.just(1.0), st.floats(0.0, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.2, 5.0)),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(small_logits, all_params, st.lists(st.integers(0, 1000), max_size=10))
@example([0.0, 0.0, 0.0, 0.0], SamplingParams(1.0, 2, 1.0), [])
@example([1.0, 1.0, 1.0, 0.0], SamplingParams(1.0, 0, 0.5), [])
@example([3.0, 1.0, 1.0, 0.0], SamplingParams(1.0, 0, 0.0), [])
@example([3.0, 3.0, 1.0, 0.0], SamplingParams(1.0, 0, 1.0, 1.0), [])
def test_filtered_logits_are_those_of_transformers(logits, params, previous) -> None:
    previous_ids = [i % len(logits) for i in previous]
    assume(not on_a_border(logits, params, previous_ids))
    assert_agrees(logits, params, previous_ids)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([4097, 5000, 50257]), st.floats(0.3, 6.0),
    st.booleans(), all_params, st.sampled_from([0, 1, 40, 300, 2000, 60000]),
)  # fmt: skip
def test_a_whole_vocabulary_is_filtered_like_transformers(
    seed, size, spread, ties, params, k
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(size) * spread - 30).astype(np.float32)
    if ties:
        logits = np.round(logits * 4) / 4
    logits[rng.integers(0, size, 5)] = -np.inf
    previous_ids = rng.integers(0, size, 200).tolist()
    params = dataclasses.replace(params, top_k=k)
    # Over 50,257 tokens float32 sums differ by about 1e-6, and a step of the running sum may be
    # that small, so top-p is compared by what it promises in the test below.
    params = dataclasses.replace(params, top_p=1.0)
    assume(not on_a_border(logits, params, previous_ids))
    assert_agrees(logits, params, previous_ids)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.3, 6.0), st.booleans(), st.floats(0.01, 0.999))
def test_top_p_of_a_whole_vocabulary_keeps_the_fewest_that_reach_p(seed, spread, ties, p) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(50257) * spread).astype(np.float32)
    if ties:
        logits = np.round(logits * 4) / 4
    params = SamplingParams(temperature=1.0, top_k=0, top_p=p)
    kept = np.isfinite(filtered_logits(logits, params))
    truth = softmax(logits)
    assert logits[kept].min() >= logits[~kept].max()
    assert truth[kept].sum() >= p - 1e-5
    assert truth[kept].sum() - truth[kept].min() < p + 1e-5
    theirs = np.isfinite(transformers_filtered(logits, params, ()))
    # Theirs is a running sum in float32, which over this many tokens is off by some hundred-
    # thousandths (the bounds above hold ours to less); and one token more or less, when rounding
    # decides at the border.
    assert abs(truth[kept].sum() - truth[theirs].sum()) < truth[kept].min() * 1.01 + 1e-4


def test_of_equal_tokens_at_the_top_p_border_the_higher_ids_stay() -> None:
    kept = filtered_logits([5.0, 1.0, 1.0, 1.0, 1.0], SamplingParams(1.0, 0, 0.96))
    assert np.isfinite(kept).tolist() == [True, False, False, True, True]


@pytest.mark.parametrize("size", [4, 8192])
def test_a_share_reached_exactly_is_enough(size: int) -> None:
    # Powers of two, so that sums and shares are exact in every precision.
    params = SamplingParams(temperature=1.0, top_k=0, top_p=0.25)
    kept = np.isfinite(filtered_logits(np.zeros(size), params)).sum()
    theirs = np.isfinite(transformers_filtered(np.zeros(size), params, ())).sum()
    assert kept == theirs == size // 4


@pytest.mark.parametrize("k", [1, 64, 65, 300, 785])
def test_the_k_likeliest_of_a_whole_vocabulary_stay(k: int) -> None:
    logits = np.random.default_rng(k).permutation(50257).astype(np.float32)
    kept = np.isfinite(filtered_logits(logits, SamplingParams(temperature=0.5, top_k=k)))
    assert set(np.flatnonzero(kept)) == set(np.argsort(logits)[-k:])


def test_all_that_tie_with_the_kth_token_stay() -> None:
    kept = filtered_logits([2.0, 1.0, 1.0, 0.0], SamplingParams(1.0, 2))
    assert np.isfinite(kept).tolist() == [True, True, True, False]


@pytest.mark.parametrize("size", [30, 6000])
@pytest.mark.parametrize(
    "params",
    [
        OFF,
        SamplingParams(temperature=0.7, top_k=7),
        SamplingParams(temperature=1.3, top_k=0, top_p=0.8),
        SamplingParams(top_k=12, min_p=0.05, repetition_penalty=1.4),
    ],
    ids=str,
)
def test_drawn_tokens_follow_the_distribution(size: int, params: SamplingParams) -> None:
    from scipy import stats  # a second of each process that collects this file

    logits = np.random.default_rng(3).standard_normal(size).astype(np.float32) * 0.7
    logits[:20] += 6  # else every bin of the large vocabulary would be nearly empty
    previous_ids = [1, 2, 3]
    expected = probabilities(logits, params, previous_ids)
    rng = sample_rng(11)
    draws = 20_000 if size < 100 else 6_000
    drawn = np.bincount(
        [sample(logits, params, rng, previous_ids) for _ in range(draws)], minlength=size
    )
    assert drawn[expected == 0].sum() == 0
    # Tokens expected fewer than 10 times are counted together, as the test's theory asks.
    common = expected * draws >= 10
    observed = [*drawn[common], drawn[~common].sum()]
    share = [*expected[common], expected[~common].sum()]
    if share[-1] == 0:
        observed, share = observed[:-1], share[:-1]
    assert stats.chisquare(observed, np.array(share) / sum(share) * draws).pvalue > 1e-4


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([3, 64, 65, 4096, 4097, 9999]),
    st.floats(0, 1, exclude_max=True), all_params,
)  # fmt: skip
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(seed, size, u, params) -> None:
    class Fixed:
        def random(self) -> float:
            return u

    logits = (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)
    token = sample(logits, params, Fixed())
    p = probabilities(logits, params)
    before = p[:token].sum()
    assert p[token] > 0
    assert before - 1e-5 <= u <= before + p[token] + 1e-5


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(u: float) -> None:
    class Fixed:
        def random(self) -> float:
            return u

    for size in (100, 10000):
        logits = np.full(size, -np.inf, np.float32)
        logits[[size // 3, size // 2]] = 1.0
        assert sample(logits, OFF, Fixed()) == (size // 3 if u == 0 else size // 2)


def test_one_uniform_number_is_drawn_per_token() -> None:
    class Counting(random.Random):
        calls = 0

        def random(self) -> float:
            self.calls += 1
            return super().random()

    rng = Counting(1)
    logits = np.arange(100, dtype=np.float32)
    for params in (OFF, SamplingParams(top_k=3), SamplingParams(top_p=0.2, min_p=0.3)):
        sample(logits, params, rng)
    assert rng.calls == 3


@settings(max_examples=100, deadline=None)
@given(small_logits, st.lists(st.integers(0, 1000), max_size=5), st.floats(0.5, 3.0))
def test_a_temperature_of_nearly_zero_is_greedy(logits, previous, penalty) -> None:
    previous_ids = [i % len(logits) for i in previous]
    penalised = transformers_filtered(
        logits, SamplingParams(1.0, 0, repetition_penalty=penalty), previous_ids
    )
    for temperature in (0, 0.00001):
        params = SamplingParams(temperature, repetition_penalty=penalty)
        token = sample(logits, params, random.Random(0), previous_ids)
        assert token == int(penalised.argmax())
        assert probabilities(logits, params, previous_ids)[token] == 1.0


def test_numpy_generators_are_accepted_as_the_source_of_chance() -> None:
    logits = np.zeros(50, np.float32)
    drawn = {sample(logits, OFF, np.random.default_rng(i)) for i in range(20)}
    assert len(drawn) > 5


def test_samples_of_one_seed_differ_and_repeat() -> None:
    draws = [[sample_rng(5, i).random() for _ in range(2)] for i in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]
    assert sample_rng(5, 11).random() != sample_rng(51, 1).random()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([10, 5000]), st.integers(0, 12))
def test_top_logprobs_are_the_largest_of_log_softmax(seed, size, k) -> None:
    logits = (np.random.default_rng(seed).standard_normal(size) * 4).astype(np.float32)
    expected = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), 0).numpy()
    got = top_logprobs(logits, k)
    order = np.argsort(-expected, kind="stable")[:k]
    assert [i for i, _ in got] == order.tolist()
    np.testing.assert_allclose([v for _, v in got], expected[order], atol=1e-5)


def test_top_logprobs_of_equal_tokens_are_in_order_of_id() -> None:
    assert [i for i, _ in top_logprobs(np.zeros(6, np.float32), 3)] == [0, 1, 2]


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_refused(bad, temperature) -> None:
    with pytest.raises(ModelFormatError, match="not numbers"):
        sample(bad, SamplingParams(temperature), random.Random(0))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [math.nan, -0.1, math.inf, True, "1", None]),
        ("top_k", [-1, 1.5, True, math.nan, None]),
        ("top_p", [math.nan, -0.1, 1.1, False, None]),
        ("min_p", [math.nan, -0.1, 1.1, True]),
        ("repetition_penalty", [math.nan, 0, -1.0, 1e-300, 0.0099, 100.1, math.inf, True]),
        ("seed", [-1, 1.5, True, "42"]),
    ],
)
def test_a_value_out_of_range_is_refused_with_name_value_and_range(name, values) -> None:
    for value in values:
        with pytest.raises(InputError) as caught:
            SamplingParams(**{name: value})
        assert str(caught.value).startswith(f"{name} is {value!r}, but it must be a ")
        assert isinstance(caught.value, LaplmError)


def test_params_are_frozen_and_hold_plain_numbers() -> None:
    params = SamplingParams(
        temperature=np.float32(0.5), top_k=np.int64(3), top_p=1, seed=np.int32(2)
    )
    assert [type(v) for v in dataclasses.astuple(params)] == [float, int, float, float, float, int]
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.top_k = 1


def test_ids_beyond_the_logits_are_not_penalised() -> None:
    logits = np.array([1.0, -1.0, 2.0], np.float32)
    params = SamplingParams(temperature=1, top_k=0, repetition_penalty=2)
    want = filtered_logits(logits, params, [0, 1])
    assert want.tolist() == [0.5, -2.0, 2.0]
    assert filtered_logits(logits, params, [0, 3, 1, 700]).tolist() == want.tolist()


@pytest.mark.parametrize("token", [-1, 3])
def test_a_bias_for_no_token_is_refused(token: int) -> None:
    with pytest.raises(InputError, match="0 to 2"):
        LogitAdjustments({token: 1.0}).apply(np.zeros(3, np.float32), [])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "settings",
    [{"temperature": 2e-4}, {"repetition_penalty": 0.01}, {"temperature": 0.0,
     "repetition_penalty": 0.01}],
)  # fmt: skip
def test_logits_too_large_for_their_settings_are_told_of(settings: dict[str, float]) -> None:
    logits = np.array([1e37, -3, 2], np.float32)
    with pytest.raises(ModelFormatError, match="not numbers"):
        sample(logits, SamplingParams(**{"top_k": 0, **settings}), sample_rng(1), [0])


@pytest.mark.filterwarnings("error")
def test_any_finite_temperature_can_be_used() -> None:
    logits = np.array([0, 50, 2], np.float32)
    found = probabilities(logits, SamplingParams(temperature=1e300, top_k=0))
    assert found == pytest.approx([1 / 3] * 3)


@given(
    st.lists(st.integers(0, 5), max_size=12), st.floats(-2, 2, width=32),
    st.floats(-2, 2, width=32),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_penalties_are_those_of_the_api(drawn: list[int], presence: float, often: float) -> None:
    # mu[j] -> mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence, c[j] being how
    # often token j was sampled: https://platform.openai.com/docs/guides/text-generation
    logits = np.linspace(-1, 1, 6, dtype=np.float32)
    found = LogitAdjustments({2: 1.5}, presence, often).apply(logits, drawn)
    want = [
        x + 1.5 * (j == 2) - drawn.count(j) * often - float(drawn.count(j) > 0) * presence
        for j, x in enumerate(logits)
    ]
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "logit_adjustments", [LogitAdjustments({}, 0.0, 2.0), LogitAdjustments({}, 2.0, 0.0)]
)
def test_penalties_leave_tokens_of_the_prompt_alone(logit_adjustments: LogitAdjustments) -> None:
    gpt: Any = SimpleNamespace(logsumexp=logsumexp)
    cache: Any = None
    request = GenerationRequest(
        prompt_ids=(3, 3, 3, 1), params=SamplingParams(temperature=0), max_new_tokens=4,
        logit_adjustments=logit_adjustments,
    )  # fmt: skip
    state = SampleState(0, request, cache, n_vocab=4)
    logits = np.array([0, 0.5, 1, 2.5], np.float32)
    # 3 is likeliest though the prompt has it three times; drawn once, it is 2 less likely.
    assert [state.sample_token(gpt, logits).token_id for _ in range(2)] == [3, 2]
