"""Writing into a part of a tensor: the box of it that a view shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from convsmith.graph import Provenance
from convsmith.graph.operators import Concat, Operator, Reshape, Slice

if TYPE_CHECKING:
    from convsmith.sources.torch.recorder import Recorder

__all__ = ["Box", "box_of", "put_into"]

Box = tuple[tuple[int, int], ...]
"""Per axis the first position and the one behind the last."""


def box_of(part: torch.Tensor, whole: torch.Tensor) -> Box | None:
    """The box of a dense tensor that a view of the same memory shows; ``None`` if it is none.

    >>> x = torch.zeros(2, 3, 4)
    >>> box_of(x[:, 1:, 2], x)
    ((0, 2), (1, 3), (2, 3))
    """
    if 0 in whole.shape or 0 in part.shape or not whole.is_contiguous():
        return None
    rest = int(part.storage_offset()) - int(whole.storage_offset())
    if rest < 0:
        return None
    seen = [(s, n) for s, n in zip(part.stride(), part.shape, strict=True) if n > 1]
    box = []
    for stride, size in zip(whole.stride(), whole.shape, strict=True):
        start, rest = divmod(rest, int(stride))
        count = 1
        if size > 1 and seen and seen[0][0] == stride:
            count = seen.pop(0)[1]
        if start + count > size:
            return None
        box.append((start, start + count))
    return None if seen or rest else tuple(box)


def put_into(recorder: Recorder, whole: str, part: str, box: Box) -> str:
    """Adds what puts ``part`` into its box of ``whole``: concatenations with what lies around."""
    builder, names = recorder.builder, recorder.names

    def add(op: Operator, *inputs: str) -> str:
        word = type(op).__name__.lower()
        return builder.add(
            op,
            *inputs,
            name=names.unique(names.below(word)),
            provenance=Provenance(path=names.path, origin="aten.copy_"),
        )

    sizes = tuple(stop - start for start, stop in box)
    if builder.shapes[part] != sizes:
        part = add(Reshape(shape=sizes), part)
    shape = builder.shapes[whole]
    assert shape is not None
    for axis in reversed(range(len(box))):
        # The axes behind are whole already; those before are cut to the box.
        cut = [(i, box[i][0], box[i][1], 1) for i in range(axis) if sizes[i] < shape[i]]
        (start, stop), size = box[axis], shape[axis]
        pieces = [part]
        if start > 0:
            pieces.insert(0, add(Slice(ranges=(*cut, (axis, 0, start, 1))), whole))
        if stop < size:
            pieces.append(add(Slice(ranges=(*cut, (axis, stop, None, 1))), whole))
        if len(pieces) > 1:
            part = add(Concat(axis=axis), *pieces)
    return part
