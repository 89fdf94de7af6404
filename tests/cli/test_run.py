"""``laplm run``: what is printed where, as it comes, and how Ctrl-C ends it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from calling import refused

from laplm import built_in, home
from laplm.cli.main import make_parser
from laplm.model.engine.model import GPT
from laplm.native import jit
from laplm.run.language_model import LanguageModel
from laplm.run.sampler import SamplingParams
from laplm.serve import logs

pytest_plugins = ("tiny_run",)  # its fixtures; a second conftest would hide the first one


SUMMARY = re.compile(r"(\d+) tokens?, [\d,.]+ tokens/s, (seed \d+|greedy)")


DETAILS = re.compile(
    r"(\d+) tokens? in \d+\.\d\d s, [\d,.]+ tokens/s, first token after \d+\.\d\d s "
    r"\(loaded in \d+\.\d\d s\); \S+, (fp32|int8|int4), \d+ threads?, (seed \d+|greedy)"
)


def test_text_goes_to_stdout_and_one_line_of_figures_to_stderr(run, lm) -> None:
    result = run("The capital of Spain is", "-n", 12, "--seed", 42)
    assert result.code == 0
    text = lm.generate("The capital of Spain is", 12, seed=42).text
    assert result.out == text + "\n"
    assert SUMMARY.fullmatch(result.err.rstrip("\n"))
    assert result.err.startswith("12 tokens, ") and result.err.endswith("seed 42\n")
    verbose = run("The capital of Spain is", "-n", 12, "--seed", 42, "--verbose")
    assert verbose.out == result.out and DETAILS.fullmatch(verbose.err.rstrip("\n"))


def test_text_comes_as_it_is_drawn(run, monkeypatch) -> None:
    out, decode = [], GPT.decode
    monkeypatch.setattr("laplm.cli.run.write", out.append)
    seen = []
    monkeypatch.setattr(GPT, "decode", lambda *a: seen.append("".join(out)) or decode(*a))
    run("The", "-n", 10, "--seed", 3, "--ignore-eos")
    assert len(seen) == 9
    assert [len(s) for s in seen] == sorted(len(s) for s in seen)
    assert len(set(seen)) > 5


def test_options_reach_the_sampler(run, lm) -> None:
    options = {
        "temperature": 1.1, "top_k": 7, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.2,
    }  # fmt: skip
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    result = run("The", "-n", 20, "--seed", 5, *words)
    assert result.out.rstrip("\n") == lm.generate("The", 20, seed=5, **options).text.rstrip("\n")


SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def test_the_defaults_are_those_of_the_library_and_are_told(run) -> None:
    usual = {name: getattr(SamplingParams(), name) for name in SAMPLING}
    value = json.loads(run("The", "-n", 2, "--json").out)["sampling"]
    assert {name: value[name] for name in SAMPLING} == usual
    told = f"temperature {usual['temperature']:g}, top-k {usual['top_k']}"
    for verb in ("run", "chat"):
        page = make_parser()._subparsers._group_actions[0].choices[verb].format_help()
        assert f"as the model's makers say, else {told}" in " ".join(page.split())


@pytest.fixture
def made_to_be_wild(tiny_model_dir, tmp_path) -> Path:
    """The tiny model, of which its makers say how it is sampled."""
    path = tmp_path / "wild"
    shutil.copytree(tiny_model_dir, path)
    said = {"do_sample": True, "temperature": 1.5, "top_k": 9, "top_p": 0.7}
    (path / "generation_config.json").write_text(json.dumps(said))
    return path


def test_a_model_is_sampled_as_its_makers_say_which_is_told(laplm_, lm, made_to_be_wild) -> None:
    def run(*argv: object):
        return laplm_("run", "The", "-n", 20, "-m", made_to_be_wild, "--precision", "fp32", *argv)

    said = {"temperature": 1.5, "top_k": 9, "top_p": 0.7}
    result = run("--seed", 5)
    assert result.out.rstrip("\n") == lm.generate("The", 20, seed=5, **said).text.rstrip("\n")
    assert result.err.endswith(", seed 5; temperature 1.5, top_k 9, top_p 0.7 (the model's own)\n")
    wild = LanguageModel(made_to_be_wild, "fp32")
    assert wild.generate("The", 20, seed=5).text == lm.generate("The", 20, seed=5, **said).text

    value = json.loads(run("--json", "--seed", 5, "--temperature", 0.8, "--top-k", 40).out)
    assert {name: value["sampling"][name] for name in SAMPLING} == {
        "temperature": 0.8, "top_k": 40, "top_p": 0.7, "min_p": 0, "repetition_penalty": 1,
    }  # fmt: skip
    assert run("--greedy").err.endswith("/s, greedy\n")
    (made_to_be_wild / "generation_config.json").write_text('{"do_sample": false}')
    result = run()
    assert result.out.rstrip("\n") == lm.generate("The", 20, temperature=0).text.rstrip("\n")
    assert result.err.endswith("/s, greedy (the model's own)\n")


@pytest.mark.parametrize("words", [["--greedy"], ["--temperature", "0"], ["--temperature", "1e-5"]])
def test_the_three_ways_to_ask_for_the_likeliest_text_agree(run, lm, words) -> None:
    result = run("Once upon a time", "-n", 15, *words)
    assert result.out.rstrip("\n") == lm.generate("Once upon a time", 15, temperature=0).text
    assert result.err.endswith("greedy\n")


def test_samples_come_one_after_the_other_under_headings(run, lm) -> None:
    result = run("The", "-n", 8, "--samples", 3, "--seed", 1)
    parts = re.split(r"--- sample (\d) of 3 ---\n", result.out)
    assert parts[0] == "" and parts[1::2] == ["1", "2", "3"]
    expected = [r.text for r in lm.samples("The", 3, 8, seed=1)]
    assert [p.removesuffix("\n") for p in parts[2::2]] == [t.removesuffix("\n") for t in expected]
    assert result.err.startswith("24 tokens, ")
    assert expected[0] == lm.generate("The", 8, seed=1).text


def test_stop_may_be_given_several_times(run, lm) -> None:
    text = lm.generate("The", 40, seed=6, ignore_eos=True).text
    stop = text[20:23]
    result = run("The", "-n", 40, "--seed", 6, "--ignore-eos", "--stop", "@@@", "--stop", stop)
    assert result.out == text[: text.index(stop)].removesuffix("\n") + "\n"


def test_json_is_one_object_with_text_ids_logprobs_and_timings(run, lm) -> None:
    result = run("The", "-n", 6, "--seed", 2, "--json", "--logprobs", 2)
    value = json.loads(result.out)
    assert result.out.count("\n") == 1
    expected = lm.generate("The", 6, seed=2, logprobs=2)
    assert value["text"] == expected.text
    assert value["token_ids"] == list(expected.token_ids)
    assert value["logprobs"] == pytest.approx(expected.logprobs)
    assert value["top_logprobs"][0][0] == expected.top_logprobs[0][0]._asdict()
    assert [len(tops) for tops in value["top_logprobs"]] == [2] * 6
    assert value["finish_reason"] == expected.finish_reason
    assert value["prompt_token_ids"] == list(expected.prompt_token_ids)
    assert value["usage"] == {"prompt_tokens": 1, "completion_tokens": 6, "total_tokens": 7}
    assert value["sampling"]["seed"] == 2
    assert 0 < value["timings"]["first_token_seconds"] < value["timings"]["seconds"]
    assert value["precision"] == "fp32" and "samples" not in value
    assert SUMMARY.fullmatch(result.err.strip())


def test_json_of_several_samples_lists_them(run, lm) -> None:
    value = json.loads(run("The", "-n", 6, "--seed", 2, "--json", "--samples", 3).out)
    expected = lm.samples("The", 3, 6, seed=2)
    assert [s["token_ids"] for s in value["samples"]] == [list(r.token_ids) for r in expected]
    assert value["token_ids"] == value["samples"][0]["token_ids"]
    assert "top_logprobs" not in value


def test_logprobs_are_shown_token_by_token(run, lm) -> None:
    expected = lm.generate("The", 4, seed=2, logprobs=2)
    result = run("The", "-n", 4, "--seed", 2, "--logprobs", 2)
    rows = [line.split(" | ") for line in result.out.rstrip("\n").split("\n")[-4:]]
    for row, token, logprob, tops in zip(
        rows, expected.token_ids, expected.logprobs, expected.top_logprobs, strict=True
    ):
        assert len(row) == 3
        shown = row[0].rsplit(None, 1)
        assert json.loads(shown[0]) == lm.tokenizer.token_text(token)
        assert float(shown[1]) == pytest.approx(logprob, abs=6e-4)
        assert json.loads(row[1].rsplit(None, 1)[0]) == tops[0].text
    only_chosen = run("The", "-n", 4, "--seed", 2, "--logprobs", 0).out.split("\n")[-5:-1]
    assert [line.split(" | ")[0] for line in only_chosen] == [row[0] for row in rows]


def test_slide_goes_beyond_the_context(run) -> None:
    refused(
        run("The", "-n", 200),
        "1 tokens",
        "-n asks for 200 more",
        "holds 128",
        "at most 127",
        "--slide",
    )
    result = run("The", "-n", 200, "--slide", "--ignore-eos")
    assert result.code == 0 and result.err.startswith("200 tokens, ")


def test_the_context_is_set_and_what_it_takes_is_told(run, lm) -> None:
    result = run("The", "-n", 30, "--context", 16, "--slide", "--seed", 3, "--ignore-eos")
    size = 16 * lm.gpt.new_cache().bytes_per_position / 1e3
    assert result.err.startswith(f"context of 16 positions, {size:.1f} kB when full\n30 tokens, ")
    same = LanguageModel(lm.path, "fp32", context=16).generate(
        "The", 30, seed=3, slide=True, ignore_eos=True
    )
    assert result.out == same.text.removesuffix("\n") + "\n"
    assert same.token_ids != lm.generate("The", 30, seed=3, ignore_eos=True).token_ids
    # Without --slide as many tokens as there is room for.
    assert "\n15 tokens, " in run("The", "--context", 16, "--ignore-eos").err
    result = run("The", "-n", 30, "--context", 16)
    line = "hold 16 of its 128: ask for at most 15, .* set a larger --context, or turn on --slide"
    assert result.code == 2 and re.search(line, result.err)


def test_a_context_that_memory_does_not_hold_whole_is_told(run, lm, monkeypatch) -> None:
    size = 64 * lm.gpt.new_cache().bytes_per_position / 1e3
    monkeypatch.setattr("laplm.run.language_model._STEP", 64)
    monkeypatch.setattr("laplm.run.language_model._cache_room", lambda *_: 150)
    result = run("The", "-n", 4, "--seed", 1)
    assert result.code == 0 and result.err.startswith(
        f"context of 64 positions, {size:.1f} kB when full, of the model's 128: it shall not take "
        "more than half of the memory that is left; --context sets another\n"
    )


@pytest.mark.parametrize("verb", ["run", "chat", "serve"])
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("0", "a whole number from 1 up"),
        ("-3", "a whole number from 1 up"),
        ("many", "'many', but it must be a whole number"),
        ("1.5", "a whole number"),
        ("9" * 40, "a whole number from 1 up to 2,147,483,648"),
        ("129", "learned embeddings for 128 positions and none for more"),
    ],
)
def test_what_is_no_context_is_refused_in_one_line(
    laplm_, tiny_model_dir, monkeypatch, verb, typed, said
) -> None:
    monkeypatch.setattr(logs, "set_up", lambda **_: None)  # it would outlive this test
    words = [tiny_model_dir, "--port", 0] if verb == "serve" else ["The", "-m", tiny_model_dir]
    refused(laplm_(verb, *words, f"--context={typed}"), "--context is ", said)


def test_bad_input_is_refused_before_weights_are_prepared(run, monkeypatch) -> None:
    monkeypatch.setattr(GPT, "__init__", lambda *a, **k: pytest.fail("the engine was made"))
    for argv in (["--top-k", "-1"], ["-n", "500"], ["--stop", ""], ["--logprobs", "-1"]):
        assert run("The", *argv).code == 2
    assert run("-", stdin=b"It was a day. " * 100_000).code == 2


def test_a_damaged_built_in_model_is_refused_though_its_weights_are_prepared(
    laplm_, monkeypatch, tmp_path
) -> None:
    copy = tmp_path / "pocket"
    shutil.copytree(built_in.DIRECTORY, copy)
    monkeypatch.setattr(built_in, "DIRECTORY", copy)
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time")
    assert laplm_("run", "Once", "-n", 2).code == 0
    weights = copy / "model.safetensors"
    before, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1000] ^= 4
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    line = ("the built-in model is damaged: model.safetensors", str(copy), "reinstall laplm")
    for argv in (["run", "Once", "-m", "pocket"], ["run", "Once", "-m", copy], ["eval", text],
                 ["eval", text, "-m", "pocket", "--json"], ["bench", "-m", "pocket"],
                 ["pull", "pocket"]):  # fmt: skip
        result = laplm_(*argv)
        refused(result, *line)
    listing = laplm_("models")
    assert listing.code == 0 and line[0] in listing.out
    (copy / "tokenizer.json").unlink()
    result = laplm_("run", "Once", "-m", "pocket")
    refused(result, f"{copy / 'tokenizer.json'} is missing", "reinstall laplm")


def test_the_first_use_says_what_it_does(run, tiny_model_dir, tmp_path, monkeypatch) -> None:
    """With kernels that are compiled already, under another name: compiling takes seconds."""
    kept, real, keys = home.directory("kernels"), jit._cache_key, []

    def key(isa, spec, sources) -> str:
        keys.append(real(isa, spec, sources))
        return f"{Path(os.environ['LAPLM_HOME']).name}-{keys[-1]}"

    monkeypatch.setattr(jit, "_cache_key", key)
    monkeypatch.setattr(
        jit, "_compile", lambda isa, function, done: (kept / f"{keys[-1]}.o").read_bytes()[32:]
    )
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "one"))
    first, second = (run("The", "-n", 2, "--seed", 1) for _ in range(2))
    *notes, summary = first.err.splitlines()
    assert notes == [
        "compiling for this CPU, some seconds (once)", "preparing weights (once)"
    ]  # fmt: skip
    assert SUMMARY.match(summary)
    assert second.err.count("\n") == 1
    assert (first.code, first.out) == (second.code, second.out)

    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "two"))
    told: list[tuple[str, int, int]] = []
    _ = LanguageModel(tiny_model_dir, "fp32", progress=lambda *args: told.append(args)).gpt
    assert [args for args in told if args[0] == "kernels"] == [("kernels", 0, 3), ("kernels", 3, 3)]
    assert next(args for args in told if args[0] == "weights")[1] == 0


@pytest.fixture
def ctrl_c_at_the_fifth_token(monkeypatch) -> None:
    calls, decode = [], GPT.decode

    def interrupting(*args):
        calls.append(1)
        if len(calls) == 4:  # the first token comes from the prefill
            signal.raise_signal(signal.SIGINT)
        return decode(*args)

    monkeypatch.setattr(GPT, "decode", interrupting)


def test_ctrl_c_keeps_the_text_and_the_final_line(run, lm, ctrl_c_at_the_fifth_token) -> None:
    before = signal.getsignal(signal.SIGINT)
    result = run("The", "-n", 100, "--seed", 1, "--ignore-eos")
    assert result.code == 130
    assert result.err.startswith("5 tokens, ") and SUMMARY.fullmatch(result.err.strip())
    text = result.out.removesuffix("\n")
    assert text and lm.generate("The", 5, seed=1, ignore_eos=True).text == text
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_still_prints_a_whole_json_object(run, ctrl_c_at_the_fifth_token) -> None:
    result = run("The", "-n", 100, "--seed", 1, "--json", "--samples", 2, "--ignore-eos")
    assert result.code == 130
    value = json.loads(result.out)
    assert value["finish_reason"] == "interrupted"
    assert [len(s["token_ids"]) for s in value["samples"]] == [5, 4]


def test_a_second_ctrl_c_ends_at_once(run, monkeypatch) -> None:
    def twice(*_args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still running")

    monkeypatch.setattr(GPT, "decode", twice)
    result = run("The", "-n", 100)
    assert (result.code, result.err) == (130, "")


def test_a_real_ctrl_c_ends_a_real_process(tiny_model_dir) -> None:
    argv = ["run", "The", "-m", str(tiny_model_dir), "-n", "10000000", "--slide", "--ignore-eos"]
    process = subprocess.Popen(
        [sys.executable, "-m", "laplm", *argv],
        bufsize=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert SUMMARY.fullmatch(err.decode().splitlines()[-1])
    (first + rest).decode()  # whole characters


def test_a_reader_who_leaves_ends_it_quietly(tiny_model_dir) -> None:
    argv = ["run", "The", "-m", str(tiny_model_dir), "-n", "10000000", "--slide", "--ignore-eos"]
    process = subprocess.Popen(
        [sys.executable, "-m", "laplm", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(60) == 0
    assert err in ("", "compiling for this CPU, some seconds (once)\n")
