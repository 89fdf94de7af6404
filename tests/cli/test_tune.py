"""``laplm tune`` as a person meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from calling import refused

import laplm
from laplm.serve.tuning import Tunings

TEXT = "<|endoftext|>\n".join(f"The dog number {i} saw the cat.\n" for i in range(40))
QUICK = ("--max-steps", 4, "--window", 32, "--batch-size", 2, "--threads", 1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture
def tune(laplm_, tiny_model_dir: Path) -> Callable[..., SimpleNamespace]:
    return lambda *words: laplm_("tune", *words, "-m", tiny_model_dir)


def test_what_was_read_the_plan_and_the_result_are_told(tune, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = tune(text, "--out", out, *QUICK)
    assert result.code == 0
    for line in (
        r"  read +40 documents, [\d,]+ tokens, [\d,]+ bytes",
        r"  held out +2 of 40 \(5\.\d% of the tokens\), only measured on",
        r"  windows +32 tokens, \d+% filled",
        r"  first window +The dog number .*",
        r"  method +full, [\d,]+ numbers trained, learning rate 0\.0024, (fp32|bf16)",
        r"  steps +4 of 64 tokens",
        r"  memory +about [\d.]+ GB at the peak .*of [\d.]+ GB",
        r"  time +about \d+ seconds? \([\d.]+ s a step, measured\), measuring left out",
        r"held-out perplexity [\d.]+ before, [\d.]+ after \([\d.]+ and [\d.]+ bits per byte\)",
    ):
        assert re.search(f"^{line}$", result.out, re.MULTILINE), line
    assert f"laplm run -m {out}" in result.out
    assert laplm.load(out).generate("The dog", 3).token_ids


def test_a_result_has_the_files_name_and_is_known_by_it(
    laplm_, tune, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    result = tune(text, *QUICK)
    assert result.code == 0 and 'laplm run -m text "your prompt"' in result.out
    runs = tmp_path / "home" / "runs"
    (run,) = (path for path in runs.iterdir() if path.is_dir())
    assert laplm.load("Text").path == run / "model", "in any case"
    listed = {model["name"]: model for model in json.loads(laplm_("models", "--json").out)}
    assert listed["text"]["path"] == str(run / "model") and listed["text"]["problem"] is None
    refused(tune(text, "--name", "TEXT", *QUICK), "text is the name of another result of tuning")
    # An adapter of it is found when it is called otherwise; the directory is one's own.
    words = ("--method", "lora", "--rank", 2, "--name", "tales", "--out", "mine", *QUICK)
    assert laplm_("tune", text, "-m", "text", *words).code == 0
    assert laplm_("models", "rename", "text", "Notes").out == "text is now Notes\n"
    assert laplm.load("tales").generate("The dog", 3).token_ids
    assert laplm.load("tales").path == tmp_path / "mine"
    listed = {model["name"]: model for model in json.loads(laplm_("models", "--json").out)}
    assert listed["tales"]["family"] == "gpt2" and listed["tales"]["problem"] is None
    assert "Notes" in listed and "text" not in listed
    assert "base model" in laplm_("models", "show", "tales").out
    refused(laplm_("models", "rename", "Notes"), "what shall it be called?")
    refused(laplm_("models", "rename", "Notes", "tales"), "tales is the name of another result")
    refused(laplm_("models", "show", "Notes", "tales"), "takes one NAME")
    refused(laplm_("tune", "--resume", "nobody"), "no run to go on with")
    assert laplm_("tune", "--report", "Notes").code == 0
    refused(laplm_("models", "rm", "tales"), str(tmp_path / "mine"), "delete that yourself")
    assert laplm_("models", "rm", "notes").out.startswith("notes is deleted")
    assert not run.exists() and (tmp_path / "mine" / "run.json").exists()
    refused(laplm_("run", "-m", "notes", "The dog"), "notes is not on disk")


def test_a_dry_run_shows_the_plan_and_leaves_nothing(
    tune, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    result = tune(text, "--dry-run", *QUICK)
    assert result.code == 0
    assert "time" in result.out and "before" not in result.out
    assert not list(place.glob("laplm-plan-*"))
    table = tmp_path / "table.csv"
    table.write_text("n;text\n" + "".join(f"{i};The dog {i}.\n" for i in range(40)))
    result = tune(table, "--dry-run", "--out", tmp_path / "out", *QUICK)
    assert result.code == 0 and "read          40 documents" in result.out
    said = f"read {table}: columns separated by semicolons: 'n', 'text'; 40 rows; taken: 'text'\n"
    assert result.err.startswith(said)
    assert not (tmp_path / "out").exists()


def test_adapters_are_trained_and_run(tune, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = tune(text, "--out", out, "--method", "lora", "--rank", 2, "--target", "c_attn", *QUICK)
    assert result.code == 0 and "(rank 2)" in result.out
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["target_modules"]) == (2, ["c_attn"])
    assert laplm.load(out).generate("The dog", 3).token_ids


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix")
def test_ctrl_c_keeps_everything_and_says_how_to_go_on(
    laplm_, text: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    out = tmp_path / "out"
    words = ["--max-steps", "150", "--window", "32", "--batch-size", "1", "--threads", "1"]
    runs = Path(os.environ["LAPLM_HOME"]) / "runs"
    process = subprocess.Popen(
        [sys.executable, "-m", "laplm", "tune", text, "--out", out, "-m", tiny_model_dir, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not (out / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    # A server sees it as it is, and can stop it; it has no name, for nobody gave it one.
    (run,) = (r for r in Tunings(runs).entries() if r["directory"] == str(out))
    assert (run["state"], run["elsewhere"], run["model_name"]) == ("running", True, None)
    assert run["settings"] == {"max_steps": 150, "batch_size": 1, "positions": 32}
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith(f"stopped; everything is kept. Go on with: laplm tune --resume {out}\n")
    tunings = Tunings(runs)
    assert tunings.get(run["id"]).state == "stopped"
    result = laplm_("tune", "--resume", out)
    assert tunings.get(run["id"]).state == "done"
    assert result.code == 0 and "going on from step" in result.err
    assert (out / "model.safetensors").exists()


def test_bad_rows_are_named_and_may_be_left_out(tune, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [json.dumps({"text": f"The dog {i} saw."}) for i in range(10)]
    file.write_text("\n".join([*rows[:3], "{oops", *rows[3:]]), encoding="utf-8")
    refused(tune(file, "--out", tmp_path / "a", *QUICK), f"{file}, line 4", "--skip-bad")
    result = tune(file, "--out", tmp_path / "b", "--skip-bad", *QUICK)
    assert result.code == 0
    assert result.err.startswith(f"left out: {file}, line 4")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["no data", "laplm tune notes.txt"]),
        (["TEXT", "--name", "a/b"], ["a/b cannot be a model's name"]),
        (["TEXT", "--name", "pocket"], ["pocket is the name of another model"]),
        (["nowhere.txt", "--out", "OUT"], ["nowhere.txt is not there"]),
        (["TEXT", "--out", "OUT", "--rank", "4"], ["--method lora"]),
        (
            ["TEXT", "--out", "OUT", "--method", "lora", "--rank", "0"],
            ["--rank is 0, ", "65,536"],
        ),
        (["TEXT", "--out", "OUT", "--method", "some"], ["method is 'some'"]),
        (["TEXT", "--out", "OUT", "--learning-rate", "nan"], ["--learning-rate is nan"]),
        (["TEXT", "--out", "OUT", "--learning-rate", "fast"], ["--learning-rate", "'fast'"]),
        (["TEXT", "--out", "OUT", "--epochs", "0"], ["--epochs is 0.0"]),
        (["TEXT", "--out", "OUT", "--window", "999"], ["999", "128 positions"]),
        (["TEXT", "--out", "OUT", "--heldout", "100"], ["--heldout is 100.0", "below 100"]),
        (["TEXT", "--out", "OUT", "--heldout", "nan"], ["--heldout is nan"]),
        (["TEXT", "--out", "OUT", "--threads", "0"], ["--threads is 0"]),
        (["TEXT", "--out", "OUT", "--dropout", "1"], ["--dropout is 1.0"]),
        (["TEXT", "--out", "OUT", "--learning-rate", "1e9"], ["--learning-rate is 1000000000.0"]),
        (["TEXT", "--out", "OUT", "--seed", "-1"], ["--seed is -1"]),
        (["TEXT", "--out", "OUT", "--seed", str(2**64)], ["--seed is 18446744073709551616"]),
        (["TEXT", "--out", "OUT", "--threads", str(10**9)], ["--threads is 1000000000"]),
        (["TEXT", "--out", "OUT", "--grad-accum-steps", str(10**15)], ["--grad-accum-steps is"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tune, text: Path, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    places = {"TEXT": text, "OUT": tmp_path / "out"}
    refused(tune(*(places.get(word, word) for word in words)), *said)
    assert not (tmp_path / "out" / "run.json").exists()


def test_another_family_is_refused_before_the_data_is_read(
    laplm_, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    result = laplm_("tune", tmp_path / "no data", "-m", tiny_llama_dir, "--out", tmp_path / "mine")
    assert result.code == 2 and "trains GPT-2's family alone" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "mine").exists()


def test_a_run_that_goes_on_takes_no_other_settings(laplm_, tmp_path: Path) -> None:
    refused(laplm_("tune", "--resume", tmp_path), "no run to go on with")
    refused(
        laplm_("tune", "--resume", tmp_path, "--epochs", 2),
        "--epochs",
        "--resume DIR without",
    )
    refused(laplm_("tune", "x.txt", "--resume", tmp_path), "DATA")
    refused(laplm_("tune", "--report", tmp_path), "no run to go on with")
    refused(laplm_("tune", "--report", tmp_path, "--seed", 2), "--seed", "--report DIR without")


def test_a_report_shows_before_and_after_and_can_be_made_again(
    laplm_, tune, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = tune(text, "--out", out, *QUICK)
    page, plain = out / "report.html", out / "report.md"
    assert result.out.endswith(f"before and after: {plain} {page}\n")
    first = page.read_text()
    for words in ("perplexity", "before", "after", '<svg class="losses"', "head 0.", "seed"):
        assert words in first
    assert "http" not in first.replace("http-equiv", ""), "nothing is loaded"
    page.unlink()
    assert laplm_("tune", "--report", out).code == 0
    assert page.read_text() == first
    (out / "summary.json").unlink()
    refused(laplm_("tune", "--report", out), "has not ended", "--resume")


def test_without_torch_it_says_what_to_type(text: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from laplm.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["tune", str(text), "--out", str(tmp_path / "out"), "-m", "pocket"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert 'pip install "laplm[tune]"' in done.stderr and done.stderr.count("\n") == 1
