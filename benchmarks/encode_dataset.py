"""Turning JPEGs into latents, against the encoder alone and against a plain loop: prints one JSON line with the ratios.

    python benchmarks/encode_dataset.py --preset sd --resolution 256 --images 8

`ours` is what train/encode_dataset.py does: files read, decoded, cut, hashed, encoded, and written as a shard with its
index. `codec` is a Codec over the same pixels, already in memory, and writes nothing: what the encoder could give.
`plain` is the loop that is usually written with stock diffusers: one file after another, a .npy for each. All take
turns in one process, block by block, so that a machine that slows down slows all. Progress goes to stderr.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import latent_ae  # noqa: F401  # before diffusers: makes torchvision importable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import device_name, rounded, wait_for
from latent_ae.config import ModelConfig
from latent_ae.data import FolderConfig
from latent_ae.data.transforms import evaluation_view
from latent_ae.inference import Codec
from latent_ae.inference.probe_image import photo_like
from latent_ae.io.image import WHITE, Pixels, from_tensor, open_image
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.images import Images
from latent_ae.latent_dataset.index import write_index
from latent_ae.latent_dataset.resume import prepare
from latent_ae.latent_dataset.settings import Compute, EncodeConfig, describe_work
from latent_ae.latent_dataset.writer import make_shards
from latent_ae.models import PRESETS, Autoencoder, build_autoencoder


class Ours:
    """The whole way, as train/encode_dataset.py goes it."""

    def __init__(
        self, codec: Codec, pictures: Path, *, resolution: int, precision: Compute, batch: int, workers: int
    ) -> None:
        data = FolderConfig(path=str(pictures), heldout_share=0.5)
        together: dict[str, Any] = {} if precision == "exact" else {"batch_size": batch}
        self.config = EncodeConfig(resolution=resolution, precision=precision, part="all", data=data, **together)
        self.images = Images(data.open(), "all")
        self.encoder = Encoder(
            codec, precision=precision, logvar=True, dtype="float16", threads=torch.get_num_threads()
        )
        self.manifest = describe_work(self.config, self.images, self.encoder)
        self.workers = workers

    def __call__(self, folder: Path) -> None:
        """Once over all images."""
        folder.mkdir()
        work = prepare(folder, self.manifest, self.images)
        make_shards(folder, self.manifest, self.images, self.encoder, work.missing, workers=self.workers)
        write_index(folder)


class Bare:
    """A Codec in the same precision over pixels in memory."""

    def __init__(self, codec: Codec, pictures: list[Pixels]) -> None:
        self.codec = codec
        self.pictures = pictures

    def __call__(self, _folder: Path) -> None:
        """Once over all images."""
        self.codec.encode(self.pictures, logvar=True)


class Plain:
    """Stock diffusers, one image after another."""

    def __init__(self, model: Autoencoder, pictures: Path, resolution: int) -> None:
        self.model = model
        self.files = sorted(pictures.iterdir())
        self.resolution = resolution

    @torch.no_grad()
    def __call__(self, folder: Path) -> None:
        """Once over all images."""
        folder.mkdir()
        for file in self.files:
            image = Image.open(file).convert("RGB" if self.model.config["in_channels"] == 3 else "L")
            short = min(image.size)
            left, top = (image.width - short) // 2, (image.height - short) // 2
            size = (self.resolution, self.resolution)
            image = image.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + short, top + short))
            pixels = np.asarray(image, np.float32).reshape(*size, -1) / 127.5 - 1
            values = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()).to(self.model.device)
            latents = self.model.encode(values).latent_dist.parameters
            np.save(folder / f"{file.stem}.npy", latents.half().cpu().numpy())


def write_pictures(folder: Path, count: int, side: int) -> None:
    """JPEGs, half as wide again as they are high, all different."""
    folder.mkdir()
    base = from_tensor(photo_like(3, side * 3 // 2)[0])
    for number in range(count):
        Image.fromarray(np.roll(base, 7 * number, axis=1)[:side]).save(folder / f"{number:04d}.jpg", quality=90)


def measure(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The line."""
    device = torch.device(given.device)
    model = build_autoencoder(ModelConfig(preset=given.preset), seed=0, resolution=given.resolution).eval().to(device)
    write_pictures(folder / "pictures", given.images, given.resolution * 5 // 4)
    codec = Codec(model, name=given.preset, precision=given.precision, tile=None)
    shown = [
        evaluation_view(
            open_image(file), pixel_format=PixelFormat.picture(codec.channels), size=given.resolution, background=WHITE
        )
        for file in sorted((folder / "pictures").iterdir())
    ]
    sides: dict[str, Callable[[Path], None]] = {
        "ours": Ours(
            codec,
            folder / "pictures",
            resolution=given.resolution,
            precision=given.precision,
            batch=given.batch,
            workers=given.workers,
        ),
        "codec": Bare(codec, shown),
        "plain": Plain(model, folder / "pictures", given.resolution),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for block in range(given.blocks + 1):
        for name, side in sides.items():
            wait_for(device)
            start = time.perf_counter()
            side(folder / f"{name}-{block}")
            wait_for(device)
            speed = given.images / (time.perf_counter() - start)
            say(f"{f'block {block} of {given.blocks}' if block else 'warm-up'}: {name} {speed:.4g} images/s")
            if block:
                speeds[name].append(speed)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "benchmark": "encode_dataset",
        "preset": given.preset,
        "resolution": given.resolution,
        "images": given.images,
        "blocks": given.blocks,
        "precision": {"ours": given.precision, "codec": given.precision, "plain": "fp32"},
        "batch": 1 if given.precision == "exact" else given.batch,
        "workers": given.workers,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "images_per_second": {name: rounded(speed) for name, speed in medians.items()},
        "share_of_codec": rounded(medians["ours"] / medians["codec"]),
        "ratio": rounded(medians["ours"] / medians["plain"]),
        "ratio_of_each_turn": [rounded(a / b) for a, b in zip(speeds["ours"], speeds["plain"], strict=True)],
        "versions": {name: version(name) for name in ("torch", "diffusers")} | {"python": platform.python_version()},
    }


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Measure and print the line."""
    parser = argparse.ArgumentParser(description="A data set turned into latents, against two loops: one JSON line.")
    presets = sorted(name for name in PRESETS if not name.startswith("vq"))
    parser.add_argument("--preset", choices=presets, default="sd")
    parser.add_argument("--resolution", type=int, default=256, help="side of what is encoded, in pixels")
    parser.add_argument("--images", type=int, default=8, help="of a block")
    parser.add_argument("--blocks", type=int, default=3, help="blocks of each side, after one of warm-up")
    parser.add_argument(
        "--precision", choices=("exact", "fp32", "bf16", "fp16"), default="exact", help="ours and codec's"
    )
    parser.add_argument("--batch", type=int, default=1, help="images that ours computes together; exact takes one")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images for ours")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    given = parser.parse_args(argv)
    if low := [name for name, least in (("images", 2), ("blocks", 1), ("batch", 1)) if getattr(given, name) < least]:
        parser.error(f"--{low[0]} {getattr(given, low[0])} is too few")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(given, Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
