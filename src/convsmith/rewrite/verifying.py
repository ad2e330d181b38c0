"""What was lost, measured: both networks side by side on the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.analysis import analyze, fields
from convsmith.errors import ConvsmithError, DataError, UsageError
from convsmith.graph import Graph, Node
from convsmith.graph.evaluate import apply, node_arguments, steps
from convsmith.parallel import spread
from convsmith.results import Progress
from convsmith.rewrite.batches import PIECE_BYTES, images_in, pieces, unpack
from convsmith.rewrite.measuring import side_by_side
from convsmith.rewrite.scoring import Difference, MetricFunction, MetricName, Pair, score
from convsmith.rewrite.verification import Footprint, Metric, OutputError, Verification

__all__ = [
    "Metric",
    "MetricFunction",
    "MetricName",
    "OutputError",
    "Verification",
    "verify",
]

Array = npt.NDArray[Any]


def verify(
    original: Graph,
    rewritten: Graph,
    batches: Iterable[Any],
    *,
    metric: MetricName | MetricFunction | None = None,
    data: str = "",
    measure: Sequence[str] = (),
    modules: tuple[Any, Any] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Runs both networks side by side and measures what was lost.

    Args:
        original: The network before.
        rewritten: The network after; layers are matched by name. One that is built differently,
            such as a fine-tuned module that was read again, is compared by its outputs alone.
        batches: Arrays or tensors (for one input), mappings from input names to those, or pairs
            of such inputs and labels or targets, as a ``DataLoader`` gives them.
        metric: ``accuracy`` against labels, or ``psnr`` against targets, of the first output; or
            a function that takes the outputs of a batch and its labels or targets (``None``
            without any) and returns a number: its mean over all images counts. Its ``__name__``
            and, where it has them, its attributes ``name``, ``unit`` and ``higher_is_better``
            say what that number is.
        data: What the batches are, for the report.
        measure: Runtimes that both networks are timed in, in turns: ``convsmith``,
            ``onnxruntime``, ``openvino``, ``torch``, ...
        modules: The torch modules before and after; torch is timed on these.
        progress: Called after each batch.

    Raises:
        DataError: If there is no batch, or one does not fit the network, or a metric was asked
            for without labels or targets, or with such that do not fit.
        MissingDependencyError: If a runtime is not installed.
        UsageError: If the two networks have other inputs or outputs, or there is no such metric
            or runtime.

    >>> from convsmith.graph import parse
    >>> net = parse("1@2 > relu")
    >>> verify(net, net, [np.ones((3, 1, 2, 2))]).outputs[0].relative
    0.0
    >>> def brightness(outputs, wanted):
    ...     return outputs.mean()
    >>> verify(net, net, [np.ones((3, 1, 2, 2))], metric=brightness).metric.after
    1.0
    """
    ends = _ends(original, rewritten)
    in_step = _in_step(original, rewritten)
    layers = {
        name: Difference(original, name)
        for name, stand in ({} if in_step is None else in_step).items()
        if not stand.same and any(node.provenance.replaces for node in stand.nodes)
    }
    outputs = {output.name: Difference(original, output.value) for output in original.outputs}
    scored = None if metric is None else score(metric)
    constant = _constants(original)

    def compared(piece: Mapping[str, Array]) -> tuple[dict[str, Difference], dict[str, Pair]]:
        """What some images say of the layers, and how they end."""
        moved = {name: Difference(original, name) for name in layers}
        ended = {name: (array, array) for name, array in {**piece, **constant}.items()}
        made = (
            _apart(original, rewritten, ends, piece)
            if in_step is None
            else _together(original, rewritten, in_step, piece)
        )
        for value, pair in made:
            if value in moved:
                moved[value].add(*pair)
            if value in ends:
                ended[value] = pair
        return moved, ended

    images = 0
    for index, item in enumerate(batches):
        place = f"batch {index + 1}"
        inputs, wanted = unpack(original, item, place)
        kept: dict[str, list[Pair]] = {output.name: [] for output in original.outputs}
        try:
            cut = [piece for _, piece in pieces(original, inputs, room=PIECE_BYTES / 32)]
            for moved, ended in spread(compared, cut):
                for name, difference in moved.items():
                    layers[name].merge(difference)
                for output in original.outputs:
                    outputs[output.name].add(*ended[output.value])
                    if scored is None:
                        continue
                    if not kept[output.name] or output.value not in original.constants:
                        kept[output.name].append(ended[output.value])
            if scored is not None:
                scored.add(inputs, {name: _joined(some) for name, some in kept.items()}, wanted)
        except ConvsmithError as error:
            raise error.at(place) from None
        images += images_in(inputs)
        if progress is not None:
            progress("verifying", images, 0)
    if not images:
        raise DataError("there is nothing to verify with", remedy="give at least one image")
    for name, difference in outputs.items():
        if not np.isfinite(difference.error):
            raise DataError(
                "this output holds NaN or infinity",
                place=name,
                remedy="check the weights, and how the images are normalized",
            )
    before, after = fields(original), fields(rewritten)
    return Verification(
        images=images,
        data=data,
        layers={name: difference.relative for name, difference in layers.items()},
        outputs=tuple(
            OutputError(
                name=name,
                relative=difference.relative,
                largest=difference.largest,
                agreement=difference.agreement,
                divergence=difference.divergence,
            )
            for name, difference in outputs.items()
        ),
        metric=None if scored is None else scored.result(),
        fields={o.name: (before[o.value], after[ends[o.value]]) for o in original.outputs},
        memory=(_footprint(original), _footprint(rewritten)),
        timings=side_by_side(original, rewritten, measure, modules=modules),
    )


def _joined(pairs: Sequence[Pair]) -> Pair:
    """The pieces of a batch together."""
    if len(pairs) == 1:
        return pairs[0]
    before, after = zip(*pairs, strict=True)
    return np.concatenate(before), np.concatenate(after)


def _footprint(net: Graph) -> Footprint:
    total = analyze(net).total
    return Footprint(weights=total.weight_bytes, activations=total.peak_activation_bytes)


def _ends(original: Graph, rewritten: Graph) -> dict[str, str]:
    """The values of the rewritten network that correspond to outputs of the original."""
    named = {output.name: output.value for output in rewritten.outputs}
    if set(named) != {output.name for output in original.outputs}:
        raise UsageError(
            f"the outputs are {', '.join(o.name for o in original.outputs)} before and"
            f" {', '.join(named)} after",
            remedy="compare a network with its rewritten form",
        )
    if {value.name for value in original.inputs} != {value.name for value in rewritten.inputs}:
        raise UsageError(
            f"the inputs are {', '.join(v.name for v in original.inputs)} before and"
            f" {', '.join(v.name for v in rewritten.inputs)} after",
            remedy="compare a network with its rewritten form",
        )
    return {output.value: named[output.name] for output in original.outputs}


def _constants(net: Graph) -> dict[str, Array]:
    """Outputs that no image has any influence on."""
    return {
        output.value: np.asarray(net.constants[output.value].data)
        for output in net.outputs
        if output.value in net.constants
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stand:
    """What stands for a node of the original; ``same`` if that is the node itself."""

    nodes: tuple[Node, ...]
    same: bool


def _in_step(original: Graph, rewritten: Graph) -> Mapping[str, _Stand] | None:
    """What stands for every node of the original; ``None`` if the two are built differently.

    The last node that stands for a layer has its name; those before it say of what layer they
    come, as the layer itself does where it was merged or stands for another one already.
    """
    origins = {node.name: _origin(node) for node in original.nodes}
    found: dict[str, list[Node]] = {}
    waiting: dict[str, list[Node]] = {}
    for node in rewritten.nodes:
        origin = _origin(node)
        waiting.setdefault(origin, []).append(node)
        if origins.get(node.name) == origin:
            found[node.name] = waiting.pop(origin)
    if waiting or found.keys() != origins.keys():
        return None
    if any(o.value != r.value for o, r in zip(original.outputs, rewritten.outputs, strict=True)):
        return None
    return {
        node.name: _Stand(
            nodes=tuple(found[node.name]),
            same=found[node.name] == [node] and _same_constants(original, rewritten, node),
        )
        for node in original.nodes
    }


def _origin(node: Node) -> str:
    """The layer of the first network that a node came from."""
    return node.provenance.replaces or node.name


def _same_constants(original: Graph, rewritten: Graph, node: Node) -> bool:
    for name in (*node.parameters, *node.inputs):
        if name in original.constants:
            one, two = (graph.constants[name].data for graph in (original, rewritten))
            if one is not two and (one is None or two is None or not np.array_equal(one, two)):
                return False
    return True


def _together(
    original: Graph, rewritten: Graph, stands: Mapping[str, _Stand], inputs: Mapping[str, Array]
) -> Iterator[tuple[str, Pair]]:
    """Runs both networks in step and yields every value they share, before and after.

    What does not differ is computed once; what is not needed any more is forgotten.
    """
    left, right = dict(inputs), dict(inputs)
    pending = Counter(used for node in original.nodes for used in node.inputs)
    for node in original.nodes:
        stand = stands[node.name]
        made = _run(original, node, left)
        same = stand.same and all(left.get(u) is right.get(u) for u in node.inputs)
        if same:
            right.update(made)
        else:
            for other in stand.nodes:
                right.update(_run(rewritten, other, right))
            for other in stand.nodes[:-1]:
                del right[other.name]
        left.update(made)
        for name in made:
            yield name, (left[name], right[name])
        for used in node.inputs:
            pending[used] -= 1
            if not pending[used]:
                left.pop(used, None)
                right.pop(used, None)


def _run(net: Graph, node: Node, values: Mapping[str, Array]) -> dict[str, Array]:
    try:
        results = apply(node.op, *node_arguments(net, node, values))
    except ConvsmithError as error:
        raise error.at(node.name) from None
    return dict(zip(node.outputs, results, strict=True))


def _apart(
    original: Graph, rewritten: Graph, ends: Mapping[str, str], inputs: Mapping[str, Array]
) -> Iterator[tuple[str, Pair]]:
    """Runs one network after the other and yields their outputs, before and after."""
    kept: list[dict[str, Array]] = []
    for graph, wanted in ((original, set(ends)), (rewritten, set(ends.values()))):
        kept.append({})
        for _, made in steps(graph, inputs):
            kept[-1].update((name, array) for name, array in made.items() if name in wanted)
    for before, after in ends.items():
        if before in kept[0] and after in kept[1]:
            yield before, (kept[0][before], kept[1][after])
