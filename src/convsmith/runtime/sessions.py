"""ONNX files run by ONNX Runtime, its errors told as ours."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from convsmith.errors import DataError, MissingDependencyError, SourceError

__all__ = ["onnxruntime", "open_session", "run_session"]

Array = npt.NDArray[Any]

_ERRORS_ONLY = 3


def onnxruntime() -> Any:
    """Returns the module.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise MissingDependencyError(
            "ONNX Runtime is not installed",
            remedy="pip install 'convsmith[onnxruntime]'",
        ) from None


@contextlib.contextmanager
def _its_errors(model: Path) -> Iterator[None]:
    """Turns ONNX Runtime's exceptions, which share no base of their own, into ours."""
    errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    kinds: tuple[type[Exception], ...] = (
        RuntimeError,
        ValueError,
        *(k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)),
    )
    try:
        yield
    except kinds as error:
        reason = str(error).split(" : ")[-1].strip().splitlines() or [type(error).__name__]
        if isinstance(error, ValueError | errors.InvalidArgument):
            raise DataError(
                f"ONNX Runtime does not take the inputs ({reason[0]})",
                place=str(model),
                remedy="give arrays of the sizes and types that the network takes",
            ) from None
        raise SourceError(
            f"ONNX Runtime cannot run it ({reason[0]})",
            place=str(model),
            remedy="update onnxruntime, or go without measured times",
        ) from None


def open_session(model: Path, count: int) -> Any:
    """Returns a session on so many threads.

    Raises:
        MissingDependencyError: If ONNX Runtime is not installed.
        SourceError: If the file is missing or ONNX Runtime cannot run it.
    """
    runtime = onnxruntime()
    if not model.is_file():
        raise SourceError("there is no such file", place=str(model), remedy="check its name")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = count
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Threads that wait for the next run in a busy loop would slow the network whose turn it is.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with _its_errors(model):
        return runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: Mapping[str, Array], model: Path) -> Sequence[Array]:
    """Runs a session once and returns its outputs.

    Raises:
        DataError: If an input is missing or has the wrong size or type.
        SourceError: If ONNX Runtime fails.
    """
    wanted = [value.name for value in session.get_inputs()]
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise DataError(
            f"input {missing[0]!r} is missing",
            place=str(model),
            remedy=f"it takes {', '.join(map(repr, wanted))}",
        )
    with _its_errors(model):
        made: Sequence[Array] = session.run(None, {name: inputs[name] for name in wanted})
    return made
