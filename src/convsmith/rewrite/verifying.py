"""What was lost, measured: both networks side by side on the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from convsmith.analysis import Field, fields
from convsmith.errors import DataError, UsageError
from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import apply, node_arguments
from convsmith.results import Progress, Result

__all__ = ["Metric", "OutputError", "Verification", "verify"]

Array = npt.NDArray[Any]
MetricName = Literal["accuracy", "psnr"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """How far one output moved.

    Attributes:
        name: The output.
        relative: Root of the squared error over the variance of the original's output.
        largest: The largest absolute difference.
        agreement: For class scores ``(N, classes)``: how often the first choice is the same.
    """

    name: str
    relative: float
    largest: float
    agreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How well the task is done, before and after.

    ``accuracy`` in percent; ``psnr`` in dB, the mean over the images, for a peak of 1, outputs
    clipped to 0..1. ``reference`` is what the input itself scores, where that makes sense.
    """

    name: MetricName
    unit: str
    before: float
    after: float
    reference: float | None

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification(Result):
    """What a rewrite lost.

    Attributes:
        images: How many images were compared.
        data: Which data they come from.
        layers: Per replaced layer, the relative error of its output in the rewritten network.
        outputs: Per output.
        metric: The task metric, when labels or targets are there.
        fields: Per output: the receptive field before and after.
    """

    images: int
    data: str
    layers: Mapping[str, float]
    outputs: tuple[OutputError, ...]
    metric: Metric | None
    fields: Mapping[str, tuple[Field, Field]]

    @property
    def field_kept(self) -> bool:
        """Whether every output sees exactly what it saw before."""
        return all(before == after for before, after in self.fields.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns the verification as JSON-ready data."""
        metric = self.metric
        return {
            "schema": "convsmith.verification/1",
            "images": self.images,
            "data": self.data,
            "layers": dict(self.layers),
            "outputs": [
                {
                    "name": output.name,
                    "relative_error": output.relative,
                    "largest_difference": output.largest,
                    "agreement": output.agreement,
                }
                for output in self.outputs
            ],
            "metric": None
            if metric is None
            else {
                "name": metric.name,
                "unit": metric.unit,
                "before": metric.before,
                "after": metric.after,
                "reference": metric.reference,
            },
            "fields": {
                name: {"before": before.to_dict(), "after": after.to_dict()}
                for name, (before, after) in self.fields.items()
            },
            "field_kept": self.field_kept,
        }


Batch = tuple[Mapping[str, Array], Array | None]
"""Inputs by name, and labels ``(N,)`` or targets of the shape of the output."""


def verify(
    original: Graph,
    rewritten: Graph,
    batches: Iterable[Batch | Mapping[str, Array] | Array],
    *,
    metric: MetricName | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> Verification:
    """Runs both networks side by side and measures what was lost.

    Args:
        original: The network before.
        rewritten: The network after; layers are matched by name.
        batches: Arrays (for one input), mappings from input names to arrays, or pairs of such
            inputs and labels or targets.
        metric: ``accuracy`` against labels, or ``psnr`` against targets, of the first output.
        data: What the batches are, for the report.
        progress: Called after each batch.

    Raises:
        DataError: If there is no batch, or a metric was asked for without labels or targets.
    """
    replaced = sorted(_replaced(rewritten))
    layers = {name: _Difference() for name in replaced}
    outputs = {output.name: _Difference() for output in original.outputs}
    scores = _Scores(metric)
    images = 0
    for item in batches:
        inputs, wanted = _unpack(original, item)
        values = {name: [a, a] for name, a in inputs.items()}
        kept: dict[str, list[Array]] = {}
        wanted_values = {output.value for output in original.outputs}
        for value, pair in _side_by_side(original, rewritten, values):
            if value in layers:
                layers[value].add(*pair)
            if value in wanted_values:
                kept[value] = pair
        for output in original.outputs:
            pair = kept.get(output.value) or values[output.value]
            outputs[output.name].add(*pair)
        if metric is not None:
            first = next(iter(inputs.values()))
            scores.add(first, kept[original.outputs[0].value], wanted)
        images += len(next(iter(inputs.values())))
        if progress is not None:
            progress("verifying", images, 0)
    if not images:
        raise DataError("there is nothing to verify with", remedy="give at least one image")
    before, after = fields(original), fields(rewritten)
    return Verification(
        images=images,
        data=data,
        layers={name: difference.relative for name, difference in layers.items()},
        outputs=tuple(
            OutputError(
                name=name,
                relative=difference.relative,
                largest=difference.largest,
                agreement=difference.agreement,
            )
            for name, difference in outputs.items()
        ),
        metric=scores.result(),
        fields={o.name: (before[o.value], after[o.value]) for o in original.outputs},
    )


def _replaced(net: Graph) -> set[str]:
    """Layers that were replaced and whose output still has a value of their name."""
    names = {node.provenance.replaces for node in net.nodes if node.provenance.replaces}
    return {name for name in names if name in net.by_name}


def _unpack(
    net: Graph, item: Batch | Mapping[str, Array] | Array
) -> tuple[dict[str, Array], Array | None]:
    wanted: Array | None = None
    if isinstance(item, tuple):
        item, wanted = item
    if not isinstance(item, Mapping):
        item = {net.inputs[0].name: item}
    return {name: np.asarray(array) for name, array in item.items()}, wanted


def _side_by_side(
    original: Graph, rewritten: Graph, values: dict[str, list[Array]]
) -> Iterable[tuple[str, list[Array]]]:
    """Runs both networks in step and yields every value they share, as ``[before, after]``.

    What does not differ is computed once; what is not needed any more is forgotten.
    """
    extra: dict[str, list[Node]] = {}
    for node in rewritten.nodes:
        replaces = node.provenance.replaces
        extra.setdefault(replaces if replaces in original.by_name else node.name, []).append(node)
    pending = Counter(used for node in original.nodes for used in node.inputs)
    pending.update(output.value for output in original.outputs)
    for node in original.nodes:
        if node.name not in extra:
            raise UsageError(
                "the rewritten network has nothing that stands for it", place=node.name
            )
        left = {name: pair[0] for name, pair in values.items()}
        made = dict(zip(node.outputs, apply(node.op, *node_arguments(original, node, left)),
                        strict=True))  # fmt: skip
        same = extra[node.name] == [node] and all(
            values[u][0] is values[u][1] for u in node.inputs if u in values
        )
        right = {name: pair[1] for name, pair in values.items()}
        if not same:
            for other in extra[node.name]:
                results = apply(other.op, *node_arguments(rewritten, other, right))
                right.update(zip(other.outputs, results, strict=True))
        for name, array in made.items():
            values[name] = [array, array if same else right[name]]
            yield name, values[name]
        for used in node.inputs:
            pending[used] -= 1
            if not pending[used]:
                values.pop(used, None)


class _Difference:
    """Sums over pairs of values, before and after."""

    def __init__(self) -> None:
        self.error = self.total = self.square = 0.0
        self.count = 0
        self.largest = 0.0
        self.same = self.rows = 0

    def add(self, before: Array, after: Array) -> None:
        before = before.astype(np.float64)
        apart = after - before
        self.error += float(np.square(apart).sum())
        self.total += float(before.sum())
        self.square += float(np.square(before).sum())
        self.count += before.size
        self.largest = max(self.largest, float(np.abs(apart).max(initial=0)))
        if before.ndim == 2 and before.shape[1] > 1:
            self.same += int((before.argmax(axis=1) == after.argmax(axis=1)).sum())
            self.rows += len(before)

    @property
    def relative(self) -> float:
        variance = self.square - self.total**2 / max(self.count, 1)
        if self.error == 0:
            return 0.0
        return float(np.sqrt(self.error / max(variance, 1e-30)))

    @property
    def agreement(self) -> float | None:
        return self.same / self.rows if self.rows else None


class _Scores:
    """The task metric of both networks, image by image."""

    def __init__(self, metric: MetricName | None) -> None:
        self.metric = metric
        self.before: list[float] = []
        self.after: list[float] = []
        self.reference: list[float] = []

    def add(self, inputs: Array, pair: list[Array], wanted: Array | None) -> None:
        if wanted is None:
            raise DataError(
                f"the metric {self.metric!r} needs labels or targets",
                remedy="give a folder with one sub-folder per class, or with input/ and target/",
            )
        if self.metric == "accuracy":
            for scores, kept in zip(pair, (self.before, self.after), strict=True):
                kept += (100.0 * (scores.argmax(axis=1) == wanted)).tolist()
            return
        for images, kept in (
            (pair[0], self.before),
            (pair[1], self.after),
            (inputs, self.reference),
        ):
            if images.shape == wanted.shape:
                kept += [_psnr(one, two) for one, two in zip(images, wanted, strict=True)]

    def result(self) -> Metric | None:
        if self.metric is None:
            return None
        return Metric(
            name=self.metric,
            unit="%" if self.metric == "accuracy" else "dB",
            before=float(np.mean(self.before)),
            after=float(np.mean(self.after)),
            reference=float(np.mean(self.reference)) if self.reference else None,
        )


def _psnr(image: Array, target: Array) -> float:
    error = np.square(np.clip(image.astype(np.float64), 0, 1) - target).mean()
    return float(-10 * np.log10(max(error, 1e-20)))
