import json
from pathlib import Path

import pytest
import torch

from latent_ae.inference import Codec
from latent_ae.io.latent_file.latents import Latents
from latent_ae.service.catalog import choose, choose_for_latents, describe, model_ids
from latent_ae.service.errors import UnknownModel, WrongModel
from latent_ae.service.inspection import code_bits, inspect_latents

from .conftest import CODES, pixels, with_stats


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["runs/kl-digits/model"], ["kl-digits"]),
        (["/srv/runs/kl digits/model/"], ["kl-digits"]),
        (["stabilityai/sd-vae-ft-mse", "./other/sd-vae-ft-mse"], ["sd-vae-ft-mse", "sd-vae-ft-mse-2"]),
        (["weights/vae.safetensors", "a/vae", "b/vae"], ["vae", "a", "b"]),
        (["model", "x/a/model", "y/a/model", "z/a-2/model"], ["model", "a", "a-2", "a-2-2"]),
        (["/", "..", "../model"], ["model", "model-2", "model-3"]),
        (["v1.5/model"], ["v1.5"]),
    ],
)
def test_ids_say_what_a_model_is_and_are_unique(names: list[str], ids: list[str]) -> None:
    assert model_ids(names) == ids


def test_a_model_is_described_by_the_files_beside_it(tmp_path: Path, vq: Codec) -> None:
    codec = with_stats(tmp_path)
    info = describe("tiny", codec)
    assert (info.id, info.kind, info.encoder) == ("tiny", "AutoencoderKL", codec.identity)
    assert (info.channels, info.factor, info.latent_channels, info.codebook_size) == (3, 4, 2, None)
    assert info.parameters == sum(weight.numel() for weight in codec.model.parameters())
    assert info.card == "# tiny\n\n---\nwords\n"
    assert info.stats is not None
    assert info.stats["images"] == 4
    assert info.native_size == 16
    assert describe("vq", vq).codebook_size == CODES
    assert describe("vq", vq).stats is None


def test_what_was_measured_of_another_encoder_is_left_out(tmp_path: Path) -> None:
    codec = with_stats(tmp_path)
    file = tmp_path / "latent_stats.json"
    for words in (json.dumps({"encoder_identity": "0" * 64}), "[]", "{", ""):
        file.write_text(words, encoding="utf-8")
        assert describe("tiny", codec).stats is None


def test_a_model_is_chosen_from_the_list_alone(kl: Codec, vq: Codec, tmp_path: Path) -> None:
    infos = {"kl": describe("kl", kl), "vq": describe("vq", vq)}
    assert choose(infos, None) == "kl"
    assert choose(infos, "vq") == "vq"
    for name in (str(tmp_path), "../kl", "", "KL", 7, ["kl"], "x" * 10_000):
        with pytest.raises(UnknownModel, match="this server has kl, vq") as caught:
            choose(infos, name)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 200


def test_latents_find_their_model(kl: Codec, vq: Codec, grey: Codec) -> None:
    infos = {name: describe(name, codec) for name, codec in (("kl", kl), ("vq", vq), ("again", kl))}
    assert choose_for_latents(infos, None, kl.identity) == "kl"
    assert choose_for_latents(infos, "again", kl.identity) == "again"
    assert choose_for_latents(infos, None, vq.identity) == "vq"
    with pytest.raises(WrongModel, match=f"{kl.identity[:16]}.*vq is {vq.identity[:16]}.*with kl or again"):
        choose_for_latents(infos, "vq", kl.identity)
    for model in (None, "vq"):
        with pytest.raises(WrongModel, match=rf"{grey.identity[:16]}.*kl \({kl.identity[:16]}\), vq \("):
            choose_for_latents(infos, model, grey.identity)
    with pytest.raises(UnknownModel):
        choose_for_latents(infos, "none", kl.identity)


# --------------------------------------------------------------------------------------------------------- inspection


def latents(codec: Codec, tensor: torch.Tensor, logvar: torch.Tensor | None = None) -> Latents:
    kind = "vq_indices" if codec.is_vq else "mean"
    h, w = tensor.shape[-2:]
    return Latents(kind, tensor, codec.identity, 4 * h, 4 * w, 4, logvar=logvar, codebook_size=codec.codebook_size)


def test_the_histogram_of_normal_latents_is_the_normal_ones(kl: Codec) -> None:
    draws = torch.randn(1, 2, 300, 300, generator=torch.Generator().manual_seed(1))
    found = inspect_latents(describe("kl", kl), latents(kl, draws))
    middles, shares, normal = map(torch.tensor, zip(*found.histogram, strict=True))
    assert shares.sum() == pytest.approx(1)
    assert normal.sum() == pytest.approx(1)
    assert (shares - normal).abs().max() < 0.002
    assert middles[25] == pytest.approx(0.1)
    assert normal[25] == pytest.approx(torch.special.ndtr(torch.tensor(0.2)).item() - 0.5, abs=1e-6)


def test_latents_are_scaled_as_diffusion_sees_them_and_nothing_falls_out(kl: Codec) -> None:
    import dataclasses

    info = dataclasses.replace(describe("kl", kl), scaling_factor=0.5, shift_factor=3.0)
    values = torch.tensor([3.1, 3.3, -500.0, 500.0]).view(1, 1, 2, 2).repeat(1, 2, 1, 1)
    shares = [share for _, share, _ in inspect_latents(info, latents(kl, values)).histogram]
    assert shares[0] == shares[-1] == 0.25
    assert shares[25] == 0.5


def test_channels_stand_beside_what_was_measured(tmp_path: Path) -> None:
    codec = with_stats(tmp_path)
    info = describe("tiny", codec)
    values = torch.stack([torch.full((3, 3), 2.0), torch.zeros(3, 3)])[None]
    found = inspect_latents(info, latents(codec, values, torch.zeros_like(values)))
    assert info.stats is not None
    first, second = found.channels
    assert first["mean"] == info.stats["sample"]["channel_mean"][0]
    assert second["kl_nats"] == info.stats["kl_nats_per_channel"][1]
    assert first["active_share"] == info.stats["active_units"]["share_per_channel"][0]
    assert (first["image_mean"], first["image_std"]) == (2.0, 0.0)
    assert first["image_kl_nats"] == pytest.approx(9 * 2.0)  # mean^2 / 2, at 9 positions
    assert len(found.channel_images) == 2


def test_codes_are_counted(vq: Codec) -> None:
    codes = torch.tensor([[[0, 0, 3], [3, 5, 0]]])
    found = inspect_latents(describe("vq", vq), latents(vq, codes))
    assert found.code_counts == (3, 0, 0, 2, 0, 1, *[0] * 6)
    assert found.codebook is not None
    assert (found.codebook["used"], found.codebook["codebook_size"]) == (3, CODES)
    assert found.codebook["entropy_bits"] == pytest.approx(1.459148, abs=1e-6)
    assert found.histogram == found.channels == ()
    assert found.channel_images[0].shape == (8, 12, 3)


@pytest.mark.parametrize(("size", "bits"), [(1, 1), (2, 1), (3, 2), (256, 8), (257, 9), (1024, 10), (16_384, 14)])
def test_a_code_takes_the_bits_of_its_codebook(size: int, bits: int) -> None:
    assert code_bits(size) == bits


def test_a_picture_of_codes_is_of_an_encoded_image(vq: Codec) -> None:
    found = inspect_latents(describe("vq", vq), vq.encode([pixels(16, 16)])[0])
    assert sum(found.code_counts or ()) == 16
