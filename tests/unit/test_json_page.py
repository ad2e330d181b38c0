"""``docs/json.md`` names every key that the verbs write, and no other."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.benches import made_bench
from tests.random_weights import random_network

import convsmith as cs
from convsmith.analysis import symbolic
from convsmith.cli.running import run
from convsmith.diagnosis import Problem, diagnose
from convsmith.linting import Rules, find_rule
from convsmith.linting.baseline import write_baseline
from convsmith.optimization import Files, Optimization, Proof
from convsmith.portrait import portrait
from convsmith.rewrite import Rewriting, Verification, distill
from convsmith.rewrite.plan_difference import compare_plans
from convsmith.rewrite.sweeping import sweep
from convsmith.runtime.running import run as run_network
from convsmith.signal import image_spectrum

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "json.md").read_text("utf-8")


@cache
def described() -> dict[str, frozenset[str]]:
    """The keys in the tables of the page, by section."""
    found: dict[str, frozenset[str]] = {}
    for section in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        cells = re.findall(r"^\| (`.*?) \|", body, re.MULTILINE)
        keys = [key for cell in cells for key in re.findall(r"`([^`]+)`", cell)]
        assert len(keys) == len(set(keys)), f"{title} names a key twice"
        found[title.strip()] = frozenset(keys)
    return found


def keys(data: Any, section: str, path: str = "") -> Iterator[tuple[str, str]]:
    """Every key of some data, as the page writes it, with the section that has to name it."""
    if isinstance(data, list):
        for value in data:
            if isinstance(value, dict):
                yield section, f"{path}[]"
            yield from keys(value, section, f"{path}[]")
    if not isinstance(data, dict):
        return
    if path and "schema" in data:
        section, path = data["schema"], ""
    elif path and "largest_of" in data:
        section, path = "Polynomial", ""
    elif path.endswith(("rf", "fields.*.before", "fields.*.after")):
        section, path = "Receptive field", ""
    has_names = f"{path}.*" in described()[section]
    for key, value in data.items():
        place = "*" if has_names else key
        place = f"{path}.{place}" if path else place
        yield section, place
        yield from keys(value, section, place)


def rewriting() -> tuple[Rewriting, Verification]:
    """A rewritten network, and what it lost on images with labels."""
    net = random_network("4@10 > conv 32 3 p1 > relu > conv 32 3/2 psame > gap > flatten")
    random = np.random.default_rng(0)
    images = random.normal(size=(8, 4, 10, 10)).astype(np.float32)
    made = cs.rewrite(
        net,
        macs=0.2,  # narrow enough for advice
        calibration=cs.calibrate(net, [images]),
        strategy="fast",
        measure=["convsmith"],
    )
    labelled = [(images, random.integers(0, 16, 8))]
    return made, cs.verify(net, made.net, labelled, metric="accuracy", measure=["convsmith"])


def optimized(made: Rewriting, verification: Verification, folder: Path) -> Optimization:
    """What the main job would say about it."""
    analysis = cs.analyze(made.net)
    return Optimization(
        source="network.onnx",
        before=analysis,
        after=analysis,
        rewriting=made,
        verification=verification,
        calibration_images=8,
        skipped=("a.png: too small",),
        timings={},
        speedup=None,
        proof=Proof(original=0.0, rewritten=0.0),
        pictures=(),
        files=Files.at(folder),
        notes=(),
    )


def results(folder: Path) -> Iterator[dict[str, Any]]:
    """One or more objects of every schema; together they have all keys that there are."""
    phases = cs.load("3@9 > conv 4 3/2 > deconv 4 3/2 > gap")
    gated = cs.load("4@9 > conv 4 3 p1 > ( [ gap > conv 4 1 > sigmoid ] + - )")
    for net in (phases, gated, cs.load("4@9 > conv 4 3 > unsupported Magic 4@7")):
        yield cs.analyze(net).to_dict()
    yield cs.analyze(phases).by_module().to_dict()
    yield symbolic(cs.load("3@32 > conv 8 3/2 p1 > relu")).to_dict()
    yield cs.explain(phases).to_dict()
    yield cs.explain(phases, "conv1", convention="thop").to_dict()
    yield cs.explain(cs.load("3@9 > conv 4 3 > bn"), convention="fvcore").to_dict()
    yield cs.compare("4@9 > conv 4 5 p2").to_dict()
    yield cs.compare("4@9 > conv 4 5 p2", against=["4@9 > conv 4 3 p1"]).to_dict()

    skips = cs.load("4@9 > relu > conv 4 1/2 > relu > conv 4 1/2")
    found = cs.lint(skips)
    write_baseline(folder / "known.json", found.findings)
    yield json.loads((folder / "known.json").read_text("utf-8"))
    yield found.to_dict()
    first = found.findings[0]
    yield cs.lint(skips, baseline=folder / "known.json").to_dict()
    other = cs.load("4@9 > relu > conv 4 3/2")
    yield cs.lint(other, baseline=folder / "known.json").to_dict()
    yield cs.lint(skips, ignore=[f"{first.code}@{first.layer} # a test"]).to_dict()
    yield find_rule("stride-skips-pixels").to_dict()
    yield Rules().to_dict()

    small, large = cs.load("3@9 > conv 4 3"), cs.load("3@9 > conv 5 3 > relu")
    yield cs.diff(small, large, macs="+1%").to_dict()
    yield cs.diff(large, small).to_dict()

    made, verification = rewriting()
    made.plan.save(folder / "plan.json")
    yield json.loads((folder / "plan.json").read_text("utf-8"))
    yield made.to_dict()
    yield optimized(made, verification, folder).to_dict()
    worse, *others = made.plan.choices
    kept = (replace(choice, form="keep") for choice in others)
    anew = replace(made.plan, choices=(replace(worse, error=0.5), *kept))
    yield compare_plans(made.plan, anew).to_dict()
    normed = random_network("3@8 > conv 8 3 p1 > bn")
    merging = cs.rewrite(normed, macs=1.0, merge=True).plan
    yield merging.to_dict()
    yield compare_plans(merging, replace(merging, merges=())).to_dict()
    yield compare_plans(replace(merging, merges=()), merging).to_dict()
    net = random_network("3@8 > conv 8 3 p1")
    seen = cs.calibrate(net, [np.ones((2, 3, 8, 8), np.float32)])
    yield sweep(net, [1.0, 0.001], calibration=seen, measure=["convsmith"]).to_dict()
    one, other = (random_network(f"4@5 > conv 4 3{end} > gap > flatten") for end in ("", " nobias"))
    yield distill(one, other, [np.arange(400.0).reshape(4, 4, 5, 5)], steps=2).to_dict()

    yield cs.merge(random_network("2@9 > conv 3 3 > bn")).to_dict()
    yield cs.spectrum(random_network("2@9 > conv 3 3/2 p1 > relu > conv 2 3")).to_dict()
    noise = np.random.default_rng(0).random((2, 9, 9))
    yield image_spectrum(noise, filter="box:3").to_dict()
    yield image_spectrum(noise, through=random_network("2@9 > conv 3 3")).to_dict()
    yield portrait(cs.load("3@9 > ( conv 3 3 p1 > relu ) x25")).to_dict()
    tiny = "4@6 > conv 4 3 p1"
    yield cs.bench(tiny, algorithms=["direct"], peers="none", threads=1, rounds=1).to_dict()
    yield made_bench(cold=True).to_dict()  # with peers: not all of them are installed everywhere
    classifier = "3@12 > conv 8 3 > gap > flatten > fc 10"
    yield run_network(classifier, runs=1, tune=False, profile=True).to_dict()
    sick = Problem(fact="a test", remedy="none")
    yield replace(diagnose(), problems=(sick,), variables=(("CONVSMITH_LANES", "8"),)).to_dict()


def test_every_key_is_described_and_every_described_key_is_written(tmp_path: Path) -> None:
    found: dict[str, set[str]] = {section: set() for section in described()}
    for data in results(tmp_path):
        for section, key in keys(json.loads(json.dumps(data)), data["schema"]):
            found[section].add(key)
    for section, named in described().items():
        assert found[section] == named, section


# Headers of files that only we read: arrays, and what was measured once.
PRIVATE = {
    *("convsmith.calibration/2", "convsmith.choice/3", "convsmith.layout/1"),
    "convsmith.distillation-checkpoint/1",
}


def test_every_schema_has_a_section() -> None:
    named = set()
    for file in (REPOSITORY / "src" / "convsmith").rglob("*.py"):
        named |= set(re.findall(r"\"(convsmith\.[a-z-]+/\d+)\"", file.read_text("utf-8")))
    assert named - PRIVATE == {title for title in described() if "/" in title}


def test_the_commands_run(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^    (convsmith .*)$", PAGE, re.MULTILINE)
    assert len(commands) > 5
    for line in commands:
        words = shlex.split(line)[1:]
        if "network.onnx" in words:  # no such file; its verb has its own tests
            continue
        assert run(words) in (0, 1), line
        assert json.loads(capsys.readouterr().out)["schema"] in described()
