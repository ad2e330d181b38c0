"""The analysis as data: its JSON, its memory, its unknowns."""

from __future__ import annotations

import json

import pytest

from convsmith.analysis import Unsupported, analyze
from convsmith.errors import UsageError
from convsmith.graph import Constant, Graph, GraphBuilder, parse
from convsmith.graph.operators import Elementwise, Reshape

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
                "alive_bytes": 4 * (3 * 224 * 224 + 64 * 112 * 112),
                "arithmetic_intensity": 236027904 / (37888 + 4 * (3 * 224**2 + 64 * 112**2)),
                "module": "conv1",
                "status": "counted",
                "reason": "",
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
        "memory": {
            "peak_bytes": 4 * (3 * 224 * 224 + 64 * 112 * 112),
            "at": "conv1",
            "alive": [
                {"name": "conv1", "bytes": 4 * 64 * 112 * 112, "shape": [1, 64, 112, 112]},
                {"name": "x", "bytes": 4 * 3 * 224 * 224, "shape": [1, 3, 224, 224]},
            ],
            "complete": True,
        },
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


def test_every_row_says_why_it_is_free_or_unsupported() -> None:
    rows = analyze(
        parse("3@8 > conv 4 3 > dropout > unsupported Foo ? > relu > gap > flatten")
    ).rows
    assert [(row.status, row.reason) for row in rows] == [
        ("counted", ""),
        ("free", "a view: the same elements under another shape or name"),
        ("unsupported", "convsmith does not know Foo"),
        *[("unsupported", "the shape of what it reads is not known")] * 3,
    ]
    (row,) = analyze(parse("4@8 > transpose 0,2,3,1")).rows
    assert (row.status, row.reason) == (
        "free",
        "it computes nothing: it copies elements to other places",
    )


def test_intensity_is_operations_per_byte_moved() -> None:
    rows = analyze(parse("4@8 > conv 4 3 p1 nobias > relu > flatten > fc 2")).rows
    conv, relu, flatten, fc = (row.arithmetic_intensity for row in rows)
    assert conv == (64 * 4 * (36 + 35)) / (4 * (4 * 36 + 256 + 256))
    assert relu == 256 / (4 * 512)
    assert flatten is None
    assert fc == 4 * 256 / (4 * (2 * 256 + 2 + 256 + 2))


def test_what_is_not_known_has_no_intensity() -> None:
    (row,) = analyze(parse("3@8 > unsupported Foo 8@8")).rows
    assert row.write_bytes == 8 * 64 * 4
    assert row.arithmetic_intensity is None


def test_a_shared_tensor_is_in_every_row_and_once_in_the_total() -> None:
    listing = (
        "x : 4@8\nw : parameter <4,4,3,3>\na = conv 4 3 p1 nobias {weight = w} (x)\n"
        "b = conv 4 3 p1 nobias {weight = w} (a)\nreturn b"
    )
    analysis = analyze(parse(listing))
    assert [row.params for row in analysis.rows] == [144, 144]
    assert (analysis.total.params, analysis.total.weight_bytes) == (144, 576)


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


def test_truth_values_and_places_have_types_of_their_own() -> None:
    listing = "x : 2@4\na = less (x x)\nb = where (a x x)\nc = argmax 1 (b)\nreturn c"
    written = [row.write_bytes for row in analyze(parse(listing)).rows]
    assert written == [32, 128, 16 * 8]


def test_an_embedding_has_the_type_of_its_table() -> None:
    listing = "x : <2,3> int64\nw : parameter <10,4> float16\ny = gather axis=0 (w x)\nreturn y"
    (row,) = analyze(parse(listing)).rows
    assert (row.params, row.weight_bytes) == (40, 80)
    assert (row.read_bytes, row.write_bytes) == (6 * 8, 24 * 2)


def test_a_view_of_a_constant_is_no_activation() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 4))
    w = builder.constant("w", Constant(shape=(2, 2)))
    flat = builder.add(Reshape(shape=(1, 4)), w, name="flat")
    y = builder.add(Elementwise(kind="add"), x, flat, name="y")
    memory = analyze(builder.build(("out", y))).memory
    assert memory.curve == (16, 32)
    assert [stored.name for stored in memory.alive] == ["x", "y"]


def test_a_value_whose_shape_is_not_known_makes_memory_a_lower_bound() -> None:
    assert analyze(parse("3@8 > relu")).memory.complete
    analysis = analyze(parse("3@8 > unsupported Foo ? > relu"))
    assert not analysis.memory.complete
    assert "what has no known shape" in str(analysis)


def test_many_values_at_the_peak_are_counted_not_all_named() -> None:
    analysis = analyze(parse("4@8 > [ relu | tanh | sigmoid | relu | relu ]"))
    assert "2 more" in str(analysis)
    assert len(analysis.to_dict()["memory"]["alive"]) == 6


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
