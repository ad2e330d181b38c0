"""``convsmith analyze --by``: sums by module and operator from the command line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from convsmith.analysis import analyze
from convsmith.cli.running import run
from convsmith.sources import load

NETWORK = "zoo:resnet18"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def ran(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def test_by_layer_is_the_default(command: Command) -> None:
    plain = command("analyze", NETWORK)
    assert plain[0] == 0
    assert command("analyze", NETWORK, "--by", "layer") == plain


def test_json_is_what_python_returns(command: Command) -> None:
    analysis = analyze(load(NETWORK))
    for options, view in (
        (["--by", "module"], analysis.by_module()),
        (["--by", "module", "--depth", "1"], analysis.by_module(1)),
        (["--depth", "2"], analysis.by_module(2)),
        (["--by", "operator"], analysis.by_operator()),
    ):
        code, out, err = command("analyze", NETWORK, *options, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out) == view.to_dict()


@pytest.mark.parametrize(
    ("form", "start"),
    [("csv", "name,level,layers,"), ("markdown", "| module |"), ("html", "<!doctype html>")],
)
def test_other_forms(command: Command, form: str, start: str) -> None:
    code, out, _ = command("analyze", NETWORK, "--by", "module", "--format", form)
    assert code == 0
    assert out.startswith(start)


def test_the_csv_has_one_line_a_group(command: Command) -> None:
    _, out, _ = command("analyze", NETWORK, "--by", "operator", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0]["name"] == "conv"
    assert sum(int(row["macs"]) for row in rows) == 1_814_073_344
    assert float(rows[0]["share_macs"]) + float(rows[-1]["share_macs"]) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "operator", "--depth", "2"], "--depth has no meaning with --by operator; leave"),
        (["--by", "layer", "--depth", "2"], "--depth has no meaning with --by layer; leave"),
        (["--symbolic", "--by", "module"], "--symbolic counts layer by layer, exactly; leave out"),
        (["--symbolic", "--convention", "thop"], "--symbolic counts layer by layer, exactly"),
        (
            ["--convention", "thpo"],
            "convention: there is no convention 'thpo'; did you mean 'thop'",
        ),
        (["--by", "color"], "Invalid value for '--by'"),
        (["--depth", "0"], "Invalid value for '--depth'"),
    ],
)
def test_options_that_make_no_sense(command: Command, options: list[str], message: str) -> None:
    code, out, err = command("analyze", NETWORK, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"convsmith: {message}")


def test_what_is_not_counted_is_said_in_every_view(command: Command, tmp_path: Path) -> None:
    source = "3@8 > unsupported Foo 8@8 > conv 4 1"
    for by in ("module", "operator"):
        code, out, err = command("analyze", source, "--by", by, "--strict")
        assert code == 1
        assert "not counted (?): unsupported1" in out
        assert "unsupported1 (Foo)" in err
    file = tmp_path / "a.html"
    assert command("analyze", source, "--by", "module", "-o", str(file))[0] == 0
    assert "unsupported1" in file.read_text(encoding="utf-8")


def test_a_convention_is_named_wherever_it_counts(command: Command) -> None:
    for options in ([], ["--by", "module"], ["--by", "operator"]):
        code, out, _ = command("analyze", NETWORK, "--convention", "thop", *options)
        assert code == 0
        assert "counted as thop" in out
        code, out, _ = command("analyze", NETWORK, "--convention", "thop", *options, "--json")
        data = json.loads(out)
        assert data["convention"] == "thop"
        assert data["total"]["macs"] > 1_814_073_344  # thop counts normalization too
