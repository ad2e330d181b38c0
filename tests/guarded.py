"""Runs convolutions whose buffers lie against pages that may not be touched.

``python -m tests.guarded ALGORITHM COUNT``, at all vector widths in turn: x, y,
 the packed weights, the bias, the
residual and the workspace end, and in a second round begin, at a page without any permission. A
kernel that reads or writes one element too far ends the process with a segmentation fault; the
last line printed says of which convolution.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, given, settings
from tests.random_convolutions import data_for, error_of, specs_for

from convsmith.conv import plan as planning
from convsmith.conv.plan import ConvPlan, candidates
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import WIDTHS, host

Array = npt.NDArray[Any]

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Arrays with a forbidden page before and behind their pages."""

    def __init__(self) -> None:
        self._maps: list[tuple[mmap.mmap, int, int]] = []

    def empty(self, shape: tuple[int, ...], *, at_end: bool) -> Array:
        """Returns float32 of a shape, ended or begun by a forbidden page."""
        size = 4 * int(np.prod(shape))
        pages = max(1, -(-size // PAGE))
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (first, first + (pages + 1) * PAGE):
            self._protect(page, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0)
        self._maps.append((memory, first, first + (pages + 1) * PAGE))
        offset = PAGE + (pages * PAGE - size if at_end else 0)
        return np.frombuffer(memory, np.float32, size // 4, offset).reshape(shape)

    def copy(self, array: Array, *, at_end: bool) -> Array:
        """Returns a copy between forbidden pages."""
        made = self.empty(array.shape, at_end=at_end)
        made[...] = array
        return made

    def release(self) -> None:
        """Allows everything again; the memory goes when nobody holds it."""
        for _, before, behind in self._maps:
            for page in (before, behind):
                self._protect(page, mmap.PROT_READ | mmap.PROT_WRITE)
        self._maps.clear()

    @staticmethod
    def _protect(page: int, allowed: int) -> None:
        if _libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), allowed):
            raise OSError(ctypes.get_errno(), "mprotect")


@contextmanager
def workspace_between(guarded: Guarded, *, at_end: bool) -> Iterator[None]:
    """Gives every run a workspace of just the size that it asks for, filled with NaN."""
    original = planning._workspace

    def exact(elements: int) -> Array:
        # A workspace starts on a cache line, so the forbidden page is up to 15 elements away.
        rounded = -(-elements // 16) * 16
        made = guarded.empty((rounded,), at_end=at_end)[:elements]
        made.fill(np.nan)
        return made

    planning._workspace = exact
    try:
        yield
    finally:
        planning._workspace = original


def run(plan: ConvPlan) -> None:
    """Runs a plan with every buffer at the end of its pages, and at the beginning."""
    data = data_for(plan.spec)
    for at_end in (True, False):
        guarded = Guarded()

        def put(array: Array | None) -> Array | None:
            return None if array is None else guarded.copy(array, at_end=at_end)  # noqa: B023

        prepared = plan.prepare(data.weights, data.bias)
        prepared._weights = guarded.copy(prepared._weights, at_end=at_end)
        prepared._bias = guarded.copy(prepared._bias, at_end=at_end)
        prepared._addresses = (prepared._weights.ctypes.data, prepared._bias.ctypes.data)
        x, residual = put(data.x), put(data.residual)
        out = guarded.empty(plan.spec.output_shape, at_end=at_end)
        out.fill(np.nan)
        assert x is not None
        with workspace_between(guarded, at_end=at_end):
            prepared(x, out, residual=residual, members=1)
            assert error_of(plan, data, out) <= 1, plan
            prepared(x, out, residual=residual, members=3)
        guarded.release()


def one_too_far(offset: int) -> None:
    """Reads one element outside: what the guard has to notice."""
    guarded = Guarded()
    array = guarded.empty((10,), at_end=offset >= 0)
    place = array.ctypes.data + (40 if offset >= 0 else -4)
    ctypes.c_float.from_address(place).value  # noqa: B018


def main(algorithm: str, count: int) -> None:
    """Runs random convolutions."""
    done = 0

    @settings(
        derandomize=True,
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(spec=specs_for(algorithm))
    def each(spec: ConvSpec) -> None:
        nonlocal done
        target = host().with_lanes(WIDTHS[done % len(WIDTHS)])
        possible = [p for p in candidates(spec, target=target) if p.algorithm == algorithm]
        if not possible or not spec.batch:
            return
        plan = possible[done // len(WIDTHS) % len(possible)]
        print(f"{plan.algorithm} {plan.tiling} lanes {target.lanes} of {plan.spec!r}", flush=True)  # noqa: T201
        run(plan)
        done += 1

    each()
    print(f"done {done}", flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "one-too-far":
        one_too_far(int(sys.argv[2]))
    else:
        main(sys.argv[1], int(sys.argv[2]))
