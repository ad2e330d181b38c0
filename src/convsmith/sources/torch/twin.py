"""A twin of the user's module: the same weights in memory, but free to be run.

What happens to a twin, the user's module never notices: its attributes are copies, its
tensors other objects over the same memory, its mode is that of inference, and the user's hooks
stay behind. Only hooks that compute a weight (``torch.nn.utils``) come along.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import nn

from convsmith.errors import SourceError

__all__ = ["HOOK_TABLES", "Twin", "computes_a_weight", "make_twin", "plain_attributes", "unwrap"]

# What can neither change nor hold a tensor or a module: most attributes.
_ATOMS = frozenset([bool, int, float, complex, str, bytes, type(None), type, torch.dtype])
_OWN = frozenset(nn.Module().__dict__)  # never shared between modules, nor with an attribute
_CONTAINERS = frozenset([dict, list, set, OrderedDict])
_TABLES = ("_parameters", "_buffers", "_modules")
HOOK_TABLES = frozenset(n for n, v in nn.Module().__dict__.items() if "hook" in n and v == {})
_NEVER_PLAIN = HOOK_TABLES.union(_TABLES)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(slots=True, kw_only=True)
class Twin:
    """A module that can be run, and what its tensors are called.

    Attributes:
        module: The copy of the root.
        paths: The path of every module of the copy, by identity.
        names: The state-dict key of every tensor, by identity: of the copy and of the original,
            which a closure may still refer to.
        keys: The names that stand in the state dict.
        learnable: The identities of the parameters among them.
        originals: The identities of the user's own tensors.
        tensors: The tensors themselves; keeps the identities valid.
    """

    module: nn.Module
    paths: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    learnable: set[int] = field(default_factory=set)
    originals: set[int] = field(default_factory=set)
    tensors: list[torch.Tensor] = field(default_factory=list)


def unwrap(module: nn.Module) -> nn.Module:
    """Returns the module inside wrappers for compilation and for several devices.

    Raises:
        SourceError: If it is scripted or traced.
    """
    while True:
        inner = getattr(module, "_orig_mod", None)  # of torch.compile
        if isinstance(module, _WRAPPERS):
            inner = module.module
        if not isinstance(inner, nn.Module):
            _check_is_python(module, "")
            return module
        module = inner


def _check_is_python(module: nn.Module, path: str) -> None:
    """Raises ``SourceError`` for what torch.jit runs: nobody sees what happens inside."""
    if isinstance(module, torch.jit.ScriptModule):
        raise SourceError(
            "it is compiled by torch.jit",
            place=path or type(module).__name__,
            remedy="give the module as it was before scripting, or an ONNX export",
        )


def make_twin(
    module: nn.Module, wrap: Callable[[str, nn.Module, Callable[..., Any]], Callable[..., Any]]
) -> Twin:
    """Copies the structure of a module, but not the memory of its tensors.

    Args:
        module: The user's module, left as it is.
        wrap: Gets the path, the copy and the ``forward`` of every module, and returns what
            will be called in place of ``forward``.

    Raises:
        SourceError: If the module is scripted, or has weights without a shape yet.
    """
    found = {path: (original, plain) for path, original, plain in _all_modules(module)}
    memo: dict[int, Any] = {}
    for path, (original, _) in found.items():
        _check_is_python(original, path)
        memo[id(original)] = object.__new__(type(original))
    twin = Twin(module=memo[id(module)])
    for path, (original, plain) in found.items():
        _share_tensors(path, original, plain, twin, memo)
    for path, (original, _) in found.items():
        made = memo[id(original)]
        _copy_attributes(original, made, memo)
        made.__dict__["forward"] = wrap(path, made, _bound_forward(made))
        twin.paths[id(made)] = path
    return twin


def _bound_forward(module: nn.Module) -> Callable[..., Any]:
    own = module.__dict__.get("forward")  # someone replaced it for this object alone
    if own is None:
        return MethodType(type(module).forward, module)
    forward: Callable[..., Any] = own
    return forward


_Plain = list[tuple[str, object]]


def _all_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module, _Plain]]:
    """Every module once, by its first path, with its plain attributes.

    Also those that only stand in a plain list.
    """
    seen: set[int] = set()
    waiting = deque(root.named_modules())
    while waiting:
        path, module = waiting.popleft()
        if id(module) in seen:
            continue
        seen.add(id(module))
        plain = list(plain_attributes(module))
        yield path, module, plain
        for name, value in plain:
            if isinstance(value, nn.Module):
                prefix = _join(path, name)
                waiting += [(_join(prefix, below), m) for below, m in value.named_modules()]


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def plain_attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    """What stands in the attributes of a module and in plain containers there; atoms aside."""
    waiting: list[tuple[str, object]] = [
        (name, value)
        for name, value in module.__dict__.items()
        if type(value) not in _ATOMS
        and name not in _NEVER_PLAIN
        and not _is_atoms(value)
        and not (name in _OWN and type(value) in _CONTAINERS and not value)
    ]
    seen: set[int] = set()
    while waiting:
        name, value = waiting.pop()
        match value:
            case dict():
                items = [(f"{name}.{key}", item) for key, item in value.items()]
            case list() | tuple() | set():
                items = [(f"{name}.{index}", item) for index, item in enumerate(value)]
            case _:
                yield name, value
                continue
        if id(value) not in seen:  # a list may hold itself
            seen.add(id(value))
            waiting += items


def _is_atoms(value: object) -> bool:
    return type(value) is tuple and _ATOMS.issuperset(map(type, value))


def _share_tensors(
    path: str, module: nn.Module, plain: _Plain, twin: Twin, memo: dict[int, Any]
) -> None:
    registered = [*module._parameters.items(), *module._buffers.items()]
    twin.keys.update([_join(path, name) for name, _ in registered])
    beside = [(name, value) for name, value in plain if isinstance(value, torch.Tensor)]
    for name, tensor in (*registered, *beside):
        if tensor is None or id(tensor) in memo:
            continue
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise SourceError(
                f"{name!r} has no shape yet",
                place=path or type(module).__name__,
                remedy="run the module once before reading it",
            )
        alias = tensor.data  # unlike detach(), with a version counter of its own
        learnable = isinstance(tensor, nn.Parameter)
        if learnable:
            alias = nn.Parameter(alias, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = alias
        twin.originals.add(id(tensor))
        for version in (tensor, alias):
            twin.tensors.append(version)
            twin.names[id(version)] = _join(path, name)
            if learnable:
                twin.learnable.add(id(version))


def _copy_attributes(original: nn.Module, made: nn.Module, memo: dict[int, Any]) -> None:
    copies, given = made.__dict__, original.__dict__
    copies.update(given)
    for name, value in [item for item in given.items() if type(item[1]) not in _ATOMS]:
        kind = type(value)
        if kind is tuple and _is_atoms(value):
            continue
        if kind in _CONTAINERS and not value and name in _OWN:
            copies[name] = kind()
        else:
            copies[name] = _copy_attribute(name, value, memo)
    copies["training"] = False


def _copy_attribute(name: str, value: Any, memo: dict[int, Any]) -> object:
    if name in _TABLES:
        copied = type(value)()
        for key, item in value.items():
            copied[key] = memo.get(id(item), item)
        return copied
    if name == "_forward_pre_hooks":
        kept = {key: hook for key, hook in value.items() if computes_a_weight(hook)}
        return type(value)((key, copy.deepcopy(hook, memo)) for key, hook in kept.items())
    if name in HOOK_TABLES:
        return type(value)()
    if name == "_compiled_call_impl":
        return None
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - a lock, a file, a logger: the twin uses the same one
        return value


def computes_a_weight(hook: object) -> bool:
    """Whether a hook is one of ``torch.nn.utils``, such as that of ``weight_norm``."""
    function = hook.func if isinstance(hook, functools.partial) else hook
    return type(function).__module__.startswith("torch.nn.utils.")
