"""Tensors of an ONNX file as arrays, never with more memory than the file really holds."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from convsmith.errors import SourceError

__all__ = ["FLOATING", "Array", "element_type", "element_type_code", "read_tensor"]

Array = npt.NDArray[np.generic]

FLOATING = ("float32", "float16", "bfloat16", "float64")
"""The element types that weights can have."""

_LARGEST = 2**63 - 1
"""Bits: NumPy counts the bytes of an array without elements as if its empty axes had one."""

_PACKED_BITS = {
    getattr(TensorProto, name): bits
    for name, bits in (("UINT4", 4), ("INT4", 4), ("FLOAT4E2M1", 4), ("UINT2", 2), ("INT2", 2))
    if hasattr(TensorProto, name)
}


@cache
def element_type(code: int) -> str:
    """Returns NumPy's name of an ONNX element type.

    >>> element_type(TensorProto.FLOAT), element_type(TensorProto.BFLOAT16)
    ('float32', 'bfloat16')
    """
    if code == TensorProto.STRING:
        return "string"
    try:
        return str(helper.tensor_dtype_to_np_dtype(code).name)
    except (KeyError, TypeError, ValueError):
        raise SourceError(f"element type {code} is not known") from None


@cache
def _storage(code: int) -> tuple[np.dtype[np.generic], int]:
    """How NumPy stores an ONNX element type, and how many bits of the file an element takes."""
    stored = helper.tensor_dtype_to_np_dtype(code)
    return stored, _PACKED_BITS.get(code, 8 * stored.itemsize)


def element_type_code(dtype: str) -> int:
    """Returns the ONNX element type with NumPy's name; the inverse of :func:`element_type`.

    >>> element_type_code("float16") == TensorProto.FLOAT16
    True
    """
    if dtype == "string":
        return int(TensorProto.STRING)
    for code in TensorProto.DataType.values():
        if code not in (TensorProto.UNDEFINED, TensorProto.STRING) and element_type(code) == dtype:
            return int(code)
    raise SourceError(f"ONNX has no element type {dtype!r}")


def read_tensor(
    tensor: onnx.TensorProto, folder: Path, skipped: int | None = None
) -> tuple[Array | None, str]:
    """Reads a tensor, without a copy where its bytes allow that.

    The sizes that the header declares are checked against what is really there before any memory
    is taken. ``bfloat16``, which NumPy does not know, becomes ``float32`` elements.

    Args:
        tensor: The tensor.
        folder: The folder of the model, which external data may not leave.
        skipped: How many bytes of elements were left out of it; zeros that take no memory then
            stand for them.

    Returns:
        The elements (``None`` for strings, which convsmith has no use for) and the name of the
        element type in the file.

    Raises:
        SourceError: If the tensor is damaged or its external data cannot be used.
    """
    code = tensor.data_type
    dtype = element_type(code)
    if code == TensorProto.STRING:
        return None, dtype
    dims = tuple(tensor.dims[:])
    count = math.prod(dims)
    stored, bits = _storage(code)
    length = -(-count * bits // 8)
    external = tensor.data_location == TensorProto.EXTERNAL
    plausible = not dims or min(dims) >= 0
    if skipped == length and not external and plausible:
        return _nothing(dims, dtype, stored), dtype
    if not plausible:
        raise SourceError(f"its shape {dims} has a negative size", place=_place(tensor))
    if count == 0 and bits * math.prod(filter(None, dims)) > _LARGEST:
        raise SourceError(f"no array can have the shape {dims}", place=_place(tensor))
    if external:
        file, offset = _external(tensor, folder, length)
        if code in _PACKED_BITS:
            place = _place(tensor)
            raise SourceError(f"external data of type {dtype} is not supported", place=place)
        if count == 0:
            return np.empty(dims, stored), dtype
        mapped = np.memmap(file, stored, "r", offset, dims)
        return _plain(mapped.view(np.ndarray), dtype), dtype
    if skipped is not None:
        raise _wrong_length(tensor, f"{skipped} bytes", f"{length} bytes")
    if tensor.HasField("raw_data"):
        raw = tensor.raw_data
        if len(raw) != length:
            raise _wrong_length(tensor, f"{len(raw)} bytes", f"{length} bytes")
        if code in _PACKED_BITS:
            return numpy_helper.to_array(tensor), dtype
        return _plain(np.ndarray(dims, stored, raw), dtype), dtype
    have = len(getattr(tensor, helper.tensor_dtype_to_field(code)))
    want = 2 * count if dtype.startswith("complex") else count
    if code in _PACKED_BITS:
        want = length
    if have != want:
        raise _wrong_length(tensor, f"{have} elements", f"{want} elements")
    return _plain(numpy_helper.to_array(tensor), dtype), dtype


@lru_cache(maxsize=1024)  # a network has many weights of few shapes
def _nothing(dims: tuple[int, ...], dtype: str, stored: np.dtype[np.generic]) -> Array:
    """Zeros that take no memory and cannot be written."""
    zeros = np.ndarray(dims, stored, bytes(stored.itemsize), strides=(0,) * len(dims))
    return _plain(zeros, dtype)


def _plain(data: Array, dtype: str) -> Array:
    """Gives NumPy an element type that it can calculate with."""
    if dtype != "bfloat16":
        return data
    if data.size and not any(data.strides):
        return np.broadcast_to(data[(0,) * data.ndim].astype(np.float32), data.shape)
    return data.astype(np.float32)


def _place(tensor: onnx.TensorProto) -> str:
    return f"tensor {tensor.name!r}" if tensor.name else "tensor"


def _wrong_length(tensor: onnx.TensorProto, have: str, want: str) -> SourceError:
    shape, dtype = tuple(tensor.dims), element_type(tensor.data_type)
    return SourceError(
        f"shape {shape} of {dtype} needs {want}, the file holds {have}",
        place=_place(tensor),
        remedy="the file is damaged; export or download it again",
    )


def _external(tensor: onnx.TensorProto, folder: Path, length: int) -> tuple[Path, int]:
    """Returns the file and the offset of external data, after checking that they may be used."""
    place = _place(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _inside(entries.get("location", ""), folder, place)
    try:
        offset, declared = int(entries.get("offset") or 0), int(entries.get("length") or length)
    except ValueError:
        raise SourceError(
            "offset or length of its external data is not a number", place=place
        ) from None
    if offset < 0 or declared != length:
        raise SourceError(
            f"its external data declares {declared} bytes at {offset}, the shape needs {length}",
            place=place,
            remedy="the file is damaged; export or download it again",
        )
    size = file.stat().st_size
    if offset + length > size:
        raise SourceError(
            f"external data file {file.name!r} has {size} bytes, {offset + length} are declared",
            place=place,
            remedy="the data file is incomplete; export or download it again",
        )
    return file, offset


def _inside(location: str, folder: Path, place: str) -> Path:
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    parts = PureWindowsPath(location).parts
    resolved = (folder / location).resolve() if "\0" not in location else None
    if (
        absolute
        or ".." in parts
        or not parts
        or resolved is None
        or not resolved.is_relative_to(folder.resolve())
    ):
        raise SourceError(
            f"external data {location!r} lies outside the model's folder",
            place=place,
            remedy="put the data file beside the model and name it without a path",
        )
    if not resolved.is_file():
        raise SourceError(
            f"external data file {location!r} is missing",
            place=place,
            remedy=f"put it into {str(folder)!r}",
        )
    return resolved
