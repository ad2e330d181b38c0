"""PyTorch: eager in both memory formats, and with weights that oneDNN has laid out before."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.spec import ConvSpec
from convsmith.runtime.peers.protocol import Array, PeerConvolution, first_from, no_residual

__all__ = ["Torch"]

_FUSED = {"none": ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0]),
          "silu": ("swish", []), "hardswish": ("hardswish", [])}  # fmt: skip
"""Activations as oneDNN's fused convolution names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """One way to convolve with PyTorch.

    Attributes:
        name: What tables call it.
        last: Whether its image lies in channels_last.
        prepared: Whether the weights are laid out beforehand, as ``torch.compile`` does; eager
            PyTorch lays them out in every run.
    """

    name: str
    last: bool
    prepared: bool = False
    module: str = "torch"
    package: str = "torch"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a convolution, or nothing."""
        if self.last and spec.rank == 1:
            return "torch has no channels_last for one spatial axis"
        if self.prepared:
            if any(before != after for before, after in spec.padding):
                return "its fused convolution pads all sides alike"
            if not hasattr(_torch().ops.mkldnn, "_convolution_pointwise"):
                return "this build of torch has no oneDNN"
        return no_residual(spec)

    @contextmanager
    def using(self, threads: int) -> Iterator[None]:
        """Sets the threads of operators, and gives back what was set."""
        torch = _torch()
        before: int = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def prepare(
        self, spec: ConvSpec, weights: NDArray[Any], bias: NDArray[Any] | None, threads: int
    ) -> PeerConvolution:
        """Makes a convolution ready."""
        torch = _torch()
        w = torch.from_numpy(np.ascontiguousarray(weights, np.float32))
        b = None if bias is None else torch.from_numpy(np.ascontiguousarray(bias, np.float32))
        form = None
        if self.last:
            form = torch.channels_last if spec.rank == 2 else torch.channels_last_3d
        convolve = _fused(spec, w, b) if self.prepared else _eager(spec, w, b, form)
        return _Convolution(spec, form, convolve)


class _Convolution:
    def __init__(self, spec: ConvSpec, form: Any, convolve: Callable[[Any], Any]) -> None:
        self.spec, self.form, self.convolve = spec, form, convolve
        self.torch = _torch()
        self.x: Any = None
        self.y: Any = None

    def feed(self, x: Array) -> None:
        given = self.torch.from_numpy(first_from(self.spec, x))
        self.x = given if self.form is None else given.contiguous(memory_format=self.form)

    def run(self) -> None:
        with self.torch.inference_mode():
            self.y = self.convolve(self.x)

    def result(self) -> Array:
        y = self.y.detach().numpy()
        if self.spec.layout == "channels_last":
            y = np.moveaxis(y, 1, -1)
        return np.ascontiguousarray(y)


def _torch() -> Any:
    return importlib.import_module("torch")


def _eager(spec: ConvSpec, w: Any, b: Any, form: Any) -> Callable[[Any], Any]:
    torch = _torch()
    functional = torch.nn.functional
    if form is not None:
        w = w.contiguous(memory_format=form)
    convolution = getattr(functional, f"conv{spec.rank}d")
    name = spec.activation
    activate = None if name == "none" else getattr(functional, name)
    symmetric = all(before == after for before, after in spec.padding)
    padding = tuple(before for before, _ in spec.padding) if symmetric else 0
    around = [pad for pair in reversed(spec.padding) for pad in pair]
    options = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups}

    def convolve(x: Any) -> Any:
        if not symmetric:
            x = functional.pad(x, around)
        y = convolution(x, w, b, padding=padding, **options)
        return y if activate is None else activate(y, inplace=True)

    return convolve


def _fused(spec: ConvSpec, w: Any, b: Any) -> Callable[[Any], Any]:
    operators = _torch().ops.mkldnn
    padding = [before for before, _ in spec.padding]
    steps = (padding, list(spec.stride), list(spec.dilation), spec.groups)
    shape = [spec.batch, spec.channels, *spec.size]
    laid_out = operators._reorder_convolution_weight(w, *steps, shape)
    kind, scalars = _FUSED[spec.activation]

    def convolve(x: Any) -> Any:
        return operators._convolution_pointwise(x, laid_out, b, *steps, kind, scalars, "")

    return convolve
