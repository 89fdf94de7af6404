"""``laplm chat``: one question, a pipe, and a conversation on a terminal of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from calling import command, refused
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_kinds import make_kind, say

from laplm import home
from laplm.cli import chat, line_reader
from laplm.cli.chat import COMMANDS, parse
from laplm.errors import InputError, LaplmError
from laplm.model.tokenizer import Tokenizer
from laplm.run.chat import Conversation
from laplm.run.language_model import LanguageModel

ANSWER = " a girl"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base") / "base"


@pytest.fixture(scope="module")
def scripted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers ``ANSWER``, whatever it is asked."""
    path = make_kind("chatml", base, tmp_path_factory.mktemp("scripted") / "model")
    tokenizer = Tokenizer.from_directory(path)
    (end,) = tokenizer.encode("<|im_end|>", allow_special=True)
    say(path, [*tokenizer.encode("\n"), *tokenizer.encode(ANSWER), end, *tokenizer.encode("!!")])
    return path


@pytest.fixture(scope="module")
def endless(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers end with its context."""
    path = make_kind("chatml", base, tmp_path_factory.mktemp("endless") / "model")
    tokenizer = Tokenizer.from_directory(path)
    say(path, [*tokenizer.encode("\n"), *tokenizer.encode(" a"), *tokenizer.encode(" a")])
    return path


@pytest.fixture
def ask(laplm_, scripted: Path) -> Callable[..., SimpleNamespace]:
    _ = LanguageModel(scripted, "fp32").gpt  # prepared and compiled

    def call(*argv: object, stdin: bytes | None = None) -> SimpleNamespace:
        return laplm_("chat", *argv, "-m", scripted, "--precision", "fp32", stdin=stdin)

    return call


def test_a_question_is_answered_once_and_the_answer_stands_alone(ask) -> None:
    result = ask("Who is she?")
    assert (result.code, result.out, result.err) == (0, "a girl\n", "")
    verbose = ask("Who is she?", "--verbose", "--greedy")
    assert verbose.out == result.out
    assert re.fullmatch(r"3 tokens, [\d.,]+ tokens/s, greedy\n", verbose.err)


def test_a_question_is_piped_in(ask) -> None:
    assert ask(stdin=b"Who is she?\n").out == ask("-", stdin=b"Who?").out == "a girl\n"
    refused(ask(stdin=b""), "the prompt is empty")
    refused(ask(stdin=b"\xff\xfe\x00"), "UTF-16")


def test_what_is_piped_in_stands_before_the_question(scripted: Path) -> None:
    result = command(
        "chat", "-m", scripted, "--precision", "fp32", "Who?", "--json", input=b"A text.\n"
    )
    value = json.loads(result.stdout)
    assert value["messages"][0] == {"role": "user", "content": "A text.\n\nWho?"}


def test_json_is_one_object_with_the_conversation(ask) -> None:
    value = json.loads(ask("Who?", "--system", "Be brief.", "--json", "--seed", 1).out)
    assert [m["role"] for m in value["messages"]] == ["system", "user", "assistant"]
    assert value["text"] == value["messages"][-1]["content"] == ANSWER
    assert value["finish_reason"] == "eos" and value["sampling"]["seed"] == 1
    assert value["usage"]["completion_tokens"] == len(value["token_ids"]) == 3


def test_bad_usage_is_one_plain_line(ask, laplm_, tiny_model_dir) -> None:
    refused(ask("Who?", "--top-k", "-1"), "--top-k is -1")
    refused(ask("Who?", "-n", "0"), "-n is 0")
    refused(ask("girl " * 300), "shorten it")
    refused(ask(""), "the prompt is empty")
    plain = ("chat", "-m", tiny_model_dir, "Once", "-n", 2)
    refused(laplm_(*plain, "--system", "x"), "was not taught to talk")
    result = laplm_(*plain)
    assert result.code == 0 and result.out.endswith("\n")
    assert result.err.startswith(f"{tiny_model_dir} continues texts and was not taught to talk")


# --- on a terminal -----------------------------------------------------------------------------

pty = pytest.importorskip("pty", reason="there are pseudo-terminals on POSIX systems alone")

# What a shell starts in the background ignores Ctrl-C, and so does all that it starts.
SLOW = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "import sys, time; from laplm.model.engine.model import GPT; decode = GPT.decode; "
    "GPT.decode = lambda *a: (time.sleep(0.02), decode(*a))[1]; "
    "from laplm.cli import main; sys.exit(main(sys.argv[1:]))"
)


class Terminal:
    """A program on a pseudo-terminal; its tokens take 20 ms, so that they can be interrupted."""

    def __init__(self, *argv: object, columns: int = 80, **env: str) -> None:
        import fcntl
        import struct
        import termios

        self._end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

        self.process = subprocess.Popen(
            [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
             f"{SLOW}", *map(str, argv)],
            stdin=other, stdout=other, stderr=other, start_new_session=True,
            # pytest's workers are told a width, which would count more than the terminal's.
            env={name: value for name, value in os.environ.items() if name != "COLUMNS"}
            | {"TERM": "dumb"} | env,
        )  # fmt: skip
        os.close(other)
        self._seen = 0
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def read(self, until: str | None = None) -> str:
        """What comes up to a text, or to the end."""
        deadline = time.monotonic() + 60
        while until is None or until not in self.text[self._seen :]:
            assert time.monotonic() < deadline, self.text
            if not select.select([self._end], [], [], 1)[0]:
                continue
            data = b""
            with contextlib.suppress(OSError):  # Linux's way to say that nobody is there
                data = os.read(self._end, 4096)
            if not data:
                assert until is None, self.text
                break
            self.text += data.decode(errors="replace").replace("\r", "")
        start = self._seen
        self._seen = len(self.text)
        if until is not None:
            self._seen = self.text.index(until, start) + len(until)
        return self.text[start : self._seen]

    def say(self, line: str, until: str = "\n>>> ") -> str:
        """Type a line and read what comes to the next prompt."""
        self.type(line)
        return self.read(until)

    def interrupt(self, until: str = "\n>>> ") -> str:
        """Press Ctrl-C, again each second until something comes, and read up to a text.

        Python's readline sees a signal only while it waits for a key: one that comes sooner waits
        for the next.
        """
        deadline = time.monotonic() + 60
        self.type("\x03")
        while not select.select([self._end], [], [], 1)[0]:
            assert time.monotonic() < deadline, self.text
            self.type("\x03")
        return self.read(until)

    def leave(self) -> int:
        self.read()
        return self.process.wait(30)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def call(*argv: object, **options) -> Terminal:
        opened.append(Terminal(*argv, **options))
        return opened[-1]

    yield call
    for each in opened:
        each.process.kill()
        os.close(each._end)


@pytest.fixture
def history() -> Iterator[Path]:
    """Where what is typed is kept; nothing is there yet."""
    path = home.directory("chat") / "history"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def test_a_conversation_on_a_terminal(
    terminal, scripted: Path, history: Path, tmp_path: Path
) -> None:
    t = terminal("chat", "-m", scripted, "--precision", "fp32")
    assert "temperature 0.8, top_k 40 (laplm's own)" in t.read(">>> ")
    assert t.say("Who is she?\n").endswith("\na girl\n>>> ")
    t.say('"""first\n', "... ")
    assert "\na girl\n" in t.say('/second"""\n')
    saved = tmp_path / "talk.json"
    assert "talk.json written" in t.say(f"/save {saved}\n")
    messages = json.loads(saved.read_text())["messages"]
    assert [m["content"] for m in messages] == ["Who is she?", ANSWER, "first\n/second", ANSWER]
    assert "taken back: first /second" in t.say("/undo\n")
    assert "taken back: Who is she?" in t.say("/undo\n")
    assert "nothing was said yet" in t.say("/undo\n")
    assert "Did you mean /undo?" in t.say("/und\n")
    assert "talk.json loaded" in t.say(f"/load {saved}\n")
    assert "\na girl\n" in t.say("/again\n")
    t.say("half a line", "half a line")
    assert "Ctrl-D or /exit leaves" in t.interrupt()
    t.type("\x04")
    assert t.leave() == 0
    assert history.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert lines[:3] == ["Who is she?", '"""first', '/second"""'] and "half a line" not in lines


def test_ctrl_c_stops_an_answer_and_keeps_it(
    terminal, endless: Path, history: Path, tmp_path: Path
) -> None:
    t = terminal("chat", "-m", endless, "--precision", "fp32", "--no-history", columns=20)
    t.read(">>> ")
    t.say("Who?\n", " a a a")
    assert "stopped" in t.say("\x03")
    saved = tmp_path / "talk.json"
    t.say(f"/save {saved}\n")
    (question, answer) = json.loads(saved.read_text())["messages"]
    assert question["content"] == "Who?"
    assert answer["content"].startswith(" a a a") and len(answer["content"]) < 200
    shown = t.say("Go on\n")
    assert "cut: the context of 128 tokens is full" in shown
    assert max(len(line) for line in shown.splitlines() if line.startswith("a a")) <= 20
    assert "no longer given" in t.say("And on\n")
    t.type("/bye\n")
    assert t.leave() == 0
    assert not history.exists()


def test_a_model_that_was_not_taught_to_talk_goes_on_with_a_text(terminal, tiny_model_dir) -> None:
    t = terminal("run", "-m", tiny_model_dir, "--precision", "fp32", "-n", "3", NO_COLOR="1")
    assert "continues texts and was not taught to talk" in t.read(">>> ")
    first = t.say("Once upon\n")
    again = t.say("\n")
    assert first.count("\n") >= 2 and again.count("\n") >= 2
    t.type("\x04")
    assert t.leave() == 0


def test_run_without_a_prompt_opens_a_conversation_with_a_model_of_conversations(
    terminal, scripted: Path
) -> None:
    t = terminal("run", "-m", scripted, "--precision", "fp32", "--greedy")
    assert "greedy" in t.read(">>> ")
    assert "\na girl\n" in t.say("Who?\n")
    t.type("\x04")
    assert t.leave() == 0


def test_arrow_keys_bring_back_what_was_typed_before(
    terminal, scripted: Path, history: Path
) -> None:
    pytest.importorskip("readline")
    t = terminal("chat", "-m", scripted, "--precision", "fp32", TERM="xterm")
    t.read(">>> ")
    t.say("Who is she?\n", "a girl")
    t.say("/bye\n", "\n")
    assert t.leave() == 0
    t = terminal("chat", "-m", scripted, "--precision", "fp32", TERM="xterm")
    t.read(">>> ")
    assert "Who is she?" in t.say("\x1b[A\x1b[A\n", "a girl")
    t.say("/bye\n", "\n")
    assert t.leave() == 0


# --- lines -------------------------------------------------------------------------------------

TYPED = st.one_of(
    st.text(),
    st.text().map(lambda text: f"/{text}"),
    st.builds(
        lambda name, rest: f"/{name}{rest}",
        st.sampled_from(sorted(COMMANDS)),
        st.one_of(st.just(""), st.text().map(lambda text: f" {text}")),
    ),
    st.builds(
        lambda name, value: f"/set {name} {value}",
        st.sampled_from(["temperature", "top_k", "max_tokens", "seed", "stop", "min-p", "x"]),
        st.one_of(st.text(), st.integers(), st.floats()),
    ),
)


@given(TYPED)
@example("/")
@example("/ x")
@example(" /etc/passwd")
def test_a_line_is_a_command_or_is_said_to_the_model(line: str) -> None:
    try:
        name, rest = parse(line)
    except InputError as error:
        assert line.startswith("/") and "\n" not in str(error)
        return
    if line.startswith("/"):
        assert name in COMMANDS and rest == rest.strip()
    else:
        assert name == "" and rest == line.removeprefix(" " if line.startswith(" /") else "")


class Script(line_reader.LineReader):
    """Lines as if they were typed, then the end of them."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = iter(lines)

    def read(self, prompt: str) -> str:
        line = next(self._lines, None)
        if line is None:
            raise EOFError
        return line


@pytest.fixture(scope="module")
def talk(scripted: Path) -> Conversation:
    return Conversation(LanguageModel(scripted, "fp32", threads=1))


@given(lines=st.lists(TYPED.filter(lambda line: line.startswith("/")), max_size=4))
@settings(max_examples=60, deadline=None)
@example(["/set temperature nan", "/set stop \\", "/set stop \\x", "/set seed " + "9" * 5000])
@example(["/system \udc80", "/load /dev/zero", "/load ~nobody/x", "/save \0", "/load \0"])
def test_no_command_ends_a_conversation_but_exit(
    talk: Conversation, tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    place = tmp_path_factory.mktemp("cwd")
    errors = io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stderr(errors), \
            contextlib.redirect_stdout(io.StringIO()):  # fmt: skip
        lines = [line for line in lines if not line.startswith("/save") or "\0" in line]
        assert chat._Loop(talk, Script(lines), False).run() == 0
    assert "Traceback" not in errors.getvalue()
    assert list(place.iterdir()) == []


def test_the_context_is_shown_and_is_set_when_the_model_is_opened(
    laplm_, talk: Conversation, scripted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat._Loop(talk, Script(["/set", "/set num_ctx 64"]), False).run()
    shown, refusal = capsys.readouterr().err.splitlines()[-2:]
    assert shown.startswith(f"context of {talk.lm.config.n_ctx} positions, ")
    assert refusal == "the context is set when the model is opened: laplm chat --context N"
    words = ["chat", "-m", scripted, "--precision", "fp32", "--context", 20]
    result = laplm_(*words, "Who?")
    assert result.err.startswith("context of 20 positions, ")
    result = laplm_(*words, "Who is she? " * 10)
    assert result.code == 2 and "but the model is set to hold 20 of its 128" in result.err
    assert "set a larger --context, or shorten it" in result.err


def test_a_system_message_of_ollama_is_named_where_the_template_has_none_like_it(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "You are Mario."
    monkeypatch.setattr("laplm.hub.stores.system_message", lambda name: said)
    lm = talk.lm
    chat._session(lm, None, {})
    assert capsys.readouterr().err == ""  # of no store
    monkeypatch.setattr(lm, "name", "ollama:mario")
    chat._session(lm, "Be brief.", {})
    assert capsys.readouterr().err == ""
    chat._session(lm, None, {})
    assert "Ollama's system message is not read; --system gives one" in capsys.readouterr().err
    said = lm.chat_template.sources["default"][:20]
    chat._session(lm, None, {})
    assert capsys.readouterr().err == ""


def test_settings_are_taken_as_other_programs_have_them(
    talk: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Conversation(talk.lm)

    def told(*lines: str) -> list[str]:
        chat._Loop(session, Script(list(lines)), False).run()
        return capsys.readouterr().err.splitlines()[1:]

    assert told("/set parameter temperature 0.5", "/set temp=0.6") == [
        "temperature 0.5", "temperature 0.6"
    ]  # fmt: skip
    assert told("/set repeat_penalty 1.1", "/set n_predict 3") == [
        "repetition_penalty 1.1", "max_new_tokens 3"
    ]  # fmt: skip
    # Quotation marks are around a text, not of it.
    assert told('/set stop "User:"', "/set stop say '", '/set stop ""') == [
        "stop 'User:'", 'stop "say \'"', "stop default"
    ]  # fmt: skip
    assert told("/set system Be brief.") == ["the system message is no setting: /system TEXT"]


def test_again_says_why_the_same_comes_and_nothing_where_nothing_comes(
    talk: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*lines: str) -> str:
        chat._Loop(Conversation(talk.lm, settings={"seed": 1}), Script(list(lines)), False).run()
        return capsys.readouterr().err

    assert "so the same" not in told("/again")
    assert "the seed is set, so the same" in told("Who?", "/again")
    greedy = told("Who?", "/set temperature 0", "/regen")
    assert "the likeliest token is taken each time" in greedy and "the seed" not in greedy


def test_a_second_ctrl_c_at_the_prompt_ends_no_conversation(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts = iter([True, True])

    def hasty_note(text: str, *, dim: bool = False) -> None:
        if text.startswith("Ctrl-D") and next(interrupts, False):
            raise KeyboardInterrupt

    class Interrupted(Script):
        def read(self, prompt: str) -> str:
            line = super().read(prompt)
            if line == "^C":
                raise KeyboardInterrupt
            return line

    monkeypatch.setattr(chat, "note", hasty_note)
    session = Conversation(talk.lm)
    assert chat._Loop(session, Interrupted(["^C", "Who?"]), False).run() == 0
    assert len(session.messages) == 2


def test_a_file_that_is_no_conversation_is_not_written_over(talk: Conversation, tmp_path) -> None:
    loop = chat._Loop(talk, Script([]), False)
    precious = tmp_path / "notes.txt"
    precious.write_text("precious")
    with pytest.raises(InputError, match="is no saved conversation"):
        loop._do("save", str(precious))
    assert precious.read_text() == "precious"
    mine = tmp_path / "talk.json"
    for _ in range(2):
        loop._do("save", str(mine))
    chat._Loop(talk, Script([]), False)._do("save", f'"{mine}"')
    with pytest.raises(LaplmError, match="it is no JSON"):
        loop._do("load", str(precious))


def test_the_last_answer_is_looked_at_token_by_token(
    talk: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = chat._Loop(Conversation(talk.lm), Script([]), False)
    with pytest.raises(InputError, match="no answer yet"):
        loop._do("look", "")
    loop._do("", "Who?")
    capsys.readouterr()
    loop._do("look", "")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    said = [row[1:3] for row in rows if row and row[0].isdigit()]
    # What it said is what it finds likeliest: the script, and the end of the turn.
    assert said == [["·a", "·a"], ["·girl", "·girl"], ["<|im_end|>", "<|im_end|>"]]


def test_a_long_or_damaged_history_is_read_as_far_as_it_goes(tmp_path, monkeypatch) -> None:
    path = tmp_path / "history"
    lines = [json.dumps(f"line {i}") for i in range(2500)]
    path.write_text("\n".join([*lines, "{damaged", "3", '"last"']))
    path.chmod(0o644)
    reader = Script([])
    reader._history, reader._typed, reader._last = path, True, ""
    earlier = reader._earlier()
    assert earlier[-2:] == ["line 2499", "last"] and len(earlier) == 998
    assert path.read_text().count("\n") == 1000 and path.stat().st_mode & 0o777 == 0o600
    reader._remember("one more")
    assert json.loads(path.read_text().splitlines()[-1]) == "one more"
