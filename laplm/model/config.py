"""The sizes and settings of a model, whatever its family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from laplm.errors import ModelFormatError, shown

# So that a damaged config.json is refused rather than looped over for ever.
_MAX_SIZE = 1 << 31
_MAX_LAYERS = 10_000
_SWITCHES = (
    "gated", "attn_bias", "attn_out_bias", "mlp_bias", "qk_norm", "post_norms",
    "parallel_residual", "tied", "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
)  # fmt: skip
# Numbers, each above the one and below the other: float32 holds what is computed with them.
_NUMBERS = {
    "norm_eps": (0.0, 1.0), "norm_offset": (-1e3, 1e3), "rope_theta": (1.0, 1e30),
    "rope_local_theta": (1.0, 1e30), "embed_scale": (0.0, 1e9), "attn_scale": (0.0, 1e9),
}  # fmt: skip
ROPE_SCALINGS = ("linear", "llama3", "yarn")
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
class RopeScaling:
    """How rotary frequencies are stretched for texts longer than those of pretraining.

    ``families.rope.rope_frequencies`` says what becomes of the numbers, with the papers.

    Attributes:
        kind: of ``ROPE_SCALINGS``.
        factor: how many times longer the texts are.
        original_n_ctx: positions in pretraining (not of "linear").
        low_freq_factor: turns in ``original_n_ctx`` below which a frequency is divided ("llama3").
        high_freq_factor: those above which it stays as it is ("llama3").
        beta_slow: as ``low_freq_factor`` ("yarn").
        beta_fast: as ``high_freq_factor`` ("yarn").
        truncate: whether the bounds that these two make are rounded to whole components ("yarn").
        attention_factor: on cosines and sines, and so squared on attention's scores ("yarn").

    Raises:
        ModelFormatError: the kind is not known, or a number is not possible.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float = 1.0
    original_n_ctx: int = 1
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_slow: float = 1.0
    beta_fast: float = 32.0
    truncate: bool = True
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ROPE_SCALINGS:
            raise ModelFormatError(
                f"config.json: rope_type {shown(self.kind)} is not one that laplm scales rotary "
                f"positions by: default, {', '.join(ROPE_SCALINGS)}"
            )
        _check_size(self, "original_n_ctx", _MAX_SIZE)
        for name in (
            "factor", "low_freq_factor", "high_freq_factor", "beta_slow", "beta_fast",
            "attention_factor",
        ):  # fmt: skip
            _check_number(self, name, 0.0, 1e9)
        _check_switch(self, "truncate")
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            _refuse(self, "high_freq_factor", "more than low_freq_factor")


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
        norm_offset: added to the gains of all norms (Gemma stores gain - 1).
        post_norms: whether there are norms after each sublayer too: roles ``post_norm1`` and
            ``post_norm2``.
        parallel_residual: whether attention and feed-forward both read the layer's input.
        positions: "learned" embeddings, or "rope": rotary ones.
        rope_theta: base of the rotary wavelengths.
        rope_local_theta: that of layers with a window, which are not scaled; None is the same.
        rope_scaling: of layers without a window, or of all where there is no
            ``rope_local_theta``.
        rope_layers: of each layer, whether it has rotary positions; no entries at all: every one
            has.
        rotary_dim: how many components of a head turn, from the first on; 0 means D.
        embed_scale: factor on token embeddings.
        gated: whether the feed-forward has a gate beside its up matrix.
        activation: of ``ACTIVATIONS``.
        attn_bias: whether the matrices of q, k and v have biases.
        attn_out_bias: whether attention's output matrix has.
        attn_scale: factor on query-key products; None is 1 / sqrt(D), or what the settings that
            begin with ``scale_attn`` say.
        mlp_bias: whether the feed-forward's have.
        qk_norm: whether queries and keys are normalised.
        window: of each layer, how many positions a query sees, its own included; None is all
            of them, and no entries at all are so in every layer.
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
    norm_offset: float = 0.0
    post_norms: bool = False
    parallel_residual: bool = False
    positions: Literal["learned", "rope"] = "learned"
    rope_theta: float = 10_000.0
    rope_local_theta: float | None = None
    rope_scaling: RopeScaling | None = None
    rope_layers: tuple[bool, ...] = ()
    rotary_dim: int = 0
    embed_scale: float = 1.0
    gated: bool = False
    activation: str = "gelu_new"
    attn_bias: bool = True
    attn_out_bias: bool = True
    attn_scale: float | None = None
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
        self._settle_size("n_kv_head", self.n_head)
        self._settle_size("head_dim", self.n_embd // self.n_head)
        self._settle_size("n_inner", 4 * self.n_embd)
        self._settle_size("rotary_dim", self.head_dim)
        if self.n_head % self.n_kv_head:
            raise ModelFormatError(
                f"config.json: n_head {self.n_head} cannot share n_kv_head {self.n_kv_head} heads"
            )
        for name in _SWITCHES:
            _check_switch(self, name)
        for name, (low, high) in _NUMBERS.items():
            if getattr(self, name) is not None or name not in ("rope_local_theta", "attn_scale"):
                _check_number(self, name, low, high)
        self._settle_layers("window", None)
        self._settle_layers("rope_layers", True)
        self._check_rope()
        object.__setattr__(
            self, "activation", _SAME_ACTIVATIONS.get(_text(self.activation), self.activation)
        )
        if self.activation not in ACTIVATIONS:
            known = sorted({*ACTIVATIONS, *_SAME_ACTIVATIONS})
            raise ModelFormatError(
                f"config.json: activation {shown(self.activation)} is not one of {', '.join(known)}"
            )

    def _check_size(self, name: str) -> None:
        _check_size(self, name, _MAX_LAYERS if name == "n_layer" else _MAX_SIZE)

    def _settle_size(self, name: str, usual: int) -> None:
        """A size of which 0 means the usual one."""
        if getattr(self, name) == 0 and not isinstance(getattr(self, name), bool):
            object.__setattr__(self, name, usual)
        self._check_size(name)

    def _settle_layers(self, name: str, usual: bool | None) -> None:
        """An entry for each layer, or none at all where each would be the usual one."""
        entries = getattr(self, name)
        if not isinstance(entries, tuple) or len(entries) not in (0, self.n_layer):
            _refuse(self, name, f"an entry for each of the {self.n_layer} layers")
        for entry in entries:
            whole = type(entry) is int and 0 < entry <= _MAX_SIZE
            if not (isinstance(entry, bool) if usual else entry is None or whole):
                _refuse(self, name, "true or false" if usual else "a whole number above 0 or null")
        if all(entry is usual for entry in entries):
            object.__setattr__(self, name, ())

    def _check_rope(self) -> None:
        if self.rope_scaling is not None and not isinstance(self.rope_scaling, RopeScaling):
            _refuse(self, "rope_scaling", "an object")
        if self.positions == "rope" and (self.rotary_dim % 2 or self.rotary_dim > self.head_dim):
            _refuse(self, "rotary_dim", f"an even number up to head_dim {self.head_dim}")

    @property
    def n_head_per_kv_head(self) -> int:
        """How many query heads share a key/value head: 1 unless heads are grouped."""
        return self.n_head // self.n_kv_head

    def kv_head_of(self, head: int) -> int:
        """Which key/value head a query head reads."""
        return head // self.n_head_per_kv_head

    @property
    def eos_token_id(self) -> int | None:
        """The first of the tokens that end a text, which is written after one in training."""
        return self.eos_token_ids[0] if self.eos_token_ids else None

    def attention_scale(self, layer: int) -> float:
        """The factor on query-key products of a layer: 1 / sqrt(D), as the config asks for it."""
        if self.attn_scale is not None:
            return self.attn_scale
        scale = 1.0 / math.sqrt(self.head_dim) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    def layer_window(self, layer: int) -> int | None:
        """How many positions a query of a layer sees, its own included; None: all up to it."""
        return self.window[layer] if self.window else None

    def uses_rope(self, layer: int) -> bool:
        """Whether a layer has rotary positions."""
        return self.positions == "rope" and (not self.rope_layers or self.rope_layers[layer])

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


def _check_size(config: Any, name: str, most: int) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        _refuse(config, name, "a whole number above 0")
    if value > most:
        raise ModelFormatError(f"config.json: {name} {shown(value)} is more than any model has")


def _check_number(config: Any, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        _refuse(config, name, f"a number above {low:g} and below {high:g}")


def _check_switch(config: Any, name: str) -> None:
    if not isinstance(getattr(config, name), bool):
        _refuse(config, name, "true or false")


def _refuse(config: Any, name: str, wanted: str) -> NoReturn:
    value = shown(getattr(config, name))
    raise ModelFormatError(f"config.json: {name} is {value}, but it must be {wanted}")


NAMED_SIZES = {
    "gpt2": ModelConfig(),
    "distilgpt2": ModelConfig(n_layer=6),
    "gpt2-medium": ModelConfig(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": ModelConfig(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": ModelConfig(n_embd=1600, n_layer=48, n_head=25),
}
