"""convsmith makes convolutional networks cheaper without changing what they see.

Read a network, halve its multiplications by the evidence of real inputs, and see what was lost::

    import numpy as np
    import convsmith as cs

    net = cs.load("network.onnx")
    print(cs.analyze(net))
    calibration = cs.calibrate(net, [np.load("images.npy")])
    result = cs.rewrite(net, macs=0.5, calibration=calibration)
    print(result.verification)
    cs.save(result.net, "smaller.onnx")

Public names are loaded when they are first used, so importing convsmith costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convsmith.acceleration import accelerate
    from convsmith.analysis import analyze, diff
    from convsmith.analysis.explaining import explain
    from convsmith.comparison import compare
    from convsmith.conv.calling import conv1d, conv2d, conv3d
    from convsmith.conv.transposing import conv_transpose1d, conv_transpose2d, conv_transpose3d
    from convsmith.errors import ConvsmithError
    from convsmith.evidence import calibrate, verify
    from convsmith.graph import Graph
    from convsmith.linting import lint
    from convsmith.optimization import optimize
    from convsmith.parallel import set_threads
    from convsmith.rewrite import RewritePackage
    from convsmith.rewrite.applying import apply
    from convsmith.rewrite.merging import merge
    from convsmith.runtime.benching import bench
    from convsmith.runtime.compiling import compile  # noqa: A004 - the published name
    from convsmith.signal import spectrum
    from convsmith.sources import load, save

    __version__: str
    rewrite: RewritePackage

__all__ = [
    "ConvsmithError",
    "Graph",
    "__version__",
    "accelerate",
    "analyze",
    "apply",
    "bench",
    "calibrate",
    "compare",
    "compile",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "diff",
    "explain",
    "lint",
    "load",
    "merge",
    "optimize",
    "rewrite",
    "save",
    "set_threads",
    "spectrum",
    "verify",
]

_HOMES = {
    "ConvsmithError": "convsmith.errors",
    "Graph": "convsmith.graph",
    "accelerate": "convsmith.acceleration",
    "analyze": "convsmith.analysis",
    "apply": "convsmith.rewrite.applying",
    "bench": "convsmith.runtime.benching",
    "calibrate": "convsmith.evidence",
    "compare": "convsmith.comparison",
    "compile": "convsmith.runtime.compiling",
    "conv1d": "convsmith.conv.calling",
    "conv2d": "convsmith.conv.calling",
    "conv3d": "convsmith.conv.calling",
    "conv_transpose1d": "convsmith.conv.transposing",
    "conv_transpose2d": "convsmith.conv.transposing",
    "conv_transpose3d": "convsmith.conv.transposing",
    "diff": "convsmith.analysis",
    "explain": "convsmith.analysis.explaining",
    "lint": "convsmith.linting",
    "load": "convsmith.sources",
    "merge": "convsmith.rewrite.merging",
    "optimize": "convsmith.optimization",
    "save": "convsmith.sources",
    "set_threads": "convsmith.parallel",
    "spectrum": "convsmith.signal",
    "verify": "convsmith.evidence",
}


def __getattr__(name: str) -> object:
    value: object
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name == "rewrite":  # a package that can be called: importing it would hide a function
        value = import_module("convsmith.rewrite")
    elif name == "__version__":
        value = import_module("importlib.metadata").version("convsmith")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
