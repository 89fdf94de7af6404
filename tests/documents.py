"""What the documents show: their blocks, and how each is run and compared.

A fenced block is run unless the line before it is ``<!-- not run in the tests: reason -->`` or
``<!-- run by .ci/run -->``, and what a session shows is compared unless that line is
``<!-- output not compared: reason -->``. ``<!-- run with SmolLM2, or a stand-in -->`` is for a
block that wants a model to talk to, as a file and in a store of Ollama's: where the tests were not
given that model, the built-in one stands in for it, and the output is not compared. Blocks of one
document run in its order and in one directory, so that a page may use what it made further up.
``python -m tests.documents [FILE ...]`` writes the output of today into them.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
BY_CI = "<!-- run by .ci/run -->"
WITH_SMOLLM2 = "<!-- run with SmolLM2, or a stand-in -->"
INSTALLED = "…/site-packages"  # where the package is, whatever machine this is
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NOT_RUN = re.compile(r"<!-- not run in the tests: \S.* -->")
NOT_COMPARED = re.compile(r"<!-- output not compared: \S.* -->")
# What depends on the machine, or on whether it is the first time (of a day).
ONCE = re.compile(r"(preparing|compiling) .*\(once\)|model \w+: .*")
SECOND_GUARD = re.compile(r"  (guard: network namespace|no second guard|started, not watched)")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    document: str
    line: int
    language: str
    text: str
    note: str


def blocks() -> Iterator[Block]:
    """Every fenced block, with the comment before it, if there is one."""
    for path in DOCUMENTS:
        lines = path.read_text(encoding="utf-8").splitlines()
        start = 0
        for i, line in enumerate(lines):
            if not line.startswith("```"):
                continue
            if not start:
                start = i + 1
                continue
            before = lines[start - 2] if start > 1 else ""
            note = before if before.startswith("<!--") else ""
            text = "\n".join(lines[start:i])
            yield Block(name_of(path), start, lines[start - 1][3:], text, note)
            start = 0
        assert not start, f"{path.name}:{start}: a block without an end"


def where(block: Block) -> str:
    return f"{block.document}:{block.line}"


def runs(block: Block) -> bool:
    return block.note != BY_CI and not NOT_RUN.fullmatch(block.note)


BLOCKS = list(blocks())


def place_smollm2(directory: Path) -> None:
    """Put SmolLM2, or the built-in model for it, there: as a file, and as Ollama keeps it."""
    file, store = directory / GGUF, directory / "ollama"
    if file.exists():
        return
    given = os.environ.get("LAPLM_TEST_SMOLLM2")
    if given:
        shutil.copy(given, file)
    else:
        shell(f"laplm export pocket --precision q8_0 --out {GGUF}", directory)
    digest = "0123456789abcdef" * 4
    (store / "blobs").mkdir(parents=True)
    (store / "blobs" / f"sha256-{digest}").hardlink_to(file)
    manifest = store / "manifests/registry.ollama.ai/library/smollm2/135m"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}), encoding="utf-8")


def shell(command: str, directory: Path) -> str:
    """What a command writes, ``laplm`` and ``python`` being those of these tests."""
    programs = directory / "programs"
    programs.mkdir(exist_ok=True)
    for name, words in (("laplm", "-m laplm "), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', encoding="utf-8")
        program.chmod(0o755)
    # torchrun stands beside python.
    beside = Path(sys.executable).parent
    path = os.pathsep.join([str(programs), str(beside), os.environ["PATH"]])
    ollama = directory / "ollama"
    store = {"OLLAMA_MODELS": str(ollama)} if ollama.is_dir() else {}
    done = subprocess.run(
        ["sh", "-e", "-c", command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", cwd=directory,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | store,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def lines_of(output: str) -> list[str]:
    """Without the lines that come only the first time, or only on some machines."""
    return [
        line for line in output.replace(str(ROOT), INSTALLED).splitlines()
        if not ONCE.fullmatch(line) and not SECOND_GUARD.match(line)
    ]  # fmt: skip


def same_but_for_figures(line: str) -> str:
    return re.sub(r"\b# threads\b", "# thread", re.sub(r"\d[\d,.]*", "#", line))


def console(block: Block) -> list[tuple[str, str]]:
    """The commands of a session, and the output that is shown below each."""
    parts = re.split(r"^\$ (.*)\n?", block.text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"{where(block)}: a session begins with a command"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def is_compared(block: Block) -> bool:
    if block.note == WITH_SMOLLM2:
        return "LAPLM_TEST_SMOLLM2" in os.environ
    return not NOT_COMPARED.fullmatch(block.note)


def run(block: Block, directory: Path) -> None:
    """Run a block; a session's output must be what is shown, but for figures."""
    if block.note == WITH_SMOLLM2:
        place_smollm2(directory)
    if block.language == "console":
        for command, shown in console(block):
            came = lines_of(shell(command, directory))
            if not is_compared(block):
                continue
            expected, seen = (
                [*map(same_but_for_figures, lines)] for lines in (lines_of(shown), came)
            )
            change = "\n".join(difflib.unified_diff(expected, seen, "shown", "came", lineterm=""))
            assert expected == seen, f"{where(block)}\n{change}"
    elif block.language == "sh":
        shell(block.text, directory)
    elif block.language == "python":
        done = subprocess.run(
            [sys.executable, "-c", block.text],
            capture_output=True, encoding="utf-8", cwd=directory,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
        assert done.returncode == 0, f"{where(block)}\n{done.stderr}"
        assert done.stdout.strip(), where(block)


def blocks_of(path: Path) -> list[Block]:
    """Those that are run."""
    return [block for block in BLOCKS if block.document == name_of(path) and runs(block)]


def update(paths: list[Path]) -> None:
    """Write the output of today into every session of these documents."""
    os.environ["HF_HOME"] = tempfile.mkdtemp()
    for path in paths:
        text = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as name:
            shell("laplm run -m pocket -n 1 .", Path(name))  # the first time is another one
            for block in blocks_of(path):
                if block.note == WITH_SMOLLM2:
                    if "LAPLM_TEST_SMOLLM2" not in os.environ:
                        continue
                    place_smollm2(Path(name))
                if block.language != "console":
                    run(block, Path(name))
                    continue
                new = ""
                for command, _ in console(block):
                    came = shell(command, Path(name)).replace(str(ROOT), INSTALLED).splitlines()
                    lines = [line for line in came if not ONCE.fullmatch(line)]
                    new += "\n".join([f"$ {command}", *lines, ""])
                text = text.replace(block.text + "\n```", new + "```")
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    update([Path(word).resolve() for word in sys.argv[1:]] or DOCUMENTS)
