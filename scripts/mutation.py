"""Break the code in a fixed sample of places, one at a time, and see whether a test notices.

    python -m pytest tests/model tests/run tests/tune tests/serve tests/cli \
        -p pytest_cov --cov=laplm --cov-context=test --cov-report=
    python scripts/mutation.py --coverage .coverage --count 300 --out mutants.jsonl

The wrong changes are cosmic-ray's, at most one for each place in the source, annotations left
out. Each is written into a copy of the repository; a forked process, which has the large
libraries loaded already, runs the tests that reach the changed line (``--coverage``), the quickest
first, and stops at the first failure. Then come the test files of the module's own name, which
may start other processes. Needs ``pip install cosmic-ray pytest-cov``, and a system that forks.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
MODULES = (
    "laplm/serve/*.py", "laplm/run/*.py", "laplm/tune/trainer.py", "laplm/tune/data/packing.py",
    "laplm/tune/loss.py", "laplm/tune/data/corpus.py", "laplm/model/engine/kv_cache.py",
    "laplm/model/engine/quantize.py", "laplm/model/files/checkpoint.py", "laplm/model/tokenizer.py",
)  # fmt: skip
PRELOADED = ("torch", "transformers", "tokenizers", "httpx", "fastapi", "hypothesis")
MOST_TESTS = 40


def annotation_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations and imports for type checkers stand: nothing there is ever run."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        parts: list[Any] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            every += [a for a in (arguments.vararg, arguments.kwarg) if a]
            parts = [node.returns, *(a.annotation for a in every)]
        elif isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            parts = [node]
        spans += [((p.lineno, p.col_offset), (p.end_lineno, p.end_col_offset)) for p in parts if p]
    return spans


def sample(root: Path, patterns: list[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Mutants drawn evenly over all places of the modules, the same for a seed and sources."""
    from cosmic_ray.commands.init import _all_work_items

    os.chdir(root)
    paths = sorted(p for pattern in patterns for p in Path().glob(pattern))
    spans = {str(p): annotation_spans(p.read_text(encoding="utf-8")) for p in paths}
    places: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for item in _all_work_items(paths, {}):
        for spec in item.mutations:
            module, start, end = str(spec.module_path), spec.start_pos, spec.end_pos
            if any(a <= start and end <= b for a, b in spans[module]):
                continue
            mutant = {
                "module": module, "line": start[0], "operator": spec.operator_name,
                "occurrence": spec.occurrence, "arguments": spec.operator_args,
            }  # fmt: skip
            places.setdefault((module, start, end), []).append(mutant)
    draw = random.Random(seed)
    chosen = draw.sample(sorted(places, key=str), min(count, len(places)))
    return [draw.choice(places[place]) for place in chosen]


def mutated(source: str, mutant: dict[str, Any]) -> str | None:
    """The source with one wrong change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    operator = get_operator(mutant["operator"])(**mutant["arguments"])
    return mutate_code(source, operator, mutant["occurrence"])


class Selection:
    """Which tests to run for a line: those that reach it, the quickest of them first."""

    def __init__(self, root: Path, coverage_file: Path | None, junit: Path | None) -> None:
        self._root = root
        self._seconds: dict[str, float] = {}
        if junit:
            import xml.etree.ElementTree as ElementTree

            for case in ElementTree.parse(junit).iter("testcase"):
                file = case.get("classname", "").replace(".", "/") + ".py"
                name = f"{file}::{case.get('name')}"
                self._seconds[name] = float(case.get("time", 0))
        self._data: Any = None
        if coverage_file:
            from coverage import CoverageData

            self._data = CoverageData(str(coverage_file))
            self._data.read()

    def tests(self, module: str, line: int) -> list[str]:
        """Test ids that reach the line, else none."""
        if self._data is None:
            return []
        for file in self._data.measured_files():
            if file.endswith("/" + module):
                by_line = self._data.contexts_by_lineno(file)
                contexts = [c for c in by_line.get(line, []) if c]
                if not contexts:  # run when the module is imported: whoever uses it may notice
                    contexts = [c for those in by_line.values() for c in those if c]
                names = {c.partition("|")[0] for c in contexts}
                ordered = sorted(names, key=lambda name: self._seconds.get(name, 1.0))
                # Ten of the quickest, and the rest from all over, so that it is not one file's.
                rest = ordered[10:]
                random.Random(line).shuffle(rest)
                return ordered[:10] + rest[: MOST_TESTS - 10]
        return []

    def files(self, module: str) -> list[str]:
        """The test files that bear the module's name."""
        room, name = Path(module).parent.relative_to("laplm"), Path(module).stem
        found = sorted((self._root / "tests" / room).glob(f"test_{name}*.py"))
        return [str(path.relative_to(self._root)) for path in found]


class WarmKernels:
    """A pytest plugin: compiled kernels of an earlier run are there from the start."""

    def __init__(self, seed: Path) -> None:
        self._seed = seed

    def pytest_runtest_setup(self, item: Any) -> None:
        """Hand the kernels over when the session's own cache directory is known."""
        home = Path(os.environ.get("LAPLM_HOME", "")) / "kernels"
        if "pytest" in str(home) and not home.exists():
            shutil.copytree(self._seed, home)

    def pytest_sessionfinish(self, session: Any) -> None:
        """Keep what was compiled."""
        home = Path(os.environ.get("LAPLM_HOME", "")) / "kernels"
        if "pytest" in str(home) and home.exists():
            for file in home.glob("*.o"):
                if not (self._seed / file.name).exists():
                    shutil.copy(file, self._seed / file.name)


def child_runs(root: Path, words: list[str], log: Path, seed: Path) -> None:
    """Run tests in this (forked) process and end it with pytest's exit status."""
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    import pytest

    options = ["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "--timeout=60"]
    status = pytest.main([*options, *words], plugins=[WarmKernels(seed)])
    os._exit(int(status))


def run_tests(root: Path, words: list[str], log: Path, seed: Path, limit: float) -> str:
    """``noticed``, ``survived`` or ``timed out`` (which is noticed too)."""
    child = os.fork()
    if child == 0:
        try:
            child_runs(root, words, log, seed)
        finally:
            os._exit(99)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "survived" if code in (0, 5) else "noticed"
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timed out"


def outcomes(
    root: Path, mutants: list[dict[str, Any]], selection: Selection, limit: float
) -> Iterator[dict[str, Any]]:
    """Each mutant with what became of it."""
    log, seed = root.parent / "tests.log", root.parent / "kernels"
    seed.mkdir(exist_ok=True)
    for mutant in mutants:
        file = root / mutant["module"]
        source = file.read_text(encoding="utf-8")
        changed = mutated(source, mutant)
        if changed is None or changed == source:
            continue
        old, new = source.splitlines(), changed.splitlines()
        where = next(i for i, (a, b) in enumerate(zip(old, [*new, ""], strict=False)) if a != b)
        log.write_text("")
        began = time.monotonic()
        file.write_text(changed, encoding="utf-8")
        try:
            result = "survived"
            tests = selection.tests(mutant["module"], mutant["line"])
            for words in (tests, selection.files(mutant["module"])):
                if words and result == "survived":
                    result = run_tests(root, words, log, seed, limit)
        finally:
            file.write_text(source, encoding="utf-8")
        yield mutant | {
            "result": result, "was": old[where].strip(), "is": new[where].strip(),
            "tests": len(tests), "seconds": round(time.monotonic() - began, 1),
            "by": [row for row in log.read_text().splitlines() if row.startswith("FAILED")][:1],
        }  # fmt: skip


def main() -> None:
    """Draw, break, test, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modules", nargs="+", default=list(MODULES), metavar="PATTERN")
    parser.add_argument("--coverage", type=Path, help="coverage data with a context for each test")
    parser.add_argument("--junit", type=Path, help="pytest's --junitxml, for the tests' times")
    parser.add_argument("--limit", type=float, default=180, help="seconds for a mutant's tests")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; what is there is kept")
    parser.add_argument("--again", type=Path, help="only the survivors of such a file")
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="laplm-mutants-") as scratch:
        root = Path(scratch) / "laplm"
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".venv", ".hypothesis")
        shutil.copytree(REPOSITORY, root, ignore=ignored)
        selection = Selection(
            root, chosen.coverage and chosen.coverage.resolve(), chosen.junit and chosen.junit
        )
        out = chosen.out.resolve()
        if chosen.again:
            rows = [json.loads(row) for row in chosen.again.read_text().splitlines()]
            mutants = [row for row in rows if row["result"] == "survived"]
        else:
            mutants = sample(root, chosen.modules, chosen.count, chosen.seed)
        done = len(out.read_text().splitlines()) if out.exists() else 0
        for name in PRELOADED:
            with contextlib.suppress(ImportError):
                __import__(name)
        results: dict[str, int] = {}
        with out.open("a", encoding="utf-8") as record:
            for row in outcomes(root, mutants[done:], selection, chosen.limit):
                results[row["result"]] = results.get(row["result"], 0) + 1
                record.write(json.dumps(row) + "\n")
                record.flush()
                print(f"{row['result']:9} {row['seconds']:6.1f} s  {row['module']}:{row['line']}  "
                      f"{row['was']}  ->  {row['is']}", flush=True)  # fmt: skip
        print(results)


if __name__ == "__main__":
    main()
