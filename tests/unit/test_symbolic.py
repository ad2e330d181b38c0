"""Costs for every size: polynomials and floors against the exact analysis at many sizes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from types import CodeType

import pytest
from typer.testing import CliRunner

from convsmith.analysis import SymbolicAnalysis, analyze, symbolic
from convsmith.analysis.symbolic import Polynomial
from convsmith.analysis.symbolic.family import Family
from convsmith.analysis.symbolic.polynomial import interpolate
from convsmith.cli.app import app
from convsmith.errors import ConvsmithError, ShapeError, UsageError
from convsmith.graph import Graph, Shape, parse
from convsmith.report.rendering import render
from convsmith.sources.zoo import NETWORKS, network

SUMS = ("macs", "mults", "adds", "others", "flops", "peak_activation_bytes")
COSTS = ("macs", "mults", "adds", "others", "flops", "read_bytes", "write_bytes", "alive_bytes")


def resized(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    (value,) = graph.inputs
    names = {3: ("L",), 4: ("H", "W"), 5: ("D", "H", "W")}[len(value.shape)]
    spatial = tuple(sizes[name] for name in names)
    return graph.with_inputs({value.name: (sizes["N"], value.shape[1], *spatial)})


# Polynomials --------------------------------------------------------------------------


def test_interpolation_finds_the_polynomial_that_made_the_values() -> None:
    draw = random.Random(5)
    for _ in range(50):
        terms = {
            (i, j): Fraction(draw.randint(-9, 9), draw.randint(1, 4))
            for i in range(3)
            for j in range(3)
        }
        made = Polynomial(("H", "W"), {key: c for key, c in terms.items() if c})
        grid = {"H": (3, 7, 20), "W": (1, 2, 50)}
        scaled = Polynomial(("H", "W"), {key: 12 * c for key, c in made.terms.items()})
        values = [int(scaled.at({"H": h, "W": w})) for h in grid["H"] for w in grid["W"]]
        found = interpolate(grid, values)
        assert found == scaled or found.is_constant
        assert found.at({"H": 91, "W": 92}) == scaled.at({"H": 91, "W": 92})


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ({}, "0"),
        ({(0, 0): Fraction(-3)}, "-3"),
        ({(1, 0): Fraction(-1), (0, 0): Fraction(1, 2)}, "-H + 1/2"),
        ({(0, 1): Fraction(1), (2, 1): Fraction(-5, 2)}, "-5/2*H^2*W + W"),
    ],
)
def test_polynomials_print_like_formulas(terms: dict[tuple[int, ...], Fraction], text: str) -> None:
    assert str(Polynomial(("H", "W"), terms)) == text


def test_domination_is_never_claimed_where_a_coefficient_is_less() -> None:
    area = Polynomial(("H", "W"), {(1, 1): Fraction(2)})
    edge = Polynomial(("H",), {(1,): Fraction(1)})
    assert (area + edge).dominates(area)
    assert not area.dominates(edge)
    assert not edge.dominates(area)


# Whole networks -----------------------------------------------------------------------


@cache
def zoo(name: str) -> tuple[SymbolicAnalysis, Shape]:
    graph = network(name)

    def again(shapes: Mapping[str, Shape]) -> Graph:
        (shape,) = shapes.values()
        return network(name, shape=shape)

    return symbolic(graph, again), graph.inputs[0].shape


# Networks of the same operators as another one, only more or wider ones.
SIBLINGS = {
    *("resnet34", "resnet50_v1", "resnet101", "resnet152", "resnext50_32x4d", "vgg13", "vgg19"),
    *("densenet121", "inception_v3", "mnasnet1_0", "mobilenet_v3_large", "squeezenet1_1"),
}
MANY_NODES = 150


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in SIBLINGS])
def test_zoo_at_dozens_of_sizes(name: str) -> None:
    found, (_, channels, height, width) = zoo(name)
    assert not found.fixed
    assert all(getattr(row, cost).parts for row in found.rows for cost in COSTS)
    draw = random.Random(name)
    sizes = [
        {"N": n, "H": height + i * found.modulus["H"], "W": width + j * found.modulus["W"]}
        for n, i, j in ((1, 0, 0), (2, 1, 0), (1, 0, 4), (3, 6, 9), (1, 11, 1))
    ]
    sizes.append({**found.smallest, "N": 5})
    sizes += [
        {"N": draw.randint(1, 3), "H": draw.randint(1, 700), "W": draw.randint(1, 700)}
        for _ in range(6 if len(found.rows) > MANY_NODES else 20)
    ]
    compared = 0
    for index, size in enumerate(sizes):
        try:
            exact = analyze(network(name, shape=(size["N"], channels, size["H"], size["W"])))
        except ConvsmithError:
            with pytest.raises(ConvsmithError):
                found.total.macs.at(**size)
            continue
        compared += 1
        for total in SUMS:
            expression, expected = getattr(found.total, total), getattr(exact.total, total)
            assert expression.at(**size) == expected
            if index < 6:  # in the class of the network's own size: the polynomials themselves
                assert max(part.at(size) for part in expression.parts) == expected
        for row, wanted in zip(found.rows, exact.rows, strict=True):
            check_texts(row.formula, row.outputs, wanted.macs, wanted.outputs, size, index < 6)
    assert 2 * compared > len(sizes)


def check_texts(
    formula: str,
    outputs: tuple[tuple[str, ...] | None, ...],
    macs: int,
    shapes: tuple[Shape | None, ...],
    size: Mapping[str, int],
    in_class: bool,
) -> None:
    """Floors hold at every size, polynomials in the class of the network's own size."""
    if formula:
        assert evaluated(formula, size) == macs
    for texts, shape in zip(outputs, shapes, strict=True):
        assert texts is not None
        assert shape is not None
        for text, expected in zip(texts, shape, strict=True):
            if "floor" in text or in_class:
                assert evaluated(text, size) == expected


def evaluated(text: str, size: Mapping[str, int]) -> float:
    names = {"floor": math.floor, **size}
    return float(eval(compiled(text), {"__builtins__": {}}, names))


@cache
def compiled(text: str) -> CodeType:
    return compile(text.replace("^", "**"), "<formula>", "eval")


def test_published_totals_are_values_of_the_polynomials() -> None:
    found, _ = zoo("resnet50")
    assert str(found.total.macs) == "81456*N*H*W + 2048000*N"
    assert found.total.macs.modulus == {"N": 1, "H": 32, "W": 32}
    assert found.total.macs.at(H=224, W=224) == 4_089_184_256
    assert found.total.macs.at(H=224, W=224, N=8) == 8 * 4_089_184_256
    assert found.total.params == 25_557_032
    assert found.rows[0].formula == "9408*N*floor((H + 1)/2)*floor((W + 1)/2)"
    assert found.smallest["H"] == 32


@pytest.mark.parametrize(
    ("text", "tried"),
    [
        ("2x1@7 > conv 1 3", {"H": range(3, 30), "W": (3, 8)}),
        ("3@20x30 > conv 4 3x5/2x3 p1 > maxpool 3/2 ceil > dw 3 d2 p2", {"H": range(9, 40)}),
        ("3@33 > conv 4 3/3 psame > deconv 2 4/2 p1 > up 3/2 > conv 2 3/2", {"H": range(5, 60)}),
        ("3@24 > conv 4 3 > adaptiveavgpool 5 > conv 2 3", {"H": range(7, 40), "W": (22, 23)}),
        ("8@14 > groupnorm 2 > [ - | gap > conv 8 1 > sigmoid > up 14 ]", {"W": (14,)}),
        ("<1,3,50> > conv 4 5/3 > relu > avgpool 2", {"L": range(10, 60)}),
        ("2@9x8x10 > conv 4 3/2 p1 > conv 2 3x1x1", {"D": range(5, 20), "H": (8, 9)}),
    ],
)
def test_every_size_of_small_networks(text: str, tried: Mapping[str, range]) -> None:
    graph = parse(text)
    found = symbolic(graph)
    for name, sizes in tried.items():
        for given in sizes:
            size = {**found.own, "N": 1, name: given}
            if found.fixed:
                size = dict(found.own)
            exact = analyze(resized(graph, size))
            for row, wanted in zip(found.rows, exact.rows, strict=False):
                known = {n: s for n, s in size.items() if n in found.own}
                for cost in COSTS:
                    assert getattr(row, cost).at(**known) == getattr(wanted, cost)
                check_texts(row.formula, row.outputs, wanted.macs, wanted.outputs, size, False)


def test_attention_costs_grow_with_the_square_of_the_area() -> None:
    found = symbolic(
        parse(
            """x : 4@8
            t = flatten 2,3 (x)
            u = transpose 0,2,1 (t)
            a = matmul (u t)
            s = softmax 2 (a)
            y = matmul (s u)
            return y"""
        )
    )
    rows = {row.name: row for row in found.rows}
    assert str(rows["a"].macs) == "4*N*H^2*W^2"
    assert rows["a"].outputs == (("N", "H*W", "H*W"),)
    assert found.total.macs.at(H=5, W=7) == 2 * 4 * 35**2


# What needs its own size --------------------------------------------------------------


def test_a_linear_layer_behind_a_flatten_fixes_the_size() -> None:
    graph = parse("1@28 > conv 6 5 p2 > relu > maxpool 2 > conv 16 5 > maxpool 2 > fc 120 > fc 10")
    found = symbolic(graph)
    exact = {row.name: row.macs for row in analyze(graph).rows}
    assert found.fixed == ("fc1",)
    assert found.fixed_layers == 2
    assert found.fixed_macs == exact["fc1"] + exact["fc2"]
    assert [row.name for row in found.rows][-1] == "flatten1"
    assert found.total.macs.at() == exact["conv1"] + exact["conv2"]
    assert found.total.macs.at(H=32, W=28) == 150 * 32 * 28 + 16 * 150 * 12 * 10
    assert "from fc1 on: made for 28 x 28" in str(found)


def test_a_branch_that_fixes_the_size_leaves_the_others() -> None:
    found = symbolic(
        parse("4@8 > [ conv 4 1 > flatten > fc 3 > reshape 1,3,1,1 > up 8 | conv 4 3 p1 ]")
    )
    assert found.fixed[0] == "fc1"
    assert [row.name for row in found.rows if row.macs.parts[0].degree] == ["conv1", "conv2"]


def test_a_batch_written_into_the_network_stays_a_number() -> None:
    found = symbolic(parse("x : 2x4@8\nc : constant <2,4,1,1>\ny = add (x c)\nreturn y"))
    assert found.own == {"H": 8, "W": 8}
    assert found.own == {"H": 8, "W": 8}
    assert found.inputs["x"] == ("2", "4", "H", "W")
    with pytest.raises(UsageError, match="there is no size 'N'; it has H, W"):
        found.total.macs.at(N=2)


def test_reading_again_keeps_what_was_written_for_one_size() -> None:
    def make(height: int, width: int) -> Graph:
        return parse(f"4@{height}x{width} > conv 4 1 > reshape 1,2,2,{height},{width} > relu")

    def again(shapes: Mapping[str, Shape]) -> Graph:
        return make(*shapes["x"][2:])

    assert symbolic(make(8, 8)).fixed == ("reshape1",)
    found = symbolic(make(8, 8), again)
    assert found.fixed == ()
    assert found.rows[-1].others.at(H=5, W=9) == 4 * 5 * 9


def test_inputs_of_one_size_change_together() -> None:
    found = symbolic(parse("a : 1@8\nb : 1@8\nc : <1,5>\ny = add (a b)\nreturn y"))
    assert found.inputs == {"a": ("N", "1", "H", "W"), "b": ("N", "1", "H", "W"), "c": ("1", "5")}
    assert str(found.total.adds) == "N*H*W"


# Fields and padding -------------------------------------------------------------------


def test_same_padding_depends_on_the_size_only_with_a_stride() -> None:
    found = symbolic(parse("3@32 > conv 4 3 psame > conv 4 3/2 psame > conv 4 1 > gap"))
    first, second, third, last = found.rows
    assert not first.padding_depends_on_size
    assert not first.rf_depends_on_size
    assert second.padding_depends_on_size
    assert second.rf_depends_on_size
    assert not third.padding_depends_on_size
    assert third.rf_depends_on_size  # what it sees is placed by the padding before it
    assert last.rf_depends_on_size
    assert second.rf.size == (5, 5)


def test_fields_are_those_of_the_analysis() -> None:
    graph = network("resnet18")
    assert [r.rf for r in symbolic(graph).rows] == [r.rf for r in analyze(graph).rows]


# Edges --------------------------------------------------------------------------------


def test_a_wrong_period_is_noticed_and_values_stay_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Family, "extra_period", lambda self, node: {})
    graph = parse("3@35 > adaptiveavgpool 5")
    found = symbolic(graph)
    assert found.rows[0].adds.parts == ()
    assert str(found.total.adds) == "no polynomial"
    for height in (35, 36, 40, 47):
        exact = analyze(resized(graph, {"N": 1, "H": height, "W": 35})).total.adds
        assert found.total.adds.at(H=height) == exact


def test_errors_say_what_is_missing() -> None:
    with pytest.raises(UsageError, match="no input of the network has image axes"):
        symbolic(parse("<1,4> > fc 2"))
    with pytest.raises(UsageError, match="symbolic needs a network, not str"):
        symbolic("3@8 > relu")  # type: ignore[arg-type]
    found = symbolic(parse("3@8 > conv 4 5"))
    with pytest.raises(UsageError, match="there is no size 'X'; it has N, H, W"):
        found.total.macs.at(X=3)
    with pytest.raises(UsageError, match="H is 0; give sizes of at least 1"):
        found.total.macs.at(H=0)
    with pytest.raises(ShapeError, match="kernel 5x5 does not fit input 4x8"):
        found.total.macs.at(H=4)


def test_what_is_not_known_is_named() -> None:
    found = symbolic(parse("x : 3@8\na = conv 4 3 (x)\ny = unsupported Odd (a)\nreturn y"))
    assert found.unsupported == ("y",)
    assert found.rows[1].outputs == (None,)
    assert "not counted (?): y" in str(found)


@pytest.mark.parametrize("form", ["text", "json", "csv", "markdown", "html"])
def test_every_form_has_the_formula(form: str) -> None:
    rendered = render(symbolic(parse("3@224 > conv 64 7/2 p3")), form, width=150)
    assert "9408*N*floor((H + 1)/2)*floor((W + 1)/2)" in rendered.replace("\\", "")


def test_command_line() -> None:
    result = CliRunner().invoke(app, ["analyze", "zoo:resnet18", "--symbolic", "--json"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["schema"] == "convsmith.symbolic/1"
    assert data["fixed"] == []
    assert data["modulus"] == {"N": 1, "H": 32, "W": 32}
    (terms,) = data["total"]["macs"]["largest_of"]
    value = sum(
        Fraction(term["coefficient"])
        * math.prod({"N": 1, "H": 224, "W": 224}[n] ** e for n, e in term["exponents"].items())
        for term in terms
    )
    assert value == analyze(network("resnet18")).total.macs
