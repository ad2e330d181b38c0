"""Plans: what a rewrite decided, as a file that people edit."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_weights import random_network

import convsmith as cs
from convsmith.errors import OutputError, PlanError
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import Calibration, Plan, Rewriting

Array = npt.NDArray[Any]

NET = random_network(
    "4@10 > conv 16 3 p1 > relu > conv 16 3/2 psame > relu > conv 8 1 > conv 8 3 p1"
)
X = np.random.default_rng(0).normal(size=(8, 4, 10, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return cs.calibrate(NET, [X])


@pytest.fixture(scope="module")
def made(calibration: Calibration) -> Rewriting:
    return cs.rewrite(NET, macs=0.6, calibration=calibration)


@pytest.fixture
def file(made: Rewriting, tmp_path: Path) -> Path:
    made.plan.save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def edit(file: Path, change: Callable[[Any], object]) -> Path:
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")
    return file


def run(net: Graph) -> Array:
    return evaluate(net, {"x": X})[net.outputs[0].value]


def replaced(plan: Plan) -> list[str]:
    return [choice.layer for choice in plan.choices if choice.form != "keep"]


# Round trip --------------------------------------------------------------------------------


def test_a_plan_comes_back_as_it_was_saved(made: Rewriting, file: Path) -> None:
    read = Plan.load(file)
    assert read == made.plan
    assert read.to_dict() == made.plan.to_dict()
    assert np.array_equal(run(cs.apply(read, NET)), run(made.net))


def test_the_file_is_the_published_schema(made: Rewriting, file: Path) -> None:
    content = json.loads(file.read_text("utf-8"))
    assert list(content) == ["schema", "source", "budget", "choices", "weights"]
    assert content["schema"] == "convsmith.plan/1"
    assert content["budget"] == {"macs": 0.6}
    assert [choice["layer"] for choice in content["choices"]] == ["conv1", "conv2", "conv4"]
    assert list(content["choices"][0]) == [
        "layer", "form", "rank", "order", "text", "shape", "macs_before", "macs_after", "error",
    ]  # fmt: skip
    data = (file.parent / content["weights"]["file"]).read_bytes()
    assert content["weights"] == {
        "file": "plan.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_nothing_is_overwritten_and_nothing_left_behind(made: Rewriting, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("mine", "utf-8")
    with pytest.raises(OutputError, match="this file exists"):
        made.plan.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    made.plan.save(path, overwrite=True)
    assert Plan.load(path) == made.plan


def test_a_plan_cannot_take_the_name_of_its_weights(made: Rewriting, tmp_path: Path) -> None:
    path = tmp_path / "plan.safetensors"
    with pytest.raises(OutputError) as raised:
        made.plan.save(path)
    assert str(raised.value) == f"{path}: this is the name of the plan's weights; use .json."


# Edited plans ------------------------------------------------------------------------------


def test_another_rank_is_fitted_anew(file: Path, calibration: Calibration) -> None:
    def change(content: Any) -> None:
        content["choices"][1]["rank"] = 5

    plan = Plan.load(edit(file, change))
    assert plan.choices[1].rank == 5
    with pytest.raises(PlanError) as raised:
        cs.apply(plan, NET)
    assert str(raised.value) == (
        "conv2: the plan has no weights for rank 5 of the form 'spatial';"
        " refit with convsmith.rewrite(net, plan=plan, calibration=...)."
    )
    again = cs.rewrite(NET, plan=plan, calibration=calibration)
    assert again.plan.choices[1].rank == 5
    assert again.net.shape("conv2.1")[1] == 5
    assert again.plan.budget == {"macs": 0.6}


def test_a_layer_can_be_kept(file: Path) -> None:
    def change(content: Any) -> None:
        for choice in content["choices"]:
            choice["form"] = "keep"

    plan = Plan.load(edit(file, change))
    assert cs.apply(plan, NET) is NET
    with warnings.catch_warnings():  # nothing is fitted, so nothing is missing
        warnings.simplefilter("error")
        assert cs.rewrite(NET, plan=plan).net is NET


def test_the_same_plan_gives_the_same_network(made: Rewriting, calibration: Calibration) -> None:
    again = cs.rewrite(NET, plan=made.plan, calibration=calibration)
    assert again.plan == made.plan
    assert np.array_equal(run(again.net), run(made.net))


def test_a_plan_without_its_weights_can_be_refitted(file: Path, calibration: Calibration) -> None:
    file.with_suffix(".safetensors").unlink()
    plan = Plan.load(file)
    with pytest.raises(PlanError, match=r"the plan has no weights for rank \d+"):
        cs.apply(plan, NET)
    assert replaced(cs.rewrite(NET, plan=plan, calibration=calibration).plan) == replaced(plan)


def first(**changes: Any) -> Callable[[Any], object]:
    def change(content: Any) -> None:
        chosen = next(c for c in content["choices"] if c["form"] != "keep")
        chosen.update({k: v(chosen[k]) if callable(v) else v for k, v in changes.items()})

    return change


def test_other_windows_than_those_of_the_form_are_refused(file: Path) -> None:
    plan = Plan.load(edit(file, first(text=lambda text: text.replace(" p1x0", " p1,0,1,0"))))
    same = cs.apply(plan, NET)
    moved = edit(file, first(text=lambda text: text.replace(" p1,0,1,0", " p2,0,0,0")))
    with pytest.raises(PlanError, match=r"is not what the form 'spatial' makes of 'conv 16 3 p1'"):
        cs.apply(Plan.load(moved), NET)
    assert same is not NET


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "rank 0": (first(rank=0), "conv1: rank 0 is no width; choose at least 1, or the form 'keep'."),
    "too wide": (
        first(rank=1000),
        "conv1: rank 1000 is not cheaper than the layer; choose a smaller one, or the form 'keep'.",
    ),
    "unknown form": (
        first(form="tucker"),
        ("conv1: the form 'tucker' does not apply here;"
        " use 'spatial' on 2-D convolutions, or 'keep'."),
    ),
    "unknown layer": (
        first(layer="conv9"),
        ("conv9: this network has no such convolution;"
        " use the plan with the network it was made for."),
    ),
    "a layer that is no convolution": (
        first(layer="relu1"),
        ("relu1: this network has no such convolution;"
        " use the plan with the network it was made for."),
    ),
    "a layer that no form fits": (
        first(layer="conv3", shape=[8, 16, 1, 1]),
        ("conv3: the form 'spatial' does not apply here;"
        " use 'spatial' on 2-D convolutions, or 'keep'."),
    ),
    "another shape": (
        first(shape=[16, 3, 3, 3]),
        ("conv1: its weight has shape (16, 4, 3, 3), the plan was made for (16, 3, 3, 3);"
        " use the plan with the network it was made for."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_plan_that_does_not_fit_is_named(file: Path, calibration: Calibration, kind: str) -> None:
    change, text = REFUSED[kind]
    plan = Plan.load(edit(file, change))
    with pytest.raises(PlanError) as raised:
        cs.rewrite(NET, plan=plan, calibration=calibration)
    assert str(raised.value) == text
    with pytest.raises(PlanError):
        cs.apply(plan, NET)


def test_shared_weights_are_not_replaced_at_one_place(made: Rewriting) -> None:
    first, *others = NET.nodes
    twice = replace(first, name="again", inputs=(NET.inputs[0].name,))
    net = replace(NET, nodes=(first, twice, *others))
    with pytest.raises(PlanError) as raised:
        cs.apply(made.plan, net)
    assert str(raised.value) == (
        "conv1: it shares its weights with another layer; use the form 'keep' for it."
    )


# Files that are no plan --------------------------------------------------------------------

NOT_A_PLAN = "; a plan is the JSON that Plan.save writes."


def write(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text, "utf-8")


def changed(change: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda file: edit(file, change)


def delete(*keys: str) -> Callable[[Path], object]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key][0]
        del content[keys[-1]]

    return changed(change)


def put(key: str, value: Any) -> Callable[[Path], object]:
    return changed(lambda content: content.update({key: value}))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda file: file.unlink(),
        "it cannot be read: No such file or directory; give the JSON file that Plan.save wrote.",
    ),
    "not JSON": (
        write("plan:"),
        "this is not a plan: Expecting value: line 1 column 1 (char 0)" + NOT_A_PLAN,
    ),
    "not text": (
        lambda file: file.write_bytes(b"\xff\xfe\xfd"),
        "this is not a plan: 'utf-",
    ),
    "a list": (write("[]"), "this is not a plan: list indices must be integers or slices"),
    "deep": (write("[" * 100_000), "this is not a plan: "),
    "no schema": (delete("schema"), "this is not a plan: 'schema' is missing" + NOT_A_PLAN),
    "no rank": (delete("choices", "rank"), "this is not a plan: 'rank' is missing" + NOT_A_PLAN),
    "another schema": (
        put("schema", "convsmith.plan/2"),
        ("this is 'convsmith.plan/2', not 'convsmith.plan/1';"
        " give the JSON file that Plan.save wrote."),
    ),
    "NaN": (
        put("budget", {"macs": float("nan")}),
        "this is not a plan: NaN is no number" + NOT_A_PLAN,
    ),
    "a rank in words": (
        changed(first(rank="ten")),
        "this is not a plan: invalid literal for int() with base 10: 'ten'" + NOT_A_PLAN,
    ),
    "weights elsewhere": (
        put("weights", {"file": "../plan.safetensors", "sha256": ""}),
        "its weights '../plan.safetensors' lie outside its folder; name a file beside the plan.",
    ),
    "weights in the root": (
        put("weights", {"file": "/etc/passwd", "sha256": ""}),
        "its weights '/etc/passwd' lie outside its folder; name a file beside the plan.",
    ),
    "the folder as weights": (
        put("weights", {"file": "..", "sha256": ""}),
        "its weights '..' lie outside its folder; name a file beside the plan.",
    ),
    "other weights": (
        lambda file: file.with_suffix(".safetensors").write_bytes(b"other"),
        ("its weights 'plan.safetensors' are not the ones it was saved with;"
        " restore the file, or remove it and refit with convsmith.rewrite(net, plan=...)."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_files_that_are_no_plan_are_named(file: Path, kind: str) -> None:
    damage, text = BAD[kind]
    damage(file)
    with pytest.raises(PlanError) as raised:
        Plan.load(file)
    assert str(raised.value).startswith(f"{file}: {text}")


def test_weights_that_are_no_tensors_are_named(file: Path) -> None:
    weights = file.with_suffix(".safetensors")
    weights.write_bytes(b"\x01")
    digest = hashlib.sha256(b"\x01").hexdigest()
    edit(file, lambda content: content["weights"].update(sha256=digest))
    with pytest.raises(PlanError) as raised:
        Plan.load(file)
    assert str(raised.value).startswith(f"{weights}: its weights cannot be read: ")
    assert str(raised.value).endswith("refit with convsmith.rewrite(net, plan=...).")


def test_two_choices_for_one_layer_are_named(file: Path) -> None:
    edit(file, lambda content: content["choices"].append(content["choices"][0]))
    with pytest.raises(PlanError) as raised:
        Plan.load(file)
    assert str(raised.value) == (
        f"{file}: conv1: this layer has more than one choice; leave one of them."
    )


def test_what_is_no_convolution_is_shown(file: Path) -> None:
    with pytest.raises(PlanError, match=r"conv1: 'relu' is not a convolution; give convolutions"):
        Plan.load(edit(file, first(text="relu > relu")))
