"""Where a run is: the part of a checkpoint that is no tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convsmith.rewrite.distilling.result import Point

__all__ = ["Running"]


@dataclass(slots=True)
class Running:
    """What changes while a run goes on, and is not a tensor.

    Attributes:
        phase: The index of the phase.
        step: How many of its steps are done.
        epoch: How many epochs of the data are done.
        batch: How many batches of the next one.
        before: The held-out loss at the start.
        best: The least so far.
        least: The least that this phase reached of what it is judged by.
        sum: Of the losses since the last look at the held-out images.
        count: How many those are.
        seconds: How long it took so far.
        done: Whether the run is over.
        stopped: Why it ended early.
        points: The loss curve of every phase that was begun.
        steps: Their steps.
    """

    phase: int = 0
    step: int = 0
    epoch: int = 0
    batch: int = 0
    before: float = math.inf
    best: float = math.inf
    least: float = math.inf
    sum: float = 0.0
    count: int = 0
    seconds: float = 0.0
    done: bool = False
    stopped: str = ""
    points: list[list[Point]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data."""
        made: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name in ("before", "best", "least"):
            made[name] = None if math.isinf(made[name]) else made[name]
        made["points"] = [
            [[p.step, *map(_finite, (p.loss, p.held_out, p.outputs)), p.lr] for p in points]
            for points in self.points
        ]
        return made

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Running:
        """Takes up what :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: If it is nothing of the kind.
        """
        made = cls()
        for name in cls.__slots__:
            kind = type(getattr(made, name))
            value = data[name]
            if name in ("before", "best", "least") and value is None:
                value = math.inf
            if type(value) is not kind:
                raise TypeError(name)
            setattr(made, name, value)
        phases: list[list[list[Any]]] = data["points"]
        made.points = [
            [
                Point(
                    step=int(step),
                    loss=_infinite(loss),
                    held_out=_infinite(held_out),
                    outputs=_infinite(outputs),
                    lr=float(lr),
                )
                for step, loss, held_out, outputs, lr in points
            ]
            for points in phases
        ]
        if len(made.points) != len(made.steps) or min(made.phase, made.step, made.epoch) < 0:
            raise ValueError
        return made


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _infinite(value: object) -> float:
    return math.inf if value is None else float(value)  # type: ignore[arg-type]
