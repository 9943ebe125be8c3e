"""A model comes back whole from wherever it lies, or is refused in one line."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ConsistencyDecoderVAE, VQModel
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from latent_ae.models.autoencoder import Autoencoder, class_name, factor_of, latent_shape, pad_to_factor
from latent_ae.models.errors import ModelError
from latent_ae.models.ldm_keys import to_ldm_keys
from latent_ae.models.loading import load_autoencoder
from latent_ae.models.parts import encoder_identity

WEIGHTS = "diffusion_pytorch_model.safetensors"
TWO_LEVELS = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 2,
}


def gaussian(**changes: object) -> AutoencoderKL:
    return AutoencoderKL(**TWO_LEVELS, **{"latent_channels": 2, **changes})


def quantised(**changes: object) -> VQModel:
    return VQModel(**TWO_LEVELS, **{"num_vq_embeddings": 5, "vq_embed_dim": 6, **changes})


BUILDERS = {"AutoencoderKL": gaussian, "VQModel": quantised}


def assert_same(ours: Autoencoder, theirs: Autoencoder) -> None:
    assert type(ours) is type(theirs)
    got, expected = ours.state_dict(), theirs.state_dict()
    assert got.keys() == expected.keys()
    assert [name for name in got if not torch.equal(got[name], expected[name])] == []
    assert encoder_identity(ours) == encoder_identity(theirs)


def refusal(name: Path | str, **options: int) -> str:
    with pytest.raises(ModelError) as error:
        load_autoencoder(str(name), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("subfolder", ["", "vae", "vqvae", "movq"])
@pytest.mark.parametrize("kind", BUILDERS)
def test_a_folder_and_a_pipelines_folder(kind: str, subfolder: str, tmp_path: Path) -> None:
    model = BUILDERS[kind]()
    model.save_pretrained(tmp_path / subfolder)
    before = torch.random.get_rng_state()
    loaded = load_autoencoder(str(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same(loaded, model)
    assert not loaded.training


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("subfolder", ["", "vae", "vqvae", "movq"])
@pytest.mark.parametrize("kind", BUILDERS)
def test_a_repository_of_the_hub(
    kind: str, subfolder: str, variant: str | None, *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, commit = tmp_path / "models--someone--something", "0" * 40
    model = BUILDERS[kind]()
    if variant is not None:
        model.half()
    model.save_pretrained(repository / "snapshots" / commit / subfolder, variant=variant)
    model.float()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert_same(load_autoencoder("someone/something"), model)
    assert refusal("someone/else").startswith(
        "cannot load an autoencoder from someone/else: there is no such folder, and it cannot be fetched from the hub: "
    )


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its address is one where nothing listens."""
    for name, value in (("HF_HUB_OFFLINE", False), ("ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_CACHE", str(tmp_path))):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(AutoencoderKL, "load_config", None)  # diffusers would try each file five times
    assert refusal("someone/else") == (
        "cannot load an autoencoder from someone/else: there is no such folder, and it cannot be fetched from the hub: "
        "the hub cannot be reached, and the cache has no someone/else"
    )


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    gaussian().half().save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in load_autoencoder(str(tmp_path)).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("shard_size", ["10GB", "10KB"], ids=["whole", "sharded"])
@pytest.mark.parametrize("variants", [["fp16"], ["bf16"], ["bf16", "fp16"], ["mine"], ["fp16", None]], ids=str)
@pytest.mark.parametrize("subfolder", ["", "vae"])
def test_a_folder_whose_weights_bear_a_variants_name(
    subfolder: str, variants: list[str | None], shard_size: str, *, tmp_path: Path
) -> None:
    model = gaussian()
    types = {"fp16": torch.float16, "bf16": torch.bfloat16, "mine": torch.float16, None: torch.float32}
    for variant in variants:
        rounded = deepcopy(model).to(types[variant])
        rounded.save_pretrained(tmp_path / subfolder, variant=variant, max_shard_size=shard_size)
    best = next(each for each in (None, "fp16", "bf16", "mine") if each in variants)
    assert_same(load_autoencoder(str(tmp_path)), deepcopy(model).to(types[best]).float())


def test_of_two_unknown_variants_none_is_taken_unasked(tmp_path: Path) -> None:
    for variant in ("one", "two"):
        gaussian().save_pretrained(tmp_path, variant=variant)
    assert refusal(tmp_path) == f"{tmp_path} holds the variants one, two: give one of the files"


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_a_folders_weights_may_be_pickles(safe: bool, tmp_path: Path) -> None:
    model = gaussian()
    model.save_pretrained(tmp_path, safe_serialization=safe)
    assert_same(load_autoencoder(str(tmp_path)), model)


def test_weights_that_were_not_downloaded_are_named(tmp_path: Path) -> None:
    gaussian().save_pretrained(tmp_path)
    for content, what in {
        b"version https://git-lfs.github.com/spec/v1\n": "is a Git LFS pointer",
        b"": "is empty",
    }.items():
        (tmp_path / WEIGHTS).write_bytes(content)
        assert refusal(tmp_path).startswith(f"{tmp_path / WEIGHTS} {what}")
    (tmp_path / WEIGHTS).unlink()
    assert refusal(tmp_path).startswith(f"{tmp_path} holds a config.json without weights")


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_single_file_by_its_suffix(kind: str, tmp_path: Path) -> None:
    model = BUILDERS[kind]()
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm_keys(model.state_dict(), 2).items()}
    save_file(tensors, tmp_path / "vae.safetensors")
    torch.save({"state_dict": tensors}, tmp_path / "vae.CKPT")
    for file in ("vae.safetensors", "vae.CKPT"):
        assert_same(load_autoencoder(str(tmp_path / file), norm_num_groups=2), model)
    assert "give the norm_num_groups it was trained with" in refusal(tmp_path / "vae.safetensors")


def test_a_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    model = gaussian()
    model.save_pretrained(tmp_path / "run.pt")
    assert_same(load_autoencoder(str(tmp_path / "run.pt")), model)


def test_a_folders_weights_are_not_read_without_its_config(tmp_path: Path) -> None:
    model = gaussian()
    model.save_pretrained(tmp_path)
    assert refusal(tmp_path / WEIGHTS) == (
        f"{tmp_path / WEIGHTS} is part of a diffusers folder: give the folder, {tmp_path}"
    )
    (tmp_path / "config.json").unlink()
    assert_same(load_autoencoder(str(tmp_path / WEIGHTS), norm_num_groups=2), model)


def test_the_number_of_groups_has_no_effect_on_a_folder(tmp_path: Path) -> None:
    gaussian().save_pretrained(tmp_path)
    assert refusal(tmp_path, norm_num_groups=2) == (
        f"norm_num_groups has no effect on {tmp_path}, whose config.json has it: leave it out"
    )


@pytest.mark.parametrize("subfolder", ["", "vae"])
def test_another_class_is_refused(subfolder: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        ConsistencyDecoderVAE().save_config(tmp_path / subfolder)
    place = f"{tmp_path} (vae/)" if subfolder else str(tmp_path)
    assert refusal(tmp_path).startswith(
        f"{place} holds a model of class ConsistencyDecoderVAE; AutoencoderKL and VQModel can be loaded, and to encode"
    )


def test_a_config_without_a_class_is_refused(tmp_path: Path) -> None:
    gaussian().save_pretrained(tmp_path)
    change_config(tmp_path, _class_name=None)
    assert refusal(tmp_path).endswith(f"from {tmp_path}: the config.json in it has no _class_name")
    change_config(tmp_path, _class_name=["AutoencoderKL"])
    assert refusal(tmp_path).startswith(f"{tmp_path} holds a model of class ['AutoencoderKL']; ")
    (tmp_path / "config.json").write_text("{")
    assert refusal(tmp_path).startswith(f"cannot load an autoencoder from {tmp_path}: ")


def test_a_config_of_another_library_does_not_hide_the_autoencoder(tmp_path: Path) -> None:
    model = gaussian()
    model.save_pretrained(tmp_path / "vae")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert_same(load_autoencoder(str(tmp_path)), model)


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"cannot load an autoencoder from {tmp_path}: "
        "there is no config.json in it, nor in a vae/, vqvae/ or movq/ in it"
    )
    for name in (tmp_path / "nowhere", "runs/nowhere/model", "../nowhere", tmp_path / "vae.safetensors"):
        assert refusal(name).startswith(f"{name}: there is no such folder or file")
    (tmp_path / "vae.dat").write_bytes(b"something")
    assert refusal(tmp_path / "vae.dat").startswith(f"{tmp_path / 'vae.dat'} has an unsupported file type")


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    gaussian().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors["decoder.conv_out.weight"], tensors["decoder.conv_in.bias"]
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    assert refusal(tmp_path) == f"{tmp_path} lacks 2 of its weights, the first of them decoder.conv_in.bias"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"latent_channels": 4},
            "has 7 weights that do not fit its config.json: the first of them, decoder.conv_in.weight, has the shape "
            "(8, 2, 3, 3), and the config asks for (8, 4, 3, 3)",
        ),
        (
            {"layers_per_block": 2},
            "lacks 32 of its weights, the first of them decoder.up_blocks.0.resnets.2.conv1.bias",
        ),
        (
            {"use_quant_conv": False},
            "holds 2 weights for which its config.json has no place, the first of them quant_conv.bias",
        ),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gaussian().save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    assert refusal(tmp_path) == f"{tmp_path} {message}"
    assert capfd.readouterr().err == ""  # of diffusers, which would have gone on


@pytest.mark.parametrize(
    "changes", [{"norm_num_groups": 3}, {"block_out_channels": [4]}, {"down_block_types": ["Nothing"] * 2}]
)
def test_a_config_that_cannot_be_built_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    gaussian().save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    assert refusal(tmp_path).startswith(f"cannot load the AutoencoderKL of {tmp_path}: ")


def test_weights_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    gaussian().save_pretrained(tmp_path / "vae")
    weights = tmp_path / "vae" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-10])
    assert refusal(tmp_path).startswith(f"cannot load the AutoencoderKL of {tmp_path} (vae/): ")
    weights.unlink()
    assert refusal(tmp_path).startswith(f"{tmp_path / 'vae'} holds a config.json without weights: ")


def test_weights_of_something_else_beside_the_model_are_left_aside(tmp_path: Path) -> None:
    model = gaussian()
    model.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / WEIGHTS) | {"loss.logvar": torch.zeros(1)}, tmp_path / WEIGHTS, {"format": "pt"})
    assert_same(load_autoencoder(str(tmp_path)), model)


def deterministic(model: Autoencoder) -> Autoencoder:
    with torch.no_grad():
        for n, (_, tensor) in enumerate(sorted(model.state_dict().items())):
            tensor.copy_(((torch.arange(tensor.numel()) * 7 + n) % 13 - 6).reshape(tensor.shape) / 64)
    return model


def test_identities_given_once_stay() -> None:
    """Latents that people have stored carry these: no change of the program may change them."""
    two = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=2,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
    )
    assert encoder_identity(deterministic(two)) == "ee8afcb13e75cd4ee33198392b6467ac6e19394df6ab2dbb67ba4958d8b744e5"
    one = AutoencoderKL(
        block_out_channels=(4,),
        latent_channels=2,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    assert encoder_identity(deterministic(one)) == "bf9f95012d0897bcb2bed81f178e56796158ddc513d8c4ebbe2ab8ccaecbbe8e"


def test_the_codebook_is_of_the_identity_and_the_decoder_is_not() -> None:
    model = deterministic(quantised())
    identity = encoder_identity(model)
    with torch.no_grad():
        model.decoder.conv_in.bias.add_(1)
        model.post_quant_conv.bias.add_(1)
        assert encoder_identity(model) == identity
        model.quantize.embedding.weight[0, 0] += 1e-3
    assert encoder_identity(model) != identity
    assert encoder_identity(deterministic(quantised(num_vq_embeddings=4))) != identity
    assert encoder_identity(deterministic(quantised(vq_embed_dim=4))) != identity


def test_vectors_as_wide_as_the_latents_are_the_same_said_or_not() -> None:
    said, unsaid = (deterministic(quantised(latent_channels=3, vq_embed_dim=width)) for width in (3, None))
    assert encoder_identity(said) == encoder_identity(unsaid)


def test_what_holds_for_either_class() -> None:
    assert [class_name(build()) for build in BUILDERS.values()] == ["AutoencoderKL", "VQModel"]
    assert [factor_of(build()) for build in BUILDERS.values()] == [2, 2]
    pixels = torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        assert latent_shape(gaussian(), (16, 16)) == gaussian().encode(pixels).latent_dist.mode().shape[1:] == (2, 8, 8)
        for width, channels in ((6, 6), (None, 3)):
            model = quantised(vq_embed_dim=width)
            assert latent_shape(model, (16, 16)) == model.encode(pixels).latents.shape[1:] == (channels, 8, 8)


def test_padding_repeats_the_edge_at_the_bottom_and_right() -> None:
    padded = pad_to_factor(torch.arange(6.0).reshape(1, 1, 2, 3), 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert torch.equal(pad_to_factor(padded, 4), padded)


def test_the_first_of_several_is_taken(tmp_path: Path) -> None:
    model, other = gaussian(), quantised()
    model.save_pretrained(tmp_path / "vae")
    other.save_pretrained(tmp_path / "movq")
    assert_same(load_autoencoder(str(tmp_path)), model)
    shutil.rmtree(tmp_path / "vae")
    assert_same(load_autoencoder(str(tmp_path)), other)
