"""What is summed up while two networks run side by side: differences, and the task metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from convsmith.errors import DataError, UsageError
from convsmith.graph import Graph
from convsmith.rewrite.sensitivity import output_loss
from convsmith.rewrite.verification import Metric

__all__ = ["Difference", "MetricFunction", "MetricName", "Score", "score"]

Array = npt.NDArray[Any]
MetricName = Literal["accuracy", "psnr"]

MetricFunction = Callable[[Any, Any], Any]
"""Takes the outputs of a batch (an array; of a network with several outputs, a mapping from their
names to arrays) and what was given with its inputs (``None``: nothing); returns a number, or one
per image."""

Pair = tuple[Array, Array]
"""A value before and after."""


class Difference:
    """Sums over pairs of values, before and after."""

    def __init__(self, net: Graph, value: str) -> None:
        self.net = net
        self.value = value
        self.error = self.total = self.square = 0.0
        self.count = 0
        self.largest = 0.0
        self.same = self.rows = 0
        self.nats = 0.0

    def add(self, before: Array, after: Array) -> None:
        """Adds a piece of a batch.

        Raises:
            DataError: If the shapes differ.
        """
        if before.shape != after.shape:
            raise DataError(
                f"a value has shape {before.shape} before and {after.shape} after",
                remedy="compare a network with its rewritten form",
            )
        before = before.astype(np.float64)
        apart = after - before
        self.error += float(np.vdot(apart, apart))
        self.total += float(before.sum())
        self.square += float(np.vdot(before, before))
        self.count += before.size
        self.largest = max(self.largest, float(np.abs(apart, out=apart).max(initial=0)))
        if before.ndim == 2 and before.shape[1] > 1:
            self.same += int((before.argmax(axis=1) == after.argmax(axis=1)).sum())
            self.rows += len(before)
            with np.errstate(invalid="ignore"):  # infinite scores: told apart from these below
                self.nats += len(before) * output_loss(self.net, self.value, before, after)

    def merge(self, other: Difference) -> None:
        """Adds the sums of other pieces."""
        self.error += other.error
        self.total += other.total
        self.square += other.square
        self.count += other.count
        self.largest = max(self.largest, other.largest)
        self.same += other.same
        self.rows += other.rows
        self.nats += other.nats

    @property
    def relative(self) -> float:
        """Root of the squared error over the variance, or over the square of what is constant."""
        if self.error == 0:
            return 0.0
        unit = self.square - self.total**2 / self.count
        if unit <= 1e-12 * self.square:  # it never changes: its size is all there is
            unit = self.square or float(self.count)
        return float(np.sqrt(self.error / unit))

    @property
    def agreement(self) -> float | None:
        """How often the first choice is the same; ``None``: these are no class scores."""
        return self.same / self.rows if self.rows else None

    @property
    def divergence(self) -> float | None:
        """The mean divergence of the predictions, in nats; ``None``: these are no class scores."""
        return max(self.nats / self.rows, 0.0) if self.rows else None


class Score(Protocol):
    """The task metric of both networks, batch by batch."""

    def add(
        self, inputs: Mapping[str, Array], pairs: Mapping[str, Pair], wanted: Array | None
    ) -> None:
        """Adds a batch.

        Args:
            inputs: What both networks saw.
            pairs: Every output before and after, the first output first.
            wanted: Labels or targets.

        Raises:
            DataError: If they do not fit the outputs.
        """

    def result(self) -> Metric:
        """The mean over all images."""


def score(metric: MetricName | MetricFunction) -> Score:
    """What keeps the score.

    Raises:
        UsageError: If there is no metric of that name.
    """
    if callable(metric):
        return _Own(metric)
    if metric not in ("accuracy", "psnr"):
        raise UsageError(
            f"there is no metric {metric!r}",
            remedy="choose accuracy or psnr, or give a function of outputs and labels or targets",
        )
    return _Accuracy() if metric == "accuracy" else _Psnr()


def _needed(wanted: Array | None, metric: str) -> Array:
    if wanted is None:
        raise DataError(
            f"the metric {metric!r} needs labels or targets",
            remedy="give pairs of inputs and labels (accuracy) or targets (psnr)",
        )
    return wanted


class _Accuracy:
    """How often the class with the largest score is the right one, in percent."""

    def __init__(self) -> None:
        self.right = [0, 0]
        self.count = 0

    def add(
        self, inputs: Mapping[str, Array], pairs: Mapping[str, Pair], wanted: Array | None
    ) -> None:
        pair = next(iter(pairs.values()))
        labels = _needed(wanted, "accuracy")
        shape = pair[0].shape
        count, classes = shape[0], pair[0].size // max(shape[0], 1)
        if len(shape) < 2 or classes != shape[1] or classes < 2:
            raise DataError(
                f"the output has shape {shape}, which is no score per class",
                remedy="ask for the metric 'psnr', or for none",
            )
        if labels.shape != (count,) or labels.dtype.kind not in "iu":
            raise DataError(
                f"the labels are {labels.dtype.name} of shape {labels.shape}, not whole numbers"
                f" of shape {(count,)}",
                remedy="give one class per image",
            )
        if labels.min() < 0 or labels.max() >= classes:
            wrong = labels[(labels < 0) | (labels >= classes)][0]
            raise DataError(
                f"label {wrong} is not one of the {classes} classes",
                remedy="count classes from 0",
            )
        for side, scores in enumerate(pair):
            chosen = scores.reshape(count, classes).argmax(axis=1)
            self.right[side] += int((chosen == labels).sum())
        self.count += count

    def result(self) -> Metric:
        before, after = (100.0 * right / self.count for right in self.right)
        return Metric(name="accuracy", unit="%", before=before, after=after, reference=None)


class _Psnr:
    """The mean over the images of the peak signal-to-noise ratio, in dB."""

    def __init__(self) -> None:
        self.values: tuple[list[float], list[float]] = ([], [])
        self.reference: list[float] = []

    def add(
        self, inputs: Mapping[str, Array], pairs: Mapping[str, Pair], wanted: Array | None
    ) -> None:
        pair = next(iter(pairs.values()))
        targets = _needed(wanted, "psnr")
        if targets.shape != pair[0].shape:
            raise DataError(
                f"the targets have shape {targets.shape}, the output {pair[0].shape}",
                remedy="give one target of the size of the output per image",
            )
        for values, images in zip(self.values, pair, strict=True):
            values += map(_psnr, images, targets)
        given = next(iter(inputs.values()))
        if given.shape == targets.shape:
            self.reference += map(_psnr, given, targets)

    def result(self) -> Metric:
        before, after = (float(np.mean(values)) for values in self.values)
        return Metric(
            name="psnr",
            unit="dB",
            before=before,
            after=after,
            reference=float(np.mean(self.reference)) if self.reference else None,
        )


class _Own:
    """A function of the caller's: its value for every batch, weighted by the images in it."""

    def __init__(self, function: MetricFunction) -> None:
        self.function = function
        self.sums = [0.0, 0.0]
        self.count = 0

    @property
    def name(self) -> str:
        given: Any = self.function
        given = getattr(given, "func", given)  # what a functools.partial calls
        found = getattr(self.function, "name", None) or getattr(given, "__name__", None)
        return str(found or type(given).__name__)

    def add(
        self, inputs: Mapping[str, Array], pairs: Mapping[str, Pair], wanted: Array | None
    ) -> None:
        count = len(next(iter(inputs.values())))
        for side in (0, 1):
            outputs: Any = {name: pair[side] for name, pair in pairs.items()}
            if len(outputs) == 1:
                outputs = next(iter(outputs.values()))
            self.sums[side] += count * self._value(self.function(outputs, wanted), count)
        self.count += count

    def _value(self, returned: object, count: int) -> float:
        try:
            values = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.array(np.nan)
        if values.shape not in ((), (1,), (count,)) or not np.isfinite(values).all():
            shown = repr(returned)
            raise DataError(
                f"the metric {self.name!r} returned"
                f" {shown if len(shown) <= 80 else f'{shown[:77]}...'}",
                remedy="return a finite number, or one per image",
            )
        return float(values.mean())

    def result(self) -> Metric:
        before, after = (total / self.count for total in self.sums)
        return Metric(
            name=self.name,
            unit=str(getattr(self.function, "unit", "")),
            before=before,
            after=after,
            reference=None,
            higher_is_better=bool(getattr(self.function, "higher_is_better", True)),
        )


def _psnr(image: Array, target: Array) -> float:
    error = np.square(np.clip(image.astype(np.float64), 0, 1) - target).mean()
    return float(-10 * np.log10(max(error, 1e-20)))
