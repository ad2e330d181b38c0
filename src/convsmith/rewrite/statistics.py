"""What one pass over calibration data leaves behind: all that the fits need.

For every convolution that a form can replace, the unfolded inputs ``x`` (one vector of
``C_in k_h k_w`` numbers per output position) give three sums: how many, ``sum x`` and
``sum x x^T``. They add up, so shards merge. Beside them a bounded number of input samples is
kept: the asymmetric rebuild and the bias correction (Zhang et al. 2015, section 3.3) need
inputs that went through the network rewritten so far, which no sum taken before can give.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from convsmith.errors import DataError
from convsmith.files import write_atomically
from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import pad_for_windows, steps, windows
from convsmith.graph.operators import Conv
from convsmith.parallel import spread, threads
from convsmith.results import Progress
from convsmith.rewrite.forms import spatial

__all__ = ["Calibration", "Moments", "calibrate", "candidates", "outputs_at", "unfolded"]

Array = npt.NDArray[Any]

POSITIONS = 2048
"""Output positions per image and layer that enter the sums; all of them when there are fewer."""

BLOCK_BYTES = 32 << 20
"""How large a block of vectors may be while its products are taken."""

SAMPLE_BYTES = 256 << 20
"""How many bytes of input samples are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over the unfolded inputs of one layer.

    Attributes:
        count: How many vectors.
        first: ``sum x``, ``(n,)``.
        second: ``sum x x^T``, ``(n, n)``.
    """

    count: int
    first: Array
    second: Array

    @classmethod
    def of(cls, vectors: Array) -> Moments:
        """Sums over the rows of ``(P, n)``, block by block in float64."""
        width = vectors.shape[1]
        size = max(256, BLOCK_BYTES // (width * 8))

        def block(start: int) -> tuple[Array, Array]:
            part = vectors[start : start + size].astype(np.float64)
            return part.sum(axis=0), part.T @ part

        first, second = np.zeros(width), np.zeros((width, width))
        starts = range(0, len(vectors), size)
        for group in range(0, len(starts), threads()):
            for total, product in spread(block, starts[group : group + threads()]):
                first += total
                second += product
        return cls(count=len(vectors), first=first, second=second)

    @property
    def mean(self) -> Array:
        """``E[x]``."""
        mean: Array = self.first / self.count
        return mean

    @property
    def covariance(self) -> Array:
        """``E[(x - mu)(x - mu)^T]``; the bias takes care of the mean."""
        covariance: Array = self.second / self.count - np.outer(self.mean, self.mean)
        return covariance

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            count=self.count + other.count,
            first=self.first + other.first,
            second=self.second + other.second,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """Statistics of a network's inputs, layer by layer. They merge and can be saved.

    Attributes:
        moments: Per layer name.
        samples: Input batches that were kept, each a mapping from input name to array.
        images: How many images were seen.
        positions: Output positions per image and layer that entered the sums.
    """

    moments: Mapping[str, Moments]
    samples: tuple[Mapping[str, Array], ...]
    images: int
    positions: int = POSITIONS

    def merge(self, other: Calibration) -> Calibration:
        """Adds another shard of the same network.

        Raises:
            DataError: If the two do not describe the same layers.
        """
        if set(self.moments) != set(other.moments):
            raise DataError(
                "these calibrations belong to different networks",
                remedy="merge shards of one network",
            )
        return Calibration(
            moments={name: one + other.moments[name] for name, one in self.moments.items()},
            samples=_bounded([*self.samples, *other.samples]),
            images=self.images + other.images,
            positions=max(self.positions, other.positions),
        )

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the calibration as one ``.safetensors`` file.

        Raises:
            OutputError: If the file exists and ``overwrite`` is false, or cannot be written.
        """
        from safetensors.numpy import save

        tensors: dict[str, Array] = {}
        for name, moments in self.moments.items():
            tensors[f"moments/{name}/first"] = moments.first
            tensors[f"moments/{name}/second"] = moments.second
        for index, sample in enumerate(self.samples):
            for name, array in sample.items():
                tensors[f"samples/{index}/{name}"] = np.ascontiguousarray(array)
        header = {
            "schema": "convsmith.calibration/1",
            "images": self.images,
            "counts": {name: moments.count for name, moments in self.moments.items()},
            "positions": self.positions,
        }
        data = save(tensors, metadata={"convsmith": json.dumps(header)})
        write_atomically(Path(path), data, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Calibration:
        """Reads what :meth:`save` wrote.

        Raises:
            DataError: If there is no such file or it holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path), framework="numpy") as file:
                header = json.loads((file.metadata() or {})["convsmith"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            moments = {
                name: Moments(
                    count=int(count),
                    first=tensors[f"moments/{name}/first"],
                    second=tensors[f"moments/{name}/second"],
                )
                for name, count in header["counts"].items()
            }
            samples: dict[int, dict[str, Array]] = {}
            for key, array in tensors.items():
                if key.startswith("samples/"):
                    _, index, name = key.split("/", 2)
                    samples.setdefault(int(index), {})[name] = array
            return cls(
                moments=moments,
                samples=tuple(samples[index] for index in sorted(samples)),
                images=int(header["images"]),
                positions=int(header["positions"]),
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError):
            raise DataError(
                "this is not a calibration that convsmith saved",
                place=str(path),
                remedy="make one with convsmith.calibrate(net, batches).save(path)",
            ) from None


def candidates(graph: Graph) -> list[Node]:
    """The convolutions that the spatial form can replace, in execution order.

    Left out are those that share their weights with another layer, and those whose input has
    no known shape.
    """
    uses = Counter(name for node in graph.nodes for name in (*node.parameters, *node.inputs))
    return [
        node
        for node in graph.nodes
        if isinstance(node.op, Conv)
        and not spatial.refusal(node.op)
        and graph.parameter(node, "weight").data is not None
        and all(uses[name] == 1 for name in node.parameters)
        and graph.shapes[node.inputs[0]] is not None
        and node.inputs[0] not in graph.constants
    ]


def calibrate(
    net: Graph,
    batches: Iterable[Array | Mapping[str, Array]],
    *,
    positions: int = POSITIONS,
    sample_bytes: int = SAMPLE_BYTES,
    progress: Progress | None = None,
) -> Calibration:
    """Collects the statistics of a network's inputs in one pass.

    Args:
        net: A network with weights.
        batches: Arrays ``(N, C, *spatial)`` for a network with one input, or mappings from
            input names to arrays. Sizes may differ from batch to batch where the network
            allows it.
        positions: Output positions per image and layer that enter the sums; more are worth
            their time when there are few images.
        sample_bytes: How many bytes of inputs are kept for the rebuild.
        progress: Called after each batch.

    Raises:
        DataError: If there is no batch, or one holds NaN or infinity or has the wrong size.

    >>> from convsmith.graph import parse
    >>> calibrate(parse("1@4 > relu"), [np.ones((2, 1, 4, 4))]).images
    2
    """
    layers = {node.name: node for node in candidates(net)}
    by_input: dict[str, list[Node]] = {}
    for node in layers.values():
        by_input.setdefault(node.inputs[0], []).append(node)
    moments: dict[str, Moments] = {}
    samples: list[Mapping[str, Array]] = []
    images = kept = 0
    for index, batch in enumerate(batches):
        inputs = _check_batch(net, batch, index)
        seed = index

        def see(value: str, x: Array, seed: int = seed) -> None:
            for node in by_input.get(value, ()):
                found = Moments.of(unfolded(node, x, positions, seed))
                moments[node.name] = moments[node.name] + found if node.name in moments else found

        for name, array in inputs.items():
            see(name, array)
        for _, made in steps(net, inputs):
            for name, array in made.items():
                see(name, array)
        size = sum(array.nbytes for array in inputs.values())
        if not samples or kept + size <= sample_bytes:
            samples.append(inputs)
            kept += size
        images += len(next(iter(inputs.values())))
        if progress is not None:
            progress("calibrating", images, 0)
    if not images:
        raise DataError("there is no calibration data", remedy="give at least one image")
    return Calibration(moments=moments, samples=tuple(samples), images=images, positions=positions)


def unfolded(node: Node, x: Array, positions: int, seed: int) -> Array:
    """Returns the unfolded inputs ``(P, C_in k_h k_w)`` of a layer at random positions.

    The positions of every image are drawn by the layer's name and ``seed``, so that two passes
    over the same batch see the same ones; :func:`outputs_at` takes the outputs there.
    """
    op = node.op
    assert isinstance(op, Conv)
    view = windows(op, pad_for_windows(op, x))
    rank = len(op.kernel)
    outputs = view.shape[2 : 2 + rank]

    def image(index: int) -> Array:
        at = _chosen(node.name, outputs, positions, seed, index)
        there: tuple[Any, ...] = (slice(None), *at)
        part: Array = np.moveaxis(view[index][there], 1, 0)  # P, C, *kernel
        return part.reshape(len(at[0]), -1)

    return np.concatenate(spread(image, range(len(x))))


def outputs_at(node: Node, y: Array, positions: int, seed: int) -> Array:
    """Returns the outputs ``(P, C_out)`` at the positions that :func:`unfolded` takes."""
    parts = []
    for index, image in enumerate(y):
        at = _chosen(node.name, image.shape[1:], positions, seed, index)
        there: tuple[Any, ...] = (slice(None), *at)
        parts.append(image[there].T)
    return np.concatenate(parts)


def _chosen(
    name: str, outputs: tuple[int, ...], positions: int, seed: int, index: int
) -> tuple[Array, ...]:
    total = int(np.prod(outputs))
    if total <= positions:
        chosen = np.arange(total)
    else:
        generator = np.random.default_rng((crc32(name.encode()), seed, index))
        chosen = np.sort(generator.choice(total, positions, replace=False))
    return tuple(np.unravel_index(chosen, outputs))


def _check_batch(net: Graph, batch: Array | Mapping[str, Array], index: int) -> dict[str, Array]:
    place = f"calibration batch {index + 1}"
    if not isinstance(batch, Mapping):
        if len(net.inputs) != 1:
            raise DataError(
                f"the network has {len(net.inputs)} inputs",
                place=place,
                remedy="give a mapping from input names to arrays",
            )
        batch = {net.inputs[0].name: batch}
    arrays = {name: np.asarray(array) for name, array in batch.items()}
    for wanted in net.inputs:
        array = arrays.get(wanted.name)
        if array is None:
            raise DataError(f"input {wanted.name!r} is missing", place=place)
        if array.ndim != len(wanted.shape) or array.shape[1:2] != wanted.shape[1:2]:
            raise DataError(
                f"input {wanted.name!r} has shape {array.shape}, the network takes {wanted.shape}",
                place=place,
            )
        if not np.isfinite(array).all():
            raise DataError("it holds NaN or infinity", place=place, remedy="leave it out")
    return arrays


def _bounded(samples: Sequence[Mapping[str, Array]]) -> tuple[Mapping[str, Array], ...]:
    kept: list[Mapping[str, Array]] = []
    total = 0
    for sample in samples:
        total += sum(array.nbytes for array in sample.values())
        if kept and total > SAMPLE_BYTES:
            break
        kept.append(sample)
    return tuple(kept)
