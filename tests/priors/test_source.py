"""Which latents can be trained on."""

from pathlib import Path

import pytest

from latent_ae.models.parts import encoder_identity
from latent_ae.priors.source import LatentSource, LatentSourceError, open_latents
from tests.data.images import noise_image
from tests.latent_dataset.made import make, settings


def test_it_says_what_there_is(source: LatentSource, made: Path) -> None:
    assert (source.channels, source.side, source.classes, source.scaling_factor) == (2, 8, (0, 1), 0.5)
    assert source.label_names == {0: "cat", 1: "dog"}
    assert str(source) == f"10 latents of 2x8x8, 2 classes, from {made / 'latents'}"
    assert source.identity == encoder_identity(source.autoencoder)
    assert source.data_name == "folder pictures"
    assert source.autoencoder_name == "kl"


def test_another_encoder_is_refused_with_both_identities(made: Path, source: LatentSource) -> None:
    with pytest.raises(LatentSourceError, match=f"of the encoder {source.identity}, and .*other is [0-9a-f]{{64}}"):
        open_latents(made / "latents", str(made / "other"), seed=0)


def test_latents_of_other_images_under_the_same_names_have_another_fingerprint(made: Path, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((1, 2, 1)):
        pictures = tmp_path / str(number) / "pictures"
        pictures.mkdir(parents=True)
        for name in ("a.png", "b.png"):
            noise_image(seed, 16, 16).save(pictures / name)
        make(settings(made / "kl", tmp_path / str(number) / "latents", path=pictures))
        found.append(open_latents(tmp_path / str(number) / "latents", None, seed=0))
    assert len({each.rows.manifest.fingerprint for each in found}) == 1
    assert found[0].images == found[2].images != found[1].images


def test_latents_of_several_sizes_are_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for seed, width in enumerate((16, 18)):
        noise_image(seed, width, 16).save(tmp_path / "pictures" / f"{seed}.png")
    make(settings(made / "kl", tmp_path / "latents", path=tmp_path / "pictures"))
    with pytest.raises(LatentSourceError, match=r"8x8, 8x9: expected squares of one size, which --resolution"):
        open_latents(tmp_path / "latents", None, seed=0)


def test_codes_are_what_there_is_where_they_are_expected(codes: LatentSource, made: Path) -> None:
    assert (codes.codebook_size, codes.side, codes.classes) == (32, 8, (0, 1))
    assert str(codes) == f"10 rows of codes out of 32, 8x8, 2 classes, from {made / 'codes'}"
    assert codes.identity == encoder_identity(codes.autoencoder)
    with pytest.raises(LatentSourceError, match="holds latents: expected the codes of a VQModel, or another --prior"):
        open_latents(made / "latents", None, seed=0, codes=True)
    with pytest.raises(LatentSourceError, match="kl is an AutoencoderKL: give --model the VQModel that made the codes"):
        open_latents(made / "codes", str(made / "kl"), seed=0, codes=True)


def test_codes_are_refused(made: Path) -> None:
    with pytest.raises(LatentSourceError, match="holds codes: expected the latents of an AutoencoderKL, or"):
        open_latents(made / "codes", None, seed=0)


def test_a_vq_model_is_refused(made: Path) -> None:
    with pytest.raises(LatentSourceError, match="vq is a VQModel: give --model the AutoencoderKL that made"):
        open_latents(made / "latents", str(made / "vq"), seed=0)
