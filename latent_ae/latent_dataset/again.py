"""Images of a folder of latents encoded again, and held against what is stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from latent_ae.codec import Codec
from latent_ae.codec.precision import LATENT_ERROR
from latent_ae.data import open_source
from latent_ae.errors import UserError
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.errors import LatentDatasetError
from latent_ae.latent_dataset.manifest import Manifest
from latent_ae.latent_dataset.views import Images, View, chosen_parts

CODES_EQUAL = 0.99
"""share of an image's codes that another device or version may be expected to find again"""


class NotPossible(Exception):  # noqa: N818 - no fault of the folder
    """The images or the model cannot be opened; the message says why."""


class Again:
    """The images and the encoder that a folder was made of."""

    def __init__(
        self, folder: Path, manifest: Manifest, *, model: str | None, device: torch.device | str | None
    ) -> None:
        """`model` takes the place of the one that the manifest names.

        Raises NotPossible, and UserError if `model` is given and cannot be loaded or has another encoder.
        """
        self._folder = folder
        self._manifest = manifest
        try:
            parts = chosen_parts(open_source(manifest.data), manifest.images.part)
            self._images = Images(
                parts, label_column=manifest.images.label_column, caption_column=manifest.images.caption_column
            )
        except UserError as error:
            raise NotPossible(str(error)) from error
        try:
            codec = Codec.load(model or manifest.model.name, device=device, precision="exact", tile=None)
            if codec.identity != manifest.encoder.identity:
                raise LatentDatasetError(
                    f"the encoder of {codec.name} is {codec.identity[:16]}, that of {folder} "
                    f"{manifest.encoder.identity[:16]}: give the model that made these latents"
                )
        except UserError as error:
            if model is not None:
                raise
            raise NotPossible(f"{error}; --model names another") from error
        self._encoder = Encoder(
            codec,
            precision=manifest.compute.precision,
            logvar=manifest.kind == "moments",
            dtype="float32",
            threads=1,
        )

    def error(self, row: dict[str, Any]) -> float:
        """How far the stored latents of a row of the index are from those of its image: the distance over the norm,
        or for codes the share of others. Raises LatentDatasetError if the image is not there as it was.
        """
        part = self._manifest.preprocessing
        if row["source_index"] >= len(self._images):
            raise LatentDatasetError(f"the data set has only {len(self._images)} images now")
        view = self._images.view(
            row["source_index"], channels=part.channels, resolution=part.resolution, background=part.background
        )
        if not isinstance(view, View):
            raise LatentDatasetError(f"the image cannot be used any more: {view.reason}")
        if (view.name, view.identity) != (row["name"], row["id"]):
            raise LatentDatasetError("the image has changed since it was encoded")
        pixels = view.pixels[:, ::-1] if row["flipped"] else view.pixels
        made = self._encoder.submit([pixels]).result().tensors
        with safe_open(self._folder / row["shard"], "pt") as file:
            return max(
                _distance(file.get_tensor(f"{name}.{row['grid']}")[row["row"]], tensor[0])
                for name, tensor in made.items()
            )

    @property
    def allowed(self) -> float:
        """The most that `error` may be."""
        return 1 - CODES_EQUAL if self._manifest.kind == "vq_indices" else LATENT_ERROR


def spread(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` of the rows, evenly."""
    count = min(count, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def _distance(stored: Tensor, made: Tensor) -> float:
    if not stored.is_floating_point():
        return float((stored.to(torch.int64) != made.to(torch.int64)).double().mean())
    one, other = stored.double(), made.double()
    return float((one - other).norm() / other.norm().clamp(min=1e-30))
