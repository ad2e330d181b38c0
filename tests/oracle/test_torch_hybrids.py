"""Blocks of today's networks - attention, sampling, tables - against a real run in torch.

Each is read twice: with its weights, and on the meta device, where it has none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor, nn

from convsmith.analysis import analyze
from convsmith.graph import parse
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Unsupported
from convsmith.sources.onnx import write_onnx
from convsmith.sources.torch import read_module

IMAGE = (2, 8, 12, 12)
BUILDERS: dict[str, Callable[[], nn.Module]] = {}


def network(cls: type[nn.Module]) -> type[nn.Module]:
    """Puts a module class among the networks."""
    BUILDERS[cls.__name__] = cls
    return cls


@network
class MobileVit(nn.Module):
    """Convolutions around a transformer over unfolded patches (Mehta & Rastegari 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 16, 1)
        )
        layer = nn.TransformerEncoderLayer(
            16, 4, 32, batch_first=True, norm_first=True, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.project, self.fuse = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        y = self.local(x)
        b, d, h, w = y.shape
        split = y.reshape(b, d, h // 2, 2, w // 2, 2).permute(0, 3, 5, 2, 4, 1)
        tokens = self.encoder(split.reshape(b * 4, -1, d))
        back = tokens.view(b, 2, 2, h // 2, w // 2, d).permute(0, 5, 3, 1, 4, 2)
        return self.fuse(torch.cat([x, self.project(back.reshape(b, d, h, w))], 1))


@network
class VisionTransformer(nn.Module):
    """Patches, a class token, positions, one encoder layer (Dosovitskiy et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(8, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 10, 16))
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.encoder(tokens))[:, 0])


@network
class AttentionWithWeights(nn.Module):
    """``nn.MultiheadAttention`` that also returns what it looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        tokens = x.flatten(2).transpose(1, 2)
        seen, weights = self.attention(tokens, tokens, tokens)
        return seen.sum() + weights


@network
class ConvNext(nn.Module):
    """A wide depthwise convolution and a perceptron over channels (Liu et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.1))

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


@network
class Involution(nn.Module):
    """A kernel for every pixel, made from that pixel (Li et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.spread = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 18, 1)
        self.unfold = nn.Unfold(3, padding=1)

    def forward(self, x: Tensor) -> Any:
        b, c, h, w = x.shape
        kernel = self.spread(F.relu(self.reduce(x))).view(b, 2, 1, 9, h, w)
        windows = self.unfold(x).view(b, 2, c // 2, 9, h, w)
        return (kernel * windows).sum(3).view(b, c, h, w)


@network
class ChannelAttention(nn.Module):
    """A gated residual block and a pixel shuffle (Zhang et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid()
        )
        self.up, self.shuffle = nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.shuffle(self.up(x + y * self.gate(y)))


@network
class ShuffleUnit(nn.Module):
    """Half of the channels through a branch, then all shuffled (Ma et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4))

    def forward(self, x: Tensor) -> Any:
        left, right = x.chunk(2, 1)
        y = torch.cat([left, self.branch(right)], 1)
        b, c, h, w = y.shape
        return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


@network
class ShiftedWindows(nn.Module):
    """Attention in windows that are rolled, with a table of positions (Liu et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.table = nn.Parameter(torch.randn(49, 2))
        at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
        apart = (at.flatten(1)[:, :, None] - at.flatten(1)[:, None]).permute(1, 2, 0) + 3
        self.places: Tensor
        self.register_buffer("places", apart[..., 0] * 7 + apart[..., 1])

    def forward(self, x: Tensor) -> Any:
        b, c, h, w = x.shape
        x = torch.roll(x.permute(0, 2, 3, 1), (-2, -2), (1, 2))
        regions = torch.zeros(1, h, w, 1, device=x.device)
        for number, rows in enumerate((slice(0, -4), slice(-4, -2), slice(-2, None))):
            regions[:, rows] = number
        split = regions.view(1, h // 4, 4, w // 4, 4, 1).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16)
        mask = split[:, None] - split[:, :, None]
        mask = mask.masked_fill(mask != 0, -100.0)
        tokens = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(tokens).reshape(-1, 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        bias = self.table[self.places.view(-1)].view(16, 16, 2).permute(2, 0, 1)
        scores = (q @ k.transpose(-2, -1) + bias).view(b, -1, 2, 16, 16)
        scores = (scores + mask[None, :, None].to(scores.dtype)).view(-1, 2, 16, 16)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, -1, c)


@network
class TemporalShift(nn.Module):
    """Channels moved to the frame before and behind, in place (Lin et al. 2019)."""

    def forward(self, x: Tensor) -> Any:
        frames = x.view(1, 2, 8, 12, 12)
        moved = torch.zeros_like(frames)
        moved[:, :-1, :2] = frames[:, 1:, :2]
        moved[:, 1:, 2:4] = frames[:, :-1, 2:4]
        moved[:, :, 4:] = frames[:, :, 4:]
        return moved.view_as(x)


@network
class PooledPlaces(nn.Module):
    """Maxima put back where they were (Badrinarayanan et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        y, places = self.pool(x)
        return self.unpool(self.conv(y), places)


@network
class SpatialTransformer(nn.Module):
    """Where to look is learned (Jaderberg et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Any:
        theta = self.matrix(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


@network
class LinearAttention(nn.Module):
    """Attention without a softmax over pairs, as one contraction of three (Shen et al. 2021)."""

    def forward(self, x: Tensor) -> Any:
        flat = x.flatten(2)
        return torch.einsum("bdn,ben,bem->bdm", flat, flat.softmax(2), flat.softmax(1))


@network
class Pyramid(nn.Module):
    """Dilated branches beside the mean of the image (Chen et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(8, 4, 3, padding=d, dilation=d) for d in (1, 2, 4))

    def forward(self, x: Tensor) -> Any:
        mean = x.mean((2, 3), keepdim=True)
        mean = F.interpolate(mean, size=x.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([*(branch(x) for branch in self.branches), mean], 1)


@pytest.mark.parametrize("name", BUILDERS)
def test_it_computes_what_torch_computes(name: str) -> None:
    torch.manual_seed(0)
    module = BUILDERS[name]().eval().double()
    x = torch.randn(IMAGE, dtype=torch.float64)
    graph = read_module(module, (x,))
    assert not [node.op for node in graph.nodes if isinstance(node.op, Unsupported)]
    made = evaluate(graph, {graph.inputs[0].name: x.numpy()})[graph.outputs[0].value]
    with torch.no_grad():
        np.testing.assert_allclose(made, module(x).numpy(), rtol=1e-9, atol=1e-9)
    assert parse(str(graph)) == graph


@pytest.mark.parametrize("name", BUILDERS)
def test_its_parameters_count_once_also_without_weights(name: str) -> None:
    module = BUILDERS[name]().eval()
    analysis = analyze(read_module(module, IMAGE))
    assert analysis.unsupported == ()
    assert analysis.total.params == sum(p.numel() for p in module.parameters())
    with torch.device("meta"):
        on_meta = BUILDERS[name]().eval()
    assert analyze(read_module(on_meta, IMAGE)).total == analysis.total


@pytest.mark.parametrize("name", BUILDERS)
def test_onnx_runtime_computes_it_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = BUILDERS[name]().eval(), torch.randn(IMAGE)
    graph = read_module(module, (x,))
    write_onnx(graph, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )
    (have,) = session.run(None, {graph.inputs[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(have, module(x).numpy(), rtol=1e-3, atol=1e-4)


def test_an_embedding_and_its_tied_head_share_a_table() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)
            self.head.weight = self.table.weight
            self.conv = nn.Conv1d(8, 8, 3, padding=1)

        def forward(self, words: Tensor) -> Any:
            y = self.conv(self.table(words).transpose(1, 2))
            return self.head(y.transpose(1, 2))

    module = Words().eval().double()
    words = torch.arange(14).reshape(2, 7)
    graph = read_module(module, (words,))
    made = evaluate(graph, {"words": words.numpy()})[graph.outputs[0].value]
    with torch.no_grad():
        np.testing.assert_allclose(made, module(words).numpy(), atol=1e-12)
    assert analyze(graph).total.params == 20 * 8 + 20 + 8 * 8 * 3 + 8
