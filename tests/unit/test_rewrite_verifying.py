"""What was lost, against the same numbers computed directly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_weights import random_network, with_data

import convsmith as cs
from convsmith.errors import ConvsmithError, DataError, UsageError
from convsmith.graph import Graph, Output, parse
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import verifying
from convsmith.rewrite.verifying import verify

Array = npt.NDArray[Any]

CLASSES = random_network(
    "3@8 > conv 8 3 p1 > bn > relu > conv 8 3 p1 > relu > gap > flatten > fc 5"
)
PICTURES = random_network("1@9 > ( conv 4 3 p1 > relu > conv 1 3 p1 + - )")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(9, 3, 8, 8)).astype(np.float32)
LABELS = RANDOM.integers(0, 5, size=9)
Y = RANDOM.uniform(size=(4, 1, 9, 9)).astype(np.float32)
TARGETS = np.clip(Y + RANDOM.normal(size=Y.shape) / 20, 0, 1)


def smaller(net: Graph, rank: int = 3) -> Graph:
    """A coarse rewrite of all layers."""
    x = X if net is CLASSES else Y
    calibration = cs.calibrate(net, [x])
    plan = cs.rewrite(net, macs=1.0, calibration=calibration).plan
    choices = tuple(
        replace(
            choice,
            form="spatial",
            variant="vertical-first",
            widths=(rank if net is CLASSES else 1,),
        )
        for choice in plan.choices
        if choice.layer in (["conv1", "conv2"] if net is CLASSES else ["conv1"])
    )
    return cs.rewrite(net, plan=replace(plan, choices=choices), calibration=calibration).net


SMALL, SOFT = smaller(CLASSES), smaller(PICTURES)


def run(net: Graph, x: Array, value: str = "") -> Array:
    return evaluate(net, {net.inputs[0].name: x})[value or net.outputs[0].value].astype(np.float64)


def relative(one: Array, two: Array) -> float:
    return float(np.sqrt(np.square(two - one).sum() / np.square(one - one.mean()).sum()))


def psnr(image: Array, target: Array) -> float:
    return float(-10 * np.log10(np.square(np.clip(image, 0, 1) - target).mean()))


@pytest.mark.parametrize("sizes", [[9], [4, 5], [1] * 9])
def test_errors_and_agreement_are_those_of_all_images(sizes: list[int]) -> None:
    found = verify(CLASSES, SMALL, np.split(X, np.cumsum(sizes)[:-1]), data="noise")
    before, after = run(CLASSES, X), run(SMALL, X)
    (output,) = found.outputs
    assert (found.images, found.data, output.name) == (9, "noise", CLASSES.outputs[0].name)
    assert output.relative == pytest.approx(relative(before, after), rel=1e-5)
    assert output.largest == pytest.approx(np.abs(after - before).max(), rel=1e-5)
    assert output.agreement == np.mean(before.argmax(axis=1) == after.argmax(axis=1))
    assert list(found.layers) == ["conv1", "conv2"]
    for name, error in found.layers.items():
        wanted = relative(run(CLASSES, X, name), run(SMALL, X, name))
        assert error == pytest.approx(wanted, rel=1e-5)
    assert found.metric is None


def test_accuracy_is_counted() -> None:
    found = verify(CLASSES, SMALL, [(X[:4], LABELS[:4]), (X[4:], LABELS[4:])], metric="accuracy")
    assert found.metric is not None
    assert (found.metric.name, found.metric.unit, found.metric.reference) == ("accuracy", "%", None)
    for net, value in ((CLASSES, found.metric.before), (SMALL, found.metric.after)):
        assert value == pytest.approx(100 * np.mean(run(net, X).argmax(axis=1) == LABELS))
    assert found.metric.change == found.metric.after - found.metric.before


def test_psnr_is_the_mean_over_images() -> None:
    found = verify(PICTURES, SOFT, [(Y, TARGETS)], metric="psnr")
    assert found.metric is not None
    pairs = (
        (run(PICTURES, Y), found.metric.before),
        (run(SOFT, Y), found.metric.after),
        (Y, found.metric.reference),
    )
    for images, value in pairs:
        wanted = np.mean([psnr(one, two) for one, two in zip(images, TARGETS, strict=True)])
        assert value == pytest.approx(float(wanted), rel=1e-6)
    assert found.metric.unit == "dB"


@pytest.mark.parametrize("net", [CLASSES, PICTURES], ids=["classes", "pictures"])
def test_a_network_equals_itself(net: Graph) -> None:
    x = X if net is CLASSES else Y
    for other in (net, replace(net, constants=dict(net.constants))):
        (output,) = verify(net, other, [x]).outputs
        assert (output.relative, output.largest) == (0, 0)
        assert output.agreement == (1 if net is CLASSES else None)


def test_other_weights_in_the_same_layers_are_noticed() -> None:
    tuned = with_data(CLASSES, conv2__bias=np.ones(8, dtype=np.float32))
    (output,) = verify(CLASSES, tuned, [X]).outputs
    assert output.relative == pytest.approx(relative(run(CLASSES, X), run(tuned, X)), rel=1e-5)


def test_a_network_built_otherwise_is_compared_by_its_outputs() -> None:
    nodes = tuple(
        replace(node, provenance=replace(node.provenance, replaces="")) for node in SMALL.nodes
    )
    read_again = replace(SMALL, nodes=nodes)
    found = verify(CLASSES, read_again, [X])
    assert found.layers == {}
    assert found.outputs == verify(CLASSES, SMALL, [X]).outputs


def test_large_batches_are_cut_without_changing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = verify(CLASSES, SMALL, [(X, LABELS)], metric="accuracy")
    monkeypatch.setattr(verifying, "PIECE_BYTES", 1)
    cut = verify(CLASSES, SMALL, [(X, LABELS)], metric="accuracy")
    assert cut.metric == whole.metric
    assert cut.images == whole.images
    assert cut.outputs[0].relative == pytest.approx(whole.outputs[0].relative, rel=1e-5)


def test_the_receptive_field_is_compared() -> None:
    assert verify(CLASSES, SMALL, [X]).field_kept
    assert verify(PICTURES, SOFT, [Y]).field_kept
    wider = random_network("1@9 > ( conv 4 3 p1 > relu > conv 1 5 p2 + - )")
    found = verify(PICTURES, wider, [Y])
    assert not found.field_kept
    assert found.to_dict()["field_kept"] is False


def test_an_output_that_never_changes_is_measured_by_its_size() -> None:
    net = random_network("1@4 > conv 1 3")
    still, moved = (
        with_data(net, conv1__weight=np.zeros((1, 1, 3, 3)), conv1__bias=np.array([value]))
        for value in (4.0, 5.0)
    )
    (output,) = verify(still, moved, [np.ones((2, 1, 4, 4))]).outputs
    assert output.relative == pytest.approx(0.25)
    (output,) = verify(
        with_data(still, conv1__bias=np.zeros(1)), moved, [np.ones((2, 1, 4, 4))]
    ).outputs
    assert output.relative == pytest.approx(5)


def test_inputs_and_constants_may_be_outputs() -> None:
    net = replace(
        PICTURES,
        outputs=(
            *PICTURES.outputs,
            Output(name="x", value="x"),
            Output(name="w", value="conv1.bias"),
        ),
    )
    found = verify(net, net, [Y])
    assert [output.relative for output in found.outputs] == [0, 0, 0]


def test_the_result_is_json() -> None:
    content = json.loads(verify(PICTURES, SOFT, [(Y, TARGETS)], metric="psnr").to_json())
    assert content["schema"] == "convsmith.verification/1"
    assert list(content) == [
        "schema", "images", "data", "layers", "outputs", "metric", "fields", "field_kept",
        "memory", "milliseconds", "speedups",
    ]  # fmt: skip
    assert list(content["metric"]) == [
        "name", "unit", "before", "after", "reference", "higher_is_better",
    ]  # fmt: skip
    assert list(content["outputs"][0]) == [
        "name", "relative_error", "largest_difference", "agreement", "divergence",
    ]  # fmt: skip


BAD: dict[str, tuple[Callable[[], object], type[ConvsmithError], str]] = {
    "no images": (
        lambda: verify(CLASSES, SMALL, []),
        DataError,
        "there is nothing to verify with; give at least one image.",
    ),
    "no labels": (
        lambda: verify(CLASSES, SMALL, [X], metric="accuracy"),
        DataError,
        (
            "batch 1: the metric 'accuracy' needs labels or targets;"
            " give pairs of inputs and labels (accuracy) or targets (psnr)."
        ),
    ),
    "too few labels": (
        lambda: verify(CLASSES, SMALL, [(X, LABELS), (X, LABELS[:4])], metric="accuracy"),
        DataError,
        (
            "batch 2: the labels are int64 of shape (4,), not whole numbers of shape (9,);"
            " give one class per image."
        ),
    ),
    "labels in a column": (
        lambda: verify(CLASSES, SMALL, [(X, LABELS[:, None])], metric="accuracy"),
        DataError,
        (
            "batch 1: the labels are int64 of shape (9, 1), not whole numbers of shape (9,);"
            " give one class per image."
        ),
    ),
    "labels that are no classes": (
        lambda: verify(CLASSES, SMALL, [(X, LABELS + 1)], metric="accuracy"),
        DataError,
        "batch 1: label 5 is not one of the 5 classes; count classes from 0.",
    ),
    "labels in words": (
        lambda: verify(CLASSES, SMALL, [(X, LABELS.astype(str))], metric="accuracy"),
        DataError,
        (
            "batch 1: the labels are str672 of shape (9,), not whole numbers of shape (9,);"
            " give one class per image."
        ),
    ),
    "accuracy of pictures": (
        lambda: verify(PICTURES, SOFT, [(Y, LABELS[:4])], metric="accuracy"),
        DataError,
        (
            "batch 1: the output has shape (4, 1, 9, 9), which is no score per class;"
            " ask for the metric 'psnr', or for none."
        ),
    ),
    "targets of another size": (
        lambda: verify(PICTURES, SOFT, [(Y, TARGETS[:, :, 1:])], metric="psnr"),
        DataError,
        (
            "batch 1: the targets have shape (4, 1, 8, 9), the output (4, 1, 9, 9);"
            " give one target of the size of the output per image."
        ),
    ),
    "three things": (
        lambda: verify(CLASSES, SMALL, [(X, LABELS, LABELS)]),
        DataError,
        "batch 1: it is a tuple of 3; give inputs, or a pair of inputs and labels or targets.",
    ),
    "NaN images": (
        lambda: verify(CLASSES, SMALL, [X * np.float32("nan")]),
        DataError,
        "batch 1: input 'x' holds NaN or infinity; leave it out.",
    ),
    "NaN weights": (
        lambda: verify(CLASSES, with_data(CLASSES, conv1__bias=np.full(8, np.nan)), [X]),
        DataError,
        (
            "y: this output holds NaN or infinity;"
            " check the weights, and how the images are normalized."
        ),
    ),
    "other outputs": (
        lambda: verify(CLASSES, replace(SMALL, outputs=(Output(name="z", value="fc1"),)), [X]),
        UsageError,
        "the outputs are y before and z after; compare a network with its rewritten form.",
    ),
    "other inputs": (
        lambda: verify(PICTURES, parse("a : 1@9x9\nrelu1 = relu (a)\nreturn y = relu1"), [Y]),
        UsageError,
        "the inputs are x before and a after; compare a network with its rewritten form.",
    ),
    "another size": (
        lambda: verify(PICTURES, random_network("1@9 > ( conv 4 3 p1 + conv 4 3 p1 )"), [Y]),
        DataError,
        (
            "batch 1: a value has shape (4, 1, 9, 9) before and (4, 4, 9, 9) after;"
            " compare a network with its rewritten form."
        ),
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_data_is_named(kind: str) -> None:
    call, error, text = BAD[kind]
    with pytest.raises(error) as raised:
        call()
    text = text.replace("str672", LABELS.astype(str).dtype.name)
    assert str(raised.value) == text.replace("int64", LABELS.dtype.name)
