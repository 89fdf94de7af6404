"""The programs in examples/ do what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def started(
    name: str, *argv: object, typed: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, argv)],
        input=typed, capture_output=True, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"} | variables,
    )  # fmt: skip


def run(name: str, *argv: object, typed: str = "", **variables: str) -> str:
    done = started(name, *argv, typed=typed, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(name: str, *argv: object, **variables: str) -> str:
    """What a program that ends with an error has to say: one plain line."""
    done = started(name, *argv, **variables)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_every_example_is_in_the_list() -> None:
    listed = set(re.findall(r"^\| \[(\w+\.py)\]", (EXAMPLES / "README.md").read_text(), re.M))
    assert listed == {path.name for path in EXAMPLES.glob("*.py")}
    assert len((EXAMPLES / "autocomplete.py").read_text().splitlines()) <= 30


@pytest.fixture
def server() -> Iterator[str]:
    """`laplm serve pocket` on a free port; gives the address that it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "laplm", "serve", "pocket", "--port", "0", "--no-open"],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            address = re.search(r"OpenAI's API: (http://\S+)", line)
            if address:
                yield address[1]
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="the server is ended by a signal")
def test_autocomplete_offers_three_ways_and_goes_on_with_the_chosen_one(server: str) -> None:
    out = run("autocomplete.py", typed="Once upon a time\n2\nand\n\n", LAPLM_URL=server)
    # What is typed does not show here, so the first offer is on the line of the question.
    offers = re.findall(r"(?:^|: )  ([123])(.*)$", out, re.MULTILINE)
    assert [number for number, _ in offers] == ["1", "2", "3"] * 3
    second = offers[1][1]
    assert f"\nOnce upon a time{second} and\n" in out
    # Ctrl-D is an end like any other.
    assert "1, 2, 3" in run("autocomplete.py", typed="Once upon a time\n", LAPLM_URL=server)


def test_autocomplete_without_a_server_says_so() -> None:
    nobody = "http://127.0.0.1:9/v1"
    assert re.search(
        r"9/v1: .*is `laplm serve` running", refused("autocomplete.py", LAPLM_URL=nobody)
    )


def test_the_heads_found_matter_more_than_those_that_do_not() -> None:
    out = run("heads_that_matter.py", "The capital of Spain is", " Madrid")
    as_it_is = float(re.search(r"after 'The capital of Spain is': ([\d.]+)%", out)[1])
    without = dict(re.findall(r"that matter (\w+): ([\d.]+)%", out))
    assert as_it_is > 90
    assert float(without["most"]) < 50 < float(without["least"])
    falls = [float(x) for x in re.findall(r"logit ([+-][\d.]+)", out)]
    assert len(falls) == 5 and falls == sorted(falls) and falls[0] < 0
    two_tokens = refused("heads_that_matter.py", "The capital of Spain is", " Madrid and")
    assert "' Madrid and'" in two_tokens and "not one token" in two_tokens
    assert "laplm pull gpt2" in refused("heads_that_matter.py", "It is", " good", "gpt2")


def test_nightly_tunes_once_and_again_only_after_a_change(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    notes, out = tmp_path / "notes", tmp_path / "tuned"
    notes.mkdir()
    for i in range(12):
        (notes / f"{i}.md").write_text(f"Note {i}: the garden needs water on day {i}.\n")
    first = run("nightly.py", notes, out, tiny_model_dir)
    before, after = map(float, re.search(r": ([\d.]+) before, ([\d.]+) after", first).groups())
    assert after < before
    current = (out / "current").read_text().strip()
    assert (out / current / "adapter_model.safetensors").is_file()
    assert "nothing has changed" in run("nightly.py", notes, out, tiny_model_dir)
    (notes / "0.md").write_text("Note 0: it has rained.\n")
    assert "perplexity" in run("nightly.py", notes, out, tiny_model_dir)
    newest = (out / "current").read_text().strip()
    assert newest > current and (out / newest / "adapter_model.safetensors").is_file()
    # A night that fails leaves everything as it was.
    for note in notes.iterdir():
        note.unlink()
    assert refused("nightly.py", notes, out, tiny_model_dir).startswith("not tuned: ")
    assert (out / "current").read_text().strip() == newest
