"""What nodes and constants are called: by the modules that are running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

__all__ = ["Names"]


class Names:
    """Gives out names, each once.

    Args:
        keys: The state-dict key of every tensor of the module, by identity.
        taken: Names that nothing else may have.

    Attributes:
        running: The modules that are running, outermost first, with their paths.
    """

    def __init__(self, keys: Mapping[int, str], taken: Collection[str]) -> None:
        self.running: list[tuple[str, nn.Module]] = []
        self._keys = keys
        self._taken = set(taken)
        self._repeats: Counter[str] = Counter()

    @property
    def path(self) -> str:
        """The path of the innermost module that is running."""
        return self.running[-1][0] if self.running else ""

    def base_name(self, operator: str, weights: Sequence[torch.Tensor] = ()) -> str:
        """The name that a node should have: that of its module, if it is what the module does."""
        path, module = self.running[-1] if self.running else ("", None)
        operator = operator.strip("_")
        if not path or module is None:
            return operator
        keys = [self._keys.get(id(weight), "") for weight in weights]
        if keys and keys[0].rpartition(".")[0] == path and keys[0].endswith((".weight", "_mean")):
            return path
        is_layer = type(module).__module__.startswith("torch.nn.")
        children = set(module._modules) - {"parametrizations"}
        if is_layer and not children and (weights or not _has_weights(module)):
            return path
        return self.below(operator)

    def below(self, name: str) -> str:
        """A name inside the innermost module that is running."""
        return f"{self.path}.{name}" if self.path else name

    def next_name(self, operator: str) -> str:
        """The name that the next node of this operator will have."""
        base = self.base_name(operator)
        count = self._repeats[base]
        while (name := base if count == 0 else f"{base}_{count}") in self._taken:
            count += 1
        return name

    def unique(self, base: str) -> str:
        """Takes a name, with a number when others have it already."""
        while True:
            count = self._repeats[base]
            self._repeats[base] += 1
            name = base if count == 0 else f"{base}_{count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def free(self, name: str) -> str:
        """Takes a name for something that is no node."""
        count, free = 0, name
        while free in self._taken:
            count += 1
            free = f"{name}_{count}"
        self._taken.add(free)
        return free


def _has_weights(module: nn.Module) -> bool:
    return any(value is not None for value in module._parameters.values())
