"""The zoo: every docstring's published numbers, counted."""

from __future__ import annotations

import re

import pytest

from convsmith.analysis import analyze
from convsmith.errors import ShapeError, SourceError
from convsmith.graph import parse
from convsmith.sources.zoo import NETWORKS, network

# Parameters and multiply-accumulates of convolutions and linear layers, as published.
PUBLISHED = {
    "alexnet": (61_100_840, 714_188_480),
    "googlenet": (6_624_904, 1_498_376_192),
    "mobilenet_v1": (4_231_976, 568_740_352),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet50": (25_557_032, 4_089_184_256),
    "squeezenet": (1_235_496, 349_151_936),
    "srcnn": (57_281, 52_700_774_400),
    "unet": (31_030_658, 150_428_424_448),
    "vdsr": (664_704, 612_591_206_400),
    "vgg16": (138_357_544, 15_470_264_320),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    total = analyze(network(name)).total
    assert (total.params, total.macs) == PUBLISHED[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_docstring_states_what_is_counted(name: str) -> None:
    text = NETWORKS[name].__doc__ or ""
    parameters = re.search(r"([\d,]+)\s+parameters", text)
    macs = re.search(r"([\d,]+)\s+MACs", text)
    assert parameters is not None
    assert macs is not None
    stated = tuple(int(match.group(1).replace(",", "")) for match in (parameters, macs))
    assert stated == PUBLISHED[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_print_and_parse_back(name: str) -> None:
    graph = network(name)
    assert graph.source == f"zoo:{name}"
    assert parse(str(graph)) == graph


def test_names_are_the_module_paths_of_torchvision() -> None:
    assert {"features.0", "classifier.6"} <= set(network("vgg16").by_name)
    assert {"layer1.0.conv1", "layer4.0.downsample.0", "fc"} <= set(network("resnet50").by_name)
    assert "inception4e.branch3.1.conv" in network("googlenet").by_name
    assert "features.12.expand3x3" in network("squeezenet").by_name


def test_the_unet_makes_the_sizes_of_the_paper() -> None:
    graph = network("unet")
    assert graph.shape("bottom.conv2") == (1, 1024, 28, 28)
    assert graph.shape("head") == (1, 2, 388, 388)


def test_another_input_size() -> None:
    graph = network("resnet18", shape=(4, 3, 64, 96))
    assert graph.shape("layer4.1.relu_out") == (4, 512, 2, 3)


def test_an_unknown_network_is_an_error_with_a_guess_and_the_list() -> None:
    with pytest.raises(SourceError) as caught:
        network("VGG-16")
    message = str(caught.value)
    assert message.startswith("zoo:VGG-16: the zoo has no network 'VGG-16'; did you mean 'vgg16'?")
    assert all(name in message for name in NETWORKS)


def test_nothing_alike_is_an_error_with_the_list_alone() -> None:
    with pytest.raises(SourceError, match=r"no network 'transformer'; it has alexnet, googlenet"):
        network("transformer")


def test_an_input_that_is_no_image_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"3,224,224 is no batch of images; give N,C,H,W"):
        network("vgg16", shape=(3, 224, 224))


def test_an_input_that_is_too_small_is_an_error_that_names_network_and_layer() -> None:
    with pytest.raises(ShapeError, match=r"zoo:alexnet: features\.0: kernel 11x11 does not fit"):
        network("alexnet", shape=(1, 3, 4, 4))
