"""Cases that counters disagree about: exact here, from torch, from ONNX and from a listing.

Every expected number is worked out by hand, in the comment beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from onnx import helper, numpy_helper, parser
from torch import Tensor, nn

from convsmith.analysis import Analysis, analyze
from convsmith.graph import Graph, parse
from convsmith.sources.onnx import read_onnx, write_onnx
from convsmith.sources.torch import read_module


class Called(nn.Module):
    """A function of an input, with modules of its own."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def tied() -> nn.Module:
    one, other = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
    other.weight = one.weight
    return nn.Sequential(one, other)


def functional() -> nn.Module:
    """3 channels to 8 by 3x3 on 32x32: 32 * 32 * 8 * 27 = 221,184."""
    return Called(
        lambda m, x: F.conv2d(x, m.holder.weight, padding=1),
        holder=nn.Conv2d(3, 8, 3, bias=False),
    )


# The module, the shape of its input, its MACs, its parameters, the shape of its output.
Case = tuple[Callable[[], nn.Module], tuple[int, ...], int, int, tuple[int, ...]]
CASES: dict[str, Case] = {
    # 16 * 16 outputs * 8 channels * 27 terms; the bias is an addition.
    "a convolution with a bias": (
        lambda: nn.Conv2d(3, 8, 3, 2, 1), (1, 3, 32, 32), 55_296, 8 * 27 + 8, (1, 8, 16, 16),
    ),
    # Every *input* element meets 6 * 16 weights: 2 * 4 * 8 * 8 * 6 * 16.
    "a transposed convolution": (
        lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), (2, 4, 8, 8), 49_152, 4 * 6 * 16 + 6,
        (2, 6, 16, 16),
    ),
    "a functional convolution": (functional, (1, 3, 32, 32), 221_184, 216, (1, 8, 32, 32)),
    # 2 * 16 * 16 * 8 * 8 * 9, and 576 weights once.
    "a module used twice": (
        lambda: Called(lambda m, x: m.c(m.c(x)), c=nn.Conv2d(8, 8, 3, padding=1, bias=False)),
        (1, 8, 16, 16), 294_912, 576, (1, 8, 16, 16),
    ),
    "tied weights": (tied, (1, 8, 16, 16), 294_912, 576, (1, 8, 16, 16)),
    # 10 * 10 outputs * 16 taps.
    "padding same, even kernel": (
        lambda: nn.Conv2d(1, 1, 4, padding="same", bias=False), (1, 1, 10, 10), 1_600, 16,
        (1, 1, 10, 10),
    ),
    # 5 * 10 rows * 8 features * 3 terms.
    "a linear layer over two leading axes": (
        lambda: nn.Linear(3, 8), (5, 10, 3), 1_200, 32, (5, 10, 8),
    ),
    # 8 x 8 results of 8 terms.
    "x times its transpose": (lambda: Called(lambda m, x: x @ x.T), (8, 8), 512, 0, (8, 8)),
    # Windows at 0 and 4 and one at 8, which starts in the padding before the end: 9 + 2 * 2.
    "pooling that rounds up": (
        lambda: nn.MaxPool2d(4, 4, 2, ceil_mode=True), (1, 1, 9, 9), 0, 0, (1, 1, 3, 3),
    ),
    # 16 - 2 * (3 - 1) = 12 outputs along each axis; 12 * 12 * 9.
    "a dilated convolution without padding": (
        lambda: nn.Conv2d(1, 1, 3, dilation=2, bias=False), (1, 1, 16, 16), 1_296, 9,
        (1, 1, 12, 12),
    ),
}  # fmt: skip


def check(graph: Graph, case: Case, *, params: int | None = None) -> Analysis:
    analysis = analyze(graph)
    _, _, macs, weights, shape = case
    assert analysis.unsupported == ()
    assert analysis.total.macs == macs
    assert analysis.total.params == (weights if params is None else params)
    assert [value.shape for value in analysis.outputs.values()] == [shape]
    return analysis


@pytest.mark.parametrize("name", CASES)
def test_from_torch(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    analysis = check(read_module(case[0]().eval(), case[1]), case)
    with torch.device("meta"):
        on_meta = case[0]().eval()
    assert check(read_module(on_meta, case[1]), case).rows == analysis.rows


@pytest.mark.parametrize("name", CASES)
def test_from_onnx_and_from_a_listing(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    graph = read_module(case[0]().eval(), case[1])
    check(parse(str(graph)), case)
    write_onnx(graph, tmp_path / "case.onnx")
    check(read_onnx(tmp_path / "case.onnx"), case)


# As other exporters write the same cases ------------------------------------------


def model(
    text: str, weights: dict[str, tuple[int, ...]], x: tuple[int, ...], path: Path, opset: int = 18
) -> Graph:
    sizes = ",".join(map(str, x))
    proto = parser.parse_model(
        f'<ir_version: 9, opset_import: ["": {opset}]> '
        f"net (float[{sizes}] x) => (float[] y) {{ {text} }}"
    )
    for name, shape in weights.items():
        data = np.ones(shape, np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(data, name))
    proto.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
    (path / "net.onnx").write_bytes(proto.SerializeToString())
    return read_onnx(path / "net.onnx")


WRITTEN: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "a convolution with a bias": (
        "y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w, b)", {"w": (8, 3, 3, 3), "b": (8,)},
    ),
    "a transposed convolution": (
        "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w, b)",
        {"w": (4, 6, 4, 4), "b": (6,)},
    ),
    "a functional convolution": ("y = Conv<pads=[1,1,1,1]>(x, w)", {"w": (8, 3, 3, 3)}),
    "a module used twice": (
        "a = Conv<pads=[1,1,1,1]>(x, w) y = Conv<pads=[1,1,1,1]>(a, w)", {"w": (8, 8, 3, 3)},
    ),
    "tied weights": (
        "v = Identity(w) a = Conv<pads=[1,1,1,1]>(x, w) y = Conv<pads=[1,1,1,1]>(a, v)",
        {"w": (8, 8, 3, 3)},
    ),
    "padding same, even kernel": ('y = Conv<auto_pad="SAME_UPPER">(x, w)', {"w": (1, 1, 4, 4)}),
    "a linear layer over two leading axes": (
        "a = MatMul(x, w) y = Add(a, b)", {"w": (3, 8), "b": (8,)},
    ),
    "x times its transpose": ("t = Transpose(x) y = MatMul(x, t)", {}),
    "pooling that rounds up": (
        "y = MaxPool<kernel_shape=[4,4], strides=[4,4], pads=[2,2,2,2], ceil_mode=1>(x)", {},
    ),
    "a dilated convolution without padding": (
        'y = Conv<auto_pad="VALID", dilations=[2,2]>(x, w)', {"w": (1, 1, 3, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_as_it_is_written_in_onnx(name: str, tmp_path: Path) -> None:
    text, weights = WRITTEN[name]
    case = CASES[name]
    graph = model(text, weights, case[1], tmp_path)
    check(graph, case)


# Contractions and attention --------------------------------------------------------


def test_every_way_to_write_a_product_counts_the_same() -> None:
    """8 x 8 results of 8 terms: 512 products, 448 additions."""
    ways: list[Callable[[nn.Module, Tensor], Tensor]] = [
        lambda m, x: x @ x.T,
        lambda m, x: torch.mm(x, x.t()),
        lambda m, x: torch.einsum("ij,kj->ik", x, x),
        lambda m, x: F.linear(x, x),
        lambda m, x: torch.bmm(x[None], x.T[None])[0],
    ]
    for way in ways:
        total = analyze(read_module(Called(way), (8, 8))).total
        assert (total.macs, total.mults, total.adds) == (512, 512, 448)


def test_attention_counts_both_products() -> None:
    """4 heads of 16 queries, 16 keys and 8 numbers each: 2 * 4 * 16 * 16 * 8 = 16,384."""

    def attend(m: nn.Module, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)

    total = analyze(read_module(Called(attend), (1, 4, 16, 8))).total
    assert total.macs == 16_384
    # A whole module adds 4 projections: 16 tokens * 32 * 32 each.
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    module = Called(lambda m, x: m.a(x, x, x, need_weights=False)[0], a=attention)
    assert analyze(read_module(module.eval(), (1, 16, 32))).total.macs == 16_384 + 4 * 16 * 32 * 32


def test_a_weight_that_is_repeated_or_looked_up_counts_once() -> None:
    """A class token for every image, and a table of 49 positions read 256 times."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.table = nn.Parameter(torch.zeros(49, 2))
            self.places: Tensor
            self.register_buffer("places", torch.arange(256) % 49)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            bias = self.table[self.places].view(16, 16, 2).permute(2, 0, 1)
            return x.sum((1, 2)) + bias.sum()

    graph = read_module(Tokens(), (3, 5, 8))
    assert analyze(graph).total.params == 8 + 98
