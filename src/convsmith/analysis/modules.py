"""The module that every layer belongs to, read from names and provenance.

Torch modules and the zoo name layers by dotted paths (``layer1.0.conv1``). Files written by
``torch.onnx.export`` have scopes in which a child of a sequence repeats the name of the sequence:
``/layer1/layer1.0/conv1/Conv``; TensorFlow's have ``block1/conv1/Conv2D``. All become dotted paths.
"""

from __future__ import annotations

from convsmith.graph import Node

__all__ = ["DEEPEST", "module_path", "parts"]

DEEPEST = 64
"""Modules deeper than this are not told apart: the rest of a path is one part."""


def module_path(node: Node) -> str:
    """Returns the dotted path of the module that a node is, or is one step of.

    A layer is a module of its own; a function that a module calls stands under its name in it.

    >>> from convsmith.graph import Provenance
    >>> from convsmith.graph.operators import Activation
    >>> def node(name, path=""):
    ...     relu = Activation(kind="relu")
    ...     return Node(name=name, op=relu, inputs=("x",), provenance=Provenance(path=path))
    >>> module_path(node("layer1.0.relu"))
    'layer1.0.relu'
    >>> module_path(node("layer1.0.relu_1", path="layer1.0.relu"))  # its second call
    'layer1.0.relu'
    >>> module_path(node("layer1.0.add", path="layer1.0"))
    'layer1.0.add'
    >>> module_path(node("42", path="/layer1/layer1.0/relu/Relu"))
    'layer1.0.relu.Relu'
    """
    path = node.provenance.path
    if path == node.name and "/" not in path:
        return path
    if "/" in path or (not path and "/" in node.name):
        return _scope(path or node.name) or node.name
    if not path or node.name.startswith(f"{path}."):
        return node.name
    return path


def _scope(name: str) -> str:
    """A name with slashes as a dotted path."""
    path: list[str] = []
    for part in filter(None, name.split("/")):
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part  # /features/features.0: a sequence names its children by its own name
        else:
            path.append(part)
    return ".".join(path)


def parts(path: str) -> tuple[str, ...]:
    """The modules along a path, outermost first; at least one.

    >>> parts("layer1.0.conv1"), parts("...")
    (('layer1', '0', 'conv1'), ('...',))
    """
    found = [part for part in path.split(".", DEEPEST - 1) if part]
    return tuple(found) or (path,)
