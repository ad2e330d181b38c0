"""``cs.accelerate``: the convolutions of a torch module, replaced by planned ones."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convsmith.acceleration.planned import PlannedConv
from convsmith.acceleration.planned_transposed import PlannedConvTranspose
from convsmith.acceleration.planning import Planned
from convsmith.acceleration.residuals import fuse_residuals
from convsmith.conv.choice import DEFAULT_TOLERANCE
from convsmith.conv.measuring import outgrows_caches
from convsmith.conv.spec import Activation
from convsmith.errors import ConvsmithError, UsageError
from convsmith.graph import Graph, Node
from convsmith.graph import operators as operator_classes
from convsmith.graph.affine import affine_of, fold_behind
from convsmith.sources.torch import read_module

__all__ = ["accelerate"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
}
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
)  # fmt: skip
_ALLOWED = 1e-4  # of the output's root mean square, where every layer is within tolerance


def accelerate(
    module: nn.Module,
    example: Any,
    *,
    algorithm: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE,
    tune: bool = True,
) -> nn.Module:
    """Returns a copy of a module whose convolutions run in convsmith's kernels, for inference.

    A batch normalization that follows a convolution alone is folded into its weights, an
    activation module behind it is fused. Every plain ``Conv1d`` to ``Conv3d`` and
    ``ConvTranspose1d`` to ``ConvTranspose3d`` on the CPU that pads with zeros is replaced; all
    others, and those with hooks, stay as they are. Where ``torch.fx`` can follow a block's
    ``forward``, an addition behind a convolution, and an activation behind that, are fused too; the
    block is then a ``torch.fx.GraphModule``. The copy is in evaluation mode and takes inputs of any
    size; sizes other than the example's are planned, not measured, when they first come.

    Args:
        module: The module; left as it is.
        example: What it is called with: a tensor, a tuple of tensors, keywords in a mapping; or
            the shape of its one input, filled with random numbers.
        algorithm: ``auto``, ``exact`` or a name, for every convolution that takes it.
        tolerance: The largest error of one layer, as in :func:`convsmith.conv2d`.
        tune: Whether to measure the candidates for shapes that this machine has not measured.

    Raises:
        UsageError: If the example is none of these, or the module is not on the CPU.
        SourceError: If the module cannot be read.
        ConvsmithError: If the output is not that of the module.

    >>> module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> [type(child).__name__ for child in accelerate(module, (1, 3, 8, 8), tune=False)]
    ['PlannedConv', 'Identity', 'Identity']
    """
    call = _call(example)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type != "cpu":
            raise UsageError(
                f"{name} is on {tensor.device}",
                place="accelerate",
                remedy="move the module to the CPU, weights included",
            )
    graph = read_module(module, example)
    chains = _chains(graph, copy.deepcopy(module).eval())
    cold = outgrows_caches(sum(weight.nbytes for weight in module.parameters()))

    def replaced() -> nn.Module:
        result = copy.deepcopy(module).eval()
        for chain in chains:
            _replace(result, chain, algorithm, tolerance, tune)
        for part in result.modules():
            if isinstance(part, Planned):
                part.cold = cold
        return result

    result = replaced()
    try:
        if fuse_residuals(result):
            _compare(module, result, call)
            return result
    except Exception:  # noqa: BLE001 - whatever a rewritten block cannot do: leave them all
        result = replaced()
    try:
        _compare(module, result, call)
    except AttributeError:  # somebody reads what a module that was folded had: fold none
        for chain in chains:
            chain.norm = chain.activation = ""
        result = replaced()
        _compare(module, result, call)
    return result


def _call(example: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Returns positional and keyword arguments."""
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping) and all(isinstance(t, Tensor) for t in example.values()):
        return (), dict(example)
    if isinstance(example, Sequence) and not isinstance(example, str) and len(example):
        if all(isinstance(t, Tensor) for t in example):
            return tuple(example), {}
        if all(isinstance(n, int) for n in example):
            generator = torch.Generator().manual_seed(0)
            return (torch.randn(tuple(example), generator=generator),), {}
    raise UsageError(
        f"the example is {type(example).__name__}, not what the module is called with",
        remedy="pass a tensor, a tuple of tensors, a mapping of keywords, or one shape",
    )


# What to replace ------------------------------------------------------------------


class _Chain:
    """A convolution's path, and those of the modules that it takes in."""

    def __init__(self, path: str, op: operator_classes.Conv) -> None:
        self.path = path
        self.op = op
        self.norm = ""
        self.activation = ""


def _chains(graph: Graph, module: nn.Module) -> list[_Chain]:
    uses = Counter(node.provenance.path for node in graph.nodes)
    readers: dict[str, list[Node]] = {}
    weights: dict[str, set[str]] = {}
    for node in graph.nodes:
        for used in node.inputs:
            readers.setdefault(used, []).append(node)
        for name in node.parameters:
            weights.setdefault(name, set()).add(node.provenance.path)
    returned = {output.value for output in graph.outputs}
    places = Counter(id(m) for _, m in module.named_modules(remove_duplicate=False))

    def find(path: str) -> nn.Module | None:
        try:
            return module.get_submodule(path) if path else None
        except AttributeError:
            return None

    def alone(path: str, found: nn.Module) -> bool:
        """Whether the module stands at one place and is called once."""
        return uses[path] == 1 and places[id(found)] == 1

    def next_of(node: Node) -> Node | None:
        following = readers.get(node.name, [])
        return following[0] if len(following) == 1 and node.name not in returned else None

    chains: dict[str, _Chain] = {}
    for node in graph.nodes:
        path = node.provenance.path
        conv = find(path)
        if not isinstance(node.op, operator_classes.Conv) or path in chains:
            continue
        if conv is None or type(conv) not in _CONVOLUTIONS or not _takes(conv):
            continue
        if any(weights[name] != {path} for name in node.parameters):
            continue  # somebody else computes with its weights
        chain = chains[path] = _Chain(path, node.op)
        if not alone(path, conv):
            continue
        following = next_of(node)
        norm = find(following.provenance.path) if following is not None else None
        if following is not None and norm is not None:
            where = following.provenance.path
            if _foldable(norm) and alone(where, norm):
                chain.norm = where
                following = next_of(following)
        kind = find(following.provenance.path) if following is not None else None
        if following is not None and kind is not None:
            where = following.provenance.path
            if type(kind) in _ACTIVATIONS and not _hooked(kind) and alone(where, kind):
                chain.activation = where
    return list(chains.values())


def _hooked(module: nn.Module) -> bool:
    return any(getattr(module, table, None) for table in _HOOKS)


def _takes(conv: Any) -> bool:
    return (
        conv.padding_mode == "zeros"
        and conv.weight.device.type == "cpu"
        and conv.weight.dtype == torch.float32
        and not _hooked(conv)
    )


def _foldable(norm: nn.Module) -> bool:
    if type(norm) not in _NORMS or _hooked(norm):
        return False
    return bool(getattr(norm, "track_running_stats", False))


# Replacing ------------------------------------------------------------------------


def _replace(
    module: nn.Module, chain: _Chain, algorithm: str, tolerance: float, tune: bool
) -> None:
    conv: Any = module.get_submodule(chain.path)
    weight = conv.weight.detach().clone()
    bias = None if conv.bias is None else conv.bias.detach().clone()
    if chain.norm:
        norm = module.get_submodule(chain.norm)
        weight, bias = _folded(chain.op, weight, bias, norm)
        _set(module, chain.norm, nn.Identity().eval())
    activation: Activation = "none"
    if chain.activation:
        activation = _ACTIVATIONS[type(module.get_submodule(chain.activation))]
        _set(module, chain.activation, nn.Identity().eval())
    if chain.op.transposed:
        _put(module, conv, PlannedConvTranspose(
            weight, bias, stride=conv.stride, padding=conv.padding,
            output_padding=conv.output_padding, dilation=conv.dilation, groups=conv.groups,
            activation=activation, algorithm=algorithm, tolerance=tolerance, tune=tune,
        ))  # fmt: skip
        return
    planned = PlannedConv(
        weight,
        bias,
        stride=conv.stride,
        padding=_padding(conv),
        dilation=conv.dilation,
        groups=conv.groups,
        activation=activation,
        algorithm=algorithm,
        tolerance=tolerance,
        tune=tune,
    )
    _put(module, conv, planned)


def _put(module: nn.Module, conv: nn.Module, planned: nn.Module) -> None:
    """Replaces a module wherever it stands."""
    for parent in module.modules():
        for name, child in parent._modules.items():
            if child is conv:
                parent._modules[name] = planned.eval()


def _folded(
    op: operator_classes.Conv, weight: Tensor, bias: Tensor | None, norm: Any
) -> tuple[Tensor, Tensor]:
    """Returns the weights and the bias of convolution and normalization in one."""
    mean, variance = norm.running_mean, norm.running_var
    factor = torch.ones_like(mean) if norm.weight is None else norm.weight.detach()
    summand = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach()
    found = affine_of(
        operator_classes.Norm(kind="batch", epsilon=norm.eps),
        [tensor.numpy() for tensor in (factor, summand, mean, variance)],
    )
    made, shift = fold_behind(op, weight.numpy(), None if bias is None else bias.numpy(), found)
    return torch.from_numpy(made).to(weight.dtype), torch.from_numpy(shift).to(weight.dtype)


def _padding(conv: Any) -> tuple[tuple[int, int], ...]:
    if conv.padding == "valid":
        return tuple((0, 0) for _ in conv.kernel_size)
    if conv.padding == "same":
        spare = [d * (k - 1) for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        return tuple((n // 2, n - n // 2) for n in spare)
    return tuple((p, p) for p in conv.padding)


def _set(module: nn.Module, path: str, child: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    module.get_submodule(parent)._modules[name] = child


# Checking -------------------------------------------------------------------------


def _compare(
    module: nn.Module, result: nn.Module, call: tuple[tuple[Tensor, ...], dict[str, Tensor]]
) -> None:
    """Runs both on the example.

    Raises:
        ConvsmithError: If they do not agree.
    """
    original = copy.deepcopy(module).eval()
    arguments, keywords = call
    with torch.no_grad():
        wanted = _tensors(original(*arguments, **keywords))
        made = _tensors(result(*arguments, **keywords))
    for number, (a, b) in enumerate(zip(wanted, made, strict=True)):
        size = a.double().square().mean().sqrt().item() if a.numel() else 0.0
        error = (a.double() - b.double()).square().mean().sqrt().item() if a.numel() else 0.0
        if math.isfinite(size) and not error <= _ALLOWED * size + 1e-30:
            raise ConvsmithError(
                f"output {number} differs by {error / max(size, 1e-30):.1e} of its size",
                place="accelerate",
                remedy="lower the tolerance, or pass algorithm='exact'",
            )


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
