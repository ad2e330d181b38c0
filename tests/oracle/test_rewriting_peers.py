"""The peers of benchmarks/rewrite.py get what they deserve: exact at full rank, counted rightly."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.networks import Block, run
from torch import nn

import convsmith as cs

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.rewriting import aimet, aimet_worker, balf, tucker, weights_only
from benchmarks.rewriting.chains import (
    Chain,
    Layer,
    Unreachable,
    channel_costs,
    layers,
    replaced,
    spatial_costs,
    tucker_cost,
)
from benchmarks.rewriting.tasks import Images, folded, score

Array = npt.NDArray[Any]
SHAPE = (2, 6, 9, 11)


class Small(nn.Module):
    """A strided residual block behind a convolution with a wide window and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 8, (5, 3), 1, (2, 1))
        self.block = Block(8, 12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(torch.relu(self.conv(x)))
        return y


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    module = Small().train()
    with torch.no_grad():
        for _ in range(3):  # running means that are not trivial
            module(torch.randn(*SHAPE) + 1)
    return module.eval()


@pytest.fixture(scope="module")
def moments(small: nn.Module) -> dict[str, Array]:
    x = np.random.default_rng(1).normal(size=(4, *SHAPE[1:])).astype(np.float32)
    found = layers(small, SHAPE)
    return balf.second_moments(small, found, Images(inputs=(x,), wanted=(x,)), 10**6)


def balf_chain(layer: Layer, rank: int, moments: dict[str, Array]) -> Chain:
    return balf.chain(layer, balf.whiten(layer, moments[layer.name]), rank)


def make(form: str, layer: Layer, rank: int, moments: dict[str, Array]) -> Chain:
    forms: dict[str, Callable[[], Chain]] = {
        "spatial": lambda: weights_only.spatial(layer, rank),
        "channel": lambda: weights_only.channel(layer, rank),
        "balf": lambda: balf_chain(layer, rank, moments),
        "tucker": lambda: tucker.decomposed(
            layer, *(min(rank, full) for full in layer.weight.shape[:2])
        ),
    }
    return forms[form]()


def full_rank(form: str, layer: Layer) -> int:
    outside, inside, height, width = map(int, layer.weight.shape)
    if form == "spatial":
        return min(inside * height, outside * width)
    return max(outside, inside) if form == "tucker" else min(outside, inside * height * width)


@pytest.mark.parametrize("form", ["spatial", "channel", "balf", "tucker"])
@pytest.mark.parametrize("fold", [False, True])
def test_full_rank_is_the_network_itself(
    small: nn.Module, moments: dict[str, Array], form: str, fold: bool
) -> None:
    if form == "tucker":
        pytest.importorskip("tltorch", reason="tensorly-torch is not installed")
    module = folded(small) if fold else small
    assert module is not None
    chains = {
        layer.name: make(form, layer, full_rank(form, layer), moments)
        for layer in layers(module, SHAPE)
    }
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_allclose(run(replaced(module, chains), x), run(small, x), atol=1e-4)
    lowered = {
        name: make(form, layer, 1, moments)
        for name, layer in zip(chains, layers(module, SHAPE), strict=True)
    }
    assert not np.allclose(run(replaced(module, lowered), x), run(small, x), atol=1e-2)


@pytest.mark.parametrize(
    ("form", "per_rank"), [("spatial", spatial_costs), ("channel", channel_costs)]
)
def test_costs_are_what_convsmith_counts(
    small: nn.Module,
    moments: dict[str, Array],
    form: str,
    per_rank: Callable[[Layer], int],
) -> None:
    one = (1, *SHAPE[1:])
    found = layers(small, one)
    assert sum(layer.macs for layer in found) == cs.analyze(cs.load(small, one)).total.macs
    chains = {layer.name: make(form, layer, 3, moments) for layer in found}
    counted = cs.analyze(cs.load(replaced(small, chains), one)).total.macs
    assert counted == sum(3 * per_rank(layer) for layer in found)


def test_a_budget_is_kept_and_nearly_used(small: nn.Module, moments: dict[str, Array]) -> None:
    one = (1, *SHAPE[1:])
    found = layers(small, one)
    total = sum(layer.macs for layer in found)
    parts = {layer.name: balf.whiten(layer, moments[layer.name]) for layer in found}
    for share in (0.8, 0.5, 0.3):
        for chains in (
            weights_only.chains_at(weights_only.spatial, found, share * total),
            balf.chains_at(found, parts, share * total),
        ):
            counted = cs.analyze(cs.load(replaced(small, chains), one)).total.macs
            assert (share - 0.12) * total < counted <= share * total
    with pytest.raises(Unreachable):
        balf.chains_at(found, parts, 0.001 * total)


def test_tucker_costs_are_what_convsmith_counts(small: nn.Module) -> None:
    pytest.importorskip("tltorch", reason="tensorly-torch is not installed")
    one = (1, *SHAPE[1:])
    found = layers(small, one)
    chains = {layer.name: tucker.decomposed(layer, 5, 4) for layer in found}
    counted = cs.analyze(cs.load(replaced(small, chains), one)).total.macs
    assert counted == sum(tucker_cost(layer, 5, 4) for layer in found)


def test_balf_is_the_best_channel_form_for_its_inputs(
    small: nn.Module, moments: dict[str, Array]
) -> None:
    for layer in layers(small, SHAPE):
        lost = {}
        for name in ("balf", "channel"):
            first, second = (step.weight for step in make(name, layer, 3, moments))
            dense = second[:, :, 0, 0] @ first.reshape(3, -1)
            apart = dense - layer.weight.reshape(dense.shape)
            lost[name] = np.trace(apart @ moments[layer.name] @ apart.T)
        assert lost["balf"] < lost["channel"]


def test_of_aimets_networks_those_just_below_the_budget_are_taken() -> None:
    made = [aimet.Compressed(chains={str(n): ()}, macs=n) for n in (50, 10, 40, 30, 20, 60)]
    assert [list(chains) for chains in aimet.fitting(made, 55)] == [["50"], ["40"], ["30"], ["20"]]
    assert [list(chains) for chains in aimet.fitting(made, 10)] == [["10"]]
    with pytest.raises(Unreachable):
        aimet.fitting(made, 9)


@pytest.mark.parametrize("rank", [0, 3, 11])
def test_vbmf_finds_a_planted_rank(rank: int) -> None:
    random = np.random.default_rng(rank)
    planted = random.normal(size=(40, rank)) @ random.normal(size=(rank, 300))
    assert tucker.vbmf_rank(planted + 0.5 * random.normal(size=(40, 300))) == rank


def test_scores_by_hand_and_alike_in_the_worker() -> None:
    scores = np.eye(4, dtype=np.float32)
    labels = np.array([0, 1, 3, 3])
    assert score("accuracy", 0, [scores], [labels]) == 75
    target = np.full((2, 1, 6, 6), 0.5)
    image = target.astype(np.float32)
    image[0, 0, 2:4, 2:4] += 0.1
    image[1, 0, 2:4, 2:4] += 0.01
    image[:, :, 0] = 7  # in the border
    assert score("psnr", 2, [image], [target]) == pytest.approx(30, abs=1e-3)

    for metric, border, outputs, wanted in (
        ("accuracy", 0, scores, labels),
        ("psnr", 2, image, target),
    ):
        job = {"metric": metric, "border": border}
        given = [(outputs, wanted)]
        assert aimet_worker.score(job, nn.Identity(), given) == pytest.approx(
            score("accuracy" if metric == "accuracy" else "psnr", border, [outputs], [wanted])
        )
