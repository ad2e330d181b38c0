"""``convsmith compare``: formats, options, exit codes; and what measures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import convsmith as cs
from convsmith.cli.running import run
from convsmith.comparison import Measured, Runtime, RuntimeClock
from convsmith.errors import UsageError
from convsmith.graph import Graph, parse
from convsmith.report import render

CONV = "64@28 > conv 64 5 p2"
ROW_KEYS = {
    *("form", "text", "params", "macs", "ratio_macs", "rf", "nonlinearities", "milliseconds"),
    *("mults", "adds", "others", "flops", "weight_bytes", "peak_activation_bytes"),
    *("inputs", "output", "support", "sigma", "ratio_milliseconds", "note", "unsupported"),
}

Ran = tuple[int, str, str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def ran(*arguments: str) -> Ran:
        code = run(["compare", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


def test_json_has_the_published_keys(command: Callable[..., Ran]) -> None:
    code, out, err = command(CONV, "--json")
    data = json.loads(out)
    assert (code, err, data["schema"]) == (0, "", "convsmith.comparison/1")
    assert {key for row in data["rows"] for key in row} == ROW_KEYS
    assert {row["milliseconds"] for row in data["rows"]} == {None}
    assert data == cs.compare(CONV).to_dict()


def test_every_row_of_every_format_can_be_copied(command: Callable[..., Ran]) -> None:
    _, out, _ = command(CONV, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) > 15
    for row in rows:
        assert parse(row["text"]).shape(parse(row["text"]).outputs[0].value) == (1, 64, 28, 28)
    _, out, _ = command(CONV, "--format", "markdown")
    assert "| stack-3 | 57,802,752 | 28.00 % | 73,856 | 5 | 1 |" in out
    assert "`64@28x28 > conv 64 3 p1 > relu > conv 64 3 p1`" in out


@pytest.mark.parametrize("width", [60, 80, 200])
def test_tables_fit_the_terminal(width: int) -> None:
    shown = render(cs.compare(CONV), "text", width=width)
    table = shown[: shown.index("acts:")].splitlines()
    assert max(map(len, table)) <= max(width, 76)
    assert "stack-3-spatial" in shown
    assert "28.00 %" in shown
    assert ("in the notation" in shown) == (width < 150)
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_networks_that_do_not_fit_beside_each_other_go_below() -> None:
    found = cs.compare("8@64 > conv 64 5 p2", against=["8@64 > conv 64 3 p1"] * 6)
    shown = render(found, "text", width=80)
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("\nMACs ") >= 2
    assert shown.count(" 36.00 %") + shown.count("(36.00 %)") >= 6
    assert render(found, "text", width=300).count("\nMACs ") == 1


def test_a_layer_a_width_and_an_activation(command: Callable[..., Ran]) -> None:
    code, out, _ = command("zoo:resnet18", "--layer", "conv1", "--width", "16", "--json")
    data = json.loads(out)
    assert (code, data["layer"], data["width"]) == (0, "conv1", 16)
    assert data["rows"][0]["text"] == "3@224x224 > conv 64 7/2 p3 nobias > relu"
    _, out, _ = command(CONV, "--activation", "none", "--json")
    assert {row["nonlinearities"] for row in json.loads(out)["rows"]} == {0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zoo:resnet18"], "name the layer to compare"),
        ([CONV, "--layer", "conv9"], "did you mean 'conv1'?"),
        ([CONV, "--width", "huge"], "--width: there is no width 'huge'"),
        ([CONV, "--width", "-1"], "--width: there is no width '-1'"),
        ([CONV, CONV, "--layer", "conv1"], "conv1: a layer and several networks contradict"),
        ([CONV, "--activation", "maxpool 2"], "is no activation"),
        (["3@8 > relu"], "it has no convolution"),
    ],
)
def test_bad_usage(command: Callable[..., Ran], arguments: list[str], message: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_what_is_not_counted_is_named(command: Callable[..., Ran]) -> None:
    code, out, err = command(CONV, "3@8 > unsupported Foo 8@8")
    assert code == 2
    assert "B: not counted: unsupported1 (Foo)" in out
    assert "not counted: B: unsupported1 (Foo)" in err


# Times ----------------------------------------------------------------------------


def counting(graphs: Mapping[str, Graph]) -> Measured:
    """A clock that takes a microsecond a node."""
    return Measured(
        milliseconds={name: len(graph.nodes) / 1000 for name, graph in graphs.items()},
        clock="nodes",
    )


def test_any_clock_will_do() -> None:
    found = cs.compare(CONV, measure=True, clock=counting)
    assert found.clock == "nodes"
    assert found.by_form["stack-3"].milliseconds == 0.003
    assert found.by_form["stack-3"].ratio_milliseconds == 3
    shown = render(found, "text", width=80)
    assert "300 %" in shown
    assert "times: nodes" in shown
    both = cs.compare(CONV, against=[f"{CONV} > relu"], measure=True, clock=counting)
    assert [row.milliseconds for row in both.rows] == [0.001, 0.002]


def clock_of(runtime: Runtime | None) -> RuntimeClock:
    """A clock that is soon done."""
    return RuntimeClock(runtime=runtime, threads=1, seconds=0.0, tune=False)


ENGINES: list[tuple[Runtime, str]] = [("convsmith", "convsmith "), ("onnxruntime", "ONNX Runtime ")]


@pytest.mark.parametrize(("runtime", "engine"), ENGINES)
def test_every_arrangement_is_timed_in_turns(runtime: Runtime, engine: str) -> None:
    text = "8@9 > conv 8 5/2 psame > bn > silu"
    found = cs.compare(text, measure=True, clock=clock_of(runtime))
    assert all(row.milliseconds is not None and row.milliseconds > 0 for row in found.rows)
    assert found.rows[0].ratio_milliseconds == 1
    assert found.runtime == found.to_dict()["runtime"] == runtime
    assert found.clock.startswith(engine)
    assert "1 thread, median of 9 turns, quartiles" in found.clock
    assert f"times: {engine}" in render(found, "text", width=80)
    assert f"Times: {engine}" in render(found, "markdown")


@pytest.mark.parametrize("runtime", ["convsmith", "onnxruntime"])
@pytest.mark.parametrize("text", ["8@9 > deconv 8 5/2 p2 o1", "4@5x6x7 > conv 4 3 p1",
                                  "<1,8,30> > conv 8 9/2 p4"])  # fmt: skip
def test_every_kind_of_convolution_is_timed(text: str, runtime: Runtime) -> None:
    found = cs.compare(text, measure=True, clock=clock_of(runtime))
    assert all(row.milliseconds for row in found.rows)


@pytest.mark.parametrize("runtime", ["convsmith", "onnxruntime"])
def test_networks_with_other_inputs_are_not_timed_in_turns(runtime: Runtime) -> None:
    clock = clock_of(runtime)
    found = cs.compare("8@9 > conv 8 3", against=["3@9 > conv 8 3"], measure=True, clock=clock)
    assert all(row.milliseconds for row in found.rows)
    assert found.clock.endswith("not in turns, their inputs differ")


def test_float32_is_timed_in_the_kernels_of_convsmith_other_types_are_not() -> None:
    single = parse("x : 8@9\ny = conv 8 3 (x)\nreturn y")
    half = replace(
        single,
        inputs=tuple(replace(value, dtype="float16") for value in single.inputs),
        constants={n: replace(c, dtype="float16") for n, c in single.constants.items()},
    )
    for net, runtime in ((single, "convsmith"), (half, "onnxruntime")):
        found = cs.compare(net, against=[net], measure=True, clock=clock_of(None))
        assert found.runtime == runtime


def test_what_is_measured_can_be_chosen(
    command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RuntimeClock] = []

    def timed(self: RuntimeClock, graphs: Mapping[str, Graph]) -> Measured:
        asked.append(self)
        return counting(graphs)

    monkeypatch.setattr(RuntimeClock, "__call__", timed)
    assert command(CONV, "--measure", "--runtime", "onnxruntime")[0] == 0
    assert command(CONV, "--measure", "--no-tune")[0] == 0
    assert [(clock.runtime, clock.tune) for clock in asked] == [
        ("onnxruntime", True),
        (None, False),
    ]
    code, out, err = command(CONV, "--measure", "--runtime", "abacus")
    assert (code, out) == (2, "")
    assert "--runtime: there is no runtime 'abacus'; give convsmith or onnxruntime" in err


def test_a_layer_of_several_networks_makes_no_sense() -> None:
    with pytest.raises(UsageError, match="contradict each other"):
        cs.compare(CONV, "conv1", against=[CONV])


# Pages ----------------------------------------------------------------------------


def test_a_page_escapes_names(command: Callable[..., Ran], tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    net = parse(f'x : 8@9\n"{hostile}" = conv 8 5 p2 (x)\nreturn y = "{hostile}"')
    cs.compare(net).to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    code, _, err = command(CONV, CONV, "-o", str(tmp_path / "two.html"))
    assert (code, "wrote" in err) == (0, True)
    assert "2 networks side by side" in (tmp_path / "two.html").read_text(encoding="utf-8")


def test_a_picture_has_one_line_a_plain_form() -> None:
    page = render(cs.compare(CONV), "html")
    assert page.count("<polyline") == 14
    assert "stack-3, 5 x 5: 72 %" in page
    assert "<polyline" not in render(cs.compare(CONV, width="equal-cost"), "html")
