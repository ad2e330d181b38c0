"""How constants were computed from weights, for those that are no weights of that size.

A weight behind ``weight_norm`` is one tensor of the network: it is computed once, and kept with
its elements. But a class token that is repeated for every image, or a table of relative positions
that is read many times, has fewer scalars than what is made of it: there the graph shows the
steps, and the weight itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from convsmith.sources.torch.arguments import bind
from convsmith.sources.torch.call import MAPPINGS, Call
from convsmith.sources.torch.memory import storage_of

__all__ = ["Derivations"]


@dataclass(frozen=True, slots=True)
class _Step:
    """One call that computed a constant from weights.

    Attributes:
        func: What was called.
        args: Its arguments.
        kwargs: Its keyword arguments.
        sources: The tensors among them.
        largest: The size of the largest weight that it comes from.
    """

    func: torch._ops.OpOverload
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    sources: tuple[torch.Tensor, ...]
    largest: int


class Derivations:
    """Remembers the calls that computed constants from weights."""

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}
        self._results: dict[int, torch.Tensor] = {}

    def note(
        self,
        func: torch._ops.OpOverload,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        weights: Iterable[torch.Tensor],
        sources: Sequence[torch.Tensor],
        result: Any,
    ) -> None:
        """Remembers one call; ``weights`` are the learnable ones among its tensors."""
        if not isinstance(result, torch.Tensor) or any(result is source for source in sources):
            return
        sizes = [self._steps[id(w)].largest if id(w) in self._steps else w.numel() for w in weights]
        largest = max(sizes, default=0)
        self._steps[id(result)] = _Step(func, args, kwargs, tuple(sources), largest)
        self._results[id(result)] = result

    def forget(self, target: torch.Tensor) -> None:
        """Forgets what looks at memory that is about to change."""
        memory = storage_of(target)
        for key, step in list(self._steps.items()):
            if any(storage_of(t) == memory for t in (self._results[key], *step.sources)):
                del self._steps[key], self._results[key]

    def call(self, tensor: torch.Tensor, recorder: Any) -> Call | None:
        """The call to be shown in place of a constant; ``None`` if it is a weight itself."""
        step = self._steps.get(id(tensor))
        if step is None:
            return None
        name = step.func.overloadpacket.__name__
        if name not in MAPPINGS or self._is_weight(tensor):
            return None
        return Call(
            name=name,
            overload=step.func._overloadname,
            arguments=bind(step.func, step.args, step.kwargs),
            outputs=(tensor,),
            recorder=recorder,
        )

    def _is_weight(self, tensor: torch.Tensor) -> bool:
        return tensor.numel() == self._steps[id(tensor)].largest
