"""laplm beside llama.cpp, ik_llama.cpp and OpenVINO GenAI on one GGUF file, as it is stored.

    pip install xllamacpp ik-llama-cpp-python openvino-genai
    python benchmarks/gguf_peers.py FILE.gguf --threads 2 --repeats 3
    python benchmarks/gguf_peers.py FILE.gguf --as q4_0   # the same weights, stored otherwise

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
from pathlib import Path
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


def ik_llama_cpp(model: str, threads: int, seed: int) -> Figures:
    """ik_llama.cpp through its binding, one call a token."""
    from ik_llama_cpp import IkLlama
    from ik_llama_cpp._ctypes_api import llama_batch_free
    from ik_llama_cpp._internals import make_batch_single

    llama = IkLlama(model, n_ctx=2048, n_threads=threads, verbose=False)
    llama.generate(prompt(seed + 1, BEFORE), max_tokens=4)
    start = time.perf_counter()
    llama.generate(prompt(seed, PREFILL), max_tokens=0)
    prefill = PREFILL / (time.perf_counter() - start)
    llama.generate(prompt(seed, BEFORE), max_tokens=0)

    def step(token: int, at: int) -> None:
        batch = make_batch_single(token, at)
        llama._context.decode(batch)
        llama_batch_free(batch)

    step(prompt(seed, 1)[0], BEFORE)
    start = time.perf_counter()
    for i, token in enumerate(prompt(seed, DECODED)):
        step(token, BEFORE + 1 + i)
    return {"prefill": prefill, "decode": DECODED / (time.perf_counter() - start)}


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
    "laplm": laplm, "llama.cpp": llama_cpp, "ik_llama.cpp": ik_llama_cpp,
    "OpenVINO GenAI": openvino,
}  # fmt: skip


def store_as(model: str, kind: str) -> str:
    """The same model with its matrices in another type, beside the file; returns its path."""
    import gguf

    out = Path(model).with_suffix(f".{kind}.gguf")
    if out.exists():
        return str(out)
    reader, wanted = gguf.GGUFReader(model), gguf.GGMLQuantizationType[kind.upper()]
    architecture = reader.get_field("general.architecture")
    assert architecture is not None
    writer = gguf.GGUFWriter(str(out) + ".part", architecture.contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        inside = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inside)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if len(tensor.shape) > 1:
            writer.add_tensor(tensor.name, gguf.quantize(values, wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    Path(str(out) + ".part").replace(out)
    return str(out)


def main() -> None:
    """Time the engines by turns, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--as", dest="kind", metavar="TYPE", help="of the matrices: q4_0, q8_0 …")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        engine, seed = args.one
        print(json.dumps(ENGINES[engine](args.model, args.threads, int(seed))))
        return
    if args.kind:
        args.model = store_as(args.model, args.kind)
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
