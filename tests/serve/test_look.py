"""Views over HTTP: the same numbers as from Python, in JSON."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from laplm.look import VIEWS, passes
from laplm.look.views.attention import attention
from laplm.look.views.next_token import NextToken, next_token
from laplm.model.engine.quantize import Precision
from laplm.model.families import gpt2
from laplm.run.language_model import LanguageModel
from laplm.serve.app import ServerOptions, make_app
from laplm.serve.look import Worker, request_of
from laplm.serve.problems import ApiError, handle_error

TEXT = "The capital of Spain is"
NAMES = [entry.name for entry in VIEWS]
MORE: dict[str, dict[str, Any]] = {
    "embeddings": {"words": ["king", "queen"], "word_sets": []},
    "nearest": {"expression": "king"},
    "without": {"without": ["head:1.1"], "max_new_tokens": 4},
    "patch": {"clean": [5, 6, 7], "corrupted": [5, 9, 8]},
    "patched": {
        "clean": [5, 6, 7], "corrupted": [5, 9, 8], "layer": 1, "positions": [-1],
        "max_new_tokens": 4,
    },
    "steer": {"towards": " happy", "away_from": " sad", "max_new_tokens": 4},
    "compare": {"other": "twin"},
    "chat": {"message": TEXT, "max_new_tokens": 4, "seed": 3},
    "neuron": {"unit": "1.7", "texts": TEXT},
    "generation": {"prompt": TEXT, "max_new_tokens": 4, "seed": 3},
}  # fmt: skip


TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def talking(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(tiny_model_dir, path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def client(talking: Path) -> Iterator[TestClient]:
    given = {"tiny": str(talking), "twin": str(talking)}
    app, _ = make_app(ServerOptions(given, "tiny"))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def body_for(client: TestClient, name: str) -> dict[str, Any]:
    views = {view["name"]: view for view in client.get("/api/look").json()["views"]}
    body = dict(MORE.get(name, {}))
    if any(p["name"] == "text" and p["required"] for p in views[name]["parameters"]):
        body["text"] = TEXT
    return body


@pytest.mark.parametrize("name", NAMES)
def test_every_view_answers_with_its_result_and_parts(client: TestClient, name: str) -> None:
    answer = client.post(f"/api/look/{name}", json=body_for(client, name))
    assert answer.status_code == 200, answer.text
    found = json.loads(answer.content, parse_constant=lambda word: pytest.fail(word))
    assert (found["view"], found["model"]) == (name, "tiny")
    assert found["result"]
    assert {part["kind"] for part in found["parts"]} <= {"table", "grid", "maps", "passage"}
    assert all(part["title"] for part in found["parts"])


JSON = {"Content-Type": "application/json"}
NUMBERS = ["-1", "1000000", str(10**30), "NaN", "-1e400", '"\u0663"']


@pytest.mark.parametrize("name", NAMES)
def test_a_number_gives_an_answer_or_says_what_it_may_be(client: TestClient, name: str) -> None:
    views = {view["name"]: view for view in client.get("/api/look").json()["views"]}
    for parameter in views[name]["parameters"]:
        if not re.search("int|float", parameter["type"]):
            continue
        several = parameter["type"].startswith(("list", "Sequence"))
        for number in NUMBERS:
            value = f"[{number}]" if several else number
            rest = {k: v for k, v in body_for(client, name).items() if k != parameter["name"]}
            body = f"{json.dumps({**rest, parameter['name']: '?'})}".replace('"?"', value)
            answer = client.post(f"/api/look/{name}", content=body, headers=JSON)
            where = (parameter, number, answer.text[:300])
            assert answer.status_code in (200, 400), where
            if answer.status_code == 400:
                assert "\n" not in answer.json()["error"]["message"], where


def test_numbers_are_those_of_the_library(client: TestClient, tiny_model_dir: Path) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32")
    lm.name = "tiny"
    for name, want in (("next", next_token(lm, TEXT, k=4)), ("attention", attention(lm, TEXT))):
        body = {"text": TEXT} | ({"k": 4} if name == "next" else {})
        assert client.post(f"/api/look/{name}", json=body).json()["result"] == want.to_dict()


def test_a_parameter_is_known_by_its_name_before(client: TestClient) -> None:
    body = {"text": TEXT, "target": " the"}
    new = client.post("/api/look/attribution", json=body | {"contrast": " a"}).json()["result"]
    old = client.post("/api/look/attribution", json=body | {"against": " a"}).json()["result"]
    assert old == new
    assert new["contrast"] is not None


def test_a_causal_mask_comes_as_null(client: TestClient) -> None:
    maps = client.post("/api/look/attention", json={"text": TEXT}).json()["parts"][0]
    first = maps["values"][0][0]
    assert first[0][1] is None
    assert first[1][0] is not None


@pytest.mark.parametrize(
    ("name", "body", "status", "param"),
    [
        ("next", {}, 400, "text"),
        ("next", {"text": ""}, 400, None),
        ("next", {"text": TEXT, "k": 0}, 400, None),
        ("next", {"text": TEXT, "k": "5"}, 400, "k"),
        ("next", {"text": TEXT, "k": 10**30}, 400, "k"),
        ("next", {"text": "a " * 1000}, 400, None),
        ("attention", {"text": TEXT, "layer": 99}, 400, None),
        ("compare", {"text": TEXT, "other": "nobody"}, 404, "model"),
        ("next", {"text": TEXT, "model": "nobody"}, 404, "model"),
        ("without", {"text": TEXT, "without": ["nose:1"]}, 400, None),
        ("nothing", {"text": TEXT}, 404, None),
    ],
)
def test_what_cannot_be_shown_says_why(
    client: TestClient, name: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    answer = client.post(f"/api/look/{name}", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    if param is not None:
        assert error["param"].split(".")[0] == param
    assert error["message"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_view_can_be_stopped_on_its_way(
    client: TestClient, talking: Path, name: str, precision: Precision
) -> None:
    class StoppedError(Exception):
        pass

    (entry,) = [entry for entry in VIEWS if entry.name == name]
    make = entry.load()
    lm = LanguageModel(talking, precision)
    given = body_for(client, name)
    body = request_of(entry).model_validate(
        given | ({"other": "twin"} if name == "compare" else {})
    )
    arguments = {key: getattr(body, key) for key in body.model_fields_set}
    if name == "compare":
        arguments["other"] = LanguageModel(talking, precision)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise StoppedError

    stop_at = 0
    with passes.cancellable(check):
        make(lm, **arguments)
    # Each of these passes nothing through the model, and is done at once.
    if name in ("stats", "scale", "tokens", "embeddings", "nearest", "positions"):
        return
    assert calls > 0
    for stop_at in {1, calls // 2 + 1, calls}:
        calls = 0
        with passes.cancellable(check), pytest.raises(StoppedError):
            make(lm, **arguments)
        assert calls == stop_at


def test_a_client_that_goes_away_stops_the_work_between_two_layers(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel(tiny_model_dir, "fp32")
    layers: list[int] = []
    begun, go_on = threading.Event(), threading.Event()
    attention_of = gpt2.attention

    def slow(x: Any, layer: int, *more: Any) -> Any:
        layers.append(layer)
        begun.set()
        assert go_on.wait(30)
        return attention_of(x, layer, *more)

    monkeypatch.setattr(gpt2, "attention", slow)

    async def scenario() -> list[Any]:
        leave = asyncio.Event()
        worker = Worker()

        async def left() -> dict[str, str]:
            await leave.wait()
            return {"type": "http.disconnect"}

        async def stays() -> dict[str, str]:
            await asyncio.Event().wait()
            return {}

        def ask(receive: Any) -> asyncio.Task[Any]:
            request = Request({"type": "http"}, receive)
            return asyncio.create_task(worker.run(request, lambda _: next_token(lm, TEXT)))

        # A text is looked at, a key is pressed, and another one: two of three do not stay.
        asked = [ask(left), ask(left), ask(stays)]
        await asyncio.to_thread(begun.wait, 30)
        leave.set()
        for _ in range(10):
            await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third = asyncio.run(scenario())
    assert [first.status, second.status] == [499, 499]
    assert isinstance(third, NextToken)
    assert layers == [0, *range(lm.config.n_layer)]


def test_more_views_than_can_wait_are_told_to_come_again() -> None:
    worker, release, begun = Worker(most=1), threading.Event(), threading.Event()
    app = FastAPI(exception_handlers={ApiError: handle_error})

    @app.get("/")
    async def slow(request: Request) -> str:
        def work(_: Callable[..., None]) -> str:
            begun.set()
            assert release.wait(30)
            return "made"

        return await worker.run(request, work)

    with TestClient(app) as client:
        answers: list[Any] = []
        first = threading.Thread(target=lambda: answers.append(client.get("/")))
        first.start()
        assert begun.wait(30)
        refused = client.get("/")
        release.set()
        first.join()
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert answers[0].json() == "made"
