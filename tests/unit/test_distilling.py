"""Distillation: what it finds, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
import json
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.random_weights import data_of, random_network
from torch import Tensor, nn

import convsmith as cs
from convsmith.errors import DataError, UnsupportedOperatorError, UsageError
from convsmith.graph import Graph, parse
from convsmith.graph.evaluate import evaluate
from convsmith.rewrite import distill
from convsmith.rewrite.distilling import Distillation

Array = npt.NDArray[Any]


def chain(inside: int, middle: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, middle, (3, 1), padding=(1, 0), bias=False),
        nn.Conv2d(middle, outside, (1, 3), padding=(0, 1)),
    )


def network(first: nn.Module | None = None, *, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1) if first is None else first,
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        ).eval()


def pair() -> tuple[Any, Any]:
    """A network, and the same with two convolutions replaced by worse ones."""
    original = network()
    rewritten = copy.deepcopy(original)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        rewritten[0], rewritten[3] = chain(2, 3, 6).eval(), chain(6, 4, 8).eval()
    return original, rewritten


def images(count: int = 10, size: int = 4, *, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(size, 2, 6, 6, generator=generator) for _ in range(count)]


def kl(one: nn.Module, other: nn.Module, batches: list[Tensor], temperature: float) -> float:
    """From the definition, in float64."""
    with torch.no_grad():
        x = torch.cat(batches)
        p, q = ((net(x).double() / temperature).softmax(1) for net in (one, other))
    return float((p * (p.log() - q.log())).sum(1).mean() * temperature**2)


def test_modules_recover_and_the_loss_is_that_of_the_definition() -> None:
    original, rewritten = pair()
    batches = images()
    found = distill(original, rewritten, batches, epochs=12, lr=0.01)
    assert isinstance(found, Distillation)
    assert found.places == ("0", "3")
    assert found.loss == "kl"
    assert (found.images, found.held_out) == (36, 4)
    assert found.before == pytest.approx(kl(original, rewritten, batches[9:], 2), rel=1e-4)
    assert found.after == pytest.approx(kl(original, found.module, batches[9:], 2), rel=1e-2)
    assert found.after < 0.3 * found.before
    assert found.improved
    assert found.trained == sum(p.numel() for p in rewritten.parameters())
    assert [phase.name for phase in found.phases] == ["blocks", "whole"]
    assert sum(phase.steps for phase in found.phases) == 12 * 9
    assert found.after == min(p.outputs for phase in found.phases for p in phase.points)


def test_the_phase_of_blocks_trains_only_what_was_rewritten() -> None:
    original, rewritten = pair()
    batches = images()

    def apart(net: nn.Sequential) -> list[float]:
        """The relative errors of both places, from what reaches them in each network."""
        x = torch.cat(batches[9:])
        errors = []
        for stop in (1, 4):
            with torch.no_grad():
                y, z = original[:stop](x), net[:stop](x)
            errors.append(float((y - z).square().mean() / y.var(correction=0)))
        return errors

    found = distill(original, rewritten, batches, epochs=10, lr=0.01, whole=False)
    assert [(phase.name, phase.steps) for phase in found.phases] == [("blocks", 90)]
    one, other = apart(rewritten), apart(found.module)
    assert (found.before, found.after) == pytest.approx((sum(one), sum(other)), rel=1e-2)
    assert found.after < 0.7 * found.before
    assert found.loss == "mse of layers"
    for index in (1, 7):
        for name, tensor in found.module[index].state_dict().items():
            assert torch.equal(tensor, rewritten[index].state_dict()[name])
    assert not torch.equal(found.module[0][0].weight, rewritten[0][0].weight)


def test_no_gradient_passes_from_one_block_into_the_one_before() -> None:
    original, rewritten = pair()
    rewritten[0] = copy.deepcopy(original[0])  # exact: nothing but the second block could move it
    found = distill(
        original, rewritten, images(), epochs=3, lr=0.01, whole=False, blocks=["0", "3"]
    )
    assert found.places == ("0", "3")
    torch.testing.assert_close(found.module[0].weight, original[0].weight, rtol=0, atol=1e-6)


def everything_of(module: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "modes": [child.training for child in module.modules()],
        "gradients": [p.requires_grad for p in module.parameters()],
        "none": [p.grad is None for p in module.parameters()],
        "hooks": [
            len(child._forward_hooks) + len(child._forward_pre_hooks) for child in module.modules()
        ],
        "versions": [p._version for p in module.parameters()],
    }


def test_nothing_of_the_caller_changes() -> None:
    original, rewritten = pair()
    seen: list[object] = []
    for net in (original, rewritten):
        net[3].register_forward_hook(lambda *_: seen.append(1))
        net.train()
    rewritten[7].weight.requires_grad_(False)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.cat(images())),
        batch_size=4,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
    )
    assert loader.generator is not None
    torch.manual_seed(5)
    before = [everything_of(net) for net in (original, rewritten)]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    order, threads = loader.generator.get_state(), torch.get_num_threads()
    found = distill(original, rewritten, loader, epochs=2, batch_norm="update")
    after = [everything_of(net) for net in (original, rewritten)]
    for one, other in zip(before, after, strict=True):
        states_of = one.pop("state"), other.pop("state")
        assert one == other
        assert all(torch.equal(states_of[0][name], states_of[1][name]) for name in states_of[0])
    assert not seen
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert states[2] == random.getstate()
    assert torch.equal(order, loader.generator.get_state())
    assert threads == torch.get_num_threads()
    # What comes back is as the caller's was, and has its hooks.
    assert all(child.training for child in found.module.modules())
    assert [p.requires_grad for p in found.module.parameters()] == before[1]["gradients"]
    assert torch.equal(found.module[7].weight, original[7].weight)
    found.module(images()[0])
    assert len(seen) == 1


def test_a_run_depends_on_its_seed_alone() -> None:
    original, rewritten = pair()
    data = torch.utils.data.TensorDataset(torch.cat(images()))

    def run(seed: int) -> Tensor:
        loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
        torch.manual_seed(int(torch.randint(1000, ()).item()))
        found = distill(original, rewritten, loader, steps=40, lr=0.01, seed=seed)
        result: Tensor = found.module[7].weight.detach()
        return result

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_what_was_given_comes_back_when_nothing_is_better() -> None:
    original = network()
    rewritten = copy.deepcopy(original)
    found = distill(original, rewritten, images(), epochs=2, lr=0.5)
    assert found.before == found.after == 0
    assert not found.improved
    assert found.places == ()
    assert [phase.name for phase in found.phases] == ["whole"]  # there is no block to train
    for name, tensor in found.module.state_dict().items():
        assert torch.equal(tensor, rewritten.state_dict()[name])
    assert "nothing better was found" in str(found)


def test_nan_stops_and_the_best_state_so_far_comes_back() -> None:
    original, rewritten = pair()
    calls = []

    def loss(made: Tensor, wanted: Tensor) -> Tensor:
        calls.append(1)
        far = (made - wanted).square().mean()
        return far * float("nan") if torch.is_grad_enabled() and len(calls) > 40 else far

    with pytest.warns(UserWarning, match="the loss became NaN or infinite at step .* of 'whole'"):
        found = distill(original, rewritten, images(), epochs=10, lr=0.01, loss=loss, blocks=False)
    assert found.stopped
    assert 0 < found.phases[0].steps < found.phases[0].planned
    assert 0 < found.after < found.before
    assert all(bool(tensor.isfinite().all()) for tensor in found.module.state_dict().values())
    assert json.loads(found.to_json())["stopped"] == found.stopped


def test_a_network_that_gives_nan() -> None:
    original, rewritten = pair()
    with torch.no_grad():
        rewritten[7].bias[0] = float("nan")
    with pytest.warns(UserWarning, match="became NaN"):
        found = distill(original, rewritten, images(), epochs=1, blocks=False)
    assert found.before == float("inf")
    assert found.to_dict()["before"] is None
    with pytest.raises(DataError, match="the original gives NaN or infinity"):
        distill(rewritten, original, images())


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd"},
        {"average": 0.9},
        {"hints": 1.0},
        {"batch_norm": "update"},
        {"loss": "mse", "weight_decay": 0.01, "clip": 0},
        {"blocks": 0.5, "evaluate_every": 7},
    ],
    ids=str,
)
def test_options(options: dict[str, Any]) -> None:
    original, rewritten = pair()
    found = distill(original, rewritten, images(), epochs=8, lr=0.01, **options)
    assert found.after < found.before
    assert found.settings == {**found.settings, **options}
    statistics = found.module[1].running_mean
    followed = options.get("batch_norm") == "update"
    assert torch.equal(statistics, original[1].running_mean) != followed


def test_labels_count_when_they_are_asked_for() -> None:
    original, rewritten = pair()
    labels = [torch.full((4,), 2) for _ in range(10)]
    batches = list(zip(images(), labels, strict=True))
    found = distill(original, rewritten, batches, epochs=10, lr=0.02, labels=1.0)
    x = torch.cat(images())
    with torch.no_grad():
        assert bool((found.module(x).argmax(1) == 2).all())
        entropy = nn.functional.cross_entropy(rewritten(images()[9]), labels[9])
    assert found.before == pytest.approx(float(entropy), rel=1e-5)
    free = distill(original, rewritten, batches, epochs=2)
    bare = distill(original, rewritten, images(), epochs=2)
    assert free.after == bare.after


# Graphs ------------------------------------------------------------------------------------


def graphs() -> tuple[Graph, Graph, list[Array]]:
    net = random_network("3@8 > conv 16 3 p1 > bn > relu > conv 16 3/2 p1 > relu > conv 3 3 p1")
    generator = np.random.default_rng(0)
    batches = [generator.normal(size=(6, 3, 8, 8)).astype(np.float32) for _ in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cs.rewrite(net, macs=0.6)
    return net, made.net, batches


def far(one: Graph, other: Graph, x: Array) -> float:
    """The squared error over the variance, by the evaluation in NumPy."""
    y, z = (evaluate(net, {"x": x})[net.outputs[0].value] for net in (one, other))
    return float(np.square(y - z).mean() / y.var())


def test_graphs_recover_and_nothing_but_constants_changes() -> None:
    net, rewritten, batches = graphs()
    before = {name: data_of(rewritten, name).copy() for name in rewritten.constants}
    found = distill(net, rewritten, batches, epochs=10, lr=0.005)
    assert found.loss == "mse"
    assert found.before == pytest.approx(far(net, rewritten, batches[7]), rel=1e-4)
    assert found.after == pytest.approx(far(net, found.module, batches[7]), rel=1e-4)
    assert found.after < 0.8 * found.before
    assert found.module == rewritten  # the structure
    assert [n.provenance for n in found.module.nodes] == [n.provenance for n in rewritten.nodes]
    for name, constant in found.module.constants.items():
        assert data_of(found.module, name).dtype == before[name].dtype
        assert np.array_equal(data_of(rewritten, name), before[name])
        if not constant.learnable:
            assert constant is rewritten.constants[name]
    assert set(found.places) == {
        node.provenance.replaces for node in rewritten.nodes if node.provenance.replaces
    }


def test_a_graph_and_the_module_that_it_came_from_are_trained_alike() -> None:
    original, rewritten = pair()
    one, other = (cs.load(net, (4, 2, 6, 6)) for net in (original, rewritten))
    batches = images()
    by_module = distill(original, rewritten, batches, steps=12, blocks=False)
    by_graph = distill(one, other, [x.numpy() for x in batches], steps=12, blocks=False)
    assert by_graph.before == pytest.approx(by_module.before, rel=1e-4)
    assert by_graph.after == pytest.approx(by_module.after, rel=1e-2)
    weight = data_of(by_graph.module, "7.weight")
    np.testing.assert_allclose(weight, by_module.module[7].weight.detach().numpy(), atol=1e-4)


def test_a_trained_graph_is_written_to_its_file_format(tmp_path: Path) -> None:
    net, rewritten, batches = graphs()
    cs.save(rewritten, tmp_path / "rewritten.onnx")
    cs.save(net, tmp_path / "net.onnx")
    loaded, original = (cs.load(tmp_path / f"{name}.onnx") for name in ("rewritten", "net"))
    found = distill(original, loaded, batches, epochs=3, lr=0.005)
    assert found.improved
    cs.save(found.module, tmp_path / "trained.onnx")
    again = cs.load(tmp_path / "trained.onnx")
    assert far(original, again, batches[7]) == pytest.approx(found.after, rel=1e-4)


def test_a_merged_batch_norm_is_no_place_of_its_own() -> None:
    net = parse("1@4 > conv 2 3 nobias > bn > relu")
    merged = parse("1@4 > conv 2 3 > relu")
    from convsmith.rewrite.distilling.matching import rewritten_values

    assert rewritten_values(net, merged) == ()


def test_a_batch_norm_that_was_merged_in_a_module_is_no_place_either() -> None:
    original, rewritten = pair()
    original[1].running_mean.fill_(3.0)
    merged = copy.deepcopy(original)
    merged[0] = nn.utils.fusion.fuse_conv_bn_eval(original[0], original[1])
    merged[1] = nn.Identity()
    merged[3] = rewritten[3]
    found = distill(original, merged, images(), epochs=10, lr=0.01)
    assert found.places == ("3",)
    assert found.improved


# Batches -----------------------------------------------------------------------------------


def test_a_function_of_the_epoch_is_asked_for_every_epoch_and_its_held_out_batches_kept() -> None:
    original, rewritten = pair()
    asked, trained = [], []

    def batches(epoch: int) -> Iterator[Tensor]:
        asked.append(epoch)
        for index, batch in enumerate(images(5)):
            trained.append((epoch, index))
            yield batch + epoch

    found = distill(original, rewritten, batches, epochs=3, held_out=0.2, blocks=False)
    assert asked == [0, 0, 1, 2]  # the first time to see how many there are
    assert found.phases[0].steps == 12
    assert (found.images, found.held_out) == (16, 4)


def test_held_out_images_are_never_trained_on_whatever_the_order() -> None:
    original, rewritten = pair()
    data = torch.utils.data.TensorDataset(torch.cat(images()))
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True)
    trained: list[bytes] = []

    class Spy(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                trained.extend(row.numpy().tobytes() for row in x.detach())
            for layer in self:
                x = layer(x)
            return x

    found = distill(Spy(*original), Spy(*rewritten), loader, epochs=4, held_out=0.25, blocks=False)
    assert (found.images, found.held_out) == (30, 10)
    assert len(set(trained)) == 30


def test_batches_that_change_every_epoch_are_warned_about() -> None:
    original, rewritten = pair()

    class Noisy:
        def __iter__(self) -> Iterator[Tensor]:
            for batch in images(4):
                yield batch + torch.randn(batch.shape)

    with pytest.warns(UserWarning, match="epoch 2 has none of the held-out images"):
        distill(original, rewritten, Noisy(), epochs=3)
    found = distill(original, rewritten, Noisy(), epochs=3, held_out=images(1, seed=9))
    assert (found.images, found.held_out) == (16, 4)


def test_few_images() -> None:
    original, rewritten = pair()
    found = distill(original, rewritten, images(1, 8), steps=3)
    assert (found.images, found.held_out) == (7, 1)
    found = distill(original, rewritten, images(2, 3), steps=3)
    assert (found.images, found.held_out) == (3, 3)
    with pytest.warns(UserWarning, match="there is only one image"):
        found = distill(original, rewritten, images(1, 1), steps=3)
    assert (found.images, found.held_out) == (1, 1)


def test_an_iterator_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original, rewritten = pair()
    one = distill(original, rewritten, iter(images()), epochs=2)
    other = distill(original, rewritten, images(), epochs=2)
    assert one.after == other.after
    with pytest.raises(UsageError, match="cannot be taken up with batches from an iterator"):
        distill(original, rewritten, iter(images()), checkpoint=tmp_path / "run")
    monkeypatch.setattr("convsmith.rewrite.distilling.feeding.CACHE_BYTES", 2000)
    with pytest.raises(DataError, match="can be gone through only once, and this one takes more"):
        distill(original, rewritten, iter(images()))


def test_a_network_that_overwrites_its_input() -> None:
    original, rewritten = (nn.Sequential(nn.ReLU(inplace=True), net) for net in pair())
    batches = images()
    found = distill(original, rewritten, batches, steps=5, blocks=False)
    assert all(torch.equal(one, other) for one, other in zip(batches, images(), strict=True))
    assert found.before == pytest.approx(kl(original, rewritten, images()[9:], 2), rel=1e-3)


def test_batches_without_end() -> None:
    original, rewritten = pair()

    class Endless:
        def __iter__(self) -> Iterator[Tensor]:
            seed = 0
            while True:
                yield images(1, seed=seed)[0]
                seed += 1

    assert distill(original, rewritten, Endless(), steps=9).phases[-1].steps == 7


# Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "there is nothing to distill with; give at least one batch"),
        (lambda _: [], {}, "there is nothing to distill with"),
        ([torch.zeros(0, 2, 6, 6)], {}, "batch 1 of epoch 1: it is empty"),
        ([torch.full((1, 2, 6, 6), float("nan"))], {}, "batch 1 of epoch 1: it holds NaN"),
        (["text"], {}, "an object of type str is no batch of images"),
        ([(1, 2, 3)], {}, "it is a tuple of 3; give inputs, or a pair"),
        (torch.zeros(4, 2, 6, 6), {}, "type Tensor is not a source of batches; give a list"),
        ("text", {}, "type str is not a source of batches"),
        (3, {}, "type int is not a source of batches"),
        (lambda _: 3, {}, "type int is not a source of batches"),
        ([torch.zeros(4, 3, 6, 6)], {}, "Sequential: it raises RuntimeError"),
        (images(), {"labels": 0.5}, "labels= is above 0, but the batch has none"),
        ([(x, [9, 9, 9, 9]) for x in images()], {"labels": 0.5}, "are no classes"),
        ([(x, np.zeros((4, 3))) for x in images()], {"labels": 0.5}, r"targets have shape \(4, 3"),
        (images(), {"held_out": []}, "there are no held-out batches"),
        (images(), {"held_out": 0.7}, "held_out=0.7 makes no sense; give a number above 0 and at"),
        (images(), {"epochs": 1, "steps": 1}, "both epochs= and steps= are given"),
        (images(), {"steps": 0}, "steps=0 makes no sense; give an integer of at least 1"),
        (images(), {"epochs": float("nan")}, "epochs=nan makes no sense"),
        (images(), {"lr": -1}, "lr=-1 makes no sense; give a number above 0"),
        (images(), {"optimizer": "lion"}, "optimizer='lion' is not known; choose adam or sgd"),
        (images(), {"loss": "ssim"}, "loss='ssim' is not known"),
        (images(), {"loss": lambda a, b: 1.0}, "returns no tensor of one element"),
        (images(), {"loss": lambda a, b: torch.zeros(())}, "does not depend on any parameter"),
        (images(), {"batch_norm": True}, "batch_norm=True is not known"),
        (images(), {"every": 0}, "every=0 makes no sense"),
        (images(), {"average": 1.0}, "average=1.0 makes no sense.* below 1"),
        (images(), {"blocks": False, "whole": False}, "neither blocks= nor whole="),
        (images(), {"blocks": 1}, "blocks=1 leaves no step for the whole"),
        (images(), {"blocks": "0"}, "blocks='0' is neither yes or no"),
        (images(), {"blocks": ["nine"]}, "nine: only one of the networks has a layer of this"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    batches: Any, options: dict[str, Any], message: str
) -> None:
    original, rewritten = pair()
    with pytest.raises((DataError, UsageError), match=message):
        distill(original, rewritten, batches, **options)


def test_networks_that_do_not_belong_together() -> None:
    original, rewritten = pair()
    net = parse("2@6 > conv 3 3")
    with pytest.raises(UsageError, match="one network is a Sequential, the other a Graph; give tw"):
        distill(original, net, images())
    with pytest.raises(UsageError, match="int and str are not two networks"):
        distill(1, "x", images())  # type: ignore[type-var]
    with pytest.raises(UsageError, match=r"outputs have shapes \[\(4, 4\)\] before and \[\(4, 6, "):
        distill(original, rewritten[:3], images())
    with pytest.raises(
        UsageError, match=r"^0\.0\.weight: it is bfloat16, too narrow to be trained"
    ):
        distill(original, copy.deepcopy(rewritten).bfloat16(), images())
    frozen = copy.deepcopy(rewritten).requires_grad_(False)
    with pytest.raises(UsageError, match="has no parameter that may be trained; set requires_grad"):
        distill(original, frozen, images())
    with pytest.raises(UsageError, match="no layer was found that was rewritten, and whole=False"):
        distill(original, original, images(), whole=False)
    other = replace(net, outputs=(replace(net.outputs[0], name="z"),))
    with pytest.raises(UsageError, match="the outputs are y before and z after"):
        distill(net, other, images())
    with pytest.raises(DataError, match=r"tensor 'conv1\.weight' has no weights, only a shape"):
        distill(net, net, images())
    magic = random_network("2@6 > conv 3 3 > unsupported Magic 3@4")
    with pytest.raises(
        UnsupportedOperatorError, match=r"^unsupported1: .*'Magic' cannot be trained"
    ):
        distill(magic, magic, images())


def test_an_error_in_the_loader_is_the_loaders_own() -> None:
    original, rewritten = pair()

    def batches(epoch: int) -> Iterator[Tensor]:
        yield images()[0]
        raise OSError("the disk is gone")

    state = torch.get_rng_state()
    with pytest.raises(OSError, match="the disk is gone"):
        distill(original, rewritten, batches)
    assert torch.equal(state, torch.get_rng_state())


def test_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 3, 3), nn.Conv2d(2, 3, 3)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Any]:
            return {"image": self.a(a), "scores": (self.b(b).mean((2, 3)), 3)}

    torch.manual_seed(0)
    original: Any = Two()
    other: Any = Two()
    batches: list[Any] = [
        ((torch.randn(4, 1, 5, 5), torch.randn(4, 2, 5, 5)), None) for _ in range(6)
    ]
    found = distill(original, other, batches, epochs=30, lr=0.02)
    assert found.loss == "mse, kl"
    assert found.after < 0.5 * found.before
    named = [{"a": a, "b": b} for (a, b), _ in batches]
    assert distill(original, other, named, epochs=1).before == pytest.approx(found.before)


def test_the_result_in_words_and_as_data() -> None:
    original, rewritten = pair()
    calls: list[tuple[str, int, int]] = []
    progress: Callable[[str, int, int], None] = lambda *said: calls.append(said)  # noqa: E731
    found = distill(original, rewritten, images(), steps=20, lr=0.01, progress=progress)
    assert calls == [("distilling", step, 20) for step in range(1, 21)]
    data = json.loads(found.to_json())
    assert data["schema"] == "convsmith.distillation/1"
    assert data["after"] == found.after
    assert data["phases"][1]["points"][-1]["step"] == data["phases"][1]["steps"] == 16
    said = str(found)
    assert "2 layers compared" in said
    assert f"{100 * (1 - found.after / found.before):.1f} % lower" in said
