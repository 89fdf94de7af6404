"""What Prometheus is told."""

from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from laplm.serve.app import ServerOptions, make_app
from laplm.serve.metrics import Metrics


def samples(text: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Labels and value of everything of a name."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_what_a_client_invents_makes_no_new_series(tiny_model_dir: Path) -> None:
    app, _ = make_app(ServerOptions({"tiny": str(tiny_model_dir)}, "tiny"))
    with TestClient(app, base_url="http://localhost") as client:
        for i in range(20):
            client.request(f"METHOD{i}", "/v1/models")
            client.get(f"/nothing/{i}")
            client.get(f"/v1/models/nobody{i}")
            client.head("/v1/models")
        counted = samples(client.get("/metrics").text, "laplm_requests_total")
    by_name = {tuple(value for _, value in labels): n for labels, n in counted.items()}
    assert by_name == {  # method, route, status
        ("other", "/v1/models", "405"): 20,
        ("GET", "other", "404"): 20,
        ("GET", "/v1/models/{name:path}", "404"): 20,
        ("HEAD", "/v1/models", "200"): 20,
    }


def test_tokens_and_times_are_counted_where_they_belong() -> None:
    metrics = Metrics(list)
    metrics.on_step(7, 2)
    metrics.on_step(0, 3)
    metrics.on_token(0.3, first=True)
    metrics.on_token(0.004, first=False)
    metrics.on_token(0.004, first=False)
    text = metrics.text().decode()
    assert samples(text, "laplm_prompt_tokens_total") == {(): 7.0}
    assert samples(text, "laplm_generated_tokens_total") == {(): 5.0}
    assert samples(text, "laplm_first_token_seconds_count") == {(): 1.0}
    assert samples(text, "laplm_first_token_seconds_sum") == {(): 0.3}
    assert samples(text, "laplm_next_token_seconds_count") == {(): 2.0}
    assert samples(text, "laplm_resident_bytes")[()] > 10e6
