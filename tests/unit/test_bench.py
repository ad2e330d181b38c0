"""Benching: what is timed, in which order, how it adds up. Nothing depends on how long it takes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.benches import made_bench

import convsmith as cs
from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.spec import ConvSpec
from convsmith.errors import UsageError
from convsmith.parallel import limited_threads, threads
from convsmith.runtime import benching, interleaving
from convsmith.runtime.benching import bench
from convsmith.runtime.interleaving import Samples, in_turns, one_by_one
from convsmith.runtime.peers import PEERS
from convsmith.runtime.truth import error, true_output

SPEC = ConvSpec(
    size=(7, 6), channels=4, filters=6, kernel=(3, 3), padding=((1, 1), (1, 1)), activation="relu"
)


# Turns ----------------------------------------------------------------------------


def test_everybody_has_a_turn_in_every_round_and_rounds_begin_with_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    monkeypatch.setattr(interleaving, "turn", lambda call, clock: (call(), 1.0)[1])
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    taken = in_turns(calls, 4)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(samples.milliseconds) for name, samples in taken.items()} == dict.fromkeys(
        "abc", 4
    )


def test_inputs_are_laid_ready_before_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(interleaving, "turn", lambda call, clock: (call(), 1.0)[1])
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    in_turns(calls, 2, {"b": lambda: order.append("feed b")})
    assert order == ["a", "feed b", "b", "feed b", "b", "a"]


def test_what_is_far_behind_gets_three_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"fast": 1.0, "slow": 7.0, "lost": 100.0}
    named = {name: (lambda name=name: name) for name in times}
    monkeypatch.setattr(interleaving, "turn", lambda call, clock: times[call()])
    taken = in_turns(named, 9)
    assert [len(samples.milliseconds) for samples in taken.values()] == [9, 9, 3]
    assert taken["slow"].median == 7


def test_caches_are_evicted_before_every_cold_run(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    asked: list[int] = []

    def evictor(size: int) -> Callable[[], None]:
        asked.append(size)
        return lambda: log.append("evict")

    monkeypatch.setattr(interleaving, "_evictor", evictor)
    one_by_one({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, 2, 123)
    assert log == ["evict", "a", "evict", "b", "evict", "b", "evict", "a"]
    assert asked == [123]


def test_the_evictor_writes_more_than_the_cache() -> None:
    held: list[Any] = []
    evict = interleaving._evictor(1 << 20)
    evict()
    shares = next(
        c.cell_contents for c in evict.__closure__ or () if isinstance(c.cell_contents, list)
    )
    held += shares
    assert sum(share.nbytes for share in held) >= 64 << 20
    assert all((share == 1).all() for share in held)


def test_milliseconds_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"wall": time.perf_counter, "processor": time.process_time} == interleaving.CLOCKS
    ticks = itertools.count()
    monkeypatch.setitem(interleaving.CLOCKS, "processor", lambda: 0.25 * next(ticks))
    assert in_turns({"a": lambda: None}, 2, clock="processor")["a"].milliseconds == (250.0, 250.0)
    taken = one_by_one({"a": lambda: None}, 1, 0, clock="processor")
    assert taken["a"].milliseconds == (250.0,)


def test_medians_and_quartiles() -> None:
    samples = Samples((5.0, 1.0, 3.0, 4.0, 2.0))
    assert (samples.median, samples.spread) == (3.0, 2.0)


# Truth ----------------------------------------------------------------------------


def by_loops(spec: ConvSpec, x: Any, w: Any, b: Any) -> Any:
    """The definition, one product at a time."""
    if spec.layout == "channels_last":
        x = np.moveaxis(x, -1, 1)
    y = np.zeros((len(x), spec.filters, *spec.output))
    per, made = spec.channels // spec.groups, spec.filters // spec.groups
    for n, k, *o in np.ndindex(*y.shape):
        total = 0.0 if b is None else float(b[k])
        for c, *t in np.ndindex(*w.shape[1:]):
            place = [
                i * s - before + j * d
                for i, s, (before, _), j, d in zip(
                    o, spec.stride, spec.padding, t, spec.dilation, strict=True
                )
            ]
            if all(0 <= p < size for p, size in zip(place, spec.size, strict=True)):
                total += float(w[(k, c, *t)]) * float(x[(n, k // made * per + c, *place)])
        y[(n, k, *o)] = max(total, 0.0) if spec.activation == "relu" else total
    return np.moveaxis(y, 1, -1) if spec.layout == "channels_last" else y


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, layout="channels_last", groups=2, stride=(2, 1), batch=2),
        replace(SPEC, padding=((2, 0), (1, 3)), dilation=(2, 1), bias=False, activation="none"),
        ConvSpec(size=(9,), channels=2, filters=4, kernel=(4,), groups=2),
        ConvSpec(size=(3, 4, 5), channels=2, filters=2, kernel=(2, 3, 2), stride=(1, 2, 1)),
        ConvSpec(  # depthwise with many taps: the Fourier path
            size=(12, 13), channels=3, filters=3, kernel=(11, 10), groups=3, batch=2,
            padding=((5, 4), (2, 7)), stride=(2, 1), layout="channels_last",
        ),
        ConvSpec(
            size=(25, 24), channels=2, filters=2, kernel=(10, 11), groups=2, dilation=(2, 2),
        ),
    ],
    ids=str,
)  # fmt: skip
def test_the_truth_is_the_definition(spec: ConvSpec) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal(spec.input_shape)
    w = random.standard_normal(spec.weight_shape)
    b = random.standard_normal(spec.filters) if spec.bias else None
    y = true_output(spec, x, w, b)
    assert y.shape == spec.output_shape
    np.testing.assert_allclose(y, by_loops(spec, x, w, b), atol=1e-11)


def test_the_truth_adds_a_residual_before_the_activation() -> None:
    spec = replace(SPEC, residual=True)
    random = np.random.default_rng(1)
    x, w = random.standard_normal(spec.input_shape), random.standard_normal(spec.weight_shape)
    r = random.standard_normal(spec.output_shape)
    plain = true_output(replace(SPEC, activation="none"), x, w, np.zeros(6))
    np.testing.assert_allclose(true_output(spec, x, w, np.zeros(6), r), np.maximum(plain + r, 0))


def test_an_output_that_is_not_finite_or_of_another_shape_is_wrong() -> None:
    truth = np.array([1.0, 4.0])
    assert error(np.array([1.0, 5.0]), truth) == 0.25
    assert error(np.array([1.0, math.nan]), truth) == math.inf
    assert error(np.array([1.0]), truth) == math.inf


# Who takes part -------------------------------------------------------------------


class Fake:
    """A peer that computes what it is told to."""

    module = package = "numpy"

    def __init__(self, name: str, *, factor: float = 1.0, fails: bool = False) -> None:
        self.name, self.factor, self.fails = name, factor, fails
        self.runs = 0
        self.threads: list[int] = []

    def refuses(self, spec: ConvSpec) -> str:
        return "too small" if spec.channels == 1 else ""

    def using(self, threads: int) -> Any:
        return limited_threads(None)

    def prepare(self, spec: ConvSpec, weights: Any, bias: Any, threads: int) -> Fake:
        if self.fails:
            raise RuntimeError("no such kernel\nand more")
        self.threads.append(threads)
        self.spec, self.weights, self.bias = spec, weights, bias
        return self

    def feed(self, x: Any) -> None:
        self.x = x

    def run(self) -> None:
        self.runs += 1

    def result(self) -> Any:
        y = self.factor * true_output(self.spec, self.x, self.weights, self.bias)
        return y.astype(np.float32)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    fakes = {
        fake.name: fake
        for fake in (Fake("right"), Fake("wrong", factor=1.01), Fake("broken", fails=True))
    }
    absent = Fake("absent")
    absent.module = "no_such_module"
    fakes["absent"] = absent
    monkeypatch.setattr(benching, "PEERS", fakes)
    return fakes


def test_a_wrong_peer_is_reported_and_not_timed(fakes: dict[str, Fake]) -> None:
    result = bench(SPEC, algorithms=["direct"], threads=1, rounds=2)
    (layer,) = result.layers
    rows = {row.name: row for row in layer.rows}
    assert list(rows) == ["direct", "right", "wrong", "broken"]
    assert result.missing == ("absent",)
    assert rows["direct"].chosen
    assert rows["right"].milliseconds is not None
    assert rows["right"].max_error is not None
    assert rows["right"].max_error < 1e-6
    assert fakes["right"].threads == [1]
    assert fakes["right"].runs > 4
    assert rows["wrong"].milliseconds is None
    assert fakes["wrong"].runs == 1
    assert rows["wrong"].reason == "wrong: error 1.0e-02"
    assert rows["broken"].reason == "RuntimeError: no such kernel"
    assert layer.best_peer == rows["right"]
    assert result.machine.threads == 1


def test_a_peer_that_refuses_says_why(fakes: dict[str, Fake]) -> None:
    spec = ConvSpec(size=(5,), channels=1, filters=1, kernel=(3,))
    result = bench(spec, algorithms=["direct"], peers=["right"], threads=1, rounds=1)
    assert result.layers[0].rows[1].reason == "too small"
    assert result.geometric_mean is None
    assert result.missing == ()


def test_a_wrong_algorithm_of_ours_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "true_output", lambda *a: 1.1 * true_output(*a))
    result = bench(SPEC, algorithms=["direct"], peers="none", threads=1, rounds=1)
    assert result.layers[0].rows[0].reason.startswith("wrong: error 9.")


def test_every_algorithm_that_takes_the_layer_has_a_row() -> None:
    result = bench(SPEC, peers="none", threads=1, rounds=1)
    takes = [name for name, method in ALGORITHMS.items() if not method.refuses(SPEC)]
    assert sorted(row.name for row in result.layers[0].rows) == sorted(takes)
    assert sum(row.chosen for row in result.layers[0].rows) == 1
    for row in result.layers[0].rows:
        assert row.max_error is not None
        assert row.max_error < 1e-4
        assert row.gflops == pytest.approx(2e-6 * SPEC.macs / (row.milliseconds or 0))
        assert row.share_of_peak == pytest.approx((row.gflops or 0) / result.machine.peak_gflops)
        assert row.cold_milliseconds is None


def test_cold_caches_are_measured_on_request() -> None:
    result = bench(SPEC, algorithms=["direct"], peers="none", threads=1, rounds=1, cold=True)
    assert (result.layers[0].rows[0].cold_milliseconds or 0) > 0


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_a_batch_a_residual_and_both_layouts(layout: Any) -> None:
    spec = replace(SPEC, batch=3, residual=True, layout=layout)
    result = bench(spec, algorithms=["direct"], peers="all", threads=2, rounds=1)
    rows = result.layers[0].rows
    assert rows[0].max_error is not None
    assert rows[0].max_error < 1e-5
    assert {row.reason for row in rows if row.kind == "peer"} <= {
        "a residual is timed in convsmith alone"
    }
    assert result.layout == layout


# Which layers ---------------------------------------------------------------------

NETWORK = "4@6 > conv 4 3 p1 > relu > conv 4 3 p1 > relu > conv 4 3 p1 > deconv 4 2/2 > conv 2 1"


def test_layers_that_are_the_same_are_timed_once_and_counted() -> None:
    result = bench(NETWORK, algorithms=["direct"], peers="none", threads=1, rounds=1)
    assert [layer.names for layer in result.layers] == [("conv1", "conv2"), ("conv3",), ("conv4",)]
    assert [layer.spec.activation for layer in result.layers] == ["relu", "none", "none"]
    assert result.left_out == (("deconv1", "transposed"),)
    each = bench(NETWORK, algorithms=["direct"], peers="none", threads=1, rounds=1, all_layers=True)
    assert [layer.names for layer in each.layers] == [(f"conv{i}",) for i in (1, 2, 3, 4)]


def test_specs_layouts_and_sizes() -> None:
    once = {"algorithms": ["direct"], "peers": "none", "threads": 1, "rounds": 1}
    both = bench([SPEC, replace(SPEC, layout="channels_last")], **once)  # type: ignore[arg-type]
    assert both.layout == "channels_first and channels_last"
    assert both.source == "2 convolutions"
    last = bench(NETWORK, layout="channels_last", input="2,4,8,8", **once)  # type: ignore[arg-type]
    assert last.layers[0].spec.input_shape == (2, 8, 8, 4)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("4@6 > relu", {}, "no convolution to time"),
        ([], {}, "no convolution to time"),
        (["conv"], {}, "not all of the sequence are specs"),
        (SPEC, {"algorithms": ["gemm"]}, "there is no algorithm 'gemm'"),
        (SPEC, {"algorithms": []}, "no algorithm is named"),
        (SPEC, {"peers": ["caffe"]}, "there is no peer 'caffe'"),
        (SPEC, {"peers": "caffe"}, "there is no peer 'caffe'"),
        (SPEC, {"layout": "nchw"}, "there is no layout 'nchw'"),
        (SPEC, {"rounds": 0}, "0 rounds measure nothing"),
        (SPEC, {"clock": "sand"}, "there is no clock 'sand'"),
        (SPEC, {"clock": "processor", "threads": 2}, "processor time of 2 threads is their sum"),
        (SPEC, {"threads": 0}, "0 is no number of threads"),
        (SPEC, {"algorithms": ["depthwise"]}, "none of depthwise takes"),
    ],
)
def test_bad_usage(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench(source, **{"peers": "none", **options})


def test_threads_are_what_they_were_afterwards() -> None:
    cs.set_threads(3)
    try:
        bench(SPEC, algorithms=["direct"], peers="none", threads=1, rounds=1)
        assert threads() == 3
        with pytest.raises(UsageError), limited_threads(2):
            bench("4@6 > relu", threads=1)
        assert threads() == 3
    finally:
        cs.set_threads(None)


# How it adds up -------------------------------------------------------------------


def test_ratios_sums_and_means_by_hand() -> None:
    made = made_bench()
    first, second = made.layers
    assert (first.count, second.count) == (3, 1)
    assert (first.ratio, second.ratio) == (2.0, 1.0)
    assert made.milliseconds == 3 * 1 + 2
    assert made.geometric_mean == pytest.approx(math.sqrt(2))
    # The fastest turn of ours takes half of the median, that of the peers all of it.
    assert [layer.fastest_ratio for layer in made.layers] == [4.0, 2.0]
    assert made.fastest_geometric_mean == pytest.approx(math.sqrt(8))
    assert made.worst is second
    totals = {total.name: total for total in made.totals}
    assert list(totals) == ["torch", "ncnn", "the fastest each"]
    assert (totals["torch"].milliseconds, totals["torch"].ours) == (8.0, 5.0)
    assert totals["torch"].ratio == 1.6
    # ncnn takes the first layer only: it is held against ours there, not everywhere.
    assert (totals["ncnn"].milliseconds, totals["ncnn"].ours) == (12.0, 3.0)
    assert (totals["ncnn"].layers, totals["ncnn"].of) == (3, 4)
    assert totals["the fastest each"].milliseconds == 8.0


def test_cold_ratios_have_a_fastest_peer_of_their_own() -> None:
    made = made_bench(cold=True)
    assert [layer.cold_ratio for layer in made.layers] == [1.0, 0.5]
    assert made.cold_geometric_mean == pytest.approx(math.sqrt(0.5))
    assert made_bench().cold_geometric_mean is None


def test_json_has_the_published_keys() -> None:
    data = made_bench().to_dict()
    assert data["schema"] == "convsmith.bench/1"
    assert set(data["layers"][0]) == {
        *("layer", "layers", "count", "spec", "flops", "rows", "chosen", "peers", "best_peer"),
        *("ratio", "fastest_ratio", "cold_ratio"),
    }
    assert set(data["layers"][0]["rows"][0]) == {
        *("algorithm", "kind", "tiling", "milliseconds", "spread", "fastest", "cold_milliseconds"),
        *("cold_spread", "gflops", "share_of_peak", "max_error", "chosen", "reason"),
    }
    assert data["layers"][0]["peers"] == {"torch": 2.0, "ncnn": 4.0}
    assert (data["geometric_mean"], data["worst"]) == (pytest.approx(math.sqrt(2)), "conv2")
    made_bench().to_json()


def test_an_infinite_error_is_valid_json() -> None:
    made = made_bench()
    rows = [replace(row, max_error=math.inf) for row in made.layers[0].rows]
    layer = replace(made.layers[0], rows=tuple(rows))
    assert '"max_error": null' in replace(made, layers=(layer,)).to_json()


def test_the_public_name_is_this_one() -> None:
    assert cs.bench is bench
    assert set(PEERS) == {
        *("torch", "torch channels_last", "torch prepared", "onnxruntime", "openvino", "ncnn"),
        "MNN",
    }


class _Clocks:
    """Time that passes only in sleep and in runs; another thread works until ``busy``."""

    def __init__(self, busy: float) -> None:
        self.now, self.busy = 0.0, busy

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return min(self.now, self.busy)


def test_a_turn_begins_when_the_threads_of_the_one_before_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = _Clocks(busy=0.010)
    monkeypatch.setattr(interleaving, "time", clocks)
    began: list[float] = []

    def run() -> None:
        began.append(clocks.now)
        clocks.now += 0.00015

    taken = interleaving.turn(run, clock=clocks.perf_counter)
    assert 0.012 <= began[0] <= 0.016
    assert taken == pytest.approx(0.15)
    waking = 7  # runs of 0.15 ms, until a millisecond has passed: they are not timed
    assert len(began) == waking + 20


def test_a_thread_that_never_sleeps_does_not_stop_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = _Clocks(busy=math.inf)
    monkeypatch.setattr(interleaving, "time", clocks)
    interleaving._pause()
    assert 0.1 < clocks.now < 0.2
