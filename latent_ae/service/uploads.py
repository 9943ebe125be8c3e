"""Uploaded files as a model wants them. What takes memory and time is done in a CPU slot of the request."""

from collections.abc import Sequence
from pathlib import Path

from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.foreign import Taken
from latent_ae.io.latent_file.latents import Latents
from latent_ae.service import intake
from latent_ae.service.admission import Request
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.results import ModelInfo

File = bytes | Path
"""an upload"""


class Uploads:
    """Reads within limits; the errors are those of `intake`."""

    def __init__(self, limits: ServiceLimits) -> None:
        self._limits = limits

    def image(self, request: Request, file: File, *, channels: int) -> tuple[intake.Upload, intake.Picture]:
        """The file's bytes and the image in it with that number of channels."""
        with request.cpu_slot():
            upload = intake.read_upload(file, self._limits)
            return upload, intake.read_image(upload, channels=channels, limits=self._limits)

    def alike(self, request: Request, files: Sequence[File], *, channels: int, frames: int) -> list[Pixels]:
        """Images that are all brought to the size of the first, with room for `frames` of them."""
        images: list[Pixels] = []
        for file in files:
            pixels = self.image(request, file, channels=channels)[1].pixels
            size = images[0].shape[:2] if images else intake.frame_size(pixels, frames, self._limits)
            images.append(intake.fitted(pixels, *size))
        return images

    def latents(self, request: Request, file: File) -> Latents:
        """What is in a latent file."""
        with request.cpu_slot():
            return intake.read_latents(intake.read_upload(file, self._limits), self._limits)

    def foreign_latents(self, request: Request, file: File, info: ModelInfo) -> Taken:
        """What is in a latent file, also in one that names another encoder than the model's, or none."""
        with request.cpu_slot():
            return intake.read_foreign_latents(intake.read_upload(file, self._limits), info, self._limits)
