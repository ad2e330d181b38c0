"""Writes a graph as an ONNX file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from convsmith.errors import SourceError
from convsmith.files import check_target
from convsmith.graph import Graph
from convsmith.sources.onnx.exporting import export
from convsmith.sources.onnx.origin import OnnxOrigin
from convsmith.sources.onnx.storing import store
from convsmith.sources.onnx.surgery import operate

__all__ = ["write_onnx"]


def write_onnx(graph: Graph, path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Writes a graph as an ONNX file.

    A graph that was read from ONNX and in which layers were replaced, removed or given other
    weights becomes the file that it came from with just that changed: other nodes stay as
    they were to the byte, and dynamic sizes stay dynamic. Any other graph is written from scratch,
    with the sizes that it has.

    Args:
        graph: The network; its weights must be present.
        path: The file. Weights of more than 2 GB go into a second file, ``path`` + ``.data``.
        overwrite: Whether existing files may be replaced.

    Raises:
        OutputError: If the file exists and ``overwrite`` is false, or cannot be written.
        SourceError: If weights are missing or ONNX cannot express an operator.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite)
    try:
        changed = operate(graph, graph.origin) if isinstance(graph.origin, OnnxOrigin) else None
        model, elements = changed or export(graph)
    except SourceError as error:
        raise error.at(str(path)) from None
    store(model, elements, path, overwrite=overwrite)
