"""Pages and tables that are made of what the library says about itself, as Markdown."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import convsmith as cs
import convsmith.rewrite.forms
from convsmith.analysis.conventions import CONVENTIONS, account
from convsmith.analysis.cost import cost
from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.algorithms.winograd_error import error_ratio
from convsmith.conv.plan import ConvPlan, candidates
from convsmith.conv.spec import ConvSpec
from convsmith.conv.toom_cook import POINTS, transform
from convsmith.kernel.target import Target
from convsmith.linting import RULES, Rule

__all__ = ["MAKERS", "NAMES", "SERVER", "specs"]

DOCS = Path(__file__).parents[1]

SERVER = Target(
    cpu="x86-64-v4", features="", lanes=16, registers=32,
    level1=32 << 10, level2=1 << 20, level3=32 << 20,
)  # fmt: skip
"""The machine that the pages plan for, so that they say the same wherever they are built."""

NAMES = {
    "Networks in, networks out": ["load", "save", "Graph"],
    "What a network costs and sees": ["analyze", "explain", "compare", "lint", "diff", "spectrum"],
    "Rewriting": ["calibrate", "rewrite", "apply", "verify", "optimize", "merge"],
    "Running": [
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
        "compile", "accelerate", "bench", "set_threads",
    ],
    "Errors": ["ConvsmithError"],
}  # fmt: skip
"""Everything that ``convsmith`` exports, by what it is for."""

_FUNCTIONS = {"rewrite": "convsmith.rewrite.rewriting.rewrite"}  # the package has its name


def escaped(text: str) -> str:
    """Returns text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|$])", r"\\\1", text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Returns a Markdown table; ``align`` has ``l`` or ``r`` for every column."""
    marks = ["--:" if side == "r" else ":--" for side in align.ljust(len(head), "l")]
    lines = [head, marks, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


# Rules ----------------------------------------------------------------------------


def rules() -> str:
    """Every rule of lint: a table, then one section each, by category."""
    parts = []
    for category in dict.fromkeys(rule.category for rule in RULES):
        chosen = [rule for rule in RULES if rule.category == category]
        parts.append(f"## {category.capitalize()}\n")
        rows = (
            [f"[{rule.code}](#{rule.name})", f"`{rule.name}`", escaped(rule.summary), rule.severity]
            for rule in chosen
        )
        parts.append(table(["code", "name", "what it finds", "severity"], rows))
        parts += [_rule(rule) for rule in chosen]
    return "\n".join(parts)


def _rule(rule: Rule) -> str:
    sections = [
        f"({rule.name})=\n### {rule.code} {rule.name}\n",
        f"**{escaped(rule.summary)}.** Severity: {rule.severity}.\n",
        f"{escaped(rule.what)}\n",
        f"*Why.* {escaped(rule.why)}\n",
        f"```text\n{rule.example}\n```\n",
    ]
    if rule.given:
        sections.append(f"where {escaped(rule.given)}. ")
    sections.append(f"Close to it, and fine:\n\n```text\n{rule.fine}\n```\n")
    sections.append(f"*Remedy.* {escaped(rule.remedy)}\n")
    if rule.caveats != "None known.":
        sections.append(f"*Known problems.* {escaped(rule.caveats)}\n")
    if rule.references:
        sections.append(f"*References.* {escaped('; '.join(rule.references))}.\n")
    return "\n".join(sections)


# Conventions ----------------------------------------------------------------------

_COUNTED = {
    "ResNet-50": "zoo:resnet50", "VGG-16": "zoo:vgg16", "MobileNet v1": "zoo:mobilenet_v1",
}  # fmt: skip


def conventions() -> str:
    """What every convention gives for some networks."""
    nets = [cs.load(source) for source in _COUNTED.values()]
    exact = [f"**{cs.analyze(net).total.macs:,}**" for net in nets]
    rows = [["`exact`", "convsmith: convolutions, linear layers, matrix products", "MACs", *exact]]
    for name, convention in CONVENTIONS.items():
        counted = [f"{account(net, convention).counted:,}" for net in nets]
        unit = "MACs" if convention.reports == "macs" else "operations"
        rows.append([f"`{name}`", escaped(convention.tool), unit, *counted])
    return table(["convention", "tool", "reports", *_COUNTED], rows, "lllrrr")


def accounts() -> str:
    """From the exact count of ResNet-50 to that of every convention, term by term."""
    net = cs.load(_COUNTED["ResNet-50"])
    rows = []
    for name, convention in CONVENTIONS.items():
        found = account(net, convention)
        terms = [f"{term.amount:+,} {escaped(term.text())}" for term in found.terms]
        rows.append([f"`{name}`", "<br>".join(terms) or "the same", f"{found.counted:,}"])
    return table(["convention", "what makes the difference", "in all"], rows, "llr")


# Algorithms -----------------------------------------------------------------------


def specs() -> dict[str, ConvSpec]:
    """The convolutions that the pages compare algorithms on."""

    def same(channels: int, size: int, kernel: int, **more: Any) -> ConvSpec:
        return ConvSpec(
            size=(size, size), channels=channels, filters=more.pop("filters", channels),
            kernel=(kernel, kernel), padding=((kernel // 2, kernel // 2),) * 2, **more,
        )  # fmt: skip

    return {
        "3x3, 64 to 64 channels at 56x56": same(64, 56, 3),
        "5x5, 64 to 64 channels at 56x56": same(64, 56, 5),
        "7x7, 64 to 64 channels at 56x56": same(64, 56, 7),
        "1x1, 1024 to 1024 channels at 32x32": same(1024, 32, 1),
        "depthwise 3x3, 64 channels at 56x56": same(64, 56, 3, groups=64),
        "depthwise 31x31, 64 channels at 56x56": same(64, 56, 31, groups=64),
    }


def fewest(spec: ConvSpec) -> dict[str, ConvPlan]:
    """By algorithm, the plan with the fewest operations."""
    found: dict[str, ConvPlan] = {}
    for plan in candidates(spec, target=SERVER):
        best = found.get(plan.algorithm)
        if best is None or plan.operations.mults < best.operations.mults:
            found[plan.algorithm] = plan
    return found


def algorithms() -> str:
    """Which algorithm takes which convolution, with what it computes."""
    parts = []
    for title, spec in specs().items():
        rows = [
            [
                f"`{name}`",
                f"{plan.operations.mults:,}",
                f"{plan.operations.mults / spec.macs:.3f}",
                f"{plan.operations.adds / spec.macs:.3f}",
                f"{plan.error_ratio:.2g}",
                f"{plan.error_bound:.1e}",
            ]
            for name, plan in fewest(spec).items()
        ]
        head = [
            "algorithm",
            "multiplications",
            "× direct's",
            "additions, × those",
            "error",
            "bound",
        ]
        parts.append(f"**{title}** (`{spec}`)\n\n{table(head, rows, 'lrrrrr')}")
    return "\n".join(parts)


def refusals() -> str:
    """What every algorithm does not take, in its own words."""
    rows = []
    for name, method in ALGORITHMS.items():
        reasons: dict[str, list[str]] = {}
        for title, spec in specs().items():
            if reason := method.refuses(spec):
                reasons.setdefault(reason, []).append(title.partition(",")[0])
        said = [f"{escaped(reason)} ({', '.join(which)})" for reason, which in reasons.items()]
        rows.append([f"`{name}`", "<br>".join(said) or "takes all of them"])
    return table(["algorithm", "what it does not take, and why"], rows)


def tiles() -> str:
    """The sizes of Winograd's tiles: points, savings and error for 3, 5 and 7 taps."""
    rows = []
    for taps in (3, 5, 7):
        for alpha, points in POINTS.items():
            outputs = alpha - taps + 1
            if outputs < 2:
                continue
            made = transform(outputs, taps)
            rows.append([
                f"F({outputs}, {taps})", str(alpha),
                ", ".join(str(point) for point in points) + ", ∞",
                f"{(outputs * taps / alpha) ** 2:.2f}",
                f"{error_ratio(made, made, 64):.2g}", f"{error_ratio(made, made, 512):.2g}",
            ])  # fmt: skip
    head = ["tile", "α", "points", "times fewer, 2-D", "error, C = 64", "C = 512"]
    return table(head, rows, "lrlrrr")


# Forms of rewriting ---------------------------------------------------------------


def forms() -> str:
    """The modules of :mod:`convsmith.rewrite.forms`, each with the first line it says of itself."""
    rows = []
    for found in pkgutil.iter_modules(convsmith.rewrite.forms.__path__):
        if not (DOCS / "rewriting" / f"{found.name}.md").exists():
            continue  # what the forms share
        module = import_module(f"convsmith.rewrite.forms.{found.name}")
        summary = (module.__doc__ or "").strip().splitlines()[0]
        rows.append([f"[`{found.name}`]({found.name}.md)", escaped(summary)])
    return table(["module of `convsmith.rewrite.forms`", "what it is"], rows)


# Names ----------------------------------------------------------------------------


def names() -> str:
    """Every public name, by what it is for, from its docstring."""
    listed = {name for group in NAMES.values() for name in group}
    others = [name for name in cs.__all__ if name not in listed and name != "__version__"]
    parts = []
    for title, group in {**NAMES, "Others": others}.items():
        if not group:
            continue
        parts.append(f"## {title}\n\n```{{eval-rst}}")
        for name in filter(cs.__all__.__contains__, group):
            path = _FUNCTIONS.get(name, f"convsmith.{name}")
            if isinstance(getattr(cs, name), type):
                parts.append(f".. autoclass:: {path}\n   :members:\n")
            else:
                parts.append(f".. autofunction:: {path}\n")
        parts.append("```\n")
    return "\n".join(parts)


# Benchmarks -----------------------------------------------------------------------


def benchmarks() -> str:
    """The runs that are stored in docs/benchmarks, newest first, with machine and command."""
    files = sorted((DOCS / "benchmarks").glob("*.json"))
    runs = [(file, json.loads(file.read_text("utf-8"))) for file in files]
    runs = [(file, run) for file, run in runs if run.get("schema") == "convsmith.benchmark/1"]
    runs.sort(key=lambda pair: (str(pair[1].get("date", "")), pair[0].name), reverse=True)
    if not runs:
        return "No run is stored yet.\n"
    return "\n".join(_run(file.stem, run) for file, run in runs)


def _run(name: str, run: dict[str, Any]) -> str:
    facts = [
        [key, f"`{run[key]}`" if key == "command" else escaped(_cell(run[key]))]
        for key in ("command", "machine", "python", "versions", "date", "load")
        if run.get(key) is not None
    ]
    parts = [f"## {escaped(str(run.get('title', name)))}\n", table(["", ""], facts)]
    for title, part in run["parts"].items():
        parts.append(f"### {escaped(title)}\n")
        if "columns" in part:
            rows = [[escaped(str(cell)) for cell in row] for row in part["rows"]]
            parts.append(
                table([escaped(str(c)) for c in part["columns"]], rows, part.get("align", ""))
            )
        elif part.get("rows") and isinstance(part["rows"][0], dict):
            head = list(part["rows"][0])
            cells = [[escaped(_cell(row.get(key))) for key in head] for row in part["rows"]]
            parts.append(table([escaped(key.replace("_", " ")) for key in head], cells))
        if "bench" in part:
            parts.append(_bench(part))
        if "note" in part:
            parts.append(f"{escaped(part['note'])}\n")
    return "\n".join(parts)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bench(part: dict[str, Any]) -> str:
    bench = part["bench"]
    rows = []
    for layer in bench["layers"]:
        chosen = next((row for row in layer["rows"] if row["chosen"]), None)
        ours = (
            "-"
            if chosen is None or chosen["milliseconds"] is None
            else f"{chosen['milliseconds']:.3f}"
        )
        best = layer["best_peer"]
        theirs = "-" if best is None else f"{layer['peers'][best]:.3f}"
        ratio = "-" if layer["ratio"] is None else f"{layer['ratio']:.2f}"
        rows.append(
            [f"`{layer['spec']}`", str(layer["chosen"]), ours, str(best or "-"), theirs, ratio]
        )
    head = ["convolution", "ours", "ms", "fastest peer", "ms", "times faster"]
    text = table(head, rows, "llrlrr")
    mean = bench.get("geometric_mean")
    if mean is not None:
        text += f"\nGeometric mean: **{mean:.2f}** times as fast as the fastest peer."
    if part.get("worst") is not None:
        text += f" Worst layer: {part['worst']:.2f}."
    machine = bench["machine"]
    text += (
        f" {machine['threads']} threads, {bench['layout']}, medians of {bench['rounds']} turns;"
        f" {', '.join(f'{key} {value}' for key, value in machine['versions'].items())}.\n"
    )
    return text


# What a page takes of the ledger --------------------------------------------------


def decisions() -> str:
    """What counts as what: the decisions that stand in convsmith.analysis.cost."""
    said = import_module(cost.__module__).__doc__ or ""
    _, _, listed = said.partition("alike:\n\n")
    return listed.replace("``", "`").strip() + "\n"


MAKERS: dict[str, Callable[[], str]] = {
    "rules": rules,
    "conventions": conventions,
    "accounts": accounts,
    "algorithms": algorithms,
    "refusals": refusals,
    "tiles": tiles,
    "forms": forms,
    "names": names,
    "benchmarks": benchmarks,
    "decisions": decisions,
}
"""What a page can ask for with ``<!-- library: NAME -->``."""
