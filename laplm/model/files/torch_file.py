"""``pytorch_model.bin``: pickles, read only by torch's loader that builds nothing but tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.model.files.safetensors_file import Array, refuse


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """A tensor that torch's restricted loader mapped from a file."""

    path: Path
    value: Any  # torch.Tensor

    @property
    def dtype(self) -> str:
        """F32, F16, BF16 as in safetensors files, or torch's own words for what is not read."""
        import torch

        # Only numbers that lie in memory, one after the other or at fixed distances, are read.
        if self.value.layout is not torch.strided or self.value.device.type != "cpu":
            return f"{self.value.layout}, on {self.value.device}".removeprefix("torch.")
        name = str(self.value.dtype).removeprefix("torch.")
        return {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(name, name)

    @property
    def shape(self) -> tuple[int, ...]:
        """As torch has it."""
        return tuple(self.value.shape)

    @property
    def mapped(self) -> bool:
        """Whether ``array`` copies nothing."""
        return self.dtype == "F32" and bool(self.value.is_contiguous())

    def array(self) -> Array:
        """All of it, in fp32."""
        # view(): the caller's flags are set on an array of its own, not on one torch keeps.
        array: Array = self.value.detach().float().contiguous().numpy().view()
        return array

    def rows(self) -> Callable[[NDArray[np.int64]], Array]:
        """Reads the rows of these numbers, in fp32."""
        value = self.value.detach()

        def read(numbers: NDArray[np.int64]) -> Array:
            rows: Array = value[numbers].float().numpy()
            return rows

        return read


def read_torch_file(path: Path) -> Mapping[str, TorchTensor]:
    """The tensors of a pickle file by name, mapped where torch can map them.

    Raises:
        ModelFormatError: torch is not installed, or the file is damaged, or it holds more than
            tensors, which is not built.
    """
    try:
        import torch
    except ImportError:
        refuse(
            path,
            "a pickle file, which is only read through torch's restricted loader. Either "
            'pip install "laplm[tune]", or convert it where transformers is installed: '
            'python -c "import transformers; transformers.AutoModelForCausalLM.from_pretrained'
            f"('{path.parent}').save_pretrained('converted')\"",
        )
    import pickle
    import warnings

    def load(mapped: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on pickle versions; refusals are raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)

    try:
        try:
            tensors = load(mapped=True)
        except RuntimeError as error:
            # Files from before torch 1.6 cannot be mapped; the same loader reads them.
            if "mmap can only be used" not in str(error):
                raise
            tensors = load(mapped=False)
    except pickle.UnpicklingError:
        refuse(
            path,
            "damaged, or holds more than tensors, which torch's restricted loader refuses; get "
            "the model as model.safetensors",
        )
    except Exception as error:  # torch raises many kinds for damaged files
        cause = (str(error) or type(error).__name__).splitlines()[0]
        refuse(path, f"torch cannot read it ({cause}); fetch or copy it again")
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        refuse(path, "not a table of tensors by name, as the weights of a model are")
    return {name: TorchTensor(path, value) for name, value in tensors.items()}
