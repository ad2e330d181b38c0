"""Test images through both networks: pictures, predictions, and one to see fields on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from tests.random_weights import data_of, random_network, with_data

from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.portrait import picture_of
from convsmith.portrait.through_both import (
    CLASSES,
    PICTURES,
    PREDICTED,
    photograph,
    pictures,
    predictions,
)
from convsmith.sources.data import Dataset, read_data

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
NOTATION = "3@8 > conv 4 3 p1 > relu > gap > flatten > fc 7"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten pictures."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog <b>"):
        (tmp_path / name).mkdir()
        for place in range(10):
            pixels = random.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{place}.png")
    return tmp_path


def moved(net: Graph) -> Graph:
    """The same network with one weight that is a little different."""
    name = next(name for name in net.constants if name.endswith("weight"))
    return with_data(net, **{name: data_of(net, name) + np.float32(0.1)})


def images(folder: Path) -> Dataset:
    return read_data(str(folder), shape=(3, 8, 8), mean=MEAN, std=STD)


def test_a_photograph_is_what_was_read(folder: Path) -> None:
    (first, *_) = images(folder)
    made = photograph(first.images[0], first.names[0], MEAN, STD)
    assert made is not None
    assert (made.pixels == np.asarray(Image.open(folder / first.names[0]))).all()
    assert made.name == Path(first.names[0]).name
    assert not made.cropped


def test_of_a_photograph_with_more_room_the_middle_is_shown() -> None:
    values = np.arange(36.0).reshape(1, 6, 6) / 35
    made = picture_of(values, "a", (2, 4))
    assert made is not None
    assert made.cropped
    assert (made.pixels == np.rint(255 * values[0, 2:4, 1:5])).all()
    same = picture_of(values, "a", (8, 6))
    assert same is not None
    assert same.pixels.shape == (6, 6)
    assert not same.cropped


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 4), (1, 0, 4), (3, 4, 4, 4)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    assert picture_of(np.zeros(shape), "a") is None


def test_numbers_that_are_none_are_black() -> None:
    made = picture_of(np.array([[[np.nan, 2.0, -1.0]]]), "a")
    assert made is not None
    assert made.pixels.tolist() == [[0, 255, 0]]


def test_predictions_are_those_that_moved_most(folder: Path) -> None:
    net = random_network(NOTATION)
    other = moved(net)
    found = predictions(net, other, images(folder), MEAN, STD)
    assert len(found) == PICTURES
    expected = []
    for batch in images(folder):
        assert batch.labels is not None
        for image, label, name in zip(batch.images, batch.labels, batch.names, strict=True):
            both = [
                softmax(
                    evaluate(graph, {"x": image[None]})[graph.outputs[0].value][0].astype(float)
                )
                for graph in (net, other)
            ]
            expected.append((np.abs(both[0] - both[1]).sum(), name, label, *both))
    expected = sorted(expected[:PREDICTED], key=lambda each: -each[0])[:PICTURES]
    for prediction, (_, name, label, before, after) in zip(found, expected, strict=True):
        assert prediction.name == name
        assert prediction.wanted == ("cat", "dog <b>")[label]
        likeliest = np.argsort(-np.maximum(before, after))[:CLASSES]
        np.testing.assert_allclose(prediction.before, before[likeliest], rtol=1e-6)
        np.testing.assert_allclose(prediction.after, after[likeliest], rtol=1e-6)
        names = [("cat", "dog <b>")[i] if i < 2 else f"class {i}" for i in likeliest]
        assert list(prediction.classes) == names
        assert prediction.picture is not None


def test_a_distribution_stays_as_it_is(folder: Path) -> None:
    net = random_network(f"{NOTATION} > softmax")
    found = predictions(net, net, images(folder), MEAN, STD)
    for prediction in found:
        assert prediction.before == prediction.after
        assert 0 < sum(prediction.before) <= 1 + 1e-6
        image = next(
            image
            for batch in images(folder)
            for image, name in zip(batch.images, batch.names, strict=True)
            if name == prediction.name
        )
        made = evaluate(net, {"x": image[None]})[net.outputs[0].value][0]
        assert prediction.before[0] == pytest.approx(float(made.max()))


def test_without_labels_nothing_is_predicted(folder: Path) -> None:
    plain = read_data(str(folder / "cat"), shape=(3, 8, 8))
    net = random_network(NOTATION)
    assert predictions(net, net, plain, (), ()) == ()
    maps = random_network("3@8 > conv 4 3 p1")
    assert predictions(maps, maps, images(folder), MEAN, STD) == ()
    assert pictures(net, net, None) == ()
    assert pictures(net, net, images(folder)) == ()
