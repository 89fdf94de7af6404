"""``laplm chat``: a conversation on a terminal, or one question and its answer."""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from laplm.cli.arguments import (
    AddCommand,
    add_context,
    add_json,
    add_model,
    add_sampling,
    described_context,
    fast_startup,
    open_for_generation,
    read_piped,
    read_prompt,
    refuse_model_name,
)
from laplm.cli.line_reader import LineReader, history_file, read_message
from laplm.cli.output import (
    INTERRUPTED,
    interruptible,
    note,
    terminal_wrapper,
    write,
    write_json,
)
from laplm.cli.progress import progress_bars
from laplm.errors import InputError, LaplmError, did_you_mean, shown, visible

if TYPE_CHECKING:
    from laplm.run.chat import Answer, Continuation, Conversation
    from laplm.run.language_model import LanguageModel
    from laplm.run.results import GenerationResult

    Session = Conversation | Continuation

_PROMPT, _MORE = ">>> ", "... "
_LARGEST = 64 << 20  # bytes of a file that is loaded
_WHOLE = frozenset({"top_k", "seed", "max_new_tokens"})
_OTHER_NAMES = {
    "max_tokens": "max_new_tokens", "num_predict": "max_new_tokens",
    "n_predict": "max_new_tokens", "temp": "temperature", "repeat_penalty": "repetition_penalty",
}  # fmt: skip
_CONTEXT = ("context", "num_ctx", "n_ctx")
_DEFAULT = "default"
_LOOKED_AT = 24  # tokens of an answer, its last ones: each is as many vocabularies as layers


class Command(NamedTuple):
    """A command of a conversation, for ``/help`` and for what is typed."""

    takes: str
    about: str


COMMANDS = {
    "again": Command("", "another answer in place of the last one"),
    "undo": Command("", "take back the last question and its answer"),
    "clear": Command("", "begin anew; settings and system message stay"),
    "system": Command("TEXT", 'tell the model how to answer; alone shows it, "" takes it away'),
    "set": Command("NAME VALUE", f"a setting; alone shows them, {_DEFAULT} brings one back"),
    "save": Command("FILE", "write what was said, as JSON"),
    "load": Command("FILE", "go on with what was saved"),
    "look": Command("", "the last answer, layer by layer"),
    "help": Command("", "this list"),
    "exit": Command("", "leave, as Ctrl-D and /bye do"),
}
_SAME = {"bye": "exit", "quit": "exit", "?": "help", "regen": "again"}


def add_parser(add_command: AddCommand) -> None:
    """Add the command and its options."""
    p = add_command(
        "chat", run, example='laplm chat -m ./SmolLM2-135M-Instruct.gguf "Where is Madrid?"',
        epilog="Without a question, on a terminal, a conversation begins: /help lists what can be "
        'typed, """ begins and ends what has several lines, Ctrl-C ends an answer and keeps it, '
        "Ctrl-D leaves. The answer alone goes to standard output.",
    )  # fmt: skip
    p.add_argument(
        "question", nargs="?", metavar="QUESTION",
        help="ask this and end; what is piped in stands before it, - or nothing takes that alone",
    )  # fmt: skip
    p.add_argument("--system", metavar="TEXT", help="tell the model how to answer")
    p.add_argument(
        "-n", "--max-new-tokens", type=int, metavar="N",
        help="tokens of an answer, at most (default: as many as the model still holds)",
    )  # fmt: skip
    g = add_sampling(p)
    g.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answers")
    add_context(p)
    g = p.add_argument_group("what is shown and kept")
    g.add_argument(
        "--no-history", action="store_true", help="do not keep what is typed for the arrow keys"
    )
    g.add_argument("--verbose", action="store_true", help="end each answer with tokens and speed")
    add_json(g)
    add_model(p.add_argument_group("the model"))


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    refuse_model_name(args.question, args)
    question = _question(args.question)
    if question is None and args.json:
        raise InputError("--json is for one question: give it after the options, or pipe it in")
    with fast_startup(), progress_bars() as progress:
        lm = open_for_generation(args, progress)
        session = _session(lm, args.system, _typed_settings(args))
        if question is not None:
            if lm.chat_template is None:
                note(_base_model(lm), dim=True)
            answer = session.say(question)
        else:
            _ = lm.gpt
    if question is not None:
        return _ask_once(session, question, answer, args)
    return converse(session, verbose=args.verbose, history=not args.no_history)


def run_instead(args: argparse.Namespace) -> int:
    """What ``laplm run`` does on a terminal where nothing is to be continued; its options count."""
    settings = {name: value for name, value in _typed_settings(args).items() if value != []}
    with fast_startup(), progress_bars() as progress:
        lm = open_for_generation(args, progress)
        session = _session(lm, None, settings)
        _ = lm.gpt
    return converse(session, verbose=args.verbose)


def _typed_settings(args: argparse.Namespace) -> dict[str, Any]:
    from laplm.run.chat import SETTINGS

    found = {name: getattr(args, name, None) for name in SETTINGS}
    return {name: value for name, value in found.items() if value is not None}


def _session(lm: LanguageModel, system: str | None, settings: dict[str, Any]) -> Session:
    from laplm.run.chat import Continuation, Conversation

    if lm.chat_template is not None:
        if system is None:
            _note_ollamas_system(lm)
        return Conversation(lm, system=system, settings=settings)
    if system is not None:
        raise InputError(f"{lm.name} was not taught to talk, so it knows no --system; leave it out")
    return Continuation(lm, settings=settings)


def _note_ollamas_system(lm: LanguageModel) -> None:
    """Say that what Ollama would tell the model is not told, unless its own template tells it."""
    if not lm.name.startswith("ollama:") or lm.chat_template is None:
        return
    from laplm.hub import stores

    said = stores.system_message(lm.name)
    if said and not any(said in source for source in lm.chat_template.sources.values()):
        note(f"{lm.name}: Ollama's system message is not read; --system gives one", dim=True)


def _base_model(lm: LanguageModel) -> str:
    return f"{lm.name} continues texts and was not taught to talk (it has no chat template)"


# --- one question ------------------------------------------------------------------------------


def _question(typed: str | None) -> str | None:
    """What is asked, once; None for a conversation."""
    piped = sys.stdin is not None and not sys.stdin.isatty()
    if typed in (None, "-"):
        if sys.stdin is None or (typed is None and not piped):
            return None
        return read_prompt("-")
    question = read_prompt(typed)
    if not piped or not _has_content():
        return question
    before = read_piped().rstrip()
    return f"{before}\n\n{question}" if before else question


def _has_content() -> bool:
    """Whether standard input is a pipe or a file, and not just no terminal."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _ask_once(session: Session, question: str, answer: Answer, args: argparse.Namespace) -> int:
    with interruptible() as interrupted:
        if args.json:
            for _ in answer:
                if interrupted.is_set():
                    break
            answer.close()
            write_json(_as_json(session, question, answer), indent=None)
        else:
            _show(answer, interrupted, strip=_talks(session))
    if args.verbose:
        note(_figures(answer), dim=True)
    return INTERRUPTED if interrupted.is_set() else 0


def _as_json(session: Session, question: str, answer: Answer) -> dict[str, Any]:
    from laplm.cli.run import as_json

    out = as_json(session.lm, question, answer.stream, with_tops=False)
    return out | session.to_json()


def _figures(answer: Answer) -> str:
    from laplm.cli.run import summary

    return summary(answer.stream)


def _talks(session: Session) -> bool:
    return session.lm.chat_template is not None


def _show(answer: Answer, interrupted: threading.Event, *, strip: bool) -> GenerationResult:
    """Print an answer as it comes; Ctrl-C ends it between two tokens."""
    printer = _Printer(strip)
    for piece in answer:
        printer.add(piece)
        if interrupted.is_set():
            break
    result = answer.close()
    printer.finish(result.text)
    return result


class _Printer:
    """Prints a text that comes in pieces, on a terminal broken between words.

    White space around an answer is not shown; that around a continuation belongs to it.
    """

    def __init__(self, strip: bool) -> None:
        self._wrapper = terminal_wrapper()
        self._strip = strip
        self._taken = 0  # characters
        self._gap = ""  # white space that is not known to have anything behind it
        self._begun = self._ends_line = False

    def add(self, piece: str) -> None:
        self._taken += len(piece)
        text = self._gap + piece
        if self._strip:
            text = text if self._begun else text.lstrip()
            self._gap = text[len(text.rstrip()) :]
            text = text.rstrip()
        if not text:
            return
        self._begun, self._ends_line = True, text.endswith("\n")
        if self._wrapper is None:
            write(text)
        else:
            self._wrapper.feed(visible(text))

    def finish(self, text: str) -> None:
        """Write what is still missing of the whole text, and end the line."""
        self.add(text[self._taken :])
        if self._wrapper is not None:
            self._wrapper.flush()
        if not self._ends_line:
            write("\n")


# --- a conversation ----------------------------------------------------------------------------


def converse(session: Session, *, verbose: bool = False, history: bool = True) -> int:
    """A conversation on the terminal, until the person leaves."""
    words = [f"/{name}" for name in (*COMMANDS, *_SAME)]
    reader = LineReader(words, history_file() if history else None)
    return _Loop(session, reader, verbose).run()


def parse(line: str) -> tuple[str, str]:
    """The command of a line and what stands behind it; "" and the line where it has none.

    Raises:
        InputError: there is no such command.
    """
    if not line.startswith("/"):
        # A space before a slash says that what follows is for the model.
        return "", line[1:] if line.startswith(" /") else line
    word, _, rest = line[1:].partition(" ")
    name = _SAME.get(word.rstrip(), word.rstrip())
    if name not in COMMANDS:
        near = did_you_mean(word, [*COMMANDS, *_SAME]).replace("mean ", "mean /")
        near = near.replace(" or ", " or /")
        raise InputError(
            f"no such command: {shown(line.split()[0])}{near} (/help lists them; a space before "
            "the slash says it to the model)"
        )
    return name, rest.strip()


class _Loop:
    """What is typed, one after the other; nothing but leaving ends it."""

    def __init__(self, session: Session, reader: LineReader, verbose: bool) -> None:
        self._session = session
        self._reader = reader
        self._verbose = verbose
        self._files: set[Path] = set()
        self._does: dict[str, Callable[[str], None]] = {
            "again": self._again, "undo": self._undo, "clear": self._clear,
            "system": self._system, "set": self._set, "save": self._save, "load": self._load,
            "look": self._look, "help": self._help,
        }  # fmt: skip

    def run(self) -> int:
        self._greet()
        interrupted = False
        while True:
            try:
                if interrupted:  # said in here, where a second Ctrl-C does not end all of it
                    interrupted = False
                    write("\n")
                    note("Ctrl-D or /exit leaves", dim=True)
                text, quoted = read_message(self._reader, _PROMPT, _MORE)
                name, rest = ("", text) if quoted else parse(text)
                if name == "exit":
                    return 0
                self._do(name, rest)
            except EOFError:
                write("\n")
                return 0
            except KeyboardInterrupt:
                interrupted = True
            except LaplmError as error:
                note(f"{error}")
            except MemoryError:
                note("not enough memory for that; /undo or /clear makes room")

    def _do(self, name: str, rest: str) -> None:
        if name:
            self._does[name](rest)
        elif rest.strip():
            self._answer(lambda: self._session.say(rest))
        elif not _talks(self._session):
            self._answer(lambda: self._session.say(""))

    def _greet(self) -> None:
        session = self._session
        if not _talks(session):
            note(f"{_base_model(session.lm)}: write the beginning of one, and it goes on; Enter "
                 "alone goes on again", dim=True)  # fmt: skip
        name = Path(session.lm.name).name or session.lm.name
        note(f"{name}: {self._sampling()}; /help lists commands, Ctrl-D leaves", dim=True)

    def _sampling(self) -> str:
        """How answers are sampled, and who says so."""
        from laplm.cli.run import described_sampling

        values = self._session.settings
        off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
        on = [name for name in ("temperature", *off) if values[name] != off.get(name)]
        text = described_sampling({name: values[name] for name in on})
        return f"{text} ({'the model' if self._session.lm.sampling else 'laplm'}'s own)"

    def _answer(self, begin: Callable[[], Answer]) -> None:
        session = self._session
        before = getattr(session, "forgotten", 0)
        answer = begin()
        if (now := getattr(session, "forgotten", 0)) > before:
            note(f"the context of {session.lm.context:,} tokens is full: the model is no "
                 f"longer given the oldest {now:,} messages", dim=True)  # fmt: skip
        with interruptible() as interrupted:
            try:
                result = _show(answer, interrupted, strip=_talks(session))
            except KeyboardInterrupt:  # a second Ctrl-C, which does not wait for a token
                result = answer.close()
                write("\n")
        self._say_why_it_ended(answer, result)
        if self._verbose:
            note(_figures(answer), dim=True)

    def _say_why_it_ended(self, answer: Answer, result: GenerationResult) -> None:
        asked = self._session.settings["max_new_tokens"]
        limit = answer.stream.request.max_new_tokens
        if result.finish_reason == "interrupted":
            said = "stopped" if result.text else "stopped before anything was said"
            note(f"{said}; /again answers anew" if result.text else said, dim=True)
        elif result.finish_reason == "length" and _talks(self._session):
            if asked == limit:
                note(f"cut after {limit:,} tokens (max_new_tokens)", dim=True)
            else:
                note(f"cut: the context of {self._session.lm.context:,} tokens is full; the "
                     "next question makes room", dim=True)  # fmt: skip

    # --- commands ---

    def _again(self, rest: str) -> None:
        _takes_nothing("again", rest)

        def regenerate() -> Answer:
            answer = self._session.regenerate()
            if answer.stream.params.greedy:
                note("the likeliest token is taken each time, so the same comes again; /set "
                     "temperature 0.8 draws", dim=True)  # fmt: skip
            elif self._session.settings["seed"] is not None:
                note("the seed is set, so the same comes again; /set seed default draws one",
                     dim=True)  # fmt: skip
            return answer

        self._answer(regenerate)

    def _undo(self, rest: str) -> None:
        _takes_nothing("undo", rest)
        text = " ".join(self._session.undo().split())
        note(f"taken back: {text if len(text) <= 60 else f'{text[:59]}…'}", dim=True)

    def _clear(self, rest: str) -> None:
        _takes_nothing("clear", rest)
        self._session.clear()
        note("begun anew", dim=True)

    def _system(self, rest: str) -> None:
        from laplm.run.chat import Conversation

        session = self._session
        if not isinstance(session, Conversation):
            raise InputError(f"{session.lm.name} was not taught to talk, so it knows no /system")
        if rest:
            session.system = None if rest in ('""', "''") else rest
        note(f"system: {session.system}" if session.system else "no system message", dim=True)

    def _set(self, rest: str) -> None:
        from laplm.run.chat import SETTINGS

        rest = rest.removeprefix("parameter ").lstrip()  # Ollama's /set parameter NAME VALUE
        name, _, value = re.sub(r"^([\w-]+)=", r"\1 ", rest).partition(" ")
        name = _OTHER_NAMES.get(name.replace("-", "_"), name.replace("-", "_"))
        if name == "system":
            raise InputError("the system message is no setting: /system TEXT")
        if name in _CONTEXT:
            raise InputError("the context is set when the model is opened: laplm chat --context N")
        if name and name not in SETTINGS:
            raise InputError(f"no such setting: {shown(name)}{did_you_mean(name, SETTINGS)} (/set "
                             "shows them)")  # fmt: skip
        if value.strip():
            self._session.set(name, _value(name, value.strip()))
        found = self._session.settings
        note(", ".join(f"{each} {_shown(found[each])}" for each in ([name] if name else SETTINGS)),
             dim=True)  # fmt: skip
        if not name:
            note(described_context(self._session.lm), dim=True)

    def _save(self, rest: str) -> None:
        from laplm.files import json_text, write_file

        path = _path("save", rest)
        if path not in self._files:
            _check_replaceable(path)
        write_file(path, (json_text(self._session.to_json(), ensure_ascii=False) + "\n").encode())
        self._files.add(path)
        note(f"{path} written", dim=True)

    def _load(self, rest: str) -> None:
        path = _path("load", rest)
        try:
            self._session.restore(_read_json(path))
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        self._files.add(path)
        note(f"{path} loaded; the conversation goes on from there", dim=True)

    def _look(self, rest: str) -> None:
        _takes_nothing("look", rest)
        from laplm.cli.terminal import print_parts
        from laplm.look.view import Column, Table
        from laplm.look.views.logit_lens import lens_from

        ids, begin = self._session.last_answer()
        start = max(begin, len(ids) - _LOOKED_AT)
        title = "the last answer" if start == begin else "the end of the last answer"
        title = f"{title} through the logit lens"
        with progress_bars() as progress:
            lens = lens_from(self._session.lm, ids, start - 1, progress)
        rows = [
            [
                start + i, lens.tokens[i + 1], lens.top_tokens[-1][i],
                lens.top_probabilities[-1, i], lens.stages[lens.first[i]],
                lens.stages[lens.settled[i]],
            ]
            for i in range(len(ids) - start)
        ]  # fmt: skip
        table = Table(
            title=title,
            columns=[
                Column("position"), Column("token"), Column("likeliest"),
                Column("probability", 3, bar=True), Column("first at"), Column("settled at"),
            ],
            rows=rows,
            note="Likeliest: what the model would say there, with its probability. First at: the "
            "first layer that would say so, settled at: the layer from which on each would. "
            "laplm look lens shows what every layer would say.",
        )  # fmt: skip
        print_parts([table], rows=0)

    def _help(self, rest: str) -> None:
        for name, command in COMMANDS.items():
            note(f"  {f'/{name} {command.takes}':<18} {command.about}")
        note('  """ begins and ends what has several lines; Ctrl-C ends an answer and keeps it')


def _takes_nothing(name: str, rest: str) -> None:
    if rest:
        raise InputError(f"/{name} takes nothing behind it")


def _value(name: str, text: str) -> Any:
    """A setting's value as it was typed; None for the default."""
    if text == _DEFAULT:
        return None
    if name == "stop":
        text = _unquoted(text)
        if not text:
            return None
        return text.replace("\\n", "\n").replace("\\t", "\t")
    try:
        return int(text) if name in _WHOLE else float(text)
    except ValueError:
        kind = "whole number" if name in _WHOLE else "number"
        raise InputError(f"{name} is {shown(text)}, but it must be a {kind}") from None


def _shown(value: Any) -> str:
    if value is None or value == ():
        return _DEFAULT
    return f"{value:g}" if isinstance(value, float) else ", ".join(map(repr, value)) if isinstance(
        value, tuple) else f"{value}"  # fmt: skip


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _path(name: str, text: str) -> Path:
    text = _unquoted(text)
    if not text:
        raise InputError(f"/{name} needs a file: /{name} talk.json")
    if "\0" in text:
        raise InputError(f"no file is called {shown(text)}")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise InputError(f"{text}: nobody of this name has a home directory here") from None


def _check_replaceable(path: Path) -> None:
    """Refuse to write over what is there, unless it is a saved conversation too."""
    try:
        found = _read_json(path)
    except FileNotFoundError:
        return
    except InputError:
        found = None
    if not isinstance(found, dict) or not found.keys() & {"messages", "text"}:
        raise InputError(f"{path} is there and is no saved conversation; take another name")


def _read_json(path: Path) -> Any:
    """What a file holds.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is no JSON, or too large.
    """
    try:
        details = path.stat()
        if not stat.S_ISREG(details.st_mode):
            raise InputError("it is no file")
        if details.st_size > _LARGEST:
            raise InputError(f"it has more than {_LARGEST >> 20} MB")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise InputError("it is no JSON, as /save writes it") from None
