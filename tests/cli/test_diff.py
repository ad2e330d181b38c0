"""``convsmith diff``: streams, budgets and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from convsmith.analysis import diff
from convsmith.cli.running import run
from convsmith.graph import parse

OLD = "64@28 > conv 64 5 p2 > relu > conv 8 1"
NEW = "64@28 > conv 64 3 p1 > relu > conv 8 1"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def ran(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def test_json_is_what_python_returns(command: Command) -> None:
    code, out, err = command("diff", OLD, NEW, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == diff(parse(OLD), parse(NEW)).to_dict()


def test_budgets_that_are_kept(command: Command) -> None:
    code, out, err = command("diff", OLD, NEW, "--max-macs", "-60%", "--max-params", "+0%")
    assert (code, err) == (0, "")
    assert "29,302,784 multiply-accumulates keep to the budget of 32,273,203 (-60%" in out


def test_every_budget_that_is_exceeded_has_its_line(command: Command) -> None:
    code, out, err = command(
        "diff", OLD, NEW, "--max-macs=-70%", "--max-weight-bytes", "100KiB", "--max-flops", "1G",
        "--max-peak-memory", "+0", "--same-field", "--quiet", "--format", "csv",
    )  # fmt: skip
    assert code == 1
    assert out.startswith("name,status,")
    assert err.splitlines() == [
        (
            "convsmith: 29,302,784 multiply-accumulates exceed the budget of 24,204,902"
            " (-70% against 80,683,008) by 5,097,882."
        ),
        "convsmith: 149,792 bytes of weights exceed the budget of 102,400 by 47,392.",
        "convsmith: output y does not see the same of the input as before.",
    ]


def test_a_saved_analysis_stands_for_its_network(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    assert command("analyze", OLD, "-o", str(file))[0] == 0
    code, out, _ = command("diff", str(file), NEW, "--json", "--max-macs", "+2%")
    assert code == 0
    live = json.loads(command("diff", OLD, NEW, "--json", "--max-macs", "+2%")[1])
    assert json.loads(out) == live
    assert command("diff", NEW, str(file), "--max-macs", "+2%")[0] == 1


@pytest.mark.parametrize(
    ("form", "start"),
    [("text", "old  64@28 >"), ("markdown", "**64@28 \\>"), ("html", "<!doctype html>")],
)
def test_other_forms(command: Command, form: str, start: str) -> None:
    code, out, _ = command("diff", OLD, NEW, "--format", form)
    assert code == 0
    assert out.startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([OLD], "Missing argument 'NEW'."),
        ([OLD, "nowhere.json"], "nowhere.json: there is no such file; write it with: convsmith"),
        ([OLD, NEW, "--max-macs", "2%"], "macs: '2%' is no budget; write +2% or -2%."),
        ([OLD, NEW, "--max-macs", "much"], "macs: 'much' is no budget; use +2%, -10%, +1M"),
        ([OLD, "3@4 > conv 8 9"], "conv1: kernel 9x9 does not fit input 4x4"),
    ],
)
def test_bad_usage(command: Command, arguments: list[str], message: str) -> None:
    code, out, err = command("diff", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"convsmith: {message}")


def test_what_is_not_counted_is_a_warning_or_a_finding(command: Command) -> None:
    unknown = "64@28 > unsupported Foo 64@28 > relu > conv 8 1"
    code, _, err = command("diff", OLD, unknown, "--json")
    assert code == 0
    assert "warning: not counted, and left out of the totals: unsupported1 (Unsupported, new" in err
    code, _, err = command("diff", OLD, unknown, "--strict", "--max-macs", "1", "--json")
    assert code == 1
    assert "exceed the budget of 1 " in err
    assert "error: not counted" in err


def test_it_may_be_compared_at_another_size(command: Command) -> None:
    code, out, _ = command("diff", "zoo:resnet18", "zoo:resnet18", "--input", "1,3,64,64", "--json")
    assert code == 0
    data = json.loads(out)
    assert (data["rows"], data["same"]) == ([], 69)
    assert data["total"]["macs"]["new"] < 1_814_073_344 / 10


def test_conventions(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    code, out, _ = command("diff", OLD, NEW, "--convention", "torchinfo", "--json")
    assert code == 0
    assert json.loads(out)["convention"] == "torchinfo"
    assert command("analyze", OLD, "-o", str(file))[0] == 0
    code, out, err = command("diff", str(file), NEW, "--convention", "torchinfo")
    assert (code, out) == (2, "")
    assert "counted as 'exact', the new one as 'torchinfo'; analyze both with the same" in err
