"""The token loop against transformers, its limits, and how texts end."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model
from transformers import AutoTokenizer, GPT2LMHeadModel

import laplm
from laplm.errors import ContextLengthError, InputError
from laplm.model.config import ModelConfig
from laplm.model.tokenizer import Tokenizer
from laplm.run import generate
from laplm.run.generate import GenerationStream, generate_tokens
from laplm.run.language_model import LanguageModel
from laplm.run.request import GenerationRequest, encode_prompt, make_request
from laplm.run.results import Timings
from laplm.run.sampler import SamplingParams, sample, sample_rng
from tests.run.scripted_model import ScriptedGPT, say

GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def lm(tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, "fp32", threads=1)


@pytest.fixture(scope="module")
def oracle(tiny_model_dir: Path) -> GPT2LMHeadModel:
    torch.set_num_threads(1)  # more only wait for each other on so small a model
    return GPT2LMHeadModel.from_pretrained(tiny_model_dir).eval()


def transformers_tokens(oracle, prompt_ids, params, count, index=0, slide=False) -> list[int]:
    """The plainest loop: the whole context through transformers for every token."""
    rng = sample_rng(params.seed or 0, index)
    n_ctx = oracle.config.n_positions
    ids, context = list(prompt_ids), list(prompt_ids)
    for _ in range(count):
        while slide and len(context) > n_ctx:
            context = context[n_ctx // 2 :]
        with torch.no_grad():
            logits = oracle(torch.tensor([context])).logits[0, -1].numpy()
        token = sample(logits, params, rng, ids)
        ids.append(token)
        context.append(token)
    return ids[len(prompt_ids) :]


# --- the tokens ---------------------------------------------------------------------------------


def test_greedy_text_is_that_of_transformers(lm, oracle) -> None:
    prompt = lm.tokenizer.encode("The capital of Spain is")
    theirs = oracle.generate(
        torch.tensor([prompt]), max_new_tokens=60, do_sample=False, pad_token_id=0,
        eos_token_id=None,
    )[0, len(prompt) :]  # fmt: skip
    ours = lm.generate("The capital of Spain is", 60, temperature=0, ignore_eos=True)
    assert list(ours.token_ids) == theirs.tolist()
    assert ours.text == lm.tokenizer.decode(theirs.tolist())
    assert ours.prompt_token_ids == tuple(prompt)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1),
        SamplingParams(temperature=1.0, top_k=0, seed=2),
        SamplingParams(top_p=0.9, min_p=0.01, repetition_penalty=1.3, seed=3),
    ],
    ids=str,
)
def test_drawn_text_is_that_of_the_plain_loop_over_transformers(lm, oracle, params) -> None:
    prompt = lm.tokenizer.encode("Once upon a time")
    expected = [transformers_tokens(oracle, prompt, params, 25, i) for i in range(3)]
    got = lm.samples(
        prompt, 3, 25, ignore_eos=True,
        **{f.name: getattr(params, f.name) for f in dataclasses.fields(params)},
    )  # fmt: skip
    assert [list(r.token_ids) for r in got] == expected


def test_logprobs_are_those_of_the_unfiltered_distribution(lm, oracle) -> None:
    result = lm.generate("The", 12, temperature=0.5, top_k=5, seed=4, logprobs=3)
    ids = [*result.prompt_token_ids, *result.token_ids]
    with torch.no_grad():
        logits = oracle(torch.tensor([ids])).logits[0].double()
    expected = torch.log_softmax(logits, -1)[len(result.prompt_token_ids) - 1 : -1]
    chosen = expected[range(12), list(result.token_ids)]
    np.testing.assert_allclose(result.logprobs, chosen.numpy(), atol=2e-5)
    best = expected.topk(3, dim=-1)
    for step, values, indices in zip(result.top_logprobs, *best, strict=True):
        assert [t.token_id for t in step] == indices.tolist()
        np.testing.assert_allclose([t.logprob for t in step], values.numpy(), atol=2e-5)
        assert [t.text for t in step] == [lm.tokenizer.token_text(t.token_id) for t in step]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_seed_gives_the_same_text_however_many_samples(
    tiny_model_dir: Path, precision: str
) -> None:
    lm = LanguageModel(tiny_model_dir, precision, threads=1)
    one = lm.generate("The", 20, seed=42)
    assert lm.generate("The", 20, seed=42).text == one.text
    four = lm.samples("The", 4, 20, seed=42)
    seven = lm.samples("The", 7, 20, seed=42)
    assert four[0].token_ids == one.token_ids
    assert [r.token_ids for r in seven[:4]] == [r.token_ids for r in four]
    assert len({r.token_ids for r in seven}) == 7
    assert [r.sample for r in seven] == list(range(7))


def test_streaming_gives_the_text_of_the_whole(lm) -> None:
    stream = lm.stream("The", 20, seed=42, samples=2)
    texts = ["", ""]
    for step in stream:
        texts[step.sample] += step.text
    whole = lm.samples("The", 2, 20, seed=42)
    assert texts == [r.text for r in whole]
    assert [r.token_ids for r in stream.results()] == [r.token_ids for r in whole]


def test_the_number_of_threads_does_not_change_the_text(tiny_model_dir: Path) -> None:
    texts = [
        laplm.load(tiny_model_dir, "int8", threads=n).generate("The", 30, seed=3).token_ids
        for n in (1, 2)
    ]
    assert texts[0] == texts[1]


def test_without_a_seed_one_is_drawn_and_told(lm) -> None:
    first = lm.generate("The", 15)
    assert lm.generate("The", 15, seed=first.seed).text == first.text
    assert lm.generate("The", 15).seed != first.seed


def test_text_ids_and_bytes_are_the_same_prompt(lm) -> None:
    text = "naïve café"
    results = [lm.generate(p, 8, seed=1) for p in (text, text.encode(), lm.tokenizer.encode(text))]
    assert len({r.token_ids for r in results}) == 1
    assert lm.generate(b"\xff\xfe\x00", 3, seed=1).usage.prompt_tokens == 3


def test_an_empty_prompt_begins_a_text_as_in_transformers(lm, oracle) -> None:
    result = lm.generate("", 10, temperature=0, ignore_eos=True)
    bos = oracle.config.bos_token_id
    assert result.prompt_token_ids == (bos,)
    assert list(result.token_ids) == transformers_tokens(oracle, [bos], GREEDY, 10)


def test_a_prompt_gets_the_bos_that_the_tokenizer_puts(bos_model_dir: Path) -> None:
    lm, theirs = LanguageModel(bos_model_dir, "fp32"), AutoTokenizer.from_pretrained(bos_model_dir)
    for prompt in ("The capital", ""):
        assert encode_prompt(prompt, lm.tokenizer, lm.config) == theirs(prompt)["input_ids"]
    ids = [5, 6]
    assert encode_prompt(ids, lm.tokenizer, lm.config) == ids
    assert encode_prompt([], lm.tokenizer, lm.config) == [7]


def test_every_end_token_ends_a_text(bos_model_dir: Path) -> None:
    lm = LanguageModel(bos_model_dir, "fp32")
    question = lm.tokenizer.encode("?")
    assert len(question) == 1
    for end in (lm.tokenizer.vocab_size - 1, 5, 6, *question):
        scripted = ScriptedGPT([*lm.tokenizer.encode("one"), end, 8], lm.config.vocab_size)
        scripted.config = lm.config
        request = make_request("x", lm.tokenizer, lm.config, temperature=0)
        stream = GenerationStream(scripted, lm.tokenizer, request)
        assert "".join(step.text for step in stream) == "one"
        assert stream.results()[0].finish_reason == "eos"


# --- the cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_prompt_that_begins_like_the_last_one_is_not_computed_again(
    tiny_model_dir: Path, precision: str
) -> None:
    lm = LanguageModel(tiny_model_dir, precision, threads=1)
    first = lm.generate("Once upon a time", 10, seed=1)
    assert first.usage.cached_tokens == 0
    longer = [*first.prompt_token_ids, *first.token_ids]
    again = lm.generate(longer, 10, seed=2)
    assert again.usage.cached_tokens == len(longer) - 1
    same = lm.generate(longer, 10, seed=2)
    assert same.usage.cached_tokens == len(longer) - 1
    changed = [*longer[:5], 3, 4]
    samples = lm.samples(changed, 3, 10, seed=3)
    assert samples[0].usage.cached_tokens == 5
    assert lm.generate(changed, 2, seed=3).usage.cached_tokens == len(changed) - 1

    fresh = LanguageModel(tiny_model_dir, precision, threads=1)
    assert fresh.generate(longer, 10, seed=2).token_ids == again.token_ids == same.token_ids
    fresh = LanguageModel(tiny_model_dir, precision, threads=1)
    assert [r.token_ids for r in fresh.samples(changed, 3, 10, seed=3)] == [
        r.token_ids for r in samples
    ]


def test_streams_begun_together_do_not_share_a_cache(lm) -> None:
    expected = [lm.generate("The capital", 12, seed=1), lm.generate("The capital", 12, seed=2)]
    streams = [lm.stream("The capital", 12, seed=seed) for seed in (1, 2)]
    for _ in itertools.zip_longest(*streams):
        pass
    assert [s.results()[0].token_ids for s in streams] == [r.token_ids for r in expected]


def test_an_error_in_the_engine_costs_the_cache_but_not_the_model(
    tiny_model_dir, monkeypatch
) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32", threads=1)
    expected = lm.generate("The capital of Spain", 8, seed=1).token_ids
    decode, calls = type(lm.gpt).decode, []

    def failing(self, ids, kv_caches):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(self, ids, kv_caches)

    monkeypatch.setattr(type(lm.gpt), "decode", failing)
    stream = lm.stream("The capital of Spain", 8, seed=1)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert stream.results()[0].finish_reason == "interrupted"
    assert stream.results()[0].token_ids == expected[:3]
    again = lm.generate("The capital of Spain", 8, seed=1)
    assert again.usage.cached_tokens == 0
    assert again.token_ids == expected


# --- the context --------------------------------------------------------------------------------


def test_a_request_beyond_the_context_is_refused_with_the_numbers(lm) -> None:
    prompt = lm.tokenizer.encode("The capital of Spain is")
    with pytest.raises(ContextLengthError) as caught:
        lm.generate(prompt, 2000)
    for number in (f"{len(prompt)} tokens", "2,000", "holds 128", f"at most {128 - len(prompt)}"):
        assert number in str(caught.value)
    full = lm.generate(prompt, 128 - len(prompt), ignore_eos=True)
    assert len(full.token_ids) == 128 - len(prompt)
    with pytest.raises(ContextLengthError, match="has 128 tokens, but the model holds 128"):
        lm.generate([1] * 128, 1)


def test_without_a_number_the_request_fits_the_context(lm) -> None:
    assert len(lm.generate([1] * 10, ignore_eos=True).token_ids) == 100
    assert len(lm.generate([1] * 120, ignore_eos=True).token_ids) == 8


@pytest.mark.parametrize("prompt_length", [5, 127, 128, 129, 300])
def test_slide_goes_on_with_the_newer_half(lm, oracle, prompt_length: int) -> None:
    params = SamplingParams(seed=9, repetition_penalty=1.2)
    prompt = [(7 * i) % 400 for i in range(prompt_length)]
    count = 140
    expected = transformers_tokens(oracle, prompt, params, count, slide=True)
    got = lm.generate(prompt, count, seed=9, repetition_penalty=1.2, slide=True, ignore_eos=True)
    assert list(got.token_ids) == expected


def test_slide_does_the_same_for_samples_together(lm) -> None:
    options = {"seed": 5, "slide": True, "ignore_eos": True}
    one = lm.generate([1, 2, 3], 150, **options)
    three = lm.samples([1, 2, 3], 3, 150, **options)
    assert three[0].token_ids == one.token_ids
    assert len({r.token_ids for r in three}) == 3


def test_a_prompt_of_megabytes_is_refused_without_being_read_whole(lm, monkeypatch) -> None:
    read = []
    encode = Tokenizer.encode
    monkeypatch.setattr(
        Tokenizer, "encode", lambda self, text: read.append(len(text)) or encode(self, text)
    )
    for prompt in ("It was a day. " * 700_000, b"It was a day. " * 700_000):
        with pytest.raises(ContextLengthError, match=r"about [\d,]{9,10} tokens.*holds 128"):
            lm.generate(prompt, 1)
    assert max(read) < 1_000_000


# --- the text -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(lm) -> Tokenizer:
    return lm.tokenizer


def test_the_model_ends_its_text_unless_told_to_go_on(tokenizer) -> None:
    end = tokenizer.vocab_size - 1
    ids = [*tokenizer.encode("one"), end, *tokenizer.encode(" two")]
    stream = say(tokenizer, ids)
    steps = list(stream)
    assert steps[-1].finish_reason == "eos" and steps[-1].token_id == end
    assert "".join(s.text for s in steps) == "one"
    stream = say(tokenizer, ids, ignore_eos=True, max_new_tokens=len(ids))
    assert "".join(s.text for s in stream) == "one<|endoftext|> two"
    assert stream.results()[0].finish_reason == "length"


def test_a_text_may_end_at_its_first_token(tokenizer) -> None:
    stream = say(tokenizer, [tokenizer.vocab_size - 1])
    assert "".join(step.text for step in stream) == ""
    assert stream.results()[0].finish_reason == "eos"


def test_finished_samples_leave_the_batch(lm, monkeypatch) -> None:
    batches = []
    decode = type(lm.gpt).decode

    def watched(self, ids, kv_caches):
        batches.append(len(ids))
        return decode(self, ids, kv_caches)

    monkeypatch.setattr(type(lm.gpt), "decode", watched)
    lengths = {0: 2, 1: 5, 2: 1, 3: 4}
    drawn = dict.fromkeys(lengths, 0)

    def should_stop(sample: int, _token: int) -> bool:
        drawn[sample] += 1
        return drawn[sample] == lengths[sample]

    request = GenerationRequest(prompt_ids=(1, 2), params=SamplingParams(seed=1), samples=4)
    steps = list(generate_tokens(lm.gpt, request, should_stop=should_stop))
    assert batches == [3, 2, 2, 1]
    assert drawn == lengths
    assert [s.sample for s in steps if s.finish_reason == "stop"] == [2, 0, 3, 1]
    alone = list(generate_tokens(lm.gpt, dataclasses.replace(request, samples=1, max_new_tokens=2)))
    assert [s.token_id for s in alone] == [s.token_id for s in steps if s.sample == 0]


def test_ending_early_keeps_the_text_so_far(tokenizer) -> None:
    ids = [i for c in "one EN" for i in tokenizer.encode(c)]
    stream = say(tokenizer, ids, stop="END", max_new_tokens=50)
    shown = "".join(step.text for step in itertools.islice(stream, 6))
    assert shown == "one "
    (result,) = stream.results()
    assert (result.text, result.finish_reason) == ("one EN", "interrupted")
    assert len(result.token_ids) == 6
    assert list(stream) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0, but it must be a whole number from 1 up"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": True}, "samples is True"),
        ({"samples": 1025}, "at most 1,024 are drawn together"),
        ({"samples": 10**6}, "cache of its own"),
        ({"logprobs": -1}, "logprobs is -1, but it must be a whole number from 0 up"),
        ({"stop": ""}, "stop string is empty"),
        ({"stop": ["a", ""]}, "stop string is empty"),
        ({"temperature": -1}, "temperature is -1"),
        ({"prompt": [5, 99999]}, "token id 99999 is not in the model's vocabulary"),
        ({"prompt": [-1]}, "token id -1"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_used_is_refused_before_anything_runs(
    lm, options, message
) -> None:
    with pytest.raises(InputError, match=message):
        lm.stream(**({"prompt": "The"} | options))


def test_an_option_that_does_not_exist_is_refused(lm) -> None:
    with pytest.raises(TypeError, match="temprature"):
        lm.generate("The", temprature=1.0)


def test_an_empty_prompt_without_a_token_to_begin_with_is_refused(tokenizer) -> None:
    config = ModelConfig(vocab_size=300, n_ctx=16, n_embd=8, n_layer=1, n_head=1, eos_token_ids=())
    with pytest.raises(InputError, match="prompt is empty"):
        encode_prompt("", tokenizer, config)


def test_ids_beyond_the_tokenizer_are_never_drawn(tmp_path: Path) -> None:
    """Vocabularies are padded for speed (50257 to 50304); what is beyond has no text."""
    directory = make_model(tmp_path / "model", vocab_size=900, initializer_range=1.0)
    lm = LanguageModel(directory)
    assert lm.tokenizer.vocab_size < 900
    result = lm.generate("x", 100, temperature=5.0, top_k=0, seed=3, ignore_eos=True)
    assert max(result.token_ids) < lm.tokenizer.vocab_size
    assert len(result.token_ids) == 100


def test_samples_beyond_memory_are_refused_with_how_many_fit(
    lm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "_UNCHECKED_BYTES", 0)
    monkeypatch.setattr("laplm.machine.available_bytes", lambda: 1 << 30)
    assert len(lm.samples("Once upon", 3, 2, seed=1)) == 3
    monkeypatch.setattr("laplm.machine.available_bytes", lambda: 1 << 20)
    with pytest.raises(InputError, match=r"samples is 1,000, .* at most (\d+), or for") as refused:
        lm.samples("Once upon", 1000, 2, seed=1)
    most = int(re.findall(r"at most (\d+)", str(refused.value))[0])
    assert len(lm.samples("Once upon", most, 2, seed=1)) == most


def test_a_stream_has_no_times_before_its_first_token(lm) -> None:
    assert lm.stream("Once upon", 3).timings == Timings(0, 0.0, 0.0)
