"""Receptive fields of random networks against brute force, pixel by pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.random_fields import (
    CHANNELS,
    OPERATORS,
    Mask,
    UndecidedError,
    dependence,
    networks,
    over,
)

from convsmith.analysis import Axis, Positions, seen, sight
from convsmith.analysis.field import Sight, Unit
from convsmith.analysis.field.moves import Move, Path, Row, moves
from convsmith.analysis.field.propagation import propagate
from convsmith.analysis.field.taps import Phases, Taps
from convsmith.graph import Graph, Shape, parse
from convsmith.graph.operators import Conv, Elementwise, Flatten, Operator, Pad, Pool, Resize

Lines = list[tuple[Positions, int | None]]
"""Per image axis, what every position sees, and along which axis of the value it counts."""

COUNTED: Counter[str] = Counter()
"""What was compared, so that a test that compares nothing is noticed."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are too small to be worth starting threads for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVSMITH_THREADS", "1")
        yield


def rectangle(mask: Mask) -> tuple[tuple[int, int] | None, ...]:
    """First and last index along every axis."""
    found: list[tuple[int, int] | None] = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(over(mask, *(a for a in range(mask.ndim) if a != axis)))
        found.append((int(used[0]), int(used[-1])) if len(used) else None)
    return tuple(found)


def positions(shape: tuple[int, ...], seed: int) -> list[tuple[int, ...]]:
    """A corner and others: few of each network, so that there can be many networks."""
    random = np.random.default_rng(seed)
    corner = [(0,) * len(shape), tuple(size - 1 for size in shape)][seed % 2]
    return [corner, *(tuple(random.integers(0, shape).tolist()) for _ in range(2))]


def tracks(graph: Graph, value: str) -> Lines:
    """What every position sees along each image axis, and the axis of the value it counts along.

    Left out is what is only known as a hull.
    """
    start = [Positions.image(size) for size in graph.inputs[0].shape[2:]]
    found = propagate(graph, "x", start)[value].tracks
    assert [track.where for track in found] == list(seen(graph, value))
    return [(t.where, None if t.scattered else t.axis) for t in found]


def check(graph: Graph, seed: int) -> None:
    """Compares everything there is to ask about the last value with brute force."""
    value = graph.outputs[0].value
    network = sight(graph)
    try:
        truth = dependence(graph, value)
    except UndecidedError:
        return
    lines = tracks(graph, value)
    check_units(network, value, truth, lines, seed)
    check_pixels(network, value, truth, seed)
    check_top_down(network, value)
    check_hulls(network, value, truth, lines)


def check_units(network: Sight, value: str, truth: Mask, lines: Lines, seed: int) -> None:
    """What a unit sees: every pixel of it, holes and borders included; of any or one channel."""
    field = network.field(value)
    for number, place in enumerate(positions(truth.shape[3:], seed)):
        pixels: Mask = truth[(slice(None),) * 3 + place]
        assert (network.mask(value, place) == over(pixels, 2)).all()
        if number % 2:
            channel = seed % pixels.shape[2]
            assert (network.mask(value, place, channel=channel) == pixels[..., channel]).all()
        COUNTED["masks"] += 1
        unit = network.at(value, place)
        assert unit.exact
        if not field.is_global:
            assert unit.clipped == rectangle(over(pixels, 2))
            COUNTED["rectangles"] += 1
            if field.status == "exact":
                check_rule(network, unit, over(pixels, 2), lines)


def check_rule(network: Sight, unit: Unit, pixels: Mask, lines: Lines) -> None:
    """The rule far from the borders, where nothing on the way looked beyond one."""
    for line, axis in lines:
        index = 0 if axis is None or axis < 2 else unit.position[axis - 2]
        if not line.clear[min(index, len(line.clear) - 1)]:
            return
    if not pixels.any():
        return
    assert unit.unclipped == rectangle(pixels)
    COUNTED["rules"] += 1
    found = network._states[unit.layer].tracks
    supports = zip(found, network.support(unit.layer), strict=True)
    for axis, (track, support) in enumerate(supports):
        if track.axis is not None and track.axis < 2:
            continue  # counted along channels
        index = 0 if track.axis is None else unit.position[track.axis - 2]
        assert list(support.at(index)) == np.flatnonzero(over(pixels, 1 - axis)).tolist()
        COUNTED["supports"] += 1


def check_pixels(network: Sight, value: str, truth: Mask, seed: int) -> None:
    """The other way round: which units a pixel reaches."""
    pixel = positions(truth.shape[:2], seed + 1)[0 if seed % 4 < 2 else 1]
    reach = network.reaches(value, pixel)
    reached = over(truth[pixel], 0)
    assert reach.exact
    assert (reach.mask == reached).all()
    assert reach.ranges == rectangle(reached)
    COUNTED["pixels"] += 1


def check_top_down(network: Sight, value: str) -> None:
    """Both recursions find the same rule, in every phase."""
    if any(isinstance(node.op, Flatten) for node in network.graph.nodes):
        return  # from the top down, rows joined to a line are a bound
    below = network.top_down(value)["x"]
    above = network.field(value)
    if (below.status, above.status) != ("exact", "exact"):
        return
    for down, up, extent in zip(below.axes, above.axes, network.image, strict=True):
        assert up is not None
        assert down is not None
        if 0 in (up.step, down.step):  # one position, or all alike
            assert above.is_global or clipped(down, extent) == clipped(up, extent)
        else:
            assert down == up
            COUNTED["recursions"] += 1


def clipped(line: Axis, extent: int) -> list[tuple[int, int] | None]:
    """The phases inside of the image, once each."""
    inside = [None if each is None else Axis.cropped(each, extent) for each in line.phases]
    return list(dict.fromkeys(inside))


def check_hulls(network: Sight, value: str, truth: Mask, lines: Lines) -> None:
    """Every position along each axis, with the borders."""
    if network.field(value).status == "upper-bound" or not truth.any():
        return
    for axis, (line, where) in enumerate(lines):
        if where is None or where < 2:
            continue
        along = over(np.moveaxis(over(truth, 2), axis, 0), 1)
        per_position = over(np.moveaxis(along, where - 1, 1), 2)
        found = line.intervals * (per_position.shape[1] if len(line.intervals) == 1 else 1)
        assert [rectangle(column)[0] for column in per_position.T] == list(found)
        COUNTED["hulls"] += 1


@given(networks(OPERATORS["windows"]), st.integers(0, 999))
@settings(max_examples=650)
def test_windows_in_branches_see_what_changes_them(graph: Graph, seed: int) -> None:
    check(graph, seed)


@given(networks(OPERATORS["mixture"]), st.integers(0, 999))
@settings(max_examples=900)
def test_any_mixture_sees_what_changes_it(graph: Graph, seed: int) -> None:
    check(graph, seed)


@given(networks(OPERATORS["windows"], (1, 2, 6, 5), CHANNELS), st.integers(0, 999))
@settings(max_examples=650)
def test_channels_taken_apart_and_shuffled_see_what_changes_them(graph: Graph, seed: int) -> None:
    check(graph, seed)


# The checks can fail --------------------------------------------------------------

Rule = Callable[[Operator, tuple[Shape, ...], Shape, int], Row | None]

NETWORKS = [
    "2@9x8 > conv 2 3/2 p1 > avgpool 2/2 ceil > conv 2 3 p1",
    "2@9x8 > conv 2 3 p1 d2 > maxpool 3/2 p1 ceil",
    "2@9x8 > deconv 2 4/2 p1 > conv 2 3 p1",
    "2@9x8 > conv 4 3/2 p1 > resize 9x8 linear half_pixel",
    "2@9x8 > ( conv 2 3 p1 + - ) > conv 2 2 psame",
    "2@9x8 > [ conv 2 1 | conv 2 5 p2 ] > split 2,2 > pad 1 > conv 2 3",
    "4@9x8 > conv 4 3 p1 g2 > depthtospace 2 > conv 1 3/2",
]


def shifted(kind: type[Operator]) -> Rule:
    """The row of an operator, one position too far along the first image axis."""
    right = moves.dispatch(kind)

    def wrong(op: Operator, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row | None:
        row = right(op, inputs, output, index)
        assert row is not None
        first = row[0]
        assert not isinstance(first, Path)
        move = first[2]
        taps = move.taps or Taps(phases=((0,),), step=1)
        moved = Phases(len(taps.phases), lambda phase: [tap + 1 for tap in taps.phases[phase]])
        changed = replace(move, how="look", taps=replace(taps, phases=moved))
        return ((*first[:2], changed, *first[3:]), *row[1:])

    return wrong


def short(kind: type[Operator]) -> Rule:
    """The row of an operator that forgets the last tap of every window."""
    right = moves.dispatch(kind)

    def wrong(op: Operator, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row | None:
        row = right(op, inputs, output, index)
        assert row is not None
        return tuple(
            path if isinstance(path, Path) else tuple(_shorter(move) for move in path)
            for path in row
        )

    return wrong


def _shorter(move: Move) -> Move:
    taps = move.taps
    if taps is None or move.to == 1:
        return move
    phases = Phases(len(taps.phases), lambda phase: taps.phases[phase][:-1] or [0])
    return replace(move, taps=replace(taps, phases=phases))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(Conv, shifted), (Pool, shifted), (Resize, shifted), (Pad, shifted), (Elementwise, shifted),
     (Conv, short), (Pool, short), (Resize, short)],
)  # fmt: skip
def test_a_wrong_row_is_noticed(
    kind: type[Operator], wrong: Callable[[type[Operator]], Rule]
) -> None:
    graphs = [parse(notation) for notation in NETWORKS]
    for graph in graphs:
        check(graph, seed=1)
    right = moves.dispatch(kind)
    moves.register(kind, wrong(kind))
    try:
        noticed = 0
        for graph in graphs:
            try:
                check(graph, seed=1)
            except AssertionError:
                noticed += 1
        assert noticed
    finally:
        moves.register(kind, right)


def test_the_checks_compare_something() -> None:
    before = Counter(COUNTED)
    for notation in NETWORKS:
        check(parse(notation), seed=2)
    compared = COUNTED - before
    assert set(compared) == {
        "masks", "rectangles", "rules", "supports", "pixels", "recursions", "hulls",
    }  # fmt: skip
