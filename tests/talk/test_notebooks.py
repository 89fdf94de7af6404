"""The talk's notebooks: clean in the repository, found wherever laplm is, right when they run."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tiny_families import FAMILIES, make_family

from laplm.errors import InputError
from laplm.look.figures import canvas
from laplm.model.files.checkpoint import open_checkpoint
from laplm.talk import notebooks, slides

pytestmark = [
    pytest.mark.timeout(1800),  # one process makes the deck, the others wait for it
    pytest.mark.usefixtures("kernels_start_one_at_a_time"),
]
pytest_plugins = ("made_deck",)  # its fixture; a second conftest would hide the first one

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECTIONS = ["introduction", "load", "core_concepts", "running", "fine_tuning", "conclusion"]


def printed(notebook: Any) -> str:
    """All text of all outputs; what a cell prints may come in pieces."""
    texts = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", ())
        texts.append("".join(output.get("text", "") for output in outputs))
        texts += [output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(texts)


def test_there_is_one_for_each_section_in_the_order_of_the_talk() -> None:
    assert [p.stem for p in NOTEBOOKS] == [f"{i}_{name}" for i, name in enumerate(SECTIONS, 1)]
    assert notebooks.originals() == NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"slideshow", "tags"}, cell["id"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]
            assert len("".join(cell["source"]).splitlines()) <= 30, f"{cell['id']} is long"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_slide_has_words_for_the_speaker(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    kinds = [cell["metadata"]["slideshow"]["slide_type"] for cell in notebook["cells"]]
    assert set(kinds) <= {"slide", "-", "fragment", "notes", "skip"}
    per_slide = "".join({"slide": "s", "notes": "n"}.get(kind, "") for kind in kinds)
    assert re.fullmatch("(sn)+", per_slide)


def test_every_notebook_runs_on_the_built_in_model(deck) -> None:
    assert list(deck.ran) == [path.name for path in NOTEBOOKS]
    for name, notebook in deck.ran.items():
        for cell in notebook.cells:
            if cell.cell_type == "code":
                left_out = "skip-execution" in cell.metadata.get("tags", ())
                assert bool(cell.execution_count) != left_out, f"{name}: {cell.id}"
            for output in cell.get("outputs", ()):
                assert output.output_type != "error", f"{name}: {cell.id}"


def test_what_they_print_is_right(deck) -> None:
    texts = {name: printed(notebook) for name, notebook in deck.ran.items()}
    assert "6,180,864 parameters" in texts["2_load.ipynb"]
    concepts = texts["3_core_concepts.ipynb"]
    shapes = dict(re.findall(r"^\d +(\w+) +(\(1, .*?\)) ", concepts, re.MULTILINE))
    assert shapes == {
        "embed": "(1, 5, 256)", "resid_pre": "(1, 5, 256)", "pattern": "(1, 8, 5, 5)",
        "mlp_post": "(1, 5, 1024)", "resid_post": "(1, 5, 256)", "logits": "(1, 5, 5120)",
    }  # fmt: skip
    agree = re.findall(r"^\d +(running|training).* (yes, every bit|no)$", concepts, re.MULTILINE)
    assert agree == [("running", "yes, every bit")] * 2 + [("training", "no")] * 3
    assert re.search(r"largest logit: [\d.]+, of ·Madrid$", concepts, re.MULTILINE)
    assert "Zib the robot" in texts["5_fine_tuning.ipynb"]
    assert re.search(r"connections opened\s+0$", texts["6_conclusion.ipynb"], re.MULTILINE)


def test_every_picture_is_made_by_look() -> None:
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code":
                assert not re.search(r"matplotlib\.|pyplot|plt\.|Figure\(|Image\(", source), cell[
                    "id"
                ]


def test_nothing_depends_on_the_built_in_model() -> None:
    # Its sizes and its name: GPT-2 has others, and the same notebooks talk about it.
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            assert not re.search(r"\b(256|512|5,?120|6,?180,?864)\b", source), cell["id"]
            if cell["cell_type"] == "code" and "pocket" in source:
                assert 'os.environ.get("LAPLM_MODEL", "pocket")' in source, cell["id"]


def test_tuning_teaches_the_model_what_it_did_not_know(deck) -> None:
    (table,) = (
        output["data"]["text/html"]
        for cell in deck.ran["5_fine_tuning.ipynb"].cells
        for output in cell.get("outputs", ())
        if "numbers trained" in output.get("data", {}).get("text/html", "")
    )
    cells = re.findall(r"<td>(.*?)</td>", table)
    before, full, lora = (cells[i : i + 5] for i in range(0, len(cells), 5))
    assert (before[0], *before[2:]) == ("before", "", "", "")
    assert full[3] == lora[3] == "30"
    assert (full[0], full[2]) == ("full", "6,180,864")
    assert (lora[0], lora[2]) == ("lora", "196,608")
    assert float(before[1]) > 50
    assert float(full[1]) < 2 and float(lora[1]) < 3


@pytest.mark.parametrize("number", [2, 6])
def test_the_model_of_laplm_model_is_the_one_that_is_talked_about(
    number: int, tiny_model_dir: Path
) -> None:
    text = printed(slides.run(NOTEBOOKS[number - 1], str(tiny_model_dir)))
    assert "6,180,864" not in text
    parameters = f"{open_checkpoint(tiny_model_dir).config.n_parameters:,}"
    assert re.search(rf"{parameters} parameters|parameters\s+{parameters}", text)


def run_cells(number: int, model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A notebook's cells in this process, their checks too; gives its words. No figure is drawn."""
    monkeypatch.setenv("LAPLM_MODEL", str(model))
    monkeypatch.setattr(canvas, "_magnified", 1.0)  # which the notebook changes
    names: dict[str, Any] = {"display": lambda *_: None}
    said = []
    for cell in json.loads(NOTEBOOKS[number - 1].read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(line for line in cell["source"] if not line.startswith("%")))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell["id"], "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
            if "words" in cell["metadata"].get("tags", ()):
                said.append(value.data)
    return "\n".join(said)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_core_concepts_are_right_of_a_model_of_any_family(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_family(family, tmp_path / family, max_position_embeddings=128)
    said = run_cells(3, tmp_path / family, monkeypatch)
    rotary = family != "gpt2"
    assert ("Rotary positions" in said) == rotary
    assert ("RMS norm" in said) == (family not in ("gpt2", "gpt_neox"))
    assert ("share** one key head" in said) == (family not in ("gpt2", "gpt_neox"))
    assert ("**normalised**" in said) == (family in ("qwen3", "gemma3_text"))
    assert ("sliding window" in said) == (family in ("mistral", "gemma3_text"))
    assert ("The same architecture" in said) != rotary


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_slides_of_a_model_that_people_have_say_what_differs(
    smollm2: Path, tmp_path: Path
) -> None:
    found = {}
    for path in NOTEBOOKS:
        notebook = slides.run(path, str(smollm2))
        found[path.stem] = slides.slides_of(notebook, path.name)
    titles = {slide.title for part in found.values() for slide in part}
    assert {"Rotary positions", "RMS norm", "SiLU: the activation function"} <= titles
    tuned = next(s for s in found["5_fine_tuning"] if s.title == "Something it does not know")
    assert "built-in model" in "".join(tuned.words)


def test_a_copy_that_was_changed_is_kept(tmp_path: Path) -> None:
    copies = notebooks.copy_to(tmp_path / "mine")
    assert [copy.read_bytes() for copy in copies] == [p.read_bytes() for p in NOTEBOOKS]
    copies[0].write_text("changed", encoding="utf-8")
    copies[1].unlink()
    assert notebooks.copy_to(tmp_path / "mine") == copies
    assert copies[0].read_text(encoding="utf-8") == "changed"
    assert copies[1].read_bytes() == NOTEBOOKS[1].read_bytes()


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot be written .*; name another directory"):
        notebooks.copy_to(tmp_path / "mine")


def test_installed_notebooks_are_found_without_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the wheel lays them: tests/test_packaging.py says that it holds them.
    place = tmp_path / "env/share/laplm/notebooks"
    place.mkdir(parents=True)
    for path in NOTEBOOKS:
        (place / path.name).write_bytes(path.read_bytes())
    packages = tmp_path / "env/lib/site-packages"
    packages.mkdir(parents=True)

    class File:
        def __init__(self, path: Path) -> None:
            self.path = path

        def as_posix(self) -> str:
            return Path(os.path.relpath(self.path, packages)).as_posix()

        def locate(self) -> Path:
            return packages / self.as_posix()

    monkeypatch.setattr(notebooks, "__file__", str(packages / "laplm/talk/notebooks.py"))
    found = [File(path) for path in sorted(place.iterdir())]
    monkeypatch.setattr(importlib.metadata, "files", lambda name: found)
    assert notebooks.originals() == sorted(place.resolve().iterdir())
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    with pytest.raises(InputError, match="did not come with this copy of laplm; install it again"):
        notebooks.originals()


@pytest.mark.skipif(sys.platform == "win32", reason="ended by a signal")
def test_jupyterlab_serves_the_copy_on_this_machine_alone(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    process = subprocess.Popen(
        [sys.executable, "-m", "laplm", "talk", str(directory), "--no-open", "-m", "pocket"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path), "HOME": str(tmp_path)},
        start_new_session=True,
    )  # fmt: skip
    try:
        seen = []
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            address = re.search(r"(http://127\.0\.0\.1:\d+/)lab\?token=(\w+)", line)
            if address:
                break
        else:
            raise AssertionError("".join(seen))
        url = f"{address[1]}api/contents?token={address[2]}"
        for _ in range(200):  # it says its address a moment before it listens
            try:
                with urllib.request.urlopen(url, timeout=60) as answer:
                    names = {entry["name"] for entry in json.load(answer)["content"]}
                break
            except urllib.error.URLError:
                assert process.poll() is None
                time.sleep(0.1)
        assert {path.name for path in NOTEBOOKS} <= names
        process.terminate()  # this one alone: JupyterLab is ended by it
        assert process.wait(timeout=60) == 0
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
