"""Every architecture comes back from its tensors alone; diffusers' own loader is the oracle."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.errors import ModelError
from latent_ae.models.parts import encoder_identity
from latent_ae.models.single_file import load_single_file
from tests.models.stock_models import ARCHITECTURES, assert_same, groups, ldm_tensors, outputs, stock


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_architecture_follows_from_the_tensors(name: str, layout: str, tmp_path: Path) -> None:
    model = stock(name)
    save_file(ldm_tensors(model) if layout == "ldm" else model.state_dict(), tmp_path / "vae.safetensors")
    before = torch.random.get_rng_state()
    loaded = load_single_file(tmp_path / "vae.safetensors", norm_num_groups=groups(name))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same(loaded, model)
    neutral = {"scaling_factor": 1.0, "shift_factor": 0.0, "sample_size": 512}
    expected = plain_config(model)
    expected |= {key: value for key, value in neutral.items() if key in expected}
    if "vq_embed_dim" in expected:
        expected["vq_embed_dim"] = expected["vq_embed_dim"] or expected["latent_channels"]
    assert plain_config(loaded) == expected
    assert encoder_identity(loaded) == encoder_identity(model)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def plain_config(model: Autoencoder) -> dict[str, Any]:
    """What the constructor was given or took by default."""
    given = {key: value for key, value in model.config.items() if not key.startswith("_")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_it_is_what_diffusers_loads_with_a_config(prefix: str, tmp_path: Path) -> None:
    model = stock("stable diffusion")
    model.save_config(tmp_path / "config")
    save_file(ldm_tensors(model, prefix), tmp_path / "vae.safetensors")
    theirs = AutoencoderKL.from_single_file(tmp_path / "vae.safetensors", config=str(tmp_path / "config"))
    assert_same(load_single_file(tmp_path / "vae.safetensors"), theirs)


UNET = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2), "cond_stage_model.encoder.down": torch.ones(1)}


@pytest.mark.parametrize(
    ("prefix", "suffix", "layout"),
    [
        ("first_stage_model.", "safetensors", "ldm"),
        ("first_stage_model.", "ckpt", "ldm"),
        ("first_stage_model.", "pth", "diffusers"),
        ("vae.", "safetensors", "ldm"),
        ("vae.", "pt", "diffusers"),
        ("vae.", "bin", "ldm"),
    ],
)
def test_it_is_found_in_a_whole_checkpoint(prefix: str, suffix: str, layout: str, tmp_path: Path) -> None:
    model = stock("stable diffusion")
    own = ldm_tensors(model) if layout == "ldm" else model.state_dict()
    tensors = UNET | {prefix + name: tensor for name, tensor in own.items()}
    tensors[prefix + "loss.logvar"] = torch.zeros(())
    file = tmp_path / f"model.{suffix}"
    if suffix == "safetensors":
        save_file(tensors, file)
    else:
        nested = {"state_dict": tensors | {"step": 3}, "global_step": 3, "callbacks": {"best": None}}
        torch.save(nested if suffix == "ckpt" else tensors, file, _use_new_zipfile_serialization=suffix != "bin")
    assert_same(load_single_file(file), model)


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "state_dict.", "autoencoder.", "net.vae.", "model.first_stage_model."),
        *("module._orig_mod.", "_orig_mod.module.model.", "state_dict.model.module.first_stage_model._orig_mod."),
    ],
)
def test_whatever_stands_before_its_names_is_taken_off(prefix: str, layout: str, tmp_path: Path) -> None:
    model = stock("no attention")
    own = ldm_tensors(model) if layout == "ldm" else model.state_dict()
    save_file(UNET | {prefix + name: tensor for name, tensor in own.items()}, tmp_path / "vae.safetensors")
    assert_same(load_single_file(tmp_path / "vae.safetensors", norm_num_groups=4), model)


def test_wrapped_modules_within_it_are_unwrapped(tmp_path: Path) -> None:
    model = stock("no attention")
    own = model.state_dict()
    wrapped = {
        name.replace("coder.", "coder._orig_mod.").replace(".conv1.", ".module.conv1."): own[name] for name in own
    }
    save_file(wrapped, tmp_path / "vae.safetensors")
    assert_same(load_single_file(tmp_path / "vae.safetensors", norm_num_groups=4), model)
    save_file(own | {"module.encoder.conv_in.bias": torch.ones(4)}, tmp_path / "twice.safetensors")
    assert "holds encoder.conv_in.bias more than once" in refusal(tmp_path / "twice.safetensors", norm_num_groups=4)


@pytest.mark.parametrize("prefix", ["first_stage_model.", "state_dict.first_stage_model.", "vae."])
def test_a_diffusion_models_own_is_taken_before_that_of_a_conditioner(prefix: str, tmp_path: Path) -> None:
    model, own = stock("no attention"), ldm_tensors(stock("no attention"))
    other = {f"conditioner.embedders.3.encoder.{name}": torch.zeros_like(tensor) for name, tensor in own.items()}
    save_file(other | {prefix + name: tensor for name, tensor in own.items()}, tmp_path / "model.safetensors")
    assert_same(load_single_file(tmp_path / "model.safetensors", norm_num_groups=4), model)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_of_two_autoencoders_none_is_taken_unasked(suffix: str, tmp_path: Path) -> None:
    model = stock("no attention")
    own = model.state_dict()
    both = {f"{part}.{name}": tensor.clone() for part in ("ema", "model") for name, tensor in own.items()}
    file = tmp_path / f"vae.{suffix}"
    if suffix == "pt":
        torch.save({"model": own, "ema": own, "epoch": 3}, file)
    else:
        save_file(both, file)
    assert refusal(file, norm_num_groups=4) == (
        f"{file} holds 2 autoencoders, under the names ema., model.: save the one that you mean in a file of its own"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_come_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = stock("stable diffusion")
    tensors = {name: tensor.to(dtype) for name, tensor in ldm_tensors(model).items()}
    save_file(tensors, tmp_path / "vae.safetensors")
    assert_same(load_single_file(tmp_path / "vae.safetensors"), deepcopy(model).to(dtype).float())


def test_the_model_does_not_hang_on_its_file(tmp_path: Path) -> None:
    model = stock("stable diffusion")
    for file in (tmp_path / "vae.safetensors", tmp_path / "vae.ckpt"):
        save = save_file if file.suffix == ".safetensors" else torch.save
        save(ldm_tensors(model), file)
        loaded = load_single_file(file)
        with file.open("r+b") as stream:
            stream.write(bytes(file.stat().st_size))
        assert_same(loaded, model)


def test_the_oldest_names_of_diffusers_are_known(tmp_path: Path) -> None:
    model = stock("stable diffusion")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = model.state_dict()
    for new, name in old.items():
        tensors = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for key, t in tensors.items()}
    assert sum(".query." in name for name in tensors) == 4
    save_file(tensors, tmp_path / "vae.safetensors")
    assert_same(load_single_file(tmp_path / "vae.safetensors"), model)


def without(*names: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in names:
            del tensors[name]

    return change


def with_tensor(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: torch.zeros(shape, dtype=dtype)})


def without_level(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("decoder.up.3.")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("decoder.up.3.block.0.conv1.bias", "quant_conv.bias"),
            "lacks 2 of its tensors, the first of them first_stage_model.decoder.up.3.block.0.conv1.bias",
        ),
        (
            without("encoder.conv_in.weight"),
            "lacks 1 of its tensors, the first of them first_stage_model.encoder.conv_in.weight",
        ),
        (
            with_tensor("decoder.mid.attn_1.q.weight", 64, 32, 1, 1),
            "contradicts itself: first_stage_model.decoder.mid.attn_1.q.weight has the shape (64, 32), "
            "and (64, 64) fits the others",
        ),
        (
            with_tensor("decoder.up.0.block.1.conv2.weight", 32, 16, 3, 3),
            "contradicts itself: first_stage_model.decoder.up.0.block.1.conv2.weight has the shape (32, 16, 3, 3), "
            "and (32, 32, 3, 3) fits the others",
        ),
        (
            with_tensor("encoder.conv_in.weight", 32, 3, 3, 3, 3),
            "contradicts itself: first_stage_model.encoder.conv_in.weight has the shape (32, 3, 3, 3, 3), "
            "and (32, 3, 3, 3) fits the others",
        ),
        (
            with_tensor("encoder.conv_in.weight", 32),
            ": first_stage_model.encoder.conv_in.weight has the shape (32,), which no such layer has",
        ),
        (
            with_tensor("decoder.conv_in.weight", 64, 0, 3, 3),
            ": first_stage_model.decoder.conv_in.weight has the shape (64, 0, 3, 3), which no such layer has",
        ),
        (
            with_tensor("encoder.down.0.block.2.conv1.weight", 32, 32, 3, 3),
            "lacks 63 of its tensors, the first of them first_stage_model.encoder.down.0.block.2.norm1.weight",
        ),
        (
            with_tensor("encoder.down.0.block.0.temb_proj.weight", 2, 2),
            "holds 1 tensors for which AutoencoderKL has no place, the first of them "
            "first_stage_model.encoder.down.0.block.0.temb_proj.weight",
        ),
        (
            with_tensor("bn.running_mean", 128),
            "holds 1 tensors for which AutoencoderKL has no place, the first of them first_stage_model.bn.running_mean",
        ),
        (
            without_level,
            "has the levels [0, 1, 2, 3] in its encoder and [0, 1, 2] in its decoder; the same are expected, from 0 on",
        ),
        (
            with_tensor("encoder.conv_out.bias", 8, dtype=torch.int8),
            ": first_stage_model.encoder.conv_out.bias is quantised to torch.int8: use the file that it was made from",
        ),
    ],
)
def test_what_is_no_whole_autoencoder_is_refused(
    change: Callable[[dict[str, Tensor]], None], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "vae.safetensors"
    tensors = ldm_tensors(stock("stable diffusion"))
    change(tensors)
    save_file({f"first_stage_model.{name}": tensor for name, tensor in tensors.items()}, file)
    with pytest.raises(ModelError) as error:
        load_single_file(file)
    assert str(error.value).startswith(str(file))
    assert str(error.value).removeprefix(str(file)).strip() == message


def refusal(file: Path, **options: int) -> str:
    with pytest.raises(ModelError) as error:
        load_single_file(file, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_no_file_says_has_to_be_given(tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    save_file(ldm_tensors(stock("no attention")), file)
    assert refusal(file).startswith(
        f"{file} has the widths (4, 8), which norm_num_groups 32 does not divide: give the "
    )
    assert "norm_num_groups 0 does not" in refusal(file, norm_num_groups=0)
    one, two = (load_single_file(file, norm_num_groups=number) for number in (4, 1))
    assert not torch.equal(outputs(one)[1], outputs(two)[1])  # the number matters


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "vae.safetensors") == f"there is no file {tmp_path / 'vae.safetensors'}"


def test_a_file_without_autoencoder_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({f"encoder.layers.{n}.weight": torch.zeros(1) for n in range(5)}, file)
    assert refusal(file) == (
        f"{file} holds no autoencoder: names like encoder.down.0.block.0.norm1.weight were expected, the first of "
        "its 5 tensors are encoder.layers.0.weight, encoder.layers.1.weight, encoder.layers.2.weight"
    )
    torch.save({"state_dict": {}}, tmp_path / "model.pt")
    assert refusal(tmp_path / "model.pt").endswith("the first of its 0 tensors are none")
    torch.save([torch.zeros(1)], tmp_path / "model.pt")
    assert refusal(tmp_path / "model.pt").endswith(
        " holds a list, expected a dict of tensors: save its state_dict() instead"
    )


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"vae.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(ldm_tensors(stock("one level")), file)
    whole = file.read_bytes()
    for part in (whole[:-1], whole[:-1000], whole[: len(whole) // 2], whole[:100]):
        file.write_bytes(part)
        assert refusal(file, norm_num_groups=4).startswith(f"{file} is not a complete ")


def test_a_codebook_missing_from_its_file_is_named(tmp_path: Path) -> None:
    tensors = ldm_tensors(stock("codebook"))
    codebook = tensors.pop("quantize.embedding.weight")
    save_file(tensors, tmp_path / "alone.safetensors")  # then it is an AutoencoderKL, whose encoder gives moments
    assert "contradicts itself: " in refusal(tmp_path / "alone.safetensors", norm_num_groups=4)
    save_file(tensors | {"quantize.embed.weight": codebook}, tmp_path / "gumbel.safetensors")
    assert refusal(tmp_path / "gumbel.safetensors", norm_num_groups=4).endswith(
        "lacks 1 of its tensors, the first of them quantize.embedding.weight"
    )


def test_saved_again_it_is_a_stock_folder(tmp_path: Path) -> None:
    for name in ("stable diffusion", "movq"):
        save_file(ldm_tensors(stock(name)), tmp_path / "vae.safetensors")
        loaded = load_single_file(tmp_path / "vae.safetensors", norm_num_groups=groups(name))
        loaded.save_pretrained(tmp_path / name)
        assert load_file(tmp_path / name / "diffusion_pytorch_model.safetensors").keys() == loaded.state_dict().keys()
        assert_same(type(loaded).from_pretrained(tmp_path / name), loaded)
