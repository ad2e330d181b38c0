"""The analysis as data: its JSON, its memory, its unknowns."""

from __future__ import annotations

import json

import pytest

from convsmith.analysis import Unsupported, analyze
from convsmith.errors import UsageError
from convsmith.graph import Graph, parse

UNKNOWN = "3@8 > conv 4 3 p1 > unsupported Foo 4@8 > conv 2 3 p1"


def test_the_json_is_that_of_the_contract() -> None:
    data = json.loads(analyze(parse("3@224 > conv 64 7/2 p3")).to_json())
    assert data == {
        "schema": "convsmith.analysis/1",
        "source": "3@224 > conv 64 7/2 p3",
        "convention": "exact",
        "inputs": {"x": [1, 3, 224, 224]},
        "rows": [
            {
                "name": "conv1",
                "op": "Conv",
                "text": "conv 64 7/2 p3",
                "inputs": [[1, 3, 224, 224]],
                "outputs": [[1, 64, 112, 112]],
                "params": 9472,
                "macs": 118013952,
                "mults": 118013952,
                "adds": 118013952,
                "others": 0,
                "flops": 236027904,
                "weight_bytes": 37888,
                "read_bytes": 4 * 3 * 224 * 224,
                "write_bytes": 4 * 64 * 112 * 112,
                "status": "counted",
                "rf": {
                    "size": [7, 7],
                    "stride": ["2", "2"],
                    "offset": ["-3", "-3"],
                    "status": "exact",
                },
            }
        ],
        "total": {
            "params": 9472,
            "macs": 118013952,
            "mults": 118013952,
            "adds": 118013952,
            "others": 0,
            "flops": 236027904,
            "weight_bytes": 37888,
            "peak_activation_bytes": 4 * (3 * 224 * 224 + 64 * 112 * 112),
        },
        "outputs": {
            "y": {
                "shape": [1, 64, 112, 112],
                "rf": {
                    "size": [7, 7],
                    "stride": ["2", "2"],
                    "offset": ["-3", "-3"],
                    "status": "exact",
                },
            }
        },
        "unsupported": [],
    }


def test_what_is_not_known_is_shown_and_the_rest_is_counted() -> None:
    analysis = analyze(parse(UNKNOWN))
    assert [row.status for row in analysis.rows] == ["counted", "unsupported", "counted"]
    assert analysis.unsupported == (Unsupported(name="unsupported1", op="Foo"),)
    assert analysis.total.macs == 64 * 27 * 4 + 64 * 36 * 2
    data = analysis.to_dict()
    assert data["unsupported"] == [{"name": "unsupported1", "op": "Foo"}]
    assert data["rows"][2]["rf"] == {
        "size": [None, None],
        "stride": [None, None],
        "offset": [None, None],
        "status": "unknown",
        "reason": "unsupported1: Foo is not supported",
    }


def test_a_shape_that_nobody_knows_leaves_what_follows_uncounted() -> None:
    analysis = analyze(parse("3@8 > unsupported Foo ? > relu"))
    assert [row.outputs for row in analysis.rows] == [(None,), (None,)]
    assert [item.op for item in analysis.unsupported] == ["Foo", "Activation"]
    assert analysis.to_dict()["rows"][1]["outputs"] == [None]
    json.loads(analysis.to_json())


def test_every_total_is_the_sum_of_its_rows() -> None:
    analysis = analyze(parse("3@16 > ( conv 3 3 p1 > relu > bn + - ) x3 > gap > fc 5"))
    for key in ("macs", "mults", "adds", "others", "flops"):
        assert getattr(analysis.total, key) == sum(getattr(row, key) for row in analysis.rows)


# Memory ---------------------------------------------------------------------------


def peak(notation: str) -> int:
    return analyze(parse(notation)).total.peak_activation_bytes


def test_the_peak_of_a_chain_is_its_widest_pair_of_neighbours() -> None:
    assert peak("1@4 > conv 2 1 > conv 8 1 > conv 4 1 > conv 1 1") == 4 * 16 * (8 + 4)


def test_a_skip_connection_stays_alive() -> None:
    assert peak("4@4 > conv 4 1 > conv 4 1") == 4 * 16 * 8
    assert peak("4@4 > ( conv 4 1 > conv 4 1 + - )") == 4 * 16 * 12


def test_an_output_stays_alive_to_the_end_and_what_nobody_uses_does_not() -> None:
    listing = "x : 1@4\na = conv 2 1 (x)\nb = conv 4 1 (x)\nc = relu (b)\nreturn a = a c = c"
    assert analyze(parse(listing)).total.peak_activation_bytes == 4 * 16 * (2 + 4 + 4)
    listing = "x : 1@4\na = conv 2 1 (x)\nb = conv 4 1 (x)\nc = relu (b)\nreturn c = c"
    assert analyze(parse(listing)).total.peak_activation_bytes == 4 * 16 * (4 + 4)


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2), ("float64", 8),
                        ("int8", 1), ("bool", 1)],
)  # fmt: skip
def test_values_have_the_type_of_the_input(dtype: str, size: int) -> None:
    row = analyze(parse(f"x : 2@4 {dtype}\ny = relu (x)\nreturn y")).rows[0]
    assert (row.read_bytes, row.write_bytes) == (32 * size, 32 * size)


def test_a_cast_from_integers_makes_floats() -> None:
    rows = analyze(parse("x : 2@4 uint8\na = cast (x)\ny = relu (a)\nreturn y")).rows
    assert [(row.read_bytes, row.write_bytes) for row in rows] == [(32, 128), (128, 128)]


def test_a_value_read_twice_by_one_node_is_read_once() -> None:
    row = analyze(parse("x : 2@4\ny = mul (x x)\nreturn y")).rows[0]
    assert row.read_bytes == 128


# Edges ----------------------------------------------------------------------------


def test_a_network_without_layers() -> None:
    analysis = analyze(parse("3@8"))
    assert analysis.rows == ()
    assert analysis.total.flops == 0
    assert analysis.outputs["y"].rf.size == (1, 1)
    assert "0  multiply-accumulates" in str(analysis)


def test_a_network_without_an_image() -> None:
    rf = analyze(parse("<1,10> > fc 5")).rows[0].rf
    assert (rf.status, rf.reason) == ("unknown", "no input has image axes")


def test_a_graph_without_anything() -> None:
    analysis = analyze(Graph(inputs=(), nodes=(), outputs=()))
    assert analysis.total.peak_activation_bytes == 0
    assert str(analysis)


def test_anything_but_a_network_is_an_error_with_the_remedy() -> None:
    with pytest.raises(
        UsageError,
        match=r"needs a network, not str; read it first: convsmith\.analyze\(convsmith\.load\(",
    ):
        analyze("3@8 > relu")  # type: ignore[arg-type]
