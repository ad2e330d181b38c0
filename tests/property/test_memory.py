"""Liveness, against sets of values that are kept moment by moment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convsmith.analysis import analyze
from convsmith.graph import Graph, GraphBuilder
from convsmith.graph.operators import (
    Activation,
    Elementwise,
    Flatten,
    Identity,
    Operator,
    Reshape,
    Split,
    Transpose,
)

VIEWS = (Identity(kind="dropout"), Reshape(shape=(1, 4, -1)), Flatten(axis=1))
COPIES = (Activation(kind="relu"), Transpose(permutation=(0, 2, 1)), Split(sizes=(1, 3), axis=1))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    builder = GraphBuilder()
    values = [builder.input(f"x{i}", (1, 4, draw(st.integers(1, 5)))) for i in range(2)]
    for index in range(draw(st.integers(0, 12))):
        op: Operator = draw(st.sampled_from((*VIEWS, *COPIES, Elementwise(kind="mul"))))
        used = draw(st.sampled_from(values))
        shape = builder.shapes[used]
        assert shape is not None
        if isinstance(op, Transpose) and len(shape) != 3:
            op = Identity(kind="dropout")
        if isinstance(op, Split) and shape[1] != 4:
            op = Activation(kind="relu")
        if isinstance(op, Reshape):
            op = Reshape(shape=(1, -1))
        inputs = (used, used) if isinstance(op, Elementwise) else (used,)
        values += builder.add_all(op, *inputs, name=f"n{index}")
    outputs = draw(st.lists(st.sampled_from(values), max_size=3))
    return builder.build(*[(f"y{i}", value) for i, value in enumerate(outputs)])


def bytes_of(graph: Graph, value: str) -> int:
    size = 4
    for extent in graph.shape(value):
        size *= extent
    return size


def storage_of(graph: Graph, value: str) -> str:
    """Follows views back to what was stored."""
    node = graph.producers.get(value)
    while node is not None and isinstance(node.op, (Identity, Reshape, Flatten)):
        value = node.inputs[0]
        node = graph.producers.get(value)
    return value


def alive_at(graph: Graph, moment: int) -> set[str]:
    """The storages that are needed at a moment, or are just made: by definition, not in passing."""
    made = {value.name for value in graph.inputs}
    made.update(v for node in graph.nodes[: moment + 1] for v in node.outputs)
    uses = [{*node.inputs, *node.outputs} for node in graph.nodes]
    needed = {value for used in uses[moment:] for value in used}
    needed.update(output.value for output in graph.outputs)
    everything = {value for used in uses for value in used}
    needed_storages = {storage_of(graph, value) for value in needed}
    ever_used = {storage_of(graph, v) for v in everything}
    unused = {value.name for value in graph.inputs} - ever_used
    stored = {storage_of(graph, value) for value in made}
    return {value for value in stored if value in needed_storages or value in unused}


@given(graphs())
def test_the_curve_and_its_peak(graph: Graph) -> None:
    analysis = analyze(graph)
    sets = [alive_at(graph, moment) for moment in range(len(graph.nodes))]
    wanted = [sum(bytes_of(graph, value) for value in alive) for alive in sets]
    assert list(analysis.memory.curve) == wanted
    assert [row.alive_bytes for row in analysis.rows] == wanted
    start = sum(bytes_of(graph, value.name) for value in graph.inputs)
    peak = max([start, *wanted])
    assert analysis.total.peak_activation_bytes == analysis.memory.peak_bytes == peak
    names = {stored.name for stored in analysis.memory.alive}
    if peak == start:
        assert analysis.memory.at == ""
        assert names == {value.name for value in graph.inputs}
    else:
        moment = wanted.index(peak)
        assert analysis.memory.at == graph.nodes[moment].name
        assert names == sets[moment]
    assert sum(stored.bytes for stored in analysis.memory.alive) == peak


@given(graphs())
def test_views_move_nothing(graph: Graph) -> None:
    for row, node in zip(analyze(graph).rows, graph.nodes, strict=True):
        moved = sum(bytes_of(graph, value) for value in {*node.inputs})
        made = sum(bytes_of(graph, value) for value in node.outputs)
        view = isinstance(node.op, (Identity, Reshape, Flatten))
        assert (row.read_bytes, row.write_bytes) == ((0, 0) if view else (moved, made))
