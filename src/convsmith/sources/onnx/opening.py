"""Opens an ONNX file as data, and says what is wrong when it is not one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from convsmith.errors import SourceError
from convsmith.sources.onnx.skimming import skim

__all__ = [
    "NEWEST_OPSET",
    "OLDEST_OPSET",
    "check_names",
    "open_model",
    "opset_of",
    "skim_model",
    "types_of_names",
]

OLDEST_OPSET = 7
NEWEST_OPSET = onnx.defs.onnx_opset_version()

_LARGEST = 2**31 - 1  # bytes that a protobuf message can have
_AGAIN = "export or download it again"


def skim_model(path: Path) -> tuple[onnx.ModelProto, Mapping[int, int]]:
    """Like :func:`open_model`, without the elements of large initializers where that can be.

    The names in its nodes are left for the caller to check: :func:`check_names`.

    Returns:
        The model, and how many bytes of elements were left out, by the index of the initializer.

    Raises:
        SourceError: As :func:`open_model` does.
    """
    skimmed = skim(path)
    if skimmed is None:
        return open_model(path), {}
    try:
        model = _parse(skimmed.content)
        _check(model, nodes=False)
    except SourceError as error:
        raise error.at(str(path)) from None
    return model, skimmed.skipped


def open_model(path: Path) -> onnx.ModelProto:
    """Reads the model in a file; its local functions are inlined, external data is left alone.

    Raises:
        SourceError: If there is no such file, it is not ONNX, it is damaged, or it needs a
            version of ONNX that is not supported.
    """
    try:
        model = _parse(_content(path))
        _check(model)
        if model.functions:
            model = _inline(model)
        return model
    except SourceError as error:
        raise error.at(str(path)) from None


def opset_of(model: onnx.ModelProto) -> int:
    """Returns the version of the standard operators that a model uses."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def _content(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise SourceError("this is a folder", remedy="give the .onnx file inside it")
        if path.stat().st_size > _LARGEST:
            raise SourceError(
                "the file is larger than the 2 GB that ONNX allows",
                remedy="save the model with external data",
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise SourceError("no such file", remedy="check the path") from None
    except PermissionError:
        raise SourceError("reading it is not permitted", remedy="check its permissions") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"it cannot be read: {error}", remedy="check the path") from None


def _parse(content: bytes) -> onnx.ModelProto:
    if not content:
        raise SourceError("the file is empty", remedy=_AGAIN)
    model: onnx.ModelProto | None
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        model = None
    if model is None and _begins_like_onnx(content):
        raise SourceError("the file is truncated or damaged", remedy=_AGAIN)
    if model is None or not (model.ir_version or model.HasField("graph")):
        raise SourceError(f"not an ONNX file{_guess(content)}", remedy="give an .onnx file")
    return model


def _begins_like_onnx(content: bytes) -> bool:
    """Whether the first field is ``ir_version`` with a plausible number."""
    return content[:1] == b"\x08" and content[1:2] < b"\x40" and content[2:3] in b"\x12\x3a\x42"


def _guess(content: bytes) -> str:
    if content.startswith(b"PK\x03\x04"):
        return ", but a zip archive (perhaps a PyTorch checkpoint)"
    if content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05":
        return ", but a Python pickle (perhaps a PyTorch checkpoint)"
    if content.startswith(b"\x89HDF"):
        return ", but an HDF5 file (perhaps a Keras model)"
    try:
        content[:4096].decode("ascii")
    except UnicodeDecodeError:
        return ""
    return ", but text"


def check_names(types: Iterable[type]) -> None:
    """Checks that names are text; protobuf gives bytes for what is not UTF-8.

    Args:
        types: The types of the names.

    Raises:
        SourceError: If one is not.
    """
    if not {str}.issuperset(types):
        raise SourceError("a name in it is not text; the file is damaged", remedy=_AGAIN)


def _check(model: onnx.ModelProto, *, nodes: bool = True) -> None:
    if not model.HasField("graph"):
        raise SourceError("the file holds no graph; it is truncated or damaged", remedy=_AGAIN)
    check_names(types_of_names(model.graph, nodes=nodes))
    if not model.graph.node:
        raise SourceError("the model's graph is empty", remedy=_AGAIN)
    if not model.graph.output:
        raise SourceError("the model's graph has no outputs", remedy=_AGAIN)
    if model.graph.sparse_initializer:
        raise SourceError(
            "sparse initializers are not supported", remedy="store the weights as dense tensors"
        )
    standard = any(node.domain in ("", "ai.onnx") for node in model.graph.node)
    version = opset_of(model)
    if standard and version == 0:
        raise SourceError(
            "it names no version of the ONNX operators; the file is truncated or damaged",
            remedy=_AGAIN,
        )
    if standard and not OLDEST_OPSET <= version <= NEWEST_OPSET:
        remedy = (
            "convert it with onnx.version_converter"
            if version < OLDEST_OPSET
            else "upgrade the onnx package or export with an older opset"
        )
        raise SourceError(
            f"it uses opset {version}, supported are {OLDEST_OPSET} to {NEWEST_OPSET}",
            remedy=remedy,
        )


def types_of_names(graph: onnx.GraphProto, *, nodes: bool = True) -> set[type]:
    """The types of all names that reading relies on, those in its nodes only if wanted."""
    found = {type(value.name) for value in (*graph.input, *graph.output)}
    for tensor in graph.initializer:
        found.add(type(tensor.name))
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            for entry in tensor.external_data:
                found.update((type(entry.key), type(entry.value)))
    for node in graph.node if nodes else ():
        found.update(map(type, (node.name, node.op_type, node.domain, *node.input, *node.output)))
        for attribute in node.attribute:
            found.add(type(attribute.name))
            if attribute.HasField("g"):
                found |= types_of_names(attribute.g)
    return found


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, TypeError) as error:
        first = str(error).strip().split("\n")[0]
        raise SourceError(f"its local functions cannot be inlined: {first}") from None
