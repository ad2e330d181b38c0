"""Well-known networks as torch modules, written from their papers: twins of the zoo by name.

What tests and benchmarks count with other tools, export and read back. Their module structure
and names are torchvision's where torchvision has them (which parameters a counter sees under
which module depends on it), except that auxiliary heads and stochastic depth, which take part
in training only, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import torch
from tests.torch_zoo_inception import GoogLeNet, InceptionV3
from tests.torch_zoo_mobile import (
    EfficientNetB0,
    MNASNet,
    MobileNetV1,
    MobileNetV2,
    MobileNetV3,
    ShuffleNetV2,
)
from tests.torch_zoo_plain import SRCNN, VDSR, VGG, AlexNet, ConvNeXt, RepLKNet, SqueezeNet, UNet
from tests.torch_zoo_residual import BasicBlock, Bottleneck, DenseNet, ResNet
from torch import nn

__all__ = ["BUILDERS", "INPUTS", "build", "input_shape", "one_thread"]

BUILDERS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "alexnet": AlexNet,
        "convnext_tiny": partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768)),
        "densenet121": partial(DenseNet, (6, 12, 24, 16)),
        "efficientnet_b0": EfficientNetB0,
        "googlenet": GoogLeNet,
        "inception_v3": InceptionV3,
        "mnasnet1_0": MNASNet,
        "mobilenet_v1": MobileNetV1,
        "mobilenet_v2": MobileNetV2,
        "mobilenet_v3_large": partial(MobileNetV3, large=True),
        "mobilenet_v3_small": partial(MobileNetV3, large=False),
        "replknet_31b": partial(RepLKNet, (31, 29, 27, 13), (2, 2, 18, 2), (128, 256, 512, 1024)),
        "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
        "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
        "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
        "resnet50_v1": partial(ResNet, Bottleneck, (3, 4, 6, 3), first=True),
        "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
        "resnet152": partial(ResNet, Bottleneck, (3, 8, 36, 3)),
        "resnext50_32x4d": partial(ResNet, Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4),
        "shufflenet_v2_x1_0": ShuffleNetV2,
        "squeezenet1_0": partial(SqueezeNet, "1_0"),
        "squeezenet1_1": partial(SqueezeNet, "1_1"),
        "srcnn": SRCNN,
        "unet": UNet,
        "vdsr": VDSR,
        "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
        "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
        "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
        "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
    }
)

# Where it is not (1, 3, 224, 224).
INPUTS: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {
        "inception_v3": (1, 3, 299, 299),
        "srcnn": (1, 1, 720, 1280),
        "unet": (1, 1, 572, 572),
        "vdsr": (1, 1, 720, 1280),
    }
)


def build(name: str) -> nn.Module:
    """Makes a network by name, in evaluation mode, on torch's default device.

    With ``with torch.device("meta"):`` around it, no memory is taken for weights.
    """
    return BUILDERS[name]().eval()


def input_shape(name: str) -> tuple[int, int, int, int]:
    """The shape of the input that a network was published with."""
    return INPUTS.get(name, (1, 3, 224, 224))


@contextmanager
def one_thread() -> Iterator[None]:
    """Small networks run no faster on several threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
