"""The conventions of tools and textbooks: totals that the tools gave, and what adds up to them."""

from __future__ import annotations

import pytest
import torch
from tests.torch_zoo import build, input_shape
from torch import nn

import convsmith as cs
from convsmith.analysis.conventions import CONVENTIONS, account, count, find_convention
from convsmith.analysis.conventions.reasons import REASONS, reason_text
from convsmith.errors import UsageError
from convsmith.graph import Graph, parse

NETWORKS = ("resnet50", "mobilenet_v2", "googlenet")

# What the tools themselves said of the torch modules; benchmarks and tests of the extra `bench`
# ask them again. torchvision's are its published billions.
SAID = {
    "resnet50": {
        "torchinfo": 4_089_238_376,
        "torchprofile": 4_100_300_288,
        "fvcore": 4_111_512_576,
        "torchscan": 4_111_916_032,
        "thop": 4_133_742_592,
        "ptflops-aten": 4_089_185_256,
        "flopcounter": 2 * 4_089_184_256,
    },
}
PUBLISHED = {"resnet50": "4.089", "mobilenet_v2": "0.301", "googlenet": "1.498"}


@pytest.fixture(scope="module")
def networks() -> dict[str, Graph]:
    """The networks, read from torch modules without memory."""
    found = {}
    for name in NETWORKS:
        with torch.device("meta"):
            module = build(name)
        found[name] = cs.load(module, input=input_shape(name))
    return found


@pytest.mark.parametrize("tool", SAID["resnet50"])
@pytest.mark.parametrize("source", ["module", "zoo"])
def test_resnet50_has_the_published_total(
    tool: str, source: str, networks: dict[str, Graph]
) -> None:
    net = networks["resnet50"] if source == "module" else cs.load("zoo:resnet50")
    total = cs.analyze(net, convention=tool).total
    flops = CONVENTIONS[tool].reports == "flops"
    assert (total.flops if flops else total.macs) == SAID["resnet50"][tool]


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision_publishes_these_billions(name: str, networks: dict[str, Graph]) -> None:
    macs = account(networks[name], CONVENTIONS["torchvision"]).counted
    assert f"{macs / 1e9:.3f}" == PUBLISHED[name]


@pytest.mark.parametrize("tool", CONVENTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_terms_add_up(tool: str, name: str, networks: dict[str, Graph]) -> None:
    found = account(networks[name], CONVENTIONS[tool])
    assert found.exact == cs.analyze(networks[name]).total.macs
    assert found.exact + sum(term.amount for term in found.terms) == found.counted
    for term in found.terms:
        assert sum(amount for _, amount in term.layers) == term.amount != 0
        assert "{" not in term.text("en") + term.text("zh")


@pytest.mark.parametrize("tool", CONVENTIONS)
def test_the_rows_add_up_to_the_account(tool: str, networks: dict[str, Graph]) -> None:
    net, convention = networks["mobilenet_v2"], CONVENTIONS[tool]
    analysis = cs.analyze(net, convention=tool)
    said = account(net, convention).counted
    column = "macs" if convention.reports == "macs" else "flops"
    assert sum(getattr(row, column) for row in analysis.rows) == said
    assert getattr(analysis.total, column) == said
    assert analysis.to_dict()["convention"] == tool


def test_the_difference_of_resnet50_is_said_term_by_term(networks: dict[str, Graph]) -> None:
    found = account(networks["resnet50"], CONVENTIONS["fvcore"])
    assert [(term.amount, term.text()) for term in found.terms] == [
        (22_227_968, "normalizations, 2 per element"),
        (100_352, "pooling, 1 per input element"),
    ]
    found = account(networks["resnet50"], CONVENTIONS["torchinfo"])
    terms = {term.text(): (term.amount, term.layers) for term in found.terms}
    assert terms["biases counted as multiply-accumulates"] == (1000, (("fc", 1000),))


def test_a_bias_is_one_multiplication_in_the_textbook() -> None:
    net = parse("3@32 > conv 8 3/2 p1")  # 16 x 16 outputs
    total = cs.analyze(net, convention="textbook").total
    assert total.mults == 16 * 16 * 8 * (3 * 3 * 3 + 1)
    assert total.adds == 16 * 16 * 8 * (3 * 3 * 3 - 1 + 1)
    assert cs.analyze(net, convention="MAdd").total.flops == total.mults + total.adds


def test_the_textbook_counts_no_bias_where_there_is_none() -> None:
    total = cs.analyze(parse("3@32 > conv 8 3/2 p1 nobias"), convention="textbook").total
    assert (total.mults, total.adds) == (16 * 16 * 8 * 27, 16 * 16 * 8 * 26)


class Called(nn.Module):
    """A convolution that is called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(8, 3, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.w, padding=1)


def test_a_function_is_not_seen_by_counters_of_modules() -> None:
    net = cs.load(Called(), input=(1, 3, 32, 32))
    for tool in ("torchinfo", "thop", "ptflops", "torchscan"):
        found = account(net, CONVENTIONS[tool])
        assert (found.exact, found.counted) == (221_184, 0)
        assert [term.reason for term in found.terms] == ["functional"]
    for tool in ("fvcore", "torchprofile", "calflops-macs", "ptflops-aten", "torchvision"):
        assert account(net, CONVENTIONS[tool]).counted == 221_184


# Each number is what the tool of the named version says; the first is exact.
SMALL = [
    ("3@32 > conv 8 3/2 p1", {"": 55_296, "torchinfo": 57_344, "ptflops": 57_344}),
    (
        "2x4@8 > deconv 6 4/2 p1 nobias",
        {
            "": 49_152,
            "torchinfo": 196_608,
            "torchprofile": 196_608,
            "torchscan": 196_616,
            "onnx-tool": 294_912,
            "thop": 49_152,
        },
    ),
    ("1@10 > conv 1 4 psame nobias", {"": 1_600, "fvcore": 0, "torchprofile": 0}),
    ("1@10 > conv 1 4 psame nobias", {"": 1_600, "calflops-macs": 1_296}),
    ("1@9 > maxpool 4/4 p2 ceil", {"": 0, "onnx-tool": 4 * 4 * 16}),
]


@pytest.mark.parametrize(("notation", "said"), SMALL)
def test_a_known_mistake_is_reproduced(notation: str, said: dict[str, int]) -> None:
    net = parse(notation)
    assert cs.analyze(net).total.macs == said[""]
    for tool, number in said.items():
        if tool:
            assert account(net, CONVENTIONS[tool]).counted == number, tool


def test_a_linear_layer_over_more_than_the_batch() -> None:
    net = cs.load(nn.Sequential(nn.Linear(3, 8, bias=False)), input=(5, 10, 3))
    assert cs.analyze(net).total.macs == 1_200
    assert account(net, CONVENTIONS["torchinfo"]).counted == 120
    assert account(net, CONVENTIONS["fvcore"]).counted == 1_200


def test_tied_weights_count_once_but_not_in_torchinfo() -> None:
    module = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2)))
    module[1].weight = module[0].weight
    net = cs.load(module, input=(1, 8, 16, 16))
    assert cs.analyze(net).total.params == 576
    assert cs.analyze(net, convention="torchinfo").total.params == 1_152
    assert cs.analyze(net, convention="thop").total.params == 576


def test_what_is_not_counted_is_free_and_says_so() -> None:
    rows = cs.analyze(parse("3@8 > conv 4 3 > relu"), convention="fvcore").rows
    assert [(row.status, row.macs) for row in rows] == [("counted", 3_888), ("free", 0)]
    assert rows[1].reason == "fvcore 0.1.5.post20221221 does not count it"


def test_an_unknown_operator_stays_unknown() -> None:
    net = parse("3@8 > conv 4 3 > unsupported strange <1,4,6,6>")
    for tool in CONVENTIONS:
        analysis = cs.analyze(net, convention=tool)
        assert analysis.rows[1].status == "unsupported"
        assert [item.op for item in analysis.unsupported] == ["strange"]


def test_exact_is_no_convention() -> None:
    assert find_convention("exact") is None
    net = parse("3@8 > conv 4 3")
    assert cs.analyze(net, convention="exact") == cs.analyze(net)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("FlopCounterMode", "flopcounter"),
        ("TORCH", "flopcounter"),
        ("ultralytics_thop", "thop"),
        ("MAdd", "madd"),
        (" onnx_tool ", "onnx-tool"),
    ],
)
def test_names_are_taken_as_people_write_them(asked: str, found: str) -> None:
    convention = find_convention(asked)
    assert convention is not None
    assert convention.name == found


def test_an_unknown_convention_names_those_that_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        cs.analyze(parse("3@8 > conv 4 3"), convention="torchinf")
    assert str(caught.value) == (
        "convention: there is no convention 'torchinf'; did you mean 'torchinfo'? It is one of"
        f" exact, {', '.join(CONVENTIONS)}."
    )


def test_every_reason_that_a_rule_gives_has_words(networks: dict[str, Graph]) -> None:
    used = {
        part.reason
        for net in networks.values()
        for convention in CONVENTIONS.values()
        for row in count(net, convention).values()
        for part in row.parts
    } - {"products"}
    assert used <= REASONS.keys()
    assert reason_text("norm", 2, "zh") == "归一化，每个元素计 2 次"
