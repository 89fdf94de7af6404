"""GPT: token ids and a key/value cache in, logits out."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplm.errors import InputError
from laplm.model import reference
from laplm.model.config import GPTConfig
from laplm.model.engine import kernel_args as p
from laplm.model.engine.kv_cache import KVCache, to_bytes
from laplm.model.engine.quantize import (
    LINEAR,
    PRECISIONS,
    Precision,
    head_precision,
    prepared,
    round_up,
    unpack,
)
from laplm.model.files.checkpoint import Checkpoint
from laplm.native import isa as isas
from laplm.native import jit
from laplm.native.memory import aligned
from laplm.native.threads import LOG_SUM_EXP, Team, ThreadChoice, default_threads
from laplm.progress import Progress

Array = NDArray[np.float32]
Ids = NDArray[np.int64]

BLOCK = 256  # tokens that go through the layers together; more gains nothing
# A pass is shared among threads when it reads this many bytes of weights, or multiplies this often:
# about a tenth of a millisecond for one thread.
WORTH_SHARING = (4_000_000, 60_000_000)
_ACTIVATIONS = {
    "gelu_new": p.GELU_TANH, "gelu_pytorch_tanh": p.GELU_TANH, "gelu": p.GELU_ERF,
    "gelu_10": p.GELU_CLIPPED, "quick_gelu": p.QUICK_GELU, "relu": p.RELU,
    "relu2": p.RELU_SQUARED, "relu6": p.RELU6, "leaky_relu": p.LEAKY_RELU, "silu": p.SILU,
    "mish": p.MISH, "hardswish": p.HARDSWISH, "tanh": p.TANH, "sigmoid": p.SIGMOID,
    "laplace": p.LAPLACE, "linear": p.NO_ACTIVATION,
}  # fmt: skip


def _kv_format(precision: Precision) -> str:
    return "fp32" if precision == "fp32" else "fp16"


def load_kernels(
    precision: Precision, head_dim: int, progress: Progress | None = None
) -> jit.Engine:
    """The compiled kernels for models of one precision and head size D.

    They are compiled when they are not on disk yet, which takes some seconds.

    Raises:
        CacheError: the cache directory cannot be written.
    """
    isa = isas.choose()
    spec = p.Spec(precision, head_precision(precision), _kv_format(precision), head_dim)

    def build() -> Any:
        from laplm.model.engine import kernels

        return kernels.build(isa, spec)

    return jit.load(isa, spec, build, progress, sources=Path(__file__).parent)


class GPT:
    """A GPT-2-architecture model, ready to run.

    Logits of a token depend only on the tokens before it: not on the number of threads, on how a
    prompt is cut into blocks, or on what else is decoded at the same time, to the last bit.

    Attributes:
        config: The model's sizes.
        precision: "fp32", "int8" or "int4".
        threads: How many threads run the forward pass.
        isa: The machine instructions in use.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision = "int8",
        *,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Prepare (once) and map the weights, compile (once) and load the kernels.

        Raises:
            InputError: the precision or the number of threads is not possible.
            ModelFormatError: a weight is NaN or infinite.
            CacheError: the cache directory cannot be written.
        """
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        if threads is not None and not 1 <= threads <= 256:
            raise InputError(f"threads is {threads}, but it must be between 1 and 256")
        self.config: GPTConfig = checkpoint.config
        self.precision: Precision = precision
        self.threads = threads or default_threads()
        self.isa = isas.choose()
        self._packed = prepared(checkpoint, precision, progress)
        self._embed = checkpoint.rows("wte.weight")
        self._position = checkpoint.rows("wpe.weight")
        self._kv = _kv_format(precision)
        self._together = p.attend_together(self.isa.registers)
        self._engine = load_kernels(precision, self.config.head_dim, progress)
        self._team = Team(self._engine, self.threads)
        weakref.finalize(self, self._team.dissolve)
        self._choices = [ThreadChoice() for _ in range(p.FEW + 1)]  # by tokens of a pass
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._buffers: list[NDArray[Any]] = []
        self._plan = aligned(p.PLAN_SIZE, np.int64)
        self._tokens = 0  # how many the buffers hold; they grow when more come
        self._fill_plan()

    # --- what a caller does with it ---

    def new_cache(self) -> KVCache:
        """An empty key/value cache for one sequence."""
        return KVCache(self.config, self._kv)

    def forward(
        self,
        ids: ArrayLike,
        kv_cache: KVCache | None = None,
        tap: reference.Tap | None = None,
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
                cache.hold(ids.tolist())
                return logits
            parts = []
            for start in range(0, len(ids), BLOCK):
                block = ids[start : start + BLOCK]
                is_last = start + BLOCK >= len(ids)
                wanted = len(block) if not last_only else int(is_last)
                parts.append(self._pass(block, [(len(block), cache, wanted)], alone=False))
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
            for start in range(0, len(ids), BLOCK):
                block, caches = ids[start : start + BLOCK], kv_caches[start : start + BLOCK]
                parts.append(self._pass(block, [(1, cache, 1) for cache in caches], alone=True))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def advance(self, parts: Sequence[tuple[Sequence[int], KVCache, int]]) -> Array:
        """One pass over the next tokens of several sequences, prompts and single tokens together.

        Every weight is read once for all of them, so that a long prompt can go through in blocks
        beside sequences that are being decoded.

        Args:
            parts: for each sequence its next ids, its cache, and of how many of these ids, counted
                from the last, the logits are wanted.

        Returns:
            Logits (wanted in all, V), in the order of the parts.

        Raises:
            InputError: as ``decode``, or more than ``BLOCK`` ids in all.
        """
        ids = self._checked(np.concatenate([np.asarray(part, np.int64) for part, _, _ in parts]))
        caches = [cache for _, cache, _ in parts]
        if len(ids) > BLOCK or len({id(c) for c in caches}) != len(caches):
            raise InputError(f"one pass takes at most {BLOCK} ids, and each cache once")
        with self._lock:
            alone = len(ids) == len(parts)  # nothing but single tokens
            return self._pass(ids, [(len(part), c, last) for part, c, last in parts], alone=alone)

    @property
    def weights(self) -> reference.Weights:
        """The packed weights as the tapped path multiplies with them."""
        return _PackedWeights(self)

    def log_normaliser(self, logits: Array) -> float:
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
        array = np.asarray(ids)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
            raise InputError("token ids must be a list of at least one whole number")
        out = array.astype(np.int64)
        if out.min() < 0 or out.max() >= self.config.vocab_size:
            raise InputError(
                f"token id {out.min() if out.min() < 0 else out.max()} is not in the vocabulary of "
                f"{self.config.vocab_size}"
            )
        return out

    # --- the compiled engine ---

    def _fill_plan(self) -> None:
        """All that stays the same from call to call."""
        config, plan = self.config, self._plan
        width, inner_width = round_up(config.n_embd, 32), round_up(config.n_inner, 32)
        self._out_width = round_up(config.vocab_size, 16)
        self._head_multiplications = config.n_embd * config.vocab_size
        self._weight_bytes = self.weights_span()[1]
        self._widths = {
            p.X: width, p.Z: width, p.INNER: inner_width,
            # Heads are read in steps of 16 floats, past the last one's end too.
            p.QKV: round_up(3 * config.n_embd, 16) + 16,
        }  # fmt: skip
        plan[p.N_LAYER] = config.n_layer
        plan[p.N_EMBD], plan[p.N_HEAD], plan[p.N_INNER] = (
            config.n_embd, config.n_head, config.n_inner,
        )  # fmt: skip
        plan[p.ACTIVATION] = _ACTIVATIONS[config.activation_function]
        plan[p.EPSILON] = self._keep(np.array([config.layer_norm_epsilon], np.float32))
        plan[p.WIDTH], plan[p.INNER_WIDTH] = width, inner_width
        plan[p.QKV_WIDTH], plan[p.OUT_WIDTH] = self._widths[p.QKV], self._out_width
        scales = [reference.attention_scale(config, i) for i in range(config.n_layer)]
        plan[p.ATTENTION_SCALES] = self._keep(np.array(scales, np.float32))

        def matrix(name: str) -> tuple[int, int]:
            return vector(f"{name}.packed"), vector(f"{name}.scales")

        def vector(name: str) -> int:
            return int(self._packed[name].ctypes.data)

        # One more than there are: a layer asks for the weights of the next ahead of time.
        layers = aligned((config.n_layer + 1) * p.LAYER_SIZE, np.int64).reshape(-1, p.LAYER_SIZE)
        order = (p.ATTN_W, p.PROJ_W, p.FC_W, p.OUT_W)
        for i, layer in enumerate(layers[:-1]):
            for ln, gain, shift in (
                ("ln_1", p.LN_1_GAIN, p.LN_1_SHIFT), ("ln_2", p.LN_2_GAIN, p.LN_2_SHIFT),
            ):  # fmt: skip
                layer[gain], layer[shift] = (
                    vector(f"h.{i}.{ln}.weight"), vector(f"h.{i}.{ln}.bias"),
                )  # fmt: skip
            for name, at in zip(LINEAR, order, strict=True):
                layer[at], layer[at + 1] = matrix(f"h.{i}.{name}")
                layer[at + 2] = vector(f"h.{i}.{name}.bias")
        plan[p.LAYERS] = self._keep(layers)
        plan[p.LN_F_GAIN], plan[p.LN_F_SHIFT] = vector("ln_f.weight"), vector("ln_f.bias")
        plan[p.HEAD_W], plan[p.HEAD_SCALE] = matrix("head")
        plan[p.HEAD_BIAS] = self._keep(aligned(self._out_width, np.float32))
        plan[p.HEAD_ROWS] = config.vocab_size

        # Scratch of each thread, its parts at multiples of a cache line.
        largest = max(width, inner_width)
        number = 4 if self.precision == "fp32" else 1
        self._act_bytes = round_up(largest * number, 64)
        groups = largest // p.GROUP
        dim = round_up(config.head_dim, 16)
        scores = round_up(config.n_ctx, p.PAGE)
        end = 0
        for at, size in (
            (p.OWN_ROW, largest * 4), (p.OWN_ACT, p.FEW * self._act_bytes),
            (p.OWN_ACT_SCALE, p.FEW * groups * 4), (p.OWN_ACT_SUM, p.FEW * groups * 4),
            (p.OWN_MIX, self._together * dim * 4), (p.OWN_SCORES, self._together * scores * 4),
        ):  # fmt: skip
            plan[at] = end
            end += round_up(size, 64)
        plan[p.SCORES_WIDTH], plan[p.OWN_STRIDE] = scores, end
        plan[p.OWN] = self._keep(aligned(self.threads * end, np.uint8))
        self._counters = aligned(
            ((p.PHASES_PER_LAYER * config.n_layer) + 4) * self.threads * 8, np.int64
        )
        plan[p.COUNTERS] = self._counters.ctypes.data
        plan[p.BARRIER] = self._team.arrivals_address
        self._plan_address = plan.ctypes.data

    def _keep(self, array: NDArray[Any]) -> int:
        """Remember an array that the engine has the address of; returns the address."""
        self._buffers.append(array)
        return int(array.ctypes.data)

    def _grow(self, tokens: int, wanted: int) -> None:
        """Make the buffers large enough."""
        if tokens > self._tokens:
            self._tokens = tokens = max(tokens, min(BLOCK, 2 * tokens))
            plan = self._plan
            self._work = {
                at: aligned(tokens * width, np.float32) for at, width in self._widths.items()
            }
            for at, array in self._work.items():
                plan[at] = array.ctypes.data
            groups = self._act_bytes // p.GROUP
            self._shared = {
                p.ACT: aligned(tokens * self._act_bytes, np.uint8),
                p.ACT_SCALE: aligned(tokens * groups, np.float32),
                p.ACT_SUM: aligned(tokens * groups, np.int32),
                p.GROUPS: aligned(tokens * p.GROUP_SIZE, np.int64),
                p.WANTED: aligned(tokens, np.int64),
            }
            for at, array in self._shared.items():
                plan[at] = array.ctypes.data
            self._x = self._work[p.X].reshape(tokens, -1)
            self._logits = aligned(0, np.float32)
        if wanted * self._out_width > self._logits.size:
            self._logits = aligned(wanted * self._out_width, np.float32)
            self._plan[p.LOGITS] = self._logits.ctypes.data

    def _pass(self, ids: Ids, parts: Sequence[tuple[int, KVCache, int]], *, alone: bool) -> Array:
        """One pass over at most BLOCK ids, which are then in their caches.

        Args:
            ids: those of all parts, one after the other.
            parts: of each sequence how many ids there are, its cache, and of how many of them,
                counted from the last, the logits are wanted.
            alone: every part is one id.
        """
        groups: list[tuple[int, int, int, int]] = []
        positions: list[int] = []
        wanted: list[int] = []
        start = 0
        for count, cache, last in parts:
            cache.reserve(count)
            held = cache.length
            groups += [
                (start + i, min(self._together, count - i), cache.table_address, held + i)
                for i in range(0, count, self._together)
            ]
            positions += range(held, held + count)
            wanted += range(start + count - last, start + count)
            start += count
        logits = self._run(ids, positions, groups, wanted, alone=alone)
        tokens = iter(ids.tolist())
        for count, cache, _ in parts:
            cache.hold([*itertools.islice(tokens, count)])
        return logits

    def _run(
        self,
        ids: Ids,
        positions: list[int],
        groups: list[tuple[int, int, int, int]],
        wanted: list[int],
        *,
        alone: bool,
    ) -> Array:
        """The engine, over at most BLOCK tokens; logits of the ``wanted`` ones."""
        n, n_wanted = len(ids), len(wanted)
        if os.getpid() != self._process:  # threads do not survive a fork
            self._team = Team(self._engine, self.threads)
            self._plan[p.BARRIER] = self._team.arrivals_address
            self._process = os.getpid()
        if n > self._tokens or n_wanted * self._out_width > self._logits.size:
            self._grow(n, n_wanted)
        plan = self._plan
        c = self.config.n_embd
        np.add(self._embed(ids), self._position(np.array(positions)), out=self._x[:n, :c])
        flat = [number for group in groups for number in group]
        self._shared[p.GROUPS][: len(flat)] = flat
        self._shared[p.WANTED][:n_wanted] = wanted
        plan[p.N_TOKENS], plan[p.N_GROUPS], plan[p.ALONE] = n, len(groups), alone
        plan[p.N_WANTED] = n_wanted
        plan[p.BARRIER_START] = self._team.arrivals
        # Little work is done sooner by one thread than it is shared out, above all when other
        # programs keep the cores busy. The numbers are the same.
        work = self.config.n_multiplied * n + self._head_multiplications * n_wanted
        shared = self._weight_bytes >= WORTH_SHARING[0] or work >= WORTH_SHARING[1]
        plan[p.N_THREADS] = threads = self.threads if shared else 1
        self._counters.fill(0)
        if threads == 1 or n > p.FEW:
            self._team.run(self._plan_address, threads)
        else:
            choice = self._choices[n]
            plan[p.N_THREADS] = threads = 1 if choice.alone else threads
            before = time.perf_counter()
            self._team.run(self._plan_address, threads)
            choice.record((now := time.perf_counter()) - before, now)
        logits = self._logits[: n_wanted * self._out_width].reshape(n_wanted, self._out_width)
        return logits[:, : self.config.vocab_size].copy()


class _PackedWeights:
    """The engine's weights for ``reference.forward``: the tapped path, in NumPy.

    It computes with the numbers the kernels compute with: the same packed weights, and inputs
    rounded to bytes as the kernels do.
    """

    def __init__(self, gpt: GPT) -> None:
        self._gpt = gpt

    def vector(self, name: str) -> Array:
        """See ``reference.Weights``."""
        out: Array = self._gpt._packed[name][: self._gpt.config.n_embd]
        return out

    def embed(self, ids: Ids) -> Array:
        """See ``reference.Weights``."""
        return self._gpt._embed(ids)

    def position(self, positions: Ids) -> Array:
        """See ``reference.Weights``."""
        return self._gpt._position(positions)

    def linear(self, name: str, x: Array) -> Array:
        """See ``reference.Weights``."""
        config = self._gpt.config
        n_out = {"c_attn": 3 * config.n_embd, "c_fc": config.n_inner}.get(
            name.rsplit(".", 1)[1], config.n_embd
        )
        bias: Array = self._gpt._packed[f"{name}.bias"][:n_out]
        return self._product(name, x, n_out, self._gpt.precision) + bias

    def unembed(self, x: Array) -> Array:
        """See ``reference.Weights``."""
        how = head_precision(self._gpt.precision)
        return self._product("head", x, self._gpt.config.vocab_size, how)

    def _product(self, name: str, x: Array, n_out: int, how: Precision) -> Array:
        packed, scales = (self._gpt._packed[f"{name}.{part}"] for part in ("packed", "scales"))
        n_in = x.shape[1]
        if how != "fp32":
            x = _round_to_bytes(x)
        parts = []
        for tile in range(0, len(packed), 128):  # a few megabytes of weights at a time
            step = 1 if how == "int4" else p.TILE  # scales a tile
            some = scales[tile * step : (tile + 128) * step]
            rows = unpack(packed[tile : tile + 128], some, how, 128 * p.TILE, n_in)
            parts.append(x @ rows.T)
        out: Array = np.concatenate(parts, axis=1)[:, :n_out]
        return out


def _round_to_bytes(x: Array) -> Array:
    """Inputs as the kernels see them: signed bytes with a scale for each group of 32."""
    n, width = x.shape
    padded = np.zeros((n, round_up(width, p.GROUP)), np.float32)
    padded[:, :width] = x
    whole, scales = to_bytes(padded.reshape(n, -1, p.GROUP))
    rounded = whole * scales[..., None]
    out: Array = rounded.reshape(n, -1)[:, :width]
    return out
