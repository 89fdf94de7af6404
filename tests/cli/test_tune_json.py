"""``laplm tune --json``: what programs, such as the server, are told."""

from __future__ import annotations

import json
from pathlib import Path

TEXT = "<|endoftext|>\n".join(f"The dog number {i} saw the cat.\n" for i in range(40))


def test_every_line_is_an_object_that_says_what_happened(
    laplm_, tiny_model_dir: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "text.txt", tmp_path / "out"
    data.write_text(TEXT, encoding="utf-8")
    quick = ("--max-steps", 2, "--window", 32, "--batch-size", 2, "--threads", 1)
    result = laplm_("tune", data, "--out", out, *quick, "-m", tiny_model_dir, "--json")
    assert result.code == 0
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["event"] for line in lines] == ["plan", "eval", "step", "eval", "step", "done"]
    plan, last, done = lines[0], lines[-2], lines[-1]
    assert (plan["documents"], plan["window"], plan["max_steps"]) == (40, 32, 2)
    assert "The dog number" in plan["first_window"]
    assert plan["opening"].startswith("The dog number ") and not plan["asks"]
    assert (last["step"], last["max_steps"]) == (2, 2)
    assert lines[-3]["text"].startswith("The dog")
    assert lines[-3]["heldout_loss"] == last["heldout_loss"]
    assert done["steps"] == 2
    assert all(Path(path).is_file() for path in done["report"])


def test_a_run_that_goes_on_is_told_too(laplm_, tiny_model_dir: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "text.txt", tmp_path / "out"
    data.write_text(TEXT, encoding="utf-8")
    quick = ("--max-steps", 2, "--window", 32, "--batch-size", 2, "--threads", 1)
    laplm_("tune", data, "--out", out, *quick, "-m", tiny_model_dir)
    lines = laplm_("tune", "--resume", out, "--json").out.splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["plan", "done"]
    assert events[0]["seconds_per_step"] is None
