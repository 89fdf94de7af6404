"""llama.cpp itself, which reads what laplm exports: its server, from the package xllamacpp."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# A process of its own for each, that is killed: as it ends, the server may wait for ever for one of
# its threads, in compiled code that no time limit of a test could interrupt.
_PROGRAM = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = int(sys.argv[2]), 1, 1
params.warmup = params.fit_params = False
params.verbosity = -1
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
server = xllamacpp.Server(params)
print("listening at", server.listening_address, flush=True)
sys.stdin.read()
"""


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


class LlamaServer:
    """A GGUF file, loaded."""

    def __init__(self, path: Path, n_ctx: int = 128) -> None:
        if find_spec("xllamacpp") is None:
            pytest.skip("llama.cpp: pip install xllamacpp")
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(path), str(n_ctx)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
        weakref.finalize(self, _end, process)
        assert process.stdout is not None
        said = next((line for line in process.stdout if line.startswith("listening at ")), "")
        assert said, f"llama.cpp does not open {path}"
        self._address = said.split()[-1]

    def post(self, route: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            self._address + route,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def tokenize(
        self, *texts: str, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids of texts, one after the other; ``add_special`` is for the first."""
        found: list[int] = self.post(
            "/tokenize", content=list(texts), add_special=add_special, parse_special=parse_special
        )["tokens"]
        return found

    def logprobs(self, ids: Sequence[int], count: int) -> np.ndarray:
        """Of each of ``count`` tokens, that it follows: (V,)."""
        # Which token is drawn does not matter, but it must have a text to be reported.
        out = self.post(
            "/completion", prompt=list(ids), n_predict=1, n_probs=count, logit_bias=[[40, 1000]],
            cache_prompt=False,
        )  # fmt: skip
        found = np.full(count, np.nan)
        for each in out["completion_probabilities"][0]["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        return found

    def force(self, token: int) -> dict[str, Any]:
        """What comes of it when the model draws this token."""
        return self.post("/completion", prompt=[5, 6], n_predict=1, logit_bias=[[token, 1000]])
