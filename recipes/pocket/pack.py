"""Step 4: write the trained model as a model directory, small enough for the package."""

from __future__ import annotations

from pathlib import Path

from laplm import built_in
from laplm.errors import InputError
from laplm.files import write_file
from laplm.model.files.checkpoint import save_checkpoint
from recipes.pocket.smooth import smooth
from recipes.pocket.token_data import TokenData
from recipes.pocket.train import load_trained

MAX_BYTES = 25_000_000
"""What the built-in model may add to the package, its model card and checksums included."""


def pack(work: Path, directory: Path) -> int:
    """Write config, tokenizer, smoothed fp16 weights and their checksums to ``directory``.

    Returns:
        The bytes that the directory now holds.

    Raises:
        InputError: nothing has been trained, or the model is too large for the package.
        WriteError: the disk is full or cannot be written.
    """
    model = load_trained(work)
    smooth(model, TokenData.load(work / "train.npz"))
    tokenizer_json = (work / "tokenizer.json").read_text(encoding="utf-8")
    weights = 2 * model.config.n_parameters
    if weights + len(tokenizer_json.encode()) > MAX_BYTES:
        raise InputError(
            f"{model.config.n_parameters:,} parameters in fp16 and their tokenizer are more than "
            f"the {MAX_BYTES:,} bytes the package has for them; train a smaller model"
        )
    save_checkpoint(directory, model.config, model.tensors(), "fp16", tokenizer_json)
    write_checksums(directory)
    size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    if size > MAX_BYTES:
        raise InputError(
            f"{directory} holds {size:,} bytes, more than the {MAX_BYTES:,} the package has for "
            "the built-in model; train a smaller one"
        )
    return size


def write_checksums(directory: Path) -> None:
    """Write the ``SHA256SUMS`` that loading compares the model's files with.

    Raises:
        WriteError: the disk is full or cannot be written.
    """
    write_file(directory / built_in.CHECKSUMS, built_in.checksums(directory).encode())
