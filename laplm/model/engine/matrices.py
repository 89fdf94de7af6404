"""Which matrices a model is multiplied with: its tensors by role, joined where the kernels join.

Queries, keys and values are one matrix, as far as they are stored alike, and the tiles of gate and
up alternate in one, so that the activation function sees both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from laplm.model.config import ModelConfig
from laplm.model.engine import kernel_args as k
from laplm.model.engine.formats import FORMATS, Format
from laplm.model.engine.ggml_blocks import format_of, rows_of
from laplm.model.engine.packing import Rows, round_up
from laplm.model.engine.quantize import Precision, output_matrix_precision, quantize
from laplm.model.families import tensor_specs
from laplm.model.files.checkpoint import Checkpoint
from laplm.model.files.safetensors_file import check_finite
from laplm.model.tensors import LINEAR, TensorSpec

HEAD = "head"  # the name of the packed output matrix
_PLACES = {
    "q": k.MATRIX_QKV, "k": k.MATRIX_QKV, "v": k.MATRIX_QKV, "qkv": k.MATRIX_QKV,
    "attn_out": k.MATRIX_ATTN_OUT, "gate": k.MATRIX_UP, "up": k.MATRIX_UP,
    "gate_up": k.MATRIX_UP, "down": k.MATRIX_DOWN,
}  # fmt: skip
_STORED = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_WIDENED = "q8_0"  # what is stored in a way that the kernels do not have


@dataclass(frozen=True, eq=False)
class Source:
    """Rows of a tensor that are rows of a matrix, one after the other.

    Attributes:
        spec: the tensor.
        rows: their numbers in it (of outputs, however the tensor lies in the file).
    """

    spec: TensorSpec
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Matrix:
    """One matrix as the kernels have it.

    Attributes:
        name: of its arrays in the file of prepared weights.
        form: how its numbers are stored.
        sources: what it is made of, from its first row on.
        alternate: whether the tiles of its two sources alternate.
        layer: None for the output matrix.
        place: of ``kernel_args``' matrices of a layer.
        column: where its outputs begin in their buffer.
    """

    name: str
    form: Format
    sources: tuple[Source, ...]
    alternate: bool = False
    layer: int | None = None
    place: int = 0
    column: int = 0

    @property
    def n_in(self) -> int:
        """Inputs."""
        spec = self.sources[0].spec
        return spec.shape[1] if spec.layout == "out_in" else spec.shape[0]

    @property
    def n_out(self) -> int:
        """Rows; of a matrix with alternating tiles, those of whole tiles."""
        if self.alternate:
            return 2 * round_up(len(self.sources[0].rows), k.TILE)
        return sum(len(source.rows) for source in self.sources)


def n_rows(spec: TensorSpec) -> int:
    """Outputs of a matrix."""
    return spec.shape[0] if spec.layout == "out_in" else spec.shape[1]


def _whole(spec: TensorSpec, config: ModelConfig) -> Source:
    """All rows of a tensor, queries before keys before values where each head has its own."""
    rows = np.arange(n_rows(spec))
    if spec.per_head:
        rows = rows.reshape(config.n_head, 3, config.head_dim).swapaxes(0, 1).ravel()
    return Source(spec, rows)


def _halves(spec: TensorSpec) -> tuple[Source, Source]:
    """Gate and up of a tensor that holds both."""
    gate, up = np.split(np.arange(n_rows(spec)), 2)
    return Source(spec, gate), Source(spec, up)


def matrices(checkpoint: Checkpoint, precision: Precision) -> Iterator[Matrix]:
    """All matrices in the order of the forward pass, the output matrix last."""
    config = checkpoint.config
    specs = tensor_specs(config)
    linear = [spec for spec in specs.values() if spec.is_linear]
    whole = functools.partial(_whole, config=config)
    for layer, of_layer in groupby(linear, lambda spec: spec.layer):
        by_place: dict[int, list[TensorSpec]] = {}
        for spec in sorted(of_layer, key=lambda spec: LINEAR.index(spec.role)):
            by_place.setdefault(_PLACES[spec.role], []).append(spec)
        for place, parts in sorted(by_place.items()):
            forms = [form_of(checkpoint, spec, precision) for spec in parts]
            if place == k.MATRIX_UP and config.gated:
                pair = _halves(parts[0]) if len(parts) == 1 else tuple(map(whole, parts))
                form = forms[0]
                if form != forms[-1]:  # what both can be in
                    form = FORMATS["fp32" if any(f.is_float for f in forms) else _WIDENED]
                yield Matrix(f"{layer}.gate_up", form, pair, True, layer, place)
            else:
                yield from _side_by_side([*map(whole, parts)], forms, place)
    role = "embed" if config.tied else "unembed"
    head = next(spec for spec in specs.values() if spec.role == role)
    yield Matrix(
        HEAD, form_of(checkpoint, head, output_matrix_precision(precision)), (whole(head),)
    )


def _side_by_side(parts: Sequence[Source], forms: Sequence[Format], place: int) -> Iterator[Matrix]:
    """Matrices whose outputs lie one after the other, joined where they are stored alike."""
    column = 0
    for i, (form, some) in enumerate(groupby(zip(parts, forms, strict=True), lambda pair: pair[1])):
        sources = tuple(source for source, _ in some)
        layer, name = sources[0].spec.layer, sources[0].spec.stem
        if len(sources) > 1:
            name = f"{layer}.{''.join(source.spec.role for source in sources)}"
        yield Matrix(name, form, sources, False, layer, place + i, column)
        column += sum(len(source.rows) for source in sources)


def default_precision(checkpoint: Checkpoint) -> Precision:
    """As it is stored, for a model that is quantised already; else int8."""
    specs = tensor_specs(checkpoint.config).values()
    quantised = any(
        checkpoint.tensors[spec.name].dtype not in _STORED for spec in specs if spec.is_linear
    )
    return "stored" if quantised else "int8"


def form_of(checkpoint: Checkpoint, spec: TensorSpec, precision: Precision) -> Format:
    """How a matrix is stored for the kernels.

    In int4, weights that a file has in four bits stay as they are: rounded once more, to groups
    without minimums, those of a Q4_1 file would lose more than they lost the first time.
    """
    dtype = checkpoint.tensors[spec.name].dtype
    stored = format_of(dtype)
    if precision == "int4" and stored and stored.bits == 4:
        return stored
    if precision != "stored":
        return FORMATS[precision]
    return FORMATS[_STORED[dtype]] if dtype in _STORED else stored or FORMATS[_WIDENED]


def reader(checkpoint: Checkpoint, source: Source, form: Format) -> Callable[[int, int], Rows]:
    """A function from a range of a source's rows to these rows in a format.

    Raises:
        ModelFormatError: a weight is NaN or infinite.
    """
    tensor, rows = checkpoint.tensors[source.spec.name], source.rows
    if format_of(tensor.dtype) == form and hasattr(tensor, "blocks"):
        blocks: NDArray[np.uint8] = tensor.blocks()
        return lambda start, stop: rows_of(tensor.dtype, blocks[rows[start:stop]])
    values = checkpoint.tensor(source.spec.name)
    check_finite(source.spec.name, values)
    if source.spec.layout == "in_out":
        values = values.T
    return lambda start, stop: quantize(values[rows[start:stop]], form)
