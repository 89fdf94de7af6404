"""Row by row, what the talk that this began with shows: on a slide of the made deck."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from made_deck import DATE, SPEAKER

from laplm.model.config import NAMED_SIZES
from laplm.talk import slides

pytestmark = [
    pytest.mark.timeout(1800),  # one process makes the deck, the others wait for it
    pytest.mark.usefixtures("kernels_start_one_at_a_time"),
]
pytest_plugins = ("made_deck",)  # its fixture; a second conftest would hide the first one

ROOT = Path(__file__).parents[2]
PROMPT = "The capital of Spain is"


class Row(NamedTuple):
    """A line of the first table in docs/talk.md: a row of the outline, and where it is here."""

    number: str
    shows: str
    slide: str
    cell: str
    test: str

    def __str__(self) -> str:
        return f"{self.number}-{self.slide}"


def _rows() -> list[Row]:
    text = (ROOT / "docs/talk.md").read_text(encoding="utf-8")
    found = re.findall(
        r"^\| ([\d, –()]+) \| (.*?) \| \*(.*?)\* \| `([\d-]+)` \| `(.*?)` \|$", text, re.MULTILINE
    )
    return [Row(*row) for row in found]


ROWS = _rows()


def slide_of(deck: Any, title: str) -> slides.Slide:
    """The slide of a title."""
    made = [s for name, nb in deck.ran.items() for s in slides.slides_of(nb, name)]
    (found,) = [slide for slide in made if slide.title == title]
    return found


def text_of(parts: list[str]) -> str:
    """What is read: without tags, white space as it is."""
    return html.unescape(re.sub(r"<[^>]*>", "", "\n".join(parts)))


def test_every_row_of_the_outline_has_a_slide() -> None:
    # Its slides have 34 numbers; fine-tuning and the conclusion are announced, and missing there.
    numbers = re.findall(r"\d+|\(\d\)", ", ".join(row.number for row in ROWS))
    assert {int(n) for n in numbers if n.isdigit()} == set(range(1, 35))
    assert {"(5)", "(6)"} <= set(numbers)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_row_is_on_its_slide_and_has_its_test(row: Row, deck: Any) -> None:
    notebook = next(nb for nb in deck.ran.values() if any(c.id == row.cell for c in nb.cells))
    at = next(i for i, cell in enumerate(notebook.cells) if cell.id == row.cell)
    begins = [i for i, cell in enumerate(notebook.cells) if _kind(cell) == "slide"]
    begun = max(i for i in begins if i <= at)
    end = min((i for i in begins if i > at), default=len(notebook.cells))
    assert _kind(notebook.cells[at]) in ("slide", "-", "fragment"), "it is on no slide"
    part = notebook.copy()
    part.cells = notebook.cells[begun:end]
    (slide,) = slides.slides_of(part, "x.ipynb")
    assert slide.title == row.slide
    file, _, name = row.test.partition("::")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def _kind(cell: Any) -> str:
    return str(cell.metadata["slideshow"]["slide_type"])


def test_the_first_slide_names_the_talk_its_speaker_and_its_date(deck: Any) -> None:
    slide = slide_of(deck, "A language model on your laptop")
    assert slide.layout == "title"
    assert SPEAKER in text_of(slide.words) and DATE in text_of(slide.words)
    page = deck.index.read_text(encoding="utf-8")
    assert page.index(slide.title) < page.index("<section") + 500 and SPEAKER not in page


def test_the_contents_name_the_six_parts(deck: Any) -> None:
    contents = text_of(slide_of(deck, "What we will do").words)
    parts = ["introduction and setup", "load", "core concepts", "running inference", "fine-tuning",
             "conclusion"]  # fmt: skip
    places = [contents.lower().index(f"{part}:") for part in parts]
    assert places == sorted(places)


def test_every_part_opens_with_a_slide_of_its_own(deck: Any) -> None:
    made = [s for name, nb in deck.ran.items() for s in slides.slides_of(nb, name)]
    opened = [(s.notebook[0], s.title) for s in made if s.layout == "section"]
    assert opened == [
        ("1", "Introduction"), ("2", "Load"), ("3", "Core concepts"), ("4", "Running inference"),
        ("5", "Fine-tuning"), ("6", "Conclusion"),
    ]  # fmt: skip


def test_the_motivation_has_its_reasons_one_after_the_other(deck: Any) -> None:
    slide = slide_of(deck, "Why on your own laptop?")
    said = text_of(slide.words).lower()
    for reason in ("privacy", "no api cost", "complete control", "it is fun", "because you can"):
        assert reason in said
    assert "\n".join(slide.words).count('class="fragment"') == 5
    assert "30 tokens, 0 connections, 0 cents" in text_of(slide.outputs)


def test_gpt2_at_a_glance_has_its_facts_whatever_the_model(deck: Any) -> None:
    said = text_of(slide_of(deck, "GPT-2 at a glance").words)
    for fact in (
        "OpenAI, its second GPT", "14 February 2019", "5 November 2019", "124 million", "WebText",
        "8 million documents", "40 GB", "1,024 tokens", "50,257 tokens", "small", "medium",
        "large", "XL",
    ):  # fmt: skip
        assert fact in said, fact
    assert round(NAMED_SIZES["gpt2"].n_parameters / 1e6) == 124


def test_the_model_at_hand_answers_the_same_questions(deck: Any) -> None:
    def questions(title: str) -> list[str]:
        return re.findall(r"<tr>\s*<td>(.*?)</td>", "\n".join(slide_of(deck, title).words))

    assert len(questions("GPT-2 at a glance")) >= 8
    assert questions("The model at hand: pocket") == questions("GPT-2 at a glance")
    said = text_of(slide_of(deck, "The model at hand: pocket").words)
    for fact in ("6,180,864", "512 tokens", "5,120 tokens", "6 blocks of 8 heads, 256 wide"):
        assert fact in said, fact


def test_the_scale_is_one_large_picture(deck: Any) -> None:
    slide = slide_of(deck, "How large is large?")
    assert slide.layout == "below" and slide.outputs[0].count("<img") == 2  # light and dark
    assert "model_scale(lm)" in text_of(slide.code)


def test_the_environment_says_python_the_device_and_that_torch_is_not_needed(deck: Any) -> None:
    said = text_of(slide_of(deck, "What are we running on?").outputs)
    assert re.search(r"^Python 3\.\d+\.\d+ · laplm \S+ · NumPy \d", said)
    assert "torch not needed · transformers not needed" in said
    assert re.search(r"^device: CPU, \w+ on \w+, \d+ threads$", said, re.MULTILINE)


def test_a_seed_repeats_what_chance_has_done(deck: Any) -> None:
    slide = slide_of(deck, "Random, but repeatable")
    lines = re.findall(rf"^seed (\d+): ({PROMPT} .*)$", text_of(slide.outputs), re.MULTILINE)
    assert [seed for seed, _ in lines] == ["42", "42", "43"]
    assert lines[0] == lines[1]


def test_loading_says_what_is_fetched_and_times_the_warm_one(deck: Any) -> None:
    slide = slide_of(deck, "Download once, then load from disk")
    assert {"downloaded", "cached", "forced"} <= set(re.findall(r"<strong>(\w+)", slide.words[0]))
    said = text_of(slide.outputs)
    assert said.startswith("pocket: 12.5 MB on disk, stored as fp16\n")
    assert re.search(r"^opened in \d+\.\d\d s, with a tokenizer of 5,120", said, re.MULTILINE)
    assert "cached" in said or re.search(
        r"kernels prepared for this CPU, once: █+ (\d+) of \1", said
    )
    (cell,) = [c for c in deck.ran["2_load.ipynb"].cells if "opened in" in c.source]
    assert "{warm.load_seconds:.2f}" in cell.source and "warm = laplm.load" in cell.source


def test_parameters_are_counted_table_by_table(deck: Any) -> None:
    slide = slide_of(deck, "How many parameters?")
    assert "6,180,864 parameters" in text_of(slide.outputs) and "eval mode" in text_of(slide.words)


def test_one_prompt_is_shown_with_its_code_its_output_and_its_time(deck: Any) -> None:
    slide = slide_of(deck, "One prompt")
    code = text_of(slide.open_code)
    assert {"max_new_tokens=10", "top_k=40", "temperature=0.8"} <= set(
        re.findall(r"[\w.]+=[\d.]+", code)
    )
    assert re.fullmatch(rf"{PROMPT} \S.*\n\d+\.\d{{3}} s", text_of(slide.outputs), re.DOTALL)


def test_ten_samples_and_ten_cold_ones_are_all_shown_with_their_times(deck: Any) -> None:
    warm, cold = (
        text_of(slide_of(deck, title).outputs) for title in ("Ten samples", "Ten cold samples")
    )
    for said in (warm, cold):
        lines = re.findall(rf"^ ?(\d+)  ({PROMPT}.*)$", said, re.MULTILINE)
        assert [number for number, _ in lines] == [str(i) for i in range(1, 11)]
        assert (len({line for _, line in lines}) == 1) == (said == cold)
        assert re.search(r"ten together: \d+\.\d{3} s", said)
    one, ten = map(float, re.findall(r"(?:one|ten together): (\d+\.\d+) s", warm))
    (times,) = re.findall(r"took (\d+\.\d) times", text_of(slide_of(deck, "Ten samples").words))
    assert abs(float(times) - ten / one) < 0.1 + 0.001 * ten / one**2  # both are rounded


def test_the_conclusion_has_the_bill_what_to_do_next_links_and_questions(deck: Any, laplm_) -> None:
    bill = text_of(slide_of(deck, "What it cost").outputs)
    for entry in ("loading", "60 tokens", "memory, at most", "connections opened", "0 cents"):
        assert entry in bill
    onwards = text_of(slide_of(deck, "Where to go from here").words)
    commands = set(re.findall(r"laplm (\w+)", onwards))
    assert len(commands) >= 6
    for command in commands:
        assert laplm_(command, "--help").code == 0, command
    links = re.findall(r'href="(.*?)"', "".join(slide_of(deck, "What to read").words))
    assert len(links) >= 4 and all(link.startswith("https://") for link in links)
    last = slide_of(deck, "Thank you")
    assert last.layout == "closing" and "Questions?" in text_of(last.words)
