"""Held-out photographs through a model, against Lanczos to the same number of stored values or bits.

    python benchmarks/photos_against_lanczos.py runs/kl-photos/model

A KL model stores c*h*w latent values for an image; the baseline shrinks the image until its three channels hold as
many values, and enlarges it again, both by Lanczos. A VQ model stores h*w codes of log2 K bits; the baseline's values
take 8 bits each. Both are compared as 8-bit images at their own size. Prints one JSON line with the PSNR of each
photograph and the mean difference in dB.
"""

import argparse
import json
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from latent_ae.data import PhotosConfig
from latent_ae.data.source import as_picture
from latent_ae.inference import reconstruct
from latent_ae.io.image import from_tensor, to_tensor, to_uint8
from latent_ae.models import factor_of, load_autoencoder

Pixels = NDArray[np.uint8]


def lanczos(pixels: Pixels, values: float) -> Pixels:
    """An image [H,W,3] that went through `values` stored numbers."""
    height, width, channels = pixels.shape
    shrink = math.sqrt(values / (height * width * channels))
    small = Image.fromarray(pixels).resize((round(width * shrink), round(height * shrink)), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))


def psnr(one: Pixels, other: Pixels) -> float:
    """In dB, for 8-bit images."""
    return 10 * math.log10(255**2 / float(np.mean((one.astype(np.float64) - other) ** 2)))


def main() -> None:
    """Compare, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    model = load_autoencoder(parser.parse_args().model).eval()
    codes = model.config.get("num_vq_embeddings")
    a_position = model.config["latent_channels"] if codes is None else math.log2(codes) / 8
    per_pixel = a_position / factor_of(model) ** 2
    source = PhotosConfig().open().heldout
    photographs = {}
    for index in range(len(source)):
        pixels = to_uint8(as_picture(source.load(index)), 3)
        height, width, _ = pixels.shape
        with torch.no_grad():
            ours = from_tensor(reconstruct(model, to_tensor(pixels)[None])[0])
        photographs[source.sample_id(index)] = {
            "model": round(psnr(ours, pixels), 3),
            "lanczos": round(psnr(lanczos(pixels, height * width * per_pixel), pixels), 3),
        }
    means = {name: sum(row[name] for row in photographs.values()) / len(photographs) for name in ("model", "lanczos")}
    print(
        json.dumps(
            {
                "psnr_db": photographs,
                "mean_model_db": round(means["model"], 3),
                "mean_lanczos_db": round(means["lanczos"], 3),
                "difference_db": round(means["model"] - means["lanczos"], 3),
                "stored_values_per_pixel": per_pixel,
            }
        )
    )


if __name__ == "__main__":
    main()
