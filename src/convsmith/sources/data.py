"""Calibration and test data from disk: folders of pictures, ``.npy`` and ``.npz`` files.

Three layouts of a folder are known::

    DIR/*.png                          pictures alone
    DIR/input/*.png DIR/target/*.png   what the network sees, and what it should give back
    DIR/CLASS/*.png                    one sub-folder per class

Nothing is resized, cropped or guessed: what cannot be used as it is, is skipped and counted.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, final

import numpy as np
import numpy.typing as npt

from convsmith.errors import DataError, UsageError
from convsmith.parallel import spread
from convsmith.sources.arrays import images_and_labels
from convsmith.sources.folders import Item, Kind, check_channels, list_folder, picture
from convsmith.sources.pictures import SUFFIXES, UnusableError, shown

__all__ = ["Batch", "Dataset", "read_data"]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]

KEPT_BYTES = 512 << 20
"""How many bytes of decoded pictures are kept in memory; what does not fit is read again."""

BATCH_BYTES = 256 << 20
"""How large a batch may become, unless one image alone is larger."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Images of one size that follow each other.

    Attributes:
        images: float32, ``(N, C, *spatial)``, as the network takes them.
        labels: The class of each image, ``(N,)``, when there are labels.
        targets: float32, ``(N, C, *spatial)``, when there are targets.
        names: One per image.
    """

    images: Array
    labels: Array | None
    targets: Array | None
    names: tuple[str, ...]


@final
class Dataset:
    """Images that can be gone through many times, in batches.

    Attributes:
        kind: ``plain``, ``labels`` or ``targets``.
        class_names: The sorted names of the class folders; empty without such.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        place: str,
        shape: Shape,
        kind: Kind,
        batch: int,
        normalize: tuple[Array, Array] | None,
        limit: int | None,
        skipped: Iterable[str] = (),
        class_names: tuple[str, ...] = (),
    ) -> None:
        self.kind: Kind = kind
        self.class_names = class_names
        self._shape = shape
        self._batch = batch
        self._normalize = normalize
        self._skipped = dict.fromkeys(skipped)
        self._kept: dict[Item, tuple[Array, Array | None]] = {}
        self._sizes: dict[tuple[int, ...], None] = {}
        self._items = self._choose(items, limit)
        if not self._items:
            raise self._nothing_left(place)

    def __repr__(self) -> str:
        return f"<Dataset: {self.count} images, {self.kind}, {len(self._skipped)} skipped>"

    def __len__(self) -> int:
        return self.count

    @property
    def count(self) -> int:
        """How many images can be used."""
        return len(self._items)

    @property
    def skipped(self) -> tuple[str, ...]:
        """What cannot be used, each as ``NAME: reason``."""
        return tuple(self._skipped)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """The distinct sizes, ``(height, width)``, in the order in which they occur."""
        return tuple(self._sizes)

    def __iter__(self) -> Iterator[Batch]:
        group: list[tuple[Item, Array, Array | None]] = []
        for item in list(self._items):
            try:
                image, target = self._kept.get(item) or self._read_quietly(item)
            except UnusableError as reason:  # it was readable at first
                self._items.remove(item)
                self._skipped[f"{item.name}: {reason}"] = None
                continue
            if group and (image.shape != group[0][1].shape or len(group) == self._room(image)):
                yield self._batched(group)
                group = []
            group.append((item, image, target))
        if group:
            yield self._batched(group)

    def _room(self, image: Array) -> int:
        """How many images of this size make a batch."""
        return max(1, min(self._batch, BATCH_BYTES // (4 * image.size)))

    def _batched(self, group: list[tuple[Item, Array, Array | None]]) -> Batch:
        images = np.stack([_unit_range(image) for _, image, _ in group])
        if self._normalize is not None:
            mean, deviation = self._normalize
            images = (images - mean) / deviation
        labels = [item.label for item, _, _ in group if item.label is not None]
        targets = [_unit_range(target) for _, _, target in group if target is not None]
        return Batch(
            images=images,
            labels=np.array(labels, dtype=np.int64) if labels else None,
            targets=np.stack(targets) if targets else None,
            names=tuple(item.name for item, _, _ in group),
        )

    def _choose(self, items: Sequence[Item], limit: int | None) -> list[Item]:
        """From each of ``limit`` equal runs of the list, the first that can be used."""
        many = len(items) if limit is None else min(limit, len(items))
        bounds = [part * len(items) // max(many, 1) for part in range(many + 1)]
        runs = [items[low:high] for low, high in itertools.pairwise(bounds)]
        room, lock = KEPT_BYTES, Lock()

        def first_usable(run: Sequence[Item]) -> tuple[Item | None, tuple[int, ...], list[str]]:
            nonlocal room
            reasons = []
            for item in run:
                try:
                    image, target = self._read(item)
                except UnusableError as reason:
                    reasons.append(f"{item.name}: {reason}")
                    continue
                size = image.nbytes + (0 if target is None else target.nbytes)
                with lock:
                    if size <= room:
                        room -= size
                        self._kept[item] = image, target
                return item, image.shape[1:], reasons
            return None, (), reasons

        chosen = []
        with _quiet_pillow():
            for item, size, reasons in spread(first_usable, runs):
                self._skipped.update(dict.fromkeys(reasons))
                if item is not None:
                    chosen.append(item)
                    self._sizes[size] = None
        return chosen

    def _read_quietly(self, item: Item) -> tuple[Array, Array | None]:
        with _quiet_pillow():
            return self._read(item)

    def _read(self, item: Item) -> tuple[Array, Array | None]:
        image, target = item.read()
        have, want = image.shape[1:], self._shape[1:]
        if any(size not in (None, there) for size, there in zip(want, have, strict=True)):
            raise UnusableError(f"is {shown(have)}, the network takes {shown(want)}")
        if target is not None and target.shape != image.shape:
            raise UnusableError(f"is {shown(have)}, its target {shown(target.shape[1:])}")
        for array in (image, target):
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                raise UnusableError("holds NaN or infinity")
        return image, target

    def _nothing_left(self, place: str) -> DataError:
        reasons = self.skipped
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        wrong_size = any("the network takes" in reason for reason in reasons)
        return DataError(
            f"none of the {len(reasons)} images can be used ({'; '.join(reasons[:3])}{more})",
            place=place,
            remedy=f"resize them to {shown(self._shape[1:])},"
            " or load the network for their size with --input"
            if wrong_size
            else "give images that open in an image viewer",
        )


def _unit_range(image: Array) -> Array:
    if image.dtype.kind == "f":
        return image.astype(np.float32, copy=False)
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keeps Pillow's warnings about odd files to itself: what matters becomes a reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_data(
    where: str | Path,
    *,
    shape: tuple[int | None, ...],
    batch: int = 32,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    limit: int | None = None,
) -> Dataset:
    """Reads images for calibrating or testing a network.

    Integers become float32 between 0 and 1 (divided by 255, or by 65535 when they have 16
    bits); floats are not scaled. Then ``mean`` is subtracted and the result divided by
    ``std``; targets stay between 0 and 1. Pictures are turned upright as their EXIF
    orientation says; an alpha channel is dropped.

    Everything is decoded once here, so that :attr:`Dataset.skipped` is complete; what fits
    into 512 MB stays in memory, the rest is read again when it is needed.

    Args:
        where: A folder in one of the three layouts that open this module, one picture, a
            ``.npy`` file, or ``FILE.npz``, ``FILE.npz:IMAGES`` or ``FILE.npz:IMAGES,LABELS``.
            Arrays are floats ``(N, C, *spatial)`` or uint8 ``(N, *spatial, C)``.
        shape: What the network takes per image, ``(C, *spatial)``; ``None`` where any size
            will do. Pictures are read as luma for one channel and as RGB for three.
        batch: The most images in one batch.
        mean: Per channel, or one number for all.
        std: The same.
        limit: The most images to use, spread evenly over the names in order.

    Raises:
        DataError: If there is nothing that can be used; says where, what and why.
        UsageError: If ``mean`` or ``std`` does not belong to the channels, or ``batch`` or
            ``limit`` is less than 1.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder, "images.npy"), np.zeros((5, 8, 8, 3), dtype=np.uint8))
    ...     data = read_data(Path(folder, "images.npy"), shape=(3, None, None), batch=4)
    ...     [batch.images.shape for batch in data]
    [(4, 3, 8, 8), (1, 3, 8, 8)]
    """
    for name, value in (("batch", batch), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} is less than 1", remedy="give a positive number")
    make = partial(
        Dataset, shape=shape, batch=batch, limit=limit, normalize=_normalizer(mean, std, shape)
    )
    path, keys = _named(where)
    place = str(where)
    suffix = path.suffix.lower()
    if path.is_dir():
        found = list_folder(path, shape)
        return make(
            found.items,
            place=place,
            kind=found.kind,
            skipped=found.skipped,
            class_names=found.class_names,
        )
    if suffix in {".npy", ".npz"}:
        images, labels = images_and_labels(path, keys, shape)
        kind: Kind = "plain" if labels is None else "labels"
        return make(_array_items(path, images, labels), place=place, kind=kind)
    if suffix in SUFFIXES:
        check_channels(shape, place)
        return make([picture(path, path.resolve(), shape, path.name)], place=place, kind="plain")
    raise DataError(
        f"{suffix or 'this kind of'} files are not known",
        place=place,
        remedy="give a folder of images, a .npy or a .npz file",
    )


def _named(where: str | Path) -> tuple[Path, str]:
    """The file or folder, and the keys behind a colon."""
    path, keys = Path(where), ""
    try:
        if not path.exists() and ".npz:" in str(where):
            name, _, keys = str(where).rpartition(".npz:")
            path = Path(f"{name}.npz")
        there = path.exists()
    except OSError:  # a folder on the way that may not be entered, a name that is too long
        there = False
    if not there:
        raise DataError(
            "there is no such file or folder",
            place=str(path),
            remedy="give a folder of images, a .npy or a .npz file",
        )
    return path, keys


def _normalizer(
    mean: Sequence[float], std: Sequence[float], shape: Shape
) -> tuple[Array, Array] | None:
    channels = shape[0]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in {0, 1, channels} and not (channels is None and len(values) == 3):
            takes = "1 channel" if channels == 1 else f"{channels} channels"
            raise UsageError(
                f"{name} has {len(values)} numbers, the network takes {takes}",
                remedy="give 1 number" if channels == 1 else f"give 1 number or {channels}",
            )
        if not all(map(math.isfinite, values)) or (name == "std" and not all(values)):
            raise UsageError(
                f"{name} {','.join(map(str, values))} cannot normalize an image",
                remedy="give finite numbers, and no 0 for std",
            )
    if not mean and not std:
        return None
    column = (-1, *(1,) * (len(shape) - 1))
    return (
        np.array(mean or [0], dtype=np.float32).reshape(column),
        np.array(std or [1], dtype=np.float32).reshape(column),
    )


def _array_items(path: Path, images: Array, labels: Array | None) -> list[Item]:
    return [
        Item(
            name=f"{path.name}[{index}]",
            read=partial(_image_of, images, index),
            label=None if labels is None else int(labels[index]),
        )
        for index in range(len(images))
    ]


def _image_of(images: Array, index: int) -> tuple[Array, None]:
    return images[index], None
