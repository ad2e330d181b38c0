"""What a bench finds: per layer, what every algorithm and every peer took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from convsmith.conv.spec import ConvSpec
from convsmith.results import Result

__all__ = ["Bench", "BenchLayer", "BenchMachine", "BenchRow", "BenchTotal", "geometric_mean"]

Kind = Literal["algorithm", "peer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One algorithm or peer on one layer.

    Attributes:
        name: Its name.
        kind: ``algorithm`` (ours) or ``peer``.
        tiling: How the algorithm cuts its work; nothing for a peer.
        milliseconds: The median of its turns; ``None`` if it was not timed.
        spread: The interquartile range of its turns.
        fastest: The fastest turn, in milliseconds.
        cold_milliseconds: The median of runs with evicted caches, if they were asked for.
        cold_spread: Their interquartile range.
        gflops: Effective: the floating-point operations of direct convolution over the time.
        share_of_peak: Of the machine's measured peak; above 1 is possible, with fewer operations.
        max_error: The largest difference from float64 over the largest true value.
        chosen: Whether this is what ``plan`` chooses.
        reason: Why it was not timed.
    """

    name: str
    kind: Kind
    tiling: str = ""
    milliseconds: float | None = None
    spread: float | None = None
    fastest: float | None = None
    cold_milliseconds: float | None = None
    cold_spread: float | None = None
    gflops: float | None = None
    share_of_peak: float | None = None
    max_error: float | None = None
    chosen: bool = False
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data."""
        data = {name: getattr(self, name) for name in BenchRow.__slots__}
        data["algorithm"] = data.pop("name")
        error = data["max_error"]
        data["max_error"] = error if error is None or math.isfinite(error) else None
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLayer:
    """One convolution, and all that ran it.

    Attributes:
        name: The first layer that it is.
        names: All of them.
        spec: The convolution.
        rows: Algorithms first, then peers.
    """

    name: str
    names: tuple[str, ...]
    spec: ConvSpec
    rows: tuple[BenchRow, ...]

    @property
    def count(self) -> int:
        """How many layers of the network are this convolution."""
        return len(self.names)

    @property
    def chosen(self) -> BenchRow:
        """What ``plan`` chooses."""
        return next(row for row in self.rows if row.chosen)

    @property
    def peers(self) -> tuple[BenchRow, ...]:
        """The peers that were timed."""
        return tuple(r for r in self.rows if r.kind == "peer" and r.milliseconds is not None)

    @property
    def best_peer(self) -> BenchRow | None:
        """The fastest peer."""
        return min(self.peers, key=_time, default=None)

    @property
    def ratio(self) -> float | None:
        """The time of the fastest peer over ours: above 1, ours is faster."""
        best = self.best_peer
        return None if best is None else _time(best) / _time(self.chosen)

    @property
    def fastest_ratio(self) -> float | None:
        """The same of the fastest turns: what is left when the machine is busy."""
        times = [row.fastest for row in self.peers if row.fastest is not None]
        ours = self.chosen.fastest
        return min(times) / ours if times and ours else None

    @property
    def cold_ratio(self) -> float | None:
        """The same of the medians with cold caches; the fastest peer may be another one."""
        times = [r.cold_milliseconds for r in self.peers if r.cold_milliseconds is not None]
        ours = self.chosen.cold_milliseconds
        return min(times) / ours if times and ours else None

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data."""
        best = self.best_peer
        return {
            "layer": self.name,
            "layers": list(self.names),
            "count": self.count,
            "spec": str(self.spec),
            "flops": 2 * self.spec.macs,
            "rows": [row.to_dict() for row in self.rows],
            "chosen": self.chosen.name,
            "peers": {row.name: row.milliseconds for row in self.peers},
            "best_peer": None if best is None else best.name,
            "ratio": self.ratio,
            "fastest_ratio": self.fastest_ratio,
            "cold_ratio": self.cold_ratio,
        }


def _time(row: BenchRow) -> float:
    return math.inf if row.milliseconds is None else row.milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTotal:
    """All layers of the network that a peer takes, summed.

    Attributes:
        name: The peer; ``the fastest each`` for the fastest peer of every layer.
        milliseconds: Its sum over all layers, each as often as it occurs.
        ours: Our sum over the same layers.
        layers: How many of the network's layers it took.
        of: How many there are.
    """

    name: str
    milliseconds: float
    ours: float
    layers: int
    of: int

    @property
    def ratio(self) -> float:
        """Its sum over ours: above 1, ours is faster."""
        return self.milliseconds / self.ours

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data."""
        return {
            **{name: getattr(self, name) for name in BenchTotal.__slots__},
            "ratio": self.ratio,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchMachine:
    """Where and with what was measured.

    Attributes:
        cpu: LLVM's name of the processor.
        lanes: float32 elements of a vector.
        threads: Threads of everybody.
        cores: Cores that this process is granted.
        peak_gflops: Measured, on these threads.
        versions: Of ours and of the peers.
    """

    cpu: str
    lanes: int
    threads: int
    cores: int
    peak_gflops: float
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data."""
        data = {name: getattr(self, name) for name in BenchMachine.__slots__}
        return {**data, "versions": dict(self.versions)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench(Result):
    """Convolutions, timed by every algorithm and peer in one interleaved run.

    Attributes:
        source: The network, or what it was called.
        layout: How the images of ours lie; both, if some lie so and some so.
        rounds: Turns of everybody.
        cold: Whether cold caches were measured too.
        clock: Whether milliseconds are ``wall`` time or ``processor`` time.
        machine: Where.
        layers: The convolutions.
        missing: Peers that are not installed.
        left_out: Layers that are no convolution of this engine, with the reason.
    """

    source: str
    layout: str
    rounds: int
    cold: bool
    clock: str
    machine: BenchMachine
    layers: tuple[BenchLayer, ...]
    missing: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def milliseconds(self) -> float:
        """Ours, summed over all layers of the network."""
        return sum(layer.count * _time(layer.chosen) for layer in self.layers)

    @property
    def totals(self) -> tuple[BenchTotal, ...]:
        """The sums of every peer, and of the fastest peer of each layer, beside ours."""
        names = dict.fromkeys(row.name for layer in self.layers for row in layer.peers)
        totals = []
        for name in names:
            ran = [
                (layer, _time(row)) for layer in self.layers for row in layer.peers
                if row.name == name
            ]  # fmt: skip
            totals.append(self._total(name, ran))
        best = [(layer, _time(b)) for layer in self.layers if (b := layer.best_peer) is not None]
        if len(names) > 1:
            totals.append(self._total("the fastest each", best))
        return tuple(totals)

    def _total(self, name: str, ran: list[tuple[BenchLayer, float]]) -> BenchTotal:
        return BenchTotal(
            name=name,
            milliseconds=sum(layer.count * taken for layer, taken in ran),
            ours=sum(layer.count * _time(layer.chosen) for layer, _ in ran),
            layers=sum(layer.count for layer, _ in ran),
            of=sum(layer.count for layer in self.layers),
        )

    @property
    def geometric_mean(self) -> float | None:
        """Of the ratios to the fastest peer, every convolution once."""
        return geometric_mean(layer.ratio for layer in self.layers)

    @property
    def fastest_geometric_mean(self) -> float | None:
        """The same of the fastest turns."""
        return geometric_mean(layer.fastest_ratio for layer in self.layers)

    @property
    def cold_geometric_mean(self) -> float | None:
        """The same with cold caches."""
        return geometric_mean(layer.cold_ratio for layer in self.layers)

    @property
    def worst(self) -> BenchLayer | None:
        """The layer with the least ratio to the fastest peer."""
        return min(
            (layer for layer in self.layers if layer.ratio is not None),
            key=lambda layer: layer.ratio or 0.0,
            default=None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON-ready data."""
        worst = self.worst
        return {
            "schema": "convsmith.bench/1",
            "source": self.source,
            "layout": self.layout,
            "rounds": self.rounds,
            "cold": self.cold,
            "clock": self.clock,
            "machine": self.machine.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
            "milliseconds": self.milliseconds,
            "totals": [total.to_dict() for total in self.totals],
            "geometric_mean": self.geometric_mean,
            "fastest_geometric_mean": self.fastest_geometric_mean,
            "cold_geometric_mean": self.cold_geometric_mean,
            "worst": None if worst is None else worst.name,
            "missing": list(self.missing),
            "left_out": [{"layer": layer, "reason": reason} for layer, reason in self.left_out],
        }


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Returns the geometric mean of the ratios that there are.

    >>> geometric_mean([2.0, None, 8.0]), geometric_mean([None])
    (4.0, None)
    """
    known = [ratio for ratio in ratios if ratio is not None and ratio > 0]
    return math.prod(known) ** (1 / len(known)) if known else None
