"""Models at a glance: the facts of GPT-2, and the same facts of the model at hand.

What a model's files say is read from them. Who made it, when, and of what texts stands in no file:
of models that have a short name here it is in ``known_facts.json``, with the page of the makers
that says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from laplm import built_in
from laplm.hub import locate
from laplm.hub.known import KNOWN, KnownModel
from laplm.model.config import NAMED_SIZES
from laplm.run.language_model import LanguageModel

_UNKNOWN = "its files do not say"
_SIZES = {"small": "gpt2", "medium": "gpt2-medium", "large": "gpt2-large", "XL": "gpt2-xl"}


@dataclass(frozen=True)
class Glance:
    """A model in a few words, each of them one line of a slide."""

    name: str
    maker: str
    released: str
    parameters: str
    trained_on: str
    context: str
    vocabulary: str
    inside: str
    sizes: str
    used: str

    def markdown(self) -> str:
        """A table of two columns."""
        rows = {
            "made by": self.maker,
            "released": self.released,
            "parameters": f"**{self.parameters}**",
            "trained on": self.trained_on,
            "context": self.context,
            "vocabulary": self.vocabulary,
            "inside": self.inside,
            "sizes": self.sizes,
            "this talk": self.used,
        }
        return "| | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in rows.items())


def short(count: int) -> str:
    """A number of parameters as people say it: 124 million, 1.56 billion."""
    for size, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,}"


def _brief(count: int) -> str:
    """The same in a list: 124M, 1.56B."""
    number, _, word = short(count).partition(" ")
    return number + word[:1].upper()


def gpt2() -> Glance:
    """GPT-2, whichever model is at hand."""
    config = NAMED_SIZES["gpt2"]
    facts = _facts()["gpt2"]
    sizes = (f"{name} {_brief(NAMED_SIZES[key].n_parameters)}" for name, key in _SIZES.items())
    return Glance(
        "GPT-2", f"{facts['maker']}, its second GPT", facts["released"],
        f"{short(config.n_parameters)} in the small one", facts["trained_on"],
        f"{config.n_ctx:,} tokens", f"{config.vocab_size:,} tokens",
        f"{config.n_layer} blocks of {config.n_head} heads, {config.n_embd} wide",
        " · ".join(sizes), "compares everything with the small one",
    )  # fmt: skip


def of(lm: LanguageModel) -> Glance:
    """The model at hand."""
    config, here = lm.config, locate.describe(lm.name)
    known = _known(lm)
    facts = _facts().get(known.name, {}) if known else {}
    sizes = _relatives(known) if known else _UNKNOWN
    if lm.path == built_in.DIRECTORY:
        sizes = "only this one"
        facts = {
            "maker": "laplm, its own",
            "released": "November 2026",
            "trained_on": "children's stories and simple facts: 36 MB of text",
        }
    heads = f"{config.n_head} heads"
    if config.n_kv_head != config.n_head:
        heads += f" ({config.n_kv_head} for keys and values)"
    return Glance(
        Path(lm.name).name.removesuffix(".gguf"),
        facts.get("maker", _UNKNOWN), facts.get("released", _UNKNOWN),
        f"{config.n_parameters:,}", facts.get("trained_on", _UNKNOWN),
        f"{config.n_ctx:,} tokens",
        f"{config.vocab_size:,} tokens",
        f"{config.n_layer} blocks of {heads}, {config.n_embd} wide",
        sizes,
        f"runs it {in_precision(lm)}; {here.size_bytes / 1e6:,.0f} MB on disk, in {here.dtype}",
    )  # fmt: skip


def in_precision(lm: LanguageModel) -> str:
    """What its numbers are while it runs: in int8, say, or as its file has them."""
    return "as stored" if lm.precision == "stored" else f"in {lm.precision}"


def _relatives(known: KnownModel) -> str:
    """The sizes of all known models with the same beginning of their names."""
    stem = known.name.partition("-")[0]
    sizes = sorted(m.n_parameters for m in KNOWN.values() if m.name.partition("-")[0] == stem)
    if len(sizes) < 2:
        return "only this one"
    return " · ".join(map(_brief, sizes))


def _known(lm: LanguageModel) -> KnownModel | None:
    """Which of the known models it is: by where it is, else by its file's name and its size."""
    found = locate.known_model(lm.path)
    if found is not None:
        return found
    name = lm.path.name.lower()
    for model in KNOWN.values():
        same_name = name.startswith(model.hub_id.rpartition("/")[2].lower())
        if same_name and model.n_parameters == lm.config.n_parameters:
            return model
    return None


def _facts() -> dict[str, dict[str, str]]:
    text = files("laplm.talk").joinpath("known_facts.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
