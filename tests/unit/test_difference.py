"""Two networks: which layers belong together, and what changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsmith.analysis import Difference, analyze, diff
from convsmith.analysis.baseline import COUNTS, TOTALS
from convsmith.analysis.difference import compare_baselines
from convsmith.errors import UsageError
from convsmith.graph import Graph, GraphBuilder, parse
from convsmith.graph.operators import Conv


def changes(old: Graph, new: Graph) -> list[tuple[str, str | None, str | None]]:
    return [
        (
            change.status,
            None if change.old is None else change.old.name,
            None if change.new is None else change.new.name,
        )
        for change in diff(old, new).changes
    ]


def chain(*layers: tuple[str, int]) -> Graph:
    """1x1 convolutions with names and output channels; every layer keeps the size."""
    builder = GraphBuilder()
    x = builder.input("x", (1, 4, 2, 2))
    for name, kernel in layers:
        op = Conv(
            channels=4,
            kernel=(kernel, kernel),
            stride=(1, 1),
            padding=((kernel // 2, kernel // 2),) * 2,
            dilation=(1, 1),
        )
        x = builder.add(op, x, name=name)
    return builder.build(("y", x))


def test_a_network_is_the_same_as_itself() -> None:
    graph = parse("3@32 > conv 8 3 p1 > ( conv 8 3 p1 > relu + - ) x2 > gap > flatten > fc 10")
    result = diff(graph, graph, macs="+0%", params="+0", peak_memory="-0%", same_field=True)
    assert result.changes == ()
    assert result.same == len(graph.nodes)
    assert result.violations == ()
    assert all(output.same_field for output in result.outputs)


def test_a_layer_that_does_something_else_is_changed() -> None:
    old = chain(("a", 1), ("b", 3), ("c", 1))
    new = chain(("a", 1), ("b", 5), ("c", 1))
    (change,) = diff(old, new).changes
    assert (change.status, change.name) == ("changed", "b")
    assert change.difference("macs") == 4 * 4 * 4 * (25 - 9)
    assert change.difference("params") == 16 * (25 - 9)


def test_layers_with_names_of_their_own_belong_together_wherever_they_are() -> None:
    old = chain(("stem", 3), ("body", 1), ("head", 5))
    new = chain(("body", 1), ("stem", 3), ("head", 5))
    assert changes(old, new) == []
    new = chain(("body", 3), ("stem", 1), ("head", 5))
    assert changes(old, new) == [("changed", "body", "body"), ("changed", "stem", "stem")]


def test_names_that_only_count_say_nothing_after_an_insertion() -> None:
    old = parse("4@8 > conv 4 3 p1 > conv 4 5 p2 > conv 4 1 > conv 4 3 p1")
    new = parse("4@8 > conv 4 3 p1 > conv 4 7 p3 > conv 4 5 p2 > conv 4 1 > conv 4 3 p1")
    assert changes(old, new) == [
        ("added", None, "conv2"),
        ("renamed", "conv2", "conv3"),
        ("renamed", "conv3", "conv4"),
        ("renamed", "conv4", "conv5"),
    ]
    assert changes(new, old) == [
        ("removed", "conv2", None),
        ("renamed", "conv3", "conv2"),
        ("renamed", "conv4", "conv3"),
        ("renamed", "conv5", "conv4"),
    ]


def test_of_two_alike_the_one_that_is_gone_is_removed() -> None:
    old = parse("4@8 > conv 4 3 p1 > conv 4 1 > conv 4 5 p2 > conv 4 1")
    new = parse("4@8 > conv 4 3 p1 > conv 4 5 p2 > conv 4 1")
    assert changes(old, new) == [
        ("removed", "conv2", None),
        ("renamed", "conv3", "conv2"),
        ("renamed", "conv4", "conv3"),
    ]


def test_places_in_a_sequence_only_count() -> None:
    kernels = {f"features.{i}": kernel for i, kernel in enumerate((3, 1, 5, 1, 3))}
    fewer = {f"features.{i}": kernel for i, kernel in enumerate((3, 1, 3))}
    assert changes(chain(*kernels.items()), chain(*fewer.items())) == [
        ("removed", "features.2", None),
        ("removed", "features.3", None),
        ("renamed", "features.4", "features.2"),
    ]


def test_a_number_does_not_make_two_operators_one_layer() -> None:
    old, new = (
        parse("x : 4@8\ns.0 = conv 4 1 (x)\nreturn s.0"),
        parse("x : 4@8\ns.0 = relu (x)\nreturn s.0"),
    )
    assert [status for status, _, _ in changes(old, new)] == ["added", "removed"]
    old, new = (
        parse("x : 4@8\nact = conv 4 1 (x)\nreturn act"),
        parse("x : 4@8\nact = relu (x)\nreturn act"),
    )
    assert changes(old, new) == [("changed", "act", "act")]


def test_a_counted_layer_that_changed_keeps_its_name() -> None:
    old = parse("4@8 > conv 4 3 p1 > relu > conv 4 1")
    new = parse("4@8 > conv 4 5 p2 > relu > conv 4 1")
    assert changes(old, new) == [("changed", "conv1", "conv1")]


def test_one_network_under_two_sets_of_names() -> None:
    kernels = (3, 1, 1, 3, 5, 1)
    old = chain(*((f"block.{i}.conv", kernel) for i, kernel in enumerate(kernels)))
    new = chain(*((f"/block/block.{i}/conv/Conv", kernel) for i, kernel in enumerate(kernels)))
    found = changes(old, new)
    assert [status for status, _, _ in found] == ["renamed"] * 6
    assert [(a, b) for _, a, b in found] == [
        (f"block.{i}.conv", f"/block/block.{i}/conv/Conv") for i in range(6)
    ]


def test_removed_layers_stand_where_they_were() -> None:
    old = chain(("a", 1), ("b", 3), ("c", 5), ("d", 7), ("e", 1))
    new = chain(("a", 1), ("d", 7), ("f", 9))
    assert changes(old, new) == [
        ("removed", "b", None),
        ("removed", "c", None),
        ("added", None, "f"),
        ("removed", "e", None),
    ]


def test_nothing_and_something() -> None:
    nothing = Graph(inputs=(), nodes=(), outputs=())
    some = chain(("a", 1))
    assert changes(nothing, nothing) == []
    assert changes(nothing, some) == [("added", None, "a")]
    assert changes(some, nothing) == [("removed", "a", None)]
    (output,) = diff(some, nothing).outputs
    assert (output.new, output.same_field) == (None, False)


NAMES = st.sampled_from(["conv1", "conv2", "conv_3", "a", "b", "block.c", "block.d"])
LAYERS = st.lists(st.tuples(NAMES, st.sampled_from([1, 3, 5])), max_size=7,
                  unique_by=lambda layer: layer[0])  # fmt: skip


@given(LAYERS, LAYERS)
def test_every_layer_is_in_one_place_and_the_changes_add_up(
    before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    old, new = analyze(chain(*before)), analyze(chain(*after))
    result = diff(old, new)
    ours = [change.new.name for change in result.changes if change.new is not None]
    theirs = [change.old.name for change in result.changes if change.old is not None]
    assert len(set(ours)) == len(ours)
    assert len(set(theirs)) == len(theirs)
    assert len(ours) + result.same == len(after)
    assert len(theirs) + result.same == len(before)
    for key in COUNTS:  # no tensor is shared here, so totals are sums of rows
        found = sum(change.difference(key) for change in result.changes)
        assert found == sum(getattr(r, key) for r in new.rows) - sum(
            getattr(r, key) for r in old.rows
        )


def test_very_many_layers_are_paired() -> None:
    old = chain(*((f"conv{i}", 1 + 2 * (i % 3)) for i in range(3000)))
    new = chain(*((f"conv{i}", 1 + 2 * (i % 2)) for i in range(3000)))
    result = diff(old, new)
    assert result.same + sum(c.old is not None for c in result.changes) == 3000


# Outputs and budgets --------------------------------------------------------------


def test_what_the_outputs_see() -> None:
    five, stack = parse("4@20 > conv 4 5 p2"), parse("4@20 > conv 4 3 p1 > conv 4 3 p1")
    assert diff(five, stack, same_field=True).violations == ()
    result = diff(five, parse("4@20 > conv 4 3 p1"), same_field=True)
    assert result.violations == ("output y does not see the same of the input as before",)
    (output,) = result.outputs
    assert (output.old and output.old.size, output.new and output.new.size) == ((5, 5), (3, 3))


def test_the_same_size_at_another_place_is_another_field() -> None:
    shifted = parse("4@20 > conv 4 3 p2,2,0,0")
    assert diff(parse("4@20 > conv 4 3 p1"), shifted, same_field=True).violations


def test_a_field_that_is_not_known_is_never_the_same() -> None:
    unknown = parse("4@20 > unsupported Foo 4@20")
    assert diff(unknown, unknown, same_field=True).violations


def test_every_phase_has_to_see_the_same() -> None:
    nearest, linear = "4@8 > up 2 > conv 4 1", "4@8 > up 2 bilinear half_pixel > conv 4 1"
    assert diff(parse(nearest), parse(nearest), same_field=True).violations == ()
    assert diff(parse(nearest), parse(linear), same_field=True).violations
    three, two = parse("4@8 > up 2 > conv 4 3 p1"), parse("4@8 > up 2 > conv 4 2 p1,1,0,0")
    (output,) = diff(three, two).outputs
    assert output.old is not None
    assert output.new is not None
    assert (output.old.size, output.old.offset) == (output.new.size, output.new.offset)
    assert not output.same_field


def test_a_gate_that_sees_everything_is_part_of_the_field() -> None:
    gate = parse("4@8 > conv 4 3 p1 > ( [ gap > conv 4 1 > sigmoid ] + - )")
    assert diff(gate, gate, same_field=True).violations == ()
    assert diff(gate, parse("4@8 > conv 4 3 p1"), same_field=True).violations


def test_outputs_of_other_names_are_taken_in_their_order() -> None:
    old = parse("x : 4@8\na = relu (x)\nb = sigmoid (x)\nreturn p = a q = b")
    new = parse("x : 4@8\na = relu (x)\nb = sigmoid (x)\nreturn q = b r = a")
    pairs = [(output.name, output.old is not None) for output in diff(old, new).outputs]
    assert pairs == [("q", True), ("r", True)]


def test_the_json() -> None:
    result = diff(parse("8@10 > conv 10 1 nobias"), parse("8@10 > conv 11 1 nobias"), macs="+5%")
    data = json.loads(result.to_json())
    assert data["schema"] == "convsmith.diff/1"
    assert data["total"]["macs"] == {"old": 8000, "new": 8800, "difference": 800, "ratio": 1.1}
    assert set(data["total"]) == set(TOTALS)
    (row,) = data["rows"]
    assert (row["name"], row["status"], row["old_name"]) == ("conv1", "changed", "conv1")
    assert (row["old"]["text"], row["new"]["text"]) == ("conv 10 1 nobias", "conv 11 1 nobias")
    assert row["difference"]["params"] == 8
    assert data["budgets"][0]["met"] is False
    assert data["violations"] == [str(result.verdicts[0])]
    assert data["same"] == 0
    assert data["outputs"][0]["same_field"] is True


# What can be compared -------------------------------------------------------------


def test_graphs_analyses_baselines_and_files(tmp_path: Path) -> None:
    old, new = parse("4@8 > conv 4 3"), parse("4@8 > conv 4 5")
    file = tmp_path / "old.json"
    file.write_text(analyze(old).to_json(), encoding="utf-8")
    wanted = diff(old, new)
    assert diff(analyze(old), new) == wanted
    assert diff(file, analyze(new)) == wanted
    assert diff(str(file), new) == wanted
    assert compare_baselines(wanted.old, wanted.new, {}) == wanted


@pytest.mark.parametrize(("wrong", "named"), [("zoo:vgg16", "'zoo:vgg16'"), (3, "int")])
def test_what_cannot_be_compared(wrong: object, named: str) -> None:
    with pytest.raises(UsageError, match=f"diff needs two networks, not {named}; read it first"):
        diff(parse("4@8 > relu"), wrong)  # type: ignore[arg-type]


def test_conventions_may_not_be_mixed() -> None:
    old = diff(parse("4@8 > relu"), parse("4@8 > relu")).old
    other = type(old)(
        source="", convention="thop", layers=(), total=old.total, outputs={}, unsupported=()
    )
    with pytest.raises(UsageError, match="counted as 'exact', the new one as 'thop'; analyze both"):
        diff(old, other)


def test_it_prints() -> None:
    result = diff(parse("4@8 > conv 4 3"), parse("4@8 > conv 4 5"))
    assert isinstance(result, Difference)
    assert "conv 4 3 -> conv 4 5" in str(result)
