"""``/api/models/pull``, against the stand-in for the hub that tests/hub has."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from laplm.hub import locate
from laplm.hub import pull as pulling
from laplm.serve.app import ServerOptions, make_app
from tests.hub.hub_server import Hub, standing_in


@pytest.fixture
def hub(tmp_path: Path, tiny_model_dir: Path) -> Iterator[Hub]:
    """A hub that has the tiny model as distilgpt2, in several blocks; the cache is empty."""
    with standing_in(tmp_path / "hub-cache") as hub:
        hub.add("distilbert/distilgpt2", tiny_model_dir)
        yield hub


def client(runs: Path, *, allow_pull: bool) -> TestClient:
    app, _ = make_app(
        ServerOptions({"pocket": "pocket"}, "pocket", runs=runs, allow_pull=allow_pull)
    )
    return TestClient(app, base_url="http://localhost")


def until_ended(served: TestClient) -> dict[str, Any]:
    end = time.monotonic() + 60
    while True:
        pull: dict[str, Any] = served.get("/api/models/pull").json()["pull"]
        if pull["state"] != "pulling":
            return pull
        assert time.monotonic() < end, pull
        time.sleep(0.02)


def pull(served: TestClient, name: str) -> dict[str, Any]:
    answer = served.post("/api/models/pull", json={"name": name})
    assert answer.status_code == 202, answer.text
    return until_ended(served)


def test_a_server_pulls_nothing_unless_it_was_started_so(hub: Hub, tmp_path: Path) -> None:
    with client(tmp_path / "runs", allow_pull=False) as served:
        assert served.get("/api/models/pull").json()["allowed"] is False
        answer = served.post("/api/models/pull", json={"name": "distilgpt2"})
        assert answer.status_code == 403
        assert "--allow-pull" in answer.json()["error"]["message"]
    assert hub.requests == [], "nobody was asked anything"


def test_a_model_is_pulled_listed_and_used(hub: Hub, tmp_path: Path) -> None:
    with client(tmp_path / "runs", allow_pull=True) as served:
        before = served.get("/api/models/pull").json()
        assert before["allowed"] and before["pull"] is None
        assert {"smollm2", "gpt2"} <= {model["name"] for model in before["known"]}
        names = {model["name"] for model in served.get("/api/models").json()["models"]}
        assert "distilgpt2" not in names
        done = pull(served, "distilgpt2")
        assert done["state"] == "done" and done["message"] == ""
        assert done["done"] == done["total"] > 0
        assert Path(done["path"]) == locate.locate("distilgpt2")
        names = {model["name"] for model in served.get("/api/models").json()["models"]}
        assert "distilgpt2" in names, "at once, though the disk was looked at a moment ago"
        body = {"model": "distilgpt2", "prompt": "The dog", "max_tokens": 2}
        assert served.post("/v1/completions", json=body).status_code == 200


def test_what_goes_wrong_is_told_as_the_command_tells_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(tmp_path / "runs", allow_pull=True) as served:
        assert "has no public model me/typo" in pull(served, "me/typo")["message"]
        assert "not the name of a model on the hub" in pull(served, "../x")["message"]
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 10))
        full = pull(served, "distilgpt2")
        assert full["state"] == "failed" and "no space left" in full["message"]
        monkeypatch.undo()
        monkeypatch.setattr(pulling, "pull", lambda *_, **__: 1 / 0)
        assert pull(served, "distilgpt2")["message"].startswith("an internal error")


def test_one_that_is_cancelled_keeps_what_has_arrived(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "_SMALLEST_BLOCK", 100_000)
    monkeypatch.setattr(pulling, "_LARGEST_BLOCK", 100_000)
    with client(tmp_path / "runs", allow_pull=True) as served:
        assert served.post("/api/models/pull/cancel").status_code == 409, "there is none"
        hub.hold.clear()  # the storage waits
        served.post("/api/models/pull", json={"name": "distilgpt2"})
        busy = served.post("/api/models/pull", json={"name": "gpt2"})
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "busy")
        served.post("/api/models/pull/cancel")
        hub.hold.set()
        ended = until_ended(served)
        assert ended["state"] == "cancelled" and "is kept" in ended["message"]
        assert not any(m.name == "distilgpt2" for m in locate.installed() if not m.problem)
        assert pull(served, "distilgpt2")["state"] == "done", "it goes on"
