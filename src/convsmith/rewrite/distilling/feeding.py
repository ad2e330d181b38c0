"""Batches to train on and batches to judge by, the same again in every run.

An epoch draws from a random stream of its own, which depends on the seed and on its number alone.
So a loader that shuffles or augments by the global generators yields the same in a resumed run,
and a position in the data is two numbers: the epoch, and how many batches of it are done.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch

from convsmith.errors import DataError, UsageError
from convsmith.graph import Graph
from convsmith.rewrite.distilling.inputs import Batch, read_item
from convsmith.rewrite.distilling.streams import Stream, mixed

__all__ = ["Feed", "Source"]

Source = Iterable[Any] | Callable[[int], Iterable[Any]]
"""Batches that can be gone through again, or a function that makes those of an epoch."""

CACHE_BYTES = 1 << 30
"""How much of a plain iterator, which cannot be gone through again, is kept."""

HELD_BYTES = 512 << 20
"""How many bytes of held-out images are kept, at least one batch."""


@final
class Feed:
    """Where batches come from.

    Args:
        source: The batches.
        held_out: The share of them that is never trained on, or batches of their own.
        graph: The network, if it is a graph.
        seed: Of what the batches draw.
        limit: How many batches are needed at most; ``None``: all of them.
        resumable: Whether another run is to get the same.

    Attributes:
        held_out: The batches to judge by.
        count: How many batches to train on an epoch has, as far as they were needed.
        images: How many images those have.

    Raises:
        DataError: If there are none, or one cannot be used, or a plain iterator is too long.
        UsageError: If they are of a wrong type, or not ``resumable``.
    """

    def __init__(
        self,
        source: object,
        held_out: object,
        *,
        graph: Graph | None,
        seed: int,
        limit: int | None,
        resumable: bool,
    ) -> None:
        self._graph, self._seed = graph, seed
        self._source = _checked(source, resumable)
        self._makes = callable(self._source) and not isinstance(self._source, Iterable)
        self._keys: set[bytes] = set()
        self._places: set[int] = set()
        self._rows: list[int] | None = None  # of the only batch there is
        self._warned = False
        self.held_out: list[Batch] = []
        self.count = self.images = 0
        share = held_out if isinstance(held_out, float) else None
        if share is None:
            self._read_held_out(held_out)
        self._scan(share, limit)
        if not self._makes:
            self._keys = {key for batch in self.held_out for key in batch.fingerprints()}

    def _read_held_out(self, held_out: object) -> None:
        given = _checked(held_out, False)
        for index, item in enumerate(given(0) if callable(given) else given):
            batch = read_item(item, self._graph, f"held-out batch {index + 1}")
            self.held_out.append(batch)
            if sum(each.size for each in self.held_out) > HELD_BYTES and index:
                raise DataError(
                    f"the held-out batches take more than {HELD_BYTES >> 20} MiB",
                    remedy="give fewer of them",
                )
        if not self.held_out:
            raise DataError("there are no held-out batches", remedy="give at least one")

    def _scan(self, share: float | None, limit: int | None) -> None:
        """Goes through one epoch: what is held out, and how much is left."""
        period = None if share is None else max(2, round(1 / share))
        if limit is not None and period is not None:
            limit = period * -(-limit // (period - 1))
        cache: list[Any] | None = None
        if isinstance(self._source, Iterator):
            cache = []
        held = kept = 0
        last: Batch | None = None
        place = -1
        for place, item in enumerate(itertools.islice(self._items(0), limit)):
            last = self._read(item, 0, place)
            kept += last.size
            if cache is not None:
                cache.append(item)
                if kept > CACHE_BYTES:
                    raise DataError(
                        "an iterator can be gone through only once, and this one takes more than"
                        f" {CACHE_BYTES >> 20} MiB",
                        remedy="give a list, a DataLoader, or a function from the number of the"
                        " epoch to its batches",
                    )
            due = period is not None and place % period == period - 1
            if due and (not held or held + last.size <= HELD_BYTES):
                self._hold(last, place)
                held += last.size
                continue
            self.count += 1
            self.images += last.images
        if last is None:
            raise DataError("there is nothing to distill with", remedy="give at least one batch")
        if cache is not None:
            self._source = cache
        if not self.held_out:
            self._hold_some(last, place)

    def _hold(self, batch: Batch, place: int) -> None:
        self.held_out.append(batch)
        self._places.add(place)

    def _hold_some(self, last: Batch, place: int) -> None:
        """When there are few: the last batch, or some images of the only one."""
        if place:
            self._hold(last, place)
            self.count -= 1
            self.images -= last.images
        elif last.images > 1:
            first = last.images - max(1, last.images // 10)
            self._rows = list(range(first))
            self.held_out.append(last.pick(list(range(first, last.images))))
            self.images = first
        else:
            self._rows = [0]
            self.held_out.append(last)
            warnings.warn(
                "there is only one image: what is trained on also decides which state is best",
                stacklevel=5,
            )

    def _items(self, epoch: int) -> Iterator[Any]:
        stream = Stream(mixed(self._seed, "data", epoch))
        order = _Order(self._source, mixed(self._seed, "order", epoch))
        with stream.active(), order.active():
            source: Any = self._source
            made = source(epoch) if self._makes else source
            try:
                items = iter(made)
            except TypeError:
                raise _wrong(made) from None
        end = object()
        while True:
            with stream.active(), order.active():
                item = next(items, end)
            if item is end:
                return
            yield item

    def _read(self, item: object, epoch: int, place: int) -> Batch:
        return read_item(item, self._graph, f"batch {place + 1} of epoch {epoch + 1}")

    def walk(self, epoch: int = 0, done: int = 0) -> Iterator[tuple[Batch, int, int]]:
        """Yields batches to train on, without end, and the position behind each.

        Args:
            epoch: Where to start.
            done: How many batches of this epoch to leave out.

        Raises:
            DataError: If an epoch has no batch, or one cannot be used.
        """
        while True:
            dropped = trained = seen = 0
            for place, item in enumerate(self._items(epoch)):
                seen += 1
                if place < done:
                    continue
                batch = self._read(item, epoch, place)
                kept, left_out = self._kept(batch, place)
                dropped += left_out
                if kept is not None:
                    trained += 1
                    yield kept, epoch, place + 1
            if not done:
                self._check_epoch(epoch, seen, trained, dropped)
            epoch, done = epoch + 1, 0

    def _kept(self, batch: Batch, place: int) -> tuple[Batch | None, int]:
        """A batch without its held-out images, and how many those are."""
        if self._makes:
            if place in self._places:
                return None, batch.images
            return (batch if self._rows is None else batch.pick(self._rows)), 0
        if self._rows == [0]:
            return batch, 1
        rows = [row for row, key in enumerate(batch.fingerprints()) if key not in self._keys]
        return (batch.pick(rows) if rows else None), batch.images - len(rows)

    def _check_epoch(self, epoch: int, seen: int, trained: int, dropped: int) -> None:
        if not trained:
            raise DataError(
                f"epoch {epoch + 1} has no batches" + (" that are not held out" if seen else ""),
                remedy="give batches that can be gone through again, or a function from the"
                " number of the epoch to its batches",
            )
        if self._places and not dropped and not self._warned:
            self._warned = True
            warnings.warn(
                f"epoch {epoch + 1} has none of the held-out images: batches change from epoch to"
                " epoch, so that what is trained on may also decide which state is best; give"
                " held_out= batches of their own",
                stacklevel=5,
            )


@final
class _Order:
    """The generators that a DataLoader draws its order from: like a stream, but the loader's."""

    def __init__(self, source: object, seed: int) -> None:
        holders = [source, *(getattr(source, n, None) for n in ("sampler", "batch_sampler"))]
        holders.append(getattr(holders[2], "sampler", None))
        found = [getattr(holder, "generator", None) for holder in holders]
        self._found = {id(g): g for g in found if isinstance(g, torch.Generator)}
        self._states = [
            torch.Generator(device=generator.device).manual_seed(seed).get_state()
            for generator in self._found.values()
        ]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Puts its states into the loader's generators, and theirs back afterwards."""
        before = [generator.get_state() for generator in self._found.values()]
        self._put(self._states)
        try:
            yield
        finally:
            self._states = [generator.get_state() for generator in self._found.values()]
            self._put(before)

    def _put(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(self._found.values(), states, strict=True):
            generator.set_state(state)


def _checked(source: object, resumable: bool) -> Source:
    if isinstance(source, str | bytes | dict) or hasattr(source, "shape"):
        raise _wrong(source)
    if isinstance(source, Iterable):
        if resumable and isinstance(source, Iterator):
            raise UsageError(
                "a run with a checkpoint cannot be taken up with batches from an iterator, which"
                " can be gone through only once",
                remedy="give a list, a DataLoader, or a function from the number of the epoch to"
                " its batches",
            )
        return source
    if callable(source):
        return source
    raise _wrong(source)


def _wrong(source: object) -> UsageError:
    return UsageError(
        f"an object of type {type(source).__name__} is not a source of batches",
        remedy="give a list of batches, a DataLoader, or a function from the number of the epoch"
        " to its batches",
    )
