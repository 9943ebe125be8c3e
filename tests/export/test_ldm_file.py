"""`latent-ae export ldm` and the way back, `latent-ae import`."""

import json
import socket
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
import yaml
from diffusers import AutoencoderKL, VQModel

from latent_ae.data import DigitsConfig
from latent_ae.export.exporter import export
from latent_ae.export.ldm_file import LdmFile, ldm_config
from latent_ae.export.proof import ExportError
from latent_ae.export.source import ModelSource, config_of, read_single_file
from latent_ae.models import load_autoencoder
from latent_ae.models.errors import ModelError
from latent_ae.models.parts import encoder_identity
from latent_ae.models.single_file import CONFIG
from tests.export.conftest import Run, left
from tests.models.stock_models import GAUSSIAN, QUANTISED, arguments, filled, ldm_tensors, stock

DIGITS = DigitsConfig()
ODD = {"one 1x1 convolution"}
"""takes images of four channels"""
WIDE = {"stable diffusion", "flux"}


def source_of(name: str, folder: Path) -> ModelSource:
    """A stock model of one of many architectures, its scale its own."""
    stock(name).save_pretrained(folder)
    model = load_autoencoder(str(folder))
    model.register_to_config(scaling_factor=0.7, shift_factor=-0.1)
    return ModelSource(str(folder), model, encoder_identity(model))


def plain_config(model: AutoencoderKL) -> dict[str, object]:
    config = json.loads(model.to_json_string())
    return {name: value for name, value in config.items() if not name.startswith("_name")}


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        pytest.param(name, prefix, marks=pytest.mark.slow if name in WIDE else ())
        for name, prefix in zip(sorted(GAUSSIAN.keys() - ODD), cycle(["", "first_stage_model."]), strict=False)
    ],
)
def test_any_depth_is_the_same_to_the_last_bit_and_comes_back(name: str, prefix: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path / "model")
    exported = export(source, tmp_path / "vae.safetensors", LdmFile(prefix=prefix), data=DIGITS)
    assert {comparison.max_abs_difference for comparison in exported.proof.comparisons} == {0.0}
    with safetensors.safe_open(exported.out, framework="pt") as file:
        names = file.keys()
    assert all(
        each.startswith(f"{prefix}{part}") for each in names for part in [each.removeprefix(prefix).split(".")[0]]
    )
    assert f"{prefix}decoder.up.0.block.0.conv1.weight" in names
    back = read_single_file(exported.out)
    assert back.identity == source.identity
    assert plain_config(back.model) == plain_config(source.model)
    assert all(tensor.equal(source.model.state_dict()[name]) for name, tensor in back.model.state_dict().items())


def test_the_file_loads_without_a_network(tmp_path: Path, kl: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_arguments: object) -> None:
        raise AssertionError("a connection was asked for")

    export(kl, tmp_path / "vae.safetensors", LdmFile())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    loaded = AutoencoderKL.from_single_file(str(tmp_path / "vae.safetensors"), config=str(tmp_path / "vae.config"))
    assert encoder_identity(loaded) == kl.identity
    assert (loaded.config.norm_num_groups, loaded.config.scaling_factor, loaded.config.shift_factor) == (4, 0.5, 0.25)


def test_what_goes_beside_the_file_comes_back_too(tmp_path: Path, models: Path, run: Run) -> None:
    vae = tmp_path / "vae.safetensors"
    status, said, _ = run("export", "ldm", "--model", models / "kl", "-o", vae)
    assert (status, left(tmp_path)) == (0, ["vae.config", "vae.safetensors"])
    assert "the same to the last bit" in said
    assert run("import", vae, "-o", tmp_path / "back")[0] == 0
    for name in ("README.md", "latent_stats.json", "reconstructions.png", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (models / "kl" / name).read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (models / "kl", tmp_path / "back"))
    assert after == before


def test_a_file_in_half_precision_is_the_model_rounded(tmp_path: Path, kl: ModelSource) -> None:
    export(kl, tmp_path / "vae.safetensors", LdmFile(variant="fp16"))
    tensors = safetensors.torch.load_file(tmp_path / "vae.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert tensors["decoder.conv_out.weight"].equal(kl.model.decoder.conv_out.weight.half())


UNREAD = {
    "latent-diffusion f16": "its key map leaves out attention in levels",
    **dict.fromkeys(QUANTISED, "there is no VQModel.from_single_file"),
}
"""what diffusers' from_single_file does not know, which is no limit of the format"""


@pytest.mark.parametrize(("name", "prefix"), [*zip(UNREAD, cycle(["", "first_stage_model."]), strict=False)])
def test_what_one_loader_cannot_read_is_written_and_comes_back(name: str, prefix: str, tmp_path: Path) -> None:
    stock(name).save_pretrained(tmp_path / "model")
    source = ModelSource.load(str(tmp_path / "model"))
    exported = export(source, tmp_path / "vae.safetensors", LdmFile(prefix=prefix), data=DIGITS)
    assert exported.warnings[0] == f"diffusers' AutoencoderKL.from_single_file cannot read this file: {UNREAD[name]}"
    assert exported.proof.loader == "latent-ae import"
    assert {comparison.max_abs_difference for comparison in exported.proof.comparisons} == {0.0}
    back = read_single_file(exported.out)
    assert back.identity == source.identity
    assert config_of(back.model) == config_of(source.model)
    assert all(tensor.equal(source.model.state_dict()[key]) for key, tensor in back.model.state_dict().items())


def test_from_single_file_does_not_read_attention_in_a_level(tmp_path: Path) -> None:
    source = source_of("latent-diffusion f16", tmp_path / "model")
    export(source, tmp_path / "vae.safetensors", LdmFile())
    with pytest.raises(NotImplementedError):
        AutoencoderKL.from_single_file(str(tmp_path / "vae.safetensors"), config=str(tmp_path / "vae.config"))


def ldm_layout(embed_dim: int, ddconfig: dict[str, Any], n_embed: int | None = None, **_: Any) -> dict[str, list[int]]:
    """Names and shapes of latent-diffusion's AutoencoderKL, or VQModel, by its own constructors' rules."""
    z, width, mult = ddconfig["z_channels"], ddconfig["ch"], ddconfig["ch_mult"]
    layers, attended, moments = ddconfig["num_res_blocks"], ddconfig["attn_resolutions"], 1 + ddconfig["double_z"]
    weights: dict[str, list[int]] = {}

    def conv(name: str, given: int, made: int, kernel: int = 3) -> None:
        weights[name] = [made, given, kernel, kernel]

    def block(name: str, given: int, made: int) -> None:
        weights.update({f"{name}.norm1": [given], f"{name}.norm2": [made]})
        conv(f"{name}.conv1", given, made)
        conv(f"{name}.conv2", made, made)
        if given != made:
            conv(f"{name}.nin_shortcut", given, made, 1)

    def attention(name: str, channels: int) -> None:
        weights[f"{name}.norm"] = [channels]
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", channels, channels, 1)

    widths = [width * each for each in mult]
    for side, resampled, order in (("encoder", "down", 1), ("decoder", "up", -1)):
        levels = list(range(len(widths)))[::order]
        channels = width if side == "encoder" else widths[-1]
        conv(f"{side}.conv_in", *((ddconfig["in_channels"], width) if side == "encoder" else (z, channels)))
        for level in levels:
            for layer in range(layers + (side == "decoder")):
                block(f"{side}.{resampled}.{level}.block.{layer}", channels, widths[level])
                channels = widths[level]
                if ddconfig["resolution"] // 2**level in attended:
                    attention(f"{side}.{resampled}.{level}.attn.{layer}", channels)
            if level != levels[-1]:
                conv(f"{side}.{resampled}.{level}.{resampled}sample.conv", channels, channels)
        for number in (1, 2):
            block(f"{side}.mid.block_{number}", widths[-1], widths[-1])
        attention(f"{side}.mid.attn_1", widths[-1])
        weights[f"{side}.norm_out"] = [channels]
        conv(f"{side}.conv_out", channels, moments * z if side == "encoder" else ddconfig["out_ch"])
    conv("quant_conv", moments * z, moments * embed_dim, 1)
    conv("post_quant_conv", embed_dim, z, 1)
    layout = {f"{name}.weight": shape for name, shape in weights.items()}
    layout |= {f"{name}.bias": shape[:1] for name, shape in weights.items()}
    return layout if n_embed is None else layout | {"quantize.embedding.weight": [n_embed, embed_dim]}


@pytest.mark.parametrize(
    "name",
    ["one level", "stable diffusion", "latent-diffusion f16", "codebook", "wider vectors", "vqgan"],
)
def test_names_and_shapes_are_those_of_latent_diffusions_own_model(name: str) -> None:
    tensors = ldm_tensors(stock(name))
    params = ldm_config(stock(name))["params"]
    assert {key: list(tensor.shape) for key, tensor in tensors.items()} == ldm_layout(**params)


def test_the_config_of_latent_diffusion_goes_beside_the_file_where_it_has_such_a_model(
    vq: ModelSource, tmp_path: Path
) -> None:
    wide = arguments(32, 64, attention=(1,), layers_per_block=2, num_vq_embeddings=7, vq_embed_dim=6, latent_channels=2)
    filled(VQModel, wide | {"norm_num_groups": 32}).save_pretrained(tmp_path / "model")
    export(ModelSource.load(str(tmp_path / "model")), tmp_path / "vae.safetensors", LdmFile(), data=DIGITS)
    assert yaml.safe_load((tmp_path / "vae.config" / "ldm.yaml").read_text()) == {
        "target": "ldm.models.autoencoder.VQModel",
        "params": {
            "embed_dim": 6,
            "n_embed": 7,
            "ddconfig": {
                "double_z": False,
                "z_channels": 2,
                "resolution": 64,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 32,
                "ch_mult": [1, 2],
                "num_res_blocks": 2,
                "attn_resolutions": [32],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    }
    export(vq, tmp_path / "four groups.safetensors", LdmFile())  # it has 32, always
    assert not (tmp_path / "four groups.config" / "ldm.yaml").exists()


def test_another_suffix_is_refused_before_the_model_is_loaded(tmp_path: Path, run: Run) -> None:
    status, _, errors = run("export", "ldm", "--model", "photos-kl", "-o", tmp_path / "vae.ckpt")
    assert (status, left(tmp_path)) == (2, [])
    assert errors == [f"--out {tmp_path / 'vae.ckpt'}: expected the name of a file that ends in .safetensors"]


# ------------------------------------------------------------------------------------------------------------- import


@pytest.fixture
def bare(tmp_path: Path, kl: ModelSource) -> Path:
    """A file without metadata, as others write it."""
    export(kl, tmp_path / "full.safetensors", LdmFile())
    safetensors.torch.save_file(
        safetensors.torch.load_file(tmp_path / "full.safetensors"), tmp_path / "bare.safetensors"
    )
    return tmp_path / "bare.safetensors"


def test_what_a_file_does_not_say_is_given(bare: Path, tmp_path: Path, kl: ModelSource, run: Run) -> None:
    options = ("--norm-num-groups", 4, "--scaling-factor", 0.5, "--shift-factor", 0.25)
    assert run("import", bare, "-o", tmp_path / "model", *options)[0] == 0
    model = load_autoencoder(str(tmp_path / "model"))
    assert encoder_identity(model) == kl.identity
    assert (model.config["scaling_factor"], model.config["shift_factor"]) == (0.5, 0.25)


def test_a_scale_that_nobody_states_is_warned_of(bare: Path, tmp_path: Path, run: Run) -> None:
    _, said, _ = run("import", bare, "-o", tmp_path / "unstated", "--norm-num-groups", 4)
    assert f"warning: {bare} does not state the scale of its latents, so the config has scaling_factor 1" in said
    _, said, _ = run("import", bare, "-o", tmp_path / "given", "--norm-num-groups", 4, "--scaling-factor", 0.5)
    assert "warning" not in said
    _, said, _ = run("import", bare.with_name("full.safetensors"), "-o", tmp_path / "stated")
    assert "warning" not in said


def test_compat_says_that_nobody_states_the_scale(tmp_path: Path, models: Path, run: Run) -> None:
    model = stock("stable diffusion")  # its groups are those that a file has if nothing is said
    safetensors.torch.save_file(ldm_tensors(model), tmp_path / "vae.safetensors")
    _, said, _ = run("compat", tmp_path / "vae.safetensors")
    assert f"warning: {tmp_path / 'vae.safetensors'} does not state the scale of its latents" in said
    assert "warning" not in run("compat", models / "kl")[1]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--scaling-factor", "0", "must be a positive number, got 0"),
        ("--scaling-factor", "nan", "must be a positive number, got nan"),
        ("--shift-factor", "inf", "must be a finite number, got inf"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(
    option: str, value: str, message: str, *, bare: Path, tmp_path: Path, run: Run
) -> None:
    status, _, errors = run("import", bare, "-o", tmp_path / "model", "--norm-num-groups", 4, option, value)
    assert (status, errors) == (2, [f"{option} {message}"])


def test_the_file_is_a_model_as_its_folder_is(tmp_path: Path, kl: ModelSource) -> None:
    export(kl, tmp_path / "vae.safetensors", LdmFile())
    model = load_autoencoder(str(tmp_path / "vae.safetensors"))
    assert encoder_identity(model) == kl.identity
    assert plain_config(model) == plain_config(kl.model)
    with pytest.raises(ModelError, match="states its own norm_num_groups: leave it out"):
        load_autoencoder(str(tmp_path / "vae.safetensors"), norm_num_groups=4)


def test_groups_that_are_not_given_are_asked_for(bare: Path, tmp_path: Path, run: Run) -> None:
    status, _, errors = run("import", bare, "-o", tmp_path / "model")
    assert status == 2
    assert "norm_num_groups 32 does not divide" in errors[0]


def test_what_a_file_says_is_not_given_again(tmp_path: Path, kl: ModelSource) -> None:
    export(kl, tmp_path / "vae.safetensors", LdmFile())
    with pytest.raises(ExportError, match="states its own scaling_factor: leave it out"):
        read_single_file(tmp_path / "vae.safetensors", scaling_factor=1.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object, got list"),
        ("{}", "is not the config of an AutoencoderKL or VQModel"),
        ('{"_class_name": "AutoencoderKL", "norm_num_groups": 3}', "norm_num_groups 3 does not divide"),
        ('{"_class_name": "AutoencoderKL", "norm_num_groups": 4}', "contradict its tensors"),
        ('{"_class_name": "AutoencoderKL", "norm_num_groups": 4, "block_out_channels": 7}', "contradict its tensors"),
    ],
)
def test_metadata_that_are_wrong_are_refused(config: str, message: str, bare: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(bare), wrong, metadata={CONFIG: config})
    with pytest.raises((ExportError, ModelError), match=message) as caught:
        read_single_file(wrong)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, run: Run) -> None:
    status, _, errors = run("import", tmp_path / "vae.safetensors", "-o", tmp_path / "model")
    assert (status, len(errors), left(tmp_path)) == (2, 1, [])
