"""Training crops of large JPEGs: ours against files that are decoded and converted whole. Prints one JSON line.

    python benchmarks/worker_samples.py --megapixels 12 --resolution 256

All make the same samples with the same pixels on one thread, in turn; the processor time of a loader's worker counts.
*Ours* is `TrainingSamples` on a folder that keeps nothing, *kept* the same with the decoded image in memory
(`data.keep_mib`), *whole* the same crop of what `open_image` gives.
Progress goes to stderr.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import device_name, rounded
from latent_ae.data.loader import TrainingSamples
from latent_ae.data.order.numbers import EpochOrder
from latent_ae.data.sources.folder import FolderConfig
from latent_ae.data.sources.photos import PhotosConfig
from latent_ae.data.transforms import TrainingCrop
from latent_ae.io.image_file.color import matrix_profile
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.randomness import numpy_generator

_PHONE = matrix_profile("Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), (2.2,))
_CROPS: dict[str, dict[str, Any]] = {
    "own size": {"crop": "random"},
    "scaled": {"crop": "random", "scale": (1.0, 2.0), "flip": True, "color_gain": 0.3},
    "center": {},
}
"""settings of data: parts at their own size, as kl-photos takes them, and the largest part"""


def kinds() -> dict[str, dict[str, Any]]:
    """What files differ in: options of Pillow's writer."""
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    return {
        "plain": {},
        "turned": {"exif": turned},
        "Display P3": {"icc_profile": _PHONE},
        "progressive": {"progressive": True},
    }


def write_photo(file: Path, megapixels: float, **options: Any) -> None:
    """A photograph of 4:3, enlarged, with noise as a sensor has it."""
    photo = PhotosConfig().open().heldout.load(2)  # coffee
    assert isinstance(photo, Image.Image)
    size = (round((megapixels * 1e6 * 4 / 3) ** 0.5), round((megapixels * 1e6 * 3 / 4) ** 0.5))
    enlarged = np.asarray(photo.convert("RGB").resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 3, (size[1], size[0], 1)).round().astype(np.int16)
    Image.fromarray((enlarged + noise).clip(0, 255).astype(np.uint8)).save(file, quality=92, **options)


def compare(folder: Path, crop: TrainingCrop, resolution: int, samples: int) -> dict[str, float]:
    """Samples a second of a folder of one file, and the ratio."""
    source, size = FolderConfig(path=str(folder), heldout_share=0).open().train, (resolution, resolution)
    order = EpochOrder(source, 0, size)
    made, of_kept = (TrainingSamples(source, order, crop, seed=0, keep_bytes=most) for most in (0, 2**40))
    of_kept[0]

    def whole(number: int) -> torch.Tensor:
        return crop.pixel_format.to_tensor(crop(source.load(0), size, numpy_generator(0, "crop", number)))

    sides: dict[str, Callable[[int], torch.Tensor]] = {
        "whole": whole,
        "ours": lambda number: made[number].pixels,
        "kept": lambda number: of_kept[number].pixels,
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(samples):
        pixels = []
        for name, make in sides.items():
            start = time.process_time()
            pixels.append(make(number))
            taken[name].append(time.process_time() - start)
        assert all(torch.equal(each, pixels[0]) for each in pixels), "the pixels differ"
    mean = {name: statistics.mean(each) for name, each in taken.items()}
    ratios = {"ratio": mean["whole"] / mean["ours"], "ratio_of_kept": mean["whole"] / mean["kept"]}
    return {name: rounded(each) for name, each in ({name: 1 / each for name, each in mean.items()} | ratios).items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, default=12, help="of each file (default: 12)")
    parser.add_argument("--resolution", type=int, default=256, help="side of a crop in pixels (default: 256)")
    parser.add_argument("--samples", type=int, default=24, help="of each kind of file and crop (default: 24)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"benchmark": "worker_samples", "processor": device_name(torch.device("cpu"))}
    result |= {"megapixels": options.megapixels, "resolution": options.resolution}
    for kind, written in kinds().items():
        with tempfile.TemporaryDirectory() as folder:
            write_photo(Path(folder) / "photo.jpg", options.megapixels, **written)
            result[kind] = {}
            for name, settings in _CROPS.items():
                crop = TrainingCrop(PixelFormat.picture(3), **settings)
                found = result[kind][name] = compare(Path(folder), crop, options.resolution, options.samples)
                print(f"{kind}, {name}: {found['ours']} samples a second, {found['ratio']:.2f} times", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
