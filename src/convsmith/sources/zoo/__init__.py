"""Well-known networks as shapes alone: what they cost and see, without their weights.

Every network stands in the file of its family, with its published parameters and
multiply-accumulates, which a test counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

from convsmith.errors import ConvsmithError, SourceError
from convsmith.graph import Graph, Shape
from convsmith.sources.zoo.alexnet import alexnet
from convsmith.sources.zoo.googlenet import googlenet
from convsmith.sources.zoo.mobilenet import mobilenet_v1
from convsmith.sources.zoo.resnet import resnet18, resnet50
from convsmith.sources.zoo.squeezenet import squeezenet
from convsmith.sources.zoo.superresolution import srcnn, vdsr
from convsmith.sources.zoo.unet import unet
from convsmith.sources.zoo.vgg import vgg16

__all__ = ["NETWORKS", "network"]

NETWORKS: Mapping[str, Callable[..., Graph]] = MappingProxyType(
    {
        "alexnet": alexnet,
        "googlenet": googlenet,
        "mobilenet_v1": mobilenet_v1,
        "resnet18": resnet18,
        "resnet50": resnet50,
        "squeezenet": squeezenet,
        "srcnn": srcnn,
        "unet": unet,
        "vdsr": vdsr,
        "vgg16": vgg16,
    }
)


def network(name: str, *, shape: Shape | None = None) -> Graph:
    """Makes a well-known network, without weights.

    Args:
        name: One of ``NETWORKS``.
        shape: Of its input, ``(N, C, H, W)``; by default the one it was published with.

    Raises:
        SourceError: If there is no such network; the message has a close match and the list.
        ShapeError: If the network does not fit the input.

    >>> network("resnet18").shape("layer4.1.relu_out")
    (1, 512, 7, 7)
    """
    make = NETWORKS.get(name)
    if make is None:
        close = get_close_matches(name.lower(), NETWORKS, n=1)
        guess = f"did you mean {close[0]!r}? It" if close else "it"
        raise SourceError(
            f"the zoo has no network {name!r}",
            place=f"zoo:{name}",
            remedy=f"{guess} has {', '.join(NETWORKS)}",
        )
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
