"""The sizes and settings of a GPT-2-architecture model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laplm.errors import ModelFormatError

# So that a damaged config.json is refused rather than looped over for ever.
_MAX_SIZE = 1 << 31
_MAX_LAYERS = 10_000
_SWITCHES = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings")
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "silu")


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Sizes of one model, in GPT-2's own names; refused when they cannot be a model.

    Raises:
        ModelFormatError: a size is not positive, heads do not divide the width, or a setting
            asks for an architecture this engine does not run.
    """

    vocab_size: int = 50257
    n_ctx: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int = 0  # 0 means 4 * n_embd, resolved on construction
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    eos_token_id: int | None = 50256

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_ctx", "n_embd", "n_layer", "n_head", "n_inner"):
            value = getattr(self, name)
            if name == "n_inner" and value == 0 and not isinstance(value, bool):
                object.__setattr__(self, "n_inner", 4 * self.n_embd)
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelFormatError(
                    f"config.json: {name} is {value!r}, but it must be a whole number above 0"
                )
            if value > (_MAX_LAYERS if name == "n_layer" else _MAX_SIZE):
                raise ModelFormatError(f"config.json: {name} {value} is more than any model has")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ModelFormatError(
                    f"config.json: {name} is {getattr(self, name)!r}, but it must be true or false"
                )
        epsilon = self.layer_norm_epsilon
        if not isinstance(epsilon, int | float) or not 0 < epsilon < 1 or epsilon is True:
            raise ModelFormatError(
                f"config.json: layer_norm_epsilon is {epsilon!r}, but it must be a small number "
                "above 0"
            )
        if self.n_embd % self.n_head:
            raise ModelFormatError(
                f"config.json: n_embd {self.n_embd} cannot be split into n_head {self.n_head} heads"
            )
        if self.activation_function not in ACTIVATIONS:
            raise ModelFormatError(
                f"config.json: activation_function {self.activation_function!r} is not one of "
                + ", ".join(ACTIVATIONS)
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head, D = C / H."""
        return self.n_embd // self.n_head

    @property
    def n_parameters(self) -> int:
        """Count of trained numbers; a tied output matrix is counted once."""
        return sum(_size(shape) for shape in tensor_shapes(self).values())

    @property
    def n_multiplied(self) -> int:
        """Weights of the blocks, the head left out: multiplications for each token."""
        return self.n_layer * (4 * self.n_embd**2 + 2 * self.n_embd * self.n_inner)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTConfig:
        """Read the contents of a Hugging Face ``config.json``.

        Raises:
            ModelFormatError: it describes another kind of model, or its sizes are impossible.
        """
        model_type = values.get("model_type", "gpt2")
        if model_type != "gpt2":
            raise ModelFormatError(
                f"config.json: model_type is {model_type!r}; laplm runs the GPT-2 family only "
                '(model_type "gpt2")'
            )
        if values.get("add_cross_attention"):
            raise ModelFormatError(
                "config.json: add_cross_attention is on; laplm runs decoder-only GPT-2 models"
            )
        if isinstance(how := values.get("quantization_config"), Mapping):
            raise ModelFormatError(
                f"config.json: the weights are quantised ({how.get('quant_method', 'unknown')}); "
                "laplm rounds weights itself, so give it the model in fp32, fp16 or bf16"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        kept = {k: v for k, v in values.items() if k in known and v is not None}
        kept["n_ctx"] = values.get("n_positions", values.get("n_ctx", cls.n_ctx))
        eos = values.get("eos_token_id", cls.eos_token_id)
        kept["eos_token_id"] = eos[0] if isinstance(eos, list) and eos else eos
        config = cls(**kept)
        # Models with a vocabulary of their own often keep GPT-2's 50256, which they do not have.
        if config.eos_token_id is not None and not (
            type(config.eos_token_id) is int and 0 <= config.eos_token_id < config.vocab_size
        ):
            config = dataclasses.replace(config, eos_token_id=None)
        return config

    def to_dict(self) -> dict[str, Any]:
        """The Hugging Face ``config.json`` of this model."""
        values = dataclasses.asdict(self)
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            **values,
            "n_positions": self.n_ctx,
            "bos_token_id": self.eos_token_id,
        }


def tensor_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model by its GPT-2 name (no ``transformer.`` prefix), with its shape.

    Linear weights are stored as GPT-2 does, (inputs, outputs). ``lm_head.weight`` (V, C) is
    listed only when it is not tied to ``wte.weight``.
    """
    c, inner = config.n_embd, config.n_inner
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.vocab_size, c),
        "wpe.weight": (config.n_ctx, c),
    }
    for i in range(config.n_layer):
        shapes |= {
            f"h.{i}.ln_1.weight": (c,),
            f"h.{i}.ln_1.bias": (c,),
            f"h.{i}.attn.c_attn.weight": (c, 3 * c),
            f"h.{i}.attn.c_attn.bias": (3 * c,),
            f"h.{i}.attn.c_proj.weight": (c, c),
            f"h.{i}.attn.c_proj.bias": (c,),
            f"h.{i}.ln_2.weight": (c,),
            f"h.{i}.ln_2.bias": (c,),
            f"h.{i}.mlp.c_fc.weight": (c, inner),
            f"h.{i}.mlp.c_fc.bias": (inner,),
            f"h.{i}.mlp.c_proj.weight": (inner, c),
            f"h.{i}.mlp.c_proj.bias": (c,),
        }
    shapes |= {"ln_f.weight": (c,), "ln_f.bias": (c,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, c)
    return shapes


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


NAMED_SIZES = {
    "gpt2": GPTConfig(),
    "distilgpt2": GPTConfig(n_layer=6),
    "gpt2-medium": GPTConfig(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": GPTConfig(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": GPTConfig(n_embd=1600, n_layer=48, n_head=25),
}
