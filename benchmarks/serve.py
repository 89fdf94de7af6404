"""``laplm serve`` under load: many streams against one, or clients that come and go for minutes.

    python benchmarks/serve.py                      # 16 streams of 64 tokens against one
    python benchmarks/serve.py --soak 180           # 64 clients, random disconnects, memory

Any server with OpenAI's completions can be measured with the same requests: --address.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
from make_model import make_model

from laplm.gpt.config import NAMED_SIZES

PROMPTS = 16  # different ones, so that nothing is shared between streams
PROMPT_TOKENS = 32
WORDS = ("the", "cat", "dog", "sat", "ran", "and", "on", "mat", "in", "sun", "was", "red")


@contextlib.contextmanager
def serving(model: Path, precision: str, slots: int) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address and its process id."""
    command = [sys.executable, "-m", "laplm", "serve", f"bench={model}", "--port", "0", "--quiet"]
    command += ["--precision", precision, "--slots", str(slots), "--no-open"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"the page: (http://\S+?:\d+)/", line):
                    yield found[1], process.pid
                    break
        finally:
            process.terminate()
            process.wait(60)


def prompt(number: int, length: int = PROMPT_TOKENS) -> str:
    """Words that no other prompt begins with."""
    draw = random.Random(number)
    return " ".join(draw.choice(WORDS) for _ in range(length))


async def stream(client: httpx.AsyncClient, number: int, tokens: int) -> list[float]:
    """When each token of one stream came."""
    body = {
        "prompt": prompt(number), "max_tokens": tokens, "temperature": 0.8, "seed": number,
        "stream": True, "ignore_eos": True,
    }  # fmt: skip
    times = []
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
    return times


async def measure(address: str, streams: int, tokens: int, repeats: int) -> dict[str, float]:
    """Tokens a second of so many streams together, and how long a next token takes."""
    rates, gaps, firsts = [], [], []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        for repeat in range(repeats + 1):
            start = time.perf_counter()
            numbers = [1000 * repeat + i for i in range(streams)]
            all_times = await asyncio.gather(*(stream(client, n, tokens) for n in numbers))
            if repeat:  # the first one warms up
                # llama.cpp ends a stream with a chunk that has no token; ours does not.
                rates.append(streams * tokens / (max(map(max, all_times)) - start))
                firsts += [times[0] - start for times in all_times]
                gaps += [b - a for times in all_times for a, b in zip(times, times[1:])]  # noqa: B905, RUF007
    return {
        "streams": streams,
        "tokens_per_second": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "first_token_seconds": statistics.median(firsts),
        "next_token_seconds_p50": statistics.median(gaps),
        "next_token_seconds_p95": statistics.quantiles(gaps, n=20)[-1],
    }


async def come_and_go(client: httpx.AsyncClient, number: int, end: float, seen: Counter) -> None:
    """One client until the end: whole answers, streams, and streams that it leaves."""
    draw = random.Random(number)
    while time.monotonic() < end:
        body = {
            "prompt": prompt(draw.randrange(PROMPTS), draw.randrange(1, 200)),
            "max_tokens": draw.randrange(1, 65), "n": draw.choice((1, 1, 1, 4)), "stream": True,
        }  # fmt: skip
        leave = draw.randrange(40) if draw.random() < 0.4 else 10**9
        try:
            async with client.stream("POST", "/v1/completions", json=body) as answer:
                lines = 0
                async for line in answer.aiter_lines():
                    lines += 1
                    if '"error"' in line and answer.status_code == 200:
                        seen["error in a stream"] += 1
                    if lines > leave:
                        break
                seen["left" if lines > leave else str(answer.status_code)] += 1
                if answer.status_code == 429:
                    await asyncio.sleep(draw.random() * int(answer.headers["Retry-After"]))
        except httpx.HTTPError as error:
            seen[type(error).__name__] += 1


def resident(pid: int) -> int:
    """Bytes that a process holds (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def soak(address: str, pid: int, clients: int, seconds: float) -> dict[str, object]:
    """Clients that come and go, and the server's memory after a warm-up and at the end."""
    seen: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:

        async def load(for_seconds: float) -> int:
            end = time.monotonic() + for_seconds
            await asyncio.gather(*(come_and_go(client, i, end, seen) for i in range(clients)))
            await asyncio.sleep(1)
            return resident(pid)

        before = await load(seconds / 4)
        after = await load(seconds)
    return {
        "clients": clients, "seconds": seconds, "answers": dict(seen),
        "bytes_after_warm_up": before, "bytes_at_the_end": after, "growth": after / before - 1,
    }  # fmt: skip


def main() -> None:
    """Parse the command line, measure, print JSON."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", type=Path, help="a directory (default: GPT-2 small's shape, made)")
    p.add_argument("--precision", default="int8")
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--address", help="measure this server instead, such as http://localhost:8080")
    p.add_argument("--soak", type=float, metavar="SECONDS")
    p.add_argument("--clients", type=int, default=64)
    args = p.parse_args()
    with contextlib.ExitStack() as stack:
        if args.address:
            address, pid = args.address, 0
        else:
            model = args.model
            if model is None:
                model = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
                make_model(NAMED_SIZES["gpt2"], model)
            address, pid = stack.enter_context(serving(model, args.precision, args.streams))
        if args.soak:
            found: object = asyncio.run(soak(address, pid, args.clients, args.soak))
        else:
            one, many = (
                asyncio.run(measure(address, n, args.tokens, args.repeats))
                for n in (1, args.streams)
            )
            ratio = many["tokens_per_second"] / one["tokens_per_second"]
            found = {"one": one, "many": many, "many_to_one": ratio}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
