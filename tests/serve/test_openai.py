"""Completions over HTTP: the same text as the command line's, and errors in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from laplm.run.language_model import LanguageModel
from laplm.serve.app import Options, make_app


@pytest.fixture(scope="module")
def client(tiny_model_dir: Path) -> Iterator[TestClient]:
    app, _ = make_app(Options({"tiny": str(tiny_model_dir)}, "tiny"))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("length", [1, 4, 5, 70])
def test_a_seed_gives_the_text_that_the_library_gives(
    client: TestClient, tiny_model_dir: Path, length: int
) -> None:
    ids = [(7 * i) % 300 for i in range(length)]
    want = LanguageModel(tiny_model_dir).samples(ids, 3, 12, seed=4, ignore_eos=True)
    body = {"prompt": ids, "n": 3, "max_tokens": 12, "seed": 4, "temperature": 0.8, "top_k": 40}
    body |= {"ignore_eos": True, "return_token_ids": True}
    choices = client.post("/v1/completions", json=body).json()["choices"]
    assert [tuple(c["token_ids"]) for c in choices] == [r.token_ids for r in want]
    assert [c["text"] for c in choices] == [r.text for r in want]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"prompt": "a", "temperature": -1}, 400, "temperature"),
        ({"prompt": "a", "max_tokens": 1000}, 400, None),
        ({"prompt": "a", "n": 3, "best_of": 2}, 400, "best_of"),
        ({"prompt": "a", "model": "../tiny"}, 404, "model"),
    ],
)
def test_what_cannot_be_answered_says_why(
    client: TestClient, body: dict[str, object], status: int, param: str | None
) -> None:
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_a_foreign_host_or_origin_is_refused(client: TestClient) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert client.get("/v1/models", headers=headers).status_code == 403
