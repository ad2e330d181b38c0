"""Runs convolutions whose buffers lie against pages that may not be touched.

``python -m tests.guarded COUNT ALGORITHM...``, each algorithm on so many, at all vector widths in
turn: x, y, the packed weights, the bias, the residual and the workspace end, and in a second round
begin, at a page without any permission. A kernel that reads or writes one element too far ends the
process with a segmentation fault; the last line printed says of which convolution.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, given, settings
from tests.forbidden_pages import Guarded
from tests.random_convolutions import data_for, error_of, specs_for

from convsmith.conv import plan as planning
from convsmith.conv.plan import ConvPlan, candidates
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import WIDTHS, host

Array = npt.NDArray[Any]


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


def main(count: int, algorithm: str) -> None:
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
    print(f"done {algorithm} {done}", flush=True)  # noqa: T201


if __name__ == "__main__":
    for name in sys.argv[2:]:
        main(int(sys.argv[1]), name)
