"""laplm beside llama.cpp and OpenVINO GenAI on one GGUF file, as it is stored.

    pip install xllamacpp openvino-genai
    python benchmarks/gguf_peers.py FILE.gguf --threads 2 --repeats 3

Each engine runs in a process of its own, and the engines take turns, so that a disturbance meets
all of them. Prompts are random token ids, another one each time, since some engines keep the last.
Medians of tokens a second: prefill of 1,000 tokens, decoding 100 after 64, and laplm's sixteen
sequences decoded together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PREFILL, BEFORE, DECODED = 1000, 64, 100
Figures = dict[str, float]


def prompt(seed: int, count: int) -> list[int]:
    """Token ids that every engine gets alike."""
    return [int(i) for i in np.random.default_rng(seed).integers(100, 40_000, count)]


def laplm(model: str, threads: int, seed: int) -> Figures:
    """Weights as stored; prompts through ``forward``, tokens through ``decode``."""
    from laplm.run.language_model import LanguageModel

    gpt = LanguageModel(model, threads=threads).gpt
    ids = prompt(seed, PREFILL)
    gpt.forward(ids[:BEFORE])

    def decode(sequences: int, steps: int) -> float:
        caches = [gpt.new_cache() for _ in range(sequences)]
        for cache in caches:
            gpt.forward(ids[:BEFORE], cache, last_only=True)
        gpt.decode(ids[:1] * sequences, caches)
        start = time.perf_counter()
        for token in ids[:steps]:
            gpt.decode([token] * sequences, caches)
        return sequences * steps / (time.perf_counter() - start)

    start = time.perf_counter()
    gpt.forward(ids, last_only=True)
    prefill = PREFILL / (time.perf_counter() - start)
    return {"prefill": prefill, "decode": decode(1, DECODED), "16 sequences": decode(16, 20)}


def llama_cpp(model: str, threads: int, seed: int) -> Figures:
    """llama.cpp's server in this process; the figures are its own timings."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = model, 2048, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def timings(ids: list[int], count: int) -> dict[str, float]:
        request = {"prompt": ids, "n_predict": count, "cache_prompt": False, "ignore_eos": True,
                   "temperature": 0}  # fmt: skip
        reply = server.handle_completions(request)
        found: dict[str, Any] = reply if isinstance(reply, dict) else json.loads(reply)
        return found["timings"]  # type: ignore[no-any-return]

    timings(prompt(seed + 1, BEFORE), 4)
    return {
        "prefill": timings(prompt(seed, PREFILL), 1)["prompt_per_second"],
        "decode": timings(prompt(seed, BEFORE), DECODED + 1)["predicted_per_second"],
    }


def openvino(model: str, threads: int, seed: int) -> Figures:
    """OpenVINO GenAI reads the GGUF file itself; the figures are its own metrics."""
    import openvino as ov
    import openvino_genai as genai

    pipeline = genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)

    def metrics(ids: list[int], count: int) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count
        return pipeline.generate(ov.Tensor(np.array([ids])), config).perf_metrics

    metrics(prompt(seed + 1, PREFILL), 2)
    first = metrics(prompt(seed, PREFILL), 2).get_ttft().mean
    each = metrics(prompt(seed + 2, BEFORE), DECODED + 1).get_tpot().mean
    return {"prefill": 1000 * PREFILL / first, "decode": 1000 / each}


ENGINES: dict[str, Callable[[str, int, int], Figures]] = {
    "laplm": laplm, "llama.cpp": llama_cpp, "OpenVINO GenAI": openvino,
}  # fmt: skip


def main() -> None:
    """Time the engines by turns, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        engine, seed = args.one
        print(json.dumps(ENGINES[engine](args.model, args.threads, int(seed))))
        return
    found: dict[str, list[Figures]] = {engine: [] for engine in args.engines}
    for repeat in range(args.repeats):
        for engine in args.engines:
            command = [sys.executable, __file__, args.model, "--threads", str(args.threads)]
            done = subprocess.run(
                [*command, "--one", engine, str(10 * repeat)], capture_output=True, text=True
            )
            if done.returncode:
                print(f"{engine}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found[engine].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(engine, {name: round(value) for name, value in found[engine][-1].items()})
    print(f"\nmedians of {args.repeats}, tokens a second, {args.threads} threads")
    for engine, rows in found.items():
        if rows:
            medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
            print(f"{engine:16}", *(f"{name} {value:,.0f}" for name, value in medians.items()),
                  sep="  ")  # fmt: skip


if __name__ == "__main__":
    main()
