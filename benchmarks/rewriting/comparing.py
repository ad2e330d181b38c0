"""The runs: every method at every budget and seed, then at equal measured time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.rewriting.chains import Unreachable
from benchmarks.rewriting.measuring import as_graph, macs, metric, time_shares
from benchmarks.rewriting.methods import Method, Prepared, Setting
from benchmarks.rewriting.tasks import Images, Task

from convsmith.graph import Graph

__all__ = ["Row", "compare"]

Kind = Literal["macs", "time"]
STEP = 0.025
CHEAPEST = 0.1
"""Shares of the multiplications between which equal time is searched for, and how finely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One network that one method made.

    Attributes:
        task: Name of the network.
        method: In the tables.
        version: Of the package that did it.
        kind: What the budget is a share of.
        budget: The share.
        seed: Of the calibration images.
        share: Of the multiply-accumulates that are left, exactly; ``None`` if the method cannot.
        before: The metric of the original on the test images.
        after: Of the rewritten network.
        time: Its time over the original's, in ONNX Runtime.
        seconds: That making it took, without what serves all budgets.
    """

    task: str
    method: str
    version: str
    kind: Kind
    budget: float
    seed: int
    share: float | None = None
    before: float
    after: float | None = None
    time: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """What the rows of one network and one seed have in common."""

    task: Task
    seed: int
    test: Images
    original: Graph
    before: float
    threads: int
    seconds: float

    def made(
        self, kind: Kind, share: float, prepared: Mapping[str, Prepared]
    ) -> tuple[dict[str, Graph], dict[str, float]]:
        """The networks of the methods that have one, and the seconds each took."""
        nets, spent = {}, {}
        for key, ready in prepared.items():
            begin = time.perf_counter()
            try:
                nets[key] = ready.at(share) if kind == "macs" else _as_fast(ready, share, self)
            except Unreachable as reason:
                _say(f"{key}: {reason}")
            spent[key] = time.perf_counter() - begin
        return nets, spent

    def rows(
        self,
        kind: Kind,
        budget: float,
        methods: Mapping[str, Method],
        nets: Mapping[str, Graph],
        spent: Mapping[str, float],
    ) -> Iterator[Row]:
        """Counts, scores and times networks that belong side by side."""
        total = macs(self.original)
        times = time_shares(self.original, nets, self.task, self.seconds, self.threads)
        for key, method in methods.items():
            net = nets.get(key)
            yield Row(
                task=self.task.name,
                method=method.name,
                version=method.version(),
                kind=kind,
                budget=budget,
                seed=self.seed,
                share=None if net is None else macs(net) / total,
                before=self.before,
                after=None if net is None else metric(net, self.task, self.test, self.threads),
                time=times.get(key),
                seconds=spent.get(key, 0.0),
            )


def compare(
    task: Task,
    methods: Mapping[str, Method],
    seeds: Sequence[int],
    *,
    budgets: Sequence[float],
    times: Sequence[float],
    threads: int,
    seconds: float,
) -> Iterator[Row]:
    """Yields the rows of one network as they are measured.

    Args:
        task: The network.
        methods: Those that can run here.
        seeds: Of the calibration images.
        budgets: Shares of the multiply-accumulates.
        times: Shares of the measured time.
        threads: For everything.
        seconds: Of measuring, for each network.
    """
    asked: tuple[tuple[Kind, Sequence[float]], ...] = (("macs", budgets), ("time", times))
    original = as_graph(task.module, task)
    before = metric(original, task, task.test, threads)
    for seed in seeds:
        fit, tune = task.split(seed)
        setting = Setting(task=task, fit=fit, tune=tune, threads=threads)
        run = _Run(
            task=task,
            seed=seed,
            test=task.test,
            original=original,
            before=before,
            threads=threads,
            seconds=seconds,
        )
        prepared: dict[str, Prepared] = {}
        for key, method in methods.items():
            begin = time.perf_counter()
            prepared[key] = method.prepare(setting)
            _say(f"{task.name} seed {seed}: {method.name} prepared", begin)
        for kind, shares in asked:
            for share in shares:
                nets, spent = run.made(kind, share, prepared)
                yield from run.rows(kind, share, methods, nets, spent)
                _say(f"{task.name} seed {seed}: {kind} {share:.0%}")


def _as_fast(ready: Prepared, budget: float, run: _Run) -> Graph:
    """The network of the most multiplications whose measured time fits, by bisection.

    Raises:
        Unreachable: If none does.
    """
    low, high = round(CHEAPEST / STEP), round(1 / STEP)  # high: the original, too slow

    def fits(step: int) -> bool:
        share = round(step * STEP, 3)
        if share not in ready.times:
            try:
                nets = {"made": ready.to_time(share)}
            except Unreachable:
                return True  # too cheap for the method: look above
            times = time_shares(run.original, nets, run.task, run.seconds, run.threads)
            ready.times[share] = times["made"]
        return ready.times[share] <= budget

    if not fits(low):
        raise Unreachable(f"takes more than {budget:.0%} of the time at every setting")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return ready.at(round(low * STEP, 3))


def _say(text: str, begin: float | None = None) -> None:
    took = "" if begin is None else f" in {time.perf_counter() - begin:.0f} s"
    print(text + took, file=sys.stderr, flush=True)
