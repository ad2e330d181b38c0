"""What runs a whole network, so that it can be timed: convsmith and others beside it.

Everybody is made ready before anything is timed, takes the caller's arrays as they are (torch in
channels_last its own copy of them) and gives its outputs in memory of its own choice.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from convsmith.errors import MissingDependencyError, UsageError
from convsmith.graph import Graph
from convsmith.runtime.peers.torch_peer import Torch
from convsmith.runtime.sessions import onnxruntime, open_session, run_session
from convsmith.sources import save

__all__ = ["RUNTIMES", "Job", "Runtime"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One network to run.

    Attributes:
        net: The network, with weights.
        file: Where it may be written as an ONNX file, once for all.
        module: Its torch module, if there is one.
        inputs: One array per input.
        threads: How many threads there are.
        tune: Whether time may be spent on measuring beforehand.
    """

    net: Graph
    file: Path
    module: Any
    inputs: Mapping[str, Array]
    threads: int
    tune: bool

    def model(self) -> Path:
        """Returns the network as an ONNX file."""
        if not self.file.exists():
            save(self.net, self.file)
        return self.file


class Runtime(Protocol):
    """Something that runs networks."""

    @property
    def engine(self) -> str:
        """What people call it."""

    def version(self) -> str:
        """Returns which version is installed."""

    def using(self, threads: int) -> AbstractContextManager[None]:
        """Holds the library to so many threads, and gives back what it had."""

    def prepare(self, job: Job) -> Callable[[], None]:
        """Returns what runs the network once; this is what is timed."""


class _Convsmith:
    engine = "convsmith"

    def version(self) -> str:
        return version("convsmith")

    def using(self, threads: int) -> AbstractContextManager[None]:
        return nullcontext()

    def prepare(self, job: Job) -> Callable[[], None]:
        from convsmith.runtime.compiling import compile as compiled

        program = compiled(job.net, threads=job.threads, tune=job.tune)
        inputs = dict(job.inputs)

        def run() -> None:
            program.run(inputs)

        return run


class _OnnxRuntime:
    engine = "ONNX Runtime"

    def version(self) -> str:
        return str(onnxruntime().__version__)

    def using(self, threads: int) -> AbstractContextManager[None]:
        return nullcontext()

    def prepare(self, job: Job) -> Callable[[], None]:
        model = job.model()
        session = open_session(model, job.threads)

        def run() -> None:
            run_session(session, job.inputs, model)

        return run


class _OpenVino:
    engine = "OpenVINO"

    def version(self) -> str:
        return version("openvino")

    def using(self, threads: int) -> AbstractContextManager[None]:
        return nullcontext()

    def prepare(self, job: Job) -> Callable[[], None]:
        try:
            openvino = importlib.import_module("openvino")
        except ImportError:
            raise MissingDependencyError(
                "OpenVINO is not installed", remedy="pip install openvino"
            ) from None
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": job.threads,
            "NUM_STREAMS": 1,
        }
        core = openvino.Core()
        model = core.compile_model(core.read_model(str(job.model())), "CPU", options)
        request = model.create_infer_request()
        held = {name: np.ascontiguousarray(array) for name, array in job.inputs.items()}
        for name, array in held.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

        def run() -> None:
            request.infer(share_outputs=True)

        run.held = held  # type: ignore[attr-defined]  # the tensors share this memory
        return run


@dataclass(frozen=True, slots=True)
class _Torch:
    last: bool = False

    @property
    def engine(self) -> str:
        return "PyTorch, channels_last" if self.last else "PyTorch"

    def version(self) -> str:
        return version("torch")

    def using(self, threads: int) -> AbstractContextManager[None]:
        return Torch(name="torch", last=self.last).using(threads)

    def prepare(self, job: Job) -> Callable[[], None]:
        if job.module is None:
            raise UsageError(
                "torch runs modules, and there is none for this network",
                remedy="give modules={name: module}, or leave torch out",
            )
        try:
            torch = importlib.import_module("torch")
        except ImportError:
            raise MissingDependencyError(
                "torch is not installed", remedy="pip install torch"
            ) from None
        from copy import deepcopy

        module = deepcopy(job.module).eval()
        inputs = [torch.from_numpy(np.ascontiguousarray(a)) for a in job.inputs.values()]
        if self.last:
            module = module.to(memory_format=torch.channels_last)
            inputs = [
                x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
                for x in inputs
            ]

        def run() -> None:
            with torch.inference_mode():
                module(*inputs)

        return run


RUNTIMES: Final[dict[str, Runtime]] = {
    "convsmith": _Convsmith(),
    "onnxruntime": _OnnxRuntime(),
    "openvino": _OpenVino(),
    "torch": _Torch(),
    "torch channels_last": _Torch(last=True),
}
"""Every runtime, by name."""
