"""Which models are trained, told without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from laplm.errors import InputError
from laplm.run.language_model import LanguageModel
from laplm.tune.families import check_family


def test_other_families_are_refused_by_their_name(
    tiny_llama_dir: Path, tiny_model_dir: Path
) -> None:
    check_family(LanguageModel(tiny_model_dir))
    with pytest.raises(InputError, match="is a llama model, and laplm tune trains GPT-2's family"):
        check_family(LanguageModel(tiny_llama_dir))


def test_what_cannot_be_read_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    bad = tmp_path / "a.jsonl"
    bad.write_text("not json\n")
    program = (
        "import sys; from laplm.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "sys.exit(code if 'torch' not in sys.modules else 'torch was loaded')"
    )
    words = ["tune", str(bad), "-m", "pocket", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "a.jsonl, line 1: not JSON" in done.stderr
