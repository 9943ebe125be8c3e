"""`latent-ae export ldm` and the way back, `latent-ae import`."""

import json
import socket
from itertools import cycle
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from diffusers import AutoencoderKL

from latent_ae.config import DataConfig
from latent_ae.export import ExportError, LdmFile, ModelSource, export
from latent_ae.export.importing import Unsaid, read_single_file
from latent_ae.export.probes import make_probes
from latent_ae.models import load_autoencoder
from latent_ae.models.errors import ModelError
from latent_ae.models.identity import encoder_identity
from latent_ae.models.single_file import CONFIG
from tests.export.conftest import Run, left
from tests.models.stock_models import GAUSSIAN, stock

DIGITS = DataConfig(source="digits")
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
    back = read_single_file(exported.out, Unsaid())
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


def test_attention_in_a_level_is_refused(tmp_path: Path) -> None:
    source = source_of("latent-diffusion f16", tmp_path / "model")
    with pytest.raises(ExportError, match="attention in a level of its own is left out by its key map"):
        export(source, tmp_path / "vae.safetensors", LdmFile())
    # And rightly: what would be written does not load.
    LdmFile().write(source, tmp_path / "vae.safetensors", make_probes(source.model, DIGITS))
    with pytest.raises(NotImplementedError):
        AutoencoderKL.from_single_file(str(tmp_path / "vae.safetensors"), config=str(tmp_path / "vae.config"))


def test_another_suffix_is_refused_before_the_model_is_loaded(tmp_path: Path, run: Run) -> None:
    status, _, errors = run("export", "ldm", "--model", tmp_path / "nothing", "-o", tmp_path / "vae.ckpt")
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
    with pytest.raises(ModelError, match="states its norm_num_groups by itself: leave it out"):
        load_autoencoder(str(tmp_path / "vae.safetensors"), norm_num_groups=4)


def test_groups_that_are_not_given_are_asked_for(bare: Path, tmp_path: Path, run: Run) -> None:
    status, _, errors = run("import", bare, "-o", tmp_path / "model")
    assert status == 2
    assert "norm_num_groups 32 does not divide" in errors[0]


def test_what_a_file_says_is_not_given_again(tmp_path: Path, kl: ModelSource) -> None:
    export(kl, tmp_path / "vae.safetensors", LdmFile())
    with pytest.raises(ExportError, match="says its scaling_factor by itself: leave it out"):
        read_single_file(tmp_path / "vae.safetensors", Unsaid(scaling_factor=1.0))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no object: got list"),
        ("{}", "is no config of AutoencoderKL or VQModel"),
        ('{"_class_name": "AutoencoderKL", "norm_num_groups": 3}', "norm_num_groups 3 does not divide"),
        ('{"_class_name": "AutoencoderKL", "norm_num_groups": 4}', "contradict its tensors"),
        ('{"_class_name": "AutoencoderKL", "norm_num_groups": 4, "block_out_channels": 7}', "contradict its tensors"),
    ],
)
def test_metadata_that_are_wrong_are_refused(config: str, message: str, bare: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(bare), wrong, metadata={CONFIG: config})
    with pytest.raises((ExportError, ModelError), match=message) as caught:
        read_single_file(wrong, Unsaid())
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, run: Run) -> None:
    status, _, errors = run("import", tmp_path / "vae.safetensors", "-o", tmp_path / "model")
    assert (status, len(errors), left(tmp_path)) == (2, 1, [])
