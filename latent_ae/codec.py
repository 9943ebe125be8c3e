"""Images to latents and back with a stock model, for images of any size."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latent_ae.image import from_tensor, open_image, save_png, to_tensor, to_uint8
from latent_ae.models import Autoencoder
from latent_ae.models.coding import decode_latents, encode_pixels


@torch.inference_mode()
def encode(model: Autoencoder, pixels: Tensor) -> Tensor:
    """Pixels [B,C,H,W] in [-1, 1] => raw latents [B,c,h,w]: the posterior's mode, or the codes' vectors.

    A side that the model's factor does not divide is padded at its end by repeating the last row or column.
    """
    return encode_pixels(model, pixels).latents


@torch.inference_mode()
def decode(model: Autoencoder, latents: Tensor) -> Tensor:
    """Raw latents [B,c,h,w] => pixels [B,C,H,W] clamped to [-1, 1], on the CPU."""
    return decode_latents(model, latents).clamp(-1.0, 1.0).float().cpu()


@torch.inference_mode()
def reconstruct(model: Autoencoder, pixels: Tensor) -> Tensor:
    """Pixels [B,C,H,W] in [-1, 1] => their reconstructions, of exactly the same size, on the CPU."""
    height, width = pixels.shape[-2:]
    return decode(model, encode(model, pixels))[..., :height, :width]


def reconstruct_file(model: Autoencoder, image: Path, out: Path) -> None:
    """Write the reconstruction of an image file of any size and mode as a PNG of exactly its size.

    Raises BrokenImage if the file cannot be read.
    """
    pixels = to_tensor(to_uint8(open_image(image), model.config["in_channels"]))
    save_png(out, from_tensor(reconstruct(model, pixels[None])[0]))


def output_names(images: Sequence[Path]) -> list[str]:
    """A PNG's name for each image file: its own stem, with the suffix kept, or numbered, where two would collide."""
    names: list[str] = []
    taken: set[str] = set()
    for image in images:
        candidates = [f"{image.stem}.png", f"{image.name}.png"]
        name = next((name for name in candidates if name not in taken), None)
        number = 2
        while name is None or name in taken:
            name = f"{image.stem}-{number}.png"
            number += 1
        taken.add(name)
        names.append(name)
    return names
