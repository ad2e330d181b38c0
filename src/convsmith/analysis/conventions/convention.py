"""The conventions by name: which tool, in which version, by which rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

from convsmith.analysis.conventions import (
    calflops,
    dispatched,
    fvcore,
    onnx_tool,
    ptflops,
    textbook,
    thop,
    torchinfo,
    torchprofile,
    torchscan,
)
from convsmith.analysis.conventions.call import Call, Part, Rules
from convsmith.errors import UsageError
from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Operator

__all__ = ["CONVENTIONS", "Convention", "find_convention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """How one tool counts.

    Attributes:
        name: What it is asked for by.
        tool: The tool and its version, or the paper.
        reports: Which of its numbers is reproduced: multiply-accumulates, whatever the tool
            calls them, or operations.
        rules: By torch function; ``*`` stands for all others.
        sees_functions: Whether a function called in a forward is counted like a module.
        parameters: Its total of parameters; ``None`` where it is the exact one.
        size_of: The shapes that it computes differently.
    """

    name: str
    tool: str
    reports: Literal["macs", "flops"]
    rules: Rules
    sees_functions: bool = True
    parameters: Callable[[Graph], int | None] | None = None
    size_of: Callable[[Operator, tuple[Shape, ...]], Shape | None] | None = None

    def parts(self, call: Call) -> tuple[Part, ...]:
        """What it counts for one call."""
        rule = self.rules.get(call.function, self.rules.get("*"))
        return tuple(rule(call)) if rule is not None else ()

    def why_missing(self, call: Call) -> str:
        """The reason why products are not counted, where a rule gives none."""
        return "no-rule" if self.sees_functions or call.module else "functional"


_ALL = (
    Convention(
        name="textbook",
        tool="textbooks: a bias is one more multiplication",
        reports="macs",
        rules=textbook.RULES,
    ),
    Convention(
        name="madd",
        tool="textbooks: multiplications and additions",
        reports="flops",
        rules=textbook.RULES,
    ),
    Convention(
        name="torchinfo",
        tool="torchinfo 1.8.0",
        reports="macs",
        rules=torchinfo.RULES,
        sees_functions=False,
        parameters=torchinfo.parameters,
    ),
    Convention(name="fvcore", tool="fvcore 0.1.5.post20221221", reports="macs", rules=fvcore.RULES),
    Convention(
        name="thop",
        tool="ultralytics-thop 2.2.3",
        reports="macs",
        rules=thop.RULES,
        sees_functions=False,
    ),
    Convention(
        name="ptflops",
        tool="ptflops 0.7.5, backend pytorch",
        reports="macs",
        rules=ptflops.PYTORCH,
        sees_functions=False,
    ),
    Convention(
        name="ptflops-aten",
        tool="ptflops 0.7.5, backend aten",
        reports="macs",
        rules=ptflops.ATEN,
    ),
    Convention(
        name="torchvision",
        tool="torchvision, _ops of its weights",
        reports="macs",
        rules=dispatched.TORCHVISION,
    ),
    Convention(
        name="torchprofile", tool="torchprofile 0.1.0", reports="macs", rules=torchprofile.RULES
    ),
    Convention(
        name="torchscan",
        tool="torchscan 0.2.0",
        reports="macs",
        rules=torchscan.RULES,
        sees_functions=False,
    ),
    Convention(
        name="calflops", tool="calflops 0.3.2, FLOPs", reports="flops", rules=calflops.RULES
    ),
    Convention(
        name="calflops-macs",
        tool="calflops 0.3.2, MACs",
        reports="macs",
        rules=calflops.RULES_MACS,
    ),
    Convention(
        name="flopcounter",
        tool="torch.utils.flop_counter of torch 2.13.0",
        reports="flops",
        rules=dispatched.FLOP_COUNTER,
    ),
    Convention(
        name="onnx-tool",
        tool="onnx-tool 1.0.1",
        reports="macs",
        rules=onnx_tool.RULES,
        size_of=onnx_tool.size_of,
    ),
)

CONVENTIONS: Mapping[str, Convention] = MappingProxyType({each.name: each for each in _ALL})
"""By name; ``exact`` is none of them: it is what they are compared with."""

_ALIASES = {
    "flopcountermode": "flopcounter",
    "flop-counter": "flopcounter",
    "torch": "flopcounter",
    "ultralytics-thop": "thop",
    "onnxtool": "onnx-tool",
    "ptflops-pytorch": "ptflops",
}


def find_convention(name: str) -> Convention | None:
    """Returns a convention by its name; ``None`` for ``exact``.

    Args:
        name: Upper and lower case are the same, and so are ``_`` and ``-``.

    Raises:
        UsageError: If there is none; the message has a close match and the list.

    >>> find_convention("FlopCounterMode").tool
    'torch.utils.flop_counter of torch 2.13.0'
    """
    plain = name.strip().lower().replace("_", "-")
    plain = _ALIASES.get(plain, plain)
    if plain == "exact":
        return None
    if plain not in CONVENTIONS:
        close = get_close_matches(plain, ["exact", *CONVENTIONS, *_ALIASES], n=1)
        guess = f"did you mean {close[0]!r}? It" if close else "it"
        raise UsageError(
            f"there is no convention {name!r}",
            place="convention",
            remedy=f"{guess} is one of exact, {', '.join(CONVENTIONS)}",
        )
    return CONVENTIONS[plain]
