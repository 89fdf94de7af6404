"""What the numbers were measured on, and how much other work disturbed them."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPU_FLAGS = [
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
]


def describe() -> dict[str, Any]:
    """CPU, memory and system of this machine, as far as the system tells."""
    cpu = _cpu()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_family_model": " ".join(cpu[key] for key in ("cpu family", "model") if cpu.get(key)),
        "flags": [f for f in CPU_FLAGS if f in re.split(r"\s+", cpu.get("flags", ""))],
        "cores": cores(),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> dict[str, str]:
    values: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return values
    for line in text.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        values[key.strip()] = value.strip()
    values.setdefault("flags", values.get("Features", ""))  # the name on ARM
    return values


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def busy_share(seconds: float) -> float:
    """Share of the machine's CPU time that anything takes in the next seconds, 0 ... 1."""
    before = CpuTimes.now(os.getpid(), time.monotonic())
    time.sleep(seconds)
    after = CpuTimes.now(os.getpid(), time.monotonic())
    return after.disturbed_since(before) if before and after else 0.0


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds spent so far: by everything, by the hypervisor's other guests, by one process."""

    busy: float
    stolen: float
    process: float
    wall: float

    @classmethod
    def now(cls, pid: int, wall: float) -> CpuTimes | None:
        """Read the counters; None where the system has no /proc."""
        try:
            ticks = os.sysconf("SC_CLK_TCK")
            first = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
            user, nice, system, _idle, _wait, irq, soft, steal = map(int, first.split()[1:9])
            own = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (OSError, ValueError):
            return None
        busy = (user + nice + system + irq + soft) / ticks
        return cls(busy, steal / ticks, (int(own[11]) + int(own[12])) / ticks, wall)

    def disturbed_since(self, before: CpuTimes) -> float:
        """Share of the machine's CPU time that did not go to the process, 0 ... 1."""
        others = (self.busy - before.busy) - (self.process - before.process)
        stolen = self.stolen - before.stolen
        total = (os.cpu_count() or 1) * max(self.wall - before.wall, 1e-9)
        return min(1.0, max(0.0, (others + stolen) / total))
