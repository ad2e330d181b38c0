"""``convsmith bench`` and its forms."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable

import pytest
from tests.benches import made_bench

from convsmith.cli.running import run
from convsmith.report import render
from convsmith.report.as_page.bench import picture

Ran = tuple[int, str, str]
QUICK = ("--algorithms", "direct", "--peers", "none", "--threads", "1", "--rounds", "1")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def ran(*arguments: str) -> Ran:
        code = run(["bench", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def test_the_verb_measures(command: Callable[..., Ran]) -> None:
    code, out, err = command("4@8 > conv 6 3 p1 > relu", *QUICK, "--layout", "last", "--json")
    data = json.loads(out)
    assert (code, err, data["schema"]) == (0, "", "convsmith.bench/1")
    assert data["layers"][0]["spec"] == "4@8 > conv 6 3 p1 > relu channels_last"
    assert data["layers"][0]["rows"][0]["milliseconds"] > 0
    assert (data["rounds"], data["machine"]["threads"]) == (1, 1)


def test_same_layers_count_once_unless_asked_for(command: Callable[..., Ran]) -> None:
    net = "4@8 > conv 4 3 p1 > relu > conv 4 3 p1 > relu"
    assert len(json.loads(command(net, *QUICK, "--json")[1])["layers"]) == 1
    _, out, _ = command(net, *QUICK, "--all-layers", "--cold", "--json")
    layers = json.loads(out)["layers"]
    assert [layer["layer"] for layer in layers] == ["conv1", "conv2"]
    assert layers[0]["rows"][0]["cold_milliseconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["4@8 > conv 4 3", "--layout", "nchw"], "--layout: there is no layout 'nchw'"),
        (["4@8 > conv 4 3", "--algorithms", "magic"], "there is no algorithm 'magic'"),
        (["4@8 > conv 4 3", "--peers", "torch,magic"], "there is no peer 'magic'"),
        (["4@8 > conv 4 3", "--rounds", "0"], "--rounds"),
        (["4@8 > relu"], "it has no convolution to time"),
    ],
)
def test_bad_usage(command: Callable[..., Ran], arguments: list[str], message: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert message in err


# Forms ----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("layers", [1, 2, 6])
@pytest.mark.parametrize("cold", [False, True])
def test_tables_fit_the_terminal(width: int, layers: int, cold: bool) -> None:
    shown = render(made_bench(layers=layers, cold=cold), "text", width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert "winograd" in shown
    assert "not installed: openvino" in shown
    assert "up1 left out: transposed" in shown
    assert "wrong: error 5.0e-01" in shown
    assert ("with cold caches" in shown) == cold


def test_one_layer_shows_everybody() -> None:
    shown = render(made_bench(layers=1), "text", width=100)
    rows = {line.split()[0]: line for line in shown.splitlines() if "e-0" in line}
    assert "* winograd" in shown
    assert re.search(r"torch\s+2\.00\s+10 %\s+\d+\s+\d+ %\s+2\.00x\s+1e-06", shown)
    assert rows["direct"].rstrip().endswith("tile 14x2")
    assert "time of the fastest peer over ours: 2.00" in shown


def test_many_layers_show_the_choice_and_the_best_peer() -> None:
    narrow = render(made_bench(layers=5), "text", width=80)
    assert re.search(r"conv1 x3\s+winograd\s+1\.00\s+\d+ %\s+torch\s+2\.00\s+2\.00x", narrow)
    wide = render(made_bench(layers=5), "text", width=200)
    assert "MNN" in wide.splitlines()[3]
    assert "geometric mean" in wide
    assert "worst 0.40 (conv5)" in wide


def test_rows_for_other_programs() -> None:
    rows = list(csv.DictReader(io.StringIO(render(made_bench(), "csv"))))
    assert [row["algorithm"] for row in rows[:5]] == ["direct", "winograd", "torch", "ncnn", "MNN"]
    assert rows[1]["chosen"] == "True"
    assert float(rows[2]["milliseconds"]) == 2
    assert rows[4]["milliseconds"] == ""
    assert rows[0]["count"] == "3"


def test_a_document() -> None:
    shown = render(made_bench(), "markdown")
    assert "| **1.00** | 2.00 | 4.00 | - |" in shown
    assert "2.00x |" in shown
    assert "warm caches" not in shown
    assert "cold caches" in render(made_bench(cold=True), "markdown")


def test_a_page_has_a_bar_for_everybody_who_was_timed() -> None:
    made = made_bench(cold=True)
    page = render(made, "html")
    bars = sum(row.milliseconds is not None for layer in made.layers for row in layer.rows)
    assert page.count('height="14"') == bars == 7
    assert "torch: 2.00 ms" in page
    assert "peak 100" in page


def test_bars_are_as_long_as_they_are_fast() -> None:
    made = made_bench()
    drawn = picture(made.layers[0], 100.0)
    lengths = {strip.name: strip.length for strip in drawn.strips}
    assert lengths["winograd"] / lengths["direct"] == pytest.approx(4, rel=0.1)
    assert lengths["torch"] / lengths["ncnn"] == pytest.approx(2, rel=0.1)
    assert {strip.name: strip.kind for strip in drawn.strips}["winograd"] == "chosen"


def test_names_are_escaped_everywhere() -> None:
    hostile = "<script>alert(1)</script>\x1b[31m|`"
    made = made_bench(layers=4, name=hostile)
    assert "<script>alert" not in render(made, "html")
    for form in ("text", "markdown"):
        assert "\x1b" not in render(made, form)
    assert "\\<script\\>alert" in render(made, "markdown")
