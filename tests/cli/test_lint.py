"""``convsmith lint`` and ``convsmith rule`` as a whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import convsmith as cs
from convsmith.cli.running import run
from convsmith.linting import Rules

NET = "3@8 > conv 4 3 > bn > relu > conv 4 1 p1 > bn > relu > relu"

Ran = tuple[int, str, str]
Command = Callable[..., Ran]


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def ran(*arguments: str) -> Ran:
        code = run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def found(out: str) -> list[tuple[str, str]]:
    return [(item["code"], item["layer"]) for item in json.loads(out)["findings"]]


def test_findings_are_exit_code_1_and_none_0(command: Command) -> None:
    code, out, err = command("lint", NET, "--json")
    assert (code, err) == (1, "")
    assert json.loads(out) == cs.lint(cs.load(NET)).to_dict()
    code, out, err = command("lint", "zoo:mobilenet_v2")
    assert (code, err) == (0, "")
    assert "no findings" in out


def test_rules_are_chosen(command: Command) -> None:
    assert found(command("lint", NET, "--json", "--select", "S301,S304")[1]) == [
        ("S301", "conv1"),
        ("S301", "conv2"),
        ("S304", "relu3"),
    ]
    code, out, _ = command("lint", NET, "--json", "--ignore", "S301,C", "--ignore", "S304")
    assert (code, found(out)) == (0, [])


def test_a_suppression_with_a_comma_in_its_reason(command: Command) -> None:
    cover = "S301@conv* # trained, long ago"
    code, out, _ = command("lint", NET, "--json", "--select", "S3,S9", "--ignore", cover)
    assert (code, found(out)) == (1, [("S304", "relu3")])
    assert {item["reason"] for item in json.loads(out)["suppressed"]} == {"trained, long ago"}


def test_objects_and_anchors(command: Command) -> None:
    arguments = ("lint", "3@64 > conv 8 3 p1", "--json", "--select", "S2")
    assert command(*arguments)[0] == 0
    assert found(command(*arguments, "--object", "3x4")[1]) == [("S201", "conv1")]
    assert found(command(*arguments, "--anchor", "conv1=4")[1]) == [("S202", "conv1")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "nonsense"], "there is no rule 'nonsense'"),
        (["--object", "0"], "--object: '0' is no size in pixels"),
        (["--object", "3x"], "--object: '' is no size in pixels"),
        (["--object", "1" * 5000], "--object: '1111"),
        (["--anchor", "conv1"], "--anchor: 'conv1' names no layer"),
        (["--anchor", "conv1=x"], "--anchor: 'x' is no size"),
        (["--anchor", "nowhere=3"], "the anchor of 'nowhere' belongs to no layer"),
        (["--config", "no.toml"], "no.toml: there is no such file"),
        (["--baseline", "no.json"], "no.json: there is no such file"),
        (["--format", "yaml"], "--format: there is no format 'yaml'; use text, json, csv"),
        (["--write-baseline", "no/x.json"], "no/x.json: the folder 'no' does not exist"),
    ],
)
def test_options_that_make_no_sense(command: Command, options: list[str], message: str) -> None:
    code, out, err = command("lint", NET, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"convsmith: {message}")


def test_the_settings_file_of_the_folder(command: Command, tmp_path: Path) -> None:
    (tmp_path / "convsmith-lint.toml").write_text(
        'select = ["S301", "S9"]\n[[suppress]]\nrule = "S301"\nlayer = "conv1"\nreason = "old"\n',
        encoding="utf-8",
    )
    code, out, err = command("lint", NET, "--json")
    assert (code, found(out)) == (1, [("S301", "conv2")])
    assert err == "convsmith: settings of convsmith-lint.toml\n"
    assert command("lint", NET, "--json", "--quiet")[2] == ""
    # The command line has the last word.
    assert found(command("lint", NET, "--json", "--select", "S304")[1]) == [("S304", "relu3")]


def test_a_baseline_from_start_to_end(command: Command) -> None:
    code, out, err = command("lint", NET, "--write-baseline", "known.json")
    assert (code, out, err) == (0, "", "convsmith: wrote known.json, 4 findings\n")
    assert command("lint", NET, "--baseline", "known.json")[0] == 0
    code, out, _ = command("lint", f"{NET} > relu", "--baseline", "known.json", "--json")
    assert (code, found(out)) == (1, [("S304", "relu4")])
    code, _, err = command("lint", NET, "--write-baseline", "known.json")
    assert code == 2
    assert "this file exists" in err
    assert command("lint", NET, "--write-baseline", "known.json", "--force")[0] == 0


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("text", "3@8 > conv"),
        ("csv", "severity,code,"),
        ("markdown", "**1 warning, 3 notes"),
        ("html", "<!doctype html>"),
        ("sarif", "{\n"),
        ("github", "::warning title=C004 padded-pointwise::conv2: "),
    ],
)
def test_every_format(command: Command, form: str, start: str) -> None:
    code, out, err = command("lint", NET, "--format", form)
    assert (code, err) == (1, "")
    assert out.startswith(start)
    assert out.endswith("\n")


def test_a_sarif_file(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("lint", NET, "-o", "found.sarif")
    assert (code, out) == (1, "")
    log = json.loads((tmp_path / "found.sarif").read_text(encoding="utf-8"))
    assert len(log["runs"][0]["results"]) == 4


def test_rule(command: Command) -> None:
    code, out, err = command("rule")
    assert (code, err) == (0, "")
    assert "S101  stride-skips-pixels" in out
    by_name, by_code = command("rule", "stride-skips-pixels"), command("rule", "s101")
    assert by_name == by_code
    assert by_name[1].startswith("S101 stride-skips-pixels\n")
    assert json.loads(command("rule", "S101", "--json")[1])["name"] == "stride-skips-pixels"
    assert command("rule", "S101", "--format", "markdown")[1].startswith("# S101 ")
    _, table, _ = command("rule", "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(table)))) == len(Rules().rules)
    (row,) = csv.DictReader(io.StringIO(command("rule", "S101", "--format", "csv")[1]))
    assert (row["name"], row["category"]) == ("stride-skips-pixels", "suspicious")
    assert "64@28 &gt; relu &gt; conv 128 1/2" in command("rule", "S101", "--format", "html")[1]


def test_a_rule_that_there_is_not(command: Command) -> None:
    code, out, err = command("rule", "stride-skips-pixel")
    assert (code, out) == (2, "")
    assert err == (
        "convsmith: there is no rule 'stride-skips-pixel'; did you mean 'stride-skips-pixels'?"
        " convsmith rule lists all.\n"
    )
