"""Super-resolution on an interpolated image: SRCNN and VDSR.

Dong et al., 2016, arXiv:1501.00092; Kim et al., 2016, arXiv:1511.04587. Both see one channel
(luminance) that was enlarged before; Ahn et al., 2018, arXiv:1803.08664, table 1, published
their costs for 1280 x 720 pixels: 57e3 and 52.7e9, 665e3 and 612.6e9.
"""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.sources.zoo.layers import Layers

__all__ = ["srcnn", "vdsr"]


def srcnn(shape: Shape = (1, 1, 720, 1280)) -> Graph:
    """SRCNN 9-5-5, the setting behind the paper's best numbers (not the smaller 9-1-5).

    57,281 parameters (57,184 weights); 52,700,774,400 MACs for 1280 x 720 pixels.
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.relu(net.conv(x, "conv1", 64, 9, padding=4), "relu1")
    x = net.relu(net.conv(x, "conv2", 32, 5, padding=2), "relu2")
    return net.build(("y", net.conv(x, "conv3", 1, 5, padding=2)), source="zoo:srcnn")


def vdsr(shape: Shape = (1, 1, 720, 1280)) -> Graph:
    """VDSR: twenty 3x3 without bias that predict what is missing, added to the input.

    664,704 parameters; 612,591,206,400 MACs for 1280 x 720 pixels. It sees 41 x 41 pixels.
    """
    net = Layers()
    x = net.input("x", shape)
    y = x
    for index in range(1, 20):
        y = net.conv(y, f"conv{index}", 64, 3, padding=1, bias=False)
        y = net.relu(y, f"relu{index}")
    y = net.conv(y, "conv20", 1, 3, padding=1, bias=False)
    return net.build(("y", net.plus(x, y, "add")), source="zoo:vdsr")
