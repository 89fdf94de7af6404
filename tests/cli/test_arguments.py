"""What is typed: prompts, the model, and mistakes."""

from __future__ import annotations

import gc
import json
import os
import shlex
import shutil
import sys
import time
from types import SimpleNamespace

import pytest
from calling import refused

from laplm import home
from laplm.cli import arguments, chat, run
from laplm.errors import InputError
from laplm.run.language_model import default_model

pytest_plugins = ("tiny_run",)  # its fixtures; a second conftest would hide the first one


def test_a_pipe_a_dash_a_file_and_an_argument_are_the_same_prompt(run, tmp_path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes("naïve café\r\n".encode("utf-8-sig"))
    texts = {
        run("naïve café", "-n", 8, "--seed", 1).out,
        run("-n", 8, "--seed", 1, stdin="naïve café\n".encode()).out,
        run("-", "-n", 8, "--seed", 1, stdin="naïve café".encode()).out,
        run("--prompt-file", file, "-n", 8, "--seed", 1).out,
    }
    assert len(texts) == 1
    assert run("naïve café\n", "-n", 8, "--seed", 1).out not in texts


def test_a_prompt_given_as_an_argument_leaves_the_pipe_alone(run) -> None:
    stdin = b"\xff"
    assert run("The", "-n", 2, stdin=stdin).code == 0
    assert sys.stdin.buffer.read() == stdin


@pytest.mark.parametrize(
    ("argv", "stdin", "parts"),
    [
        ([""], None, ["prompt is empty"]),
        (["-"], b"", ["prompt is empty"]),
        ([], b"\n", ["prompt is empty"]),
        (["-"], b"a\0b", ["NUL byte", "position 1"]),
        (["-"], b"caf\xe9 au lait", ["not UTF-8", "0xe9 at position 3", "iconv"]),
        (["-"], "Once".encode("utf-16"), ["UTF-16", "iconv"]),
        (["caf\udce9"], None, ["not UTF-8", "0xe9 at position 3"]),
        (["-"], b"It was a day. " * 750_000, ["about", "tokens", "holds 128"]),
        (["-"], b"a" * (65 << 20), ["longer than 64 MB"]),
        (["--prompt-file", "missing.txt"], None, ["missing.txt cannot be read", "No such file"]),
        (["The", "--prompt-file", "x"], None, ["not both"]),
        (["The", "again"], None, ["too many arguments: 'again'; a text of", "run --help"]),
        (["The", "--top-k", "-1"], None, ["--top-k is -1", "whole number from 0"]),
        (["The", "--top-k", "1.5"], None, ["--top-k is '1.5', but", "whole number", "run --help"]),
        (["The", "--temperature", "nan"], None, ["--temperature is nan"]),
        (["The", "--temperature=-inf"], None, ["--temperature is -inf"]),
        (["The", "--top-p", "1.5"], None, ["--top-p is 1.5"]),
        (["The", "--min-p", "nan"], None, ["--min-p is nan"]),
        (["The", "--repetition-penalty", "0"], None, ["--repetition-penalty is 0.0"]),
        (["The", "--seed", "-1"], None, ["--seed is -1"]),
        (["The", "--samples", "0"], None, ["--samples is 0"]),
        (["The", "-n", "0"], None, ["-n is 0"]),
        (["The", "--logprobs", "-1"], None, ["--logprobs is -1"]),
        (["The", "--stop", ""], None, ["stop string is empty"]),
        (["The", "--threads", "0"], None, ["--threads is 0"]),
        (["The", "--precision", "int2"], None, ["--precision is 'int2'", "int8, int4 or stored"]),
        (["The", "--temprature", "1"], None, ["no such option: --temprature"]),
        (["The", "--stop", "-a"], None, ["--stop", "begins with a dash", "--stop=-a"]),
        (["The", "--temp", "1"], None, ["no such option: --temp; here it is --temperature"]),
        (["-p", "The"], None, ["no such option: -p; the text stands by itself"]),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_bad_input_is_one_plain_line_and_code_2(laplm_, tiny_model_dir, argv, stdin, parts) -> None:
    refused(laplm_("run", *argv, "-m", tiny_model_dir, stdin=stdin), *parts)


def test_without_a_prompt_at_a_terminal_the_next_step_is_said(run, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    refused(run("--json"), 'laplm run "Once upon a time"')


def test_gpt2_is_the_default_when_it_is_on_disk(
    laplm_, tiny_model_dir, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert default_model()[0] == "pocket"
    for name in ("pocket", "gpt2"):
        (home.directory("told") / f"model-{name}").unlink(missing_ok=True)
    first, second = (laplm_("look", "tokens", "The").err for _ in range(2))
    assert first.startswith("model pocket: the small built-in one") and second == ""

    folder = tmp_path / "hub" / "models--openai-community--gpt2"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    shutil.copytree(tiny_model_dir, folder / "snapshots" / "abc123")
    result = laplm_("run", "The", "-n", 3, "--verbose")
    assert result.code == 0
    assert result.err.startswith("model gpt2: it is on disk")
    assert "; gpt2, int8, " in result.err


def test_which_model_was_taken_is_said_once_a_day(capsys, monkeypatch, tmp_path) -> None:
    def told() -> str:
        arguments.note_model("pocket", "why")
        return capsys.readouterr().err

    monkeypatch.setenv("LAPLM_HOME", str(tmp_path))
    assert (told(), told()) == ("model pocket: why\n", "")
    mark = tmp_path / "told" / "model-pocket"
    for seconds, again in ((80_000, False), (90_000, True), (-10_000, True)):
        then = time.time() - seconds
        os.utime(mark, (then, then))
        assert bool(told()) == again
    arguments.note_model("gpt2", "why")
    assert capsys.readouterr().err == "model gpt2: why\n"
    monkeypatch.setenv("LAPLM_HOME", "/dev/null/nowhere")
    assert told() and told()


@pytest.mark.parametrize("module", [run, chat])
def test_no_garbage_is_looked_for_while_a_model_is_loaded(laplm_, monkeypatch, module) -> None:
    seen = []

    def load(*_: object, **__: object) -> None:
        seen.append((gc.isenabled(), gc.get_freeze_count()))
        raise InputError("enough")

    monkeypatch.setattr(module, "open_for_generation", load)
    gc.freeze()  # as a command before this one has left it
    refused(laplm_(module.__name__.split(".")[-1], "The"), "enough")
    assert seen == [(False, 0)]
    assert gc.isenabled() and gc.get_freeze_count() > 0
    gc.unfreeze()


def test_a_model_that_is_not_there_is_named_with_the_next_step(laplm_) -> None:
    refused(laplm_("run", "The", "-m", "gpt2-xl"), "gpt2-xl is not on disk", "laplm pull gpt2-xl")


@pytest.mark.parametrize("word", ["run", "chat"])
@pytest.mark.parametrize(
    "name", ["gpt2-xl", "pocket", "llama3.2", "some.gguf", "ollama:small", "a place/SOME.GGUF"]
)
def test_a_model_behind_the_command_is_not_taken_for_a_text(laplm_, word: str, name: str) -> None:
    hint = f"laplm {word} -m {shlex.quote(name)}"
    refused(laplm_(word, name), repr(name), "where a text is expected", hint)
    refused(laplm_(word, name, "Who is she?"), "too many arguments", hint)


def test_a_model_on_disk_behind_the_command_is_not_taken_for_a_text(
    laplm_, tiny_model_dir, tmp_path, monkeypatch
) -> None:
    refused(laplm_("run", tiny_model_dir), f"laplm run -m {tiny_model_dir}")
    store = tmp_path / "manifests/registry.ollama.ai/library/mario/latest"
    store.parent.mkdir(parents=True)
    digest = "0" * 64
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    store.write_text(json.dumps({"layers": [layer]}))
    (tmp_path / "blobs").mkdir()
    (tmp_path / f"blobs/sha256-{digest}").touch()
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    refused(laplm_("run", "mario"), "laplm run -m ollama:mario:latest")


@pytest.mark.parametrize("text", ["The", "gpt", "Once upon a time", "docs", "gpt2 is", "a/b"])
def test_a_text_is_not_taken_for_a_model(text: str) -> None:
    assert arguments.model_named_by(text) is None


def test_with_a_model_named_any_text_is_one(laplm_, tiny_model_dir) -> None:
    assert laplm_("run", "pocket", "-m", tiny_model_dir, "-n", 1).code == 0
