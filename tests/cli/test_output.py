"""Standard output and error: closed, full, left by their reader, and what is never sent there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from calling import refused

from laplm.cli import output
from laplm.hub import locate
from laplm.run.language_model import LanguageModel

COMMANDS = [
    "", "--help", "--version", "run --help", "look", "look next --help", "models", "models --json",
    "run The -n 2 -m pocket", "run The -n 2 -m pocket --json",
    "run The -n 2 -m pocket --logprobs 1",
    "look tokens The -m pocket", "look next The -m pocket --json", "eval TEXT -m pocket",
    "eval TEXT -m pocket --json",
]  # fmt: skip


class Terminal(SimpleNamespace):
    """A stream that somebody looks at."""

    def __init__(self) -> None:
        super().__init__(text="", encoding="utf-8")

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.fixture(scope="module")
def _prepared() -> None:
    _ = LanguageModel("pocket").gpt


@pytest.fixture
def to(_prepared, laplm_, monkeypatch, tmp_path) -> Callable[..., SimpleNamespace]:
    """A command whose standard output is something else."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a dog.")

    def call(line: str, stdout: object) -> SimpleNamespace:
        monkeypatch.setattr("sys.stdout", stdout)
        return laplm_(*shlex.split(line.replace("TEXT", text.as_posix())))

    return call


@contextlib.contextmanager
def _opened(file: int | str) -> Iterator[object]:
    stream = os.fdopen(os.open(file, os.O_WRONLY) if isinstance(file, str) else file, "w")
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_closed_output_is_one_line_and_code_2(to, line: str) -> None:
    refused(to(line, None), "cannot write the output (standard output is closed)")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_full_disk_under_the_output_is_one_line_and_code_2(to, line: str) -> None:
    with _opened("/dev/full") as full:
        refused(to(line, full), "cannot write the output (No space left on device)")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_reader_who_has_left_is_not_worth_a_word(to, line: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with _opened(writing) as left:
        result = to(line, left)
    assert (result.code, result.err) == (0, "")


def test_a_reader_who_has_left_is_known_on_windows_too(to, monkeypatch) -> None:
    """It calls a pipe without a reader an invalid argument (https://bugs.python.org/issue35754)."""

    def write(text: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    out = SimpleNamespace(write=write, flush=lambda: None, isatty=lambda: False, encoding="utf-8")
    monkeypatch.setattr(output.sys, "platform", "linux")
    refused(to("--version", out), "cannot write the output (Invalid argument)")
    monkeypatch.setattr(output.sys, "platform", "win32")
    result = to("--version", out)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    ("environment", "styles"),
    [
        ({}, False), ({"WT_SESSION": "1"}, True), ({"TERM": "xterm"}, True),
        ({"WT_SESSION": "1", "TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)  # fmt: skip
def test_a_windows_terminal_shows_styles_unless_it_is_told_not_to(
    environment: dict[str, str], styles: bool, monkeypatch
) -> None:
    monkeypatch.setattr(output.sys, "platform", "win32")
    for name in ("WT_SESSION", "TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert output.has_styles(Terminal()) is styles


def test_without_standard_error_a_command_works_and_says_nothing(to, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    out = Terminal()
    out.isatty = lambda: False
    assert to("run The -n 2 -m pocket --greedy", out).code == 0
    expected = out.text
    assert expected
    out.text = ""
    assert to("run The -n 0 -m pocket", out).code == 2
    assert out.text == ""


def _shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m laplm {line}'], capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


def test_closed_streams_of_a_real_process(tmp_path: Path) -> None:
    done = _shell("models >&-")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr == "laplm: cannot write the output (standard output is closed)\n"
    done = _shell("walk >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    # What is opened next does not become standard output, or what a library prints lands in it.
    file = tmp_path / "tokens.json"
    assert _shell(f"look tokens The -m pocket --out {file} >&- 2>&-").returncode == 2
    json.loads(file.read_text())


def test_python_warnings_are_not_for_people() -> None:
    program = "import sys, laplm.cli, warnings; laplm.cli.main = lambda: warnings.warn('x') or 0; "
    program += "import laplm.__main__; laplm.__main__.main()"

    def warned(*options: str) -> bool:
        done = subprocess.run(
            [sys.executable, *options, "-c", program], capture_output=True, text=True, check=True
        )
        return "UserWarning: x" in done.stderr

    assert not warned()
    assert warned("-W", "default")


# --- what is never sent to a terminal -----------------------------------------------------------


EVIL = "\x1b]0;title\x07\x1b[2J\x9b1m\u202e"


@pytest.mark.parametrize("terminal", [True, False])
def test_notes_are_cleaned_and_cut(monkeypatch, terminal: bool) -> None:
    err = Terminal()
    err.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", err)
    output.note(f"one {EVIL}\ntwo\tthree")
    assert err.text == "one \\x1b]0;title\\x07\\x1b[2J\\x9b1m\\u202e two three\n"
    err.text = ""
    output.note("tensor " + "x" * 5000 + " is wrong; do this")
    assert len(err.text) < 700
    assert re.fullmatch(r"tensor x+ … x+ is wrong; do this\n", err.text)


def test_a_name_in_a_file_of_weights_cannot_control_the_terminal(
    laplm_, tiny_model_dir, tmp_path
) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    tensors = load_file(model / "model.safetensors")
    save_file(tensors | {f"h.9.{EVIL}{'y' * 5000}": tensors["transformer.wpe.weight"]},
              model / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    result = laplm_("run", "The", "-m", model)
    refused(result, r"h.9.\x1b]0;title\x07")
    assert len(result.err) < 700
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.err)


def test_tables_of_models_are_cleaned(laplm_, monkeypatch, tmp_path) -> None:
    model = locate.InstalledModel(f"me/{EVIL}", tmp_path, 1000, 4000, "fp32", f"broken\n{EVIL}")
    monkeypatch.setattr(locate, "installed", lambda: [model])
    listing = laplm_("models").out
    assert listing.count("\n") == 2 and r"me/\x1b]0;title" in listing and "\x1b" not in listing
    assert json.loads(laplm_("models", "--json").out)[0]["name"] == model.name


def test_json_for_a_terminal_is_the_same_json_without_controls(monkeypatch) -> None:
    value = {"text": f"é {EVIL} \\x1b \\\u202e"}
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    output.write_json(value)
    assert json.loads(out.text) == value
    assert not re.search(r"[\x7f-\x9f\u202e]", out.text) and "é" in out.text
    out.isatty = lambda: False
    out.text = ""
    output.write_json(value)
    assert "\x9b" in out.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rnu The", ["no such command: 'rnu'. Did you mean run?"]),
        ("modles", ["Did you mean models?"]),
        ("'Once upon a time'", ["no such command", "laplm run 'Once upon a time'"]),
        ("look nxt The", ["no such view: 'nxt'. Did you mean next?", "laplm look --help"]),
        ("run The --temperatur=2", ["no such option: --temperatur=2. Did you mean --temperature?"]),
        ("look next The --topk 3", ["no such option: --topk. Did you mean --top-k"]),
        ("serve --no-brwoser", ["Did you mean --no-browser"]),
        ("run The --slied", ["Did you mean --slide"]),
        ("list", ["no such command: 'list'; here it is laplm models"]),
        ("serve -m pocket", ["no such option: -m; the model stands by itself: laplm serve NAME"]),
        ("serve pocket -c 512", ["no such option: -c; here it is --context"]),
    ],
)
def test_near_misses_are_told(laplm_, line: str, words: list[str]) -> None:
    refused(laplm_(*shlex.split(line)), *words)


# --- on a terminal ------------------------------------------------------------------------------


@pytest.fixture
def shown(_prepared, laplm_, monkeypatch) -> Callable[..., str]:
    """What a terminal of 30 columns is sent."""
    for name, value in (("TERM", "xterm"), ("COLUMNS", "30")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def call(*argv: object) -> str:
        out = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", out)
            assert laplm_(*argv, "-m", "pocket").code == 0
        return out.text

    return call


RUN = ("run", "Once upon a time", "-n", 20, "--greedy")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)


def test_a_terminal_shows_the_prompt_dimmed_and_whole_words(shown, monkeypatch) -> None:
    text = LanguageModel("pocket").generate("Once upon a time", 20, temperature=0).text
    sent = shown(*RUN)
    assert sent.startswith("\x1b[2mOnce\x1b[22m")
    assert plain(sent).split() == f"Once upon a time{text}".split()
    lines = plain(sent).split("\n")
    assert len(lines) > 2 and max(map(len, lines)) <= 30
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert shown(*RUN) == plain(sent)


def test_every_sample_stands_after_the_prompt_and_a_long_prompt_is_shortened(shown) -> None:
    assert shown(*RUN, "--samples", 2).count("\x1b[2mOnce\x1b[22m") == 2
    long = plain(shown("run", "A dog. " * 200 + "The end", "-n", 2, "--slide"))
    assert long.startswith("…") and 900 < len(long) < 1100 and "The end" in long


def test_json_on_a_terminal_has_no_prompt_before_it(shown) -> None:
    assert json.loads(shown(*RUN, "--json"))["prompt"] == "Once upon a time"


def test_a_prompt_that_ends_in_a_space_is_told_of_once(_prepared, laplm_) -> None:
    line = "the prompt ends in a space, but tokens of words begin with theirs"
    for words in (
        ("run", "Once upon a ", "-n", 2), ("run", "Once upon a ", "-n", 2, "--json"),
        ("look", "next", "The cat "), ("look", "lens", "The cat "),
    ):  # fmt: skip
        assert laplm_(*words, "-m", "pocket").err.count(line) == 1
    for words in (
        ("run", "Once upon a", "-n", 2), ("run", "Once upon a\n", "-n", 2), ("run", " ", "-n", 2),
        ("look", "tokens", "The cat "),
    ):  # fmt: skip
        assert line not in laplm_(*words, "-m", "pocket").err


def test_samples_that_do_not_fit_are_refused_with_what_they_take(
    _prepared, laplm_, monkeypatch
) -> None:
    refused(laplm_("run", "The", "-m", "pocket", "--samples", 10**6), "--samples is 1000000, but")
    monkeypatch.setattr("laplm.machine.available_bytes", lambda: 10**8)
    result = laplm_("run", "The", "-m", "pocket", "--samples", 1000)
    refused(result, "--samples is 1,000, but each takes about", "0.1 GB left: ask for at most")
    most = int(re.search(r"at most ([\d,]+)", result.err)[1].replace(",", ""))
    assert 50 < most < 300
    assert laplm_("run", "The", "-m", "pocket", "--samples", 3, "-n", 1).code == 0


def test_what_a_model_says_cannot_command_a_terminal(monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    assert output.printable("a\x1b[2Jb\tc\nd\x9b\x7fé") == "a\\x1b[2Jb\tc\nd\\x9b\\x7fé"
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: False))
    assert output.printable("a\x1b[2J") == "a\x1b[2J"
