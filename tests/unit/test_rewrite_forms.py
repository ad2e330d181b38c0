"""Forms: what they refuse and why, and what their fits do on easy and on hard data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_weights import random_network

from convsmith.errors import UsageError
from convsmith.graph import Graph, parse
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Conv, Linear
from convsmith.parallel import one_blas_thread
from convsmith.rewrite import calibrate
from convsmith.rewrite.candidates import replaceable, tabulate
from convsmith.rewrite.fitting import Problem
from convsmith.rewrite.forms import FORMS, Form, named
from convsmith.rewrite.moments import vectors
from convsmith.rewrite.site import Site, flushed

Array = npt.NDArray[Any]

ALL = list(FORMS.values())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a rewrite: the matrices are small."""
    with one_blas_thread():
        yield


def site(notation: str) -> Site:
    """The last layer of a network."""
    net = random_network(notation)
    node = next(node for node in reversed(net.nodes) if isinstance(node.op, Conv | Linear))
    return Site.of(net, node)


def problem_of(
    seed: int, outs: int = 6, ins: int = 5, kernel: tuple[int, ...] = (5, 5)
) -> tuple[Array, Array]:
    """A weight, and a covariance of inputs in which neighbours and channels correlate."""
    random = np.random.default_rng(seed)
    smooth = random.normal(size=(outs, ins, *(1,) * len(kernel)))
    weight = random.normal(size=(outs, ins, *kernel)) + smooth
    size = weight[0].size
    mixing = random.normal(size=(size, size)) * random.uniform(0.05, 2, size=size)
    return weight, mixing @ mixing.T / size


def distance(weight: Array, other: Array, covariance: Array) -> float:
    """``tr[(W - W') S (W - W')^T]``, by the definition."""
    apart = (weight - other).reshape(len(weight), -1)
    return float(np.trace(apart @ covariance @ apart.T))


# What is refused ---------------------------------------------------------------------------

SHRINKING = "8@9x9 > conv 8 3/2 p1 ceil"

REFUSED: dict[str, list[tuple[str, str]]] = {
    "spatial": [
        ("8@12x9x9 > conv 8 1x1x5", "its kernel 1x1x5 is thin already"),
        ("8@9 > conv 8 1", "its kernel 1x1 is thin already"),
        ("8@9 > conv 8 5x1", "its kernel 5x1 is thin already"),
        ("8@9 > dw 5", "it is depthwise"),
        ("8@9 > flatten > fc 4", "it has no window"),
    ],
    "stack": [
        ("8@9 > conv 8 1", "it has no window"),
        ("8@9 > flatten > fc 4", "it has no window"),
        ("8@9 > deconv 8 4/2", "it is transposed"),
        ("8@9 > conv 8 5/2 psame", "its SAME padding depends on the size of the input"),
        ("8@9 > conv 8 2x5", "its window is too small to share"),
        ("8@20 > conv 8 15", "its window is longer than 13"),
    ],
    "channel": [
        ("8@9 > dw 3", "each of its groups has a single channel"),
        ("1@9 > conv 8 3", "each of its groups has a single channel"),
        ("8@9 > flatten > fc 1", "each of its groups has a single channel"),
    ],
    "tucker": [
        ("8@9 > conv 8 1", "it has no window"),
        ("8@9 > flatten > fc 4", "it has no window"),
        ("8@9 > dw 3", "each of its groups has a single channel"),
    ],
    "depthwise_separable": [
        ("8@9 > conv 8 1", "it has no window"),
        ("8@9 > dw 3", "each of its groups has a single input channel"),
    ],
    "depthwise_spatial": [
        ("8@9 > conv 8 5", "it is not depthwise"),
        ("8@9 > dw 1x5", "its kernel 1x5 is thin already"),
    ],
    "cp": [
        ("8@9 > conv 8 1", "it has no window"),
        ("8@9 > dw 3", "each of its groups has a single channel"),
    ],
    "grouped": [
        ("8@9 > conv 8 1", "it has no window"),
        ("8@9 > conv 8 3 g4", "it has too few channels to divide"),
    ],
    "dilated": [
        ("8@9 > conv 8 1", "no coarser grid has the corners of its kernel 1x1"),
        ("8@9 > conv 8 3", "no coarser grid has the corners of its kernel 3x3"),
        ("8@9 > conv 8 4x5", "no coarser grid has the corners of its kernel 4x5"),
        ("8@9 > flatten > fc 4", "it has no window"),
    ],
}


def test_every_form_has_its_refusals() -> None:
    assert REFUSED.keys() == FORMS.keys()


@pytest.mark.parametrize(
    ("form", "notation", "reason"),
    [(form, *case) for form, cases in REFUSED.items() for case in cases],
)
def test_what_a_form_does_not_fit_is_refused_by_name(form: str, notation: str, reason: str) -> None:
    assert FORMS[form].refusal(site(notation)) == reason


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
def test_no_form_replaces_a_layer_that_rounds_up(form: Form) -> None:
    assert form.refusal(site(SHRINKING)) == "it rounds its output size up"


TAKEN = {
    "spatial": "8@9 > conv 8 5",
    "stack": "8@9 > conv 8 5",
    "channel": "8@9 > flatten > fc 8",
    "tucker": "8@9 > conv 8 3",
    "depthwise_separable": "8@9 > conv 8 3 g2",
    "depthwise_spatial": "8@9 > dw 7",
    "cp": "8@9 > conv 8 3",
    "grouped": "8@9 > conv 8 3",
    "dilated": "8@9 > conv 8 5",
}


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
def test_widths_from_anywhere_are_checked(form: Form) -> None:
    place = site(TAKEN[form.name])
    assert form.refusal(place) == ""
    for variant in form.variants(place):
        full = form.full(place, variant)
        few = next(iter(form.grid(place, variant)))
        assert form.admits(place, variant, few)
        assert not form.admits(place, variant, (*few, 1))
        assert not form.admits(place, variant, few[1:])
        assert not form.admits(place, variant, (0,) * len(full))
        assert not form.admits(place, variant, (-4,) * len(full))
        assert not form.admits(place, variant, tuple(width + 1 for width in full))


def test_forms_by_name() -> None:
    assert [form.name for form in named(None)] == [
        "spatial", "stack", "channel", "tucker", "depthwise_separable", "depthwise_spatial",
    ]  # fmt: skip
    with pytest.raises(UsageError) as raised:
        named(["spatial", "svd"])
    assert str(raised.value) == (
        "there is no form 'svd'; choose from spatial, stack, channel, tucker, depthwise_separable,"
        " depthwise_spatial, cp, grouped, dilated."
    )


# What is fitted ----------------------------------------------------------------------------

WIDTHS: dict[str, list[tuple[int, ...]]] = {
    "spatial": [(2,), (4,), (8,), (16,)],
    "stack": [(2,), (4,), (8,), (12,)],
    "channel": [(1,), (2,), (3,), (4,)],
    "tucker": [(1, 1), (2, 2), (3, 4), (4, 5)],
    "depthwise_separable": [(1,), (2,), (3,), (4,)],
    "depthwise_spatial": [(1,), (2,), (3,), (4,)],
    "cp": [(2,), (4,), (8,), (16,)],
    "grouped": [(3, 6), (1, 6)],  # groups, so wide to narrow
    "dilated": [(4,), (2,)],  # gaps
}

VARIANTS = [
    ("spatial", "vertical-first"),
    ("spatial", "horizontal-first"),
    ("stack", "3-3"),
    ("channel", "window-first"),
    ("channel", "channels-first"),
    ("tucker", "both-sides"),
    ("depthwise_separable", "window-first"),
    ("depthwise_spatial", "vertical-first"),
    ("cp", "rank-one"),
    ("grouped", "mixing-behind"),
    ("grouped", "mixing-in-front"),
    ("dilated", "corners-kept"),
]


def sized(form: str, seed: int) -> tuple[Array, Array]:
    """Data of a size that the form's widths above suit."""
    if form == "depthwise_spatial":
        return problem_of(seed, outs=1, ins=1)
    return problem_of(seed, outs=6, ins=6) if form == "grouped" else problem_of(seed)


def lost(name: str, variant: str, widths: tuple[int, ...], seen: Array, data: Array) -> float:
    """Fits to some statistics, and measures by the definition."""
    weight, _ = sized(name, 3)
    form = FORMS[name]
    kernels = form.fitter(Problem.of_layer(weight, seen), variant).fit(widths, rounds=8)
    assert all(np.isfinite(kernel).all() for kernel in kernels)
    return distance(weight, form.weight(kernels, weight.shape, variant), data)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_more_width_is_never_worse(name: str, variant: str) -> None:
    _, covariance = sized(name, 3)
    errors = [lost(name, variant, widths, covariance, covariance) for widths in WIDTHS[name]]
    for wide, wider in itertools.pairwise(errors):
        assert wider <= wide * (1 + 1e-6)
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_fit_that_knows_the_data_beats_one_that_does_not(name: str, variant: str) -> None:
    _, covariance = sized(name, 3)
    widths = WIDTHS[name][0 if name in ("grouped", "dilated") else 1]
    knowing, blind = (
        lost(name, variant, widths, seen, covariance)
        for seen in (covariance, np.eye(len(covariance)))
    )
    assert knowing < 0.95 * blind


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_the_error_is_that_of_the_definition(name: str, variant: str) -> None:
    weight, covariance = sized(name, 5)
    problem = Problem.of_layer(weight, covariance)
    kernels = FORMS[name].fitter(problem, variant).fit(WIDTHS[name][0], rounds=1)
    made = FORMS[name].weight(kernels, weight.shape, variant)
    assert problem.error(made) == pytest.approx(distance(weight, made, covariance), rel=1e-3)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_fit_can_go_on_from_an_earlier_one(name: str, variant: str) -> None:
    weight, covariance = sized(name, 4)
    problem = Problem.of_layer(weight, covariance)
    fitter, widths = FORMS[name].fitter(problem, variant), WIDTHS[name][1]
    first = fitter.fit(widths, rounds=1)
    more = fitter.fit(widths, rounds=4, first=first)
    assert [kernel.shape for kernel in more] == [kernel.shape for kernel in first]
    before, after = (
        problem.error(FORMS[name].weight(kernels, weight.shape, variant))
        for kernels in (first, more)
    )
    assert after <= before * (1 + 1e-9)


# What could break the numerics -------------------------------------------------------------

HARD: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "all-zero filters": lambda weight, covariance: (weight * 0, covariance),
    "one filter alone": lambda weight, covariance: (
        weight * (np.arange(len(weight)) == 0).reshape(-1, *(1,) * (weight.ndim - 1)),
        covariance,
    ),
    "inputs that never change": lambda weight, covariance: (weight, covariance * 0),
    "three windows": lambda weight, covariance: (weight, covariance[:, :3] @ covariance[:3]),
    "a dead input channel": lambda weight, covariance: (
        weight,
        covariance * np.outer(*[np.arange(len(covariance)) >= weight[0, 0].size] * 2)
        if weight.shape[1] > 1
        else covariance,
    ),
    "huge inputs": lambda weight, covariance: (weight, covariance * 1e12),
    "tiny inputs": lambda weight, covariance: (weight, covariance * 1e-18),
    "tiny weights": lambda weight, covariance: (weight * 1e-18, covariance),
    "huge weights": lambda weight, covariance: (weight * 1e12, covariance),
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_hard_cases_are_fitted_quietly(name: str, variant: str, kind: str) -> None:
    form = FORMS[name]
    weight, covariance = HARD[kind](*sized(name, 7))
    problem = Problem.of_layer(weight, covariance)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        kernels = form.fitter(problem, variant).fit(WIDTHS[name][1], rounds=3)
    assert all(np.isfinite(kernel).all() for kernel in kernels)
    made = form.weight(kernels, weight.shape, variant)
    energy = distance(weight, weight * 0, covariance)
    assert distance(weight, made, covariance) <= energy * (1 + 1e-6) + 1e-25


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_that_would_be_denormal_become_zero(dtype: str) -> None:
    tiny = float(np.finfo(dtype).tiny)
    made = flushed(np.array([tiny / 2, 1.0, tiny, -tiny / 4, -tiny]), dtype)
    assert made.dtype == np.dtype(dtype)
    assert made.tolist() == [0, 1, tiny, 0, -tiny]


# Which layers ------------------------------------------------------------------------------


def test_layers_of_every_kind_can_be_replaced() -> None:
    net = random_network(
        "4@12 > conv 4 3 p1 > conv 4 1 > conv 4 1x3 > conv 4 3 p1 g2 > dw 3 p1 > deconv 4 3"
        " > conv 4 3 > flatten > fc 6"
    )
    assert [node.name for node in replaceable(net)] == [
        "conv1", "conv2", "conv3", "conv4", "dw1", "deconv1", "conv5", "fc1",
    ]  # fmt: skip
    spatial = [node.name for node in replaceable(net, [FORMS["spatial"]])]
    assert spatial == ["conv1", "conv4", "deconv1", "conv5"]
    assert replaceable(parse("4@12 > conv 4 3")) == []
    assert [n.name for n in replaceable(random_network("4@12x12x12 > conv 4 3"))] == ["conv1"]


CANONICAL = {
    "plain": "4@9 > conv 6 3x4/2 p1,0,2,1 d2x1",
    "groups": "6@9 > conv 4 3 p1 g2",
    "depthwise": "4@9 > dw 5 p2",
    "SAME": "3@9 > conv 4 4/2 psame",
    "1-D": "3@20x1 > conv 4 5x1/2x1 p2x0",
    "3-D": "2@7x6x5 > conv 3 3x2x1/2 p1x0x0",
    "transposed": "4@5 > deconv 6 3/2 p1",
    "transposed, dilated and uneven": "4@5 > deconv 6 3x2/3x2 p2,0,1,1 d1x2",
    "transposed in groups": "6@5 > deconv 4 4/2 p1 g2",
    "transposed and cut": "4@5 > deconv 6 2/3 p1,1,0,0",
    "linear": "4@3 > flatten > fc 7",
}


@pytest.mark.parametrize("positions", [10**6, 7])
@pytest.mark.parametrize("bias", ["", " nobias"])
@pytest.mark.parametrize("kind", CANONICAL)
def test_what_stands_in_the_windows_times_the_weight_is_the_output(
    kind: str, bias: str, positions: int
) -> None:
    """The one matrix product that statistics, fits and forms are written for."""
    net: Graph = random_network(CANONICAL[kind] + bias, dtype="float64")
    node = net.nodes[-1]
    place = Site.of(net, node)
    x = np.random.default_rng(0).normal(size=(3, *net.inputs[0].shape[1:]))
    values = evaluate(net, {"x": x})
    y = values[node.name]
    seen = np.concatenate(list(vectors(node, values[node.inputs[0]], positions, seed=1, outputs=y)))
    per_image = y[0].size // (place.groups * place.outs)
    assert seen.shape == (
        3 * min(positions, per_image), place.groups, place.width + place.outs
    )  # fmt: skip
    flat = place.weight.reshape(place.groups, place.outs, -1)
    made = np.einsum("gon,pgn->pgo", flat, seen[:, :, : place.width])
    made = made + place.bias.reshape(place.groups, -1)
    np.testing.assert_allclose(made, seen[:, :, place.width :], atol=1e-10)
    if positions > per_image:  # all of them, each once, in the order of the output
        last = y if isinstance(node.op, Linear) else np.moveaxis(y, 1, -1)
        wanted = last.reshape(-1, place.groups, place.outs)
        np.testing.assert_allclose(seen[:, :, place.width :], wanted)


@pytest.mark.parametrize("kind", CANONICAL)
def test_statistics_are_those_of_the_windows(kind: str) -> None:
    """Moments from a calibration explain the outputs: ``W cov W^T`` is their covariance."""
    net = random_network(CANONICAL[kind], dtype="float64")
    node = net.nodes[-1]
    place = Site.of(net, node)
    if node not in replaceable(net):
        pytest.skip("no form applies")
    x = np.random.default_rng(0).normal(size=(4, *net.inputs[0].shape[1:]))
    moments = calibrate(net, [x]).moments[node.name]
    y = evaluate(net, {"x": x})[node.name]
    last = y if isinstance(node.op, Linear) else np.moveaxis(y, 1, -1)
    rows = last.reshape(-1, place.groups, place.outs)
    assert moments.count == len(rows)
    for group in range(place.groups):
        flat = place.weight[group].reshape(place.outs, -1)
        wanted = np.atleast_2d(np.cov(rows[:, group], rowvar=False, bias=True))
        np.testing.assert_allclose(flat @ moments.covariance(group) @ flat.T, wanted, atol=1e-9)
        bias = place.bias.reshape(place.groups, -1)[group]
        np.testing.assert_allclose(
            flat @ moments.mean[group] + bias, rows[:, group].mean(axis=0), atol=1e-10
        )


def test_candidates_are_those_of_the_forms_asked_for() -> None:
    net = random_network("8@9 > conv 8 5")
    (found,) = tabulate(net, {}, replaceable(net), forms=named(["dilated", "channel"]))
    assert {candidate.form for candidate in found.candidates} == {"keep", "dilated", "channel"}
    (found,) = tabulate(net, {}, replaceable(net))
    assert {candidate.form for candidate in found.candidates} == {
        "keep", "spatial", "stack", "channel", "tucker", "depthwise_separable",
    }  # fmt: skip
