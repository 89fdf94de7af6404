"""``laplm models``."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest
from calling import refused

from laplm import built_in
from laplm.cli import models
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
    assert values["chat"] is False and shown["chat"].strip() == "no"
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


def test_a_model_that_talks_is_shown_to(laplm_, tiny_model_dir, tmp_path) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert re.search(r"^chat +yes$", laplm_("models", "show", model).out, re.MULTILINE)


def shown_licence(laplm_: Any, name: str) -> str | None:
    """What ``laplm models show`` says, which is the same as text and as JSON."""
    found = re.search(r"^licence +(.+)$", laplm_("models", "show", name).out, re.MULTILINE)
    value: str | None = json.loads(laplm_("models", "show", name, "--json").out)["licence"]
    assert value == (found[1] if found else None)
    return value


def test_a_model_is_shown_with_the_licence_that_its_files_tell(
    laplm_, tiny_model_dir, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert shown_licence(laplm_, "pocket") == "apache-2.0, as laplm"
    assert shown_licence(laplm_, str(tiny_model_dir)) is None
    there = tmp_path / "hub" / "models--me--mine" / "snapshots" / "abc123"
    shutil.copytree(tiny_model_dir, there)
    (there / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# Mine\n")
    assert shown_licence(laplm_, "me/mine") == "bsd-3-clause"
    # The list of known models comes before the card; by either name.
    before = tmp_path / "hub" / "models--gpt2" / "snapshots" / "abc123"
    shutil.copytree(there, before)
    assert shown_licence(laplm_, "gpt2") == "mit"
    shutil.copytree(there, tmp_path / "hub" / "models--openai-community--gpt2/snapshots/abc123")
    assert shown_licence(laplm_, "openai-community/gpt2") == "mit"


def test_a_gguf_file_is_shown_with_the_licence_among_its_settings(laplm_, tmp_path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_license("llama3.2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert shown_licence(laplm_, str(path)) == "llama3.2"


def test_the_tables_of_a_gguf_file_are_read_once_to_show_it(laplm_, tmp_path, monkeypatch) -> None:
    gguf_files = pytest.importorskip("gguf_files")  # it needs torch and gguf
    model = gguf_files.make_hf_model("llama")
    kinds = gguf_files.matrices_as("Q4_1")
    path = gguf_files.write_gguf(tmp_path / "a.gguf", model, kinds)
    reads = gguf_files.list_reads(monkeypatch)
    values = json.loads(laplm_("models", "show", str(path), "--json").out)
    assert reads == [path]
    config = read_config(path)
    assert (values["name"], values["path"]) == (str(path), str(path))
    assert (values["family"], values["dtype"], values["licence"]) == ("llama", "Q4_1", None)
    assert values["n_parameters"] == sum(p.numel() for p in model.parameters())
    assert values["context_bytes"] == config.n_ctx * bytes_per_position(config, "int8")
    assert values["size_bytes"] == path.stat().st_size and values["problem"] is None
    path.write_bytes(path.read_bytes()[:1000])
    assert "problem" in laplm_("models", "show", str(path)).out


@pytest.mark.parametrize("columns", [1, 20, 60, 300])
def test_models_keeps_the_summary_within_the_terminal(laplm_, monkeypatch, columns) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = laplm_("models").out.split("\n\n")[1].splitlines()[1:-1]
    assert max(map(len, lines)) <= min(100, max(20, columns))
    assert all(line.startswith("  ") for line in lines)


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_too_narrow_for_the_paths_gets_a_line_that_fits_and_no_paths(
    laplm_, monkeypatch, tmp_path, columns
) -> None:
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / f"{'long-' * 12}Q4_1.gguf").write_bytes(b"GGUF damaged")
    monkeypatch.setenv("LLAMA_CACHE", str(folder))
    piped = laplm_("models").out
    assert f"llama.cpp:{'long-' * 12}Q4_1.gguf  ?" in piped and str(folder) in piped
    monkeypatch.setattr(models, "terminal_columns", lambda: columns)
    shown = laplm_("models")
    table = shown.out.split("\n\n")[0].splitlines()
    assert table[0].split() == ["name", "family", "parameters", "on", "disk", "stored", "as"]
    assert table[1].split()[:2] == ["pocket", "gpt2"]
    assert table[2] == f"llama.cpp:{'long-' * 12}Q4_1.gguf"
    assert table[3].split()[:2] == ["?", "?"] and "only 12 bytes" in table[4]
    assert all(len(line) <= columns for line in (table[0], table[1], table[3]))
    assert "laplm models show NAME" in shown.err
