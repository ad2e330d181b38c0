"""Explanations: every formula comes to the number of the table, for every operator there is."""

from __future__ import annotations

import json
import re
from fractions import Fraction

import pytest
import torch
from rich.cells import cell_len
from tests.torch_zoo import build, input_shape

import convsmith as cs
from convsmith.analysis.conventions import CONVENTIONS
from convsmith.analysis.explaining import Explanation, LayerExplanation, explain
from convsmith.analysis.explaining.words import LANGUAGES, NOTES, OPERATORS, QUANTITIES, WORDS
from convsmith.errors import UsageError
from convsmith.graph import Graph, GraphBuilder, parse
from convsmith.graph import operators as operator_classes
from convsmith.graph.operators import (
    ACTIVATIONS,
    ELEMENTWISE,
    REDUCTIONS,
    UNARIES,
    Activation,
    AdaptivePool,
    Cast,
    Concat,
    Conv,
    Cumulate,
    DeformConv,
    DepthToSpace,
    Einsum,
    Elementwise,
    Expand,
    Flatten,
    Flip,
    Fold,
    GlobalPool,
    GridSample,
    Identity,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    SpaceToDepth,
    Split,
    TopK,
    Transpose,
    Unary,
    Unfold,
    Unsupported,
    Where,
)
from convsmith.report import render
from convsmith.sources.zoo import NETWORKS, network

COUNTS = ("params", "macs", "mults", "adds", "others", "flops")


def conv(**changes: object) -> Conv:
    """A 3x3 convolution of 4 channels, with changes."""
    plain: dict[str, object] = {
        "channels": 4,
        "kernel": (3, 3),
        "stride": (1, 1),
        "padding": ((0, 0), (0, 0)),
        "dilation": (1, 1),
    }
    return Conv(**{**plain, **changes})  # type: ignore[arg-type]


def pool(**changes: object) -> Pool:
    """A max pooling over 3x3, with changes."""
    plain: dict[str, object] = {
        "kind": "max",
        "kernel": (3, 3),
        "stride": (2, 2),
        "padding": ((1, 1), (1, 1)),
        "dilation": (1, 1),
    }
    return Pool(**{**plain, **changes})  # type: ignore[arg-type]


IMAGE = (2, 4, 9, 11)

CASES: list[tuple[Operator, tuple[tuple[int, ...], ...]]] = [
    (conv(), (IMAGE,)),
    (conv(bias=False, stride=(2, 3), padding=((1, 0), (2, 3)), dilation=(2, 1)), (IMAGE,)),
    (conv(groups=2, kernel=(1, 5)), (IMAGE,)),
    (conv(groups=4), (IMAGE,)),
    (conv(same="upper", kernel=(4, 4), stride=(2, 2)), (IMAGE,)),
    (conv(same="lower", kernel=(2, 3)), (IMAGE,)),
    (conv(rounding="ceil", stride=(2, 2)), (IMAGE,)),
    (conv(kernel=(3,), stride=(2,), padding=((1, 1),), dilation=(1,)), ((2, 4, 9),)),
    (
        conv(kernel=(3, 1, 2), stride=(2, 1, 1), padding=((1, 0),) * 3, dilation=(1, 1, 1)),
        ((1, 4, 5, 6, 7),),
    ),
    (conv(transposed=True, stride=(2, 2), padding=((1, 1), (1, 1))), (IMAGE,)),
    (conv(transposed=True, stride=(4, 3), output_padding=(1, 0), bias=False), (IMAGE,)),
    (conv(transposed=True, stride=(2, 2), dilation=(2, 3), groups=2), (IMAGE,)),
    (conv(transposed=True, stride=(2, 4), dilation=(4, 2), kernel=(3, 5)), (IMAGE,)),
    (
        DeformConv(
            channels=6, kernel=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)
        ),
        (IMAGE, (2, 18, 9, 11)),
    ),
    (
        DeformConv(
            channels=6,
            kernel=(3, 3),
            stride=(1, 1),
            padding=((1, 1), (1, 1)),
            dilation=(1, 1),
            groups=2,
            offset_groups=2,
            bias=False,
        ),
        (IMAGE, (2, 36, 9, 11), (2, 18, 9, 11)),
    ),
    (Linear(features=5), ((3, 7),)),
    (Linear(features=5, bias=False), ((3, 2, 7),)),
    (MatMul(), ((2, 3, 4), (2, 4, 5))),
    (MatMul(), ((3, 4), (4,))),
    (Einsum(equation="bij,bjk->bik"), ((2, 3, 4), (2, 4, 5))),
    *((pool(kind=kind), (IMAGE,)) for kind in ("max", "average")),
    (pool(rounding="ceil", kernel=(4, 4), stride=(4, 4), padding=((2, 2), (2, 2))), (IMAGE,)),
    (pool(same="upper"), (IMAGE,)),
    *((GlobalPool(kind=kind), (IMAGE,)) for kind in ("max", "average")),
    *((AdaptivePool(kind=kind, size=(4, 0)), (IMAGE,)) for kind in ("max", "average")),
    *((Norm(kind=kind), (IMAGE,)) for kind in ("batch", "instance", "layer")),
    (Norm(kind="batch", affine=False), (IMAGE,)),
    (Norm(kind="group", groups=2), (IMAGE,)),
    (Norm(kind="rms"), ((2, 5, 7),)),
    (Norm(kind="layer", axes=2, affine=False), ((2, 5, 7),)),
    (LocalResponseNorm(size=5), (IMAGE,)),
    *((Activation(kind=kind), (IMAGE,)) for kind in ACTIVATIONS),
    *((Unary(kind=kind), (IMAGE,)) for kind in UNARIES),
    *((Elementwise(kind=kind), (IMAGE, (2, 4, 1, 1))) for kind in ELEMENTWISE),
    (Elementwise(), (IMAGE,) * 3),
    (Where(), (IMAGE,) * 3),
    (Softmax(), (IMAGE,)),
    (Softmax(log=True, axis=-1), (IMAGE,)),
    *((Reduce(kind=kind, axes=(2, 3)), (IMAGE,)) for kind in REDUCTIONS),
    (Reduce(kind="mean", axes=(1,), keep=True), (IMAGE,)),
    (Cumulate(axis=1), (IMAGE,)),
    (Cumulate(axis=2, kind="prod", exclusive=True), (IMAGE,)),
    (TopK(count=3, axis=1), (IMAGE,)),
    (TopK(count=11, axis=3), (IMAGE,)),
    *((Resize(scale=(Fraction(2),) * 2, mode=mode), (IMAGE,)) for mode in ("nearest", "linear")),
    (Resize(size=(5, 11), mode="cubic", alignment="half_pixel"), (IMAGE,)),
    (GridSample(mode="nearest"), (IMAGE, (2, 5, 6, 2))),
    (GridSample(beyond="border"), (IMAGE, (2, 5, 6, 2))),
    (GridSample(mode="cubic"), (IMAGE, (2, 5, 6, 2))),
    (
        Unfold(kernel=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)),
        (IMAGE,),
    ),
    (
        Fold(
            size=(9, 11),
            kernel=(3, 3),
            stride=(2, 2),
            padding=((1, 1), (1, 1)),
            dilation=(1, 1),
        ),
        ((2, 36, 5, 6),),
    ),
    (Concat(), (IMAGE, (2, 3, 9, 11))),
    (Split(sizes=(1, 3)), (IMAGE,)),
    (Slice(ranges=((2, 1, None, 2),)), (IMAGE,)),
    (Pad(padding=((0, 0), (0, 0), (1, 2), (0, 3))), (IMAGE,)),
    (Reshape(shape=(2, -1)), (IMAGE,)),
    (Flatten(), (IMAGE,)),
    (Transpose(permutation=(0, 2, 3, 1)), (IMAGE,)),
    (Expand(shape=IMAGE), ((2, 4, 1, 1),)),
    (Flip(axes=(2,)), (IMAGE,)),
    (DepthToSpace(block=(2, 2)), (IMAGE,)),
    (SpaceToDepth(block=(3, 3)), ((2, 4, 9, 12),)),
    (Identity(kind="dropout"), (IMAGE,)),
    (Cast(dtype="int8"), (IMAGE,)),
    (Unsupported(kind="strange", shapes=((1, 4),)), (IMAGE,)),
]

# What the table above cannot make of images alone; they move elements and compute nothing.
WITHOUT_A_CASE = {"Gather", "Unpool", "Operator"}


def graph_of(op: Operator, shapes: tuple[tuple[int, ...], ...]) -> Graph:
    """A network of one operator."""
    builder = GraphBuilder()
    inputs = [builder.input(f"x{index}", shape) for index, shape in enumerate(shapes)]
    return builder.build(builder.add(op, *inputs, name="layer"))


def check(layer: LayerExplanation) -> None:
    """Compares all formulas of a layer with its row."""
    row = layer.row
    found: dict[str, list[int | Fraction]] = {}
    for line in layer.lines:
        found.setdefault(line.quantity, []).append(line.formula.value)
        for subject in line.subjects:
            assert subject.value == line.formula.value
    for name in COUNTS[:5]:
        assert found.get(name, [0]) == [getattr(row, name)], (row.name, row.text, name)
    assert found.get("flops", [row.flops]) == [row.flops]
    for quantity, values in (
        ("rf.size", row.rf.size),
        ("rf.stride", row.rf.stride),
        ("rf.offset", row.rf.offset),
    ):
        if quantity in found:
            shown = found[quantity] * (len(values) if len(found[quantity]) == 1 else 1)
            assert tuple(shown) == values, (row.name, quantity)
    if row.status == "counted":
        assert row.flops == 0 or "mults" in found or "adds" in found or "others" in found
    else:
        assert not set(found) & set(COUNTS[1:])
        keys = {note.key for note in layer.notes}
        assert keys & {"free-view", "free-copy", "unsupported"}


def sizes_on_the_left(layer: LayerExplanation) -> dict[str, int | Fraction]:
    """The sizes that the formulas of the shape come to."""
    return {s.name: s.value for line in layer.lines for s in line.subjects
            if line.quantity == "shape"}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_number_of_every_network_comes_out_of_its_formula(name: str) -> None:
    net = network(name)
    found = explain(net)
    assert [layer.row.name for layer in found.layers] == [node.name for node in net.nodes]
    for layer in found.layers:
        check(layer)
        output, made = layer.row.outputs[0] or (), sizes_on_the_left(layer)
        for axis, letter in enumerate(("H", "W") if len(output) == 4 else (), start=2):
            assert made.get(f"{letter}_out", output[axis]) == output[axis]


@pytest.mark.parametrize(
    ("op", "shapes"), CASES, ids=[f"{i}-{type(op).__name__}" for i, (op, _) in enumerate(CASES)]
)
def test_every_number_of_an_operator_comes_out_of_its_formula(
    op: Operator, shapes: tuple[tuple[int, ...], ...]
) -> None:
    found = explain(graph_of(op, shapes))
    check(found.layers[0])
    for lang in LANGUAGES:
        said = explain(graph_of(op, shapes), lang=lang)
        for form in ("text", "markdown", "latex", "html", "csv", "json"):
            assert render(said, form)


def test_every_operator_has_a_case_and_a_name() -> None:
    named = {
        name
        for name in operator_classes.__all__
        if isinstance(value := getattr(operator_classes, name), type)
        and issubclass(value, Operator)
    }
    assert {type(op).__name__ for op, _ in CASES} == named - WITHOUT_A_CASE
    words = {key.partition(".")[0] for key in OPERATORS}
    assert named - {"Operator"} <= words


@pytest.mark.parametrize("name", ["shufflenet_v2_x1_0", "convnext_tiny", "unet", "resnet18"])
def test_networks_from_torch_come_out_too(name: str) -> None:
    with torch.device("meta"):
        module = build(name)
    for layer in explain(cs.load(module, input=input_shape(name))).layers:
        check(layer)


EDGES: list[tuple[Operator, tuple[tuple[int, ...], ...]]] = [
    (conv(), ((0, 4, 9, 11),)),
    (conv(kernel=(1, 1)), ((1, 4, 2**40, 2**41),)),
    (conv(transposed=True, stride=(7, 5)), ((1, 4, 1, 1),)),
    (Linear(features=0), ((3, 7),)),
    (Linear(features=5), ((3, 0),)),
    (Softmax(axis=0), ((0, 3),)),
    (Norm(kind="layer"), ((0, 5, 7),)),
    (GlobalPool(kind="average"), ((1, 4, 1, 1),)),
    (GlobalPool(kind="average"), ((1, 4, 0, 3),)),
    (Reduce(kind="mean", axes=(0,)), ((0,),)),
    (TopK(count=0, axis=0), ((5,),)),
    (Cumulate(axis=0), ((0,),)),
    (Concat(axis=0), ((2,), (3,))),
    (Reshape(shape=()), ((1,),)),
    (Activation(kind="relu"), ((),)),
    (Flatten(axis=2), ((3, 4),)),
    (Elementwise(), ((3, 4),)),
]


@pytest.mark.parametrize(("op", "shapes"), EDGES)
def test_empty_huge_and_single_tensors(op: Operator, shapes: tuple[tuple[int, ...], ...]) -> None:
    found = explain(graph_of(op, shapes))
    check(found.layers[0])
    for form in ("text", "markdown", "latex", "html", "csv", "json"):
        assert render(found, form)


def test_nothing_is_said_of_an_unknown_operator_but_its_name() -> None:
    net = graph_of(Unsupported(kind="strange", shapes=(None,)), (IMAGE,))
    layer = explain(net).layers[0]
    assert not layer.lines
    assert layer.note(layer.notes[0], "en") == (
        "Not counted: no rule is known for this operator. convsmith does not know strange"
    )


def test_a_wrong_formula_is_noticed() -> None:
    layer = explain(parse("3@8 > conv 4 3"), "conv1").layers[0]
    wrong = explain(parse("3@8 > conv 4 3 nobias"), "conv1").layers[0]
    with pytest.raises(AssertionError):
        check(LayerExplanation(row=layer.row, kind="Conv", lines=wrong.lines, notes=()))


# What is said ---------------------------------------------------------------------


def texts(found: Explanation, quantity: str) -> list[tuple[str, str]]:
    """The formulas of a quantity with symbols and with numbers."""
    return [
        (line.formula.text(), line.formula.text(numbers=True))
        for line in found.layers[0].lines
        if line.quantity == quantity
    ]


def test_a_convolution_is_said_as_in_a_textbook() -> None:
    found = explain(parse("3@224 > conv 64 7/2 p3"), "conv1")
    assert texts(found, "shape") == [
        (
            "⌊(H_in + 2 · p − d · (k − 1) − 1) / s⌋ + 1",
            "⌊(224 + 2 × 3 − 1 × (7 − 1) − 1) / 2⌋ + 1",
        )
    ]
    assert texts(found, "params") == [("C_out · (C_in · k² + 1)", "64 × (3 × 7² + 1)")]
    assert texts(found, "macs") == [
        ("N · C_out · H_out · W_out · C_in · k²", "1 × 64 × 112 × 112 × 3 × 7²")
    ]
    assert texts(found, "rf.size") == [("r_in + (k − 1) · d · j_in", "1 + (7 − 1) × 1 × 1")]


def test_axes_that_differ_are_said_apart() -> None:
    found = explain(parse("3@9x11 > conv 4 1x3/2x1 p0,1,2,3"), "conv1")
    assert [pair[0] for pair in texts(found, "shape")] == [
        "⌊(H_in + p_top + p_bottom − d · (k_h − 1) − 1) / s_h⌋ + 1",
        "⌊(W_in + p_left + p_right − d · (k_w − 1) − 1) / s_w⌋ + 1",
    ]
    assert [line.formula.value for line in found.layers[0].lines if line.quantity == "shape"] == [
        6,
        13,
    ]


def test_a_transposed_convolution_has_a_field_in_fractions() -> None:
    found = explain(parse("3@8 > deconv 4 4/2 p1"))
    stride = next(line for line in found.layers[0].lines if line.quantity == "rf.stride")
    assert stride.formula.text() == "j_in / s"
    assert stride.formula.value == Fraction(1, 2)
    assert '"value": "1/2"' in found.to_json()


def test_groups_divide() -> None:
    found = explain(parse("8@8 > conv 8 3 g2 nobias"))
    assert texts(found, "macs")[0][0] == "N · C_out · H_out · W_out · (C_in / g) · k²"
    assert [note.key for note in found.layers[0].notes] == ["grouped"]


def test_a_gate_and_attention_are_called_by_name() -> None:
    layer = explain(network("mobilenet_v3_small"), "features.1.block.1.mul").layers[0]
    assert [note.key for note in layer.notes] == [
        "shape-Elementwise",
        "gate",
        "field-same",
        "field-gate",
    ]
    product = explain(graph_of(MatMul(), ((2, 3, 4), (2, 4, 5)))).layers[0]
    assert "attention" in [note.key for note in product.notes]


def test_branches_are_united() -> None:
    net = parse("3@32 > [ conv 4 1 | conv 4 3 p1 > conv 4 3 p1 ]")
    layer = explain(net, net.nodes[-1].name).layers[0]
    (size,) = [line for line in layer.lines if line.quantity == "rf.size"]
    assert size.formula.text() == "max(o_1 + r_1, o_2 + r_2) − min(o_1, o_2)"
    assert size.formula.value == 5


def test_the_json_says_everything() -> None:
    data = json.loads(explain(parse("3@8 > conv 4 3 > relu"), "conv1").to_json())
    assert data["schema"] == "convsmith.explanation/1"
    (layer,) = data["layers"]
    assert (layer["name"], layer["macs"], layer["rf"]["size"]) == ("conv1", 3_888, [3, 3])
    assert layer["lines"][1] == {
        "quantity": "params",
        "label": "parameters",
        "symbols": [],
        "formula": "C_out · (C_in · k² + 1)",
        "numbers": "4 × (3 × 3² + 1)",
        "value": 112,
        "latex": (
            r"C_{\text{out}} \, \left(C_{\text{in}} \, {k}^{2} + 1\right)"
            r" = 4 \times \left(3 \times {3}^{2} + 1\right) = 112"
        ),
    }
    assert data["symbols"]["k"] == "kernel size"
    assert data["difference"] is None


def test_chinese_is_chinese() -> None:
    said = render(explain(parse("3@8 > conv 4 3 p1 > relu"), lang="zh"), "text", width=80)
    for term in ("卷积", "卷积核", "步幅", "填充", "感受野", "参数量", "乘加次数", "激活函数"):
        assert term in said
    for table in (QUANTITIES, NOTES, OPERATORS, WORDS):
        for key, (english, chinese) in table.items():
            assert english.isascii() or re.search(r"[…²⌊ᵀ]", english), key
            assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", chinese))


@pytest.mark.parametrize(
    ("notation", "english", "chinese"),
    [
        (
            "o : 18@8x8\ny = deformconv 4 3 p1 (x o)",
            "y reads where its offsets say",
            "由偏移量决定",
        ),
        ("g : <1,5,5,2>\ny = gridsample (x g)", "y samples where its grid says", "由网格决定"),
        (
            "i : <3> int64\ny = gather axis=2 (x i)",
            "y reads where its second input",
            "由第二个输入",
        ),
        ("i : 4@8x8 int64\ny = unpool 16 (x i)", "y puts elements where its second", "放置元素"),
        ("y = unsupported foo ? (x)", "convsmith does not know foo", "convsmith 不认识 foo"),
        ("a = unsupported foo ? (x)\ny = relu (a)", "the shape of what it reads", "输入的形状未知"),
        ("a = unsupported foo 4@8x8 (x)\ny = relu (a)", "a: foo is not supported", "a：不支持 foo"),
        (
            "a = conv 4 3/2 p1 (x)\nb = slice 2:0:4:1 3:0:4:1 (x)\ny = add (a b)",
            "y joins",
            "合并步幅",
        ),
    ],
)
def test_reasons_are_said_in_both_languages(notation: str, english: str, chinese: str) -> None:
    graph = parse(f"x : 4@8x8\n{notation}\nreturn y")
    said = {lang: render(explain(graph, lang=lang), "text", width=200) for lang in LANGUAGES}
    assert english in said["en"]
    assert chinese in said["zh"]
    for line in said["zh"].splitlines():
        if "未知" in line or "上界" in line or "未计数" in line:
            assert not re.search(r"[a-z]{3,} [a-z]{2,}", line.replace("unsupported foo", ""))


@pytest.mark.parametrize(
    ("notation", "keys"),
    [
        ("conv 4 3 p1 > mean 2,3", {"field-global"}),
        ("conv 4 3 p1 > mean 3", {"field-phases", "field-gate-axis"}),
        ("slice 2:0:1:1 3:0:1:1 > expand 1,4,8,8", {"field-constant"}),
        ("[ conv 4 3/2 p1 | slice 2:0:4:1 3:0:4:1 ]", {"field-together", "field-bound"}),
        ("conv 4 3 p1 > instancenorm", {"field-same", "field-gate"}),
    ],
)
def test_what_is_said_of_a_field_is_true(notation: str, keys: set[str]) -> None:
    last = explain(parse(f"4@8 > {notation}")).layers[-1]
    assert {note.key for note in last.notes if note.key.startswith("field-")} == keys


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("lang", LANGUAGES)
def test_text_keeps_to_its_width(width: int, lang: str) -> None:
    said = render(explain(network("mobilenet_v3_small"), lang=lang), "text", width=width)
    assert max(map(cell_len, said.splitlines())) <= width
    account = explain(network("mobilenet_v3_small"), convention="ptflops", lang=lang)
    said = render(account, "text", width=width)
    assert max(map(cell_len, said.splitlines())) <= width


# Conventions ----------------------------------------------------------------------


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_terms_that_are_shown_add_up(convention: str) -> None:
    found = explain(network("resnet50"), convention=convention)
    assert not found.layers
    data = found.to_dict()["difference"]
    assert data["exact_macs"] + sum(term["amount"] for term in data["terms"]) == data["counted"]
    said = render(found, "text", width=80)
    assert f"{data['counted']:,}" in said
    for term in data["terms"]:
        assert f"{term['amount']:+,}".replace("-", "−") in said


def test_a_layer_says_what_a_tool_counts() -> None:
    found = explain(parse("3@32 > conv 8 3/2 p1"), "conv1", convention="torchinfo")
    assert found.layers[0].counted is not None
    assert [(part.reason, part.amount) for part in found.layers[0].counted] == [
        ("products", 55_296),
        ("bias", 2_048),
    ]
    said = render(found, "text", width=100)
    assert (
        "torchinfo counts: 55,296 multiply-accumulates + 2,048 biases counted as"
        " multiply-accumulates = 57,344"
    ) in " ".join(said.split())


# Whoever asks for what is not there -----------------------------------------------


def test_a_layer_that_is_not_there_has_near_matches() -> None:
    with pytest.raises(UsageError) as caught:
        explain(network("resnet50"), "layer1.0.conv4")
    assert str(caught.value) == (
        "the network has no layer 'layer1.0.conv4'; did you mean 'layer1.0.conv3' or"
        " 'layer1.0.conv2' or 'layer1.0.conv1'?"
    )
    with pytest.raises(UsageError, match=r"no layer 'zzz'; it has conv1, relu1\."):
        explain(parse("3@8 > conv 4 3 > relu"), "zzz")


def test_a_language_and_a_graph_are_needed() -> None:
    with pytest.raises(UsageError, match="lang: there is no language 'fr'; use en or zh"):
        explain(parse("3@8 > conv 4 3"), lang="fr")
    with pytest.raises(UsageError, match="needs a network, not str"):
        explain("zoo:resnet50")  # type: ignore[arg-type]


def test_other_results_have_no_latex() -> None:
    with pytest.raises(UsageError, match="there is no LaTeX form of Analysis"):
        render(cs.analyze(parse("3@8 > conv 4 3")), "latex")


# LaTeX and hostile names ----------------------------------------------------------


def assert_balanced(document: str) -> None:
    """Checks braces, environments, delimiters and mathematics of a LaTeX document."""
    bare = re.sub(r"\\[{}$&#%_]", "", document)
    depth = 0
    for sign in bare:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", bare):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    assert len(re.findall(r"\\left(?![a-z])", bare)) == len(re.findall(r"\\right(?![a-z])", bare))
    assert bare.count(r"\[") == bare.count(r"\]")
    for line in bare.splitlines():
        assert line.count("$") % 2 == 0, line
    text = re.sub(r"\\\[.*?\\\]|\$[^$]*\$", "", bare)
    assert not re.search(r"(?<!\\)[_^]", text), "an index outside mathematics"


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", ["resnet50", "unet", "mobilenet_v3_small", "googlenet"])
def test_latex_is_balanced(name: str, lang: str) -> None:
    assert_balanced(render(explain(network(name), lang=lang), "latex"))
    assert_balanced(render(explain(network(name), lang=lang, convention="calflops"), "latex"))


def test_names_cannot_break_out() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 3, 8, 8))
    name = "a}{$\\input{/etc/passwd}%_^&#~`|<script>\x1b[2J"
    net = builder.build(builder.add(Activation(kind="relu"), x, name=name))
    found = explain(net)
    latex = render(found, "latex")
    assert_balanced(latex)
    assert r"\input" not in latex
    page = render(found, "html")
    assert "<script>\x1b" not in page
    assert page.count("<script>") == 1  # ours
    for form in ("text", "html", "markdown", "latex"):
        assert "\x1b" not in render(found, form)
    assert "<script>" not in render(found, "markdown").replace(r"\<script\>", "")
