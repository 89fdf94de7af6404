"""What a training run measured, for tests of what reads it."""

from __future__ import annotations

import json
import math
from pathlib import Path


def write_metrics(path: Path, steps: int = 300) -> Path:
    """A ``metrics.jsonl`` of a run whose loss falls as it usually does."""
    lines = []
    for step in range(10, steps + 1, 10):
        loss = 2 + 6 * math.exp(-step / 60)
        lines.append({"step": step, "seconds": step / 5, "train_loss": loss})
        if step % 50 == 0:
            lines.append({"step": step, "seconds": step / 5, "heldout_loss": loss,
                          "heldout_bits_per_byte": loss / 3, "sample": "One day"})  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
