"""What ``cs.merge`` merges, what it leaves alone, and what it says about both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_weights import data_of, random_network, with_data

import convsmith as cs
from convsmith.errors import DataError, UsageError
from convsmith.graph import Graph, operator_text, parse
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite.merging import DEFAULT_RULES, RULES, Merging

Array = npt.NDArray[Any]


SHARED = "conv 4 3 p1 {weight = w bias = v}"


def network(notation: str) -> Graph:
    return random_network(notation, dtype="float64")


def filled(net: Graph, values: Mapping[str, float]) -> Graph:
    """Random weights, and constants of one value."""
    constants = dict(net.constants)
    for name, constant in constants.items():
        if name in values:
            data = np.full(constant.shape, values[name])
        elif name.endswith("variance"):
            data = np.random.default_rng(2).uniform(0.5, 2, constant.shape)
        else:
            data = np.random.default_rng(3).normal(size=constant.shape)
        constants[name] = replace(constant, dtype="float64", data=data)
    return replace(net, constants=constants)


def checked(net: Graph, **options: Any) -> Merging[Graph]:
    """The merging of a network, whose outputs must be the same."""
    made = cs.merge(net, **options)
    inputs = {value.name: np.random.default_rng(1).normal(size=value.shape) for value in net.inputs}
    before, after = evaluate(net, inputs), evaluate(made.net, inputs)
    for one, two in zip(net.outputs, made.net.outputs, strict=True):
        assert one.name == two.name
        wanted, found = before[one.value], after[two.value]
        np.testing.assert_allclose(found, wanted, atol=1e-11 * np.abs(wanted).max())
    return made


def texts(net: Graph) -> list[str]:
    return [operator_text(node.op) for node in net.nodes]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("4@9 > conv 6 3 p1 nobias > bn", "conv 6 3 p1"),
        ("4@9x7x5 > conv 6 3 g2 > bn > bn", "conv 6 3 g2"),
        ("4@9 > deconv 6 3/2 p1 > bn", "deconv 6 3/2 p1"),
        ("4@9 > gap > flatten > fc 6 nobias > bn > relu", "gap > flatten > fc 6 > relu"),
        ("4@9 > bn > conv 6 3 > relu", "conv 6 3 > relu"),
        ("4@9 > bn > conv 6 1 > bn > relu", "conv 6 1 > relu"),
        ("4@9 > bn > conv 6 3 p1", "bn > conv 6 3 p1"),
        ("4@9 > relu > bn > relu", "relu > bn > relu"),
        ("4@9 > conv 6 3 p1 > relu > bn", "conv 6 3 p1 > relu > bn"),
        ("4@9 > conv 6 3 p1 > groupnorm 2", "conv 6 3 p1 > groupnorm 2"),
        # sums: a kernel that has the taps of both
        ("4@9 > ( conv 4 3 p1 + conv 4 1 )", "conv 4 3 p1"),
        ("4@9 > ( conv 4 3 p1 + - )", "conv 4 3 p1"),
        ("4@9 > ( conv 4 3 p1 g4 + bn )", "conv 4 3 p1 g4"),
        ("4@9 > ( conv 4 3 p1 + dw 3 p1 )", "conv 4 3 p1"),
        ("4@9 > ( conv 4 5 p2 + conv 4 3 p2 d2 + conv 4 1x3 p0x1 )", "conv 4 5 p2"),
        ("4@9 > ( conv 8 3/2 p1 + conv 8 1/2 )", "conv 8 3/2 p1"),
        ("4@9 > ( conv 4 3 + conv 4 3 )", "conv 4 3"),
        ("4@9 > ( conv 4 3 psame + conv 4 2 psame )", "conv 4 3 p1"),
        ("4@9 > ( conv 4 1x3 p0x1 + conv 4 3x1 p1x0 )", None),  # 9 taps for 6
        ("4@9 > ( conv 4 3 p1 + conv 4 3 d3 p3 )", None),  # 49 taps for 18
        ("4@9 > ( dw 5 p2 + conv 4 1 )", None),  # 25 dense taps for one
        ("4@8 > ( conv 4 3/2 psame + conv 4 1/2 )", None),  # where the 1x1 lies depends on the size
        # in a row: where no border is padded in between
        ("4@9 > conv 4 3 p1 > conv 4 1", "conv 4 3 p1"),
        ("4@9 > conv 8 3/2 p1 d2 > conv 4 1", "conv 4 3/2 p1 d2"),
        ("4@9 > conv 4 1 > conv 4 3", "conv 4 3"),
        ("4@9 > conv 4 1 > conv 4 3 p1", None),
        ("4@9 > conv 4 1 nobias > conv 4 3 p1", "conv 4 3 p1"),
        ("4@9 > conv 4 1/2 nobias > conv 4 1/2", "conv 4 1/4"),
        ("1@9 > conv 8 3 > conv 1 3", "conv 1 5"),
        ("1@19 > conv 8 3/2 p1 > conv 1 3/2", "conv 1 7/4 p1"),
        ("1@9 > conv 8 3 p1 > conv 1 3 p1", None),
        ("16@9 > conv 2 1 nobias > conv 16 3 p1", None),  # a bottleneck saves
        ("4@9 > dw 3 p1 > dw 1", "dw 3 p1"),
        ("4@9 > deconv 4 3/2 > conv 4 1", "deconv 4 3/2"),
        ("4@9 > gap > flatten > fc 8 > fc 4", "gap > flatten > fc 4"),
        ("4@9 > conv 4 3 p1 > dropout > bn > identity > conv 4 1", "conv 4 3 p1"),
    ],
)
def test_what_becomes_one(before: str, after: str | None) -> None:
    net = network(before)
    made = checked(net)
    if after is None:
        assert made.net is net
        assert any(": not merged: " in note for note in made.notes)
    else:
        shape = before.partition(" > ")[0]
        assert texts(made.net) == texts(parse(f"{shape} > {after}"))


def test_an_identity_kernel_a_scalar_and_a_sign() -> None:
    net = parse(
        """x : 4@9
        two : constant <>
        per : constant <4,1,1>
        a = conv 4 3 p1 nobias (x)
        b = mul (two a)
        c = sub (per b)
        d = neg (c)
        e = div (d two)
        f = sub (x e)
        return f"""
    )
    net = filled(net, {"two": 2.0})
    made = checked(net)
    assert texts(made.net) == ["conv 4 3 p1"]
    weight = data_of(made.net, "a.weight")
    # f = x - -(per - 2 a) / 2 = x + per / 2 - a
    wanted = -data_of(net, "a.weight")
    wanted[range(4), range(4), 1, 1] += 1
    np.testing.assert_allclose(weight, wanted, atol=1e-12)


@pytest.mark.parametrize("sum_too", [False, True])
def test_a_layer_scale_goes_through_a_transpose(sum_too: bool) -> None:
    scaled = "sub (s u)" if sum_too else "mul (t s)"
    net = parse(
        f"""x : 4@7x5
        s : parameter <4,1,1>
        r = transpose 0,2,3,1 (x)
        a = fc 6 (r)
        b = gelu (a)
        c = fc 4 nobias (b)
        t = transpose 0,3,2,1 (c)
        u = transpose 0,1,3,2 (t)
        m = {scaled.replace("t s", "u s")}
        y = add (m x)
        return y"""
    )
    made = checked(filled(net, {}))
    names = [node.name for node in made.net.nodes]
    assert names == ["r", "a", "b", "c", "t", "u", "y"]
    assert "s" not in made.net.constants


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("c = conv 4 3 p1 (x)\nb = bn (c)\nr = relu (c)\nreturn b r", "c is also read by r"),
        ("c = conv 4 3 p1 (x)\nb = bn (c)\nreturn b c", "c is an output of the network"),
        ("c = conv 4 3 p1 (x)\nd = add (c c)\nreturn d", ""),
        (
            f"c = {SHARED} (x)\nd = {SHARED} (c)\nb = bn (d)\nreturn b",
            "another layer has the same weights",
        ),
        ("b = bn (x)\nc = conv 4 3 p1 (b)\nreturn c", "its shift is missing in the border"),
    ],
)
def test_what_stays(lines: str, reason: str) -> None:
    shared = "w : parameter <4,4,3,3>\nv : parameter <4>\n" if SHARED in lines else ""
    net = filled(parse(f"x : 4@9\n{shared}{lines}"), {})
    made = checked(net)
    assert made.net is net
    assert not made.merges
    assert bool(made.notes) == bool(reason)
    assert any(reason in note for note in made.notes) or not reason


def test_a_norm_that_only_scales_goes_into_a_padded_convolution() -> None:
    net = with_data(network("4@9 > bn > conv 6 3 p1"), bn1__mean=np.zeros(4), bn1__bias=np.zeros(4))
    assert texts(checked(net).net) == ["conv 6 3 p1"]


def test_layers_that_do_nothing_go() -> None:
    net = network("4@9 > relu > conv 4 3 p1 nobias > relu > dropout > identity > dw 1 > relu")
    weight = np.zeros((4, 4, 3, 3))
    weight[range(4), range(4), 1, 1] = 1
    net = with_data(net, conv1__weight=weight, dw1__weight=np.ones((4, 1, 1, 1)),
                    dw1__bias=np.zeros(4))  # fmt: skip
    made = checked(net)
    assert texts(made.net) == ["relu"] * 3
    assert {step.kind for step in made.merges} == {"identity"}
    assert made.merges[0].into == "relu1"
    weight[0, 0, 1, 1] = 1 + 1e-15
    assert "conv 4 3 p1 nobias" in texts(checked(with_data(net, conv1__weight=weight)).net)


def test_an_output_keeps_a_value_of_its_own() -> None:
    assert texts(checked(network("4@9 > dropout")).net) == ["dropout"]
    net = filled(parse("x : 4@9\na = relu (x)\nb = dropout (a)\nreturn a b"), {})
    assert checked(net).net is net


@pytest.mark.parametrize("rules", [None, {"zero"}])
def test_a_branch_of_zeros_goes_with_all_that_serves_it(rules: set[str] | None) -> None:
    net = network("4@9 > ( relu > conv 4 3 p1 > relu + tanh > conv 4 1 > gelu > conv 4 1 )")
    last = net.nodes[-2].name
    zero = {f"{last}.weight": np.zeros((4, 4, 1, 1)), f"{last}.bias": np.zeros(4)}
    net = with_data(net, **{name.replace(".", "__"): data for name, data in zero.items()})
    made = checked(net, rules=rules)
    assert texts(made.net) == ["relu", "conv 4 3 p1", "relu"]
    assert made.merges[0].kind == "zero"
    assert len(made.merges[0].layers) == 5


def test_concatenations_are_widened_only_when_asked() -> None:
    net = network("4@9 > [ conv 3 3 p1 nobias | conv 5 3 p1 | conv 2 1 | conv 4 1 | relu ]")
    assert checked(net).net is net
    made = checked(net, rules={"concat"})
    assert texts(made.net) == ["conv 8 3 p1", "conv 6 1", "relu", "concat"]
    assert made.before.macs == made.after.macs
    whole = checked(network("4@9 > [ conv 3 3 | conv 5 3 ] > relu"), rules={"concat"})
    assert texts(whole.net) == ["conv 8 3", "relu"]
    assert "concat" not in DEFAULT_RULES


def test_nodes_say_where_they_come_from() -> None:
    made = cs.merge(network("4@9 > ( conv 4 3 p1 > bn + conv 4 1 > bn ) > relu"))
    (conv, _) = made.net.nodes
    assert conv.provenance.replaces == "add1"
    assert [(step.kind, step.layers, step.into) for step in made.merges] == [
        ("norm", ("conv1", "bn1"), "conv1"),
        ("norm", ("conv2", "bn2"), "conv2"),
        ("parallel", ("conv1", "conv2", "add1"), "conv1"),
    ]
    assert [(s.macs_before, s.macs_after) for s in made.merges] == [
        (11664, 11664),
        (1296, 1296),
        (12960, 11664),
    ]
    assert [(s.params_before, s.params_after) for s in made.merges] == [
        (156, 148),
        (28, 20),
        (168, 148),
    ]


def test_a_bias_may_take_the_place_of_what_is_no_parameter() -> None:
    net = parse("4@9 > conv 6 3 nobias > bn")
    plain = replace(net.nodes[-1].op, affine=False)  # type: ignore[call-arg]
    node = replace(net.nodes[-1], op=plain, parameters=net.nodes[-1].parameters[2:])
    net = filled(replace(net, nodes=(net.nodes[0], node)), {})
    (step,) = checked(net).merges
    assert (step.params_before, step.params_after) == (216, 222)
    assert step.note == "the bias stands for numbers that do not count as parameters"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bn1.variance", -0.1, "bn1: 1 of its 6 variances are negative, down to -0.1"),
        ("bn1.variance", np.nan, "bn1: 1 of the 6 elements of its variance are not finite"),
        ("bn1.weight", np.inf, "bn1: 1 of the 6 elements of its weight are not finite"),
        ("conv1.bias", np.nan, "conv1: 1 of the 6 elements of its bias are not finite"),
    ],
)
def test_broken_numbers_are_errors(name: str, value: float, message: str) -> None:
    net = network("4@9 > conv 6 3 > bn")
    data = data_of(net, name).copy()
    data.reshape(-1)[2] = value
    with pytest.raises(DataError, match=f"^{message}"):
        cs.merge(with_data(net, **{name.replace(".", "__"): data}))


def test_a_division_by_zero_is_an_error() -> None:
    net = network("4@9 > conv 6 3 > bn")
    node = replace(net.nodes[1], op=replace(net.nodes[1].op, epsilon=0.0))  # type: ignore[call-arg]
    net = with_data(replace(net, nodes=(net.nodes[0], node)), bn1__variance=np.zeros(6))
    with pytest.raises(DataError, match=r"^bn1: a variance and epsilon are both 0"):
        cs.merge(net)


def test_absent_weights_and_unknown_rules_are_errors() -> None:
    with pytest.raises(DataError, match=r"^bn1: its tensor 'bn1.weight' has no weights"):
        cs.merge(parse("4@9 > conv 6 3 > bn"))
    with pytest.raises(UsageError, match=r"there is no rule 'bn'; choose among identity, norm"):
        cs.merge(network("4@9 > conv 6 3 > bn"), rules=["bn", "norm"])
    with pytest.raises(UsageError, match=r"type str is neither a graph nor a module; read it"):
        cs.merge("4@9 > conv 6 3 > bn")  # type: ignore[type-var]
    with pytest.raises(UsageError, match=r"a graph has sizes of its own"):
        cs.merge(network("4@9 > conv 6 3 > bn"), input=(1, 4, 9, 9))
    assert cs.merge(network("4@9 > conv 6 3 > bn"), rules="norm").merges


def test_weights_that_do_not_fit_their_type_are_not_merged() -> None:
    net = random_network("4@9 > conv 6 3 > bn", dtype="float16")
    big = np.full(6, 6e4, np.float16)
    made = cs.merge(with_data(net, bn1__weight=big, conv1__bias=big))
    assert not made.merges
    assert made.notes == ("conv1 + bn1: not merged: the merged weights are too large for float16",)
    assert cs.merge(net).net.constants["conv1.weight"].dtype == "float16"


def test_denormals_are_flushed() -> None:
    net = random_network("4@9 > conv 6 3 > bn")
    made = cs.merge(with_data(net, bn1__weight=np.full(6, 1e-38, np.float32)))
    weight = data_of(made.net, "conv1.weight")
    assert not np.any((weight != 0) & (np.abs(weight) < np.finfo(np.float32).tiny))
    assert (weight == 0).any()


def test_unknown_operators_are_passed_by() -> None:
    net = random_network("4@9 > conv 4 3 > bn > unsupported Magic > relu")
    made = cs.merge(net)
    assert texts(made.net) == ["conv 4 3", "unsupported Magic ?", "relu"]


def test_the_original_stays_and_every_step_is_reported() -> None:
    net = network("4@9 > ( conv 4 3 p1 > bn + conv 4 1 > bn + bn ) > relu")
    text, arrays = str(net), {name: data_of(net, name).copy() for name in net.constants}
    seen: list[tuple[str, int, int]] = []
    made = cs.merge(net, progress=lambda *step: seen.append(step))
    assert str(net) == text
    assert all(np.array_equal(data_of(net, name), array) for name, array in arrays.items())
    assert [done for _, done, _ in seen] == list(range(1, len(made.merges) + 1))
    assert made.net.constants.keys() == {"conv1.weight", "conv1.bias"}


def test_it_prints_and_is_json() -> None:
    made = cs.merge(network("4@9 > ( conv 4 3 p1 > bn + conv 4 1 > bn ) > relu > bn > conv 4 3 p1"))
    data = made.to_dict()
    assert data["schema"] == "convsmith.merging/1"
    assert [step["kind"] for step in data["merges"]] == ["norm", "norm", "parallel"]
    assert data["before"]["layers"] == 8
    assert data["after"]["layers"] == 4
    lines = str(made).splitlines()
    assert lines[1] == "3 merges, exact up to rounding"
    row = next(line for line in lines if line.startswith("parallel"))
    assert " ".join(row.split()) == "parallel conv1 conv1 + conv2 + add1 13.0 k 11.7 k"
    assert any(line.startswith("bn3 + conv3: not merged: its shift is missing") for line in lines)
    assert max(map(len, lines)) <= 80
    assert "nothing to merge" in str(cs.merge(network("4@9 > relu")))


def test_every_rule_has_a_name_that_is_described() -> None:
    assert cs.merge.__doc__ is not None
    assert all(f"``{name}``" in cs.merge.__doc__ for name in RULES)
