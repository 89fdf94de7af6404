"""The command line as a person meets it: what is printed where, and the exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from calling import refused

import laplm
from laplm import built_in, home
from laplm.cli import arguments, commands, output
from laplm.errors import DownloadError
from laplm.hub import locate, pull
from laplm.model.engine.model import GPT
from laplm.native import isa, jit
from laplm.run.language_model import LanguageModel, default_model
from laplm.run.sampler import SamplingParams

SUMMARY = re.compile(r"(\d+) tokens?, [\d,.]+ tokens/s, (seed \d+|greedy)")
DETAILS = re.compile(
    r"(\d+) tokens? in \d+\.\d\d s, [\d,.]+ tokens/s, first token after \d+\.\d\d s "
    r"\(loaded in \d+\.\d\d s\); \S+, (fp32|int8|int4), \d+ threads?, (seed \d+|greedy)"
)


@pytest.fixture
def run(laplm_, tiny_model_dir) -> Callable[..., SimpleNamespace]:
    """``laplm run`` with the tiny model, its weights and kernels prepared."""
    _ = LanguageModel(tiny_model_dir, "fp32").gpt

    def call(*argv: object, stdin: bytes | None = None) -> SimpleNamespace:
        return laplm_("run", *argv, "-m", tiny_model_dir, "--precision", "fp32", stdin=stdin)

    return call


@pytest.fixture(scope="module")
def lm(tiny_model_dir: Path) -> LanguageModel:
    return LanguageModel(tiny_model_dir, "fp32")


def command(*argv: object, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "laplm", *map(str, argv)],
        capture_output=True,
        timeout=120,
        **options,
    )


# --- run ----------------------------------------------------------------------------------------


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


def test_the_defaults_are_those_of_the_library() -> None:
    args = vars(commands.make_parser().parse_args(["run", "x"]))
    params = SamplingParams()
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"):
        assert args[name] == getattr(params, name)
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        option = "--" + name.replace("_", "-")
        help_ = re.search(
            rf"{option} .*?\(default: ([\d.]+)\)", _help("run").split("chosen:")[1], re.DOTALL
        )
        assert help_ and float(help_[1]) == args[name]


def _help(verb: str) -> str:
    verbs = commands.make_parser()._subparsers._group_actions[0].choices
    return verbs[verb].format_help()


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


def test_what_a_model_says_cannot_command_a_terminal(monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    assert output.printable("a\x1b[2Jb\tc\nd\x9b\x7fé") == "a\\x1b[2Jb\tc\nd\\x9b\\x7fé"
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: False))
    assert output.printable("a\x1b[2J") == "a\x1b[2J"


# --- where the prompt comes from ----------------------------------------------------------------


def test_a_pipe_a_dash_a_file_and_an_argument_are_the_same_prompt(run, tmp_path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes("naïve café\r\n".encode("utf-8-sig"))
    texts = {
        run("naïve café", "-n", 8, "--seed", 1).out,
        run("-n", 8, "--seed", 1, stdin="naïve café\n".encode()).out,
        run("-", "-n", 8, "--seed", 1, stdin="naïve café".encode()).out,
        run("--prompt-file", file, "-n", 8, "--seed", 1).out,
    }
    assert len(texts) == 1
    assert run("naïve café\n", "-n", 8, "--seed", 1).out not in texts


def test_a_prompt_given_as_an_argument_leaves_the_pipe_alone(run) -> None:
    stdin = b"\xff"
    assert run("The", "-n", 2, stdin=stdin).code == 0
    assert sys.stdin.buffer.read() == stdin


@pytest.mark.parametrize(
    ("argv", "stdin", "parts"),
    [
        ([""], None, ["prompt is empty"]),
        (["-"], b"", ["prompt is empty"]),
        ([], b"\n", ["prompt is empty"]),
        (["-"], b"a\0b", ["NUL byte", "position 1"]),
        (["-"], b"caf\xe9 au lait", ["not UTF-8", "0xe9 at position 3", "iconv"]),
        (["-"], "Once".encode("utf-16"), ["UTF-16", "iconv"]),
        (["caf\udce9"], None, ["not UTF-8", "0xe9 at position 3"]),
        (["-"], b"It was a day. " * 750_000, ["about", "tokens", "holds 128"]),
        (["-"], b"a" * (65 << 20), ["longer than 64 MB"]),
        (["--prompt-file", "missing.txt"], None, ["missing.txt cannot be read", "No such file"]),
        (["The", "--prompt-file", "x"], None, ["not both"]),
        (["The", "again"], None, ["too many arguments: 'again'", "laplm run --help"]),
        (["The", "--top-k", "-1"], None, ["--top-k is -1", "whole number from 0"]),
        (["The", "--top-k", "1.5"], None, ["--top-k is '1.5', but", "whole number", "run --help"]),
        (["The", "--temperature", "nan"], None, ["--temperature is nan"]),
        (["The", "--temperature=-inf"], None, ["--temperature is -inf"]),
        (["The", "--top-p", "1.5"], None, ["--top-p is 1.5"]),
        (["The", "--min-p", "nan"], None, ["--min-p is nan"]),
        (["The", "--repetition-penalty", "0"], None, ["--repetition-penalty is 0.0"]),
        (["The", "--seed", "-1"], None, ["--seed is -1"]),
        (["The", "--samples", "0"], None, ["--samples is 0"]),
        (["The", "-n", "0"], None, ["-n is 0"]),
        (["The", "--logprobs", "-1"], None, ["--logprobs is -1"]),
        (["The", "--stop", ""], None, ["stop string is empty"]),
        (["The", "--threads", "0"], None, ["--threads is 0"]),
        (["The", "--precision", "int2"], None, ["--precision is 'int2'", "fp32, int8 or int4"]),
        (["The", "--temprature", "1"], None, ["no such option: --temprature"]),
        (["The", "--stop", "-a"], None, ["--stop", "begins with a dash", "--stop=-a"]),
        (["The", "--temp", "1"], None, ["no such option: --temp"]),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_bad_input_is_one_plain_line_and_code_2(laplm_, tiny_model_dir, argv, stdin, parts) -> None:
    refused(laplm_("run", *argv, "-m", tiny_model_dir, stdin=stdin), *parts)


def test_without_a_prompt_at_a_terminal_the_next_step_is_said(run, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    refused(run(), 'laplm run "Once upon a time"')


def test_bad_input_is_refused_before_weights_are_prepared(run, monkeypatch) -> None:
    monkeypatch.setattr(GPT, "__init__", lambda *a, **k: pytest.fail("the engine was made"))
    for argv in (["--top-k", "-1"], ["-n", "500"], ["--stop", ""], ["--logprobs", "-1"]):
        assert run("The", *argv).code == 2
    assert run("-", stdin=b"It was a day. " * 100_000).code == 2


# --- which model --------------------------------------------------------------------------------


def test_gpt2_is_the_default_when_it_is_on_disk(
    laplm_, tiny_model_dir, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert default_model()[0] == "pocket"
    for name in ("pocket", "gpt2"):
        (home.directory("told") / f"model-{name}").unlink(missing_ok=True)
    first, second = (laplm_("look", "tokens", "The").err for _ in range(2))
    assert first.startswith("model pocket: the small built-in one") and second == ""

    folder = tmp_path / "hub" / "models--openai-community--gpt2"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    shutil.copytree(tiny_model_dir, folder / "snapshots" / "abc123")
    result = laplm_("run", "The", "-n", 3, "--verbose")
    assert result.code == 0
    assert result.err.startswith("model gpt2: it is on disk")
    assert "; gpt2, int8, " in result.err


def test_which_model_was_taken_is_said_once_a_day(capsys, monkeypatch, tmp_path) -> None:
    def told() -> str:
        arguments.note_model("pocket", "why")
        return capsys.readouterr().err

    monkeypatch.setenv("LAPLM_HOME", str(tmp_path))
    assert (told(), told()) == ("model pocket: why\n", "")
    mark = tmp_path / "told" / "model-pocket"
    for seconds, again in ((80_000, False), (90_000, True), (-10_000, True)):
        then = time.time() - seconds
        os.utime(mark, (then, then))
        assert bool(told()) == again
    arguments.note_model("gpt2", "why")
    assert capsys.readouterr().err == "model gpt2: why\n"
    monkeypatch.setenv("LAPLM_HOME", "/dev/null/nowhere")
    assert told() and told()


def test_a_model_that_is_not_there_is_named_with_the_next_step(laplm_) -> None:
    refused(laplm_("run", "The", "-m", "gpt2-xl"), "gpt2-xl is not on disk", "laplm pull gpt2-xl")


def test_models_lists_what_is_on_disk(laplm_, tiny_model_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "models--me--mine"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    shutil.copytree(tiny_model_dir, folder / "snapshots" / "abc123")
    result = laplm_("models")
    assert result.code == 0
    header, pocket, mine, *about = result.out.rstrip("\n").split("\n")
    assert header.split() == ["name", "parameters", "on", "disk", "stored", "as", "path"]
    assert pocket.startswith("pocket ")
    parameters = f"{locate.installed()[1].n_parameters / 1e6:.1f}"
    assert re.match(rf"me/mine +{parameters} M +[\d.]+ MB +fp32 +\S+abc123$", mine)
    value = json.loads(laplm_("models", "--json").out)
    assert value[1]["name"] == "me/mine" and value[1]["dtype"] == "fp32"
    assert value[1]["summary"] is None

    size = re.fullmatch(r"pocket: ([\d.]+) million parameters, ([\d.]+) MB", about[1])
    assert about[0] == "" and size
    assert pocket.split()[1:5] == [size[1], "M", size[2], "MB"]
    assert " ".join(" ".join(about[2:-1]).split()) == value[0]["summary"] == built_in.summary()
    assert about[-1] == f"  More: {built_in.DIRECTORY / 'MODEL_CARD.md'}"


@pytest.mark.parametrize("columns", [1, 20, 60, 300])
def test_models_keeps_the_summary_within_the_terminal(laplm_, monkeypatch, columns) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = laplm_("models").out.split("\n\n")[1].splitlines()[1:-1]
    assert max(map(len, lines)) <= min(100, max(20, columns))
    assert all(line.startswith("  ") for line in lines)


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
    kept, real, keys = home.directory("kernels"), jit._key, []

    def key(isa, spec) -> str:
        keys.append(real(isa, spec))
        return f"{Path(os.environ['LAPLM_HOME']).name}-{keys[-1]}"

    monkeypatch.setattr(jit, "_key", key)
    monkeypatch.setattr(
        jit, "_compile", lambda isa, function, done: (kept / f"{keys[-1]}.o").read_bytes()[32:]
    )
    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "one"))
    first, second = (run("The", "-n", 2, "--seed", 1) for _ in range(2))
    *notes, summary = first.err.splitlines()
    assert notes == [
        "preparing weights (once)", "compiling for this CPU, some seconds (once)"
    ]  # fmt: skip
    assert SUMMARY.match(summary)
    assert second.err.count("\n") == 1
    assert (first.code, first.out) == (second.code, second.out)

    monkeypatch.setenv("LAPLM_HOME", str(tmp_path / "two"))
    told: list[tuple[str, int, int]] = []
    _ = LanguageModel(tiny_model_dir, "fp32", progress=lambda *args: told.append(args)).gpt
    assert [args for args in told if args[0] == "kernels"] == [("kernels", 0, 3), ("kernels", 3, 3)]
    assert told[0][:2] == ("weights", 0)


def test_one_long_step_shows_time_that_passes_and_no_share(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with output.progress_bars() as progress:
        progress("kernels", 0, 1)
        progress._bars.refresh()
        shown = sys.stderr.getvalue()
        assert "compiling for this CPU" in shown and "0:00:0" in shown and "%" not in shown
        progress("tokens", 1, 4)
        progress("kernels", 1, 1)
        progress._bars.refresh()
        shown = sys.stderr.getvalue()
        assert "100%" in shown and " 25%" in shown


def test_pull_says_where_the_model_is(laplm_, monkeypatch, tmp_path) -> None:
    asked = []
    monkeypatch.setattr(
        pull, "pull", lambda name, *, force: asked.append((name, force)) or tmp_path
    )
    assert laplm_("pull", "gpt2").out == f"gpt2 is in {tmp_path}\n"
    laplm_("pull", "gpt2", "--force")
    assert asked == [("gpt2", False), ("gpt2", True)]

    def fail(name: str, *, force: bool) -> Path:
        raise DownloadError("cannot pull gpt2: the network is down; check it")

    monkeypatch.setattr(pull, "pull", fail)
    refused(laplm_("pull", "gpt2"), "the network is down; check it")


def test_audit_passes_the_command_on_with_its_options_and_its_code(laplm_, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("laplm.audit.run_audited", lambda argv: asked.append(argv) or 3)
    assert laplm_("audit", "--", "run", "--json", "-n", "3", "--", "-x").code == 3
    assert laplm_("audit", "run", "The", "--json").code == 3
    assert asked == [["run", "--json", "-n", "3", "--", "-x"], ["run", "The", "--json"]]
    refused(laplm_("audit"), "nothing to run", "laplm audit -- run")


# --- eval ---------------------------------------------------------------------------------------


def test_eval_prints_every_number_with_its_protocol(laplm_, tiny_model_dir, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("The capital of Spain is Madrid. Once upon a time\n" * 9)
    (tmp_path / "l.jsonl").write_text('{"text": "The capital of France is Paris"}\n')
    options = ["-m", tiny_model_dir, "--precision", "fp32", "--window", 32, "--stride", 16]
    result = laplm_("eval", tmp_path / "a.txt", *options, "--lambada", tmp_path / "l.jsonl")
    assert (result.code, result.err) == (0, "")
    for part in ("perplexity", "bits per byte", "tokens/s", "window 32, stride 16", "accuracy"):
        assert part in result.out
    value = json.loads(laplm_("eval", tmp_path / "a.txt", *options, "--json").out)
    assert value.keys() == {"text"}
    assert f"{value['text']['perplexity']:.3f} per token" in result.out
    assert value["text"]["path"] == str(tmp_path / "a.txt")
    only = json.loads(laplm_("eval", "--lambada", tmp_path / "l.jsonl", *options, "--json").out)
    assert only.keys() == {"lambada"} and only["lambada"]["examples"] == 1


def test_eval_refuses_what_it_cannot_score(laplm_, tiny_model_dir, tmp_path) -> None:
    refused(laplm_("eval", "-m", tiny_model_dir), "nothing to score", "--lambada")
    refused(laplm_("eval", tmp_path / "no.txt", "-m", tiny_model_dir), "no.txt cannot be read")
    (tmp_path / "x.txt").write_text("two words")
    refused(
        laplm_("eval", tmp_path / "x.txt", "-m", tiny_model_dir, "--window", 4096),
        "--window is 4096", "from 2 up to 128",
    )  # fmt: skip


# --- Ctrl-C, pipes, and our own mistakes --------------------------------------------------------


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


def test_our_own_mistakes_are_one_line_and_code_1(run, monkeypatch) -> None:
    def broken(*_args, **_options):
        raise ZeroDivisionError("not\nyours")

    monkeypatch.setattr(LanguageModel, "stream", broken)
    result = run("The")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "laplm: internal error: ZeroDivisionError: not yours; please report it with what you "
        "typed (LAPLM_DEBUG=1 shows where it happened)\n"
    )
    monkeypatch.setenv("LAPLM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("The")


def test_too_little_memory_is_said_with_what_to_try(run, monkeypatch) -> None:
    def full(*_args):
        raise MemoryError

    monkeypatch.setattr(GPT, "decode", full)
    result = run("The")
    assert result.code == 2
    assert result.err == "laplm: not enough memory; try --precision int4, or a smaller model\n"


# --- around it ----------------------------------------------------------------------------------


def test_help_and_version(laplm_) -> None:
    bare, asked = laplm_(), laplm_("--help")
    assert bare.code == asked.code == 0
    assert bare.out == asked.out
    for verb in ("run", "pull", "models", "eval", "audit"):
        assert re.search(rf"^    {verb} ", asked.out, re.MULTILINE)
        shown = laplm_(verb, "--help")
        assert shown.code == 0 and f"\nusage: laplm {verb}" in shown.out
        assert shown.out.startswith(f"For example: laplm {verb}")
    assert asked.out.startswith('For example: laplm run "Once upon a time')
    version, kernels = laplm_("--version").out.splitlines()
    assert version == f"laplm {laplm.__version__}"
    assert kernels == f"kernels: {isa.choose().name} on {isa.cpu_name()} ({isa.why()})"
    refused(laplm_("walk"), "no such command: 'walk'", "laplm --help")
    refused(laplm_("--walk"), "no such option: --walk")


@pytest.mark.parametrize(
    ("argv", "heavy"),
    [
        (["--help"], {"numpy", "tokenizers", "llvmlite", "rich", "torch", "laplm.model"}),
        (["run", "The", "-n", "3"], {"rich", "torch", "pydantic", "huggingface_hub",
                                     "numpy.random", "transformers", "scipy", "asyncio"}),
    ],
    ids=["help", "run"],
)  # fmt: skip
def test_what_takes_long_to_import_is_not_imported(tiny_model_dir, argv, heavy) -> None:
    if argv[0] == "run":
        argv = [*argv, "-m", str(tiny_model_dir)]
        assert command(*argv).returncode == 0  # compiled and prepared
    program = (
        "import sys; from laplm.cli import main; code = main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0
    assert not heavy & set(result.stderr.split())


def test_text_is_utf_8_whatever_the_locale(tiny_model_dir) -> None:
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = command(
        "run", "-", "-m", tiny_model_dir, "-n", "3", "--json", env=env, input="naïve 北京".encode()
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.decode())["prompt"] == "naïve 北京"
