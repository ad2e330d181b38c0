"""Runs the kernels of whole networks on buffers that lie against pages that may not be touched.

``python -m tests.guarded_kernels COUNT``, in the vector width that CONVSMITH_LANES says: every
buffer ends, and in a second round begins, at a page without any permission. A kernel that reads or
writes one element too far ends the process; the last line printed says which.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.forbidden_pages import Guarded

from convsmith.graph.compute import compute
from convsmith.graph.operators import GlobalPool, Pool
from convsmith.kernel.threads import Program, run
from convsmith.runtime.kernels import Kernel
from convsmith.runtime.kernels.kernel import address
from convsmith.runtime.kernels.maps import Instruction, Map
from convsmith.runtime.kernels.pools import GlobalPooling, Pooling
from convsmith.runtime.kernels.taps import Taps

Array = npt.NDArray[Any]


def call(kernel: Kernel, shape: Sequence[int], inputs: Sequence[Array], *more: int) -> Array:
    """Runs a kernel twice, between forbidden pages, and returns what it made."""
    sys.stdout.write(f"{kernel}\n")
    sys.stdout.flush()
    results = []
    for at_end in (True, False):
        memory = Guarded()
        given = [memory.copy(array, at_end=at_end) for array in inputs]
        made = memory.empty(tuple(shape), at_end=at_end)
        made.fill(np.nan)
        words = np.array([a.ctypes.data for a in (made, *given)] + list(more), np.int64)
        run(Program([(address(kernel), words.ctypes.data, kernel.items)]), 1)
        results.append(made.copy())
        memory.release()
    np.testing.assert_array_equal(results[0], results[1])
    return results[0]


def close(made: Array, wanted: Array) -> None:
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)


def check_map(random: np.random.Generator) -> None:
    """A sum of two operands, or a copy of one, each transposed or repeated in some way."""
    rank = int(random.integers(1, 5))
    sizes = [int(n) for n in random.choice([1, 2, 3, 5, 8, 16, 17, 33, 70], rank)]
    while math.prod(sizes) > 50000:
        sizes.pop()
    if random.random() < 0.05:
        sizes = [2, 40007]
    operands, strides = [], []
    for _ in range(int(random.integers(1, 3))):
        shape = [1 if random.random() < 0.2 else n for n in sizes]
        order = random.permutation(len(shape))
        array = random.standard_normal([shape[axis] for axis in order]).astype(np.float32)
        view = array.transpose(np.argsort(order))
        operands.append((array, np.broadcast_to(view, sizes)))
        strides.append([s // 4 if n > 1 else 0 for s, n in zip(view.strides, shape, strict=True)])
    dense = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    body = [Instruction(name="add", registers=(0, 1))] if len(operands) == 2 else []
    kernel = Map.of(sizes, dense, strides, body)
    made = call(kernel, sizes, [array for array, _ in operands])
    close(made, np.sum([view for _, view in operands], axis=0))


def check_pool(random: np.random.Generator) -> None:
    rank = int(random.integers(1, 4))
    size = [int(n) for n in random.integers(1, [40, 20, 9][rank - 1], rank)]
    kernel = [int(random.integers(1, min(n, 4) + 1)) for n in size]
    stride = [int(n) for n in random.integers(1, 4, rank)]
    before = [int(random.integers(0, k)) for k in kernel]
    last, batch = bool(random.integers(2)), int(random.integers(1, 3))
    channels = int(random.choice([1, 3, 16, 19, 70]))
    kind: Any = random.choice(["max", "average"])
    op = Pool(
        kind=str(kind), kernel=tuple(kernel), stride=tuple(stride),  # type: ignore[arg-type]
        padding=tuple((p, p) for p in before), dilation=(1,) * rank, count_padding=True,
    )  # fmt: skip
    x = random.standard_normal((batch, channels, *size)).astype(np.float32)
    wanted = compute(op, x)
    assert isinstance(wanted, np.ndarray)

    def three(values: Sequence[int], fill: int) -> Any:
        return (*(fill,) * (3 - rank), *values)

    pooling = Pooling(
        kind=str(kind), last=last, batch=batch, channels=channels,  # type: ignore[arg-type]
        size=three(size, 1), output=three(wanted.shape[2:], 1), kernel=three(kernel, 1),
        stride=three(stride, 1), dilation=(1, 1, 1), before=three(before, 0),
        even=math.prod(kernel) if kind == "average" else 0,
    )  # fmt: skip
    if last:
        x, wanted = np.moveaxis(x, 1, -1), np.moveaxis(wanted, 1, -1)
    close(call(pooling, wanted.shape, [np.ascontiguousarray(x)]), wanted)


def check_global(random: np.random.Generator) -> None:
    last, kind = bool(random.integers(2)), str(random.choice(["max", "average"]))
    shape = (2, int(random.choice([1, 7, 64, 70])), int(random.choice([1, 5, 64, 129])))
    x = random.standard_normal(shape).astype(np.float32)
    wanted = compute(GlobalPool(kind=kind), x)  # type: ignore[arg-type]
    assert isinstance(wanted, np.ndarray)
    kernel = GlobalPooling(
        kind=kind, last=last, batch=2, channels=shape[1], pixels=shape[2],  # type: ignore[arg-type]
    )  # fmt: skip
    given = np.ascontiguousarray(np.moveaxis(x, 1, -1) if last else x)
    close(call(kernel, (2, shape[1]), [given]), wanted[..., 0])


def check_taps(random: np.random.Generator) -> None:
    outer, before, after, taps = (int(n) for n in random.integers(1, 8, 4))
    inner = int(random.choice([1, 1, 3, 16, 37]))
    x = random.standard_normal((outer, before, inner)).astype(np.float32)
    weights = random.standard_normal((after, taps)).astype(np.float32)
    indices = random.integers(0, before, (after, taps))
    kernel = Taps(outer=outer, before=before, after=after, inner=inner, taps=taps)
    made = call(kernel, (outer, after, inner), [x, weights], *indices.ravel().tolist())
    close(made, np.einsum("aotb,ot->aob", x[:, indices], weights))


def main() -> None:
    """Runs every kind of kernel."""
    for seed in range(int(sys.argv[1])):
        random = np.random.default_rng(seed)
        for check in (check_map, check_map, check_pool, check_global, check_taps):
            check(random)
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
