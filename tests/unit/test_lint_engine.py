"""Choosing rules, suppressing findings, baselines, settings, and what real networks get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.random_weights import random_network
from torch import nn

import convsmith as cs
from convsmith.errors import UsageError
from convsmith.graph import Graph, parse
from convsmith.linting import RULES, Findings, Suppression, find_rule, lint, read_settings
from convsmith.linting.baseline import read_baseline, write_baseline
from convsmith.linting.registry import DEFAULT, choose_rules
from convsmith.sources.zoo import NETWORKS, network

NET = "3@8 > conv 4 3 > bn > relu > conv 4 1 p1 > bn > relu > relu"


def codes(found: Findings) -> list[tuple[str, str]]:
    return [(finding.code, finding.layer) for finding in found.findings]


# Choosing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("select", "ignore", "count"),
    [
        (["all"], [], len(RULES)),
        (["default"], [], sum(rule.category in DEFAULT for rule in RULES)),
        (["performance"], [], sum(rule.code.startswith("P") for rule in RULES)),
        (["S1"], [], sum(rule.code.startswith("S1") for rule in RULES)),
        (["default", "P101"], ["numerics", "checkerboard"], None),
        (["s104", "CHECKERBOARD"], [], 1),
    ],
)
def test_rules_are_chosen_by_words(select: list[str], ignore: list[str], count: int | None) -> None:
    chosen = [rule.code for rule in choose_rules(select, ignore)]
    if count is not None:
        assert len(chosen) == count
    else:
        assert "P101" in chosen
        assert "S104" not in chosen
        assert not any(code.startswith("N") for code in chosen)


@pytest.mark.parametrize("name", ["checkerbord", "S999", "", "perf ormance"])
def test_an_unknown_rule_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="there is no rule"):
        lint(parse(NET), select=[name])
    with pytest.raises(UsageError, match="there is no rule"):
        find_rule(name)


def test_a_typo_gets_a_guess() -> None:
    with pytest.raises(UsageError, match="did you mean 'checkerboard'"):
        lint(parse(NET), ignore="checkerbord")


def test_errors_come_first_then_the_order_of_the_rules() -> None:
    assert codes(lint(parse(NET))) == [
        ("C004", "conv2"),
        ("S301", "conv1"),
        ("S301", "conv2"),
        ("S304", "relu3"),
    ]
    net = parse("3@8 > conv 1 3 > bn > relu > relu > softmax")
    assert codes(lint(net))[0] == ("C009", "softmax1")


def test_lint_takes_a_network_only() -> None:
    with pytest.raises(UsageError, match="lint needs a network, not str"):
        lint("3@8 > relu")  # type: ignore[arg-type]


# Suppressing ----------------------------------------------------------------------


def test_a_suppression_covers_its_layers() -> None:
    found = lint(parse(NET), select="S", ignore=["S301@conv? # trained so"])
    assert codes(found) == [("S304", "relu3")]
    assert [(s.finding.layer, s.reason) for s in found.suppressed] == [
        ("conv1", "trained so"),
        ("conv2", "trained so"),
    ]


def test_a_suppression_without_a_reason_is_found() -> None:
    found = lint(parse(NET), ignore=["bias-before-batch-norm@conv1"])
    (own,) = (finding for finding in found.findings if finding.code == "S901")
    assert (own.layer, own.message) == (
        "conv1",
        "bias-before-batch-norm is suppressed here without a reason",
    )
    assert len(found.suppressed) == 1
    assert codes(lint(parse(NET), select="S901", ignore=["S301@conv1 # why"])) == []


def test_a_suppression_that_is_not_needed_is_found() -> None:
    found = lint(parse(NET), ignore=["S301@conv9 # gone", "S305@* # never there"])
    unused = [finding for finding in found.findings if finding.code == "S902"]
    assert [(f.layer, f.message) for f in unused] == [
        ("conv9", "S301 is suppressed here but was not found"),
        ("*", "S305 is suppressed here but was not found"),
    ]
    # A rule that was not checked cannot tell.
    assert codes(lint(parse(NET), select=["S902", "C"], ignore=["S305@* # x"])) == [
        ("C004", "conv2")
    ]


def test_names_with_brackets_are_taken_as_they_are() -> None:
    cover = Suppression(rule="S301", layer="layer[0].conv", reason="x")
    assert cover.covers("layer[0].conv")
    assert not cover.covers("layer1.conv")


@pytest.mark.parametrize("text", ["S301@", "S301@ # why", "nothing@conv1"])
def test_a_bad_suppression_is_an_error(text: str) -> None:
    with pytest.raises(UsageError):
        lint(parse(NET), ignore=[text])


# Settings -------------------------------------------------------------------------


def test_settings_are_read(tmp_path: Path) -> None:
    file = tmp_path / "convsmith-lint.toml"
    file.write_text(
        'select = ["default", "P"]\nignore = ["P103"]\nobject = 96\n[anchors]\nconv1 = 32\n'
        '[[suppress]]\nrule = "S301"\nlayer = "conv*"\nreason = "trained"\n',
        encoding="utf-8",
    )
    settings = read_settings(file)
    assert settings.select == ("default", "P")
    assert settings.ignore == ("P103",)
    assert settings.object_size == (96,)
    assert settings.anchors == {"conv1": 32}
    assert settings.suppressions == (Suppression(rule="S301", layer="conv*", reason="trained"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("select = [", "it is no TOML"),
        ("x = 1", "unknown key 'x'"),
        ("select = 1", "'select' must be a list of names"),
        ("object = -1", "'object' must be a size"),
        ("object = [true]", "'object' must be a size"),
        ("anchors = 3", "'anchors' must give every layer a size"),
        ("[anchors]\na = 0", "'anchors' must give every layer a size"),
        ("suppress = 3", "'suppress' must be a list"),
        ("[[suppress]]\nlayer = 'x'", "names no rule"),
        ("[[suppress]]\nrule = 'S301'\nwhy = 'x'", "has no 'why'"),
        ("[[suppress]]\nrule = 'S301'\nlayer = 3", "texts only"),
        ("[[suppress]]\nrule = 'S3o1'", "there is no rule 'S3o1'"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "lint.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        read_settings(file)
    assert str(file) in str(caught.value)


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        read_settings(tmp_path / "no.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_settings(tmp_path)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_settings(tmp_path / "b.toml")


# Baselines ------------------------------------------------------------------------


def test_a_baseline_hides_what_is_known_and_tells_what_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    old = lint(parse(NET))
    write_baseline(file, old.findings)
    assert not lint(parse(NET), baseline=file)
    assert lint(parse(NET), baseline=file).baselined == old.findings
    worse = lint(parse(NET.replace("> relu > relu", "> relu > relu > relu")), baseline=file)
    assert codes(worse) == [("S304", "relu4")]
    better = lint(parse(NET.replace("conv 4 3 > bn", "conv 4 3 nobias > bn")), baseline=file)
    assert not better
    assert [(e.rule, e.layer, e.count) for e in better.fixed] == [
        ("bias-before-batch-norm", "conv1", 1)
    ]


def test_a_baseline_counts(tmp_path: Path) -> None:
    net = parse("3@64 > conv 8 3/2 p1 > relu > conv 8 3/2 p1 > relu > conv 8 3/2 p1")
    both = lint(net, select="S202", anchors={"conv3": 16})
    assert len(both) == 2
    file = tmp_path / "known.json"
    write_baseline(file, both.findings[:1])
    assert len(lint(net, select="S202", anchors={"conv3": 16}, baseline=file)) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[", "[1]", '{"schema": "convsmith.lint/1", "findings": []}', "9" * 5000]
    + [
        json.dumps({"schema": "convsmith.lint-baseline/1", "findings": findings})
        for findings in (
            None,
            [1],
            [{"rule": "x"}],
            [{"rule": "x", "layer": "y", "count": 0}],
            [{"rule": "x", "layer": "y", "count": True}],
            [{"rule": 1, "layer": "y", "count": 1}],
        )
    ],
)
def test_a_file_that_is_no_baseline(tmp_path: Path, text: str) -> None:
    file = tmp_path / "known.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError):
        read_baseline(file)


# Options --------------------------------------------------------------------------


def test_object_sizes() -> None:
    net = parse("3@64 > conv 8 3 p1 > relu > conv 8 3 p1")
    assert not lint(net, select="S201", object_size=5)
    assert [f.message for f in lint(net, select="S201", object_size=(5, 6)).findings] == [
        "it sees 5x5 pixels, an object has 5x6"
    ]
    # A linear layer that reads all positions is taken to put the parts together.
    flat = parse("3@64 > conv 8 3 p1 > flatten > fc 10")
    assert not lint(flat, select="S201")
    assert lint(flat, select="S201", object_size=32)


@pytest.mark.parametrize("size", [0, -3, (3, 0), True, 2.5])
def test_an_object_size_that_makes_no_sense(size: object) -> None:
    with pytest.raises((UsageError, TypeError)):
        lint(parse(NET), object_size=size)  # type: ignore[arg-type]


def test_an_anchor_of_no_layer_gets_a_guess() -> None:
    with pytest.raises(UsageError, match="did you mean 'conv"):
        lint(parse(NET), anchors={"conv": 16})
    with pytest.raises(UsageError, match="give 1 pixel or more"):
        lint(parse(NET), anchors={"conv1": 0})


def test_what_cannot_be_checked_is_said() -> None:
    reasons = {item.code: item.reason for item in lint(parse(NET), select="all").not_checked}
    assert reasons["C001"] == "the network has no weights"
    assert reasons["S202"] == "no anchors were given"
    full = lint(random_network(NET), select="all", anchors={"conv1": 1})
    assert not full.not_checked


def test_json_has_the_published_keys() -> None:
    data = lint(parse(NET)).to_dict()
    assert data["schema"] == "convsmith.lint/1"
    assert all(
        list(item) == ["rule", "code", "severity", "layer", "message", "remedy"]
        for item in data["findings"]
    )
    assert data["counts"] == {"error": 0, "warning": 1, "note": 3}
    assert json.loads(lint(parse(NET)).to_json()) == data


# Real networks --------------------------------------------------------------------

TRUE_FINDINGS = {
    "resnet50": {
        ("P201", "relu"),  # the stem: pooling first saves three quarters of the activations
    },
    "mobilenet_v2": {("P102", "*")},  # every depthwise layer waits for memory
}
"""With every category: what is there to say about two networks that work well."""


KNOWN = {
    "inception_v3": {"S107"},  # torchvision's average poolings count their padding
    "resnet50_v1": {"S101", "S102"},  # the stride in the 1x1, which version 1.5 moved
    "squeezenet1_0": {"S102", "S201"},  # an unpadded stem at 224; no feature sees the image
    "squeezenet1_1": {"S102", "S201"},
}
"""With the default categories: the networks of the zoo that have findings, all of them true."""


def test_what_the_default_categories_say_about_the_zoo() -> None:
    found = {name: {f.code for f in lint(network(name)).findings} for name in NETWORKS}
    assert {name: said for name, said in found.items() if said} == KNOWN


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_good_networks_have_no_findings_by_default(name: str) -> None:
    found = cs.lint(network(name))
    assert not found.findings
    assert len(found.checked) > 25


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_what_all_categories_say_about_good_networks(name: str) -> None:
    net = network(name)
    found = cs.lint(net, select="all")
    depthwise = {node.name for node in net.nodes if getattr(node.op, "groups", 1) > 1}
    assert {
        (code, "*" if layer in depthwise else layer) for code, layer in codes(found)
    } == TRUE_FINDINGS[name]
    if depthwise:
        assert {layer for _, layer in codes(found)} == depthwise


def test_a_freshly_initialized_module_is_no_finding() -> None:
    block = [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(8), *block, nn.GroupNorm(2, 8)).eval()
    found = cs.lint(cs.load(module, (1, 3, 16, 16)), select="all", ignore="P201")
    assert not found.findings
    assert {item.code for item in found.not_checked} == {"S202"}


@pytest.mark.parametrize("notation", ["zoo:mobilenet_v2", "zoo:resnet18"])
def test_random_weights_are_no_finding(notation: str) -> None:
    net = random_network(str(cs.load(notation)))
    found = cs.lint(net)
    assert not found.findings
    assert {item.code for item in found.not_checked} == {"S202"}


def test_the_stride_in_the_pointwise_layer_of_the_first_resnet_is_found() -> None:
    found = lint(network("resnet50_v1"))
    assert {f.layer for f in found.findings if f.code == "S101"} == {
        f"layer{stage}.0.conv1" for stage in (2, 3, 4)
    }


# Networks that are hard to look at ------------------------------------------------

HARD = [
    "3@8 > unsupported Foo ? > relu",
    "3@8 > unsupported Foo 3@8 > ( conv 3 1 + - )",
    "<4> > relu",
    "<1,3,5> > conv 4 3",
    "<1,1,4,4,4> > conv 2 2/2 > deconv 1 2/2 > gap",
    "x : <>\ny = relu (x)\nreturn y",
    "x : 3@8\nreturn x",
    "x : 3@8\nw : constant <1,3,1,1>\ny = add (x w)\nz = relu (w)\nreturn y z",
    f"1@{2**40}x{2**40} > conv 1 3/2 p1 > maxpool 2/2 > gap",
    f"1@9 > conv 1 3 p{2**40} d{2**39}",
    "3@8 > " + " > ".join(["bn"] * 3000),
    "3@8 > " + " > ".join(["conv 3 3 p2 d2"] * 300),
]


@pytest.mark.parametrize("notation", HARD, ids=range(len(HARD)))
def test_hard_networks_get_an_answer(notation: str) -> None:
    found = lint(parse(notation), select="all", object_size=4)
    assert isinstance(found.to_json(), str)
    assert str(found)


def test_an_empty_network() -> None:
    assert not lint(Graph(inputs=(), nodes=(), outputs=()), select="all")
