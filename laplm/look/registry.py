"""What a view is called, what it takes and how it is reached: the types of ``laplm.look.VIEWS``.

The command line, the HTTP routes and the names in ``laplm.look`` are made from these. Nothing here
imports NumPy: a page of help must come at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["prompt", "string", "int", "float", "bool", "model"]

REQUIRED: Any = object()
"""The default of a parameter that must be given."""

INT32 = (-(2**31), 2**31 - 1)


class Group(NamedTuple):
    """A heading in a page of help, and a line below it."""

    title: str
    description: str | None = None


@dataclass(frozen=True)
class Parameter:
    """One argument of a view's function: what Python, HTTP and the command line call it and allow.

    Attributes:
        name: of the argument in Python, and of the field of a request.
        kind: "prompt" is a text or token ids; "model" another model, by its name.
        help: what it does, in a few words. A default that is a number or a text is told after it.
        default: as in the function's signature; ``REQUIRED`` when there is none.
        typed: what it is called on the command line: ``("-n", "--max-new-tokens")``, or
            ``("TEXT",)`` for a positional argument; empty when it is not there.
        metavar: what stands for its value in a page of help.
        many: it takes a list of them ("or one": or one alone).
        choices: the only values, when they are few.
        bounds: least and greatest value of a whole number.
        piped: a positional argument that is read from a pipe when it is left out.
        bare: the value that the option has when it is typed without one.
        shorthands: options without a value that set it: ``{"--greedy": 0.0}``.
        group: under which heading of the page of help.
        former: names that it had before, which stay valid.
        files: an option that takes it from a file: "--data". Of the command line alone: over HTTP
            no files are read.
        lines: each line of such a file is a text; else the whole file is one.
    """

    name: str
    kind: Kind
    help: str = ""
    default: Any = REQUIRED
    typed: tuple[str, ...] = ()
    metavar: str = ""
    many: bool | Literal["or one"] = False
    choices: tuple[str, ...] = ()
    bounds: tuple[int, int] = INT32
    piped: bool = False
    bare: str | None = None
    shorthands: Mapping[str, Any] = field(default_factory=dict)
    group: Group | None = None
    former: tuple[str, ...] = ()
    files: str = ""
    lines: bool = False

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is REQUIRED

    @property
    def positional(self) -> bool:
        """Whether the command line takes it by its place."""
        return bool(self.typed) and not self.typed[0].startswith("-")

    @property
    def json_type(self) -> str:
        """Its type in a request, in words: ``list[int] | None``."""
        one = {"prompt": "string | list[int]", "model": "string"}.get(self.kind, self.kind)
        if self.many:
            one = f"{one} | list[{one}]" if self.many == "or one" else f"list[{one}]"
        return f"{one} | None" if self.default is None else one


@dataclass(frozen=True, kw_only=True)
class ViewEntry:
    """One view.

    Attributes:
        name: in the address of its HTTP route, and its command unless ``command`` says otherwise.
        function: of ``laplm.look``, as ``module.function`` in ``laplm.look.views``.
        title: two or three words.
        summary: one sentence.
        parameters: all arguments of the function but ``model`` and ``progress``.
        continues: the parameter whose end the model goes on from, or "".
        saves: endings of files that it can be saved to beyond those of every view.
        announce: said before the work begins; ``{}`` is replaced by its size in MB.
        example: a command to copy.
        epilog: the last lines of its page of help.
        command: the command that it is an option of, or "".
        flag: the option without a value that chooses it there, and its help; or None.
        chosen_by: its parameters that choose it there.
        needs: what it does, in words, if it needs all of ``chosen_by``.
        converses: its parameter that takes the turns before; its first one is what a person says,
            which is asked for again and again on a terminal where nothing is typed.
        alone: the refusal when parameters of the command's other views are given too.
    """

    name: str
    function: str
    title: str
    summary: str
    parameters: tuple[Parameter, ...] = ()
    continues: str = ""
    saves: tuple[str, ...] = ()
    announce: str = ""
    example: str | None = None
    epilog: str | None = None
    command: str = ""
    flag: tuple[str, str] | None = None
    chosen_by: tuple[str, ...] = ()
    needs: str = ""
    converses: str = ""
    alone: str = ""

    @property
    def python_name(self) -> str:
        """The function's name in ``laplm.look``."""
        return self.function.split(".")[1]

    @property
    def other_models(self) -> list[str]:
        """The parameters that are models."""
        return [p.name for p in self.parameters if p.kind == "model"]

    def load(self) -> Callable[..., Any]:
        """The function; its module is imported now."""
        module, name = self.function.split(".")
        found: Callable[..., Any] = getattr(
            importlib.import_module(f"laplm.look.views.{module}"), name
        )
        return found
