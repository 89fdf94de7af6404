"""The exercises at the end of the talk's notebooks, which check themselves on the model at hand.

An answer is a number, a text, a place in the model, or a function of a few lines of NumPy. It is
compared with what the engine and the views of ``laplm.look`` give for the notebook's model when it
is checked; no result is stored. For a wrong answer an exercise gives a hint, not the answer.

Shapes: T positions, C n_embd, D head_dim, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laplm.errors import InputError, LaplmError, did_you_mean
from laplm.look import ablate, logit_lens, next_token, stats, tokens
from laplm.look.view import model_label
from laplm.look.views.ablation import Ablation
from laplm.model.config import NAMED_SIZES
from laplm.model.families.ops import softmax
from laplm.run.language_model import LanguageModel
from laplm.run.sampler import SamplingParams, probabilities

Array = NDArray[np.float32]

PROMPT = "The capital of Spain is"
STORY = "Once upon a time, there was a"
TEXT = "Once upon a time there was a little dog. The dog was happy."
BEGINNING = "The little cat"
SEEDS = 20
TOP_P = 0.9
BANDWIDTH = 20e9  # bytes that the memory of a laptop gives in a second, or about so
LORA_RANK = 8


@dataclass(frozen=True)
class Verdict:
    """The verdict on an answer.

    Attributes:
        accepted: whether it is right; None where nothing was answered yet.
        text: the result, or a hint.
    """

    accepted: bool | None
    text: str

    def __repr__(self) -> str:
        return f"{_MARKS[self.accepted]} {self.text}"

    def _repr_markdown_(self) -> str:
        said, _, rest = repr(self).partition(". ")
        return f"**{said}{'.' if rest else ''}** {rest}".strip()


_FEED_FORWARD = ("gate", "up", "gate_up", "down")
_ATTENTION = ("q", "k", "v", "qkv", "attn_out")
_MARKS = {True: "✔ Right.", False: "✘ Not yet.", None: "… Your turn."}


class OneHead(NamedTuple):
    """What one attention head works on, after norms and rotations.

    Attributes:
        layer: its layer.
        head: its number in the layer.
        q: queries, (T, D).
        k: keys, (T, D); with grouped heads those that it shares.
        v: values, (T, D).
        scale: factor on the products of queries and keys.
    """

    layer: int
    head: int
    q: Array
    k: Array
    v: Array
    scale: float


class Exercise(NamedTuple):
    """One exercise.

    Attributes:
        name: what ``Exercises.check`` calls it.
        notebook: the number of the notebook at whose end it stands.
        title: what it is about.
        ask: what to put in, said to whoever has not answered.
        check: gets the exercises of a model and an answer; says what is so, or raises
            ``_WrongError`` with a hint.
    """

    name: str
    notebook: int
    title: str
    ask: str
    check: Callable[[Exercises, Any], str]


EXERCISES: dict[str, Exercise] = {}
"""All of them by name, in the order of the talk."""


class _WrongError(Exception):
    """An answer that is not right; the message is a hint."""


class _NoAnswerError(Exception):
    """Nothing was answered."""


def _exercise(
    notebook: int, title: str, ask: str
) -> Callable[[Callable[[Exercises, Any], str]], Callable[[Exercises, Any], str]]:
    def add(check: Callable[[Exercises, Any], str]) -> Callable[[Exercises, Any], str]:
        name = check.__name__.lstrip("_")
        EXERCISES[name] = Exercise(name, notebook, title, ask, check)
        return check

    return add


class Exercises:
    """The exercises, on one model.

    Attributes:
        lm: the model.
    """

    def __init__(self, lm: LanguageModel) -> None:
        """Nothing is computed until an answer is checked."""
        self.lm = lm

    def check(self, name: str, answer: Any) -> Verdict:
        """Whether an answer is right on this model.

        Args:
            name: of the exercise.
            answer: yours; ``...``, or a function that gives nothing, is none yet.

        Raises:
            InputError: no exercise has this name.
        """
        exercise = EXERCISES.get(name)
        if exercise is None:
            raise InputError(f"there is no exercise {name!r}{did_you_mean(name, EXERCISES)}")
        try:
            if answer is ... or answer is None:
                raise _NoAnswerError
            return Verdict(True, exercise.check(self, answer))
        except _NoAnswerError:
            return Verdict(None, exercise.ask)
        except _WrongError as hint:
            return Verdict(False, str(hint))

    @cached_property
    def cache(self) -> Any:
        """Every activation of ``PROMPT``: ``exercises.cache["pattern", 3]``."""
        return self.lm.run_with_cache(PROMPT)

    def one_head(self) -> OneHead:
        """Queries, keys and values of a head in the middle of the model, on ``PROMPT``.

        Of no more tokens than its layer's window has.
        """
        config = self.lm.config
        layer, head = config.n_layer // 2, config.n_head // 2
        group = config.kv_head_of(head)
        there, n = set(self.cache), config.layer_window(layer)

        def last_of(*names: str) -> Array:
            found: Array = next(self.cache[n, layer] for n in names if (n, layer) in there)
            return found

        return OneHead(
            layer, head,
            q=last_of("rot_q", "q_norm", "q")[:n, head],
            k=last_of("rot_k", "k_norm", "k")[:n, group],
            v=self.cache["v", layer][:n, group],
            scale=config.attention_scale(layer),
        )  # fmt: skip

    def last_logits(self) -> Array:
        """The logits of what comes after ``STORY``, (V,): of all that the tokenizer knows."""
        return self._logits.copy()

    @cached_property
    def _logits(self) -> Array:
        known = min(self.lm.tokenizer.vocab_size, self.lm.config.vocab_size)
        logits: Array = self.lm.run_with_cache(STORY, ["logits"])["logits"][-1, :known]
        return logits

    def _drawn_from(self, **settings: float) -> NDArray[np.float64]:
        """What the sampler draws from after ``STORY``, (V,)."""
        plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        return probabilities(self._logits, SamplingParams(**plain | settings))  # type: ignore[arg-type]

    @cached_property
    def _ablation(self) -> Ablation:
        seen: Ablation = ablate(self.lm, PROMPT)
        return seen

    def token_probabilities(self) -> Array:
        """The probability that the model gave each token of ``TEXT``, from its second on."""
        run = self.lm.run_with_cache(TEXT, ["logits"])
        ids = np.array(self.lm.tokenizer.encode(TEXT))
        found: Array = softmax(run["logits"])[-len(ids) : -1][np.arange(len(ids) - 1), ids[1:]]
        return found


def _number(answer: Any, what: str = "a number") -> float:
    try:
        value = float(answer)
    except (TypeError, ValueError):
        raise _WrongError(f"That is no number: give {what}.") from None
    if not math.isfinite(value):
        raise _WrongError(f"That is not finite: give {what}.")
    return value


def _call(function: Any, *arguments: Any) -> Any:
    """What somebody's function gives; whatever goes wrong in it is said."""
    if not callable(function):
        raise _WrongError("Give the function itself, by its name and without brackets.")
    try:
        # Copies: what is done to an argument in its place is nobody else's.
        value = function(*(a.copy() if isinstance(a, np.ndarray) else a for a in arguments))
    except Exception as error:
        raise _WrongError(f"Your function ends with {type(error).__name__}: {error}") from None
    if value is None or value is ...:
        raise _NoAnswerError
    return value


def _array(value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise _WrongError("That is no array of numbers.") from None
    if array.shape != shape:
        raise _WrongError(f"Its shape is {array.shape}; it should be {shape}.")
    return array


def _same(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-4))


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


# --- 1 · Introduction -------------------------------------------------------------------------


@_exercise(1, "How many parameters?", "Predict how many; the nearest power of ten will do.")
def _parameters(at: Exercises, answer: Any) -> str:
    n, guess = at.lm.config.n_parameters, _number(answer, "a count, such as 1e9")
    if guess <= 0:
        raise _WrongError("There is at least one.")
    factor = max(guess / n, n / guess)
    if factor > 3.2:
        side = "many" if guess > n else "few"
        raise _WrongError(f"Too {side}: by a factor of about {factor:,.0f}.")
    return f"{model_label(at.lm)} has {n:,}; GPT-2 small has {NAMED_SIZES['gpt2'].n_parameters:,}."


@_exercise(1, "Change the sentence", "Give a prompt after which the next token is certain.")
def _sure(at: Exercises, answer: Any) -> str:
    if not isinstance(answer, str) or not answer:
        raise _WrongError("Give a prompt, in quotes.")
    try:
        seen = next_token(at.lm, answer, k=1)
    except LaplmError as error:
        raise _WrongError(f"The model cannot run that: {error}.") from None
    p = float(seen.before.probabilities[0])
    said = f"After it, “{seen.labels[0]}” has {_percent(p)}"
    if p < 0.9:
        raise _WrongError(
            f"{said}; look for 90 %. Which text can continue in only one way? Perhaps a fact that "
            "the model knows, or a sentence that it has just read twice."
        )
    return f"{said}: a model is sure where it has seen only one continuation."


# --- 2 · Load ---------------------------------------------------------------------------------


@_exercise(2, "How many bytes?", "Predict how many bytes the parameters take as fp32.")
def _n_bytes(at: Exercises, answer: Any) -> str:
    n, guess = at.lm.config.n_parameters, _number(answer, "a count of bytes")
    if abs(guess - 4 * n) <= 0.01 * n:
        return f"Four bytes each: {4 * n / 1e6:,.1f} MB. In int8 it is a quarter of that."
    if abs(guess - 32 * n) <= 0.01 * n:
        raise _WrongError("Those are bits: eight of them are a byte.")
    if abs(guess - n) <= 0.01 * n:
        raise _WrongError("That is one byte each; fp32 says how many bits a number has.")
    raise _WrongError("Multiply lm.config.n_parameters by the number of bytes in 32 bits.")


@_exercise(2, "Where the parameters are", "Give the feed-forward layers' share, between 0 and 1.")
def _feed_forward_share(at: Exercises, answer: Any) -> str:
    guess = _number(answer, "a share between 0 and 1")
    sizes = stats(at.lm).sizes
    total = sum(part.parameters for part in sizes)
    share = sum(part.parameters for part in sizes if part.role in _FEED_FORWARD) / total
    attention_share = sum(part.parameters for part in sizes if part.role in _ATTENTION) / total
    if abs(guess - share) < 0.02:
        return f"Feed-forward has {_percent(share)}, attention {_percent(attention_share)}."
    if abs(guess - attention_share) < 0.02:
        raise _WrongError("That is attention's share; a block has other matrices too.")
    if guess > 1:
        raise _WrongError("A share is between 0 and 1: divide by all parameters.")
    side = "more" if guess < share else "less"
    raise _WrongError(f"It is {side}. stats(lm).sizes lists all parts with their roles.")


@_exercise(2, "How many different tokens?", "Say how many different tokens the seeds 0 to 19 draw.")
def _first_tokens(at: Exercises, answer: Any) -> str:
    guess = _number(answer, "a count")
    drawn = {at.lm.generate(BEGINNING, 1, seed=seed).text for seed in range(SEEDS)}
    if guess == len(drawn):
        return f"{SEEDS} seeds draw {len(drawn)} different tokens, the likely ones more than once."
    if guess == SEEDS:
        raise _WrongError("Some seeds draw the same token: count the different ones, with a set.")
    if guess > SEEDS or guess < 1:
        raise _WrongError(f"There are {SEEDS} draws, and each gives one token.")
    raise _WrongError(
        f"Draw one token with each seed from 0 to {SEEDS - 1} after {BEGINNING!r}, with the "
        "default settings: lm.generate(BEGINNING, 1, seed=seed).text"
    )


# --- 3 · Core concepts ------------------------------------------------------------------------


@_exercise(3, "A byte-pair merge", "Write merge(pieces, pair).")
def _merge(at: Exercises, answer: Any) -> str:
    def given(pieces: list[str], pair: tuple[str, str]) -> list[str]:
        value = _call(answer, list(pieces), pair)
        pieces_given = isinstance(value, list | tuple)
        if not pieces_given or not all(isinstance(piece, str) for piece in value):
            raise _WrongError("Return a list of pieces, each of them a string.")
        return list(value)

    if "".join(given(["b", "a", "n"], ("b", "a"))) != "ban":
        raise _WrongError("No letter may be lost, and none may appear twice.")
    if given(["b", "a", "n", "a", "n", "a"], ("a", "n")) == ["b", "an", "a", "n", "a"]:
        raise _WrongError("The pair may occur more than once: merge all of its occurrences.")
    if given(["a", "a", "a"], ("a", "a")) != ["aa", "a"]:
        raise _WrongError(
            "“a a a” with the pair (a, a) becomes “aa a”: go from the left, no piece used twice."
        )
    made = 0
    for word in tokens(at.lm, _LONG, merges=True).words:
        if not word.merged:
            continue
        ranks = {(step.left, step.right): step.rank for step in word.merges}
        pieces = list(word.pieces)
        while there := [pair for pair in pairwise(pieces) if pair in ranks]:
            pair = min(there, key=lambda pair: ranks[pair])
            before, pieces = pieces, given(pieces, pair)
            if len(pieces) >= len(before):
                raise _WrongError(f"{' '.join(before)} has the pair {pair}, and you left it.")
        wanted = list(word.merges[-1].pieces if word.merges else word.pieces)
        if pieces != wanted:
            raise _WrongError(f"{word.text} became {' '.join(pieces)}, not {' '.join(wanted)}.")
        made += len(pieces)
    own = f"With it, “{_LONG}” becomes the {made} tokens of this model's own tokenizer. "
    return own * (made > 0) + "A vocabulary is built by doing this thousands of times."


_LONG = "Antidisestablishmentarianism in Madrid"


@_exercise(3, "The norm", "Write norm(x), without the gain.")
def _norm(at: Exercises, answer: Any) -> str:
    config = at.lm.config
    x, wanted = at.cache["resid_pre", 0], at.cache["ln1_normalized", 0]
    came = _array(_call(answer, x), wanted.shape)
    if np.allclose(came, wanted, rtol=1e-2, atol=1e-3):
        return f"Your {_NORMS[config.norm]} and the model's agree in all {came.size:,} numbers."
    centred = x - x.mean(-1, keepdims=True)
    if config.norm == "layer":
        if np.allclose(came, x / np.sqrt((x * x).mean(-1, keepdims=True)), rtol=1e-2, atol=1e-3):
            raise _WrongError("That is RMSNorm; this model subtracts the mean before it divides.")
        if np.allclose(came, centred / x.var(-1, keepdims=True), rtol=1e-2, atol=1e-3):
            raise _WrongError("Divide by the square root of the variance.")
    elif np.allclose(came, centred / x.std(-1, keepdims=True), rtol=1e-2, atol=1e-3):
        raise _WrongError("That is LayerNorm; this model's RMSNorm subtracts no mean.")
    if came.shape[0] > 1 and abs(float(np.square(came).mean()) - 1) < 1e-2:
        raise _WrongError("Each row by itself: over the last axis, with keepdims=True.")
    raise _WrongError(f"After {_NORMS[config.norm]}, the mean square of each row is 1.")


_NORMS = {"layer": "LayerNorm", "rms": "RMSNorm"}


@_exercise(3, "Softmax", "Write softmax(x), over the last axis.")
def _softmax(at: Exercises, answer: Any) -> str:
    layer = at.lm.config.n_layer // 2
    scores = at.cache["attn_scores", layer]
    came = _array(_call(answer, scores), scores.shape)
    if np.any(np.isnan(came)):
        raise _WrongError("Some are nan: masked scores are -inf, and exp(-inf) is 0.")
    if _same(came.sum(), 1) and scores.size > 1:
        raise _WrongError("All rows together sum to 1; each row should: axis=-1, keepdims=True.")
    if not _same(came.sum(-1), 1):
        raise _WrongError("A row of probabilities sums to 1: divide by its sum.")
    if not _same(came, at.cache["pattern", layer]):
        raise _WrongError("Take exponentials, and divide each by the sum of its row.")
    large = np.array([[1000.0, 999.0]])
    with np.errstate(all="ignore"):
        came = _array(_call(answer, large), large.shape)
    if not _same(came, softmax(large.astype(np.float32))):
        raise _WrongError("exp(1000) overflows: subtract the largest value of each row first.")
    return f"It turns the scores of layer {layer} into the model's own attention patterns."


def _head_of(q: Array, k: Array, v: Array, scale: float, *, masked: bool) -> tuple[Array, Array]:
    scores = q @ k.T * np.float32(scale)
    if masked:
        scores = np.where(np.tri(len(q), dtype=bool), scores, -np.inf).astype(np.float32)
    pattern = softmax(scores)
    return pattern @ v, pattern


@_exercise(3, "One attention head", "Write head(q, k, v, scale).")
def _head(at: Exercises, answer: Any) -> str:
    layer, number, q, k, v, scale = at.one_head()
    wanted = at.cache["z", layer][: len(q), number]
    came = _array(_call(answer, q, k, v, scale), wanted.shape)
    if np.allclose(came, wanted, rtol=1e-2, atol=1e-3):
        return f"That is head {layer}.{number} of {model_label(at.lm)}, number for number."
    if np.allclose(came, _head_of(q, k, v, scale, masked=False)[0], rtol=1e-2, atol=1e-3):
        raise _WrongError(
            "Your head sees the future: to the right of the diagonal, set scores to -inf first."
        )
    if np.allclose(came, _head_of(q, k, v, 1.0, masked=True)[0], rtol=1e-2, atol=1e-3):
        raise _WrongError("The scores must be multiplied by scale, before the softmax.")
    raise _WrongError("First q @ k.T * scale, then the mask, softmax over the last axis, then @ v.")


@_exercise(3, "Break the mask", "Give the share that the first token gives to later tokens.")
def _mask(at: Exercises, answer: Any) -> str:
    guess = _number(answer, "a share between 0 and 1")
    head = at.one_head()
    _, pattern = _head_of(*head[2:], masked=False)
    future = float(pattern[0, 1:].sum())
    if abs(guess - future) < 0.01:
        return (
            f"Without the mask the first token gives {_percent(future)} to tokens that do not "
            "exist yet while a text is being generated."
        )
    if guess == 0:
        raise _WrongError("That is how it is with the mask. Leave it out, and look at row 0.")
    if abs(guess - (1 - future)) < 0.01:
        raise _WrongError("That is what it gives to itself; the rest goes to later tokens.")
    raise _WrongError(
        "In softmax(q @ k.T * scale), without a mask: what is in row 0 after the first column?"
    )


@_exercise(3, "Find the head", "Give (layer, head).")
def _find_head(at: Exercises, answer: Any) -> str:
    layer, head = _place(at, answer)
    pattern = at.cache.stack("pattern")
    share, best = float(pattern[layer, head, -1, -2]), float(pattern[..., -1, -2].max())
    if share < best - 1e-4:
        raise _WrongError(
            f"Head {layer}.{head} gives it {_percent(share)}; another one gives more. "
            "Look at attention(lm, PROMPT).pattern[:, :, -1, -2]."
        )
    return f"Head {layer}.{head} gives {_percent(share)} of its attention to that word."


def _place(at: Exercises, answer: Any) -> tuple[int, int]:
    try:
        layer, head = (int(number) for number in answer)
    except (TypeError, ValueError):
        raise _WrongError("Give two numbers, (layer, head); both count from 0.") from None
    config = at.lm.config
    if not (0 <= layer < config.n_layer and 0 <= head < config.n_head):
        raise _WrongError(
            f"The layer first, 0 to {config.n_layer - 1}; then the head, 0 to {config.n_head - 1}."
        )
    return layer, head


@_exercise(3, "Change one word", "Give the sentence with one word changed.")
def _change(at: Exercises, answer: Any) -> str:
    if not isinstance(answer, str):
        raise _WrongError("Give a sentence, in quotes.")
    old, new = PROMPT.split(), answer.split()
    if len(old) != len(new):
        raise _WrongError(
            f"{PROMPT!r} has {len(old)} words, yours has {len(new)}: change one, add none."
        )
    changed = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    if len(changed) != 1:
        raise _WrongError(f"{len(changed)} words are changed; change exactly one.")
    before, after = (next_token(at.lm, text, k=1) for text in (PROMPT, answer))
    if before.ids[0] == after.ids[0]:
        raise _WrongError(
            f"“{after.labels[0]}” still comes next. Which word matters most? Think of what a head "
            "would look at."
        )
    return f"“{before.labels[0]}” became “{after.labels[0]}”: that word matters."


@_exercise(3, "Add up the stream", "Give the stream after the last block, as a sum.")
def _stream(at: Exercises, answer: Any) -> str:
    wanted = at.cache["resid_post", -1]
    came = _array(answer, wanted.shape)
    if np.allclose(came, wanted, rtol=1e-2, atol=1e-2 * float(np.abs(wanted).mean())):
        return "Nothing is ever overwritten: what the model says comes from this sum."
    n_layer = at.lm.config.n_layer
    start = at.cache["resid_pre", 0]
    attention_only = start + sum(at.cache["attn_out", i] for i in range(n_layer))
    if np.allclose(came, attention_only, rtol=1e-2, atol=1e-2 * float(np.abs(wanted).mean())):
        raise _WrongError("The feed-forwards add something too: mlp_out of every layer.")
    if np.allclose(came, wanted - start, rtol=1e-2, atol=1e-2 * float(np.abs(wanted).mean())):
        raise _WrongError("Those are the changes; add what they start from: resid_pre of layer 0.")
    raise _WrongError(
        f"Add up resid_pre of layer 0, and attn_out and mlp_out of layers 0 to {n_layer - 1}."
    )


@_exercise(3, "From which layer on?", "Give the layer from which on the answer leads.")
def _leads_from(at: Exercises, answer: Any) -> str:
    lens = logit_lens(at.lm, PROMPT)
    stage = int(lens.settled[-1])
    guess = -1 if answer == "embedding" else _number(answer, "the number of a layer")
    if guess != stage - 1:
        n_layer = at.lm.config.n_layer
        if not -1 <= guess < n_layer:
            raise _WrongError(f"Layers are 0 to {n_layer - 1}.")
        said = lens.top_tokens[int(guess) + 1][-1]
        if guess < stage - 1:
            raise _WrongError(
                f"After layer {guess:.0f} it is “{said}”, and that can still change: go higher."
            )
        raise _WrongError(f"After layer {guess:.0f} it leads, but it did so earlier too: go lower.")
    where = "the embedding" if stage == 0 else f"layer {stage - 1}"
    return f"From {where} on “{lens.top_tokens[-1][-1]}” stays in first place."


# --- 4 · Running inference --------------------------------------------------------------------


@_exercise(4, "Hot and cold by hand", "Give both probabilities: (at 0.5, at 2).")
def _by_hand(at: Exercises, answer: Any) -> str:
    del at  # of no model: two logits
    try:
        cold, hot = (float(number) for number in answer)
    except (TypeError, ValueError):
        raise _WrongError("Give two numbers, in parentheses.") from None
    logits = np.array([2.0, 1.0], np.float32)
    wanted = [float(softmax(logits / t)[0]) for t in (0.5, 2.0)]
    if abs(cold - wanted[0]) < 0.02 and abs(hot - wanted[1]) < 0.02:
        return f"{wanted[0]:.3f} and {wanted[1]:.3f}; at 1 it is {softmax(logits)[0]:.3f}."
    if abs(cold - wanted[1]) < 0.02 and abs(hot - wanted[0]) < 0.02:
        raise _WrongError("The other way round: a low temperature makes the likely token likelier.")
    raise _WrongError(
        "Divide both logits by the temperature, then softmax: 1 / (1 + exp(-difference))."
    )


@_exercise(4, "Softmax with temperature", "Write tempered(logits, temperature).")
def _tempered(at: Exercises, answer: Any) -> str:
    logits = at.last_logits()
    for temperature in (0.3, 1.0, 2.0):
        came = _array(_call(answer, logits, temperature), logits.shape)
        if _same(came, softmax(logits * np.float32(temperature))) and temperature != 1:
            raise _WrongError("Divide by the temperature: 0.3 makes likely tokens likelier.")
        if not _same(came.sum(), 1):
            raise _WrongError("Probabilities sum to 1.")
        if _same(came, softmax(logits)) and temperature != 1:
            raise _WrongError("The temperature makes no difference in yours.")
        if not _same(came, at._drawn_from(temperature=temperature)):
            raise _WrongError("Divide the logits by the temperature, then softmax.")
    return "The same as the sampler's, at temperatures 0.3, 1 and 2."


@_exercise(4, "Top-k", "Write top_k(p, k).")
def _top_k(at: Exercises, answer: Any) -> str:
    p = softmax(at.last_logits())
    for k in (1, 3, 10):
        came = _array(_call(answer, p, k), p.shape)
        kept = int(np.count_nonzero(came))
        if kept != min(k, len(p)):
            raise _WrongError(f"With k = {k} it leaves {kept:,} tokens that can be drawn.")
        if not _same(came.sum(), 1):
            raise _WrongError("What is left should sum to 1 again: divide by its sum.")
        if not _same(came, at._drawn_from(top_k=k)):
            raise _WrongError("Keep the likeliest, in the proportions that they had.")
    return "The tokens that are left share the probability of the others, as in the sampler."


@_exercise(4, "How many does top-p keep?", f"Say how many tokens top-p {TOP_P} keeps.")
def _top_p(at: Exercises, answer: Any) -> str:
    guess = _number(answer, "a count")
    kept = int(np.count_nonzero(at._drawn_from(top_p=TOP_P)))
    if guess == kept:
        return f"{kept:,} of {at.lm.config.vocab_size:,} tokens have {_percent(TOP_P)} of it all."
    if guess == kept - 1:
        raise _WrongError("One more: the token that takes the sum past that share is kept as well.")
    if guess > at.lm.config.vocab_size:
        raise _WrongError("The vocabulary has fewer.")
    raise _WrongError(
        f"Sort the probabilities, largest first, and add them up: when do you reach {TOP_P}?"
    )


@_exercise(4, "Half and half", "Give a temperature at which the likeliest token has 50 %.")
def _half(at: Exercises, answer: Any) -> str:
    temperature = _number(answer, "a temperature")
    try:
        p = float(at._drawn_from(temperature=temperature).max())
    except LaplmError as error:
        raise _WrongError(f"The sampler does not take that: {error}.") from None
    if abs(p - 0.5) > 0.02:
        way = "colder" if p < 0.5 else "warmer"
        raise _WrongError(f"At {temperature:g} the likeliest has {_percent(p)}: {way}.")
    return f"At {temperature:g} the likeliest has {_percent(p)}, and the others share the rest."


# --- 5 · Fine-tuning --------------------------------------------------------------------------


@_exercise(5, "Perplexity", "Give the perplexity of the text.")
def _perplexity(at: Exercises, answer: Any) -> str:
    guess = _number(answer)
    p = at.token_probabilities().astype(np.float64)
    wanted = float(np.exp(-np.log(p).mean()))
    if abs(guess / wanted - 1) < 0.03:
        return f"{wanted:.2f}: as if the model chose among that many equally likely tokens."
    if abs(guess - math.log(wanted)) < 0.03:
        raise _WrongError("That is the loss, the mean of -log p; perplexity is exp of it.")
    if abs(guess * float(p.mean()) - 1) < 0.03:
        raise _WrongError("The mean is taken of the logarithms, not of the probabilities.")
    raise _WrongError("It is exp of the mean of -log p, over all tokens of the text.")


@_exercise(5, "How small is LoRA?", f"Say how many numbers LoRA trains there at rank {LORA_RANK}.")
def _lora(at: Exercises, answer: Any) -> str:
    guess = _number(answer, "a count")
    n_in, n_out = at.lm.config.n_embd, at.lm.config.n_inner
    # A: (r, in), B: (out, r)
    wanted = LORA_RANK * n_in + n_out * LORA_RANK
    if guess == wanted:
        return f"{wanted:,} instead of {n_in * n_out:,}: {_percent(wanted / (n_in * n_out))}."
    if guess == n_in * n_out:
        raise _WrongError("Those are the numbers of the matrix itself, which stay as they are.")
    if guess in (LORA_RANK * n_in, LORA_RANK * n_out):
        raise _WrongError("There are two narrow matrices: one down to the rank, and one back up.")
    raise _WrongError(f"{n_in} numbers become {LORA_RANK}, and {LORA_RANK} become {n_out}.")


@_exercise(5, "The gradient of the loss", "Write gradient(logits, target).")
def _gradient(at: Exercises, answer: Any) -> str:
    del at  # of no model: five logits
    logits, target = np.array([2.0, -1.0, 0.5, 0.0, 1.0]), 2
    came = _array(_call(answer, logits, target), logits.shape)

    def loss(x: NDArray[np.float64]) -> float:
        return float(np.log(np.exp(x).sum()) - x[target])

    step = 1e-5  # in both directions
    wanted = np.array([
        (loss(logits + step * e) - loss(logits - step * e)) / (2 * step) for e in np.eye(5)
    ])  # fmt: skip
    p = np.exp(logits) / np.exp(logits).sum()
    if _same(came, wanted):
        return "Small steps say the same: training pushes the target up and all others down."
    if _same(came, p):
        raise _WrongError("Nearly: at the target yours is too high by 1.")
    if _same(came, -wanted):
        raise _WrongError("That is the way down; the gradient points up, where the loss grows.")
    raise _WrongError("It is the probabilities, minus 1 at the target.")


# --- 6 · Conclusion ---------------------------------------------------------------------------


@_exercise(6, "As fast as memory", "Give the most tokens per second that memory allows.")
def _bound(at: Exercises, answer: Any) -> str:
    guess, n = _number(answer, "tokens per second"), at.lm.config.n_parameters
    if abs(guess * n / BANDWIDTH - 1) < 0.03:
        return f"{guess:,.0f} tokens per second, for one text. laplm bench says how close you get."
    if abs(guess * 4 * n / BANDWIDTH - 1) < 0.03:
        raise _WrongError("That would be fp32; in int8 a weight is one byte.")
    if abs(guess * n / 8 / BANDWIDTH - 1) < 0.03 or abs(guess * 8 * n / BANDWIDTH - 1) < 0.03:
        raise _WrongError("Mind bits and bytes: int8 is eight bits, which is one byte.")
    if abs(guess * BANDWIDTH / n - 1) < 0.03:
        raise _WrongError("Upside down: those are seconds per token.")
    raise _WrongError(
        "Every weight is read once per token: divide bytes per second by bytes per token."
    )


@_exercise(6, "The head that is missed most", "Give (layer, head).")
def _missed(at: Exercises, answer: Any) -> str:
    layer, head = _place(at, answer)
    seen = at._ablation
    effect = seen.effect
    mine, worst = float(effect[layer, head]), float(effect.min())
    if mine > worst + 1e-3:
        raise _WrongError(
            f"Without {layer}.{head} the logit of “{seen.target}” changes by {mine:+.2f}; without "
            "another one it falls more. They are all in ablate(lm, PROMPT).effect."
        )
    p = float(seen.probabilities[layer, head])
    return (
        f"Without {layer}.{head} “{seen.target}” falls from {_percent(seen.probability)} to "
        f"{_percent(p)}. You have just taken a language model apart."
    )
