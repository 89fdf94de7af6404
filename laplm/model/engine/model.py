"""GPT: token ids and a key/value cache in, logits out."""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplm.errors import InputError
from laplm.model import reference
from laplm.model.config import ModelConfig
from laplm.model.engine import kernel_args as k
from laplm.model.engine.formats import CODES, FORMATS, Format
from laplm.model.engine.kv_cache import KVCache, bytes_per_position
from laplm.model.engine.matrices import Matrix, matrices
from laplm.model.engine.packed_weights import PackedWeights
from laplm.model.engine.packing import round_up
from laplm.model.engine.prepared import prepared
from laplm.model.engine.quantize import PRECISIONS, Precision
from laplm.model.engine.rope_table import RopeTable
from laplm.model.families import family_of, has, tensor_spec, tensor_specs
from laplm.model.files.checkpoint import Checkpoint
from laplm.model.tensors import NORMS
from laplm.model.weights import Tap, Weights
from laplm.native import isa as isas
from laplm.native import jit
from laplm.native.memory import aligned
from laplm.native.threads import LOG_SUM_EXP, ThreadChoice, ThreadPool, default_threads
from laplm.progress import Progress

Array = NDArray[np.float32]
Ids = NDArray[np.int64]

# Tokens that go through the layers in one pass (llama.cpp's n_ubatch), of a prompt or of several
# sequences: more of them gain nothing.
MAX_BATCHED_TOKENS = 256
# A pass is shared among threads when it reads so many bytes of weights, or has so many products:
# about a tenth of a millisecond for one thread.
MIN_PARALLEL_BYTES, MIN_PARALLEL_PRODUCTS = 4_000_000, 60_000_000
# From so many chunks of attention on they are shared out, where threads have fewer key heads each:
# the barriers cost less than what the threads would wait for one another.
MIN_SPLIT_CHUNKS, MOST_UNEVEN_HEADS = 2, 4
_ACTIVATIONS = {
    "gelu_new": k.GELU_TANH, "gelu_pytorch_tanh": k.GELU_TANH, "gelu": k.GELU_ERF,
    "gelu_10": k.GELU_CLIPPED, "quick_gelu": k.QUICK_GELU, "relu": k.RELU,
    "relu2": k.RELU_SQUARED, "relu6": k.RELU6, "leaky_relu": k.LEAKY_RELU, "silu": k.SILU,
    "mish": k.MISH, "hardswish": k.HARDSWISH, "tanh": k.TANH, "sigmoid": k.SIGMOID,
    "laplace": k.LAPLACE, "linear": k.IDENTITY,
}  # fmt: skip


# Where a layer's addresses of norms begin: the gain, then the bias where it has one.
_NORMS = {
    "norm1": k.NORM1_GAIN, "q_norm": k.Q_NORM, "k_norm": k.K_NORM, "post_norm1": k.POST_NORM1,
    "norm2": k.NORM2_GAIN, "post_norm2": k.POST_NORM2,
}  # fmt: skip


def kernel_spec(config: ModelConfig, formats: Iterable[str]) -> k.Spec:
    """What the kernels of a model are specialised for, with matrices of these formats."""
    formats = tuple(sorted(set(formats)))
    exact = any(FORMATS[name].is_float for name in formats)
    return k.Spec(
        formats=formats,
        kv="fp32" if exact else "int8",
        head_dim=config.head_dim,
        norm=config.norm,
        rotary_dim=config.rotary_dim if config.positions == "rope" else 0,
        gated=config.gated,
        qk_norm=config.qk_norm,
        post_norms=config.post_norms,
        parallel_residual=config.parallel_residual,
        windowed=any(config.window),
    )


def check_learned_positions(checkpoint: Checkpoint, context: int) -> None:
    """Refuse a context with positions that a model without rotary ones has no embeddings for.

    Raises:
        InputError: it has.
    """
    config = checkpoint.config
    if context > config.n_ctx and config.positions != "rope":
        raise InputError(
            f"context is {context:,}, but {checkpoint.path} has learned embeddings for "
            f"{config.n_ctx:,} positions and none for more: give at most so many; to go on beyond "
            "them, turn on slide",
            "slide",
        )


def cache_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """Memory that a position of a sequence takes in the key/value cache, in a precision."""
    spec = _spec_of(checkpoint, precision)
    return bytes_per_position(checkpoint.config, spec.kv)


def _spec_of(checkpoint: Checkpoint, precision: Precision) -> k.Spec:
    formats = {matrix.form.name for matrix in matrices(checkpoint, precision)}
    return kernel_spec(checkpoint.config, formats)


def load_kernels(
    checkpoint: Checkpoint, precision: Precision, progress: Progress | None = None
) -> jit.Engine:
    """The compiled kernels for a model in a precision.

    They are compiled when they are not on disk yet, which takes some seconds.

    Raises:
        CacheError: the cache directory cannot be written.
    """
    return _load_kernels(_spec_of(checkpoint, precision), progress)


def _load_kernels(spec: k.Spec, progress: Progress | None) -> jit.Engine:
    isa = isas.choose()

    def build() -> Any:
        from laplm.model.engine.kernels import forward

        return forward.build(isa, spec)

    return jit.load(isa, spec, build, progress, sources=Path(__file__).parent)


class GPT:
    """A language model, ready to run.

    Logits of a token depend only on the tokens before it: not on the number of threads, on how a
    prompt is cut into blocks, or on what else is decoded at the same time, to the last bit.

    Attributes:
        config: The model's sizes.
        context: The most positions that a sequence may have.
        precision: "fp32", "int8", "int4", or "stored": as the files have it.
        threads: How many threads run the forward pass.
        isa: The machine instructions in use.
        main_format: How most of the weights are stored.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision = "int8",
        *,
        threads: int | None = None,
        context: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Prepare (once) and map the weights, compile (once) and load the kernels.

        Args:
            checkpoint: the model's files, opened.
            precision: what the weights are stored in.
            threads: how many work; None means one per core.
            context: the most positions that a sequence may have; None means as many as the model
                was trained on. Rotary positions go on beyond these.
            progress: called with (what, done, total).

        Raises:
            InputError: the precision, the number of threads or the context is not possible.
            ModelFormatError: a weight is NaN or infinite.
            CacheError: the cache directory cannot be written.
        """
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        if threads is not None and not 1 <= threads <= 256:
            raise InputError(f"threads is {threads}, but it must be between 1 and 256")
        self.config: ModelConfig = checkpoint.config
        self.context = self.config.n_ctx if context is None else context
        check_learned_positions(checkpoint, self.context)
        self.precision: Precision = precision
        self.threads = threads or default_threads()
        self.isa = isas.choose()
        self._matrices = list(matrices(checkpoint, precision))
        weights: Counter[str] = Counter()
        for matrix in self._matrices:
            weights[matrix.form.name] += matrix.n_out * matrix.n_in
        self.main_format: Format = FORMATS[weights.most_common(1)[0][0]]
        self._spec = kernel_spec(self.config, (matrix.form.name for matrix in self._matrices))
        self._rows = {
            role: checkpoint.rows(tensor_spec(self.config, role).name)
            for role in ("embed", "pos_embed")
            if has(self.config, role)
        }
        self._family = family_of(self.config)
        self._kv = self._spec.kv
        self._together = k.queries_together(self._kv, self.isa.registers)
        # Before the weights are mapped, so that what LLVM needs is not in memory beside them.
        self._engine = _load_kernels(self._spec, progress)
        self._packed = prepared(checkpoint, precision, progress)
        self._pool = ThreadPool(self._engine, self.threads)
        weakref.finalize(self, self._pool.shutdown)
        # By tokens of a pass.
        self._choices = [ThreadChoice(self.threads) for _ in range(k.MAX_REDUNDANT_ROWS + 1)]
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._buffers: list[NDArray[Any]] = []
        self._args = aligned(k.ARGS_SIZE, np.int64)
        self._partial_bytes = k.partial_bytes(self.config.head_dim)
        self._partials = np.zeros(0, np.uint8)
        self._tokens = 0  # how many the buffers append_ids; they grow when more come
        self._fill_args()

    # --- what a caller does with it ---

    def new_cache(self) -> KVCache:
        """An empty key/value cache for one sequence."""
        return KVCache(self.config, self._kv, self.context)

    def forward(
        self,
        ids: ArrayLike,
        kv_cache: KVCache | None = None,
        tap: Tap | None = None,
        *,
        last_only: bool = False,
    ) -> Array:
        """Token ids (T,) to logits (T, V), or (1, V) of the last one when ``last_only``.

        The ids follow what ``kv_cache`` holds, and are added to it. ``tap`` sees, and may
        replace, every named activation (``reference.forward``); it costs speed, not accuracy.

        Raises:
            InputError: there are no ids, one is not in the vocabulary, or they do not fit in the
                context.
        """
        ids = self._checked(ids)
        cache = self.new_cache() if kv_cache is None else kv_cache
        with self._lock:
            cache.reserve(len(ids))
            if tap is not None:
                logits = reference.forward(ids, self.weights, self.config, cache, tap, last_only)
                cache.append_ids(ids.tolist())
                return logits
            parts = []
            for start in range(0, len(ids), MAX_BATCHED_TOKENS):
                some = ids[start : start + MAX_BATCHED_TOKENS]
                is_last = start + MAX_BATCHED_TOKENS >= len(ids)
                part = (len(some), cache, int(is_last) if last_only else len(some))
                parts.append(self._pass(some, [part], decode_only=False))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def decode(self, ids: ArrayLike, kv_caches: Sequence[KVCache]) -> Array:
        """One more token for each of B sequences: ids (B,) to logits (B, V).

        Every weight is read once for all of them.

        Raises:
            InputError: as ``forward``, or B ids for another number of caches, or one cache twice.
        """
        ids = self._checked(ids)
        if len(ids) != len(kv_caches) or len({id(c) for c in kv_caches}) != len(kv_caches):
            raise InputError(f"{len(ids)} ids need as many caches, all different")
        with self._lock:
            parts = []
            for start in range(0, len(ids), MAX_BATCHED_TOKENS):
                some = slice(start, start + MAX_BATCHED_TOKENS)
                rows = [(1, cache, 1) for cache in kv_caches[some]]
                parts.append(self._pass(ids[some], rows, decode_only=True))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def forward_batch(self, parts: Sequence[tuple[Sequence[int], KVCache, int]]) -> Array:
        """One pass over the next tokens of several sequences, prompts and single tokens together.

        Every weight is read once for all of them, so that a long prompt can go through in blocks
        beside sequences that are being decoded.

        Args:
            parts: for each sequence its next ids, its cache, and of how many of these ids, counted
                from the last, the logits are wanted.

        Returns:
            Logits (wanted in all, V), in the order of the parts.

        Raises:
            InputError: as ``decode``, or more than ``MAX_BATCHED_TOKENS`` ids in all.
        """
        ids = self._checked(np.concatenate([np.asarray(part, np.int64) for part, _, _ in parts]))
        caches = [cache for _, cache, _ in parts]
        if len(ids) > MAX_BATCHED_TOKENS or len({id(c) for c in caches}) != len(caches):
            raise InputError(
                f"one pass takes at most {MAX_BATCHED_TOKENS} ids, and each cache once"
            )
        with self._lock:
            counts = [(len(part), cache, last) for part, cache, last in parts]
            return self._pass(ids, counts, decode_only=len(ids) == len(parts))

    @functools.cached_property
    def weights(self) -> Weights:
        """The packed weights as the tapped path multiplies with them."""
        return PackedWeights(self.config, self._matrices, self._packed, self._rows)

    def logsumexp(self, logits: Array) -> float:
        """log(sum(exp(logits))) of one position (V,): a logit less it is a log-probability."""
        row = np.ascontiguousarray(logits, dtype=np.float32)
        out = np.empty(2, np.float32)
        self._engine(LOG_SUM_EXP, row.ctypes.data, len(row), out.ctypes.data)
        return float(out[0]) + math.log(out[1])

    def weights_span(self) -> tuple[int, int]:
        """Where the packed weights lie in memory: (address, bytes). For measuring."""
        spans = [(a.ctypes.data, a.nbytes) for a in self._packed.values() if a.nbytes]
        start = min(address for address, _ in spans)
        return start, max(address + size for address, size in spans) - start

    def _checked(self, ids: ArrayLike) -> Ids:
        n_vocab = self.config.vocab_size
        # Between single tokens NumPy's code is out of the caches, so a list is looked at as it is.
        if isinstance(ids, list) and ids and all(type(i) is int and 0 <= i < n_vocab for i in ids):
            return np.array(ids, np.int64)
        array = np.asarray(ids)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
            raise InputError("token ids must be a list of at least one whole number")
        out = array.astype(np.int64)
        # Read as unsigned, negative numbers are larger than any vocabulary.
        if int(out.view(np.uint64).max()) >= n_vocab:
            wrong = out.min() if out.min() < 0 else out.max()
            raise InputError(f"token id {wrong} is not in the vocabulary of {n_vocab}")
        return out

    # --- the compiled engine ---

    def _fill_args(self) -> None:
        """All that stays the same from call to call."""
        config, args = self.config, self._args
        width, inner_width = round_up(config.n_embd, 32), round_up(config.n_inner, 32)
        z_width = round_up(config.n_head * config.head_dim, 32)
        self._out_width = round_up(config.vocab_size, 16)
        self._head_multiplications = config.n_embd * config.vocab_size
        self._weight_bytes = self.weights_span()[1]
        n_qkv = (config.n_head + 2 * config.n_kv_head) * config.head_dim
        self._widths = {
            k.X: width, k.Z: z_width, k.INNER: inner_width,
            # Heads are read in steps of 16 floats, past the last one's end too.
            k.QKV: round_up(n_qkv, 16) + 16,
        }  # fmt: skip
        if config.gated:
            self._widths[k.GATE_UP] = 2 * round_up(config.n_inner, 16)
        if config.post_norms or config.parallel_residual:
            self._widths[k.SUBLAYER] = width
        for at, number in (
            (k.N_LAYER, config.n_layer), (k.N_EMBD, config.n_embd), (k.N_HEAD, config.n_head),
            (k.N_KV_HEAD, config.n_kv_head), (k.N_INNER, config.n_inner),
            (k.ACTIVATION, _ACTIVATIONS[config.activation]),
            (k.WIDTH, width), (k.Z_WIDTH, z_width), (k.INNER_WIDTH, inner_width),
            (k.QKV_WIDTH, self._widths[k.QKV]), (k.OUT_WIDTH, self._out_width),
            (k.GATE_UP_WIDTH, self._widths.get(k.GATE_UP, 0)),
        ):  # fmt: skip
            args[at] = number
        args[k.EPSILON] = self._address_of(np.array([config.norm_eps], np.float32))
        scales = [config.attention_scale(i) for i in range(config.n_layer)]
        args[k.ATTENTION_SCALES] = self._address_of(np.array(scales, np.float32))
        self._layers = aligned(config.n_layer * k.LAYER_SIZE, np.int64)
        self._layers = self._layers.reshape(-1, k.LAYER_SIZE)
        args[k.LAYERS] = self._layers.ctypes.data
        self._fill_matrices()
        self._fill_norms()
        self._rope = self._rope_tables()

        # Scratch of each thread, its parts at multiples of a cache line.
        largest = max(width, inner_width, z_width)
        number = 4 if any(matrix.form.is_float for matrix in self._matrices) else 1
        self._act_bytes = round_up(largest * number, 64)
        groups, rows = largest // k.GROUP, k.MAX_REDUNDANT_ROWS
        end = 0
        for at, size in (
            (k.SCRATCH_ROW, largest * 4), (k.SCRATCH_ACT, rows * self._act_bytes),
            (k.SCRATCH_ACT_SCALE, rows * groups * 4), (k.SCRATCH_ACT_SUM, rows * groups * 4),
            (k.SCRATCH_PARTIALS, 2 * self._together * self._partial_bytes),
            (k.SCRATCH_SCORES, self._together * k.CHUNK * 4),
        ):  # fmt: skip
            args[at] = end
            end += round_up(size, 64)
        args[k.SCRATCH_STRIDE] = end
        args[k.SCRATCH] = self._address_of(aligned(self.threads * end, np.uint8))
        self._counters = aligned(
            ((k.PHASES_PER_LAYER * config.n_layer) + 4) * self.threads * 8, np.int64
        )
        args[k.COUNTERS] = self._counters.ctypes.data
        args[k.BARRIER] = self._pool.arrivals_address
        self._args_address = args.ctypes.data

    def _fill_matrices(self) -> None:
        """The matrices of each layer, and the output matrix."""
        head = aligned(k.MATRIX_SIZE, np.int64)
        self._args[k.HEAD] = self._address_of(head)
        places = [
            head if matrix.layer is None else self._layers[matrix.layer][
                k.MATRICES + matrix.place * k.MATRIX_SIZE :
            ]
            for matrix in self._matrices
        ]  # fmt: skip
        zeros = 0
        for i, (matrix, at) in enumerate(zip(self._matrices, places, strict=True)):
            packed, scales = (self._packed[f"{matrix.name}.{x}"] for x in ("packed", "scales"))
            at[k.WEIGHTS], at[k.SCALES] = packed.ctypes.data, scales.ctypes.data
            at[k.FORMAT], at[k.COLUMN] = CODES[matrix.form.name], matrix.column
            at[k.N_IN], at[k.N_OUT] = matrix.n_in, matrix.n_out
            bias = self._bias(matrix)
            if bias is None:
                if zeros < matrix.n_out:
                    zeros = round_up(matrix.n_out, 16)
                    nothing = self._address_of(aligned(zeros, np.float32))
                at[k.BIAS] = nothing
            else:
                at[k.BIAS] = self._address_of(bias)
            if i > 0:  # it is fetched from memory while the one before it ends
                places[i - 1][k.NEXT_WEIGHTS] = at[k.WEIGHTS]
                places[i - 1][k.NEXT_BYTES] = packed.nbytes
            if k.MATRIX_QKV <= matrix.place < k.MATRIX_QKV + k.QKV_PARTS and at is not head:
                self._layers[matrix.layer, k.N_QKV] = matrix.place - k.MATRIX_QKV + 1

    def _bias(self, matrix: Matrix) -> Array | None:
        """A matrix's biases in the order of its rows, or None where it has none."""
        sources = matrix.sources if matrix.layer is not None else ()
        if not any(has(self.config, s.spec.role, s.spec.layer, "bias") for s in sources):
            return None
        out = aligned(round_up(matrix.n_out, k.TILE), np.float32)
        start = 0
        for i, source in enumerate(sources):
            role, layer, count = source.spec.role, source.spec.layer, len(source.rows)
            if has(self.config, role, layer, "bias"):
                bias = self.weights.vector(role, layer, "bias")[source.rows]
                if matrix.alternate:
                    part = np.zeros(round_up(count, k.TILE), np.float32)
                    part[:count] = bias
                    out.reshape(-1, 2, k.TILE)[:, i] = part.reshape(-1, k.TILE)
                else:
                    out[start : start + count] = bias
            start += count
        return out

    def _fill_norms(self) -> None:
        """Gains and biases of all norms, and each layer's window."""
        config = self.config
        nothing = self._address_of(aligned(round_up(config.n_embd, 32), np.float32))
        self._args[k.FINAL_NORM_BIAS] = nothing
        self._layers[:, k.NORM1_BIAS] = self._layers[:, k.NORM2_BIAS] = nothing
        for spec in tensor_specs(config).values():
            if spec.role not in NORMS:
                continue
            values = self._packed[spec.name]
            if spec.part == "weight" and config.norm_offset:
                values = aligned(len(values), np.float32)
                values[: spec.shape[0]] = self._packed[spec.name][: spec.shape[0]] + np.float32(
                    config.norm_offset
                )
            address = self._address_of(values)
            if spec.layer is None:
                bias = spec.part == "bias"
                self._args[k.FINAL_NORM_BIAS if bias else k.FINAL_NORM_GAIN] = address
            else:
                at = _NORMS[spec.role] + (spec.part == "bias")
                self._layers[spec.layer, at] = address
        if config.window:
            self._layers[:, k.WINDOW] = [size or 0 for size in config.window]

    def _rope_tables(self) -> list[tuple[RopeTable, list[int]]]:
        """Tables of cosines and sines, and the layers that each is for."""
        config = self.config
        tables: dict[bytes, tuple[RopeTable, list[int]]] = {}
        if config.positions == "rope":
            for layer in range(config.n_layer):
                if not config.rope_layers or config.rope_layers[layer]:
                    table = RopeTable(config, layer)
                    tables.setdefault(table.key, (table, []))[1].append(layer)
        return list(tables.values())

    def _address_of(self, array: NDArray[Any]) -> int:
        """Remember an array that the engine has the address of; returns the address."""
        self._buffers.append(array)
        return int(array.ctypes.data)

    def _grow(self, tokens: int) -> None:
        """Make the buffers large enough."""
        self._tokens = tokens = max(tokens, min(MAX_BATCHED_TOKENS, 2 * tokens))
        args = self._args
        self._work = {at: aligned(tokens * width, np.float32) for at, width in self._widths.items()}
        for at, array in self._work.items():
            args[at] = array.ctypes.data
        groups = self._act_bytes // k.GROUP
        self._shared = {
            k.ACT: aligned(tokens * self._act_bytes, np.uint8),
            k.ACT_SCALE: aligned(tokens * groups, np.float32),
            k.ACT_SUM: aligned(tokens * groups, np.int32),
            k.QUERY_BLOCKS: aligned(tokens * k.QUERY_BLOCK_SIZE, np.int64),
            k.LOGIT_ROWS: aligned(tokens, np.int64),
        }
        for at, array in self._shared.items():
            args[at] = array.ctypes.data
        self._x = self._work[k.X].reshape(tokens, -1)
        for table, layers in self._rope:
            self._layers[layers, k.ROPE] = table.grow(tokens)

    def _split_attention(
        self, query_blocks: Sequence[tuple[int, int, int, int]], threads: int
    ) -> None:
        """Have chunks of attention shared out where key heads would leave threads without work."""
        heads = self.config.n_kv_head * len(query_blocks)
        chunks = max(position for *_, position in query_blocks) // k.CHUNK + 1
        uneven = heads % threads > 0 and heads < MOST_UNEVEN_HEADS * threads
        if not uneven or chunks < MIN_SPLIT_CHUNKS:
            self._args[k.SPLIT_CHUNKS] = 0
            return
        self._args[k.SPLIT_CHUNKS] = chunks
        size = len(query_blocks) * self.config.n_head * chunks * self._partial_bytes
        if size > len(self._partials):
            self._partials = aligned(size, np.uint8)
            self._args[k.PARTIALS] = self._partials.ctypes.data

    def _pass(
        self, ids: Ids, parts: Sequence[tuple[int, KVCache, int]], *, decode_only: bool
    ) -> Array:
        """One pass over at most MAX_BATCHED_TOKENS ids, which are then in their caches.

        Args:
            ids: those of all parts, one after the other.
            parts: of each sequence how many ids there are, its cache, and of how many of them,
                counted from the last, the logits are wanted.
            decode_only: every part is one id.
        """
        query_blocks: list[tuple[int, int, int, int]] = []
        positions: list[int] = []
        logit_rows: list[int] = []
        start = 0
        for count, cache, last in parts:
            cache.reserve(count)
            held = cache.length
            query_blocks += [
                (start + i, min(self._together, count - i), cache.table_address, held + i)
                for i in range(0, count, self._together)
            ]
            positions += range(held, held + count)
            logit_rows += range(start + count - last, start + count)
            start += count
        logits = self._run(ids, positions, query_blocks, logit_rows, decode_only=decode_only)
        tokens = iter(ids.tolist())
        for count, cache, _ in parts:
            cache.append_ids([*itertools.islice(tokens, count)])
        return logits

    def _run(
        self,
        ids: Ids,
        positions: list[int],
        query_blocks: list[tuple[int, int, int, int]],
        logit_rows: list[int],
        *,
        decode_only: bool,
    ) -> Array:
        """The engine, over at most MAX_BATCHED_TOKENS tokens; logits of the ``logit_rows`` ones."""
        n, n_logit_rows = len(ids), len(logit_rows)
        if os.getpid() != self._process:  # threads do not survive a fork
            self._pool = ThreadPool(self._engine, self.threads)
            self._args[k.BARRIER] = self._pool.arrivals_address
            self._process = os.getpid()
        if n > self._tokens:
            self._grow(n)
        args = self._args
        c = self.config.n_embd
        self._x[:n, :c] = self._family.embed(ids, np.array(positions), self.weights, self.config)
        for table, _ in self._rope:
            table.look_up(positions)
        flat = [number for block in query_blocks for number in block]
        self._shared[k.QUERY_BLOCKS][: len(flat)] = flat
        self._shared[k.LOGIT_ROWS][:n_logit_rows] = logit_rows
        args[k.N_TOKENS], args[k.N_QUERY_BLOCKS], args[k.DECODE_ONLY] = (
            n,
            len(query_blocks),
            decode_only,
        )
        args[k.N_LOGIT_ROWS] = n_logit_rows
        logits = np.empty((n_logit_rows, self._out_width), np.float32)
        args[k.LOGITS] = logits.ctypes.data
        args[k.BARRIER_START] = self._pool.arrivals
        # Little work is done sooner by one thread than it is shared out, above all when other
        # programs keep the cores busy. The numbers are the same.
        work = self.config.n_multiplied * n + self._head_multiplications * n_logit_rows
        shared = self._weight_bytes >= MIN_PARALLEL_BYTES or work >= MIN_PARALLEL_PRODUCTS
        args[k.N_THREADS] = threads = self.threads if shared else 1
        self._counters.fill(0)
        choice = self._choices[n] if threads > 1 and n <= k.MAX_REDUNDANT_ROWS else None
        if choice:
            args[k.N_THREADS] = threads = choice.threads
        self._split_attention(query_blocks, threads if decode_only else 1)
        before = time.perf_counter()
        self._pool.run(self._args_address, threads)
        if choice:
            choice.record((now := time.perf_counter()) - before, now)
        return logits[:, : self.config.vocab_size]
