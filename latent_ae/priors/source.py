"""The latents that are trained on, and the autoencoder that made them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from latent_ae.data.order.numbers import index_of
from latent_ae.errors import UserError
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.latent_dataset import LatentDataset
from latent_ae.models import load_autoencoder
from latent_ae.models.autoencoder import Autoencoder, class_name
from latent_ae.models.loading import load_pixel_format
from latent_ae.models.naming import model_name
from latent_ae.models.parts import encoder_identity


class LatentSourceError(UserError):
    """Latents that no network can be trained on; the message is one line."""


@dataclass(frozen=True)
class LatentSource:
    """Latents [channels, side, side] or codes [side, side], their classes, and their autoencoder."""

    rows: LatentDataset
    name: str
    """of the autoencoder, as it was given"""
    autoencoder: Autoencoder
    pixels: PixelFormat
    """of the autoencoder's images"""
    identity: str
    channels: int
    side: int
    codebook_size: int | None
    """of codes, which are from 0 to below it; None: latents"""
    scaling_factor: float
    images: str
    """fingerprint of the images that they are of: their names may stay the same where they do not"""
    classes: tuple[int, ...]
    """labels that occur, in order; empty if there is none"""

    @property
    def label_names(self) -> dict[int, str] | None:
        """Of the classes, as the data set calls them."""
        names = self.rows.manifest.label_names
        return None if names is None else dict(enumerate(names))

    @property
    def data_name(self) -> str:
        """What the images were."""
        return self.rows.manifest.data.data_name

    @property
    def autoencoder_name(self) -> str:
        """Without the folders of this machine."""
        return model_name(self.name)

    def __str__(self) -> str:
        classes = f"{len(self.classes)} classes" if self.classes else "no classes"
        kind = (
            f"latents of {self.channels}x"
            if self.codebook_size is None
            else f"rows of codes out of {self.codebook_size}, "
        )
        return f"{len(self.rows)} {kind}{self.side}x{self.side}, {classes}, from {self.rows.folder}"


def open_latents(folder: Path, model: str | None, *, seed: int, codes: bool = False) -> LatentSource:
    """Open a folder of train/encode_dataset.py and the autoencoder that made it.

    Args:
        folder: of latents.
        model: a model directory, a single file or a hub id; None: the one that the manifest names.
        seed: of the draws from the posteriors.
        codes: whether codes are expected and not latents.

    Raises LatentSourceError for codes where latents are expected or latents where codes are, for what are no squares of
    one size, or are another encoder's;
    LatentDatasetError and ModelError for what cannot be read.
    """
    rows = LatentDataset(folder, seed=seed)
    manifest = rows.manifest
    if codes != (manifest.kind == "vq_indices"):
        raise LatentSourceError(
            f"{folder} holds latents: expected the codes of a VQModel, or another --prior.kind"
            if codes
            else f"{folder} holds codes: expected the latents of an AutoencoderKL, or --prior.kind tokens"
        )
    table = rows.table()
    grids = sorted(set(table["grid"].to_pylist()))
    height, width = (int(side) for side in grids[0].split("x"))
    if len(grids) > 1 or height != width:
        raise LatentSourceError(
            f"{folder} holds latents of {', '.join(grids[:3])}: expected squares of one size, which --resolution of "
            "train/encode_dataset.py makes"
        )
    labels = sorted({label for label in table["label"].to_pylist() if label is not None and label >= 0})
    name = model or manifest.model.name
    autoencoder = load_autoencoder(name)
    kind = class_name(autoencoder)
    if kind != (expected := "VQModel" if codes else "AutoencoderKL"):
        made = "codes" if codes else "latents"
        raise LatentSourceError(
            f"{name} is {'a' if kind == 'VQModel' else 'an'} {kind}: give --model the {expected} that made the {made}"
        )
    identity = encoder_identity(autoencoder)
    if identity != manifest.encoder.identity:
        raise LatentSourceError(
            f"the latents are of the encoder {manifest.encoder.identity}, and {name} is {identity}: give --model"
        )
    return LatentSource(
        rows=rows,
        name=name,
        autoencoder=autoencoder,
        pixels=load_pixel_format(name, autoencoder),
        identity=identity,
        channels=manifest.encoder.channels,
        side=height,
        codebook_size=int(autoencoder.config["num_vq_embeddings"]) if codes else None,
        scaling_factor=float(autoencoder.config["scaling_factor"]),
        images=hashlib.sha256("".join(table["id"].to_pylist()).encode()).hexdigest(),
        classes=tuple(labels),
    )


def numbered_row(rows: LatentDataset, seed: int, number: int) -> dict[str, Tensor]:
    """The row that a sample shows, drawn anew in every epoch; each epoch shows every row once."""
    rows.set_epoch(number // len(rows))  # each time: workers go from an epoch to the next by themselves
    return rows[index_of(seed, number, len(rows))]
