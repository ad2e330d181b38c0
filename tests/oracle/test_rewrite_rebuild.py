"""The rebuild: layers refitted to what reaches them lose less than layers fitted alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_weights import random_network, with_data

from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import Calibration, calibrate, rebuilding
from convsmith.rewrite.applying import replace_layers
from convsmith.rewrite.candidates import Candidate, Layer, replaceable, tabulate
from convsmith.rewrite.forms import FORMS
from convsmith.rewrite.rebuilding import Fitted, correct_means, rebuild

Array = npt.NDArray[Any]

NETWORKS = {
    "plain": "3@10 > conv 12 3 p1 > relu > conv 12 3 p1 > relu > conv 12 3 p1 > relu > conv 4 3",
    "batch norm": "3@10 > conv 12 3 p1 nobias > bn > relu > conv 12 3 p1 nobias > bn > relu > gap",
    "skips": "8@10 > conv 8 3 p1 > bn > ( conv 8 3 p1 > bn > relu > conv 8 3 p1 > bn + - ) > relu"
    " > ( - + conv 8 3 p1 > bn > relu > conv 8 3 p1 ) > relu",
    "branches": "4@10 > [ conv 8 3 p1 | conv 8 5 p2 > relu ] > conv 8 3 p1",
    "no relu": "4@10 > conv 8 3 p1 > conv 8 3 p1 > sigmoid > conv 8 3 p1",
    "other skip later": "8@10 > ( conv 8 3 p1 + conv 8 1 ) > relu > conv 8 3 p1",
}


def images(net: Graph, count: int = 12, seed: int = 0) -> Array:
    x = np.random.default_rng(seed).normal(size=(count, *net.inputs[0].shape[1:]))
    return x + np.roll(x, 1, axis=2) + np.roll(x, 1, axis=3)


def thinned(net: Graph, calibration: Calibration, rank: int) -> list[Layer]:
    """Every layer that two thin convolutions can stand for, at one width."""
    form = FORMS["spatial"]
    return tabulate(
        net, calibration.moments, replaceable(net, [form]), forms=[form], widths=(rank,)
    )


def setting(name: str, rank: int = 4) -> tuple[Graph, dict[str, Candidate], Calibration]:
    net = random_network(NETWORKS[name], dtype="float64", seed=4)
    calibration = calibrate(net, [images(net)])
    layers = thinned(net, calibration, rank)
    return net, {layer.name: layer.candidates[-1] for layer in layers}, calibration


def outputs(net: Graph, fitted: Mapping[str, Fitted], x: Array, value: str = "") -> Array:
    after = replace_layers(net, {name: made.chain for name, made in fitted.items()})
    return evaluate(after, {"x": x})[value or net.outputs[0].value]


@pytest.mark.parametrize("name", NETWORKS)
def test_it_loses_less_than_layers_fitted_alone(name: str) -> None:
    net, chosen, calibration = setting(name)
    assert any(candidate.form != "keep" for candidate in chosen.values())
    rebuilt = rebuild(net, chosen, calibration.samples)
    alone = {
        layer: correct_means(net, net.by_name[layer], candidate, calibration.moments[layer])
        for layer, candidate in chosen.items()
        if candidate.form != "keep"
    }
    assert rebuilt.keys() == alone.keys()
    x = calibration.samples[0]["x"]
    wanted = outputs(net, {}, x)
    lost, lost_alone = (
        float(np.square(outputs(net, fits, x) - wanted).mean()) for fits in (rebuilt, alone)
    )
    assert 0 < lost < 0.97 * lost_alone


def test_nothing_chosen_changes_nothing() -> None:
    net, chosen, calibration = setting("plain")
    kept = dict.fromkeys(chosen, tabulate(net, {}, replaceable(net))[0].kept)
    assert rebuild(net, kept, calibration.samples) == {}
    assert rebuild(net, {}, calibration.samples) == {}


@pytest.mark.parametrize("name", ["no relu", "other skip later"])
def test_every_channel_keeps_its_mean(name: str) -> None:
    """Where no ReLU follows; what a ReLU cuts away need not be kept."""
    net, chosen, calibration = setting(name, rank=2)
    rebuilt = rebuild(net, chosen, calibration.samples)
    x = calibration.samples[0]["x"]
    last = list(rebuilt)[-1]
    np.testing.assert_allclose(
        outputs(net, rebuilt, x, last).mean(axis=(0, 2, 3)),
        outputs(net, {}, x, last).mean(axis=(0, 2, 3)),
        atol=1e-10,
    )


def test_the_reported_error_is_that_of_the_outputs() -> None:
    net, chosen, calibration = setting("no relu")
    rebuilt = rebuild(net, chosen, calibration.samples)
    x = calibration.samples[0]["x"]
    for name, made in rebuilt.items():
        wanted = outputs(net, {}, x, name)
        error = np.square(outputs(net, rebuilt, x, name) - wanted).mean(axis=(0, 2, 3)).sum()
        assert made.error == pytest.approx(error / wanted.var(axis=(0, 2, 3)).sum(), rel=1e-6)


def test_a_layer_makes_up_for_what_the_skip_beside_it_lost() -> None:
    """The target of a layer in front of an addition covers the other branch."""
    net, chosen, calibration = setting("skips", rank=2)
    x = calibration.samples[0]["x"]
    added = [node.name for node in net.nodes if node.name.startswith("add")]
    rebuilt = rebuild(net, chosen, calibration.samples)
    original = pytest.MonkeyPatch()
    with original.context() as patch:
        patch.setattr(rebuilding, "_owed_by_other_branch", lambda net, node: None)
        without = rebuild(net, chosen, calibration.samples)
    for name in added:
        wanted = outputs(net, {}, x, name)
        lost, more = (
            float(np.square(outputs(net, fits, x, name) - wanted).mean())
            for fits in (rebuilt, without)
        )
        assert lost < more


@pytest.mark.parametrize("name", ["batch norm", "skips"])
def test_threads_do_not_change_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for threads in ("1", "4"):
        monkeypatch.setenv("CONVSMITH_THREADS", threads)
        net, chosen, calibration = setting(name)
        made.append(rebuild(net, chosen, calibration.samples))
    one, four = made
    assert one.keys() == four.keys()
    for name, fit in one.items():
        for step, other in zip(fit.chain, four[name].chain, strict=True):
            for mine, its in zip(step.parameters, other.parameters, strict=True):
                assert np.array_equal(mine, its)


@pytest.mark.parametrize("name", NETWORKS)
def test_little_memory_gives_nearly_as_good_a_result(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that join later, and pieces of one image, run through the same layers."""
    net, chosen, calibration = setting(name)
    whole = rebuild(net, chosen, calibration.samples)
    most = max(rebuilding._bytes_ahead(net))
    monkeypatch.setattr(rebuilding, "PAIR_BYTES", most * len(calibration.samples[0]["x"]))
    pieces = rebuild(net, chosen, calibration.samples)
    for layer, made in whole.items():
        assert made.error == pytest.approx(pieces[layer].error, rel=1e-6)
    monkeypatch.setattr(rebuilding, "PAIR_BYTES", 1)
    for made in rebuild(net, chosen, calibration.samples).values():
        assert all(np.isfinite(step.weight).all() for step in made.chain)


def test_samples_join_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_network(
        "2@16 > conv 8 3 p1 > maxpool 4/4 > conv 8 3 p1 > conv 8 3 p1", dtype="float64"
    )
    calibration = calibrate(net, [images(net, 8)])
    layers = thinned(net, calibration, 3)
    seen: list[int] = []
    fit = rebuilding._fit

    def counting(*arguments: Any) -> Fitted:
        seen.append(sum(len(pair.original[arguments[1].inputs[0]])
                        for pair in arguments[3]))  # fmt: skip
        return fit(*arguments)

    monkeypatch.setattr(rebuilding, "_fit", counting)
    monkeypatch.setattr(rebuilding, "PAIR_BYTES", 3 * rebuilding._bytes_ahead(net)[0])
    fitted = rebuild(net, {made.name: made.candidates[-1] for made in layers}, calibration.samples)
    assert list(fitted) == ["conv1", "conv2", "conv3"]
    assert seen == [3, 8, 8]


# Hard cases --------------------------------------------------------------------------------


def hard(name: str) -> tuple[Graph, Array]:
    net = random_network(NETWORKS["batch norm"], dtype="float64")
    x = images(net, 3)
    match name:
        case "batch norm of zero gain":
            net = with_data(net, bn1__weight=np.zeros(12))
        case "some channels of zero gain":
            net = with_data(net, bn1__weight=np.arange(12.0) // 6)
        case "all-zero filters":
            net = with_data(net, conv1__weight=np.zeros((12, 3, 3, 3)))
        case "black images":
            x = x * 0
        case "one grey":
            x = x * 0 + 1 / 3
        case "one image":
            x = x[:1]
        case "dead ReLU":
            net = with_data(net, bn1__bias=np.full(12, -1e3))
    return net, x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name",
    ["batch norm of zero gain", "some channels of zero gain", "all-zero filters", "black images",
     "one grey", "one image", "dead ReLU"],
)  # fmt: skip
def test_hard_cases_are_rebuilt_quietly(name: str, dtype: str) -> None:
    net, x = hard(name)
    x = x.astype(dtype)
    calibration = calibrate(net, [x])
    layers = thinned(net, calibration, 4)
    fitted = rebuild(net, {made.name: made.candidates[-1] for made in layers}, calibration.samples)
    assert len(fitted) == 2
    for made in fitted.values():
        assert 0 <= made.error <= 1.001
        assert all(np.isfinite(array).all() for step in made.chain for array in step.parameters)
    wanted, got = outputs(net, {}, x), outputs(net, fitted, x)
    assert np.abs(got - wanted).max() < 2 * max(float(np.abs(wanted).max()), 1e-6)


def test_a_wrong_fit_is_worse() -> None:
    """The oracles above can fail: factors fitted to other data lose more."""
    net, chosen, calibration = setting("plain")
    other = calibrate(net, [images(net, seed=9)[:, ::-1] * [[[[1]], [[5]], [[0.1]]]]])
    x = calibration.samples[0]["x"]
    wanted = outputs(net, {}, x)
    lost, more = (
        float(np.square(outputs(net, rebuild(net, chosen, c.samples), x) - wanted).mean())
        for c in (calibration, other)
    )
    assert lost < 0.5 * more
