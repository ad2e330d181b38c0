"""Well-known networks as shapes alone: what they cost and see, without their weights.

Every network stands in the file of its family, with its parameters and multiply-accumulates
(of convolutions and linear layers, without biases) as published, which tests count. Layers have
the names that they have in torchvision, where it has the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

from convsmith.errors import ConvsmithError, SourceError
from convsmith.graph import Graph, Shape
from convsmith.sources.zoo.alexnet import alexnet
from convsmith.sources.zoo.convnext import convnext_tiny
from convsmith.sources.zoo.densenet import densenet121
from convsmith.sources.zoo.gated import efficientnet_b0, mobilenet_v3_large, mobilenet_v3_small
from convsmith.sources.zoo.googlenet import googlenet
from convsmith.sources.zoo.inception import inception_v3
from convsmith.sources.zoo.mnasnet import mnasnet1_0
from convsmith.sources.zoo.mobilenet import mobilenet_v1, mobilenet_v2
from convsmith.sources.zoo.replknet import replknet_31b
from convsmith.sources.zoo.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet50_v1,
    resnet101,
    resnet152,
    resnext50_32x4d,
)
from convsmith.sources.zoo.shufflenet import shufflenet_v2_x1_0
from convsmith.sources.zoo.squeezenet import squeezenet1_0, squeezenet1_1
from convsmith.sources.zoo.superresolution import srcnn, vdsr
from convsmith.sources.zoo.unet import unet
from convsmith.sources.zoo.vgg import vgg11, vgg13, vgg16, vgg19

__all__ = ["ALIASES", "NETWORKS", "network"]

NETWORKS: Mapping[str, Callable[..., Graph]] = MappingProxyType(
    {
        "alexnet": alexnet,
        "convnext_tiny": convnext_tiny,
        "densenet121": densenet121,
        "efficientnet_b0": efficientnet_b0,
        "googlenet": googlenet,
        "inception_v3": inception_v3,
        "mnasnet1_0": mnasnet1_0,
        "mobilenet_v1": mobilenet_v1,
        "mobilenet_v2": mobilenet_v2,
        "mobilenet_v3_large": mobilenet_v3_large,
        "mobilenet_v3_small": mobilenet_v3_small,
        "replknet_31b": replknet_31b,
        "resnet18": resnet18,
        "resnet34": resnet34,
        "resnet50": resnet50,
        "resnet50_v1": resnet50_v1,
        "resnet101": resnet101,
        "resnet152": resnet152,
        "resnext50_32x4d": resnext50_32x4d,
        "shufflenet_v2_x1_0": shufflenet_v2_x1_0,
        "squeezenet1_0": squeezenet1_0,
        "squeezenet1_1": squeezenet1_1,
        "srcnn": srcnn,
        "unet": unet,
        "vdsr": vdsr,
        "vgg11": vgg11,
        "vgg13": vgg13,
        "vgg16": vgg16,
        "vgg19": vgg19,
    }
)


ALIASES: Mapping[str, str] = MappingProxyType(
    {"resnet50_v1_5": "resnet50", "squeezenet": "squeezenet1_1"}
)
"""Other names that some networks go by."""

_SHOWN = 60


def network(name: str, *, shape: Shape | None = None) -> Graph:
    """Makes a well-known network, without weights.

    Args:
        name: One of ``NETWORKS`` or ``ALIASES``.
        shape: Of its input, ``(N, C, H, W)``; by default the one it was published with.

    Raises:
        SourceError: If there is no such network; the message has close matches and the list.
        ShapeError: If the network does not fit the input.

    >>> network("resnet18").shape("layer4.1.relu_out")
    (1, 512, 7, 7)
    """
    make = NETWORKS.get(ALIASES.get(name, name))
    if make is None:
        raise _unknown(name)
    if shape is None:
        return make()
    if len(shape) != 4 or min(shape) < 1:
        raise SourceError(
            f"an input of shape {','.join(map(str, shape))} is no batch of images",
            place=f"zoo:{name}",
            remedy="give N,C,H,W, such as 1,3,224,224",
        )
    try:
        return make(shape)
    except ConvsmithError as error:
        raise error.at(f"zoo:{name}") from None


def _unknown(name: str) -> SourceError:
    """What to say of a name, which anybody may have written, that no network has."""
    everything = ", ".join(NETWORKS)
    if not name:
        return SourceError("no network is named", place="zoo", remedy=f"it has {everything}")
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
    close = get_close_matches(name[:_SHOWN].lower(), [*NETWORKS, *ALIASES], n=3)
    guess = f"did you mean {' or '.join(map(repr, close))}? It" if close else "it"
    return SourceError(
        f"the zoo has no network {shown!r}",
        place=f"zoo:{repr(shown)[1:-1]}",
        remedy=f"{guess} has {everything}",
    )
