"""How well a model predicts a text: perplexity, bits per byte, and LAMBADA's last words.

Published figures of one model differ more by protocol than models do, so every result carries
its own. Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplm.bounds import Bounds
from laplm.errors import InputError, ModelFormatError
from laplm.model.engine.kv_cache import KVCache
from laplm.model.engine.model import GPT
from laplm.run.language_model import LanguageModel

Array = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

_BLOCK = 128  # positions whose logits exist at once: 26 MB with GPT-2's vocabulary


@dataclass(frozen=True)
class Document:
    """One text to score, and where it came from."""

    name: str
    text: str


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicted some documents.

    Attributes:
        model: name, precision and threads of the model.
        documents: number of documents scored.
        tokens: tokens scored.
        bytes: UTF-8 bytes of the tokens scored.
        words: words of the documents, split at white space.
        negative_log_likelihood: sum over the tokens scored, natural log.
        window: tokens that the model sees at once.
        stride: tokens scored with each further window.
        tokens_run: tokens computed, those of overlapping windows each time.
        seconds: time for all of them.
    """

    model: str
    documents: int
    tokens: int
    bytes: int
    words: int
    negative_log_likelihood: float
    window: int
    stride: int
    tokens_run: int
    seconds: float

    @property
    def perplexity(self) -> float:
        """Per token: exp of the mean negative log-likelihood."""
        return _exp(self.negative_log_likelihood / self.tokens)

    @property
    def word_perplexity(self) -> float:
        """Per word, words being split at white space; comparable between tokenizers."""
        return _exp(self.negative_log_likelihood / max(self.words, 1))

    @property
    def bits_per_byte(self) -> float:
        """Bits needed per byte of text; comparable between tokenizers."""
        return self.negative_log_likelihood / math.log(2) / self.bytes

    @property
    def tokens_per_second(self) -> float:
        """Tokens computed per second."""
        return self.tokens_run / self.seconds

    @property
    def protocol(self) -> str:
        """What the figures mean."""
        return (
            f"window {self.window}, stride {self.stride}; the text as it is in the files, not "
            "detokenised; documents apart; the first token of a text (and, where windows do not "
            "overlap, of a window) has no context and is not scored"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        names = (
            "perplexity", "word_perplexity", "bits_per_byte", "tokens_per_second", "protocol",
        )  # fmt: skip
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in names}

    def report(self) -> str:
        """Lines for a person to read."""
        return _table(
            ("model", self.model),
            (
                "scored",
                f"{self.tokens:,} tokens, {self.bytes:,} bytes, {self.words:,} words in "
                f"{self.documents:,} document{'s' if self.documents != 1 else ''}",
            ),
            ("perplexity", f"{self.perplexity:.3f} per token of this model's tokenizer"),
            ("", f"{self.word_perplexity:.3f} per word, split at white space"),
            ("bits per byte", f"{self.bits_per_byte:.4f}"),
            (
                "tokens/s",
                f"{self.tokens_per_second:,.0f} ({self.tokens_run:,} computed in "
                f"{self.seconds:.1f} s)",
            ),
            ("protocol", self.protocol),
        )


@dataclass(frozen=True)
class LambadaScore:
    """How well a model guessed the last word of passages.

    Attributes:
        model: name, precision and threads of the model.
        examples: number of passages.
        correct: passages whose last word came out right.
        tokens: tokens of the last words.
        negative_log_likelihood: sum over those tokens, natural log.
        tokens_run: tokens computed.
        seconds: time for all of them.
    """

    model: str
    examples: int
    correct: int
    tokens: int
    negative_log_likelihood: float
    tokens_run: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of passages whose last word is the model's likeliest, from 0 to 1."""
        return self.correct / self.examples

    @property
    def perplexity(self) -> float:
        """Per last word: exp of the mean negative log-likelihood of the word."""
        return _exp(self.negative_log_likelihood / self.examples)

    @property
    def tokens_per_second(self) -> float:
        """Tokens computed per second."""
        return self.tokens_run / self.seconds

    @property
    def protocol(self) -> str:
        """What the figures mean."""
        return (
            "last word with the space before it; right when each of its tokens is the likeliest; "
            "perplexity per word, not per token; the text as it is, not detokenised; no stop-word "
            "filter (lambada_openai of lm-evaluation-harness)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        names = ("accuracy", "perplexity", "tokens_per_second", "protocol")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in names}

    def report(self) -> str:
        """Lines for a person to read."""
        return _table(
            ("model", self.model),
            ("scored", f"{self.examples:,} passages, {self.tokens:,} tokens of last words"),
            ("accuracy", f"{100 * self.accuracy:.2f} % ({self.correct:,} last words right)"),
            ("perplexity", f"{self.perplexity:.3f} per last word"),
            (
                "tokens/s",
                f"{self.tokens_per_second:,.0f} ({self.tokens_run:,} computed in "
                f"{self.seconds:.1f} s)",
            ),
            ("protocol", self.protocol),
        )


def read_documents(path: Path) -> list[Document]:
    """A text file, or every file below a directory in order of path; hidden ones are left out.

    Raises:
        InputError: there is nothing to read, or a file is not UTF-8 text.
    """
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
        )
        if not files:
            raise InputError(f"{path} has no files in it; give a directory of text files")
    else:
        files = [path]
    return [Document(str(file), _read_text(file)) for file in files]


def perplexity(
    lm: LanguageModel,
    documents: Iterable[Document],
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score documents with a sliding window.

    A window of tokens is run, and its tokens that no earlier window has scored are scored, each
    with everything before it in the window as context; then the window moves on by the stride.
    This is the loop of transformers' documentation ("Perplexity of fixed-length models").

    Args:
        lm: the model.
        documents: what to score; each begins with a fresh context.
        window: tokens that the model sees at once; None means 1024, or the model's context if
            that is smaller.
        stride: None means half the window.
        progress: called with ("tokens", scored so far, all).

    Raises:
        InputError: window or stride is out of range, or there is nothing to score.
        ModelFormatError: the model gives values that are not numbers.
    """
    most = lm.context
    window = min(1024, most) if window is None else window
    window = int(Bounds(2, most, "this model has no more positions").check("window", window))
    stride = window // 2 if stride is None else stride
    stride = int(
        Bounds(1, window, "tokens between windows would be left out").check("stride", stride)
    )

    build = lm.tokenizer.build_inputs_with_special_tokens
    texts = [(document, build(lm.tokenizer.encode(document.text))) for document in documents]
    texts = [(document, ids) for document, ids in texts if len(ids) > 1]
    if not texts:
        raise InputError("there is nothing to score: a text needs at least two tokens")
    gpt = lm.gpt  # before the clock starts
    start = time.perf_counter()
    total = sum(len(ids) for _, ids in texts)
    done = tokens = n_bytes = words = tokens_run = 0
    nll = 0.0
    cache = gpt.new_cache()
    for document, ids in texts:
        words += len(document.text.split())
        n_bytes += len(document.text.encode())
        end = 0
        for begin in range(0, len(ids), stride):
            scored_to, end = end, min(begin + window, len(ids))
            context = scored_to - begin
            if context < 1:  # nothing to predict the first token of this window from
                if begin or not lm.tokenizer.prefix_ids:  # a BOS has no bytes of the text
                    n_bytes -= len(lm.tokenizer.token_bytes(ids[begin]))
                context = 1
            if end > begin + context:
                losses, _ = _score(gpt, ids[begin:end], context, cache)
                nll += float(losses.sum())
                tokens += len(losses)
                tokens_run += end - begin - 1
            if progress:
                progress("tokens", done + end, total)
            if end == len(ids):
                break
        done += len(ids)
    return Evaluation(
        model=_describe(lm),
        documents=len(texts),
        tokens=tokens,
        bytes=n_bytes,
        words=words,
        negative_log_likelihood=nll,
        window=window,
        stride=stride,
        tokens_run=tokens_run,
        seconds=time.perf_counter() - start,
    )


def read_lambada(path: Path) -> list[str]:
    """The passages of a JSON-lines file with one ``{"text": …}`` a line.

    Raises:
        InputError: a line is something else, or a passage is shorter than two words.
    """
    passages = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = record["text"].rstrip()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f'{path}, line {number}: not a JSON object with a "text" that is a string'
            ) from None
        if " " not in text:
            raise InputError(f"{path}, line {number}: a passage needs at least two words")
        passages.append(text)
    if not passages:
        raise InputError(f"{path} has no passages in it")
    return passages


def lambada(
    lm: LanguageModel, passages: Sequence[str], *, progress: Progress | None = None
) -> LambadaScore:
    """Guess the last word of each passage (Paperno et al. 2016, "The LAMBADA dataset").

    Args:
        lm: the model.
        passages: texts of at least two words. Of one longer than the model's context the end is
            used.
        progress: called with ("passages", done, all).

    Raises:
        InputError: there are no passages, or one is a single word.
        ModelFormatError: the model gives values that are not numbers.
    """
    if not passages:
        raise InputError("there are no passages to score")
    gpt = lm.gpt
    start = time.perf_counter()
    correct = tokens = tokens_run = 0
    nll = 0.0
    cache = gpt.new_cache()
    for done, passage in enumerate(passages, start=1):
        context, space, _ = passage.rpartition(" ")
        if not space or not context.strip():
            raise InputError(f"passage {done} needs at least two words")
        before = lm.tokenizer.prefix_ids
        ids = [*before, *lm.tokenizer.encode(passage)]
        given = len(before) + len(lm.tokenizer.encode(context.rstrip()))
        cut = max(0, len(ids) - 1 - lm.context)  # the last token is not run
        if given <= cut:
            raise InputError(f"the last word of passage {done} is longer than the model's context")
        losses, likeliest = _score(gpt, ids[cut:], given - cut, cache)
        correct += bool(likeliest.all())
        nll += float(losses.sum())
        tokens += len(losses)
        tokens_run += len(ids) - cut - 1
        if progress:
            progress("passages", done, len(passages))
    return LambadaScore(
        model=_describe(lm),
        examples=len(passages),
        correct=correct,
        tokens=tokens,
        negative_log_likelihood=nll,
        tokens_run=tokens_run,
        seconds=time.perf_counter() - start,
    )


def _score(
    gpt: GPT, ids: Sequence[int], context: int, cache: KVCache
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Negative log-likelihood of ids[context:], and whether each was the likeliest token.

    Both of shape (T - context,); 1 <= context < T. ``cache`` is working space.
    """
    cache.trim(0)
    targets = np.asarray(ids[context:])
    losses = np.empty(len(targets))
    likeliest = np.empty(len(targets), dtype=np.bool_)
    logits = gpt.forward(ids[:context], cache, last_only=True)
    done = 0
    while True:
        part = targets[done : done + len(logits)]
        losses[done : done + len(part)], likeliest[done : done + len(part)] = _losses(logits, part)
        done += len(part)
        if done == len(targets):
            return losses, likeliest
        # The token at context + done - 1 predicts the one at context + done.
        begin = context + done - 1
        logits = gpt.forward(ids[begin : min(begin + _BLOCK, len(ids) - 1)], cache)


def _losses(
    logits: Array, targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of logits (T, V) and targets (T,): -log probability, and whether it is the largest.

    Raises:
        ModelFormatError: a logit is NaN or infinite.
    """
    with np.errstate(all="ignore"):  # what comes of numbers that are none is looked at below
        top = logits.max(axis=1)
        chosen = logits[np.arange(len(targets)), targets]
        sums = np.exp(logits - top[:, None]).sum(axis=1)
        losses = np.log(sums.astype(np.float64)) + top - chosen
    if not np.isfinite(losses).all():
        raise ModelFormatError(
            "the model's output holds values that are not numbers, so it cannot be measured: its "
            "weights are damaged, or too large for this precision; try precision fp32, or another "
            "copy of it"
        )
    return losses, logits.argmax(axis=1) == targets


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} at position "
            f"{error.start:,}); convert it, or leave it out"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


def _describe(lm: LanguageModel) -> str:
    threads = lm.gpt.threads
    return f"{lm.name}, {lm.gpt.precision}, {threads} thread{'s' if threads != 1 else ''}"


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _table(*rows: tuple[str, str]) -> str:
    return "\n".join(f"{name:<15}{value}" for name, value in rows)
