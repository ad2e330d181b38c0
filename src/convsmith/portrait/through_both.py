"""Test images through a network and through what a rewrite made of it, for people who look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Graph, Shape
from convsmith.graph.evaluate import evaluate
from convsmith.portrait.picture import Picture as Photograph
from convsmith.portrait.picture import picture_of
from convsmith.sources.data import Dataset

__all__ = ["Picture", "Prediction", "photograph", "pictures", "predictions"]

Array = npt.NDArray[Any]

PICTURES = 3
"""How many test images a report shows."""

PREDICTED = 12
"""Of how many test images those whose predictions moved most are shown."""

CLASSES = 5
"""How many classes a prediction shows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One test image through both networks, every array ``(C, H, W)`` between 0 and 1."""

    name: str
    given: Array
    wanted: Array
    before: Array
    after: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What both networks take one test image for.

    Attributes:
        name: The name of the image.
        picture: The image; ``None`` if it is no picture.
        wanted: The class that it belongs to.
        classes: The classes that the original finds likeliest, and those of the rewritten one.
        before: The probability of each by the original network.
        after: The same by the rewritten one.
    """

    name: str
    picture: Photograph | None
    wanted: str
    classes: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


def pictures(net: Graph, rewritten: Graph, tests: Dataset | None) -> tuple[Picture, ...]:
    """The first test images through both networks, when there are targets to compare with."""
    if tests is None or tests.kind != "targets":
        return ()
    found: list[Picture] = []
    value = net.outputs[0].value
    for batch in tests:
        assert batch.targets is not None
        for image, target, name in zip(batch.images, batch.targets, batch.names, strict=True):
            inputs = {net.inputs[0].name: image[None]}
            before, after = (evaluate(graph, inputs)[value][0] for graph in (net, rewritten))
            if before.shape != target.shape:
                return ()
            clipped = (np.clip(array, 0, 1) for array in (image, target, before, after))
            given, wanted, one, two = clipped
            found.append(Picture(name=name, given=given, wanted=wanted, before=one, after=two))
            if len(found) == PICTURES:
                return tuple(found)
    return tuple(found)


def photograph(
    image: Array, name: str, mean: Sequence[float], std: Sequence[float], room: Shape = ()
) -> Photograph | None:
    """An image as it was before it was normalized; of one with more room than that its middle."""
    column = (-1, *[1] * (image.ndim - 1))
    scale = np.reshape(std, column) if std else 1.0
    offset = np.reshape(mean, column) if mean else 0.0
    return picture_of(image * scale + offset, name.rpartition("/")[2], room)


def predictions(
    net: Graph, rewritten: Graph, seen: Dataset, mean: Sequence[float], std: Sequence[float]
) -> tuple[Prediction, ...]:
    """Of the first labelled images those whose predictions moved most."""
    value = net.outputs[0].value
    shape = net.shapes[value]
    if seen.kind != "labels" or shape is None or len(shape) != 2 or shape[1] < 2:
        return ()
    found: list[tuple[float, Prediction]] = []
    for batch in seen:
        assert batch.labels is not None
        for image, label, name in zip(batch.images, batch.labels, batch.names, strict=True):
            inputs = {net.inputs[0].name: image[None]}
            before, after = (
                _probabilities(evaluate(graph, inputs)[graph.outputs[0].value][0])
                for graph in (net, rewritten)
            )
            likeliest = np.argsort(-np.maximum(before, after), kind="stable")[:CLASSES]
            prediction = Prediction(
                name=name,
                picture=photograph(image, name, mean, std),
                wanted=_class(seen, int(label)),
                classes=tuple(_class(seen, int(place)) for place in likeliest),
                before=tuple(float(before[place]) for place in likeliest),
                after=tuple(float(after[place]) for place in likeliest),
            )
            found.append((float(np.abs(before - after).sum()), prediction))
            if len(found) == PREDICTED:
                break
        if len(found) == PREDICTED:
            break
    found.sort(key=lambda pair: -pair[0])
    return tuple(prediction for _, prediction in found[:PICTURES])


def _probabilities(values: Array) -> Array:
    """A distribution as it is; of other outputs the softmax."""
    values = values.astype(np.float64)
    if values.min() >= 0 and abs(values.sum() - 1) < 1e-3:
        return values
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def _class(seen: Dataset, label: int) -> str:
    return seen.class_names[label] if label < len(seen.class_names) else f"class {label}"
