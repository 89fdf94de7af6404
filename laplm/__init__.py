"""laplm: run, look inside and fine-tune a GPT-2-family language model on your own laptop.

Example:
    >>> import laplm
    >>> lm = laplm.load("pocket")  # doctest: +SKIP
    >>> lm.generate("Once upon a time", max_new_tokens=20, seed=1).text  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laplm.errors import (
        CacheError,
        CheckpointError,
        ContextLengthError,
        DownloadError,
        InputError,
        LaplmError,
        MissingExtraError,
        ModelFormatError,
        ModelNotFoundError,
        TokenizerError,
        WriteError,
    )
    from laplm.model.config import ModelConfig
    from laplm.model.tokenizer import Tokenizer
    from laplm.run.generate import GenerationStream
    from laplm.run.language_model import LanguageModel, load
    from laplm.run.results import GenerationResult, GenerationStep
    from laplm.run.sampler import SamplingParams
    from laplm.tune.tuning import fine_tune

__version__ = "0.1.0"

_HOME = {
    "CacheError": "errors",
    "CheckpointError": "errors",
    "ContextLengthError": "errors",
    "DownloadError": "errors",
    "ModelConfig": "model.config",
    "GenerationResult": "run.results",
    "GenerationStep": "run.results",
    "GenerationStream": "run.generate",
    "InputError": "errors",
    "LanguageModel": "run.language_model",
    "LaplmError": "errors",
    "MissingExtraError": "errors",
    "ModelFormatError": "errors",
    "ModelNotFoundError": "errors",
    "SamplingParams": "run.sampler",
    "Tokenizer": "model.tokenizer",
    "TokenizerError": "errors",
    "WriteError": "errors",
    "fine_tune": "tune.tuning",
    "load": "run.language_model",
}

__all__ = [
    "CacheError",
    "CheckpointError",
    "ContextLengthError",
    "DownloadError",
    "GenerationResult",
    "GenerationStep",
    "GenerationStream",
    "InputError",
    "LanguageModel",
    "LaplmError",
    "MissingExtraError",
    "ModelConfig",
    "ModelFormatError",
    "ModelNotFoundError",
    "SamplingParams",
    "Tokenizer",
    "TokenizerError",
    "WriteError",
    "__version__",
    "fine_tune",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import laplm`` itself loads nothing heavy."""
    if name not in _HOME:
        raise AttributeError(f"module 'laplm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"laplm.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
