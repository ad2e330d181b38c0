"""Tensors and their memory: which share it, and how they leave torch."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from convsmith.graph import Constant

__all__ = ["as_constant", "meta_like", "numpy_name", "overlap", "same_elements", "storage_of"]


def storage_of(tensor: torch.Tensor) -> int:
    """The identity of the memory that a tensor looks at, valid while the tensor lives."""
    return int(tensor.untyped_storage()._cdata)


def meta_like(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape, strides and type without memory."""
    if tensor.layout != torch.strided:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def same_elements(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two views of the same memory show the same elements in the same order."""
    if a.storage_offset() != b.storage_offset() or a.numel() != b.numel():
        return False
    if a.shape == b.shape and a.stride() == b.stride():
        return True
    return a.is_contiguous() and b.is_contiguous()


def overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two views of the same memory have an element in common."""
    last = max(t.untyped_storage().nbytes() // t.element_size() for t in (a, b))
    touched = np.zeros(last, dtype=bool)
    for view, write in ((a, True), (b, False)):
        elements = np.lib.stride_tricks.as_strided(
            touched[view.storage_offset() :], view.shape, view.stride()
        )
        if write:
            elements[...] = True
    return bool(elements.any())


@cache
def numpy_name(dtype: torch.dtype) -> str:
    """NumPy's name of an element type; bfloat16, which NumPy lacks, becomes float32."""
    if dtype == torch.bfloat16 or (dtype.is_floating_point and dtype.itemsize == 1):
        return "float32"
    return str(torch.empty(0, dtype=dtype, device="cpu").numpy().dtype.name)


def as_constant(tensor: torch.Tensor, *, learnable: bool) -> Constant:
    """Returns a tensor as a constant that shares its memory where NumPy can."""
    name = numpy_name(tensor.dtype)
    if tensor.is_meta:
        return Constant(shape=tuple(tensor.shape), dtype=name, learnable=learnable)
    if tensor.dtype is torch.float32 and tensor.is_cpu and tensor.layout is torch.strided:
        return Constant.of(tensor.detach().numpy(), learnable=learnable)
    with torch.no_grad():
        data = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
        if name == "float32":
            data = data.float()
        return Constant.of(data.cpu().resolve_conj().numpy(), learnable=learnable)
