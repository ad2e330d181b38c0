"""The choice: measured once, remembered, never wrong however the file looks."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.random_convolutions import data_for

import convsmith as cs
from convsmith.acceleration import planned
from convsmith.conv import choice, measuring
from convsmith.conv.choice import EXACT, choice_store, plan, tune
from convsmith.conv.measuring import Measurement, name_of, outgrows_caches
from convsmith.conv.plan import ConvPlan, Prepared, candidates
from convsmith.conv.spec import ConvSpec
from convsmith.errors import UnsupportedOperatorError, UsageError
from convsmith.kernel.target import host
from convsmith.parallel import limited_threads
from convsmith.runtime.lowering import layers

SPEC = ConvSpec(size=(12, 12), channels=8, filters=8, kernel=(3, 3), padding=((1, 1), (1, 1)))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, so that nothing is known and nothing is left behind."""
    monkeypatch.setenv("CONVSMITH_CACHE", str(tmp_path))
    monkeypatch.setattr(measuring, "_TURN", 0.0005)
    return tmp_path


def stored(folder: Path) -> list[Path]:
    return sorted((folder / "choices").glob("*.json"))


def test_tuning_remembers(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = tune(SPEC)
    times = [found.milliseconds for found in measured]
    assert times == sorted(times)
    assert len(stored(own_folder)) == 1
    monkeypatch.setattr(choice, "_measure", None)  # measuring again would be an error
    made = plan(SPEC, tune=True)
    assert made.milliseconds is not None
    assert times[0] <= made.milliseconds <= choice._EVEN * times[0]
    assert (made.algorithm, str(made.tiling), made.milliseconds) in {
        (found.algorithm, found.tiling, found.milliseconds) for found in measured
    }


def test_a_wrong_prediction_keeps_no_algorithm_from_being_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ConvSpec(
        size=(14, 14), channels=32, filters=32, kernel=(3, 3), stride=(2, 2), groups=32,
        padding=((1, 1), (1, 1)),
    )  # fmt: skip
    possible = [made for made in candidates(spec) if made.error_ratio <= 20]
    possible.sort(key=lambda made: -made.predicted_effort)
    efforts = {made.algorithm: made.predicted_effort for made in possible}  # the least of each
    far = {name for name, effort in efforts.items() if effort > 2.5 * min(efforts.values())}
    assert far  # a prediction that leaves them behind is what this is about
    monkeypatch.setattr(choice, "_DOUBTFUL", float("inf"))
    assert {found.algorithm for found in tune(spec)} == set(efforts)


def test_hopeless_algorithms_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And planning again finds that nothing is missing; asked for by name, they have their race."""
    ran: list[str] = []
    real = measuring._Track.enter

    def enter(self: measuring._Track, made: ConvPlan) -> None:
        ran.append(made.algorithm)
        real(self, made)

    def once(self: measuring._Track, prepared: Prepared) -> float:
        return 4.0 if prepared.plan.algorithm == "direct" else 1.0

    monkeypatch.setattr(measuring._Track, "enter", enter)
    monkeypatch.setattr(measuring._Track, "once", once)
    monkeypatch.setattr(choice, "_UNLIKELY", float("inf"))
    monkeypatch.setattr(choice, "_DOUBTFUL", float("inf"))
    tilings = sum(made.algorithm == "direct" for made in candidates(SPEC))
    assert tilings > 1
    assert plan(SPEC, tune=True).algorithm != "direct"
    assert ran.count("direct") == 1
    assert len(ran) > 2
    count = len(ran)
    choice._decided.clear()
    plan(SPEC, tune=True)
    assert len(ran) == count
    plan(SPEC, algorithm="direct", tune=True)
    assert ran[count:] == ["direct"] * (tilings - 1)


def test_cold_runs_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = time.perf_counter, itertools.count(1)

    def clock() -> float:  # the first two runs of the second candidate end nine seconds late
        late = next(calls) in (4, 6)
        return real() + 9 * late

    monkeypatch.setattr(time, "perf_counter", clock)
    measured = tune(SPEC)
    assert next(calls) > 6
    assert len(measured) > 1
    assert max(found.milliseconds for found in measured) < 5000


def test_weights_from_memory_have_a_choice_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    races: list[ConvSpec] = []

    def race(spec: ConvSpec, likely: list[ConvPlan], progress: object) -> dict[str, Measurement]:
        races.append(spec)
        return {
            name_of(made): Measurement(
                algorithm=made.algorithm, tiling=str(made.tiling), milliseconds=1.0 + index,
                cold_milliseconds=9.0 - index,
            )
            for index, made in enumerate(likely)
        }  # fmt: skip

    monkeypatch.setattr(choice, "race", race)
    warm, cold = plan(SPEC, tune=True), plan(SPEC, tune=True, cold=True)
    assert len(races) == 1
    assert warm.milliseconds == 1.0
    assert cold.milliseconds is not None
    assert cold.milliseconds < 9.0
    assert name_of(warm) != name_of(cold)
    assert name_of(plan(SPEC, cold=True)) == name_of(cold)


@pytest.mark.parametrize("cache", [1 << 10, 1 << 14], ids=["smaller", "larger"])
def test_copies_of_weights_take_turns_until_the_caches_are_full(
    cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_last_cache", lambda: cache)
    track = measuring._Track(SPEC)
    for made in candidates(SPEC)[:3]:
        track.enter(made)
    names = list(track.ready)
    used: dict[int, set[int]] = {}
    real = Prepared.run_addresses

    def run(self: Prepared, *args: int, **more: int) -> None:
        used.setdefault(self._code.address(self.plan.lowered.functions[0]), set()).add(
            self.addresses[0]
        )
        real(self, *args, **more)

    monkeypatch.setattr(Prepared, "run_addresses", run)
    times = track.cold(dict.fromkeys(names, 1.0) | {"out of the race": 2.5})
    assert times["out of the race"] == 2.5
    assert all(0 < times[name] < 1.0 for name in names)
    for name in names:
        prepared = track.ready[name]
        places = used[prepared._code.address(prepared.plan.lowered.functions[0])]
        assert len(places) == min(-(-3 * cache // (2 * prepared.weight_bytes)), 64)


def test_few_weights_cost_nothing_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    track = measuring._Track(SPEC)
    for made in candidates(SPEC)[:2]:
        track.enter(made)
    monkeypatch.setattr(track, "once", None)  # running would be an error
    assert track.cold(dict.fromkeys(track.ready, 1.0)) == dict.fromkeys(track.ready, 1.0)


def test_networks_outgrow_the_caches_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_last_cache", lambda: 1 << 20)
    assert not outgrows_caches(1 << 19)
    assert outgrows_caches((1 << 19) + 4)
    monkeypatch.undo()
    assert outgrows_caches(1 << 40)
    assert not outgrows_caches(1 << 20)


def test_a_network_is_planned_for_where_its_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def spy(spec: ConvSpec, **options: Any) -> ConvPlan:
        asked.append(options["cold"])
        return plan(spec, **options)

    monkeypatch.setattr(layers, "plan", spy)
    monkeypatch.setattr(planned, "plan", spy)
    conv = torch.nn.Conv2d(8, 8, 3, padding=1)
    for cache, cold in ((1 << 20, False), (1 << 10, True)):
        monkeypatch.setattr(measuring, "_last_cache", lambda size=cache: size)
        cs.compile(conv, input=(1, 8, 6, 6), tune=False, layout="channels_first")
        cs.accelerate(torch.nn.Sequential(conv), (1, 8, 6, 6), tune=False)
        assert set(asked) == {cold}
        assert len(asked) >= 2
        asked.clear()


def test_a_copy_has_weights_of_its_own() -> None:
    data = data_for(SPEC)
    prepared = plan(SPEC, algorithm="direct").prepare(data.weights, data.bias)
    copy = prepared.copied()
    expected = prepared(data.x)
    prepared._weights[:] = np.nan
    assert np.array_equal(copy(data.x), expected)
    assert np.isnan(prepared(data.x)).any()
    assert copy.addresses[0] % 64 == 0
    assert copy.weight_bytes == prepared.weight_bytes


def test_of_even_times_what_is_in_the_most_pieces_is_chosen() -> None:
    """A slow thread leaves more of many pieces to the others."""
    spec = ConvSpec(
        size=(56, 56), channels=64, filters=64, kernel=(3, 3), padding=((1, 1), (1, 1))
    )  # fmt: skip
    made = {str(one.tiling): one for one in candidates(spec) if one.algorithm == "winograd"}
    pieces = {name: min(n for _, n in one.lowered.phases(1)) for name, one in made.items()}
    few, *_, many = sorted(pieces, key=lambda name: pieces[name])
    assert pieces[few] < pieces[many]
    timed = [replace(made[few], milliseconds=1.0), replace(made[many], milliseconds=1.02)]
    with limited_threads(4):
        assert choice._preferred(timed) == timed[1]
        assert choice._preferred([timed[0], replace(timed[1], milliseconds=1.04)]) == timed[0]
    with limited_threads(1):
        assert choice._preferred(timed) == timed[0]
    assert choice._preferred([made[few], made[many]]) is None


def test_another_process_remembers_too(own_folder: Path) -> None:
    tune(SPEC)
    first = plan(SPEC)
    code = (
        "from convsmith.conv import choice\n"
        "from convsmith.conv.spec import ConvSpec\n"
        "choice._measure = None\n"
        f"made = choice.plan({SPEC!r}, tune=True)\n"
        "print(made.algorithm, made.tiling, made.milliseconds)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CONVSMITH_CACHE": str(own_folder)},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == f"{first.algorithm} {first.tiling} {first.milliseconds}"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"measured": 3}', b'{"measured": [{"algorithm": "direct"}]}', b"\xff\x00"],
)
@pytest.mark.parametrize("whole", [False, True], ids=["in the file", "in the blob"])
def test_a_damaged_file_is_no_knowledge(own_folder: Path, content: bytes, whole: bool) -> None:
    tune(SPEC)
    (path,) = stored(own_folder)
    if whole:
        assert choice_store().write(path.stem, content)
    else:
        path.write_bytes(content)
    choice._decided.clear()
    made = plan(SPEC)
    assert made.milliseconds is None
    assert made == min(candidates(SPEC), key=lambda p: _order(p))


def _order(made: ConvPlan) -> float:
    return made.predicted_effort if made.error_ratio <= choice.DEFAULT_TOLERANCE else np.inf


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CONVSMITH_CACHE", str(tmp_path / "file"))
    assert plan(SPEC, tune=True).milliseconds is None or plan(SPEC).algorithm


def test_the_tolerance_restricts_the_candidates() -> None:
    ratios = {made.error_ratio for made in candidates(SPEC)}
    assert max(ratios) > 2
    for tolerance in (1.0, 2.0, 5.0):
        assert plan(SPEC, tolerance=tolerance).error_ratio <= tolerance
        tune(SPEC, tolerance=tolerance)
        assert plan(SPEC, tolerance=tolerance).error_ratio <= tolerance
    tune(SPEC)  # what is too inexact is known now, and still not taken
    assert plan(SPEC, tolerance=1.0).error_ratio == 1.0


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        ConvSpec(size=(9, 9), channels=16, filters=16, kernel=(3, 3), groups=16),
        ConvSpec(size=(16, 16), channels=32, filters=32, kernel=(1, 1)),
    ],
    ids=["dense", "depthwise", "pointwise"],
)
def test_exact_sums_the_products_of_the_definition(spec: ConvSpec) -> None:
    made = plan(spec, algorithm="exact")
    assert made.algorithm in EXACT
    for one in candidates(spec):
        if one.algorithm in EXACT:
            assert one.error_ratio == 1.0, one
            # Not more; fewer where products with padding are left out.
            assert 0.7 * spec.macs < one.operations.mults <= spec.macs, one


def test_names_that_are_no_algorithm_and_tolerances_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match=r"no algorithm 'fast'; choose auto, exact or one of "):
        plan(SPEC, algorithm="fast")
    strided = ConvSpec(size=(9, 9), channels=8, filters=8, kernel=(3, 3), stride=(3, 3))
    with pytest.raises(
        UnsupportedOperatorError, match=r"winograd does not take .*: its tiles need"
    ):
        plan(strided, algorithm="winograd")
    for tolerance in (0.5, float("nan"), -1):
        with pytest.raises(UsageError, match=f"tolerance {tolerance} is below 1"):
            plan(SPEC, tolerance=tolerance)


def test_deciding_again_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = plan(SPEC)
    monkeypatch.setattr(choice, "choice_store", None)
    assert plan(SPEC) is first
    with limited_threads(7), pytest.raises(TypeError):  # that is another question
        plan(SPEC)


def test_a_new_measurement_replaces_what_was_decided() -> None:
    assert plan(SPEC).milliseconds is None
    tune(SPEC)
    assert plan(SPEC).milliseconds is not None


def test_other_machines_are_predicted_never_measured(own_folder: Path) -> None:
    made = plan(SPEC, tune=True, target=host().with_lanes(4))
    assert made.target.lanes == 4
    assert made.milliseconds is None
    assert stored(own_folder) == []


def test_no_images_are_planned_like_one() -> None:
    made = plan(SPEC.with_batch(0), tune=True)
    assert made.spec.batch == 0
    assert made.algorithm == plan(SPEC).algorithm


def test_the_prediction_prefers_what_saves_most_where_sums_dominate() -> None:
    large = ConvSpec(
        size=(56, 56), channels=128, filters=128, kernel=(3, 3), padding=((1, 1), (1, 1))
    )
    assert plan(large).algorithm == "winograd"
    by_name = {made.algorithm: made.predicted_effort for made in candidates(large)}
    assert by_name["winograd"] < by_name["direct"]
