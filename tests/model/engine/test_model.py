"""The engine against transformers, and against itself in every way of batching."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from laplm.errors import InputError, ModelFormatError
from laplm.model import reference
from laplm.model.config import ACTIVATIONS
from laplm.model.engine import kv_cache
from laplm.model.engine import model as model_module
from laplm.model.engine.model import GPT, MAX_BATCHED_TOKENS
from laplm.model.engine.quantize import Precision
from laplm.model.files.checkpoint import open_checkpoint
from laplm.native import isa as isas
from laplm.native import threads

PRECISIONS: list[Precision] = ["fp32", "int8", "int4"]


def oracle(directory: Path, ids: np.ndarray) -> np.ndarray:
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.from_numpy(ids)[None]).logits[0].numpy()


def some_ids(gpt: GPT, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, gpt.config.vocab_size, count)


@pytest.fixture(scope="module")
def engines(tiny_model_dir: Path) -> dict[Precision, GPT]:
    checkpoint = open_checkpoint(tiny_model_dir)
    return {p: GPT(checkpoint, p, threads=2) for p in PRECISIONS}


@pytest.fixture(autouse=True)
def _share_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models are run by one thread otherwise, and threads are what is to be tested."""
    monkeypatch.setattr(model_module, "MIN_PARALLEL_BYTES", 0)


# --- faithful ---


def test_fp32_logits_are_those_of_transformers(
    engines: dict[Precision, GPT], tiny_model_dir: Path
) -> None:
    ids = some_ids(engines["fp32"], 128)
    np.testing.assert_allclose(
        engines["fp32"].forward(ids), oracle(tiny_model_dir, ids), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"n_embd": 40, "n_head": 5, "n_inner": 72, "vocab_size": 301}, id="odd-sizes"),
        pytest.param({"n_embd": 48, "n_head": 2, "n_positions": 33}, id="head-of-24"),
        pytest.param({"scale_attn_by_inverse_layer_idx": True}, id="inverse-layer-scale"),
        pytest.param({"scale_attn_weights": False}, id="no-scale"),
        pytest.param({"tie_word_embeddings": False}, id="untied"),
        pytest.param({"layer_norm_epsilon": 1e-3}, id="epsilon"),
    ],
)
def test_every_shape_and_setting_agrees_with_transformers(
    tmp_path: Path, sizes: dict[str, object]
) -> None:
    directory = make_model(tmp_path / "model", **sizes)
    gpt = GPT(open_checkpoint(directory), "fp32", threads=2)
    ids = some_ids(gpt, min(70, gpt.config.n_ctx))
    want = oracle(directory, ids)
    np.testing.assert_allclose(gpt.forward(ids), want, rtol=0, atol=1e-4)
    int8 = GPT(open_checkpoint(directory), "int8", threads=2)
    assert np.abs(int8.forward(ids) - want).max() < 0.1 * want.std() + 0.05


@pytest.mark.parametrize(
    "setting", [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}]
)
def test_the_scale_of_attention_matters_and_is_that_of_transformers(
    tmp_path: Path, setting: dict[str, object]
) -> None:
    # At a fresh model's weights attention is flat whatever the scale; at ten times them it is not.
    sizes = {"initializer_range": 0.2, "n_layer": 4}
    plain = make_model(tmp_path / "plain", **sizes)
    scaled = make_model(tmp_path / "scaled", **sizes, **setting)
    gpt = GPT(open_checkpoint(scaled), "fp32", threads=2)
    ids = some_ids(gpt, 40)
    want, otherwise = oracle(scaled, ids), oracle(plain, ids)
    np.testing.assert_allclose(gpt.forward(ids), want, rtol=0, atol=1e-3 * want.std())
    tapped = gpt.forward(ids, tap=lambda name, layer, x: None)
    np.testing.assert_allclose(tapped, want, rtol=0, atol=1e-3 * want.std())
    assert np.abs(otherwise - want).max() > 0.1 * want.std()


def test_every_activation_is_that_of_transformers(tmp_path: Path) -> None:
    """With 72 neurons: the padding up to 96 must count for nothing, whatever the function of 0."""
    directory = make_model(tmp_path, n_inner=72, n_layer=2, initializer_range=0.3)
    config = directory / "config.json"
    ids = np.arange(40) * 7 % 300
    for name in ACTIVATIONS:
        values = json.loads(config.read_text()) | {"activation_function": name}
        config.write_text(json.dumps(values))
        checkpoint = open_checkpoint(directory)
        gpt, want = GPT(checkpoint, "fp32", threads=2), oracle(directory, ids)
        np.testing.assert_allclose(gpt.forward(ids), want, rtol=0, atol=3e-4, err_msg=name)
        int8 = GPT(checkpoint, "int8", threads=2)
        tapped = int8.forward(ids, tap=lambda *_: None)
        assert np.abs(int8.forward(ids) - tapped).max() < 0.1 * want.std(), name


SIZES = {
    "gpt2": {},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}


@pytest.mark.parametrize(
    "name", ["gpt2", *(pytest.param(n, marks=pytest.mark.slow) for n in list(SIZES)[1:])]
)
@pytest.mark.timeout(1800)
def test_the_four_sizes_agree_with_transformers_in_every_way_of_running(
    tmp_path: Path, name: str
) -> None:
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(**SIZES[name])).eval()
    model.save_pretrained(tmp_path)
    gpt = GPT(open_checkpoint(tmp_path), "fp32")
    ids = some_ids(gpt, 64)
    with torch.no_grad():
        want = model(torch.from_numpy(ids)[None]).logits[0].numpy()
    prefilled = gpt.forward(ids)
    np.testing.assert_allclose(prefilled, want, rtol=0, atol=1e-4)
    cache = gpt.new_cache()
    one_by_one = np.concatenate([gpt.decode([i], [cache]) for i in ids])
    np.testing.assert_array_equal(one_by_one, prefilled)
    cache.trim(60)
    batched = gpt.decode([ids[60]] * 3, cache.fork(3))
    np.testing.assert_array_equal(batched, np.repeat(prefilled[60:61], 3, axis=0))


def test_greedy_text_is_that_of_transformers_for_200_tokens(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model", n_positions=256, initializer_range=0.2)
    model = GPT2LMHeadModel.from_pretrained(directory).eval()
    prompt = [5, 17, 200, 3]
    want = model.generate(
        torch.tensor([prompt]), max_new_tokens=200, min_new_tokens=200, do_sample=False,
        pad_token_id=0, eos_token_id=None,
    )[0].tolist()  # fmt: skip
    gpt = GPT(open_checkpoint(directory), "fp32")
    cache = gpt.new_cache()
    logits = gpt.forward(prompt, cache, last_only=True)
    out = list(prompt)
    while len(out) < 204:
        out.append(int(logits[0].argmax()))
        logits = gpt.decode(out[-1:], [cache])
    assert out == want
    assert len(set(out)) > 20  # a run of one token would prove little


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_logits_are_those_of_the_rounded_weights(
    engines: dict[Precision, GPT], precision: Precision
) -> None:
    """The reference, given the weights that the kernels hold, must come to the same numbers."""
    gpt = engines[precision]
    ids = some_ids(gpt, 100)
    off = np.abs(gpt.forward(ids) - gpt.forward(ids, tap=lambda name, layer, x: None))
    # A number that lies between two bytes may be rounded either way by NumPy's order of adding.
    assert off.max() < 5e-3
    assert off.mean() < 2e-4


# --- one arithmetic, whatever the batching ---


@pytest.mark.parametrize("precision", PRECISIONS)
def test_token_by_token_gives_the_same_bits_as_at_once(
    engines: dict[Precision, GPT], precision: Precision
) -> None:
    gpt = engines[precision]
    ids = some_ids(gpt, 128)
    cache = gpt.new_cache()
    one_by_one = np.concatenate([gpt.decode([i], [cache]) for i in ids])
    np.testing.assert_array_equal(one_by_one, gpt.forward(ids))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cuts=st.lists(st.integers(1, 60), min_size=1, max_size=12), threads=st.integers(1, 5))
def test_blocks_and_threads_do_not_change_a_bit(
    engines: dict[Precision, GPT], tiny_model_dir: Path, cuts: list[int], threads: int
) -> None:
    gpt = engines["int8"]
    ids = some_ids(gpt, min(128, sum(cuts)), seed=len(cuts))
    whole = gpt.forward(ids)
    other = GPT(open_checkpoint(tiny_model_dir), "int8", threads=threads)
    cache, parts = other.new_cache(), []
    start = 0
    for cut in cuts:
        if start < len(ids):
            parts.append(other.forward(ids[start : start + cut], cache))
            start += cut
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_passes_that_other_numbers_of_threads_make_have_the_same_bits(
    engines: dict[Precision, GPT], tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some threads take part and others do not, sleeping or awake, as when cores are busy."""
    ids = some_ids(engines["int8"], 120)
    counts = itertools.cycle([4, 1, 3, 2, 4, 4, 2, 3, 1, 4, 2])
    monkeypatch.setattr(threads.ThreadChoice, "threads", property(lambda _: next(counts)))
    gpt = GPT(open_checkpoint(tiny_model_dir), "int8", threads=4)
    cache, rows = gpt.new_cache(), []
    for i, token in enumerate(ids):
        if i % 20 == 0:
            time.sleep(0.01)  # time to fall asleep
        rows.append(gpt.decode([token], [cache]))
    np.testing.assert_array_equal(np.concatenate(rows), engines["int8"].forward(ids))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_forks_decode_together_as_they_would_alone(
    engines: dict[Precision, GPT], precision: Precision, count: int
) -> None:
    gpt = engines[precision]
    prompt, ways = some_ids(gpt, 37), some_ids(gpt, 3 * count, seed=9).reshape(3, count)
    cache = gpt.new_cache()
    gpt.forward(prompt, cache)
    forks = cache.fork(count)
    together = [gpt.decode(step, forks) for step in ways]
    for i in range(count):
        alone = gpt.forward(np.concatenate([prompt, ways[:, i]]))[-3:]
        np.testing.assert_array_equal(np.stack([step[i] for step in together]), alone)
    # The parent goes its own way, and its past has not changed.
    np.testing.assert_array_equal(gpt.decode([ways[0, 0]], [cache])[0], together[0][0])


def test_caches_of_different_lengths_decode_together(engines: dict[Precision, GPT]) -> None:
    gpt = engines["int8"]
    lengths = [1, 31, 32, 33, 90]
    caches, want = [], []
    for n in lengths:
        cache = gpt.new_cache()
        gpt.forward(some_ids(gpt, n, seed=n), cache)
        caches.append(cache)
        want.append(gpt.forward(np.append(some_ids(gpt, n, seed=n), 7))[-1])
    np.testing.assert_array_equal(gpt.decode([7] * len(lengths), caches), np.stack(want))


def test_more_sequences_than_a_block_decode_together(engines: dict[Precision, GPT]) -> None:
    gpt = engines["int8"]
    cache = gpt.new_cache()
    gpt.forward([1, 2, 3], cache)
    forks = cache.fork(MAX_BATCHED_TOKENS + 5)
    tokens = np.arange(MAX_BATCHED_TOKENS + 5) % gpt.config.vocab_size
    logits = gpt.decode(tokens, forks)
    for i in (0, MAX_BATCHED_TOKENS - 1, MAX_BATCHED_TOKENS, MAX_BATCHED_TOKENS + 4):
        np.testing.assert_array_equal(logits[i], gpt.forward([1, 2, 3, tokens[i]])[-1])


@pytest.mark.parametrize("isa", isas.available()[1:], ids=lambda isa: isa.name)
def test_every_instruction_set_gives_the_same_bits(
    engines: dict[Precision, GPT], tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch,
    isa: isas.Isa,
) -> None:  # fmt: skip
    monkeypatch.setenv("LAPLM_ISA", isa.name)
    for precision in PRECISIONS:
        gpt = GPT(open_checkpoint(tiny_model_dir), precision, threads=2)
        assert gpt.isa.name == isa.name != engines[precision].isa.name
        ids = some_ids(gpt, 45)
        np.testing.assert_array_equal(gpt.forward(ids), engines[precision].forward(ids))


def test_last_only_is_the_last_row(
    engines: dict[Precision, GPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a prompt in one pass, and of one in several, the first of them without any logits."""
    gpt = engines["int4"]
    ids = some_ids(gpt, 128)
    last = gpt.forward(ids)[-1:]
    np.testing.assert_array_equal(gpt.forward(ids, last_only=True), last)
    monkeypatch.setattr(model_module, "MAX_BATCHED_TOKENS", 48)
    np.testing.assert_array_equal(gpt.forward(ids, last_only=True), last)


def test_logits_stay_as_they_were_given_when_more_tokens_follow(
    engines: dict[Precision, GPT],
) -> None:
    gpt = engines["fp32"]
    cache = gpt.new_cache()
    logits = gpt.forward(some_ids(gpt, 5), cache)
    before = logits.copy()
    gpt.decode([1], [cache])
    gpt.forward(some_ids(gpt, 5, seed=1))
    np.testing.assert_array_equal(logits, before)


def test_a_child_process_can_go_on_after_a_fork(engines: dict[Precision, GPT]) -> None:
    gpt = engines["int8"]
    want = gpt.forward([1, 2, 3])
    child = os.fork()
    if child == 0:  # threads do not survive a fork: the child must make its own
        os._exit(0 if np.array_equal(gpt.forward([1, 2, 3]), want) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_small_model_is_run_by_one_thread_with_the_same_bits(
    engines: dict[Precision, GPT], tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = some_ids(engines["int8"], 20)
    shared = engines["int8"].forward(ids)
    monkeypatch.setattr(model_module, "MIN_PARALLEL_BYTES", 10**12)
    monkeypatch.setattr(model_module, "MIN_PARALLEL_PRODUCTS", 10**12)
    before = engines["int8"]._pool.arrivals
    alone = engines["int8"].forward(ids)
    phases = engines["int8"]._pool.arrivals - before
    np.testing.assert_array_equal(alone, shared)
    assert phases < 10 * engines["int8"].config.n_layer + 4  # one arrival for each phase


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"n_embd": 40, "n_head": 5, "n_inner": 72},
        {"n_embd": 80, "n_head": 5, "n_positions": 1100, "n_layer": 1},
    ],
    ids=["usual", "odd-sizes", "many-chunks"],
)
def test_nothing_is_written_outside_the_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, sizes: dict[str, int]
) -> None:
    """Kernels check no bounds: every buffer gets a margin here that must stay as it was."""
    margin, buffers = 4096, []

    def guarded(count: int, dtype: object) -> np.ndarray:
        size = count * np.dtype(dtype).itemsize
        raw = np.full(size + 64 + 2 * margin, 0xAB, np.uint8)
        start = margin - (raw.ctypes.data + margin) % -64
        raw[start : start + size] = 0
        buffers.append((raw, start, start + size))
        return raw[start : start + size].view(dtype)

    for module in (model_module, kv_cache, threads):
        monkeypatch.setattr(module, "aligned", guarded)
    gpt = GPT(open_checkpoint(make_model(tmp_path / "model", **sizes)), precision, threads=3)
    rng = np.random.default_rng(0)
    caches = [gpt.new_cache()]
    for step in range(60):
        cache = caches[rng.integers(len(caches))]
        count = int(rng.integers(1, gpt.config.n_ctx * 2 // 5))
        if cache.length + count <= gpt.config.n_ctx:
            gpt.forward(some_ids(gpt, count, step), cache, last_only=bool(step % 2))
        roomy = [c for c in caches if c.length < gpt.config.n_ctx]
        gpt.decode(some_ids(gpt, len(roomy), step), roomy)
        if cache.length < gpt.config.n_ctx:  # alone: attention's chunks are shared out
            gpt.decode(some_ids(gpt, 1, step), [cache])
        cache.trim(int(rng.integers(0, cache.length + 1)))
        caches = (caches + cache.fork(2))[-7:]
    assert len(buffers) > 20
    for raw, start, end in buffers:
        assert (raw[:start] == 0xAB).all()
        assert (raw[end:] == 0xAB).all()


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 100), scale=st.floats(0.01, 80), seed=st.integers(0, 99))
def test_the_log_normaliser_is_that_of_log_softmax(
    engines: dict[Precision, GPT], size: int, scale: float, seed: int
) -> None:
    logits = (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)
    want = float(torch.logsumexp(torch.from_numpy(logits).double(), 0))
    assert engines["int8"].logsumexp(logits) == pytest.approx(want, rel=1e-6, abs=1e-5)


# --- looking in ---


def test_taps_see_every_stage_with_its_shape(engines: dict[Precision, GPT]) -> None:
    gpt = engines["int8"]
    c = gpt.config
    seen: dict[tuple[str, int | None], tuple[int, ...]] = {}
    gpt.forward(some_ids(gpt, 5), tap=lambda name, layer, x: seen.update({(name, layer): x.shape}))
    per_layer = {
        "resid_pre": (5, c.n_embd), "ln1": (5, c.n_embd), "q": (5, c.n_head, c.head_dim),
        "k": (5, c.n_head, c.head_dim), "v": (5, c.n_head, c.head_dim),
        "attn_scores": (c.n_head, 5, 5), "pattern": (c.n_head, 5, 5),
        "z": (5, c.n_head, c.head_dim), "attn_out": (5, c.n_embd), "resid_mid": (5, c.n_embd),
        "ln2": (5, c.n_embd), "mlp_pre": (5, c.n_inner), "mlp_post": (5, c.n_inner),
        "mlp_out": (5, c.n_embd), "resid_post": (5, c.n_embd),
        "ln1_scale": (5, 1), "ln1_normalized": (5, c.n_embd),
        "ln2_scale": (5, 1), "ln2_normalized": (5, c.n_embd),
    }  # fmt: skip
    want = {(n, i): shape for n, shape in per_layer.items() for i in range(c.n_layer)}
    want |= {
        ("embed", None): (5, c.n_embd), ("pos_embed", None): (5, c.n_embd),
        ("ln_final", None): (5, c.n_embd), ("logits", None): (5, c.vocab_size),
        ("ln_final_scale", None): (5, 1), ("ln_final_normalized", None): (5, c.n_embd),
    }  # fmt: skip
    assert seen == want


def test_a_tap_that_returns_an_array_replaces_the_stage(engines: dict[Precision, GPT]) -> None:
    gpt = engines["fp32"]
    ids = some_ids(gpt, 9)

    def without_attention(name: str, layer: int | None, x: np.ndarray) -> np.ndarray | None:
        return np.zeros_like(x) if name == "attn_out" else None

    changed = gpt.forward(ids, tap=without_attention)
    assert np.abs(changed - gpt.forward(ids)).max() > 1e-3
    # With no attention a token's logits depend on itself and its position alone.
    other = ids.copy()
    other[0] = (other[0] + 1) % gpt.config.vocab_size
    np.testing.assert_allclose(
        gpt.forward(other, tap=without_attention)[1:], changed[1:], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tapped_and_fused_steps_share_one_cache(
    engines: dict[Precision, GPT], precision: Precision
) -> None:
    gpt = engines[precision]
    ids = some_ids(gpt, 60)
    cache = gpt.new_cache()
    gpt.forward(ids[:20], cache)
    gpt.forward(ids[20:45], cache, tap=lambda name, layer, x: None)
    rest = gpt.forward(ids[45:], cache)
    assert cache.ids == ids.tolist()
    np.testing.assert_allclose(rest, gpt.forward(ids)[45:], rtol=0, atol=5e-3)


def test_the_reference_agrees_with_transformers(tiny_model_dir: Path) -> None:
    checkpoint = open_checkpoint(tiny_model_dir)
    weights = reference.DenseWeights(
        {n: checkpoint.tensor(n) for n in checkpoint.names}, checkpoint.config
    )
    ids = np.arange(100) % checkpoint.config.vocab_size
    got = reference.forward(ids, weights, checkpoint.config)
    np.testing.assert_allclose(got, oracle(tiny_model_dir, ids), rtol=0, atol=1e-5)


# --- plain refusals ---


@pytest.mark.parametrize("ids", [[], [[1, 2]], [1.5], [-1], [10_000_000], ["a"]])
def test_impossible_ids_are_refused(engines: dict[Precision, GPT], ids: list[object]) -> None:
    with pytest.raises(InputError):
        engines["int8"].forward(ids)


def test_more_than_the_context_is_refused_and_the_cache_is_left_alone(
    engines: dict[Precision, GPT],
) -> None:
    gpt = engines["int8"]
    cache = gpt.new_cache()
    gpt.forward(some_ids(gpt, 120), cache)
    with pytest.raises(InputError, match=r"120 positions held and 9 more .* 128"):
        gpt.forward(some_ids(gpt, 9), cache)
    assert cache.length == len(cache.ids) == 120
    gpt.forward(some_ids(gpt, 8), cache)


def test_one_cache_twice_in_a_batch_is_refused(engines: dict[Precision, GPT]) -> None:
    cache = engines["int8"].new_cache()
    with pytest.raises(InputError, match="all different"):
        engines["int8"].decode([1, 2], [cache, cache])


def test_a_nan_in_the_weights_is_found_while_preparing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    directory = make_model(tmp_path / "model")
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = float("nan")
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    for precision in PRECISIONS:
        with pytest.raises(ModelFormatError, match=r"h\.1\.mlp\.c_fc\.weight"):
            GPT(open_checkpoint(directory), precision)
    assert list((tmp_path / "home" / "prepared").iterdir()) == []


def test_an_unknown_precision_and_thread_count_are_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match="int8"):
        GPT(open_checkpoint(tiny_model_dir), "int3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="256"):
        GPT(open_checkpoint(tiny_model_dir), threads=0)


def test_an_isa_this_machine_lacks_is_refused(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPLM_ISA", "sparc")
    with pytest.raises(InputError, match=r"LAPLM_ISA=sparc.*can run"):
        GPT(open_checkpoint(tiny_model_dir))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_prompts_and_single_tokens_go_together_as_they_would_alone(
    engines: dict[Precision, GPT], precision: Precision
) -> None:
    gpt, rng = engines[precision], np.random.default_rng(3)
    texts = [some_ids(gpt, n, seed=n) for n in (3, 40, 90, 5)]
    caches = [gpt.new_cache() for _ in texts]
    found: list[list[np.ndarray]] = [[] for _ in texts]
    while any(c.length < len(text) for c, text in zip(caches, texts, strict=True)):
        parts, whose = [], []
        for i, (cache, text) in enumerate(zip(caches, texts, strict=True)):
            count = min(int(rng.integers(0, 20)), len(text) - cache.length)
            if count:
                parts.append((text[cache.length : cache.length + count], cache, count))
                whose.append((i, count))
        if parts:
            logits = gpt.forward_batch(parts)
            for i, count in whose:
                found[i].append(logits[:count])
                logits = logits[count:]
    for text, cache, some in zip(texts, caches, found, strict=True):
        assert cache.ids == text.tolist()
        np.testing.assert_array_equal(np.concatenate(some), gpt.forward(text))


def test_a_pass_gives_the_logits_that_are_wanted_of_each_part(
    engines: dict[Precision, GPT],
) -> None:
    gpt = engines["int8"]
    first, second = gpt.new_cache(), gpt.new_cache()
    logits = gpt.forward_batch(
        [([1, 2, 3, 4], first, 1), ([5, 6, 7], second, 2), ([8], gpt.new_cache(), 0)]
    )
    np.testing.assert_array_equal(logits[:1], gpt.forward([1, 2, 3, 4])[-1:])
    np.testing.assert_array_equal(logits[1:], gpt.forward([5, 6, 7])[1:])
    with pytest.raises(InputError, match="each cache once"):
        gpt.forward_batch([([1], first, 1), ([1], first, 1)])
    with pytest.raises(InputError, match="at most 256"):
        gpt.forward_batch([([1] * (MAX_BATCHED_TOKENS + 1), gpt.new_cache(), 1)])
