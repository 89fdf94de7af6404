"""The sizes and settings of a GPT-2-architecture model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laplm.errors import ModelFormatError, shown

# So that a damaged config.json is refused rather than looped over for ever.
_MAX_SIZE = 1 << 31
_MAX_LAYERS = 10_000
_SWITCHES = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings")
ACTIVATIONS = (
    "gelu_new", "gelu_pytorch_tanh", "gelu", "gelu_10", "quick_gelu", "relu", "relu2", "relu6",
    "leaky_relu", "silu", "mish", "hardswish", "tanh", "sigmoid", "laplace", "linear",
)  # fmt: skip
# transformers' other names of the same functions.
_SAME_ACTIVATIONS = {
    "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new", "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_pytorch_tanh", "swish": "silu",
}  # fmt: skip
# The names that all of transformers' models share; where both stand, transformers takes these.
_SHARED_NAMES = {
    "hidden_size": "n_embd", "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Sizes of one model, in GPT-2's own names; refused when they cannot be a model.

    ``bos_token_id`` begins a text of which nothing is given, and each of ``eos_token_ids`` ends
    one; ``pad_token_id`` fills batches in other programs.

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
    bos_token_id: int | None = 50256
    eos_token_ids: tuple[int, ...] = (50256,)
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_ctx", "n_embd", "n_layer", "n_head", "n_inner"):
            value = getattr(self, name)
            if name == "n_inner" and value == 0 and not isinstance(value, bool):
                object.__setattr__(self, "n_inner", 4 * self.n_embd)
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelFormatError(
                    f"config.json: {name} is {shown(value)}, but it must be a whole number above 0"
                )
            if value > (_MAX_LAYERS if name == "n_layer" else _MAX_SIZE):
                raise ModelFormatError(
                    f"config.json: {name} {shown(value)} is more than any model has"
                )
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ModelFormatError(
                    f"config.json: {name} is {shown(getattr(self, name))}, but it must be true or "
                    "false"
                )
        epsilon = self.layer_norm_epsilon
        if not isinstance(epsilon, int | float) or not 0 < epsilon < 1 or epsilon is True:
            raise ModelFormatError(
                f"config.json: layer_norm_epsilon is {shown(epsilon)}, but it must be a small "
                "number above 0"
            )
        if self.n_embd % self.n_head:
            raise ModelFormatError(
                f"config.json: n_embd {self.n_embd} cannot be split into n_head {self.n_head} heads"
            )
        for name, same in _SAME_ACTIVATIONS.items():
            if self.activation_function == name:
                object.__setattr__(self, "activation_function", same)
        if self.activation_function not in ACTIVATIONS:
            known = sorted({*ACTIVATIONS, *_SAME_ACTIVATIONS})
            raise ModelFormatError(
                f"config.json: activation_function {shown(self.activation_function)} is not one "
                f"of {', '.join(known)}"
            )

    @property
    def eos_token_id(self) -> int | None:
        """The first of the tokens that end a text, which is written after one in training."""
        return self.eos_token_ids[0] if self.eos_token_ids else None

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
    def from_dict(
        cls, values: Mapping[str, Any], generation: Mapping[str, Any] | None = None
    ) -> GPTConfig:
        """Read the contents of a Hugging Face ``config.json``.

        Args:
            values: the contents.
            generation: those of the ``generation_config.json`` beside it. It comes before the
                other where the two name another bos or pad, and ends of either end a text.

        Raises:
            ModelFormatError: it describes another kind of model, or its sizes are impossible.
        """
        model_type = values.get("model_type", "gpt2")
        if model_type != "gpt2":
            raise ModelFormatError(
                f"config.json: model_type is {shown(model_type)}; laplm runs the GPT-2 family only "
                '(model_type "gpt2")'
            )
        if values.get("add_cross_attention"):
            raise ModelFormatError(
                "config.json: add_cross_attention is on; laplm runs decoder-only GPT-2 models"
            )
        if isinstance(how := values.get("quantization_config"), Mapping):
            raise ModelFormatError(
                f"config.json: the weights are quantised ({shown(how.get('quant_method'))}); "
                "laplm rounds weights itself, so give it the model in fp32, fp16 or bf16"
            )
        shared = {own: values[name] for name, own in _SHARED_NAMES.items() if name in values}
        values = {**values, **{own: value for own, value in shared.items() if value is not None}}
        known = {field.name for field in dataclasses.fields(cls)}
        kept = {k: v for k, v in values.items() if k in known and v is not None}
        kept["n_ctx"] = values.get("n_positions", values.get("n_ctx", cls.n_ctx))
        named = (values, generation or {})
        kept["eos_token_ids"] = tuple(
            token for each in named for token in _ids(each.get("eos_token_id"))
        )
        if "eos_token_id" not in values:
            kept["eos_token_ids"] = (*cls.eos_token_ids, *kept["eos_token_ids"])
        for key in ("bos_token_id", "pad_token_id"):
            default = _ids(values.get(key, getattr(cls, key)))
            kept[key] = next(iter(_ids((generation or {}).get(key)) or default), None)
        config = cls(**kept)

        # Models with a vocabulary of their own often keep GPT-2's 50256, which they do not have.
        def there(token: int | None) -> bool:
            return token is not None and 0 <= token < config.vocab_size

        return dataclasses.replace(
            config,
            eos_token_ids=tuple(dict.fromkeys(filter(there, config.eos_token_ids))),
            bos_token_id=config.bos_token_id if there(config.bos_token_id) else None,
            pad_token_id=config.pad_token_id if there(config.pad_token_id) else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """The Hugging Face ``config.json`` of this model."""
        values = dataclasses.asdict(self)
        ends = values.pop("eos_token_ids")
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            **values,
            "n_positions": self.n_ctx,
            "eos_token_id": list(ends) if len(ends) > 1 else self.eos_token_id,
        }


def _ids(value: object) -> tuple[int, ...]:
    """Token ids as files have them: one, or a list; whatever else stands there is none."""
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if type(v) is int)


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
