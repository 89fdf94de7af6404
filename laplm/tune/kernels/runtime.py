"""Compiled kernels for training on a CPU: where there are some, how they are loaded and run.

What they compute is in ``…_kernel.py`` beside the module that uses them, which also has the same in
torch, for every other device.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from laplm.errors import MissingExtraError
from laplm.native import isa, jit
from laplm.native.cpu_features import cpu_features
from laplm.progress import Progress

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtraError("Training a model", "tune") from error


@functools.cache
def has_kernel(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies vectors of such numbers: fp32, or bfloat16 by AVX-512.

    On ARM torch has Apple's and ARM's own libraries, and ours were never measured beside them.
    """
    chosen = isa.choose()
    if chosen.family != "x86":
        return False
    if dtype == torch.bfloat16:
        return chosen.dot == "vnni512" and "avx512bf16" in cpu_features()
    return dtype == torch.float32 and chosen.dot != "generic"


_loaded: dict[tuple[str, object], jit.Engine] = {}


def load_kernel(kernel: str, spec: object, progress: Progress | None = None) -> jit.Engine:
    """What ``build(isa, spec)`` of a module of this folder gives, compiled once and kept.

    ``progress`` is told when something is compiled, which takes seconds.

    Raises:
        CacheError: the cache directory cannot be written.
    """
    if (kernel, spec) in _loaded:
        return _loaded[kernel, spec]
    chosen = isa.choose()

    def build() -> object:
        return importlib.import_module(f"laplm.tune.kernels.{kernel}").build(chosen, spec)

    engine = jit.load(chosen, (kernel, spec), build, progress, sources=Path(__file__).parent)
    _loaded[kernel, spec] = engine
    return engine


def parallel_for(work: Callable[[int], None], threads: int) -> None:
    """Call ``work`` with 0 to ``threads - 1`` at the same time, some on this thread; wait for all.

    Torch's own threads do it where they are GNU's OpenMP: between two pieces of work they spin for
    a while, and others would have to share the cores with them.

    Raises:
        Exception: what ``work`` raised.
    """
    if threads <= 1:
        work(0)
        return
    numbers = itertools.count()
    errors: list[BaseException] = []

    def worker(_: object) -> None:
        try:
            while (number := next(numbers)) < threads:  # there may be fewer of us
                work(number)
        except BaseException as error:  # OpenMP's threads have nowhere to raise it
            errors.append(error)

    # Always as many as torch has: OpenMP ends threads that are too many, and begins them anew.
    count = torch.get_num_threads()
    if (parallel := _openmp()) is not None:
        parallel(_WORK(worker), None, count, 0)
    else:
        others = [_pool(count).submit(worker, None) for _ in range(count - 1)]
        worker(None)
        for other in others:
            other.result()
    if errors:
        raise errors[0]


_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> Any:
    """GNU's OpenMP's way to run a function on its threads, of the library that torch has loaded.

    None where torch has another one, or nobody can tell which.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    files = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "libgomp" in line}
    # Other packages bring one of their own. If torch's is not loaded, another was, in its place.
    files = {file for file in files if file.startswith(str(Path(torch.__file__).parent))} or files
    if len(files) != 1:
        return None
    try:
        parallel = ctypes.CDLL(files.pop()).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = [_WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="laplm-tune")
