"""What every look begins with: text to ids, checks with plain words, one pass through the model.

In fp32 a pass is ``reference.forward`` over the checkpoint's own tensors: nothing is packed and
nothing is compiled, so a look starts at once. In int8 and int4 it is the engine's pass.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplm.errors import ContextLengthError, InputError, ModelFormatError
from laplm.look.view import Model, visible
from laplm.model import activations, reference
from laplm.model.activations import ActivationCache, Key
from laplm.model.config import ModelConfig
from laplm.model.engine.kv_cache import KVCache
from laplm.model.files.checkpoint import Checkpoint, check_finite
from laplm.model.weights import DenseKVCache, Tap, Weights
from laplm.run.generate import CausalLM, GenerationStream
from laplm.run.request import GenerationRequest

Array = NDArray[np.float32]
Ids = NDArray[np.int64]
Text = str | bytes | Sequence[int]
AnyKVCache = DenseKVCache | KVCache

_dense: weakref.WeakKeyDictionary[Checkpoint, reference.DenseWeights] = weakref.WeakKeyDictionary()

_cancel_check: ContextVar[Callable[[], None] | None] = ContextVar("cancel_check", default=None)

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@contextlib.contextmanager
def cancellable(check: Callable[[], None]) -> Iterator[None]:
    """Call ``check`` again and again while a view is made: what it raises ends the view.

    It is called before each pass, between the sublayers of those that are not compiled, between
    the tokens of a text, and before weights are multiplied with outside of a pass.
    """
    token = _cancel_check.set(check)
    try:
        yield
    finally:
        _cancel_check.reset(token)


def check_cancelled() -> None:
    """End the view here, if it was cancelled: see ``cancellable``."""
    check = _cancel_check.get()
    if check is not None:
        check()


def cancellable_tap(tap: Tap) -> Tap:
    """A tap that can be stopped at every activation: see ``cancellable``."""

    def checked(name: str, layer: int | None, x: Array) -> Array | None:
        check_cancelled()
        return tap(name, layer, x)

    return checked


def generate(gpt: CausalLM, model: Model, request: GenerationRequest) -> GenerationStream:
    """The text of a request, generated to its end."""
    stream = GenerationStream(gpt, model.tokenizer, request)
    for _ in stream:
        check_cancelled()
    return stream


def forward(
    model: Model,
    ids: ArrayLike,
    tap: Tap | None = None,
    kv_cache: AnyKVCache | None = None,
    last_only: bool = False,
) -> Array:
    """Token ids (T,) to logits (T, V), or (1, V) of the last one when ``last_only``.

    Args:
        model: the model.
        ids: the token ids.
        tap: sees, and may replace, every activation of ``laplm.model.activations.HOOKS``.
        kv_cache: of what came before, from ``new_kv_cache``; it grows by T positions.
        last_only: no logits but the last position's.

    Raises:
        InputError: there are no ids, one is not in the vocabulary, or they do not fit in the
            context.
        ModelFormatError: a weight is NaN or infinite, or the logits are.
    """
    # Numbers that grow too large are told of below, by what comes out: not by NumPy on the way.
    with np.errstate(over="ignore", invalid="ignore"):
        logits = _forward(model, ids, tap, kv_cache, last_only)
    # NaN wins every max, so this one number tells of NaN and of infinity.
    if not math.isfinite(logits.max()):
        raise ModelFormatError(
            "the model's output holds values that are not numbers: its weights are damaged, or "
            "too large for this precision; try precision fp32"
        )
    return logits


def _forward(
    model: Model, ids: ArrayLike, tap: Tap | None, kv_cache: AnyKVCache | None, last_only: bool
) -> Array:
    array = _checked(ids, model.config, 0 if kv_cache is None else kv_cache.length)
    check_cancelled()
    if tap is not None:
        tap = cancellable_tap(tap)
    if model.precision == "fp32":
        assert kv_cache is None or isinstance(kv_cache, DenseKVCache)
        hook = cancellable_tap(lambda name, layer, x: None) if tap is None else tap
        return reference.forward(
            array, dense_weights(model), model.config, kv_cache, hook, last_only
        )
    assert kv_cache is None or isinstance(kv_cache, KVCache)
    return model.gpt.forward(array, kv_cache, tap, last_only=last_only)


def new_kv_cache(model: Model) -> AnyKVCache:
    """An empty store of keys and values, for ``forward``."""
    return DenseKVCache() if model.precision == "fp32" else model.gpt.new_cache()


def run_with_cache(
    model: Model,
    ids: ArrayLike,
    names: Iterable[str] | None = None,
    tap: Tap | None = None,
) -> ActivationCache:
    """One pass over ``ids``, keeping the activations called ``names``; None keeps all.

    Args:
        model: the model.
        ids: the token ids (T,).
        names: of ``laplm.model.activations.HOOKS``.
        tap: may change activations on the way; what is kept is what it left.

    Raises:
        InputError: as ``forward``, or there is no such name.
    """
    array = _checked(ids, model.config)
    return activations.run_with_cache(
        lambda record: forward(model, array, record), model.config, array.tolist(), names, tap
    )


def last_position(
    model: Model, ids: ArrayLike, names: Iterable[str], tap: Tap | None = None
) -> dict[Key, Array]:
    """The activations called ``names`` at the last position alone: (C), (H, D), (H, T), (V).

    What the other positions have is not kept, so that a long text takes little memory.

    Args:
        model: the model.
        ids: the token ids (T,).
        names: of ``laplm.model.activations.HOOKS``.
        tap: sees every activation whole.

    Raises:
        InputError: as ``forward``, or there is no such name.
    """
    wanted = set(activations.every_key(model.config, names))
    found: dict[Key, Array] = {}

    def record(name: str, layer: int | None, x: Array) -> None:
        if tap is not None:
            tap(name, layer, x)
        if (name, layer) in wanted:
            axis = activations.HOOKS[name][1].index("T")
            found[name, layer] = np.array(np.take(x, -1, axis=axis), np.float32)

    forward(model, ids, record, last_only=True)
    return found


def dense_weights(model: Model) -> reference.DenseWeights:
    """The checkpoint's tensors in fp32 by their roles, read once for a model.

    Raises:
        ModelFormatError: a weight is NaN or infinite.
    """
    check_cancelled()
    weights = _dense.get(model.checkpoint)
    if weights is None:
        tensors = {name: model.checkpoint.tensor(name) for name in model.checkpoint.names}
        for name, tensor in tensors.items():
            check_finite(name, tensor)
        weights = _dense[model.checkpoint] = reference.DenseWeights(tensors, model.config)
    return weights


def weights(model: Model) -> Weights:
    """What a pass multiplies with, for the parts of ``reference``.

    Raises:
        ModelFormatError: a weight is NaN or infinite.
    """
    if model.precision == "fp32":
        return dense_weights(model)
    check_cancelled()
    return model.gpt.weights


def encode(model: Model, text: Text) -> list[int]:
    """Token ids of a text (or of bytes, or ids as they are) that the model can look at whole.

    A model whose tokenizer puts a BOS before every text sees it here too, at position 0.

    Raises:
        ContextLengthError: it has more tokens than the model has positions.
        InputError: it is empty, or an id is not in the vocabulary.
    """
    ids = model.tokenizer.encode(text) if isinstance(text, str | bytes) else [int(i) for i in text]
    if not ids:
        raise InputError("the text is empty; give at least one word to look at")
    if isinstance(text, str | bytes):
        ids = model.tokenizer.build_inputs_with_special_tokens(ids)
    _checked(ids, model.config)
    return ids


def encode_pair(model: Model, clean: Text, corrupted: Text) -> tuple[list[int], list[int]]:
    """Token ids of a clean prompt and of a corrupted one of as many tokens.

    Raises:
        ContextLengthError: a prompt has more tokens than the model has positions.
        InputError: the prompts differ in length or not at all, or one is empty.
    """
    clean_ids, ids = encode(model, clean), encode(model, corrupted)
    if len(clean_ids) != len(ids):
        shown = [" ".join(token_labels(model, each)) for each in (clean_ids, ids)]
        raise InputError(
            f"the clean prompt has {len(clean_ids)} tokens ({shown[0]}) and the corrupted one "
            f"{len(ids)} ({shown[1]}); they must have as many"
        )
    if clean_ids == ids:
        raise InputError("the two prompts are the same; change a word in one of them")
    return clean_ids, ids


def one_token(model: Model, text: str) -> int:
    """The id of a text that is a single token, such as " Madrid" with its space.

    Raises:
        InputError: it is empty, or it is more than one token; the message says how it splits.
    """
    ids = model.tokenizer.encode(text)
    if len(ids) == 1:
        _checked(ids, model.config)
        return ids[0]
    if not ids:
        raise InputError("the target is empty; give one token, such as ' the' with its space")
    count = _NUMBERS[len(ids)] if len(ids) < len(_NUMBERS) else f"{len(ids):,}"
    pieces = " ".join(repr(_text(model, i)) for i in ids[:12]) + (" …" if len(ids) > 12 else "")
    message = f"{text!r} is not one token but {count}: {pieces}"
    with_space = model.tokenizer.encode(f" {text}")
    if len(with_space) == 1:
        raise InputError(f"{message}; with a space before it, {f' {text}'!r}, it is one")
    raise InputError(f"{message}; choose a word that the vocabulary has whole, or its first piece")


def token_labels(model: Model, ids: Iterable[int], numbered: bool = False) -> list[str]:
    """Tokens as short texts with white space and bytes of unfinished characters made visible.

    Args:
        model: the model.
        ids: the token ids.
        numbered: put the position in front, so that no two labels are the same.
    """
    labels = [visible(_text(model, i)) for i in ids]
    return [f"{i} {label}" for i, label in enumerate(labels)] if numbered else labels


def check_layer(model: Model, layer: int) -> int:
    """A layer that the model has.

    Raises:
        InputError: it has no such layer; the message gives the range.
    """
    return _check_index("layer", layer, model.config.n_layer, "the model has")


def check_head(model: Model, head: int) -> int:
    """An attention head that every layer has.

    Raises:
        InputError: there is no such head; the message gives the range.
    """
    return _check_index("head", head, model.config.n_head, "each layer has")


def check_neuron(model: Model, neuron: int) -> int:
    """A neuron that the feed-forward of every layer has.

    Raises:
        InputError: there is no such neuron; the message gives the range.
    """
    return _check_index("neuron", neuron, model.config.n_inner, "each layer has")


def check_position(ids: Sequence[int], position: int) -> int:
    """A position of a text; negative ones count from its end. Returns it from 0.

    Raises:
        InputError: the text has no such position; the message gives the range.
    """
    at = position + len(ids) if isinstance(position, int) and position < 0 else position
    return _check_index("position", at, len(ids), "the text has", shown=position)


def _check_index(what: str, index: int, count: int, owner: str, shown: int | None = None) -> int:
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
        asked = index if shown is None else shown
        have = f"{what}s 0 to {count - 1}" if count > 1 else f"{what} 0 only"
        raise InputError(f"{what} {asked} is not there: {owner} {have}")
    return index


def _checked(ids: ArrayLike, config: ModelConfig, n_past: int = 0) -> Ids:
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise InputError("token ids must be a list of at least one whole number")
    out = array.astype(np.int64)
    wrong = out[(out < 0) | (out >= config.vocab_size)]
    if wrong.size:
        raise InputError(
            f"token id {wrong[0]} is not in the model's vocabulary (0 to {config.vocab_size - 1})"
        )
    if n_past + len(out) > config.n_ctx:
        raise ContextLengthError(
            f"the text has {n_past + len(out):,} tokens, but the model holds {config.n_ctx:,}: "
            "shorten it"
        )
    return out


def _text(model: Model, token_id: int) -> str:
    return model.tokenizer.token_bytes(token_id).decode("utf-8", errors="backslashreplace")
