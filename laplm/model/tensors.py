"""Tensors by what they do: the names that checkpoints give them stand in the families alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ROLES = (
    "embed", "pos_embed", "norm1", "q", "k", "v", "qkv", "q_norm", "k_norm", "attn_out",
    "post_norm1", "norm2", "gate", "up", "gate_up", "down", "post_norm2", "final_norm", "unembed",
)  # fmt: skip
NORMS = ("norm1", "q_norm", "k_norm", "post_norm1", "norm2", "post_norm2", "final_norm")
LINEAR = ("q", "k", "v", "qkv", "attn_out", "gate", "up", "gate_up", "down")  # in the layers
Part = Literal["weight", "bias"]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint.

    Attributes:
        name: in the family's checkpoint.
        shape: as it is stored.
        role: of ``ROLES``.
        layer: None outside the layers.
        part: "weight" (of a norm: its gain) or "bias".
        layout: of a matrix: "out_in", a row for each output (or token), or "in_out".
        per_head: of "qkv": whether the rows of a head's q, k and v lie together, head after head;
            else all heads' q come first, then all k, then all v.
        hf_prefix: whether Hugging Face's files put the family's prefix before the name.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    layer: int | None = None
    part: Part = "weight"
    layout: Literal["out_in", "in_out"] = "out_in"
    hf_prefix: bool = True
    per_head: bool = False

    @property
    def is_linear(self) -> bool:
        """Whether it is the matrix of a linear layer inside the layers."""
        return self.role in LINEAR and self.part == "weight"

    @property
    def stem(self) -> str:
        """The name of the layer that it is a part of: ``name`` without ``.weight``, ``.bias``."""
        return self.name.rpartition(".")[0]

    @property
    def kind(self) -> str:
        """The stem without the layer's number, the same in every layer."""
        return self.stem.partition(f".{self.layer}.")[2] if self.layer is not None else self.stem
