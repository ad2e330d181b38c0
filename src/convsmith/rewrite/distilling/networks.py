"""The two networks as working copies that can be run, watched and trained.

Whatever happens to a copy, the caller's networks never notice: hooks stay behind (except those
that compute a weight), parameters are copies, and modes and ``requires_grad`` are the copy's own.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from convsmith.errors import ConvsmithError, DataError, UsageError
from convsmith.graph import Graph
from convsmith.rewrite.distilling.inputs import Inputs, flat
from convsmith.rewrite.distilling.interpreter import Interpreter
from convsmith.rewrite.distilling.matching import groups_of
from convsmith.sources.torch.twin import HOOK_TABLES, computes_a_weight, unwrap

__all__ = ["GraphNetwork", "ModuleNetwork", "Taps", "WorkingNetwork"]


_NARROW = (torch.float16, torch.bfloat16)


@final
class Taps:
    """Where a network is watched while it runs.

    Args:
        places: Module paths or names of values.
        cut: Whether no gradient passes into a place from before it.

    Attributes:
        values: What was seen at each place, in order; a module may be called more than once.
    """

    def __init__(self, places: Iterable[str], *, cut: bool = False) -> None:
        self.values: dict[str, list[Tensor]] = {place: [] for place in places}
        self.cut = cut


class WorkingNetwork(ABC):
    """A copy of a network; abstract."""

    module: nn.Module

    @abstractmethod
    def _call(self, inputs: Inputs, taps: Taps | None) -> Any: ...

    @abstractmethod
    def parameters_at(self, places: Iterable[str]) -> list[nn.Parameter]:
        """The parameters of the layers at some places."""

    @property
    def anchor(self) -> tuple[torch.device, torch.dtype]:
        """Where it computes, and in which type."""
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
        return torch.device("cpu"), torch.float32

    def run(self, inputs: Inputs, taps: Taps | None = None) -> tuple[Tensor, ...]:
        """Returns its outputs.

        Raises:
            DataError: If it cannot be called so, or returns no tensors of real numbers.
        """
        try:
            made = self._call(inputs.to(*self.anchor), taps)
        except ConvsmithError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            raise DataError(
                f"it raises {type(error).__name__}: {first}",
                place=type(self.module).__name__,
                remedy="give batches that the network can be called with",
            ) from error
        outputs = flat(made)
        if not outputs:
            raise DataError(
                f"it returns an object of type {type(made).__name__} without real numbers",
                place=type(self.module).__name__,
                remedy="distill a network that returns tensors",
            )
        return outputs

    def freeze(self, trained: Iterable[nn.Parameter] = ()) -> None:
        """Lets these parameters be trained, and no others."""
        wanted = set(map(id, trained))
        for parameter in self.module.parameters():
            parameter.requires_grad_(id(parameter) in wanted)

    def mode(self, *, batch_norm: bool = False) -> None:
        """Sets inference mode, except perhaps for batch norms."""
        self.module.eval()
        if batch_norm:
            for module in self.module.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm | Interpreter):
                    module.train()

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters and buffers by name: everything that training may change."""
        found = {name: parameter.data for name, parameter in self.module.named_parameters()}
        found |= {name: buffer.data for name, buffer in self.module.named_buffers()}
        return found

    def state(self) -> dict[str, Tensor]:
        """A copy of :meth:`tensors`."""
        return {name: tensor.clone() for name, tensor in self.tensors().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a state."""
        for name, tensor in self.tensors().items():
            if name in state:
                tensor.copy_(state[name])


@final
class ModuleNetwork(WorkingNetwork):
    """A torch module.

    Raises:
        UsageError: If it cannot be copied, or has weights without a shape.
    """

    def __init__(self, module: nn.Module) -> None:
        try:
            self.module = copy.deepcopy(unwrap(module))
        except Exception as error:
            raise UsageError(
                f"copying it raises {type(error).__name__}: {error}",
                place=type(module).__name__,
                remedy="give a module that copy.deepcopy can copy",
            ) from error
        for child in self.module.modules():
            for table in HOOK_TABLES:
                hooks = child.__dict__.get(table, {})
                for key in [k for k, hook in hooks.items() if not computes_a_weight(hook)]:
                    del hooks[key]
        for name, parameter in self.module.named_parameters():
            if isinstance(parameter, nn.UninitializedParameter):
                raise UsageError(
                    "it has no shape yet", place=name, remedy="run the module once before"
                )
            if parameter.dtype in _NARROW and parameter.requires_grad:
                raise UsageError(
                    f"it is {str(parameter.dtype)[6:]}, too narrow to be trained",
                    place=name,
                    remedy="train module.float(), and make it narrow afterwards",
                )

    def _call(self, inputs: Inputs, taps: Taps | None) -> Any:
        with self._tapped(taps):
            return self.module(*inputs.positional, **inputs.named)

    @contextmanager
    def _tapped(self, taps: Taps | None) -> Iterator[None]:
        with ExitStack() as stack:
            for place, seen in () if taps is None else taps.values.items():
                child = self.module.get_submodule(place)
                stack.callback(child.register_forward_hook(_recorder(seen)).remove)
                if taps is not None and taps.cut:
                    handle = child.register_forward_pre_hook(_detached, with_kwargs=True)
                    stack.callback(handle.remove)
            yield

    def parameters_at(self, places: Iterable[str]) -> list[nn.Parameter]:
        """The parameters of the modules at some paths."""
        found = {
            id(p): p for place in places for p in self.module.get_submodule(place).parameters()
        }
        return list(found.values())

    def written(self, given: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the caller's module, hooks and modes included, with other weights."""
        result = copy.deepcopy(given)
        inner = unwrap(result)
        named = dict(inner.named_parameters()) | dict(inner.named_buffers())
        with torch.no_grad():
            for name, tensor in named.items():
                if name in state and not torch.equal(tensor, state[name]):
                    tensor.data.copy_(state[name])
        return result


def _recorder(seen: list[Tensor]) -> Any:
    def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
        seen.extend(tensor.clone() for tensor in flat(output)[:1])  # what follows may be in-place

    return hook


def _detached(_module: nn.Module, arguments: Any, named: Any) -> tuple[Any, Any]:
    def one(value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value

    return tuple(map(one, arguments)), {name: one(value) for name, value in named.items()}


@final
class GraphNetwork(WorkingNetwork):
    """A graph, run in torch.

    Args:
        graph: The network.
        original: The graph that it was made from, which says what belongs together in it.
    """

    module: Interpreter

    def __init__(self, graph: Graph, original: Graph) -> None:
        self.module = Interpreter(graph)
        self._groups = groups_of(original, graph)

    def _call(self, inputs: Inputs, taps: Taps | None) -> Any:
        if taps is None:
            return self.module(inputs.named)
        seen, groups = taps.values, self._groups
        owner = {node: place for place in seen for node in groups.get(place, (place,))}

        def watch(name: str, value: Tensor) -> None:
            if name in seen:
                seen[name].append(value)

        def cut(value: str, node: str) -> bool:
            place = owner.get(node)
            return place is not None and owner.get(value.partition(":")[0]) != place

        return self.module(inputs.named, watch, cut if taps.cut else None)

    def parameters_at(self, places: Iterable[str]) -> list[nn.Parameter]:
        """The parameters of the nodes that stand for some layers."""
        graph, found = self.module.graph, dict[int, nn.Parameter]()
        for place in places:
            for name in self._groups.get(place, (place,)):
                node = graph.by_name[name]
                for used in (*node.parameters, *node.inputs):
                    tensor = self.module.constant(used) if used in graph.constants else None
                    if isinstance(tensor, nn.Parameter):
                        found[id(tensor)] = tensor
        return list(found.values())
