"""The course: exercises take their folded answers, refuse usual mistakes with a hint, and wait.

Cells run in one namespace for each notebook, on a model that is loaded once, without a kernel.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laplm.errors import InputError
from laplm.run.evaluate import Document, perplexity
from laplm.run.language_model import LanguageModel
from laplm.talk import exercises
from laplm.talk.exercises import EXERCISES, Exercises, Verdict

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECTION = "## Exercises"

# A usual mistake, and what the hint for it says.
MISTAKES: dict[str, list[tuple[str, str]]] = {
    "parameters": [("answer = 1e12", "Too many: by a factor of"), ("answer = 10", "Too few")],
    "sure": [
        ('answer = "I think that"', r"After it, “.*” has .*; look for 90 %"),
        ("answer = 3", "in quotes"),
    ],
    "n_bytes": [
        ("answer = 32 * lm.config.n_parameters", "Those are bits"),
        ("answer = lm.config.n_parameters", "one byte each"),
    ],
    "feed_forward_share": [
        ("answer = 0.01", "It is more"), ("answer = 53", "divide by all parameters"),
        (
            "answer = sum(p.parameters for p in stats(lm).sizes if p.role in "
            "('qkv', 'q', 'k', 'v', 'attn_out')) / lm.config.n_parameters",
            "attention's share",
        ),
    ],
    "first_tokens": [("answer = 20", "the different ones"), ("answer = 21", "20 draws")],
    "merge": [
        (
            "def merge(pieces, pair):\n"
            "    i = next(i for i in range(len(pieces)) if tuple(pieces[i:i + 2]) == pair)\n"
            "    return pieces[:i] + [''.join(pair)] + pieces[i + 2:]",
            "more than once",
        ),
        ("def merge(pieces, pair):\n    return [''.join(pair)]", "No letter may be lost"),
        ("def merge(pieces, pair):\n    return pieces[99]", "ends with IndexError"),
        ("def merge(pieces, pair):\n    return 3", "a list of pieces"),
        (
            "def merge(pieces, pair):\n"
            "    out = []\n"
            "    for a, b in zip(pieces, pieces[1:] + ['']):\n"
            "        if (a, b) == pair:\n"
            "            out.append(a + b)\n"
            "        elif not out or not (out[-1].endswith(a) and len(out[-1]) > 1):\n"
            "            out.append(a)\n"
            "    return out",
            "no piece used twice",
        ),
    ],
    "norm": [
        ("def norm(x):\n    return x / np.sqrt((x * x).mean(-1, keepdims=True))", "RMSNorm"),
        ("def norm(x):\n    x -= x.mean()\n    return x / x.std()", "Each row by itself"),
        ("def norm(x):\n    return x.mean(-1)", "Its shape is"),
    ],
    "softmax": [
        ("def softmax(x):\n    e = np.exp(x)\n    return e / e.sum(-1, keepdims=True)", "largest"),
        ("def softmax(x):\n    e = np.exp(x - x.max())\n    return e / e.sum()", "each row should"),
        ("def softmax(x):\n    return np.exp(x)", "divide by its sum"),
        ("softmax = np.zeros(3)", "without brackets"),
    ],
    "head": [
        (
            "def head(q, k, v, scale):\n    s = q @ k.T * scale\n    e = np.exp(s)\n"
            "    return e / e.sum(-1, keepdims=True) @ v",
            "sees the future",
        ),
        (
            "def head(q, k, v, scale):\n    s = np.where(np.tri(len(q)) == 1, q @ k.T, -np.inf)\n"
            "    e = np.exp(s - s.max(-1, keepdims=True))\n"
            "    return e / e.sum(-1, keepdims=True) @ v",
            "multiplied by scale",
        ),
        ("def head(q, k, v, scale):\n    return v", "the mask, softmax"),
    ],
    "mask": [("answer = 0", "how it is with the mask"), ("answer = 7", "row 0")],
    "find_head": [
        ("answer = (0, 0)", r"Head 0\.0 gives it .* another one gives more"),
        ("answer = (99, 0)", "The layer first"), ("answer = 4", "two numbers"),
    ],
    "change": [
        ('answer = "A capital of Spain is"', "still comes next"),
        ('answer = "The capital of Spain was not"', "add none"),
        ('answer = "The towns in Spain is"', "2 words are changed"),
    ],
    "stream": [
        (
            "answer = cache['resid_pre', 0] + sum(cache['attn_out', i] "
            "for i in range(lm.config.n_layer))",
            "feed-forwards add something too",
        ),
        ("answer = cache['resid_post', -1] - cache['resid_pre', 0]", "Those are the changes"),
        ("answer = cache['embed']", "resid_pre of layer 0, and"),
    ],
    "leads_from": [("answer = 0", "go higher"), ("answer = 77", "Layers are 0 to")],
    "by_hand": [
        ("answer = (0.622, 0.881)", "The other way round"), ("answer = (1, 1)", "Divide both"),
    ],
    "tempered": [
        (
            "def tempered(logits, temperature):\n"
            "    e = np.exp((logits - logits.max()) * temperature)\n    return e / e.sum()",
            "Divide by the temperature",
        ),
        (
            "def tempered(logits, temperature):\n    return np.exp(logits / temperature)",
            "sum to 1",
        ),
    ],
    "top_k": [
        (
            "def top_k(p, k):\n    return np.where(p >= np.sort(p)[-k], p, 0)",
            "sum to 1 again",
        ),
        ("def top_k(p, k):\n    return p", "it leaves"),
        (
            "def top_k(p, k):\n    out = np.zeros_like(p)\n    out[np.argsort(-p)[:k]] = 1 / k\n"
            "    return out",
            "in the proportions",
        ),
    ],
    "top_p": [
        (
            "p = np.sort(np.exp(exercises.last_logits() - exercises.last_logits().max()))[::-1]\n"
            "answer = int((np.cumsum(p / p.sum()) < TOP_P).sum())",
            "One more",
        ),
        ("answer = 1", "add them up"),
    ],
    "half": [("answer = 5", "colder"), ("answer = 0.06", "warmer"), ("answer = -1", "not take")],
    "perplexity": [
        ("answer = -np.log(exercises.token_probabilities()).mean()", "That is the loss"),
        ("answer = 1 / exercises.token_probabilities().mean()", "not of the probabilities"),
    ],
    "lora": [
        ("answer = lm.config.n_embd * lm.config.n_inner", "stay as they are"),
        ("answer = LORA_RANK * lm.config.n_embd", "two narrow matrices"),
    ],
    "gradient": [
        (
            "def gradient(logits, target):\n    return np.exp(logits) / np.exp(logits).sum()",
            "too high by 1",
        ),
        (
            "def gradient(logits, target):\n    p = -np.exp(logits) / np.exp(logits).sum()\n"
            "    p[target] += 1\n    return p",
            "the way down",
        ),
    ],
    "bound": [
        ("answer = BANDWIDTH / (4 * lm.config.n_parameters)", "That would be fp32"),
        ("answer = lm.config.n_parameters / BANDWIDTH", "seconds per token"),
    ],
    "missed": [("answer = (0, 0)", r"Without 0\.0 .* it falls more")],
}  # fmt: skip
# What a model with random weights cannot do: be sure, say something else, waver just so.
OF_TRAINED_MODELS = {"sure", "change", "half"}


class Course:
    """The exercises of a notebook, on one model."""

    def __init__(self, path: Path, lm: LanguageModel) -> None:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        first = next(i for i, source in enumerate(sources) if source.startswith(SECTION))
        self.cells = cells[first:]
        self.names: dict[str, Any] = {"lm": lm}
        sliders = [cell["id"] for cell in self.cells if "interact(" in "".join(cell["source"])]
        assert all(id_.endswith("-slider") for id_ in sliders)
        n_setup = 2 + len(sliders)
        self.setup = "\n".join(sources[first + 1 : first + n_setup])
        tasks = sources[first + n_setup :]
        self.tasks: dict[str, tuple[str, str, str]] = {}
        for task, code, answer in zip(tasks[::3], tasks[1::3], tasks[2::3], strict=True):
            (name,) = re.findall(r'exercises\.check\("(\w+)"', code)
            self.tasks[name] = (task, code, answer)

    def run(self, source: str) -> Any:
        """What a cell gives: the value of its last line."""
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), self.names)
        if not isinstance(last, ast.Expr):
            return None
        return eval(compile(ast.Expression(last.value), "cell", "eval"), self.names)

    def folded(self, name: str) -> str:
        """The answer's code."""
        found = re.fullmatch(
            r"<details><summary>Answer</summary>\n\n```python\n(.*)\n```\n\n</details>",
            self.tasks[name][2], re.DOTALL,
        )  # fmt: skip
        assert found, self.tasks[name][2]
        return found[1]

    def verdict(self, name: str, answer: str | None = None) -> Verdict:
        """What is said of the cell as it is, or of an answer put into it."""
        code = self.tasks[name][1]
        if answer is not None:
            self.run(answer)
            code = code.rstrip().splitlines()[-1]
        verdict = self.run(code)
        assert isinstance(verdict, Verdict)
        return verdict


@pytest.fixture(scope="module")
def course() -> Callable[[LanguageModel, str], Course]:
    """The notebook of an exercise, made ready on a model; sliders are moved to both ends."""
    made: dict[tuple[int, int], Course] = {}

    def of(lm: LanguageModel, name: str) -> Course:
        number = EXERCISES[name].notebook
        key = (id(lm), number)
        if key not in made:
            made[key] = Course(NOTEBOOKS[number - 1], lm)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("ipywidgets.interact", move_sliders)
                made[key].run(made[key].setup)
        return made[key]

    return of


def move_sliders(function: Callable[..., Any], **sliders: Any) -> None:
    """In place of ``interact``: the function at both ends of all sliders, and where they begin."""
    assert sliders
    for at in ("min", "max"):
        figure = function(**{name: getattr(slider, at) for name, slider in sliders.items()})
        assert figure.axes
        figure.clear()


def test_there_are_24_and_each_stands_at_the_end_of_its_notebook(pocket: LanguageModel) -> None:
    assert len(EXERCISES) == 24 == len(MISTAKES)
    assert {exercise.notebook for exercise in EXERCISES.values()} == {1, 2, 3, 4, 5, 6}
    for number, path in enumerate(NOTEBOOKS, 1):
        found = Course(path, pocket)
        names = [name for name, exercise in EXERCISES.items() if exercise.notebook == number]
        assert list(found.tasks) == names
        for place, name in enumerate(names, 1):
            title = EXERCISES[name].title
            assert found.tasks[name][0].startswith(f"### {number}.{place} · {title}\n\n")
        # They are on no slide.
        for cell in found.cells:
            assert cell["metadata"]["slideshow"] == {"slide_type": "skip"}, cell["id"]
            # Who makes slides might wait for ever for what a slider has to say.
            tags = ["skip-execution"] if cell["id"].endswith("-slider") else []
            assert cell["metadata"].get("tags", []) == tags, cell["id"]


@pytest.mark.parametrize("name", EXERCISES)
def test_an_untouched_exercise_says_what_to_put_in(
    name: str, course: Callable[..., Course], pocket: LanguageModel
) -> None:
    verdict = course(pocket, name).verdict(name)
    assert verdict.accepted is None
    assert verdict.text == EXERCISES[name].ask


@pytest.mark.parametrize("name", EXERCISES)
def test_the_folded_answer_is_taken(
    name: str, course: Callable[..., Course], pocket: LanguageModel
) -> None:
    found = course(pocket, name)
    answer = found.folded(name)
    assert len(answer.splitlines()) <= 7  # a task of five lines, and no more around it
    verdict = found.verdict(name, answer)
    assert verdict.accepted, verdict
    assert repr(verdict).startswith("✔ Right. ")


@pytest.mark.parametrize("name", EXERCISES)
def test_a_usual_mistake_is_refused_with_a_hint(
    name: str, course: Callable[..., Course], pocket: LanguageModel
) -> None:
    for answer, hint in MISTAKES[name]:
        verdict = course(pocket, name).verdict(name, answer)
        assert verdict.accepted is False, (answer, verdict)
        assert re.search(hint, verdict.text), (answer, verdict)
        assert repr(verdict).startswith("✘ Not yet. ")


def test_exercises_work_on_a_model_of_another_kind(
    course: Callable[..., Course], tiny_llama_dir: Path
) -> None:
    lm = LanguageModel(tiny_llama_dir, "fp32")
    for name in EXERCISES:
        found = course(lm, name)
        assert found.verdict(name).accepted is None, name
        verdict = found.verdict(name, found.folded(name))
        assert verdict.accepted or name in OF_TRAINED_MODELS, (name, verdict)
    layer_norm = (
        "def norm(x):\n    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)"
    )
    assert "That is LayerNorm" in course(lm, "norm").verdict("norm", layer_norm).text


def test_the_perplexity_of_the_exercise_is_that_of_laplm_eval(pocket: LanguageModel) -> None:
    by_hand = float(np.exp(-np.log(Exercises(pocket).token_probabilities()).mean()))
    measured = perplexity(pocket, [Document("text", exercises.TEXT)]).perplexity
    assert by_hand == pytest.approx(measured, rel=1e-3)


def test_a_name_that_is_no_exercise_is_refused_in_one_line(pocket: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"no exercise 'softmaxx'\. Did you mean softmax"):
        Exercises(pocket).check("softmaxx", 1)


def test_the_page_of_the_course_lists_them() -> None:
    text = (ROOT / "docs/course.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d)\.(\d+) \| (.+?) \| `(\d_\w+\.ipynb)` \|", text, re.MULTILINE)
    wanted = []
    for number, path in enumerate(NOTEBOOKS, 1):
        own = [exercise for exercise in EXERCISES.values() if exercise.notebook == number]
        wanted += [(str(number), str(i), e.title, path.name) for i, e in enumerate(own, 1)]
    assert listed == wanted
