"""From what is typed to an exit code, and what help costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from calling import command, refused

import laplm
from laplm.model.engine.model import GPT
from laplm.native import isa
from laplm.run.language_model import LanguageModel

pytest_plugins = ("tiny_run",)  # its fixtures; a second conftest would hide the first one


def test_our_own_mistakes_are_one_line_and_code_1(run, monkeypatch) -> None:
    def broken(*_args, **_options):
        raise ZeroDivisionError("not\nyours")

    monkeypatch.setattr(LanguageModel, "stream", broken)
    result = run("The")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "laplm: internal error: ZeroDivisionError: not yours; please report it with what you "
        "typed (LAPLM_DEBUG=1 shows where it happened)\n"
    )
    monkeypatch.setenv("LAPLM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("The")


def test_too_little_memory_is_said_with_what_to_try(run, monkeypatch) -> None:
    def full(*_args):
        raise MemoryError

    monkeypatch.setattr(GPT, "decode", full)
    result = run("The")
    assert result.code == 2
    assert result.err == "laplm: not enough memory; try --precision int4, or a smaller model\n"


def test_help_and_version(laplm_) -> None:
    bare, asked = laplm_(), laplm_("--help")
    assert bare.code == asked.code == 0
    assert bare.out == asked.out
    for verb in ("run", "pull", "models", "eval", "audit"):
        assert re.search(rf"^    {verb} ", asked.out, re.MULTILINE)
        shown = laplm_(verb, "--help")
        assert shown.code == 0 and f"\nusage: laplm {verb}" in shown.out
        assert shown.out.startswith(f"For example: laplm {verb}")
    assert asked.out.startswith('For example: laplm run "Once upon a time')
    version, kernels = laplm_("--version").out.splitlines()
    assert version == f"laplm {laplm.__version__}"
    assert kernels == f"kernels: {isa.choose().name} on {isa.cpu_name()} ({isa.why()})"
    refused(laplm_("walk"), "no such command: 'walk'", "laplm --help")
    refused(laplm_("--walk"), "no such option: --walk")


@pytest.mark.parametrize(
    ("argv", "heavy"),
    [
        (["--help"], {"numpy", "tokenizers", "llvmlite", "rich", "torch", "laplm.model",
                      "laplm.cli.run", "laplm.cli.look", "laplm.look", "laplm.tune_config"}),
        (["run", "The", "-n", "3"], {"rich", "torch", "pydantic", "huggingface_hub",
                                     "numpy.random", "transformers", "scipy", "asyncio",
                                     "laplm.cli.tune", "laplm.look"}),
    ],
    ids=["help", "run"],
)  # fmt: skip
def test_what_takes_long_to_import_is_not_imported(tiny_model_dir, argv, heavy) -> None:
    if argv[0] == "run":
        argv = [*argv, "-m", str(tiny_model_dir)]
        assert command(*argv).returncode == 0  # compiled and prepared
    program = (
        "import sys; from laplm.cli import main; code = main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0
    assert not heavy & set(result.stderr.split())


@pytest.mark.parametrize("command", ["run", "chat"])
def test_threads_of_openblas_that_wait_at_a_start_sleep(tiny_model_dir, command) -> None:
    program = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy': print('at', os.environ.get('OPENBLAS_THREAD_TIMEOUT'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from laplm.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    argv = [sys.executable, "-c", program, command, "The", "-n", "1", "-m", str(tiny_model_dir)]
    for theirs, expected in ((None, b"at 4\n"), ("20", b"at 20\n")):
        env = {name: v for name, v in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
        env |= {} if theirs is None else {"OPENBLAS_THREAD_TIMEOUT": theirs}
        result = subprocess.run(argv, capture_output=True, timeout=120, env=env)
        assert (result.returncode, result.stdout[: len(expected)]) == (0, expected), result.stderr


def test_text_is_utf_8_whatever_the_locale(tiny_model_dir) -> None:
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = command(
        "run", "-", "-m", tiny_model_dir, "-n", "3", "--json", env=env, input="naïve 北京".encode()
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.decode())["prompt"] == "naïve 北京"
