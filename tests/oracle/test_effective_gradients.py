"""Measured effective fields against theory, which is exact for windows of equal weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convsmith.analysis import effective_field, sight
from convsmith.errors import DataError, SourceError
from convsmith.sources.torch import contributions, read_module


def uniform(module: nn.Module) -> nn.Module:
    """The module with all weights one and no bias."""
    for parameter in module.parameters():
        nn.init.ones_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)
    return module.double()


CHAINS = [
    [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 5, padding=2)],
    [nn.Conv2d(1, 2, 4, stride=2, padding=1), nn.Conv2d(2, 1, 3, padding=4, dilation=4)],
    [nn.Conv2d(1, 2, (3, 7), stride=(1, 2)), nn.AvgPool2d(2), nn.Conv2d(2, 1, (5, 2))],
]


@pytest.mark.parametrize("layers", CHAINS)
def test_the_measured_field_is_the_support_and_the_gaussian_of_the_graph(
    layers: list[nn.Module],
) -> None:
    module = uniform(nn.Sequential(*layers))
    graph = read_module(module, (1, 1, 64, 64))
    found = sight(graph)
    layer = graph.outputs[0].value
    heat = contributions(module, [np.ones((1, 1, 64, 64))])
    place = tuple(size // 2 for size in graph.shape(layer)[2:])
    assert ((heat > 0) == found.mask(layer, place)).all()
    measured = effective_field(heat)
    for axis, expected in enumerate(found.gaussian(layer)):
        line = found.field(layer).axes[axis]
        assert line is not None
        assert measured.sigma[axis] == pytest.approx(expected.sigma)
        assert measured.centre[axis] == pytest.approx(expected.centre + line.step * place[axis])


def test_a_layer_inside_and_a_position_of_choice() -> None:
    module = uniform(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Conv2d(2, 1, 3)))
    heat = contributions(module, [np.ones((2, 1, 8, 8))], layer="0", position=(1, 4))
    assert (np.argwhere(heat).min(axis=0).tolist(), heat.sum()) == ([1, 4], 18.0)


def test_only_what_strengthens_an_active_unit_is_positive() -> None:
    module = nn.Conv2d(1, 1, (1, 2), bias=False).double()
    with torch.no_grad():
        module.weight[:] = torch.tensor([[[[2.0, -1.0]]]])
    image = np.ones((1, 1, 1, 2))
    assert contributions(module, [image]).tolist() == [[2.0, 1.0]]
    assert contributions(module, [image], sign="positive").tolist() == [[2.0, 0.0]]
    assert contributions(module, [-image], sign="positive").tolist() == [[0.0, 0.0]]


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    contributions(module, [np.ones((2, 1, 8, 8), np.float32)])
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all((before[key] == value).all() for key, value in module.state_dict().items())


def test_wrong_calls_are_answered_with_errors() -> None:
    module = nn.Conv2d(1, 1, 3)
    image = np.ones((1, 1, 8, 8), np.float32)
    with pytest.raises(SourceError, match="the module has no layer 'head'"):
        contributions(module, [image], layer="head")
    with pytest.raises(DataError, match="there is no image"):
        contributions(module, [])
    with pytest.raises(DataError, match=r"there is no position \(9, 9\) in \(6, 6\)"):
        contributions(module, [image], position=(9, 9))


# Statistics -----------------------------------------------------------------------


def test_centred_squares_by_counting() -> None:
    heat = np.random.default_rng(0).uniform(0, 1, (9, 13))
    found = effective_field(heat, shares=(0.2, 0.5, 0.99))
    for square in (*found.squares, *found.logarithmic_squares):
        scores = heat if square in found.squares else np.log10(heat + 1)

        def held(radius: int, scores: np.ndarray = scores) -> float:
            rows = slice(max(4 - radius, 0), 4 + radius + 1)
            part = scores[rows, max(6 - radius, 0) : 6 + radius + 1]
            return float(part.sum() / scores.sum())

        radius = square.side // 2
        assert held(radius) >= square.share
        assert radius == 0 or held(radius - 1) < square.share


def test_two_sigma_of_a_gaussian_is_four_standard_deviations_wide() -> None:
    y, x = np.mgrid[-60:61, -60:61]
    found = effective_field(np.exp(-(x**2 + y**2) / (2 * 10.0**2)))
    # A circle of radius r sqrt(2 ln 22) has as many pixels as the square.
    assert found.two_sigma == pytest.approx(10 * np.sqrt(2 * np.pi * np.log(1 / 0.0455)), rel=0.01)
    assert found.sigma == pytest.approx((10, 10), rel=1e-3)


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        (np.zeros((3, 3)), "no pixel contributes anything"),
        (-np.ones((3, 3)), "must be finite and not negative"),
        (np.full((3, 3), np.nan), "must be finite and not negative"),
        (np.ones((0, 3)), "needs at least one pixel"),
    ],
)
def test_maps_without_meaning_are_refused(heat: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        effective_field(heat)
