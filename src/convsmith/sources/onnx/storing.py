"""Writes a model with the elements of its tensors inside, or beside it when there are too many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from convsmith.errors import SourceError
from convsmith.files import check_target, write_atomically
from convsmith.sources.onnx.tensors import Array, element_type_code

__all__ = ["Elements", "store"]

LARGEST_FILE = 2**31 - 2**20
"""Bytes of a model with its weights inside; protobuf cannot hold 2 GiB."""

_SMALL = 1024  # bytes of a tensor that always stays in the model
_ALIGNMENT = 4096  # of external data, so that it can be mapped into memory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Elements:
    """What a tensor holds: bytes as in a file, or an array and the element type to write it as."""

    data: bytes | Array
    dtype: str = ""

    @property
    def length(self) -> int:
        """Bytes in the file."""
        if isinstance(self.data, bytes):
            return len(self.data)
        stored = helper.tensor_dtype_to_np_dtype(element_type_code(self.dtype))
        return int(self.data.size * stored.itemsize)

    def encode(self) -> bytes:
        """The bytes of the file."""
        if isinstance(self.data, bytes):
            return self.data
        stored = helper.tensor_dtype_to_np_dtype(element_type_code(self.dtype))
        return np.ascontiguousarray(self.data, stored).tobytes()


def store(
    model: onnx.ModelProto, elements: Mapping[str, Elements], path: Path, *, overwrite: bool
) -> None:
    """Writes a model whose initializers have no elements yet.

    Args:
        model: The model; its initializers are filled in.
        elements: The elements by name of the initializer.
        path: The file; external data goes to ``path`` + ``.data`` when all does not fit into it.
        overwrite: Whether existing files may be replaced.

    Raises:
        OutputError: If a file cannot be written.
    """
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in elements]
    total = model.ByteSize() + sum(elements[tensor.name].length + 16 for tensor in tensors)
    if total <= LARGEST_FILE:
        for tensor in tensors:
            tensor.raw_data = elements[tensor.name].encode()
        write_atomically(path, model.SerializeToString(), overwrite=overwrite)
        return
    beside = path.with_name(f"{path.name}.data")
    check_target(path, overwrite=overwrite)
    large = []
    offset = 0
    for tensor in tensors:
        length = elements[tensor.name].length
        if length < _SMALL:
            tensor.raw_data = elements[tensor.name].encode()
            continue
        offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
        large.append((tensor, offset))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", beside.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        offset += length
    if model.ByteSize() > LARGEST_FILE:
        raise SourceError("the network has more than 2 GB apart from its weights")

    def write(file: BinaryIO) -> None:
        for tensor, start in large:
            file.write(b"\0" * (start - file.tell()))
            file.write(elements[tensor.name].encode())

    write_atomically(beside, write, overwrite=overwrite)
    write_atomically(path, model.SerializeToString(), overwrite=overwrite)
