"""How much every pixel contributes to one unit of a module, measured by its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from convsmith.errors import DataError, SourceError
from convsmith.sources.torch.twin import make_twin, unwrap

__all__ = ["contributions"]


def contributions(
    module: nn.Module,
    batches: Iterable[npt.NDArray[Any] | Tensor],
    *,
    layer: str = "",
    position: tuple[int, ...] | None = None,
    sign: Literal["absolute", "positive"] = "absolute",
) -> npt.NDArray[np.float64]:
    """Returns the mean gradient of one unit with respect to every pixel of the input.

    ``absolute`` is what Luo et al. (2016) measure; ``positive`` lets only units count that are
    active, and only what strengthens them, as Ding et al. (2022, RepLKNet) do.
    Channels of the unit and of the input are summed, images averaged. The module is run as at
    inference, and left as it was.

    Args:
        module: The user's module; it takes one tensor ``(N, C, *image)``.
        batches: Images, each batch ``(N, C, *image)``.
        layer: The path of a submodule; empty: the output of the whole module.
        position: Of the unit along the image axes of the layer; ``None``: the middle one.
        sign: Which gradients count.

    Returns:
        ``(*image)``, not negative.

    Raises:
        SourceError: If there is no such layer, or it makes no tensor ``(N, C, *image)``.
        DataError: If there is no batch, or the position does not exist.

    >>> net = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    >>> _ = nn.init.ones_(net.weight)
    >>> contributions(net, [np.ones((1, 1, 5, 5), np.float32)]).astype(int)
    array([[0, 0, 0, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 1, 1, 1, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 0, 0, 0]])
    """
    captured: list[object] = []
    found = [False]

    def wrap(path: str, made: nn.Module, forward: Any) -> Any:
        if path != layer:
            return forward
        found[0] = True

        def run(*args: object, **kwargs: object) -> object:
            result = forward(*args, **kwargs)
            # What follows may work in place.
            captured.append(result.clone() if isinstance(result, Tensor) else result)
            return result

        return run

    twin = make_twin(unwrap(module), wrap)
    if not found[0]:
        raise SourceError(
            f"the module has no layer {layer!r}",
            remedy="name one of module.named_modules()",
        )
    parameter = next(twin.module.parameters(), None)
    total: Tensor | None = None
    count = 0
    for batch in batches:
        images = torch.as_tensor(batch)
        if parameter is not None:
            images = images.to(parameter.device, parameter.dtype)
        images = images.detach().clone().requires_grad_(True)
        captured.clear()
        with torch.enable_grad():
            twin.module(images)
            unit = _unit(captured, layer, position)
            unit = unit if sign == "absolute" else unit.relu()
            gradient = torch.autograd.grad(
                unit.sum(), images, allow_unused=True, materialize_grads=True
            )[0]
        gradient = gradient.abs() if sign == "absolute" else gradient.clamp(min=0)
        part = gradient.double().sum(dim=(0, 1)).cpu()
        total = part if total is None else total + part
        count += len(images)
    if total is None or not count:
        raise DataError("there is no image", remedy="give at least one batch")
    result: npt.NDArray[np.float64] = (total / count).numpy()
    return result


def _unit(captured: list[object], layer: str, position: tuple[int, ...] | None) -> Tensor:
    """All channels of one unit, ``(N, C)``."""
    place = layer or "the module"
    if not captured:
        raise SourceError("it was not called", place=place)
    made = captured[-1]
    if not isinstance(made, Tensor) or made.ndim < 2:
        raise SourceError("it makes no tensor (N, C, ...)", place=place)
    sizes = tuple(made.shape[2:])
    chosen = tuple(size // 2 for size in sizes) if position is None else tuple(position)
    if len(chosen) != len(sizes) or not all(
        0 <= index < size for index, size in zip(chosen, sizes, strict=False)
    ):
        raise DataError(f"there is no position {chosen} in {sizes}", place=place)
    for index in reversed(chosen):
        made = made.select(-1, index)
    return made
