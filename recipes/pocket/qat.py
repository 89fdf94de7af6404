"""Quantisation-aware training (QAT): steps computed on weights as they will be rounded.

A model trained to the end in fp32 loses a few per cent of its perplexity when its matrices are
rounded to int4. When some of the last steps are computed on rounded matrices, and applied to the
exact ones, it loses less (the straight-through estimator, Bengio et al. 2013, arXiv:1308.3432;
Jacob et al. 2018, arXiv:1712.05877, section 3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from laplm.errors import MissingExtraError
from laplm.model.engine.formats import FORMATS
from laplm.model.engine.packing import unpack
from laplm.model.engine.quantize import Precision, pack
from laplm.model.families import tensor_specs
from laplm.tune.models.gpt2 import TorchGPT

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


@contextlib.contextmanager
def fake_quantized_weights(model: TorchGPT, precision: Precision = "int4") -> Iterator[None]:
    """Within, the matrices inside the layers are what the engine makes of them in ``precision``.

    Gradients are those of the rounded matrices, and stay when the exact ones are back.
    """
    exact: dict[str, Tensor] = {}
    try:
        specs = tensor_specs(model.config)
        for name, parameter in model.named_parameters():
            if name in specs and specs[name].is_linear:
                exact[name] = parameter.data
                parameter.data = fake_quantize(parameter.data, precision)
        yield
    finally:
        for name, parameter in model.named_parameters():
            if name in exact:
                parameter.data = exact[name]


def fake_quantize(matrix: Tensor, precision: Precision) -> Tensor:
    """A matrix (inputs, outputs) packed in ``precision`` and unpacked again."""
    rows = matrix.detach().t().to("cpu", torch.float32).numpy()  # (outputs, inputs)
    back = unpack(*pack(rows, precision), FORMATS[precision], *rows.shape)
    return torch.from_numpy(back).t().to(matrix)
