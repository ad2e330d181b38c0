"""Reads a torch module: one forward pass without arithmetic, written down as a graph."""

from __future__ import annotations

import functools
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import nn
from torch.nn.modules import module as module_state
from torch.overrides import TorchFunctionMode

from convsmith.errors import ConvsmithError, SourceError
from convsmith.graph import Graph
from convsmith.graph.collecting import collector_at_rest
from convsmith.graph.operators import LocalResponseNorm, Same
from convsmith.sources.torch import (  # they fill the mapping table
    arrangement,
    functions,
    layers,
    places,
    sampling,
)
from convsmith.sources.torch.call import Call
from convsmith.sources.torch.examples import Arguments, named_tensors, read_arguments
from convsmith.sources.torch.recorder import Recorder
from convsmith.sources.torch.twin import make_twin, unwrap

__all__ = ["read_module"]

_ = arrangement, functions, layers, places, sampling


def read_module(module: nn.Module, inputs: object) -> Graph:
    """Reads a module by recording one call, as at inference.

    Nothing is computed that depends on the inputs, and nothing about the module changes: it
    keeps its device, mode, hooks, buffers and attributes, and random numbers go on as if
    nothing had been. Functional calls are seen like modules.

    Args:
        module: Any module, on any device (``meta`` too: weights are then absent).
        inputs: The sizes of its inputs, in the forms of :func:`convsmith.load`, or example
            tensors, whose sizes and types count: one, a tuple, or keywords in a mapping.

    Returns:
        The network. Nodes are named by module path (``layer1.0.conv1``, ``layer1.0.relu``),
        weights by state-dict key; on the CPU they share the module's memory.

    Raises:
        SourceError: If forward fails, or what it does depends on the elements of a tensor; names
            the module in which it happened.
        UsageError: If the inputs are not those of ``forward``.

    >>> print(read_module(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (1, 3, 8, 8)))
    input : 3@8x8
    "0" = conv 8 3 (input)
    "1" = relu ("0")
    return output = "1"
    """
    module = unwrap(module)
    arguments = read_arguments(module, inputs)
    with collector_at_rest():
        return _Reading(module).read(arguments)


class _Reading:
    """One pass over the twin of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.title = type(module).__name__
        self.twin = make_twin(module, self._follow)
        self.failure: Exception | None = None
        self.failed_at = self.title
        self.recorder: Recorder | None = None

    def read(self, arguments: Arguments) -> Graph:
        recorder = self.recorder = Recorder(self.twin)
        with _nothing_remembered(), torch.inference_mode():
            for name, tensor in arguments.tensors:
                recorder.input(name, tensor)
            with recorder, _WholeFunctions(recorder):
                outputs = self._run(arguments)
            found = list(named_tensors(outputs, "output"))
            if not found:
                raise SourceError(
                    "forward returns no tensor", place=self.title, remedy="return its result"
                )
            pairs = [(name, recorder.result(tensor, name)) for name, tensor in found]
        return recorder.builder.build(*pairs, source=self.title)

    def _run(self, arguments: Arguments) -> Any:
        try:
            return self.twin.module(*arguments.positional, **arguments.keywords)
        except ConvsmithError as error:
            if not error.place:
                error.at(self.failed_at)
            raise
        except Exception as error:
            raise self._explain(error, arguments) from error

    def _follow(
        self, path: str, module: nn.Module, forward: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Wraps a forward so that the recorder knows which module is running."""

        @functools.wraps(forward, assigned=("__name__", "__doc__"), updated=())
        def followed(*args: Any, **kwargs: Any) -> Any:
            assert self.recorder is not None
            self.recorder.names.running.append((path, module))
            try:
                return forward(*args, **kwargs)
            except Exception as error:
                if self.failure is not error:  # the innermost module sees it first
                    self.failure, self.failed_at = error, path or self.title
                raise
            finally:
                self.recorder.names.running.pop()

        return followed

    def _explain(self, error: Exception, arguments: Arguments) -> SourceError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        fact = (lines[0] if lines else type(error).__name__).rstrip(".;")
        place = self.failed_at
        if re.search(r"\bmeta\b|unallocated storage", fact):
            return SourceError(
                f"forward needs the elements of a tensor ({fact})",
                place=place,
                remedy="what it does depends on data; give an ONNX export",
            )
        if not isinstance(error, RuntimeError | ValueError | IndexError):
            fact = f"forward raises {type(error).__name__}: {fact}"
            return SourceError(fact, place=place, remedy="run the module once in torch to see why")
        if "scalar type" in fact or "dtype" in fact:
            remedy = "give example tensors of the type that it needs"
            return SourceError(fact, place=place, remedy=remedy)
        sizes = "; ".join(
            f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in arguments.tensors
        )
        return SourceError(fact, place=place, remedy=f"check the size of the input ({sizes})")


class _WholeFunctions(TorchFunctionMode):
    """Sees calls of torch's Python functions before they fall apart into aten operators."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        """Handles one call; torch calls this for every function."""
        if func not in _HANDLED:
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        if func in _FROM_DATA and _is_meta(kwargs.get("device") or torch.get_default_device()):
            kwargs["device"] = self.recorder.device  # or the data would be lost
        if func is torch.Tensor.__getitem__ and args[0].is_meta:
            args = args[0], self._places(args[1])
        if func is torch.Tensor.new_tensor and args[0].is_meta:
            kwargs = {"dtype": args[0].dtype, "device": self.recorder.device, **kwargs}
            return torch.tensor(*args[1:], **kwargs)
        if func is F.local_response_norm and self._is_symbolic(*args, **kwargs):
            return self._local_response_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _places(self, index: Any) -> Any:
        """Lists in an index become tensors here, or torch would make them without data."""
        match index:
            case tuple():
                return tuple(self._places(item) for item in index)
            case list() | np.ndarray():
                return torch.as_tensor(index, device=self.recorder.device)
        return index

    def _is_symbolic(self, input: torch.Tensor, *_: object, **__: object) -> bool:  # noqa: A002
        return self.recorder.value_of(input) is not None

    def _local_response_norm(
        self,
        input: torch.Tensor,  # noqa: A002 - torch's name
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
    ) -> torch.Tensor:
        result = torch.empty_like(input, device="meta")
        call = Call(
            name="local_response_norm",
            overload="",
            arguments={"input": input},
            outputs=(result,),
            recorder=self.recorder,
        )
        lean: Same = "lower" if size % 2 == 0 else "upper"
        value = call.add(LocalResponseNorm(size=size, alpha=alpha, beta=beta, k=k, lean=lean))
        self.recorder.define(result, value)
        return result


_FROM_DATA = (torch.tensor, torch.as_tensor, torch.asarray)
_HANDLED = frozenset(
    [*_FROM_DATA, torch.Tensor.__getitem__, torch.Tensor.new_tensor, F.local_response_norm]
)


def _is_meta(device: object) -> bool:
    return str(device).partition(":")[0] == "meta"


@contextmanager
def _nothing_remembered() -> Iterator[None]:
    """Leaves no trace: hooks for all modules rest, warnings and random numbers are as before."""
    with ExitStack() as stack:
        stack.enter_context(_global_hooks_at_rest())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        stack.enter_context(torch.random.fork_rng(devices=gpus))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002 - the global one
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _global_hooks_at_rest() -> Iterator[None]:
    tables = [
        table
        for name, table in vars(module_state).items()
        if name.startswith("_global_") and isinstance(table, dict)
    ]
    before = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
