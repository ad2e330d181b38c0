"""Rules about what layers see: fields against objects, anchors, images and each other."""

from __future__ import annotations

from fractions import Fraction

from convsmith.analysis import Field
from convsmith.analysis.field.alignment import Misalignment, misalignments
from convsmith.linting.rule import Site, Sites, rule
from convsmith.linting.subject import Subject, times

__all__: list[str] = []

ANCHOR_STRIDE = 4
"""An anchor should be at least this many strides wide (S3FD)."""

ALIGNMENT_TOLERANCE = Fraction(1, 4)
"""How far the centres of two branches may be apart, in steps of the value."""


def _is_local(field: Field) -> bool:
    """Whether a field has a size on every axis and moves with the position."""
    return bool(field.axes) and all(
        axis is not None and not axis.is_constant and not axis.is_empty for axis in field.axes
    )


def _last_local(net: Subject) -> list[tuple[str, Field]]:
    """The values on the way to an output after which nothing is local any more."""
    found = []
    for node in net.graph.nodes:
        field = net.sight[node.name]
        if not _is_local(field):
            continue
        users = net.graph.consumers.get(node.name, ())
        if node.name in net.results or any(not _is_local(net.sight[user.name]) for user in users):
            found.append((node.name, field))
    return found


def _sizes(field: Field) -> tuple[int, ...]:
    return tuple(size or 0 for size in field.size)


@rule(
    "S201",
    "warning",
    what="The largest field of all final features (those that are an output, or that a global"
    " pooling or a linear layer takes together) is smaller than the object. The object is"
    " --object, or else, for a network that takes all positions together, the whole input.",
    why="No position ever sees a whole object: it decides from parts, and the vote of the parts"
    " cannot tell how they are arranged.",
    example="3@64 > conv 8 3/2 p1 > relu > conv 8 3 p1 > gap > fc 10",
    fine="3@64 > conv 8 7/4 p3 > relu > conv 8 7/2 p3 > relu > conv 8 7 p3 > gap > fc 10",
    remedy="Use more layers, strides or dilation, or feed smaller images.",
    caveats="Textures, and networks such as BagNet, need no large field. A feature that a linear"
    " layer reads position by position (flatten, then fc) sees everything afterwards, and is"
    " left alone unless --object is given. Only a part of the field counts much: the effective"
    " field is smaller still.",
    references=(
        "Luo et al., 2016, arXiv:1701.04128 (the effective field)",
        "Brendel & Bethge, 2019, arXiv:1904.00760 (BagNet)",
        "Araujo, Norris & Sim, 2019, doi:10.23915/distill.00021",
    ),
)
def field_smaller_than_object(net: Subject) -> Sites:
    """No position sees a whole object."""
    features = _last_local(net)
    if not features:
        return
    target, what = net.object_size, "an object"
    if not target:
        if any(not _is_pooled(net, name) for name, _ in features):
            return
        image = next((v.shape[2:] for v in net.graph.inputs if len(v.shape) > 2), ())
        target, what = image, "the input"
    rank = len(features[0][1].axes)
    target = target * rank if len(target) == 1 else target
    fields = [_sizes(field) for _, field in features if len(field.axes) == len(target)]
    if not fields:
        return
    largest = tuple(max(sizes) for sizes in zip(*fields, strict=True))
    if any(have < want for have, want in zip(largest, target, strict=True)):
        name, _ = max(features, key=lambda item: _sizes(item[1]))
        yield Site(name, f"it sees {times(largest)} pixels, {what} has {times(target)}")


def _is_pooled(net: Subject, value: str) -> bool:
    """Whether a global pooling or a mean takes all positions of a value together."""
    users = net.graph.consumers.get(value, ())
    return value not in net.results and all(
        net.rows[user.name].op in ("GlobalPool", "Reduce", "AdaptivePool") for user in users
    )


@rule(
    "S202",
    "warning",
    what=f"A layer that --anchor names has a stride greater than its anchor / {ANCHOR_STRIDE}, or"
    " a field smaller than its anchor.",
    why="Anchors that are sparse against their size miss small objects between them; an anchor"
    " larger than the field is asked about pixels that the layer does not see.",
    example="3@64 > conv 8 3/2 p1 > relu > conv 8 3/2 p1 > relu > conv 8 3/2 p1",
    fine="3@64 > conv 8 3/2 p1 > relu > conv 8 3/2 p1 > relu > conv 8 5 p2",
    given="the option --anchor conv3=16",
    remedy="Attach the anchor to a layer of smaller stride or larger field, or change its size.",
    caveats="The effective field is smaller than the field that is compared here; S3FD wants the"
    " anchor well inside the field.",
    references=("Zhang et al., 2017, arXiv:1708.05237, section 3.1 (S3FD)",),
    needs="anchors",
)
def anchor_mismatch(net: Subject) -> Sites:
    """An anchor does not suit the stride or the field of its layer."""
    for layer, anchor in net.anchors.items():
        field = net.sight[layer]
        if not _is_local(field):
            yield Site(layer, f"its field has no size ({field.reason or field.status}), so that"
                       f" an anchor of {anchor} cannot be judged")  # fmt: skip
            continue
        stride = max(s for s in field.stride if s is not None)
        size = min(_sizes(field))
        if stride * ANCHOR_STRIDE > anchor:
            yield Site(layer, f"anchors of {anchor} pixels stand {stride} pixels apart, more than"
                       f" {anchor} / {ANCHOR_STRIDE}")  # fmt: skip
        if size < anchor:
            yield Site(layer, f"it sees {size} pixels, its anchor is {anchor} wide")


@rule(
    "S203",
    "warning",
    what="Two inputs of an addition, another elementwise operator or a concatenation whose fields"
    f" have centres more than {ALIGNMENT_TOLERANCE} of a step apart (a step is the stride of the"
    " value), or that move at different strides.",
    why="Values that are joined position by position then describe different places: features"
    " smear, and boxes and masks shift by that much.",
    example="8@16 > [ conv 8 3 p0,0,2,2 | conv 8 1 ]",
    fine="8@16 > [ conv 8 3 p1 | conv 8 1 ]",
    remedy="Give both branches paddings that keep their centres (half of the extent before each"
    " kernel), or crop at the centre.",
    caveats="A shift by less than the tolerance, as the one between a 2x2 pooling and a padded"
    " 3x3 with stride 2 (1/4 of a step), is not found.",
    references=("Araujo, Norris & Sim, 2019, doi:10.23915/distill.00021, section on alignment",),
)
def misaligned_branches(net: Subject) -> Sites:
    """Branches that meet look at different places."""
    seen: set[tuple[str, str]] = set()
    for found in misalignments(net.graph, net.sight):
        message = _apart(found)
        if message and (found.layer, message) not in seen:
            seen.add((found.layer, message))
            yield Site(found.layer, message)


def _apart(found: Misalignment) -> str:
    """How far the two branches that are farthest apart are, if that is too far."""
    if len(set(found.strides.values())) > 1:
        slow = min(found.strides, key=lambda name: found.strides[name])
        fast = max(found.strides, key=lambda name: found.strides[name])
        return (
            f"one output of {slow} is {found.strides[slow]} of a pixel from the next, one of {fast}"
            f" {found.strides[fast]}"
        )
    stride = next(iter(found.strides.values()))
    if found.shift <= ALIGNMENT_TOLERANCE * stride:
        return ""
    low = min(found.centres, key=lambda name: found.centres[name])
    high = max(found.centres, key=lambda name: found.centres[name])
    return (
        f"output 0 of {low} is centred on pixel {float(found.centres[low]):g}, that of {high} on"
        f" pixel {float(found.centres[high]):g}: off by {float(found.shift):g}, at stride {stride}"
    )
