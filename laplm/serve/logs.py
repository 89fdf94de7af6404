"""One JSON object a line to standard error. Prompts and texts are in it only when asked for."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from laplm.files import json_text

LOGGER = logging.getLogger("laplm.serve")


class JsonFormatter(logging.Formatter):
    """Time, level, what happened, and the fields that came with it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        out: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        out |= getattr(record, "fields", {})
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return json_text(out, ensure_ascii=True, default=str)


def set_up(*, quiet: bool = False) -> None:
    """Log to standard error: all requests, or with ``quiet`` only what went wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("laplm", "laplm.serve", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(logging.WARNING if quiet or name != "laplm.serve" else logging.INFO)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line."""
    LOGGER.log(level, event, extra={"fields": fields})


def log_exception(event: str, error: BaseException, **fields: Any) -> None:
    """Write down an error of ours, with where it happened."""
    LOGGER.error(event, exc_info=error, extra={"fields": fields})
