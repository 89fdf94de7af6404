"""Runs of tuning as they are kept, without a process that trains."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from laplm.errors import WriteError
from laplm.hub import tuning_runs
from laplm.serve import tuning
from laplm.serve.problems import ApiError
from laplm.serve.tuning import TuneRequest, TuneSettings, Tunings


def keep(runs: Path, id_: str, **kept: Any) -> Path:
    """A run as an earlier server left it."""
    path = runs / id_
    path.mkdir(parents=True)
    entry = {
        "name": "a.txt", "model": "tiny", "target": "tiny", "data": "data.txt", "settings": {},
        "argv": [], "created": 1.0, "state": "planned", "message": "", "plan": {"max_steps": 9},
    }  # fmt: skip
    (path / "entry.json").write_text(json.dumps(entry | kept))
    return path


def refused(call: Any) -> str:
    with pytest.raises(ApiError) as error:
        call()
    assert error.value.status == 409
    return str(error.value)


def test_settings_are_the_options_of_the_command() -> None:
    settings = TuneSettings.model_validate({
        "method": "lora", "positions": 64.0, "learning_rate": 0.001, "skip_bad": True,
        "train_on_prompt": False, "max_steps": 5.0, "seed": 3,
    })  # fmt: skip
    assert sorted(settings.argv()) == [
        "--learning-rate=0.001", "--max-steps=5", "--method=lora", "--seed=3", "--skip-bad",
        "--window=64",
    ]  # fmt: skip


def test_what_was_measured_is_read_back(tmp_path: Path) -> None:
    path = keep(tmp_path, "1")
    lines: list[Any] = [
        {"step": 1, "max_steps": 9, "train_loss": 4.0, "seconds": 1.0},
        {"step": 2, "heldout_loss": 3.5, "sample": "once"},
        {"step": 2, "max_steps": 9, "train_loss": 3.0, "tokens_per_second": 7.0},
        {"step": 2, "heldout_loss": 3.25, "sample": "twice"},
        {"step": 3, "heldout_loss": None, "sample": "thrice"},
    ]
    metrics = path / "model" / "run" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "tr')
    (path / "model" / "summary.json").write_text('{"steps": 3}')
    run = Tunings(tmp_path).get("1")
    entry = run.entry()
    assert entry["losses"] == [(1, 4.0), (2, 3.0)]
    assert entry["heldout_losses"] == [(2, 3.25)]
    assert [sample["text"] for sample in entry["samples"]] == ["twice", "thrice"]
    assert (entry["heldout_loss"], entry["train_loss"], entry["step"]) == (3.25, 3.0, 2)
    assert (entry["tokens_per_second"], entry["max_steps"]) == (7.0, 9)
    assert entry["result"] == {"steps": 3}


def test_a_run_of_which_nothing_was_measured_has_its_plan(tmp_path: Path) -> None:
    keep(tmp_path, "1")
    entry = Tunings(tmp_path).get("1").entry()
    assert (entry["step"], entry["max_steps"], entry["heldout_loss"]) == (0, 9, None)


def test_what_cannot_be_read_is_no_run(tmp_path: Path) -> None:
    keep(tmp_path, "2")
    keep(tmp_path, "1")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    keep(tmp_path, "broken")
    (tmp_path / "broken" / "entry.json").write_text("{")
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "entry.json").write_text("{}")
    assert [entry["id"] for entry in Tunings(tmp_path).entries()] == ["2", "1"]  # the last first


def test_runs_that_are_done_are_models(tmp_path: Path) -> None:
    for id_, state in (("1", "done"), ("2", "planned"), ("3", "failed"), ("4", "stopped")):
        (keep(tmp_path, id_, state=state) / "model").mkdir()
    keep(tmp_path, "5", state="done", model_name="tales")  # and its model is gone
    (found,) = Tunings(tmp_path).finished_runs().values()
    assert found.model_directory == (tmp_path / "1" / "model").resolve()
    assert (found.id, found.name) == ("1", "a"), "the file's name, where an entry says none"


def test_only_what_rests_can_be_started_stopped_and_taken_away(tmp_path: Path) -> None:
    for id_, state, plan in (
        ("1", "done", {}), ("2", "planning", None), ("3", "failed", None), ("4", "planned", {}),
    ):  # fmt: skip
        keep(tmp_path, id_, state=state, plan=plan)
    tunings = Tunings(tmp_path)
    assert "is done" in refused(lambda: tunings.start(tunings.get("1")))
    assert "is planning" in refused(lambda: tunings.start(tunings.get("2")))
    assert "could not be planned" in refused(lambda: tunings.start(tunings.get("3")))
    tunings._starting = "7"
    assert "run 7 is training" in refused(lambda: tunings.start(tunings.get("4")))
    assert "nothing to stop" in refused(lambda: tunings.stop(tunings.get("4")))
    assert "stop it first" in refused(lambda: asyncio.run(tunings.delete(tunings.get("2"))))
    asyncio.run(tunings.delete(tunings.get("4")))
    assert not (tmp_path / "4").exists()
    with pytest.raises(ApiError, match="no run '4'"):
        tunings.get("4")


def test_what_others_do_to_runs_is_seen(tmp_path: Path) -> None:
    keep(tmp_path, "1", state="stopped", model_name="a")
    tunings = Tunings(tmp_path)
    heard: list[Any] = []

    async def scenario() -> None:
        with tuning_runs.lock_run(tmp_path / "1"):  # a command goes on with it
            entry = json.loads((tmp_path / "1" / "entry.json").read_text())
            tuning_runs.write_entry(tmp_path / "1", entry | {"state": "running"})
            found = tunings.get("1")
            assert (found.state, found.is_elsewhere) == ("running", True)
            for call in (lambda: tunings.start(found), lambda: tunings.rename(found, "b")):
                assert "is running" in refused(call)
            told = asyncio.create_task(listen())
            await asyncio.sleep(0)
            metrics = tmp_path / "1" / "model" / "run" / "metrics.jsonl"
            metrics.parent.mkdir(parents=True)
            metrics.write_text('{"step": 1, "train_loss": 4.0}\n')
            assert tunings.get("1").entry()["losses"] == [(1, 4.0)]
            tuning_runs.write_entry(tmp_path / "1", entry | {"state": "done", "model_name": "c"})
        await asyncio.wait_for(told, 30)  # without anybody's asking
        assert tunings.get("1").name == "c"

    async def listen() -> None:
        async for event in tunings.events(tunings.get("1")):
            heard.append(event)

    asyncio.run(scenario())
    assert b'"elsewhere":true' in heard[0] and b'"losses":[]' in heard[0]
    assert b'"losses":[[1,4.0]]' in heard[1] and b'"state":"done"' in heard[-1]
    keep(tmp_path, "2", state="planned", model_name="d")
    assert [entry["model_name"] for entry in tunings.entries()] == ["d", "c"]
    # One whose process was killed can go on; one that was taken away is none any more.
    keep(tmp_path, "3", state="running")
    assert tunings.get("3").state == "failed"
    shutil.rmtree(tmp_path / "2")
    assert [entry["id"] for entry in tunings.entries()] == ["3", "1"]
    keep(tmp_path, "4", state="failed", data=None)  # its data is not here
    assert "begin again" in refused(lambda: tunings.start(tunings.get("4")))
    shutil.rmtree(tmp_path / "4")
    with tuning_runs.lock_run(tmp_path / "3"):
        assert "another process" in refused(lambda: tunings.start(tunings.get("3")))


def test_of_a_directory_that_a_person_chose_only_the_entry_is_taken_away(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    keep(tmp_path / "runs", "1", state="done", directory=str(mine))
    tunings = Tunings(tmp_path / "runs")
    asyncio.run(tunings.delete(tunings.get("1")))
    assert tunings.entries() == [] and mine.is_dir()
    keep(tmp_path / "runs", "2", state="done", directory=str(mine))
    assert [entry["id"] for entry in tunings.entries()] == ["2"]
    mine.rmdir()
    assert tunings.entries() == [], "there is nothing any more"


def test_who_watches_is_told_of_everything_until_the_end(tmp_path: Path) -> None:
    keep(tmp_path, "1", state="running")
    keep(tmp_path, "2", state="done")

    async def scenario() -> tuple[list[bytes], list[bytes]]:
        tunings = Tunings(tmp_path)
        run = tunings.get("1")
        tunings._lock_run(run)
        run.record["state"] = "running"
        events = tunings.events(run)
        told = [await anext(events)]
        tunings._on_event(run, b'{"event": "step", "step": 1, "train_loss": NaN}')
        tunings._on_event(run, b"no json")
        tunings._on_event(run, b'{"event": "eval", "step": 1, "heldout_loss": 2.0, "text": "a"}')
        tunings._set(run, "done")
        told += [event async for event in events]
        assert not run.watchers
        return told, [event async for event in tunings.events(tunings.get("2"))]

    told, ended = asyncio.run(asyncio.wait_for(scenario(), 30))
    assert [event.split(b"\n")[0] for event in told] == [
        b"event: state", b"event: step", b"event: eval", b"event: state",
    ]  # fmt: skip
    assert b'"train_loss":null' in told[1]
    assert b'"state":"done"' in told[3]
    assert len(ended) == 1


def test_a_tuning_that_cannot_be_started_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, "1", state="planned")
    tunings = Tunings(tmp_path)
    monkeypatch.setattr(tuning.sys, "executable", str(tmp_path / "python"))
    code, said = asyncio.run(tunings._call(tunings.get("1"), []))
    assert code == 1
    assert said.startswith("the tuning could not be started (No such file")
    assert tunings.get("1").process is None


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 0))


def test_what_a_full_disk_cannot_hold_is_refused_and_leaves_nothing(
    tmp_path: Path, full_disk: None
) -> None:
    tunings = Tunings(tmp_path / "runs")
    body = TuneRequest(name="a.txt", content="Once upon a time.")
    with pytest.raises(WriteError, match=r"cannot write .*data\.txt: no space left.*; free some"):
        asyncio.run(tunings.create(body, "tiny", "tiny"))
    assert tunings.entries() == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_whose_state_a_full_disk_cannot_hold_goes_on_and_the_log_has_one_line(
    tmp_path: Path, full_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path, "1", state="planned")
    tunings = Tunings(tmp_path)
    run = tunings.get("1")
    with caplog.at_level(logging.ERROR, "laplm.serve"):
        tunings._set(run, "running")
    assert run.state == "running"
    (line,) = caplog.records
    assert line.exc_info is None and "no space left" in line.fields["reason"]
    assert (
        tuning._unexplained_exit(run, 2)
        == f"no space left in {tmp_path}: free some, then start it again"
    )
    assert Tunings(tmp_path).get("1").state == "planned", "as it was kept last"
