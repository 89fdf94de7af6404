"""macOS and Windows, as far as this system can stand in for them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from laplm.run.language_model import LanguageModel

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
ILLEGAL = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[ .]$')
DEVICES = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(10))}
LONGEST = 100  # characters of a name: 260 is all that a whole path may have by default


def test_names_that_laplm_gives_are_names_everywhere(tiny_model_dir: Path) -> None:
    # The directory is the whole session's: what other tests have had made is in it as well.
    LanguageModel(tiny_model_dir, "int8").generate("The", max_new_tokens=1)
    home = Path(os.environ["LAPLM_HOME"])
    seen = 0
    for directory, folders, files in os.walk(home):
        if Path(directory).parent.name == "runs":
            folders[:] = []  # data and models there have names that people gave them
        for name in (*folders, *files):
            seen += 1
            assert not ILLEGAL.search(name), name
            assert name.split(".")[0].lower() not in DEVICES, name
            assert len(name) <= LONGEST, name
        # Where case does not count, none may take another's place.
        counted = Counter(name.lower() for name in (*folders, *files))
        assert all(count == 1 for count in counted.values()), counted
    assert seen >= 3


def test_models_whose_names_differ_in_case_have_prepared_weights_of_their_own(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    for name in ("Tales", "tales"):
        (tmp_path / name).mkdir()
        for file in tiny_model_dir.iterdir():
            (tmp_path / name / file.name).symlink_to(file)
        LanguageModel(tmp_path / name, "int8").generate("The", max_new_tokens=1)
    prepared = Path(os.environ["LAPLM_HOME"]) / "prepared"
    names = [path.name.lower() for path in prepared.glob("[Tt]ales-*.safetensors")]
    assert len(set(names)) == len(names) == 2


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal is needed")
@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_a_console_that_lacks_characters_shows_the_others(encoding: str) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "laplm", "look", "tokens", "naïve 北京 🙂"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "TERM": "dumb", "COLUMNS": "80"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal is an error on Linux
            while part := os.read(ours, 1 << 16):
                shown += part
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(60) == 0, said
    os.close(ours)
    assert b"Traceback" not in said + shown
    assert b"na" in shown
    shown.decode(encoding)


def test_what_is_piped_is_utf8_whatever_the_locale() -> None:
    command = [sys.executable, "-m", "laplm", "look", "tokens", "北京", "--json"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=True)
    assert "北京" in done.stdout.decode() or "\\u5317" in done.stdout.decode()


def test_a_run_is_asked_to_end_by_the_means_of_its_system(monkeypatch: pytest.MonkeyPatch) -> None:
    from laplm.serve import tuning

    asked: list[object] = []
    process = SimpleNamespace(terminate=lambda: asked.append("terminate"), send_signal=asked.append)
    monkeypatch.setattr(sys, "platform", "linux")
    tuning._terminate(SimpleNamespace(process=process))
    assert asked == ["terminate"]
    # On Windows terminate() strikes at once, and the last updates would be lost.
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", "break", raising=False)
    tuning._terminate(SimpleNamespace(process=process))
    assert asked == ["terminate", "break"]


def test_training_keeps_everything_when_windows_asks_it_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from laplm.tune import trainer

    # SIGBREAK is Windows' own; SIGUSR1 stands in for it.
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    with trainer._deferred_interrupt() as interrupted:
        assert not interrupted.is_set()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupted.wait(5)
    assert threading.current_thread() is threading.main_thread()
