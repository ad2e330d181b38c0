"""A bench with numbers that a hand can check, made without measuring."""

from __future__ import annotations

from convsmith.conv.spec import ConvSpec
from convsmith.runtime.bench_results import Bench, BenchLayer, BenchMachine, BenchRow

__all__ = ["made_bench"]


def _row(name: str, milliseconds: float, spec: ConvSpec, **more: object) -> BenchRow:
    gflops = 2e-6 * spec.macs / milliseconds
    return BenchRow(
        name=name,
        milliseconds=milliseconds,
        spread=milliseconds / 10,
        fastest=milliseconds / (2 if more["kind"] == "algorithm" else 1),
        gflops=gflops,
        share_of_peak=gflops / 100,
        max_error=1e-6,
        **more,  # type: ignore[arg-type]  # tests pass what belongs there
    )


def made_bench(*, layers: int = 2, name: str = "conv", cold: bool = False) -> Bench:
    """Returns ``layers`` distinct convolutions; the first occurs three times.

    Ours takes 1, 2, 3, ... ms (winograd; direct four times as long), torch 2 ms everywhere, ncnn
    4 ms but only the first layer, and MNN is wrong everywhere. Cold is twice as long for ours and
    the same for the peers.
    """
    made = []
    for index in range(layers):
        spec = ConvSpec(
            size=(64, 64), channels=64, filters=64 + index, kernel=(3, 3), padding=((1, 1), (1, 1))
        )
        ours = 1.0 + index
        chilled = {"cold_milliseconds": 2 * ours, "cold_spread": 0.0} if cold else {}
        same = {"cold_milliseconds": 2.0, "cold_spread": 0.0} if cold else {}
        rows = [
            _row("direct", 4 * ours, spec, kind="algorithm", tiling="tile 14x2"),
            _row("winograd", ours, spec, kind="algorithm", tiling="4x4", chosen=True, **chilled),
            _row("torch", 2.0, spec, kind="peer", **same),
        ]
        if index == 0:
            rows.append(_row("ncnn", 4.0, spec, kind="peer"))
        rows.append(BenchRow(name="MNN", kind="peer", max_error=0.5, reason="wrong: error 5.0e-01"))
        first = f"{name}{index + 1}"
        names = (first, f"{first}b", f"{first}c") if index == 0 else (first,)
        made.append(BenchLayer(name=first, names=names, spec=spec, rows=tuple(rows)))
    machine = BenchMachine(
        cpu="znver4", lanes=16, threads=2, cores=4, peak_gflops=100.0,
        versions={"convsmith": "0", "torch": "1"},
    )  # fmt: skip
    return Bench(
        source=f"{name}.onnx", layout="channels_first", rounds=9, cold=cold,
        clock="wall", machine=machine,
        layers=tuple(made), missing=("openvino",), left_out=(("up1", "transposed"),),
    )  # fmt: skip
