"""Making data sets of latents in the test's own process, small."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from latent_ae.inference import Codec
from latent_ae.io.folder_lock import LOCK, only_run
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.images import Images
from latent_ae.latent_dataset.index import write_index
from latent_ae.latent_dataset.manifest import Manifest
from latent_ae.latent_dataset.resume import prepare
from latent_ae.latent_dataset.settings import EncodeConfig, describe_work
from latent_ae.latent_dataset.writer import make_shards


def settings(
    model: Path, out: Path, *, source: str = "folder", path: Path | None = None, fit: str = "crop", **changes: Any
) -> EncodeConfig:
    place = {} if path is None else {"path": str(path), "heldout_share": 0.4}
    return EncodeConfig(
        model=str(model),
        out=str(out),
        data={"source": source, "fit": fit, **place},
        **{"part": "all", "shard_images": 4, **changes},
    )


def opened(config: EncodeConfig) -> Images:
    columns = {"label_column": config.label_column, "caption_column": config.caption_column}
    return Images(config.data.open(), config.part, **columns)


def encoder_of(
    config: EncodeConfig, *, threads: int = 1, codec: Codec | None = None, memory_bytes: int | None = None
) -> Encoder:
    codec = codec or Codec.load(str(config.model), precision="exact", tile=config.tile_pixels)
    return Encoder(
        codec,
        precision=config.precision,
        logvar=config.logvar,
        dtype=config.dtype,
        threads=threads,
        memory_bytes=memory_bytes,
    )


def make(
    config: EncodeConfig, *, threads: int = 1, workers: int = 0, codec: Codec | None = None, shards: int | None = None
) -> Manifest:
    """What train/encode_dataset.py makes; only some of the shards, and no index, if asked for."""
    folder = Path(str(config.out))
    images = opened(config)
    encoder = encoder_of(config, threads=threads, codec=codec)
    manifest = describe_work(config, images, encoder)
    with only_run(folder, instead="another --out"), encoder:
        work = prepare(folder, manifest, images)
        make_shards(folder, manifest, images, encoder, work.missing[:shards], workers=workers)
        if shards is None:
            write_index(folder)
    return manifest


def files(folder: Path) -> dict[str, bytes]:
    """All of a folder but the lock, which says who held it last."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


def index(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "index.parquet").to_pylist()
    return rows


def lines(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
