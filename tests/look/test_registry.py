"""The registry of views: what is declared of a view is what its function takes."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

import pytest

from laplm import look
from laplm.look import VIEWS
from laplm.look.registry import Parameter, ViewEntry
from laplm.look.view import Model

OURS = ("model", "progress", "max_bytes")


@pytest.mark.parametrize("entry", VIEWS, ids=lambda entry: entry.name)
def test_what_is_declared_is_what_the_function_takes(entry: ViewEntry) -> None:
    function = entry.load()
    assert getattr(look, entry.python_name) is function
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function)
    declared = {p.name: p for p in entry.parameters}
    assert set(declared) == set(signature.parameters) - set(OURS)
    for name, parameter in declared.items():
        default = signature.parameters[name].default
        if default is inspect.Parameter.empty:
            assert parameter.required, name
        else:
            assert parameter.default == default, name
        check_kind(parameter, hints[name])


def check_kind(parameter: Parameter, hint: Any) -> None:
    """A declared kind against the annotation."""
    one: dict[str, Any] = {"int": int, "float": float, "bool": bool, "string": str, "model": Model}
    inner = [h for h in alternatives(hint) if h is not types.NoneType]
    assert (types.NoneType in alternatives(hint)) == (parameter.default is None), parameter.name
    if parameter.kind == "prompt":
        assert str in inner and any(get_origin(h) is Sequence for h in inner)
        return
    lists = [get_args(h)[0] for h in inner if get_origin(h) in (Sequence, Iterable)]
    single = [h for h in inner if get_origin(h) not in (Sequence, Iterable) and h is not bytes]
    literals = [h for h in single if get_origin(h) is Literal]
    if literals:
        assert parameter.choices == get_args(literals[0])
        return
    want = one[parameter.kind]
    if parameter.many:
        assert lists == [want] and (single == [want]) == (parameter.many == "or one")
    else:
        assert single == [want] and not lists


def alternatives(hint: Any) -> list[Any]:
    if get_origin(hint) in (types.UnionType, typing.Union):
        return [each for h in get_args(hint) for each in alternatives(h)]
    return [hint]


def test_names_are_unique_and_options_belong_to_a_command() -> None:
    names = [entry.name for entry in VIEWS]
    assert len(names) == len(set(names))
    for entry in VIEWS:
        own = {p.name for p in entry.parameters}
        assert set(entry.chosen_by) <= own
        assert not entry.continues or entry.continues in own
        if entry.command:
            (command,) = [each for each in VIEWS if each.name == entry.command]
            assert not command.command and (entry.flag or entry.chosen_by)


def test_every_view_is_a_name_of_the_package() -> None:
    views = {entry.python_name for entry in VIEWS} | {"architecture", "learning", "one_head"}
    taps = {"ablation_tap", "patching_tap", "steering_tap"}
    assert set(look.__all__) == views | taps | {"VIEWS"}
    for name in views | taps:
        assert getattr(look, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = look.nothing


def test_the_registry_is_read_without_numpy() -> None:
    code = "import laplm.look, sys; assert 'numpy' not in sys.modules, 'numpy'"
    subprocess.run([sys.executable, "-c", code], check=True)
