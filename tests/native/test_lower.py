"""What ``lower`` compiles against what Python makes of the same function."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laplm.native import isa, jit, simd
from laplm.native.lower import kernel, lower

LIMIT, IS_ON = 7, False
WORDS = st.integers(-5, 100) | st.integers(-(2**31), 2**31 - 1)

# Each takes what makes kernels of functions, and gives a function of three integers.
Make = Callable[[Any], Any]


def arithmetic(_: Make) -> Any:
    one = 1

    def main(a: int, b: int, c: int) -> int:
        a += 3 * LIMIT
        total = a // (b if b else one) - a % (c if c else -LIMIT)
        return total + (a << 2) + (b >> 1) + (c & 255) + (b | 8) + max(a, b) - min(b, c) - (-a)

    return main


def choices(_: Make) -> Any:
    def main(a: int, b: int, c: int) -> int:
        if a > b and (b >= c or not (a < 0 or a == 3)):
            x = y = 1
        elif a <= b or c:
            x, y = 2, b
        else:
            x, y = b, a
        x, y = y, x
        if IS_ON:
            return 0
        return x * 3 + y if a != c else (7 if b < c else -7)

    return main


def loops(_: Make) -> Any:
    def main(a: int, b: int, c: int) -> int:
        """A docstring is no statement."""
        total = 0
        for i in range(a % 20):
            if i == b % 20:
                continue
            for j in range(2, 30, 3):
                if j > c % 40:
                    break
                total += i * j
            i += 100
        while True:
            total += 1
            if total > b % 100:
                return total
        return -1

    return main


def calls(make: Make) -> Any:
    @make
    def ordered(a: int, b: int) -> tuple[int, int]:
        if a < b:
            return a, b
        return b, a

    @make
    def halved(a: int) -> int:
        return int(a * 0.5)

    @make
    def is_less(a: int, b: int) -> int:
        less = a < b
        less += 0
        return less

    def main(a: int, b: int, c: int) -> int:
        low, high = ordered(a, b)
        if halved(1):
            return 0
        return halved(high - low) * 10 + is_less(low, c)

    return main


_kept: dict[Any, Any] = {}  # LLVM's engines own the code


def compiled(make: Callable[[Make], Any]) -> Callable[[int, int, int], int]:
    """What it makes, as machine code."""
    if make not in _kept:
        module = llvm.parse_assembly(str(lower(kernel(make(kernel)), "main")))
        module.verify()
        machine = jit._target_machine(isa.choose())
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 3)
        _kept[make] = engine, kind(engine.get_function_address("main"))
    return _kept[make][1]


@pytest.mark.parametrize("make", [arithmetic, choices, loops, calls])
@settings(max_examples=80, deadline=None)
@given(a=WORDS, b=WORDS, c=WORDS)
def test_a_kernel_does_what_python_does(make: Any, a: int, b: int, c: int) -> None:
    assert compiled(make)(a, b, c) == make(lambda function: function)(a, b, c)


def test_what_does_not_decide_is_not_computed() -> None:
    def reads(_: Make) -> Any:
        get = simd.get_i64

        def main(a: int, b: int, c: int) -> int:
            if a and get(a, 0) == b:  # address 0 is nobody's
                return 1
            return get(a, 0) if a else c

        return main

    cell = ctypes.c_int64(5)
    there = ctypes.addressof(cell)
    main = compiled(reads)
    assert [main(0, 5, 9), main(there, 5, 9), main(there, 6, 9)] == [9, 1, 5]


def test_of_an_if_that_is_decided_the_other_branch_is_not_compiled() -> None:
    most = 2
    if most > 2:

        @kernel
        def not_made(a: int) -> int:
            return a

    @kernel
    def not_called(a: int) -> int:
        return a

    @kernel
    def called(a: int) -> int:
        return 2 * a

    @kernel
    def main(a: int, b: int, c: int) -> int:
        if most > 2:
            a = not_made(a)
        elif (most == 2 and IS_ON) or IS_ON or not (most == 2 and LIMIT > 6):
            a = not_called(a)
        elif not IS_ON and (IS_ON or most == 2):
            a = called(a)
        else:
            a = not_called(a)
        return a

    text = str(lower(main, "main"))
    assert "called." in text and "not_called" not in text


def test_floats_are_single_and_vectors_go_lane_by_lane() -> None:
    def sums(make: Make) -> Any:
        load, store, splat, get_f32, set_f32 = (
            simd.load, simd.store, simd.splat, simd.get_f32, simd.set_f32,
        )  # fmt: skip

        @make
        def half(x: Any) -> Any:
            return x * splat(0.5)

        def main(a: int, b: int, c: int) -> int:
            store(a, 0, half(load(a, 0)) - splat(b) / splat(3.0))
            third = 1.0 / get_f32(a, 16)
            set_f32(a, 17, third if b > 2 else -1.0)
            return int(get_f32(a, 16))

        return main

    numbers = (ctypes.c_float * 18)(*range(16), 3)
    assert compiled(sums)(ctypes.addressof(numbers), 3, 0) == 3
    assert list(numbers[:16]) == [i / 2 - 1 for i in range(16)]
    assert numbers[17] == struct.unpack("f", struct.pack("f", 1 / 3))[0]


def with_a_list(a: int, b: int, c: int) -> int:
    return [a][0]


def over_something(a: int, b: int, c: int) -> int:
    for _ in zip(a, b):  # noqa: B905
        pass
    return a


def half_an_integer(a: int, b: int, c: int) -> int:
    return 0.5


def integers_divided(a: int, b: int, c: int) -> int:
    return a / b


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (with_a_list, "Subscript is not for kernels"),
        (over_something, "a for loop goes over a range"),
        (half_an_integer, "0.5 is not whole"),
        (integers_divided, "integers are divided by //"),
    ],
)
def test_other_python_is_refused_with_its_line(function: Any, why: str) -> None:
    with pytest.raises(TypeError, match=rf"test_lower\.py:\d+: {why}"):
        lower(kernel(function), "main")


def test_every_type_must_be_given() -> None:
    def untyped(a, b: int) -> int:
        return b

    with pytest.raises(TypeError, match="untyped: not every type is given"):
        kernel(untyped)
