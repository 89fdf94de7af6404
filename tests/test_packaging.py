"""What is installed: the files of the wheel, and how much the dependencies weigh."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
MAX_INSTALLED = 325_000_000  # all but the built-in model's weights, which have a limit of their own
MAX_POCKET = 25_000_000
WEIGHTS = ROOT / "laplm" / "pocket" / "model.safetensors"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: list[str]) -> set[str]:
    """These distributions and all that they need here, by normal name."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = normal(requirement.name)
        asked = [name, *(f"{name}[{e}]" for e in requirement.extras)]
        if found >= set(asked):
            continue
        found.update(asked)
        for text in importlib.metadata.requires(name) or []:
            waiting += [(Requirement(text), e) for e in ("", *requirement.extras)]
    return {name for name in found if "[" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of the tree as it is, built in a copy of it and without a network."""
    tree = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "work", "results", "*.egg-info")
    for name in ("laplm", "tests", "recipes", "benchmarks", "notebooks"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    program = "from setuptools.build_meta import build_wheel as b; b('dist')"
    done = subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (tree / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names}
    name = f"laplm-{PROJECT['version']}"
    assert tops == {"laplm", f"{name}.dist-info", f"{name}.data"}
    # What stands beside the package: the talk's notebooks, and nothing else.
    beside = {each for each in names if each.startswith(f"{name}.data/")}
    notebooks = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert beside == {f"{name}.data/data/share/laplm/notebooks/{each}" for each in notebooks}
    assert len(notebooks) == 6
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "laplm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("laplm/")} == source
    assert {
        "laplm/py.typed",
        "laplm/pocket/model.safetensors",
        "laplm/pocket/tokenizer.json",
        "laplm/pocket/SHA256SUMS",
        "laplm/pocket/MODEL_CARD.md",
    } <= names


def test_the_built_in_model_is_small_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    sizes = [i.file_size for i in wheel.infolist() if i.filename.startswith("laplm/pocket/")]
    assert 1_000_000 < sum(sizes) <= MAX_POCKET


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    info = f"laplm-{PROJECT['version']}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()
    assert "laplm = laplm.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert "Tag: py3-none-any" in wheel.read(f"{info}/WHEEL").decode()


def test_what_is_installed_needs_no_torch_and_weighs_little() -> None:
    names = closure(PROJECT["dependencies"])
    assert {"llvmlite", "numpy", "tokenizers", "huggingface-hub"} <= names
    assert not {"torch", "transformers", "tensorflow", "scipy", "pydantic"} & names
    files = {path for path in (ROOT / "laplm").rglob("*") if path.is_file()} - {WEIGHTS}
    size = sum(path.stat().st_size for path in files)
    for name in names:
        for file in importlib.metadata.files(name) or []:
            path = Path(str(file.locate()))
            if path.is_file():
                size += path.stat().st_size
    assert 50_000_000 < size <= MAX_INSTALLED, f"{size:,} bytes"


def test_the_extras_are_those_that_messages_name() -> None:
    extras = set(PROJECT["optional-dependencies"])
    assert extras == {"tune", "look", "export", "serve", "talk", "docs", "recipe", "test", "dev"}
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "laplm").rglob("*.py"))
    named = set(re.findall(r"laplm\[(\w+)\]", code))
    named |= set(re.findall(r'MissingExtraError\([^)]*"(\w+)"\)', code))
    assert "tune" in named
    assert named <= extras


def test_constraints_pin_everything_that_is_installed_for_the_tests() -> None:
    lines = [line for line in CONSTRAINTS.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    assert list(pinned) == sorted(pinned, key=str.lower)
    assert "+" not in CONSTRAINTS  # a build of one index cannot be had from another
    extras = PROJECT["optional-dependencies"]
    # What "test" asks for of our own extras, and itself.
    own = ("docs", "look", "recipe", "talk", "test", "tune")
    asked = {text for extra in own for text in extras[extra] if not text.startswith("laplm")}
    needed = closure([*PROJECT["dependencies"], *sorted(asked)])
    # What a build of torch with CUDA brings is pinned by that build itself.
    cuda = re.compile(r"nvidia-.*|cuda-.*|triton.*")
    needed = {name for name in needed if not cuda.fullmatch(name)}
    assert needed <= {*map(normal, pinned)}
