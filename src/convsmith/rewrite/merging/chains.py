"""Rule ``serial``: two linear layers in a row, as the one that does the work of both."""

from __future__ import annotations

from convsmith.graph import Node
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Linear
from convsmith.rewrite.merging.draft import Draft
from convsmith.rewrite.merging.kernels import composed_op, composition
from convsmith.rewrite.merging.steps import Step

__all__ = ["merge_chains"]


def merge_chains(draft: Draft) -> None:
    """Merges every layer with the one in front of it, where that is exact and not dearer."""
    for name in list(draft.nodes):
        while (node := draft.nodes.get(name)) is not None and _merge(draft, node):
            pass


def _merge(draft: Draft, second: Node) -> bool:
    if not isinstance(second.op, Conv | Linear):
        return False
    value = second.inputs[0]
    first = draft.producer(value)
    if first is None or type(first.op) is not type(second.op):
        return False
    assert isinstance(first.op, Conv | Linear)
    if draft.only_user(value) is not second:
        return False
    if draft.is_shared(first) or draft.is_shared(second):
        draft.block((first, second), "another layer has the same weights")
        return False
    if draft.dtype(first) != draft.dtype(second):
        return False
    spatial = draft.spatial(first.inputs[0])
    if spatial is None:
        return False
    op = composed_op(first.op, second.op, spatial, draft.is_shifted(first))
    if isinstance(op, str):
        draft.block((first, second), op)
        return False

    def make() -> ConvStep:
        return composition(draft.layer(first), draft.layer(second), op)

    return draft.attempt(
        Step(
            kind="serial",
            layers=(first, second),
            removed=(first,),
            into=second,
            op=op,
            source=first.inputs[0],
            value=second.name,
        ),
        make,
    )
