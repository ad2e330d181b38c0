"""``convsmith explain``: formats, languages, files, and what it says when it cannot."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from convsmith.cli.running import run

NET = "3@32 > conv 8 3/2 p1 > relu"


def test_one_layer_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["explain", NET, "conv1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[:12] == [
        NET,
        "",
        "conv1  convolution: conv 8 3/2 p1",
        "  1×3×32×32 → 1×8×16×16",
        "  output size           H_out = W_out",
        "                        = ⌊(H_in + 2 · p − d · (k − 1) − 1) / s⌋ + 1",
        "                        = ⌊(32 + 2 × 1 − 1 × (3 − 1) − 1) / 2⌋ + 1 = 16",
        "  parameters            C_out · (C_in · k² + 1) = 8 × (3 × 3² + 1) = 224",
        "  multiply-accumulates  N · C_out · H_out · W_out · C_in · k²",
        "                        = 1 × 8 × 16 × 16 × 3 × 3² = 55,296",
        "  multiplications       N · C_out · H_out · W_out · C_in · k²",
        "                        = 1 × 8 × 16 × 16 × 3 × 3² = 55,296",
    ]


def test_the_difference_to_a_tool(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["explain", "zoo:resnet50", "--convention", "torchinfo"]) == 0
    out = capsys.readouterr().out
    assert "From the exact count to that of torchinfo 1.8.0" in out
    assert "4,089,184,256  exact multiply-accumulates" in out
    assert "       +1,000  biases counted as multiply-accumulates (fc 1,000)" in out
    assert "4,089,238,376  torchinfo 1.8.0, multiply-accumulates" in out


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("text", "3@32"),
        ("json", '{\n  "schema": "convsmith.explanation/1"'),
        ("csv", "layer,quantity,symbols,formula,numbers,value\n"),
        ("markdown", "# Explanation: 3@32"),
        ("latex", "\\documentclass{article}"),
        ("html", "<!doctype html>"),
    ],
)
def test_every_format(form: str, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", NET, "--format", form]) == 0
    assert capsys.readouterr().out.startswith(start)


def test_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", NET, "conv1", "--lang", "zh"]) == 0
    out = capsys.readouterr().out
    for word in ("卷积", "输出尺寸", "参数量", "感受野", "有效步幅", "填充"):
        assert word in out
    assert run(["explain", NET, "--lang", "zh", "--format", "latex"]) == 0
    assert capsys.readouterr().out.startswith("\\documentclass{ctexart}")


@pytest.mark.parametrize(
    ("name", "start"), [("a.tex", "\\documentclass"), ("a.md", "# Expl"), ("a.html", "<!doctype")]
)
def test_the_ending_of_a_file_chooses_the_format(name: str, start: str, tmp_path: Path) -> None:
    file = tmp_path / name
    assert run(["explain", NET, "-o", str(file)]) == 0
    assert file.read_text("utf-8").startswith(start)
    assert run(["explain", NET, "-o", str(file)]) == 2  # it exists


def test_the_account_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", NET, "--convention", "ptflops", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["difference"]
    assert data["exact_macs"] == 55_296
    assert {term["reason"]: term["amount"] for term in data["terms"]} == {
        "bias": 2_048,
        "activation": 4_096,
    }
    assert data["counted"] == 55_296 + 2_048 + 4_096
    assert run(["explain", NET, "--convention", "ptflops", "--format", "csv"]) == 0
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert rows[0] == ["term", "amount"]
    assert sum(int(amount) for _, amount in rows[1:-1]) == int(rows[-1][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conv2"], "the network has no layer 'conv2'; did you mean 'conv1'?"),
        (["--convention", "ptflop"], "there is no convention 'ptflop'; did you mean 'ptflops'?"),
        (["--lang", "de"], "lang: there is no language 'de'; use en or zh."),
        (["--format", "sarif"], "there is no format 'sarif'"),
    ],
)
def test_what_is_not_there(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", NET, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_other_verbs_have_no_latex(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", NET, "--format", "latex"]) == 2
    assert "there is no format 'latex'" in capsys.readouterr().err
