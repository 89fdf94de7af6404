"""Runs of tuning on disk: their entries, who works on them, and the names of their models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laplm.errors import InputError, ModelNotFoundError
from laplm.hub import locate, tuned


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of runs, in a home of its own; the current directory is elsewhere."""
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "home" / "runs"
    path.mkdir(parents=True)
    return path


def keep(runs: Path, id_: str, **kept: Any) -> Path:
    (runs / id_ / "model").mkdir(parents=True)
    record = {"name": "a.txt", "model": "m", "state": "done", "created": 1.0, "settings": {}}
    tuned.write_entry(runs / id_, record | kept)
    return runs / id_ / "model"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"), ("  ", "empty"), ("a/b", "letters"), ("a\\b", "letters"), ("..", "letters"),
        (".a", "letters"), ("-m", "letters"), ("a.", "letters"), ("a b", "letters"),
        ("run:1", "letters"), ("a\n", None), ("a\nb", "letters"), ("x" * 65, "65 characters"),
        ("CON", "Windows"), ("nul.txt", "Windows"), ("Lpt1", "Windows"), ("console", None),
        ("pocket", "another model"), ("GPT2", "another model"), ("mine.gguf", "a file"),
        ("größe", None), ("北京", None), ("a.b-c_d", None), ("7", None),
    ],
)  # fmt: skip
def test_a_name_is_one_that_every_disk_and_command_can_have(name: str, why: str | None) -> None:
    if why is None:
        assert tuned.check_name(name) == name.strip()
        return
    with pytest.raises(InputError, match=why) as error:
        tuned.check_name(name)
    assert "\n" not in str(error.value)


def test_letters_are_composed_and_case_makes_no_other_name(runs: Path) -> None:
    keep(runs, "1", model_name="größe")
    assert tuned.check_name("gro\u0308ße") == "größe"
    for taken in ("größe", "GRÖSSE", "gro\u0308ße"):
        with pytest.raises(InputError, match="another result of tuning"):
            tuned.check_free(taken, runs)
    assert tuned.check_free("Größe", runs, besides="1") == "Größe", "its own, in another case"
    with pytest.raises(InputError, match="another model"):
        tuned.check_free("tiny", runs, taken=["Tiny"])
    (locate.hub_cache_dir() / "models--bert").mkdir(parents=True)
    with pytest.raises(InputError, match="another model"):
        tuned.check_free("bert", runs)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("notes.txt", "notes"), ("My notes, 2.jsonl.gz", "My-notes-2"),
        ("C:\\x\\tales.txt", "tales"),
        ("../../etc/passwd", "passwd"), ("...", "tuned"), ("", "tuned"), ("pocket.txt", "pocket-2"),
        ("CON.txt", "CON-2"), ("taken.txt", "taken-3"), ("y" * 300, "y" * 58), ("v1.2.txt", "v1.2"),
    ],
)  # fmt: skip
def test_a_files_name_makes_one(runs: Path, file: str, name: str) -> None:
    assert tuned.free_name(file, {"taken", "taken-2"}) == name


def test_a_model_is_found_by_its_name_in_any_case(runs: Path, tiny_model_dir: Path) -> None:
    model = keep(runs, "1", model_name="Tales", directory=str(tiny_model_dir))
    keep(runs, "2", model_name="half", state="stopped")
    (runs / "2" / "model" / "run.json").write_text("{}")
    keep(runs, "4", model_name="next", state="planned")
    keep(runs, "3", model_name="gone", directory=str(runs / "nowhere"))
    assert model.is_dir()
    assert locate.locate("tales") == tiny_model_dir
    # A directory of the same name hides it where that is a model alone.
    Path("tales").mkdir()
    assert locate.locate("tales") == tiny_model_dir
    Path("tales").rmdir()
    Path("tales").write_text("the text that it was tuned on")
    assert locate.locate("tales") == tiny_model_dir
    Path("tales").unlink()
    Path("tales").symlink_to(tiny_model_dir)
    assert locate.locate("tales") == Path("tales")
    assert [model.name for model in locate.installed()] == ["pocket", "Tales"]
    for name, said in (
        ("half", r"has not ended \(stopped\); go on with it: laplm tune --resume half$"),
        ("next", r"has not begun to train \(planned\)"),
        ("gone", "which is gone; `laplm models rm gone` forgets it$"),
        ("talse", "Did you mean Tales"),
    ):
        with pytest.raises(ModelNotFoundError, match=said):
            locate.locate(name)


def test_what_was_left_behind_is_told_from_what_is_at_work(runs: Path) -> None:
    keep(runs, "1", model_name="a", state="running")
    assert not tuned.is_held(runs / "1")
    with pytest.raises(ModelNotFoundError, match="ended from outside"):
        locate.locate("a")
    program = (
        "import sys, pathlib; from laplm.hub import tuned\n"
        "with tuned.hold(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(runs / "1")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert tuned.is_held(runs / "1")
        for call in (tuned.rename, lambda old, _: tuned.remove(tuned.by_name(old))):
            with pytest.raises(InputError, match="is being tuned"):
                call("a", "b")
        process.kill()
        process.wait()
        assert not tuned.is_held(runs / "1"), "it goes with the process"
    assert tuned.rename("A", "b") == "b" and tuned.by_name("b").id == "1"
    with pytest.raises(InputError, match="no result of tuning"):
        tuned.rename("pocket", "c")


def test_a_run_that_goes_on_keeps_its_name_and_its_place(runs: Path, tmp_path: Path) -> None:
    record = {"name": "a.txt", "model": "m", "state": "running", "created": 1.0, "settings": {}}
    out = tmp_path / "mine"
    with tuned.kept(out, {**record, "pid": 1}, "tales") as run:
        assert run is not None
        run.set("stopped")
        with tuned.kept(out, record, None) as again:
            assert again is None, "it is kept already"
    with tuned.kept(out, {**record, "created": 2.0, "pid": 2}, None):
        pass
    (entry,) = tuned.read_runs(runs)
    assert (entry.name, entry.model_directory) == ("tales", out)
    assert (entry.record["created"], entry.record["pid"]) == (1.0, 2)
    with pytest.raises(InputError, match="another result"), tuned.kept(runs, record, "Tales"):
        pass


def test_entries_without_names_have_their_files_names(runs: Path) -> None:
    keep(runs, "1", name="tales.txt")
    keep(runs, "2", name="tales.txt")
    keep(runs, "3", name="x.txt", model_name="TALES-2")
    keep(runs, "4", model_name=None)
    keep(runs, ".6.ab.deleted", model_name="gone")
    (runs / "5").mkdir()
    (runs / "5" / "entry.json").write_text(json.dumps({"name": "x"}))
    names = [run.name for run in tuned.read_runs(runs)]
    assert names == ["tales", "tales-3", "TALES-2", None]
