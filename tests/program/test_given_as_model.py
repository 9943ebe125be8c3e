"""Whatever the programs write, given where a model is expected: it is read, or one line says what it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latent_ae.data import DigitsConfig
from latent_ae.errors import UserError
from latent_ae.export.diffusers_folder import DiffusersFolder
from latent_ae.export.exporter import export
from latent_ae.export.ldm_file import LdmFile
from latent_ae.export.source import ModelSource, read_single_file
from latent_ae.models import load_autoencoder
from latent_ae.models.discriminator import load_discriminator
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.loading import states_scaling
from latent_ae.models.parts import encoder_identity
from latent_ae.models.prior_loading import load_prior
from tests.cli.conftest import Run, run
from tests.program.running import arguments
from tests.program.variants import NO_KL, SMALL_GAN, VARIANTS, finetune_arguments

__all__ = ["run"]
pytestmark = pytest.mark.slow  # whole runs and exports

STEPS = 4
LAST = f"run/checkpoints/step-{STEPS:08d}"


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory, train_module) -> Path:
    """What the programs here write, in one folder."""
    folder = tmp_path_factory.mktemp("products")
    assert train_module.main(arguments(folder, STEPS, "--adversarial.loss", "hinge", *SMALL_GAN)) == 0
    source = ModelSource.load(str(folder / "run" / "model"))
    exporters = {
        "diffusers": DiffusersFolder(),
        "fp16": DiffusersFolder(("fp16",)),
        "vae.safetensors": LdmFile(),
        "half.safetensors": LdmFile(variant="fp16"),
        "prefixed.safetensors": LdmFile(prefix="first_stage_model."),
        "mislabelled.ckpt": LdmFile(),
    }
    for name, exporter in exporters.items():
        place = folder / Path(name).with_suffix(".safetensors") if "." in name else folder / name
        export(source, place, exporter, data=DigitsConfig())
        if place.name != name:
            place.rename(folder / name)
    unfinished = shutil.copytree(folder / "run", folder / "unfinished")
    shutil.rmtree(unfinished / "model")
    (folder / "started").mkdir()
    shutil.copyfile(folder / "run" / "config.yaml", folder / "started" / "config.yaml")
    shape = {"channels": source.model.config["latent_channels"], "side": 8}
    prior = HierarchicalPrior(**shape, width=8, level_channels=2, encoder_identity=source.identity)
    prior.save_pretrained(folder / "hierarchy" / "prior")
    source.model.save_pretrained(folder / "diffusion" / "pipeline" / "vae")
    for each in ("hierarchy", "diffusion"):
        shutil.copyfile(folder / "run" / "config.yaml", folder / each / "config.yaml")
    (folder / "latents").mkdir()
    (folder / "latents" / "index.parquet").write_bytes(b"PAR1")
    return folder


CONSUMERS: dict[str, Callable[[Path], Any]] = {
    "--model": lambda path: load_autoencoder(str(path)),  # and --model.init_from, app.py --model
    "import": read_single_file,
    "--prior": lambda path: load_prior(str(path)),
    "--adversarial.init_from": lambda path: load_discriminator(path, in_channels=1),
}
READ = "read"
A_FOLDER = "is a folder: give a single file, or a run's checkpoint"
NO_PRIOR, NO_DISCRIMINATOR, NO_WEIGHTS = (
    "cannot load a prior from",
    "is no discriminator",
    "it has no model.safetensors",
)
OTHER_PRIOR = "holds a model of class AutoencoderKL, expected a prior: HierarchicalPrior or"
PART, CHECKPOINT = "is part of a diffusers folder", "is part of a checkpoint and holds no model: give the folder"
RUN = "is the folder of a run"

TABLE: dict[str, tuple[str, str, str, str]] = {
    # what is given: as --model, to import, as --prior, as --adversarial.init_from
    "run/model": (READ, A_FOLDER, OTHER_PRIOR, NO_WEIGHTS),
    "run": (READ, A_FOLDER, NO_PRIOR, READ),
    "run/discriminator": ("holds a model of class PatchDiscriminator", A_FOLDER, "of class PatchDiscriminator", READ),
    "run/model/diffusion_pytorch_model.safetensors": (PART, PART, NO_PRIOR, NO_DISCRIMINATOR),
    LAST: (READ, READ, NO_PRIOR, NO_DISCRIMINATOR),
    f"{LAST}/weights.safetensors": (READ, READ, NO_PRIOR, NO_DISCRIMINATOR),
    f"{LAST}/ema.safetensors": (READ, READ, NO_PRIOR, NO_DISCRIMINATOR),
    f"{LAST}/optimizer.safetensors": (CHECKPOINT, CHECKPOINT, NO_PRIOR, NO_DISCRIMINATOR),
    f"{LAST}/discriminator.safetensors": (CHECKPOINT, CHECKPOINT, NO_PRIOR, NO_DISCRIMINATOR),
    "run/checkpoints": ("holds the checkpoints of a run: give one of", A_FOLDER, NO_PRIOR, NO_DISCRIMINATOR),
    "unfinished": (f"{RUN} without a result yet: run the same command to finish it, or give", A_FOLDER, NO_PRIOR, READ),
    "started": (f"{RUN} without a result or a checkpoint yet", A_FOLDER, NO_PRIOR, NO_DISCRIMINATOR),
    "": ("holds runs: give one of them, such as", A_FOLDER, NO_PRIOR, NO_DISCRIMINATOR),
    "diffusers": (READ, A_FOLDER, OTHER_PRIOR, NO_WEIGHTS),
    "fp16": (READ, A_FOLDER, OTHER_PRIOR, NO_WEIGHTS),
    "vae.safetensors": (READ, READ, NO_PRIOR, NO_DISCRIMINATOR),
    "half.safetensors": (READ, READ, NO_PRIOR, NO_DISCRIMINATOR),
    "prefixed.safetensors": (READ, READ, NO_PRIOR, NO_DISCRIMINATOR),
    "mislabelled.ckpt": (READ, READ, NO_PRIOR, NO_DISCRIMINATOR),
    "vae.config": ("goes with a single file: give that, ", A_FOLDER, OTHER_PRIOR, NO_WEIGHTS),
    "hierarchy": (f"{RUN} on latents, whose result is", A_FOLDER, READ, NO_DISCRIMINATOR),
    "hierarchy/prior": ("holds a model of class HierarchicalPrior; Auto", A_FOLDER, READ, NO_WEIGHTS),
    "diffusion": (f"{RUN} on latents, whose result is", A_FOLDER, NO_PRIOR, NO_DISCRIMINATOR),
    "diffusion/pipeline": (READ, A_FOLDER, NO_PRIOR, NO_DISCRIMINATOR),
    "latents": ("is a data set of latents: give the model", A_FOLDER, NO_PRIOR, NO_DISCRIMINATOR),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("product", TABLE)
def test_what_is_written_is_read_or_named(product: str, consumer: str, products: Path) -> None:
    path, expected = products / product, TABLE[product][list(CONSUMERS).index(consumer)]
    assert path.exists()
    if expected == READ:
        CONSUMERS[consumer](path)
        return
    with pytest.raises(UserError) as caught:
        CONSUMERS[consumer](path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("product", [name for name, row in TABLE.items() if row[0] == READ and "weights" not in name])
def test_it_is_the_model_that_the_run_made(product: str, products: Path) -> None:
    expected, model = (load_autoencoder(str(products / name)) for name in ("run/model", product))
    if product in ("fp16", "half.safetensors"):
        expected = expected.half().float()
    assert {name for name, t in expected.state_dict().items() if not torch.equal(t, model.state_dict()[name])} == set()
    assert encoder_identity(model) == encoder_identity(expected)
    states = states_scaling(str(products / product))
    assert states == (LAST not in product)
    if states:
        assert model.config["scaling_factor"] == expected.config["scaling_factor"] != 1.0
    else:
        assert (model.config["scaling_factor"], model.config["shift_factor"]) == (1.0, 0.0)


def test_a_file_of_the_trained_weights_is_those(products: Path) -> None:
    model = load_autoencoder(str(products / LAST / "weights.safetensors"))
    trained = load_file(products / LAST / "weights.safetensors")
    assert all(torch.equal(tensor, trained[f"autoencoder.{name}"]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["identity", "ema_vq + gan", "fsq", "l2"])
def test_a_checkpoint_is_what_its_run_would_export(kind: str, main, tmp_path: Path) -> None:
    sphere = ["--bottleneck.kind", "vq", "--bottleneck.codebook_size", "12", "--bottleneck.l2_normalized", "true"]
    settings = VARIANTS | {"identity": [*NO_KL, "--bottleneck.kind", "identity"], "l2": [*NO_KL, *sphere]}
    assert main(arguments(tmp_path, STEPS, *settings[kind])) == 0
    model, result = (load_autoencoder(str(tmp_path / name)) for name in (LAST, "run"))
    assert {name for name, t in result.state_dict().items() if not torch.equal(t, model.state_dict()[name])} == set()


def test_a_checkpoint_of_a_frozen_encoder_has_the_scale_of_its_source(main, products: Path, tmp_path: Path) -> None:
    origin = products / "run" / "model"
    assert main(finetune_arguments(tmp_path, STEPS, origin, "--model.trained", "decoder")) == 0
    assert states_scaling(str(tmp_path / LAST))
    expected, model = load_autoencoder(str(origin)), load_autoencoder(str(tmp_path / LAST))
    assert model.config["scaling_factor"] == expected.config["scaling_factor"]
    assert encoder_identity(model) == encoder_identity(expected)


def test_a_checkpoint_that_is_no_autoencoders_or_damaged_is_refused(products: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(products / LAST, tmp_path / "step-00000004")
    values = json.loads((folder / "trainer.json").read_text())
    del values["autoencoder"]  # as trainings on latents and earlier versions write it
    (folder / "trainer.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="is a checkpoint without the config of an autoencoder"):
        load_autoencoder(str(folder))
    (folder / "ema.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        load_autoencoder(str(folder))
    with pytest.raises(UserError, match="norm_num_groups has no effect"):
        load_autoencoder(str(folder), norm_num_groups=4)


def test_a_run_is_a_model_of_every_command(products: Path, tmp_path: Path, run: Run) -> None:
    from PIL import Image

    Image.new("L", (16, 16), 128).save(tmp_path / "grey.png")
    model = products / "run"
    assert run("encode", tmp_path / "grey.png", "--model", model, "-o", tmp_path / "latents")[0] == 0
    (latents,) = (tmp_path / "latents").glob("*.safetensors")
    assert run("decode", latents, "--model", model, "-o", tmp_path / "out")[0] == 0
    assert run("export", "diffusers", "--model", model, "-o", tmp_path / "vae")[0] == 0
    assert (tmp_path / "vae" / "latent_stats.json").read_bytes() == (model / "model" / "latent_stats.json").read_bytes()
    status, said, _ = run("import", products / LAST, "-o", tmp_path / "made")
    assert status == 0
    assert "does not state the scale of its latents" in said
    assert "let its run finish, which measures it" in said
    with pytest.raises(UserError, match=r"holds latents, which `latent-ae decode` takes, and no autoencoder"):
        load_autoencoder(str(latents))
