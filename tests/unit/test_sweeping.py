"""Several budgets at once: one table, one round of measurements, and what is said of each."""

from __future__ import annotations

import csv as csv_files
import io
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.cells import cell_len
from tests.random_weights import random_network

import convsmith as cs
from convsmith.errors import BudgetError, UsageError
from convsmith.graph import Graph
from convsmith.report import csv, html, markdown, text
from convsmith.rewrite import Calibration, Sweep, sweep, sweeping, task
from convsmith.rewrite.planning import table_of
from convsmith.rewrite.sweeping import read_budgets
from convsmith.runtime.timing import Timing

Array = npt.NDArray[Any]

NET = random_network("3@8 > conv 8 5 p2 > relu > conv 8 3 p1 > relu > gap > flatten > fc 4")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(16, 3, 8, 8)).astype(np.float32)
LABELS = RANDOM.integers(0, 4, 16)


@cache
def calibration() -> Calibration:
    return cs.calibrate(NET, [X])


def made(budgets: Any = (0.02, 0.4, 0.7, 1.0), **options: Any) -> Sweep:
    options = {"measure": (), "strategy": "fast", "calibration": calibration(), **options}
    return sweep(NET, budgets, **options)


@cache
def plain() -> Sweep:
    return made()


def fixed_times(monkeypatch: pytest.MonkeyPatch, *milliseconds: float) -> None:
    """Makes the original take 2 ms, and the others what is said, one after the other."""

    def measured(nets: Mapping[str, Graph], *_: object, **options: Any) -> Any:
        times = (2.0, *milliseconds)
        return {
            name: {
                runtime: Timing(
                    samples=(time,) * 3, engine=runtime, version="1", threads=1, shapes={}
                )
                for runtime in options["runtimes"]
            }
            for name, time in zip(nets, times, strict=True)
        }

    monkeypatch.setattr(sweeping, "networks", measured)


def test_every_budget_is_kept() -> None:
    found = plain()
    assert [point.budget for point in found.points] == [0.02, 0.4, 0.7, 1.0]
    for point in found.reached:
        assert point.rewriting is not None
        assert point.rewriting.after.macs <= point.budget * found.before.macs
        assert point.rewriting.after.macs == cs.analyze(point.rewriting.net).total.macs


def test_a_point_is_what_a_rewrite_of_that_budget_makes() -> None:
    alone = cs.rewrite(NET, macs=0.4, calibration=calibration(), strategy="fast")
    point = plain().at(0.4)
    assert point.rewriting is not None
    assert point.rewriting.plan == alone.plan
    assert point.verification is not None
    assert alone.verification is not None
    assert point.verification.outputs == alone.verification.outputs


def test_the_table_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = table_of

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(task, "table_of", counted)
    made()
    assert len(calls) == 1


def test_a_budget_that_cannot_be_met_does_not_stop_the_others() -> None:
    found = plain()
    assert found.points[0].rewriting is None
    assert "cannot be met" in found.points[0].refusal
    assert [point.budget for point in found.reached] == [0.4, 0.7, 1.0]
    with pytest.raises(BudgetError, match="cannot be met"):
        found.at(0.02)
    with pytest.raises(UsageError, match=r"0.5 was not tried; choose from 0.02, 0.4, 0.7, 1"):
        found.at(0.5)


def test_if_none_can_be_met_that_is_an_error() -> None:
    with pytest.raises(BudgetError, match="cannot be met"):
        made([0.01, 0.02])


def test_a_budget_that_pays_for_all_needs_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "table_of", None)
    (point,) = made([1.0]).points
    assert point.rewriting is not None
    assert point.rewriting.net is NET


def test_parameters_can_be_the_currency() -> None:
    found = made([0.5], currency="params")
    (point,) = found.points
    assert point.rewriting is not None
    assert point.rewriting.after.params <= 0.5 * found.before.params


def test_what_is_not_faster_is_never_called_better(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_times(monkeypatch, 3.0, 1.0, 2.0)
    found = made(measure=["convsmith"])
    assert [point.faster for point in found.points] == [None, False, True, False]
    assert [point.frontier for point in found.points] == [False, False, True, False]
    shown = text(found, width=120)
    assert [line.split()[-2:] for line in shown.splitlines() if line.startswith("0.4 ")] == [
        ["not", "faster"]
    ]
    assert "no improvement there: 0.4 (" in shown
    assert "2.00x" in shown
    slow = found.points[1].rewriting
    assert slow is not None
    assert "it is not faster in convsmith (0.67x)" in " ".join(slow.notes)


def test_the_frontier_leaves_out_what_another_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.7 loses less than 0.4 and is as fast here: 0.4 is not worth having.
    fixed_times(monkeypatch, 1.0, 1.0, 2.0)
    found = made(measure=["convsmith"])
    assert [point.frontier for point in found.points] == [False, False, True, False]


def test_without_times_shares_of_the_currency_are_the_cost() -> None:
    assert [point.frontier for point in plain().points] == [False, True, True, False]


def test_all_networks_are_measured_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convsmith.runtime.timing.MOST_ROUNDS", 3)
    found = made([0.4, 0.7], measure=["convsmith"])
    one, two = (p.rewriting for p in found.reached)
    assert one is not None
    assert two is not None
    assert one.timings["convsmith"]["before"] is two.timings["convsmith"]["before"]
    assert one.timings["convsmith"]["after"].runs == 3


@pytest.mark.parametrize("once", [False, True])
def test_batches_of_the_caller_verify_every_point(once: bool) -> None:
    def batches() -> Iterator[Any]:
        yield X[:8], LABELS[:8]
        yield X[8:], LABELS[8:]

    given = batches() if once else list(batches())
    found = made(batches=given, metric="accuracy", data="of a test")
    assert found.data == "16 images (of a test)"
    for point in found.reached:
        assert point.rewriting is not None
        alone = cs.verify(NET, point.rewriting.net, [(X, LABELS)], metric="accuracy")
        assert point.verification is not None
        assert point.verification.metric == alone.metric


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("0.3:0.9", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        ("0.25:1:4", (0.25, 0.5, 0.75, 1.0)),
        ([0.5, 0.5, 0.1], (0.1, 0.5)),
        ((1000, 2000.0), (1000.0, 2000.0)),
    ],
)
def test_ranges(given: Any, wanted: tuple[float, ...]) -> None:
    assert read_budgets(given) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0.3", "'0.3' is no range of budgets"),
        ("0.9:0.3", "'0.9:0.3' is no range"),
        ("a:b", "'a:b' is no range"),
        ("0.3:0.9:1", "is no range"),
        ("0.3:0.9:1000", "is no range"),
        ("0.3:0.9:3:4", "is no range"),
        ("0.3:inf", "is no range"),
        ("-1:0.5", "'-1:0.5' is no range"),
        ([0.0], "0 is no budget"),
        ([float("nan")], "nan is no budget"),
        ([], "0 budgets make no sweep"),
    ],
)
def test_what_is_no_range_is_named(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_budgets(given)
    assert message in str(raised.value)


def test_other_currencies_there_are_not() -> None:
    with pytest.raises(UsageError, match="there is no currency 'flops'; choose macs, params, la"):
        made(currency="flops")


# Reports --------------------------------------------------------------------------


def test_the_result_is_json() -> None:
    content = json.loads(plain().to_json())
    assert content["schema"] == "convsmith.sweep/1"
    assert [point["reached"] for point in content["points"]] == [False, True, True, True]
    assert content["points"][1]["plan"]["schema"].startswith("convsmith.plan/")
    assert content["points"][0]["macs"] is None


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits(width: int) -> None:
    found = made([0.4, 0.7], batches=[(X, LABELS)], metric="accuracy")
    shown = text(found, width=width)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert "accuracy" in shown


def test_rows_for_other_programs() -> None:
    rows = list(csv_files.DictReader(io.StringIO(csv(plain()))))
    assert [row["budget"] for row in rows] == ["0.02", "0.4", "0.7", "1.0"]
    assert rows[0]["macs"] == ""
    assert int(rows[1]["macs"]) <= 0.4 * plain().before.macs
    lines = markdown(plain()).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[3].count("|")
    assert "cannot be met" in lines[3]


def test_the_page_draws_the_points() -> None:
    page = html(plain())
    assert page.count("<circle") == 4  # the original and three budgets
    assert "cannot be met" in page
    assert "at most 40 % of the multiply-accumulates" in page
