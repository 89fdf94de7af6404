"""``metrics.jsonl``: what a training run measured, a JSON object a line with the ``step`` it is of.

Training losses, held-out losses and samples stand in it as they came. A run that was killed may
leave a last line that is cut short.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from laplm.errors import InputError

METRICS = Path("run/metrics.jsonl")
"""Where it is in the directory that ``laplm tune`` was given."""

Series = tuple[list[int], list[float]]  # steps, and the values measured after them


def read_metrics(path: Path, *, skip_damaged: bool = False) -> list[dict[str, Any]]:
    """Every line in order, without a last one that is cut short.

    Args:
        path: of the file.
        skip_damaged: leave out other lines that cannot be read, too.

    Raises:
        InputError: a line is damaged.
        OSError: the file cannot be read.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            if skip_damaged or number == len(lines):
                continue
            raise InputError(f"{path}, line {number}: not JSON; the file is damaged") from None
        if isinstance(record, dict):
            records.append(record)
    return records


def read_series(path: Path, *names: str) -> list[Series]:
    """Steps and values of some measurements, such as ``train_loss`` and ``heldout_loss``.

    Raises:
        InputError: the file is missing or damaged, or holds nothing of the first name.
    """
    try:
        records = read_metrics(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; train the model first") from None
    series = [
        (
            [record["step"] for record in records if name in record],
            [record[name] for record in records if name in record],
        )
        for name in names
    ]
    if not series[0][0]:
        raise InputError(f"{path} holds no measurement of the loss; train the model first")
    return series
