"""Findings and rules in every form: text, CSV, Markdown, HTML, SARIF and workflow commands."""

from __future__ import annotations

import csv as csv_files
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.cells import cell_len

from convsmith.analysis import analyze
from convsmith.errors import UsageError
from convsmith.graph import parse
from convsmith.linting import RULES, Finding, Findings, Rules, find_rule, lint
from convsmith.linting.findings import Entry, Suppressed
from convsmith.report import csv, html, markdown, render, text
from convsmith.report.as_data.lint_sarif import github, sarif

NET = "3@8 > conv 4 3 > bn > relu > conv 4 1 p1 > bn > relu > relu"

EVIL = 'a|b_c<script>alert(1)</script>\x1b[2J\n::error::x,y:z%0A"'


def finding(layer: str = "conv1", *, code: str = "S301", message: str = "m") -> Finding:
    rule = find_rule(code)
    return Finding(
        rule=rule.name,
        code=rule.code,
        severity=rule.severity,
        layer=layer,
        message=message,
        remedy=rule.remedy,
    )


def everything() -> Findings:
    """Findings with something in every field."""
    return replace(
        lint(parse(NET, source="models/my net.onnx"), anchors={"conv1": 4}),
        suppressed=(Suppressed(finding=finding("conv7"), reason="trained | so"),),
        baselined=(finding("conv8"),),
        fixed=(Entry("bias-before-batch-norm", "conv9", 2),),
    )


# Text -----------------------------------------------------------------------------

SHOWN = """\
models/my net.onnx
2 warnings, 3 notes; 32 rules checked

warning C004 padded-pointwise
  conv2  its kernel is 1 along axes 2 and 3 but padded by 1 and 1: 2 of 8
         outputs see no input.
  remedy: Take the padding of that axis away.

warning S202 anchor-mismatch
  conv1  it sees 3 pixels, its anchor is 4 wide.
  remedy: Attach the anchor to a layer of smaller stride or larger field, or
          change its size.

note S301 bias-before-batch-norm, 2 places
  conv1  bn1 subtracts its bias of 4 numbers again.
  conv2  bn2 subtracts its bias of 4 numbers again.
  remedy: Build the layer without a bias (bias=False).

note S304 activation-without-effect
  relu3  its input already lies between 0 and inf.
  remedy: Remove it.

not checked, because the network has no weights: C001, C002, S108, N301, N302,
N303, N304, N305, N306, N310
1 finding suppressed
1 finding known from the baseline
in the baseline, but gone: bias-before-batch-norm at conv9; write it again"""


def test_text_at_80_columns() -> None:
    assert text(everything(), width=80) == SHOWN


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_text_fits(width: int) -> None:
    found = replace(everything(), findings=(*everything().findings, finding("層" * 60)))
    for shown in (found, *RULES, Rules()):
        lines = text(shown, width=width).splitlines()
        assert max(map(cell_len, lines)) <= max(width, 48 if shown is not found else width)


def test_text_without_findings() -> None:
    shown = text(lint(parse("3@8 > conv 4 3 > relu"), select="S1"), width=80)
    assert "no findings; 7 rules checked" in shown


def test_many_places_are_cut_short() -> None:
    many = Findings(source="x", findings=tuple(finding(f"conv{i}") for i in range(40)))
    shown = text(many, width=80)
    assert "conv24" in shown
    assert "conv25" not in shown
    assert "and 15 more; --format json has all." in shown


def test_color_is_asked_for() -> None:
    assert "\x1b[" in text(everything(), width=80, color=True)
    assert "\x1b[" not in text(everything(), width=80)


# Names are not trusted ------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "markdown", "html", "sarif", "github"])
def test_names_cannot_break_out(form: str) -> None:
    found = Findings(source=EVIL, findings=(finding(EVIL, message=EVIL),), checked=("S301",))
    shown = render(found, form)
    assert "\x1b" not in shown
    match form:
        case "github":
            assert len(shown.splitlines()) == 1
            assert shown.startswith("::notice title=S301 bias-before-batch-norm::")
        case "markdown":
            assert len(shown.splitlines()) == 5
            assert "<script>" not in shown.replace(r"\<script\>", "")
        case "html":
            assert "<script>alert" not in shown
        case "sarif":
            json.loads(shown)


def test_csv_has_one_line_a_finding() -> None:
    found = Findings(source="", findings=(finding(EVIL, message=EVIL),))
    header, row = csv_files.reader(io.StringIO(csv(found)))
    assert header == ["severity", "code", "rule", "layer", "message", "remedy"]
    assert row[3] == row[4] == EVIL


def test_markdown() -> None:
    lines = markdown(everything()).splitlines()
    assert lines[0] == "**2 warnings, 3 notes; 32 rules checked**"
    assert lines[2].startswith("| severity | code |")
    assert sum(line.startswith("| note | S301 |") for line in lines) == 2
    assert all(line.count("|") == 7 for line in lines if line.startswith("| note"))


class _Page(HTMLParser):
    """Counts what is open and collects what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "rect", "br", "image", "circle", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "rect", "br", "image", "circle", "path"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def test_html_is_whole_and_says_everything() -> None:
    page = _Page()
    page.feed(html(everything()))
    assert page.open == []
    for said in (
        "my net.onnx",
        "S301 bias-before-batch-norm",
        "bn2 subtracts its bias of 4 numbers again.",
        "trained | so",
        "1 finding known from the baseline",
        "About this rule",
    ):
        assert said in page.said
    assert not re.search(r'(src|href)="http', html(everything()))


# SARIF ----------------------------------------------------------------------------


def required(value: Any, *keys: str) -> None:
    assert isinstance(value, dict)
    assert set(keys) <= set(value)


def test_sarif_has_what_the_standard_requires() -> None:
    # OASIS SARIF 2.1.0: the sections that say what each object shall have.
    log = json.loads(sarif(everything()))
    required(log, "version", "runs")  # 3.13.2, 3.13.4
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = log["runs"]
    required(run, "tool", "results")  # 3.14.6, 3.14.23
    driver = run["tool"]["driver"]  # 3.18.2
    required(driver, "name", "rules")
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        required(rule["shortDescription"], "text")
        required(rule["help"], "text", "markdown")
        assert rule["shortDescription"]["text"].endswith(".")
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    assert len(run["results"]) == 5 + 1 + 1
    for result in run["results"]:
        required(result, "message", "ruleId", "ruleIndex", "level", "locations")  # 3.27
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["message"]["text"]
        assert result["level"] in ("error", "warning", "note")
        (location,) = result["locations"]
        place = location["physicalLocation"]["artifactLocation"]
        assert place == {"uri": "models/my%20net.onnx", "index": 0}
        assert location["logicalLocations"][0]["fullyQualifiedName"]
        assert all(isinstance(mark, str) for mark in result["partialFingerprints"].values())
    assert [r.get("baselineState") for r in run["results"]] == [None] * 5 + ["unchanged", None]
    (cover,) = run["results"][-1]["suppressions"]  # 3.35
    assert cover == {"kind": "external", "status": "accepted", "justification": "trained | so"}
    assert run["artifacts"] == [{"location": {"uri": "models/my%20net.onnx"}}]


def test_sarif_of_a_network_that_is_no_file() -> None:
    (run,) = json.loads(sarif(lint(parse(NET))))["runs"]
    assert "artifacts" not in run
    assert all("physicalLocation" not in r["locations"][0] for r in run["results"])


def test_fingerprints_tell_layers_apart_and_stay() -> None:
    def marks(source: str) -> list[str]:
        (run,) = json.loads(sarif(lint(parse(source), select="S301")))["runs"]
        return [r["partialFingerprints"]["ruleAndLayer/v1"] for r in run["results"]]

    first, second = marks(NET)
    assert first != second
    assert marks(NET.replace("conv 4 3", "conv 8 3")) == [first, second]
    twice = Findings(source="", findings=(finding(), finding(message="n")))
    (run,) = json.loads(sarif(twice))["runs"]
    one, other = (r["partialFingerprints"]["ruleAndLayer/v1"] for r in run["results"])
    assert one == first
    assert other not in (first, second)


# GitHub ---------------------------------------------------------------------------


def test_workflow_commands() -> None:
    lines = github(everything()).splitlines()
    assert lines[0] == (
        "::warning file=models/my net.onnx,title=C004 padded-pointwise::conv2: its kernel is 1"
        " along axes 2 and 3 but padded by 1 and 1: 2 of 8 outputs see no input. Take the padding"
        " of that axis away."
    )
    assert [line.split(" ")[0] for line in lines] == ["::warning"] * 2 + ["::notice"] * 3
    assert github(lint(parse("3@8 > relu"), select="S1")) == ""
    percent = Findings(source="x", findings=(finding("a", message="50 % of it"),))
    assert "50 %25 of it" in github(percent)


@pytest.mark.parametrize("form", ["sarif", "github"])
def test_other_results_have_no_such_form(form: str) -> None:
    with pytest.raises(UsageError, match=r"there is no (SARIF|GitHub) form of Analysis"):
        render(analyze(parse("3@8 > relu")), form)


# Rules ----------------------------------------------------------------------------


def test_the_page_of_a_rule() -> None:
    shown = text(find_rule("checkerboard"), width=80)
    assert shown.startswith("S104 checkerboard\nsuspicious, warning\n\nWhat it finds\n")
    for title in ("Why it matters", "Example", "Fine", "Remedy", "Known problems", "References"):
        assert f"\n{title}\n" in shown
    assert "\n  64@14 > deconv 32 3/2 p1 o1\n" in shown
    page = markdown(find_rule("S104"))
    assert "```\n64@14 > deconv 32 3/2 p1 o1\n```" in page
    assert find_rule("S104").to_dict()["schema"] == "convsmith.rule/1"


def test_thresholds_on_pages_are_those_of_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    from convsmith.linting import structure

    assert f"More than {structure.PLAIN_DEPTH} conv" in find_rule("deep-plain-stack").what
    net = parse("3@32 > ( conv 8 3 p1 > relu ) x20")
    assert not lint(net, select="S303")
    monkeypatch.setattr(structure, "PLAIN_DEPTH", 19)
    assert lint(net, select="S303")


def test_the_list_of_rules() -> None:
    shown = text(Rules(), width=100)
    assert all(rule.code in shown for rule in RULES)
    assert "performance (--select default,performance)" in shown
    assert markdown(Rules()).count("\n") == len(RULES) + 1
    assert len(json.loads(Rules().to_json())["rules"]) == len(RULES)
