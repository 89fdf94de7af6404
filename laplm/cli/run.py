"""``laplm run``: a prompt continued, printed as it comes."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laplm.cli.arguments import (
    AddCommand,
    add_context,
    add_json,
    add_model,
    add_sampling,
    fast_startup,
    note_trailing_space,
    open_for_generation,
    read_prompt,
    refuse_model_name,
)
from laplm.cli.output import (
    INTERRUPTED,
    interruptible,
    is_terminal,
    note,
    printable,
    terminal_wrapper,
    write,
    write_json,
)
from laplm.cli.progress import progress_bars
from laplm.errors import visible

if TYPE_CHECKING:
    from laplm.model.tokenizer import Tokenizer
    from laplm.run.generate import GenerationStream
    from laplm.run.language_model import LanguageModel
    from laplm.run.results import GenerationResult


_SHOWN_PROMPT = 1000  # characters of a long prompt that are shown, its last ones


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command(
        "run", run, example='laplm run "Once upon a time, there was a little girl"',
        epilog="The text goes to standard output as it comes; a line with tokens, speed and seed "
        "ends it on standard error. On a terminal the prompt stands before the text, dimmed. "
        "Ctrl-C ends it early and keeps what is there. A prompt that begins with a dash comes "
        "after two dashes: laplm run -- '-1 + 1 ='",
    )  # fmt: skip
    p.add_argument(
        "prompt", nargs="?", metavar="PROMPT",
        help="the text to continue; - or nothing reads it from a pipe",
    )  # fmt: skip
    p.add_argument(
        "--prompt-file", type=Path, metavar="FILE",
        help="read the prompt from a file; as with a pipe, a last newline is not part of it",
    )  # fmt: skip
    p.add_argument(
        "-n", "--max-new-tokens", type=int, metavar="N",
        help="tokens to add, at most (default: 100, or what the model still holds)",
    )  # fmt: skip
    g = add_sampling(p)
    g.add_argument(
        "--seed", type=int, metavar="N",
        help="the same seed gives the same text (default: drawn, and told)",
    )  # fmt: skip
    g = p.add_argument_group("how far and how often")
    g.add_argument(
        "--samples", type=int, default=1, metavar="N", help="continuations, computed together"
    )
    g.add_argument(
        "--stop", action="append", default=[], metavar="TEXT",
        help="end before this text; may be given several times",
    )  # fmt: skip
    add_context(g)
    g.add_argument(
        "--slide", action="store_true",
        help="when the context is full, drop its oldest half and go on",
    )  # fmt: skip
    g.add_argument("--ignore-eos", action="store_true", help="go on when the model ends its text")
    g = p.add_argument_group("what is shown")
    g.add_argument(
        "--logprobs", type=int, metavar="K",
        help="log-probability of each token and of the K likeliest in its place",
    )  # fmt: skip
    g.add_argument(
        "--verbose", action="store_true",
        help="end with everything about the run: seconds, model, precision, threads",
    )  # fmt: skip
    add_json(g)
    add_model(p.add_argument_group("the model"))


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if _has_no_prompt(args):
        from laplm.cli import chat

        return chat.run_instead(args)
    refuse_model_name(args.prompt, args)
    prompt = read_prompt(args.prompt, args.prompt_file)
    with fast_startup(), progress_bars() as progress:
        from laplm.run.request import GenerationOptions

        typed = {name: getattr(args, name) for name in GenerationOptions.__annotations__}
        options: Any = {name: value for name, value in typed.items() if value is not None}
        lm = open_for_generation(args, progress)
        stream = lm.stream(
            prompt,
            args.max_new_tokens,
            samples=args.samples,
            **options,
        )
    note_trailing_space(prompt, lm)
    with interruptible() as interrupted:
        if args.json:
            for _ in stream:
                if interrupted.is_set():
                    break
            write_json(as_json(lm, prompt, stream, with_tops=bool(args.logprobs)), indent=None)
        else:
            _print_stream(stream, prompt, interrupted)
            if args.logprobs is not None:
                _print_logprobs(stream.results(), lm.tokenizer)
    figures = _details(lm, stream) if args.verbose else summary(stream)
    note(figures + _own_sampling(lm, stream, typed), dim=True)
    return INTERRUPTED if interrupted.is_set() else 0


def _has_no_prompt(args: argparse.Namespace) -> bool:
    """Whether somebody sits at a terminal and has not said what is to be continued."""
    told = args.prompt is not None or args.prompt_file is not None or args.json
    return not told and args.samples == 1 and is_terminal(sys.stdin)


def _print_stream(stream: GenerationStream, prompt: str, interrupted: threading.Event) -> None:
    printer = _Printer(stream.request.samples, prompt)
    for step in stream:
        printer.add(step.sample, step.text, ended=step.finish_reason is not None)
        if interrupted.is_set():
            break
    printer.finish([result.text for result in stream.results()])


class _Printer:
    """Prints samples one after the other as they come: the first unfinished one is live.

    On a terminal the prompt stands before them, dimmed, and lines break between words.
    """

    def __init__(self, count: int, prompt: str) -> None:
        self._wrapper = terminal_wrapper()
        self._prompt = prompt
        self._texts = [""] * count
        self._ended = [False] * count
        self._current = 0
        self._printed = 0  # characters of the current sample
        self._head()

    def add(self, sample: int, text: str, *, ended: bool) -> None:
        self._texts[sample] += text
        self._ended[sample] = ended
        self._print()

    def finish(self, texts: list[str]) -> None:
        self._texts = texts
        self._ended = [True] * len(texts)
        self._print()
        self._end_line()

    def _print(self) -> None:
        while True:
            text = self._texts[self._current][self._printed :]
            if text and self._wrapper is None:
                write(text)
            elif text and self._wrapper is not None:
                self._wrapper.feed(visible(text))
            self._printed += len(text)
            if not self._ended[self._current] or self._current == len(self._texts) - 1:
                return
            self._end_line()
            self._current, self._printed = self._current + 1, 0
            self._head()

    def _head(self) -> None:
        if len(self._texts) > 1:
            write(_heading(self._current, len(self._texts)))
        if self._wrapper is not None:
            self._wrapper.feed(visible(_end_of(self._prompt)), dim=True)

    def _end_line(self) -> None:
        if self._wrapper is not None:
            self._wrapper.flush()
        if not self._texts[self._current].endswith("\n"):
            write("\n")


def _end_of(prompt: str) -> str:
    return prompt if len(prompt) <= _SHOWN_PROMPT else f"…{prompt[-_SHOWN_PROMPT:]}"


def _heading(index: int, count: int) -> str:
    return f"--- sample {index + 1} of {count} ---\n"


def _print_logprobs(results: list[GenerationResult], tokenizer: Tokenizer) -> None:
    import json

    def cell(text: str, logprob: float) -> str:
        return f"{printable(json.dumps(text, ensure_ascii=False)):<16} {logprob:8.3f}"

    for result in results:
        write(_heading(result.sample, len(results)) if len(results) > 1 else "\n")
        for i, (token, logprob) in enumerate(zip(result.token_ids, result.logprobs, strict=True)):
            cells = [cell(tokenizer.token_text(token), logprob)]
            cells += [cell(t.text, t.logprob) for t in (result.top_logprobs or [()] * (i + 1))[i]]
            write(" | ".join(cells) + "\n")


def summary(stream: GenerationStream) -> str:
    """The line of figures that ends a run."""
    t = stream.timings
    tokens = f"{t.tokens:,} token{'s' if t.tokens != 1 else ''}"
    return f"{tokens}, {t.tokens_per_second:,.1f} tokens/s, {_seed(stream)}"


def _own_sampling(
    lm: LanguageModel, stream: GenerationStream, typed: Mapping[str, float | None]
) -> str:
    """The end of that line where a model's own settings, which nobody has typed, were used."""
    own = {name: value for name, value in lm.sampling.items() if typed[name] is None}
    if not stream.params.greedy:
        return f"; {described_sampling(own)} (the model's own)" if own else ""
    # Of what else there may be, greedy text knows the penalty alone.
    if "repetition_penalty" in own:
        return f"; repetition_penalty {own['repetition_penalty']:g} (the model's own)"
    return " (the model's own)" if "temperature" in own else ""


def described_sampling(values: Mapping[str, float]) -> str:
    """Settings of sampling in words: "temperature 0.6, top_p 0.9"."""
    if values.get("temperature") == 0:
        return "greedy"
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def _seed(stream: GenerationStream) -> str:
    return "greedy" if stream.params.greedy else f"seed {stream.params.seed}"


def _details(lm: LanguageModel, stream: GenerationStream) -> str:
    t = stream.timings
    threads = f"{lm.gpt.threads} thread{'s' if lm.gpt.threads != 1 else ''}"
    return (
        f"{t.tokens:,} token{'s' if t.tokens != 1 else ''} in {t.seconds:.2f} s, "
        f"{t.tokens_per_second:,.1f} tokens/s, first token after {t.first_token_seconds:.2f} s "
        f"(loaded in {lm.load_seconds:.2f} s); {lm.name}, {lm.gpt.precision}, {threads}, "
        f"{_seed(stream)}"
    )


def as_json(
    lm: LanguageModel, prompt: str, stream: GenerationStream, with_tops: bool
) -> dict[str, Any]:
    """What ``--json`` prints of a run that has ended."""
    import dataclasses

    def sample(result: GenerationResult) -> dict[str, Any]:
        out: dict[str, Any] = {
            "text": result.text,
            "token_ids": result.token_ids,
            "logprobs": result.logprobs,
            "finish_reason": result.finish_reason,
        }
        if with_tops:
            out["top_logprobs"] = [[t._asdict() for t in tops] for tops in result.top_logprobs]
        return out

    results = stream.results()
    timings, params = stream.timings, dataclasses.asdict(stream.params)
    out = {
        "model": lm.name,
        "precision": lm.gpt.precision,
        "threads": lm.gpt.threads,
        "prompt": prompt,
        "prompt_token_ids": stream.request.prompt_ids,
        **sample(results[0]),
        "usage": {
            "prompt_tokens": len(stream.request.prompt_ids),
            "completion_tokens": timings.tokens,
            "total_tokens": len(stream.request.prompt_ids) + timings.tokens,
        },
        "timings": {
            "load_seconds": lm.load_seconds,
            "first_token_seconds": timings.first_token_seconds,
            "seconds": timings.seconds,
            "tokens_per_second": timings.tokens_per_second,
        },
        "sampling": params,
    }
    if len(results) > 1:
        out["samples"] = [sample(result) for result in results]
    return out
