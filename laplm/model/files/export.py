"""Models in the forms that other programs read: Hugging Face directories and GGUF files.

Torch is not needed here. What was written is read again and compared before it is moved into place.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError
from laplm.files import new_file, sync_directory, temporary_name
from laplm.model import reference
from laplm.model.config import ModelConfig
from laplm.model.files.adapter import is_adapter
from laplm.model.files.checkpoint import Checkpoint, StoredDtype, open_checkpoint, save_checkpoint
from laplm.model.files.gguf_writer import check_llama_cpp, write_gguf
from laplm.model.files.modelfile import modelfile, write_modelfile
from laplm.model.pretrained_settings import PretrainedModel
from laplm.model.weights import DenseKVCache

Array = NDArray[np.float32]
Form = Literal["hf", "peft-merged", "gguf"]
FORMS = ("hf", "peft-merged", "gguf")
PRECISIONS: dict[str, tuple[str, ...]] = {
    "hf": ("f32", "f16", "bf16"),
    "peft-merged": ("f32", "f16", "bf16"),
    "gguf": ("f32", "f16", "q8_0"),
}
_STORED: dict[str, StoredDtype] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
# How far logits may move, as a share of their own spread, before something must be wrong: rounding
# moves them several times less, a matrix that lies the wrong way round several times more.
_TOLERANCE = {"f32": 1e-4, "f16": 0.05, "bf16": 0.2, "q8_0": 0.25}


class Model(PretrainedModel, Protocol):
    """What exporting needs of a model; ``laplm.LanguageModel`` has it."""

    path: Path


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the directory, or the ``.gguf`` file.
        size_bytes: of the weights.
        deviation: how far logits moved at most, as a share of their spread.
        also: other files that were written.
    """

    path: Path
    size_bytes: int
    deviation: float
    also: tuple[Path, ...] = ()


def export(
    model: Model, out: str | Path, form: Form | None = None, precision: str = "f32"
) -> Exported:
    """Write a model, adapters merged, as another program reads it.

    Args:
        model: what to write.
        out: a new directory for ``hf`` (``peft-merged`` is the same, of an adapter alone); for
            ``gguf`` a file that ends in .gguf, beside which a Modelfile for ollama is put.
        form: of ``FORMS``; None goes by ``out``: gguf where it ends in .gguf, else hf.
        precision: of ``PRECISIONS[form]``.

    Raises:
        WriteError: the disk is full or cannot be written.
        InputError: the form cannot hold this model, or ``out`` cannot be used.
        MissingExtraError: the gguf package is not installed.
    """
    path = Path(out)
    names_gguf = path.suffix.lower() == ".gguf"
    if form is None:
        form = "gguf" if names_gguf else "hf"
    if form not in FORMS:
        raise InputError(f"form is {form!r}, but it must be one of {', '.join(FORMS)}")
    if precision not in PRECISIONS[form]:
        raise InputError(
            f"precision is {precision!r}, but {form} can be {', '.join(PRECISIONS[form])}"
        )
    if form == "peft-merged" and not is_adapter(model.path):
        raise InputError(f"{model.path} is not an adapter, so there is nothing to merge; use hf")
    if form == "gguf":
        return _export_gguf(model, path, precision)
    if names_gguf:
        raise InputError(
            f"{path} ends in .gguf, but {form} is a directory; leave out --to, or name another one"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is there already; choose another directory")
    return _export_directory(model, path, precision)


def _export_directory(model: Model, path: Path, precision: str) -> Exported:
    tensors = {name: model.checkpoint.tensor(name) for name in model.checkpoint.names}
    temporary = temporary_name(path)
    try:
        save_checkpoint(
            temporary,
            model.checkpoint.config,
            tensors,
            _STORED[precision],
            model.tokenizer.to_json(),
            model.settings,
        )
        size, deviation = _check(model.checkpoint, temporary, precision)
        try:
            if path.is_dir():  # and empty, as was checked
                path.rmdir()
            temporary.rename(path)
            sync_directory(path.parent)
        except OSError as error:  # a tuning or another export was quicker
            raise InputError(
                f"{path} was written to by someone else meanwhile ({error.strerror}); choose "
                "another directory"
            ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(path, size, deviation)


# --- GGUF -------------------------------------------------------------------------------------


def _export_gguf(model: Model, path: Path, precision: str) -> Exported:
    config = model.checkpoint.config
    check_llama_cpp(config)
    if path.suffix.lower() != ".gguf":
        raise InputError(f"{path} must end in .gguf")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a directory; make it first")
    if path.exists():
        raise InputError(f"{path} is there already; choose another name")
    with new_file(path, advice="choose another place") as temporary:
        write_gguf(model, temporary, precision)
        _, deviation = _check(model.checkpoint, temporary, precision)
    text = modelfile(path.name, model.tokenizer, config, model.settings, model.chat_template)
    beside = path.with_name("Modelfile")
    also = (beside,) if write_modelfile(beside, text, path.name) else ()
    return Exported(path, path.stat().st_size, deviation, also)


# --- checking ---------------------------------------------------------------------------------


def _check(checkpoint: Checkpoint, path: Path, precision: str) -> tuple[int, float]:
    """The size of what was written, and its deviation.

    None of its files is held open after that: Windows would refuse to rename them.
    """
    written = open_checkpoint(path)
    found = {name: written.tensor(name) for name in written.names}
    return written.size_bytes, _deviation(checkpoint, found, written.config, precision)


def _deviation(
    checkpoint: Checkpoint, found: dict[str, Array], config: ModelConfig, precision: str
) -> float:
    """How far the logits of what was written are from the model's, as a share of their spread.

    Raises:
        InputError: further than rounding can bring them.
    """
    ids = np.arange(1, 1 + min(24, config.n_ctx)) * 7919 % config.vocab_size
    exact = {name: checkpoint.tensor(name) for name in checkpoint.names}
    logits = [
        reference.forward(ids, reference.DenseWeights(tensors, each), each, DenseKVCache())
        for tensors, each in ((exact, checkpoint.config), (found, config))
    ]
    deviation = float(np.abs(logits[1] - logits[0]).max() / (logits[0].std() or 1.0))
    if not deviation <= _TOLERANCE[precision]:
        raise InputError(
            f"what was written does not compute what the model computes (logits differ by "
            f"{deviation:.3g} of their spread); please report this"
        )
    return deviation
