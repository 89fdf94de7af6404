"""What a result of tuning may be called."""

from __future__ import annotations

from pathlib import Path

import pytest

from laplm.errors import InputError
from laplm.hub import model_names

pytest_plugins = ("run_entries",)  # its fixture; a second conftest would hide the first one


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"), ("  ", "empty"), ("a/b", "letters"), ("a\\b", "letters"), ("..", "letters"),
        (".a", "letters"), ("-m", "letters"), ("a.", "letters"), ("a b", "letters"),
        ("run:1", "letters"), ("a\n", None), ("a\nb", "letters"), ("x" * 65, "65 characters"),
        ("CON", "Windows"), ("nul.txt", "Windows"), ("Lpt1", "Windows"), ("console", None),
        ("pocket", "another model"), ("GPT2", "another model"), ("mine.gguf", "a file"),
        ("größe", None), ("北京", None), ("a.b-c_d", None), ("7", None),
    ],
)  # fmt: skip
def test_a_name_is_one_that_every_disk_and_command_can_have(name: str, why: str | None) -> None:
    if why is None:
        assert model_names.check_model_name(name) == name.strip()
        return
    with pytest.raises(InputError, match=why) as error:
        model_names.check_model_name(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("notes.txt", "notes"), ("My notes, 2.jsonl.gz", "My-notes-2"),
        ("C:\\x\\tales.txt", "tales"),
        ("../../etc/passwd", "passwd"), ("...", "tuned"), ("", "tuned"), ("pocket.txt", "pocket-2"),
        ("CON.txt", "CON-2"), ("taken.txt", "taken-3"), ("y" * 300, "y" * 58), ("v1.2.txt", "v1.2"),
    ],
)  # fmt: skip
def test_a_files_name_makes_one(runs: Path, file: str, name: str) -> None:
    assert model_names.name_from_file(file, {"taken", "taken-2"}) == name
