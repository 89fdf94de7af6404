"""``laplm talk`` from the command line; what it makes is tested in tests/talk."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laplm.talk import notebooks, slides
from tests.cli.calling import refused


@pytest.fixture
def occasions() -> list[dict[str, str]]:
    """Who speaks and when, as it is handed on."""
    return []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, occasions: list[dict[str, str]]) -> list[Any]:
    """What is handed on to JupyterLab, to the slides and to the browser; none of them starts."""
    made: list[Any] = []

    def lab(directory: Path, model: str, *, browser: bool = True, **occasion: str) -> None:
        made.append(("lab", directory, model, browser))
        occasions.append(occasion)

    def build(
        paths: list[Path], out: Path, model: str, progress: Any = None, **occasion: str
    ) -> Path:
        made.append(("slides", [path.name for path in paths], out, model))
        occasions.append(occasion)
        return out / "index.html"

    monkeypatch.setattr(notebooks, "open_lab", lab)
    monkeypatch.setattr(slides, "build_slides", build)
    monkeypatch.setattr("webbrowser.open", lambda url: made.append(("browser", url)))
    monkeypatch.delenv("LAPLM_MODEL", raising=False)
    return made


def test_jupyterlab_opens_on_a_copy(laplm_, calls: list[Any], tmp_path: Path) -> None:
    result = laplm_("talk", tmp_path / "mine")
    assert (result.code, result.out) == (0, "")
    assert calls == [("lab", tmp_path / "mine", "pocket", True)]
    assert len(list((tmp_path / "mine").glob("*.ipynb"))) == 6


def test_without_a_directory_the_copy_is_beside_you(
    laplm_, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    laplm_("talk", "--no-open")
    assert calls == [("lab", Path("laplm-talk"), "pocket", False)]
    assert (tmp_path / "laplm-talk/1_introduction.ipynb").is_file()


def test_slides_are_made_and_opened(laplm_, calls: list[Any], tmp_path: Path) -> None:
    result = laplm_("talk", tmp_path, "--slides")
    index = tmp_path / "slides/index.html"
    assert (result.code, result.out) == (0, f"{index}\n")
    names = [path.name for path in sorted(tmp_path.glob("*.ipynb"))]
    assert calls == [
        ("slides", names, tmp_path / "slides", "pocket"), ("browser", index.as_uri()),
    ]  # fmt: skip
    calls.clear()
    laplm_("talk", tmp_path, "--slides", "--no-open")
    assert [name for name, *_ in calls] == ["slides"]


@pytest.mark.parametrize("how", [[], ["--slides", "--no-open"]], ids=["lab", "slides"])
def test_speaker_and_date_are_handed_on(
    laplm_, calls: list[Any], occasions: list[dict[str, str]], tmp_path: Path, how: list[str]
) -> None:
    laplm_("talk", tmp_path, *how, "--speaker", "Ada", "--date", "1 May 1843")
    assert occasions == [{"speaker": "Ada", "date": "1 May 1843"}]


def test_a_directory_is_handed_on_by_its_whole_path(
    laplm_, calls: list[Any], tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model_dir.parent)
    laplm_("talk", tmp_path, "-m", tiny_model_dir.name)
    monkeypatch.setenv("LAPLM_MODEL", f"./{tiny_model_dir.name}")
    laplm_("talk", tmp_path)
    laplm_("talk", tmp_path, "-m", "pocket")
    assert [model for _, _, model, _ in calls] == [str(tiny_model_dir.resolve())] * 2 + ["pocket"]


def test_a_name_stays_a_name_beside_a_directory_that_has_it_too(
    laplm_, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").mkdir()
    laplm_("talk", "mine")
    assert [model for _, _, model, _ in calls] == ["pocket"]


def test_a_model_that_is_not_there_is_refused_before_anything_is_copied(
    laplm_, calls: list[Any], tmp_path: Path
) -> None:
    refused(laplm_("talk", tmp_path / "mine", "-m", "gpt2"), "gpt2", "laplm pull gpt2")
    assert not calls and not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("missing", "options", "what"),
    [
        ("jupyterlab", [], "JupyterLab needs"),
        ("pyreveal", ["--slides"], "A page of slides needs"),
        ("nbclient", ["--slides"], "Running notebooks needs"),
    ],
)
def test_without_the_extra_it_is_named_and_nothing_is_copied(
    laplm_, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, options: list[str],
    what: str,
) -> None:  # fmt: skip
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    result = laplm_("talk", tmp_path / "mine", "-m", "pocket", *options)
    refused(result, f'{what} the "talk" extra: pip install "laplm[talk]"')
    assert not (tmp_path / "mine").exists()


def test_a_jupyterlab_that_fails_is_a_plain_error(
    laplm_, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks.importlib.util, "find_spec", lambda name: True)
    real = subprocess.Popen

    def fails(command: list[str], **options: Any) -> Any:
        assert command[1:3] == ["-m", "jupyterlab"]
        return real([sys.executable, "-c", "raise SystemExit(5)"], **options)

    monkeypatch.setattr(notebooks.subprocess, "Popen", fails)
    result = laplm_("talk", tmp_path / "mine", "-m", "pocket")
    assert (result.code, result.out) == (2, "")
    assert re.search(r"^laplm: JupyterLab ended with exit code 5; .* --slides$", result.err, re.M)
