"""The scripts of ``laplm completion``, tried in the shells that are here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from calling import refused

from laplm.cli.main import make_parser

SHELLS = ["bash", "zsh", "fish"]


def completed(shell: str, script: Path, *words: str) -> set[str]:
    """What a shell offers for the last word."""
    if shell == "fish":
        program = f"source {script}; complete -C '{' '.join(words)}'"
        out = subprocess.run(["fish", "-c", program], capture_output=True, text=True, check=True)
        return {line.split("\t")[0] for line in out.stdout.splitlines()}
    program = (
        f"source {script}; COMP_WORDS=({' '.join(words[:-1])} '{words[-1]}'); "
        f'COMP_CWORD={len(words) - 1}; _shtab_laplm laplm "{words[-1]}" ""; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    out = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


@pytest.fixture
def script(laplm_, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    result = laplm_("completion", request.param)
    assert (result.code, result.err) == (0, "")
    file = tmp_path / f"laplm.{request.param}"
    file.write_text(result.out)
    return file


@pytest.mark.parametrize("script", SHELLS, indirect=True)
def test_the_script_is_one_that_its_shell_reads(script: Path) -> None:
    shell = shutil.which(script.suffix[1:])
    if shell is None:
        pytest.skip(f"there is no {script.suffix[1:]} here")
    subprocess.run([shell, "-n", str(script)], check=True)


@pytest.mark.parametrize("script", ["bash", "fish"], indirect=True)
def test_words_are_completed(script: Path, tmp_path: Path) -> None:
    shell = script.suffix[1:]
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    parser = make_parser()
    verbs = parser._subparsers._group_actions[0].choices
    (tmp_path / "dir" / "inside").mkdir(parents=True)
    (tmp_path / "dir" / "file.txt").touch()

    def offered(*words: str) -> set[str]:
        return completed(shell, script, "laplm", *words)

    assert offered("") >= set(verbs)
    assert offered("look", "att") == {"attention", "attribution"}
    assert {"--temperature"} == offered("run", "--temperat")
    assert "--no-browser" in offered("serve", "--no")
    assert offered("run", "-m", "gpt2-m") == {"gpt2-medium"}
    models = {name.rstrip("/") for name in offered("run", "-m", f"{tmp_path}/dir/")}
    assert models == {f"{tmp_path}/dir/inside"}
    assert f"{tmp_path}/dir/file.txt" in offered("run", "--prompt-file", f"{tmp_path}/dir/")


@pytest.mark.parametrize("script", SHELLS, indirect=True)
def test_every_command_and_option_is_there(script: Path) -> None:
    text = script.read_text()
    verbs = make_parser()._subparsers._group_actions[0].choices
    for name, verb in verbs.items():
        assert re.search(rf"\b{name}\b", text)
        for option in verb._option_string_actions:
            assert option.lstrip("-") in text


def test_another_shell_is_refused(laplm_) -> None:
    refused(laplm_("completion", "zhs"), "bash, zsh or fish", "Did you mean zsh?")
    refused(laplm_("completion"), "SHELL")
