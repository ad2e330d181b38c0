"""ncnn in float32; its network is written here: one layer of text, and the weights behind it.

The formats are ncnn's ``param`` (a magic number, the numbers of layers and blobs, one line a layer
with ``key=value`` pairs) and ``bin`` (per layer a tag of four bytes, zero for float32, the weights,
the bias). ncnn convolves one image at a time; a batch is as many runs.
"""

from __future__ import annotations

import importlib
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.spec import ConvSpec
from convsmith.runtime.peers.protocol import (
    Array,
    PeerConvolution,
    first_from,
    first_to,
    no_residual,
)
from convsmith.runtime.peers.silence import silence

__all__ = ["Ncnn", "param"]

_MAGIC: Final = 7767517
_FLOAT32: Final = b"\0\0\0\0"
_AXES: Final = {1: "1D", 2: "", 3: "3D"}
_SIZES: Final = ((1, 2, 3), (11, 12, 13), (21, 22, 23))
"""Keys of kernel, dilation and stride, for the columns, rows and planes."""
_PADS: Final = ((4, 15), (14, 16), (24, 17))
"""Keys of the zeros before and after, for the columns, rows and planes."""
_WAITS: Final = 1
"""Milliseconds that its threads look for more work; by default so many that others would wait."""


class Ncnn:
    """A network of one layer, with Winograd, packed layouts and products."""

    name = "ncnn"
    module = "ncnn"
    package = "ncnn"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a convolution, or nothing."""
        return no_residual(spec)

    def using(self, threads: int) -> AbstractContextManager[None]:
        """Does nothing: the network has its threads."""
        return nullcontext()

    def prepare(
        self, spec: ConvSpec, weights: NDArray[Any], bias: NDArray[Any] | None, threads: int
    ) -> PeerConvolution:
        """Loads a network."""
        ncnn = importlib.import_module("ncnn")
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.openmp_blocktime = _WAITS
        for name in dir(net.opt):
            if name.startswith(("use_fp16_", "use_bf16_", "use_int8_")):
                setattr(net.opt, name, False)
        tensors = [np.ascontiguousarray(weights, np.float32).tobytes()]
        if bias is not None:
            tensors.append(np.ascontiguousarray(bias, np.float32).tobytes())
        with tempfile.TemporaryDirectory(prefix="convsmith-") as folder, silence():
            text, blob = Path(folder, "net.param"), Path(folder, "net.bin")
            text.write_text(param(spec), encoding="ascii")
            blob.write_bytes(b"".join([_FLOAT32, *tensors]))
            if net.load_param(str(text)) != 0 or net.load_model(str(blob)) != 0:
                raise RuntimeError("ncnn did not load the layer")
        return _Convolution(spec, ncnn, net)


def param(spec: ConvSpec) -> str:
    """Returns the text of a network of one convolution.

    >>> spec = ConvSpec(size=(8, 8), channels=3, filters=4, kernel=(3, 3), activation="relu")
    >>> print(param(spec).splitlines()[3])
    Convolution conv 1 1 x y 0=4 1=3 2=1 3=1 11=3 12=1 13=1 5=1 6=108 9=1
    """
    keys: dict[int | str, object] = {0: spec.filters}
    for axis, (kernel, dilation, stride) in enumerate(_SIZES[: spec.rank], start=1):
        keys |= {kernel: spec.kernel[-axis], dilation: spec.dilation[-axis]}
        keys[stride] = spec.stride[-axis]
    for axis, (before, after) in enumerate(_PADS[: spec.rank], start=1):
        if any(spec.padding[-axis]):
            keys[before], keys[after] = spec.padding[-axis]
    keys |= {5: int(spec.bias), 6: int(np.prod(spec.weight_shape))}
    grouped = spec.groups > 1
    if grouped:
        keys[7] = spec.groups
    match spec.activation:
        case "relu":
            keys[9] = 1
        case "relu6":
            keys |= {9: 3, -23310: "2,0.0,6.0"}
        case "hardswish":
            keys |= {9: 6, -23310: f"2,{1 / 6:.9f},0.5"}
    apart = spec.activation == "silu"
    kind = f"Convolution{'DepthWise' if grouped else ''}{_AXES[spec.rank]}"
    settings = " ".join(f"{key}={value}" for key, value in keys.items())
    layers = ["Input x 0 1 x", f"{kind} conv 1 1 x {'sums' if apart else 'y'} {settings}"]
    if apart:
        layers.append("Swish act 1 1 sums y")
    return "\n".join([str(_MAGIC), f"{len(layers)} {len(layers)}", *layers, ""])


class _Convolution:
    def __init__(self, spec: ConvSpec, ncnn: Any, net: Any) -> None:
        self.spec, self.ncnn, self.net = spec, ncnn, net
        self.images: list[Any] = []
        self.made: list[Any] = []

    def feed(self, x: Array) -> None:
        self.images = [self.ncnn.Mat(image).clone() for image in first_from(self.spec, x)]

    def run(self) -> None:
        made = []
        for image in self.images:
            extractor = self.net.create_extractor()
            extractor.input("x", image)
            _, y = extractor.extract("y")
            made.append(y)
        self.made = made

    def result(self) -> Array:
        shape = (self.spec.batch, self.spec.filters, *self.spec.output)
        y = np.stack([np.array(image, np.float32) for image in self.made])
        return first_to(self.spec, y.reshape(shape))
