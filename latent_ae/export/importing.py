"""The way back: a single file to a model directory."""

import math
from dataclasses import dataclass
from pathlib import Path

from latent_ae.export.ldm_file import sidecar
from latent_ae.export.proof import ExportError
from latent_ae.export.source import ModelSource
from latent_ae.models.autoencoder import Autoencoder, class_name
from latent_ae.models.loading import refuse_part_of_folder, states_scaling
from latent_ae.models.parts import encoder_identity
from latent_ae.models.run_folders import is_checkpoint, load_from_checkpoint
from latent_ae.models.single_file import load_single_file, stated_config


@dataclass(frozen=True)
class Unsaid:
    """What tensors do not say; None: what the file's metadata says, or 32 groups, a scale of 1 and no shift."""

    norm_num_groups: int | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None

    def given(self) -> dict[str, int | float]:
        """Those that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def read_single_file(path: Path, unsaid: Unsaid) -> ModelSource:
    """The model of a single file, with the config of its metadata where it has one, or of a run's checkpoint.

    Raises ModelError for a file that cannot be used, and ExportError for what is given without effect.
    """
    given = unsaid.given()
    if given and path.is_file() and stated_config(path) is not None:
        raise ExportError(f"{path} says its {next(iter(given))} by itself: leave it out")
    if is_checkpoint(path):
        if unsaid.norm_num_groups is not None:
            raise ExportError(f"--norm-num-groups has no effect on the checkpoint {path}: leave it out")
        model = load_from_checkpoint(path)
    else:
        model = _of_file(path, unsaid.norm_num_groups)
    factor, shift = unsaid.scaling_factor, unsaid.shift_factor
    if factor is not None and not (math.isfinite(factor) and factor > 0):
        raise ExportError(f"--scaling-factor must be a positive number, got {factor:g}")
    if shift is not None and not math.isfinite(shift):
        raise ExportError(f"--shift-factor must be a finite number, got {shift:g}")
    scaling = {name: value for name, value in given.items() if name != "norm_num_groups"}
    if idle := [name for name in scaling if name not in model.config]:
        raise ExportError(f"{idle[0]} has no effect on the {class_name(model)} of {path}: leave it out")
    model.register_to_config(**scaling)
    folder = sidecar(path)
    return ModelSource(str(path), model, encoder_identity(model), folder if folder.is_dir() else None)


def _of_file(path: Path, norm_num_groups: int | None) -> Autoencoder:
    if path.is_dir():
        raise ExportError(f"{path} is a folder: give a single file, or a run's checkpoint")
    refuse_part_of_folder(path)
    return load_single_file(path, norm_num_groups=norm_num_groups)


def unstated_scaling(path: Path, unsaid: Unsaid) -> str | None:
    """A warning for a file that does not state the scale of its latents, where it was not given either."""
    if unsaid.scaling_factor is not None or states_scaling(str(path)):
        return None
    remedy = "let its run finish, which measures it, or import" if is_checkpoint(path) else "import"
    return (
        f"{path} does not state the scale of its latents, so the config has scaling_factor 1, which pipelines take as "
        f"it is: {remedy} it again with --scaling-factor (and --shift-factor) of the diffusion model that it belongs "
        "to, such as 0.18215 for Stable Diffusion 1 and 2, 0.13025 for XL, 1.5305 and 0.0609 for 3, 0.3611 and 0.1159 "
        "for FLUX.1"
    )
