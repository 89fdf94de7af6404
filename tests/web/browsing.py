"""The page in a browser, on a ``laplm serve`` process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import chromium
from pages import Watched

from laplm.hub import tuning_runs
from tests.hub.hub_server import Hub, start
from tests.serve.serving import started, with_chat_template


@pytest.fixture(scope="session")
def runs_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its tunings."""
    path = tmp_path_factory.mktemp("serve") / "runs"
    path.mkdir()
    return path


@pytest.fixture
def run_elsewhere(runs_directory: Path) -> Iterator[str]:
    """The name of a run as a command has left it in the server's directory, with its curve."""
    path = runs_directory / "20260101-000000-bbbb"
    metrics = path / "model" / "run" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    lines = [{"step": step, "heldout_loss": 5.0 - step} for step in (1, 2)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    entry = {"name": "sea.txt", "model": "tiny", "created": 1.0, "settings": {}, "plan": None}
    tuning_runs.write_entry(
        path, {**entry, "state": "stopped", "message": "", "model_name": "waves"}
    )
    yield "waves"
    shutil.rmtree(path)


@pytest.fixture
def training(runs_directory: Path) -> Iterator[Path]:
    """A run that another process trains; asked to stop, it says that it has."""
    path = runs_directory / "20260101-000000-cccc"
    metrics = path / "model" / "run" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"step": 3, "max_steps": 9, "train_loss": 3.0}\n')
    program = (
        "import os, pathlib, signal, sys\n"
        "from laplm.hub import tuning_runs\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "entry = {'name': 'sea.txt', 'model': 'tiny', 'created': 1.0, 'settings': {},\n"
        "         'plan': None, 'message': '', 'model_name': 'waves', 'data': None,\n"
        "         'target': 'tiny', 'argv': [], 'pid': os.getpid()}\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "with tuning_runs.lock_run(path):\n"
        "    tuning_runs.write_entry(path, entry | {'state': 'running'})\n"
        "    print(flush=True)\n"
        "    signal.pause()\n"
        "    tuning_runs.write_entry(path, entry | {'state': 'stopped'})\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield path
        process.kill()
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def hub(runs_directory: Path, tiny_model_dir: Path) -> Iterator[Hub]:
    """The hub that the server may pull from: it has the tiny model, as distilgpt2."""
    hub = Hub()
    server = start(hub)
    hub.add("distilbert/distilgpt2", tiny_model_dir)
    yield hub
    server.shutdown()


@pytest.fixture(scope="session")
def address(runs_directory: Path, tiny_model_dir: Path, hub: Hub) -> Iterator[str]:
    """Where a real ``laplm serve`` listens: the built-in model, a tiny one, one that chats."""
    chromium()
    path = runs_directory.parent
    of_hub = {
        "HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(path / "hub"), "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost", "HF_TOKEN": "",
    }  # fmt: skip
    chat = with_chat_template(tiny_model_dir, path / "chat")
    models = ("pocket", f"tiny={tiny_model_dir}", f"talker={chat}")
    words = (*models, "--runs", str(runs_directory), "--threads", "1", "--no-open")
    with started(*words, "--allow-pull", OMP_NUM_THREADS="1", **of_hub) as server:
        yield f"{server.address}/"


@pytest.fixture
def watched(browser: Any, address: str) -> Iterator[Watched]:
    """A fresh page; it may neither complain nor ask anybody but its own server."""
    found = Watched(browser, address)
    yield found
    found.context.close()
    assert not found.complaints
    outside = [u for u in found.requests if not u.startswith((address, "blob:", "data:"))]
    assert found.requests and not outside
