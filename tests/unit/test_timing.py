"""Timing networks in turns. Nothing here depends on how long anything takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convsmith as cs
from convsmith.errors import DataError, MissingDependencyError, SourceError, UsageError
from convsmith.runtime import Timing, compare, networks, outputs, timing

X = {"x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4) - 8}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    cs.save(cs.load("1@4 > relu > maxpool 2/2"), path)
    return path


def of(*samples: float) -> Timing:
    return Timing(samples=samples, engine="none", version="0", threads=1, shapes={})


def test_outputs_are_what_the_file_computes(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    (result,) = outputs(model, X).values()
    np.testing.assert_array_equal(result, [[[[0, 0], [5, 7]]]])
    assert list(outputs(model, X)) == [output.name for output in cs.load(str(model)).outputs]


def test_compare_says_how_it_measured(model: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    timings = compare({"before": model, "after": model}, X, repeats=7, threads=2)
    assert list(timings) == ["before", "after"]
    for one in timings.values():
        assert one.runs == 7
        assert 0 < one.minimum <= one.median
        assert one.spread >= 0
        assert (one.engine, one.version) == ("ONNX Runtime", onnxruntime.__version__)
        assert (one.threads, one.shapes) == (2, {"x": (1, 1, 4, 4)})
    assert timings["before"].ratio(timings["after"]) > 0


class Machine:
    """Sessions that only note whose turn it is, and a clock that they move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **milliseconds: float) -> None:
        self.turns: list[str] = []
        self.threads: list[int] = []
        self.now = 0.0
        self.milliseconds = milliseconds
        monkeypatch.setattr(timing, "_session", self.session)
        monkeypatch.setattr(timing, "_run", self.run)
        monkeypatch.setattr(timing, "perf_counter", lambda: self.now)

    def session(self, path: Path, count: int) -> str:
        self.threads.append(count)
        return path.stem

    def run(self, session: str, inputs: object, model: Path) -> None:
        self.turns.append(session)
        self.now += self.milliseconds[session] / 1e3

    def compare(self, **options: Any) -> dict[str, Timing]:
        return compare({name: Path(name) for name in self.milliseconds}, X, **options)


def test_networks_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    machine = Machine(monkeypatch, a=20, b=10)
    timings = machine.compare(repeats=6)
    assert machine.turns == ["a", "a", "b", "b", *["a", "b"] * 6]  # warmed up first
    assert timings["a"].median == pytest.approx(20)
    assert timings["a"].ratio(timings["b"]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("milliseconds", "repeats", "rounds"),
    [(1, None, 200), (1000, None, 9), (100, None, 11), (1000, 3, 3), (1, 50, 50), (100, 8, 8)],
)
def test_rounds_fit_the_time_but_are_never_too_few(
    monkeypatch: pytest.MonkeyPatch, milliseconds: float, repeats: int | None, rounds: int
) -> None:
    pytest.importorskip("onnxruntime")
    machine = Machine(monkeypatch, a=milliseconds)
    assert machine.compare(repeats=repeats, seconds=1.05)["a"].runs == rounds


def test_threads_are_ours_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("CONVSMITH_THREADS", "3")
    machine = Machine(monkeypatch, a=1)
    assert machine.compare(repeats=1)["a"].threads == 3
    assert machine.compare(repeats=1, threads=2)["a"].threads == 2
    assert machine.threads == [3, 2]


def test_the_numbers_of_a_timing() -> None:
    one = of(4, 1, 2, 3, 5)
    assert (one.median, one.minimum, one.spread, one.runs) == (3, 1, 2, 5)
    # Round by round: the machine was slow in the second one, for both alike.
    assert of(2, 20, 2).ratio(of(1, 10, 1)) == 2
    with pytest.raises(UsageError, match="3 and 2 runs were not taken in turns"):
        of(1, 2, 3).ratio(of(1, 2))


def test_bad_arguments_and_inputs(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    for options in ({"repeats": 0}, {"threads": 0}):
        with pytest.raises(UsageError, match="is less than 1; give a positive number"):
            compare({"a": model}, X, **options)
    with pytest.raises(DataError) as error:
        outputs(model, {"y": X["x"]})
    assert str(error.value) == f"{model}: input 'x' is missing; it takes 'x'."
    for wrong in (X["x"].astype(np.float64), X["x"][0], np.zeros((1, 1, 5, 5), np.float32)):
        with pytest.raises(DataError, match="ONNX Runtime does not take the inputs"):
            outputs(model, {"x": wrong})


def test_files_that_cannot_be_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(SourceError, match="there is no such file; check its name"):
        outputs(tmp_path / "no.onnx", X)
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(SourceError, match="ONNX Runtime cannot run it"):
        outputs(tmp_path / "bad.onnx", X)


@pytest.fixture
def no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


@pytest.mark.usefixtures("no_onnxruntime")
def test_without_onnxruntime_the_remedy_is_named(model: Path) -> None:
    for call in (lambda: outputs(model, X), lambda: compare({"a": model}, X)):
        with pytest.raises(MissingDependencyError) as error:
            call()
        assert str(error.value) == (
            "ONNX Runtime is not installed; pip install 'convsmith[onnxruntime]'."
        )


NETS = {"before": cs.load("1@4 > relu > maxpool 2/2"), "after": cs.load("1@4 > relu > relu")}


def test_networks_in_several_runtimes() -> None:
    pytest.importorskip("onnxruntime")
    timings = networks(NETS, X, repeats=3, threads=2, tune=False)
    assert {name: list(row) for name, row in timings.items()} == {
        "before": ["convsmith", "onnxruntime"],
        "after": ["convsmith", "onnxruntime"],
    }
    engines = [row["convsmith"].engine for row in timings.values()]
    assert engines == ["convsmith", "convsmith"]
    assert timings["before"]["onnxruntime"].engine == "ONNX Runtime"
    assert all(one.runs == 3 and one.threads == 2 for r in timings.values() for one in r.values())
    assert timings["before"]["convsmith"].ratio(timings["after"]["onnxruntime"]) > 0


def test_torch_runs_modules() -> None:
    torch = pytest.importorskip("torch")
    modules = {"before": torch.nn.ReLU()}
    before = torch.get_num_threads()
    timings = networks(
        {"before": NETS["before"]}, X, runtimes=["torch", "torch channels_last"], modules=modules,
        repeats=2, threads=1,
    )["before"]  # fmt: skip
    assert [one.engine for one in timings.values()] == ["PyTorch", "PyTorch, channels_last"]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtimes": ["magic"]}, "there is no runtime 'magic'"),
        ({"repeats": 0}, "repeats 0 is less than 1"),
        ({"runtimes": ["torch"]}, "torch runs modules"),
        ({"clock": "sun"}, "there is no clock 'sun'"),
        ({"clock": "processor", "threads": 2}, "processor time of 2 threads is their sum"),
    ],
)
def test_networks_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        networks(NETS, X, **options)


def test_rounds_begin_with_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, str]] = []

    def noted(call: Any, *, clock: Any) -> float:
        order.append(call())
        return 1.0

    monkeypatch.setattr(timing, "turn", noted)
    calls: Any = {("a", "r"): lambda: ("a", "r"), ("b", "r"): lambda: ("b", "r")}
    taken = timing._in_rounds(calls, 2, 1.0, "wall")
    assert [name for name, _ in order] == ["a", "b", "b", "a"]
    assert taken == {("a", "r"): [1.0, 1.0], ("b", "r"): [1.0, 1.0]}
