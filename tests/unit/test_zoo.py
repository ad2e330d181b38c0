"""The zoo: every docstring's published numbers, counted."""

from __future__ import annotations

import re

import pytest

from convsmith.analysis import analyze, fields
from convsmith.errors import ShapeError, SourceError
from convsmith.graph import parse
from convsmith.sources import load
from convsmith.sources.zoo import ALIASES, NETWORKS, network

# Parameters and multiply-accumulates of convolutions and linear layers. Parameters are those that
# torchvision publishes where it has the network (``num_params``), except Inception-v3's.
PUBLISHED = {
    "alexnet": (61_100_840, 714_188_480),
    "convnext_tiny": (28_589_128, 4_455_531_264),
    "densenet121": (7_978_856, 2_834_161_664),
    "efficientnet_b0": (5_288_548, 385_814_752),
    "googlenet": (6_624_904, 1_498_376_192),
    "inception_v3": (23_834_568, 5_713_216_096),
    "mnasnet1_0": (4_383_312, 314_415_872),
    "mobilenet_v1": (4_231_976, 568_740_352),
    "mobilenet_v2": (3_504_872, 300_774_272),
    "mobilenet_v3_large": (5_483_032, 216_589_760),
    "mobilenet_v3_small": (2_542_856, 56_510_400),
    "replknet_31b": (79_527_272, 15_353_525_248),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet50_v1": (25_557_032, 3_857_973_248),
    "resnet101": (44_549_160, 7_801_405_440),
    "resnet152": (60_192_808, 11_513_626_624),
    "resnext50_32x4d": (25_028_904, 4_230_479_872),
    "shufflenet_v2_x1_0": (2_278_604, 144_907_992),
    "squeezenet1_0": (1_248_424, 818_924_576),
    "squeezenet1_1": (1_235_496, 349_151_936),
    "srcnn": (57_281, 52_700_774_400),
    "unet": (31_030_658, 150_428_424_448),
    "vdsr": (664_704, 612_591_206_400),
    "vgg11": (132_863_336, 7_609_090_048),
    "vgg13": (133_047_848, 11_308_466_176),
    "vgg16": (138_357_544, 15_470_264_320),
    "vgg19": (143_667_240, 19_632_062_464),
}

# 1e9 MACs that torchvision publishes (``_ops``), in three decimals.
TORCHVISION = {
    "alexnet": 0.714,
    "convnext_tiny": 4.456,
    "densenet121": 2.834,
    "efficientnet_b0": 0.386,
    "googlenet": 1.498,
    "inception_v3": 5.713,
    "mnasnet1_0": 0.314,
    "mobilenet_v2": 0.301,
    "mobilenet_v3_large": 0.217,
    "mobilenet_v3_small": 0.057,
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "resnext50_32x4d": 4.23,
    "shufflenet_v2_x1_0": 0.145,
    "squeezenet1_0": 0.819,
    "squeezenet1_1": 0.349,
    "vgg11": 7.609,
    "vgg13": 11.308,
    "vgg16": 15.47,
    "vgg19": 19.632,
}

# 1e6 parameters and 1e9 MACs that the papers print: the networks that torchvision has not, and
# those whose authors' networks are the same.
PAPERS = {
    "convnext_tiny": ("28.6", "4.5"),
    "mobilenet_v1": ("4.2", "0.569"),
    "replknet_31b": ("79", "15.3"),
    "resnet18": (None, "1.8"),
    "resnet50_v1": (None, "3.8"),
    "resnext50_32x4d": ("25.0", "4.2"),
    "srcnn": ("0.057", "52.7"),
    "vdsr": ("0.665", "612.6"),
    "vgg11": ("133", None),
    "vgg16": ("138", None),
    "vgg19": ("144", None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    total = analyze(network(name)).total
    assert (total.params, total.macs) == PUBLISHED[name]


@pytest.mark.parametrize("name", TORCHVISION)
def test_macs_round_to_what_torchvision_publishes(name: str) -> None:
    assert round(PUBLISHED[name][1] / 1e9, 3) == TORCHVISION[name]


@pytest.mark.parametrize("name", PAPERS)
def test_the_numbers_are_those_of_the_papers_but_for_the_last_digit(name: str) -> None:
    for exact, unit, printed in zip(PUBLISHED[name], (1e6, 1e9), PAPERS[name], strict=True):
        if printed is not None:  # some papers round, others cut off
            last = 10.0 ** -len(printed.partition(".")[2])
            assert abs(exact / unit - float(printed)) < last


def test_inception_v3_has_what_torchvision_publishes_but_for_the_auxiliary_head() -> None:
    convolutions = 768 * 128 + 128 * 768 * 5 * 5
    norms = 2 * (128 + 768)
    head = convolutions + norms + 768 * 1000 + 1000
    assert PUBLISHED["inception_v3"][0] + head == 27_161_264


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
def test_everything_is_counted(name: str) -> None:
    analysis = analyze(network(name))
    assert not analysis.unsupported
    assert {field.status for field in fields(network(name)).values()} <= {
        "exact",
        "global",
        "upper-bound",
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_print_and_parse_back(name: str) -> None:
    graph = network(name)
    assert graph.source == f"zoo:{name}"
    assert parse(str(graph)) == graph


def test_names_are_the_module_paths_of_torchvision() -> None:
    assert {"features.0", "classifier.6"} <= set(network("vgg16").by_name)
    assert {"layer1.0.conv1", "layer4.0.downsample.0", "fc"} <= set(network("resnet50").by_name)
    assert "inception4e.branch3.1.conv" in network("googlenet").by_name
    assert "features.12.expand3x3" in network("squeezenet1_1").by_name


def test_the_unet_makes_the_sizes_of_the_paper() -> None:
    graph = network("unet")
    assert graph.shape("bottom.conv2") == (1, 1024, 28, 28)
    assert graph.shape("head") == (1, 2, 388, 388)


def test_another_input_size() -> None:
    graph = network("resnet18", shape=(4, 3, 64, 96))
    assert graph.shape("layer4.1.relu_out") == (4, 512, 2, 3)
    assert load("zoo:resnet18", input=(4, 3, 64, 96)) == graph


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_batches_and_larger_images(name: str) -> None:
    _, channels, height, width = network(name).inputs[0].shape
    graph = load(f"zoo:{name}", input=(3, channels, height + 48, width + 16))
    assert graph.shape(graph.outputs[0].value)[0] == 3
    assert analyze(graph).total.params == PUBLISHED[name][0]


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_another_name_gives_the_same_network(alias: str, name: str) -> None:
    assert alias not in NETWORKS
    assert load(f"zoo:{alias}") == network(name)


def test_an_unknown_network_is_an_error_with_a_guess_and_the_list() -> None:
    with pytest.raises(SourceError) as caught:
        network("VGG-16")
    message = str(caught.value)
    assert message.startswith("zoo:VGG-16: the zoo has no network 'VGG-16'; did you mean 'vgg16'")
    assert all(name in message for name in NETWORKS)


@pytest.mark.parametrize(
    ("wrong", "guess"),
    [
        ("resnet_50", "'resnet50' or "),
        ("mobilenetv2", "'mobilenet_v2' or "),
        ("squeeznet", "'squeezenet' or "),
        ("EfficientNet-B0", "'efficientnet_b0'? It has"),
    ],
)
def test_near_names_are_proposed(wrong: str, guess: str) -> None:
    with pytest.raises(SourceError, match=re.escape(f"did you mean {guess}")):
        load(f"zoo:{wrong}")


def test_no_name_is_an_error_with_the_list() -> None:
    with pytest.raises(SourceError, match=r"zoo: no network is named; it has alexnet, .*vgg19"):
        load("zoo:")


def test_a_name_from_anywhere_is_cut_and_escaped() -> None:
    with pytest.raises(SourceError) as caught:
        network("\x1b[31m" + "x" * 100_000)
    message = str(caught.value)
    assert "\x1b" not in message
    assert len(message) < 1000


def test_nothing_alike_is_an_error_with_the_list_alone() -> None:
    with pytest.raises(SourceError, match=r"no network 'transformer'; it has alexnet, convnext"):
        network("transformer")


def test_an_input_that_is_no_image_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"3,224,224 is no batch of images; give N,C,H,W"):
        network("vgg16", shape=(3, 224, 224))


def test_an_input_that_is_too_small_is_an_error_that_names_network_and_layer() -> None:
    with pytest.raises(ShapeError, match=r"zoo:alexnet: features\.0: kernel 11x11 does not fit"):
        network("alexnet", shape=(1, 3, 4, 4))
