"""What models' files tell of their licences."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from laplm import built_in
from laplm.hub.licence import licence_of
from laplm.model.files.gguf_reader import read_gguf


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("---\r\nlicense: 'mit' # ours\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("# A model\n\nlicense: mit\n", None),
    ],
)
def test_a_model_card_says_it_at_its_head(tmp_path: Path, card: str, licence: str | None) -> None:
    assert licence_of(tmp_path) is None
    (tmp_path / "README.md").write_bytes(card.encode())
    assert licence_of(tmp_path) == licence


def test_a_gguf_file_says_it_among_its_settings(tmp_path: Path) -> None:
    for name, said in (("a.gguf", "apache-2.0"), ("b.gguf", None)):
        writer = gguf.GGUFWriter(str(tmp_path / name), "llama")
        if said is not None:
            writer.add_license(said)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert licence_of(tmp_path / name) == said
        assert licence_of(tmp_path / name, read_gguf(tmp_path / name)) == said
    (tmp_path / "c.gguf").write_bytes(b"GGUF, but no more")
    assert licence_of(tmp_path / "c.gguf") is None


def test_known_models_have_that_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    there = tmp_path / "models--openai-community--gpt2" / "snapshots" / "abc"
    there.mkdir(parents=True)
    assert licence_of(there) == "mit"
    before = tmp_path / "models--gpt2" / "snapshots" / "abc"  # where the hub had it first
    before.mkdir(parents=True)
    assert licence_of(before) == "mit"
    assert (licence_of(built_in.DIRECTORY) or "").startswith("apache-2.0")
