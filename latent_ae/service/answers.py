"""Parts of answers: the latent file, what things weigh, the rivals."""

import dataclasses
import re
from collections.abc import Callable

from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.latents import SUFFIX, LatentFileError, Latents, Precision, to_bytes
from latent_ae.service.errors import BadRequest
from latent_ae.service.inspection import code_bits
from latent_ae.service.intake import Upload
from latent_ae.service.quality import Perceptual, measure
from latent_ae.service.results import Encoded, ModelInfo, Reconstruction, Rival, Size
from latent_ae.service.rivals import best_within


def require_effect(info: ModelInfo, *, seed: int | None, precision: Precision | None, logvar: bool) -> None:
    """Raise BadRequest for a setting of latents that a VQ model does not have: its codes are certain whole numbers."""
    asked = {"seed": seed is not None, "precision": precision is not None, "logvar": logvar}
    if info.codebook_size is not None and any(asked.values()):
        name = next(name for name in asked if asked[name])
        raise BadRequest(
            f"{name} has no effect on the codes of {info.id}, which are certain whole numbers: leave it out"
        )


def drawn(info: ModelInfo, latents: Latents, *, seed: int | None, logvar: bool) -> Latents:
    """Latents that know their seed. Raises BadRequest where a model without a posterior was asked for one."""
    if (seed is not None and latents.kind != "sample") or (logvar and latents.logvar is None):
        name = "logvar" if seed is None else "seed"
        raise BadRequest(
            f"{name} has no effect on the latents of {info.id}, which are certain, not drawn: leave it out"
        )
    return dataclasses.replace(latents, seed=seed)


def encoded(
    model: str, upload: Upload, latents: Latents, precision: Precision, remarks: tuple[str, ...] = ()
) -> Encoded:
    """The latent file of an upload, named after it, with remarks on how that was read.

    Raises BadRequest for values that float16 cannot hold.
    """
    # The codec's own name is a path of the server.
    latents = dataclasses.replace(latents, model=model, sources=(upload.sha256,))
    try:
        data = to_bytes(latents, precision=precision)
    except LatentFileError as error:
        raise BadRequest(str(error)) from error
    stem = re.sub(r"[^\w.-]+", "-", upload.stem)[:80].strip("-.") or "latents"
    return Encoded(latents, data, f"{stem}{SUFFIX}", remarks)


def sizes(upload: Upload, image: Pixels, latents: Latents) -> tuple[Size, ...]:
    """Bytes and bits a pixel of the upload and of the bare latents or packed codes, without a file's header."""
    pixels = image.shape[0] * image.shape[1]
    values = latents.tensor[0].numel()
    if latents.codebook_size is not None:
        bits = code_bits(latents.codebook_size)
        parts = [(f"codes of {bits} bits", -(-values * bits // 8))]
    else:
        parts = [("latents in float32", 4 * values), ("latents in float16", 2 * values)]
    return tuple(Size(what, size, 8 * size / pixels) for what, size in [("upload", len(upload.data)), *parts])


def rivals(reconstruction: Reconstruction, perceptual: Perceptual, check: Callable[[], None]) -> tuple[Rival, ...]:
    """JPEG and WebP at no more bytes than the smallest size of the latents, measured as the reconstruction is."""
    most_bytes = min(size.bytes for size in reconstruction.sizes if size.what != "upload")
    found = []
    for name in ("JPEG", "WebP"):
        best = best_within(name, reconstruction.original, most_bytes, check)
        if best is None:
            continue
        metrics, _ = measure(best.image, reconstruction.original, perceptual, check)
        found.append(
            Rival(
                name=name,
                image=best.image,
                bytes=best.bytes,
                quality=best.quality,
                metrics=metrics,
                reached=best.bytes <= most_bytes,
            )
        )
    return tuple(found)
