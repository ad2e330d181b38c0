"""Every function that reads as operators of ours computes what it computes in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convsmith.graph import Graph, operator_text, parse
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import DeformConv, Unsupported
from convsmith.sources.torch import read_module


class Function(nn.Module):
    """One function of an input, with a few weights at hand."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.matrix = nn.Parameter(torch.linspace(-1, 1, 64).reshape(8, 8))
        self.vector: Tensor
        self.register_buffer("vector", torch.linspace(-1, 2, 8))
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def assign(x: Tensor) -> Tensor:
    y = x.new_zeros(x.shape)
    y[:] = x
    return y * 2


def write_through_views(x: Tensor) -> Any:
    y = x * 1
    y.view(-1).add_(1)
    left, right = y.split(4, dim=1)
    left.relu_()
    right.neg_()
    return right + left


def parts(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :4, 1:] = x[:, 4:, :-1]
    y[:, 5] = 2.0
    return y + x


def part_seen_before(x: Tensor) -> Tensor:
    y = torch.ones(8, 12, device=x.device)
    row, both = y[2], y[1:4]
    y[2:3, 3:7] = x[0, :1, 0, :4]
    row[:2].fill_(7.0)
    both[:, -1].mul_(2)
    return y * x[0, 0, 0]


def places_after(x: Tensor) -> Tensor:
    y = x * 1
    values, places = y.max(1)
    y.neg_()
    return values + places + y.sum(1)


def change_a_constant(x: Tensor) -> Any:
    offset = torch.ones(12, device=x.device)
    ends = offset[6:]
    before = x + offset
    ends.mul_(5)
    return before * offset + ends[:1]


def change_a_weight(module: Any, x: Tensor) -> Any:
    flat = module.vector.view(2, 4)
    before = x.mean((2, 3)) * module.vector
    flat[0] += 1
    module.vector[:3].mul_(2)
    return before + module.vector


MAPPED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "relu6": lambda m, x: F.relu6(x * 4),
    "leaky_relu": lambda m, x: F.leaky_relu(x, 0.3),
    "softplus": lambda m, x: F.softplus(x),
    "softsign": lambda m, x: F.softsign(x),
    "selu": lambda m, x: F.selu(x),
    "celu": lambda m, x: F.celu(x, 0.5),
    "elu": lambda m, x: F.elu(x, 0.3),
    "mish": lambda m, x: F.mish(x),
    "gelu": lambda m, x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "hardswish": lambda m, x: F.hardswish(x * 3) + F.hardsigmoid(x * 3),
    "hardtanh": lambda m, x: F.hardtanh(x, -0.3, 2),
    "clamp": lambda m, x: x.clamp(max=0.1) + x.clamp(-1, 1),
    "clamp to a tensor": lambda m, x: x.clamp(min=m.vector[3]),
    "rrelu": lambda m, x: F.rrelu(x),
    "prelu": lambda m, x: F.prelu(x, m.vector),
    "logsigmoid": lambda m, x: F.logsigmoid(x),
    "glu": lambda m, x: F.glu(x, 1),
    "softmax": lambda m, x: F.softmax(x, -1) + F.log_softmax(x, 1),
    "normalize": lambda m, x: F.normalize(x),
    "norm": lambda m, x: x.norm(dim=1) + x.norm(p=1, dim=1),
    "max": lambda m, x: x.max(1)[0] + x.min(dim=1).values,
    "max of two": lambda m, x: torch.max(x, -x) + torch.minimum(x, m.vector[0]),
    "sum": lambda m, x: x.sum() + x.mean() + x.sum((1, 2), keepdim=True),
    "amax": lambda m, x: x.amax((2, 3)) - x.amin((2, 3)),
    "pow": lambda m, x: x.abs() ** 1.7 + x**2 + 2.0**x,
    "numbers": lambda m, x: 5 - x / 2 + 3 / (x.abs() + 1) - (-x),
    "roots": lambda m, x: (x * x).sqrt() + (x.abs() + 1).rsqrt() + (x.abs() + 1).reciprocal(),
    "exponentials": lambda m, x: x.exp() + (x.abs() + 1).log() + x.erf(),
    "alpha": lambda m, x: torch.add(x, x.abs(), alpha=3) - torch.sub(x, 2, alpha=2),
    "fused": lambda m, x: torch.addcmul(x, x, x) + torch.lerp(x, x * 2, 0.3),
    "floor_divide": lambda m, x: x // 0.5,
    "select": lambda m, x: x[:, 0] + x[:, -1],
    "slice": lambda m, x: x[:, -3:, 1:-1, :-2:2],
    "axes": lambda m, x: x[..., None, :].squeeze(-2).unsqueeze(0).squeeze(),
    "unbind": lambda m, x: torch.stack(x.unbind(1), 2),
    "chunk": lambda m, x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "tensor_split": lambda m, x: sum(x.tensor_split(4, 1), torch.zeros(1, device=x.device)),
    "narrow": lambda m, x: x.narrow(1, 2, 3),
    "repeat": lambda m, x: x.repeat(2, 1, 1, 2, 1) + x.tile(2, 1),
    "repeat_interleave": lambda m, x: x.repeat_interleave(2, dim=2),
    "roll": lambda m, x: x.roll((1, -3), (2, 3)),
    "expand": lambda m, x: x.mean((2, 3), keepdim=True).expand_as(x),
    "permute": lambda m, x: x.permute(0, 2, 3, 1).movedim(1, -1).swapaxes(1, 3).mT,
    "channels last": lambda m, x: x.contiguous(memory_format=torch.channels_last).reshape(1, -1),
    "pixel_unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda m, x: F.channel_shuffle(x, 4),
    "pad": lambda m, x: F.pad(x, (1, 2, 0, 1), mode="replicate") + F.pad(x, (1, 2, 0, 1), value=3),
    "pad around": lambda m, x: F.pad(x, (1, 2, 0, 1), "circular")
    + F.pad(x, (2, 1, 1, 0), "reflect"),
    "crop": lambda m, x: F.pad(x, (-1, 2)),
    "linear": lambda m, x: F.linear(x.permute(0, 2, 3, 1), m.matrix, m.vector),
    "linear of two values": lambda m, x: F.linear(x[0, 0], x[0, 1], x[0, 1, 0]),
    "matmul": lambda m, x: x.permute(0, 2, 3, 1) @ m.matrix.t(),
    "addmm": lambda m, x: torch.addmm(m.vector, x[0, :, 0].t(), m.matrix, beta=2, alpha=0.5),
    "products": lambda m, x: torch.mv(m.matrix, x[0, :, 0, 0]) * torch.dot(x[0, 0, 0], x[0, 1, 0]),
    "einsum": lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.matrix),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x * 2, x - 1),
    "layer_norm": lambda m, x: F.layer_norm(x, x.shape[2:]) + F.rms_norm(x, (12,)),
    "group_norm": lambda m, x: F.group_norm(x, 4) + F.group_norm(x, 2, m.vector),
    "instance_norm": lambda m, x: F.instance_norm(x),
    "batch_norm": lambda m, x: F.batch_norm(x, m.vector, m.vector.abs() + 0.1, weight=m.vector),
    "local_response_norm": lambda m, x: F.local_response_norm(x, 5, alpha=1.0),
    "local_response_norm, even": lambda m, x: F.local_response_norm(x, 4, alpha=1.0),
    "adaptive pooling": lambda m, x: F.adaptive_avg_pool2d(x, (5, None)),
    "adaptive max": lambda m, x: F.adaptive_max_pool2d(x, 5) * F.adaptive_max_pool2d(x, 1),
    "pooling with indices": lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0],
    "bilinear": lambda m, x: F.interpolate(x, scale_factor=1.3, mode="bilinear"),
    "bilinear, aligned": lambda m, x: F.interpolate(
        x, size=(5, 30), mode="bilinear", align_corners=True
    ),
    "bilinear, computed": lambda m, x: F.interpolate(
        x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True
    ),
    "bicubic": lambda m, x: F.interpolate(x, scale_factor=1.7, mode="bicubic"),
    "nearest": lambda m, x: F.interpolate(x, scale_factor=0.7),
    "nearest-exact": lambda m, x: F.interpolate(x, size=(7, 19), mode="nearest-exact"),
    "area": lambda m, x: F.interpolate(x, scale_factor=0.5, mode="area"),
    "no batch": lambda m, x: F.max_pool2d(m.conv(x[0]), 2),
    "dropout": lambda m, x: F.dropout(x, 0.0, training=True),
    "numbers made in forward": lambda m, x: x + torch.arange(12.0, device=x.device).to(x),
    "tensors made in forward": lambda m, x: x * torch.tensor([2.0]) + x.new_tensor([3.0]),
    "copy": lambda m, x: torch.empty_like(x).copy_(x) + torch.add(x, x, out=torch.empty_like(x)),
    "fill": lambda m, x: (x + 1).fill_(2.0) + (x * 3).zero_() + x,
    "assign": lambda m, x: assign(x),
    "views": lambda m, x: write_through_views(x),
    "changed constant": lambda m, x: change_a_constant(x),
    "changed weight": change_a_weight,
    "constant": lambda m, x: m.vector * 2,
    "spread": lambda m, x: x.std(1) + x.var((2, 3), unbiased=False, keepdim=True).sum(1),
    "spread and mean": lambda m, x: sum(torch.var_mean(x, (1, 2)), x.mean() * 0),
    "where": lambda m, x: torch.where(x > 0, x, torch.zeros_like(x)) + torch.where(x < 1, 1.0, x),
    "logic": lambda m, x: ((x > 0) & (x < 1) | ~(x != 2)).float() + (x >= 0).to(x.dtype),
    "index": lambda m, x: x[:, [0, 2]] + x[:, torch.tensor([3, -1])],
    "index of two axes": lambda m, x: x[..., torch.tensor([[0, 3], [2, 1]]), torch.tensor([1, -1])],
    "index_select": lambda m, x: x.index_select(2, torch.tensor([1, 0, 1])),
    "gather": lambda m, x: x.gather(1, (x > 0).long()),
    "flip": lambda m, x: x.flip(2, 3) + x.fliplr() + x.rot90(1, (2, 3)) + x.rot90(3, (2, 3)),
    "unfold": lambda m, x: F.unfold(x, 3, padding=1, stride=2, dilation=2),
    "fold": lambda m, x: F.fold(F.unfold(x, (3, 2), 1, 1, 2), (12, 12), (3, 2), 1, 1, 2),
    "sliding windows": lambda m, x: x.unfold(2, 3, 2).unfold(3, 4, 1),
    "unpool": lambda m, x: F.max_unpool2d(
        *F.max_pool2d(x, 3, 2, return_indices=True), [3, 3], [2, 2], output_size=[12, 12]
    ),
    "indices": lambda m, x: F.max_pool2d(x, 3, 2, 1, return_indices=True, ceil_mode=True)[1],
    "places": lambda m, x: x.argmax(1) + x.argmin(1) + x.max(1)[1] + x.argmax(),
    "places of what was changed": lambda m, x: places_after(x),
    "topk": lambda m, x: x.topk(3, 2)[0] * x.topk(3, 2, largest=False)[1],
    "sort": lambda m, x: x.sort(1)[0] + x.argsort(1, descending=True),
    "cumsum": lambda m, x: x.cumsum(1) + x.cumprod(-1),
    "logsumexp": lambda m, x: x.logsumexp((1, 2)),
    "any and all": lambda m, x: (x > 2).any(1).float() + (x > -9).all().float(),
    "shrink": lambda m, x: F.hardshrink(x) + F.softshrink(x) + F.tanhshrink(x),
    "threshold": lambda m, x: F.threshold(x, 0.1, 3.0),
    "trigonometry": lambda m, x: x.sin() + x.cos() + x.tan() + x.sinh() + x.cosh() + x.atan(),
    "arcs": lambda m, x: x.tanh().asin() + x.tanh().acos(),
    "steps": lambda m, x: x.ceil() + x.round() + x.sign() + x.floor(),
    "logarithms": lambda m, x: x.abs().log1p() + x.expm1() + (x.abs() + 1).log2().exp().log10(),
    "modulo": lambda m, x: x % 0.3 + torch.fmod(x, 0.4) + torch.div(x, 0.3, rounding_mode="floor"),
    "integers": lambda m, x: x.long() + (x * 3).int() * x,
    "soft beta": lambda m, x: F.softplus(x, beta=2),
    "grid": lambda m, x: F.grid_sample(x, torch.stack([x[:, 0], x[:, 1]], -1), align_corners=False),
    "affine grid": lambda m, x: F.affine_grid(
        x.mean((2, 3))[:, :6].reshape(-1, 2, 3), list(x.shape), align_corners=False
    ),
    "shuffle one image": lambda m, x: F.pixel_shuffle(x[0], 2),
    "einsum of three": lambda m, x: torch.einsum("bchw,bchv,bcvz->bchz", x, x, x),
    "rms_norm": lambda m, x: F.rms_norm(x, (12,), m.conv.weight.flatten()[:12], eps=1e-3),
    "masked attention": lambda m, x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=torch.ones(12, 12).tril().bool()
    ) + F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
    "grouped attention": lambda m, x: F.scaled_dot_product_attention(
        x, x[:, :4], x[:, 4:], attn_mask=x[0, 0], enable_gqa=True
    ),
    "norm pooling": lambda m, x: F.lp_pool2d(x.abs(), 3, 2, 1),
    "triangles": lambda m, x: x.triu(1) - x.tril(),
    "masked_fill": lambda m, x: x.masked_fill(x > 0, -1.0),
    "one hot": lambda m, x: F.one_hot(x.argmax(1), 8),
    "roll everything": lambda m, x: x.roll(5),
    "write to a part": lambda m, x: parts(x),
    "write to a part seen before": lambda m, x: part_seen_before(x),
}  # fmt: skip

UNMAPPED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "scatter": lambda m, x: x.scatter(1, (x > 0).long(), x),
    "weight from the input": lambda m, x: F.conv2d(x, x[:, :, :3, :3]),
    "random windows": lambda m, x: F.fractional_max_pool2d(x, 2, output_size=5),
    "divisor": lambda m, x: F.avg_pool2d(x, 3, divisor_override=2),
    "antialias": lambda m, x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
    "bits": lambda m, x: x.long() & 3,
    "assign to a part": lambda m, x: x.clone().index_fill_(1, torch.tensor([0]), 1.0),
    "write to a diagonal": lambda m, x: diagonal(x),
}


def diagonal(x: Tensor) -> Tensor:
    y = x.clone()
    y[0, 0].fill_diagonal_(1.0)
    return y


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def image() -> Tensor:
    return torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(0))


def unsupported(graph: Graph) -> list[str]:
    return [node.op.kind for node in graph.nodes if isinstance(node.op, Unsupported)]


def result(graph: Graph, x: Tensor) -> Any:
    value = graph.outputs[0].value
    if value in graph.constants:
        return graph.constants[value].data
    return evaluate(graph, {graph.inputs[0].name: x.numpy()})[value]


@pytest.mark.parametrize("name", MAPPED)
def test_a_function_computes_the_same(name: str) -> None:
    module, x = Function(MAPPED[name]).eval(), image()
    graph = read_module(module, tuple(x.shape))
    assert unsupported(graph) == []
    actual = result(graph, x)  # before the real run, which may change the weights
    with torch.no_grad():
        expected = module(x.clone())
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", UNMAPPED)
def test_a_function_without_operator_is_shown_with_its_shape(name: str) -> None:
    module, x = Function(UNMAPPED[name]).eval(), image()
    graph = read_module(module, tuple(x.shape))
    assert unsupported(graph)
    with torch.no_grad():
        expected = module(x.clone())
    assert graph.shape(graph.outputs[0].value) == tuple(expected.shape)


def sizes(rank: int, low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*(st.integers(low, high) for _ in range(rank)))


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A layer with windows, and the shape of an input for it."""
    rank = draw(st.integers(1, 3))
    kernel, stride = draw(sizes(rank, 1, 3)), draw(sizes(rank, 1, 3))
    dilation = draw(sizes(rank, 1, 2))
    groups = draw(st.sampled_from([1, 2]))
    spatial = draw(sizes(rank, 6, 9))
    kind = draw(st.sampled_from(["conv", "same", "deconv", "max", "average"]))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    ceil = draw(st.booleans())
    module: nn.Module
    if kind == "conv":
        module = getattr(nn, f"Conv{rank}d")(
            4, 6, kernel, stride, padding, dilation, groups, bias=ceil
        )
    elif kind == "same":
        module = getattr(nn, f"Conv{rank}d")(4, 6, kernel, padding="same", dilation=dilation)
    elif kind == "deconv":
        extra = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        module = getattr(nn, f"ConvTranspose{rank}d")(
            4, 6, kernel, stride, padding, extra, groups, ceil, dilation
        )
    elif kind == "max":
        module = getattr(nn, f"MaxPool{rank}d")(kernel, stride, padding, dilation, ceil_mode=ceil)
    else:
        options = {"ceil_mode": ceil, "count_include_pad": draw(st.booleans())}
        module = getattr(nn, f"AvgPool{rank}d")(kernel, stride, padding, **options)
    return module, (2, 4, *spatial)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(layers())
@settings(max_examples=80)
def test_a_layer_with_windows_computes_the_same(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    module, shape = case
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    graph = read_module(module, shape)
    assert unsupported(graph) == []
    with torch.no_grad():
        expected = module(x)
    np.testing.assert_allclose(result(graph, x), expected.numpy(), rtol=1e-4, atol=1e-4)


# Operators of libraries that register their own ----------------------------------------------


@pytest.fixture
def deform_conv2d() -> Iterator[Callable[..., Tensor]]:
    """An operator with the schema of ``torchvision::deform_conv2d`` that only knows its shape."""
    if hasattr(torch.ops.torchvision, "deform_conv2d"):
        yield torch.ops.torchvision.deform_conv2d
        return
    with torch.library._scoped_library("torchvision", "DEF") as library:
        library.define(
            "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
            "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, "
            "SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor"
        )

        def shape_only(x: Tensor, weight: Tensor, offset: Tensor, *_: Any) -> Tensor:
            return x.new_empty((x.shape[0], weight.shape[0], *offset.shape[2:]))

        library.impl("deform_conv2d", shape_only, "Meta")
        yield torch.ops.torchvision.deform_conv2d


@pytest.mark.parametrize("modulated", [False, True])
def test_a_deformable_convolution_is_read(
    modulated: bool, deform_conv2d: Callable[..., Tensor]
) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Conv2d(8, 27, 3, 2, 2)
            self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))
            self.bias = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            moved = self.offset(x)
            offset, mask = moved[:, :18], moved[:, 18:].sigmoid()
            numbers = (2, 2, 2, 2, 1, 1, 2, 1)
            return deform_conv2d(
                x, self.weight, offset, mask, self.bias, *numbers, modulated
            )  # fmt: skip

    graph = read_module(Block().eval(), (1, 8, 12, 12))
    node = next(n for n in graph.nodes if isinstance(n.op, DeformConv))
    assert operator_text(node.op) == "deformconv 6 3/2 p2 g2"
    assert len(node.inputs) == 2 + modulated
    assert graph.shape(graph.outputs[0].value) == (1, 6, 7, 7)
    assert parse(str(graph)) == graph
