"""Nothing outside of the buffers is read or written, and nobody disturbs anybody.

``CONVSMITH_CONV_EXAMPLES`` sets how many convolutions each algorithm is tried on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.random_convolutions import data_for, error_of

from convsmith.conv import plan as planning
from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.plan import Prepared, candidates
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import WIDTHS

EXAMPLES = int(os.environ.get("CONVSMITH_CONV_EXAMPLES", "8"))
REPOSITORY = Path(__file__).parents[2]

guarded_pages = pytest.mark.skipif(
    sys.platform == "win32", reason="pages are forbidden through mprotect"
)


def program(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@guarded_pages
@pytest.mark.parametrize("part", range(3))
def test_no_kernel_touches_what_lies_around_its_buffers(part: int) -> None:
    algorithms = sorted(ALGORITHMS)[part::3]  # some per process: a start takes as long as one
    ran = program("tests.guarded", 2 * EXAMPLES, *algorithms)
    lines = ran.stdout.splitlines() or [""]
    if ran.returncode < 0:
        pytest.fail(f"signal {-ran.returncode}: outside of a buffer in {lines[-1]}")
    assert ran.returncode == 0, f"{lines[-1]}\n{ran.stderr[-4000:]}"
    done = dict(line.split()[1:] for line in lines if line.startswith("done "))
    assert list(done) == algorithms
    assert all(int(count) >= len(WIDTHS) for count in done.values()), done


@guarded_pages
@pytest.mark.parametrize("offset", [1, -1])
def test_one_element_too_far_ends_the_process(offset: int) -> None:
    assert program("tests.forbidden_pages", offset).returncode < 0


MANY = (
    ConvSpec(size=(14, 15), channels=16, filters=24, kernel=(3, 3), padding=((1, 1), (1, 1))),
    ConvSpec(size=(20, 9), channels=12, filters=12, kernel=(3, 3), groups=12, activation="relu"),
    ConvSpec(size=(13, 13), channels=33, filters=17, kernel=(1, 1), layout="channels_last"),
    ConvSpec(size=(40,), channels=8, filters=8, kernel=(5,), stride=(2,), residual=True),
)


def test_eight_threads_run_different_and_the_same_plans_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "workspace_poison", float("nan"))
    work: list[tuple[Prepared, tuple[np.ndarray, np.ndarray | None], bytes]] = []
    for spec in MANY:
        data = data_for(spec)
        for made in candidates(spec):
            prepared = made.prepare(data.weights, data.bias)
            y = prepared(data.x, residual=data.residual, members=1)
            assert error_of(made, data, y) <= 1
            work.append((prepared, (data.x, data.residual), y.tobytes()))
    wrong: list[str] = []
    began = threading.Barrier(8)

    def hammer(number: int) -> None:
        began.wait()
        for turn in range(60):
            # Odd threads share their plans with all; even ones have one of their own for a while.
            at = turn * (1 + number % 2) + number * (1 - number % 2)
            prepared, (x, residual), wanted = work[at % len(work)]
            if prepared(x, residual=residual).tobytes() != wanted:
                wrong.append(repr(prepared.plan))

    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


def test_a_batch_that_changes_from_run_to_run() -> None:
    spec = MANY[0].with_batch(5)
    data = data_for(spec)
    for made in candidates(spec):
        prepared = made.prepare(data.weights, data.bias)
        whole = prepared(data.x)
        for batch in (1, 5, 0, 2, 1):
            assert prepared(data.x[:batch]).tobytes() == whole[:batch].tobytes(), made


def test_residual_and_result_may_be_the_same_memory() -> None:
    spec = ConvSpec(
        size=(9, 17), channels=5, filters=20, kernel=(3, 3), padding=((1, 1), (1, 1)),
        residual=True, activation="relu",
    )  # fmt: skip
    data = data_for(spec)
    assert data.residual is not None
    for made in candidates(spec):
        prepared = made.prepare(data.weights, data.bias)
        wanted = prepared(data.x, residual=data.residual)
        out = data.residual.copy()
        prepared(data.x, out, residual=out)
        assert out.tobytes() == wanted.tobytes(), made
