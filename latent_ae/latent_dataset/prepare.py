"""A folder of latents made ready to be worked on by one run at a time."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from latent_ae.inference import Codec
from latent_ae.io.atomic import remove_partials
from latent_ae.io.latent_file.header import SMALL_CODEBOOK
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.index import (
    DUPLICATES,
    INDEX,
    SKIPPED,
    STATISTICS,
    changed_files,
    completed_with,
    read_statistics,
)
from latent_ae.latent_dataset.manifest import (
    NAME,
    ComputePart,
    EncoderPart,
    ImagesPart,
    LatentDatasetError,
    Manifest,
    ModelPart,
    PreprocessingPart,
    as_utf8,
    library_versions,
    names_digest,
    read_manifest,
    require_same_work,
    write_manifest,
)
from latent_ae.latent_dataset.settings import EncodeConfig
from latent_ae.latent_dataset.shard import FOLDER, file_name, inconsistency, read_record, record_name, require_unchanged
from latent_ae.latent_dataset.source_images import Images


def describe_work(config: EncodeConfig, images: Images, encoder: Encoder) -> Manifest:
    """The manifest of what these settings ask for. Raises LatentDatasetError for a name that the index cannot hold."""
    codec = encoder.codec
    for name in images.label_names or ():
        as_utf8(name)
    return Manifest(
        kind=encoder.kind,
        dtype=_stored_dtype(codec, config),
        encoder=EncoderPart(
            identity=codec.identity,
            factor=codec.factor,
            channels=codec.latent_channels,
            codebook_size=codec.codebook_size,
        ),
        preprocessing=PreprocessingPart(
            channels=codec.channels,
            resolution=config.resolution,
            background=config.data.background,
            flips=config.flips,
        ),
        compute=ComputePart(precision=config.precision, batch_size=config.images_at_once, tile=config.tile_pixels),
        images=ImagesPart(
            count=len(images),
            names_sha256=names_digest(images.name(index) for index in range(len(images))),
            part=config.part,
            shard_images=config.shard_images,
            label_column=config.label_column,
            caption_column=config.caption_column,
        ),
        model=ModelPart(name=codec.name, scaling_factor=codec.scaling_factor, shift_factor=codec.shift_factor),
        label_names=images.label_names,
        data=config.data,
        versions=library_versions(),
    )


@dataclass(frozen=True)
class Work:
    """What is to be done in a folder."""

    missing: list[int]
    """shards to make"""
    damaged: list[str]
    """what is wrong with those of them that were made before"""


def prepare(folder: Path, wanted: Manifest, images: Images) -> Work:
    """Write the manifest, or go on with the one that is there; the shards that are still to be made.

    Every shard that is there is read and compared with its checksums. If any is to be made, the index is removed: a
    data set without one is not complete.

    To be called by the one process that holds the folder. Raises LatentDatasetError if the folder holds something
    else, DataError, OSError.
    """
    if (folder / NAME).exists():
        require_same_work(folder, read_manifest(folder), wanted)
    else:
        if strangers := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
            raise LatentDatasetError(f"{folder} holds other files ({strangers[0]}) and no {NAME}: take an empty folder")
        write_manifest(folder, wanted)
    (folder / FOLDER).mkdir(exist_ok=True)
    for place in (folder, folder / FOLDER):
        remove_partials(place)
    _require_files(folder, wanted)
    damages = _damages(folder, wanted)
    _require_same_images(folder, wanted, images, [number for number, damage in damages.items() if damage is None])
    missing = [number for number in range(wanted.shards) if damages.get(number, "") is not None]
    if missing:
        (folder / INDEX).unlink(missing_ok=True)
    return Work(missing, [damage for damage in damages.values() if damage is not None])


def require_seen(folder: Path, wanted: Manifest) -> None:
    """What a process beside the one that prepared the folder asks. Raises LatentDatasetError unless it sees the
    folder, and means the same latents.
    """
    if not (folder / NAME).is_file():
        raise LatentDatasetError(
            f"{folder} has no {NAME} for one of the processes: --out must be one folder that all machines share"
        )
    require_same_work(folder, read_manifest(folder), wanted)


def _require_files(folder: Path, manifest: Manifest) -> None:
    """Raises LatentDatasetError for a folder, or something else that is no file, in the place of a file."""
    shards = (name(number) for number in range(manifest.shards) for name in (file_name, record_name))
    for path in (folder / name for name in (INDEX, STATISTICS, SKIPPED, DUPLICATES, *shards)):
        if path.exists() and not path.is_file():
            raise LatentDatasetError(f"{path} is not a file: move it to another place")


def _damages(folder: Path, manifest: Manifest) -> dict[int, str | None]:
    """What is wrong with each shard that has a record; None if nothing."""
    known = _completed_records(folder, manifest)

    def damage(number: int) -> str | None:
        try:
            record = read_record(folder, manifest, number)
            require_unchanged(folder, number, record)
        except LatentDatasetError as error:
            return str(error)
        if record.fingerprint is None:  # of an earlier version: without a checksum
            return inconsistency(folder, manifest, number, record)
        name = record_name(number)
        if name in known and changed_files(folder, {name: known[name]}):
            return f"{folder / name} is not the record that the data set was completed with"
        return None

    made = [number for number in range(manifest.shards) if (folder / record_name(number)).exists()]
    with ThreadPoolExecutor() as pool:
        return dict(zip(made, pool.map(damage, made), strict=True))


def _completed_records(folder: Path, manifest: Manifest) -> Mapping[str, str]:
    """The sha256 of each record when the data set was completed; empty unless statistics and index agree on that."""
    try:
        digests = completed_with(read_statistics(folder, manifest))
    except LatentDatasetError:
        return {}
    index = {name: digest for name, digest in digests.items() if name == INDEX}
    return digests if index and not changed_files(folder, index) else {}


def _require_same_images(folder: Path, manifest: Manifest, images: Images, shards: list[int]) -> None:
    """Raises LatentDatasetError unless the first image of the first and of the last shard is what it was. Names alone
    do not say: those of many data sets are numbers.
    """
    for number in sorted({*shards[:1], *shards[-1:]}):
        for row in read_record(folder, manifest, number).rows[:1]:
            try:
                images.view_again(row, manifest.preprocessing)
            except LatentDatasetError as error:
                raise LatentDatasetError(
                    f"{folder} holds latents of other images: {row['name']}: {error}: take another --out"
                ) from None


def _stored_dtype(codec: Codec, config: EncodeConfig) -> str:
    if codec.codebook_size is None:
        return config.dtype
    return "uint16" if codec.codebook_size <= SMALL_CODEBOOK else "int32"
