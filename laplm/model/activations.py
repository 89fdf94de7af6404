"""Every named number of a forward pass, kept: ``cache["pattern", 3]`` as in TransformerLens.

Names are TransformerLens's, shortened; ``HOOKS`` has its own (4.3). ``hook_normalized`` is a
layer norm before its gain and shift; up to TransformerLens 2 it was the value after them, which is
``ln1`` here and ``ln1.hook_out`` there.

Shapes: T positions, C = n_embd, H heads, K = n_kv_head, D = head_dim, I = n_inner,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.model.config import ModelConfig
from laplm.model.weights import Tap

MAX_BYTES = 1_000_000_000
"""What a cache may take when nobody says otherwise; told and refused before anything is run."""

Array = NDArray[np.float32]
Key = tuple[str, int | None]

# Name: (TransformerLens's hook, with {} for the layer; shape). In the order of the forward pass.
HOOKS: dict[str, tuple[str, str]] = {
    "embed": ("hook_embed", "TC"),
    "pos_embed": ("hook_pos_embed", "TC"),
    "resid_pre": ("blocks.{}.hook_resid_pre", "TC"),
    "ln1_scale": ("blocks.{}.ln1.hook_scale", "T1"),
    "ln1_normalized": ("blocks.{}.ln1.hook_normalized", "TC"),
    "ln1": ("blocks.{}.ln1.hook_out", "TC"),
    "q": ("blocks.{}.attn.hook_q", "THD"),
    "k": ("blocks.{}.attn.hook_k", "TKD"),
    "v": ("blocks.{}.attn.hook_v", "TKD"),
    "q_norm_scale": ("blocks.{}.attn.q_norm.hook_scale", "TH1"),
    "q_norm_normalized": ("blocks.{}.attn.q_norm.hook_normalized", "THD"),
    "q_norm": ("blocks.{}.attn.hook_q_normed", "THD"),
    "k_norm_scale": ("blocks.{}.attn.k_norm.hook_scale", "TK1"),
    "k_norm_normalized": ("blocks.{}.attn.k_norm.hook_normalized", "TKD"),
    "k_norm": ("blocks.{}.attn.hook_k_normed", "TKD"),
    "rot_q": ("blocks.{}.attn.hook_rot_q", "THD"),
    "rot_k": ("blocks.{}.attn.hook_rot_k", "TKD"),
    "attn_scores": ("blocks.{}.attn.hook_attn_scores", "HTT"),
    "pattern": ("blocks.{}.attn.hook_pattern", "HTT"),
    "z": ("blocks.{}.attn.hook_z", "THD"),
    "ln1_post_scale": ("blocks.{}.ln1_post.hook_scale", "T1"),
    "ln1_post_normalized": ("blocks.{}.ln1_post.hook_normalized", "TC"),
    "ln1_post": ("blocks.{}.ln1_post.hook_out", "TC"),
    "attn_out": ("blocks.{}.hook_attn_out", "TC"),
    "resid_mid": ("blocks.{}.hook_resid_mid", "TC"),
    "ln2_scale": ("blocks.{}.ln2.hook_scale", "T1"),
    "ln2_normalized": ("blocks.{}.ln2.hook_normalized", "TC"),
    "ln2": ("blocks.{}.ln2.hook_out", "TC"),
    "mlp_pre": ("blocks.{}.mlp.hook_pre", "TI"),
    "mlp_pre_linear": ("blocks.{}.mlp.hook_pre_linear", "TI"),
    "mlp_post": ("blocks.{}.mlp.hook_post", "TI"),
    "ln2_post_scale": ("blocks.{}.ln2_post.hook_scale", "T1"),
    "ln2_post_normalized": ("blocks.{}.ln2_post.hook_normalized", "TC"),
    "ln2_post": ("blocks.{}.ln2_post.hook_out", "TC"),
    "mlp_out": ("blocks.{}.hook_mlp_out", "TC"),
    "resid_post": ("blocks.{}.hook_resid_post", "TC"),
    "ln_final_scale": ("ln_final.hook_scale", "T1"),
    "ln_final_normalized": ("ln_final.hook_normalized", "TC"),
    "ln_final": ("ln_final.hook_out", "TC"),
    "logits": ("unembed.hook_out", "TV"),
}


class _Only(NamedTuple):
    """Activations that only some models have.

    Attributes:
        names: of ``HOOKS``.
        had: by which models.
        because: why the others have none.
    """

    names: tuple[str, ...]
    had: Callable[[ModelConfig], bool]
    because: str


def _norm(name: str) -> tuple[str, ...]:
    return f"{name}_scale", f"{name}_normalized", name


_ONLY = (
    _Only(("pos_embed",), lambda c: c.positions == "learned", "its positions are rotary"),
    _Only(("rot_q", "rot_k"), lambda c: c.positions == "rope", "its positions are learned"),
    _Only(
        ("resid_mid",),
        lambda c: not c.parallel_residual,
        "attention and feed-forward both read the layer's input",
    ),
    _Only(("mlp_pre_linear",), lambda c: c.gated, "its feed-forward has no gate"),
    _Only((*_norm("q_norm"), *_norm("k_norm")), lambda c: c.qk_norm, "it has no norms of q and k"),
    _Only(
        (*_norm("ln1_post"), *_norm("ln2_post")),
        lambda c: c.post_norms,
        "it has no norms after sublayers",
    ),
)


def activation_names(config: ModelConfig) -> list[str]:
    """The activations that a model has, in the order of the forward pass."""
    absent = {name for only in _ONLY if not only.had(config) for name in only.names}
    return [name for name in HOOKS if name not in absent]


def in_layers(config: ModelConfig, name: str) -> bool:
    """Whether every layer of a model has an activation of this name.

    Raises:
        InputError: the model has none.
    """
    if name not in activation_names(config):
        for only in _ONLY:
            if name in only.names:
                raise InputError(f"this {config.family} model has no {name!r}: {only.because}")
        raise InputError(
            f"no activation is called {name!r}; they are {', '.join(activation_names(config))}"
        )
    return "{}" in HOOKS[name][0]


def hook_name(name: str, layer: int | None) -> str:
    """TransformerLens's name: ("q", 3) is ``blocks.3.attn.hook_q``."""
    return HOOKS[name][0].format(layer)


def every_key(config: ModelConfig, names: Iterable[str] | None = None) -> list[Key]:
    """All (name, layer) of a model, or of ``names``, in the order of the forward pass.

    Raises:
        InputError: there is no such name.
    """
    wanted = _listed(config, names)
    layered = {name: in_layers(config, name) for name in wanted}
    first = [n for n in ("embed", "pos_embed") if n in layered]
    inner = [n for n in HOOKS if layered.get(n)]
    last = [n for n in HOOKS if n in layered and n not in first and n not in inner]
    keys: list[Key] = [(n, None) for n in first]
    keys += [(n, layer) for layer in range(config.n_layer) for n in inner]
    return keys + [(n, None) for n in last]


def _listed(config: ModelConfig, names: Iterable[str] | None) -> list[str]:
    if names is None:
        return activation_names(config)
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def activation_shape(config: ModelConfig, name: str, n_positions: int) -> tuple[int, ...]:
    """The shape of an activation after a prompt of ``n_positions`` tokens."""
    sizes = {
        "T": n_positions, "C": config.n_embd, "H": config.n_head, "K": config.n_kv_head,
        "D": config.head_dim, "I": config.n_inner, "V": config.vocab_size, "1": 1,
    }  # fmt: skip
    return tuple(sizes[letter] for letter in HOOKS[name][1])


def trace_bytes(config: ModelConfig, n_positions: int, names: Iterable[str] | None = None) -> int:
    """Memory that a cache of these activations will take, known before anything is computed."""
    numbers = sum(
        int(np.prod(activation_shape(config, name, n_positions)))
        for name, _ in every_key(config, names)
    )
    return 4 * numbers


def check_bytes(
    config: ModelConfig, n_positions: int, names: Iterable[str] | None, max_bytes: int
) -> int:
    """``trace_bytes``, refused when they are too many.

    Raises:
        InputError: they are more than ``max_bytes``, or there is no such name.
    """
    kept = _listed(config, names)
    size = trace_bytes(config, n_positions, kept)
    if size <= max_bytes:
        return size
    largest = sorted(kept, key=lambda name: -trace_bytes(config, n_positions, [name]))[:2]
    shares = ", ".join(
        f"{name} {trace_bytes(config, n_positions, [name]) / 1e6:,.0f} MB" for name in largest
    )
    raise InputError(
        f"these activations of {n_positions:,} tokens take {size / 1e6:,.0f} MB ({shares}), and "
        f"the limit is {max_bytes / 1e6:,.0f} MB: name fewer of them, shorten the text, or raise "
        "max_bytes"
    )


class ActivationCache(Mapping[Key, Array]):
    """Activations by (name, layer); the layer is None outside the blocks.

    ``cache["resid_post", 3]`` and ``cache["embed"]`` both work; so do TransformerLens's own names,
    ``cache["blocks.3.hook_resid_post"]``. Names, shapes: ``HOOKS``.

    Attributes:
        config: sizes of the model.
        ids: the token ids (T,) that went in.
    """

    def __init__(
        self, config: ModelConfig, ids: Iterable[int], arrays: Mapping[Key, Array]
    ) -> None:
        self.config = config
        self.ids = list(ids)
        self._arrays = dict(arrays)

    def __getitem__(self, key: str | tuple[str, int | None]) -> Array:
        """One activation.

        Raises:
            InputError: it was not recorded, or there is no such name or layer.
        """
        if isinstance(key, str):
            hooks = {hook_name(*k): k for k in self._arrays}
            key = hooks.get(key, (key, None))
        name, layer = key
        if layer is not None and layer < 0:
            layer += self.config.n_layer
        if (name, layer) in self._arrays:
            return self._arrays[name, layer]
        if not in_layers(self.config, name):
            raise InputError(f"the activation {name!r} was not recorded; ask for it by name")
        if layer is None or not 0 <= layer < self.config.n_layer:
            raise InputError(
                f"{name!r} is in every layer: write cache[{name!r}, 0] to "
                f"cache[{name!r}, {self.config.n_layer - 1}]"
            )
        raise InputError(f"the activation {name!r} was not recorded; ask for it by name")

    def __iter__(self) -> Iterator[Key]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return (
            f"ActivationCache({len(self.ids)} tokens, {len(self)} activations, {self.nbytes:,} B)"
        )

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def stack(self, name: str) -> Array:
        """One activation of all layers, with the layer as the first axis.

        Raises:
            InputError: it is not in the layers, or was not recorded.
        """
        return np.stack([self[name, layer] for layer in range(self.config.n_layer)])

    def by_hook_name(self) -> dict[str, Array]:
        """The arrays by TransformerLens's names, for ``numpy.savez``."""
        return {hook_name(*key): array for key, array in self._arrays.items()}


def run_with_cache(
    forward: Callable[[Tap], Any],
    config: ModelConfig,
    ids: Iterable[int],
    names: Iterable[str] | None = None,
    tap: Tap | None = None,
) -> ActivationCache:
    """Run a forward pass and keep what it names.

    Args:
        forward: does the pass over ``ids`` with the tap that it is given.
        config: sizes of the model.
        ids: the token ids.
        names: only these activations, to save memory; None keeps all.
        tap: may change activations on the way; what is kept is what it left.

    Raises:
        InputError: there is no such name.
    """
    wanted = set(every_key(config, names))
    arrays: dict[Key, Array] = {}

    def record(name: str, layer: int | None, array: Array) -> Array | None:
        changed = tap(name, layer, array) if tap is not None else None
        if (name, layer) in wanted:
            arrays[name, layer] = np.array(array if changed is None else changed, np.float32)
        return changed

    forward(record)
    return ActivationCache(config, ids, arrays)
