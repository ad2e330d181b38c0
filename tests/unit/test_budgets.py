"""Budgets: how they are written, and what they allow."""

from __future__ import annotations

from fractions import Fraction

import pytest

from convsmith.analysis import analyze
from convsmith.analysis.baseline import Baseline
from convsmith.analysis.budgets import MEASURES, judge, read_budget
from convsmith.errors import UsageError
from convsmith.graph import parse


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ("+2%", 1020),
        ("+0%", 1000),
        ("-10%", 900),
        ("-100%", 0),
        ("+0.05%", Fraction("1000.5")),
        ("+250 %", 3500),
        ("+1k", 2000),
        ("-1", 999),
        ("+1.5Ki", 2536),
        ("4.1G", 4_100_000_000),
        (" 5 M ", 5_000_000),
        ("100MiB", 100 * 2**20),
        ("100MB", 10**8),
        ("1Ki", 1024),
        ("1K", 1000),
        ("1k", 1000),
        (".5T", 5 * 10**11),
        ("2P", 2 * 10**15),
        ("0", 0),
        (4096, 4096),
    ],
)
def test_what_is_allowed_against_a_thousand(limit: str | int, allowed: Fraction | int) -> None:
    assert read_budget("macs", limit).allowed(1000) == allowed


@pytest.mark.parametrize(
    ("limit", "remedy"),
    [
        ("2%", r"write \+2% or -2%\."),
        ("-101%", "nothing can lose more than 100 %"),
        ("", r"use \+2%, -10%, \+1M, 4\.1G or 100MiB"),
        ("+", "use"),
        ("nan", "use"),
        ("inf", "use"),
        ("1e9", "use"),
        ("1,000", "use"),
        ("4.1 G MACs", "use"),
        ("1m", "use"),
        ("+-2%", "use"),
        ("٣", "use"),
        ("9" * 5000, "use"),
        ("0x10", "use"),
        ("+2%%", "use"),
    ],
)
def test_what_is_no_budget(limit: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=rf"(?s)^macs: .{{1,60}} is no budget; .*{remedy}"):
        read_budget("macs", limit)


def test_an_unknown_measure_is_an_error_that_lists_them() -> None:
    with pytest.raises(
        UsageError, match=r"no budget for 'time'; it can be one of macs, params, fl"
    ):
        read_budget("time", "+2%")


OLD = Baseline.of(analyze(parse("8@10 > conv 10 1 nobias")))  # 8,000 MACs
NEW = Baseline.of(analyze(parse("8@10 > conv 11 1 nobias")))  # 8,800 MACs


@pytest.mark.parametrize(
    ("limit", "met"),
    [("+10%", True), ("+9.99%", False), ("8800", True), ("8799", False), ("+800", True),
     ("+799", False), ("-1%", False)],
)  # fmt: skip
def test_the_edge_of_a_budget_is_inside(limit: str, met: bool) -> None:
    (verdict,) = judge({"macs": limit}, NEW, OLD)
    assert verdict.met is met
    assert verdict.new == 8800


def test_a_verdict_is_one_sentence() -> None:
    (wrong, right) = judge({"macs": "+5%", "weight_bytes": "1KiB"}, NEW, OLD)
    assert str(wrong) == (
        "8,800 multiply-accumulates exceed the budget of 8,400 (+5% against 8,000) by 400"
    )
    assert str(right) == "352 bytes of weights keep to the budget of 1,024"
    assert wrong.to_dict() == {
        "measure": "macs",
        "limit": "+5%",
        "old": 8000,
        "new": 8800,
        "allowed": 8400,
        "met": False,
    }


def test_a_relative_budget_needs_another_network() -> None:
    with pytest.raises(
        UsageError, match=r"macs: \+2% needs a network to compare with; give a base"
    ):
        judge({"macs": "+2%"}, NEW)
    assert judge({"macs": "10k"}, NEW)[0].met


def test_every_measure_is_a_total() -> None:
    budgets = dict.fromkeys(MEASURES, "+0%")
    assert all(verdict.met for verdict in judge(budgets, OLD, OLD))
