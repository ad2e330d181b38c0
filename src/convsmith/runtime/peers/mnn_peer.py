"""MNN at high precision; the input is copied into its session once, a run is ``runSession``.

A model is converted by MNN's compiled converter itself, in a process of its own. Its Python
programs (``mnnconvert``, ``MNN.tools``) are left alone: on import they install a package with pip
and report to a server what was converted.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

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
from convsmith.runtime.peers.silence import silence

__all__ = ["Mnn"]

_CONVERT: Final = "import sys, _tools; _tools.mnnconvert(sys.argv)"
_PATIENCE: Final = 120  # seconds


class Mnn:
    """A session over a model of one convolution.

    Its copies between our layout and its own, in blocks of channels, happen before and after the
    run: they are not in its time.
    """

    name = "MNN"
    module = "MNN"
    package = "MNN"

    def refuses(self, spec: ConvSpec) -> str:
        """Returns why it does not take a convolution, or nothing."""
        return no_residual(spec)

    def using(self, threads: int) -> AbstractContextManager[None]:
        """Does nothing: the session has its threads."""
        return nullcontext()

    def prepare(
        self, spec: ConvSpec, weights: NDArray[Any], bias: NDArray[Any] | None, threads: int
    ) -> PeerConvolution:
        """Converts a model and makes a session."""
        with tempfile.TemporaryDirectory(prefix="convsmith-") as folder, silence():
            mnn = importlib.import_module("MNN")
            made = Path(folder, "convolution.mnn")
            _convert(write_model(spec, weights, bias, folder), made)
            interpreter = mnn.Interpreter(str(made))
            session = interpreter.createSession(
                {"backend": "CPU", "precision": "high", "numThread": threads}
            )
        return _Convolution(spec, mnn, interpreter, session)


def _convert(model: Path, made: Path) -> None:
    arguments = ["-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(made), "--bizCode", "x"]
    ran = subprocess.run(
        [sys.executable, "-c", _CONVERT, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PATIENCE,
        check=False,
    )
    if not made.is_file():
        said = (ran.stderr or ran.stdout).strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"MNN's converter failed: {said[-1][:200]}")


class _Convolution:
    def __init__(self, spec: ConvSpec, mnn: Any, interpreter: Any, session: Any) -> None:
        self.spec, self.mnn, self.interpreter, self.session = spec, mnn, interpreter, session

    def feed(self, x: Array) -> None:
        given = self.interpreter.getSessionInput(self.session)
        image = first_from(self.spec, x)
        given.copyFrom(self._tensor(image))

    def run(self) -> None:
        self.interpreter.runSession(self.session)

    def result(self) -> Array:
        spec = self.spec
        made = np.empty((spec.batch, spec.filters, *spec.output), np.float32)
        host = self._tensor(made)
        self.interpreter.getSessionOutput(self.session).copyToHostTensor(host)
        return first_to(spec, np.array(host.getNumpyData(), np.float32).reshape(made.shape))

    def _tensor(self, array: Array) -> Any:
        mnn = self.mnn
        return mnn.Tensor(array.shape, mnn.Halide_Type_Float, array, mnn.Tensor_DimensionType_Caffe)
