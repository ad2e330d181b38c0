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
from convsmith.graph import Constant, Graph
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
    return cs.rewrite(NET, macs=0.6, calibration=calibration, forms=["spatial"])


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
    assert list(content) == [
        *("schema", "source", "budget", "choices", "advice", "merges", "inputs", "weights")
    ]
    assert content["schema"] == "convsmith.plan/2"
    assert content["budget"] == {"macs": 0.6}
    assert [choice["layer"] for choice in content["choices"]] == [
        "conv1", "conv2", "conv3", "conv4",
    ]  # fmt: skip
    assert list(content["choices"][0]) == [
        "layer", "form", "variant", "widths", "text", "shape", "macs_before", "macs_after",
        "milliseconds_before", "milliseconds_after", "error", "norm",
    ]  # fmt: skip
    for some in content["advice"]:
        assert list(some) == ["layer", "fact", "remedy"]
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


def test_another_width_is_fitted_anew(file: Path, calibration: Calibration) -> None:
    def change(content: Any) -> None:
        content["choices"][1].update(form="spatial", variant="vertical-first", widths=[5])

    plan = Plan.load(edit(file, change))
    assert plan.choices[1].widths == (5,)
    with pytest.raises(PlanError) as raised:
        cs.apply(plan, NET)
    assert str(raised.value) == (
        f"conv2: its weights are those of {plan.choices[1].text!r}, which is not what the form"
        " 'spatial' of width 5 makes of 'conv 16 3/2 psame'; edit widths and forms only, and refit"
        " with convsmith.rewrite(net, plan=plan, calibration=...)."
    )
    again = cs.rewrite(NET, plan=plan, calibration=calibration)
    assert again.plan.choices[1].widths == (5,)
    assert again.net.shape("conv2.1")[1] == 5
    assert again.plan.budget == {"macs": 0.6}


OTHER_FORMS: list[tuple[str, str, list[int], list[str]]] = [
    ("stack", "2-2", [5], ["conv 5 2 p1 nobias", "conv 16 2"]),
    ("channel", "window-first", [7], ["conv 7 3 p1 nobias", "conv 16 1"]),
    ("channel", "channels-first", [3], ["conv 3 1 nobias", "conv 16 3 p1"]),
    ("tucker", "both-sides", [3, 9], ["conv 3 1 nobias", "conv 9 3 p1 nobias", "conv 16 1"]),
    ("depthwise_separable", "window-first", [2], ["conv 8 3 p1 g4 nobias", "conv 16 1"]),
    ("grouped", "mixing-behind", [2, 16], ["conv 16 3 p1 g2 nobias", "conv 16 1"]),
    (
        "cp",
        "rank-one",
        [8],
        ["conv 8 1 nobias", "conv 8 3x1 p1x0 g8 nobias", "conv 8 1x3 p0x1 g8 nobias", "conv 16 1"],
    ),
    ("refit", "", [], ["conv 16 3 p1"]),
]


@pytest.mark.parametrize(
    ("form", "variant", "widths", "text"),
    OTHER_FORMS,
    ids=[f"{case[0]} {case[1]}" for case in OTHER_FORMS],
)
def test_another_form_is_fitted_saved_and_applied(
    file: Path,
    calibration: Calibration,
    form: str,
    variant: str,
    widths: list[int],
    text: list[str],
) -> None:
    """Also those that are not tried without being asked for."""

    def change(content: Any) -> None:
        for choice in content["choices"]:
            choice["form"] = "keep"
        content["choices"][0].update(form=form, variant=variant, widths=widths)
        # Something before a refitted layer has to change, or it has nothing to make up for.
        if form == "refit":
            content["choices"][0].update(form="spatial", variant="vertical-first", widths=[8])
            content["choices"][1].update(form=form, variant=variant, widths=widths)

    made = cs.rewrite(NET, plan=Plan.load(edit(file, change)), calibration=calibration)
    choice = made.plan.choices[1 if form == "refit" else 0]
    assert (choice.form, choice.variant, list(choice.widths)) == (form, variant, widths)
    assert choice.text.split(" > ") == (["conv 16 3/2 psame"] if form == "refit" else text)
    made.plan.save(file.with_name("other.json"))
    read = Plan.load(file.with_name("other.json"))
    assert read == made.plan
    assert np.array_equal(run(cs.apply(read, NET)), run(made.net))


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
    with pytest.raises(PlanError, match=r"has no weights for the form 'spatial' of width \d+"):
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
    with pytest.raises(PlanError, match=r"is not what the form 'spatial' of width \d+ makes of"):
        cs.apply(Plan.load(moved), NET)
    assert same is not NET


FORM_NAMES = (
    "keep, spatial, stack, channel, tucker, depthwise_separable, depthwise_spatial, cp,"
    " grouped, dilated"
)

REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "width 0": (
        first(widths=[0]),
        ("conv1: the form 'spatial' has no 'vertical-first' with the widths [0];"
        " choose other widths, or the form 'keep'."),
    ),
    "too many widths": (
        first(widths=[4, 4]),
        ("conv1: the form 'spatial' has no 'vertical-first' with the widths [4, 4];"
        " choose other widths, or the form 'keep'."),
    ),
    "wider than full": (
        first(widths=[1000]),
        ("conv1: the form 'spatial' has no 'vertical-first' with the widths [1000];"
        " choose other widths, or the form 'keep'."),
    ),
    "dearer than the layer": (
        first(widths=[12]),
        ("conv1: with the widths [12] it is not cheaper than the layer;"
        " choose smaller ones, or the form 'keep'."),
    ),
    "unknown variant": (
        first(variant="diagonal-first", widths=[4]),
        ("conv1: the form 'spatial' has no 'diagonal-first' with the widths [4];"
        " choose other widths, or the form 'keep'."),
    ),
    "unknown form": (
        first(form="svd"),
        f"conv1: the form 'svd' does not apply here; use one of {FORM_NAMES} where it fits.",
    ),
    "unknown layer": (
        first(layer="conv9"),
        ("conv9: this network has no such layer;"
        " use the plan with the network it was made for."),
    ),
    "a layer that is no convolution": (
        first(layer="relu1"),
        ("relu1: this network has no such layer;"
        " use the plan with the network it was made for."),
    ),
    "a layer that the form does not fit": (
        lambda content: content["choices"][2].update(
            form="spatial", variant="vertical-first", widths=[4]
        ),
        ("conv3: the form 'spatial' does not apply here: its kernel 1x1 is thin already;"
        f" use one of {FORM_NAMES} where it fits."),
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
    edit(file, lambda content: content["choices"][0].update(
        form="spatial", variant="vertical-first", widths=[6]))  # fmt: skip
    plan = Plan.load(edit(file, change))
    with pytest.raises(PlanError) as raised:
        cs.rewrite(NET, plan=plan, calibration=calibration)
    assert str(raised.value) == text
    with pytest.raises(PlanError):
        cs.apply(plan, NET)


def test_a_network_of_the_same_sizes_is_told_by_its_weights(made: Rewriting) -> None:
    fitted = [choice for choice in made.plan.choices if choice.form != "keep"]
    for choice in fitted:
        weight = np.asarray(NET.parameter(NET.by_name[choice.layer], "weight").data)
        assert choice.norm == pytest.approx(float(np.sqrt((weight.astype(float) ** 2).sum())))
    layer = fitted[0].layer
    name = NET.by_name[layer].parameters[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cs.apply(made.plan, NET)  # the network itself: not a word
    scaled = 1.01 * np.asarray(NET.constants[name].data)
    tuned = replace(NET, constants={**NET.constants, name: Constant.of(scaled)})
    text = rf"^1 of the {len(fitted)} layers that the plan replaces have other .* \({layer}\): fit"
    with pytest.warns(UserWarning, match=text):
        cs.apply(made.plan, tuned)


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
    "no widths": (
        delete("choices", "widths"),
        "this is not a plan: 'widths' is missing" + NOT_A_PLAN,
    ),
    "advice without a layer": (
        put("advice", [{"fact": "", "remedy": ""}]),
        "this is not a plan: 'layer' is missing" + NOT_A_PLAN,
    ),
    "another schema": (
        put("schema", "convsmith.plan/1"),
        ("this is 'convsmith.plan/1', not 'convsmith.plan/2';"
        " give the JSON file that Plan.save wrote."),
    ),
    "NaN": (
        put("budget", {"macs": float("nan")}),
        "this is not a plan: NaN is no number" + NOT_A_PLAN,
    ),
    "a width in words": (
        changed(first(widths=["ten"])),
        "this is not a plan: invalid literal for int() with base 10: 'ten'" + NOT_A_PLAN,
    ),
    "a width by itself": (
        changed(first(widths=4)),
        "this is not a plan: 'int' object is not iterable" + NOT_A_PLAN,
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
    with pytest.raises(PlanError, match=r"'relu' is neither a convolution nor a linear layer"):
        Plan.load(edit(file, first(text="relu > relu")))
