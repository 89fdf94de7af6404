"""Results of tuning by their names, and what another process works on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from run_entries import keep

from laplm.errors import InputError, ModelNotFoundError
from laplm.hub import locate, tuned, tuning_runs

pytest_plugins = ("run_entries",)  # its fixture; a second conftest would hide the first one


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
    assert not tuning_runs.is_locked(runs / "1")
    with pytest.raises(ModelNotFoundError, match="ended from outside"):
        locate.locate("a")
    program = (
        "import sys, pathlib; from laplm.hub import tuning_runs\n"
        "with tuning_runs.lock_run(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(runs / "1")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert tuning_runs.is_locked(runs / "1")
        for call in (tuned.rename, lambda old, _: tuned.remove(tuned.find_run(old))):
            with pytest.raises(InputError, match="is being tuned"):
                call("a", "b")
        process.kill()
        process.wait()
        assert not tuning_runs.is_locked(runs / "1"), "it goes with the process"
    assert tuned.rename("A", "b") == "b" and tuned.find_run("b").id == "1"
    with pytest.raises(InputError, match="no result of tuning"):
        tuned.rename("pocket", "c")
