"""Runs of ``laplm tune`` over HTTP: planned, trained, stopped, gone on with, kept, taken away."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from laplm.model.files.checkpoint import open_checkpoint
from laplm.serve import tuning
from laplm.serve.app import ServerOptions, make_app

TEXT = "\n<|endoftext|>\n".join(f"The dog number {i} saw the cat." for i in range(40))
QUICK = {"max_steps": 3, "positions": 32, "batch_size": 2, "threads": 1}


def make_client(model: Path, runs: Path) -> TestClient:
    app, _ = make_app(ServerOptions({"tiny": str(model)}, "tiny", runs=runs))
    return TestClient(app, base_url="http://localhost")


@pytest.fixture
def client(tiny_model_dir: Path, tmp_path: Path) -> Iterator[TestClient]:
    with make_client(tiny_model_dir, tmp_path / "runs") as client:
        yield client


def create(client: TestClient, content: str = TEXT, **settings: Any) -> str:
    body = {"name": "notes.txt", "content": content, "settings": QUICK | settings}
    answer = client.post("/api/tune", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["state"] == "planning"
    return str(answer.json()["id"])


def keep(runs: Path, model: Path, state: str, **more: Any) -> str:
    """A run as an earlier server left it; its id."""
    directory = runs / "20260101-000000-abcd"
    directory.mkdir(parents=True)
    (directory / "data.txt").write_text(TEXT)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    kept = {
        "name": "notes.txt", "model": "tiny", "target": str(model), "data": "data.txt",
        "settings": QUICK, "words": [w.replace("positions", "window") for w in words],
        "created": 1.0, "state": state, "message": "", "plan": None,
    }  # fmt: skip
    (directory / "entry.json").write_text(json.dumps(kept | more))
    return directory.name


def until(client: TestClient, id_: str, *states: str) -> dict[str, Any]:
    end = time.monotonic() + 120
    while True:
        entry: dict[str, Any] = client.get(f"/api/tune/{id_}").json()
        if entry["state"] in states:
            return entry
        assert time.monotonic() < end, entry
        time.sleep(0.1)


def test_a_run_is_planned_trained_watched_and_used(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = keep(tmp_path / "runs", tiny_model_dir, "planned", plan={"max_steps": 3})
    with make_client(tiny_model_dir, tmp_path / "runs") as client:
        _plan_train_watch_and_use(client, other)


def _plan_train_watch_and_use(client: TestClient, other: str) -> None:
    id_ = create(client)
    plan = until(client, id_, "planned", "failed")["plan"]
    assert plan["documents"] == 40
    assert plan["max_steps"] == 3
    assert plan["seconds"] > 0
    assert client.get(f"/api/tune/{id_}/report").status_code == 404
    assert client.post(f"/api/tune/{id_}/start").json()["state"] == "running"
    busy = client.post(f"/api/tune/{other}/start")
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "busy")
    heard: list[tuple[str, Any]] = []
    with client.stream("GET", f"/api/tune/{id_}/events") as events:
        name = ""
        for line in events.iter_lines():
            kind, _, value = line.partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                heard.append((name, json.loads(value)))
    assert heard[0][0] == "state"
    assert [what["step"] for name, what in heard if name == "step"][-1:] in ([3], [])
    assert heard[-1][1]["state"] == "done", heard[-1]
    entry = client.get(f"/api/tune/{id_}").json()
    assert entry["step"] == entry["max_steps"] == 3
    assert [step for step, _ in entry["losses"]] == [1, 2, 3]
    assert [step for step, _ in entry["heldout_losses"]] == [1, 2, 3]
    assert entry["samples"][-1]["text"].startswith("The dog")
    assert entry["result"]["loss_after"] < entry["result"]["loss_before"]
    report = client.get(f"/api/tune/{id_}/report")
    assert report.headers["content-type"].startswith("text/html")
    assert 'color-scheme: dark"' not in report.text
    dark = client.get(f"/api/tune/{id_}/report?theme=dark").text
    assert dark.replace(' style="color-scheme: dark"', "", 1) == report.text
    assert client.get(f"/api/tune/{id_}/report?theme=<b>").status_code == 400
    assert "script-src" not in report.headers["content-security-policy"]
    assert "default-src 'none'" in report.headers["content-security-policy"]
    names = {m["name"]: m for m in client.get("/api/models").json()["models"]}
    # How a held-out document begins is what people are shown of it first.
    assert re.fullmatch(r"The dog number \d+ saw the", entry["opening"])
    assert (names["notes-2"]["opening"], names["notes-2"]["asks"]) == (entry["opening"], False)
    assert names["tiny"]["opening"] is None
    assert entry["model_name"] == "notes-2", "the file's name, which the other one has already"
    assert names["notes-2"]["run"] == id_
    for name in ("notes-2", f"run:{id_}"):
        body = {"model": name, "prompt": "The dog", "max_tokens": 4}
        assert client.post("/v1/completions", json=body).json()["model"] == name
    for name in ("Tiny", "notes", "a/b", "con"):  # of another model, of a run, and no names
        answer = client.patch(f"/api/tune/{id_}", json={"model_name": name})
        assert answer.status_code == 400, name
    answer = client.patch(f"/api/tune/{id_}", json={"model_name": "tales"})
    assert answer.json()["model_name"] == "tales"
    names = {m["name"]: m for m in client.get("/api/models").json()["models"]}
    assert names["tales"]["run"] == id_ and "notes-2" not in names
    assert client.post(f"/api/tune/{other}/export", json={}).status_code == 409
    done = client.post(f"/api/tune/{id_}/export", json={"precision": "f16"}).json()
    assert open_checkpoint(Path(done["path"])).names
    assert Path(done["path"]).name == "tales.gguf"
    assert "FROM ./tales.gguf" in Path(done["modelfile"]).read_text()
    assert done["command"] == f"ollama create tales -f {done['modelfile']}"
    body["model"] = "tales"
    assert client.delete(f"/api/tune/{id_}").status_code == 200
    assert client.post("/v1/completions", json=body).status_code == 404


def test_a_run_is_stopped_outlives_the_server_and_goes_on(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    with make_client(tiny_model_dir, tmp_path / "runs") as client:
        id_ = create(client, max_steps=2000)
        until(client, id_, "planned", "failed")
        client.post(f"/api/tune/{id_}/start")
        while not client.get(f"/api/tune/{id_}").json()["step"]:
            time.sleep(0.05)
        assert client.delete(f"/api/tune/{id_}").status_code == 409
        assert client.post(f"/api/tune/{id_}/stop").json()["state"] == "stopping"
        stopped = until(client, id_, "stopped", "failed", "done")
        assert stopped["state"] == "stopped", stopped["message"]
    with make_client(tiny_model_dir, tmp_path / "runs") as client:
        again = client.get(f"/api/tune/{id_}").json()
        assert again["state"] == "stopped"
        assert again["plan"] == stopped["plan"]
        assert again["step"] <= stopped["step"]
        client.post(f"/api/tune/{id_}/start")
        while client.get(f"/api/tune/{id_}").json()["step"] <= stopped["step"]:
            time.sleep(0.05)
    # The server's end has stopped it as well.
    with make_client(tiny_model_dir, tmp_path / "runs") as client:
        assert client.get(f"/api/tune/{id_}").json()["state"] == "stopped"


@pytest.mark.parametrize(
    ("left", "found"),
    [("planning", "planned"), ("planned", "planned"), ("running", "failed"),
     ("stopping", "stopped"), ("stopped", "stopped"), ("done", "done"), ("failed", "failed")],
)  # fmt: skip
def test_a_run_is_found_as_the_servers_end_left_it(
    tiny_model_dir: Path, tmp_path: Path, left: str, found: str
) -> None:
    id_ = keep(tmp_path / "runs", tiny_model_dir, left)
    log = tmp_path / "runs" / id_ / "log"
    log.write_text("half of it is read\nlaplm: the disk is full\n\n")
    with make_client(tiny_model_dir, tmp_path / "runs") as client:
        entry = until(client, id_, found)
    if left == "planning":
        assert entry["plan"]["documents"] == 40
    if left == "running":
        assert "it can go on" in entry["message"]
        assert entry["message"].endswith("the disk is full")


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells whose process it is")
def test_what_a_killed_server_left_running_is_ended_and_nothing_else(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(300)"]
    directory = tmp_path / "runs" / "20260101-000000-abcd"
    directory.mkdir(parents=True)
    for word, ended in ((f"--out={directory / 'model'}", True), ("--out=/elsewhere", False)):
        with subprocess.Popen([*sleep, word], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()  # before it has begun, nothing says whose process it is
                kept = {
                    "name": "notes.txt", "model": "tiny", "target": "tiny", "data": "data.txt",
                    "settings": {}, "words": [], "created": 1.0, "state": "running", "plan": None,
                    "pid": process.pid,
                }  # fmt: skip
                (directory / "entry.json").write_text(json.dumps(kept))
                with make_client(tiny_model_dir, tmp_path / "runs") as client:
                    assert client.get(f"/api/tune/{directory.name}").json()["state"] == "failed"
                if ended:
                    assert process.wait(60) == -signal.SIGTERM
                else:
                    assert process.poll() is None
            finally:
                process.kill()


def test_a_run_that_is_being_planned_is_planned_by_the_next_server(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    with make_client(tiny_model_dir, tmp_path / "runs") as client:
        id_ = create(client)
    with make_client(tiny_model_dir, tmp_path / "runs") as client:
        assert until(client, id_, "planned", "failed")["state"] == "planned"
        client.post(f"/api/tune/{id_}/start")
        assert until(client, id_, "done", "failed")["state"] == "done"


def test_data_that_cannot_be_learned_says_why(client: TestClient) -> None:
    entry = until(client, create(client, content="one"), "planned", "failed")
    assert entry["state"] == "failed"
    assert "too little" in entry["message"]
    assert client.post(f"/api/tune/{entry['id']}/start").status_code == 409
    entry = until(client, create(client, content="a\0b"), "planned", "failed")
    assert entry["message"].startswith("notes.txt, line 1: a NUL byte")
    assert "Traceback" not in entry["message"]
    assert client.post(f"/api/tune/{entry['id']}/start").status_code == 409


@pytest.mark.parametrize(
    "wrong",
    [
        {"settings": {"method": "magic"}},
        {"settings": {"epochs": -1}},
        {"settings": {"out": "/tmp/elsewhere"}},
        {"content": ""},
        {"model": "../tiny"},
        {"model_name": "pocket"},
    ],
)
def test_wrong_settings_are_refused_before_anything_is_kept(
    client: TestClient, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    answer = client.post("/api/tune", json={"name": "a.txt", "content": TEXT} | wrong)
    assert answer.status_code in (400, 404)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_name_is_never_a_path(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def planned_by_nobody(*_: Any) -> None: ...

    monkeypatch.setattr(tuning.Tunings, "_plan", planned_by_nobody)
    body = {"name": "../../notes.txt", "content": TEXT, "settings": QUICK}
    id_ = client.post("/api/tune", json=body).json()["id"]
    assert not (tmp_path / "notes.txt").exists()
    assert (tmp_path / "runs" / id_ / "data.txt").is_file()
    for strange in ("../x", "..", "%2e%2e"):
        assert client.get(f"/api/tune/{strange}").status_code in (404, 405)


def test_a_run_that_dies_is_told_and_can_go_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    app, parts = make_app(
        ServerOptions({"tiny": str(tiny_model_dir)}, "tiny", runs=tmp_path / "runs")
    )
    with TestClient(app, base_url="http://localhost") as client:
        id_ = create(client, max_steps=2000)
        until(client, id_, "planned", "failed")
        client.post(f"/api/tune/{id_}/start")
        while not client.get(f"/api/tune/{id_}").json()["step"]:
            time.sleep(0.05)
        run = parts.tunings.get(id_)
        assert run.process is not None
        run.log.write_text("laplm: no room\n")
        run.process.kill()
        entry = until(client, id_, "failed", "stopped", "done")
        assert entry["state"] == "failed"
        assert "from outside" in entry["message"]
        assert entry["message"].endswith("no room")
        assert client.get("/healthz").status_code == 200
        assert client.post(f"/api/tune/{id_}/start").json()["state"] == "running"
        client.post(f"/api/tune/{id_}/stop")
        assert until(client, id_, "failed", "stopped", "done")["state"] == "stopped"
