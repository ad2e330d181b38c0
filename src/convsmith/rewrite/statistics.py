"""What one pass over calibration data leaves behind: all that the fits need.

For every layer that a form can replace: the sums of :mod:`convsmith.rewrite.moments`. They add
up, so shards merge. Beside them a bounded number of input samples is kept: the asymmetric rebuild
and the bias correction (Zhang et al. 2015, section 3.3) need inputs that went through the network
rewritten so far, which no sum taken before can give.

Memory: ``8 n^2`` bytes per layer and group, ``n = C_in prod(kernel)`` (at most ``MOMENT_BYTES``
a layer), and up to half as much again while they grow; ``SAMPLE_BYTES`` of samples; and the
values of some images while they are run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.errors import ConvsmithError, DataError, UsageError
from convsmith.files import write_atomically
from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import steps
from convsmith.results import Progress
from convsmith.rewrite.batches import check_batch, first_of, images_in, pieces
from convsmith.rewrite.candidates import replaceable
from convsmith.rewrite.moments import (
    MOMENT_BYTES,
    POSITIONS,
    Moments,
    Sums,
    bytes_of_moments,
    vectors,
)
from convsmith.rewrite.site import Site

__all__ = ["Calibration", "calibrate", "check_weights"]

Array = npt.NDArray[Any]

LARGEST = 1e15
"""Root mean square of a layer's windows up to which fits are made: far from where sums of squares
overflow in float32."""

SAMPLE_BYTES = 256 << 20
"""How many bytes of input samples are kept."""


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

    def __repr__(self) -> str:
        return (
            f"<Calibration: {self.images:,} images, statistics of {len(self.moments)} layers,"
            f" {sum(map(images_in, self.samples)):,} images kept>"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is wanting in the data, in sentences."""
        found = _monotony(self.samples)
        short = [name for name, some in self.moments.items() if some.count < some.first.shape[1]]
        if not short:
            return found
        worst = max(short, key=lambda n: self.moments[n].first.shape[1] / self.moments[n].count)
        some = self.moments[worst]
        note = (
            f"{len(short)} of {len(self.moments)} layers saw fewer windows than a window has"
            f" numbers ({worst}: {some.count:,} windows of {some.first.shape[1]:,} numbers), so"
            " their statistics are regularized: more images would help"
        )
        return (*found, note)

    def merge(self, other: Calibration) -> Calibration:
        """Adds another shard of the same network.

        Raises:
            DataError: If the two do not describe the same layers.
        """
        one, two = (
            {name: moments.first.shape for name, moments in shard.moments.items()}
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
            "schema": "convsmith.calibration/2",
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


def check_weights(net: Graph, layers: Iterable[Node]) -> None:
    """Checks that the weights of layers are numbers that a fit can use; absent ones are passed by.

    Raises:
        DataError: If one is NaN or infinite; names the layer.
    """
    for node in layers:
        for name in node.parameters:
            data = net.constants[name].data
            if data is not None and data.dtype.kind in "fc" and not np.isfinite(data).all():
                raise DataError(
                    f"its tensor {name!r} holds NaN or infinity",
                    place=node.name,
                    remedy="load the weights of a network that was trained to the end",
                )


def calibrate(
    net: Graph,
    batches: Iterable[Any],
    *,
    positions: int = POSITIONS,
    sample_bytes: int = SAMPLE_BYTES,
    progress: Progress | None = None,
) -> Calibration:
    """Collects the statistics of a network's inputs in one pass.

    Args:
        net: A network with weights.
        batches: Arrays or tensors ``(N, C, *spatial)`` for a network with one input, or mappings
            from input names to those; of tuples, such as a ``DataLoader`` gives, the first
            element counts. Sizes may differ from batch to batch where the network allows it.
            How images are grouped into batches is of no importance for memory: large ones are
            cut.
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
    check_weights(net, net.nodes)
    layers = replaceable(net)
    layers = [node for node in layers if bytes_of_moments(Site.of(net, node)) <= MOMENT_BYTES]
    by_input: dict[str, list[Node]] = {}
    for node in layers:
        by_input.setdefault(node.inputs[0], []).append(node)
    sums: dict[str, Sums] = {}
    samples: list[Mapping[str, Array]] = []
    images, room = 0, sample_bytes
    for index, batch in enumerate(batches):
        place = f"calibration batch {index + 1}"
        inputs = check_batch(net, first_of(net, batch), place)
        try:
            for first, piece in pieces(net, inputs):
                for name, array in _values(net, piece):
                    for node in by_input.get(name, ()):
                        some = sums.get(node.name)
                        if some is None:
                            site = Site.of(net, node)
                            some = sums[node.name] = Sums(site.groups, site.width)
                        _see(some, node, array, positions, seed=index, first=first)
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
    moments = {name: some.moments() for name, some in sums.items()}
    return Calibration(moments=moments, samples=tuple(samples), images=images, positions=positions)


def _values(net: Graph, inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Runs a network and yields every value once, inputs first."""
    yield from inputs.items()
    for _, made in steps(net, inputs):
        yield from made.items()


def _see(sums: Sums, node: Node, x: Array, positions: int, *, seed: int, first: int) -> None:
    """Adds what reaches a layer."""
    try:
        for part in vectors(node, x, positions, seed=seed, first=first, dtype=np.float64):
            sums.add(part)
    except ConvsmithError as error:
        raise error.at(node.name) from None
    squares = sums.squares
    if not np.isfinite(squares).all():
        raise DataError(
            "what reaches this layer holds NaN or infinity",
            place=node.name,
            remedy="check the weights before it, and how the images are normalized",
        )
    if squares.max(initial=0) > LARGEST**2 * sums.count:
        raise DataError(
            f"windows of this layer are as large as {np.sqrt(squares.max() / sums.count):.0e},"
            f" and above {LARGEST:.0e} sums of squares overflow",
            place=node.name,
            remedy="check the weights before it, and how the images are normalized",
        )


def _monotony(samples: Sequence[Mapping[str, Array]]) -> tuple[str, ...]:
    """What is wrong with images that hardly differ; nothing as soon as one does."""
    count = sum(map(images_in, samples))
    if not count:
        return ()
    first = samples[0]
    same = all(
        sample.keys() == first.keys()
        and all(a.shape[1:] == first[name].shape[1:] for name, a in sample.items())
        and all((array == first[name][:1]).all() for name, array in sample.items())
        for sample in samples
    )
    if same and count > 1:
        return (f"all {count:,} images are alike, so the fits hold for little else",)
    if all(_is_plain(array) for sample in samples for array in sample.values()):
        return ("no image varies from pixel to pixel, so the fits hold for little else",)
    return ()


def _is_plain(images: Array) -> bool:
    """Whether every channel of every image has one value everywhere."""
    if images.ndim < 3:
        return False
    pixels = images.reshape(*images.shape[:2], -1)
    return bool((pixels == pixels[..., :1]).all())


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
    if count < 1 or first.ndim != 2 or second.shape != (*first.shape, first.shape[1]):
        raise ValueError
    return Moments(count=count, first=first, second=second)
