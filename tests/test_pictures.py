"""The pictures of the README and the start page show what is so today."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = ROOT / "scripts/pictures.py"
    spec = importlib.util.spec_from_file_location("scripts_pictures", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_no_picture_is_older_than_what_it_shows(pictures: ModuleType) -> None:
    old = pictures.too_old()
    assert not old, f"{', '.join(old)}: {pictures.COMMAND} makes them anew"


def test_the_readme_and_the_start_page_show_pictures_that_the_script_makes(
    pictures: ModuleType,
) -> None:
    for page in ("README.md", "docs/index.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        shown = {Path(name).name for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)}
        assert {"page.png", "slide.png"} <= shown <= set(pictures.PICTURES), page


def test_a_change_of_what_a_picture_shows_is_noticed(
    pictures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = {p for picture in pictures.PICTURES.values() for p in picture.made_of}
    for path in {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    for name in pictures.PICTURES:
        copy = tmp_path / "docs/images" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"a picture")
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    monkeypatch.setattr(pictures, "IMAGES", tmp_path / "docs/images")
    monkeypatch.setattr(pictures, "MADE_FROM", tmp_path / "docs/images/made_from.json")
    monkeypatch.setattr(pictures, "OF_ALL", ())
    assert pictures.too_old() == list(pictures.PICTURES)
    now = {name: pictures.digest(picture) for name, picture in pictures.PICTURES.items()}
    pictures.MADE_FROM.write_text(json.dumps(now))
    assert pictures.too_old() == []

    notebook = tmp_path / "notebooks" / pictures.NOTEBOOK
    values = json.loads(notebook.read_text(encoding="utf-8"))
    skipped = {"cell_type": "code", "metadata": {"slideshow": {"slide_type": "skip"}}, "source": ""}
    values["cells"].append(skipped)
    notebook.write_text(json.dumps(values), encoding="utf-8")
    assert pictures.too_old() == []  # no slide shows it
    shown = [c for c in values["cells"] if c["metadata"]["slideshow"]["slide_type"] == "slide"]
    shown[0]["source"] = "# Another title"
    notebook.write_text(json.dumps(values), encoding="utf-8")
    assert pictures.too_old() == ["slide.png"]

    style = tmp_path / "laplm/web/assets/style.css"
    style.write_bytes(style.read_bytes().replace(b"\n", b"\r\n"))
    assert "page.png" not in pictures.too_old()  # git on Windows
    style.write_bytes(style.read_bytes() + b"body { color: red }\n")
    assert "page.png" in pictures.too_old()
    (tmp_path / "laplm/look/figures/matrices.py").write_bytes(b"")
    (tmp_path / "docs/images/attention.png").unlink()
    assert pictures.too_old() == ["page.png", "slide.png", "attention.png"]
