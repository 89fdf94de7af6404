"""``laplm eval``."""

from __future__ import annotations

import json

from calling import refused

pytest_plugins = ("tiny_run",)  # its fixtures; a second conftest would hide the first one


def test_eval_prints_every_number_with_its_protocol(laplm_, lm, tiny_model_dir, tmp_path) -> None:
    _ = lm.gpt  # its weights and kernels are prepared
    (tmp_path / "a.txt").write_text("The capital of Spain is Madrid. Once upon a time\n" * 9)
    (tmp_path / "l.jsonl").write_text('{"text": "The capital of France is Paris"}\n')
    options = ["-m", tiny_model_dir, "--precision", "fp32", "--window", 32, "--stride", 16]
    result = laplm_("eval", tmp_path / "a.txt", *options, "--lambada", tmp_path / "l.jsonl")
    assert (result.code, result.err) == (0, "")
    for part in ("perplexity", "bits per byte", "tokens/s", "window 32, stride 16", "accuracy"):
        assert part in result.out
    value = json.loads(laplm_("eval", tmp_path / "a.txt", *options, "--json").out)
    assert value.keys() == {"text"}
    assert f"{value['text']['perplexity']:.3f} per token" in result.out
    assert value["text"]["path"] == str(tmp_path / "a.txt")
    only = json.loads(laplm_("eval", "--lambada", tmp_path / "l.jsonl", *options, "--json").out)
    assert only.keys() == {"lambada"} and only["lambada"]["examples"] == 1


def test_eval_refuses_what_it_cannot_score(laplm_, tiny_model_dir, tmp_path) -> None:
    refused(laplm_("eval", "-m", tiny_model_dir), "nothing to score", "--lambada")
    refused(laplm_("eval", tmp_path / "no.txt", "-m", tiny_model_dir), "no.txt cannot be read")
    (tmp_path / "x.txt").write_text("two words")
    refused(
        laplm_("eval", tmp_path / "x.txt", "-m", tiny_model_dir, "--window", 4096),
        "--window is 4096", "from 2 up to 128",
    )  # fmt: skip
