"""Several processes on one machine, as torchrun starts them, over gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.numpy

from laplm.errors import InputError
from laplm.tune.processes import Processes, join_processes

SETTINGS = [
    "--max-steps", "4", "--batch-size", "4", "--grad-accum-steps", "2", "--window", "32",
    "--dropout", "0", "--learning-rate", "0.003", "--threads", "1", "--precision", "fp32",
]  # fmt: skip


def run_tune(words: list[str], processes: int = 1) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "-m"]
    return subprocess.run(
        [*start, "laplm", "tune", *words], capture_output=True, text=True, timeout=240, check=False
    )


def losses(directory: Path, name: str = "train_loss") -> dict[int, float]:
    lines = (directory / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {m["step"]: m[name] for m in map(json.loads, lines) if name in m}


def samples(directory: Path) -> list[str]:
    lines = (directory / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [m["sample"] for m in map(json.loads, lines) if "sample" in m]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    animals, words = ("dog", "cat", "cow"), ("big", "red", "old", "new", "hot")
    texts = (f"The {a} saw the {b} one. It was a {b} day." for a in animals for b in words)
    file.write_text("<|endoftext|>".join(texts), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def alone(text: Path, tiny_model_dir: Path) -> Path:
    out = text.parent / "alone"
    done = run_tune([str(text), "-m", str(tiny_model_dir), "--out", str(out), *SETTINGS])
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("more", [[], ["--shard"]], ids=["DDP", "FSDP2"])
def test_two_processes_learn_as_one_does(
    text: Path, tmp_path: Path, alone: Path, tiny_model_dir: Path, more: list[str]
) -> None:
    out = tmp_path / "two"
    words = [str(text), "-m", str(tiny_model_dir), "--out", str(out), *SETTINGS, *more]
    done = run_tune(words, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"tuning {tiny_model_dir}") == 1
    assert "shared by 2 processes" in done.stdout
    assert losses(out).keys() == losses(alone).keys()
    for name in ("train_loss", "grad_norm", "heldout_loss"):
        assert losses(out, name) == pytest.approx(losses(alone, name), rel=1e-3), name
    assert len(samples(out)) == len(samples(alone)) > 0
    assert samples(out)[-1][:4] == samples(alone)[-1][:4]  # the beginning of a text kept back
    one, two = (safetensors.numpy.load_file(d / "model.safetensors") for d in (alone, out))
    before = max(abs(one[name]).max() for name in one)
    assert max(abs(one[name] - two[name]).max() for name in one) < 1e-2 * before


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    shared = Processes(rank=1, size=2)
    assert shared.local_batch_size(4) == 2
    with pytest.raises(InputError, match="choose a multiple of 2"):
        shared.local_batch_size(3)


@pytest.mark.slow
def test_torchrun_tells_a_mistake_in_one_line(text: Path, tmp_path: Path) -> None:
    words = [str(text), "-m", "pocket", "--out", str(tmp_path / "out"), "--batch-size", "3"]
    done = run_tune([*words, "--max-steps", "1", "--window", "32"], processes=2)
    assert done.returncode != 0
    assert "choose a multiple of 2" in done.stderr and "InputError" not in done.stderr


def test_weights_cannot_be_divided_by_one_process() -> None:
    with pytest.raises(InputError, match="torchrun --nproc-per-node"), join_processes(shard=True):
        pass


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="leave --device out"), join_processes("abacus"):
        pass
