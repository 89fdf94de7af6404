"""Models over HTTP: listed with their sizes, loaded and let go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from laplm.serve.app import ServerOptions, make_app
from laplm.serve.models import ServingSettings


@pytest.fixture
def client(tiny_model_dir: Path) -> Iterator[TestClient]:
    given = {"tiny": str(tiny_model_dir), "twin": str(tiny_model_dir)}
    app, _ = make_app(ServerOptions(given, "tiny", ServingSettings(keep=1)))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def loaded(client: TestClient) -> list[str]:
    return [m["name"] for m in client.get("/api/models").json()["models"] if m["loaded"]]


def test_the_list_has_every_model_and_its_sizes(client: TestClient) -> None:
    answer = client.get("/api/models").json()
    entries = {entry["name"]: entry for entry in answer["models"]}
    assert answer["default"] == "tiny"
    assert {"tiny", "twin", "pocket"} <= entries.keys()
    assert entries["pocket"]["built_in"]
    assert not entries["tiny"]["built_in"]
    assert (entries["tiny"]["n_layer"], entries["tiny"]["n_head"]) == (3, 4)
    assert entries["tiny"]["bytes_on_disk"] > 0
    assert entries["tiny"]["memory_bytes"] is None
    assert (entries["tiny"]["family"], entries["tiny"]["stored_as"]) == ("gpt2", "fp32")
    assert entries["tiny"]["licence"] is None
    assert entries["tiny"]["tunable"]
    assert entries["pocket"]["licence"] == "apache-2.0, as laplm"
    assert Path(entries["pocket"]["path"]).is_absolute()


def test_a_model_is_loaded_and_let_go(client: TestClient) -> None:
    entry = client.post("/api/models/load", json={"model": "tiny"}).json()
    assert entry["loaded"]
    assert entry["memory_bytes"] > 0
    assert loaded(client) == ["tiny"]
    entry = client.post("/api/models/unload", json={"model": "tiny"}).json()
    assert not entry["loaded"]
    assert loaded(client) == []


def test_no_more_models_are_kept_than_were_asked_for(client: TestClient) -> None:
    for name in ("tiny", "twin"):
        assert client.post("/api/models/load", json={"model": name}).json()["loaded"]
    assert loaded(client) == ["twin"]


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize("name", ["nobody", "../tiny", "/etc", ""])
def test_only_names_of_the_list_can_be_asked_for(client: TestClient, verb: str, name: str) -> None:
    answer = client.post(f"/api/models/{verb}", json={"model": name})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
