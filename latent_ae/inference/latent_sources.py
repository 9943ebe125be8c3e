"""What latent files say of themselves, before any of them is decoded."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from latent_ae.errors import UserError
from latent_ae.io.latent_file.foreign import bare_image_count
from latent_ae.io.latent_file.latents import LatentFileError, UnknownEncoder, describe
from latent_ae.models.naming import find_model


def image_count(path: Path) -> int:
    """How many images a latent file says that it holds; 1 if it does not say, which will be found out."""
    with contextlib.suppress(LatentFileError, OSError):
        try:
            images = describe(path)["images"]
        except UnknownEncoder:
            return bare_image_count(path)
        assert isinstance(images, int)
        return images
    return 1


def named_model(files: Sequence[Path]) -> str:
    """The model that latent files name, if it is on this machine; a stranger's file downloads nothing.

    Raises UserError if they are of no encoder, of several, or of one that is not found.
    """
    names: dict[str, str] = {}
    for file in files:
        with contextlib.suppress(LatentFileError, OSError):  # they are reported when it is their turn
            described = describe(file)
            names[str(described["encoder"])] = str(described["model"])
    if len(names) != 1:
        raise UserError(
            f"the latent files name {len(names)} models ({', '.join(sorted(names.values())[:5])}): give --model"
        )
    ((identity, name),) = names.items()
    if (found := find_model(identity, name)) is None:
        raise UserError(
            f"the latent files were made by the model {name!r}, and no model in this folder, in runs/ or of this "
            f"program has its encoder {identity[:16]}: give --model"
        )
    return found
