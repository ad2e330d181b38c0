"""Puts a plan into effect: on a graph, or on a torch module by path."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from convsmith.errors import PlanError
from convsmith.graph import Constant, Graph, Node, Provenance, operator_text
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Activation, Conv, Linear, roles
from convsmith.graph.shape import infer_shapes, parameter_shapes
from convsmith.rewrite.forms import FORMS, KEEP, REFIT
from convsmith.rewrite.merging import repeat
from convsmith.rewrite.plan import Choice, Plan
from convsmith.rewrite.site import LayerOp, Site

if TYPE_CHECKING:
    import torch

__all__ = ["apply", "check_belongs", "layout_of", "norm_of", "replace_layers"]

SAME = 1e-3
"""By how much norms of weights that are the same may differ, relative to them."""

_Network = TypeVar("_Network", bound="Graph | torch.nn.Module")


def apply(plan: Plan, target: _Network) -> _Network:
    """Returns the network with every layer of the plan replaced; the target stays as it is.

    What the plan merges is merged first, from the weights that the target has. A warning says so
    if layers that are replaced have other weights than those that the plan was fitted to.

    Args:
        plan: What stands for which layer, with its weights.
        target: A graph, or the ``torch.nn.Module`` that it was read from: layers are found by
            name there, and by module path here. The module comes back ready to fine-tune; in
            evaluation mode, if something was merged.

    Raises:
        DataError: If weights that the plan merges are absent or not finite.
        PlanError: If the plan has no weights for a layer, belongs to another network, or merges
            what a module would need another ``forward`` for.

    >>> from convsmith.graph import parse
    >>> net = parse("3@8 > conv 4 3 p1")
    >>> apply(Plan(source="", budget={"macs": 0.5}, choices=()), net) == net
    True
    """
    for choice in plan.choices:
        if choice.form != KEEP and not choice.chain:
            raise PlanError(
                f"the plan has no weights for the form {choice.form!r} of width"
                f" {', '.join(map(str, choice.widths))}",
                place=choice.layer,
                remedy="refit with convsmith.rewrite(net, plan=plan, calibration=...)",
            )
    if plan.merges:
        sizes = None if isinstance(target, Graph) else plan.inputs
        target = repeat(plan.merges, target, input=sizes)
    if isinstance(target, Graph):
        for choice in plan.choices:
            check_belongs(choice, target)
            if choice.form != KEEP:
                _check_chain(choice, target)
        graph = target
        _warn_of_others(
            plan, lambda name: norm_of(graph.parameter(graph.by_name[name], "weight").data)
        )
        return cast("_Network", replace_layers(graph, plan.chains))
    from convsmith.sources.torch import replace_modules
    from convsmith.sources.torch.twin import unwrap

    module = unwrap(target)
    _check_module(plan, module)

    def norm(name: str) -> float:
        weight = cast("torch.Tensor", module.get_submodule(name).weight)
        return norm_of(weight.double().numpy(force=True))

    _warn_of_others(plan, norm)
    return cast("_Network", replace_modules(target, plan.chains))


def norm_of(data: npt.NDArray[Any] | None) -> float:
    """The Euclidean norm of a weight; 0 of an absent one.

    >>> norm_of(np.array([[3.0, 4.0]], np.float16))
    5.0
    """
    return 0.0 if data is None else float(np.linalg.norm(np.asarray(data, np.float64)))


def _warn_of_others(plan: Plan, norm: Callable[[str], float]) -> None:
    """Warns if layers that are replaced are not those that the plan was fitted to."""
    fitted = [c for c in plan.choices if c.form != KEEP and c.norm]
    others = [c.layer for c in fitted if abs(norm(c.layer) - c.norm) > SAME * c.norm]
    if others:
        named = ", ".join(others[:3]) + (", ..." if others[3:] else "")
        warnings.warn(
            f"{len(others)} of the {len(fitted)} layers that the plan replaces have other weights"
            f" than those that it was fitted to ({named}): fit it anew with"
            " convsmith.rewrite(net, plan=plan, calibration=...)",
            stacklevel=3,
        )


def check_belongs(choice: Choice, net: Graph) -> None:
    """Checks that a choice speaks of a layer of this network.

    Raises:
        PlanError: If there is no such layer, or its weights have another shape.
    """
    node = net.by_name.get(choice.layer)
    if node is None or not isinstance(node.op, Conv | Linear):
        raise PlanError(
            "this network has no such layer",
            place=choice.layer,
            remedy="use the plan with the network it was made for",
        )
    shape = net.parameter(node, "weight").shape
    if shape != choice.shape:
        raise PlanError(
            f"its weight has shape {shape}, the plan was made for {choice.shape}",
            place=choice.layer,
            remedy="use the plan with the network it was made for",
        )


def layout_of(choice: Choice, site: Site) -> tuple[LayerOp, ...]:
    """The layers that a choice's form makes of a layer; empty when it cannot be done so."""
    if choice.form == REFIT:
        return (replace(site.op, bias=True),)
    form = FORMS.get(choice.form)
    if form is None or form.refusal(site) or choice.variant not in form.variants(site):
        return ()
    if not form.admits(site, choice.variant, choice.widths):
        return ()
    return form.layout(site, choice.variant, choice.widths)


def _check_chain(choice: Choice, net: Graph) -> None:
    """Checks that a choice's layers are those that its form makes of the layer."""
    node = net.by_name[choice.layer]
    site = Site.of(net, node)
    wanted = layout_of(choice, site)
    made = tuple(_unlifted(step) for step in choice.chain)
    if made != wanted or not _fits(choice.chain, site):
        raise PlanError(
            f"its weights are those of {choice.text!r}, which is not what the form"
            f" {choice.form!r} of width {', '.join(map(str, choice.widths))} makes of"
            f" {operator_text(node.op)!r}",
            place=choice.layer,
            remedy="edit widths and forms only, and refit with"
            " convsmith.rewrite(net, plan=plan, calibration=...)",
        )
    shared = {name for node in net.nodes for name in node.parameters if node.name != choice.layer}
    if not shared.isdisjoint(net.by_name[choice.layer].parameters):
        raise PlanError(
            "it shares its weights with another layer",
            place=choice.layer,
            remedy=f"use the form {KEEP!r} for it",
        )


def _unlifted(step: ConvStep) -> LayerOp:
    """The operator without the bias that lifts it above the zero of a ReLU."""
    return replace(step.op, bias=False) if step.rectified else step.op


def _fits(chain: Sequence[ConvStep], site: Site) -> bool:
    """Whether the weights of a chain have the shapes that its layers need behind each other."""
    x = site.x
    for step in chain:
        shapes = parameter_shapes(step.op, x)
        if [array.shape for array in step.parameters] != list(shapes):
            return False
        y = infer_shapes(step.op, x)[0]
        assert y is not None
        x = y
    return True


def _check_module(plan: Plan, module: torch.nn.Module) -> None:
    for choice in plan.choices:
        if choice.form == KEEP:
            continue
        try:
            found = module.get_submodule(choice.layer)
        except AttributeError:
            raise PlanError(
                "this module has no layer at that path",
                place=choice.layer,
                remedy="apply the plan to the module it was made from",
            ) from None
        if plan.merges and next(found.children(), None) is not None:
            raise PlanError(
                "what it was merged to pads unevenly, which takes two modules in torch: they"
                " cannot be replaced as one layer",
                place=choice.layer,
                remedy=f"use the graph, or the form {KEEP!r} for it",
            )
        shape = tuple(getattr(getattr(found, "weight", None), "shape", ()))
        if shape != choice.shape:
            raise PlanError(
                f"its weight has shape {shape}, the plan was made for {choice.shape}",
                place=choice.layer,
                remedy="apply the plan to the module it was made from",
            )


def replace_layers(net: Graph, chains: Mapping[str, Sequence[ConvStep]]) -> Graph:
    """Returns a graph in which chains of convolutions stand for single ones.

    The last convolution of a chain keeps the layer's name, so whatever uses its output is
    untouched; the ones before it are named ``layer.1``, ``layer.2``, ... Provenance says which
    layer each came from.
    """
    if not chains:
        return net
    taken = {*net.shapes, *net.by_name}
    constants = dict(net.constants)
    nodes: list[Node] = []
    for node in net.nodes:
        chain = chains.get(node.name)
        if chain is None:
            nodes.append(node)
            continue
        learnable = net.parameter(node, "weight").learnable
        for name in node.parameters:
            del constants[name]
        current = node.inputs[0]
        for index, step in enumerate(chain, start=1):
            last = index == len(chain)
            name = node.name if last else _fresh(f"{node.name}.{index}", taken)
            parameters = tuple(
                _fresh(f"{name}.{role}", taken - set(node.parameters)) for role in roles(step.op)
            )
            taken.update((name, *parameters))
            constants.update(
                (parameter, Constant.of(array, learnable=learnable))
                for parameter, array in zip(parameters, step.parameters, strict=True)
            )
            nodes.append(
                Node(
                    name=name,
                    op=step.op,
                    inputs=(current,),
                    parameters=parameters,
                    provenance=Provenance(
                        path=node.provenance.path,
                        origin=node.provenance.origin,
                        replaces=node.provenance.replaces or node.name,
                    ),
                )
            )
            current = name
            if step.rectified:
                current = _fresh(f"{name}.relu", taken)
                taken.add(current)
                nodes.append(
                    Node(
                        name=current,
                        op=Activation(kind="relu"),
                        inputs=(name,),
                        provenance=nodes[-1].provenance,
                    )
                )
    return replace(net, nodes=tuple(nodes), constants=constants)


def _fresh(name: str, taken: set[str]) -> str:
    result, count = name, 1
    while result in taken:
        count += 1
        result = f"{name}_{count}"
    return result
