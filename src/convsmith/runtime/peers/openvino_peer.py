"""OpenVINO in float32, for latency, on an input tensor that shares our memory."""

from __future__ import annotations

import importlib
import tempfile
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.spec import ConvSpec
from convsmith.runtime.peers.onnx_model import write_model
from convsmith.runtime.peers.protocol import (
    Array,
    PeerConvolution,
    first_from,
    first_to,
    no_residual,
)

__all__ = ["OpenVino"]


class OpenVino:
    """A compiled model of one convolution."""

    name = "openvino"
    module = "openvino"
    package = "openvino"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a convolution, or nothing."""
        return no_residual(spec)

    def using(self, threads: int) -> AbstractContextManager[None]:
        """Does nothing: the compiled model has its threads."""
        return nullcontext()

    def prepare(
        self, spec: ConvSpec, weights: NDArray[Any], bias: NDArray[Any] | None, threads: int
    ) -> PeerConvolution:
        """Compiles a model."""
        openvino = importlib.import_module("openvino")
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        with tempfile.TemporaryDirectory(prefix="convsmith-") as folder:
            path = write_model(spec, weights, bias, folder)
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(str(path)), "CPU", options)
        return _Convolution(spec, openvino, compiled.create_infer_request())


class _Convolution:
    def __init__(self, spec: ConvSpec, openvino: Any, request: Any) -> None:
        self.spec, self.openvino, self.request = spec, openvino, request
        self.x: Array | None = None

    def feed(self, x: Array) -> None:
        self.x = first_from(self.spec, x)  # the tensor shares this memory
        self.request.set_input_tensor(self.openvino.Tensor(self.x, shared_memory=True))

    def run(self) -> None:
        self.request.infer(share_outputs=True)

    def result(self) -> Array:
        return first_to(self.spec, np.array(self.request.get_output_tensor().data))
