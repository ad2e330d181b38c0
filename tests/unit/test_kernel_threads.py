from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from convsmith.kernel import pool_code as pool_code_module
from convsmith.kernel.emit import Unit
from convsmith.kernel.machine import compiled
from convsmith.kernel.pool_code import CORES, POOL_WORDS, pool_code
from convsmith.kernel.target import host
from convsmith.kernel.threads import Program, run
from convsmith.parallel import set_threads, threads

ITEMS = 200


def _count(unit: Unit) -> None:
    """Adds 1 to the item's own element, and its number to the worker's."""
    with unit.kernel("count") as code:
        own = code.pointer(0).at(code.item)
        own.store(own.load() + 1.0)
        worker = code.pointer(1).at(code.worker * 32)
        worker.store(worker.load() + 1.0)


class Counter:
    def __init__(self, phases: int = 3) -> None:
        self.items = np.zeros(ITEMS, np.float32)
        self.workers = np.zeros(64 * 32, np.float32)
        self.arguments = np.array([self.items.ctypes.data, self.workers.ctypes.data])
        code = compiled("test count", host(), ("count",), _count)
        phase = (code.address("count"), self.arguments.ctypes.data, ITEMS)
        self.program = Program([phase] * phases)


@pytest.mark.parametrize("members", [1, 2, 3, 4, 9])
def test_every_item_of_every_phase_runs_once(members: int) -> None:
    counter = Counter()
    for _ in range(50):
        run(counter.program, members)
    assert set(counter.items) == {150.0}
    assert counter.workers.sum() == 150 * ITEMS
    assert not counter.workers.reshape(-1, 32)[members:].any()


def test_phases_run_in_order() -> None:
    """Each phase doubles what the one before left; a phase that overtook would be seen."""

    def write(unit: Unit) -> None:
        with unit.kernel("add") as code:
            own = code.pointer(0).at(code.item)
            own.store(own.load() + 1.0)
        with unit.kernel("scale") as code:
            # Reads what other items of the phase before wrote.
            other = code.pointer(0).load(1, (code.item + 7) % ITEMS)
            code.pointer(1).store(other * 2.0, code.item)
        with unit.kernel("back") as code:
            code.pointer(0).store(code.pointer(1).load(1, (code.item + 13) % ITEMS), code.item)

    code = compiled("test order", host(), ("add", "scale", "back"), write)
    x, y = np.zeros(ITEMS, np.float32), np.zeros(ITEMS, np.float32)
    arguments = np.array([x.ctypes.data, y.ctypes.data])
    program = Program(
        [(code.address(name), arguments.ctypes.data, ITEMS) for name in ("add", "scale", "back")]
    )
    expected = 0.0
    for _ in range(20):
        run(program, 4)
        expected = 2 * (expected + 1)
        assert set(x) == {np.float32(expected)}


def test_a_program_without_phases_or_items_returns() -> None:
    run(Program([]), 4)
    counter = Counter()
    code = compiled("test count", host(), ("count",), _count)
    run(Program([(code.address("count"), counter.arguments.ctypes.data, 0)]), 4)
    assert not counter.items.any()


def test_python_threads_at_once_do_not_disturb_each_other() -> None:
    counters = [Counter() for _ in range(8)]

    def hammer(counter: Counter) -> None:
        for _ in range(100):
            run(counter.program, 4)

    hammering = [threading.Thread(target=hammer, args=(counter,)) for counter in counters]
    for thread in hammering:
        thread.start()
    for thread in hammering:
        thread.join()
    assert all(set(counter.items) == {300.0} for counter in counters)


def test_a_program_runs_after_the_workers_went_to_sleep() -> None:
    counter = Counter()
    for _ in range(5):
        run(counter.program, 4)
        time.sleep(0.02)
    assert set(counter.items) == {15.0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    code = (
        "import os, sys\n"
        "import numpy as np\n"
        "from convsmith import conv2d\n"
        "def work():\n"
        "    x = np.ones((1, 4, 20, 20), 'f4')\n"
        "    return float(conv2d(x, np.ones((4, 4, 3, 3), 'f4')).sum())\n"
        "first = work()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if work() == first else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert work() == first\n"
        "print('done')"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.stdout.strip() == "done", ran.stderr


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _apart(claimed: dict[int, int], worker: int, members: int) -> tuple[int, int]:
    """Lets a worker move away from the cores that others claim; returns where it was and is."""
    memory = np.zeros(POOL_WORDS, np.int64)
    memory[CORES:] = -1
    for member, core in claimed.items():
        memory[CORES + member] = core
    memory[pool_code_module._MEMBERS] = members
    move = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(pool_code().address("apart"))
    where = ctypes.CDLL(None).sched_getcpu
    before = where()
    move(memory.ctypes.data, worker)
    return before, int(memory[CORES + worker])


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system for a core")
def test_a_worker_moves_away_from_the_members_before_it() -> None:
    cores = _cores()
    if len(cores) < 2:
        pytest.skip("there is one core")
    try:
        for claimed in (cores[0], cores[-1]):
            os.sched_setaffinity(0, {claimed})  # this thread stands for the worker
            os.sched_setaffinity(0, cores)
            before, after = _apart({0: claimed, 2: claimed}, worker=1, members=3)
            assert before != claimed or after != claimed
            assert after in cores
            assert _cores() == cores, "it is free to go anywhere again"
        os.sched_setaffinity(0, {cores[0]})
        os.sched_setaffinity(0, cores)
        taken = dict(enumerate(cores[:-1]))
        last = {_apart(taken, worker=len(taken), members=len(cores))[1] for _ in range(3)}
        assert cores[-1] in last, "the only one that is free"
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system for a core")
def test_a_worker_stays_where_nothing_is_free_or_nobody_else_is() -> None:
    cores = _cores()
    everywhere = dict(enumerate(cores))
    _apart(everywhere, worker=len(cores), members=len(cores) + 1)
    assert _cores() == cores
    try:
        os.sched_setaffinity(0, {cores[0]})
        before, after = _apart({0: cores[0]}, worker=1, members=2)
        assert before == after == cores[0]
        assert _cores() == [cores[0]], "no core that this thread was not granted"
        later = dict.fromkeys((2, 3), cores[0])
        assert _apart(later, worker=1, members=4)[1] == cores[0], "those move themselves"
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system for a core")
def test_programs_run_where_all_members_share_one_core() -> None:
    code = (
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from tests.unit.test_kernel_threads import Counter, run\n"
        "for _ in range(200):\n"
        "    counter = Counter()\n"
        "    run(counter.program, 4)\n"
        "    assert (counter.items == 3).all()\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def test_the_number_of_threads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSMITH_THREADS", "2")
    counter = Counter()
    run(counter.program)
    assert not counter.workers.reshape(-1, 32)[2:].any()
    set_threads(1)
    try:
        assert threads() == 1
        counter = Counter()
        run(counter.program)
        assert not counter.workers.reshape(-1, 32)[1:].any()
    finally:
        set_threads(None)
    assert threads() == 2


def test_the_oracle_can_fail() -> None:
    """A kernel that runs an item twice is caught by the count."""

    def write(unit: Unit) -> None:
        with unit.kernel("twice") as code:
            for _ in code.range(2):
                own = code.pointer(0).at(code.item)
                own.store(own.load() + 1.0)

    code = compiled("test twice", host(), ("twice",), write)
    x = np.zeros(ITEMS, np.float32)
    arguments = np.array([x.ctypes.data])
    run(Program([(code.address("twice"), arguments.ctypes.data, ITEMS)]), 2)
    assert set(x) != {1.0}
    assert ctypes.sizeof(ctypes.c_void_p) == 8
