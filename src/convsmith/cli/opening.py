"""Opens networks whose size does not matter: what has an open one gets any."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convsmith.graph import Graph

__all__ = ["opened"]


def opened(
    source: str,
    sizes: str | None = None,
    *,
    image: tuple[int, int] = (224, 224),
    weights: bool = True,
) -> Graph:
    """Reads a network as :func:`convsmith.load` does.

    Args:
        source: The network.
        sizes: What ``--input`` says.
        image: Height and width where they are open and nothing was said.
        weights: Whether they are needed.

    Raises:
        SourceError: If it cannot be found or read.
    """
    from convsmith.errors import DynamicSizeError
    from convsmith.sources import load

    try:
        return load(source, sizes, weights=weights)
    except DynamicSizeError as error:
        shapes = {}
        for name, shape in error.shapes.items():
            own = (1, 3, *image) if len(shape) == 4 else (1, *(image[0],) * (len(shape) - 1))
            shapes[name] = tuple(
                there or any_size for there, any_size in zip(shape, own, strict=True)
            )
        return load(source, shapes, weights=weights)
