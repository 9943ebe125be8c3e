"""Which images a run trains on, written down so that a resumed run notices changed ones.

The run's folder has a list of all images with their sizes in bytes, and the sha256 of a few that the seed chooses. A
checkpoint has the list's own sha256, for where it was copied without its run.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from latent_ae.config import to_yaml
from latent_ae.data import ImageSource, SkippedImages, SourceParts, StreamParts
from latent_ae.data.source import StoredImages
from latent_ae.io.atomic import write_atomically
from latent_ae.io.image import BrokenImage
from latent_ae.randomness import numpy_generator
from latent_ae.training.checkpoint.files import IMAGES, Checkpoint, CheckpointError
from latent_ae.training.checkpoint.resume import CHANGED_DATA, on_main
from latent_ae.training.settings import RunConfig

FILE = "images.jsonl.gz"
"""of the run's folder: a line with the samples, then a line [id, bytes] for each image"""
LEDGER = "skipped.jsonl"
"""of the run's folder: images that it could not use"""

_SAMPLES = 16


@dataclass(frozen=True)
class DataRecord:
    """The images of both parts: those that are held out decide what is measured."""

    sizes: dict[str, int]
    """bytes by id (or by shard, in a stream); -1 where nobody knows"""
    samples: dict[str, str]
    """sha256 by id of a few images as they are stored"""

    def to_bytes(self) -> bytes:
        """The content of FILE, uncompressed."""
        lines = [json.dumps({"schema": 1, "samples": self.samples})]
        lines += [json.dumps([name, size]) for name, size in self.sizes.items()]
        return "\n".join(lines).encode()

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"count": len(self.sizes), "sha256": hashlib.sha256(self.to_bytes()).hexdigest()}


def checked_data(
    config: RunConfig, parts: SourceParts, checkpoint: Checkpoint | None, resume: str, accelerator: Accelerator
) -> DataRecord | None:
    """The record of the images as they are now, on the main process alone, which looks at them for all.

    Raises CheckpointError on every process if `checkpoint` was trained on others, unless `resume` is CHANGED_DATA.
    """

    def look() -> DataRecord:
        record = record_data(parts, config.seed)
        if checkpoint is not None and resume != CHANGED_DATA:
            run_dir = config.run_dir if resume == "auto" else Path(resume).resolve().parent.parent
            require_same_data(record, checkpoint, run_dir, parts)
        return record

    return on_main(look, accelerator)


def begin_run(
    config: RunConfig, parts: SourceParts, record: DataRecord | None, accelerator: Accelerator, *, same_data: bool
) -> SkippedImages:
    """Write config.yaml and FILE. Returns the ledger of unusable images: those that are there and still unusable.

    For every process together; `record` is the main one's. The ledger begins anew unless the run goes on with the
    `same_data`. Raises CheckpointError.
    """
    ledger, streamed = config.run_dir / LEDGER, isinstance(parts, StreamParts)
    total = None if streamed else len(parts.train)

    def begin() -> None:
        assert record is not None
        write_atomically(config.run_dir / "config.yaml", to_yaml(config).encode())
        # In this order: were it killed between the two, an image taken out of the ledger would be missed as a changed
        # one.
        write_atomically(config.run_dir / FILE, gzip.compress(record.to_bytes(), compresslevel=1, mtime=0))
        if not same_data:
            ledger.unlink(missing_ok=True)
        elif not streamed:
            SkippedImages(ledger, total, config.data.max_bad_share).drop_mended(parts.train)

    on_main(begin, accelerator)
    return SkippedImages(ledger, total, config.data.max_bad_share)


def record_data(parts: SourceParts, seed: int) -> DataRecord:
    """Look at the images: their ids and sizes, and the content of a few. Raises DataError."""
    sizes = dict(_stored(parts.train)) | dict(_stored(parts.heldout))
    chosen = numpy_generator(seed, "data record", len(parts.train)).permutation(len(parts.train))[:_SAMPLES]
    return DataRecord(sizes, _contents(parts.train, sorted(chosen.tolist())))


def require_same_data(record: DataRecord, checkpoint: Checkpoint, run_dir: Path, parts: SourceParts) -> None:
    """Refuse to go on with other images than a run was trained on. Those that it could not use may be gone or mended.

    Args:
        record: of the images as they are now.
        checkpoint: that is to go on; one of an earlier version, without a fingerprint, is believed.
        run_dir: the folder of the run that wrote it.
        parts: where the images are.

    Raises CheckpointError with what changed and what to do.
    """
    before, saved = _read_data_record(run_dir), checkpoint.values.get(IMAGES)
    if before is None:
        if isinstance(saved, dict) and saved != record.fingerprint():
            counts = f"{saved.get('count')} images then, {len(record.sizes)} now"
            raise CheckpointError(_refusal(f"the list of them is not beside the checkpoint; {counts}", acceptable=True))
        return
    # Training images come first, so that one which is held out now has another place.
    moved = _in_both(before, record) != _in_both(record, before)
    if before == record and not moved:
        return
    removed = [name for name in before.sizes if name not in record.sizes]
    added = [name for name in record.sizes if name not in before.sizes]
    replaced = [name for name, size in record.sizes.items() if -1 != before.sizes.get(name, size) != size != -1]
    replaced += [name for name in _changed_samples(before, parts.train) if name not in replaced]
    unusable = SkippedImages(run_dir / LEDGER, None, 1.0).ids()
    changes = {"added": added, "removed": removed, "replaced": replaced}
    told = [
        f"{len(names)} {change} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for change, all_names in changes.items()
        if (names := [name for name in all_names if change == "added" or name not in unusable])
    ]
    if moved:
        told.append("images are divided otherwise into training and held-out ones")
    if told:
        # The place in a stream is one in the order of its shards.
        acceptable = not (isinstance(parts, StreamParts) and (added or removed))
        raise CheckpointError(_refusal(", ".join(told), acceptable=acceptable))


def _in_both(record: DataRecord, other: DataRecord) -> list[str]:
    """The images of a record, in its order, that another has too."""
    return [name for name in record.sizes if name in other.sizes]


def _refusal(change: str, *, acceptable: bool) -> str:
    advice = ["Give the old ones back", "give another --name for a new run"]
    advice += ["give --resume changed-data to go on with these"] if acceptable else []
    return f"the images are not those that the run was trained on: {change}. {', '.join(advice[:-1])}, or {advice[-1]}"


def _read_data_record(run_dir: Path) -> DataRecord | None:
    """What FILE says; None if there is none that can be read."""
    try:
        first, *lines = gzip.decompress((run_dir / FILE).read_bytes()).decode().splitlines()
        return DataRecord(dict(map(json.loads, lines)), dict(json.loads(first)["samples"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _stored(source: ImageSource) -> Iterator[tuple[str, int]]:
    if isinstance(source, StoredImages):
        return source.stored()
    return ((source.sample_id(index), -1) for index in range(len(source)))


def _contents(source: ImageSource, indices: list[int]) -> dict[str, str]:
    """Sha256 by id; images that cannot be read are left out."""
    found: dict[str, str] = {}
    if isinstance(source, StoredImages):
        for index in indices:
            try:
                found[source.sample_id(index)] = hashlib.sha256(source.stored_bytes(index)).hexdigest()
            except (BrokenImage, OSError):
                continue
    return found


def _changed_samples(before: DataRecord, source: ImageSource) -> list[str]:
    """Ids of the samples of a record that are there with another content."""
    indices = [index for index in range(len(source)) if source.sample_id(index) in before.samples]
    return [name for name, sha256 in _contents(source, indices).items() if before.samples[name] != sha256]
