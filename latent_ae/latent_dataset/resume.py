"""Which shards of a folder are missing or damaged, and whether it may be resumed by these settings."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from latent_ae.io.atomic import remove_partials
from latent_ae.latent_dataset.images import Images
from latent_ae.latent_dataset.index import DUPLICATES, INDEX, SKIPPED, STATISTICS, changed_files, read_statistics
from latent_ae.latent_dataset.manifest import (
    NAME,
    LatentDatasetError,
    Manifest,
    read_manifest,
    require_same_work,
    write_manifest,
)
from latent_ae.latent_dataset.shard import FOLDER, file_name, inconsistency, read_record, record_name, require_unchanged


@dataclass(frozen=True)
class Work:
    """What is left to do in a folder."""

    missing: list[int]
    """numbers of the shards to make"""
    damaged: list[str]
    """messages about those of them that exist and are damaged"""


def prepare(folder: Path, wanted: Manifest, images: Images) -> Work:
    """Write the manifest, or compare it with the one in the folder; returns the shards to make.

    Every existing shard is read and compared with its checksums. If one is to be made, the index is removed: a data
    set without an index is not complete.

    Only the process that holds the folder's lock may call this. Raises LatentDatasetError if the folder holds other
    latents or files, DataError, OSError.
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
    """For the other processes of a run: raises LatentDatasetError unless they see the folder with the same manifest."""
    if not (folder / NAME).is_file():
        raise LatentDatasetError(
            f"{folder} has no {NAME} for one of the processes: --out must be one folder that all machines share"
        )
    require_same_work(folder, read_manifest(folder), wanted)


def _require_files(folder: Path, manifest: Manifest) -> None:
    """Raises LatentDatasetError if a folder has the name of one of the files."""
    shards = (name(number) for number in range(manifest.shards) for name in (file_name, record_name))
    for path in (folder / name for name in (INDEX, STATISTICS, SKIPPED, DUPLICATES, *shards)):
        if path.exists() and not path.is_file():
            raise LatentDatasetError(f"{path} is not a file: move it to another place")


def _damages(folder: Path, manifest: Manifest) -> dict[int, str | None]:
    """The damage of each shard that has a record, None for an intact one."""
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
    """The sha256 of each record when the data set was completed; empty unless statistics and index agree."""
    try:
        digests = read_statistics(folder, manifest)["files"]
    except LatentDatasetError:
        return {}
    return digests if INDEX in digests and not changed_files(folder, {INDEX: digests[INDEX]}) else {}


def _require_same_images(folder: Path, manifest: Manifest, images: Images, shards: list[int]) -> None:
    """Raises LatentDatasetError if the first image of the first or of the last shard has changed.

    Names are not enough: in many data sets they are numbers.
    """
    for number in sorted({*shards[:1], *shards[-1:]}):
        for row in read_record(folder, manifest, number).rows[:1]:
            try:
                images.view_again(row, manifest.preprocessing)
            except LatentDatasetError as error:
                raise LatentDatasetError(
                    f"{folder} holds latents of other images: {row['name']}: {error}: take another --out"
                ) from None
