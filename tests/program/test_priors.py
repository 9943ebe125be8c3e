"""Every prior of the table, and one of the test's own, through a whole run to its result, and from a checkpoint on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
import yaml
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file
from torch import Tensor, nn

from latent_ae.config import ModelConfig, load_yaml
from latent_ae.io.image import Pixels
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from latent_ae.priors import PRIORS
from latent_ae.priors.prior import SAMPLES, Batch, Prior, PriorConfig, Samples
from latent_ae.priors.source import LatentSource
from latent_ae.training.checkpoint.files import read_checkpoint, write_checkpoint
from tests.latent_dataset.made import make, settings
from tests.program.forked import ROOT
from tests.program.running import here, load_program, together

pytestmark = pytest.mark.slow  # whole runs

STEPS = 6
SETTINGS = {
    "hierarchy": {"width": 8, "level_channels": 2, "kl_warmup_steps": 2},
    "diffusion": {"width": 8, "depth": 1, "head_width": 8, "patch_size": 2, "inference_steps": 2},
    "tokens": {"width": 8, "depth": 1, "head_width": 8},
}
EARLIER = {
    "hierarchy": {"prior": ["width", "level_channels", "levels_per_grid"], "train": ["kl_warmup_steps", "free_nats"]},
    "diffusion": {
        "network": ["width", "depth", "head_width", "patch_size"],
        "sampling": ["guidance_scale", "inference_steps"],
        "train": ["label_dropout"],
    },
}
"""where earlier versions saved the settings of a prior"""


class Gaussian(ModelMixin, ConfigMixin):
    """A normal distribution of each channel."""

    @register_to_config
    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_std = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, latents: Tensor) -> Tensor:
        return (0.5 * ((latents - self.mean) / self.log_std.exp()).square() + self.log_std).mean()


def raw(row: dict[str, Tensor], _: torch.Generator) -> tuple[Tensor]:
    return (row["latents"],)


class GaussianConfig(PriorConfig):
    """gaussian: a kind that only this test has."""

    SUMMARY: ClassVar[str] = "a normal distribution of each channel"
    RESULT: ClassVar[str] = "prior"
    INDEX: ClassVar[str] = "config.json"
    PROMISE: ClassVar[str] = "it is there"
    SCALED: ClassVar[bool] = False

    kind: Literal["gaussian"] = "gaussian"

    def build(self, source: LatentSource, *, seed: int) -> "GaussianPrior":
        samples = Samples(source.rows, raw, kind="gaussian", seed=seed)
        return GaussianPrior(Gaussian(source.channels), samples, source, seed)


class GaussianPrior(Prior[Gaussian]):
    """Its training."""

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"loss": network(*batch)}

    def draw(self, network: Gaussian) -> Pixels:
        return np.zeros((4, 4, 1), np.uint8)

    def card(self, network: Gaussian, *, name: str, steps: int) -> str:
        return name

    def save(self, network: Gaussian, folder: Path) -> None:
        network.save_pretrained(folder)


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16).save_pretrained(folder / "model")
    given = {"source": "digits", "part": "heldout", "resolution": 16, "shard_images": 512}
    make(settings(folder / "model", folder / "latents", **given))
    codebook = VQConfig(codebook_size=32, code_channels=2)
    build_autoencoder(ModelConfig(preset="tiny"), codebook, seed=0, resolution=16).save_pretrained(folder / "vq")
    make(settings(folder / "vq", folder / "codes", **given))
    return folder / "latents"


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    monkeypatch.setitem(PRIORS, "gaussian", GaussianConfig)
    return here(load_program(ROOT / "train" / "train_prior.py"))


def words(kind: str, latents: Path, out: Path, *more: str) -> list[str]:
    if kind in PRIORS and PRIORS[kind].CODES:
        latents = latents.with_name("codes")
    own = [word for name, value in SETTINGS.get(kind, {}).items() for word in (f"--prior.{name}", str(value))]
    train = {"steps": STEPS, "batch_size": 8, "warmup_steps": 1, "checkpoint_every_steps": 3, "tracker": "none"}
    train |= {"sample_every_steps": 3}
    given = [word for name, value in train.items() for word in (f"--train.{name}", str(value))]
    run = ["--prior.kind", kind, "--latents", str(latents), "--output_dir", str(out), "--name", "run"]
    return [*run, *own, *given, *more]


def weights(run: Path) -> dict[str, Tensor]:
    return {
        f"{file.relative_to(run)}/{name}": tensor
        for part in ("prior", "pipeline")
        for file in sorted((run / part).rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("kind", [*PRIORS, "gaussian"])
def test_a_prior_comes_to_its_result_and_goes_on_from_a_checkpoint(
    kind: str, latents: Path, main: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(kind, latents, tmp_path / "whole")) == 0
    whole, entry = tmp_path / "whole" / "run", PRIORS[kind]
    result = whole / entry.RESULT
    assert (result / entry.INDEX).is_file()
    assert (result / SAMPLES).is_file()
    assert (whole / "samples" / "step-00000003.png").is_file()
    assert entry.PROMISE in capsys.readouterr().out
    halfway = str(whole / "checkpoints" / "step-00000003")
    assert main([*words(kind, latents, tmp_path / "resumed"), "--resume", halfway]) == 0
    ours, theirs = weights(tmp_path / "resumed" / "run"), weights(whole)
    assert theirs
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_train_the_prior_of_codes_that_one_trains(
    latents: Path, main: Callable[[list[str]], int], tmp_path: Path
) -> None:
    done = together(words("tokens", latents, tmp_path / "two"), ROOT / "train" / "train_prior.py")
    assert done.returncode == 0, done.stderr
    assert main(words("tokens", latents, tmp_path / "one", "--train.accumulation", "2")) == 0
    ours, theirs = weights(tmp_path / "two" / "run"), weights(tmp_path / "one" / "run")
    assert theirs
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", EARLIER)
def test_a_checkpoint_with_the_settings_of_earlier_versions_goes_on(
    kind: str, latents: Path, main: Callable[[list[str]], int], tmp_path: Path
) -> None:
    assert main(words(kind, latents, tmp_path / "whole")) == 0
    whole, folder = tmp_path / "whole" / "run", tmp_path / "old" / "run" / "checkpoints"
    saved = load_yaml(whole / "config.yaml")
    prior: Any = saved.pop("prior")
    for section, names in EARLIER[kind].items():
        saved[section] = {**saved.get(section, {}), **{name: prior.pop(name) for name in names}}
    assert prior == {"kind": kind}
    checkpoint = read_checkpoint(whole / "checkpoints" / "step-00000003")
    folder.mkdir(parents=True)
    write_checkpoint(folder, replace(checkpoint, config_yaml=yaml.safe_dump(saved)), keep=2)
    assert main(words(kind, latents, tmp_path / "old")) == 0
    ours, theirs = weights(tmp_path / "old" / "run"), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_a_kind_does_not_have_is_refused(
    latents: Path, main: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, message in (
        (
            words("gaussian", latents, tmp_path, "--prior.depth", "2"),
            "prior.depth has no effect with prior.kind gaussian",
        ),
        (
            ["--latents", str(latents)],
            "--prior.kind is required, expected hierarchy or diffusion or tokens or gaussian",
        ),
        (["--prior.kind", "pixels"], "--prior.kind: got pixels, expected hierarchy"),
        (["--prior.kind", "tokens", "--latents", str(latents)], "holds latents: expected the codes of a VQModel"),
        (["--prior.kind", "hierarchy", "--latents", str(latents.with_name("codes"))], "holds codes: expected the lat"),
    ):
        assert main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
