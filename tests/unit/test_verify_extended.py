"""What a verification measures besides errors: divergence, own metrics, memory, time, sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tests.random_weights import data_of, random_network, with_data

import convsmith as cs
from convsmith.errors import DataError, UsageError
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.report import text
from convsmith.rewrite import Calibration, verifying

Array = npt.NDArray[Any]

NET = random_network("3@6 > conv 5 3 p1 > relu > gap > flatten > fc 4")
WEIGHT = next(name for name in NET.constants if name.endswith("weight") and "fc" in name)
MOVED = with_data(NET, **{WEIGHT.replace(".", "__"): data_of(NET, WEIGHT) * np.float32(1.3)})
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(10, 3, 6, 6)).astype(np.float32)
LABELS = RANDOM.integers(0, 4, 10)


def scores(net: Graph) -> Array:
    return evaluate(net, {"x": X})[net.outputs[0].value].astype(np.float64)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


# Divergence -----------------------------------------------------------------------


def test_the_divergence_of_predictions_is_in_nats() -> None:
    one, two = softmax(scores(NET)), softmax(scores(MOVED))
    wanted = float((one * np.log(one / two)).sum(axis=1).mean())
    assert wanted > 1e-4
    for batches in ([X], [X[:3], X[3:]]):
        (output,) = cs.verify(NET, MOVED, batches).outputs
        assert output.divergence == pytest.approx(wanted, rel=1e-4)
    (output,) = cs.verify(NET, NET, [X]).outputs
    assert output.divergence == 0


def test_probabilities_are_not_squashed_twice() -> None:
    nets = [replace(random_network("3@6 > gap > flatten > fc 4 > softmax"), source="p")] * 2
    name = next(name for name in nets[0].constants if name.endswith("weight"))
    nets[1] = with_data(nets[0], **{name.replace(".", "__"): data_of(nets[0], name) * 2})
    one, two = (evaluate(n, {"x": X})[n.outputs[0].value].astype(np.float64) for n in nets)
    assert one.sum(axis=1) == pytest.approx(1, abs=1e-5)
    wanted = float((one * np.log(one / two)).sum(axis=1).mean())
    (output,) = cs.verify(nets[0], nets[1], [X]).outputs
    assert output.divergence == pytest.approx(wanted, rel=1e-4)


def test_pictures_have_no_divergence() -> None:
    net = random_network("3@6 > conv 3 3 p1")
    (output,) = cs.verify(net, net, [X]).outputs
    assert (output.divergence, output.agreement) == (None, None)


# Metrics of the caller's ----------------------------------------------------------


def hinge(outputs: Array, wanted: Array) -> float:
    right = outputs[np.arange(len(wanted)), wanted][:, None]
    return float(np.maximum(0, 1 + outputs - right).mean())


@pytest.mark.parametrize("sizes", [(10,), (3, 7), (1,) * 10])
def test_a_function_is_averaged_over_all_images(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "PIECE_BYTES", 1)  # it sees whole batches all the same
    seen: list[int] = []

    def metric(outputs: Array, wanted: Array) -> float:
        seen.append(len(outputs))
        return hinge(outputs, wanted)

    ends = np.cumsum(sizes)[:-1]
    pairs = list(zip(np.split(X, ends), np.split(LABELS, ends), strict=True))
    found = cs.verify(NET, MOVED, pairs, metric=metric).metric
    assert found is not None
    assert seen == [size for size in sizes for _ in range(2)]
    assert found.before == pytest.approx(hinge(scores(NET), LABELS), rel=1e-5)
    assert found.after == pytest.approx(hinge(scores(MOVED), LABELS), rel=1e-5)
    assert (found.name, found.unit, found.reference) == ("metric", "", None)


def test_a_function_says_what_it_measures() -> None:
    class Loss:
        unit = "nats"
        higher_is_better = False

        def __call__(self, outputs: Array, wanted: Array | None) -> Array:
            assert wanted is None
            return np.asarray(np.square(outputs).sum(axis=1))  # one number per image

    found = cs.verify(NET, MOVED, [X], metric=Loss()).metric
    assert found is not None
    assert (found.name, found.unit) == ("Loss", "nats")
    assert found.before == pytest.approx(np.square(scores(NET)).sum(axis=1).mean(), rel=1e-5)
    assert found.change > 0
    assert not found.kept
    shown = text(cs.verify(NET, MOVED, [X], metric=Loss()), width=100)
    assert "Loss" in shown
    assert " nats" in shown


def test_a_partial_has_the_name_of_its_function() -> None:
    def top(outputs: Array, wanted: Array, k: int) -> float:
        return float((np.argsort(-outputs)[:, :k] == wanted[:, None]).any(axis=1).mean())

    found = cs.verify(NET, MOVED, [(X, LABELS)], metric=partial(top, k=4)).metric
    assert found is not None
    assert (found.name, found.before, found.after) == ("top", 1, 1)


def test_several_outputs_come_by_name() -> None:
    net = replace(NET, outputs=(*NET.outputs, replace(NET.outputs[0], name="again")))
    seen: list[Any] = []

    def metric(outputs: Any, wanted: object) -> float:
        seen.append(outputs)
        return 0.0

    cs.verify(net, net, [X], metric=metric)
    assert list(seen[0]) == [net.outputs[0].name, "again"]
    assert seen[0]["again"].shape == (10, 4)


@pytest.mark.parametrize("value", [float("nan"), None, "good", [1.0, 2.0]])
def test_a_function_that_returns_no_number_is_named(value: object) -> None:
    with pytest.raises(DataError) as raised:
        cs.verify(NET, MOVED, [X], metric=lambda outputs, wanted: value)
    assert str(raised.value).startswith("batch 1: the metric '<lambda>' returned ")
    assert str(raised.value).endswith("; return a finite number, or one per image.")


def test_there_is_no_other_metric() -> None:
    with pytest.raises(UsageError, match="there is no metric 'f1'; choose accuracy or psnr, or"):
        cs.verify(NET, NET, [X], metric="f1")  # type: ignore[arg-type]


# Memory and time ------------------------------------------------------------------


def test_memory_is_that_of_an_analysis() -> None:
    small = random_network("3@6 > conv 2 3 p1 > relu > gap > flatten > fc 4")
    found = cs.verify(NET, small, [X]).memory
    assert found is not None
    for net, footprint in zip((NET, small), found, strict=True):
        total = cs.analyze(net).total
        assert footprint.weights == total.weight_bytes
        assert footprint.activations == total.peak_activation_bytes
    assert found[1].weights < found[0].weights


def test_time_is_measured_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("convsmith.runtime.timing.MOST_ROUNDS", 3)
    assert cs.verify(NET, MOVED, [X]).timings == {}
    modules = tuple(torch.nn.Sequential(torch.nn.Conv2d(3, n, 3), torch.nn.ReLU()) for n in (5, 2))
    names = ["onnxruntime", "torch"]
    found = cs.verify(NET, MOVED, [X], measure=names, modules=modules)
    assert list(found.timings) == names
    for name, gained in found.speedups.items():
        both = found.timings[name]
        assert gained == pytest.approx(
            np.median(np.divide(both["before"].samples, both["after"].samples))
        )
    assert set(found.to_dict()["milliseconds"]["torch"]) == {"before", "after"}


def test_torch_without_modules_and_other_runtimes_are_refused() -> None:
    with pytest.raises(UsageError, match="torch runs modules"):
        cs.verify(NET, MOVED, [X], measure=["torch"])
    with pytest.raises(UsageError, match="there is no runtime 'tvm'"):
        cs.verify(NET, MOVED, [X], measure=["tvm"])


# Where images come from -----------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of pictures."""
    for index in range(6):
        place = tmp_path / "images" / ("cat" if index < 4 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = RANDOM.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")
    return tmp_path / "images"


def pixels_of(folder: Path) -> Array:
    files = sorted(folder.rglob("*.png"))
    return np.stack([np.asarray(Image.open(f)) for f in files]).transpose(0, 3, 1, 2) / 255


def same(one: Calibration, two: Calibration) -> None:
    assert one.images == two.images
    for name, moments in two.moments.items():
        assert one.moments[name].count == moments.count
        assert one.moments[name].second == pytest.approx(moments.second, rel=1e-6, abs=1e-9)


def test_a_folder_calibrates_and_verifies(folder: Path) -> None:
    images = (pixels_of(folder).astype(np.float32) - 0.5) / np.float32(0.25)
    found = cs.calibrate(NET, folder, mean=[0.5], std=[0.25])
    same(found, cs.calibrate(NET, [images], positions=found.positions))
    verified = cs.verify(NET, MOVED, str(folder), mean=[0.5], std=[0.25])
    labels = np.array([0] * 4 + [1] * 2)
    assert verified.metric == cs.verify(NET, MOVED, [(images, labels)], metric="accuracy").metric
    assert verified.data == str(folder)


def test_few_images_are_looked_at_more_closely(folder: Path) -> None:
    assert cs.calibrate(NET, folder).positions == 24576 // 6
    assert cs.calibrate(NET, folder, positions=7).positions == 7
    assert cs.calibrate(NET, folder, limit=2).images == 2


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_array_files_calibrate(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"images{suffix}"
    if suffix == ".npy":
        np.save(file, X)
    else:
        np.savez(file, images=X)
    found = cs.calibrate(NET, str(file))
    same(found, cs.calibrate(NET, [X], positions=found.positions))


def test_a_loader_of_torch_needs_no_conversion() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    halves = [X[:4], X[4:8], X[8:]]
    same(cs.calibrate(NET, loader), cs.calibrate(NET, halves))
    found = cs.verify(NET, MOVED, loader, metric="accuracy")
    assert found.metric == cs.verify(NET, MOVED, [(X, LABELS)], metric="accuracy").metric
    named = [{"x": torch.from_numpy(part), "label": None} for part in halves]
    same(cs.calibrate(NET, named), cs.calibrate(NET, halves))


def test_tensors_of_every_kind_become_arrays() -> None:
    torch = pytest.importorskip("torch")
    wanted = cs.calibrate(NET, [X])
    learned = torch.from_numpy(X.copy()).requires_grad_() * 1
    same(cs.calibrate(NET, [learned]), wanted)
    half = torch.from_numpy(X).bfloat16()
    same(cs.calibrate(NET, [half]), cs.calibrate(NET, [half.float().numpy()]))


def test_of_longer_tuples_the_first_element_calibrates() -> None:
    names = ["a"] * len(X)
    same(cs.calibrate(NET, [(X, LABELS, names)]), cs.calibrate(NET, [X]))
    same(cs.calibrate(NET, [[X, LABELS, names]]), cs.calibrate(NET, [X]))
    with pytest.raises(DataError, match="batch 1: it is a list of 3; give inputs, or a pair"):
        cs.verify(NET, NET, [[X, LABELS, names]])


def test_a_limit_cuts_iterables() -> None:
    read: list[int] = []

    def batches() -> Iterator[Any]:
        for start in (0, 4, 8):
            read.append(start)
            yield X[start : start + 4], LABELS[start : start + 4]

    assert cs.calibrate(NET, batches(), limit=6).images == 6
    assert read == [0, 4]
    found = cs.verify(NET, MOVED, batches(), limit=6, metric="accuracy")
    assert found.metric == cs.verify(NET, MOVED, [(X[:6], LABELS[:6])], metric="accuracy").metric


def test_what_makes_no_sense_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="mean= and std= are for images that are read from disk"):
        cs.calibrate(NET, [X], mean=[0.5])
    with pytest.raises(UsageError, match="limit 0 is less than 1"):
        cs.calibrate(NET, [X], limit=0)
    with pytest.raises(DataError, match="there is no such file or folder"):
        cs.calibrate(NET, folder / "nowhere")
    with pytest.raises(UsageError, match="batches is one batch, not several"):
        cs.calibrate(NET, X)
    two = cs.load("a : 1@4\nb : 1@4\nc = add (a b)\nreturn y = c")
    with pytest.raises(UsageError, match="the network has 2 inputs, images give one"):
        cs.calibrate(two, folder)
