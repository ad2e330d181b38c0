"""Runs a network on data and says what came out, and how long it took."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.choice import DEFAULT_TOLERANCE
from convsmith.errors import DataError, UsageError
from convsmith.graph import Graph, Shape
from convsmith.parallel import limited_threads
from convsmith.results import Progress, Result
from convsmith.runtime.compiling import compile as compiled
from convsmith.runtime.program import Profile, Program
from convsmith.runtime.weights import random_weights
from convsmith.sources import load
from convsmith.sources.data import read_data

__all__ = ["OutputSummary", "Run", "Top", "run"]

Array = NDArray[Any]
Inputs = tuple[dict[str, Array], tuple[str, ...]]

_TOP: Final = 5
_SHOWN: Final = 16  # images whose best classes are named
_LARGEST: Final = 16 << 30  # bytes of arrays in one file


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """The largest elements of one row of an output: the best classes of one image.

    Attributes:
        image: Its name.
        places: Their indices, the largest element first.
        values: The elements.
    """

    image: str
    places: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSummary:
    """What one output holds, over all images.

    Attributes:
        name: Its public name.
        shape: Of the first batch.
        dtype: NumPy's name of its type.
        least: The smallest element that is a finite number; ``None`` if there is none.
        greatest: The largest one.
        mean: Of the finite elements.
        infinite: How many elements are infinite or no numbers.
        top: Per image, the best classes, if it looks like a classification.
    """

    name: str
    shape: Shape
    dtype: str
    least: float | None
    greatest: float | None
    mean: float | None
    infinite: int
    top: tuple[Top, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the summary as JSON-ready data."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "least": self.least,
            "greatest": self.greatest,
            "mean": self.mean,
            "infinite": self.infinite,
            "top": [
                {"image": one.image, "places": list(one.places), "values": list(one.values)}
                for one in self.top
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Result):
    """What a network made of some data.

    Attributes:
        source: The network.
        data: Where the inputs came from; empty for random ones.
        images: How many there were.
        skipped: What could not be used, each as ``NAME: reason``.
        weights: ``network``, or ``random`` where the network had none.
        threads: How many threads it used.
        layout: How images lie inside.
        inputs: Sizes by name, of the first batch.
        outputs: What came out.
        runs: Milliseconds of every timed run on the first batch.
        profile: The program step by step, if that was asked for.
        arrays: The outputs themselves, if they were kept.
    """

    source: str
    data: str
    images: int
    skipped: tuple[str, ...]
    weights: str
    threads: int
    layout: str
    inputs: Mapping[str, Shape]
    outputs: tuple[OutputSummary, ...]
    runs: tuple[float, ...] = ()
    profile: Profile | None = None
    arrays: Mapping[str, Array] = field(default_factory=dict, compare=False, repr=False)

    @property
    def milliseconds(self) -> float | None:
        """The median run."""
        return float(np.median(self.runs)) if self.runs else None

    @property
    def spread(self) -> float | None:
        """The interquartile range of the runs."""
        if not self.runs:
            return None
        low, high = np.percentile(self.runs, (25, 75))
        return float(high - low)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON-ready data (``convsmith.run/1``)."""
        return {
            "schema": "convsmith.run/1",
            "source": self.source,
            "data": self.data or None,
            "images": self.images,
            "skipped": list(self.skipped),
            "weights": self.weights,
            "threads": self.threads,
            "layout": self.layout,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": [output.to_dict() for output in self.outputs],
            "runs": len(self.runs),
            "milliseconds": self.milliseconds,
            "spread": self.spread,
            "fastest": min(self.runs, default=None),
            "program": None if self.profile is None else self.profile.to_dict(),
        }


def run(
    source: object,
    *,
    data: str | Path | None = None,
    input: object = None,  # noqa: A002 - the published name
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    limit: int | None = None,
    batch: int | None = None,
    runs: int = 10,
    threads: int | None = None,
    tune: bool = True,
    tolerance: float = DEFAULT_TOLERANCE,
    profile: bool = False,
    keep: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Compiles a network, runs it on data or random numbers, and summarises what came out.

    Args:
        source: Whatever ``convsmith.load`` reads.
        data: Images as :func:`convsmith.sources.data.read_data` reads them; for a network of
            several inputs a ``.npz`` file with an array for each. Random numbers without it, and
            random weights where the network has none.
        input: Sizes of the input, as for ``convsmith.load``.
        mean: Subtracted from the images, per channel.
        std: What they are then divided by.
        limit: The most images.
        batch: Images of one run; by default what the network says.
        runs: How often the first batch is timed; 0 for not at all.
        threads: How many threads; by default :func:`convsmith.parallel.threads`.
        tune: Whether to measure what this machine has not measured.
        tolerance: As for ``convsmith.compile``.
        profile: Whether to time every step too.
        keep: Whether the result holds the outputs themselves.
        progress: Called batch by batch.

    Raises:
        DataError: If the data does not fit, or the network has no weights and there is data.
        UsageError: If a number makes no sense.

    >>> result = run("1@4 > conv 2 3 > relu", runs=0, tune=False)
    >>> result.weights, result.outputs[0].shape, result.outputs[0].least >= 0
    ('random', (1, 2, 2, 2), True)
    """
    if runs < 0:
        raise UsageError(f"{runs} runs make no sense", remedy="give 0 or more")
    graph = source if isinstance(source, Graph) and input is None else load(source, input=input)
    lacking = any(c.data is None for c in graph.constants.values())
    if lacking and data is not None:
        raise DataError(
            "it has no weights, only shapes: what it makes of data means nothing",
            place=graph.source,
            remedy="load a trained network, or leave the data out and run on random numbers",
        )
    if lacking:
        graph = random_weights(graph)
    with limited_threads(threads) as count:
        program = compiled(graph, tune=tune, tolerance=tolerance, progress=progress)
        skipped: list[str] = []
        gathered = _Gathered(keep)
        first: dict[str, Array] = {}
        images = 0
        for done, (inputs, names) in enumerate(
            _batches(graph, data, mean, std, limit, batch, skipped)
        ):
            if progress is not None:
                progress("running", done, 0)
            gathered.add(program.run(inputs), names)
            first = first or inputs
            images += len(names)
        taken = _timed(program, first, runs)
        measured = program.profile(first) if profile else None
        layout = program.layout
    return Run(
        source=graph.source,
        data="" if data is None else str(data),
        images=images,
        skipped=tuple(skipped),
        weights="random" if lacking else "network",
        threads=count,
        layout=layout,
        inputs={name: array.shape for name, array in first.items()},
        outputs=gathered.summaries(),
        runs=taken,
        profile=measured,
        arrays=gathered.arrays(),
    )


def _timed(program: Program, inputs: Mapping[str, Array], runs: int) -> tuple[float, ...]:
    taken = []
    for _ in range(runs + 1 if runs else 0):
        began = perf_counter()
        program.run(inputs)
        taken.append(1e3 * (perf_counter() - began))
    return tuple(taken[1:])  # the first brings weights into the caches


# What goes in --------------------------------------------------------------------------


def _batches(
    graph: Graph,
    data: str | Path | None,
    mean: Sequence[float],
    std: Sequence[float],
    limit: int | None,
    batch: int | None,
    skipped: list[str],
) -> Iterator[Inputs]:
    """Yields the inputs of every run, with the names of its images."""
    if data is None:
        yield _random(graph, batch)
        return
    if len(graph.inputs) != 1:
        yield _from_file(graph, Path(data))
        return
    (value,) = graph.inputs
    if value.dtype != "float32" or len(value.shape) < 3:
        yield _from_file(graph, Path(data))
        return
    found = read_data(
        data,
        shape=value.shape[1:],
        batch=batch or max(value.shape[0], 1),
        mean=mean,
        std=std,
        limit=limit,
    )
    for group in found:
        yield {value.name: group.images}, group.names
    skipped += found.skipped


def _random(graph: Graph, batch: int | None) -> Inputs:
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for value in graph.inputs:
        shape = value.shape if batch is None else (batch, *value.shape[1:])
        kind = np.dtype(value.dtype)
        if kind.kind == "f":
            inputs[value.name] = random.standard_normal(shape).astype(kind)
        else:
            inputs[value.name] = np.zeros(shape, kind)
    size = next(iter(inputs.values())).shape[0] if inputs else 0
    return inputs, tuple(f"random {index}" for index in range(size))


def _from_file(graph: Graph, path: Path) -> Inputs:
    """Reads one array per input, as they are."""
    names = [value.name for value in graph.inputs]
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > _LARGEST:
                raise DataError(f"its arrays take {size:,} bytes", place=str(path))
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in names if name in file.files}
        elif len(names) == 1 and path.suffix.lower() == ".npy":
            found = {names[0]: np.load(path, allow_pickle=False, mmap_mode="r")}
        else:
            raise DataError(
                f"the network takes {', '.join(names)}",
                place=str(path),
                remedy="give a .npz file with an array of that name for each",
            )
    except FileNotFoundError:
        raise DataError("there is no such file", place=str(path), remedy="check the name") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"it cannot be read ({error})",
            place=str(path),
            remedy="save it again with numpy.save or numpy.savez",
        ) from None
    for name in names:
        if name not in found:
            raise DataError(
                f"there is no array {name!r} in it",
                place=str(path),
                remedy="name the arrays like the inputs",
            )
    array = found[names[0]]
    size = array.shape[0] if array.ndim else 1
    return found, tuple(f"row {index}" for index in range(size))


# What comes out ------------------------------------------------------------------------


class _Gathered:
    """Numbers about outputs, batch by batch."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self._kept: dict[str, list[Array]] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    def add(self, made: Mapping[str, Array], names: Sequence[str]) -> None:
        for name, array in made.items():
            if self.keep:
                self._kept.setdefault(name, []).append(array)
            row = self._rows.setdefault(
                name,
                {"shape": array.shape, "dtype": array.dtype.name, "least": None, "greatest": None,
                 "sum": 0.0, "count": 0, "infinite": 0, "top": []},
            )  # fmt: skip
            finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array.ravel()
            row["infinite"] += array.size - finite.size
            if finite.size:
                least, greatest = float(finite.min()), float(finite.max())
                row["least"] = least if row["least"] is None else min(least, row["least"])
                row["greatest"] = (
                    greatest if row["greatest"] is None else max(greatest, row["greatest"])
                )
                row["sum"] += float(finite.sum(dtype=np.float64))
                row["count"] += finite.size
            if array.dtype.kind == "f" and array.size and array.size == array[:1].size * len(names):
                self._best(row["top"], array, names)

    @staticmethod
    def _best(top: list[Top], array: Array, names: Sequence[str]) -> None:
        rows = array.reshape(len(names), -1)
        if rows.shape[1] <= _TOP or sum(size > 1 for size in array.shape[1:]) != 1:
            return
        for name, row in zip(names, rows, strict=True):
            if len(top) == _SHOWN:
                return
            if not np.isfinite(row).all():
                continue
            places = np.argsort(-row, kind="stable")[:_TOP]
            values = tuple(float(value) for value in row[places])
            top.append(Top(image=name, places=tuple(int(p) for p in places), values=values))

    def summaries(self) -> tuple[OutputSummary, ...]:
        return tuple(
            OutputSummary(
                name=name,
                shape=row["shape"],
                dtype=row["dtype"],
                least=row["least"],
                greatest=row["greatest"],
                mean=row["sum"] / row["count"] if row["count"] else None,
                infinite=row["infinite"],
                top=tuple(row["top"]),
            )
            for name, row in self._rows.items()
        )

    def arrays(self) -> dict[str, Array]:
        """The outputs of all batches; where sizes differ from image to image, numbered."""
        found: dict[str, Array] = {}
        for name, parts in self._kept.items():
            if len(parts) == 1:
                found[name] = parts[0]
            elif len({part.shape[1:] for part in parts}) == 1 and parts[0].ndim:
                found[name] = np.concatenate(parts)
            else:
                found.update({f"{name}.{index}": part for index, part in enumerate(parts)})
        return found
