"""Budgets in a test suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from convsmith.analysis import analyze
from convsmith.errors import SourceError, UsageError
from convsmith.graph import parse
from convsmith.testing import UPDATE, assert_within_budget

OLD = "64@28 > conv 64 5 p2 > relu"
NEW = "64@28 > conv 64 3 p1 > relu"


@pytest.fixture(autouse=True)
def no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(UPDATE, raising=False)


def test_what_is_within_its_budget_passes() -> None:
    result = assert_within_budget(NEW, OLD, macs="-50%", params="+0%", peak_memory="1MiB")
    assert result is not None
    assert [change.name for change in result.changes] == ["conv1"]


def test_what_is_not_fails_with_everything_that_is_wrong() -> None:
    with pytest.raises(AssertionError) as failed:
        assert_within_budget(OLD, NEW, macs="+2%", params="1k", same_field=True)
    message = str(failed.value).splitlines()
    assert message[:4] == [
        (
            "80,281,600 multiply-accumulates exceed the budget of 29,479,403"
            " (+2% against 28,901,376) by 50,802,197"
        ),
        "102,464 parameters exceed the budget of 1,000 by 101,464",
        "output y does not see the same of the input as before",
        "",
    ]
    assert any("conv 64 3 p1 -> conv 64 5 p2" in line for line in message)


def test_modules_and_saved_files(tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    with pytest.raises(SourceError, match=r"model\.json: there is no such file; write it with"):
        assert_within_budget(module, file, input=(1, 3, 8, 8), macs="+0%")
    file.write_text(analyze(parse("3@8 > conv 8 3 > relu")).to_json(), encoding="utf-8")
    for baseline in (file, str(file)):
        result = assert_within_budget(module, baseline, input=(1, 3, 8, 8), macs="+0%")
        assert result is not None
        assert all(change.status == "renamed" for change in result.changes)
    larger = nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU())
    with pytest.raises(AssertionError, match="exceed the budget"):
        assert_within_budget(larger, file, input=(1, 3, 8, 8), macs="+0%")


def test_a_baseline_is_written_when_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.json"
    monkeypatch.setenv(UPDATE, "1")
    for network in (NEW, OLD):
        result = assert_within_budget(network, file, macs="+0%")
        assert result is not None
        assert result.changes == ()
    monkeypatch.delenv(UPDATE)
    assert_within_budget(OLD, file, macs="+0%")
    with pytest.raises(AssertionError):
        assert_within_budget(OLD, file, macs="-1%")


def test_absolute_budgets_need_no_baseline() -> None:
    assert assert_within_budget(NEW, macs="30M", weight_bytes=150_000) is None
    with pytest.raises(AssertionError, match=r"^28,901,376 multiply-accumulates exceed the budget"):
        assert_within_budget(NEW, macs="20M")


def test_what_is_not_counted_fails_unless_that_is_allowed() -> None:
    unknown = parse("3@8 > unsupported Foo 3@8")
    with pytest.raises(AssertionError, match=r"the costs of unsupported1 \(Foo\) are not known"):
        assert_within_budget(unknown, macs="1G")
    assert assert_within_budget(unknown, macs="1G", strict=False) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"there is no budget to keep to; give one, such as macs='\+2%'"),
        ({"same_field": True}, "same_field needs a network to compare with"),
        ({"macs": "+2%"}, r"macs: \+2% needs a network to compare with"),
        ({"macs": "two"}, "macs: 'two' is no budget"),
    ],
)
def test_budgets_that_make_no_sense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assert_within_budget(NEW, **arguments)  # type: ignore[arg-type]
