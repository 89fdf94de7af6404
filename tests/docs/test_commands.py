"""Each command's page begins with one example: a command, and what it prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from hub_server import Hub, start

from tests.documents import BLOCKS, ROOT, Block, console, lines_of, runs, same_but_for_figures

PAGES = sorted((ROOT / "docs/commands").glob("*.md"))
# Examples that the documents' own tests cannot run, and where they are run instead.
ELSEWHERE = {
    "bench": "tests/docs/test_commands.py", "pull": "tests/docs/test_commands.py",
    "serve": "tests/docs/test_commands.py", "talk": "tests/talk",
}  # fmt: skip


def example(command: str) -> Block:
    """The first block of its page."""
    return next(block for block in BLOCKS if block.document == f"docs/commands/{command}.md")


def shown(command: str) -> list[str]:
    """What the example's first command prints, but for figures."""
    ((_, output), *_) = console(example(command))
    return [same_but_for_figures(line) for line in lines_of(output)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_begins_with_one_example(page: Path) -> None:
    block = example(page.stem)
    before = page.read_text(encoding="utf-8").split("\n```", 1)[0]
    assert "\n## " not in before and len(before) < 800
    assert block.language == "console", "a command and what it prints"
    sessions = console(block)
    assert any(f"laplm {page.stem}" in command for command, _ in sessions)
    assert any(output.strip() for _, output in sessions)
    assert runs(block) != (page.stem in ELSEWHERE), page.stem
    if page.stem in ELSEWHERE:
        assert ELSEWHERE[page.stem] in block.note


def test_bench_prints_the_lines_of_its_example(laplm_, tiny_model_dir: Path) -> None:
    result = laplm_("bench", "-m", tiny_model_dir, "--repeats", 1)
    assert result.code == 0, result.err
    _, _, *rows = shown("bench")

    def labels(lines: list[str]) -> list[str]:
        return [re.split(r"  +", line)[0] for line in lines]

    came = [same_but_for_figures(line) for line in result.out.splitlines()]
    assert labels(came[-len(rows) :]) == labels(rows)


def test_pull_prints_what_its_example_shows(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    shutil.copytree(tiny_model_dir, files)
    hub = Hub()
    hub.add("openai-community/gpt2", files)
    server = start(hub)
    home = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    network = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1,localhost"}
    try:
        for command, output in console(example("pull")):
            done = subprocess.run(
                ["sh", "-c", command.replace("laplm", f'"{sys.executable}" -m laplm', 1)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                encoding="utf-8", env=os.environ | home | network | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            assert done.returncode == 0, done.stdout
            pattern = ".*".join(re.escape(part) for part in output.strip().split("…"))
            came = "\n".join(lines_of(done.stdout))
            assert re.fullmatch(pattern, came, re.DOTALL), came
    finally:
        server.shutdown()
        server.server_close()


def test_serve_prints_what_its_example_shows() -> None:
    (command, _), *_ = console(example("serve"))
    words = [*command.split()[1:], "--port", "0", "--no-open"]
    with subprocess.Popen(
        [sys.executable, "-m", "laplm", *words], stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            assert process.stderr is not None
            came = []
            for line in process.stderr:
                came.append(line.rstrip("\n"))
                found = re.search(r"the page: (http://\S+?)/ ", line)
                if found:
                    body = {"prompt": "Once upon a time", "max_tokens": 12, "seed": 1}
                    request = urllib.request.Request(
                        f"{found[1]}/v1/completions", json.dumps(body).encode(),
                        {"Content-Type": "application/json"},
                    )  # fmt: skip
                    urllib.request.urlopen(request, timeout=60).read()
                if '"event": "request"' in line:
                    break
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    seen = [same_but_for_figures(line) for line in lines_of("\n".join(came))]

    def without_id(lines: list[str]) -> list[str]:
        return [re.sub(r'"req_[^"]+"', '"req_#"', line) for line in lines]

    assert without_id(seen) == without_id(shown("serve"))
