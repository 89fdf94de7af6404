from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from tuning_examples import VOCAB, tiny_config, tiny_model

from laplm.errors import ContextLengthError, ModelFormatError
from laplm.model.config import ACTIVATIONS, ModelConfig
from laplm.model.families import config_to_hf, tensor_shapes
from laplm.tune.models.gpt2 import QKVCache, TorchGPT, continue_ids


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_inner": 48},
        {"norm_eps": 1e-3},
        *({"activation": name} for name in sorted({*ACTIVATIONS} - {"gelu_new"})),
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"tied": False},
    ],
)
def test_logits_and_gradients_are_those_of_transformers(changes: dict[str, object]) -> None:
    config = tiny_config(**changes)
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(
        GPT2Config(**config_to_hf(config), attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    )
    with torch.no_grad():
        for parameter in theirs.parameters():  # no biases of 0 or gains of 1
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = TorchGPT(config)
    names = tensor_shapes(config)
    state = {k.removeprefix("transformer."): v.numpy() for k, v in theirs.state_dict().items()}
    ours.load_tensors({name: state[name] for name in names})
    ids = torch.randint(0, config.vocab_size, (3, config.n_ctx))

    expected, logits = theirs(ids).logits, ours(ids)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)

    weights = torch.randn_like(logits)
    (expected * weights).sum().backward()
    (logits * weights).sum().backward()
    their_gradients = {k.removeprefix("transformer."): p.grad for k, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, their_gradients[name], rtol=1e-3, atol=1e-3, msg=name
        )


def test_state_dict_is_a_checkpoint_in_gpt2_names_and_layout() -> None:
    for tied in (True, False):
        model = tiny_model(tied=tied)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        assert shapes == tensor_shapes(model.config)


def test_exported_tensors_are_copies_that_load_back() -> None:
    model = tiny_model(seed=1)
    tensors = model.tensors()
    other = tiny_model(seed=2)
    other.load_tensors(tensors)
    ids = torch.arange(10)[None]
    assert torch.equal(model(ids), other(ids))
    tensors["wte.weight"][:] = 0
    assert model.wte.weight.abs().sum() > 0
    assert other.wte.weight.abs().sum() > 0


def test_initial_weights_follow_the_seed_and_gpt2s_scheme() -> None:
    config = ModelConfig(vocab_size=300, n_ctx=64, n_embd=192, n_layer=2, n_head=3)
    models = [TorchGPT(config) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        model.initialise(seed)
    first, same, other = (model.tensors() for model in models)
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not np.array_equal(first["wte.weight"], other["wte.weight"])
    std = 0.02 * 2  # width 192 is a quarter of 768
    assert first["wte.weight"].std() == pytest.approx(std, rel=0.03)
    assert first["h.1.mlp.c_fc.weight"].std() == pytest.approx(std, rel=0.03)
    assert first["h.1.mlp.c_proj.weight"].std() == pytest.approx(std / 2, rel=0.03)
    assert (first["h.0.ln_1.weight"] == 1).all()
    assert (first["h.0.attn.c_attn.bias"] == 0).all()


def test_too_long_window_is_refused_with_the_numbers() -> None:
    with pytest.raises(ContextLengthError, match=r"33 tokens .* 32 positions"):
        tiny_model()(torch.zeros(1, 33, dtype=torch.long))


def test_wrong_tensors_are_named() -> None:
    tensors = tiny_model().tensors()
    cases = [
        ({k: v for k, v in tensors.items() if k != "ln_f.bias"}, r"ln_f\.bias is missing from"),
        (tensors | {"extra": np.zeros(1, np.float32)}, "extra is unknown to"),
        (tensors | {"wpe.weight": np.zeros((3, 32), np.float32)}, r"wpe\.weight has shape \(3, 32"),
    ]
    for wrong, message in cases:
        with pytest.raises(ModelFormatError, match=message):
            tiny_model().load_tensors(wrong)


@pytest.mark.parametrize("module", ["models.gpt2", "loss", "trainer"])
def test_without_torch_the_error_says_what_to_install(module: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from laplm.errors import MissingExtraError\n"
        f"try:\n    import laplm.tune.{module}\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "laplm[tune]"' in done.stdout, done.stderr


def test_logits_with_what_was_kept_of_the_tokens_before_are_those_of_the_whole_text() -> None:
    model = tiny_model(scale_attn_by_inverse_layer_idx=True)
    ids = torch.randint(0, VOCAB, (1, 12), generator=torch.Generator().manual_seed(1))
    kv_cache = QKVCache()
    with torch.no_grad():
        want = model(ids)[0]
        for start, stop in [(0, 5), *((i, i + 1) for i in range(5, 12))]:
            got = model.last_logits(ids[:, start:stop], kv_cache)
            assert len(kv_cache) == stop
            torch.testing.assert_close(got, want[stop - 1], rtol=1e-5, atol=1e-5)


def test_a_sample_longer_than_the_context_is_drawn_after_as_much_as_there_is_room_for() -> None:
    model = tiny_model(eos_token_ids=())
    text, windows = [*range(40)], []

    def last_logits(tokens: torch.Tensor, kv_cache: QKVCache) -> torch.Tensor:
        logits = model.last_logits(tokens, kv_cache)
        windows.append((text[-32:], logits))
        text.append(int(logits.argmax()))
        return torch.full_like(logits, -1e9).index_fill(0, logits.argmax(), 0)  # no other is drawn

    drawn = continue_ids(model, [*text], 6, last_logits=last_logits)
    assert text[40:] == drawn
    with torch.no_grad():
        for window, logits in windows:
            want = model(torch.tensor([window]))[0, -1]
            torch.testing.assert_close(logits, want, rtol=1e-5, atol=1e-5)
