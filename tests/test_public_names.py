"""What ``import laplm`` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import laplm


def test_public_names_are_sorted_and_all_there() -> None:
    assert laplm.__all__ == sorted(laplm.__all__)
    assert dir(laplm) == laplm.__all__
    for name in laplm.__all__:
        value = getattr(laplm, name)
        assert getattr(value, "__name__", name) == name
        assert name == "__version__" or value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = laplm.nothing


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())
    assert laplm.__version__ == project["project"]["version"]


def test_importing_laplm_imports_nothing_heavy() -> None:
    program = "import sys, laplm; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "torch", "tokenizers", "rich", "laplm.model", "laplm.run"} & {*modules}


def test_the_runtime_never_imports_torch(tiny_model_dir: Path) -> None:
    program = (
        "import sys, laplm; laplm.load(sys.argv[1], 'fp32').generate('The', 3); "
        "print('torch' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program, str(tiny_model_dir)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == "False\n"


def test_names_are_visible_to_type_checkers() -> None:
    tree = Path(laplm.__file__).read_text()
    block = tree.split("if TYPE_CHECKING:")[1].split("__version__ =")[0]
    for name in laplm.__all__:
        assert name == "__version__" or name in block
