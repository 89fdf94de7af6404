"""Models are deleted with what is theirs alone; those of other programs are in test_stores.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_cache import put

from laplm.errors import ModelNotFoundError
from laplm.hub.remove import remove

pytest_plugins = ("hub_cache",)  # its fixture; a second conftest would hide the first one


def test_one_file_of_a_repository_is_removed_with_its_contents_alone(cache: Path) -> None:
    snapshot = cache / "models--me--x" / "snapshots" / ("b" * 40)
    blobs = cache / "models--me--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, blob in (("a.gguf", "1"), ("b.gguf", "2"), ("same.gguf", "2")):
        (blobs / blob).write_bytes(b"GGUF" * int(blob))
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    assert remove("me/x:a.gguf") == 4
    assert sorted(p.name for p in blobs.iterdir()) == ["2"]
    remove("me/x:b.gguf")
    assert (snapshot / "same.gguf").read_bytes() == b"GGUFGGUF", "another name shows them"
    with pytest.raises(ModelNotFoundError, match="not on disk"):
        remove("me/x:b.gguf")
    assert remove("me/x:same.gguf") == 8
    assert list(cache.iterdir()) == [], "a repository without files is gone"


def test_what_a_link_in_the_cache_leads_to_is_not_removed(
    cache: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    put(cache, "me/elsewhere", tiny_model_dir).parents[1].rename(tmp_path / "shared")
    (cache / "models--me--elsewhere").symlink_to(tmp_path / "shared")
    assert remove("me/elsewhere") == 0
    assert not list(cache.iterdir()) and (tmp_path / "shared" / "snapshots").is_dir()
