"""What one pass over calibration data leaves behind: sums that merge, and can be saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file
from tests.random_weights import data_of, random_network, with_data

from convsmith.errors import ConvsmithError, DataError, OutputError, UsageError
from convsmith.graph import Graph, Output, parse
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Conv
from convsmith.rewrite import Calibration, batches, calibrate, moments, statistics
from convsmith.rewrite.candidates import replaceable
from convsmith.rewrite.moments import Moments, vectors

Array = npt.NDArray[Any]

NET = random_network("2@6x7 > conv 4 3 p1 > relu > conv 3 3x2 nobias > relu")


def images(count: int, *, seed: int = 0, net: Graph = NET) -> Array:
    shape = net.inputs[0].shape
    return np.random.default_rng(seed).normal(size=(count, *shape[1:]))


def windows_by_hand(x: Array, op: Conv) -> Array:
    """All unfolded windows ``(P, C k_h k_w)``, one after the other."""
    padded = np.pad(x, [(0, 0), (0, 0), *op.padding])
    (high, wide), (down, right) = op.kernel, op.stride
    return np.array(
        [
            image[:, row : row + high, column : column + wide].ravel()
            for image in padded
            for row in range(0, image.shape[1] - high + 1, down)
            for column in range(0, image.shape[2] - wide + 1, right)
        ]
    )


def assert_equal(one: Calibration, two: Calibration) -> None:
    assert (one.images, one.positions) == (two.images, two.positions)
    assert one.moments.keys() == two.moments.keys()
    for name, mine in one.moments.items():
        its = two.moments[name]
        assert mine.count == its.count
        np.testing.assert_allclose(mine.first, its.first, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(mine.second, its.second, rtol=1e-12, atol=1e-12)


# Moments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "width"), [(1, 1), (1, 5), (1, 300), (3, 5)])
def test_moments_are_those_of_numpy(
    groups: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "PANEL", 100)  # several panels
    seen = np.random.default_rng(1).normal(3, 2, size=(700, groups, width))
    found = Moments.of(seen)
    assert found.count == 700
    np.testing.assert_allclose(found.mean, seen.mean(axis=0), rtol=1e-12)
    for group in range(groups):
        wanted = np.cov(seen[:, group], rowvar=False, bias=True).reshape(width, width)
        np.testing.assert_allclose(found.covariance(group), wanted, atol=1e-9)
        assert np.array_equal(found.second[group], found.second[group].T)


def test_moments_add_up() -> None:
    seen = np.random.default_rng(2).normal(size=(50, 2, 4))
    whole, parts = Moments.of(seen), Moments.of(seen[:20]) + Moments.of(seen[20:])
    assert whole.count == parts.count
    np.testing.assert_allclose(whole.first, parts.first)
    np.testing.assert_allclose(whole.second, parts.second)


def test_sums_grow_in_place_and_forget_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "PANEL", 3)
    seen = np.random.default_rng(2).normal(1, 2, size=(60, 1, 8))
    sums = moments.Sums(1, 8)
    for part in np.split(seen, 6):
        sums.add(part)
    rows = seen[:, 0]
    assert sums.squares[0] == pytest.approx(np.square(rows).sum())
    found = sums.moments()
    assert found.count == 60
    np.testing.assert_allclose(found.first[0], rows.sum(axis=0))
    np.testing.assert_allclose(found.second[0], rows.T @ rows)


def test_single_precision_is_summed_in_double() -> None:
    seen = np.full((4096, 1, 2), 1 / 3, dtype=np.float32)
    assert Moments.of(seen).second[0, 0, 1] == pytest.approx(
        4096 * float(seen[0, 0, 0]) ** 2, rel=1e-14
    )


@pytest.mark.parametrize("value", [0.0, 1 / 3, 255.0])
def test_inputs_that_never_change_have_a_covariance_that_can_be_inverted(value: float) -> None:
    covariance = Moments.of(np.full((1000, 1, 30), value)).covariance(0)
    assert np.linalg.eigvalsh(covariance)[0] >= 0
    assert np.abs(covariance).max() <= 1e-11 * max(value, 1) ** 2


# Calibration -------------------------------------------------------------------------------


def test_statistics_are_those_of_all_windows() -> None:
    x = images(3)
    found = calibrate(NET, [x[:2], x[2:]])
    values = evaluate(NET, {"x": x})
    assert list(found.moments) == ["conv1", "conv2"]
    for node in replaceable(NET):
        assert isinstance(node.op, Conv)
        by_hand = windows_by_hand(values[node.inputs[0]], node.op)
        seen = found.moments[node.name]
        assert seen.count == len(by_hand)
        np.testing.assert_allclose(seen.mean[0], by_hand.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(
            seen.covariance(0), np.cov(by_hand, rowvar=False, bias=True), atol=1e-9
        )


def test_shards_merge_to_the_whole() -> None:
    x = images(6)
    shards = [calibrate(NET, [x[i : i + 2]]) for i in (0, 2, 4)]
    merged = shards[0].merge(shards[1]).merge(shards[2])
    assert_equal(merged, calibrate(NET, [x]))
    assert np.array_equal(np.concatenate([s["x"] for s in merged.samples]), x)


def test_large_batches_are_cut_without_changing_what_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = images(5)
    whole = calibrate(NET, [x], positions=7)
    monkeypatch.setattr(batches, "PIECE_BYTES", 1)
    monkeypatch.setattr(batches.pieces, "__kwdefaults__", {"room": 1})
    monkeypatch.setattr(moments, "VECTOR_BYTES", 1)
    assert_equal(calibrate(NET, [x], positions=7), whole)


def test_the_same_positions_are_drawn_every_time_and_others_for_other_batches() -> None:
    x, node = images(2), replaceable(NET)[0]

    def drawn(seed: int, first: int = 0) -> Array:
        return np.concatenate(list(vectors(node, x, 5, seed=seed, first=first)))

    assert drawn(3).shape == (10, 1, 18)
    assert np.array_equal(drawn(3), drawn(3))
    assert not np.array_equal(drawn(3), drawn(4))
    assert np.array_equal(drawn(3, first=1)[:5], np.concatenate([*vectors(
        node, np.concatenate([x, x[:1]])[[1, 0, 2]], 5, seed=3)])[5:10])  # fmt: skip


def test_outputs_are_taken_where_the_inputs_are() -> None:
    x, node = images(2), replaceable(NET)[0]
    y = evaluate(NET, {"x": x})["conv1"]
    both = np.concatenate(list(vectors(node, x, 9, seed=0, outputs=y)))
    weight, bias = data_of(NET, "conv1.weight"), data_of(NET, "conv1.bias")
    np.testing.assert_allclose(
        both[:, 0, :18] @ weight.reshape(4, -1).T + bias, both[:, 0, 18:], atol=1e-6
    )


def test_batches_may_have_different_sizes() -> None:
    found = calibrate(NET, [images(1), np.ones((2, 2, 9, 12))])
    assert found.images == 3
    assert found.moments["conv1"].count == 42 + 2 * 108


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int64"])
def test_numbers_of_other_types_are_computed_in_single_precision(dtype: str) -> None:
    x = np.arange(84).reshape(1, 2, 6, 7).astype(dtype)
    found = calibrate(NET, [x])
    assert_equal(found, calibrate(NET, [x.astype(np.float32)]))
    assert found.samples[0]["x"].dtype == np.float32


def test_samples_are_copies_and_bounded() -> None:
    buffer = np.ones((4, 2, 6, 7), dtype=np.float32)

    def reused() -> Iterator[Array]:
        for value in (1, 2, 3):
            buffer[...] = value
            yield buffer

    one = buffer[0].nbytes
    found = calibrate(NET, reused(), sample_bytes=6 * one)
    assert [sample["x"].shape[0] for sample in found.samples] == [4, 2]
    assert [sample["x"].max() for sample in found.samples] == [1, 2]
    assert [len(s["x"]) for s in calibrate(NET, reused(), sample_bytes=0).samples] == [1]
    assert found.images == 12


def test_a_network_with_two_inputs_takes_mappings() -> None:
    net = parse("1@4 > relu")
    assert calibrate(net, [{"x": np.ones((1, 1, 4, 4))}]).images == 1


def test_calibration_round_trip(tmp_path: Path) -> None:
    found = calibrate(NET, [images(2), images(1, seed=1)], positions=11)
    found.save(tmp_path / "shard.safetensors")
    read = Calibration.load(tmp_path / "shard.safetensors")
    assert_equal(read, found)
    for one, two in zip(found.samples, read.samples, strict=True):
        assert np.array_equal(one["x"], two["x"])
    with pytest.raises(OutputError, match="this file exists"):
        found.save(tmp_path / "shard.safetensors")
    found.save(tmp_path / "shard.safetensors", overwrite=True)


# Which layers ------------------------------------------------------------------------------


def test_shared_weights_are_left_alone() -> None:
    net = random_network("2@8 > conv 2 3 p1 nobias > conv 2 3 p1 nobias > conv 2 3 p1 nobias")
    first, second, third = net.nodes
    shared = replace(net, nodes=(first, replace(second, parameters=first.parameters), third))
    assert replaceable(shared) == [third]
    given = replace(net, outputs=(*net.outputs, Output(name="weights", value="conv2.weight")))
    assert replaceable(given) == [first, third]


# Messages ----------------------------------------------------------------------------------

BAD: list[tuple[str, Callable[[], object], type[ConvsmithError], str]] = [
    (
        "no batch",
        lambda: calibrate(NET, []),
        DataError,
        "there is no calibration data; give at least one image.",
    ),
    (
        "no image",
        lambda: calibrate(NET, [images(1), images(0)]),
        DataError,
        "calibration batch 2: input 'x' is empty; give at least one image.",
    ),
    (
        "NaN",
        lambda: calibrate(NET, [np.full((1, 2, 6, 7), np.nan)]),
        DataError,
        "calibration batch 1: input 'x' holds NaN or infinity; leave it out.",
    ),
    (
        "wrong channels",
        lambda: calibrate(NET, [np.ones((1, 3, 6, 7))]),
        DataError,
        (
            "calibration batch 1: input 'x' has shape (1, 3, 6, 7), the network takes (1, 2, 6, 7);"
            " only the number of images and their size may differ."
        ),
    ),
    (
        "missing input",
        lambda: calibrate(NET, [{"y": images(1)}]),
        DataError,
        "calibration batch 1: input 'x' is missing; give an array for it.",
    ),
    (
        "text",
        lambda: calibrate(NET, [np.full((1, 2, 6, 7), "a")]),
        DataError,
        "calibration batch 1: input 'x' holds str32; give numbers.",
    ),
    (
        "too small",
        lambda: calibrate(random_network("1@6 > conv 2 3"), [np.ones((1, 1, 2, 2))]),
        ConvsmithError,
        (
            "calibration batch 1: conv1: kernel 3x3 does not fit input 2x2 with padding 0;"
            " pad by at least 1 or use a smaller kernel."
        ),
    ),
    (
        "one batch instead of a list",
        lambda: calibrate(NET, images(2)),
        UsageError,
        "batches is one batch, not several; put it into a list: [batch].",
    ),
    (
        "no positions",
        lambda: calibrate(NET, [images(1)], positions=0),
        UsageError,
        "positions=0 leaves nothing to see; give at least 1.",
    ),
    (
        "NaN in weights",
        lambda: calibrate(
            with_data(NET, conv2__weight=np.full((3, 4, 3, 2), np.nan)), [images(1)]
        ),
        DataError,
        (
            "conv2: its tensor 'conv2.weight' holds NaN or infinity;"
            " load the weights of a network that was trained to the end."
        ),
    ),
    (
        "overflow inside",
        lambda: calibrate(NET, [np.full((1, 2, 6, 7), 1e200)]),
        DataError,
        (
            "calibration batch 1: conv1: what reaches this layer holds NaN or infinity;"
            " check the weights before it, and how the images are normalized."
        ),
    ),
    (
        "another network",
        lambda: calibrate(NET, [images(1)]).merge(
            calibrate(random_network("1@6 > conv 4 3"), [np.ones((1, 1, 6, 6))])
        ),
        DataError,
        "conv1: these calibrations belong to different networks; merge shards of one network.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_data_is_named(
    call: Callable[[], object], kind: type[ConvsmithError], text: str
) -> None:
    with np.errstate(all="ignore"), pytest.raises(kind) as raised:
        call()
    assert str(raised.value) == text


def damaged(path: Path, kind: str) -> None:
    header: Any = {
        "schema": "convsmith.calibration/2",
        "images": 1,
        "counts": {"a": 3},
        "positions": 4,
    }
    tensors = {"moments/a/first": np.ones((1, 2)), "moments/a/second": np.ones((1, 2, 2))}
    if kind == "other metadata":
        header = []
    elif kind == "missing tensor":
        del tensors["moments/a/second"]
    elif kind == "no count":
        header["counts"] = {"a": 0}
    elif kind == "sizes":
        tensors["moments/a/second"] = np.ones((1, 2, 3))
    if kind == "no safetensors":
        path.write_bytes(b"\xff" * 50)
    elif kind == "no metadata":
        save_file(tensors, path)
    elif kind != "no file":
        save_file(tensors, path, metadata={"convsmith": json.dumps(header)})


@pytest.mark.parametrize(
    "kind",
    ["no file", "no safetensors", "no metadata", "other metadata", "missing tensor", "no count",
     "sizes"],
)  # fmt: skip
def test_files_that_are_no_calibration_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.safetensors"
    damaged(path, kind)
    with pytest.raises(DataError) as raised:
        Calibration.load(path)
    assert str(raised.value) == (
        f"{path}: this is not a calibration that convsmith saved;"
        " make one with convsmith.calibrate(net, batches).save(path)."
    )


def test_an_undamaged_file_is_read(tmp_path: Path) -> None:
    damaged(tmp_path / "c.safetensors", "")
    assert Calibration.load(tmp_path / "c.safetensors").moments["a"].count == 3


# What is wanting ---------------------------------------------------------------------------


def test_too_few_images_are_said() -> None:
    few = calibrate(NET, [images(1)], positions=10)
    assert few.notes == (
        (
            "2 of 2 layers saw fewer windows than a window has numbers (conv2: 10 windows of 24"
            " numbers), so their statistics are regularized: more images would help"
        ),
    )
    assert calibrate(NET, [images(1)]).notes == ()


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (np.tile(images(1), (4, 1, 1, 1)), "all 4 images are alike, so the fits hold for"),
        (np.zeros((3, *NET.inputs[0].shape[1:])), "all 3 images are alike, so the fits hold for"),
        (np.ones((1, *NET.inputs[0].shape[1:])), "no image varies from pixel to pixel, so"),
        (
            images(5)[:, :, :1, :1] * np.ones(NET.inputs[0].shape[1:]),
            "no image varies from pixel to pixel, so the fits hold for little else",
        ),
    ],
)
def test_images_that_show_nothing_are_said(pixels: Array, text: str) -> None:
    found = calibrate(NET, [pixels[:1], pixels[1:]] if len(pixels) > 1 else [pixels]).notes
    assert found[0].startswith(text)
    pixels = pixels.copy()
    pixels[-1, 0, 0, 0] += 1
    others = [note for note in calibrate(NET, [pixels]).notes if "little else" in note]
    assert not others


def test_numbers_whose_squares_overflow_are_named() -> None:
    with pytest.raises(DataError, match=r"^calibration batch 1: conv1: windows .* as large as \d"):
        calibrate(NET, [images(2) * 1e25])


def test_a_layer_whose_sums_are_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOMENT_BYTES", 8 * 20**2)
    assert list(calibrate(NET, [images(2)]).moments) == ["conv1"]  # 18 numbers, not 24
