"""Work over threads: how many, in which order, and with the same bits."""

from __future__ import annotations

import os
import time
from threading import Lock, current_thread
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from convsmith.graph import Constant, Graph, evaluate, parse
from convsmith.graph.compute import sliding
from convsmith.parallel import one_blas_thread, spread, threads


@pytest.mark.parametrize("wanted", ["1", "3", "17"])
def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv("CONVSMITH_THREADS", wanted)
    assert threads() == int(wanted)


@pytest.mark.parametrize("wanted", ["", "0", "-2", "many", "1.5", "³"])
def test_what_is_no_number_of_threads_is_ignored(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.delenv("CONVSMITH_THREADS", raising=False)
    usual = threads()
    assert 1 <= usual <= (os.cpu_count() or 1)
    monkeypatch.setenv("CONVSMITH_THREADS", wanted)
    assert threads() == usual


def test_one_thread_works_in_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSMITH_THREADS", "1")
    assert spread(lambda _: current_thread(), range(5)) == [current_thread()] * 5


@pytest.mark.parametrize("count", ["1", "4"])
def test_results_keep_their_order_and_errors_arrive(
    monkeypatch: pytest.MonkeyPatch, count: str
) -> None:
    monkeypatch.setenv("CONVSMITH_THREADS", count)
    assert spread(lambda x: x * x, range(100)) == [x * x for x in range(100)]
    assert spread(lambda x: x, []) == []
    with pytest.raises(ZeroDivisionError):
        spread(lambda x: 1 // (x - 50), range(100))


def blas_threads() -> list[int]:
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


def test_blas_keeps_to_one_thread_and_gets_its_own_back() -> None:
    before = blas_threads()
    assert before, "NumPy comes with a BLAS library"
    with one_blas_thread():
        with one_blas_thread():
            pass
        assert set(blas_threads()) == {1}
    assert blas_threads() == before
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError
    assert blas_threads() == before


def with_weights(line: str) -> Graph:
    """A network with random weights."""
    net = parse(line)
    random = np.random.default_rng(0)
    filled = {
        name: Constant.of(random.random(constant.shape).astype(np.float32))
        for name, constant in net.constants.items()
    }
    return Graph(inputs=net.inputs, nodes=net.nodes, outputs=net.outputs, constants=filled)


def test_work_spread_inside_work_shares_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSMITH_THREADS", "6")
    lock, running, most = Lock(), 0, 0

    def inner(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return item

    def outer(item: int) -> tuple[int, list[int]]:
        return threads(), spread(inner, range(8 * item, 8 * item + 8))

    found = spread(outer, range(3))
    assert [share for share, _ in found] == [2, 2, 2]
    assert [item for _, items in found for item in items] == list(range(24))
    assert most <= 6
    assert threads() == 6  # outside nothing has changed
    assert spread(outer, range(1))[0][0] == 6  # alone, it has all


def test_what_the_caller_set_for_itself_holds_in_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONVSMITH_THREADS", "2")
    with np.errstate(divide="ignore", invalid="raise"):
        states = spread(lambda _: np.geterr(), range(4))
    assert {(state["divide"], state["invalid"]) for state in states} == {("ignore", "raise")}


def test_one_and_four_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding, "_BLOCK_BYTES", 20_000)  # many blocks
    monkeypatch.setattr(evaluate, "BLOCK_BYTES", 1_000)  # one image at a time
    net = with_weights(
        "3@40 > conv 16 3 p1 > bn > relu > conv 16 5/2 p2 g4 > dw 3 p1 > gelu"
        " > [ conv 8 1x3 p0x1 | maxpool 3/1 p1 ] > deconv 8 4/2 p1 > conv 8 3 d2"
        " > gap > flatten > fc 10"
    )
    x = np.random.default_rng(1).normal(size=(3, 3, 40, 40)).astype(np.float32)
    results: list[dict[str, Any]] = []
    for count in ("1", "4"):
        monkeypatch.setenv("CONVSMITH_THREADS", count)
        results.append(evaluate.evaluate(net, {"x": x}))
    for name, one in results[0].items():
        assert one.tobytes() == results[1][name].tobytes(), name
