"""From the tokens of a sample to its text: whole characters only, ended by stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from laplm.model.tokenizer import StreamDecoder, Tokenizer
from laplm.run.results import FinishReason, GenerationStep, TokenLogprob, TokenStep


class StopStringMatcher:
    """Finds stop strings in text that arrives in pieces, and holds back what may begin one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that is certain not to be part of a stop string, and whether one was found."""
        text = self._held + text
        starts = [i for i in (text.find(s) for s in self._stop) if i >= 0]
        if starts:
            self._held = ""
            return text[: min(starts)], True
        hold = max((_overlap(text, s) for s in self._stop), default=0)
        cut = len(text) - hold
        self._held = text[cut:]
        return text[:cut], False

    def flush(self) -> str:
        """What was held back, once no more text can complete a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of text that is a proper prefix of stop."""
    for n in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0


class StreamingDetokenizer:
    """The text side of one sample: decoding, stop strings, and what each token completes.

    Attributes:
        finish_reason: why the sample ended, once it has.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], min_new_tokens: int = 0) -> None:
        """Begin; stop strings are not looked for within the first ``min_new_tokens``."""
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._matcher = StopStringMatcher(stop)
        self._tokens_before_stop = min_new_tokens
        self._pending = ""

    def feed(self, token_id: int) -> bool:
        """Take the next token; whether a stop string is complete with it."""
        text = self._decoder.feed(token_id)
        if self._tokens_before_stop > 0:
            self._tokens_before_stop -= 1
            self._pending = text
            return False
        self._pending, stopped = self._matcher.feed(text)
        return stopped

    def flush(self) -> str:
        """What was held back, at an end that no stop string made."""
        text, stopped = self._matcher.feed(self._decoder.flush())
        return text if stopped else text + self._matcher.flush()

    def step(self, token: TokenStep) -> GenerationStep:
        """The token with its text. An ending token has not been fed, every other one has."""
        text, self._pending = self._pending, ""
        if token.finish_reason in ("eos", "length"):
            text += self.flush()
        self.finish_reason = token.finish_reason
        tops = tuple(
            TokenLogprob(i, self._tokenizer.token_text(i), logprob)
            for i, logprob in token.top_logprobs
        )
        return GenerationStep(
            text, token.token_id, token.logprob, tops, token.finish_reason, token.sample
        )
