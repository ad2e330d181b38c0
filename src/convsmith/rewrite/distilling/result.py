"""What distilling found: the trained network, and how it got there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from convsmith.graph import Graph
from convsmith.results import Result

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Distillation", "Phase", "Point"]

Network = TypeVar("Network", bound="Graph | nn.Module")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One look at the held-out images.

    Attributes:
        step: After how many steps of the phase.
        loss: What was trained on, averaged since the last look.
        held_out: The same on the held-out images: the error at the rewritten layers, or the loss of
            the outputs.
        outputs: The loss of the outputs on them.
        lr: The learning rate.
    """

    step: int
    loss: float
    held_out: float
    outputs: float
    lr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase of the training.

    Attributes:
        name: ``blocks`` or ``whole``.
        steps: How many steps were done.
        planned: How many it was to have.
        points: The loss curve.
    """

    name: Literal["blocks", "whole"]
    steps: int
    planned: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distillation(Result, Generic[Network]):
    """A rewritten network, trained to do what the original does.

    Attributes:
        module: The trained network, of the kind that was given: a torch module or a graph. Of all
            states that were looked at, the given one included, the best on the held-out images.
        before: The held-out loss of the network as it was given; infinite if it gave NaN.
        after: The held-out loss of ``module``; never more than ``before``.
        loss: What the loss is: that of the outputs, or, when only layers were trained, their error.
        phases: What was done, with the loss curve.
        places: The layers whose outputs were compared with the original's.
        trained: How many scalars were trained.
        images: How many images an epoch has.
        held_out: How many other images decided which state is best.
        seconds: How long it took, runs that were cut off included.
        resumed: At which step a checkpoint was taken up; 0: there was none.
        stopped: Why it ended early; empty if it did not.
        settings: Every option.
    """

    module: Network
    before: float
    after: float
    loss: str
    phases: tuple[Phase, ...]
    places: tuple[str, ...]
    trained: int
    images: int
    held_out: int
    seconds: float
    resumed: int
    stopped: str
    settings: dict[str, Any]

    @property
    def improved(self) -> bool:
        """Whether training found anything better than what was given."""
        return self.after < self.before

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON-ready data, schema ``convsmith.distillation/1``."""
        return {
            "schema": "convsmith.distillation/1",
            "loss": self.loss,
            "before": _finite(self.before),
            "after": _finite(self.after),
            "improved": self.improved,
            "phases": [
                {
                    "name": phase.name,
                    "steps": phase.steps,
                    "planned": phase.planned,
                    "points": [
                        {
                            "step": point.step,
                            "loss": _finite(point.loss),
                            "held_out": _finite(point.held_out),
                            "outputs": _finite(point.outputs),
                            "lr": point.lr,
                        }
                        for point in phase.points
                    ],
                }
                for phase in self.phases
            ],
            "places": list(self.places),
            "trained": self.trained,
            "images": self.images,
            "held_out": self.held_out,
            "seconds": self.seconds,
            "resumed": self.resumed,
            "stopped": self.stopped,
            "settings": self.settings,
        }


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
