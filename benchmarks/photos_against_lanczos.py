"""Photographs through a model, against Lanczos to the same number of stored values or bits.

    python benchmarks/photos_against_lanczos.py photos-kl photos-vq --folder ~/pictures

A KL model stores c*h*w latent values for an image; the baseline shrinks the image until its three channels hold as
many values, and enlarges it again, both by Lanczos. A VQ model stores h*w codes of log2 K bits; the baseline's values
take 8 bits each. Both are compared as 8-bit images at their own size. Without a folder, the held-out ones of the photos
that come with scikit-image. Prints one JSON line for each model, with its photographs and their means.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from latent_ae.data import PhotosConfig
from latent_ae.data.source import as_picture
from latent_ae.evaluation.metrics.quality import gradient_energy_ratio, psnr, ssim
from latent_ae.inference import reconstruct
from latent_ae.io.image import from_tensor, open_image, to_tensor, to_uint8
from latent_ae.models import Autoencoder, factor_of, load_autoencoder

Pixels = NDArray[np.uint8]
MEASURES = ("model", "lanczos", "difference", "model_ssim", "lanczos_ssim", "gradient_energy")
"""of a photograph: PSNR in dB of both and their difference, SSIM of both, the model's share of squared gradients"""


def photographs(folder: Path | None) -> Iterator[tuple[str, Pixels]]:
    """(name, pixels [H,W,3]) of every image in the folder."""
    if folder is None:
        source = PhotosConfig().open().heldout
        for index in range(len(source)):
            yield source.sample_id(index), to_uint8(as_picture(source.load(index)), 3)
    else:
        for path in sorted(each for each in folder.iterdir() if each.suffix.lower() in Image.registered_extensions()):
            yield path.name, to_uint8(open_image(path), 3)


def lanczos(pixels: Pixels, values: float) -> Pixels:
    """An image [H,W,3] that went through `values` stored numbers."""
    height, width, channels = pixels.shape
    shrink = math.sqrt(values / (height * width * channels))
    small = Image.fromarray(pixels).resize((round(width * shrink), round(height * shrink)), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))


def values_per_pixel(model: Autoencoder) -> float:
    """Stored values of 8 bits for each pixel of an image."""
    codes = model.config.get("num_vq_embeddings")
    a_position = model.config["latent_channels"] if codes is None else math.log2(codes) / 8
    return float(a_position / factor_of(model) ** 2)


@torch.no_grad()
def measured(model: Autoencoder, pixels: Pixels) -> dict[str, float]:
    """The measures of a photograph [H,W,3]."""
    height, width, _ = pixels.shape
    target = to_tensor(pixels)[None]
    ours = to_tensor(from_tensor(reconstruct(model, target)[0]))[None]
    theirs = to_tensor(lanczos(pixels, height * width * values_per_pixel(model)))[None]
    (energy,), similar = gradient_energy_ratio(ours, target), [ssim(each, target) for each in (ours, theirs)]
    assert energy is not None, "a flat image is no photograph"
    assert similar[0] is not None, "an image of a few pixels is no photograph"
    assert similar[1] is not None
    mine, baseline = float(psnr(ours, target)), float(psnr(theirs, target))
    values = (mine, baseline, mine - baseline, float(similar[0]), float(similar[1]), energy)
    return {name: round(value, 3) for name, value in zip(MEASURES, values, strict=True)}


def main() -> None:
    """Compare, and print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--folder", type=Path, help="of photographs")
    given = parser.parse_args()
    for name in given.models:
        model = load_autoencoder(name).eval()
        rows = {photograph: measured(model, pixels) for photograph, pixels in photographs(given.folder)}
        means = {measure: round(sum(row[measure] for row in rows.values()) / len(rows), 3) for measure in MEASURES}
        worst = min(row["difference"] for row in rows.values())
        print(
            json.dumps(
                {
                    "model": name,
                    "values_per_pixel": values_per_pixel(model),
                    "means": means,
                    "smallest_difference": worst,
                    "photographs": rows,
                }
            )
        )


if __name__ == "__main__":
    main()
