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


def run(name: str, *argv: object, typed: str = "", **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, argv)],
        input=typed, capture_output=True, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"} | variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_in_the_list() -> None:
    listed = set(re.findall(r"^\| \[(\w+\.py)\]", (EXAMPLES / "README.md").read_text(), re.M))
    assert listed == {path.name for path in EXAMPLES.glob("*.py")}
    assert len((EXAMPLES / "autocomplete.py").read_text().splitlines()) <= 31


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
    offers = re.findall(r"^  ([123])(.*)$", out, re.MULTILINE)
    assert [number for number, _ in offers] == ["1", "2", "3"] * 3
    second = offers[1][1]
    assert out.rstrip().endswith(f"Once upon a time{second} and")


def test_the_heads_found_matter_more_than_those_that_do_not() -> None:
    out = run("heads_that_matter.py", "The capital of Spain is", " Madrid")
    as_it_is = float(re.search(r"after 'The capital of Spain is': ([\d.]+)%", out)[1])
    without = dict(re.findall(r"that matter (\w+): ([\d.]+)%", out))
    assert as_it_is > 90
    assert float(without["most"]) < 50 < float(without["least"])
    falls = [float(x) for x in re.findall(r"logit ([+-][\d.]+)", out)]
    assert len(falls) == 5 and falls == sorted(falls) and falls[0] < 0


def test_nightly_tunes_once_and_again_only_after_a_change(tmp_path: Path) -> None:
    notes, out = tmp_path / "notes", tmp_path / "tuned"
    notes.mkdir()
    for i in range(12):
        (notes / f"{i}.txt").write_text(f"Note {i}: the garden needs water on day {i}.\n")
    first = run("nightly.py", notes, out)
    before, after = map(
        float, re.search(r"perplexity ([\d.]+) before, ([\d.]+) after", first).groups()
    )
    assert after < before
    current = (out / "current").read_text().strip()
    assert (out / current / "adapter_model.safetensors").is_file()
    assert "nothing has changed" in run("nightly.py", notes, out)
    (notes / "0.txt").write_text("Note 0: it has rained.\n")
    assert "perplexity" in run("nightly.py", notes, out)
    assert len(list(out.glob("20*"))) >= 1
