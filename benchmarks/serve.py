"""``laplm serve`` under load: many streams against one, or clients that come and go for minutes.

    python benchmarks/serve.py                      # 16 streams of 64 tokens against one
    python benchmarks/serve.py --llama llama-server # llama.cpp's own server beside it
    python benchmarks/serve.py --soak 180           # 64 clients, random disconnects, memory

Any server with OpenAI's completions can be measured with the same requests: --address.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from convert import GGUF_TYPES, gguf_file
from make_model import make_model

from laplm.model.config import NAMED_SIZES

PROMPTS = 16  # different ones, so that nothing is shared between streams
PROMPT_TOKENS = 32
LLAMA_CONTEXT = 256  # of each of llama.cpp's slots; laplm takes memory as it is needed
IDS = range(300, 5000)  # whole words and pieces of words, in every vocabulary


@dataclass(frozen=True)
class Server:
    """One that is measured; ``pid`` is None when somebody else has started it."""

    name: str
    address: str
    pid: int | None = None

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Run for as long as it is measured, and stand still while another is."""
        if self.pid is None:
            yield
            return
        os.kill(self.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGSTOP)


@contextlib.contextmanager
def process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process with its standard error at hand, which ends with the block."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGCONT)
            running.terminate()
            running.wait(60)


@contextlib.contextmanager
def laplm_server(model: Path, precision: str, slots: int, threads: int) -> Iterator[Server]:
    """``laplm serve`` on a free port."""
    command = [sys.executable, "-m", "laplm", "serve", f"bench={model}", "--port", "0", "--quiet"]
    command += ["--precision", precision, "--slots", str(slots), "--no-open"]
    with process([*command, "--threads", str(threads)]) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if found := re.search(r"the page: (http://\S+?:\d+)/", line):
                yield Server("laplm serve", found[1], running.pid)
                return
        raise RuntimeError("laplm serve did not start")


@contextlib.contextmanager
def llama_server(program: Path, gguf: Path, slots: int, threads: int) -> Iterator[Server]:
    """llama.cpp's server with as many slots and threads, and room for what is asked of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(program), "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--parallel", str(slots), "--ctx-size", str(slots * LLAMA_CONTEXT)]
    command += ["--threads", str(threads), "--log-disable"]
    with process(command) as running:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{address}/health").status_code == 200:
                    break
            if running.poll() is not None:
                raise RuntimeError(f"{program} ended with {running.returncode}")
            time.sleep(0.1)
        yield Server(f"llama.cpp {gguf.stem}", address, running.pid)


def prompt(number: int, length: int = PROMPT_TOKENS) -> list[int]:
    """Tokens that no other prompt begins with."""
    draw = random.Random(number)
    return [draw.choice(IDS) for _ in range(length)]


async def stream(server: Server, number: int, tokens: int) -> list[float]:
    """When each token of one stream came.

    Bytes are read as they come, with no HTTP library: it would take the cores that it measures.
    """
    body = json.dumps({
        "prompt": prompt(number), "max_tokens": tokens, "temperature": 0.8, "seed": number,
        "stream": True, "ignore_eos": True,
    })  # fmt: skip
    host, port = server.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    times = []
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{server.name}: {status!r} {await reader.read()!r}")
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                times.append(time.perf_counter())
    finally:
        writer.close()
    # llama.cpp ends a stream with a chunk that has no token; ours does not.
    return times[:tokens]


@dataclass
class Timings:
    """What was seen of one server with so many streams."""

    rates: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Medians, with the slowest and the fastest repeat."""
        return {
            "tokens_per_second": statistics.median(self.rates),
            "slowest": min(self.rates),
            "fastest": max(self.rates),
            "first_token_seconds": statistics.median(self.firsts),
            "next_token_seconds_p50": statistics.median(self.gaps),
            "next_token_seconds_p95": statistics.quantiles(self.gaps, n=20)[-1],
        }


async def once(server: Server, streams: int, tokens: int, repeat: int, into: Timings) -> None:
    """So many streams at the same time, from the first request to the last token."""
    start = time.perf_counter()
    numbers = [1000 * repeat + i for i in range(streams)]
    all_times = await asyncio.gather(*(stream(server, n, tokens) for n in numbers))
    into.rates.append(streams * tokens / (max(map(max, all_times)) - start))
    into.firsts += [times[0] - start for times in all_times]
    into.gaps += [b - a for times in all_times for a, b in itertools.pairwise(times)]


def compare(servers: Sequence[Server], streams: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Each server with one stream and with many, by turns; the first turn warms up."""
    seen = {(server.name, n): Timings() for server in servers for n in (1, streams)}
    for repeat in range(repeats + 1):
        for server in servers:
            for n in (1, streams):
                into = seen[server.name, n] if repeat else Timings()
                with server.awake():
                    asyncio.run(once(server, n, tokens, repeat, into))
    found: dict[str, Any] = {}
    for server in servers:
        one, many = (seen[server.name, n].summary() for n in (1, streams))
        ratio = many["tokens_per_second"] / one["tokens_per_second"]
        found[server.name] = {"one": one, f"{streams} streams": many, "many_to_one": ratio}
        first = seen[servers[0].name, streams].summary()["tokens_per_second"]
        if server is not servers[0]:
            found[f"{servers[0].name} to {server.name}"] = first / many["tokens_per_second"]
    return found


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


async def soak(server: Server, clients: int, seconds: float) -> dict[str, object]:
    """Clients that come and go, and the server's memory after a warm-up and at the end."""
    if server.pid is None:
        raise SystemExit("--soak measures the memory of a server that it starts itself")
    pid = server.pid
    seen: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.address, timeout=600, limits=limits) as client:

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
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--address", help="measure this server instead, such as http://localhost:8080")
    p.add_argument("--llama", type=Path, metavar="PROGRAM", help="llama.cpp's llama-server, too")
    p.add_argument("--gguf", default="q8_0", choices=GGUF_TYPES, help="what it reads")
    p.add_argument("--soak", type=float, metavar="SECONDS")
    p.add_argument("--clients", type=int, default=64)
    args = p.parse_args()
    with contextlib.ExitStack() as stack:
        servers = []
        if args.address:
            servers.append(Server(args.address, args.address))
        else:
            workdir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            model = args.model or make_model(NAMED_SIZES["gpt2"], workdir / "model")
            server = laplm_server(model, args.precision, args.streams, args.threads)
            servers.append(stack.enter_context(server))
            if args.llama:
                gguf = gguf_file(model, workdir, args.gguf)
                other = llama_server(args.llama, gguf, args.streams, args.threads)
                servers.append(stack.enter_context(other))
        if args.soak:
            found: object = asyncio.run(soak(servers[0], args.clients, args.soak))
        else:
            found = compare(servers, args.streams, args.tokens, args.repeats)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
