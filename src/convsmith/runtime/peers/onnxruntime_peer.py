"""ONNX Runtime, input and output bound to memory before the run."""

from __future__ import annotations

import importlib
import tempfile
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from numpy.typing import NDArray

from convsmith.conv.spec import ConvSpec
from convsmith.runtime.peers.onnx_model import INPUT, OUTPUT, write_model
from convsmith.runtime.peers.protocol import (
    Array,
    PeerConvolution,
    first_from,
    first_to,
    no_residual,
)

__all__ = ["OnnxRuntime"]

_ERRORS_ONLY = 3


class OnnxRuntime:
    """A session over a model of one convolution; it blocks the weights when it is made."""

    name = "onnxruntime"
    module = "onnxruntime"
    package = "onnxruntime"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a convolution, or nothing."""
        return no_residual(spec)

    def using(self, threads: int) -> AbstractContextManager[None]:
        """Does nothing: the session has its threads."""
        return nullcontext()

    def prepare(
        self, spec: ConvSpec, weights: NDArray[Any], bias: NDArray[Any] | None, threads: int
    ) -> PeerConvolution:
        """Makes a session."""
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Between its own runs it spins as it always does; it stops when its turn is over.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        with tempfile.TemporaryDirectory(prefix="convsmith-") as folder:
            path = write_model(spec, weights, bias, folder)
            session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        return _Convolution(spec, runtime, session)


class _Convolution:
    def __init__(self, spec: ConvSpec, runtime: Any, session: Any) -> None:
        self.spec, self.runtime, self.session = spec, runtime, session
        self.binding = session.io_binding()
        self.held: list[Any] = []

    def feed(self, x: Array) -> None:
        value = self.runtime.OrtValue
        shape = [self.spec.batch, self.spec.filters, *self.spec.output]
        given = value.ortvalue_from_numpy(first_from(self.spec, x))
        made = value.ortvalue_from_shape_and_type(shape, "float32", "cpu")
        self.binding.bind_ortvalue_input(INPUT, given)
        self.binding.bind_ortvalue_output(OUTPUT, made)
        self.held = [given, made]

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def result(self) -> Array:
        return first_to(self.spec, self.held[1].numpy())
