"""ARCHITECTURE.md's rules of who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import laplm

PACKAGE = Path(laplm.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Room -> rooms that it may import. `laplm` is the package's own version and public names.
MAY_IMPORT = {
    "errors": set(),
    "bounds": {"errors"},
    "progress": set(),
    "files": {"errors"},
    "home": {"errors", "files"},
    "machine": set(),
    "html_page": set(),
    "metrics": {"errors"},
    "tune_config": {"errors", "bounds"},
    "built_in": {"errors"},
    "native": {"errors", "files", "home", "progress"},
    "model": {"errors", "files", "home", "native", "progress"},
    "hub": {"errors", "files", "home", "progress", "built_in", "model", "laplm"},
    "run": {"errors", "bounds", "progress", "machine", "native", "hub", "model"},
    "look": {"errors", "files", "html_page", "metrics", "progress", "model", "run"},
    "tune": {
        "errors",
        "bounds",
        "built_in",
        "files",
        "home",
        "html_page",
        "metrics",
        "progress",
        "machine",
        "native",
        "model",
        "tune_config",
    },
    "serve": {
        "errors",
        "bounds",
        "built_in",
        "files",
        "home",
        "metrics",
        "tune_config",
        "progress",
        "machine",
        "hub",
        "model",
        "run",
        "look",
        "laplm",
    },
    "web": set(),
    "talk": {"built_in", "errors", "files", "hub", "look", "model", "run"},
    "audit": set(),
}
# Beyond the standard library, NumPy, which model, run and look compute with.
LIBRARIES = {
    "cli": {"numpy", "rich", "shtab"},
    "home": {"platformdirs"},
    "machine": {"psutil"},
    "hub": {"filelock", "huggingface_hub"},
    "native": {"llvmlite", "numpy", "psutil"},
    "model": {"gguf", "jinja2", "llvmlite", "numpy", "regex", "tokenizers", "torch", "xxhash"},
    "run": {"numpy"},
    "look": {"matplotlib", "numpy", "pandas"},
    "tune": {
        "datasets",
        "filelock",
        "gguf",
        "llvmlite",
        "matplotlib",
        "numpy",
        "pyarrow",
        "pydivsufsort",
        "rich",
        "torch",
    },
    "serve": {
        "fastapi",
        "jinja2",
        "numpy",
        "prometheus_client",
        "pydantic",
        "starlette",
        "uvicorn",
    },
    "talk": {
        "IPython",
        "latex2mathml",
        "matplotlib",
        "nbclient",
        "nbconvert",
        "nbformat",
        "numpy",
        "pygments",
    },
}
TORCH_OUTSIDE_TUNE = {"model/files/torch_file.py"}  # pytorch_model.bin, through weights_only
# audit's report comes after the command line has handed over.
# A line that is typed comes with its prompt.
PRINTS = {"cli/main.py", "cli/output.py", "cli/terminal.py", "cli/line_reader.py", "audit.py"}

# Modules without a test file of their name, by what else has all of their tests, and why. Families
# are tested together (tests/model/families): each test there is one of all of them.
TESTED_IN = {
    # One of several that are only right together: held against transformers as a whole.
    "model/reference.py": "model/families/test_families.py",
    "model/tensors.py": "model/families/test_families.py",
    "model/weights.py": "model/families/test_families.py",
    "model/engine/kernel_args.py": "model/engine/test_model.py",
    "model/engine/kernels/forward.py": "model/engine/test_model.py",
    # A part that one other module alone asks for.
    "look/target.py": "look/views/test_logit_attribution.py",
    "look/unembedding.py": "look/views/test_logit_lens.py",
    "look/prompt_pieces.py": "look/views/test_chat.py",
    "look/views/continuations.py": "look/views/test_steering.py",
    "cli/line_reader.py": "cli/test_chat.py",
    "model/engine/formats.py": "model/engine/test_packing.py",
    "model/engine/packed_weights.py": "model/engine/test_matrices.py",
    "model/engine/group_search.py": "model/engine/test_quantize.py",
    "model/engine/kernels/probe.py": "run/test_bench.py",
    "model/files/gguf_tokenizer_writer.py": "model/files/test_export.py",
    "model/tokenizer_file.py": "model/test_tokenizer.py",
    "tune/kernels/adamw_kernel.py": "tune/optim/test_adamw.py",
    "tune/kernels/attention_kernel.py": "tune/kernels/test_attention.py",
    "tune/kernels/pointwise_kernel.py": "tune/kernels/test_pointwise.py",
    # What it gives is seen only in what is built of it.
    "look/view.py": "look/test_registry.py",
    "native/simd.py": "native/test_lower.py",
    "progress.py": "cli/test_progress.py",
    "tune/kernels/numbers.py": "tune/kernels/test_attention_tiles.py",
}


class Import(NamedTuple):
    module: str
    line: int
    in_function: bool
    for_types: bool


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import of a module, wherever it stands, by full name."""
    package = module if is_package else module.rpartition(".")[0]

    def walk(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            names = [f"{base}.{alias.name}" if base == "laplm" else base for alias in node.names]
        for name in names:
            yield Import(name, getattr(node, "lineno", 0), in_function, for_types)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typed = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside, for_types or typed)

    yield from walk(tree, False, False)


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room(module: str) -> str:
    """``laplm.model.engine.model`` is in gpt; ``laplm`` itself, or a name of it, is in laplm."""
    part = [*module.split("."), ""][1]
    is_room = (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()
    return part if part and is_room else "laplm"


@cache
def tree_of(file: Path) -> ast.AST:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def of(file: Path) -> list[Import]:
    return list(imports(tree_of(file), name_of(file), file.name == "__init__.py"))


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def is_allowed(each: Import, here: str) -> bool:
    """Whether a module of the room ``here`` may import this."""
    top = each.module.split(".")[0]
    if top != "laplm":
        return top in sys.stdlib_module_names or top in LIBRARIES.get(here, set())
    there = room(each.module)
    if here in ("cli", "__main__"):
        # Every room, but where it costs nothing until a command needs it.
        return each.in_function or each.for_types or there in ("cli", "errors", "laplm")
    if here == "laplm":
        return each.for_types
    return there == here or there in MAY_IMPORT[here]


def test_rooms_import_only_what_they_may() -> None:
    assert MODULES
    wrong = [
        f"{relative(file)}:{each.line} imports {each.module}"
        for file in MODULES for each in of(file)
        if not is_allowed(each, room(name_of(file)))
    ]  # fmt: skip
    assert not wrong


def test_torch_is_imported_only_where_it_must_be() -> None:
    wrong = [
        f"{relative(file)}:{each.line}"
        for file in MODULES for each in of(file)
        if each.module.split(".")[0] == "torch" and not relative(file).startswith("tune/")
        and not (each.in_function and relative(file) in TORCH_OUTSIDE_TUNE)
    ]  # fmt: skip
    assert not wrong


def test_only_the_command_line_prints() -> None:
    wrong = []
    for file in MODULES:
        if relative(file) in PRINTS:
            continue
        for node in ast.walk(tree_of(file)):
            prints = isinstance(node, ast.Name) and node.id in ("print", "input")
            stream = isinstance(node, ast.Attribute) and node.attr in ("stdout", "__stdout__")
            # What a process that we started prints is another matter.
            if prints or (stream and ast.unparse(node.value) != "process"):
                wrong.append(f"{relative(file)}:{node.lineno}")
    assert not wrong


def test_every_module_has_a_test_file_of_its_name_or_is_known_to_be_tested_elsewhere() -> None:
    tests = Path(__file__).parent
    modules = [file.relative_to(PACKAGE) for file in MODULES if not file.name.startswith("__")]
    without = {
        module.as_posix()
        for module in modules
        if not (tests / module.parent / f"test_{module.name}").is_file()
    }
    without = {name for name in without if not name.startswith("model/families/")}
    assert sorted(without - TESTED_IN.keys()) == [], "a file of their name is missing"
    assert sorted(TESTED_IN.keys() - without) == [], "they have one now"
    assert all((tests / name).is_file() for name in TESTED_IN.values())


def test_every_room_has_its_rule() -> None:
    rooms = {room(name_of(file)) for file in MODULES}
    assert rooms - MAY_IMPORT.keys() == {"laplm", "cli", "__main__"}


def test_the_table_in_architecture_md_is_this_one() -> None:
    text = PACKAGE.parent.joinpath("ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text, re.MULTILINE)
    shown = {name: set(re.findall(r"`(\w+)`", allowed)) for name, allowed in rows}
    rooms = {room(name_of(file)) for file in MODULES} - {"laplm", "cli", "__main__"}
    assert {name: shown[name] for name in rooms} == {
        name: MAY_IMPORT[name] - {"laplm"} for name in rooms
    }


def test_loading_and_running_do_not_import_torch() -> None:
    names = [name_of(file) for file in MODULES]
    names = [n for n in names if n != "laplm.__main__" and room(n) != "tune"]
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split())
    assert {
        "laplm.model.engine.model",
        "laplm.run.generate",
        "laplm.hub.pull",
        "laplm.cli",
    } <= modules
    assert not {"torch", "transformers", "huggingface_hub", "rich"} & modules


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from laplm import hub", ("laplm.hub", False, False)),
        ("from laplm.model.engine.model import GPT", ("laplm.model.engine.model", False, False)),
        ("from . import sampler", ("laplm.run", False, False)),
        ("from ..tune.data import x", ("laplm.tune.data", False, False)),
        ("def f():\n    import torch.nn", ("torch.nn", True, False)),
        ("if TYPE_CHECKING:\n    import laplm.run", ("laplm.run", False, True)),
        ("class A:\n    def f(self):\n        from laplm import tune", ("laplm.tune", True, False)),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, found: tuple[str, bool, bool]) -> None:
    (each,) = imports(ast.parse(source), "laplm.run.generate")
    assert (each.module, each.in_function, each.for_types) == found


def test_json_is_written_in_one_way_which_knows_no_nan() -> None:
    """``json.dumps`` writes NaN and Infinity, at which other programs' parsers stop."""
    written = set()
    for file in MODULES:
        for node in ast.walk(tree_of(file)):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("json.dumps", "json.dump")
                and "allow_nan=False" not in ast.unparse(node)
            ):
                written.add(relative(file))
    # Texts and whole numbers; a model's own files, which are not ours to change.
    rest = {name for name in written if not name.startswith("model/")}
    assert rest <= {"audit.py", "cli/run.py", "tune/lock.py"}


def test_no_function_is_longer_than_eighty_lines() -> None:
    """What a function explains in its docstring is not counted."""
    wrong = []
    for file in MODULES:
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                explained = (ast.get_docstring(node, clean=False) or "").count("\n") + 1
                if (node.end_lineno or 0) - node.lineno + 1 - explained > 80:
                    wrong.append(f"{relative(file)}: {node.name}")
    assert not wrong
