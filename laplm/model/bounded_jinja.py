"""A Jinja environment whose templates come to an end, in time and in memory.

A template comes out of a model's files. Jinja's sandbox keeps it from Python's objects, but not
from loops within loops, ``10 ** 10 ** 10`` or a text that is doubled forty times. So everything
that a template makes is counted: what it makes in all has a limit (``MAX_UNITS``), a step that
could make much is looked at before it is taken, and each step of a loop looks at the clock.

The unit is a character of text, or an eighth of what a container has for an item.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from itertools import chain
from typing import Any, cast

from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, generate_lorem_ipsum
from jinja2.visitor import NodeTransformer

MAX_UNITS = 1 << 25
MAX_SECONDS = 5.0  # of the thread's own CPU time: a busy machine changes nothing
_PER_ITEM = 8
_MAX_BITS = 1 << 17  # of a whole number
_LOREM = 16  # of a word in generated text, at most
_MAX_DIGITS = 1000  # that a number is rounded to
# Filters that take more time for longer texts than in proportion.
_SLOW = frozenset(
    ["pprint", "striptags", "title", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"]
)
_SLOWER = 512
# In a format: what follows a %, and what stands in braces, with a brace within it.
_PERCENT = re.compile(r"%([^%a-zA-Z]*)")
_BRACES = re.compile(r"\{([^{}]*)(\{?)")
_NUMBER = re.compile(r"\d+")
_VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))
_SEQUENCES = (list, tuple, set, frozenset)


class LimitError(Exception):
    """A template takes too long, or makes too much."""


class _Account:
    """What one rendering may still make and use."""

    def __init__(self) -> None:
        self._left = MAX_UNITS
        self._deadline = time.thread_time() + MAX_SECONDS
        # With the objects themselves, as an id is given again when its object is gone.
        self._sizes: dict[int, tuple[object, int]] = {}

    def check(self, units: int) -> None:
        """Refuse to make so much, if it is too much."""
        if units > self._left:
            raise LimitError(f"it makes more than {MAX_UNITS:,} characters of text; correct it")

    def spend(self, units: int) -> None:
        """Count what was made, and look at the clock."""
        self.check(units)
        self._left -= units
        if time.thread_time() > self._deadline:
            raise LimitError(f"it takes more than {MAX_SECONDS:g} seconds; correct it")

    def count_value(self, value: Any) -> Any:
        """Count a new value; what is in it was counted before."""
        whole = self.size(value)
        if isinstance(value, (*_SEQUENCES, dict)):
            self.check(whole)
            whole = _PER_ITEM * (1 + len(value))
        self.spend(whole)
        return value

    def size(self, value: Any) -> int:
        """Units of a value when it is written out, all that is in it included."""
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, int):
            return value.bit_length() // 8
        return self._size(value, {})

    def _size(self, value: Any, changing: dict[int, tuple[object, int]]) -> int:
        """The same; what namespaces are in, which alone can change, is remembered meanwhile."""
        if isinstance(value, str | bytes | int):
            return self.size(value)
        known = self._sizes.get(id(value)) or changing.get(id(value))
        if known is not None and known[0] is value:
            return known[1]
        items: Iterable[Any]
        if isinstance(value, dict):
            items = chain.from_iterable(value.items())
        elif isinstance(value, Namespace):
            items = object.__getattribute__(value, "_Namespace__attrs").items()
        elif isinstance(value, (*_SEQUENCES, *_VIEWS)):
            items = cast(Iterable[Any], value)
        else:
            return _PER_ITEM
        size, changes = _PER_ITEM, isinstance(value, Namespace)
        for item in items:
            size += _PER_ITEM + self._size(item, changing)
            self.check(size)
            changes = changes or id(item) in changing
        (changing if changes else self._sizes)[id(value)] = value, size
        return size

    def items(self, values: Iterable[Any], between: int = 0) -> list[Any]:
        """What comes out of an iterable, as long as it is not too much to be joined."""
        items: list[Any] = []
        size = 0
        for item in values:
            size += _PER_ITEM + between + self.size(item)
            self.check(size)
            items.append(item)
        return items


_THREAD = threading.local()


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Render a template here; anywhere else it is refused."""
    _THREAD.account = _Account()
    try:
        yield
    finally:
        del _THREAD.account


def _account() -> _Account:
    account: _Account | None = getattr(_THREAD, "account", None)
    if account is None:
        raise LimitError("nothing is rendered")
    return account


# --- what a call may make ---------------------------------------------------------------------


def _replaced(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    return len(text) + int(text.count(old)) * len(new)


def _formatted(text: Any, *arguments: Any, **named: Any) -> int:
    """Units of a text that is filled in, by ``%`` or by ``str.format``."""
    account, text = _account(), str(text)
    widths = _PERCENT.findall(text)
    # Beside the text, as of %*d and {:{}}; or behind a name, which may have signs of its own.
    given, anywhere = any("*" in width for width in widths), "%(" in text
    for field, brace in _BRACES.findall(text):
        if ":" in field:
            widths.append(field)
            given, anywhere = given or bool(brace), anywhere or bool(brace)
    size = sum(map(int, _NUMBER.findall(text if anywhere else " ".join(widths))))
    values = [*arguments, *named.values()]
    if given:
        inner = (v.values() if isinstance(v, dict) else v for v in values)
        flat = chain.from_iterable(v if isinstance(v, Iterable) else [v] for v in inner)
        size += sum(abs(v) for v in flat if isinstance(v, int))
    uses = 1 + text.count("%") + text.count("{")
    total: int = size + len(text) + uses * sum(map(account.size, values))
    return total


def _indented(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    by: int = width if isinstance(width, int) else len(width)
    size: int = len(text) + (text.count("\n") + 1) * by
    return size


def _wrapped(
    text: Any, width: int = 79, break_long_words: bool = True, wrapstring: Any = "\n", *_: Any
) -> int:
    return len(text) * (1 + len(wrapstring or "\n"))


def _rounded(number: Any, precision: int = 0, *_: Any, **__: Any) -> int:
    return MAX_UNITS + 1 if abs(precision) > _MAX_DIGITS else 1


def _width(text: Any, width: int = 80, *_: Any) -> int:
    return width


def _coded(text: Any, *_: Any, **__: Any) -> int:
    return len(text) * _SLOWER  # some encodings take the square of the length


def _parts(value: Any, count: int, *_: Any, **__: Any) -> int:
    return _PER_ITEM * count


# Of text and bytes.
_METHODS: dict[str, Callable[..., int]] = {
    "center": _width,
    "ljust": _width,
    "rjust": _width,
    "zfill": _width,
    "expandtabs": lambda text, tabsize=8: len(text) * (1 + abs(tabsize)),
    "format": _formatted,
    "format_map": _formatted,
    "replace": _replaced,
    "translate": lambda text, table: len(text) * (1 + _account().size(table)),
    "encode": _coded,
    "decode": _coded,
    "to_bytes": lambda number, length=1, *_, **__: length,
}
_FILTERS: dict[str, Callable[..., int]] = {
    "batch": _parts,
    "center": _width,
    "format": _formatted,
    "indent": _indented,
    "replace": lambda text, old, new, *_: _replaced(str(text), str(old), str(new)),
    "round": _rounded,
    "slice": _parts,
    "wordwrap": _wrapped,
}


def _call_size(account: _Account, name: str, owner: Any, args: Any, kwargs: Any) -> int:
    """Units of what a method of a text or a number may give."""
    size = _METHODS.get(name)
    given = sum(account.size(value) for value in (owner, *args, *kwargs.values()))
    return given if size is None else max(given, size(owner, *args, **kwargs))


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    skipped = int(hasattr(function, "jinja_pass_arg"))

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        account = _account()
        first, values = args[:skipped], list(args[skipped:])
        given = sum(account.size(value) for value in (*values, *kwargs.values()))
        account.check(given * (_SLOWER if name in _SLOW else 1))
        if name == "join" and values:
            between = kwargs.get("d", values[1] if len(values) > 1 else "")
            values[0] = account.items(values[0], account.size(between))
        if name == "sum" and values:
            values[0] = account.items(values[0])
            start = kwargs.get("start", values[2] if len(values) > 2 else 0)
            if not isinstance(start, int | float):  # each addition makes a new one
                account.check(len(values[0]) * account.size(values[0]))
        if name in _FILTERS:
            account.check(_FILTERS[name](*values, **kwargs))
        return account.count_value(function(*first, *values, **kwargs))

    return bounded


# --- the environment --------------------------------------------------------------------------


class _Counted(NodeTransformer):
    """Puts the counting into a template: steps of loops, and what is made by no call."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        step = nodes.ExprStmt(_environment_call("count_step", [], node.lineno), lineno=node.lineno)
        node.body.insert(0, step)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return self._made(self.generic_visit(node))

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._made(node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._made(node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_environment_call("count_output", [part], node.lineno) for part in node.nodes]
        return node

    def _made(self, node: nodes.Node) -> nodes.Node:
        return _environment_call("count_value", [node], node.lineno)


def _environment_call(name: str, arguments: list[Any], line: int) -> nodes.Call:
    attribute = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(attribute, arguments, [], None, None, lineno=line)


class _CountedCode(CodeGenerator):
    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802
        super().visit_Template(_Counted().visit(node), frame)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with limits; templates are rendered within ``limited``.

    Raises:
        LimitError: when a template is rendered that goes beyond them.
    """

    code_generator_class = _CountedCode
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        """Options as of Jinja's environment."""
        # Unoptimised, as the optimiser computes what is constant when a template is compiled.
        super().__init__(**options, optimized=False, finalize=_written_out)
        for name, function in self.filters.items():
            self.filters[name] = _bounded_filter(name, function)
        self.filters["tojson"] = _to_json
        self.globals["lipsum"] = _lipsum

    @staticmethod
    def count_step() -> None:
        """Count a step of a loop."""
        _account().spend(_PER_ITEM)

    @staticmethod
    def count_value(value: Any) -> Any:
        """Count a value that an expression made."""
        return _account().count_value(value)

    @staticmethod
    def count_output(value: Any) -> Any:
        """Count a value that becomes text."""
        account = _account()
        account.spend(account.size(value))
        return value

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """The text of a template, or of a part of it that is a value."""
        account = _account()
        pieces = []
        for part in parts:
            account.spend(len(part))
            pieces.append(part)
        return "".join(pieces)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the template, a method, or a function that it was given."""
        if any(function is own for own in _COUNTING):
            return function(*args)
        account = _account()
        account.spend(_PER_ITEM)
        # str.format comes wrapped by the sandbox.
        method = getattr(function, "__wrapped__", function)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str | bytes | int):
            if name == "join" and args:
                args = (account.items(args[0], len(str(owner))), *args[1:])
            account.check(_call_size(account, name, owner, args, kwargs))
        return account.count_value(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what may make much."""
        account = _account()
        account.check(_operation_size(account, operator, left, right))
        return account.count_value(super().call_binop(context, operator, left, right))


_COUNTING = (
    BoundedEnvironment.count_step,
    BoundedEnvironment.count_value,
    BoundedEnvironment.count_output,
)


def _operation_size(account: _Account, operator: str, left: Any, right: Any) -> int:
    if operator == "%" and isinstance(left, str | bytes):
        return _formatted(left, right)
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length()
        if operator == "**" and left not in (-1, 0, 1):
            bits = left.bit_length() * abs(right)
        if operator in ("*", "**") and bits > _MAX_BITS:
            raise LimitError(f"it makes a number of more than {_MAX_BITS:,} bits; correct it")
        return 1
    if operator == "*":
        for values, count in ((left, right), (right, left)):
            if isinstance(count, int) and isinstance(values, str | bytes | list | tuple):
                return account.size(values) * max(count, 1)
    return account.size(left) + account.size(right) if operator == "+" else 1


@pass_context
def _written_out(context: Context, value: Any) -> Any:
    """What stands in a template as ``{{ value }}``; text is counted where it is put together."""
    if not isinstance(value, str):
        account = _account()
        account.spend(account.size(value))
    return value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """``tojson`` as transformers has it: neither sorted nor escaped for HTML."""
    account = _account()
    account.check(account.size(value))
    if isinstance(indent, int):
        account.check(indent * sys.getrecursionlimit())  # as deep as a value can be
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return BoundedEnvironment.concat(encoder.iterencode(value))


def _lipsum(n: int = 5, html: bool = True, min: int = 20, max: int = 100) -> str:
    _account().check(n * max * _LOREM)
    return generate_lorem_ipsum(n, html, min, max)
