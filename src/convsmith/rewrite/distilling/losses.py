"""How far the outputs of two networks are apart, as something to minimize.

``kl`` is the divergence of softened class probabilities, times the square of the temperature, so
that gradients do not depend on it (Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a
neural network", section 2). ``mse`` is the squared error over the variance of the original's
output, so that 1 is what a constant would reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor

from convsmith.errors import DataError, UsageError

__all__ = ["Loss", "Objective", "relative_error", "variance"]

Loss = Callable[..., Tensor]
"""A caller's own: gets the outputs of the trained network and of the original."""

_LEAST = 1e-12


def variance(value: Tensor) -> float:
    """The variance of all elements; their mean square where they never change.

    >>> variance(torch.tensor([1.0, 3.0])), variance(torch.tensor([2.0, 2.0]))
    (1.0, 4.0)
    """
    value = value.detach().double()
    spread = float(value.var(correction=0))
    square = float(value.square().mean())
    return spread if spread > _LEAST * square else square or 1.0


def relative_error(made: Tensor, wanted: Tensor, scale: float) -> Tensor:
    """Mean squared error over a variance."""
    return F.mse_loss(made.float(), wanted.to(made.device).float()) / scale


def divergence(made: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(wanted || made)`` of logits over axis 1, averaged over everything else.

    >>> float(divergence(torch.zeros(1, 2), torch.zeros(1, 2), 4.0))
    0.0
    """
    made, wanted = made.float() / temperature, wanted.to(made.device).float() / temperature
    logs, targets = made.log_softmax(1), wanted.log_softmax(1)
    apart = F.kl_div(logs, targets, reduction="none", log_target=True).sum(1)
    return apart.mean() * temperature**2


@final
class Objective:
    """The loss of the outputs.

    Args:
        loss: ``auto``, ``kl``, ``mse`` or a function.
        outputs: What the original makes of some images: decides what ``auto`` means, and the
            scales.
        temperature: Of ``kl``.
        labels: The weight of labels or targets.

    Attributes:
        kinds: ``kl``, ``kl of probabilities`` or ``mse`` per output.

    Raises:
        UsageError: If an output cannot have this loss.
    """

    def __init__(
        self, loss: str | Loss, outputs: Sequence[Tensor], *, temperature: float, labels: float
    ) -> None:
        self._own = loss if callable(loss) else None
        self._temperature, self._labels = temperature, labels
        self.kinds = tuple(_kind("auto" if callable(loss) else loss, output) for output in outputs)
        self._scales = tuple(variance(output) for output in outputs)

    @property
    def name(self) -> str:
        """What it is, for a person."""
        if self._own is not None:
            return getattr(self._own, "__qualname__", type(self._own).__name__)
        said = ", ".join(dict.fromkeys(self.kinds))
        return f"{said}, labels {self._labels:g}" if self._labels else said

    def __call__(
        self, made: Sequence[Tensor], wanted: Sequence[Tensor], labels: Tensor | None
    ) -> Tensor:
        """The loss of one batch.

        Raises:
            DataError: If labels are to count and do not fit.
        """
        total = self._apart(made, wanted)
        if not self._labels:
            return total
        return (1 - self._labels) * total + self._labels * self._task(made[0], labels)

    def _apart(self, made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        if self._own is not None:
            one, other = (each[0] if len(each) == 1 else tuple(each) for each in (made, wanted))
            result: object = self._own(one, other)
            if not isinstance(result, Tensor) or result.numel() != 1:
                raise UsageError(
                    f"the loss {self.name} returns no tensor of one element",
                    remedy="average over the batch",
                )
            return result.reshape(())
        total = torch.zeros((), device=made[0].device)
        for kind, scale, one, other in zip(self.kinds, self._scales, made, wanted, strict=True):
            if kind == "mse":
                total = total + relative_error(one, other, scale)
                continue
            if kind == "kl of probabilities":
                one, other = (each.float().clamp(min=_LEAST).log() for each in (one, other))
            total = total + divergence(one, other, self._temperature)
        return total

    def _task(self, made: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise DataError(
                "labels= is above 0, but the batch has none",
                remedy="give pairs of inputs and labels or targets, or labels=0",
            )
        labels = labels.to(made.device)
        if labels.is_floating_point():
            if labels.shape != made.shape:
                raise DataError(
                    f"the targets have shape {tuple(labels.shape)}, the output {tuple(made.shape)}",
                    remedy="give one target of the size of the output per image",
                )
            return relative_error(made, labels, self._scales[0])
        scores = made.float()
        if self.kinds[0] == "kl of probabilities":
            scores = scores.clamp(min=_LEAST).log()
        if scores.ndim >= 2 and scores[0].numel() == scores.shape[1]:
            scores = scores.flatten(1)
        if (
            scores.ndim < 2
            or labels.shape != (scores.shape[0], *scores.shape[2:])
            or not bool(((labels >= 0) & (labels < scores.shape[1])).all())
        ):
            raise DataError(
                f"labels of shape {tuple(labels.shape)} are no classes of an output of shape"
                f" {tuple(made.shape)}",
                remedy="give whole numbers from 0, one per image",
            )
        return F.cross_entropy(scores, labels.long())


def _kind(asked: str, output: Tensor) -> str:
    classes = output.ndim >= 2 and output.shape[1] > 1
    vector = classes and output[0].numel() == output.shape[1]
    if asked == "kl" and not classes:
        raise UsageError(
            f"an output of shape {tuple(output.shape)} has no classes along axis 1",
            remedy="use loss='mse'",
        )
    if asked == "mse" or (asked == "auto" and not vector):
        return "mse"
    sums = output.detach().double().sum(1)
    probabilities = bool((output >= 0).all()) and bool((sums - 1).abs().max() < 1e-3)
    return "kl of probabilities" if probabilities else "kl"
