"""Addresses of arrays, read from the arrays themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convsmith.kernel import address as module
from convsmith.kernel.address import address

WHOLE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "array",
    [
        WHOLE, WHOLE[1:, ::2, 3], WHOLE[::-1, ::-1], WHOLE.T, np.array([1.0, 2.0]),
        np.broadcast_to(WHOLE[0, 0], (5, 4)), np.empty((0, 3), np.float32), np.array(3, np.float32),
        WHOLE.view(np.recarray), np.frombuffer(b"12345678", np.float32),
    ],
)  # fmt: skip
def test_the_address_is_the_one_that_numpy_says(array: np.ndarray[Any, Any]) -> None:
    assert address(array) == array.ctypes.data


def test_other_interpreters_ask_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        name = "pypy"

    monkeypatch.setattr("sys.implementation", Other)
    assert module._fastest() is module._asked


def test_another_layout_of_objects_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HEADER", module._HEADER + 8)
    assert module._fastest() is module._asked
