"""Real networks as torch modules, and their data: what tests of whole rewrites run on.

The folder is described by its own README.md; the fixture ``data_folder`` finds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = [
    "VDSR",
    "ResNet20",
    "ResNet50",
    "Restorer",
    "cifar10",
    "luma",
    "resnet20",
    "restorer",
    "run",
    "vdsr",
]

Array = npt.NDArray[Any]


class Block(nn.Module):
    """A basic block whose shortcut drops pixels and pads channels (He et al., option A)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride, self.more = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            half = self.more // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(y + x)


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR-10, in the names of akamaster/pytorch_resnet_cifar10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        y: Tensor = self.linear(x.mean((2, 3)))
        return y


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 with a shortcut; the stride is the 3x3's (version 1.5)."""

    def __init__(self, inside: int, between: int, stride: int) -> None:
        super().__init__()
        outside = 4 * between
        self.conv1 = nn.Conv2d(inside, between, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(between)
        self.conv2 = nn.Conv2d(between, between, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(between)
        self.conv3 = nn.Conv2d(between, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.short = (
            nn.Identity()
            if inside == outside
            else nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.short(x))


class ResNet50(nn.Module):
    """ResNet-50 for 1000 classes (He et al. 2016), with the random weights of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        inside = 64
        for between, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for index in range(count):
                blocks.append(Bottleneck(inside, between, 1 if index else stride))
                inside = 4 * between
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inside, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        y: Tensor = self.fc(self.blocks(x).mean((2, 3)))
        return y


class Rectified(nn.Module):
    """A convolution and its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class VDSR(nn.Module):
    """Super-resolution by 20 convolutions (Kim et al. 2016), as in twtygqyy/pytorch-vdsr."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Conv2d(1, 64, 3, 1, 1, bias=False)
        self.residual_layer = nn.Sequential(*(Rectified() for _ in range(18)))
        self.output = nn.Conv2d(64, 1, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.residual_layer(F.relu(self.input(x)))) + x
        return y


class Restorer(nn.Module):
    """The denoiser that ships as ``examples/restorer/restorer.onnx``, kernels from 3x3 to 9x9."""

    SHAPES = (
        (1, 32, 9), (32, 32, 7), (32, 48, 5), (48, 48, 3),
        (48, 48, 3), (48, 48, 3), (48, 32, 5), (32, 1, 3),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        for index, (inside, outside, kernel) in enumerate(self.SHAPES, start=1):
            conv = nn.Conv2d(inside, outside, kernel, 1, kernel // 2)
            self.add_module(f"conv{index}", conv)

    def forward(self, noisy: Tensor) -> Tensor:
        *body, last = self.children()
        x = noisy
        for conv in body:
            x = F.relu(conv(x))
        y: Tensor = noisy - last(x)
        return y


def resnet20(folder: Path) -> ResNet20:
    """The trained network, ready to run; takes what :func:`cifar10` gives."""
    module = ResNet20()
    state = load_file(folder / "resnet20_cifar10.safetensors")
    # Files made before torch counted batches have no such counters; nothing here needs them.
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return module.eval()


def vdsr(folder: Path) -> VDSR:
    """The trained network, ready to run; takes what :func:`luma` gives."""
    module = VDSR()
    module.load_state_dict(load_file(folder / "vdsr.safetensors"))
    return module.eval()


def restorer(folder: Path) -> Restorer:
    """The trained network, from the weights in ``restorer.onnx`` of this folder."""
    import onnx
    from onnx import numpy_helper

    stored = onnx.load(folder / "restorer.onnx").graph.initializer
    module = Restorer()
    module.load_state_dict(
        {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in stored}
    )
    return module.eval()


def cifar10(folder: Path, part: str) -> tuple[Array, Array]:
    """Images ``(N, 3, 32, 32)``, normalized, and labels ``(N,)`` of ``calib`` or ``test``."""
    with np.load(folder / "cifar10_jpeg.npz") as file:
        images, labels = file[f"{part}_images"], file[f"{part}_labels"]
    mean = np.array([0.485, 0.456, 0.406], dtype=np.float32)
    std = np.array([0.229, 0.224, 0.225], dtype=np.float32)
    normalized = (images.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2)), labels


def luma(folder: Path, name: str) -> Array:
    """The luma ``(1, 1, H, W)`` of one image of ``set5``, between 0 and 1."""
    with Image.open(folder / "set5" / f"{name}.png") as image:
        rgb = np.asarray(image.convert("RGB"), dtype=np.float64)
    y = 16 + rgb @ np.array([65.738, 129.057, 25.064]) / 256
    scaled: Array = (y / 255).astype(np.float32)
    return scaled[None, None]


def run(module: nn.Module, x: Array) -> Array:
    """What a module makes of an array."""
    with torch.no_grad():
        y: Array = module(torch.from_numpy(x)).numpy()
    return y
