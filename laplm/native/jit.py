"""Compile the kernels once, keep the machine code on disk, load it in a few milliseconds.

``lower.py`` turns kernels into LLVM code; LLVM makes an object file for the chosen variant,
which is kept in the cache directory. A later start only loads it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from laplm import home
from laplm.errors import CacheError, warn
from laplm.files import write_file
from laplm.native.isa import Isa
from laplm.native.memory import release_code_pages
from laplm.progress import Progress

Engine = Callable[[int, int, int, int], int]

_NAME = "laplm_engine"
_STEPS = 3  # of compiling, for whoever waits: translated, optimised, written; about a third each
_SIGNATURE = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)
_loaded: dict[str, tuple[Any, Engine]] = {}  # LLVM's engine owns the code: keep it


def _target_machine(isa: Isa) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()  # some tiles are written in machine instructions
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=_cpu(isa), features=_features(isa),
        opt=3, reloc="default", codemodel="jitdefault", jit=True,
    )  # fmt: skip


def _cpu(isa: Isa) -> str:
    """LLVM's name for the CPU that code is made for."""
    return isa.cpu or str(llvm.get_host_cpu_name())


def _features(isa: Isa) -> str:
    """What LLVM is told of the CPU beside its name: what it lists itself lacks ``dotprod``."""
    host = "" if isa.cpu else llvm.get_host_cpu_features().flatten()
    return ",".join(filter(None, [host, *(f"+{feature}" for feature in isa.needs)]))


def _cache_key(isa: Isa, spec: object, sources: Path | None) -> str:
    digest = hashlib.sha256()
    for folder in filter(None, (Path(__file__).parent, sources)):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    digest.update(llvmlite.__version__.encode())
    digest.update(f"{isa} {spec} {llvm.get_default_triple()} {_cpu(isa)}".encode())
    digest.update(_features(isa).encode())
    return digest.hexdigest()[:32]


def _compile(isa: Isa, function: Any, done: Callable[[int], None]) -> bytes:
    """The object file of a kernel; ``done`` is told how many steps are, but for the last."""
    from laplm.native.lower import lower

    machine = _target_machine(isa)
    module = llvm.parse_assembly(str(lower(function, _NAME)))
    module.triple, module.data_layout = llvm.get_default_triple(), str(machine.target_data)
    module.verify()
    done(1)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True  # of AdamW's loop: other kernels are written in vectors
    options.slp_vectorization = options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    done(2)
    code: bytes = machine.emit_object(module)
    return code


def _register_c_functions() -> None:
    """Let compiled code find the few C functions that LLVM may call instead of an instruction."""
    if sys.platform == "win32":
        libraries = [ctypes.CDLL("kernel32"), ctypes.CDLL("ucrtbase")]
    else:
        libraries = [ctypes.CDLL(None)]
    for name in ("sched_yield", "SwitchToThread", "fmaf", "rintf", "memset", "memcpy", "memmove"):
        for library in libraries:
            function = getattr(library, name, None)
            if function is not None:
                llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
                break


def _digest(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + code).digest()


def _read(file: Path, key: str) -> bytes | None:
    """The code in a file of ours; None when there is none that LLVM would not crash on."""
    cause = "not a file"
    try:
        if file.is_file():  # opening a pipe would wait for ever
            content = file.read_bytes()
            if _digest(key, content[32:]) == content[:32]:
                return content[32:]
            cause = "its contents do not match its checksum"
        elif not os.path.lexists(file):
            return None
    except OSError as error:
        cause = f"cannot be read ({error.strerror})"
    warn(f"compiled kernels {file}: {cause}; compiling them again")
    return None


def load(
    isa: Isa,
    spec: object,
    build: Callable[[], Any],
    progress: Progress | None = None,
    *,
    sources: Path | None = None,
) -> Engine:
    """The compiled form of the function that ``build`` returns, from the cache when it is there.

    ``progress`` is told of compiling, which takes some seconds. ``sources`` is the folder whose
    files ``build`` is written in: when one of them changes, it is compiled again. The engine takes
    four int64 and returns one, and releases Python's lock while it runs.

    Raises:
        CacheError: the cache directory cannot be written.
    """
    key = _cache_key(isa, spec, sources)
    if key in _loaded:
        return _loaded[key][1]
    file = home.directory("kernels") / f"{key}.o"
    code = _read(file, key)
    if code is None:

        def done(steps: int) -> None:
            if progress:
                progress("kernels", steps, _STEPS)

        done(0)
        code = _compile(isa, build(), done)
        home.clear_the_way(file)
        write_file(file, _digest(key, code) + code, advice=home.ADVICE, error=CacheError)
        done(_STEPS)
    _register_c_functions()
    jit = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine(isa))
    jit.add_object_file(llvm.ObjectFileRef.from_data(code))
    jit.finalize_object()
    engine: Engine = _SIGNATURE(jit.get_function_address(_NAME))
    _loaded[key] = (jit, engine)
    release_code_pages("libllvmlite")  # 30 MB, for compiling alone
    return engine
