"""A large image in strips, at once, in tiles, and by diffusers at once and in tiles: prints one JSON line.

    python benchmarks/any_size.py --resolutions 1024 2048 --precision bf16 --plot any_size.png

All take turns in one process with the weights of one stock AutoencoderKL, random ones of Stable Diffusion's
architecture. Errors are against the image at once in float32, where it fits into memory; what does not fit is left out.
The plot needs matplotlib. Progress goes to stderr.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from latent_ae.inference.memory import available_bytes, peak_bytes
from latent_ae.inference.precision import Precision
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import DecoderSide, EncoderSide
from latent_ae.models import Autoencoder, build_autoencoder, factor_of

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
CPU = torch.device("cpu")
Run = Callable[[Tensor], Tensor]
AT_ONCE = "ours at once"


@dataclass(frozen=True)
class Coder:
    """Both directions of something that codes: pixels [1,C,H,W] => latents [1,c,h,w], and back."""

    encode: Run
    decode: Run
    whole: bool = False
    """whether it holds the activations of the whole image at a time"""


def coders(model: Autoencoder, precision: Precision, tile: int) -> dict[str, Coder]:
    """What takes turns, by name."""

    def ours(*, strips: bool = False, tile: int | None = None) -> Coder:
        codec = Codec(model, name="sd", precision=precision, tile=tile, memory_bytes=2**62)

        def run(side: Run, inputs: Tensor) -> Tensor:
            limit, batching.STREAMED_PIXELS = batching.STREAMED_PIXELS, 0 if strips else 2**62
            try:
                return side(inputs)
            finally:
                batching.STREAMED_PIXELS = limit

        whole = not strips and tile is None
        return Coder(partial(run, codec.encode_tensor), partial(run, codec.decode_tensor), whole)

    def stock(*, tiled: bool) -> Coder:
        own = copy.deepcopy(model).to(DTYPES[precision])
        own.use_tiling = tiled
        own.tile_sample_min_size, own.tile_latent_min_size = tile, tile // factor_of(model)
        dtype = DTYPES[precision]
        return Coder(
            lambda pixels: own.encode(pixels.to(dtype)).latent_dist.mode().float(),
            lambda latents: own.decode(latents.to(dtype)).sample.float().clamp(-1, 1),
            not tiled,
        )

    return {
        "ours in strips": ours(strips=True),
        AT_ONCE: ours(),
        f"ours in tiles of {tile}": ours(tile=tile),
        "diffusers at once": stock(tiled=False),
        "diffusers in tiles": stock(tiled=True),
    }


def measured(runs: dict[str, Run], inputs: Tensor, expected: Tensor | None, repeats: int) -> dict[str, Any]:
    """Seconds, peak memory and error of each in one direction, all in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, dict[str, float | None]] = {}
    for turn in range(repeats):
        for name, run in runs.items():
            outputs: list[Tensor] = []
            memory, _ = peak_memory(partial(_timed, outputs, seconds[name], run, inputs), CPU)
            error = None if expected is None else rounded(float((outputs[0] - expected).abs().max()))
            found.setdefault(name, {"peak_mib": rounded(memory), "largest_error": error})
            print(f"{turn} {name}: {seconds[name][-1]:.2f} s, {memory:.0f} MiB", file=sys.stderr)
    return {name: {"seconds": rounded(statistics.median(seconds[name])), **values} for name, values in found.items()}


def _timed(outputs: list[Tensor], seconds: list[float], run: Run, inputs: Tensor) -> None:
    start = time.perf_counter()
    outputs.append(run(inputs))
    seconds.append(time.perf_counter() - start)


def fits(model: Autoencoder, direction: str, inputs: Tensor, dtype: torch.dtype) -> bool:
    """Whether there is memory for the stock side over the whole image at once."""
    side = EncoderSide(model) if direction == "encode" else DecoderSide(model)
    return peak_bytes(side, tuple(inputs.shape), dtype, channels_last=False) < available_bytes(CPU)


@torch.no_grad()
def at_resolution(model: Autoencoder, resolution: int, given: argparse.Namespace) -> dict[str, Any]:
    """The results of both directions for a square image."""
    every = coders(model, given.precision, given.tile)
    exact = every if given.precision == "fp32" else coders(model, "fp32", given.tile)
    pixels = photo_like(int(model.config["in_channels"]), resolution)
    latents = every["ours in strips"].encode(pixels)
    results = {}
    for direction, inputs in {"encode": pixels, "decode": latents}.items():
        whole = fits(model, direction, inputs, DTYPES[given.precision])
        taken = {name: getattr(coder, direction) for name, coder in every.items() if whole or not coder.whole}
        runs = {name: run for name, run in taken.items() if any(wanted in name for wanted in given.only)}
        known = fits(model, direction, inputs, torch.float32)
        expected = getattr(exact[AT_ONCE], direction)(inputs) if known else None
        print(f"{direction}, {resolution} pixels a side", file=sys.stderr)
        results[direction] = measured(runs, inputs, expected, given.repeats)
    return results


def plot(results: dict[int, Any], file: Path) -> None:
    """Seconds and memory by the side of the image, a line for each that took turns."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # need not be installed

    figure = Figure(figsize=(10, 8), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for column, direction in enumerate(("encode", "decode")):
        names = list(dict.fromkeys(name for result in results.values() for name in result[direction]))
        for row, (key, label) in enumerate({"seconds": "seconds", "peak_mib": "MiB at the peak"}.items()):
            axis = axes[row][column]
            for name in names:
                points = {
                    side: result[direction][name][key] for side, result in results.items() if name in result[direction]
                }
                axis.plot(list(points), list(points.values()), marker="o", label=name)
            axis.set(xscale="log", yscale="log", title=direction if row == 0 else "", ylabel=label)
            axis.set_xticks(list(results), [str(side) for side in results], minor=False)
            axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
            axis.grid(alpha=0.3)
        axes[1][column].set_xlabel("pixels a side")
    axes[0][0].legend()
    figure.savefig(file, dpi=100)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024], help="pixels a side")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--tile", type=int, default=512, help="pixels a side of a tile")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median counts")
    parser.add_argument("--preset", default="sd", help="architecture of an AutoencoderKL")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of what takes turns, e.g. ours")
    parser.add_argument("--plot", type=Path, help="write a picture of the results, with matplotlib")
    given = parser.parse_args()
    model = build_autoencoder(ModelConfig(preset=given.preset), seed=0, resolution=min(given.resolutions)).eval()
    results = {resolution: at_resolution(model, resolution, given) for resolution in given.resolutions}
    if given.plot is not None:
        plot(results, given.plot)
    native, _ = bf16_support(CPU)
    speed = matmul_tflops(DTYPES[given.precision], CPU, native=native)
    machine = {"device": device_name(CPU), "threads": torch.get_num_threads(), "bf16_instructions": native}
    options = {key: value for key, value in vars(given).items() if key != "plot"}
    print(json.dumps({**options, **machine, "matmul_tflops": rounded(speed), "results": results}))


if __name__ == "__main__":
    main()
