"""The sizes and settings of a model, whatever its family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from laplm.errors import ModelFormatError, shown

# So that a damaged config.json is refused rather than looped over for ever.
_MAX_SIZE = 1 << 31
_MAX_LAYERS = 10_000
_SWITCHES = (
    "gated", "attn_bias", "mlp_bias", "qk_norm", "tied", "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
)  # fmt: skip
ACTIVATIONS = (
    "gelu_new", "gelu_pytorch_tanh", "gelu", "gelu_10", "quick_gelu", "relu", "relu2", "relu6",
    "leaky_relu", "silu", "mish", "hardswish", "tanh", "sigmoid", "laplace", "linear",
)  # fmt: skip
# transformers' other names of the same functions.
_SAME_ACTIVATIONS = {
    "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new", "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_pytorch_tanh", "swish": "silu",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is, refused when it cannot be one. The defaults are GPT-2's.

    Attributes:
        family: the module of ``families/`` that it belongs to.
        vocab_size: V.
        n_ctx: how many positions it holds.
        n_embd: C, the width of the residual stream.
        n_layer: how many layers.
        n_head: H, attention heads.
        n_kv_head: H_kv, key and value heads; 0 means as many as ``n_head``.
        head_dim: D, the width of a head; 0 means C / H.
        n_inner: I, the width of the feed-forward; 0 means 4 C.
        norm: "layer" for layer norm, "rms" for RMS norm.
        norm_eps: what keeps a norm from dividing by 0.
        positions: "learned" embeddings, or "rope": rotary ones.
        rope_theta: base of the rotary wavelengths.
        gated: whether the feed-forward has a gate beside its up matrix.
        activation: of ``ACTIVATIONS``.
        attn_bias: whether attention's matrices have biases.
        mlp_bias: whether the feed-forward's have.
        qk_norm: whether queries and keys are normalised.
        window: of each layer, how far a position looks back; None is all the way, and no entries
            at all are so in every layer.
        tied: whether the output matrix is the token embedding.
        scale_attn_weights: whether scores are divided by sqrt(D).
        scale_attn_by_inverse_layer_idx: whether they are divided by the layer's number from 1.
        bos_token_id: begins a text of which nothing is given.
        eos_token_ids: each ends a text.
        pad_token_id: fills batches in other programs.

    Raises:
        ModelFormatError: a size is not positive, heads do not divide the width, or a setting asks
            for an architecture that this engine does not run.
    """

    family: str = "gpt2"
    vocab_size: int = 50257
    n_ctx: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int = 0
    head_dim: int = 0
    n_inner: int = 0
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    positions: Literal["learned", "rope"] = "learned"
    rope_theta: float = 10_000.0
    gated: bool = False
    activation: str = "gelu_new"
    attn_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    window: tuple[int | None, ...] = ()
    tied: bool = True
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    bos_token_id: int | None = 50256
    eos_token_ids: tuple[int, ...] = (50256,)
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_ctx", "n_embd", "n_layer", "n_head"):
            self._check_size(name)
        if self.head_dim == 0 and self.n_embd % self.n_head:
            raise ModelFormatError(
                f"config.json: n_embd {self.n_embd} cannot be split into n_head {self.n_head} heads"
            )
        for name, usual in (
            ("n_kv_head", self.n_head),
            ("head_dim", self.n_embd // self.n_head),
            ("n_inner", 4 * self.n_embd),
        ):
            if getattr(self, name) == 0 and not isinstance(getattr(self, name), bool):
                object.__setattr__(self, name, usual)
            self._check_size(name)
        if self.n_head % self.n_kv_head:
            raise ModelFormatError(
                f"config.json: n_head {self.n_head} cannot share n_kv_head {self.n_kv_head} heads"
            )
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                self._refuse(name, "true or false")
        for name, high in (("norm_eps", 1.0), ("rope_theta", math.inf)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < high or value is True:
                self._refuse(name, f"a {'small ' if high == 1 else ''}number above 0")
        object.__setattr__(
            self, "activation", _SAME_ACTIVATIONS.get(_text(self.activation), self.activation)
        )
        if self.activation not in ACTIVATIONS:
            known = sorted({*ACTIVATIONS, *_SAME_ACTIVATIONS})
            raise ModelFormatError(
                f"config.json: activation {shown(self.activation)} is not one of {', '.join(known)}"
            )

    def _check_size(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._refuse(name, "a whole number above 0")
        if value > (_MAX_LAYERS if name == "n_layer" else _MAX_SIZE):
            raise ModelFormatError(f"config.json: {name} {shown(value)} is more than any model has")

    def _refuse(self, name: str, wanted: str) -> None:
        value = shown(getattr(self, name))
        raise ModelFormatError(f"config.json: {name} is {value}, but it must be {wanted}")

    @property
    def eos_token_id(self) -> int | None:
        """The first of the tokens that end a text, which is written after one in training."""
        return self.eos_token_ids[0] if self.eos_token_ids else None

    def attention_scale(self, layer: int) -> float:
        """The factor on query-key products of a layer: 1 / sqrt(D), as the config asks for it."""
        scale = 1.0 / math.sqrt(self.head_dim) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @property
    def n_parameters(self) -> int:
        """Count of trained numbers; a tied output matrix is counted once."""
        from laplm.model.families import tensor_shapes  # the families import this module

        return sum(math.prod(shape) for shape in tensor_shapes(self).values())

    @property
    def n_multiplied(self) -> int:
        """Weights of the layers' matrices: multiplications for each token."""
        attention = 2 * (self.n_head + self.n_kv_head) * self.head_dim * self.n_embd
        return self.n_layer * (attention + (3 if self.gated else 2) * self.n_embd * self.n_inner)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


NAMED_SIZES = {
    "gpt2": ModelConfig(),
    "distilgpt2": ModelConfig(n_layer=6),
    "gpt2-medium": ModelConfig(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": ModelConfig(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": ModelConfig(n_embd=1600, n_layer=48, n_head=25),
}
