"""What stands beside a model's weights and tokens, and goes along when the model is written again.

transformers reads it from ``config.json`` (more than the sizes), ``generation_config.json``,
``tokenizer_config.json``, ``special_tokens_map.json`` and the chat template. laplm computes without
most of it, but whoever opens what laplm wrote must find what was in the model it was made of.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from laplm.model.chat import DEFAULT, ChatTemplate, read_chat_templates
from laplm.model.config import ModelConfig
from laplm.model.families import config_to_hf
from laplm.model.files.checkpoint import Checkpoint, read_json
from laplm.model.tokenizer import Tokenizer
from laplm.model.tokenizer_file import END_OF_TEXT, read_settings

# Other names of sizes, which all of transformers' configs share; written under GPT-2's own.
_SHARED_NAMES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
)  # fmt: skip
# True of the files that the model came in, and not of those that are written.
_OF_THE_CONFIG_FILE = (
    "_name_or_path", "auto_map", "dtype", "torch_dtype", "transformers_version",
)  # fmt: skip
_OF_THE_TOKENIZER_FILES = (
    "added_tokens_decoder",  # tokenizer.json has them
    "add_bos_token", "add_eos_token",  # its post-processor does it
    "auto_map", "backend", "chat_template", "init_inputs", "is_local", "local_files_only",
    "merges_file", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file",
)  # fmt: skip
# By which a directory is known to have a tokenizer of its own.
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "encoder.json")


# How a model's makers have it sampled: names in generation_config.json, and in GGUF files.
_GGUF_SAMPLING = {
    "temperature": "general.sampling.temp", "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p", "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}  # fmt: skip
# What transformers takes for what is not said of a model that draws.
_TRANSFORMERS_SAMPLING = {"temperature": 1.0, "top_k": 50}


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings:
    """Settings of a model directory; those of a model that was never in one are GPT-2's.

    Attributes:
        config: ``config.json``.
        generation_config: ``generation_config.json``, where there is one.
        tokenizer_config: ``tokenizer_config.json`` and ``special_tokens_map.json``, as transformers
            puts the two together.
        special_tokens: the tokenizer's by name; None for a model that was never in a directory.
        chat_templates: Jinja by name; the name of most is "default".
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    generation_config: Mapping[str, Any] | None = None
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens: Mapping[str, str] | None = None
    chat_templates: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_directories(cls, path: Path, base: Path, tokenizer: Tokenizer) -> PretrainedSettings:
        """Read them.

        Args:
            path: the directory of a model, or of an adapter; or a GGUF file.
            base: that of the adapter's base model, or its GGUF file, from which comes what the
                adapter does not have; else ``path`` again.
            tokenizer: the model's.

        Raises:
            ChatTemplateError: a file of the chat template cannot be read.
            ModelFormatError: another file cannot be read.
            TokenizerError: the same, of the tokenizer's.
        """
        if path.is_file():
            from laplm.model.files.gguf_reader import read_gguf

            return cls.from_gguf(read_gguf(path).metadata, tokenizer)
        if base.is_file():
            adapters = cls.from_directories(path, path, tokenizer)
            return adapters.with_defaults_from(cls.from_directories(base, base, tokenizer))
        own = any((path / name).is_file() for name in _TOKENIZER_FILES)
        generation = (each / "generation_config.json" for each in (path, base))
        return cls(
            config=_read_if_there(base / "config.json") or {},
            generation_config=next(filter(None, map(_read_if_there, generation)), None),
            tokenizer_config=_tokenizer_config(path if own else base),
            special_tokens=tokenizer.special_tokens,
            chat_templates=read_chat_templates(path) or read_chat_templates(base),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], tokenizer: Tokenizer) -> PretrainedSettings:
        """Those of a GGUF file, from its settings by their keys."""
        from laplm.model.files.gguf_tokenizer import chat_templates

        found = {name: metadata.get(key) for name, key in _GGUF_SAMPLING.items()}
        sampling = {name: value for name, value in found.items() if isinstance(value, int | float)}
        return cls(
            generation_config=sampling or None,
            special_tokens=tokenizer.special_tokens,
            chat_templates=chat_templates(metadata),
        )

    def with_defaults_from(self, base: PretrainedSettings) -> PretrainedSettings:
        """These of an adapter, and what they do not say as its base model's GGUF file has it."""
        return dataclasses.replace(
            self,
            generation_config=self.generation_config or base.generation_config,
            chat_templates=self.chat_templates or base.chat_templates,
        )

    @property
    def sampling(self) -> dict[str, Any]:
        """How the model's makers have it sampled, as far as they say, by transformers' names.

        As in transformers ``do_sample`` draws, with its defaults for what is not said, and false
        takes the likeliest token. Where it is missing, as in GGUF files, what is said counts.
        """
        said = {
            name: value
            for name, value in (self.generation_config or {}).items()
            if name in _GGUF_SAMPLING and value is not None
        }
        draws = (self.generation_config or {}).get("do_sample")
        if draws is False:
            return said | {"temperature": 0.0}
        return (_TRANSFORMERS_SAMPLING if draws is True else {}) | said

    def files(
        self, config: ModelConfig, dtype: str, tokenizer_json: str | None
    ) -> dict[str, dict[str, Any]]:
        """Contents of a whole model's JSON files beside ``tokenizer.json``, by their names.

        Args:
            config: the sizes of what is written.
            dtype: how its numbers are stored, by torch's name.
            tokenizer_json: its ``tokenizer.json``; None for a model without a tokenizer.
        """
        files = {"config.json": self._config_json(config) | {"torch_dtype": dtype}}
        if self.generation_config is not None:
            files["generation_config.json"] = dict(self.generation_config)
        if tokenizer_json is not None:
            files["tokenizer_config.json"] = self.tokenizer_config_json(config, tokenizer_json)
        return files

    def _config_json(self, config: ModelConfig) -> dict[str, Any]:
        came = {
            name: value
            for name, value in self.config.items()
            if name not in (*_SHARED_NAMES, *_OF_THE_CONFIG_FILE)
        }
        # What laplm brings into a form of its own stays as it came.
        kept = (
            "activation_function", "hidden_act", "hidden_activation", "bos_token_id",
            "eos_token_id", "pad_token_id",
        )  # fmt: skip
        return came | config_to_hf(config) | {name: came[name] for name in kept if name in came}

    def tokenizer_config_json(self, config: ModelConfig, tokenizer_json: str) -> dict[str, Any]:
        """``tokenizer_config.json``, with which transformers reads ``tokenizer.json`` as it is.

        A model's own class would not do: since version 5 transformers builds GPT2Tokenizer from the
        vocabulary and the merges alone, with GPT-2's way to cut a text into words.
        """
        stored = json.loads(tokenizer_json)
        came = {
            name: _plain_tokens(value)
            for name, value in self.tokenizer_config.items()
            if name not in _OF_THE_TOKENIZER_FILES
        }
        special = self.special_tokens
        values = {
            "model_max_length": config.n_ctx,
            **came,
            **(_own_tokens(config, stored) if special is None else special),
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        values.pop("add_prefix_space", None)
        prefix_space = (stored.get("pre_tokenizer") or {}).get("add_prefix_space")
        if prefix_space is not None:
            # transformers 4 changes the pre-tokenizer to what is said here.
            values["add_prefix_space"] = prefix_space
        if self.chat_templates:
            values["chat_template"] = self.listed_templates()
        return values

    def listed_templates(self) -> str | list[dict[str, str]]:
        """The chat templates as ``tokenizer_config.json`` and GGUF files have them."""
        if self.chat_templates.keys() == {DEFAULT}:
            return self.chat_templates[DEFAULT]
        return [{"name": name, "template": text} for name, text in self.chat_templates.items()]


def _own_tokens(config: ModelConfig, stored: Mapping[str, Any]) -> dict[str, str]:
    """As GPT-2's tokenizer, of which one token is beginning and end."""
    by_id = {token["id"]: token["content"] for token in stored.get("added_tokens", [])}
    end = by_id.get(config.eos_token_id, END_OF_TEXT)
    known = end in by_id.values() or end in stored["model"]["vocab"]
    return dict.fromkeys(("bos_token", "eos_token", "unk_token"), end) if known else {}


def _plain_tokens(value: Any) -> Any:
    """The texts of tokens that are written as objects; ``tokenizer.json`` has their flags."""
    if isinstance(value, list):
        return [_plain_tokens(entry) for entry in value]
    if isinstance(value, dict):
        content = value.get("content")
        return content if isinstance(content, str) else value
    return value


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    values = read_settings(directory / "tokenizer_config.json")
    if "added_tokens_decoder" not in values:  # as transformers, for which it is the older file
        values |= read_settings(directory / "special_tokens_map.json")
    return values


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


class PretrainedModel(Protocol):
    """A model with all that it came with; ``laplm.LanguageModel`` is one."""

    name: str
    checkpoint: Checkpoint
    tokenizer: Tokenizer

    @property
    def settings(self) -> PretrainedSettings:
        """What its directory says beside weights and tokens."""

    @property
    def chat_template(self) -> ChatTemplate | None:
        """Its own, ready to render; conversations are written in it."""
