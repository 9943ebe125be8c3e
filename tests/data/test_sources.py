"""What every source of the table promises."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from latent_ae.data import (
    SOURCES,
    AnySource,
    DataConfig,
    FolderConfig,
    HubConfig,
    SourceParts,
    StreamConfig,
    StreamParts,
)
from latent_ae.data.source import StoredImages
from latent_ae.io.image import to_uint8
from tests.data.images import write_images


@pytest.fixture(params=SOURCES)
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    match request.param:
        case "folder":
            write_images(tmp_path, [f"{i}.png" for i in range(20)])
            return FolderConfig(path=str(tmp_path), heldout_share=0.3)
        case "hub":
            monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
            write_images(tmp_path / "images", [f"{i}.png" for i in range(20)])
            return HubConfig(path=str(tmp_path / "images"), heldout_share=0.3)
        case "stream":
            write_images(tmp_path / "images", [f"{i}.png" for i in range(20)])
            return StreamConfig(path=str(tmp_path / "images"), heldout_share=0.3)
        case source:
            return SOURCES[source]()


def ids(parts: SourceParts) -> tuple[list[str], list[str]]:
    train, heldout = ([part.sample_id(index) for index in range(len(part))] for part in (parts.train, parts.heldout))
    return train, heldout


def test_a_source_keeps_its_promises(config: DataConfig) -> None:
    parts = config.open()
    train, heldout = ids(parts)
    assert train
    assert heldout
    assert len({*train, *heldout}) == len(train) + len(heldout)
    assert (sorted(train), sorted(heldout)) == (train, heldout)  # "in the order of their ids"
    assert ids(config.open()) == (train, heldout)
    for part in (parts.train, parts.heldout):
        copy = pickle.loads(pickle.dumps(part))
        for index in range(min(len(part), 30)):
            image = part.load(index)
            for channels in (1, 3):
                pixels = to_uint8(image, channels)
                assert pixels.dtype == np.uint8
                assert pixels.shape == (image.height, image.width, channels)
                assert pixels.std() > 0
            assert np.array_equal(to_uint8(part.load(index), 3), to_uint8(copy.load(index), 3))


def test_what_is_stored_is_known_without_decoding_it(config: DataConfig) -> None:
    parts = config.open()
    for part in (parts.train, parts.heldout):
        if isinstance(parts, StreamParts):  # of which the shards are known
            assert isinstance(part, StoredImages)
            assert len(list(part.stored())) == len(parts.stream)
        elif isinstance(part, StoredImages):
            found = [(part.sample_id(index), len(part.stored_bytes(index))) for index in range(len(part))]
            assert list(part.stored()) == found
        else:
            assert config.source in ("digits", "photos"), "whose images never change"


def test_an_unknown_source_is_refused_with_the_known_names() -> None:
    names = ", ".join(SOURCES)
    with pytest.raises(ValidationError, match=rf"data\.source: got 'nonesuch', expected one of {names}"):
        TypeAdapter(AnySource).validate_python({"source": "nonesuch"})
