"""What this machine can compute at most: measured, with sums that never leave the registers."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from convsmith.kernel.emit import Unit
from convsmith.kernel.machine import compiled
from convsmith.kernel.target import Target, host
from convsmith.kernel.threads import Program, run
from convsmith.parallel import threads

__all__ = ["peak_gflops"]

_SUMS: Final = 12  # independent chains: more than latency times throughput of any multiplier
_STEPS: Final = 5_000
_PORTIONS: Final = 12  # of every thread: one that comes late leaves some to the others
_ROUNDS: Final = 15


def peak_gflops(members: int | None = None, *, target: Target | None = None) -> float:
    """Returns the most float32 operations per nanosecond that fused multiply-adds reach.

    Two operations per lane and instruction, on ``members`` threads (by default
    :func:`convsmith.parallel.threads`); the fastest of some rounds, so that other programs on the
    machine lower it little.

    >>> peak_gflops(1) > 0
    True
    """
    machine = target or host()
    count = threads() if members is None else members
    lanes = machine.lanes

    def write(unit: Unit) -> None:
        with unit.kernel("peak") as code:
            place = code.pointer(0)
            factor, start = place.load(lanes), place.load(lanes, lanes)
            sums = [code.variable(start) for _ in range(_SUMS)]
            for _ in code.range(_STEPS):
                for total in sums:
                    total.set(code.fma(total.get(), factor, start))
            result = sums[0].get()
            for total in sums[1:]:
                result = result + total.get()
            place.store(result, (code.item + 2) * lanes)

    code = compiled(f"peak {lanes} {_SUMS} {_STEPS}", machine, ("peak",), write)
    portions = _PORTIONS * count
    memory = np.zeros((portions + 2) * lanes, np.float32)
    memory[:lanes] = 0.5
    arguments = np.array([memory.ctypes.data], np.int64)
    program = Program([(code.address("peak"), arguments.ctypes.data, portions)])
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        run(program, count)
        best = min(best, time.perf_counter() - began)
    return 2e-9 * lanes * _SUMS * _STEPS * portions / best
