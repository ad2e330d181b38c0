"""What the oracle tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from convsmith.graph.evaluate import apply
from convsmith.graph.operators import Operator
from convsmith.graph.shape import infer_shapes

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
TOLERANCE = 1e-10


def _matches_torch(
    op: Operator,
    inputs: Sequence[Array],
    expected: Callable[..., Tensor | Sequence[Tensor]],
    parameters: Sequence[Array] = (),
) -> None:
    import torch

    with np.errstate(all="raise", under="ignore"):
        results = apply(op, list(inputs), list(parameters))
    wanted = expected(*(torch.from_numpy(np.array(a)) for a in (*inputs, *parameters)))
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else wanted
    assert tuple(y.shape for y in results) == infer_shapes(op, *(x.shape for x in inputs)), op
    for result, want in zip(results, wanted, strict=True):
        assert result.dtype == want.numpy().dtype  # float64, or the type of places and truth
        np.testing.assert_allclose(
            result, want.numpy(), rtol=TOLERANCE, atol=TOLERANCE, err_msg=repr(op)
        )


@pytest.fixture(scope="session")
def matches_torch() -> Callable[..., None]:
    """Asserts that an operator, evaluated on arrays, gives what a function of torch gives.

    Takes the operator, its inputs, the function of inputs and parameters, and the parameters.
    """
    return _matches_torch
