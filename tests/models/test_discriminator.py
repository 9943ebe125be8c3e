import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latent_ae.models import ModelError
from latent_ae.models.discriminator import (
    PatchDiscriminator,
    load_discriminator,
    minimum_side,
    save_discriminator,
)


def tiny(**changes: object) -> PatchDiscriminator:
    return PatchDiscriminator(**{"in_channels": 1, "layers": 2, "width": 4, "seed": 0, **changes})  # type: ignore[arg-type]  # of all types


def pixels(count: int = 2, side: int = 24, channels: int = 1) -> torch.Tensor:
    return torch.rand(count, channels, side, side) * 2 - 1


def test_the_standard_one_has_the_parameters_of_the_original() -> None:
    # 16 weights a pair of channels, a bias where no normalisation follows, two a normalised channel:
    # (3*64*16 + 64) + (64*128*16 + 2*128) + (128*256*16 + 2*256) + (256*512*16 + 2*512) + (512*16 + 1)
    standard = PatchDiscriminator(3, seed=0)
    assert sum(parameter.numel() for parameter in standard.parameters()) == 2_765_633
    # Without normalisation every convolution has a bias: one a channel instead of two.
    plain = PatchDiscriminator(3, normalization="none", seed=0)
    assert sum(parameter.numel() for parameter in plain.parameters()) == 2_765_633 - (128 + 256 + 512)


def test_256_pixels_give_30_by_30_logits() -> None:
    assert tiny(layers=3)(pixels(side=256)).shape == (2, 1, 30, 30)
    assert tiny(layers=3)(torch.zeros(2, 1, 96, 48)).shape == (2, 1, 10, 4)


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_the_receptive_field_is_that_of_the_paper(layers: int, field: int) -> None:
    side = 16 * 2**layers  # room for the field around a logit in the middle
    image = pixels(1, side).requires_grad_()
    logits = tiny(layers=layers, width=2, normalization="none")(image)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], image)
    seen = gradient[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [field, field]


@pytest.mark.parametrize("normalization", ["group", "none"])
def test_an_images_logits_do_not_depend_on_the_batch(normalization: str) -> None:
    discriminator, images = tiny(normalization=normalization), pixels(4)
    torch.testing.assert_close(discriminator(images)[1:2], discriminator(images[1:2]))


@pytest.mark.parametrize(("width", "groups"), [(64, [32, 32, 32]), (4, [2, 4, 8]), (5, [2, 4, 8]), (1, [1, 1, 2])])
def test_groups_are_as_many_as_divide_the_width_with_4_channels_in_each(width: int, groups: list[int]) -> None:
    layers = PatchDiscriminator(1, layers=3, width=width, seed=0).modules()
    assert [layer.num_groups for layer in layers if isinstance(layer, torch.nn.GroupNorm)] == groups


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("normalization", ["group", "none"])
def test_the_minimum_side_gives_one_logit_and_one_pixel_less_an_error(layers: int, normalization: str) -> None:
    discriminator = tiny(layers=layers, normalization=normalization)
    least = minimum_side(layers)
    assert discriminator(pixels(1, least)).shape == (1, 1, 1, 1)
    with pytest.raises(ModelError, match=f"at least {least} pixels, got {least}x{least - 1}"):
        discriminator(pixels(1, least)[..., :-1])


def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (tiny(width=64, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    kernels = [name for name, tensor in first.items() if tensor.dim() == 4]
    assert not any(torch.equal(first[name], other[name]) for name in kernels)
    for name in kernels:
        assert first[name].std().item() == pytest.approx(0.02, rel=0.1)
    assert all(set(first[name].tolist()) <= {0.0, 1.0} for name in first.keys() - set(kernels))


def test_other_channels_are_an_error() -> None:
    with pytest.raises(ModelError, match="images of 1 channels, got 3"):
        tiny()(pixels(channels=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"layers": 0}, "got in_channels 1, layers 0"), ({"normalization": "batch"}, "'batch'; there are group, none")],
)
def test_arguments_that_give_no_network_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(**changes)


@pytest.mark.parametrize("normalization", ["group", "none"])
def test_a_saved_discriminator_loads_to_the_last_bit(tmp_path: Path, normalization: str) -> None:
    saved = tiny(seed=5, normalization=normalization)
    save_discriminator(tmp_path / "new" / "folder", saved)
    before = torch.random.get_rng_state()
    loaded = load_discriminator(tmp_path / "new" / "folder", in_channels=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert loaded.settings() == saved.settings() == {**saved.settings(), "layers": 2, "width": 4}
    images = pixels()
    assert torch.equal(loaded(images), saved(images))


def _without(name: str):
    return lambda folder: (folder / name).unlink()


def _config(**changes: object):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def _short_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])


def _extra_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "network.99.weight": torch.zeros(1)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("config.json"), "it has no config.json"),
        (_without("model.safetensors"), "it has no model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "does not describe a PatchDiscriminator"),
        (lambda folder: (folder / "config.json").write_text("[]"), "does not describe a PatchDiscriminator"),
        (lambda folder: (folder / "config.json").write_text("{}"), "it lacks '_class_name'"),
        (_config(_class_name="AutoencoderKL"), "its class is AutoencoderKL"),
        (_config(layers="2"), "does not describe a PatchDiscriminator"),
        (_config(layers=0), "layers 0"),
        (_config(in_channels=3), "images of 3 channels, the run has images of 1"),
        (
            _config(width=8),
            r"does not fit its config.json: .*size mismatch for network.0.weight: .*\[4, 1, 4, 4\].*\[8, 1, 4, 4\]",
        ),
        (_config(layers=3), r"Missing key\(s\) in state_dict: .*network\.11"),
        (_extra_tensor, r'Unexpected key\(s\) in state_dict: "network.99.weight"'),
        (_short_file, "cannot read the weights"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_a_line(tmp_path: Path, damage, message: str) -> None:
    save_discriminator(tmp_path, tiny())
    damage(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        load_discriminator(tmp_path, in_channels=1)
    assert "\n" not in str(caught.value)
