"""Our training step against one written as diffusers' example writes it: prints one JSON line with their ratio.

    python benchmarks/train_step.py --preset sd --resolution 128 --batch 2

Both sides train the same stock AutoencoderKL from the same weights on the same images with the same loss. They take
turns in one process, block by block, so that a machine that slows down slows both. Progress goes to stderr.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import latent_ae  # noqa: F401  # before diffusers: makes torchvision importable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel

from benchmarks.machine import bf16_support, device_name, matmul_tflops, peak_memory, rounded, wait_for
from latent_ae.config import ModelConfig, TrainConfig
from latent_ae.data import Batch
from latent_ae.errors import UserError
from latent_ae.evaluation.perceptual import build_perceptual
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import PRESETS, build_autoencoder, factor_of
from latent_ae.models.bottlenecks.kl import KLBottleneck, KLLossConfig
from latent_ae.randomness import torch_generator
from latent_ae.training.build import build_objective
from latent_ae.training.noise import Draws
from latent_ae.training.settings import RunConfig
from latent_ae.training.signals import StopRequest
from train.train import AutoencoderTraining

SEED = 0
TRAIN = TrainConfig(learning_rate=1e-4, weight_decay=1e-2, max_grad_norm=1.0, ema_decay=0.999)
BETA = 1e-6
PERCEPTUAL_WEIGHT = 1.0
MEMORY_STEPS = 2
"""the optimizer's state exists from the first step's end, so the second has the peak"""


@dataclass(frozen=True)
class Setup:
    """What both sides train, and what ours may use."""

    preset: str
    resolution: int
    batch: int
    precision: str
    """of our side: no, bf16 or fp16; the other side is float32"""
    perceptual: Literal["random_features", "vgg"]
    compile: bool
    channels_last: bool
    device: torch.device

    def autoencoder(self) -> AutoencoderKL:
        """The same start weights every time."""
        return build_autoencoder(ModelConfig(preset=self.preset), seed=SEED, resolution=self.resolution)

    def pixels(self) -> Tensor:
        """The images of every step, on the CPU."""
        shape = (self.batch, int(str(PRESETS[self.preset]["in_channels"])), self.resolution, self.resolution)
        return torch.rand(shape, generator=torch_generator(SEED, "benchmark")) * 2 - 1


class OurStep:
    """What one update of train/train.py does, built as it builds it."""

    def __init__(self, setup: Setup) -> None:
        loss = KLLossConfig(perceptual=setup.perceptual, perceptual_weight=PERCEPTUAL_WEIGHT, beta=BETA)
        train = TRAIN.model_copy(update={"channels_last": setup.channels_last, "compile": setup.compile})
        config = RunConfig(loss=loss, train=train)
        autoencoder, bottleneck = setup.autoencoder(), KLBottleneck()
        channels, factor = autoencoder.config["latent_channels"], factor_of(autoencoder)
        self.draws = Draws(seed=SEED, latent_channels=channels, factor=factor, noise_shape=bottleneck.noise_shape)
        accelerator = Accelerator(mixed_precision=setup.precision, cpu=setup.device.type == "cpu")
        pixels = PixelFormat.picture(autoencoder.config["in_channels"])
        objective = build_objective(autoencoder, bottleneck, config, pixels)
        self.training = AutoencoderTraining(
            config, accelerator, StopRequest(), objective, adversary=None, draws=self.draws
        )
        self.pixels = setup.pixels()

    def step(self, number: int) -> float:
        """One update; the loss before it."""
        count, self.training.state.step = len(self.pixels), number
        numbers = list(range(number * count, (number + 1) * count))
        return self.training.update([Batch(self.pixels, numbers, [str(each) for each in numbers], [])]).loss


class ExampleStep:
    """One update of the loop in diffusers' examples/research_projects/autoencoderkl/train_autoencoderkl.py.

    Float32, NCHW and eager, encode and decode through the model's methods, plain AdamW, EMAModel as it comes, every
    logged value read at every step. Two changes make the losses comparable: the perceptual term has a gradient (the
    example computes it under no_grad), and the sums over pixels are divided by their number before the backward pass.
    Without discriminator, as on our side.
    """

    def __init__(self, setup: Setup) -> None:
        self.device = setup.device
        self.vae = setup.autoencoder().to(setup.device).train()
        channels = self.vae.config["in_channels"]
        self.perceptual = build_perceptual(setup.perceptual, image_channels=channels).to(setup.device)
        self.optimizer = torch.optim.AdamW(
            self.vae.parameters(),
            lr=TRAIN.learning_rate,
            betas=TRAIN.betas,
            weight_decay=TRAIN.weight_decay,
            eps=TRAIN.epsilon,
        )
        self.ema = EMAModel(self.vae.parameters(), model_cls=AutoencoderKL, model_config=self.vae.config)
        self.pixels = setup.pixels()

    def step(self, number: int, noise: Tensor | None = None) -> float:  # noqa: ARG002  # as OurStep.step
        """One update; the loss before it. `noise` [B,c,h,w] takes the place of the posterior's own draw."""
        targets = self.pixels.to(self.device)
        posterior = self.vae.encode(targets).latent_dist
        latents = posterior.sample() if noise is None else posterior.mean + posterior.std * noise
        reconstructions = self.vae.decode(latents).sample
        rec_loss = F.l1_loss(reconstructions.float(), targets.float(), reduction="none")
        p_loss = self.perceptual(reconstructions, targets)[:, None, None, None]
        nll_loss = torch.sum(rec_loss + PERCEPTUAL_WEIGHT * p_loss) / len(targets)
        kl_loss = torch.sum(posterior.kl()) / len(targets)
        loss = (nll_loss + BETA * kl_loss) / targets[0].numel()
        terms = {"loss": loss, "nll_loss": nll_loss, "rec_loss": rec_loss, "p_loss": p_loss, "kl_loss": kl_loss}
        logs: dict[str, float] = {name: value.detach().mean().item() for name, value in terms.items()}
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), TRAIN.max_grad_norm or torch.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.vae.parameters())
        return logs["loss"]


def losses_of_both(setup: Setup, steps: int) -> tuple[list[float], list[float]]:
    """The losses of our and the example's first steps in float32 on the same noise: they must agree to be compared."""
    setup = replace(setup, precision="no")
    ours, example = OurStep(setup), ExampleStep(setup)
    numbers = [list(range(step * setup.batch, (step + 1) * setup.batch)) for step in range(steps)]
    noises = [ours.draws.noise(batch, ours.pixels.shape).to(setup.device) for batch in numbers]
    return [ours.step(number) for number in range(steps)], [
        example.step(number, noise) for number, noise in enumerate(noises)
    ]


def measure(setup: Setup, *, steps: int, blocks: int) -> dict[str, object]:
    """Everything that the line says."""
    support, how = bf16_support(setup.device)
    say("counting the step's operations")
    with FlopCounterMode(display=False) as counter:  # this step also loads what torch loads lazily
        ExampleStep(setup).step(0)
    tflop = counter.get_total_flops() / 1e12
    say("memory")
    memory: dict[str, float] = {}
    for name, side in (("ours", OurStep), ("example", ExampleStep)):
        memory[name], memory_how = peak_memory(partial(build_and_run, side, setup, MEMORY_STEPS), setup.device)
    speeds = take_turns(setup, steps=steps, blocks=blocks)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    ratios = [ours / example for ours, example in zip(speeds["ours"], speeds["example"], strict=True)]
    peaks = {
        name: matmul_tflops(dtype, setup.device, native=dtype is torch.float32 or support)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16))
        if name != "fp16" or setup.precision == "fp16"
    }
    precision = "fp32" if setup.precision == "no" else setup.precision
    return {
        "benchmark": "train_step",
        **{name: getattr(setup, name) for name in ("preset", "resolution", "batch", "perceptual", "compile")},
        "memory_format": "channels_last" if setup.channels_last else "contiguous",
        "steps": steps,
        "blocks": blocks,
        "device": device_name(setup.device),
        "threads": torch.get_num_threads(),
        "bf16_instructions": support,
        "bf16_instructions_how": how,
        "precision": {"ours": precision, "example": "fp32"},
        "images_per_second": {name: rounded(value) for name, value in medians.items()},
        "ratio": rounded(medians["ours"] / medians["example"]),
        "ratio_of_each_turn": [rounded(ratio) for ratio in ratios],
        "peak_memory_mib": {name: round(value, 1) for name, value in memory.items()},
        "peak_memory_how": memory_how,
        "tflop_per_step": rounded(tflop),
        "matmul_tflops": {name: rounded(value) for name, value in peaks.items()},
        "share_of_matmul": rounded(tflop * medians["ours"] / setup.batch / peaks[precision]),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "diffusers", "accelerate")},
        },
    }


def take_turns(setup: Setup, *, steps: int, blocks: int) -> dict[str, list[float]]:
    """Images per second of each block of each side, after one block of warm-up that is not counted."""
    sides: dict[str, Callable[[int], float]] = {"ours": OurStep(setup).step, "example": ExampleStep(setup).step}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for block in range(blocks + 1):
        for name, step in sides.items():
            wait_for(setup.device)
            start = time.perf_counter()
            run_steps(step, steps, first=block * steps)
            wait_for(setup.device)
            speed = steps * setup.batch / (time.perf_counter() - start)
            say(f"{f'block {block} of {blocks}' if block else 'warm-up'}: {name} {speed:.4g} images/s")
            if block:
                speeds[name].append(speed)
    return speeds


def build_and_run(side: type[OurStep | ExampleStep], setup: Setup, count: int) -> None:
    """The first steps of a side that is gone afterwards."""
    run_steps(side(setup).step, count)


def run_steps(step: Callable[[int], float], count: int, first: int = 0) -> None:
    """Steps `first` .. `first + count - 1`."""
    for number in range(first, first + count):
        step(number)


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Measure and print the line; the exit status is 2 for something that cannot be measured here."""
    parser = argparse.ArgumentParser(description="Our training step against diffusers' example: one JSON line.")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="sd")
    parser.add_argument("--resolution", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images a step")
    parser.add_argument("--steps", type=int, default=4, help="steps of a block")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of each side, after one of warm-up")
    parser.add_argument(
        "--precision", choices=("auto", "no", "bf16", "fp16"), default="auto", help="ours; auto: bf16 if built in"
    )
    parser.add_argument("--perceptual", choices=("random_features", "vgg"), default="random_features")
    parser.add_argument("--compile", action="store_true", help="torch.compile our side")
    parser.add_argument(
        "--layout", choices=("auto", "channels-last", "contiguous"), default="auto", help="ours; auto as train.py does"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    given = parser.parse_args(argv)
    if low := [name for name in ("batch", "steps", "blocks") if getattr(given, name) < 1]:
        parser.error(f"--{low[0]} must be 1 or more, got {getattr(given, low[0])}")
    device = torch.device(given.device)
    if given.precision == "fp16" and device.type == "cpu":
        parser.error("--precision fp16 needs a GPU")
    automatic = "bf16" if bf16_support(device)[0] else "no"
    precision = automatic if given.precision == "auto" else given.precision
    chosen = "channels-last" if device.type == "cpu" and precision != "no" else "contiguous"
    setup = Setup(
        preset=given.preset,
        resolution=given.resolution,
        batch=given.batch,
        precision=precision,
        perceptual=given.perceptual,
        compile=given.compile,
        channels_last=(chosen if given.layout == "auto" else given.layout) == "channels-last",
        device=device,
    )
    try:
        line = measure(setup, steps=given.steps, blocks=given.blocks)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
