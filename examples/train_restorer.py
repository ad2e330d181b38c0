"""Train the demo network: a grey-scale image denoiser with kernels from 3x3 to 9x9.

The network removes additive white Gaussian noise of standard deviation 25/255 from 8-bit luma. It
is trained on photographs inside the scikit-image wheel (nothing is downloaded). Whole photographs
are kept out: ``rocket`` to watch the training, ``camera``, ``chelsea`` and ``coffee`` for one
measurement at the end.

The script writes, under ``--out``:

* ``restorer.onnx``: the network, ``restored = noisy - conv8(relu7(...conv1(noisy)))``;
* ``training.log``: versions, arguments, loss, PSNR in dB;
* ``photographs/``: noisy and clean 8-bit PNG pairs, for calibration and for test.

Run it with torch 2.13 and scikit-image 0.26 beside convsmith's own dependencies::

    pip install torch==2.13.0 scikit-image==0.26.0 pillow onnx onnxruntime
    python examples/train_restorer.py                       # about 30 minutes on 3 cores
    python examples/train_restorer.py --steps 700           # 3 minutes, and 0.6 dB less
    python examples/train_restorer.py --photographs-only    # seconds

The same seed and number of threads give the same network on the same kind of processor. Most
steps multiply in bfloat16, which is fast only on processors that have it (AVX512-BF16, AMX).
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

Grey = npt.NDArray[np.uint8]

SIGMA = 25.0  # standard deviation of the noise, in grey levels of 0..255
LONGER_SIDE = 384  # of every photograph that is shipped or measured on
CROP = 192  # side of a calibration photograph
PHOTOGRAPH_SEED = 20  # of the noise in photographs/, whatever --seed trains with

TEST = ("camera.png", "chelsea.png", "coffee.png")
VALIDATION = "rocket.jpg"
# Training photographs that skimage.data documents as free to copy; the README names each licence.
CALIBRATION = (
    "astronaut.png",
    "brick.png",
    "cell.png",
    "clock_motion.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
)
# How often each photograph is drawn: everyday scenes more often than textures and microscopy.
TRAINING = {
    "astronaut.png": 3.0,
    "motorcycle_left.png": 2.0,
    "motorcycle_right.png": 2.0,
    "coins.png": 2.0,
    "brick.png": 1.0,
    "clock_motion.png": 1.0,
    "grass.png": 1.0,
    "gravel.png": 1.0,
    "hubble_deep_field.jpg": 1.0,
    "ihc.png": 1.0,
    "moon.png": 1.0,
    "retina.jpg": 1.0,
    "cell.png": 0.5,
    "page.png": 0.5,
    "text.png": 0.5,
}
SCALES = (1.0, 0.8, 0.64, 0.51, 0.41, 0.33, 0.26)

PATCH = 56
BATCH = 24
PEAK_RATE = 1e-3
WARM_UP = 100  # steps
AVERAGE_DECAY = 0.999
FULL_PRECISION_SHARE = 0.1  # of the steps, at the end; the ones before multiply in bfloat16


class Layer(NamedTuple):
    """One convolution: square kernel, stride 1, zero padding that keeps the size, a bias."""

    kernel: int
    channels_in: int
    channels_out: int


LAYERS = (
    Layer(9, 1, 32),
    Layer(7, 32, 32),
    Layer(5, 32, 48),
    Layer(3, 48, 48),
    Layer(3, 48, 48),
    Layer(3, 48, 48),
    Layer(5, 48, 32),
    Layer(3, 32, 1),
)


class Restorer(nn.Module):
    """A chain of convolutions and ReLUs that predicts the noise, and takes it off the input."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = nn.Sequential()
        for number, layer in enumerate(LAYERS, start=1):
            convolution = nn.Conv2d(
                layer.channels_in, layer.channels_out, layer.kernel, padding=layer.kernel // 2
            )
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.constant_(convolution.get_parameter("bias"), 0)
            self.chain.add_module(f"conv{number}", convolution)
            if number < len(LAYERS):
                self.chain.add_module(f"relu{number}", nn.ReLU(inplace=True))
        with torch.no_grad():
            convolution.weight.mul_(0.1)  # start near the identity

    def forward(self, noisy: Tensor) -> Tensor:
        """Returns the restored images, shape N,1,H,W like ``noisy``, both in 0..1."""
        noise: Tensor = self.chain(noisy)
        return noisy - noise.float()


# --- photographs -----------------------------------------------------------------------------


def read_luma(name: str) -> Image.Image:
    """Returns a photograph of the scikit-image wheel as 8-bit luma (ITU-R BT.601)."""
    with files("skimage.data").joinpath(name).open("rb") as stream:
        return Image.open(stream).convert("L")


def downscale(photograph: Image.Image, factor: float) -> Image.Image:
    """Returns the whole photograph, anti-aliased (Lanczos); itself where ``factor`` is 1 or more.

    Pillow stretches the Lanczos window by the factor, which is the low-pass filter needed here.
    """
    if factor >= 1.0:
        return photograph
    width, height = photograph.size
    return photograph.resize(
        (round(width * factor), round(height * factor)), Image.Resampling.LANCZOS
    )


def fit(photograph: Image.Image) -> Image.Image:
    """Returns the photograph with its longer side at most ``LONGER_SIDE`` pixels."""
    return downscale(photograph, LONGER_SIDE / max(photograph.size))


def crop_centre(photograph: Image.Image) -> Image.Image:
    """Returns the central ``CROP`` x ``CROP`` pixels."""
    left, top = ((side - CROP) // 2 for side in photograph.size)
    return photograph.crop((left, top, left + CROP, top + CROP))


def add_noise(clean: Grey, generator: np.random.Generator) -> Grey:
    """Returns ``clean`` plus Gaussian noise, clipped and rounded to 8 bits: what a PNG can hold."""
    noise = generator.standard_normal(clean.shape, dtype=np.float32)
    return np.clip(np.rint(clean + np.float32(SIGMA) * noise), 0, 255).astype(np.uint8)


def make_pair(name: str, *, crop: bool = False) -> tuple[Grey, Grey]:
    """Returns the noisy and the clean version of one photograph, the same in every run."""
    photograph = fit(read_luma(name))
    clean = np.asarray(crop_centre(photograph) if crop else photograph)
    return add_noise(clean, np.random.default_rng([PHOTOGRAPH_SEED, *name.encode()])), clean


def write_photographs(folder: Path) -> None:
    """Writes ``{calibration,test}/{input,target}/*.png``; input is noisy and target is clean."""
    for purpose, names in (("calibration", CALIBRATION), ("test", TEST)):
        for name in names:
            pair = make_pair(name, crop=purpose == "calibration")
            for role, image in zip(("input", "target"), pair, strict=True):
                path = folder / purpose / role / Path(name).with_suffix(".png").name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path, optimize=True)


# --- training --------------------------------------------------------------------------------


def draw_batches(generator: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields noisy and clean batches without end, each N,1,``PATCH``,``PATCH`` in 0..1.

    A patch is a random crop of a random photograph at a random scale, in one of the eight
    orientations of the square, under fresh noise. Larger scales are drawn more often, by the
    square root of their area.
    """
    pyramids: list[list[Grey]] = []
    for name in TRAINING:
        photograph = read_luma(name)
        levels = [np.asarray(downscale(photograph, scale)) for scale in SCALES]
        pyramids.append([level for level in levels if min(level.shape) >= PATCH])
    odds = np.array(list(TRAINING.values())) / sum(TRAINING.values())
    roots = [np.sqrt([level.size for level in pyramid]) for pyramid in pyramids]
    level_odds = [root / root.sum() for root in roots]
    clean = np.empty((BATCH, 1, PATCH, PATCH), np.uint8)
    while True:
        for row in range(BATCH):
            chosen = generator.choice(len(pyramids), p=odds)
            level = pyramids[chosen][generator.choice(len(pyramids[chosen]), p=level_odds[chosen])]
            top, left = (generator.integers(side - PATCH + 1) for side in level.shape)
            patch = level[top : top + PATCH, left : left + PATCH]
            patch = np.rot90(patch, int(generator.integers(4)))
            clean[row, 0] = patch.T if generator.integers(2) else patch
        yield to_tensor(add_noise(clean, generator)), to_tensor(clean)


def to_tensor(images: Grey) -> Tensor:
    """Returns 8-bit images as float32 in 0..1."""
    return torch.from_numpy(images.astype(np.float32) / np.float32(255))


def learning_rate(step: int, steps: int) -> float:
    """Returns the rate at ``step``: a linear warm-up, then half a cosine down to zero."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))


def measure_psnr(estimate: npt.NDArray[np.float32], clean: Grey) -> float:
    """Returns the peak signal-to-noise ratio in dB, of ``estimate`` clipped to 0..1."""
    difference = np.clip(estimate, 0, 1).astype(np.float64) - clean / 255.0
    return float(-10 * np.log10(np.mean(np.square(difference))))


@torch.no_grad()
def measure(network: Restorer, name: str) -> tuple[float, float]:
    """Returns the PSNR in dB of one noisy photograph, before and after the network."""
    noisy, clean = make_pair(name)
    batch = to_tensor(noisy[None, None])
    return measure_psnr(batch[0, 0].numpy(), clean), measure_psnr(
        network(batch)[0, 0].numpy(), clean
    )


def train(*, steps: int, seed: int, log: TextIO) -> Restorer:
    """Returns the exponential average of the weights of a network trained for ``steps`` steps.

    Adam on the mean squared error, whose minimum is the maximum of the PSNR.
    """
    torch.manual_seed(seed)
    network = Restorer().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Restorer()
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99))
    batches = draw_batches(np.random.default_rng(seed))
    interval = max(1, steps // 20)
    start, losses = time.monotonic(), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps)
        noisy, clean = next(batches)
        half = step < steps * (1 - FULL_PRECISION_SHARE)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            restored = network(noisy.to(memory_format=torch.channels_last))
        loss = nn.functional.mse_loss(restored, clean)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            share = max(1 - AVERAGE_DECAY, 9 / (10 + step))
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, share)
        if (step + 1) % interval == 0 or step + 1 == steps:
            _, psnr = measure(average, VALIDATION)
            report(
                log,
                f"step {step + 1:6d}  rate {learning_rate(step, steps):.2e}  "
                f"training loss {-10 * math.log10(np.mean(losses)):6.3f} dB  "
                f"{Path(VALIDATION).stem} {psnr:6.3f} dB  {time.monotonic() - start:5.0f} s",
            )
            losses.clear()
    return average


def report(log: TextIO, line: str) -> None:
    """Prints a line, and writes it to the log at once."""
    print(line, flush=True)
    print(line, file=log, flush=True)


# --- export ----------------------------------------------------------------------------------


def build_onnx(network: Restorer) -> onnx.ModelProto:
    """Returns the network as one ONNX graph of Conv, Relu and Sub; N, H and W stay dynamic."""
    nodes, initializers, value = [], [], "noisy"
    for number, layer in enumerate(LAYERS, start=1):
        convolution = network.chain.get_submodule(f"conv{number}")
        names = [f"conv{number}.weight", f"conv{number}.bias"]
        for name, parameter in zip(names, convolution.parameters(), strict=True):
            initializers.append(numpy_helper.from_array(parameter.detach().numpy(), name))
        output = f"conv{number}" if number < len(LAYERS) else "noise"
        nodes.append(
            helper.make_node(
                "Conv",
                [value, *names],
                [output],
                f"conv{number}",
                kernel_shape=[layer.kernel] * 2,
                strides=[1, 1],
                dilations=[1, 1],
                pads=[layer.kernel // 2] * 4,
                group=1,
            )
        )
        value = output
        if number < len(LAYERS):
            value = f"relu{number}"
            nodes.append(helper.make_node("Relu", [output], [value], value))
    nodes.append(helper.make_node("Sub", ["noisy", value], ["restored"], "subtract"))
    shape = ("batch", 1, "height", "width")
    graph = helper.make_graph(
        nodes,
        "restorer",
        [helper.make_tensor_value_info("noisy", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("restored", TensorProto.FLOAT, shape)],
        initializers,
        doc_string="Removes Gaussian noise of sigma 25/255 from 8-bit luma scaled to 0..1.",
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
        producer_name="train_restorer",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def compare_with_onnxruntime(network: Restorer, path: Path) -> float:
    """Returns the largest difference between the network and its ONNX file on the test noise."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = 0.0
    for name in TEST:
        batch = to_tensor(make_pair(name)[0][None, None])
        with torch.no_grad():
            expected = network(batch).numpy()
        (actual,) = session.run(["restored"], {"noisy": batch.numpy()})
        largest = max(largest, float(np.abs(actual - expected).max()))
    return largest


# --- command line ----------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(
        description="Train the demo denoiser and write it as ONNX, with its photographs."
    )
    parser.add_argument("--steps", type=int, default=6500, help="optimizer steps (%(default)s)")
    parser.add_argument("--threads", type=int, default=3, help="torch threads (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "restorer", help="folder to write to"
    )
    parser.add_argument(
        "--photographs-only", action="store_true", help="write the photographs and stop"
    )
    return parser.parse_args()


def main() -> None:
    """Writes the photographs; trains, exports and measures the network."""
    arguments = parse_arguments()
    write_photographs(arguments.out / "photographs")
    if arguments.photographs_only:
        return
    torch.set_num_threads(arguments.threads)
    with (arguments.out / "training.log").open("w", encoding="utf-8") as log:
        packages = ("torch", "numpy", "scikit-image", "pillow", "onnx")
        versions = ", ".join(f"{package} {version(package)}" for package in packages)
        report(log, f"python {platform.python_version()}, {versions}")
        report(
            log,
            f"--steps {arguments.steps} --threads {arguments.threads} --seed {arguments.seed}",
        )
        parameters = sum(parameter.numel() for parameter in Restorer().parameters())
        kernels = ", ".join(
            f"{layer.kernel}x{layer.kernel} {layer.channels_in}->{layer.channels_out}"
            for layer in LAYERS
        )
        report(log, f"{parameters} parameters: {kernels}")
        network = train(steps=arguments.steps, seed=arguments.seed, log=log)

        path = arguments.out / "restorer.onnx"
        onnx.save(build_onnx(network), path)
        report(log, f"{path.name}: {path.stat().st_size} bytes")
        with suppress(ImportError):
            difference = compare_with_onnxruntime(network, path)
            report(log, f"onnxruntime differs from torch by at most {difference:.1e}")
        report(log, "held-out photographs, PSNR in dB: noisy -> restored")
        gains = []
        for name in TEST:
            before, after = measure(network, name)
            gains.append(after - before)
            report(log, f"  {Path(name).stem:8} {before:.2f} -> {after:.2f}")
        report(log, f"  mean gain {np.mean(gains):.2f}")


if __name__ == "__main__":
    main()
