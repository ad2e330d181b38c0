"""Budgets in a test suite: a network may not become more expensive unnoticed.

Keep what a network costs today as a file, and hold every later version against it::

    convsmith analyze my_package.models:build --input 1,3,224,224 -o tests/model.json

    from convsmith.testing import assert_within_budget

    def test_the_model_stays_cheap():
        assert_within_budget(
            build(), "tests/model.json", input=(1, 3, 224, 224),
            macs="+2%", peak_memory="64MiB", same_field=True,
        )

When it is meant to cost more, run the test with ``CONVSMITH_UPDATE_BASELINES=1``: the file is
written anew, and the change is seen in review. No plug-in is needed; any test runner will do.
"""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import Any

from convsmith.analysis import Analysis, Difference, analyze
from convsmith.analysis.baseline import Baseline, read_baseline
from convsmith.analysis.budgets import judge
from convsmith.analysis.difference import compare_baselines
from convsmith.errors import UsageError
from convsmith.files import write_atomically
from convsmith.sources import load

__all__ = ["UPDATE", "assert_within_budget"]

UPDATE = "CONVSMITH_UPDATE_BASELINES"
"""The environment variable that has baseline files written instead of compared with."""


def assert_within_budget(
    network: Any,
    baseline: Any = None,
    *,
    input: Any = None,  # noqa: A002 - as in convsmith.load
    macs: str | int | None = None,
    params: str | int | None = None,
    flops: str | int | None = None,
    weight_bytes: str | int | None = None,
    peak_memory: str | int | None = None,
    same_field: bool = False,
    strict: bool = True,
) -> Difference | None:
    """Fails if a network costs more than it may, and says which layers are to blame.

    A budget is relative to the baseline (``+2%``, ``-10%``, ``+1M``) or absolute (``4.1G``,
    ``100MiB``, a number).

    Args:
        network: A graph, an analysis, or what ``convsmith.load`` takes: a torch module, a file.
        baseline: The same, or the name of an analysis saved as ``.json``. Absolute budgets do
            without.
        input: The sizes of the input, for what has to be loaded first.
        macs: Budget of multiply-accumulates.
        params: Budget of parameters.
        flops: Budget of operations.
        weight_bytes: Budget of bytes of weights.
        peak_memory: Budget of bytes of activations that are alive at one time.
        same_field: Whether every output has to see the same of the input as in the baseline.
        strict: Whether a layer whose costs are not known fails too: it may hide anything.

    Returns:
        What changed, for further assertions; ``None`` without a baseline.

    Raises:
        AssertionError: If a budget is exceeded; its message lists all that are, and the layers
            that changed.
        UsageError: If there is no budget, or one that cannot be read or needs a baseline.
        SourceError: If the network or the baseline cannot be read.

    >>> from convsmith.graph import parse
    >>> old, new = parse("64@28 > conv 64 5 p2"), parse("64@28 > conv 64 3 p1")
    >>> assert_within_budget(new, old, macs="-50%").same
    0
    >>> assert_within_budget(old, new, macs="+2%")
    Traceback (most recent call last):
    AssertionError: 80,281,600 multiply-accumulates exceed the budget of 29,479,403 (+2% against \
28,901,376) by 50,802,197
    ...
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    asked = {
        "macs": macs,
        "params": params,
        "flops": flops,
        "weight_bytes": weight_bytes,
        "peak_memory": peak_memory,
    }
    budgets = {measure: limit for measure, limit in asked.items() if limit is not None}
    if not budgets and not same_field:
        raise UsageError("there is no budget to keep to", remedy="give one, such as macs='+2%'")
    if same_field and baseline is None:
        raise UsageError(
            "same_field needs a network to compare with", remedy="give a baseline, or leave it out"
        )
    analysis = _analysis(network, input)
    if _is_saved(baseline) and os.environ.get(UPDATE):
        text = analysis.to_json() + "\n"
        write_atomically(Path(baseline), text.encode(), overwrite=True)
    new = Baseline.of(analysis)
    difference = None
    if baseline is None:
        wrong = [str(verdict) for verdict in judge(budgets, new) if not verdict.met]
    else:
        if _is_saved(baseline):
            old = read_baseline(baseline)
        else:
            old = Baseline.of(_analysis(baseline, input))
        difference = compare_baselines(old, new, budgets, same_field=same_field)
        wrong = list(difference.violations)
    if strict:
        wrong += [
            f"the costs of {item.name} ({item.op}) are not known" for item in analysis.unsupported
        ]
    if wrong:
        details = "" if difference is None else f"\n\n{difference}"
        raise AssertionError("\n".join(wrong) + details)
    return difference


def _is_saved(network: Any) -> bool:
    return isinstance(network, str | PathLike) and os.fspath(network).lower().endswith(".json")


def _analysis(network: Any, sizes: Any) -> Analysis:
    return network if isinstance(network, Analysis) else analyze(load(network, sizes))
