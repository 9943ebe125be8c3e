"""In the file of a decoded image: what it was made of, and by what, so that a later run need not make it again."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from latent_ae.inference.codec import Codec, Decoded
from latent_ae.inference.file_jobs import Target, Tiled
from latent_ae.inference.image_reading import ReadImage
from latent_ae.inference.precision import SideName
from latent_ae.io.image_writing import check_suffix, read_record, write_image
from latent_ae.io.latent_file.latents import Compute
from latent_ae.models.parts import decoder_identity


class RecordedImages:
    """The images that a task writes. Each says what it was made of, by what and how; an NPY has no place for it."""

    def __init__(self, codec: Codec, what: str, sides: Sequence[SideName], suffix: str, **more: str) -> None:
        """`what` names the task; `sides` are those of the model that the images go through; `suffix` of the files.

        Raises UserError for files that cannot hold the model's images.
        """
        check_suffix(suffix, codec.pixel_format)
        self._codec = codec
        self._sides = sides
        self._made_by = {
            "what": what,
            "encoder": codec.identity,
            "decoder": decoder_identity(codec.model),
            **more,
        }

    def are_there(self, target: Target, digest: str) -> bool:
        """Whether every file of a target is complete and was made in this way of a source with this sha256."""
        first = target.page or 0
        return all(self._is_there(output, digest, first + index) for index, output in enumerate(target.outputs))

    def write(
        self, target: Target, digest: str, images: Iterable[Decoded], source: ReadImage | None = None
    ) -> Tiled | None:
        """Write a file for each output, complete or not at all, with the damage and the profile of an image file.

        Returns how well tiles agree, None if no image was tiled. Raises OSError.
        """
        damage = {} if source is None or not source.damage else {"damage": source.damage}
        profile = None if source is None else source.profile
        seams, first = list[float](), target.page or 0
        for index, (output, made) in enumerate(zip(target.outputs, images, strict=True)):
            output.parent.mkdir(parents=True, exist_ok=True)
            seam = {} if made.seam_db is None else {"seam_db": made.seam_db}
            record = self._record(digest, first + index, {"encoder": made.encoding, "decoder": made.compute})
            pixels = self._codec.pixel_format
            write_image(output, made.image, pixels, record={**record, **damage, **seam}, profile=profile)
            seams += seam.values()
        return Tiled(min(seams)) if seams else None

    def _is_there(self, output: Path, digest: str, index: int) -> bool:
        if (found := read_record(output)) is None:
            return False
        record, size = found
        computes = {side: self._codec.compute(side, *size) for side in self._sides}
        asked = self._record(digest, index, computes)
        # What was found out while it was made is not asked for: `damage` of the source, and `seam_db`.
        return {name: value for name, value in record.items() if name in asked} == asked

    def _record(self, digest: str, index: int, computes: Mapping[SideName, Compute | None]) -> dict[str, object]:
        told = {side: compute.to_json() for side, compute in computes.items() if compute is not None}
        return {**self._made_by, "source": digest, "index": index, "compute": told}
