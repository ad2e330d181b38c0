"""Reads the times that ``convsmith bench NETWORK -o FILE.json`` wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from convsmith.conv.layers import convolutions
from convsmith.conv.spec import ConvSpec
from convsmith.errors import ConvsmithError, DataError
from convsmith.graph import parse
from convsmith.runtime.bench_results import Bench, BenchLayer, BenchMachine, BenchRow

__all__ = ["read_bench"]

SCHEMA = "convsmith.bench/1"


def read_bench(path: str | PathLike[str]) -> Bench:
    """Reads a bench.

    Raises:
        DataError: If the file cannot be read, or is no bench.
    """
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise DataError(f"the bench cannot be read: {reason}", place=str(path)) from None
    remedy = "make one with convsmith bench NETWORK --json"
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise DataError(f"this is not a {SCHEMA}", place=str(path), remedy=remedy)
    try:
        return _bench(data)
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DataError(
            f"the bench is damaged ({type(error).__name__}: {error})",
            place=str(path),
            remedy=remedy,
        ) from None
    except ConvsmithError as error:
        raise DataError(f"the bench is damaged ({error})", place=str(path), remedy=remedy) from None


def _bench(data: dict[str, Any]) -> Bench:
    machine = {name: data["machine"][name] for name in BenchMachine.__slots__}
    bench = Bench(
        source=str(data["source"]),
        layout=str(data["layout"]),
        rounds=int(data["rounds"]),
        cold=bool(data["cold"]),
        clock=str(data["clock"]),
        machine=BenchMachine(
            cpu=str(machine["cpu"]),
            lanes=int(machine["lanes"]),
            threads=int(machine["threads"]),
            cores=int(machine["cores"]),
            peak_gflops=float(machine["peak_gflops"]),
            versions={str(k): str(v) for k, v in machine["versions"].items()},
        ),
        layers=tuple(_layer(layer) for layer in data["layers"]),
        missing=tuple(map(str, data["missing"])),
        left_out=tuple((str(x["layer"]), str(x["reason"])) for x in data["left_out"]),
    )
    for layer in bench.layers:
        layer.chosen  # noqa: B018 - there must be one
    return bench


def _layer(data: dict[str, Any]) -> BenchLayer:
    return BenchLayer(
        name=str(data["layer"]),
        names=tuple(map(str, data["layers"])),
        spec=_spec(str(data["spec"])),
        rows=tuple(_row(row) for row in data["rows"]),
    )


def _row(data: dict[str, Any]) -> BenchRow:
    def known(name: str) -> float | None:
        value = data.get(name)
        return None if value is None else float(value)

    if data["kind"] not in ("algorithm", "peer"):
        raise ValueError(f"{data['kind']!r} is no kind")
    return BenchRow(
        name=str(data["algorithm"]),
        kind=data["kind"],
        tiling=str(data.get("tiling", "")),
        milliseconds=known("milliseconds"),
        spread=known("spread"),
        fastest=known("fastest"),
        cold_milliseconds=known("cold_milliseconds"),
        cold_spread=known("cold_spread"),
        gflops=known("gflops"),
        share_of_peak=known("share_of_peak"),
        max_error=known("max_error"),
        chosen=bool(data.get("chosen", False)),
        reason=str(data.get("reason", "")),
    )


def _spec(text: str) -> ConvSpec:
    """Reads what ``str(spec)`` wrote.

    >>> text = "3@32 > conv 8 3 p1 + - > relu channels_last"
    >>> str(_spec(text)) == text
    True
    """
    last = text.removesuffix(" channels_last")
    plain = last.replace(" + -", "", 1)
    spec = convolutions(parse(plain))[0].spec
    if last != text:
        spec = replace(spec, layout="channels_last")
    return spec if plain == last else replace(spec, residual=True)
