"""What a rewrite decided, as a file: readable, editable by hand, diffable, re-appliable."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from convsmith.errors import NotationError, OutputError, PlanError
from convsmith.files import check_target, write_atomically
from convsmith.graph import operator_text
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv
from convsmith.graph.words import Reader, read_operator
from convsmith.results import Result

__all__ = ["Choice", "Plan", "chain_text"]

SCHEMA = "convsmith.plan/1"
SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What stands for one layer.

    Attributes:
        layer: Its name; in a torch module, its path.
        form: ``keep`` or the name of a form.
        rank: Width between the convolutions of the form.
        order: Which of them comes first.
        text: The convolutions, in the notation.
        shape: The shape of the weight that is replaced.
        macs_before: Exact multiply-accumulates of the layer.
        macs_after: The same of what stands for it.
        error: Mean squared error of the layer's outputs over their variance, as fitted.
        chain: The convolutions with their weights; empty for ``keep`` and in a plan without
            weights. Not part of equality.
    """

    layer: str
    form: str
    rank: int
    order: str
    text: str
    shape: tuple[int, ...]
    macs_before: int
    macs_after: int
    error: float
    chain: tuple[ConvStep, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Result):
    """One choice per layer that a form can replace.

    Attributes:
        source: The network it was made for.
        budget: What was asked for, such as ``{"macs": 0.5}``.
        choices: In execution order.
    """

    source: str
    budget: Mapping[str, float]
    choices: tuple[Choice, ...]

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
                    "rank": choice.rank,
                    "order": choice.order,
                    "text": choice.text,
                    "shape": list(choice.shape),
                    "macs_before": choice.macs_before,
                    "macs_after": choice.macs_after,
                    "error": choice.error,
                }
                for choice in self.choices
            ],
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

        A plan whose weights are missing, or whose ranks were edited, can be refitted with
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
            made = cls(source=str(content["source"]), budget=budget, choices=choices)
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
    shape = tuple(int(size) for size in entry["shape"])
    chain: list[ConvStep] = []
    for index, words in enumerate(text.split(" > ") if entry["form"] != "keep" else ()):
        weight = tensors.get(f"{layer}/{index}/weight")
        if weight is None:
            chain = []
            break
        op = _conv(words, layer)
        bias = tensors.get(f"{layer}/{index}/bias")
        fits = (
            weight.shape[0] == op.channels
            and weight.shape[2:] == op.kernel
            and op.bias == (bias is not None)
            and (index > 0 or op.channels == int(entry["rank"]))
        )
        if not fits:
            chain = []
            break
        chain.append(ConvStep(op=op, weight=weight, bias=bias))
    return Choice(
        layer=layer,
        form=str(entry["form"]),
        rank=int(entry["rank"]),
        order=str(entry["order"]),
        text=text,
        shape=shape,
        macs_before=int(entry["macs_before"]),
        macs_after=int(entry["macs_after"]),
        error=float(entry["error"]),
        chain=tuple(chain),
    )


def _conv(words: str, layer: str) -> Conv:
    try:
        _, op = read_operator(Reader(words), [None])
    except NotationError as error:
        raise error.at(layer) from None
    if not isinstance(op, Conv):
        raise PlanError(
            f"{words!r} is not a convolution",
            place=layer,
            remedy="give convolutions, such as conv 8 3",
        )
    return op


def chain_text(chain: tuple[ConvStep, ...]) -> str:
    """The convolutions of a chain in the notation."""
    return " > ".join(operator_text(step.op) for step in chain)
