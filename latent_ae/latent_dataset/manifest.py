"""What a data set of latents is, written down before its first shard: later runs and readers go by it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from latent_ae.config import ConfigError, Section, differences, validate
from latent_ae.config.section import Size
from latent_ae.data import AnySource
from latent_ae.data.settings import FittingConfig, ValuesConfig
from latent_ae.data.transforms import Filter, Fit, Fitting
from latent_ae.errors import UserError
from latent_ae.io.atomic import write_atomically
from latent_ae.io.pixel_format import PixelFormat


class LatentDatasetError(UserError):
    """A folder that is no data set of latents, is not complete or was made otherwise; the message is one line."""


_CHECKSUM = "checksum"


def checksum(tree: Mapping[str, Any]) -> str:
    """Sha256 in hex over a tree of JSON, whatever the order of its keys and the space between them."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def with_checksum(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with its checksum as a further entry."""
    return {**tree, _CHECKSUM: checksum(tree)}


def read_checked(path: Path, *, without: str = "") -> tuple[dict[str, Any], bool]:
    """The tree of a file, and whether it has a checksum: files of earlier versions have none.

    The checksum covers everything but the entry `without`.

    Raises LatentDatasetError if the file is not there, is no JSON object, or does not match its checksum.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise LatentDatasetError(f"{path} cannot be read: {reason}") from None
    if not isinstance(tree, dict):
        raise LatentDatasetError(f"{path} is damaged: expected a JSON object, got {type(tree).__name__}")
    given = tree.pop(_CHECKSUM, None)
    if given is not None and given != checksum({key: value for key, value in tree.items() if key != without}):
        raise LatentDatasetError(f"{path} does not match its checksum: it was damaged or changed")
    return tree, given is not None


SCHEMA = 1
NAME = "manifest.json"

Kind = Literal["moments", "mean", "vq_indices"]
"""mean and log-variance; the mean alone; codes"""
TENSORS: Mapping[Kind, tuple[str, ...]] = {
    "moments": ("mean", "logvar"),
    "mean": ("mean",),
    "vq_indices": ("indices",),
}
"""what a shard holds for each grid"""


class EncoderPart(Section):
    """What made the latents."""

    identity: str
    """sha256 over the encoder side, 64 hex digits"""
    factor: int
    """pixels of a latent position along a side"""
    channels: int
    """of the latents, or of a code's vector"""
    codebook_size: int | None


class PreprocessingPart(Section):
    """From an image to the pixels that were encoded."""

    channels: int
    """of the images"""
    resolution: int | Size | None
    """side of a square, or height and width, to which images are brought; None: whole images at their own size"""
    background: tuple[int, int, int]
    flips: bool
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    """of the values that the encoder was given"""
    pixel_format: PixelFormat | None = None
    """what the values of the images mean; None, and not in the file, for grey and RGB pictures"""
    fit: Fit = "crop"
    """how images are brought to the resolution; not in the file where it is the largest centred part"""
    filter: Filter = "auto"
    """what resizes; not in the file where it is "auto" """

    @property
    def pixels(self) -> PixelFormat:
        """What the values of the images mean."""
        return self.pixel_format or PixelFormat.picture(self.channels)

    @property
    def fitting(self) -> Fitting:
        """How images are brought to the resolution."""
        return Fitting(self.fit, self.filter)

    @model_serializer(mode="wrap")
    def _as_earlier_versions(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = serialize(self)
        later = {"pixel_format": None, "fit": "crop", "filter": "auto"}
        return {name: value for name, value in tree.items() if name not in later or value != later[name]}


class ComputePart(Section):
    """The arithmetic."""

    precision: str
    """exact, fp32, bf16 or fp16"""
    batch_size: int
    tile: int | None = None
    """images larger than this many pixels a side are encoded in tiles of it; None: all whole, as in older folders"""


class ImagesPart(Section):
    """Which images, in which order."""

    count: int
    """of the part of the data set, unusable ones among them"""
    names_sha256: str
    """over the images' names in their order"""
    part: str
    shard_images: int
    """shard k holds what was made of the images k * shard_images to (k + 1) * shard_images - 1"""
    label_column: str | None
    caption_column: str | None


class ModelPart(Section):
    """What is worth knowing of the model, and does not change the latents."""

    name: str
    """as it was given"""
    scaling_factor: float | None
    shift_factor: float | None
    """of the model's config: recorded, not applied"""


class Manifest(Section):
    """All of it. The fingerprint covers what decides the bytes of shards and index; `model` and below it does not."""

    schema_version: int = SCHEMA
    kind: Kind
    dtype: str
    """of the stored numbers: float16, bfloat16, float32; uint16 or int32 of codes"""
    encoder: EncoderPart
    preprocessing: PreprocessingPart
    compute: ComputePart
    images: ImagesPart
    model: ModelPart
    label_names: tuple[str, ...] | None
    """of the labels 0, 1, ...; None where they have none"""
    data: AnySource
    """settings that the images can be opened with again"""
    versions: dict[str, str]

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.images.count // self.images.shard_images)

    def tiled(self, grid: str) -> bool:
        """Whether latents of a grid, as the index says it, were made in tiles."""
        tile = self.compute.tile
        return tile is not None and max(map(int, grid.split("x"))) > tile // self.encoder.factor

    def unit(self, shard: int) -> range:
        """The images of a shard, by their index in the part of the data set."""
        first = shard * self.images.shard_images
        return range(first, min(first + self.images.shard_images, self.images.count))

    @property
    def fingerprint(self) -> str:
        """Sha256 over what decides the latents."""
        decisive = self.model_dump(mode="json", exclude=_NOT_DECISIVE)
        if self.compute.tile is None:  # older folders do not have it
            del decisive["compute"]["tile"]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


_NOT_DECISIVE = {"model", "label_names", "data", "versions"}


def names_digest(names: Iterable[str]) -> str:
    """Sha256 over names in their order. Raises LatentDatasetError as `as_utf8`."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(as_utf8(name) + b"\n")
    return digest.hexdigest()


def as_utf8(name: str) -> bytes:
    """Raises LatentDatasetError for a name that the index cannot hold: to Linux file names are any bytes."""
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise LatentDatasetError(
            f"the name {name!a} is not UTF-8, and the index can hold no other: rename the file or folder"
        ) from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, whole or not at all. Raises OSError."""
    tree = manifest.model_dump(mode="json", exclude={"data"})
    content = {"schema": tree.pop("schema_version"), "fingerprint": manifest.fingerprint, **tree}
    content = {
        **with_checksum(content),
        "data": manifest.data.choice(),
    }  # images may move: `data.path` may be edited
    write_atomically(folder / NAME, (json.dumps(content, indent=1) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises LatentDatasetError if there is none, or it is damaged or of another schema."""
    path = folder / NAME
    if not path.is_file():
        raise LatentDatasetError(f"{folder} is not a data set of latents: it has no {NAME}")
    cure = "restore it from a copy, or encode into another --out"
    try:
        tree, _ = read_checked(path, without="data")
        schema, fingerprint = tree.pop("schema"), tree.pop("fingerprint")
    except LatentDatasetError as error:
        raise LatentDatasetError(f"{error}: {cure}") from None
    except KeyError as error:
        raise LatentDatasetError(f"{path} is damaged, it has no {error}: {cure}") from None
    if schema != SCHEMA:
        raise LatentDatasetError(f"{path} has schema {schema}, this program reads {SCHEMA}")
    try:
        manifest = validate(Manifest, {"schema_version": schema, **tree})
    except ConfigError as error:
        raise LatentDatasetError(f"{path} is damaged: {error}: {cure}") from None
    if manifest.fingerprint != fingerprint:
        raise LatentDatasetError(f"{path} was changed, it does not match its own fingerprint: {cure}")
    return manifest


def require_same_work(folder: Path, there: Manifest, wanted: Manifest) -> None:
    """Raise LatentDatasetError with every difference unless both describe the same latents of the same images.

    Beside what the fingerprint covers, the settings count by which the images are chosen, and the labels' names: a
    label is a number among them.
    """
    # Wherever they lie; how they are read is in `preprocessing` too.
    read = {"path", "background", *ValuesConfig.model_fields, *FittingConfig.model_fields}
    same_images = {f"data.{name}" for name in {*there.data.choice(), *wanted.data.choice()} - read}
    decisive = [
        line.replace("schema_version", "schema", 1)
        for line in differences(there, wanted)
        if (path := line.partition(":")[0]) in same_images or path.partition(".")[0] not in _NOT_DECISIVE
    ]
    if (there.label_names or ()) != (wanted.label_names or ()):
        decisive.append(_label_difference(there.label_names or (), wanted.label_names or ()))
    if decisive:
        raise LatentDatasetError(
            f"{folder} holds other latents; there -> asked for: {'; '.join(decisive)}: take another --out"
        )


def _label_difference(there: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    pairs = enumerate(zip_longest(there, wanted))
    number, (old, new) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    return f"label_names: {len(there)} -> {len(wanted)}, the label {number} is {old} -> {new}"
