"""What a rewrite decided, as a file: readable, editable by hand, diffable, re-appliable."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from convsmith.errors import NotationError, OutputError, PlanError
from convsmith.files import check_target, write_atomically
from convsmith.graph import operator_text
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Linear
from convsmith.graph.words import Reader, read_operator
from convsmith.results import Result
from convsmith.rewrite.forms import KEEP
from convsmith.rewrite.merging import Merge

__all__ = ["Advice", "Choice", "Plan", "chain_text"]

SCHEMA = "convsmith.plan/2"
SUFFIX = ".safetensors"
RECTIFIED = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Something to mind about what stands for a layer, and what to do about it."""

    layer: str
    fact: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What stands for one layer.

    Attributes:
        layer: Its name; in a torch module, its path.
        form: ``keep`` or the name of a form.
        variant: Which way the form is done, such as which layer comes first.
        widths: Its free sizes: the channels between its layers, or the number of its terms.
        text: The layers, in the notation.
        shape: The shape of the weight that is replaced.
        macs_before: Exact multiply-accumulates of the layer.
        macs_after: The same of what stands for it.
        milliseconds: Measured before and after; zeros where time was not asked for.
        error: Mean squared error of the layer's outputs over their variance, as fitted.
        norm: Euclidean norm of the weight that it was fitted to; 0: not known.
        chain: The convolutions with their weights; empty for ``keep`` and in a plan without
            weights. Not part of equality.
    """

    layer: str
    form: str
    text: str
    shape: tuple[int, ...]
    macs_before: int
    macs_after: int
    error: float
    norm: float = 0.0
    variant: str = ""
    widths: tuple[int, ...] = ()
    milliseconds: tuple[float, float] = (0.0, 0.0)
    chain: tuple[ConvStep, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Result):
    """One choice per layer that a form can replace.

    Attributes:
        source: The network it was made for.
        budget: What was asked for, such as ``{"macs": 0.5}``.
        choices: In execution order.
        advice: What to mind in what was chosen.
        merges: What is merged first, in order (:func:`convsmith.merge`); the choices speak of
            the merged network then, everything else of the one it was made of.
        inputs: The sizes of that network's inputs, in order, where something is merged: a
            module does not know them.
    """

    source: str
    budget: Mapping[str, float]
    choices: tuple[Choice, ...]
    advice: tuple[Advice, ...] = ()
    merges: tuple[Merge, ...] = ()
    inputs: tuple[tuple[int, ...], ...] = ()

    @property
    def chains(self) -> dict[str, tuple[ConvStep, ...]]:
        """The convolutions that stand for each replaced layer."""
        return {choice.layer: choice.chain for choice in self.choices if choice.chain}

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON-ready data; the weights are not part of it."""
        return {
            "schema": SCHEMA,
            "source": self.source,
            "budget": dict(self.budget),
            "choices": [
                {
                    "layer": choice.layer,
                    "form": choice.form,
                    "variant": choice.variant,
                    "widths": list(choice.widths),
                    "text": choice.text,
                    "shape": list(choice.shape),
                    "macs_before": choice.macs_before,
                    "macs_after": choice.macs_after,
                    "milliseconds_before": choice.milliseconds[0],
                    "milliseconds_after": choice.milliseconds[1],
                    "error": choice.error,
                    "norm": choice.norm,
                }
                for choice in self.choices
            ],
            "advice": [
                {"layer": some.layer, "fact": some.fact, "remedy": some.remedy}
                for some in self.advice
            ],
            "merges": [step.to_dict() for step in self.merges],
            "inputs": [list(shape) for shape in self.inputs],
        }

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the plan as JSON and, beside it, its weights as ``.safetensors``.

        Raises:
            OutputError: If a file exists and ``overwrite`` is false, or cannot be written.
        """
        from safetensors.numpy import save

        path = Path(path)
        weights = path.with_suffix(SUFFIX)
        if weights == path:
            raise OutputError(
                "this is the name of the plan's weights", place=str(path), remedy="use .json"
            )
        for target in (path, weights):
            check_target(target, overwrite=overwrite)
        tensors = {
            f"{layer}/{index}/{role}": array
            for layer, chain in self.chains.items()
            for index, step in enumerate(chain)
            for role, array in zip(("weight", "bias"), step.parameters, strict=False)
        }
        data = save(tensors)
        content = self.to_dict() | {
            "weights": {"file": weights.name, "sha256": hashlib.sha256(data).hexdigest()}
        }
        write_atomically(weights, data, overwrite=overwrite)
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_atomically(path, text.encode(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Plan:
        """Reads what :meth:`save` wrote, possibly edited by hand.

        A plan whose weights are missing, or whose widths were edited, can be refitted with
        ``convsmith.rewrite(net, plan=plan, calibration=...)``.

        Raises:
            PlanError: If this is not a plan, or its weights are not those it was saved with.
        """
        path = Path(path)
        try:
            text = path.read_bytes()
        except OSError as error:
            raise PlanError(
                f"it cannot be read: {error.strerror or error}",
                place=str(path),
                remedy="give the JSON file that Plan.save wrote",
            ) from None
        try:
            content = json.loads(text, parse_constant=_no_constant)
            if content["schema"] != SCHEMA:
                raise PlanError(
                    f"this is {content['schema']!r}, not {SCHEMA!r}",
                    place=str(path),
                    remedy="give the JSON file that Plan.save wrote",
                )
            tensors = _tensors(path, content.get("weights"))
            choices = tuple(_choice(entry, tensors) for entry in content["choices"])
            budget = {str(name): float(share) for name, share in content["budget"].items()}
            advice = tuple(
                Advice(layer=str(one["layer"]), fact=str(one["fact"]), remedy=str(one["remedy"]))
                for one in content.get("advice", ())
            )
            made = cls(
                source=str(content["source"]),
                budget=budget,
                choices=choices,
                advice=advice,
                merges=tuple(_merge(entry) for entry in content.get("merges", ())),
                inputs=tuple(tuple(map(int, shape)) for shape in content.get("inputs", ())),
            )
        except KeyError as error:
            raise _no_plan(f"{error.args[0]!r} is missing", path) from None
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise _no_plan(str(error), path) from None
        repeated = [name for name, count in Counter(c.layer for c in choices).items() if count > 1]
        if repeated:
            raise PlanError(
                "this layer has more than one choice",
                place=f"{path}: {repeated[0]}",
                remedy="leave one of them",
            )
        return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _no_plan(fact: str, path: Path) -> PlanError:
    return PlanError(
        f"this is not a plan: {fact}",
        place=str(path),
        remedy="a plan is the JSON that Plan.save writes",
    )


def _tensors(path: Path, weights: Any) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if weights is None:
        return {}
    name = str(weights["file"])
    if Path(name).name != name or name in ("", ".", ".."):
        raise PlanError(
            f"its weights {name!r} lie outside its folder",
            place=str(path),
            remedy="name a file beside the plan",
        )
    file = path.with_name(name)
    if not file.exists():
        return {}
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != weights["sha256"]:
        raise PlanError(
            f"its weights {name!r} are not the ones it was saved with",
            place=str(path),
            remedy="restore the file, or remove it and refit with convsmith.rewrite(net, plan=...)",
        )
    try:
        return dict(load(data))
    except SafetensorError as error:
        raise PlanError(
            f"its weights cannot be read: {error}",
            place=str(file),
            remedy="remove them and refit with convsmith.rewrite(net, plan=...)",
        ) from None


def _choice(entry: Mapping[str, Any], tensors: Mapping[str, Any]) -> Choice:
    layer, text = str(entry["layer"]), str(entry["text"])
    return Choice(
        layer=layer,
        form=str(entry["form"]),
        variant=str(entry["variant"]),
        widths=tuple(int(width) for width in entry["widths"]),
        text=text,
        shape=tuple(int(size) for size in entry["shape"]),
        macs_before=int(entry["macs_before"]),
        macs_after=int(entry["macs_after"]),
        milliseconds=(
            float(entry.get("milliseconds_before", 0)),
            float(entry.get("milliseconds_after", 0)),
        ),
        error=float(entry["error"]),
        norm=float(entry.get("norm", 0)),
        chain=() if entry["form"] == KEEP else _chain(layer, text, tensors),
    )


def _merge(entry: Mapping[str, Any]) -> Merge:
    if isinstance(entry["layers"], str):
        raise TypeError("'layers' of a merge is no list of names")
    counts = ("macs_before", "macs_after", "params_before", "params_after")
    return Merge(
        kind=str(entry["kind"]),
        layers=tuple(map(str, entry["layers"])),
        into=str(entry["into"]),
        note=str(entry.get("note", "")),
        **{name: int(entry.get(name, 0)) for name in counts},
    )


def _chain(layer: str, text: str, tensors: Mapping[str, Any]) -> tuple[ConvStep, ...]:
    """The weights of the layers that a text names; empty when they are not those."""
    chain: list[ConvStep] = []
    for words in text.split(" > "):
        if words == RECTIFIED and chain:
            chain[-1] = replace(chain[-1], rectified=True)
            continue
        index = len(chain)
        weight = tensors.get(f"{layer}/{index}/weight")
        if weight is None:
            return ()
        op = _operator(words, layer)
        bias = tensors.get(f"{layer}/{index}/bias")
        if op.bias != (bias is not None) or not _holds(op, weight):
            return ()
        chain.append(ConvStep(op=op, weight=weight, bias=bias))
    return tuple(chain)


def _holds(op: Conv | Linear, weight: Any) -> bool:
    """Whether a tensor can be the weight of an operator, as far as that says."""
    if isinstance(op, Linear):
        return bool(weight.ndim == 2 and weight.shape[0] == op.features)
    outs = weight.shape[1] * op.groups if op.transposed else weight.shape[0]
    return bool(weight.ndim == 2 + len(op.kernel) and outs == op.channels) and (
        weight.shape[2:] == op.kernel
    )


def _operator(words: str, layer: str) -> Conv | Linear:
    try:
        _, op = read_operator(Reader(words), [None])
    except NotationError as error:
        raise error.at(layer) from None
    if not isinstance(op, Conv | Linear):
        raise PlanError(
            f"{words!r} is neither a convolution nor a linear layer",
            place=layer,
            remedy="give layers such as conv 8 3 or fc 8",
        )
    return op


def chain_text(chain: tuple[ConvStep, ...]) -> str:
    """The layers of a chain in the notation."""
    return " > ".join(
        operator_text(step.op) + (f" > {RECTIFIED}" if step.rectified else "") for step in chain
    )
