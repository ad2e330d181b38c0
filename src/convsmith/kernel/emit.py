"""Writes LLVM code from Python: the language that every kernel is written in.

A kernel is a Python function that is run once, to write the code down. Whatever is Python is
decided then (tile sizes, shapes, unrolled loops, coefficients of a transform); whatever is a
:class:`Value` happens later, when the code runs::

    unit = Unit()
    with unit.kernel("axpy") as code:  # void axpy(int64 *arguments, int64 item, int64 worker)
        x, y = code.pointer(0), code.pointer(1)
        for i in code.range(0, 1024, 16):            # a loop of the compiled code
            for u in range(2):                       # unrolled by Python
                at = i + 8 * u
                y.store(code.fma(x.load(8, at), code.splat(2.0, 8), y.load(8, at)), at)
    text = unit.text()

The values are those of LLVM: ``i64`` for indices, ``float`` and vectors of it, ``ptr`` for
addresses of float32 elements. A vector of L lanes is always that vector in the code, on any
machine; the compiler splits it where the machine has narrower registers. No fast-math flag is ever
set: the order of operations is the order written here, so results do not depend on the compiler's
taste.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from convsmith.kernel.kinds import (
    BOOL,
    FLOAT,
    INT,
    POINTER,
    float_text,
    lanes_of,
    vector_of,
)

__all__ = ["Code", "Unit", "Value", "Variable"]


class Value:
    """Something that the compiled code computes; arithmetic on it writes instructions."""

    __slots__ = ("code", "kind", "name")

    def __init__(self, code: Code, kind: str, name: str) -> None:
        self.code = code
        self.kind = kind
        self.name = name

    def __repr__(self) -> str:
        return f"{self.kind} {self.name}"

    # Arithmetic -----------------------------------------------------------------------

    def _other(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return other
        if self.kind == INT:
            return self.code.integer(int(other))
        if self.kind == FLOAT:
            return self.code.scalar(float(other))
        return self.code.splat(float(other), lanes_of(self.kind))

    def _binary(self, other: Value | float, integers: str, floats: str) -> Value:
        right = self._other(other)
        if right.kind != self.kind:
            raise TypeError(f"{integers}/{floats} of {self.kind} and {right.kind}")
        word = integers if self.kind == INT else floats
        if not word:
            raise TypeError(f"no such operation on {self.kind}")
        return self.code.assign(self.kind, f"{word} {self.kind} {self.name}, {right.name}")

    def __add__(self, other: Value | float) -> Value:
        if self.kind == POINTER:
            return self.at(other)
        if not isinstance(other, Value) and other == 0 and self.kind == INT:
            return self
        return self._binary(other, "add nsw", "fadd")

    def __radd__(self, other: float) -> Value:
        return self + other

    def __sub__(self, other: Value | float) -> Value:
        return self._binary(other, "sub nsw", "fsub")

    def __rsub__(self, other: float) -> Value:
        return self._other(other) - self

    def __mul__(self, other: Value | float) -> Value:
        if not isinstance(other, Value) and other == 1:
            return self
        return self._binary(other, "mul nsw", "fmul")

    def __rmul__(self, other: float) -> Value:
        return self * other

    def __truediv__(self, other: Value | float) -> Value:
        return self._binary(other, "", "fdiv")

    def __floordiv__(self, other: Value | int) -> Value:
        """Quotient of two integers that are not negative."""
        if not isinstance(other, Value) and other == 1:
            return self
        return self._binary(other, "udiv", "")

    def __mod__(self, other: Value | int) -> Value:
        """Remainder of two integers that are not negative."""
        if not isinstance(other, Value) and other == 1:
            return self.code.integer(0)
        return self._binary(other, "urem", "")

    def __neg__(self) -> Value:
        if self.kind == INT:
            return self._other(0) - self
        return self.code.assign(self.kind, f"fneg {self.kind} {self.name}")

    # Comparisons: a Boolean, or one per lane ------------------------------------------

    def _compare(self, other: Value | float, integers: str, floats: str) -> Value:
        right = self._other(other)
        lanes = lanes_of(self.kind)
        kind = BOOL if not self.kind.startswith("<") else f"<{lanes} x i1>"
        word = f"icmp {integers}" if self.kind == INT else f"fcmp {floats}"
        return self.code.assign(kind, f"{word} {self.kind} {self.name}, {right.name}")

    def __lt__(self, other: Value | float) -> Value:
        return self._compare(other, "slt", "olt")

    def __le__(self, other: Value | float) -> Value:
        return self._compare(other, "sle", "ole")

    def __gt__(self, other: Value | float) -> Value:
        return self._compare(other, "sgt", "ogt")

    def __ge__(self, other: Value | float) -> Value:
        return self._compare(other, "sge", "oge")

    def equals(self, other: Value | float) -> Value:
        """Returns whether two values are equal."""
        return self._compare(other, "eq", "oeq")

    def unequal(self, other: Value | float) -> Value:
        """Returns whether two values differ, or one of them is not a number."""
        return self._compare(other, "ne", "une")

    def __and__(self, other: Value) -> Value:
        return self.code.assign(self.kind, f"and {self.kind} {self.name}, {other.name}")

    def __or__(self, other: Value) -> Value:
        return self.code.assign(self.kind, f"or {self.kind} {self.name}, {other.name}")

    def select(self, then: Value, otherwise: Value) -> Value:
        """Returns ``then`` where this Boolean (or lane of Booleans) holds, else ``otherwise``."""
        return self.code.assign(
            then.kind,
            f"select {self.kind} {self.name}, {then.kind} {then.name}, "
            f"{otherwise.kind} {otherwise.name}",
        )

    # Memory: of a pointer -------------------------------------------------------------

    def at(self, offset: Value | float) -> Value:
        """Returns the address ``offset`` float32 elements further."""
        if not isinstance(offset, Value):
            if offset == 0:
                return self
            offset = self.code.integer(int(offset))
        return self.code.assign(POINTER, f"getelementptr float, ptr {self.name}, i64 {offset.name}")

    def load(self, lanes: int = 1, offset: Value | int = 0) -> Value:
        """Reads ``lanes`` consecutive float32 elements; no alignment is assumed beyond 4 bytes."""
        kind = FLOAT if lanes == 1 else vector_of(lanes)
        return self.code.assign(kind, f"load {kind}, ptr {self.at(offset).name}, align 4")

    def store(self, value: Value, offset: Value | int = 0) -> None:
        """Writes a scalar or a vector to consecutive elements."""
        self.code.write(f"store {value.kind} {value.name}, ptr {self.at(offset).name}, align 4")

    def load_first(self, count: int | Value, lanes: int, offset: Value | int = 0) -> Value:
        """Reads the first ``count`` of ``lanes`` elements, zeros for the rest.

        Which are not touched.
        """
        if isinstance(count, int):
            if count == lanes:
                return self.load(lanes, offset)
            if count == 0:
                return self.code.splat(0.0, lanes)
        mask = self.code.first(count, lanes)
        kind = vector_of(lanes)
        name = f"@llvm.masked.load.v{lanes}f32.p0"
        self.code.unit.declare(f"declare {kind} {name}(ptr, <{lanes} x i1>, {kind})")
        return self.code.assign(
            kind,
            f"call {kind} {name}(ptr align 4 {self.at(offset).name}, {mask.kind} {mask.name}, "
            f"{kind} zeroinitializer)",
        )

    def load_lanes(self, begin: int, end: int, lanes: int, offset: Value | int = 0) -> Value:
        """Reads lanes ``begin`` to ``end`` of ``lanes`` elements, zeros for the rest.

        Which are not touched.
        """
        begin, end = max(begin, 0), min(end, lanes)
        if begin >= end:
            return self.code.splat(0.0, lanes)
        if begin == 0:
            return self.load_first(end, lanes, offset)
        kind = vector_of(lanes)
        mask = ", ".join(f"i1 {int(begin <= i < end)}" for i in range(lanes))
        name = f"@llvm.masked.load.v{lanes}f32.p0"
        self.code.unit.declare(f"declare {kind} {name}(ptr, <{lanes} x i1>, {kind})")
        return self.code.assign(
            kind,
            f"call {kind} {name}(ptr align 4 {self.at(offset).name}, <{lanes} x i1> <{mask}>, "
            f"{kind} zeroinitializer)",
        )

    def store_first(self, value: Value, count: int | Value, offset: Value | int = 0) -> None:
        """Writes the first ``count`` lanes of a vector; the memory behind them is not touched."""
        lanes = lanes_of(value.kind)
        if isinstance(count, int):
            if count == lanes:
                self.store(value, offset)
                return
            if count == 0:
                return
        mask = self.code.first(count, lanes)
        name = f"@llvm.masked.store.v{lanes}f32.p0"
        self.code.unit.declare(f"declare void {name}({value.kind}, ptr, <{lanes} x i1>)")
        self.code.write(
            f"call void {name}({value.kind} {value.name}, ptr align 4 {self.at(offset).name}, "
            f"{mask.kind} {mask.name})"
        )

    def prefetch(self, offset: Value | int = 0, *, locality: int = 3, write: bool = False) -> None:
        """Asks for the cache line at an address; harmless for any address.

        Args:
            offset: Elements from here.
            locality: 3 for the nearest cache, 2 and 1 for farther ones, 0 for use once.
            write: Whether it will be written.
        """
        self.code.unit.declare("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.code.write(
            f"call void @llvm.prefetch.p0(ptr {self.at(offset).name}, i32 {int(write)}, "
            f"i32 {locality}, i32 1)"
        )


class Variable:
    """A value that changes: a loop's accumulator. The compiler keeps it in a register."""

    __slots__ = ("_address", "_code", "kind")

    def __init__(self, code: Code, kind: str, address: str) -> None:
        self._code = code
        self.kind = kind
        self._address = address

    def get(self) -> Value:
        """Returns what it holds now."""
        return self._code.assign(self.kind, f"load {self.kind}, ptr {self._address}")

    def set(self, value: Value) -> None:
        """Gives it another value."""
        if value.kind != self.kind:
            raise TypeError(f"a variable of {self.kind} cannot hold {value.kind}")
        self._code.write(f"store {self.kind} {value.name}, ptr {self._address}")


class Code:
    """One function while it is being written."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self._lines: list[str] = []
        self._slots: list[str] = []
        self._count = 0
        self._block = "entry"

    # Writing --------------------------------------------------------------------------

    def write(self, instruction: str) -> None:
        """Writes one instruction that has no value."""
        self._lines.append(f"  {instruction}")

    def assign(self, kind: str, instruction: str) -> Value:
        """Writes one instruction and returns its value."""
        name = self._name()
        self._lines.append(f"  {name} = {instruction}")
        return Value(self, kind, name)

    def _name(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def _label(self) -> str:
        self._count += 1
        return f"b{self._count}"

    def _enter(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._block = label

    def body(self) -> str:
        """Returns the text of the function's body."""
        return "\n".join(["entry:", *self._slots, *self._lines, "  ret void"])

    # Constants ------------------------------------------------------------------------

    def integer(self, value: int) -> Value:
        """Returns an integer constant."""
        return Value(self, INT, str(value))

    def scalar(self, value: float) -> Value:
        """Returns a float32 constant."""
        return Value(self, FLOAT, float_text(value))

    def splat(self, value: float | Value, lanes: int) -> Value:
        """Returns a vector whose lanes all hold one scalar."""
        kind = vector_of(lanes) if lanes > 1 else FLOAT
        if not isinstance(value, Value):
            if lanes == 1:
                return self.scalar(value)
            return Value(self, kind, f"splat (float {float_text(value)})")
        if lanes == 1:
            return value
        one = self.assign(kind, f"insertelement {kind} poison, float {value.name}, i64 0")
        return self.assign(
            kind,
            f"shufflevector {kind} {one.name}, {kind} poison, <{lanes} x i32> zeroinitializer",
        )

    def vector(self, values: Sequence[float]) -> Value:
        """Returns a constant vector."""
        parts = ", ".join(f"float {float_text(value)}" for value in values)
        return Value(self, vector_of(len(values)), f"<{parts}>")

    # Functions of values --------------------------------------------------------------

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Returns ``a * b + c``, rounded once."""
        return self._intrinsic("fma", a, b, c)

    def maximum(self, a: Value, b: Value | float) -> Value:
        """Returns the larger of two; NaN if one of them is NaN."""
        right = b if isinstance(b, Value) else self._like(a, b)
        # `a` survives unless it is smaller, so a NaN in `a` does; constants are never NaN.
        return (a < right).select(right, a)

    def minimum(self, a: Value, b: Value | float) -> Value:
        """Returns the smaller of two; NaN if ``a`` is NaN."""
        right = b if isinstance(b, Value) else self._like(a, b)
        return (a > right).select(right, a)

    def smaller(self, a: Value, b: Value | int) -> Value:
        """Returns the smaller of two integers."""
        right = b if isinstance(b, Value) else self.integer(b)
        return (a < right).select(a, right)

    def larger(self, a: Value, b: Value | int) -> Value:
        """Returns the larger of two integers."""
        right = b if isinstance(b, Value) else self.integer(b)
        return (a > right).select(a, right)

    def floor(self, a: Value) -> Value:
        """Returns the largest whole number that is not above a float."""
        return self._intrinsic("floor", a)

    def sqrt(self, a: Value) -> Value:
        """Returns the square root."""
        return self._intrinsic("sqrt", a)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Returns the chosen lanes of two vectors laid one behind the other."""
        mask = ", ".join(f"i32 {lane}" for lane in lanes)
        return self.assign(
            vector_of(len(lanes)),
            f"shufflevector {a.kind} {a.name}, {b.kind} {b.name}, <{len(lanes)} x i32> <{mask}>",
        )

    def lane(self, a: Value, index: int) -> Value:
        """Returns one lane of a vector as a scalar."""
        return self.assign(FLOAT, f"extractelement {a.kind} {a.name}, i64 {index}")

    def power_of_two(self, exponent: Value) -> Value:
        """Returns 2 ** n for a vector of whole numbers n from -126 to 127."""
        lanes = lanes_of(exponent.kind)
        whole = f"<{lanes} x i32>" if lanes > 1 else "i32"
        suffix = f"v{lanes}i32.v{lanes}f32" if lanes > 1 else "i32.f32"
        name = f"@llvm.fptosi.sat.{suffix}"  # defined for every float, NaN too
        self.unit.declare(f"declare {whole} {name}({exponent.kind})")
        n = self.assign(whole, f"call {whole} {name}({exponent.kind} {exponent.name})")
        bias, shift = (f"splat (i32 {k})" if lanes > 1 else str(k) for k in (127, 23))
        biased = self.assign(whole, f"add {whole} {n.name}, {bias}")
        bits = self.assign(whole, f"shl {whole} {biased.name}, {shift}")
        return self.assign(exponent.kind, f"bitcast {whole} {bits.name} to {exponent.kind}")

    def _like(self, value: Value, constant: float) -> Value:
        return self.splat(constant, lanes_of(value.kind))

    def _intrinsic(self, name: str, *values: Value) -> Value:
        kind = values[0].kind
        lanes = lanes_of(kind)
        full = f"@llvm.{name}.{f'v{lanes}f32' if lanes > 1 else 'f32'}"
        self.unit.declare(f"declare {kind} {full}({', '.join(v.kind for v in values)})")
        handed = ", ".join(f"{v.kind} {v.name}" for v in values)
        return self.assign(kind, f"call {kind} {full}({handed})")

    def first(self, count: int | Value, lanes: int) -> Value:
        """Returns a mask of ``lanes`` Booleans of which the first ``count`` hold."""
        kind = f"<{lanes} x i1>"
        if isinstance(count, int):
            return Value(self, kind, f"<{', '.join(f'i1 {int(i < count)}' for i in range(lanes))}>")
        wide = f"<{lanes} x i32>"
        clamped = self.smaller(count, lanes)  # 32 bits hold it then, and compare faster
        short = self.assign("i32", f"trunc i64 {clamped.name} to i32")
        one = self.assign(wide, f"insertelement {wide} poison, i32 {short.name}, i64 0")
        all_lanes = self.assign(
            wide,
            f"shufflevector {wide} {one.name}, {wide} poison, <{lanes} x i32> zeroinitializer",
        )
        indices = ", ".join(f"i32 {i}" for i in range(lanes))
        return self.assign(kind, f"icmp slt {wide} <{indices}>, {all_lanes.name}")

    # State and control ----------------------------------------------------------------

    def variable(self, start: Value) -> Variable:
        """Returns a new variable that holds ``start``."""
        address = self._name()
        self._slots.append(f"  {address} = alloca {start.kind}")
        made = Variable(self, start.kind, address)
        made.set(start)
        return made

    def local(self, elements: int, *, align: int = 64) -> Value:
        """Returns the address of a small array on the stack, float32, not initialised."""
        address = self._name()
        self._slots.append(f"  {address} = alloca [{elements} x float], align {align}")
        return Value(self, POINTER, address)

    def range(
        self, start: int | Value, stop: int | Value | None = None, step: int | Value = 1
    ) -> Iterator[Value]:
        """Writes a loop: ``for i in code.range(n)`` runs its body once, to write it down.

        A body must not leave the loop by ``break`` or ``return``. A loop of known length 0 is left
        out, one of known length 1 becomes its body.
        """
        if stop is None:
            start, stop = 0, start
        if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
            rounds = len(range(start, stop, step))
            if rounds == 0:
                return
            if rounds == 1:
                yield self.integer(start)
                return
        first, last, by = (
            v if isinstance(v, Value) else self.integer(v) for v in (start, stop, step)
        )
        head, body, exit_ = self._label(), self._label(), self._label()
        before, index, following = self._block, self._name(), self._name()
        self.write(f"br label %{head}")
        self._enter(head)
        patch = len(self._lines)
        self._lines.append("")  # the index's phi needs the name of the last block of the body
        more = self.assign(BOOL, f"icmp slt i64 {index}, {last.name}")
        self.write(f"br i1 {more.name}, label %{body}, label %{exit_}")
        self._enter(body)
        yield Value(self, INT, index)
        self.write(f"{following} = add nsw i64 {index}, {by.name}")
        self._lines[patch] = (
            f"  {index} = phi i64 [ {first.name}, %{before} ], [ {following}, %{self._block} ]"
        )
        self.write(f"br label %{head}")
        self._enter(exit_)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Writes code that runs only if a Boolean holds."""
        then, after = self._label(), self._label()
        self.write(f"br i1 {condition.name}, label %{then}, label %{after}")
        self._enter(then)
        yield
        self.write(f"br label %{after}")
        self._enter(after)

    @contextmanager
    def unless(self, condition: Value) -> Iterator[None]:
        """Writes code that runs only if a Boolean does not hold."""
        otherwise, after = self._label(), self._label()
        self.write(f"br i1 {condition.name}, label %{after}, label %{otherwise}")
        self._enter(otherwise)
        yield
        self.write(f"br label %{after}")
        self._enter(after)

    @contextmanager
    def forever(self) -> Iterator[Loop]:
        """Writes a loop that ends only through its :meth:`Loop.leave_if`."""
        head, exit_ = self._label(), self._label()
        self.write(f"br label %{head}")
        self._enter(head)
        yield Loop(self, exit_)
        self.write(f"br label %{head}")
        self._enter(exit_)

    # The arguments of a kernel --------------------------------------------------------

    def word(self, index: int | Value) -> Value:
        """Returns a kernel's argument, a 64-bit integer."""
        place = self.assign(
            POINTER,
            "getelementptr i64, ptr %arguments, i64 "
            + (index.name if isinstance(index, Value) else str(index)),
        )
        return self.assign(INT, f"load i64, ptr {place.name}, align 8, !invariant.load !0")

    def pointer(self, index: int) -> Value:
        """Returns a kernel's argument as an address of float32 elements."""
        return self.assign(POINTER, f"inttoptr i64 {self.word(index).name} to ptr")

    @property
    def item(self) -> Value:
        """Which of the kernel's pieces of work this call does."""
        return Value(self, INT, "%item")

    @property
    def worker(self) -> Value:
        """Which thread runs it, from 0 on: for memory of its own."""
        return Value(self, INT, "%worker")


class Loop:
    """A loop of :meth:`Code.forever`."""

    def __init__(self, code: Code, exit_: str) -> None:
        self._code = code
        self._exit = exit_

    def leave_if(self, condition: Value) -> None:
        """Writes a jump behind the loop, taken if a Boolean holds."""
        code = self._code
        stay = code._label()
        code.write(f"br i1 {condition.name}, label %{self._exit}, label %{stay}")
        code._enter(stay)


class Unit:
    """Functions that are compiled together."""

    def __init__(self) -> None:
        self._declared: dict[str, None] = {}
        self._functions: list[str] = []

    def declare(self, line: str) -> None:
        """Makes a function of LLVM or of the C library known."""
        self._declared[line] = None

    @contextmanager
    def function(self, signature: str) -> Iterator[Code]:
        """Writes a function that returns nothing, from its LLVM signature."""
        code = Code(self)
        yield code
        self._functions.append(f"define {signature} #0 {{\n{code.body()}\n}}")

    @contextmanager
    def kernel(self, name: str) -> Iterator[Code]:
        """Writes ``void name(int64 *arguments, int64 item, int64 worker)``."""
        with self.function(
            f"void @{name}(ptr noalias readonly %arguments, i64 %item, i64 %worker)"
        ) as code:
            yield code

    def text(self) -> str:
        """Returns the LLVM assembly of everything written."""
        return "\n\n".join(
            [
                "\n".join(self._declared),
                *self._functions,
                'attributes #0 = { nounwind "no-trapping-math"="true" }',
                "!0 = !{}",
                "",
            ]
        )
