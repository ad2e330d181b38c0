"""Random numbers of one's own, beside the caller's: of Python, NumPy and torch together."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Stream", "mixed"]


def mixed(*parts: object) -> int:
    """A seed made of several parts, below 2^32.

    >>> mixed(0, "data", 1) == mixed(0, "data", 1) != mixed(0, "data", 2)
    True
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


_State = tuple[Any, Any, Tensor, list[Tensor]]


class Stream:
    """The state of all global generators; inside :meth:`active` they continue from it.

    Args:
        seed: Where it starts.

    >>> stream, other = Stream(1), Stream(1)
    >>> with stream.active():
    ...     first = random.random()
    >>> with other.active():
    ...     random.random() == first
    True
    """

    def __init__(self, seed: int) -> None:
        outer = _get()
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - what the user's batches may draw from
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(seed)
            self._state = _get()
        finally:
            _set(outer)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Puts its state into the global generators, and the caller's back afterwards."""
        outer = _get()
        _set(self._state)
        try:
            yield
        finally:
            self._state = _get()
            _set(outer)

    def tensors(self) -> dict[str, Tensor]:
        """Its state as tensors: what a checkpoint holds."""
        python, numpy, cpu, cuda = self._state
        version, words, gauss = python
        kind, keys, position, has_gauss, cached = numpy
        assert kind == "MT19937"
        return {
            "python": torch.tensor([version, *words], dtype=torch.int64),
            "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
            "numpy": torch.from_numpy(keys.astype(np.int64)),
            "numpy.rest": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
            "torch": cpu.clone(),
            **{f"cuda.{index}": state.clone() for index, state in enumerate(cuda)},
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up a state that :meth:`tensors` gave.

        Raises:
            KeyError, ValueError, RuntimeError: If it is none.
        """
        version, *words = tensors["python"].tolist()
        gauss = tensors["python.gauss"].tolist()
        position, has_gauss, cached = tensors["numpy.rest"].tolist()
        keys = tensors["numpy"].numpy().astype(np.uint32)
        before = self._state
        cuda = [
            tensors.get(f"cuda.{index}", state).clone() for index, state in enumerate(before[3])
        ]
        self._state = (
            (version, tuple(words), gauss[0] if gauss else None),
            ("MT19937", keys, int(position), int(has_gauss), cached),
            tensors["torch"].clone(),
            cuda,
        )
        try:
            with self.active():
                pass
        except (TypeError, ValueError, RuntimeError):
            self._state = before
            raise


def _get() -> _State:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return (
        random.getstate(),
        np.random.get_state(),  # noqa: NPY002
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if cuda else [],
    )


def _set(state: _State) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])
