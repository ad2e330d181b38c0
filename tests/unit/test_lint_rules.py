"""Every rule: a network that triggers it, with its exact words, and networks that almost do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper
from tests.random_weights import data_of, random_network, with_data

import convsmith as cs
from convsmith.graph import Graph, parse
from convsmith.linting import RULES, Findings, Rule, lint

Array = npt.NDArray[Any]

NAMES = [rule.code for rule in RULES]

SAYS: dict[str, list[tuple[str, str]]] = {
    "C003": [
        (
            "conv1",
            (
                "2 of its 12 windows along axes 2 and 3 see only padding: 3 before and 3 behind 8"
                " elements, for an extent of 3"
            ),
        )
    ],
    "C004": [
        (
            "conv1",
            (
                "its kernel is 1 along axes 2 and 3 but padded by 1 and 1: 2 of 30 outputs see no"
                " input"
            ),
        )
    ],
    "C005": [
        ("b", "no output depends on it; it has 112 parameters and 3,888 multiply-accumulates")
    ],
    "C006": [("mask", "no layer reads this input of shape 1x1x8x8")],
    "C007": [("w", "no layer reads this tensor of 108 elements")],
    "C008": [("softmax2", "it normalizes what softmax1 has already put between 0 and 1")],
    "C009": [("softmax1", "axis 1 of 1x1 has size 1: the output is always 1")],
    "C010": [("relu2", "its input lies between -inf and 0, where its output is always 0")],
    "C011": [
        (
            "instancenorm1",
            "it normalizes sets of 1 element of 1x16x1x1: the output does not depend on the input",
        )
    ],
    "C012": [("y", "4x1 and 4 are both stretched to 4x4")],
    "C013": [("b", "it computes what a computes, with the same weights, and c takes both")],
    "S101": [
        (
            "conv1",
            (
                "13 of 27 positions along axes 2 and 3 of relu1 are read by no window (kernel 1,"
                " stride 2)"
            ),
        )
    ],
    "S102": [
        (
            "maxpool1",
            (
                "the last position of 29 along axes 2 and 3 of relu1 is read by no window (kernel"
                " 2, stride 2, padding 0 and 0)"
            ),
        )
    ],
    "S103": [
        (
            "conv3",
            (
                "the run of 3 windows that ends here (dilations 2, 2, 2) sees 7 of the 13 positions"
                " of its field along axis 2, up to 2 apart"
            ),
        )
    ],
    "S104": [
        (
            "deconv1",
            "along axes 2 and 3, kernel 3 and stride 2 give some outputs 1 and others 2 products",
        )
    ],
    "S105": [
        (
            "conv1",
            (
                "extent 4 with padding 2 on both sides turns 32 positions along axes 2 and 3 into"
                " 33 and shifts them by half a pixel"
            ),
        )
    ],
    "S106": [("conv1", "only 1 of its 9 taps ever meets its input of 1x1")],
    "S107": [("avgpool1", "the first average along axis 2 divides 2 elements by 3")],
    "S201": [("conv2", "it sees 7x7 pixels, the input has 64x64")],
    "S202": [
        ("conv3", "anchors of 16 pixels stand 8 pixels apart, more than 16 / 4"),
        ("conv3", "it sees 15 pixels, its anchor is 16 wide"),
    ],
    "S203": [
        (
            "concat1",
            (
                "output 0 of conv2 is centred on pixel 0, that of conv1 on pixel 1: off by 1, at"
                " stride 1"
            ),
        )
    ],
    "S301": [("conv1", "bn1 subtracts its bias of 4 numbers again")],
    "S302": [
        ("conv1", "256 channels pass through 8 to become 256 in conv2: their rank is at most 8")
    ],
    "S303": [("conv21", "layer 21 in a row since conv1 without normalization or shortcut")],
    "S304": [("relu2", "its input already lies between 0 and inf")],
    "S305": [("bn2", "it normalizes what bn1 has just normalized")],
    "S306": [("conv2", "its 4 groups and the 4 of conv1 keep 4 parts of the channels apart")],
    "N307": [("instancenorm1", "its epsilon is 1e-09")],
    "N308": [("log1", "softmax1 rounds probabilities to 0, whose logarithm is minus infinity")],
    "N309": [
        (
            "log1",
            "its input can be as small as 0; the log of a number that is at most 0 is not defined",
        )
    ],
    "P101": [
        (
            "conv1",
            (
                "5x5 from 64 to 64 channels takes 102,400 multiply-accumulates per position, 2"
                " layers of 3x3 take 73,728: 28% fewer"
            ),
        )
    ],
    "P102": [("dw1", "1,806,336 multiply-accumulates for 1,608,192 bytes: 1.12 a byte")],
    "P103": [("conv1", "33 channels are computed as 40: 18% for nothing")],
    "P104": [("conv1", "its 32 groups read 4 and make 4 channels each, for vectors of 8")],
    "P105": [
        (
            "conv4",
            (
                "its input sees 63x63 pixels of an image of 32x32; it takes 2,304"
                " multiply-accumulates"
            ),
        )
    ],
    "P106": [
        (
            "maxpool1",
            (
                "1,114,112 bytes are alive while it runs (conv1 and maxpool1); at most 32,768 while"
                " layers apart from it run, 32,768 at the median"
            ),
        )
    ],
    "P107": [("fc1", "313,700 of 350,628 parameters (89%), for 3,136 flattened elements")],
    "P201": [("relu1", "8,192 activations before maxpool1, 2,048 behind it")],
    "P202": [("adaptiveavgpool1", "its output equals its input")],
    "P203": [("transpose2", "it undoes transpose1")],
    "P204": [
        (
            "conv2",
            (
                "with conv1 it takes 8,830,976 multiply-accumulates, one layer in their place"
                " 3,612,672"
            ),
        )
    ],
    "P205": [("maxpool2", "with maxpool1 it is one pooling of kernel 4x4 and stride 4x4")],
    "P206": [("b", "a computes the same from the same input")],
    "P207": [("conv1", "25,690,112 multiply-accumulates behind up1, 6,422,528 before it")],
    "P208": [("conv1", "102,760,448 multiply-accumulates before avgpool1, 25,690,112 behind it")],
    "D401": [("unsupported1", "MyOp is not known")],
    "D402": [("maxpool1", "its output is 28x28; it would be 27x27 rounded down")],
    "D403": [("up1", "it is linear with align_corners")],
    "D404": [("conv1", "0 before and 1 behind, along axes 2 and 3")],
    "D405": [("reshape1", "its shape 1,256 begins with the batch size 1")],
    "D406": [("reshape1", "its output 1x2x2x4x8x8 has 6 axes")],
    "D407": [("lrn1", "normalizes 1x64x28x28 over 5 channels")],
    "D410": [("x", "this input of shape 1x3x8x8 is float64")],
}
"""What each rule says about the example of its page; counted by hand."""


def spoiled(name: str, value: float, *, at: Any = 0, notation: str = "") -> Graph:
    """A network with random weights, and one number in it that is not."""
    net = random_network(notation or "3@8 > conv 4 3 nobias > bn > relu")
    data = data_of(net, name).copy()
    data.reshape(-1)[at] = value
    return with_data(net, **{name.replace(".", "__"): data})


def like(scale: float) -> Graph:
    net = random_network("8@8 > dw 3 p1")
    weight = np.ones((8, 1, 3, 3), np.float32)
    weight[0] = scale
    return with_data(net, dw1__weight=weight)


def blur(taps: list[float]) -> Graph:
    """One channel, one separable kernel, stride 2."""
    net = random_network("1@32 > conv 1 3/2 p1 nobias")
    return with_data(net, conv1__weight=np.outer(taps, taps)[None, None].astype(np.float32))


def copied(difference: float) -> Graph:
    net = random_network("3@8 > conv 4 3")
    weight, bias = data_of(net, "conv1.weight").copy(), data_of(net, "conv1.bias").copy()
    weight[3], bias[3] = weight[0], bias[0] + difference
    return with_data(net, conv1__weight=weight, conv1__bias=bias)


def of_opset(version: int) -> Graph:
    shape = (1, 2, 4, 4)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        ),
        opset_imports=[helper.make_opsetid("", version)],
    )
    assert isinstance(model, onnx.ModelProto)
    net = parse("2@4 > relu")
    return replace(net, origin=type("Origin", (), {"model": model})())


EQUAL = np.full((4, 3, 3, 3), 0.1, np.float32)
BUMPED = np.where(np.arange(108).reshape(EQUAL.shape) == 5, 0.2, EQUAL).astype(np.float32)

NUMBERS: dict[str, tuple[Callable[[], Graph], str, Callable[[], Graph]]] = {
    "C001": (
        lambda: spoiled("conv1.weight", np.nan),
        "1 of the 108 numbers of its weight are not finite",
        lambda: spoiled("conv1.weight", 3e38),
    ),
    "C002": (
        lambda: spoiled("bn1.variance", -0.1),
        "1 of its 4 variances are negative, down to -0.1",
        lambda: spoiled("bn1.variance", 0.0),
    ),
    "S108": (
        lambda: blur([-1, 2, -1]),  # below pi/2: ((3 pi/4 - 2) / (3 pi/2))^2 = 0.6 %
        (
            "99.4% of the energy of its kernels lies above the Nyquist limit of stride 2x2; white"
            " noise has 75.0%"
        ),
        lambda: blur([0, 1, 0]),
    ),
    "N301": (
        lambda: spoiled("conv1.weight", 1e-40),
        "1 of the 108 numbers of its weight are denormal (below 1.2e-38)",
        lambda: spoiled("conv1.weight", 2e-38),
    ),
    "N302": (
        lambda: spoiled("bn1.variance", 1e-12),
        "1 of its 4 variances are below epsilon (1e-05), down to 1e-12",
        lambda: spoiled("bn1.variance", 1.1e-5),
    ),
    "N303": (
        lambda: spoiled("conv1.weight", 0.0, at=slice(54, 81)),
        "1 of its 4 filters are zero: 2",
        lambda: spoiled("conv1.weight", 0.0, at=slice(54, 80)),
    ),
    "N304": (
        lambda: copied(0.0),
        "1 of its 4 filters are copies of another one",
        lambda: copied(1e-3),
    ),
    "N305": (
        lambda: spoiled("conv1.weight", 70000.0),
        "its largest weight is 70,000, half precision ends at 65,504",
        lambda: spoiled("conv1.weight", 8000.0),
    ),
    "N306": (
        lambda: spoiled("bn1.weight", 0.0),
        "1 of its 4 scales are 0",
        lambda: spoiled("bn1.weight", 1e-6),
    ),
    "N310": (
        lambda: with_data(random_network("3@8 > conv 4 3"), conv1__weight=EQUAL),
        "all 108 weights are 0.1",
        lambda: with_data(random_network("3@8 > conv 4 3"), conv1__weight=BUMPED),
    ),
    "D408": (
        lambda: like(1000.0),
        "its filters reach from 1 to 1e+03: a factor of 1,000",
        lambda: like(255.0),
    ),
    "D409": (
        lambda: of_opset(12),
        "the file uses operator set 12",
        lambda: of_opset(13),
    ),
}
"""Rules about numbers: what triggers them, what they say, and what almost does."""

ALMOST: dict[str, list[str]] = {
    "C003": ["3@8 > maxpool 3/2 p1", "3@8 > conv 4 3 p4 d2", "3@4 > deconv 4 3 p2"],
    "C004": ["3@8 > conv 4 3x1 p1x0", "3@8 > conv 4 1/2", "3@8 > pad 0,0,1,1,0,0,1,1 > conv 4 1"],
    "C005": ["3@8 > ( conv 3 3 p1 + - )"],
    "C008": ["8@4 > softmax > conv 8 1 > softmax", "8@4 > relu > flatten > softmax"],
    "C009": ["8@1 > softmax", "<2,8,1> > softmax"],
    "C010": ["3@8 > relu > clip low=0 high=1", "3@8 > sigmoid > neg > elu"],
    "C011": ["16@2 > instancenorm", "16@7 > gap > bn", "16@7 > gap > groupnorm 8"],
    "C012": ["x : 16@7\ng = gap (x)\ns = sigmoid (g)\ny = mul (x s)\nreturn y"],
    "S101": [
        "64@28 > relu > conv 8 3/3",
        "64@28 > ( conv 8 1/2 + conv 8 3/2 p1 )",
        "64@28 > conv 8 3/2 p3 d3",
        "8@1 > conv 8 1/2",
    ],
    "S102": [
        "8@29 > maxpool 2/2 ceil",
        "8@28 > conv 8 3/2 p1",
        "8@29 > [ maxpool 2/2 | conv 8 3/2 p0,0,1,1 > maxpool 1 ]",
    ],
    "S103": [
        "3@64 > conv 8 5/2 p2 > ( conv 8 3 p2 d2 + - )",
        "3@64 > conv 8 3 p1 > conv 8 3 p3 d3",
        "3@64 > conv 8 2 d2 > conv 8 2 p1",
    ],
    "S104": ["64@14 > deconv 32 2/2", "64@14 > deconv 32 3 p1", "64@14 > deconv 32 6/3 d2"],
    "S105": ["16@32 > conv 16 2", "16@32 > conv 16 4/2 p1", "16@32 > maxpool 2/1 p1"],
    "S106": ["8@3 > conv 8 5 p2", "8@13 > conv 8 3 p12 d12", "8@1 > maxpool 3/1 p1"],
    "S107": ["8@28 > avgpool 3/1", "8@28 > maxpool 3/1 p1"],
    "S201": ["3@64 > conv 8 3 p1 > relu", "3@7 > conv 8 7 p3 > gap > fc 10"],
    "S203": [
        "8@16 > ( conv 8 3 p1 > conv 8 5 p2 + - )",
        "8@16 > [ maxpool 2/2 > conv 8 3 p1 > up 2 | conv 8 3 p1 ]",
        "8@16 > [ maxpool 2/2 | conv 8 3/2 p1 ]",
    ],
    "S301": ["3@8 > conv 4 3 > relu > bn", "3@8 > conv 4 3 > instancenorm"],
    "S302": ["256@14 > gap > conv 8 1 > relu > conv 256 1", "256@14 > conv 8 1 > relu > conv 64 1"],
    "S303": ["3@32 > ( conv 8 3 p1 > relu ) x12 > bn > ( conv 8 3 p1 > relu ) x12"],
    "S304": ["3@8 > tanh > relu", "3@8 > relu > relu6", "3@8 > relu > conv 4 1 > relu"],
    "S305": ["3@8 > bn > conv 4 1 > bn"],
    "S306": ["8@8 > dw 3 p1 > dw 3 p1", "60@8 > conv 60 3 p1 g4 > conv 60 3 p1 g3 > relu"],
    "N307": ["3@8 > conv 3 1 nobias > bn eps=1e-06"],
    "N308": ["8@4 > softmax > sqrt", "8@4 > conv 8 1 > log", "8@4 > logsoftmax > log"],
    "N309": ["3@8 > sigmoid > log", "3@8 > log", "3@8 > exp > reciprocal > sqrt"],
    "P101": ["64@28 > conv 64 5/2 p2", "64@28 > conv 64 4 p1", "64@28 > conv 64 5 p2 g2"],
    "P102": ["64@56 > conv 64 3 p1", "1@56 > conv 1 3 p1"],
    "P103": [
        "16@28 > conv 3 3 p1 > relu > conv 16 1",
        "16@28 > conv 33 3 p1",
        "16@28 > conv 257 3 p1 > relu > conv 16 1",
    ],
    "P104": ["64@14 > dw 3 p1", "64@14 > conv 64 3 p1"],
    "P105": [
        "3@32 > conv 8 7/4 p3 > conv 8 7/4 p3 > ( conv 8 3 p1 + - ) > conv 8 1",
        "3@32 > conv 8 31 p15 > conv 8 3 p1",
    ],
    "P106": ["3@64 > conv 64 3 p1 > relu"],
    "P107": ["64@1 > flatten > fc 1000", "8@4 > conv 256 3 p1 > flatten > fc 4"],
    "P201": ["3@8 > silu > maxpool 2/2", "3@8 > relu > avgpool 2/2", "3@8 > relu > maxpool 3/1 p1"],
    "P202": ["3@8 > maxpool 3/1 p1", "3@8 > identity", "3@8 > transpose 0,1,3,2"],
    "P203": ["8@16 > transpose 0,2,3,1 > bn > transpose 0,3,1,2"],
    "P204": [
        "24@14 > conv 144 1 nobias > bn > relu6 > conv 24 1",
        "8@14 > conv 8 3 p1 > conv 8 3 p1",
        "8@14 > dw 3 p1 > conv 8 1",
    ],
    "P205": ["8@16 > maxpool 2/2 > avgpool 2/2", "8@16 > avgpool 3/2 > avgpool 2/2"],
    "P206": ["8@16 > [ conv 4 1 | conv 4 1 ]"],
    "P207": ["8@14 > up 2 cubic half_pixel > conv 4 1", "8@14 > up 2 > relu > conv 4 1"],
    "P208": ["8@16 > conv 4 1 > maxpool 2/2", "8@16 > conv 4 1 > avgpool 3/2 p1"],
    "D402": ["64@56 > maxpool 2/2 ceil"],
    "D403": ["16@14 > up 2", "16@14 > up 1 linear align_corners"],
    "D404": ["3@224 > conv 32 3 psame"],
    "D405": ["16@4 > reshape 4,64", "2x16@4 > reshape -1,256"],
    "D406": ["16@8 > reshape 1,4,4,8,8"],
    "D407": ["8@8 > groupnorm 2"],
}
"""More networks that come close."""


def run(rule: Rule, net: Graph) -> Findings:
    found = lint(net, select=rule.code, anchors={"conv3": 16} if rule.code == "S202" else None)
    assert not found.not_checked or rule.needs
    return found


def test_every_rule_has_a_network_that_triggers_it_and_one_that_almost_does() -> None:
    housekeeping = {"S901", "S902"}  # in the tests of the engine
    assert set(SAYS) | set(NUMBERS) | housekeeping == set(NAMES)
    assert not set(SAYS) & set(NUMBERS)
    assert all(rule.fine for rule in RULES)
    assert set(ALMOST) <= set(SAYS)


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.code in SAYS], ids=lambda r: r.code
)
def test_the_example_of_the_page_triggers_the_rule(rule: Rule) -> None:
    found = run(rule, parse(rule.example))
    assert [(f.layer, f.message) for f in found.findings] == SAYS[rule.code]
    assert {(f.rule, f.code, f.severity) for f in found.findings} == {
        (rule.name, rule.code, rule.severity)
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_the_fine_example_of_the_page_does_not(rule: Rule) -> None:
    found = run(rule, random_network(rule.fine))
    assert not found.not_checked
    assert not found.findings


@pytest.mark.parametrize(
    ("code", "notation"), [(code, text) for code, texts in ALMOST.items() for text in texts]
)
def test_what_comes_close_is_not_found(code: str, notation: str) -> None:
    (rule,) = (rule for rule in RULES if rule.code == code)
    assert not run(rule, parse(notation)).findings


@pytest.mark.parametrize("code", NUMBERS)
def test_numbers(code: str) -> None:
    (rule,) = (rule for rule in RULES if rule.code == code)
    bad, message, good = NUMBERS[code]
    assert [f.message for f in run(rule, bad()).findings] == [message]
    found = run(rule, good())
    assert not found.not_checked
    assert not found.findings


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_every_page_is_complete(rule: Rule) -> None:
    assert rule.name == rule.name.lower()
    assert " " not in rule.name
    for text in (rule.what, rule.why, rule.remedy, rule.caveats):
        assert text.endswith((".", ":", ")"))
        assert "  " not in text
    assert 20 <= len(rule.summary) + 10 <= 90
    assert rule.given or rule.code in SAYS
    parse(rule.example)


def test_codes_and_names_are_unique() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
    assert len(RULES) >= 20


def test_a_rule_does_not_change_the_network() -> None:
    net = random_network("3@8 > conv 4 3 nobias > bn > relu")
    before = {name: data_of(net, name).copy() for name in net.constants}
    cs.lint(net, select="all")
    for name, data in before.items():
        np.testing.assert_array_equal(data, data_of(net, name))
