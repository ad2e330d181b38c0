"""What one pass over calibration data leaves behind: all that the fits need.

For every convolution that a form can replace, the unfolded inputs ``x`` (one vector of
``C_in k_h k_w`` numbers per output position) give three sums: how many, ``sum x`` and
``sum x x^T``. They add up, so shards merge. Beside them a bounded number of input samples is
kept: the asymmetric rebuild and the bias correction (Zhang et al. 2015, section 3.3) need
inputs that went through the network rewritten so far, which no sum taken before can give.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from os import PathLike
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from convsmith.errors import ConvsmithError, DataError, UsageError
from convsmith.files import write_atomically
from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import pad_for_windows, steps, windows
from convsmith.graph.operators import Conv
from convsmith.parallel import spread, threads
from convsmith.results import Progress
from convsmith.rewrite.batches import check_batch, images_in, pieces
from convsmith.rewrite.forms import spatial

__all__ = ["Calibration", "Moments", "calibrate", "candidates", "check_weights", "vectors"]

Array = npt.NDArray[Any]

POSITIONS = 2048
"""Output positions per image and layer that enter the sums; all of them when there are fewer."""

BLOCK_BYTES = 32 << 20
"""How large a block of vectors may be while its products are taken."""

VECTOR_BYTES = 256 << 20
"""How many bytes of unfolded inputs are held at once."""

PANEL = 1024
"""How many columns of the products one thread computes at a time."""

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
        """Sums over the rows of ``(P, n)``, block by block in float64.

        The sums do not depend on how many threads there are.

        >>> Moments.of(np.array([[1.0, 2.0], [3.0, 4.0]])).second
        array([[10., 14.],
               [14., 20.]])
        """
        width = vectors.shape[1]
        size = max(256, BLOCK_BYTES // (width * 8))

        def product(place: tuple[int, int]) -> Array:
            start, column = place
            part = vectors[start : start + size].astype(np.float64)
            result: Array = part[:, column:].T @ part[:, column : column + PANEL]
            return result

        second = np.zeros((width, width))
        places = [
            (start, column)
            for start in range(0, len(vectors), size)
            for column in range(0, width, PANEL)
        ]
        for group in range(0, len(places), threads()):
            some = places[group : group + threads()]
            for (_, column), panel in zip(some, spread(product, some), strict=True):
                second[column:, column : column + PANEL] += panel
        for column in range(PANEL, width, PANEL):  # what lies above the diagonal blocks
            second[:column, column : column + PANEL] = second[column : column + PANEL, :column].T
        first = vectors.sum(axis=0, dtype=np.float64)
        return cls(count=len(vectors), first=first, second=second)

    @property
    def mean(self) -> Array:
        """``E[x]``."""
        mean: Array = self.first / self.count
        return mean

    @property
    def covariance(self) -> Array:
        """``E[(x - mu)(x - mu)^T]``; the bias takes care of the mean.

        Its diagonal is raised by what the difference may lose to rounding, so that inputs that
        never change give a matrix that can be used.
        """
        covariance: Array = self.second / self.count - np.outer(self.mean, self.mean)
        lost = 1e-12 * self.second.trace() / (self.count * len(self.first))
        covariance[np.diag_indices_from(covariance)] += lost
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
        one, two = (
            {name: len(moments.first) for name, moments in shard.moments.items()}
            for shard in (self, other)
        )
        if one != two:
            first = min({name for name, _ in one.items() ^ two.items()})
            raise DataError(
                "these calibrations belong to different networks",
                place=first,
                remedy="merge shards of one network",
            )
        return Calibration(
            moments={name: one + other.moments[name] for name, one in self.moments.items()},
            samples=_kept([*self.samples, *other.samples]),
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
                name: _loaded(
                    int(count),
                    tensors[f"moments/{name}/first"],
                    tensors[f"moments/{name}/second"],
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

    Left out are those that share their weights with another layer, those without weights, and
    those whose input is a constant or has no known shape.

    >>> from convsmith.graph import parse
    >>> candidates(parse("3@8 > conv 4 3 p1"))  # its weights are shapes alone
    []
    """
    uses = Counter(name for node in graph.nodes for name in (*node.parameters, *node.inputs))
    uses.update(output.value for output in graph.outputs)
    return [
        node
        for node in graph.nodes
        if isinstance(node.op, Conv)
        and not spatial.refusal(node.op)
        and all(graph.constants[name].data is not None for name in node.parameters)
        and all(uses[name] == 1 for name in node.parameters)
        and graph.shapes[node.inputs[0]] is not None
        and node.inputs[0] not in graph.constants
    ]


def check_weights(net: Graph, layers: Iterable[Node]) -> None:
    """Checks that the weights of layers are numbers that a fit can use.

    Raises:
        DataError: If one is NaN or infinite; names the layer.
    """
    for node in layers:
        for name in node.parameters:
            data = np.asarray(net.constants[name].data)
            if not np.isfinite(data).all():
                raise DataError(
                    f"its tensor {name!r} holds NaN or infinity",
                    place=node.name,
                    remedy="load the weights of a network that was trained to the end",
                )


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
            allows it. How images are grouped into batches is of no importance for memory: large
            ones are cut.
        positions: Output positions per image and layer that enter the sums; more are worth
            their time when there are few images.
        sample_bytes: How many bytes of inputs are kept for the rebuild; one image at least.
        progress: Called after each batch.

    Raises:
        DataError: If there is no batch, or one holds NaN or infinity or has the wrong size, or
            the weights or the values inside the network do.
        UsageError: If ``positions`` is not positive.

    >>> from convsmith.graph import parse
    >>> calibrate(parse("1@4 > relu"), [np.ones((2, 1, 4, 4))]).images
    2
    """
    if positions < 1:
        raise UsageError(f"positions={positions} leaves nothing to see", remedy="give at least 1")
    if isinstance(batches, np.ndarray | Mapping):
        raise UsageError("batches is one batch, not several", remedy="put it into a list: [batch]")
    layers = candidates(net)
    check_weights(net, layers)
    by_input: dict[str, list[Node]] = {}
    for node in layers:
        by_input.setdefault(node.inputs[0], []).append(node)
    moments: dict[str, Moments] = {}
    samples: list[Mapping[str, Array]] = []
    images, room = 0, sample_bytes
    for index, batch in enumerate(batches):
        place = f"calibration batch {index + 1}"
        inputs = check_batch(net, batch, place)
        try:
            for first, piece in pieces(net, inputs):
                for name, array in _values(net, piece):
                    for node in by_input.get(name, ()):
                        found = _seen(node, array, positions, seed=index, first=first)
                        before = moments.get(node.name)
                        moments[node.name] = found if before is None else before + found
        except ConvsmithError as error:
            raise error.at(place) from None
        sample = _cut(inputs, room, least=0 if samples else 1)
        if sample:
            samples.append({name: array.copy() for name, array in sample.items()})
            room -= _bytes(sample)
        images += images_in(inputs)
        if progress is not None:
            progress("calibrating", images, 0)
    if not images:
        raise DataError("there is no calibration data", remedy="give at least one image")
    return Calibration(moments=moments, samples=tuple(samples), images=images, positions=positions)


def _values(net: Graph, inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Runs a network and yields every value once, inputs first."""
    yield from inputs.items()
    for _, made in steps(net, inputs):
        yield from made.items()


def _seen(node: Node, x: Array, positions: int, *, seed: int, first: int) -> Moments:
    try:
        found = reduce(add, map(Moments.of, vectors(node, x, positions, seed=seed, first=first)))
    except ConvsmithError as error:
        raise error.at(node.name) from None
    if not np.isfinite(found.second.trace()):
        raise DataError(
            "what reaches this layer holds NaN or infinity",
            place=node.name,
            remedy="check the weights before it, and how the images are normalized",
        )
    return found


def vectors(
    node: Node, x: Array, positions: int, *, seed: int, first: int = 0, outputs: Array | None = None
) -> Iterator[Array]:
    """Unfolds the inputs of a layer at random positions, some images at a time.

    The positions of every image are drawn by the layer's name, ``seed`` and the image's place
    in its batch, so that every pass over the same batch sees the same ones.

    Args:
        node: A convolution.
        x: Its inputs ``(N, C_in, *spatial)``.
        positions: Output positions per image; all of them when there are fewer.
        seed: Tells batches apart.
        first: The place of the first image of ``x`` in its batch.
        outputs: Values ``(N, C_out, *outputs)`` to take at the same positions.

    Yields:
        Arrays ``(P, C_in k_h k_w)``, or ``(P, C_in k_h k_w + C_out)`` with the outputs behind.
    """
    op = node.op
    assert isinstance(op, Conv)
    view = windows(op, pad_for_windows(op, x))
    rank = len(op.kernel)
    sizes = view.shape[2 : 2 + rank]
    width = x.shape[1] * math.prod(op.kernel)
    joint = width + (0 if outputs is None else outputs.shape[1])

    def image(index: int) -> Array:
        at = _chosen(node.name, sizes, positions, seed, first + index)
        there: tuple[Any, ...] = (slice(None), *at)
        part = np.empty((len(at[0]), joint), dtype=x.dtype)
        part[:, :width] = np.moveaxis(view[index][there], 1, 0).reshape(len(part), width)
        if outputs is not None:
            part[:, width:] = outputs[index][there].T
        return part

    per_image = min(positions, math.prod(sizes)) * joint * x.itemsize
    together = max(1, VECTOR_BYTES // max(per_image, 1))
    for start in range(0, len(x), together):
        yield np.concatenate(spread(image, range(start, min(start + together, len(x)))))


def _chosen(
    name: str, outputs: tuple[int, ...], positions: int, seed: int, index: int
) -> tuple[Array, ...]:
    total = math.prod(outputs)
    if total <= positions:
        chosen = np.arange(total)
    else:
        generator = np.random.default_rng((crc32(name.encode()), seed, index))
        chosen = np.sort(generator.choice(total, positions, replace=False))
    return tuple(np.unravel_index(chosen, outputs))


def _bytes(sample: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in sample.values())


def _cut(sample: Mapping[str, Array], room: int, *, least: int) -> Mapping[str, Array]:
    """The images from the front that fit into ``room`` bytes; nothing when none does."""
    count = images_in(sample)
    if _bytes(sample) <= room:
        return sample
    if any(len(array) != count for array in sample.values()):  # it cannot be cut
        return sample if least else {}
    fitting = max(max(room, 0) * count // _bytes(sample), least)
    return {name: array[:fitting] for name, array in sample.items()} if fitting else {}


def _kept(samples: Sequence[Mapping[str, Array]]) -> tuple[Mapping[str, Array], ...]:
    """The samples from the front that fit into ``SAMPLE_BYTES``."""
    kept: list[Mapping[str, Array]] = []
    room = SAMPLE_BYTES
    for sample in samples:
        fitting = _cut(sample, room, least=0 if kept else 1)
        if fitting:
            kept.append(fitting)
            room -= _bytes(fitting)
    return tuple(kept)


def _loaded(count: int, first: Array, second: Array) -> Moments:
    if count < 1 or first.ndim != 1 or second.shape != (len(first), len(first)):
        raise ValueError
    return Moments(count=count, first=first, second=second)
