"""The data that the scripts of a network's page draw from: small, and safe inside HTML.

Texts that occur often (formulas of repeated blocks, operators, shapes) stand once in a list and are
named by their places in it; rules of fields and lines of formulas are shared the same way.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from convsmith.analysis.explaining import operator_name, quantity
from convsmith.portrait import AxisView, EffectiveMap, LayerView, Portrait
from convsmith.report import wording
from convsmith.report.as_text.explanation import steps
from convsmith.report.drawings.png import png
from convsmith.report.pages import typeset

if TYPE_CHECKING:
    from convsmith.rewrite import Plan

__all__ = ["embedded", "merged", "packed"]


class _Table:
    """Values, each once, and their places."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Hashable, int] = {}

    def place(self, value: Any, key: Hashable = None) -> int:
        key = value if key is None else key
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def embedded(data: Any) -> Markup:
    r"""JSON that can stand in a ``script`` element: nothing in it ends the element or begins a tag.

    >>> embedded({"name": "</script><!--"})
    Markup('{"name":"\\u003c/script\\u003e\\u003c!--"}')
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def packed(result: Portrait) -> dict[str, Any]:
    """Returns what the page needs to know of a network, as JSON-ready data."""
    strings, lines, views = _Table(), _Table(), _Table()
    rows = result.analysis.rows
    origins = {
        name: place for place, name in enumerate(dict.fromkeys(filter(None, result.replaces)))
    }

    def texts(values: Iterable[str]) -> list[int]:
        return [strings.place(wording.plain(value)) for value in values]

    shown = []
    for row in rows:
        view = result.views.get(row.name)
        shown.append(-1 if view is None else views.place(_view(view), id(view)))
    formulas = []
    for layer in result.explanation.layers:
        found = []
        for line in layer.lines:
            content = (
                *texts([quantity(line.quantity, result.explanation.lang)]),
                *texts(steps(line)),
            )
            found.append(lines.place(list(content), content))
        notes = texts(layer.note(note, result.explanation.lang) for note in layer.notes)
        (title,) = texts([operator_name(layer.kind, result.explanation.lang)])
        formulas.append([title, found, notes])
    inputs = result.analysis.inputs
    return {
        "inputs": [[wording.plain(name), list(shape)] for name, shape in inputs.items()],
        "outputs": [[wording.plain(name), place] for name, place in result.outputs.items()],
        "image": list(inputs[result.input][2:]) if result.input else [],
        "layers": {
            "name": [wording.plain(row.name) for row in rows],
            "op": texts(row.op for row in rows),
            "text": texts(row.text for row in rows),
            "shape": texts(", ".join(map(wording.shape, row.outputs)) for row in rows),
            "params": [row.params for row in rows],
            "macs": [row.macs for row in rows],
            "flops": [row.flops for row in rows],
            "weights": [row.weight_bytes for row in rows],
            "reads": [row.read_bytes for row in rows],
            "writes": [row.write_bytes for row in rows],
            "alive": [row.alive_bytes for row in rows],
            "status": ["cfu".index(row.status[0]) for row in rows],
            "reason": texts(row.reason for row in rows),
            "sees": texts(typeset(wording.field(row.rf)) for row in rows),
            "stride": texts(typeset(wording.strides(row.rf)) for row in rows),
            "offset": texts(typeset(wording.offsets(row.rf)) for row in rows),
            "parent": list(result.modules.parents),
            "origin": [origins.get(name, -1) for name in result.replaces],
            "view": shown,
            "formulas": formulas,
        },
        "modules": [
            [wording.plain(module.name), module.parent, int(module.is_stage), origin]
            for module, origin in zip(
                result.modules.modules, _box_origins(result, origins), strict=True
            )
        ],
        "origins": [_origin(name, result) for name in origins],
        "edges": [end for edge in result.edges for end in edge],
        "views": views.values,
        "lines": lines.values,
        "kernels": _kernels(result),
        "plan": _plan(result),
        "effective": [_effective(each, result) for each in result.effective],
        "strings": strings.values,
    }


def _view(view: LayerView) -> dict[str, Any]:
    return {
        "size": list(view.positions),
        "status": view.status,
        "reason": wording.plain(view.field.reason),
        "followed": view.followed,
        "axes": [_axis(axis) for axis in view.axes],
    }


def _axis(axis: AxisView) -> dict[str, Any]:
    data: dict[str, Any] = {"axis": -1 if axis.axis is None else axis.axis}
    if axis.rule is not None:
        data["phases"] = [None if seen is None else list(seen) for seen in axis.rule.phases]
        data["step"] = axis.rule.step
    if axis.exceptions:
        data["except"] = [
            [position, *(() if seen is None else seen)]
            for position, seen in axis.exceptions.items()
        ]
    if axis.everywhere:
        data["everywhere"] = True
    if axis.support is not None:
        data["support"] = [
            None if seen is None else [seen[0], f"{seen[1]:b}"[::-1]]
            for seen in axis.support.phases
        ]
        data["supportStep"] = axis.support.step
    return data


def _kernels(result: Portrait) -> dict[str, Any] | None:
    if result.bench is None:
        return None
    places = {row.name: place for place, row in enumerate(result.analysis.rows)}
    groups: list[list[list[Any]]] = []
    of: dict[int, int] = {}
    for layer in result.bench.layers:
        for name in layer.names:
            if name in places:
                of[places[name]] = len(groups)
        groups.append(
            [
                [row.name, row.kind, row.milliseconds, row.gflops, int(row.chosen), row.reason]
                for row in layer.rows
            ]
        )
    return {"groups": groups, "of": [[place, group] for place, group in of.items()]}


def _plan(result: Portrait) -> list[list[Any]]:
    if result.plan is None:
        return []
    places = {row.name: place for place, row in enumerate(result.analysis.rows)}
    return [
        [
            places[choice.layer],
            choice.form,
            wording.plain(choice.text),
            choice.macs_before,
            choice.macs_after,
            round(choice.error**0.5, 6),
        ]
        for choice in result.plan.choices
        if choice.layer in places and not result.replaces[places[choice.layer]]
    ]


def merged(plan: Plan | None) -> dict[str, tuple[str, ...]]:
    """The layers of the original that were merged before anything was replaced, by the outcome.

    >>> from convsmith.rewrite import Plan
    >>> from convsmith.rewrite.merging import Merge
    >>> costs = dict(macs_before=0, macs_after=0, params_before=0, params_after=0)
    >>> steps = (Merge(kind="norm", layers=("a", "b"), into="a", **costs),
    ...          Merge(kind="chain", layers=("a", "c"), into="c", **costs))
    >>> merged(Plan(source="", budget={}, choices=(), merges=steps))
    {'c': ('a', 'b', 'c')}
    """
    found: dict[str, tuple[str, ...]] = {}
    for step in plan.merges if plan else ():
        layers = [one for name in step.layers for one in found.pop(name, (name,))]
        found[step.into] = tuple(dict.fromkeys(layers))
    return found


def _origin(name: str, result: Portrait) -> list[Any]:
    """What stood there in the original: its name, its notation, and what was decided about it."""
    groups = merged(result.plan)
    into = next((into for into, layers in groups.items() if name in layers), name)
    layers = groups.get(into, (name,))
    texts = {row.name: row.text for row in (result.before.rows if result.before else ())}
    choices = result.plan.choices if result.plan else ()
    choice = next((choice for choice in choices if choice.layer in (into, name)), None)
    decided: tuple[Any, ...] = ("", 0, 0, 0)
    if choice is not None:
        from convsmith.rewrite.forms import KEEP

        form = "merging" if choice.form == KEEP else f"{choice.form} {choice.variant}".rstrip()
        error = round(choice.error**0.5, 6)
        decided = (form, choice.macs_before, choice.macs_after, error)
    return [
        wording.plain(" + ".join(layers)),
        wording.plain(" > ".join(texts[layer] for layer in layers if layer in texts)),
        *decided,
    ]


def _box_origins(result: Portrait, origins: Mapping[str, int]) -> list[int]:
    """Per box, the layer of the original that everything in it stands for; -1: none."""
    boxes = result.modules.modules
    held: list[set[str]] = [set() for _ in boxes]
    for replaced, box in zip(result.replaces, result.modules.parents, strict=True):
        while box >= 0:
            held[box].add(replaced)
            box = boxes[box].parent
    return [origins.get(next(iter(some)), -1) if len(some) == 1 else -1 for some in held]


def _effective(found: EffectiveMap, result: Portrait) -> dict[str, Any]:
    """A map as a picture: the square root of the contributions, which shows weak ones too."""
    places = {row.name: place for place, row in enumerate(result.analysis.rows)}
    heat = np.sqrt(found.contributions / max(float(found.contributions.max()), 1e-300))
    return {
        "layer": places[found.layer],
        "position": list(found.position),
        "images": found.images,
        "picture": str(png(heat[None])) if heat.ndim == 2 else "",
    }
