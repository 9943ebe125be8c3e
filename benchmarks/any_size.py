"""A large image in strips, at once, in tiles, and by diffusers at once and in tiles: prints one JSON line.

    python benchmarks/any_size.py --resolution 1024 --precision bf16

All take turns in one process with the weights of one stock AutoencoderKL, random ones of Stable Diffusion's
architecture. Errors are against the image at once in float32. Progress goes to stderr.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latent_ae  # noqa: F401  # before diffusers: makes torchvision importable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import bf16_support, device_name, matmul_tflops, peak_memory, rounded
from latent_ae.config import ModelConfig
from latent_ae.inference import batching
from latent_ae.inference.codec import Codec
from latent_ae.inference.precision import Precision
from latent_ae.inference.probe_image import photo_like
from latent_ae.models import Autoencoder, build_autoencoder, factor_of

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
CPU = torch.device("cpu")
Coder = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""(encode, decode): pixels [1,C,H,W] => latents [1,c,h,w], and back"""


def coders(model: Autoencoder, precision: Precision, tile: int) -> dict[str, Coder]:
    """What takes turns, by name."""

    def ours(*, strips: bool = False, tile: int | None = None) -> Coder:
        codec = Codec(model, name="sd", precision=precision, tile=tile)

        def run(side: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
            limit, batching.STREAMED_PIXELS = batching.STREAMED_PIXELS, 0 if strips else 2**62
            try:
                return side(inputs)
            finally:
                batching.STREAMED_PIXELS = limit

        return lambda pixels: run(codec.encode_tensor, pixels), lambda latents: run(codec.decode_tensor, latents)

    def stock(*, tiled: bool) -> Coder:
        own = copy.deepcopy(model).to(DTYPES[precision])
        own.use_tiling = tiled
        own.tile_sample_min_size, own.tile_latent_min_size = tile, tile // factor_of(model)
        dtype = DTYPES[precision]
        return (
            lambda pixels: own.encode(pixels.to(dtype)).latent_dist.mode().float(),
            lambda latents: own.decode(latents.to(dtype)).sample.float().clamp(-1, 1),
        )

    return {
        "ours in strips": ours(strips=True),
        "ours at once": ours(),
        f"ours in tiles of {tile}": ours(tile=tile),
        "diffusers at once": stock(tiled=False),
        "diffusers in tiles": stock(tiled=True),
    }


def measured(every: dict[str, Coder], place: int, inputs: Tensor, exact: Coder, repeats: int) -> dict[str, Any]:
    """Seconds, peak memory and error of each in one direction (0 encode, 1 decode), all in turns."""
    expected = exact[place](inputs)
    seconds: dict[str, list[float]] = {name: [] for name in every}
    found: dict[str, dict[str, float]] = {}
    for turn in range(repeats):
        for name, coder in every.items():
            outputs: list[Tensor] = []
            memory, _ = peak_memory(partial(_timed, outputs, seconds[name], coder[place], inputs), CPU)
            error = float((outputs[0] - expected).abs().max())
            found.setdefault(name, {"peak_mib": rounded(memory), "largest_error": rounded(error)})
            print(f"{turn} {name}: {seconds[name][-1]:.2f} s, {memory:.0f} MiB", file=sys.stderr)
    return {name: {"seconds": rounded(statistics.median(seconds[name])), **values} for name, values in found.items()}


def _timed(outputs: list[Tensor], seconds: list[float], side: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
    start = time.perf_counter()
    outputs.append(side(inputs))
    seconds.append(time.perf_counter() - start)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=1024, help="pixels a side")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--tile", type=int, default=512, help="pixels a side of a tile")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median counts")
    parser.add_argument("--preset", default="sd", help="architecture of an AutoencoderKL")
    given = parser.parse_args()
    model = build_autoencoder(ModelConfig(preset=given.preset), seed=0, resolution=given.resolution).eval()
    every = coders(model, given.precision, given.tile)
    exact = every if given.precision == "fp32" else coders(model, "fp32", given.tile)
    pixels = photo_like(int(model.config["in_channels"]), given.resolution)
    with torch.no_grad():
        latents = exact["ours at once"][0](pixels)
        results = {
            direction: measured(every, place, inputs, exact["ours at once"], given.repeats)
            for place, (direction, inputs) in enumerate({"encode": pixels, "decode": latents}.items())
        }
    native, _ = bf16_support(CPU)
    speed = matmul_tflops(DTYPES[given.precision], CPU, native=native)
    machine = {"device": device_name(CPU), "threads": torch.get_num_threads(), "bf16_instructions": native}
    print(json.dumps({**vars(given), **machine, "matmul_tflops": rounded(speed), **results}))


if __name__ == "__main__":
    main()
