"""The documents are true: commands and Python in them run, output that they show is what comes."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from laplm import cli
from laplm.cli.main import make_parser
from laplm.look import VIEWS
from laplm.model.config import NAMED_SIZES
from laplm.model.engine import packing, quantize
from laplm.model.engine.formats import FORMATS
from laplm.model.engine.kv_cache import KVCache, bytes_per_position
from laplm.model.families import tensor_specs
from laplm.model.shapes import SHAPES
from tests import documents
from tests.documents import BLOCKS, BY_CI, DOCUMENTS, ROOT, WITH_SMOLLM2, name_of, runs, where

README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
MEMORY = (ROOT / "docs/how/memory.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if documents.blocks_of(path)], ids=name_of
)
def test_what_a_document_shows_is_what_comes(document: Path, tmp_path: Path) -> None:
    for block in documents.blocks_of(document):
        if sys.platform != "win32" or block.language == "python":  # the rest is for a Unix shell
            documents.run(block, tmp_path)


def test_blocks_are_of_a_kind_that_is_run_or_no_command_at_all() -> None:
    for block in BLOCKS:
        assert block.language in ("sh", "console", "python", ""), where(block)
        command = re.search(r"^\$? ?(laplm|python|pip|\.venv/bin/\w+) ", block.text, re.MULTILINE)
        assert block.language or not command, f"{where(block)}: say sh or console"
        known = block.note == WITH_SMOLLM2 or documents.NOT_COMPARED.fullmatch(block.note)
        if block.note and runs(block) and not known:
            raise AssertionError(f"{where(block)}: {block.note} means nothing")


def test_the_two_commands_at_the_top_are_those_that_ci_runs() -> None:
    first, second = (b.text for b in BLOCKS if b.note == BY_CI and b.document == "README.md")
    assert [b.text for b in BLOCKS if b.language == "sh"].index(first) is not None
    assert 'laplm run "Once upon a time, there was a little girl"' in first
    assert "-m pytest" in second
    for command in (first, second):
        assert command.startswith("python3 -m venv .venv && ")
        assert "-c constraints.txt" in command
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert BY_CI.replace(".", r"\.").replace("/", r"\/") in script
    # What the script's awk finds is what is found here.
    function = script[script.index("command_from_readme() {") : script.index("\nrun() {")]
    for number, command in ((1, first), (2, second)):
        found = subprocess.run(
            ["bash", "-c", f"{function}\ncommand_from_readme {number}"],
            capture_output=True, text=True, cwd=ROOT, check=True,
        )  # fmt: skip
        assert found.stdout.rstrip("\n") == command


def test_the_readme_is_read_in_one_sitting() -> None:
    lines = README.splitlines()
    assert len(lines) <= 220
    pictures = re.findall(r"!\[.+\]\((docs/images/[\w.]+)\)", README)
    assert len(pictures) >= 2
    assert next(i for i, line in enumerate(lines) if line.startswith("![")) < 10
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < 150_000, picture


def verbs() -> set[str]:
    help_text = make_parser().format_help().split("COMMAND\n", 1)[1]
    return set(re.findall(r"^    (\w+)", help_text, re.MULTILINE))


def test_every_command_has_its_line_and_every_line_its_command() -> None:
    table = SETTINGS.split("| command | does |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `laplm (\w+)", table, re.MULTILINE)) == verbs()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_that_are_named_have_a_help_text(
    document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = document.read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"(?:`|^\$ |bin/)laplm ([a-z]+)", text, re.MULTILINE))):
        assert cli.main([name, "--help"]) == 0, name
        assert f"\nusage: laplm {name} " in capsys.readouterr().out


def test_options_that_are_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [README, SETTINGS, *(b.text for b in BLOCKS if b.language in ("sh", "console"))]
    there, named = verbs(), dict[tuple[str, ...], set[str]]()  # a view has options of its own
    for verb, rest in re.findall(r"laplm ([a-z]+)((?: [^\n`|]*)?)", "\n".join(texts)):
        if verb not in there or verb == "audit":
            continue
        view = re.match(r" ([a-z]+)", rest) if verb == "look" else None
        command = (verb, view[1]) if view else (verb,)
        named.setdefault(command, set()).update(re.findall(r"(?<= )--?[a-z][a-z-]*", rest))
    assert named
    for command, options in named.items():
        cli.main([*command, "--help"])
        known = capsys.readouterr().out
        for option in options:
            assert re.search(rf"(?<![\w-]){option}\b", known), f"laplm {' '.join(command)} {option}"


def test_variables_that_are_named_are_those_that_are_read() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("laplm/**/*.py"))
    table = SETTINGS.split("| variable | is |")[1].split("\n\n")[0]
    read = set(re.findall(r'environ(?:\.get\(|\[)"(LAPLM_\w+)"', code))
    assert set(re.findall(r"`(LAPLM_\w+)`", table)) == read
    assert "`HF_HOME`" in table


def test_the_tree_is_the_tree() -> None:
    tree = ARCHITECTURE.split("## The tree")[1].split("```")[1]
    folders: list[str] = []
    shown = set()
    for line in tree.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.findall(r"(?:^|(?<=\s))[\w/]+(?:\.py|/)(?=\s|$)", line.split("  extra")[0])
        if names[0].endswith("/"):
            folders[depth:] = [names[0]]
        shown |= {"".join([*folders[:depth], name]) for name in names}
    # A view is a file of its own and named after it: the directory says enough.
    modules = [path for path in ROOT.glob("laplm/**/*.py") if path.parent.name != "views"]
    there = {path.relative_to(ROOT).as_posix() for path in modules}
    assert {name for name in shown if name.endswith(".py")} == {
        path for path in there if not path.endswith(("__init__.py", "__main__.py"))
    }
    for name in shown:
        if name.endswith("/"):
            assert (ROOT / name).is_dir(), name


def test_what_the_readme_counts_is_as_many() -> None:
    commands = [entry.name for entry in VIEWS if not entry.command]
    words = {19: "Nineteen", 20: "Twenty", 21: "Twenty-one", 22: "Twenty-two"}
    assert f"[{words[len(commands)]} views]" in README
    cells = [
        cell
        for path in ROOT.glob("notebooks/[0-9]*.ipynb")
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    ]
    slides = [c for c in cells if c["metadata"].get("slideshow", {}).get("slide_type") == "slide"]
    assert f"[{len(slides)} slides]" in README


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        assert (document.parent / link).exists(), link


def test_the_memory_table_is_what_the_layouts_need() -> None:
    table = MEMORY.split("## Weights")[1].split("##")[0]
    rows = {
        name: [float(cell.replace(",", "").split()[0]) for cell in cells]
        for name, *cells in (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in table.splitlines()
            if line.startswith(("| gpt2", "| distil"))
        )
    }
    assert rows.keys() == NAMED_SIZES.keys()
    bytes_of = {"F32": 4, "F16": 2, "U8": 1}
    for name, config in NAMED_SIZES.items():
        sizes = []
        for precision in ("fp32", "int8", "int4"):
            size = 0
            for spec in tensor_specs(config).values():
                if spec.is_linear or spec.role == "embed":  # which is the output matrix too
                    how = (
                        precision if spec.is_linear else quantize.output_matrix_precision(precision)
                    )
                    n_out, n_in = spec.shape if spec.layout == "out_in" else spec.shape[::-1]
                    for code, shape in packing.shapes(FORMATS[how], n_out, n_in):
                        size += bytes_of[code] * math.prod(shape)
            sizes.append(round(size / 1e6))
        position = round(KVCache(config, "int8").bytes_per_position / 1e3)
        assert rows[name] == [round(config.n_parameters / 1e6), *sizes, position], name


def test_the_table_of_contexts_is_what_models_take() -> None:
    rows = re.findall(
        r"^\| (\S+) \| (\d+) kB \| ([\d.]+) ([MG])B \(([\d,]+)\) \|$", MEMORY, re.MULTILINE
    )
    assert len(rows) == 3
    for name, position, whole, unit, n_ctx in rows:
        config = SHAPES[name]
        each = bytes_per_position(config, "int8")
        assert (f"{each / 1e3:.0f}", f"{config.n_ctx:,}") == (position, n_ctx), name
        assert f"{each * config.n_ctx / (1e9 if unit == 'G' else 1e6):.1f}" == whole, name


def test_documents_name_no_machine_and_no_one() -> None:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(root|home|work|tmp|Users)/", text), path.name
