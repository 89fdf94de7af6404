"""The engines that ``peers.py`` times, each in a process of its own.

    python benchmarks/engines.py prepare "llama.cpp q8_0" --model DIR --workdir DIR --threads 2
    python benchmarks/engines.py serve   "llama.cpp q8_0" --model DIR --workdir DIR --threads 2

``prepare`` converts or packs the weights and runs the engine once, so that nothing of that falls
into a measurement. ``serve`` loads the engine and answers one JSON request a line on stdin with
one JSON line on stdout: ``{"do": "decode", "ids": [...], "count": 24, "way": "step"}`` gives
``{"seconds": ..., "tokens": ...}``. Times are taken here, around the engine's own calls.

Every engine keeps its library's defaults, except for the number of threads.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TEMPERATURE, TOP_K = 0.8, 40
SETTLE_SECONDS = 0.25


class Engine:
    """One library at one precision: what it can do, and how long it takes.

    ``ids`` are token ids. Times are seconds from ``time.perf_counter``.

    Attributes:
        package: the distribution whose version is reported.
        decode_ways: ``step``, one token in and logits out, called in a loop by us; ``generate``,
            the library's own generation loop as its users call it.
        sample_ways: how many samples of one prompt are drawn.
    """

    package = ""
    decode_ways: tuple[str, ...] = ("step", "generate")
    sample_ways: tuple[str, ...] = ("together",)
    notes = ""

    def __init__(self, precision: str, model: Path, workdir: Path, threads: int) -> None:
        raise NotImplementedError

    @classmethod
    def installed(cls) -> str | None:
        """The installed version, None when it is not installed."""
        try:
            return importlib.metadata.version(cls.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def prefill(self, ids: Sequence[int]) -> float:
        """Seconds from a prompt to the choice of its next token, starting with no cache."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int], count: int, way: str) -> float:
        """Seconds for the greedy tokens 2 ... ``count`` after the prompt ``ids``.

        The prompt and the first token, which ends the prefill, are not timed.
        """
        raise NotImplementedError

    def samples(self, ids: Sequence[int], n: int, count: int, way: str) -> tuple[float, int]:
        """Draw ``n`` samples of ``count`` tokens: seconds with the prefill, tokens made."""
        raise NotImplementedError

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits after the last token, (V,): shows that every engine runs the same model."""
        raise NotImplementedError


class Steps:
    """Time stamps of a loop that hands out one token at a time."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def mark(self) -> None:
        """A token is there."""
        self.times.append(time.perf_counter())

    def seconds(self, count: int) -> float:
        """From the first to the last of ``count`` tokens."""
        if len(self.times) != count:
            raise RuntimeError(f"{len(self.times)} tokens came, not {count}")
        return self.times[-1] - self.times[0]


def draw(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One token a row by temperature and top-k, for engines without a sampler: (N, V) -> (N,)."""
    top = np.argpartition(logits, -TOP_K, axis=-1)[:, -TOP_K:]
    values = np.take_along_axis(logits, top, axis=-1) / TEMPERATURE
    # The largest of (value + Gumbel noise) has the softmax distribution.
    best = (values + rng.gumbel(size=values.shape)).argmax(axis=-1)
    return np.take_along_axis(top, best[:, None], axis=-1)[:, 0]


class Laplm(Engine):
    """This project: ``GPT`` for single steps, ``laplm.load`` for everything else."""

    package = "laplm"

    def __init__(self, precision: str, model: Path, workdir: Path, threads: int) -> None:
        import laplm

        self.lm = laplm.load(model, precision=precision, threads=threads)
        self.gpt = self.lm.gpt
        self.past: Any = None
        self.past_ids: list[int] = []

    @classmethod
    def installed(cls) -> str | None:
        """From the installed package, or from the checkout this file lies in."""
        import tomllib

        try:
            importlib.metadata.version("llvmlite")
            return importlib.metadata.version("laplm")
        except importlib.metadata.PackageNotFoundError as missing:
            if missing.name != "laplm":
                return None
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        return f"{project['project']['version']} (checkout)"

    def system_info(self) -> str:
        """The instruction set in use."""
        return str(self.gpt.isa.name)

    def read_weights(self) -> tuple[float, int]:
        """Read the packed weights and do nothing else: seconds, bytes. The roof of decoding.

        The best of several: a roof is what the machine can do.
        """
        from laplm.run.bench import Roofline

        address, size = self.gpt.weights_span()
        limits = Roofline(self.gpt)
        return size / max(limits.read_bandwidth(address, size) for _ in range(8)), size

    def prefill(self, ids: Sequence[int]) -> float:
        """See ``Engine``."""
        start = time.perf_counter()
        cache = self.gpt.new_cache()
        self.gpt.forward(np.array(ids), cache, last_only=True)[-1].argmax()
        return time.perf_counter() - start

    def decode(self, ids: Sequence[int], count: int, way: str) -> float:
        """See ``Engine``."""
        steps = Steps()
        if way == "generate":
            for _ in self.lm.stream(list(ids), count, temperature=0.0, ignore_eos=True):
                steps.mark()
            return steps.seconds(count)
        if self.past_ids != list(ids):  # only the steps are timed: fill the cache once
            self.past, self.past_ids = self.gpt.new_cache(), list(ids)
            self.gpt.forward(np.array(ids), self.past, last_only=True)
        (cache,) = self.past.fork(1)
        token = ids[-1]
        for _ in range(count):
            token = int(self.gpt.decode([token], [cache])[0].argmax())
            steps.mark()
        return steps.seconds(count)

    def samples(self, ids: Sequence[int], n: int, count: int, way: str) -> tuple[float, int]:
        """See ``Engine``."""
        prompt = list(ids)
        start = time.perf_counter()
        results = self.lm.samples(
            prompt, n, count, temperature=TEMPERATURE, top_k=TOP_K, ignore_eos=True
        )
        seconds = time.perf_counter() - start
        return seconds, sum(len(result.token_ids) for result in results)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """See ``Engine``."""
        out: np.ndarray = self.gpt.forward(np.array(ids), self.gpt.new_cache(), last_only=True)[-1]
        return out


class Transformers(Engine):
    """Hugging Face transformers on PyTorch."""

    package = "transformers"
    sample_ways = ("calls", "together")
    notes = "samples: one generate call a sample, or one call with num_return_sequences"

    def __init__(self, precision: str, model: Path, workdir: Path, threads: int) -> None:
        import torch
        from transformers import AutoTokenizer, GPT2LMHeadModel

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.model = GPT2LMHeadModel.from_pretrained(model, dtype=dtype).eval()
        self.eos = AutoTokenizer.from_pretrained(model).eos_token_id
        self.past: Any = None
        self.past_ids: list[int] = []

    def prefill(self, ids: Sequence[int]) -> float:
        """See ``Engine``."""
        tensor = self.torch.tensor([list(ids)])
        start = time.perf_counter()
        self.model(tensor, use_cache=True, logits_to_keep=1).logits[0, -1].argmax().item()
        return time.perf_counter() - start

    def decode(self, ids: Sequence[int], count: int, way: str) -> float:
        """See ``Engine``."""
        steps = Steps()
        if way == "generate":
            streamer = _Streamer(steps)
            self._generate(ids, count, streamer=streamer, do_sample=False)
            return steps.seconds(count)
        if self.past_ids != list(ids):
            out = self.model(self.torch.tensor([list(ids)]), use_cache=True, logits_to_keep=1)
            self.past, self.past_ids = out.past_key_values, list(ids)
        token = ids[-1]
        for _ in range(count):
            out = self.model(
                self.torch.tensor([[token]]), past_key_values=self.past, use_cache=True
            )
            token = int(out.logits[0, -1].argmax())
            steps.mark()
        self.past.crop(-count)  # negative: how many to take away
        return steps.seconds(count)

    def samples(self, ids: Sequence[int], n: int, count: int, way: str) -> tuple[float, int]:
        """See ``Engine``."""
        calls, each = (n, 1) if way == "calls" else (1, n)
        made = 0
        start = time.perf_counter()
        for _ in range(calls):
            out = self._generate(
                ids,
                count,
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=TOP_K,
                num_return_sequences=each,
            )
            made += (out.shape[1] - len(ids)) * out.shape[0]
        return time.perf_counter() - start, made

    def _generate(self, ids: Sequence[int], count: int, **settings: Any) -> Any:
        tensor = self.torch.tensor([list(ids)])
        return self.model.generate(
            tensor,
            attention_mask=self.torch.ones_like(tensor),
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=self.eos,
            **settings,
        )

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """See ``Engine``."""
        out = self.model(self.torch.tensor([list(ids)]), logits_to_keep=1).logits[0, -1]
        array: np.ndarray = out.float().numpy()
        return array


class _Streamer:
    # What transformers' generate calls: once with the prompt, once a token, and at the end.
    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.prompt_seen = False

    def put(self, value: object) -> None:
        if self.prompt_seen:
            self.steps.mark()
        self.prompt_seen = True

    def end(self) -> None:
        pass


class CTranslate2(Engine):
    """CTranslate2; it offers its own loop only."""

    package = "ctranslate2"
    decode_ways = ("generate",)
    notes = "samples: one generate_batch call with the prompt repeated"

    def __init__(self, precision: str, model: Path, workdir: Path, threads: int) -> None:
        import ctranslate2
        from convert import ctranslate2_directory
        from tokenizers import Tokenizer

        self.generator = ctranslate2.Generator(
            str(ctranslate2_directory(model, workdir)),
            compute_type={"fp32": "float32"}.get(precision, precision),
            intra_threads=threads,
            inter_threads=1,
        )
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))

    def _run(self, ids: Sequence[int], n: int, count: int, **settings: Any) -> Any:
        prompt = [self.tokenizer.id_to_token(i) for i in ids]
        return self.generator.generate_batch(
            [prompt] * n,
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            **settings,
        )

    def prefill(self, ids: Sequence[int]) -> float:
        """See ``Engine``."""
        start = time.perf_counter()
        self._run(ids, 1, 1, sampling_topk=1)
        return time.perf_counter() - start

    def decode(self, ids: Sequence[int], count: int, way: str) -> float:
        """See ``Engine``."""
        steps = Steps()

        def on_token(_: object) -> bool:
            steps.mark()
            return False

        self._run(ids, 1, count, sampling_topk=1, callback=on_token)
        return steps.seconds(count)

    def samples(self, ids: Sequence[int], n: int, count: int, way: str) -> tuple[float, int]:
        """See ``Engine``."""
        start = time.perf_counter()
        results = self._run(ids, n, count, sampling_topk=TOP_K, sampling_temperature=TEMPERATURE)
        seconds = time.perf_counter() - start
        return seconds, sum(len(result.sequences_ids[0]) for result in results)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """See ``Engine``."""
        array: np.ndarray = np.array(self.generator.forward_batch([list(ids)]))[0, -1]
        return array


class LlamaCpp(Engine):
    """llama.cpp through llama-cpp-python; steps and samples use llama.cpp's C functions."""

    package = "llama-cpp-python"
    notes = "samples: parallel sequences in one llama_batch, llama.cpp's own sampler chain"

    def __init__(self, precision: str, model: Path, workdir: Path, threads: int) -> None:
        from convert import gguf_file
        from llama_cpp import Llama
        from llama_cpp import llama_cpp as lib

        self.lib, self.threads = lib, threads
        path = gguf_file(model, workdir, precision)
        self.high = Llama(
            str(path), n_ctx=0, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self.model = self.high.model
        self.vocab_size = self.high.n_vocab()
        self.context = self._context(lib.llama_model_n_ctx_train(self.model), 1)
        self.past_ids: list[int] = []
        self.many: dict[int, Any] = {}

    def system_info(self) -> str:
        """The instruction sets that this build of llama.cpp uses."""
        info: bytes = self.lib.llama_print_system_info()
        return info.decode().strip()

    def _context(self, n_ctx: int, n_seq: int) -> Any:
        params = self.lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = n_ctx
        params.n_seq_max = n_seq
        params.kv_unified = True  # the samples share the prompt's keys and values
        params.n_threads = params.n_threads_batch = self.threads
        params.no_perf = True
        context = self.lib.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError("llama_init_from_model gave no context")
        return context

    def _decode(self, context: Any, batch: Any) -> None:
        if code := self.lib.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode gave {code}")

    def _append(self, context: Any, ids: Sequence[int]) -> np.ndarray:
        tokens = (self.lib.llama_token * len(ids))(*ids)
        self._decode(context, self.lib.llama_batch_get_one(tokens, len(ids)))
        pointer = self.lib.llama_get_logits_ith(context, -1)
        return np.ctypeslib.as_array(pointer, (self.vocab_size,))

    def _clear(self, context: Any) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(context), True)

    def prefill(self, ids: Sequence[int]) -> float:
        """See ``Engine``."""
        self._clear(self.context)
        self.past_ids = []
        start = time.perf_counter()
        self._append(self.context, ids).argmax()
        return time.perf_counter() - start

    def decode(self, ids: Sequence[int], count: int, way: str) -> float:
        """See ``Engine``."""
        steps = Steps()
        if way == "generate":
            for _ in self.high.generate(list(ids), temp=0.0):
                steps.mark()
                if len(steps.times) == count:
                    break
            return steps.seconds(count)
        memory = self.lib.llama_get_memory(self.context)
        if self.past_ids != list(ids):
            self._clear(self.context)
            self._append(self.context, ids)
            self.past_ids = list(ids)
        token = ids[-1]
        for _ in range(count):
            token = int(self._append(self.context, [token]).argmax())
            steps.mark()
        self.lib.llama_memory_seq_rm(memory, 0, len(ids), -1)
        return steps.seconds(count)

    def samples(self, ids: Sequence[int], n: int, count: int, way: str) -> tuple[float, int]:
        """See ``Engine``."""
        lib = self.lib
        if n not in self.many:
            self.many[n] = self._context(max(1024, 64 * n), n)
        context = self.many[n]
        memory = lib.llama_get_memory(context)
        chains = []
        for i in range(n):
            chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_k(TOP_K))
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(TEMPERATURE))
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(1234 + i))
            chains.append(chain)
        batch = lib.llama_batch_init(n, 0, 1)
        self._clear(context)
        made = 0

        start = time.perf_counter()
        self._append(context, ids)
        for i in range(1, n):
            lib.llama_memory_seq_cp(memory, 0, i, -1, -1)
        tokens = [lib.llama_sampler_sample(chain, context, -1) for chain in chains]
        made += n
        for step in range(count - 1):
            batch.n_tokens = n
            for i, token in enumerate(tokens):
                batch.token[i] = token
                batch.pos[i] = len(ids) + step
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = i
                batch.logits[i] = 1
            self._decode(context, batch)
            tokens = [lib.llama_sampler_sample(chain, context, i) for i, chain in enumerate(chains)]
            made += n
        seconds = time.perf_counter() - start

        lib.llama_batch_free(batch)
        for chain in chains:
            lib.llama_sampler_free(chain)
        return seconds, made

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """See ``Engine``."""
        self._clear(self.context)
        self.past_ids = []
        return self._append(self.context, ids).copy()


class XLlamaCpp(Engine):
    """llama.cpp as the wheel xllamacpp has it: its own server, inside this process.

    The wheel chooses among llama.cpp's builds by what the CPU has. Times are the server's own.
    """

    package = "xllamacpp"
    decode_ways = ("generate",)
    sample_ways = ()
    notes = "llama.cpp's own server, and the times that it tells; it gives no logits"

    def __init__(self, precision: str, model: Path, workdir: Path, threads: int) -> None:
        import xllamacpp
        from convert import gguf_file

        params = xllamacpp.CommonParams()
        params.model.path = str(gguf_file(model, workdir, precision))
        params.n_ctx, params.n_parallel = 0, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.warmup = params.fit_params = False
        params.verbosity = -1
        self.info = str(xllamacpp.get_system_info())
        self.server = xllamacpp.Server(params)

    def system_info(self) -> str:
        """The instruction sets that it uses here."""
        return self.info

    def _timings(self, ids: Sequence[int], count: int) -> dict[str, float]:
        request = urllib.request.Request(
            self.server.listening_address + "/completion",
            json.dumps({
                "prompt": list(ids), "n_predict": count, "temperature": 0.0, "ignore_eos": True,
                "cache_prompt": False,
            }).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request) as reply:
            timings: dict[str, float] = json.load(reply)["timings"]
        assert timings["prompt_n"] == len(ids)
        assert timings["predicted_n"] == count
        return timings

    def prefill(self, ids: Sequence[int]) -> float:
        """See ``Engine``."""
        return self._timings(ids, 1)["prompt_ms"] / 1000

    def decode(self, ids: Sequence[int], count: int, way: str) -> float:
        """See ``Engine``."""
        return self._timings(ids, count)["predicted_ms"] / 1000

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """See ``Engine``; never given."""
        raise NotImplementedError("llama.cpp's server gives no logits")


class IkLlamaCpp(Engine):
    """ik_llama.cpp, by its C functions, as the wheel ik-llama-cpp-python has it for AVX2."""

    package = "ik-llama-cpp-python"
    decode_ways = ("step",)
    sample_ways = ()
    notes = (
        "llama_decode, called by us; the wheel is built for AVX2 and FMA. Its GPT-2 ends at an "
        "assertion, so it has the same matrices as a GPT-NeoX, without comparison of logits"
    )

    def __init__(self, precision: str, model: Path, workdir: Path, threads: int) -> None:
        from convert import gguf_file
        from ik_llama_cpp import _ctypes_api as lib

        self.lib = lib
        path = gguf_file(model, workdir, precision, as_neox=True)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(
            str(path).encode(), lib.llama_model_default_params()
        )
        params = lib.llama_context_default_params()
        params.n_ctx = 0
        params.n_threads = params.n_threads_batch = threads
        self.context = lib.llama_init_from_model(self.model, params) if self.model else None
        if not self.context:
            raise RuntimeError(f"ik_llama.cpp does not load {path}")
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.batch = lib.llama_batch_init(params.n_batch, 0, 1)

    def _append(self, ids: Sequence[int], start: int) -> np.ndarray:
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == len(ids) - 1
        if code := self.lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode gave {code}")
        pointer = self.lib.llama_get_logits_ith(self.context, len(ids) - 1)
        return np.ctypeslib.as_array(pointer, (self.vocab_size,))

    def prefill(self, ids: Sequence[int]) -> float:
        """See ``Engine``."""
        self.lib.llama_kv_cache_clear(self.context)
        start = time.perf_counter()
        self._append(ids, 0).argmax()
        return time.perf_counter() - start

    def decode(self, ids: Sequence[int], count: int, way: str) -> float:
        """See ``Engine``."""
        steps = Steps()
        self.lib.llama_kv_cache_clear(self.context)
        self._append(ids, 0)
        token = ids[-1]
        for i in range(count):
            token = int(self._append([token], len(ids) + i).argmax())
            steps.mark()
        return steps.seconds(count)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """See ``Engine``; never given."""
        raise NotImplementedError("another architecture: its logits are others")


class OnnxRuntime(Engine):
    """onnxruntime on a graph exported from transformers; it has no generation loop of its own."""

    package = "onnxruntime"
    decode_ways = ("step",)
    notes = "exported by torch.onnx; int8: dynamic quantisation; samples: batched, NumPy sampler"

    def __init__(self, precision: str, model: Path, workdir: Path, threads: int) -> None:
        import onnxruntime
        from convert import onnx_file

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.ort = onnxruntime
        self.session = onnxruntime.InferenceSession(
            str(onnx_file(model, workdir, precision)), options, providers=["CPUExecutionProvider"]
        )
        inputs = self.session.get_inputs()
        self.names = [node.name for node in inputs[1:]]
        self.outputs = [node.name for node in self.session.get_outputs()]
        _, self.heads, _, self.width = inputs[1].shape
        self.past: list[Any] = []
        self.past_ids: list[int] = []

    def _empty(self) -> list[Any]:
        zero = np.zeros((1, self.heads, 0, self.width), np.float32)
        return [self.ort.OrtValue.ortvalue_from_numpy(zero) for _ in self.names]

    def _step(self, ids: np.ndarray, past: list[Any]) -> tuple[np.ndarray, list[Any]]:
        feeds = dict(zip(self.names, past, strict=True))
        feeds["ids"] = self.ort.OrtValue.ortvalue_from_numpy(ids.astype(np.int64))
        # OrtValues stay inside onnxruntime: keys and values are not copied through NumPy.
        logits, *present = self.session.run_with_ort_values(self.outputs, feeds)
        return logits.numpy()[:, -1], present

    def prefill(self, ids: Sequence[int]) -> float:
        """See ``Engine``."""
        start = time.perf_counter()
        self._step(np.array([ids]), self._empty())[0].argmax()
        return time.perf_counter() - start

    def decode(self, ids: Sequence[int], count: int, way: str) -> float:
        """See ``Engine``."""
        steps = Steps()
        if self.past_ids != list(ids):
            _, self.past = self._step(np.array([ids]), self._empty())
            self.past_ids = list(ids)
        past, token = self.past, ids[-1]
        for _ in range(count):
            logits, past = self._step(np.array([[token]]), past)
            token = int(logits[0].argmax())
            steps.mark()
        return steps.seconds(count)

    def samples(self, ids: Sequence[int], n: int, count: int, way: str) -> tuple[float, int]:
        """See ``Engine``."""
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        logits, past = self._step(np.array([ids]), self._empty())
        tokens = draw(np.repeat(logits, n, axis=0), rng)
        past = [
            self.ort.OrtValue.ortvalue_from_numpy(np.repeat(p.numpy(), n, axis=0)) for p in past
        ]
        made = n
        for _ in range(count - 1):
            logits, past = self._step(tokens[:, None], past)
            tokens = draw(logits, rng)
            made += n
        return time.perf_counter() - start, made

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """See ``Engine``."""
        return self._step(np.array([ids]), self._empty())[0][0]


ENGINES: dict[str, tuple[type[Engine], str]] = {
    "laplm int8": (Laplm, "int8"),
    "laplm int4": (Laplm, "int4"),
    "laplm fp32": (Laplm, "fp32"),
    "llama.cpp q8_0": (LlamaCpp, "q8_0"),
    "llama.cpp q4_0": (LlamaCpp, "q4_0"),
    "llama.cpp f16": (LlamaCpp, "f16"),
    "xllamacpp q8_0": (XLlamaCpp, "q8_0"),
    "xllamacpp q4_0": (XLlamaCpp, "q4_0"),
    "ik_llama.cpp q8_0": (IkLlamaCpp, "q8_0"),
    "ik_llama.cpp q4_0": (IkLlamaCpp, "q4_0"),
    "ctranslate2 int8": (CTranslate2, "int8"),
    "ctranslate2 fp32": (CTranslate2, "fp32"),
    "onnxruntime int8": (OnnxRuntime, "int8"),
    "onnxruntime fp32": (OnnxRuntime, "fp32"),
    "transformers fp32": (Transformers, "fp32"),
    "transformers bf16": (Transformers, "bf16"),
}


def peak_memory() -> float:
    """The largest resident size of this process so far, in MB (1e6 bytes)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def settle(work: Callable[[], object]) -> None:
    """Repeat untimed work until a process that was just woken has its threads on their cores.

    After a stop the system may wake all threads of a process on one core, and needs some
    scheduling rounds to spread them.
    """
    start = time.perf_counter()
    while True:
        work()
        if time.perf_counter() - start > SETTLE_SECONDS:
            return


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """Do one piece of work and time it."""
    ids = request["ids"]
    match request["do"]:
        case "start":
            engine.decode(ids, 8, engine.decode_ways[0])
            info = getattr(engine, "system_info", lambda: "")()
            return {"peak_memory_mb": peak_memory(), "system_info": info}
        case "logits":
            np.save(request["file"], engine.logits(ids).astype(np.float32))
            return {}
        case "memory":
            assert isinstance(engine, Laplm)
            settle(engine.read_weights)
            seconds, size = engine.read_weights()
            return {"seconds": seconds, "tokens": size}
        case "prefill":
            settle(lambda: engine.prefill(ids[:64]))
            return {"seconds": engine.prefill(ids), "tokens": len(ids)}
        case "decode":
            count, way = request["count"], request["way"]
            # Where we hold the keys and values they stay; a library's own loop begins anew.
            settle(lambda: engine.decode(ids if way == "step" else ids[:64], 4, way))
            return {"seconds": engine.decode(ids, count, way), "tokens": count - 1}
        case "samples":
            n, count, way = request["n"], request["count"], request["way"]
            # Another prompt, so that no engine still holds the keys and values of this one.
            settle(lambda: engine.samples(ids[::-1], n, 2, way))
            seconds, tokens = engine.samples(ids, n, count, way)
            return {"seconds": seconds, "tokens": tokens}
        case other:
            raise ValueError(f"unknown request {other!r}")


def serve(make: Callable[[], Engine]) -> None:
    """Answer requests until stdin ends; whatever libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine = make()
    for line in sys.stdin:
        try:
            reply = answer(engine, json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=out, flush=True)


def main() -> None:
    """Parse the command line and prepare or serve one engine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mode", choices=["prepare", "serve"])
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    if importlib.util.find_spec("laplm") is None:  # a checkout that is not installed
        sys.path.insert(0, str(ROOT))
    kind, precision = ENGINES[args.engine]

    def make() -> Engine:
        return kind(precision, args.model, args.workdir, args.threads)

    if args.mode == "serve":
        serve(make)
    else:
        make().decode([0, 1, 2], 2, kind.decode_ways[0])


if __name__ == "__main__":
    main()
