"""What was lost, measured: both networks side by side on the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from convsmith.analysis import Field, fields
from convsmith.errors import ConvsmithError, DataError, UsageError
from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import apply, node_arguments, steps
from convsmith.results import Progress, Result
from convsmith.rewrite.batches import PIECE_BYTES, check_batch, images_in, pieces

__all__ = ["Metric", "OutputError", "Verification", "verify"]

Array = npt.NDArray[Any]
MetricName = Literal["accuracy", "psnr"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """How far one output moved.

    Attributes:
        name: The output.
        relative: Root of the squared error over the variance of the original's output (over its
            square, if it never changes).
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


Inputs = Array | Mapping[str, Array]
"""An array, for a network with one input, or arrays by input name."""

Batch = Inputs | tuple[Inputs, Array | None]
"""Inputs, or inputs with labels ``(N,)`` or targets of the shape of the output."""

_Values = tuple[Array, Array]
"""A value before and after."""


def verify(
    original: Graph,
    rewritten: Graph,
    batches: Iterable[Batch],
    *,
    metric: MetricName | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> Verification:
    """Runs both networks side by side and measures what was lost.

    Args:
        original: The network before.
        rewritten: The network after; layers are matched by name. One that is built differently,
            such as a fine-tuned module that was read again, is compared by its outputs alone.
        batches: Arrays (for one input), mappings from input names to arrays, or pairs of such
            inputs and labels or targets.
        metric: ``accuracy`` against labels, or ``psnr`` against targets, of the first output.
        data: What the batches are, for the report.
        progress: Called after each batch.

    Raises:
        DataError: If there is no batch, or one does not fit the network, or a metric was asked
            for without labels or targets, or with such that do not fit.
        UsageError: If the two networks have other inputs or outputs.

    >>> from convsmith.graph import parse
    >>> net = parse("1@2 > relu")
    >>> verify(net, net, [np.ones((3, 1, 2, 2))]).outputs[0].relative
    0.0
    """
    ends = _ends(original, rewritten)
    side_by_side = _in_step(original, rewritten)
    replaced = {node.provenance.replaces for node in rewritten.nodes}
    layers = {
        node.name: _Difference()
        for node in original.nodes
        if side_by_side is not None and node.name in replaced
    }
    outputs = {output.name: _Difference() for output in original.outputs}
    scores = _Scores(metric)
    images = 0
    for index, item in enumerate(batches):
        place = f"batch {index + 1}"
        inputs, wanted = _unpack(original, item, place)
        if metric is not None and wanted is None:
            raise DataError(
                f"the metric {metric!r} needs labels or targets",
                place=place,
                remedy="give pairs of inputs and labels (accuracy) or targets (psnr)",
            )
        for first, piece in pieces(original, inputs, room=PIECE_BYTES / 2):
            kept: dict[str, _Values] = {name: (array, array) for name, array in piece.items()}
            kept |= {name: (array, array) for name, array in _constants(original).items()}
            try:
                made = (
                    _apart(original, rewritten, ends, piece)
                    if side_by_side is None
                    else _together(original, rewritten, side_by_side, piece)
                )
                for value, pair in made:
                    if value in layers:
                        layers[value].add(*pair)
                    if value in ends:
                        kept[value] = pair
                for output in original.outputs:
                    outputs[output.name].add(*kept[output.value])
            except ConvsmithError as error:
                raise error.at(place) from None
            if wanted is not None and metric is not None:
                count = images_in(piece)
                part = wanted[first : first + count] if count < images_in(inputs) else wanted
                image = next(iter(piece.values()))
                scores.add(image, kept[original.outputs[0].value], part, place)
        images += images_in(inputs)
        if progress is not None:
            progress("verifying", images, 0)
    if not images:
        raise DataError("there is nothing to verify with", remedy="give at least one image")
    for name, difference in outputs.items():
        if not np.isfinite(difference.error):
            raise DataError(
                "this output holds NaN or infinity",
                place=name,
                remedy="check the weights, and how the images are normalized",
            )
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
        fields={o.name: (before[o.value], after[ends[o.value]]) for o in original.outputs},
    )


def _ends(original: Graph, rewritten: Graph) -> dict[str, str]:
    """The values of the rewritten network that correspond to outputs of the original."""
    named = {output.name: output.value for output in rewritten.outputs}
    if set(named) != {output.name for output in original.outputs}:
        raise UsageError(
            f"the outputs are {', '.join(o.name for o in original.outputs)} before and"
            f" {', '.join(named)} after",
            remedy="compare a network with its rewritten form",
        )
    if {value.name for value in original.inputs} != {value.name for value in rewritten.inputs}:
        raise UsageError(
            f"the inputs are {', '.join(v.name for v in original.inputs)} before and"
            f" {', '.join(v.name for v in rewritten.inputs)} after",
            remedy="compare a network with its rewritten form",
        )
    return {output.value: named[output.name] for output in original.outputs}


def _unpack(net: Graph, item: object, place: str) -> tuple[dict[str, Array], Array | None]:
    wanted: object = None
    if isinstance(item, tuple):
        if len(item) != 2:
            raise DataError(
                f"it is a tuple of {len(item)}",
                place=place,
                remedy="give inputs, or a pair of inputs and labels or targets",
            )
        item, wanted = item
    return check_batch(net, item, place), None if wanted is None else np.asarray(wanted)


def _constants(net: Graph) -> dict[str, Array]:
    """Outputs that no image has any influence on."""
    return {
        output.value: np.asarray(net.constants[output.value].data)
        for output in net.outputs
        if output.value in net.constants
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stand:
    """What stands for a node of the original; ``same`` if that is the node itself."""

    nodes: tuple[Node, ...]
    same: bool


def _in_step(original: Graph, rewritten: Graph) -> Mapping[str, _Stand] | None:
    """What stands for every node of the original; ``None`` if the two are built differently."""
    found: dict[str, list[Node]] = {node.name: [] for node in original.nodes}
    for node in rewritten.nodes:
        replaces = node.provenance.replaces
        name = replaces if replaces in found else node.name
        if name not in found:
            return None
        found[name].append(node)
    if any(not nodes or nodes[-1].name != name for name, nodes in found.items()):
        return None
    if any(o.value != r.value for o, r in zip(original.outputs, rewritten.outputs, strict=True)):
        return None
    return {
        node.name: _Stand(
            nodes=tuple(found[node.name]),
            same=found[node.name] == [node] and _same_constants(original, rewritten, node),
        )
        for node in original.nodes
    }


def _same_constants(original: Graph, rewritten: Graph, node: Node) -> bool:
    for name in (*node.parameters, *node.inputs):
        if name in original.constants:
            one, two = (graph.constants[name].data for graph in (original, rewritten))
            if one is not two and (one is None or two is None or not np.array_equal(one, two)):
                return False
    return True


def _together(
    original: Graph, rewritten: Graph, stands: Mapping[str, _Stand], inputs: Mapping[str, Array]
) -> Iterator[tuple[str, _Values]]:
    """Runs both networks in step and yields every value they share, before and after.

    What does not differ is computed once; what is not needed any more is forgotten.
    """
    left, right = dict(inputs), dict(inputs)
    pending = Counter(used for node in original.nodes for used in node.inputs)
    for node in original.nodes:
        stand = stands[node.name]
        made = _run(original, node, left)
        same = stand.same and all(left.get(u) is right.get(u) for u in node.inputs)
        if same:
            right.update(made)
        else:
            for other in stand.nodes:
                right.update(_run(rewritten, other, right))
            for other in stand.nodes[:-1]:
                del right[other.name]
        left.update(made)
        for name in made:
            yield name, (left[name], right[name])
        for used in node.inputs:
            pending[used] -= 1
            if not pending[used]:
                left.pop(used, None)
                right.pop(used, None)


def _run(net: Graph, node: Node, values: Mapping[str, Array]) -> dict[str, Array]:
    try:
        results = apply(node.op, *node_arguments(net, node, values))
    except ConvsmithError as error:
        raise error.at(node.name) from None
    return dict(zip(node.outputs, results, strict=True))


def _apart(
    original: Graph, rewritten: Graph, ends: Mapping[str, str], inputs: Mapping[str, Array]
) -> Iterator[tuple[str, _Values]]:
    """Runs one network after the other and yields their outputs, before and after."""
    kept: list[dict[str, Array]] = []
    for graph, wanted in ((original, set(ends)), (rewritten, set(ends.values()))):
        kept.append({})
        for _, made in steps(graph, inputs):
            kept[-1].update((name, array) for name, array in made.items() if name in wanted)
    for before, after in ends.items():
        if before in kept[0] and after in kept[1]:
            yield before, (kept[0][before], kept[1][after])


class _Difference:
    """Sums over pairs of values, before and after."""

    def __init__(self) -> None:
        self.error = self.total = self.square = 0.0
        self.count = 0
        self.largest = 0.0
        self.same = self.rows = 0

    def add(self, before: Array, after: Array) -> None:
        if before.shape != after.shape:
            raise DataError(
                f"a value has shape {before.shape} before and {after.shape} after",
                remedy="compare a network with its rewritten form",
            )
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
        if self.error == 0:
            return 0.0
        unit = self.square - self.total**2 / self.count
        if unit <= 1e-12 * self.square:  # it never changes: its size is all there is
            unit = self.square or float(self.count)
        return float(np.sqrt(self.error / unit))

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

    def add(self, inputs: Array, pair: _Values, wanted: Array, place: str) -> None:
        if self.metric == "accuracy":
            self._add_labels(pair, wanted, place)
        else:
            self._add_targets(inputs, pair, wanted, place)

    def _add_labels(self, pair: _Values, labels: Array, place: str) -> None:
        one, two = (scores.reshape(len(scores), -1) for scores in pair)
        count, classes = one.shape
        if pair[0].size != pair[0].shape[0] * pair[0].shape[1] or classes < 2:
            raise DataError(
                f"the output has shape {pair[0].shape}, which is no score per class",
                place=place,
                remedy="ask for the metric 'psnr', or for none",
            )
        if labels.shape != (count,) or labels.dtype.kind not in "iu":
            raise DataError(
                f"the labels are {labels.dtype.name} of shape {labels.shape}, not whole numbers"
                f" of shape {(count,)}",
                place=place,
                remedy="give one class per image",
            )
        if labels.min() < 0 or labels.max() >= classes:
            wrong = labels[(labels < 0) | (labels >= classes)][0]
            raise DataError(
                f"label {wrong} is not one of the {classes} classes",
                place=place,
                remedy="count classes from 0",
            )
        self.before += (100.0 * (one.argmax(axis=1) == labels)).tolist()
        self.after += (100.0 * (two.argmax(axis=1) == labels)).tolist()

    def _add_targets(self, inputs: Array, pair: _Values, targets: Array, place: str) -> None:
        if targets.shape != pair[0].shape:
            raise DataError(
                f"the targets have shape {targets.shape}, the output {pair[0].shape}",
                place=place,
                remedy="give one target of the size of the output per image",
            )
        self.before += map(_psnr, pair[0], targets)
        self.after += map(_psnr, pair[1], targets)
        if inputs.shape == targets.shape:
            self.reference += map(_psnr, inputs, targets)

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
