"""Threads that cost microseconds: a pool whose loop is itself compiled code.

A *program* is a list of phases; a phase is one kernel with its arguments and the number of its
items. :func:`run` executes the phases in order, the items of a phase in any order on all threads,
and returns when all is done: one call from Python however many phases there are.

Workers are Python threads that went once into compiled code and stay there, without the
interpreter lock. Between programs they watch for the next one for some ten microseconds and then
sleep in the kernel, so they cost nothing while other libraries' threads (PyTorch's, say) work. A
phase counts finished *items*, not arrived threads: a worker that wakes late or loses its core
holds up nobody, it finds the items gone. Which thread runs an item changes no result.

One program has the pool at a time. Another Python thread that runs a program meanwhile does it
alone, on itself, with the same result. A forked child has no workers and starts its own when it
needs them.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from convsmith.kernel.emit import Code, Unit, Value
from convsmith.kernel.machine import Compiled, compiled
from convsmith.kernel.target import host
from convsmith.parallel import threads

__all__ = ["Phase", "Program", "run"]

# The pool's memory, in words of 64 bits; what different threads write lies 128 bytes apart.
_EPOCH, _SLEEPERS, _INSIDE, _PHASES, _COUNT, _MEMBERS, _STOP, _POOL_WORDS = (
    0, 16, 32, 48, 49, 50, 64, 80,
)  # fmt: skip
# One phase.
_FUNCTION, _ARGUMENTS, _ITEMS, _NEXT, _DONE, _PHASE_WORDS = 0, 1, 2, 16, 32, 48

_WATCH = 1500  # looks for a new program before a worker sleeps: about 50 microseconds
_PATIENCE = 200  # looks for the end of a phase before the core is offered to others

Phase = tuple[int, int, int]
"""Address of a kernel, address of its arguments, number of items."""


class _Atomic:
    """Words of memory that several threads use."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def _place(self, base: str, word: int | Value) -> str:
        at = word.name if isinstance(word, Value) else str(word)
        return self.code.assign("ptr", f"getelementptr i64, ptr {base}, i64 {at}").name

    def get(self, base: str, word: int) -> Value:
        return self.code.assign(
            "i64", f"load atomic i64, ptr {self._place(base, word)} seq_cst, align 8"
        )

    def put(self, base: str, word: int, value: Value | int) -> None:
        held = value.name if isinstance(value, Value) else str(value)
        self.code.write(f"store atomic i64 {held}, ptr {self._place(base, word)} seq_cst, align 8")

    def add(self, base: str, word: int, value: Value | int) -> Value:
        held = value.name if isinstance(value, Value) else str(value)
        return self.code.assign(
            "i64", f"atomicrmw add ptr {self._place(base, word)}, i64 {held} seq_cst"
        )

    def row(self, phases: str, index: Value) -> str:
        return self._place(phases, index * _PHASE_WORDS)


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


def _call_item(code: Code, row: str, item: Value, worker: str) -> None:
    function = code.assign("ptr", f"load ptr, ptr {row}, align 8")
    place = code.assign("ptr", f"getelementptr i64, ptr {row}, i64 {_ARGUMENTS}")
    arguments = code.assign("ptr", f"load ptr, ptr {place.name}, align 8")
    code.write(f"call void {function.name}(ptr {arguments.name}, i64 {item.name}, i64 {worker})")


def _write_work(unit: Unit) -> None:
    """Phase after phase: takes items until none is left, waits until all are done."""
    with unit.function("void @work(ptr %phases, i64 %count, i64 %worker)") as code:
        atomic = _Atomic(code)
        for phase in code.range(Value(code, "i64", "%count")):
            row = atomic.row("%phases", phase)
            place = code.assign("ptr", f"getelementptr i64, ptr {row}, i64 {_ITEMS}")
            items = code.assign("i64", f"load i64, ptr {place.name}, align 8")
            mine = code.variable(code.integer(0))
            with code.forever() as taking:
                item = atomic.add(row, _NEXT, 1)
                taking.leave_if(item >= items)
                _call_item(code, row, item, "%worker")
                mine.set(mine.get() + 1)
            with code.when(mine.get() > 0):
                atomic.add(row, _DONE, mine.get())
            looks = code.variable(code.integer(0))
            with code.forever() as waiting:
                waiting.leave_if(atomic.get(row, _DONE) >= items)
                _pause(code)
                looks.set(looks.get() + 1)
                with code.when(looks.get() > _PATIENCE):
                    _offer_core(code)


def _write_alone(unit: Unit) -> None:
    with unit.function("void @alone(ptr %phases, i64 %count)") as code:
        atomic = _Atomic(code)
        for phase in code.range(Value(code, "i64", "%count")):
            row = atomic.row("%phases", phase)
            place = code.assign("ptr", f"getelementptr i64, ptr {row}, i64 {_ITEMS}")
            items = code.assign("i64", f"load i64, ptr {place.name}, align 8")
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
        address = code.assign("i64", "ptrtoint ptr %phases to i64")
        atomic.put("%pool", _PHASES, address)
        atomic.put("%pool", _COUNT, Value(code, "i64", "%count"))
        atomic.put("%pool", _MEMBERS, Value(code, "i64", "%members"))
        atomic.add("%pool", _EPOCH, 1)
        with code.when(atomic.get("%pool", _SLEEPERS) > 0):
            _wake(code, "%pool")
        code.write("call void @work(ptr %phases, i64 %count, i64 0)")
        atomic.add("%pool", _EPOCH, 1)
        with code.forever() as waiting:
            waiting.leave_if(atomic.get("%pool", _INSIDE).equals(0))
            _pause(code)


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
    _write_serve(unit)
    with unit.function("void @stop(ptr %pool)") as code:
        _Atomic(code).put("%pool", _STOP, 1)
        _Atomic(code).add("%pool", _EPOCH, 2)
        _wake(code, "%pool")


@cache
def _code() -> Compiled:
    return compiled(
        f"threads {sys.platform} {_WATCH} {_PATIENCE}",
        host(),
        ("work", "alone", "run", "serve", "stop"),
        _write,
    )


_ADDRESS, _WORD = ctypes.c_void_p, ctypes.c_int64


@cache
def _alone() -> ctypes._CFunctionType:
    return ctypes.CFUNCTYPE(None, _ADDRESS, _WORD)(_code().address("alone"))


@cache
def _run() -> ctypes._CFunctionType:
    kind = ctypes.CFUNCTYPE(None, _ADDRESS, _ADDRESS, _WORD, _WORD)
    return kind(_code().address("run"))


class _Pool:
    """Workers, and the memory through which they are spoken to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.memory = np.zeros(_POOL_WORDS + 16, dtype=np.int64)
        start = -self.memory.ctypes.data % 128
        self.address = self.memory.ctypes.data + start
        self.workers: list[threading.Thread] = []

    def grow(self, count: int) -> None:
        """Starts workers until there are ``count`` besides the caller."""
        serve = ctypes.CFUNCTYPE(None, _ADDRESS, _WORD)(_code().address("serve"))
        while len(self.workers) < count:
            index = len(self.workers) + 1
            worker = threading.Thread(
                target=serve, args=(self.address, index), name=f"convsmith-{index}", daemon=True
            )
            worker.start()
            self.workers.append(worker)

    def stop(self) -> None:
        """Ends the workers."""
        if self.workers:
            ctypes.CFUNCTYPE(None, _ADDRESS)(_code().address("stop"))(self.address)
            for worker in self.workers:
                worker.join()
            self.workers = []


_pool = _Pool()


def _forget_pool() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


@atexit.register
def _stop() -> None:
    _pool.stop()


class Program:
    """Phases ready to run, again and again.

    The arguments that the phases point to are the caller's; a program runs on one Python thread at
    a time, because its counters are in its own memory.
    """

    __slots__ = ("_memory", "address", "count")

    def __init__(self, phases: Iterable[Phase]) -> None:
        rows = list(phases)
        self._memory = np.zeros((len(rows) + 1) * _PHASE_WORDS, dtype=np.int64)
        start = -self._memory.ctypes.data % 128 // 8
        table: NDArray[np.int64] = self._memory[start : start + len(rows) * _PHASE_WORDS]
        table = table.reshape(len(rows), _PHASE_WORDS)
        for row, phase in zip(table, rows, strict=True):
            row[:3] = phase
        self.address = self._memory.ctypes.data + 8 * start
        self.count = len(rows)


def run(program: Program, members: int | None = None) -> None:
    """Runs a program on the pool, or alone where the pool is busy or one thread is wanted.

    Args:
        program: The phases.
        members: How many threads; by default :func:`convsmith.parallel.threads`.
    """
    wanted = threads() if members is None else members
    pool = _pool
    if wanted > 1 and pool.lock.acquire(blocking=False):
        try:
            if len(pool.workers) < wanted - 1:
                pool.grow(wanted - 1)
            _run()(pool.address, program.address, program.count, wanted)
        finally:
            pool.lock.release()
    else:
        _alone()(program.address, program.count)
