"""``laplm export`` from the command line; what it writes is tested in tests/model/files."""

from __future__ import annotations

from pathlib import Path

from calling import refused


def test_a_name_that_ends_in_gguf_asks_for_a_gguf_file(
    laplm_, tiny_model_dir: Path, tmp_path: Path
) -> None:
    assert laplm_("export", tiny_model_dir, "--out", tmp_path / "a.GGUF").code == 0
    assert (tmp_path / "a.GGUF").read_bytes()[:4] == b"GGUF"
    assert laplm_("export", tiny_model_dir, "--out", tmp_path / "gguf").code == 0
    assert (tmp_path / "gguf" / "config.json").is_file()


def test_the_command_says_what_it_wrote(laplm_, tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.gguf"
    words = ("export", tiny_model_dir, "--to", "gguf", "--precision", "q8_0", "--out", out)
    result = laplm_(*words)
    assert result.code == 0
    assert f"{out}: " in result.out and "ollama create" in result.out
    refused(laplm_(*words), str(out), "is there already")


def test_what_it_is_not_told_enough_of_is_refused(laplm_, tmp_path: Path) -> None:
    refused(laplm_("export", "pocket"), "--out")
    refused(laplm_("export", "pocket", "--out", tmp_path / "a", "--to", "onnx"), "'onnx'")
    refused(laplm_("export", "nobody-has-this", "--out", tmp_path / "a"), "nobody-has-this")
    assert list(tmp_path.iterdir()) == []
