"""``laplm look`` as a person meets it: each view printed, drawn and saved; what is refused."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from calling import refused

from laplm import home
from laplm.cli import terminal
from laplm.cli.main import make_parser
from laplm.look import attention, next_token, trace
from laplm.run.language_model import LanguageModel

TEXT = "The capital of Spain is"
VIEWS = [
    f"why '{TEXT}'", f"why '{TEXT}' --target ' Paris' --against ' Rome' -k 3",
    f"circuit '{TEXT}' --corrupted 'The capital of France is' --keep 0.5",
    "stats", "stats --scale", f"tokens '{TEXT}'", f"tokens '{TEXT}' --merges", "embeddings",
    "embeddings --set cities", "embeddings king queen", "embeddings --nearest 'king - man + woman'",
    "positions", "positions --order", "positions --order 'a dog saw a cat' --ending '. A'",
    f"block '{TEXT}'", f"block '{TEXT}' --layer 2 --position 1", f"block '{TEXT}' --all",
    f"attention '{TEXT}'", f"attention '{TEXT}' --layer 2",
    f"attention '{TEXT}' --layer 2 --head 1",
    "attention --kinds", f"next '{TEXT}' -k 4", f"next '{TEXT}' --temperature 0.5 --top-k 3",
    f"inside '{TEXT}'", f"inside '{TEXT}' --layer 2 --without head:2.1 --top-k 5",
    f"lens '{TEXT}'", f"attribution '{TEXT}' --target ' Madrid' --contrast ' Paris'",
    f"ablate '{TEXT}'", f"ablate '{TEXT}' --parts layers --how mean --target ' Madrid'",
    f"ablate '{TEXT}' --parts neurons --layer 1 --rows 3",
    f"ablate '{TEXT}' --without head:2.1 --without feed-forward:1 -n 5",
    f"patch '{TEXT}' 'The capital of France is'",
    f"patch '{TEXT}' 'The capital of France is' --layer 1 --position 3 -n 5",
    "steer 'The girl was' ' happy' ' sad' --layer 2 --coefficient 2 -n 5",
    f"neuron 5.458 '{TEXT}' -k 3", "trace 'The girl was'", "trace 'The girl was' --name pattern",
    f"compare pocket pocket '{TEXT}'", f"generation '{TEXT}' -n 5 --seed 1 --alternatives 2",
]  # fmt: skip

Look = Callable[..., SimpleNamespace]


@pytest.fixture
def look(laplm_, pocket: LanguageModel) -> Look:
    """``look("next 'The dog'")``: one line as it is typed, with the built-in model."""
    _ = pocket.gpt  # its weights and kernels prepared

    def call(line: str, *more: object, stdin: bytes | None = None) -> SimpleNamespace:
        words = [*shlex.split(line), *map(str, more)]
        if words[0] != "compare" and "-m" not in words:
            words += ["-m", "pocket"]
        return laplm_("look", *words, stdin=stdin)

    return call


@pytest.mark.parametrize("line", VIEWS)
def test_every_view_prints_tables_without_colours_into_a_pipe(
    look: Look, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[tuple[Any, ...]] = []
    draw = terminal.print_parts

    def note(*arguments: Any) -> None:
        drawn.append(arguments)
        draw(*arguments)

    monkeypatch.setattr(terminal, "print_parts", note)
    result = look(line)
    assert result.code == 0
    # How much memory a trace takes is told before it is made.
    assert re.fullmatch(r"(keeping [\d.]+ MB of activations\n)?", result.err)
    assert bool(result.err) == line.startswith("trace")
    assert re.search(r"^─{8,}$", result.out, re.MULTILINE), "a table has a line under its heading"
    assert "\x1b" not in result.out
    assert "pocket" in result.out
    for width in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        draw(*drawn[0])
        shown = capsys.readouterr().out.splitlines()
        assert max(map(len, shown)) <= width, max(shown, key=len)


@pytest.mark.parametrize("command", ["next", "attention", "lens", "attribution", "ablate", "why"])
def test_the_answer_comes_first_and_all_shows_the_rest(look: Look, command: str) -> None:
    first, _, rest = look(f"{command} '{TEXT}'").out.partition("\n\n")
    assert first.endswith(".") and re.search(r"“.+”.*\d", first)
    every = look(f"{command} '{TEXT}' --all").out
    if command != "lens":  # a short text through six layers fits
        assert re.search(r"^… .+: --all shows all$", rest, re.MULTILINE)
        assert len(every.splitlines()) > len(rest.splitlines()) + 2
    assert "… " not in every and every.startswith(first)


def test_every_view_is_tried_here() -> None:
    parser = make_parser()
    views = parser._subparsers._group_actions[0].choices["look"]
    names = views._subparsers._group_actions[0].choices.keys()
    elsewhere = {"chat"}  # needs a chat model: test_look_chat
    assert {line.split()[0] for line in VIEWS} | elsewhere == set(names)


def test_a_view_is_saved_in_every_form_that_is_asked_for(look: Look, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"next.{kind}" for kind in ("png", "svg", "html", "csv", "json")}
    outs = [word for file in files.values() for word in ("--out", file)]
    result = look(f"next '{TEXT}'", *outs)
    assert result.code == 0
    assert result.err.splitlines() == [f"{file} written" for file in files.values()]
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in files["svg"].read_text() and "<svg" in files["html"].read_text()
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert rows[0]["token"] == "·Madrid"
    assert json.loads(files["json"].read_text())["labels"][0] == "·Madrid"


def test_json_is_what_the_library_gives(look: Look, pocket: LanguageModel) -> None:
    result = look(f"next '{TEXT}' -k 3 --top-p 0.9 --json")
    ours = next_token(pocket, TEXT, k=3, top_p=0.9)
    assert json.loads(result.out) == json.loads(json.dumps(ours.to_dict()))


def test_what_is_printed_is_what_the_library_gives(look: Look, pocket: LanguageModel) -> None:
    result = look(f"attention '{TEXT}' --layer 2 --head 1")
    pattern = attention(pocket, TEXT, layer=2, head=1).pattern[0, 0]
    lines = result.out[result.out.index("Attention of each position") :].splitlines()[2:7]
    for i, line in enumerate(lines):
        shown = [float(x) for x in re.findall(r"\d\.\d\d", line)]
        np.testing.assert_allclose(shown, pattern[i, : i + 1], rtol=0, atol=0.00501)


def test_trace_keeps_every_array_in_an_archive(
    look: Look, pocket: LanguageModel, tmp_path: Path
) -> None:
    file = tmp_path / "trace.npz"
    assert look("trace 'The girl was' --rows 2", "--out", file).code == 0
    ours = trace(pocket, "The girl was").cache.by_hook_name()
    with np.load(file) as saved:
        assert saved.files == ["token_ids", "tokens", *ours]
        for name, array in ours.items():
            np.testing.assert_array_equal(saved[name], array)


def test_the_text_may_come_from_a_pipe(look: Look) -> None:
    piped = look("tokens", stdin=b"The dog\n")
    assert piped.out == look("tokens 'The dog'").out
    assert "·dog" in piped.out


def test_texts_may_come_from_files(look: Look, tmp_path: Path) -> None:
    book, lines = tmp_path / "book.txt", tmp_path / "lines.txt"
    book.write_text("The capital of Spain is\nMadrid. The dog saw the cat.\n")
    read = json.loads(look(f"neuron 5.458 --json --data {book}").out)
    assert read["n_texts"] == 1 and any("↵" in each["before"] for each in read["highest"])
    more = json.loads(look(f"neuron 5.458 'A dog.' --json --data {book} --data {book}").out)
    assert more["n_texts"] == 3 and more["n_tokens"] > 2 * read["n_tokens"]
    lines.write_text(" happy\n\n glad\n")
    steered = json.loads(
        look(f"steer 'The girl was' --towards {lines} --away {book} --json -n 1").out
    )
    assert steered["towards"] == [" happy", " glad"]
    assert steered["away_from"] == ["The capital of Spain is", "Madrid. The dog saw the cat."]
    both = json.loads(look(f"steer 'The girl was' ' joy' ' sad' --towards {lines} --json -n 1").out)
    assert both["towards"] == [" joy", " happy", " glad"] and both["away_from"] == [" sad"]


def test_rows_are_bounded_and_the_rest_is_told(look: Look) -> None:
    result = look("attention --kinds --rows 5")
    body = result.out.split("─\n")[1]
    assert body.splitlines()[5] == "… 43 more rows: --all shows all"
    every = look("attention --kinds --rows 0").out
    assert every == look("attention --kinds --all").out
    assert "more rows" not in every
    assert len(every.splitlines()) > 48


def test_any_directory_can_be_looked_at(look: Look, tiny_model_dir: Path) -> None:
    result = look("stats", "-m", tiny_model_dir)
    assert "width of a head" in result.out and result.code == 0
    result = look("next 'The dog'", "-m", tiny_model_dir, "--precision", "int8")
    assert result.code == 0


def test_which_model_is_told_when_none_is_named(laplm_) -> None:
    (home.directory("told") / "model-pocket").unlink(missing_ok=True)
    result = laplm_("look", "tokens", "The dog")
    assert result.err.startswith("model pocket: ")


def test_without_a_view_the_views_are_listed(laplm_) -> None:
    bare = laplm_("look")
    assert bare.code == 0 and bare.out == laplm_("look", "--help").out
    assert "attribution" in bare.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"block '{TEXT}' --layer 6", ["layer 6 is not there", "layers 0 to 5"]),
        (f"block '{TEXT}' --layer -1", ["layer -1", "0 to 5"]),
        (f"block '{TEXT}' --position 9", ["position 9", "0 to 4"]),
        (f"attention '{TEXT}' --head 8", ["head 8 is not there", "heads 0 to 7"]),
        (f"attribution '{TEXT}' --target ' hippopotamus'", ["is not one token but", "' h"]),
        (f"attribution '{TEXT}' --target Madrid", ["with a space before it, ' Madrid'"]),
        (f"ablate '{TEXT}' --parts eyes", ["--parts is 'eyes'", "heads"]),
        (f"ablate '{TEXT}' --parts neurons", ["layer"]),
        (f"ablate '{TEXT}' --without head:3", ["'head:3' names no part", "head:3.1"]),
        (f"ablate '{TEXT}' --without eye:1", ["'eye:1' names no part"]),
        (f"ablate '{TEXT}' --without head:3.x", ["names no part"]),
        (f"ablate '{TEXT}' --without head:9.0", ["layer 9 is not there"]),
        (f"patch '{TEXT}' '{TEXT}'", ["the same"]),
        (f"patch '{TEXT}' 'The capital'", ["5 tokens", "2"]),
        (f"patch '{TEXT}' 'The capital of France is' --layer 1", ["both --layer and --position"]),
        ("steer 'The' ' a' ' a'", ["no direction"]),
        ("steer 'The' ' a'", ["give AWAY, or --away FILE"]),
        ("neuron 5", ["'5' names no neuron", "4.17"]),
        ("neuron 5.458 --data nowhere.txt", ["nowhere.txt cannot be read"]),
        ("tokens ''", ["empty"]),
        ("next ''", ["empty"]),
        (f"next '{'word ' * 600}'", ["the model holds 512", "shorten"]),
        (f"next '{TEXT}' -k 0", ["-k is 0"]),
        (f"next '{TEXT}' --temperature -1", ["temperature"]),
        (f"next '{TEXT}' --rows -1", ["--rows is -1"]),
        ("embeddings --set cars", ["cars", "family"]),
        ("embeddings --nearest 'king +'", ["king"]),
        ("embeddings dog --nearest cat", ["--nearest"]),
        ("trace 'The' --name nose", ["nose", "pattern"]),
        ("walk 'The'", ["no such view: 'walk'"]),
        ("next 'The' --depth 3", ["no such option: --depth", "laplm look next --help"]),
        ("compare pocket nowhere/nothing 'The'", ["nowhere/nothing"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(look: Look, line: str, words: list[str]) -> None:
    refused(look(line), *words)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("look.gif", ["look.gif", ".png, .svg, .html, .csv or .json"]),
        ("look.npz", [".png"]),
        ("look", [".png"]),
        ("nowhere/look.png", ["nowhere is not a directory"]),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, words: list[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr("laplm.look.views.next_token.next_token", never)
    refused(look(f"next '{TEXT}'", "--out", tmp_path / file), *words)


def test_an_output_that_fails_while_it_is_written_is_named(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "a.json"
    file.write_text("what was there")
    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr(Path, "replace", full)
    refused(look(f"next '{TEXT}'", "--out", file), str(file), "cannot be written", "No space")
    assert file.read_text() == "what was there"


def test_a_picture_without_matplotlib_says_what_to_type(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(look(f"next '{TEXT}'", "--out", tmp_path / "a.png"), 'pip install "laplm[look]"')
    assert look(f"next '{TEXT}'", "--out", tmp_path / "a.csv").code == 0


def test_looking_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from laplm.cli import main\n"
        "for view in ('next', 'attention', 'lens', 'attribution', 'ablate', 'generation'):\n"
        "    assert main(['look', view, 'The dog', '-m', 'pocket']) == 0\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
