"""Every installed peer computes the convolution that it is given: against loops-proved float64."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from convsmith.conv.spec import ConvSpec
from convsmith.runtime.peers import PEERS, installed, peer_version
from convsmith.runtime.peers.ncnn_peer import param
from convsmith.runtime.peers.onnx_model import one_convolution
from convsmith.runtime.truth import error, true_output

SAME = ((1, 1), (1, 1))
BASE = ConvSpec(size=(9, 8), channels=8, filters=12, kernel=(3, 3), padding=SAME)
SPECS = [
    replace(BASE, activation="relu"),
    replace(BASE, activation="relu6", layout="channels_last"),
    replace(BASE, activation="silu", bias=False),
    replace(BASE, activation="hardswish", batch=3),
    replace(BASE, groups=4, stride=(2, 1), kernel=(3, 5), padding=((1, 0), (2, 1))),
    replace(BASE, groups=8, filters=8, layout="channels_last", batch=2),
    replace(BASE, dilation=(2, 2), padding=((2, 2), (2, 2))),
    ConvSpec(size=(30,), channels=8, filters=8, kernel=(5,), padding=((4, 2),), stride=(2,)),
    ConvSpec(size=(30,), channels=8, filters=8, kernel=(5,), groups=8, activation="relu6"),
    ConvSpec(size=(5, 6, 7), channels=4, filters=6, kernel=(3, 2, 3), layout="channels_last"),
    ConvSpec(size=(5, 6, 7), channels=4, filters=4, kernel=(3, 2, 3), groups=2,
             padding=((1, 0), (0, 1), (1, 1))),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # a peer's own, when it is imported
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_computes_what_it_is_given(name: str) -> None:
    peer = PEERS[name]
    if not installed(peer):
        pytest.skip(f"{peer.package} is not installed")
    assert peer_version(peer) != "unknown"
    taken = 0
    for spec in SPECS:
        if peer.refuses(spec):
            continue
        taken += 1
        random = np.random.default_rng(taken)
        w = random.standard_normal(spec.weight_shape, np.float32) / 5
        b = random.standard_normal(spec.filters, np.float32) if spec.bias else None
        with peer.using(1):
            made = peer.prepare(spec, w, b, 1)
            for _ in range(2):  # what was fed last counts
                x = random.standard_normal(spec.input_shape, np.float32)
                made.feed(x)
                made.run()  # MNN's overwrites its input
                assert error(made.result(), true_output(spec, x, w, b)) < 1e-4, str(spec)
    assert taken >= 5


def test_the_oracle_can_fail() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal(BASE.input_shape, np.float32)
    w = random.standard_normal(BASE.weight_shape, np.float32)
    b = np.zeros(BASE.filters, np.float32)
    truth = true_output(BASE, x, w, b)
    assert error(true_output(BASE, x, np.flip(w, 2), b).astype("f4"), truth) > 1e-2
    half = x.astype(np.float16).astype(np.float32)
    assert error(true_output(BASE, half, w, b), truth) > 1e-4


def test_nobody_is_timed_with_a_residual() -> None:
    for peer in PEERS.values():
        if installed(peer):
            assert peer.refuses(replace(BASE, residual=True))


def test_torch_has_its_threads_back() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    with PEERS["torch"].using(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), PEERS["torch"].using(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


SQUARE = "Convolution conv 1 1 x y 0=12 1=3 2=1 3=1 11=3 12=1 13=1 4=1 15=1 14=1 16=1 5=1 6=864"
GROUPED = (
    "ConvolutionDepthWise conv 1 1 x y 0=12 1=3 2=1 3=1 11=3 12=1 13=2 4=2 15=1 14=1 16=0"
    " 5=1 6=216 7=4 9=3 -23310=2,0.0,6.0"
)


def test_the_text_of_ncnn_says_every_size() -> None:
    grouped = replace(
        BASE,
        groups=4,
        kernel=(3, 3),
        padding=((1, 0), (2, 1)),
        stride=(2, 1),
        activation="relu6",
    )
    assert param(BASE).splitlines()[3] == SQUARE
    assert param(grouped).splitlines()[3] == GROUPED


def test_the_text_of_ncnn_counts_its_layers() -> None:
    lines = param(replace(BASE, activation="silu")).splitlines()
    assert lines[:3] == ["7767517", "3 3", "Input x 0 1 x"]
    assert lines[-1] == "Swish act 1 1 sums y"


def test_a_model_is_one_convolution_and_its_activation() -> None:
    spec = replace(BASE, activation="hardswish", layout="channels_last", padding=((1, 0), (2, 3)))
    net = one_convolution(spec, np.zeros(spec.weight_shape, np.float32), np.zeros(12, np.float32))
    assert [node.op.__class__.__name__ for node in net.nodes] == ["Conv", "Activation"]
    assert net.shapes[net.outputs[0].value] == (1, 12, 8, 11)


def test_no_peer_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys, convsmith.runtime.benching\n"
        "print({'torch', 'onnxruntime', 'openvino', 'ncnn', 'MNN'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_what_libraries_print_stays_out_of_our_output() -> None:
    code = (
        "import ctypes, os\n"
        "from convsmith.runtime.peers.silence import silence\n"
        "print('before')\n"
        "with silence():\n"
        "    ctypes.CDLL(None).puts(b'from C')\n"
        "    os.write(2, b'to stderr')\n"
        "    print('inside', flush=True)\n"
        "print('after')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert (ran.stdout.split(), ran.stderr) == (["before", "after"], "")
