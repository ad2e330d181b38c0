"""Calibrating and verifying with images from anywhere: folders, array files, loaders, iterables.

The work is done by :mod:`convsmith.rewrite`, which takes batches; what is read from disk is read by
:mod:`convsmith.sources.data`. Here the two meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, final

import numpy.typing as npt

from convsmith.errors import DynamicSizeError, UsageError
from convsmith.graph import Graph
from convsmith.results import Progress
from convsmith.rewrite import statistics, verifying
from convsmith.rewrite.batches import images_in, unpack
from convsmith.rewrite.moments import POSITIONS
from convsmith.rewrite.statistics import SAMPLE_BYTES, Calibration
from convsmith.rewrite.verifying import MetricFunction, MetricName, Verification
from convsmith.sources import load
from convsmith.sources.data import Dataset, read_data

__all__ = ["Batches", "calibrate", "metric_of", "open_with_images", "verify"]

Array = npt.NDArray[Any]

FEW_IMAGES_POSITIONS = 24576
"""Output positions per layer to see in all, when there are few images."""

METRICS: dict[str, MetricName | None] = {"labels": "accuracy", "targets": "psnr", "plain": None}
"""What can be measured on images with labels, with targets, and on images alone."""


@final
class Batches:
    """Images of one network, as pairs of inputs and labels or targets; any number of times.

    Args:
        net: A network with one input.
        images: What was read for it.
    """

    def __init__(self, net: Graph, images: Dataset) -> None:
        self.images = images
        self._name = _input_of(net)

    def __iter__(self) -> Iterator[tuple[dict[str, Array], Array | None]]:
        for batch in self.images:
            wanted = batch.targets if batch.labels is None else batch.labels
            yield {self._name: batch.images}, wanted


def metric_of(images: Dataset) -> MetricName | None:
    """What can be measured on them."""
    return METRICS[images.kind]


def calibrate(
    net: Graph,
    batches: Iterable[Any] | str | PathLike[str] | Dataset,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    limit: int | None = None,
    positions: int | None = None,
    sample_bytes: int = SAMPLE_BYTES,
    progress: Progress | None = None,
) -> Calibration:
    """Collects the statistics of a network's inputs in one pass.

    Args:
        net: A network with weights.
        batches: A folder of pictures, a ``.npy`` or ``.npz`` file (see
            :func:`convsmith.sources.data.read_data`); or batches: arrays or tensors
            ``(N, C, *spatial)`` for a network with one input, or mappings from input names to
            those. Of tuples, such as a torch ``DataLoader`` gives, the first element counts.
            Sizes may differ from batch to batch where the network allows it. How images are
            grouped into batches is of no importance for memory: large ones are cut.
        mean: Of images that are read from disk: subtracted from them (0 to 1), per channel.
        std: What they are then divided by.
        limit: The most images to use: of files, spread evenly over their names; of batches, the
            first ones.
        positions: Output positions per image and layer that enter the sums; more are worth
            their time when there are few images, which is what is done by default where their
            number is known.
        sample_bytes: How many bytes of inputs are kept for the rebuild; one image at least.
        progress: Called after each batch.

    Raises:
        DataError: If there is no batch, or one holds NaN or infinity or has the wrong size, or
            the weights or the values inside the network do.
        UsageError: If ``positions`` or ``limit`` is not positive, or ``mean`` or ``std`` is given
            with batches, which are taken as they are.

    >>> import numpy as np
    >>> from convsmith.graph import parse
    >>> calibrate(parse("1@4 > relu"), [np.ones((2, 1, 4, 4))]).images
    2
    """
    found = _opened(net, batches, mean=mean, std=std, limit=limit)
    if isinstance(found, Batches):
        few = max(POSITIONS, FEW_IMAGES_POSITIONS // found.images.count)
        positions = few if positions is None else positions
    return statistics.calibrate(
        net,
        found,
        positions=POSITIONS if positions is None else positions,
        sample_bytes=sample_bytes,
        progress=progress,
    )


def verify(
    original: Graph,
    rewritten: Graph,
    batches: Iterable[Any] | str | PathLike[str] | Dataset,
    *,
    metric: MetricName | MetricFunction | None = None,
    data: str = "",
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    limit: int | None = None,
    measure: Sequence[str] = (),
    modules: tuple[Any, Any] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Runs both networks side by side and measures what was lost.

    Args:
        original: The network before.
        rewritten: The network after; layers are matched by name. One that is built differently,
            such as a fine-tuned module that was read again, is compared by its outputs alone.
        batches: A folder of pictures, a ``.npy`` or ``.npz`` file; or batches: arrays or tensors
            (for one input), mappings from input names to those, or pairs of such inputs and
            labels or targets, as a torch ``DataLoader`` gives them.
        metric: ``accuracy`` against labels, or ``psnr`` against targets, of the first output; or
            a function that takes the outputs of a batch and its labels or targets (``None``
            without any) and returns a number: its mean over all images counts. Its ``__name__``
            and, where it has them, its attributes ``name``, ``unit`` and ``higher_is_better``
            say what that number is. By default, of a folder with classes the accuracy, and of
            one with targets the PSNR.
        data: What the batches are, for the report; by default the name of the folder.
        mean: Of images that are read from disk: subtracted from them (0 to 1), per channel.
        std: What they are then divided by.
        limit: The most images to use: of files, spread evenly over their names; of batches, the
            first ones.
        measure: Runtimes that both networks are timed in, in turns: ``convsmith``,
            ``onnxruntime``, ``openvino``, ``torch``, ...
        modules: The torch modules before and after; torch is timed on these.
        progress: Called after each batch.

    Raises:
        DataError: If there is no batch, or one does not fit the network, or a metric was asked
            for without labels or targets, or with such that do not fit.
        MissingDependencyError: If a runtime is not installed.
        UsageError: If the two networks have other inputs or outputs, or there is no such metric
            or runtime.

    >>> import numpy as np
    >>> from convsmith.graph import parse
    >>> net = parse("1@2 > relu")
    >>> verify(net, net, [np.ones((3, 1, 2, 2))]).outputs[0].relative
    0.0
    """
    found = _opened(original, batches, mean=mean, std=std, limit=limit)
    if isinstance(found, Batches):
        metric = metric_of(found.images) if metric is None else metric
        if not data and isinstance(batches, str | PathLike):
            data = str(batches)
    return verifying.verify(
        original,
        rewritten,
        found,
        metric=metric,
        data=data,
        measure=measure,
        modules=modules,
        progress=progress,
    )


def open_with_images(
    source: object,
    data: str | PathLike[str],
    size: object = None,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    limit: int | None = None,
) -> tuple[Graph, Dataset, tuple[int | None, ...]]:
    """Reads network and images; where the network leaves its size open, the images decide.

    Returns:
        The network, the images, and the shape that an image may have.

    Raises:
        ConvsmithError: Whatever is wrong with either of them.
    """

    def read(shape: tuple[int | None, ...]) -> Dataset:
        return read_data(str(data), shape=shape, mean=mean, std=std, limit=limit)

    try:
        net = load(source, size)
    except DynamicSizeError as error:
        sizes = next(iter(error.shapes.values()))
        if size is not None or len(sizes) < 3 or sizes[1] is None:
            raise
        images = read(sizes[1:])
        shape = (sizes[0] or 1, *next(iter(images)).images.shape[1:])
        return load(source, shape), images, sizes[1:]
    _input_of(net)
    shape = net.inputs[0].shape[1:]
    return net, read(shape), shape


def _input_of(net: Graph) -> str:
    """The name of the input that images are for."""
    if len(net.inputs) != 1:
        raise UsageError(
            f"the network has {len(net.inputs)} inputs, images give one",
            place=net.source,
            remedy="use convsmith.calibrate and convsmith.rewrite with batches of your own",
        )
    return net.inputs[0].name


def _opened(
    net: Graph,
    batches: Iterable[Any] | str | PathLike[str] | Dataset,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    limit: int | None,
) -> Batches | Iterable[Any]:
    """What there is to go through: images that are read, or batches as they are."""
    if isinstance(batches, str | PathLike):
        _input_of(net)
        read = read_data(
            str(batches), shape=net.inputs[0].shape[1:], mean=mean, std=std, limit=limit
        )
        return Batches(net, read)
    if len(mean) or len(std):
        raise UsageError(
            "mean= and std= are for images that are read from disk",
            remedy="give a folder or a file, or normalize the batches",
        )
    if isinstance(batches, Dataset):
        return Batches(net, batches)
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit} is less than 1", remedy="give a positive number")
    return batches if limit is None else _first(net, batches, limit)


def _first(net: Graph, batches: Iterable[Any], limit: int) -> Iterator[Any]:
    """The batches from the front that hold so many images, the last one cut."""
    left = limit
    for index, item in enumerate(batches):
        inputs, wanted = unpack(net, item, f"batch {index + 1}")
        count = images_in(inputs)
        if count > left:
            inputs = {name: array[:left] for name, array in inputs.items()}
            wanted = None if wanted is None else wanted[:left]
        yield inputs, wanted
        left -= count
        if left <= 0:
            return
