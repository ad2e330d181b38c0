"""One door for every source: ``load`` finds out what it was given, ``save`` writes it back."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from convsmith.errors import ConvsmithError, SourceError, UsageError
from convsmith.graph import Graph, parse
from convsmith.sources.input_sizes import Sizes, name_sizes, read_sizes, resize_inputs

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load", "made_by_factory", "save"]

_KINDS = (
    "give an .onnx file, a notation such as '3@32 > conv 8 3 > relu', zoo:NAME"
    " or pkg.module:factory"
)
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
_NOTATION = re.compile(r"\s*([0-9]+x)?[0-9]+@|\s*<[0-9]|[^>\n]*\s>\s|[^:\n]*\s:\s")
_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def load(
    source: object,
    input: object = None,  # noqa: A002 - the published name
    *,
    weights: bool = True,
) -> Graph:
    """Reads a network.

    Args:
        source: A :class:`~convsmith.graph.Graph`, the path of an ``.onnx`` file, a
            ``torch.nn.Module``, notation, ``"zoo:NAME"``, or ``"pkg.module:factory"``, where
            the factory takes no arguments and returns a module or a graph.
        input: The sizes of the inputs: a shape, a tuple of shapes, a mapping from names to
            shapes, or text such as ``"1,3,224,224"`` and ``"image=1,3,8,8;mask=1,1,8,8"``.
            A torch module needs it and also takes example tensors: one, a tuple of positional
            or a mapping of keyword arguments. The others have sizes of their own, which this
            replaces.
        weights: Whether the weights in a file are needed. Without them, the network can be
            analysed, which is faster, but neither be run nor written.

    Returns:
        The network; weights are shared with the source where they can be.

    Raises:
        SourceError: If the source cannot be found or read.
        UsageError: If ``input`` makes no sense for this source.
        ShapeError: If a layer does not accept its input; names the layer.

    >>> print(load("3@32 > conv 8 3 p1 > relu", "2,3,8,8"))
    x : 2x3@8x8
    conv1 = conv 8 3 p1 (x)
    relu1 = relu (conv1)
    return y = relu1
    """
    if isinstance(source, Graph):
        return resize_inputs(source, read_sizes(input))
    if isinstance(source, PathLike):
        return _load_file(Path(fspath(source)), read_sizes(input), weights)
    if isinstance(source, str):
        return _load_text(source, input, weights)
    if _is_module(source):
        return _load_module(source, input)
    raise UsageError(f"an object of type {type(source).__name__} is not a network", remedy=_KINDS)


def save(graph: Graph, path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Writes a network as an ONNX file.

    Args:
        graph: The network; its weights must be present.
        path: Where to; must end in ``.onnx``.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the file exists and ``overwrite`` is false, or cannot be written.
        UsageError: If the path does not end in ``.onnx``.
    """
    target = Path(path)
    if target.suffix.lower() != ".onnx":
        raise UsageError(f"cannot write a network as {target.name!r}", remedy="end it in .onnx")
    from convsmith.sources.onnx import write_onnx

    write_onnx(graph, target, overwrite=overwrite)


def _is_module(source: object) -> TypeGuard[nn.Module]:
    torch = sys.modules.get("torch")  # who holds a module has imported torch
    return torch is not None and isinstance(source, torch.nn.Module)


def _load_module(module: nn.Module, given: object) -> Graph:
    from convsmith.sources.torch import read_module

    return read_module(module, given)


def _load_text(text: str, given: object, weights: bool) -> Graph:
    stripped = text.strip()
    if stripped.startswith("zoo:"):
        from convsmith.sources.zoo import network

        name, sizes = stripped.removeprefix("zoo:"), read_sizes(given)
        if isinstance(sizes, Mapping) and set(sizes) == {"x"}:
            sizes = (sizes["x"],)
        if isinstance(sizes, tuple) and len(sizes) == 1:
            return network(name, shape=sizes[0])
        return resize_inputs(network(name), sizes)
    if "\n" not in stripped and stripped.lower().endswith(".onnx"):
        return _load_file(Path(stripped), read_sizes(given), weights)
    if _FACTORY.match(stripped):
        return _load_factory(stripped, given)
    if _NOTATION.match(text):
        return resize_inputs(parse(text), read_sizes(given))
    if stripped and "\n" not in stripped and (Path(stripped).suffix or Path(stripped).exists()):
        return _load_file(Path(stripped), read_sizes(given), weights)
    raise SourceError(f"cannot tell what {_shorten(stripped)!r} is", remedy=_KINDS)


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _load_file(path: Path, sizes: Sizes | None, weights: bool) -> Graph:
    if not path.exists():
        raise SourceError(f"no such file {str(path)!r}", remedy=_KINDS)
    if path.is_dir():
        raise SourceError(f"{str(path)!r} is a folder", remedy="give the .onnx file in it")
    if path.suffix.lower() in _CHECKPOINTS:
        raise SourceError(
            f"{path.name!r} holds weights, not a network",
            remedy="give pkg.module:factory that builds the module and loads them, or an"
            " ONNX export",
        )
    if path.suffix.lower() != ".onnx":
        raise SourceError(f"{path.name!r} is not an .onnx file", remedy=_KINDS)
    from convsmith.sources.onnx import read_onnx

    if not isinstance(sizes, tuple):
        return read_onnx(path, shapes=sizes, weights=weights)
    if len(sizes) > 1:
        named = name_sizes(sizes, _onnx_inputs(path))
        return read_onnx(path, shapes=named, weights=weights)
    return read_onnx(path, shapes=sizes[0], weights=weights)


def _onnx_inputs(path: Path) -> list[str]:
    from convsmith.sources.onnx.opening import open_model

    graph = open_model(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [value.name for value in graph.input if value.name not in weights]


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """Lets imports find the modules of the working folder, as ``python -m`` does."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def made_by_factory(text: str) -> object:
    """Returns what ``pkg.module:factory`` makes: a module or a graph, or something unusable.

    Raises:
        SourceError: If it cannot be imported or called.
    """
    module_name, _, attribute = text.strip().partition(":")
    with _importing_from_here():
        return _call_factory(text, module_name, attribute)


def _load_factory(text: str, given: object) -> Graph:
    made = made_by_factory(text)
    if isinstance(made, Graph):
        return resize_inputs(made, read_sizes(given))
    if _is_module(made):
        return _load_module(made, given)
    raise SourceError(
        f"it returns an object of type {type(made).__name__}",
        place=text,
        remedy="return a torch.nn.Module or a convsmith Graph",
    )


def _call_factory(text: str, module_name: str, attribute: str) -> object:
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        own = error.name is not None and (module_name + ".").startswith(error.name + ".")
        fact = f"no module named {error.name!r}"
        raise SourceError(
            fact if own else f"{fact}, which it imports",
            place=text,
            remedy="run where Python can import it, or set PYTHONPATH" if own else "install it",
        ) from error
    except Exception as error:
        raise _foreign(error, text, "importing it") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise SourceError(
                f"{module_name!r} has no attribute {attribute!r}",
                place=text,
                remedy="check the name after the colon",
            )
        found = getattr(found, name)
    if _is_module(found) or isinstance(found, Graph):
        return found
    if not callable(found):
        raise SourceError(
            f"{attribute!r} is of type {type(found).__name__}",
            place=text,
            remedy="name a function that returns a torch.nn.Module or a convsmith Graph",
        )
    try:
        return found()
    except ConvsmithError as error:
        raise error.at(text) from error
    except Exception as error:
        raise _foreign(error, text, "calling it") from error


def _foreign(error: Exception, place: str, doing: str) -> SourceError:
    lines = str(error).strip().splitlines()
    told = f": {lines[0].rstrip('.')}" if lines else ""
    return SourceError(
        f"{doing} raises {type(error).__name__}{told}",
        place=place,
        remedy="the factory must work without arguments",
    )
