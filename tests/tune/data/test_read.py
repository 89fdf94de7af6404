"""Every shape of input becomes the examples it stands for; every bad one is one plain line."""

from __future__ import annotations

import bz2
import csv
import dataclasses
import gzip
import io
import json
import lzma
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import AutoTokenizer

from laplm.errors import InputError
from laplm.tune.data.read import ALPACA_PROMPT, CHAT_TEMPLATE, Dataset, read_examples

END = "<|endoftext|>"


@pytest.fixture(scope="module", autouse=True)
def _no_bars() -> None:
    import datasets  # which takes two seconds: not of each process that collects this file

    datasets.disable_progress_bars()


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(path: Path, *rows: object) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def texts(reading: Dataset) -> list[str]:
    return [example.text for example in reading.examples]


def refusal(path: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_examples(path, **options)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message.replace(f"{path.parent}/", "")


# Plain text


def test_a_text_file_is_one_document_that_is_learned_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\n  Grüße,\n\nSue.  \n")
    reading = read_examples(path)
    assert reading.examples[0].pieces == (("Grüße,\n\nSue.", True),)
    assert (reading.kind, reading.files, reading.n_bytes) == ("documents", (path,), 14)
    assert (reading.skipped, reading.chat_template) == ((), None)


def test_end_of_text_parts_documents_and_empty_ones_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.md", f"{END}\none\n {END} \n\n{END}\ntwo{END}{END} 3\n\n4{END}5\n")
    assert texts(read_examples(path)) == ["one", "two", "3\n\n4", "5"]


def test_windows_line_ends_and_a_byte_order_mark_leave_no_trace(tmp_path: Path) -> None:
    path = write(tmp_path / "a.TXT", f"\ufeffone\r\n1\r\n{END}\r\ntwo\r\n")
    assert texts(read_examples(path)) == ["one\n1", "two"]
    path = write(tmp_path / "a.jsonl", '\ufeff{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
    assert texts(read_examples(path)) == ["a", "b"]
    path = write(tmp_path / "a.csv", '\ufefftext,n\r\n"a\r\nb",1\r\n')
    assert texts(read_examples(path)) == ["a\nb"]
    path = write(tmp_path / "a.json", '\ufeff[\r\n{"text": "a"}]\r\n')
    assert texts(read_examples(path)) == ["a"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(
        st.text(st.characters(exclude_characters="\0\r\ufeff", exclude_categories=["Cs"]))
        .map(str.strip)
        .filter(bool),
        min_size=1,
    ),
    windows=st.booleans(),
)
def test_documents_that_were_joined_come_back(
    tmp_path: Path, documents: list[str], windows: bool
) -> None:
    joined = f"\n{END}\n".join(documents)
    path = write(tmp_path / "a.txt", joined.replace("\n", "\r\n") if windows else joined)
    reading = read_examples(path)
    assert texts(reading) == documents
    assert reading.n_bytes == len("".join(documents).encode())


def test_a_large_file_is_not_held_three_times(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "A line of some words, as in a book.\n" * 200_000)
    tracemalloc.start()
    try:
        reading = read_examples(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * reading.n_bytes


# Rows


def test_rows_of_text_are_kept_as_they_are(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", {"text": " a\u2028b\n", "id": 3}, {"text": " "}, {"text": "c"}
    )
    reading = read_examples(path)
    assert [e.pieces for e in reading.examples] == [((" a\u2028b\n", True),), (("c", True),)]
    assert (reading.kind, reading.n_bytes) == ("documents", 8)


def test_only_the_completion_is_learned_and_begins_with_the_space(tmp_path: Path) -> None:
    rows = [("Q:", "A"), ("Q: ", "A"), ("Q:", "\nA"), ("", "A")]
    path = jsonl(tmp_path / "a.jsonl", *({"prompt": p, "completion": c} for p, c in rows))
    reading = read_examples(path)
    assert reading.kind == "prompts and completions"
    assert [e.pieces for e in reading.examples] == [
        (("Q:", False), (" A", True)),
        (("Q: ", False), ("A", True)),
        (("Q:", False), ("\nA", True)),
        (("A", True),),
    ]


ALPACA = {"instruction": "Say it in French.", "input": "Hello {x}", "output": "Bonjour"}


def test_an_instruction_is_put_into_the_template_of_alpaca(tmp_path: Path) -> None:
    alone = ALPACA | {"input": ""}
    path = jsonl(tmp_path / "a.jsonl", ALPACA, alone, {k: alone[k] for k in alone if k != "input"})
    reading = read_examples(path)
    assert reading.kind == "instructions"
    assert texts(reading)[0] == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay it in French.\n\n### Input:\nHello {x}\n\n### Response:\nBonjour"
    )
    without = (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n"
        "### Instruction:\nSay it in French.\n\n### Response:\nBonjour"
    )
    assert texts(reading)[1:] == [without, without]
    assert [[learned for _, learned in e.pieces] for e in reading.examples] == [[False, True]] * 3
    assert all(e.pieces[1] == ("Bonjour", True) for e in reading.examples)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_only_what_the_assistant_says_is_learned(tmp_path: Path) -> None:
    messages = [
        turn("system", "Be brief."), turn("user", " Hi\n"), turn("assistant", "Hello! "),
        turn("user", "2+2?"), turn("assistant", "4"), turn("user", "Bye"),
    ]  # fmt: skip
    reading = read_examples(jsonl(tmp_path / "a.jsonl", {"messages": messages}))
    assert reading.kind == "conversations"
    assert reading.examples[0].pieces == (
        ("### System:\nBe brief.\n\n### User:\nHi\n\n### Assistant:\n", False),
        ("Hello!", True),
        ("\n\n### User:\n2+2?\n\n### Assistant:\n", False),
        ("4", True),
        ("\n\n### User:\nBye", False),
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q:", "completion": "A"},
        ALPACA,
        {"messages": [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "Bye")]},
    ],
)
def test_prompts_are_learned_where_that_is_asked_for(tmp_path: Path, row: dict) -> None:
    path = jsonl(tmp_path / "a.jsonl", row)
    one, other = read_examples(path), read_examples(path, train_on_prompt=True)
    assert texts(one) == texts(other)
    assert not one.examples[0].pieces[0][1]
    assert all(learned for _, learned in other.examples[0].pieces)


@pytest.mark.parametrize(
    ("row", "opening"),
    [
        ({"text": "\nHey diddle diddle,\nThe cat and the fiddle"}, "Hey diddle diddle,\nThe"),
        ({"text": "Two words"}, "Two words"),
        ({"prompt": "Q: a b c d e?", "completion": "A"}, "Q: a b c d e?"),
        ({"messages": [turn("system", "S"), turn("user", " Hi\n"), turn("assistant", "A")]}, "Hi"),
    ],
)
def test_a_document_says_what_it_is_gone_on_with_from(
    tmp_path: Path, row: dict, opening: str
) -> None:
    (example,) = read_examples(jsonl(tmp_path / "a.jsonl", row)).examples
    assert example.opening(4) == opening


contents = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
conversations = st.lists(
    st.builds(turn, st.sampled_from(["system", "user", "assistant"]), contents)
    | st.builds(turn, st.just("assistant"), contents.filter(str.strip)),
    min_size=1,
    max_size=6,
).filter(
    lambda messages: (
        any(m["role"] == "assistant" for m in messages)
        and all(m["content"].strip() for m in messages if m["role"] == "assistant")
    )
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations, trim=st.booleans())
def test_the_chat_template_renders_what_was_trained_on(
    tmp_path: Path, messages: list[dict[str, str]], trim: bool
) -> None:
    reading = read_examples(jsonl(tmp_path / "a.jsonl", {"messages": messages}))
    assert reading.chat_template == CHAT_TEMPLATE
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=trim, lstrip_blocks=trim, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(CHAT_TEMPLATE)
    pieces = reading.examples[0].pieces
    assert template.render(messages=messages, add_generation_prompt=False) == texts(reading)[0]
    # Up to each answer, it renders the context that the answer was learned in.
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for number, i in enumerate(answers):
        context = "".join(text for text, _ in pieces[: 2 * number + 1])
        if i:
            assert template.render(messages=messages[:i], add_generation_prompt=True) == context


def test_the_chat_template_works_in_transformers(tmp_path: Path, tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = CHAT_TEMPLATE
    messages = [turn("user", "Hi\n"), turn("assistant", "Hello"), turn("user", "{{ 2 }}")]
    reading = read_examples(jsonl(tmp_path / "a.jsonl", {"messages": messages}))
    assert tokenizer.apply_chat_template(messages, tokenize=False) == texts(reading)[0]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == texts(reading)[0] + "\n\n### Assistant:\n"


def test_the_shape_that_says_most_wins(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ALPACA | {"text": "all of it"})
    assert read_examples(path).kind == "instructions"


def test_a_json_list_is_read_as_the_lines_would_be(tmp_path: Path) -> None:
    rows = [ALPACA, ALPACA | {"input": None}]
    path = write(tmp_path / "a.json", json.dumps(rows, indent=1))
    assert (
        read_examples(path).examples == read_examples(jsonl(tmp_path / "b.jsonl", *rows)).examples
    )


def test_a_column_may_be_named_for_rows_of_any_kind(tmp_path: Path) -> None:
    row = {"body": "b", "text": "t"}
    assert texts(read_examples(jsonl(tmp_path / "a.jsonl", row), column="body")) == ["b"]
    assert texts(read_examples(write(tmp_path / "a.json", json.dumps([row])), column="body")) == [
        "b"
    ]
    path = write(tmp_path / "a.tsv", "body\ttext\nb\tt\n")
    assert texts(read_examples(path, column="body")) == ["b"]
    assert texts(read_examples(path)) == ["t"]


# Tables


def test_a_single_column_needs_no_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'verse\n"one, two"\n\nthree\n')
    assert texts(read_examples(path)) == ["one, two", "three"]


def test_tables_hold_prompts_and_instructions_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "completion\t prompt \tid\nA\tQ:\t1\n")
    assert read_examples(path).examples[0].pieces == (("Q:", False), (" A", True))
    path = write(tmp_path / "a.csv", "instruction,input,output\nSay it.,,It\n")
    assert "paired with an input" not in texts(read_examples(path))[0]
    assert read_examples(path).kind == "instructions"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(
        st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"])), max_size=8
    ),
    extension=st.sampled_from(["csv", "tsv"]),
)
def test_tables_that_python_wrote_come_back(
    tmp_path: Path, cells: list[str], extension: str
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="," if extension == "csv" else "\t")
    writer.writerows([["n", "text"], *enumerate(cells), [0, "end"]])
    path = write(tmp_path / f"a.{extension}", buffer.getvalue())
    assert texts(read_examples(path)) == [*(cell for cell in cells if cell.strip()), "end"]


def test_a_field_may_be_long_and_the_limit_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write(tmp_path / "a.csv", f"text\n{'x' * (before + 1)}\n")
    assert read_examples(path).n_bytes == before + 1
    assert csv.field_size_limit() == before


def table(path: Path, *rows: list[str], separator: str = ";", before: str = "") -> Path:
    buffer = io.StringIO(before)
    buffer.seek(0, io.SEEK_END)
    csv.writer(buffer, delimiter=separator).writerows(rows)
    return write(path, buffer.getvalue())


QA = [
    ["prompt", "completion"],
    *([f"What is {n}, plus one; {n}?", f"It is {n + 1}, |"] for n in range(20)),
]


@pytest.mark.parametrize(
    ("separator", "named"),
    [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_what_separates_columns_is_found_out_and_said(
    tmp_path: Path, name: str, separator: str, named: str
) -> None:
    path = table(tmp_path / name, *QA, separator=separator)
    reading = read_examples(path)
    assert [e.pieces for e in reading.examples] == [
        ((prompt, False), (f" {completion}", True)) for prompt, completion in QA[1:]
    ]
    assert reading.notes == (
        f"read {path}: columns separated by {named}: 'prompt', 'completion'; 20 rows",
    )
    # Names that nobody knows: what the rows say decides.
    odd = [["frage", "antwort"], *QA[1:]]
    path = table(tmp_path / f"b{name}", *odd, separator=separator)
    assert texts(read_examples(path, column="antwort")) == [row[1] for row in QA[1:]]
    assert "the columns are 'frage', 'antwort'; name the one" in refusal(path)


@pytest.mark.parametrize("separator", [";", ",", "\t", "|", "^", "~"])
def test_a_first_line_that_names_the_separator_is_obeyed(tmp_path: Path, separator: str) -> None:
    rows = [["text", "label"], *([f"The dog {n}, it ran; away", "1"] for n in range(3))]
    before = f"sep={separator}\r\n"
    path = table(tmp_path / "a.csv", *rows, separator=separator, before=before)
    reading = read_examples(path)
    assert texts(reading) == [row[0] for row in rows[1:]]
    assert reading.notes[0].endswith("'text', 'label'; 3 rows; taken: 'text'")
    bad = table(tmp_path / "b.csv", *rows, ["x"], separator=separator, before="\ufeff" + before)
    assert "b.csv, line 6: 1 field, but the first line names 2" in refusal(bad)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        # One column is never cut, whatever its text has in it.
        ("text\nHello, world.\nOne, two, three.\n", ["Hello, world.", "One, two, three."]),
        ("text\nHello; world.\n\"One, two\"\n", ["Hello; world.", "One, two"]),
        # The header has commas, though more rows have semicolons.
        ("id,text\n1,a;b\n2,c;d\n3,e;f\n", ["a;b", "c;d", "e;f"]),
        # A name that has a comma in it.
        ("text;\"when, roughly\"\na, b, c;1\nd;2\n", ["a, b, c", "d"]),
        # Two separators are in the header: rows decide.
        ("text;when,where\na;1,2\nb;3\n", ["a", "b"]),
        # Whoever puts spaces behind separators does not mean them, nor marks within them.
        ('id, text\n1, "one, two"\n2, three\n', ["one, two", "three"]),
        ("Text;Label\na, b;1\nc;0\n", ["a, b", "c"]),
        ("text;label\n", None),
        # A quoted text over many lines is longer than what is looked at.
        ('n;text\n1;"' + "a, b;\n" * 20_000 + 'c"\n', ["a, b;\n" * 20_000 + "c"]),
    ],
)  # fmt: skip
def test_separators_that_are_hard_to_tell(
    tmp_path: Path, content: str, found: list[str] | None
) -> None:
    path = write(tmp_path / "a.csv", content)
    if found is None:
        assert "has no text in it" in refusal(path)
    else:
        assert texts(read_examples(path)) == found


def test_columns_that_something_else_separates_are_not_learned_as_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt~completion\nQ~A\n")
    assert "are separated by '~'; put a line sep=~ before them" in refusal(path)


# Marks that end documents


def test_a_text_in_a_row_may_hold_several_documents_as_a_file_does(tmp_path: Path) -> None:
    import datasets

    text = f"{END} one {END}\n\n{END}two\n2 {END}"
    whole = texts(read_examples(write(tmp_path / "a.txt", text)))
    assert whole == ["one", "two\n2"]
    table(tmp_path / "a.csv", ["text"], [text], ["three"])
    jsonl(tmp_path / "a.jsonl", {"text": text}, {"text": "three"})
    jsonl(tmp_path / "b.jsonl", text, "three")
    write(tmp_path / "a.json", json.dumps([{"text": text}, {"text": "three"}]))
    datasets.Dataset.from_list([{"text": text}, {"text": "three"}]).save_to_disk(tmp_path / "d")
    for name in ("a.csv", "a.jsonl", "b.jsonl", "a.json", "d"):
        assert texts(read_examples(tmp_path / name)) == [*whole, "three"], name
    jsonl(tmp_path / "c.jsonl", {"body": text})
    assert texts(read_examples(tmp_path / "c.jsonl", column="body")) == whole


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"prompt": f"{END}Q:", "completion": f" A{END}\n{END}"}, "Q: A"),
        ({"question": "Q:", "answer": f"A\n{END}\n"}, "Q: A"),
        ({"messages": [turn("user", f"{END}Hi"), turn("assistant", f"Hello{END}")]},
         "### User:\nHi\n\n### Assistant:\nHello"),
        ({"instruction": "a", "output": f"b{END}"}, f"{ALPACA_PROMPT.format(instruction='a')}b"),
    ],
)  # fmt: skip
def test_the_end_behind_an_answer_is_the_one_that_comes_anyway(
    tmp_path: Path, row: dict, found: str
) -> None:
    assert texts(read_examples(jsonl(tmp_path / "a.jsonl", row))) == [found]


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ({"prompt": f"a{END}b", "completion": "c"}, "prompt"),
        ({"prompt": f"a{END}", "completion": "c"}, "prompt"),
        ({"question": "a", "response": f"b{END}c"}, "response"),
        ({"instruction": f"a{END}", "output": "c"}, "instruction"),
        ({"instruction": "a", "input": f"x{END}", "output": "c"}, "input"),
        ({"messages": [turn("user", f"a{END}b"), turn("assistant", "c")]}, "content"),
        ({"conversations": [{"from": "gpt", "value": f"a{END}b"}]}, "value"),
    ],
)
def test_an_end_within_a_prompt_or_an_answer_is_refused(
    tmp_path: Path, row: dict, where: str
) -> None:
    assert f'"{where}" holds {END}, which ends a document' in refusal(
        jsonl(tmp_path / "a.jsonl", row)
    )


def test_an_answer_that_is_only_an_end_teaches_nothing(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": f" {END} "}
    assert '"completion" is empty' in refusal(jsonl(tmp_path / "a.jsonl", row))


def test_gpt2_simples_mark_is_learned_as_text_and_said(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["text"], *([f"<|startoftext|>{n}{END}"] for n in range(3)))
    reading = read_examples(path)
    assert texts(reading) == [f"<|startoftext|>{n}" for n in range(3)]
    assert reading.notes[1].startswith("3 of 3 documents begin with <|startoftext|>")


# Rows as others have them


def test_conversations_of_sharegpt_are_read_as_the_same_messages(tmp_path: Path) -> None:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    messages = [
        turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello"),
        turn("user", "2+2?"), turn("assistant", "4"),
    ]  # fmt: skip
    sharegpt = [{"from": names[m["role"]], "value": m["content"]} for m in messages]
    expected = read_examples(jsonl(tmp_path / "a.jsonl", {"messages": messages}))
    for row in (
        {"id": "x", "conversations": sharegpt}, {"conversation": sharegpt},
        {"conversations": messages}, {"messages": sharegpt},
    ):  # fmt: skip
        reading = read_examples(jsonl(tmp_path / "b.jsonl", row))
        assert reading.examples == expected.examples
        assert (reading.kind, reading.chat_template) == ("conversations", CHAT_TEMPLATE)
    for bad, said in (
        ({"from": "human"}, 'message 1: no "value"'),
        ({"from": "function_call", "value": "x"}, "message 1: the role is 'function_call'"),
        ({"from": "gpt", "value": 3}, 'message 1: "value" is a number'),
    ):
        assert said in refusal(jsonl(tmp_path / "c.jsonl", {"conversations": [bad]}))


def test_prompts_and_completions_of_trl_may_be_messages(tmp_path: Path) -> None:
    row = {
        "prompt": [turn("user", "Hi"), turn("assistant", "Yes?"), turn("user", "2+2?")],
        "completion": [turn("assistant", "4")],
    }
    reading = read_examples(jsonl(tmp_path / "a.jsonl", row))
    assert reading.examples[0].pieces == (
        ("### User:\nHi\n\n### Assistant:\nYes?\n\n### User:\n2+2?\n\n### Assistant:\n", False),
        ("4", True),
    )
    assert (reading.kind, reading.chat_template) == ("conversations", CHAT_TEMPLATE)
    mixed = jsonl(tmp_path / "b.jsonl", row, {"prompt": "Q", "completion": "A"})
    assert "line 2: one of the prompts and completions, but" in refusal(mixed)
    half = jsonl(tmp_path / "c.jsonl", row | {"completion": "4"})
    assert '"prompt" is a list, but it must be a string' in refusal(half)
    nothing = jsonl(tmp_path / "d.jsonl", row | {"completion": []})
    assert "no message has the role assistant" in refusal(nothing)


@pytest.mark.parametrize(
    ("row", "same"),
    [
        ({"question": "Q", "answer": "A"}, {"prompt": "Q", "completion": "A"}),
        ({"input": "Q", "output": "A"}, {"prompt": "Q", "completion": "A"}),
        ({"query": "Q", "response": "A", "id": 3}, {"prompt": "Q", "completion": "A"}),
        ({"Prompt": "Q", "Response": "A"}, {"prompt": "Q", "completion": "A"}),
        ({"Text": "A"}, {"text": "A"}),
        ({"prompt": "Q", "completion": "A", "label": True}, {"prompt": "Q", "completion": "A"}),
        (
            {"instruction": "I", "context": "C", "response": "A", "category": "qa"},
            {"instruction": "I", "input": "C", "output": "A"},
        ),
        ({"instruction": "I", "completion": "A"}, {"instruction": "I", "output": "A"}),
        ({"instruction": "I", "output": "A", "history": []}, {"instruction": "I", "output": "A"}),
        (
            {"system_prompt": "S", "question": "Q", "response": "A"},
            {"messages": [turn("system", "S"), turn("user", "Q"), turn("assistant", "A")]},
        ),
        (
            {"system": "", "prompt": "Q", "completion": "A"},
            {"messages": [turn("user", "Q"), turn("assistant", "A")]},
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                                                       {"type": "text", "text": "b"}]},
                          turn("assistant", "c")]},
            {"messages": [turn("user", "ab"), turn("assistant", "c")]},
        ),
        (
            {"messages": [turn("developer", "S"), turn("user", "Q"), turn("assistant", "A")]},
            {"messages": [turn("system", "S"), turn("user", "Q"), turn("assistant", "A")]},
        ),
    ],
)  # fmt: skip
def test_other_names_of_the_same_are_known(tmp_path: Path, row: dict, same: dict) -> None:
    reading = read_examples(jsonl(tmp_path / "a.jsonl", row))
    expected = read_examples(jsonl(tmp_path / "b.jsonl", same))
    assert (reading.examples, reading.kind) == (expected.examples, expected.kind)


def test_an_answer_without_weight_is_only_context(tmp_path: Path) -> None:
    first = turn("assistant", "one") | {"weight": 0}
    row = {"messages": [first, turn("assistant", "two") | {"weight": 1}]}
    pieces = read_examples(jsonl(tmp_path / "a.jsonl", row)).examples[0].pieces
    assert [text for text, learned in pieces if learned] == ["two"]
    assert "no message" in refusal(jsonl(tmp_path / "b.jsonl", {"messages": [first]}))
    odd = turn("assistant", "two") | {"weight": 0.5}
    assert '"weight" must be 0 or 1' in refusal(jsonl(tmp_path / "c.jsonl", {"messages": [odd]}))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Q", "answer": "A", "context": "C"}, '"context" would be left out'),
        ({"instruction": "I", "output": "A", "history": [["a", "b"]]}, '"history" would be left'),
        ({"instruction": "I", "output": "A", "system": "S"}, '"system" would be left out'),
        ({"messages": [turn("assistant", "A")], "system": "S"}, '"system" would be left out'),
        ({"prompt": "Q", "completion": "A", "label": False}, '"label" is false: an answer that'),
        ({"prompt": "Q", "completion": "A", "rejected": "B"}, '"rejected" would be left out'),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "the keys are 'prompt', 'chosen'"),
    ],
)
def test_what_would_mean_something_else_without_its_other_half_is_refused(
    tmp_path: Path, row: dict, said: str
) -> None:
    assert said in refusal(jsonl(tmp_path / "a.jsonl", row))


def test_parquet_files_are_read_as_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    messages = [turn("user", "Hi"), turn("assistant", "Hello")]
    for rows in (
        [{"text": "one", "n": 1}, {"text": f"two{END}three", "n": 2}],
        [ALPACA, ALPACA | {"input": None}],
        [{"messages": messages}],
        [{"prompt": messages, "completion": [turn("assistant", "again")]}],
        [{"question": "Q", "answer": "A", "label": True}],
    ):
        datasets.Dataset.from_list(rows).to_parquet(path := tmp_path / "a.parquet")
        expected = read_examples(jsonl(tmp_path / "a.jsonl", *rows))
        reading = read_examples(path)
        assert (reading.examples, reading.kind) == (expected.examples, expected.kind)
        assert reading.notes[0].startswith(f"read {path}: {len(rows)} row")
    assert texts(read_examples(path, column="answer")) == ["A"]
    (tmp_path / "d").mkdir()
    path.rename(tmp_path / "d" / "x.parquet")
    assert texts(read_examples(tmp_path / "d")) == ["Q A"]
    assert "the keys are 'n'" in refusal_of_parquet(tmp_path, [{"n": 1}])
    assert '"text" is a number' in refusal_of_parquet(tmp_path, [{"text": 1}])
    assert "no parquet file that can be read" in refusal(write(tmp_path / "b.parquet", b"PAR1" * 9))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "not installed: pip install pyarrow" in refusal(tmp_path / "b.parquet")


def refusal_of_parquet(directory: Path, rows: list[dict]) -> str:
    import datasets

    datasets.Dataset.from_list(rows).to_parquet(directory / "bad.parquet")
    return refusal(directory / "bad.parquet")


@pytest.mark.parametrize(
    ("extension", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
def test_compressed_files_are_read_as_what_is_in_them(
    tmp_path: Path, extension: str, pack: Callable[[bytes], bytes]
) -> None:
    for name, content in (
        ("a.txt", f"one{END}two"), ("a.jsonl", '{"text": "one"}\n"two"\n'),
        ("a.ndjson", '"one"\n"two"'), ("a.json", '["one", "two"]'),
        ("a.csv", "n;text\n1;one\n2;two"),
    ):  # fmt: skip
        path = write(tmp_path / f"{name}.{extension}", pack(content.encode()))
        assert texts(read_examples(path)) == ["one", "two"], name
        assert "cannot be unpacked" in refusal(write(path, path.read_bytes()[:20])), name
        assert "cannot be unpacked" in refusal(write(path, b"x" * 40)), name
        path.unlink()
    write(tmp_path / f"b.txt.{extension}", pack(b"three"))
    assert texts(read_examples(tmp_path)) == ["three"]


def test_json_files_may_have_an_object_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"text": "a"}\n{"text": "b"}\n')
    assert texts(read_examples(path)) == ["a", "b"]
    path = write(tmp_path / "b.json", '{"text": "a"}\n{"txt": "b"}\n')
    assert "row 2: the keys are 'txt'" in refusal(path)


# Directories


def test_a_directory_is_all_its_files_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "3")
    jsonl(tmp_path / "a" / "x.jsonl", {"messages": [turn("assistant", "1")]})
    write(tmp_path / "a" / "y.csv", "text\n2\n")
    write(tmp_path / "c" / "d.MD", "4")
    write(tmp_path / "empty.txt", "")
    for ignored in (".hidden/x.txt", ".x.txt", "x.png", "x.json", "x.tsv"):
        write(tmp_path / ignored, "no")
    reading = read_examples(tmp_path)
    assert texts(reading) == ["### Assistant:\n1", "2", "3", "4"]
    assert reading.kind == "conversations, documents"
    assert [f.relative_to(tmp_path).as_posix() for f in reading.files] == [
        "a/x.jsonl", "a/y.csv", "b.txt", "c/d.MD", "empty.txt",
    ]  # fmt: skip
    assert reading.n_bytes == sum(len(text) for text in texts(reading))
    assert reading.chat_template == CHAT_TEMPLATE


def test_a_saved_dataset_is_read_as_rows(tmp_path: Path) -> None:
    import datasets

    rows = [{"instruction": "a", "input": None, "output": "b", "n": 1}, ALPACA | {"n": 2}]
    data = datasets.Dataset.from_list(rows).with_format("numpy")
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(test=data.select([0]), train=data).save_to_disk(tmp_path / "all")
    expected = read_examples(jsonl(tmp_path / "a.jsonl", *rows))
    for name in ("one", "all"):
        reading = read_examples(tmp_path / name)
        assert reading == dataclasses.replace(expected, files=(tmp_path / name,))
    messages = [turn("user", "Hi"), turn("assistant", "Hello")]
    chat = datasets.Dataset.from_list([{"messages": messages}]).with_format("numpy")
    chat.save_to_disk(tmp_path / "chat")
    assert texts(read_examples(tmp_path / "chat")) == ["### User:\nHi\n\n### Assistant:\nHello"]
    assert texts(read_examples(tmp_path / "one", column="output")) == ["b", "Bonjour"]


def test_other_columns_of_a_saved_dataset_are_not_decoded(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(text=datasets.Value("string"), picture=datasets.Image())
    rows = {"text": ["a"], "picture": [{"bytes": b"no picture", "path": None}]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    assert texts(read_examples(tmp_path / "d")) == ["a"]


def test_files_beside_a_dataset_info_are_no_saved_dataset(tmp_path: Path) -> None:
    write(tmp_path / "dataset_info.json", "{}")
    write(tmp_path / "a.txt", "one")
    assert texts(read_examples(tmp_path)) == ["one"]


def test_saved_datasets_that_cannot_be_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    data = datasets.Dataset.from_list([{"body": "a", "n": 1}])
    data.save_to_disk(tmp_path / "one")
    assert "one: the keys are 'body', 'n', but a row has" in refusal(tmp_path / "one")
    assert "there is no 'x'; the keys are 'body', 'n'" in refusal(tmp_path / "one", column="x")
    message = refusal(tmp_path / "one", column="n")
    assert 'one, row 1: "n" is a number, but it must be a string' in message
    datasets.DatasetDict(test=data).save_to_disk(tmp_path / "all")
    assert "all has no split train, but 'test'" in refusal(tmp_path / "all")
    arrow = next((tmp_path / "one").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:40])
    assert "cannot be read" in refusal(tmp_path / "one")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in refusal(tmp_path / "all")


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt has no text in it"),
        ("a.txt", f" \n{END}\n\n".encode(), "a.txt has no text in it"),
        ("a.jsonl", b"\n\n", "a.jsonl has no text in it"),
        ("a.jsonl", b'{"text": " "}', "a.jsonl has no text in it"),
        ("a.json", b" ", "a.json has no text in it"),
        ("a.json", b"[]", "a.json has no text in it"),
        ("a.csv", b"", "a.csv has no text in it"),
        ("a.csv", b"text\n", "a.csv has no text in it"),
        ("a.txt", b"\xef\xbb\xbfa\r\nb\0c", "a.txt, line 2: a NUL byte (position 7)"),
        ("a.txt", b"\xef\xbb\xbfa\r\n\xc3\xa9\xe9 b", "2: not UTF-8 (byte 0xe9 at position 8)"),
        ("a.txt", b"\xef\xbb\xbf\xe9", "line 1: not UTF-8 (byte 0xe9 at position 3)"),
        ("a.md", "a".encode("utf-16"), "a.md, line 1: UTF-16, not UTF-8; convert it: iconv"),
        ("a.jsonl", b'{"text": "a"}\n["\xe9"]', "line 2: not UTF-8 (byte 0xe9 at position 16)"),
        ("a.json", b'[\n"\xe9"]', "a.json, line 2: not UTF-8 (byte 0xe9 at position 3)"),
        ("a.csv", b"text\n\xe9\n", "a.csv, line 2: not UTF-8 (byte 0xe9 at position 5)"),
        ("a.csv", "text\na".encode("utf-16-be"), "a.csv, line 1: a NUL byte (position 0)"),
        ("a.pdf", b"a", "a.pdf ends in .pdf; give a file that ends in .txt, .md, .jsonl"),
        ("a", b"a", "a has no extension; give"),
        ("a.jsonl", b'{"text": "a"}\n\n[,', "line 3: not JSON (Expecting value at character 2)"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: JSON that cannot be read"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1: JSON that cannot be read"),
        ("a.jsonl", b'{"text": "\\ud800"}', "line 1: \\ud800 without its other half"),
        ("a.jsonl", b'[{"text": "a"}]', 'line 1: a list, where an object such as {"text": "…"}'),
        ("a.jsonl", b"3", "line 1: a number, where an object"),
        ("a.jsonl", b'{"text": null}', '"text" is null, but it must be a string'),
        ("a.jsonl", b'{"text": true}', '"text" is true or false, but'),
        ("a.jsonl", b'{"prompt": ["a"], "completion": "b"}', '"prompt" is a list, but'),
        ("a.jsonl", b'{"prompt": "a", "completion": " "}', '"completion" is empty'),
        ("a.jsonl", b'{"instruction": "a", "output": ""}', '"output" is empty'),
        ("a.jsonl", b'{"instruction": "a", "input": {}, "output": "b"}', '"input" is an object'),
        ("a.jsonl", b"{}", "the keys are none, but"),
        (
            "a.jsonl", b'{"prompt": "a", "b\\nb": 1}',
            "line 1: the keys are 'prompt', 'b\\nb', but a row has \"text\", or \"prompt\" and",
        ),
        (
            "a.jsonl", b'{"text": "a"}\n{"prompt": "a", "completion": "b"}',
            "line 2: one of the prompts and completions, but the rows before it are documents; "
            "give each kind its own file",
        ),
        ("a.json", b'{"text": "a"}', "a.json, line 1: an object, where a list must be"),
        ("a.json", b'[]\n{"text": "b"}', "line 2: not JSON (Extra data at character 1)"),
        ("a.json", b"[" * 100_000, "a.json is JSON that cannot be read"),
        ("a.json", b'[{"text": "a"}, 3]', "a.json, row 2: a number, where an object"),
        ("a.csv", b"\na,b\n1,2\n", "line 2: the columns are 'a', 'b'; name the one that holds"),
        ("a.csv", b"text,text\na,b\n", "line 1: two columns have one name ('text', 'text')"),
        ("a.csv", b"text,b,,\na\n", "line 2: 1 field, but the first line names 4"),
        ("a.csv", b'text\n"a"b\n', "line 2: not a record of fields (',' expected after '\"')"),
        ("a.csv", b'text\n"a\nb"\n"c\nd\n', "line 4: not a record of fields (unexpected end"),
        ("a.csv", b'"text\n', "line 1: not a record of fields (unexpected end"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    assert message in refusal(write(tmp_path / name, content))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("a", '"messages" is a string, but it must be a list'),
        ([], "no message has the role assistant"),
        ([turn("user", "a")], "no message has the role assistant"),
        (["a"], "message 1: a string, where an object must be"),
        ([turn("assistant", "a"), {"role": "user"}], 'message 2: no "content"'),
        ([{"content": "a"}], 'message 1: no "role"'),
        ([turn("tool\n" * 9, "a")], "message 1: the role is 'tool\\ntool\\n"),
        ([{"role": "user", "content": [{}]}], 'message 1: "content" is a list'),
        ([turn("assistant", " ")], 'message 1: "content" is empty'),
    ],
)
def test_conversations_that_teach_nothing_are_refused(
    tmp_path: Path, messages: object, message: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": messages})
    assert f"a.jsonl, line 1: {message}" in refusal(path)


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,b\n1,2\n")
    assert "line 1: there is no column 'c'; the columns are 'a', 'b'" in refusal(path, column="c")
    path = jsonl(tmp_path / "a.jsonl", {"a": "1"})
    assert "line 1: there is no 'c'; the keys are 'a'" in refusal(path, column="c")
    path = jsonl(tmp_path / "b.jsonl", {"a": None})
    assert 'line 1: "a" is null' in refusal(path, column="a")
    path = write(tmp_path / "a.txt", "a")
    assert "plain text and has no column 'c'" in refusal(path, column="c")


def test_paths_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    assert "x.txt is not there; give" in refusal(tmp_path / "x.txt")
    assert "cannot be read (" in refusal(tmp_path / ("x" * 300 + ".txt"))
    write(tmp_path / "d" / "a.png", b"a")
    assert "d has no file in it that ends in .txt" in refusal(tmp_path / "d")
    write(tmp_path / "d" / "a.txt", b"")
    assert "d has no text in it" in refusal(tmp_path / "d")
    write(tmp_path / "d" / "a.txt", b"\xff")
    with pytest.raises(InputError, match=r"a\.txt, line 1: not UTF-8"):
        read_examples(tmp_path / "d", skip_bad=True)


def test_long_and_many_keys_make_no_long_message(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {f"{n}\n" * 1000: 1 for n in range(100)})
    assert len(refusal(path)) < 1000


def test_the_remedy_of_a_bad_row_names_skipping(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": 3})
    assert refusal(path).endswith("; correct it, or leave bad rows out (--skip-bad)")


def test_bad_rows_are_left_out_and_listed(tmp_path: Path) -> None:
    lines = [
        b'{"txt": "a"}', b'{"text": "one"}', b"{", b'{"prompt": "a", "completion": "b"}', b"\xe9",
        b'{"text": "\\udc00"}', b'{"text": "two"}',
    ]  # fmt: skip
    path = write(tmp_path / "a.jsonl", b"\n".join(lines))
    reading = read_examples(path, skip_bad=True)
    assert texts(reading) == ["one", "two"]
    assert [message.split(":")[0] for message in reading.skipped] == [
        f"{path}, line {number}" for number in (1, 3, 4, 5, 6)
    ]
    assert reading.n_bytes == 6
    path = write(tmp_path / "a.csv", 'text,n\none,1\ntwo\n"a"b,2\nthree,3\n"four\n')
    reading = read_examples(path, skip_bad=True)
    assert texts(reading) == ["one", "three"]
    assert [message.split(":")[0][-1] for message in reading.skipped] == ["3", "4", "6"]


def test_skipping_every_row_is_still_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": 3}, 4)
    message = refusal(path, skip_bad=True)
    assert 'no row that can be used; the first of 2 that cannot: a.jsonl, line 1: "text"' in message


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60) | st.text('{}[]",:\\ud8tex1\n\r\t ', max_size=60),
    extension=st.sampled_from(["txt", "jsonl", "json", "csv", "tsv"]),
    skip_bad=st.booleans(),
)
def test_nothing_but_an_input_error_comes_out_of_any_bytes(
    tmp_path: Path, content: bytes | str, extension: str, skip_bad: bool
) -> None:
    path = write(tmp_path / f"a.{extension}", content)
    try:
        reading = read_examples(path, skip_bad=skip_bad)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert all(any(learned for _, learned in e.pieces) for e in reading.examples)
        assert reading == read_examples(path, skip_bad=skip_bad)
