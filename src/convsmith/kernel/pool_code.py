"""The compiled code of the pool: how its members take work, wait, sleep, wake and keep apart.

Everything that several threads use lies in the pool's memory or in a program's rows, words of 64
bits that are read and written atomically; :mod:`convsmith.kernel.threads` makes both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache

from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.machine import Compiled, compiled
from convsmith.kernel.target import host

__all__ = ["CORES", "PHASE_WORDS", "POOL_WORDS", "pool_code"]


# The pool's memory, in words of 64 bits; what different threads write lies 128 bytes apart.
_EPOCH, _SLEEPERS, _INSIDE, _PHASES, _COUNT, _MEMBERS, _STOP, CORES = (
    0, 16, 32, 48, 49, 50, 64, 80,
)  # fmt: skip
_KNOWN_CORES = 256  # members whose core is noted
POOL_WORDS = CORES + _KNOWN_CORES
# One phase.
_FUNCTION, _ARGUMENTS, _ITEMS, _NEXT, _DONE, PHASE_WORDS = 0, 1, 2, 16, 32, 48

_WATCH = 1500  # looks for a new program before a worker sleeps: about 50 microseconds
_PATIENCE = 200  # looks for what a member waits for before its core is offered to others
_POLITE = 32  # looks for a new program between two offers of the core: about a microsecond


class _Atomic:
    """Words of memory that several threads use."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def _place(self, base: str, word: int | Value) -> str:
        at = word.name if isinstance(word, Value) else str(word)
        return self.code.assign("ptr", f"getelementptr i64, ptr {base}, i64 {at}").name

    def get(self, base: str, word: int | Value) -> Value:
        return self.code.assign(
            "i64", f"load atomic i64, ptr {self._place(base, word)} seq_cst, align 8"
        )

    def put(self, base: str, word: int | Value, value: Value | int) -> None:
        held = value.name if isinstance(value, Value) else str(value)
        self.code.write(f"store atomic i64 {held}, ptr {self._place(base, word)} seq_cst, align 8")

    def add(self, base: str, word: int, value: Value | int) -> Value:
        held = value.name if isinstance(value, Value) else str(value)
        return self.code.assign(
            "i64", f"atomicrmw add ptr {self._place(base, word)}, i64 {held} seq_cst"
        )

    def row(self, phases: str, index: Value) -> str:
        return self._place(phases, index * PHASE_WORDS)


def _pause(code: Code) -> None:
    """Tells the core that this is a wait."""
    architecture = os.uname().machine if hasattr(os, "uname") else "x86_64"
    if architecture in ("x86_64", "AMD64", "i686"):
        code.unit.declare("declare void @llvm.x86.sse2.pause()")
        code.write("call void @llvm.x86.sse2.pause()")
    elif architecture in ("aarch64", "arm64"):
        code.unit.declare("declare void @llvm.aarch64.hint(i32)")
        code.write("call void @llvm.aarch64.hint(i32 1)")


def _offer_core(code: Code) -> None:
    if sys.platform == "win32":
        code.unit.declare("declare i32 @SwitchToThread()")
        code.assign("i32", "call i32 @SwitchToThread()")
    else:
        code.unit.declare("declare i32 @sched_yield()")
        code.assign("i32", "call i32 @sched_yield()")


_FUTEX = {"x86_64": 202, "aarch64": 98}


def _futex_number() -> int | None:
    return _FUTEX.get(os.uname().machine) if sys.platform == "linux" else None


def _sleep(code: Code, pool: str, epoch: Value) -> None:
    """Sleeps until the epoch is another one; where the system has no futex, for a moment."""
    number = _futex_number()
    if number is not None:
        code.unit.declare("declare i64 @syscall(i64, ...)")
        seen = code.assign("i32", f"trunc i64 {epoch.name} to i32")
        code.assign(
            "i64",
            f"call i64 (i64, ...) @syscall(i64 {number}, ptr {pool}, i32 128, i32 {seen.name}, "
            "ptr null, ptr null, i32 0)",
        )
    elif sys.platform == "win32":
        code.unit.declare("declare void @Sleep(i32)")
        code.write("call void @Sleep(i32 1)")
    else:
        code.unit.declare("declare i32 @usleep(i32)")
        code.assign("i32", "call i32 @usleep(i32 50)")


def _wake(code: Code, pool: str) -> None:
    number = _futex_number()
    if number is not None:
        code.unit.declare("declare i64 @syscall(i64, ...)")
        code.assign(
            "i64",
            f"call i64 (i64, ...) @syscall(i64 {number}, ptr {pool}, i32 129, i32 2147483647, "
            "ptr null, ptr null, i32 0)",
        )


_CORE_WORDS = 16  # of a set of cores, as bits: 1024 of them


def _note_core(code: Code, atomic: _Atomic, member: Value) -> Value:
    """Writes down, where it has changed, on which core a member runs, and returns that."""
    code.unit.declare("declare i32 @sched_getcpu()")
    core = code.assign(
        "i64", f"sext i32 {code.assign('i32', 'call i32 @sched_getcpu()').name} to i64"
    )
    with code.when(atomic.get("%pool", member + CORES).unequal(core)):
        atomic.put("%pool", member + CORES, core)
    return core


def _write_apart(unit: Unit) -> None:
    """Moves a worker to a core of its own if a member before it is on the same one."""
    with unit.function("void @apart(ptr %pool, i64 %worker)") as code:
        atomic, worker = _Atomic(code), Value(code, "i64", "%worker")
        allowed = code.assign("ptr", f"alloca [{_CORE_WORDS} x i64], align 8").name
        wanted = code.assign("ptr", f"alloca [{_CORE_WORDS} x i64], align 8").name
        core = _note_core(code, atomic, worker)
        shared = code.variable(code.integer(0))
        for member in code.range(worker):
            with code.when(atomic.get("%pool", member + CORES).equals(core)):
                shared.set(code.integer(1))
        with code.when(shared.get().equals(1)):
            unit.declare("declare i32 @sched_getaffinity(i32, i64, ptr)")
            unit.declare("declare i32 @sched_setaffinity(i32, i64, ptr)")
            size = 8 * _CORE_WORDS
            for word in range(_CORE_WORDS):
                atomic.put(allowed, word, 0)
            got = code.assign(
                "i32", f"call i32 @sched_getaffinity(i32 0, i64 {size}, ptr {allowed})"
            )
            with code.when(code.assign("i1", f"icmp sge i32 {got.name}, 0")):
                for word in range(_CORE_WORDS):
                    atomic.put(wanted, word, atomic.get(allowed, word))
                members = code.smaller(atomic.get("%pool", _MEMBERS), _KNOWN_CORES)
                for member in code.range(members):
                    taken = atomic.get("%pool", member + CORES)
                    known = (taken >= 0) & (taken < 64 * _CORE_WORDS) & member.unequal(worker)
                    with code.when(known):
                        bit = code.assign("i64", f"shl i64 1, {(taken % 64).name}")
                        others = code.assign("i64", f"xor i64 {bit.name}, -1")
                        kept = atomic.get(wanted, taken // 64)
                        kept = code.assign("i64", f"and i64 {kept.name}, {others.name}")
                        atomic.put(wanted, taken // 64, kept)
                left = code.variable(code.integer(0))
                for word in range(_CORE_WORDS):
                    free = atomic.get(wanted, word)
                    left.set(code.assign("i64", f"or i64 {left.get().name}, {free.name}"))
                with code.when(left.get().unequal(0)):
                    for cores in (wanted, allowed):
                        code.assign(
                            "i32", f"call i32 @sched_setaffinity(i32 0, i64 {size}, ptr {cores})"
                        )
                    _note_core(code, atomic, worker)


def _phases(code: Code) -> Iterator[tuple[str, Value]]:
    """The rows of a program's phases, each with its number of items."""
    for phase in code.range(Value(code, "i64", "%count")):
        row = _Atomic(code).row("%phases", phase)
        place = code.assign("ptr", f"getelementptr i64, ptr {row}, i64 {_ITEMS}")
        yield row, code.assign("i64", f"load i64, ptr {place.name}, align 8")


def _wait_until(code: Code, over: Callable[[], Value]) -> None:
    """Looks again and again; after a while the core is offered to whoever waits for it."""
    looks = code.variable(code.integer(0))
    with code.forever() as waiting:
        waiting.leave_if(over())
        _pause(code)
        looks.set(looks.get() + 1)
        with code.when(looks.get() > _PATIENCE):
            _offer_core(code)


def _call_item(code: Code, row: str, item: Value, worker: str) -> None:
    function = code.assign("ptr", f"load ptr, ptr {row}, align 8")
    place = code.assign("ptr", f"getelementptr i64, ptr {row}, i64 {_ARGUMENTS}")
    arguments = code.assign("ptr", f"load ptr, ptr {place.name}, align 8")
    code.write(f"call void {function.name}(ptr {arguments.name}, i64 {item.name}, i64 {worker})")


def _write_work(unit: Unit) -> None:
    """Phase after phase: takes items until none is left, waits until all are done."""
    with unit.function("void @work(ptr %phases, i64 %count, i64 %worker)") as code:
        atomic = _Atomic(code)
        for row, items in _phases(code):
            mine = code.variable(code.integer(0))
            with code.forever() as taking:
                item = atomic.add(row, _NEXT, 1)
                taking.leave_if(item >= items)
                _call_item(code, row, item, "%worker")
                mine.set(mine.get() + 1)
            with code.when(mine.get() > 0):
                atomic.add(row, _DONE, mine.get())

            def done(row: str = row, items: Value = items) -> Value:
                return atomic.get(row, _DONE) >= items

            _wait_until(code, done)


def _write_alone(unit: Unit) -> None:
    with unit.function("void @alone(ptr %phases, i64 %count)") as code:
        for row, items in _phases(code):
            for item in code.range(items):
                _call_item(code, row, item, "0")


def _write_run(unit: Unit) -> None:
    """Opens an epoch, works like everybody else, closes it, waits until nobody looks at it."""
    with unit.function("void @run(ptr %pool, ptr %phases, i64 %count, i64 %members)") as code:
        atomic = _Atomic(code)
        for phase in code.range(Value(code, "i64", "%count")):
            row = atomic.row("%phases", phase)
            atomic.put(row, _NEXT, 0)
            atomic.put(row, _DONE, 0)
        if sys.platform == "linux":
            _note_core(code, atomic, code.integer(0))
        address = code.assign("i64", "ptrtoint ptr %phases to i64")
        atomic.put("%pool", _PHASES, address)
        atomic.put("%pool", _COUNT, Value(code, "i64", "%count"))
        atomic.put("%pool", _MEMBERS, Value(code, "i64", "%members"))
        atomic.add("%pool", _EPOCH, 1)
        with code.when(atomic.get("%pool", _SLEEPERS) > 0):
            _wake(code, "%pool")
        code.write("call void @work(ptr %phases, i64 %count, i64 0)")
        atomic.add("%pool", _EPOCH, 1)
        _wait_until(code, lambda: atomic.get("%pool", _INSIDE).equals(0))


def _write_serve(unit: Unit) -> None:
    """A worker's life: an odd epoch is a program to join."""
    with unit.function("void @serve(ptr %pool, i64 %worker)") as code:
        atomic = _Atomic(code)
        last = code.variable(code.integer(0))
        looks = code.variable(code.integer(0))
        with code.forever() as life:
            life.leave_if(atomic.get("%pool", _STOP).unequal(0))
            epoch = atomic.get("%pool", _EPOCH)
            new = (epoch % 2).equals(1) & epoch.unequal(last.get())
            with code.when(new):
                if sys.platform == "linux":
                    with code.when(Value(code, "i64", "%worker") < _KNOWN_CORES):
                        code.write("call void @apart(ptr %pool, i64 %worker)")
                atomic.add("%pool", _INSIDE, 1)
                # Now the program cannot end unseen, if it has not ended before.
                with code.when(atomic.get("%pool", _EPOCH).equals(epoch)):
                    members = atomic.get("%pool", _MEMBERS)
                    with code.when(members > Value(code, "i64", "%worker")):
                        address = atomic.get("%pool", _PHASES)
                        phases = code.assign("ptr", f"inttoptr i64 {address.name} to ptr")
                        count = atomic.get("%pool", _COUNT)
                        code.write(
                            f"call void @work(ptr {phases.name}, i64 {count.name}, i64 %worker)"
                        )
                atomic.add("%pool", _INSIDE, -1)
                last.set(epoch)
                looks.set(code.integer(0))
            with code.unless(new):
                _pause(code)
                looks.set(looks.get() + 1)
                with code.when((looks.get() % _POLITE).equals(0)):
                    _offer_core(code)  # a thread that shares it may have work to finish
                with code.when(looks.get() > _WATCH):
                    atomic.add("%pool", _SLEEPERS, 1)
                    with code.when(atomic.get("%pool", _STOP).equals(0)):
                        _sleep(code, "%pool", epoch)
                    atomic.add("%pool", _SLEEPERS, -1)
                    looks.set(code.integer(0))


def _write(unit: Unit) -> None:
    _write_work(unit)
    _write_alone(unit)
    _write_run(unit)
    if sys.platform == "linux":
        _write_apart(unit)
    _write_serve(unit)
    with unit.function("void @stop(ptr %pool)") as code:
        _Atomic(code).put("%pool", _STOP, 1)
        _Atomic(code).add("%pool", _EPOCH, 2)
        _wake(code, "%pool")


@cache
def pool_code() -> Compiled:
    """Returns the functions of the pool: work, alone, run, serve, stop; apart on Linux."""
    apart = ("apart",) if sys.platform == "linux" else ()
    return compiled(
        f"threads {sys.platform} {_WATCH} {_PATIENCE} {_POLITE}",
        host(),
        ("work", "alone", "run", "serve", "stop", *apart),
        _write,
    )
