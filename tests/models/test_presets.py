import pytest
import torch
from diffusers import AutoencoderKL

from latent_ae.config import ModelConfig
from latent_ae.models import PRESETS, ModelError, build_autoencoder, factor_of, latent_shape, load_autoencoder
from latent_ae.models.bottlenecks.kl import KLBottleneck
from latent_ae.models.parts import encoder_identity
from latent_ae.models.trainable import TrainableAutoencoder


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_stock_autoencoder_of_its_factor(name: str) -> None:
    with torch.device("meta"):
        model = build_autoencoder(ModelConfig(preset=name), seed=0, resolution=64)
    assert type(model) is AutoencoderKL
    assert factor_of(model) == 2 ** (len(PRESETS[name]["block_out_channels"]) - 1)  # type: ignore[arg-type]  # a table of arguments of all types
    assert model.config["in_channels"] == model.config["out_channels"]


def test_sd_is_the_exact_architecture_of_stable_diffusion() -> None:
    with torch.device("meta"):
        model = build_autoencoder(ModelConfig(preset="sd"), seed=0, resolution=256)
    assert sum(parameter.numel() for parameter in model.parameters()) == 83_653_863
    assert latent_shape(model, (256, 192)) == (4, 32, 24)


def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        build_autoencoder(ModelConfig(preset="tiny"), seed=seed, resolution=16) for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert encoder_identity(first) == encoder_identity(again) != encoder_identity(other)


def test_the_training_wrapper_computes_what_the_stock_model_does() -> None:
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    pixels = torch.rand(2, 1, 16, 16) * 2 - 1
    ours = TrainableAutoencoder(model, KLBottleneck())(pixels, torch.zeros(2, 2, 8, 8))
    assert torch.equal(ours.reconstruction, model.decode(model.encode(pixels).latent_dist.mode()).sample)


def test_the_identity_is_the_encoders_alone() -> None:
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    identity = encoder_identity(model)
    with torch.no_grad():
        next(model.decoder.parameters()).add_(1.0)
        assert encoder_identity(model) == identity
        next(model.encoder.parameters()).add_(1e-6)
    assert encoder_identity(model) != identity


def test_init_from_brings_the_weights_of_a_folder_and_of_a_pipeline_folder(tmp_path) -> None:
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=3, resolution=16)
    model.save_pretrained(tmp_path / "alone")
    model.save_pretrained(tmp_path / "pipeline" / "vae")
    for folder in ("alone", "pipeline"):
        config = ModelConfig(preset=None, init_from=str(tmp_path / folder))
        assert encoder_identity(build_autoencoder(config, seed=0, resolution=16)) == encoder_identity(model)


def test_init_from_with_missing_weights_is_refused(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    build_autoencoder(ModelConfig(preset="tiny"), seed=3, resolution=16).save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["decoder.conv_out.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights, the first of them decoder\.conv_out\.weight"):
        load_autoencoder(str(tmp_path))


@pytest.mark.parametrize("channels", [2, 4, 5, 64])
@torch.no_grad()
def test_a_preset_takes_any_number_of_image_channels(channels: int) -> None:
    model = build_autoencoder(ModelConfig(preset="tiny", image_channels=channels), seed=0, resolution=16)
    assert model(torch.zeros(1, channels, 16, 16)).sample.shape == (1, channels, 16, 16)


@pytest.mark.parametrize(
    ("config", "resolution", "message"),
    [
        (ModelConfig(preset="nothing"), 16, "unknown model.preset 'nothing'; there are digits"),
        (ModelConfig(preset="tiny"), 17, "data.resolution 17 is not a multiple of the model's factor 2"),
        (ModelConfig(preset="tiny"), (16, 31), "data.resolution 16x31 is not a multiple .* factor 2: take 16x32"),
        (ModelConfig(preset="tiny", norm_num_groups=5), 16, "model.norm_num_groups 5 must divide every width"),
        (ModelConfig(preset=None, init_from="nowhere/at-all"), 16, "cannot load an autoencoder from nowhere/at-all"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    config: ModelConfig, resolution: int | tuple[int, int], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build_autoencoder(config, seed=0, resolution=resolution)
    assert "\n" not in str(caught.value)


def test_a_model_of_too_many_image_channels_is_refused(tmp_path) -> None:
    AutoencoderKL(in_channels=65, out_channels=65, block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="takes images of 65 channels; up to 64"):
        build_autoencoder(ModelConfig(preset=None, init_from=str(tmp_path)), seed=0, resolution=16)
