"""A small compiler from Python to LLVM, for functions of integers, floats and vectors.

Kernels use little of Python, and their types are told by annotations: ``int`` is 64 bits, ``float``
32, ``Any`` one of the vectors of ``simd.py``. What a kernel takes from around it (numbers, other
kernels, operations) is known while compiling: arithmetic with it is done at once, and an ``if``
that it decides leaves one branch. All functions go into one LLVM module, which is optimised once.

A kernel may use: assignment, ``if``, ``while``, ``for`` over a ``range`` with a positive step,
``break``, ``continue``, ``return``, arithmetic, comparisons, ``and``, ``or``, ``not``, ``x if y
else z``, ``int``, ``min`` and ``max`` of two integers, calls of other kernels and of operations.
``//`` and ``%`` round down, as in Python. A variable keeps the type of its first value.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llvmlite import ir

BOOL, I32, I64 = (ir.IntType(bits) for bits in (1, 32, 64))
FLOAT, DOUBLE, VOID = ir.FloatType(), ir.DoubleType(), ir.VoidType()
F32V = ir.VectorType(FLOAT, 16)

Builder = Any  # llvmlite's IRBuilder carries no types
Value = Any  # an LLVM value, or a Python object that is known while compiling

_ANNOTATIONS = {"int": I64, "float": FLOAT, "Any": F32V, "None": VOID}
_FOLDED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.LShift: operator.lshift, ast.RShift: operator.rshift, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_INTEGER: dict[type, str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.LShift: "shl", ast.RShift: "ashr",
    ast.BitAnd: "and_", ast.BitOr: "or_",
}  # fmt: skip
_FLOATING: dict[type, str] = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"}
_COMPARED: dict[type, str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip


class Operation:
    """Some LLVM code with typed arguments, put wherever a kernel calls it."""

    def __init__(
        self, result: Any, arguments: Sequence[Any], emit: Callable[..., Value], name: str
    ) -> None:
        self.result, self.arguments, self.emit = result, tuple(arguments), emit
        self.__name__ = name


class Kernel:
    """A Python function that is compiled: its types are its annotations."""

    def __init__(self, function: Callable[..., Any], *, inline: bool) -> None:
        self.inline, self.code = inline, function.__code__
        self.name, self.globals = function.__name__, function.__globals__
        *arguments, result = function.__annotations__.items()
        if result[0] != "return" or len(arguments) != self.code.co_argcount:
            raise TypeError(f"{function.__qualname__}: not every type is given")
        self.arguments = tuple(_ANNOTATIONS[kind] for _, kind in arguments)
        if result[1].startswith("tuple["):
            parts = result[1].removeprefix("tuple[").removesuffix("]").split(", ")
            self.result = ir.LiteralStructType([_ANNOTATIONS[part] for part in parts])
        else:
            self.result = _ANNOTATIONS[result[1]]
        cells = function.__closure__ or ()
        self.scope = dict(zip(self.code.co_freevars, cells, strict=True))

    def known(self, name: str) -> Any:
        """What a name that is no variable of the kernel stands for."""
        if name in self.scope:
            return self.scope[name].cell_contents
        if name in self.globals:
            return self.globals[name]
        return {"min": min, "max": max, "int": int}[name]


def kernel(function: Callable[..., Any]) -> Any:
    """Compile this function as one of its own (a ``Kernel``: only kernels can call it)."""
    return Kernel(function, inline=False)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile this function into whatever calls it."""
    return Kernel(function, inline=True)


def lower(function: Kernel, name: str) -> ir.Module:
    """The LLVM module of a kernel and of all that it calls; ``name`` is how it is found."""
    module = ir.Module(name)
    _Module(module).declare(function, name)
    return module


class _Module:
    """The functions that are in a module already."""

    def __init__(self, module: ir.Module) -> None:
        self.module = module
        self._declared: dict[Kernel, ir.Function] = {}

    def declare(self, kernel: Kernel, name: str = "") -> ir.Function:
        """The LLVM function of a kernel; it is made when there is none yet."""
        if kernel not in self._declared:
            unique = name or f"{kernel.name}.{len(self._declared)}"
            kind = ir.FunctionType(kernel.result, kernel.arguments)
            function = self._declared[kernel] = ir.Function(self.module, kind, unique)
            function.attributes.add("nounwind")
            function.attributes.add("alwaysinline" if kernel.inline else "noinline")
            function.linkage = "" if name else "internal"
            _Lowering(self, kernel, function).run()
        return self._declared[kernel]


@functools.cache
def _definitions(file: str) -> dict[int, ast.FunctionDef]:
    """The functions of a source file by the line that they, or their decorators, begin in."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {min([node.lineno, *(d.lineno for d in node.decorator_list)]): node for node in found}


class _Lowering:
    """One kernel on its way to LLVM."""

    def __init__(self, module: _Module, kernel: Kernel, function: ir.Function) -> None:
        self.module, self.kernel, self.function = module, kernel, function
        self.file = kernel.code.co_filename
        self.node = _definitions(self.file)[kernel.code.co_firstlineno]
        self.entry = function.append_basic_block("entry")  # for variables alone
        self.b: Builder = ir.IRBuilder(function.append_basic_block("body"))
        self.variables: dict[str, Value] = {}
        self.loops: list[tuple[ir.Block, ir.Block]] = []  # where continue and break go

    def run(self) -> None:
        for argument, value in zip(self.node.args.args, self.function.args, strict=True):
            self.assign(argument.arg, value)
        self.statements(self.node.body)
        if not self.b.block.is_terminated:
            if self.kernel.result == VOID:
                self.b.ret_void()
            else:
                self.b.unreachable()
        ir.IRBuilder(self.entry).branch(self.function.blocks[1])

    def refuse(self, node: ast.AST, why: str) -> TypeError:
        return TypeError(f"{self.file}:{getattr(node, 'lineno', 0)}: {why}")

    # --- statements ---

    def statements(self, nodes: Sequence[ast.stmt]) -> None:
        for node in nodes:
            if self.b.block.is_terminated:
                return  # after a return, break or continue
            lower = getattr(self, f"do_{type(node).__name__.lower()}", None)
            if lower is None:
                raise self.refuse(node, f"{type(node).__name__} is not for kernels")
            lower(node)

    def do_expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.value(node.value)

    def do_assign(self, node: ast.Assign) -> None:
        first = node.targets[0]
        if isinstance(first, ast.Tuple) and isinstance(node.value, ast.Tuple):
            values = [self.value(part) for part in node.value.elts]
        elif isinstance(first, ast.Tuple):
            whole = self.value(node.value)
            values = [self.b.extract_value(whole, i) for i in range(len(first.elts))]
        else:
            value = self.value(node.value)
            for target in node.targets:
                self.assign(self.name_of(target), value)
            return
        for target, value in zip(first.elts, values, strict=True):
            self.assign(self.name_of(target), value)

    def do_augassign(self, node: ast.AugAssign) -> None:
        name = self.name_of(node.target)
        value = self.binary(node, type(node.op), self.load(name), self.value(node.value))
        self.assign(name, value)

    def do_if(self, node: ast.If) -> None:
        if self.is_constant(node.test):
            self.statements(node.body if self.constant_truth(node.test) else node.orelse)
            return
        then, otherwise, after = (self.function.append_basic_block() for _ in range(3))
        self.condition(node.test, then, otherwise)
        for block, body in ((then, node.body), (otherwise, node.orelse)):
            self.b.position_at_end(block)
            self.statements(body)
            self.go_to(after)
        self.b.position_at_end(after)

    def do_while(self, node: ast.While) -> None:
        test, body, after = (self.function.append_basic_block() for _ in range(3))
        self.go_to(test)
        self.b.position_at_end(test)
        self.condition(node.test, body, after)
        self.body_of_loop(node.body, body, test, after)
        self.b.position_at_end(after)

    def do_for(self, node: ast.For) -> None:
        call = node.iter
        if not (isinstance(call, ast.Call) and self.name_of(call.func) == "range"):
            raise self.refuse(node, "a for loop goes over a range")
        bounds = [self.cast(node, self.value(bound), I64) for bound in call.args]
        if len(bounds) == 1:
            bounds = [ir.Constant(I64, 0), *bounds]
        start, stop, step = [*bounds, ir.Constant(I64, 1)][:3]
        before = self.b.block
        test, body, following, after = (self.function.append_basic_block() for _ in range(4))
        self.go_to(test)
        self.b.position_at_end(test)
        i = self.b.phi(I64)
        i.add_incoming(start, before)
        self.b.cbranch(self.b.icmp_signed("<", i, stop), body, after)
        self.b.position_at_end(body)
        self.assign(self.name_of(node.target), i)
        self.body_of_loop(node.body, body, following, after)
        self.b.position_at_end(following)
        i.add_incoming(self.b.add(i, step), following)
        self.b.branch(test)
        self.b.position_at_end(after)

    def body_of_loop(
        self, nodes: Sequence[ast.stmt], body: ir.Block, again: ir.Block, after: ir.Block
    ) -> None:
        self.b.position_at_end(body)
        self.loops.append((again, after))
        self.statements(nodes)
        self.loops.pop()
        self.go_to(again)

    def do_break(self, node: ast.Break) -> None:
        self.b.branch(self.loops[-1][1])

    def do_continue(self, node: ast.Continue) -> None:
        self.b.branch(self.loops[-1][0])

    def do_return(self, node: ast.Return) -> None:
        result = self.kernel.result
        if result == VOID:
            self.b.ret_void()
        elif isinstance(node.value, ast.Tuple):
            out = ir.Constant(result, ir.Undefined)
            for i, part in enumerate(node.value.elts):
                value = self.cast(node, self.value(part), result.elements[i])
                out = self.b.insert_value(out, value, i)
            self.b.ret(out)
        elif node.value is not None:
            self.b.ret(self.cast(node, self.value(node.value), result))

    def go_to(self, block: ir.Block) -> None:
        if not self.b.block.is_terminated:
            self.b.branch(block)

    # --- variables ---

    def name_of(self, node: ast.AST) -> str:
        if not isinstance(node, ast.Name):
            raise self.refuse(node, "only a plain name can stand here")
        return node.id

    def assign(self, name: str, value: Value) -> None:
        if not isinstance(value, ir.Value):
            value = ir.Constant(FLOAT if isinstance(value, float) else I64, value)
        elif value.type == BOOL:
            value = self.b.zext(value, I64)
        if name not in self.variables:
            self.variables[name] = ir.IRBuilder(self.entry).alloca(value.type, name=name)
        place = self.variables[name]
        self.b.store(self.cast(self.node, value, place.type.pointee), place)

    def load(self, name: str) -> Value:
        if name in self.variables:
            return self.b.load(self.variables[name])
        return self.kernel.known(name)

    # --- expressions ---

    def value(self, node: ast.expr) -> Value:
        lower = getattr(self, f"of_{type(node).__name__.lower()}", None)
        if lower is None:
            raise self.refuse(node, f"{type(node).__name__} is not for kernels")
        return lower(node)

    def of_constant(self, node: ast.Constant) -> Value:
        return node.value

    def of_name(self, node: ast.Name) -> Value:
        return self.load(node.id)

    def of_attribute(self, node: ast.Attribute) -> Value:
        return getattr(self.value(node.value), node.attr)  # of a module: known while compiling

    def of_binop(self, node: ast.BinOp) -> Value:
        return self.binary(node, type(node.op), self.value(node.left), self.value(node.right))

    def of_unaryop(self, node: ast.UnaryOp) -> Value:
        value = self.value(node.operand)
        if isinstance(node.op, ast.USub):
            return self.binary(node, ast.Sub, 0, value)
        raise self.refuse(node, "no such sign")

    def of_compare(self, node: ast.Compare) -> Value:
        (right,) = node.comparators
        (kind,) = map(type, node.ops)
        x, y = self.value(node.left), self.value(right)
        if not (isinstance(x, ir.Value) or isinstance(y, ir.Value)):
            return _FOLDED[kind](x, y)
        x, y = self.alike(node, x, y)
        if x.type == I64:
            return self.b.icmp_signed(_COMPARED[kind], x, y)
        return self.b.fcmp_ordered(_COMPARED[kind], x, y)

    def of_ifexp(self, node: ast.IfExp) -> Value:
        then, otherwise, after = (self.function.append_basic_block() for _ in range(3))
        self.condition(node.test, then, otherwise)
        ends = []
        for block, part in ((then, node.body), (otherwise, node.orelse)):
            self.b.position_at_end(block)
            value = self.value(part)
            ends.append((value, self.b.block))
        kind = next((v.type for v, _ in ends if isinstance(v, ir.Value)), None)
        if kind is None:
            kind = FLOAT if any(isinstance(v, float) for v, _ in ends) else I64
        ready = []
        for value, block in ends:
            self.b.position_at_end(block)
            ready.append((self.cast(node, value, kind), block))
            self.b.branch(after)
        self.b.position_at_end(after)
        phi = self.b.phi(kind)
        for value, block in ready:
            phi.add_incoming(value, block)
        return phi

    def of_call(self, node: ast.Call) -> Value:
        called, given = self.value(node.func), [self.value(argument) for argument in node.args]
        if called in (min, max):
            x, y = self.alike(node, *given)
            smaller = self.b.icmp_signed("<" if called is min else ">", x, y)
            return self.b.select(smaller, x, y)
        if called is int:
            (x,) = given
            return self.b.fptosi(x, I64) if x.type in (FLOAT, DOUBLE) else self.cast(node, x, I64)
        if not isinstance(called, Operation | Kernel) or len(given) != len(called.arguments):
            raise self.refuse(node, f"cannot be called like this: {ast.unparse(node.func)}")
        pairs = zip(given, called.arguments, strict=True)
        values = [self.cast(node, value, kind) for value, kind in pairs]
        if isinstance(called, Operation):
            return called.emit(self.b, *values)
        return self.b.call(self.module.declare(called), values)

    def condition(self, node: ast.expr, then: ir.Block, otherwise: ir.Block) -> None:
        """End the block with a branch by ``node``, of which no more is computed than decides."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self.condition(node.operand, otherwise, then)
            return
        if isinstance(node, ast.BoolOp):
            for part in node.values[:-1]:
                following = self.function.append_basic_block()
                if isinstance(node.op, ast.And):
                    self.condition(part, following, otherwise)
                else:
                    self.condition(part, then, following)
                self.b.position_at_end(following)
            self.condition(node.values[-1], then, otherwise)
            return
        value = self.value(node)
        if not isinstance(value, ir.Value):
            self.b.branch(then if value else otherwise)
            return
        if value.type != BOOL:
            value = self.b.icmp_signed("!=", value, ir.Constant(value.type, 0))
        self.b.cbranch(value, then, otherwise)

    def is_constant(self, node: ast.expr) -> bool:
        """Whether an expression has no variables and no calls: nothing of it is left to run."""
        return not any(
            isinstance(part, ast.Call) or (isinstance(part, ast.Name) and part.id in self.variables)
            for part in ast.walk(node)
        )

    def constant_truth(self, node: ast.expr) -> bool:
        """Whether a condition holds that ``is_constant``."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not self.constant_truth(node.operand)
        if isinstance(node, ast.BoolOp):
            parts = (self.constant_truth(part) for part in node.values)
            return all(parts) if isinstance(node.op, ast.And) else any(parts)
        return bool(self.value(node))

    def binary(self, node: ast.AST, kind: type, x: Value, y: Value) -> Value:
        if not (isinstance(x, ir.Value) or isinstance(y, ir.Value)):
            return _FOLDED[kind](x, y)
        x, y = self.alike(node, x, y)
        if x.type != I64:
            return getattr(self.b, _FLOATING[kind])(x, y)
        if kind in _INTEGER:
            return getattr(self.b, _INTEGER[kind])(x, y)
        if kind not in (ast.FloorDiv, ast.Mod):
            raise self.refuse(node, "integers are divided by //")
        b, zero = self.b, ir.Constant(I64, 0)
        rest = b.srem(x, y)
        # LLVM rounds towards zero.
        rounds_up = b.and_(
            b.icmp_signed("!=", rest, zero), b.icmp_signed("<", b.xor(rest, y), zero)
        )
        if kind is ast.Mod:
            return b.add(rest, b.select(rounds_up, y, zero))
        return b.sub(b.sdiv(x, y), b.zext(rounds_up, I64))

    # --- types ---

    def alike(self, node: ast.AST, x: Value, y: Value) -> tuple[Value, Value]:
        """Two numbers as LLVM values of one type: that of the one which is not known yet."""
        kind = next((v.type for v in (x, y) if isinstance(v, ir.Value)), I64)
        kind = I64 if kind == BOOL else kind
        if kind == I64 and (isinstance(x, float) or isinstance(y, float)):
            kind = DOUBLE
        return self.cast(node, x, kind), self.cast(node, y, kind)

    def cast(self, node: ast.AST, value: Value, kind: Any) -> Value:
        if isinstance(value, bool | int | float) and not isinstance(kind, ir.VectorType):
            if isinstance(value, float) and kind == I64:
                raise self.refuse(node, f"{value} is not whole")
            return ir.Constant(kind, int(value) if kind == I64 else float(value))
        if isinstance(value, ir.Value):
            if value.type == kind:
                return value
            if value.type == BOOL and kind == I64:
                return self.b.zext(value, kind)
            if value.type == I64 and kind in (FLOAT, DOUBLE):
                return self.b.sitofp(value, kind)
        raise self.refuse(node, f"{getattr(value, 'type', value)} where {kind} is needed")
