"""Benches convolutions: every algorithm and every installed peer, in one interleaved run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.choice import DEFAULT_TOLERANCE, plan
from convsmith.conv.layers import convolutions
from convsmith.conv.plan import ConvPlan, aligned
from convsmith.conv.spec import LAYOUTS, ConvSpec, Layout
from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.graph.operators import Conv, DeformConv
from convsmith.kernel.peak import peak_gflops
from convsmith.kernel.target import host
from convsmith.parallel import cores_granted, limited_threads
from convsmith.results import Progress
from convsmith.runtime.bench_results import Bench, BenchLayer, BenchMachine, BenchRow
from convsmith.runtime.interleaving import CLOCKS, Clock, Samples, in_turns, one_by_one
from convsmith.runtime.peers import PEERS, Peer, PeerConvolution, installed, peer_version
from convsmith.runtime.truth import error, true_output
from convsmith.sources import load

__all__ = ["ROUNDS", "WRONG", "bench"]

Array = NDArray[np.float32]

ROUNDS: Final = 9
"""Turns of everybody, by default."""

WRONG: Final = 5e-3
"""An error, relative to the largest true value, that no convolution in float32 has.

Winograd with bad points has up to 2e-3; it is timed, with its error beside it.
"""


def bench(
    source: object,
    *,
    algorithms: Sequence[str] | None = None,
    peers: Sequence[str] | str = "all",
    threads: int | None = None,
    layout: Layout | None = None,
    rounds: int = ROUNDS,
    cold: bool = False,
    clock: Clock = "wall",
    all_layers: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    input: object = None,  # noqa: A002 - the published name
    progress: Progress | None = None,
) -> Bench:
    """Times the convolutions of a network by every algorithm, and by the peers beside them.

    All take turns on the same images, with their weights prepared and their input in memory before,
    in the layout that each asks for. Before anything is timed, its output is held against float64:
    what is wrong is reported and not timed. Candidates that this machine has not measured yet are
    measured first, and remembered.

    Args:
        source: Whatever ``convsmith.load`` reads, one :class:`~convsmith.conv.spec.ConvSpec`, or a
            sequence of them.
        algorithms: Those to time; all by default.
        peers: ``all`` that are installed, ``none``, or names.
        threads: Threads of everybody; by default :func:`convsmith.parallel.threads`.
        layout: How the images of ours lie: ``channels_first`` (the default) or ``channels_last``;
            a spec says it itself.
        rounds: Turns of everybody.
        cold: Whether to measure with evicted caches as well. The choice is then the one for weights
            that come from memory.
        clock: ``wall``; or ``processor``, the time for which this process computed: with one
            thread it leaves out how long a busy machine let it wait.
        all_layers: Whether layers that are the same convolution are timed one by one.
        tolerance: The largest error that the choice accepts, as for ``plan``.
        input: Sizes of the input, as for ``convsmith.load``.
        progress: Called layer by layer.

    Raises:
        UsageError: If a name or a number makes no sense, or there is no convolution.
        ConvsmithError: Whatever is wrong with the network.

    >>> result = bench("4@8 > conv 4 3 p1 > relu", peers="none", threads=1, rounds=1)
    >>> [(layer.name, layer.spec.activation, layer.chosen.kind) for layer in result.layers]
    [('conv1', 'relu', 'algorithm')]
    """
    chosen = _algorithms(algorithms)
    asked, missing = _peers(peers)
    if rounds < 1:
        raise UsageError(f"{rounds} rounds measure nothing", remedy="give 1 or more")
    if clock not in CLOCKS:
        raise UsageError(f"there is no clock {clock!r}", remedy="choose wall or processor")
    named, groups, left_out = _groups(source, layout, all_layers, input)
    with limited_threads(threads) as count:
        if clock == "processor" and count > 1:
            raise UsageError(
                f"processor time of {count} threads is their sum", remedy="use threads=1, or wall"
            )
        machine = _machine(asked, count)
        layers = []
        for done, (names, spec) in enumerate(groups):
            if progress is not None:
                progress(f"timing {names[0]}", done, len(groups))
            contest = _Contest(spec, chosen, asked, count, tolerance, machine.peak_gflops)
            layers.append(
                BenchLayer(
                    name=names[0], names=names, spec=spec, rows=contest.rows(rounds, cold, clock)
                )
            )
    return Bench(
        source=named,
        layout=" and ".join(sorted({spec.layout for _, spec in groups})),
        rounds=rounds,
        cold=cold,
        clock=clock,
        machine=machine,
        layers=tuple(layers),
        missing=missing,
        left_out=left_out,
    )


class _Contest:
    """One convolution and all that can run it."""

    def __init__(
        self,
        spec: ConvSpec,
        algorithms: Sequence[str],
        peers: Sequence[Peer],
        threads: int,
        tolerance: float,
        peak: float,
    ) -> None:
        self.spec, self.algorithms, self.peers = spec, algorithms, peers
        self.threads, self.tolerance, self.peak = threads, tolerance, peak
        random = np.random.default_rng(0)
        terms = math.prod(spec.weight_shape[1:])
        self.x = _image(random, spec.input_shape)
        self.out = _image(random, spec.output_shape)
        self.weights = random.standard_normal(spec.weight_shape, np.float32)
        self.weights /= np.float32(math.sqrt(terms))
        self.bias = random.standard_normal(spec.filters, np.float32) if spec.bias else None
        self.residual = _image(random, spec.output_shape) if spec.residual else None
        self.checked = sorted({*range(spec.batch)[:1], *range(spec.batch)[-1:]})
        residual = None if self.residual is None else self.residual[self.checked]
        self.truth = true_output(spec, self.x[self.checked], self.weights, self.bias, residual)

    def rows(self, rounds: int, cold: bool, clock: Clock) -> tuple[BenchRow, ...]:
        """Prepares and checks everybody, then times those that are right."""
        runs: dict[str, Callable[[], None]] = {}
        feeds: dict[str, Callable[[], None]] = {}
        rows: dict[str, BenchRow] = {}
        with ExitStack() as stack:
            for made, choice in self._plans(cold):
                row = BenchRow(
                    name=made.algorithm, kind="algorithm", tiling=str(made.tiling), chosen=choice
                )
                run, output = self._ours(made)
                rows[row.name] = self._check(row, run, output)
                runs[row.name] = run
            for peer in self.peers:
                row, made_ready = self._peer(peer, stack)
                rows[peer.name] = row
                if made_ready is not None:
                    runs[peer.name] = made_ready.run
                    feeds[peer.name] = partial(made_ready.feed, self.x)
            warm = in_turns(runs, rounds, feeds, clock)
            chilled = one_by_one(runs, rounds, host().level3, feeds, clock) if cold else {}
        return tuple(
            self._timed(row, warm.get(name), chilled.get(name)) for name, row in rows.items()
        )

    def _plans(self, cold: bool) -> Iterator[tuple[ConvPlan, bool]]:
        """The best tiling of every algorithm, the choice among them marked."""
        every = len(self.algorithms) == len(ALGORITHMS)
        taken = [name for name in self.algorithms if not ALGORITHMS[name].refuses(self.spec)]
        if not taken:
            raise UsageError(
                f"none of {', '.join(self.algorithms)} takes {self.spec}",
                remedy="add direct, which takes every convolution",
            )
        if every:
            choice = plan(self.spec, tolerance=self.tolerance, tune=True, cold=cold)
        plans = {name: plan(self.spec, algorithm=name, tune=True, cold=cold) for name in taken}
        if not every:
            fit = [made for made in plans.values() if made.error_ratio <= self.tolerance]
            choice = min(fit or plans.values(), key=lambda made: made.milliseconds or math.inf)
        plans[choice.algorithm] = choice
        for name, made in plans.items():
            yield made, name == choice.algorithm

    def _ours(self, made: ConvPlan) -> tuple[Callable[[], None], Callable[[], Array]]:
        prepared = made.prepare(self.weights, self.bias)
        x, residual, threads, out = self.x, self.residual, self.threads, self.out

        def run() -> None:
            prepared(x, out, residual=residual, members=threads)

        return run, lambda: out

    def _peer(self, peer: Peer, stack: ExitStack) -> tuple[BenchRow, PeerConvolution | None]:
        row = BenchRow(name=peer.name, kind="peer")
        reason = peer.refuses(self.spec)
        if not reason:
            try:
                stack.enter_context(peer.using(self.threads))
                made = peer.prepare(self.spec, self.weights, self.bias, self.threads)
                made.feed(self.x)
                row = self._check(row, made.run, made.result)
            except Exception as failed:  # noqa: BLE001 - whatever a peer raises, it is left out
                said = (str(failed).splitlines() or [""])[0][:200]
                reason = f"{type(failed).__name__}: {said}"
        reason = reason or row.reason
        if reason:
            return replace(row, reason=reason), None
        return row, made

    def _check(
        self, row: BenchRow, run: Callable[[], None], output: Callable[[], Array]
    ) -> BenchRow:
        self.out.fill(np.nan)  # all of ours write here: nobody is right by what another one wrote
        run()
        apart = error(output()[self.checked], self.truth)
        wrong = f"wrong: error {apart:.1e}" if apart > WRONG else ""
        return replace(row, max_error=apart, reason=wrong)

    def _timed(self, row: BenchRow, warm: Samples | None, cold: Samples | None) -> BenchRow:
        if warm is None:
            return row
        gflops = 2e-6 * self.spec.macs / max(warm.median, 1e-9)
        return replace(
            row,
            milliseconds=warm.median,
            spread=warm.spread,
            fastest=warm.fastest,
            cold_milliseconds=None if cold is None else cold.median,
            cold_spread=None if cold is None else cold.spread,
            gflops=gflops,
            share_of_peak=gflops / self.peak,
        )


def _image(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    made = aligned(math.prod(shape)).reshape(shape)
    made[...] = random.standard_normal(shape, np.float32)
    return made


def _machine(peers: Iterable[Peer], threads: int) -> BenchMachine:
    versions = {"convsmith": _version("convsmith"), "llvmlite": _version("llvmlite")}
    versions |= {peer.package: peer_version(peer) for peer in peers}
    target = host()
    return BenchMachine(
        cpu=target.cpu,
        lanes=target.lanes,
        threads=threads,
        cores=cores_granted(),
        peak_gflops=peak_gflops(threads),
        versions=versions,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _algorithms(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(ALGORITHMS)
    for name in names:
        if name not in ALGORITHMS:
            raise UsageError(
                f"there is no algorithm {name!r}", remedy=f"choose from {', '.join(ALGORITHMS)}"
            )
    if not names:
        raise UsageError("no algorithm is named", remedy="name one, or leave algorithms out")
    return tuple(dict.fromkeys(names))


def _peers(names: Sequence[str] | str) -> tuple[tuple[Peer, ...], tuple[str, ...]]:
    """Returns the peers to time, and the names of those that are not installed."""
    if isinstance(names, str):
        names = {"all": list(PEERS), "none": []}.get(names, [names])
    for name in names:
        if name not in PEERS:
            raise UsageError(
                f"there is no peer {name!r}",
                remedy=f"choose all, none, or from {', '.join(PEERS)}",
            )
    found = {name: installed(PEERS[name]) for name in names}
    there = tuple(PEERS[name] for name, here in found.items() if here)
    return there, tuple(name for name, here in found.items() if not here)


_Groups = list[tuple[tuple[str, ...], ConvSpec]]


def _groups(
    source: Any, layout: Layout | None, all_layers: bool, given: object
) -> tuple[str, _Groups, tuple[tuple[str, str], ...]]:
    """Returns the name of the source, its convolutions, and the layers that are left out."""
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(
            f"there is no layout {layout!r}", remedy=f"choose one of {', '.join(LAYOUTS)}"
        )
    left_out: list[tuple[str, str]] = []
    if isinstance(source, ConvSpec):
        source = (source,)
    if isinstance(source, Sequence) and not isinstance(source, str):
        if not all(isinstance(spec, ConvSpec) for spec in source):
            raise UsageError("not all of the sequence are specs", remedy="pass ConvSpec objects")
        specs = [spec if layout is None else replace(spec, layout=layout) for spec in source]
        layers = [(str(spec), spec) for spec in specs]
        named = layers[0][0] if len(layers) == 1 else f"{len(layers)} convolutions"
    else:
        graph = load(source, given, weights=False)
        found = convolutions(graph, layout=layout or "channels_first")
        layers = [(layer.name, layer.spec) for layer in found]
        left_out = _left_out(graph, {name for name, _ in layers})
        named = graph.source or "network"
    layers = [(name, spec) for name, spec in layers if math.prod(spec.output_shape) > 0]
    if not layers:
        raise UsageError(
            "it has no convolution to time", place=named, remedy="give a network that has one"
        )
    if all_layers:
        return named, [((name,), spec) for name, spec in layers], tuple(left_out)
    distinct: dict[ConvSpec, list[str]] = {}
    for name, spec in layers:
        distinct.setdefault(spec, []).append(name)
    return named, [(tuple(names), spec) for spec, names in distinct.items()], tuple(left_out)


def _left_out(graph: Graph, taken: set[str]) -> list[tuple[str, str]]:
    missing = []
    for node in graph.nodes:
        if node.name in taken:
            continue
        match node.op:
            case Conv(transposed=True):
                missing.append((node.name, "transposed"))
            case Conv():
                missing.append((node.name, "its input size is not known"))
            case DeformConv():
                missing.append((node.name, "deformable"))
    return missing
