"""Images of a folder of latents encoded again, and held against what is stored."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from latent_ae.data import open_source
from latent_ae.errors import UserError
from latent_ae.inference import Codec
from latent_ae.inference.precision import LATENT_ERROR
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.errors import LatentDatasetError
from latent_ae.latent_dataset.manifest import Manifest, PreprocessingPart
from latent_ae.latent_dataset.views import Images, View, chosen_parts

CODES_EQUAL = 0.99
"""share of an image's codes that another device or version may be expected to find again; of few codes, all but one"""


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
            codec = Codec.load(
                model or manifest.model.name, device=device, precision="exact", tile=manifest.compute.tile
            )
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
        view = seen_again(self._images, self._manifest.preprocessing, row)
        pixels = view.pixels[:, ::-1] if row["flipped"] else view.pixels
        made = self._encoder.submit([pixels]).result().tensors
        with safe_open(self._folder / row["shard"], "pt") as file:
            return max(
                _distance(file.get_tensor(f"{name}.{row['grid']}")[row["row"]], tensor[0])
                for name, tensor in made.items()
            )

    def allowed(self, row: dict[str, Any]) -> float:
        """The most that `error` of it may be."""
        if self._manifest.kind != "vq_indices":
            return LATENT_ERROR
        height, width = map(int, row["grid"].split("x"))
        return max(1 - CODES_EQUAL, 1 / (height * width))


def seen_again(images: Images, part: PreprocessingPart, row: dict[str, Any]) -> View:
    """The image of a row of the index. Raises LatentDatasetError if it is not there as it was."""
    if row["source_index"] >= len(images):
        raise LatentDatasetError(f"the data set has only {len(images)} images now")
    view = images.view(
        row["source_index"], channels=part.channels, resolution=part.resolution, background=part.background
    )
    if not isinstance(view, View):
        raise LatentDatasetError(f"the image cannot be used any more: {view.reason}")
    if (view.name, view.identity) != (row["name"], row["id"]):
        raise LatentDatasetError("the image has changed since it was encoded")
    return view


def spread(total: int, count: int) -> list[int]:
    """`count` of the numbers below `total`, evenly."""
    count = min(count, total)
    return [place * total // count for place in range(count)]


def _distance(stored: Tensor, made: Tensor) -> float:
    if not stored.is_floating_point():
        return float((stored.to(torch.int64) != made.to(torch.int64)).double().mean())
    one, other = stored.double(), made.double()
    return float((one - other).norm() / other.norm().clamp(min=1e-30))
