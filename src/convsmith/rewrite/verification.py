"""What a verification finds: errors of layers and outputs, the task metric, memory and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convsmith.analysis import Field
from convsmith.results import Result
from convsmith.rewrite.measuring import Timings, speedups

__all__ = ["Footprint", "Metric", "OutputError", "Verification"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """How far one output moved.

    Attributes:
        name: The output.
        relative: Root of the squared error over the variance of the original's output (over its
            square, if it never changes).
        largest: The largest absolute difference.
        agreement: For class scores ``(N, classes)``: how often the first choice is the same.
        divergence: For class scores: the Kullback-Leibler divergence of the predictions after
            from those before (softmax of the scores, unless they are its outputs), in nats, the
            mean over the images.
    """

    name: str
    relative: float
    largest: float
    agreement: float | None
    divergence: float | None = None

    @property
    def loss(self) -> float:
        """The divergence; for other than class scores the squared error over the variance."""
        return self.relative**2 if self.divergence is None else self.divergence


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How well the task is done, before and after.

    ``accuracy`` in percent; ``psnr`` in dB, the mean over the images, for a peak of 1, outputs
    clipped to 0..1; or what a function of the caller's returned.

    Attributes:
        name: What is measured.
        unit: In what; empty for a plain number.
        before: Of the original.
        after: Of the rewritten network.
        reference: What the input itself scores, where that makes sense.
        higher_is_better: Whether more of it is wanted.
    """

    name: str
    unit: str
    before: float
    after: float
    reference: float | None
    higher_is_better: bool = True

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def kept(self) -> bool:
        """Whether it is no worse than before."""
        return self.change >= 0 if self.higher_is_better else self.change <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The bytes that a network takes.

    Attributes:
        weights: Of its weights.
        activations: The most bytes of values that are alive at one time, at its own input size.
    """

    weights: int
    activations: int

    def to_dict(self) -> dict[str, int]:
        """Returns it as JSON-ready data, in the words of an analysis."""
        return {"weight_bytes": self.weights, "peak_activation_bytes": self.activations}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification(Result):
    """What a rewrite lost.

    Attributes:
        images: How many images were compared.
        data: Which data they come from.
        layers: Per replaced layer, the relative error of its output in the rewritten network.
        outputs: Per output.
        metric: The task metric, when labels or targets are there.
        fields: Per output: the receptive field before and after.
        memory: What both networks take, before and after; ``None``: not asked for.
        timings: Per runtime that was asked for: how long both took, in turns.
    """

    images: int
    data: str
    layers: Mapping[str, float]
    outputs: tuple[OutputError, ...]
    metric: Metric | None
    fields: Mapping[str, tuple[Field, Field]]
    memory: tuple[Footprint, Footprint] | None = None
    timings: Timings = field(default_factory=dict)

    @property
    def speedups(self) -> dict[str, float]:
        """How many times faster the rewritten network is, per runtime."""
        return speedups(self.timings)

    @property
    def loss(self) -> float:
        """How far the outputs moved, in all."""
        return sum(output.loss for output in self.outputs)

    @property
    def field_kept(self) -> bool:
        """Whether every output sees exactly what it saw before."""
        return all(before == after for before, after in self.fields.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns the verification as JSON-ready data."""
        metric = self.metric
        return {
            "schema": "convsmith.verification/1",
            "images": self.images,
            "data": self.data,
            "layers": dict(self.layers),
            "outputs": [
                {
                    "name": output.name,
                    "relative_error": output.relative,
                    "largest_difference": output.largest,
                    "agreement": output.agreement,
                    "divergence": output.divergence,
                }
                for output in self.outputs
            ],
            "metric": None
            if metric is None
            else {
                "name": metric.name,
                "unit": metric.unit,
                "before": metric.before,
                "after": metric.after,
                "reference": metric.reference,
                "higher_is_better": metric.higher_is_better,
            },
            "fields": {
                name: {"before": before.to_dict(), "after": after.to_dict()}
                for name, (before, after) in self.fields.items()
            },
            "field_kept": self.field_kept,
            "memory": self.memory
            and {
                side: some.to_dict()
                for side, some in zip(("before", "after"), self.memory, strict=True)
            },
            "milliseconds": {
                runtime: {side: timing.median for side, timing in both.items()}
                for runtime, both in self.timings.items()
            },
            "speedups": self.speedups,
        }
