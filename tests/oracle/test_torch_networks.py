"""Reads networks of many kinds and compares each with a real run of the same module in torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor, nn

from convsmith.graph import parse
from convsmith.graph.evaluate import evaluate
from convsmith.sources.torch import read_module

BUILDERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {}


def network(*shape: int) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Puts a module class among the networks, with the shape of its input."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        BUILDERS[cls.__name__] = (cls, shape)
        return cls

    return register


def conv_bn(inside: int, outside: int, kernel: int, **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, bias=False, **options),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class OptionABlock(nn.Module):
    """A basic block whose shortcut drops pixels and pads channels (He et al., option A)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride, self.more = stride, outside - inside

    def forward(self, x: Tensor) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            half = self.more // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        y += x
        return F.relu(y)


@network(2, 3, 16, 16)
class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(OptionABlock(8, 8, 1), OptionABlock(8, 16, 2))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.layer1(self.stem(x))
        return self.fc(x.mean([2, 3]))


@network(1, 3, 15, 15)
class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.point = conv_bn(3, 4, 1)
        self.five = nn.Sequential(conv_bn(3, 2, 1), conv_bn(2, 4, 5, padding=2))
        self.wide = nn.Sequential(nn.Conv2d(3, 4, (1, 7), padding=(0, 3)), nn.ReLU())
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.project = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Any:
        branches = [self.point(x), self.five(x), self.wide(x), self.project(self.pool(x))]
        return F.max_pool2d(torch.cat(branches, 1), 3, stride=2, ceil_mode=True)


@network(1, 3, 20, 24)
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, 4, 3, padding=1)
        self.down2 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.up1 = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        first = F.relu(self.down1(x))
        x = self.up1(F.leaky_relu(self.middle(F.relu(self.down2(first))), 0.2))
        x = self.head(torch.cat([first, x], dim=1))
        small = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
        large = F.interpolate(small, size=(20, 24), mode="bicubic", align_corners=True)
        return torch.sigmoid(large + F.interpolate(small, scale_factor=2.0))


@network(1, 3, 16, 16)
class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 8, 3, stride=2, padding=1),
            conv_bn(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 16, 1),
            nn.Hardswish(),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.SiLU(), nn.Conv2d(4, 16, 1)
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 5), nn.Softmax(dim=-1))

    def forward(self, x: Tensor) -> Any:
        x = self.features(x)
        x = x * F.hardsigmoid(self.squeeze(x))
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(x.view(x.size(0), -1))


@network(1, 3, 21, 21)
class SqueezeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.expand1x1 = nn.Conv2d(4, 8, 1)
        self.expand3x3 = nn.Conv2d(4, 8, 3, padding=1)
        self.final = nn.Conv2d(16, 10, 1)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, ceil_mode=True)
        x = F.relu(self.squeeze(x))
        x = torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)
        return F.adaptive_avg_pool2d(F.relu(self.final(x)), 1).flatten(1)


@network(1, 1, 12, 12)
class VDSR(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.PReLU(6),
            nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"),
            nn.PReLU(),
            nn.Conv2d(6, 1, 3, padding=1, padding_mode="replicate"),
        )
        self.upscale = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Any:
        return self.upscale(self.body(x) + x)


@network(2, 4, 30)
class Audio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, 6, 5, stride=2, padding=2)
        self.norm = nn.GroupNorm(2, 6)
        self.conv2 = nn.Conv1d(6, 6, 3, dilation=3, padding="same")
        self.up = nn.ConvTranspose1d(6, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool1d(F.gelu(self.norm(self.conv1(x))), 2)
        return torch.tanh(self.up(F.elu(self.conv2(x))))


@network(1, 2, 6, 8, 8)
class Video(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(2, 4, (3, 3, 3), padding=1, stride=(1, 2, 2))
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.pool = nn.AvgPool3d(2)
        self.conv2 = nn.Conv3d(4, 6, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Any:
        x = self.conv2(self.pool(F.mish(self.norm(self.conv1(x)))))
        return F.adaptive_avg_pool3d(x, 1).flatten(1)


@network(1, 3, 63, 63)
class AlexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 11, 4)
        self.lrn = nn.LocalResponseNorm(5, alpha=1e-2, k=2.0)
        self.conv2 = nn.Conv2d(8, 8, 5, padding=2, groups=2)
        self.fc = nn.Linear(8 * 3 * 3, 7)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(self.lrn(F.relu(self.conv1(x))), 3, 2)
        x = F.local_response_norm(F.relu(self.conv2(x)), 3, alpha=0.1)
        x = F.adaptive_max_pool2d(x, (3, 3))
        return F.log_softmax(self.fc(F.dropout(torch.flatten(x, 1), training=self.training)), 1)


@network(1, 3, 12, 12)
class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(inplace=True), nn.Conv2d(c, 4, 3, padding=1))
            for c in (3, 7, 11)
        )

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = torch.cat([x, layer(x.clone())], 1)
        a, b, c = x.split([5, 5, 5], dim=1)
        return a * 0.5 + (1 - b) / 2 - c**2


@network(1, 3, 9, 9)
class FunctionalOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.offset = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.randn(4))
        self.mean: Tensor
        self.register_buffer("mean", torch.randn(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Any:
        deviation = torch.tensor([0.2, 0.3, 0.4], device=x.device).view(1, 3, 1, 1)
        x = F.conv2d((x - self.mean) / deviation, self.kernel, self.offset, padding=1)
        return F.layer_norm(x * self.scale.view(-1, 1, 1), x.shape[1:]).permute(0, 2, 3, 1)


@network(1, 4, 8, 8)
class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.conv2.weight = self.conv1.weight

    def forward(self, x: Tensor) -> Any:
        return self.conv2(F.relu(self.conv1(x)))


@network(1, 8, 8, 8)
class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        return self.relu(self.conv(self.relu(self.conv(x))))


@network(1, 2, 10, 10)
class EvenSame(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 4, padding="same", bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.conv(x)


@network(1, 2, 9, 9)
class CeilMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maximum = nn.MaxPool2d(4, 4, 2, ceil_mode=True)
        self.average = nn.AvgPool2d(4, 4, 2, ceil_mode=True)
        self.dilated = nn.MaxPool2d(3, 1, 1, dilation=2, ceil_mode=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.maximum(x), self.average(x), self.dilated(x)


@network(2, 5, 12)
class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(12, 3, batch_first=True)
        self.norm = nn.LayerNorm(12)
        self.feed = nn.Sequential(nn.Linear(12, 24), nn.GELU("tanh"), nn.Linear(24, 12))

    def forward(self, x: Tensor) -> Any:
        x = self.norm(x + self.attend(x, x, x, need_weights=False)[0])
        scores = torch.einsum("bik,bjk->bij", x, x)
        return self.feed(x) + F.scaled_dot_product_attention(x, x, x) + scores.softmax(-1) @ x


@network(1, 4, 8, 8)
class InPlaceViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Any:
        y = self.norm(x)
        y.view(y.size(0), -1).mul_(2.0)
        y.add_(x, alpha=0.5).clamp_(min=-1)
        left, right = y.chunk(2, dim=1)
        left = left.contiguous().relu_()
        out = torch.stack([left, right], dim=1).flatten(1, 2)
        return self.shuffle(out).transpose(1, 2).abs().amax(dim=3, keepdim=True).sqrt()


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network with random statistics, in inference mode, and an input for it."""
    torch.manual_seed(0)
    builder, shape = BUILDERS[name]
    module = builder().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    return module, torch.randn(shape)


def run(module: nn.Module, x: Tensor) -> tuple[dict[str, tuple[int, ...]], tuple[Tensor, ...]]:
    """The shape that every leaf module makes, call by call, and the outputs."""
    shapes: dict[str, tuple[int, ...]] = {}
    calls: Counter[str] = Counter()

    def watch(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: object, output: object) -> None:
            name = f"{path}_{calls[path]}" if calls[path] else path
            calls[path] += 1
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape)

        return hook

    for path, layer in module.named_modules():
        if path and not layer._modules:
            layer.register_forward_hook(watch(path))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        outputs = module(x.clone())
    return shapes, outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", BUILDERS)
def test_every_layer_has_the_shape_that_it_has_in_a_real_run(name: str) -> None:
    module, x = build(name)
    graph = read_module(module, tuple(x.shape))
    shapes, outputs = run(module, x)
    read = {node.name: graph.shape(node.name) for node in graph.nodes}
    assert {layer: read[layer] for layer in shapes if layer in read} == {
        layer: shape for layer, shape in shapes.items() if layer in read
    }
    weighty = {path for path, layer in module.named_modules() if layer._parameters and path}
    assert weighty & set(shapes) <= set(read)
    assert [graph.shape(o.value) for o in graph.outputs] == [tuple(o.shape) for o in outputs]


@pytest.mark.parametrize("name", BUILDERS)
def test_the_learnable_scalars_are_those_of_torch(name: str) -> None:
    module, x = build(name)
    graph = read_module(module, x)
    counted = sum(c.size for c in graph.constants.values() if c.learnable)
    if name == "InPlaceViews":  # weight_norm stores a length per filter beside the weight
        counted += 4
    assert counted == sum(p.numel() for p in module.parameters())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", BUILDERS)
def test_the_outputs_are_those_of_torch(name: str) -> None:
    module, x = build(name)
    graph = read_module(module, x)
    _, outputs = run(module, x)
    values = evaluate(graph, {graph.inputs[0].name: x.numpy()})
    for output, expected in zip(graph.outputs, outputs, strict=True):
        np.testing.assert_allclose(values[output.value], expected.numpy(), rtol=1e-4, atol=1e-4)


def test_a_wrong_weight_is_noticed() -> None:
    module, x = build("VDSR")
    graph = read_module(module, x)
    _, (expected,) = run(module, x)
    with torch.no_grad():
        module.get_parameter("body.0.weight")[0, 0, 0, 0] += 0.1  # the graph shares this memory
    wrong = evaluate(graph, {"x": x.numpy()})[graph.outputs[0].value]
    assert not np.allclose(wrong, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_listing_parses_back_to_an_equal_graph(name: str) -> None:
    module, x = build(name)
    graph = read_module(module, x)
    again = parse(str(graph))
    assert again == graph
