"""Everything that the page of a network shows, before it is a page."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.benches import made_bench
from tests.renaming import renamed

from convsmith.analysis import analyze, fields, sight
from convsmith.errors import DataError, UsageError
from convsmith.graph import Graph, parse
from convsmith.portrait import Modules, modules, portrait, read_picture, redacted, views
from convsmith.portrait.bench_file import read_bench
from convsmith.report.as_data.portrait import packed
from convsmith.rewrite import Choice, Plan
from convsmith.rewrite.merging import Merge
from convsmith.sources import load

NETWORKS = (
    "zoo:googlenet",
    "zoo:unet",
    "zoo:efficientnet_b0",
    "3@64 > conv 8 3 > conv 8 5 p4 d2 > maxpool 2/2 > deconv 8 4/2 p1 > conv 4 3 p1",
    "3@40 > conv 4 3/2 p1,0,0,1 > [ conv 4 3 p2 d2 | gap > up 20 ] > conv 3 3 p1",
    "x : <1,2,50>\nc = conv 4 5/2 p2 (x)\nd = conv 4 3 p2 d2 (c)\nreturn y = d",
    "1@6x7x8 > conv 4 3 p1 > maxpool 2/2 > conv 2 3 p1",
    "1@9 > slice 2:1:8:1 > conv 2 3 p1",
)


def networks() -> list[Graph]:
    return [load(text, weights=False) for text in NETWORKS]


def compared(net: Graph, *, samples: int = 30) -> int:
    """How many units were compared with the library's own answer, one unit at a time."""
    chance = random.Random(0)
    oracle = sight(net)
    seen = views(net, oracle.input, fields(net, oracle.input))
    layers = [name for name, view in seen.items() if view.axes]
    count = 0
    for layer in chance.sample(layers, min(samples, len(layers))):
        sizes = net.shape(layer)[2:]
        for place in (
            tuple(0 for _ in sizes),
            tuple(size - 1 for size in sizes),
            tuple(chance.randrange(size) for size in sizes),
        ):
            axes = seen[layer].axes
            found = tuple(
                axis.at(0 if axis.axis is None else place[axis.axis], extent)
                for axis, extent in zip(axes, oracle.image, strict=True)
            )
            if None in found:
                found = (None,) * len(found)
            assert found == oracle.at(layer, place).clipped, (layer, place)
            count += 1
    return count


@pytest.mark.parametrize("text", NETWORKS)
def test_every_unit_sees_what_the_library_says(text: str) -> None:
    assert compared(load(text, weights=False)) >= 3


def test_positions_that_borders_change_are_listed() -> None:
    net = parse("3@64 > conv 8 3 > conv 8 5 p4 d2")
    seen = views(net, "x", fields(net))
    assert all(not axis.exceptions for axis in seen["conv1"].axes)
    rows = seen["conv2"].axes[0]
    assert rows.exceptions  # else the comparison above could not tell
    assert rows.rule is not None
    for position, really in rows.exceptions.items():
        rule = rows.rule.at(position)
        assert rule is not None
        assert really != rows.rule.cropped(rule, 64)


def test_holes_are_those_of_the_library() -> None:
    net = parse("1@32 > conv 1 3 d4 p4 > conv 1 3 p1")
    support = views(net, "x", fields(net))["conv1"].axes[0].support
    assert support is not None
    assert support.at(5) == (1, 5, 9)
    assert views(net, "x", fields(net))["conv2"].axes[0].support is not None
    dense = parse("1@32 > conv 1 3 p1")
    assert views(dense, "x", fields(dense))["conv1"].axes[0].support is None


# Modules ---------------------------------------------------------------------------------


def box_of(found: Modules, layer: int, depth: int) -> object:
    way = []
    place = found.parents[layer]
    while place >= 0:
        way.append(place)
        place = found.modules[place].parent
    way.reverse()
    return way[depth] if depth < len(way) else f"layer {layer}"


def circles(found: Modules, edges: list[tuple[int, int]], depth: int) -> bool:
    """Whether the network goes round in a circle when boxes of a depth are drawn closed."""
    users: dict[object, set[object]] = {}
    for source, target in edges:
        one, other = box_of(found, source, depth), box_of(found, target, depth)
        if one != other:
            users.setdefault(one, set()).add(other)
    done: set[object] = set()

    def visit(box: object, way: tuple[object, ...]) -> bool:
        if box in way:
            return True
        if box in done:
            return False
        done.add(box)
        return any(visit(user, (*way, box)) for user in users.get(box, ()))

    return any(visit(box, ()) for box in list(users))


@given(st.data())
def test_closed_boxes_never_make_a_circle(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    paths = [
        ".".join((*data.draw(st.lists(st.sampled_from("ab"), max_size=3)), f"layer{i}"))
        for i in range(count)
    ]
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    edges = [(a, b) for a, b in data.draw(st.lists(pairs, max_size=20)) if a < b]
    found = modules(paths, paths, edges)
    assert len(found.parents) == count
    for depth in range(4):
        assert not circles(found, edges, depth)
    for place, module in enumerate(found.modules):
        assert -1 <= module.parent < place
    inside = list(found.parents) + [module.parent for module in found.modules]
    assert all(inside.count(place) > 1 for place in range(len(found.modules)))


def test_a_module_that_is_called_twice_stays_open() -> None:
    """``relu`` before and after: as a box it would be left and entered again."""
    names = ["block.relu.0", "block.conv", "block.relu.1"]
    found = modules(names, names, [(0, 1), (1, 2)])
    assert [module.name for module in found.modules] == ["block"]
    assert found.parents == (0, 0, 0)


def test_networks_without_modules_get_stages() -> None:
    net = parse("3@16 > ( conv 8 3 p1 > relu > conv 3 3 p1 > relu ) x50")
    found = portrait(net).modules
    assert all(module.is_stage for module in found.modules)
    assert 5 < len(found.modules) < 40
    assert max(found.parents.count(place) for place in range(len(found.modules))) <= 40


# Redaction -------------------------------------------------------------------------------


def test_nothing_of_the_names_is_left() -> None:
    net = load("zoo:googlenet")
    hidden = redacted(net)
    text = portrait(hidden.graph).to_json() + str(hidden.graph)
    words = {part for node in net.nodes for part in node.name.split(".")}
    for word in sorted(word for word in words if word.startswith(("inception", "branch"))):
        assert f'"{word}' not in text
        assert f".{word}" not in text
    assert "googlenet" not in text


def test_a_redacted_network_has_the_same_numbers() -> None:
    net = load("zoo:googlenet")
    one, other = portrait(net), portrait(redacted(net).graph)
    assert one.analysis.total == other.analysis.total
    assert one.edges == other.edges
    assert one.modules.parents == other.modules.parents
    assert [row.rf.size for row in one.analysis.rows] == [r.rf.size for r in other.analysis.rows]


def test_unknown_operators_lose_their_names_too() -> None:
    net = parse("8@16 > conv 8 5 p2 > unsupported SecretOperator 8@8")
    assert "Secret" not in portrait(redacted(net).graph).to_json()


def test_results_are_renamed_with_the_network() -> None:
    net = load("zoo:unet")
    hidden = redacted(net)
    layers = made_bench().layers
    bench = replace(made_bench(), layers=(replace(layers[0], name="pool1", names=("pool1", "x")),))
    renamed = hidden.bench(bench).layers[0]
    assert renamed.names == (hidden.names["pool1"], "another layer")


# What is given besides -------------------------------------------------------------------


def test_a_bench_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    bench = made_bench(cold=True)
    file.write_text(bench.to_json(), "utf-8")
    assert read_bench(file) == bench


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "it is not JSON"),
        ("[1]", "this is not a convsmith.bench/1"),
        ('{"schema": "convsmith.bench/1"}', "the bench is damaged"),
    ],
)
def test_a_bench_that_is_none(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "bench.json"
    file.write_text(content, "utf-8")
    with pytest.raises(DataError, match=words):
        read_bench(file)


@pytest.mark.parametrize("spec", ["> conv", "3@8 > relu", "x" * 100])
def test_a_bench_with_a_spec_that_is_none(tmp_path: Path, spec: str) -> None:
    data = made_bench().to_dict()
    data["layers"][0]["spec"] = spec
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(data), "utf-8")
    with pytest.raises(DataError, match="the bench is damaged"):
        read_bench(file)


def test_a_bench_of_another_network() -> None:
    with pytest.raises(UsageError, match="the bench is of another network: it has no layer"):
        portrait(parse("3@8 > conv 4 3 > relu"), bench=made_bench(name="other"))


def test_a_picture_is_cut_to_the_input(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    Image.fromarray(np.zeros((60, 100, 3), np.uint8)).save(file)
    found = read_picture(file, (32, 32))
    assert found.pixels.shape == (60, 60, 3)
    assert found.cropped
    assert not read_picture(file, (30, 50)).cropped
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_picture(tmp_path / "no.png", (32, 32))


def test_what_is_no_graph() -> None:
    with pytest.raises(UsageError, match="portrait needs a network, not str"):
        portrait("zoo:unet")  # type: ignore[arg-type]


# After a rewrite --------------------------------------------------------------------


def test_layers_that_stand_for_one_are_in_a_box_of_its_name() -> None:
    net = renamed(
        parse("1@16 > conv 2 5x1 > relu > conv 4 1x5 > conv 1 3 > conv 1 1"),
        ("m.c.1", "m.c.relu", "m.c", "m.d", "e"),
        ("m.c", "m.c", "m.c", "m.d", ""),
    )
    before = analyze(renamed(parse("1@16 > conv 4 5 > conv 1 3 > conv 1 1"), ("m.c", "m.d", "e")))
    plan = Plan(
        source="",
        budget={},
        choices=(
            Choice(
                layer="m.c",
                form="spatial",
                variant="vertical-first",
                text="conv 2 5x1 > conv 4 1x5",
                shape=(4, 1, 5, 5),
                macs_before=14400,
                macs_after=7000,
                error=0.25,
            ),
        ),
    )
    found = portrait(net, before=before, plan=plan)
    assert [module.name for module in found.modules.modules] == ["m", "m.c"]
    assert found.modules.parents == (1, 1, 1, 0, -1)
    data = packed(found)
    assert data["layers"]["origin"] == [0, 0, 0, 1, -1]
    assert data["origins"] == [
        ["m.c", "conv 4 5", "spatial vertical-first", 14400, 7000, 0.5],
        ["m.d", "conv 1 3", "", 0, 0, 0],
    ]
    assert [module[3] for module in data["modules"]] == [-1, 0]
    assert data["plan"] == []  # it speaks of the original
    groups = {group.name: group.layers for group in found.analysis.by_module(2).groups}
    assert groups["m.c"] == 3
    assert found.to_dict()["before"]["total"]["macs"] == before.total.macs


def test_a_plan_may_speak_of_layers_that_the_original_had() -> None:
    before = analyze(parse("1@16 > conv 4 5"))
    choice = Choice(
        layer="conv1", form="keep", text="", shape=(), macs_before=0, macs_after=0, error=0
    )
    plan = Plan(source="", budget={}, choices=(choice,))
    net = renamed(parse("1@16 > conv 4 5"), ("other",))
    assert portrait(net, before=before, plan=plan).plan is plan
    with pytest.raises(UsageError, match="the plan is of another network"):
        portrait(net, plan=plan)


def test_what_was_merged_first_is_named_as_it_was() -> None:
    before = analyze(renamed(parse("1@16 > conv 4 5 > bn > conv 1 3"), ("c", "b", "d")))
    net = renamed(
        parse("1@16 > conv 2 5x1 > conv 4 1x5 > conv 1 3"), ("c.1", "c", "d"), ("b", "b", "")
    )
    merge = Merge(
        kind="norm",
        layers=("c", "b"),
        into="c",
        macs_before=14400,
        macs_after=14400,
        params_before=112,
        params_after=104,
    )
    chosen = Choice(
        layer="c", form="spatial", text="", shape=(), macs_before=9, macs_after=4, error=0.04
    )
    plan = Plan(source="", budget={}, choices=(chosen,), merges=(merge,))
    data = packed(portrait(net, before=before, plan=plan))
    assert data["origins"] == [["c + b", "conv 4 5 > bn", "spatial", 9, 4, 0.2]]
    assert data["plan"] == []
