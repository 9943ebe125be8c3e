"""Written in a PNG: what it was made of, and by what. So a later run knows whether it has to be made again."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latent_ae.inference.codec import Codec, Decoded
from latent_ae.inference.file_jobs import Target, Tiled
from latent_ae.inference.image_reading import Picture
from latent_ae.inference.precision import SideName
from latent_ae.io.atomic import write_atomically
from latent_ae.io.image import Pixels, to_pil
from latent_ae.io.image_file.opening import reading
from latent_ae.models.parts import decoder_identity

KEY = "latent_ae"
"""of the text chunk"""

_END = b"\0\0\0\0IEND\xaeB`\x82"
"""the last chunk of a PNG, which PIL does not insist on"""
_COMPRESSION = 3
"""twice as fast as zlib's usual 6, and photographs become 7 % larger"""


def write_recorded_png(path: Path, pixels: Pixels, record: Mapping[str, object], profile: bytes | None = None) -> None:
    """Write [H,W,1 or 3] uint8 as a PNG, whole or not at all, with a record in it. Raises OSError.

    `profile` is the ICC profile of its colours; None for sRGB.
    """
    text = PngInfo()
    text.add_text(KEY, json.dumps(record, sort_keys=True))
    stream = io.BytesIO()
    to_pil(pixels).save(stream, "PNG", pnginfo=text, compress_level=_COMPRESSION, icc_profile=profile)
    write_atomically(path, stream.getvalue())


def read_record(path: Path) -> tuple[dict[str, object], tuple[int, int]] | None:
    """The record in a PNG and its height and width; None if there is no such file, it is damaged, or it has none."""
    try:
        data = path.read_bytes()
        with reading(limited=False), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            record, size = json.loads(image.info[KEY]), (image.height, image.width)
            image.verify()  # every chunk's checksum
    except Exception:  # a file that cannot be read is one that has to be made again, whatever is wrong with it
        return None
    return (record, size) if isinstance(record, dict) and data.endswith(_END) else None


class RecordedPngs:
    """The PNGs that a task writes. Each says what it was made of, by what and how."""

    def __init__(self, codec: Codec, what: str, sides: Sequence[SideName], **more: str) -> None:
        """`what` names the task; `sides` are those of the model that the images go through."""
        self._codec = codec
        self._sides = sides
        self._made_by = {
            "what": what,
            "encoder": codec.identity,
            "decoder": decoder_identity(codec.model),
            **more,
        }

    def are_there(self, target: Target, digest: str) -> bool:
        """Whether every PNG of a target is complete and was made in this way of a source with this sha256."""
        return all(self._is_there(output, digest, index) for index, output in enumerate(target.outputs))

    def write(
        self, target: Target, digest: str, images: Iterable[Decoded], source: Picture | None = None
    ) -> Tiled | None:
        """Write a PNG for each output, complete or not at all, with the damage and the profile of an image file.

        Returns how well tiles agree, None if no image was tiled. Raises OSError.
        """
        damage = {} if source is None or not source.damage else {"damage": source.damage}
        profile = None if source is None else source.profile
        seams: list[float] = []
        for index, (output, made) in enumerate(zip(target.outputs, images, strict=True)):
            output.parent.mkdir(parents=True, exist_ok=True)
            seam = {} if made.seam_db is None else {"seam_db": made.seam_db}
            record = self._record(digest, index, *made.image.shape[:2])
            write_recorded_png(output, made.image, {**record, **damage, **seam}, profile)
            seams += seam.values()
        return Tiled(min(seams)) if seams else None

    def _is_there(self, output: Path, digest: str, index: int) -> bool:
        if (found := read_record(output)) is None:
            return False
        record, size = found
        asked = self._record(digest, index, *size)
        # What was found out while it was made is not asked for: `damage` of the source, and `seam_db`.
        return {name: value for name, value in record.items() if name in asked} == asked

    def _record(self, digest: str, index: int, height: int, width: int) -> dict[str, object]:
        compute = {side: self._codec.compute(side, height, width).to_json() for side in self._sides}
        return {**self._made_by, "source": digest, "index": index, "compute": compute}
