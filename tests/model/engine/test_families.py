"""The compiled engine runs every family: as transformers, and with the same bits in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_families_against_transformers import CASES, GQA, SIZES
from transformers import AutoConfig, AutoModelForCausalLM

from laplm.model.engine import kernel_args
from laplm.model.engine import model as model_module
from laplm.model.engine.model import GPT
from laplm.model.engine.quantize import Precision
from laplm.model.files.checkpoint import Checkpoint, open_checkpoint
from laplm.model.reference import DenseWeights, forward
from laplm.native import isa as isas
from laplm.run.language_model import LanguageModel

Array = np.ndarray
IDS = np.random.default_rng(1).integers(0, 97, 64)


@pytest.fixture(autouse=True)
def _share_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models are run by one thread otherwise, and threads are what is to be tested."""
    monkeypatch.setattr(model_module, "MIN_PARALLEL_BYTES", 0)


@pytest.fixture(scope="module", params=CASES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Array]:
    """A small model with random weights, and transformers' logits of ``IDS``."""
    return make(request.param, CASES[request.param], tmp_path_factory.mktemp("model"))


def make(
    name: str, values: dict[str, Any], directory: Path, ids: Array = IDS
) -> tuple[Checkpoint, Array]:
    torch.manual_seed(0)
    family = name.partition("-")[0]
    config = AutoConfig.for_model(family, **values, attn_implementation="eager")
    theirs = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # gains beside 1, scores that are not flat
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.1))
        logits = theirs(torch.tensor(ids[None])).logits[0].numpy()
    theirs.save_pretrained(directory)
    return open_checkpoint(directory), logits


def test_fp32_logits_are_those_of_transformers_in_every_way_of_running(
    made: tuple[Checkpoint, Array],
) -> None:
    checkpoint, want = made
    gpt = GPT(checkpoint, "fp32", threads=2)
    got = gpt.forward(IDS)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * max(1, np.abs(want).max() / 10))
    same_bits_in_every_batch(gpt, got)


MANY = np.random.default_rng(2).integers(
    0, 97, 1200
)  # attention's chunks are of 512 positions: three
SMALL = SIZES | {
    "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 2, "head_dim": 16,
    "max_position_embeddings": 1300,
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[("llama", 3, None), ("llama", 1, None), ("llama", 2, None), ("mistral", 3, 300)],
    ids=["3-key-heads", "1-key-head", "2-key-heads", "window"],
)
def long(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Array]:
    """A small model, and transformers' logits of ``MANY``."""
    name, kv_heads, window = request.param
    values = SMALL | {"num_key_value_heads": kv_heads}
    values |= {"sliding_window": window} if window else {}
    return make(name, values, tmp_path_factory.mktemp("model"), MANY)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_attention_over_many_chunks_is_that_of_transformers_with_the_same_bits_in_any_batch(
    long: tuple[Checkpoint, Array], precision: Precision
) -> None:
    checkpoint, theirs = long
    want = GPT(checkpoint, precision, threads=2).forward(MANY)
    if precision == "fp32":
        atol = 1e-4 * max(1, np.abs(theirs).max() / 10)
        np.testing.assert_allclose(want, theirs, rtol=0, atol=atol)
    for threads in (1, 2, 4):
        gpt = GPT(checkpoint, precision, threads=threads)
        gpt._choices = [_Always(threads)] * len(gpt._choices)
        cache, lengths, others = gpt.new_cache(), [40, 511, 512, 700, 1024, 1196], []
        got = [gpt.forward(MANY[:300], cache), gpt.forward(MANY[300:509], cache)]
        # Single tokens over the end of a chunk, then in the third one.
        got += [gpt.decode([token], [cache]) for token in MANY[509:516]]
        got.append(gpt.forward(MANY[516:1195], cache))
        got += [gpt.decode([token], [cache]) for token in MANY[1195:]]
        uneven = checkpoint.config.n_kv_head % threads > 0
        assert gpt._args[kernel_args.SPLIT_CHUNKS] == (3 if uneven else 0)
        np.testing.assert_array_equal(np.concatenate(got), want)
        for length in lengths:
            others.append(gpt.new_cache())
            gpt.forward(MANY[:length], others[-1], last_only=True)
        together = gpt.decode(MANY[lengths], others)
        np.testing.assert_array_equal(together, want[lengths])


class _Always:
    """A choice of threads that is always the same."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def record(self, seconds: float, now: float) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("llama", "int4"), ("llama-untied-biases", "int8"), ("qwen3-biases", "int8"),
        ("gemma3_text", "int4"), ("gpt_neox", "int8"), ("phi3", "int8"),
    ],
)  # fmt: skip
def test_quantised_logits_are_those_of_the_tapped_path(
    name: str, precision: Precision, tmp_path: Path
) -> None:
    checkpoint, want = make(name, CASES[name], tmp_path)
    gpt = GPT(checkpoint, precision, threads=2)
    got, tapped = gpt.forward(IDS), gpt.forward(IDS, tap=lambda *_: None)
    # Where an input lies between two bytes either is right, and what follows differs by a step.
    assert np.abs(got - tapped).mean() < 0.03 * want.std()
    same_bits_in_every_batch(gpt, got)


def same_bits_in_every_batch(gpt: GPT, want: Array) -> None:
    """Token by token, in parts, beside others of other lengths, forked, and by one thread."""
    cache = gpt.new_cache()
    parts = [gpt.forward(IDS[:5], cache), gpt.forward(IDS[5:12], cache)]
    parts += [gpt.decode([token], [cache]) for token in IDS[12:48]]
    np.testing.assert_array_equal(np.concatenate(parts), want[:48])
    caches = [gpt.new_cache() for _ in range(3)]
    for i, each in enumerate(caches):
        gpt.forward(IDS[: 30 + i], each)
    caches += caches[0].fork(1)
    together = gpt.decode(IDS[[30, 31, 32, 30]], caches)
    np.testing.assert_array_equal(together, want[[30, 31, 32, 30]])
    wanted = gpt.forward_batch([(IDS[48:], cache, 2), ([int(IDS[31])], caches[0], 1)])
    np.testing.assert_array_equal(wanted, want[[62, 63, 31]])
    gpt.threads, threads = 1, gpt.threads
    np.testing.assert_array_equal(gpt.forward(IDS), want)
    gpt.threads = threads


def test_every_instruction_set_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, _ = make("gemma3_text", CASES["gemma3_text"], tmp_path)
    found = []
    for isa in isas.available():
        monkeypatch.setenv("LAPLM_ISA", isa.name)
        found.append(GPT(checkpoint, "int8", threads=2).forward(IDS))
    assert len(found) > 1
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_two_bytes_are_computed_with_as_they_are(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **GQA)
    theirs = AutoModelForCausalLM.from_config(config).to(dtype)
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        want = theirs.float()(torch.tensor(IDS[None])).logits[0].numpy()
    gpt = GPT(open_checkpoint(tmp_path), "stored", threads=2)
    assert {"torch.float16": "fp16", "torch.bfloat16": "bf16"}[str(dtype)] == gpt.main_format.name
    got = gpt.forward(IDS)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
    same_bits_in_every_batch(gpt, got)


def test_smollm2_in_its_own_four_bits_is_as_good_as_in_fp32_within_three_per_cent(
    smollm2: Path,
) -> None:
    """Against the same weights in fp32, which test_gguf_checkpoint binds to transformers."""
    lm = LanguageModel(smollm2)
    assert (lm.precision, lm.gpt.main_format.name) == ("stored", "q4_1")
    text = (Path(__file__).parents[3] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    ids = np.array(lm.tokenizer.encode(text)[:256])
    tensors = {name: lm.checkpoint.tensor(name) for name in lm.checkpoint.names}
    exact = forward(ids, DenseWeights(tensors, lm.config), lm.config)
    in_int4 = GPT(lm.checkpoint, "int4")
    losses = []
    for logits in (exact, lm.gpt.forward(ids), in_int4.forward(ids)):
        rows = np.array([lm.gpt.logsumexp(row) for row in logits[:-1]])
        losses.append(float(np.mean(rows - logits[np.arange(255), ids[1:]])))
    assert np.abs(np.diff(losses)).max() < 0.03  # of so few tokens; 0.002 of 3,000
    same = lm.gpt.forward(lm.tokenizer.encode("The capital of Spain is"), last_only=True)
    assert lm.tokenizer.decode([int(same[0].argmax())]) == " Madrid"


PROMPTS = (
    "The capital of Spain is", "Once upon a time", "Water boils at", "def fibonacci(n):",
    "The three primary colours are", "In 1969", "Dear Sir or Madam,", "My favourite food is",
    "To be or not to be", "The quick brown fox", "A triangle has", "Photosynthesis is",
    "Q: What is 7 times 8?\nA:", "Paris, London and", "The best way to learn", "Roses are red,",
    "SELECT name FROM", "Es war einmal", "1, 2, 3, 4,",
    "<|im_start|>user\nWho are you?<|im_end|>\n",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_smollm2_writes_greedily_what_transformers_writes(
    smollm2: Path, smollm2_in_transformers: Any
) -> None:
    lm, theirs = LanguageModel(smollm2, "fp32"), smollm2_in_transformers
    for prompt in PROMPTS:
        ids = lm.tokenizer.encode(prompt)
        with torch.no_grad():
            want = theirs.generate(
                torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=None,
                pad_token_id=0,
            )[0].tolist()  # fmt: skip
        stream = lm.stream(prompt, 24, temperature=0, ignore_eos=True)
        assert [*ids, *(step.token_id for step in stream)] == want, prompt
