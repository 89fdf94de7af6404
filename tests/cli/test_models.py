"""``laplm models``."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from calling import refused

from laplm import built_in
from laplm.hub import locate
from laplm.model.engine.kv_cache import bytes_per_position
from laplm.model.files.checkpoint import read_config


def test_models_lists_what_is_on_disk(laplm_, tiny_model_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "models--me--mine"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    shutil.copytree(tiny_model_dir, folder / "snapshots" / "abc123")
    result = laplm_("models")
    assert result.code == 0
    header, pocket, mine, *about = result.out.rstrip("\n").split("\n")
    assert header.split() == ["name", "family", "parameters", "on", "disk", "stored", "as", "path"]
    assert pocket.startswith("pocket ")
    parameters = f"{locate.installed()[1].n_parameters / 1e6:.1f}"
    assert re.match(rf"me/mine +gpt2 +{parameters} M +[\d.]+ MB +fp32 +\S+abc123$", mine)
    value = json.loads(laplm_("models", "--json").out)
    assert value[1]["name"] == "me/mine" and value[1]["dtype"] == "fp32"
    assert value[1]["summary"] is None

    size = re.fullmatch(r"pocket: ([\d.]+) million parameters, ([\d.]+) MB", about[1])
    assert about[0] == "" and size
    assert pocket.split()[2:6] == [size[1], "M", size[2], "MB"]
    assert " ".join(" ".join(about[2:-1]).split()) == value[0]["summary"] == built_in.summary()
    assert about[-1] == f"  More: {built_in.DIRECTORY / 'MODEL_CARD.md'}"


def test_models_shows_one_and_removes_one(laplm_, tiny_model_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--openai-community--gpt2"
    shutil.copytree(tiny_model_dir, folder / "snapshots" / ("b" * 40))
    shown = dict(line.split("  ", 1) for line in laplm_("models", "show", "gpt2").out.splitlines())
    config = read_config(tiny_model_dir)
    assert shown["layers"].strip() == str(config.n_layer) and shown["licence"].strip() == "mit"
    values = json.loads(laplm_("models", "show", "gpt2", "--json").out)
    assert values["n_layer"] == config.n_layer and values["family"] == "gpt2"
    each = bytes_per_position(config, "int8")  # of int8, in which it runs
    assert values["context_bytes"] == config.n_ctx * each
    assert shown["context bytes"].strip() == f"{config.n_ctx * each:,}"
    result = laplm_("models", "rm", "gpt2")
    assert result.code == 0 and result.out.startswith("gpt2 is deleted, ")
    assert list(tmp_path.iterdir()) == []
    refused(laplm_("models", "rm", "gpt2"), "not on disk")
    refused(laplm_("models", "show", "gpt2"), "not on disk")
    refused(laplm_("models", "rm"), "which model? laplm models rm NAME")
    refused(laplm_("models", "rm", "pocket"), "part of laplm")
    refused(laplm_("models", "rm", "ollama:a"), "belongs to Ollama", "`ollama rm a`")
    refused(laplm_("models", "rm", str(tiny_model_dir)), "delete a path yourself")
    assert tiny_model_dir.is_dir()


@pytest.mark.parametrize("columns", [1, 20, 60, 300])
def test_models_keeps_the_summary_within_the_terminal(laplm_, monkeypatch, columns) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = laplm_("models").out.split("\n\n")[1].splitlines()[1:-1]
    assert max(map(len, lines)) <= min(100, max(20, columns))
    assert all(line.startswith("  ") for line in lines)
