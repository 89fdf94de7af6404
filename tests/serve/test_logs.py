"""What the log holds: every request, and a prompt only when that was asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from laplm.serve import logs
from laplm.serve.app import ServerOptions, make_app

SECRET = "xylophone"
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": SECRET, "max_tokens": 2}),
    ("/v1/completions", {"prompt": SECRET, "max_tokens": 2, "stream": True}),
    ("/v1/completions", {"prompt": SECRET * 200, "max_tokens": 2}),
    ("/v1/completions", {"prompt": SECRET, "temperature": -1}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": SECRET}]}),
    ("/api/look/next", {"text": SECRET}),
    ("/api/look/patch", {"clean": SECRET, "corrupted": f"{SECRET} and more"}),
]


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Every line that is logged while a test runs, whichever part of the server it is from."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.setFormatter(logs.JsonFormatter())
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    logger = logging.getLogger()
    before = logging.getLogger("laplm.serve").level
    logging.getLogger("laplm.serve").setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logging.getLogger("laplm.serve").setLevel(before)


def ask_everything(model: Path, runs: Path, *, log_prompts: bool) -> None:
    app, _ = make_app(
        ServerOptions({"tiny": str(model)}, "tiny", runs=runs, log_prompts=log_prompts)
    )
    with TestClient(app, base_url="http://localhost") as client:
        for path, body in ASKED:
            client.post(path, json=body)
        client.post("/v1/completions", content=b'{"prompt": "xylophone', headers={
            "Content-Type": "application/json"})  # fmt: skip
        # A text to learn from is no prompt: it is in no log at all.
        client.post("/api/tune", json={"name": "a.txt", "content": "marimba"})


def test_a_log_holds_no_prompt(tiny_model_dir: Path, tmp_path: Path, told: list[str]) -> None:
    ask_everything(tiny_model_dir, tmp_path, log_prompts=False)
    requests = [line for line in told if json.loads(line)["event"] == "request"]
    assert len(requests) == len(ASKED) + 2
    assert not [line for line in told if SECRET in line or "marimba" in line]


def test_a_log_holds_prompts_when_it_is_asked_to(
    tiny_model_dir: Path, tmp_path: Path, told: list[str]
) -> None:
    ask_everything(tiny_model_dir, tmp_path, log_prompts=True)
    requests = [line for line in map(json.loads, told) if line["event"] == "request"]
    with_prompt = [line for line in requests if SECRET in line.get("body", "")]
    assert len(with_prompt) == len(ASKED) + 1
    assert json.loads(with_prompt[0]["body"])["prompt"] == SECRET
    assert not [line for line in told if "marimba" in line]
