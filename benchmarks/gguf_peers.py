"""laplm beside llama.cpp, ik_llama.cpp and OpenVINO GenAI on one GGUF file, as it is stored.

    pip install xllamacpp ik-llama-cpp-python openvino-genai
    python benchmarks/gguf_peers.py FILE.gguf --threads 2 --repeats 3
    python benchmarks/gguf_peers.py FILE.gguf --as q4_0   # the same weights, stored otherwise

A file of another shape, with generated weights:

    python benchmarks/make_model.py llama3.2-1b DIR --dtype fp16
    laplm export DIR --precision f16 --out FILE.gguf

Each engine runs in a process of its own, and the engines take turns, so that a disturbance meets
all of them. Prompts are random token ids, another one each time, since some engines keep the last.
Medians of tokens a second: prefill of 1,000 tokens, decoding 100 after 64, sixteen sequences of
them decoded together, and laplm's decoding after 4,000.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

PREFILL, BEFORE, DECODED = 1000, 64, 100
SEQUENCES, STEPS = 16, 20
LONG = 4000
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

    def decode(sequences: int, steps: int, before: Sequence[int] = ids[:BEFORE]) -> float:
        caches = [gpt.new_cache() for _ in range(sequences)]
        for cache in caches:
            gpt.forward(before, cache, last_only=True)
        gpt.decode(ids[:1] * sequences, caches)
        start = time.perf_counter()
        for token in ids[:steps]:
            gpt.decode([token] * sequences, caches)
        return sequences * steps / (time.perf_counter() - start)

    start = time.perf_counter()
    gpt.forward(ids, last_only=True)
    prefill = PREFILL / (time.perf_counter() - start)
    return {
        "prefill": prefill, "decode": decode(1, DECODED),
        "16 sequences": decode(SEQUENCES, STEPS),
        "decode after 4,000": decode(1, STEPS, prompt(seed, LONG)),
    }  # fmt: skip


def llama_cpp(model: str, threads: int, seed: int) -> Figures:
    """llama.cpp's server in this process; the figures are its own timings."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx = model, 2048 * SEQUENCES
    params.n_parallel = SEQUENCES
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def timings(ids: list[int], count: int) -> dict[str, float]:
        request = {"prompt": ids, "n_predict": count, "cache_prompt": False, "ignore_eos": True,
                   "temperature": 0}  # fmt: skip
        reply = server.handle_completions(request)
        found: dict[str, Any] = reply if isinstance(reply, dict) else json.loads(reply)
        return found["timings"]  # type: ignore[no-any-return]

    def together(count: int) -> float:
        """Seconds until each of sixteen requests has its tokens."""
        prompts = [prompt(seed + i, BEFORE) for i in range(SEQUENCES)]
        start = time.perf_counter()
        with ThreadPoolExecutor(SEQUENCES) as pool:
            list(pool.map(timings, prompts, [count] * SEQUENCES))
        return time.perf_counter() - start

    timings(prompt(seed + 1, BEFORE), 4)
    figures = {
        "prefill": timings(prompt(seed, PREFILL), 1)["prompt_per_second"],
        "decode": timings(prompt(seed, BEFORE), DECODED + 1)["predicted_per_second"],
    }
    first = together(1)  # their prompts, and a token each
    more = together(1 + 3 * STEPS) - first
    return figures | {"16 sequences": SEQUENCES * 3 * STEPS / more}


def ik_llama_cpp(model: str, threads: int, seed: int) -> Figures:
    """ik_llama.cpp through its binding, one call a token."""
    from ik_llama_cpp import IkLlama, _ctypes_api
    from ik_llama_cpp._ctypes_api import llama_batch_free
    from ik_llama_cpp._internals import IkContext, make_batch_single

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
    decode = DECODED / (time.perf_counter() - start)

    context = IkContext(
        llama._model, n_ctx=2048, n_threads=threads, flash_attn=False, n_seq_max=SEQUENCES
    )
    batch = _ctypes_api.llama_batch_init(SEQUENCES, 0, 1)

    def step_together(tokens: Sequence[int], at: int) -> None:
        batch.n_tokens = SEQUENCES
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, at
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, i, 1
        context.decode(batch)

    rows = [prompt(seed + i, SEQUENCES) for i in range(BEFORE + 1 + STEPS)]
    for at, tokens in enumerate(rows):
        if at == BEFORE + 1:
            start = time.perf_counter()
        step_together(tokens, at)
    many = SEQUENCES * STEPS / (time.perf_counter() - start)
    return {"prefill": prefill, "decode": decode, "16 sequences": many}


def openvino(model: str, threads: int, seed: int) -> Figures:
    """OpenVINO GenAI reads the GGUF file itself; the figures are its own metrics."""
    import openvino as ov
    import openvino_genai as genai

    pipeline = genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)

    def metrics(ids: list[int], count: int, sequences: int = 0) -> Any:
        config = genai.GenerationConfig(apply_chat_template=False)
        config.max_new_tokens = config.min_new_tokens = count
        # It takes several prompts as text alone; a word of these is a token.
        words = " ".join("abcdefghij"[i % 10] for i in ids)
        inputs = [words] * sequences if sequences else ov.Tensor(np.array([ids]))
        return pipeline.generate(inputs, config).perf_metrics

    metrics(prompt(seed + 1, PREFILL), 2)
    first = metrics(prompt(seed, PREFILL), 2).get_ttft().mean
    each = metrics(prompt(seed + 2, BEFORE), DECODED + 1).get_tpot().mean

    def together(count: int) -> float:
        start = time.perf_counter()
        metrics(prompt(seed, BEFORE), count, SEQUENCES)
        return time.perf_counter() - start

    together(2)
    at_first = together(1)
    more = together(1 + STEPS) - at_first
    return {
        "prefill": 1000 * PREFILL / first, "decode": 1000 / each,
        "16 sequences": SEQUENCES * STEPS / more,
    }  # fmt: skip


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
        contents = field.contents()
        if field.name == "general.file_type":  # by which OpenVINO knows the matrices' type
            contents = int(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
        writer.add_key_value(field.name, contents, field.types[0], sub_type=inside)
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
