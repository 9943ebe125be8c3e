"""The model that is exported, wherever it comes from, and the config that goes with it."""

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_ae.export.proof import ExportError
from latent_ae.io.model_place import is_checkpoint, located
from latent_ae.io.pixel_format import FILE as PIXEL_FORMAT
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import Autoencoder, load_autoencoder
from latent_ae.models.autoencoder import class_name
from latent_ae.models.loading import load_pixel_format, refuse_part_of_folder, states_scaling
from latent_ae.models.parts import encoder_identity
from latent_ae.models.run_folders import load_from_checkpoint
from latent_ae.models.single_file import PIXELS, load_single_file, stated_config

CARD, STATISTICS = "README.md", "latent_stats.json"
_PICTURE = re.compile(r"!\[[^]]*\]\(([\w-]+\.png)\)")


@dataclass(frozen=True)
class ModelSource:
    """A float32 model in evaluation mode on the CPU, and where it comes from."""

    name: str
    model: Autoencoder
    identity: str
    folder: Path | None = None
    """where its card and statistics lie, if it is a folder on this machine"""
    pixels: PixelFormat | None = None
    """what its pixels mean; None: they are those of pictures"""

    @classmethod
    def load(cls, name: str) -> "ModelSource":
        """A model directory, a single file or a hub id. Raises ModelError, and UserError where nothing says what the
        pixels of its images mean.
        """
        model = load_autoencoder(name)
        folder = located(Path(name))
        there = folder if (folder / "config.json").is_file() else None
        return cls(name, model, encoder_identity(model), there, load_pixel_format(name, model))

    @property
    def pixel_format(self) -> PixelFormat:
        """What its pixels mean. Raises UserError for more channels than pictures have, of which nothing is known."""
        return self.pixels or PixelFormat.picture(int(self.model.config["in_channels"]))

    @property
    def pixel_metadata(self) -> dict[str, str]:
        """For the metadata of exported files, as far as they have any: empty for grey and RGB pictures."""
        return {} if self.pixel_format.is_default else {PIXELS: self.pixel_format.to_json()}

    def write_companions(self, target: Path, *, card: bool = True) -> None:
        """Write into a folder what its pixels mean, and copy the statistics of its latents and its card with images."""
        if not self.pixel_format.is_default:
            (target / PIXEL_FORMAT).write_text(self.pixel_format.to_json() + "\n", encoding="utf-8")
        if self.folder is None:
            return
        names = [STATISTICS]
        if card and (self.folder / CARD).is_file():
            names += [CARD, *_PICTURE.findall((self.folder / CARD).read_text(encoding="utf-8"))]
        for name in names:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, target / name)


def read_single_file(
    path: Path,
    *,
    norm_num_groups: int | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
) -> ModelSource:
    """The model of a run's checkpoint or of a single file, with the config of its metadata if it has one.

    The numbers are what tensors do not say; None: 32 groups, a scale of 1 and no shift. Raises ModelError for a file
    that cannot be used, and ExportError for a number that is not possible or has no effect.
    """
    scaling = {"scaling_factor": scaling_factor, "shift_factor": shift_factor}
    scaling = {name: value for name, value in scaling.items() if value is not None}
    given = (["norm_num_groups"] if norm_num_groups is not None else []) + list(scaling)
    if given and path.is_file() and stated_config(path) is not None:
        raise ExportError(f"{path} states its own {given[0]}: leave it out")
    if is_checkpoint(path):
        if norm_num_groups is not None:
            raise ExportError(f"--norm-num-groups has no effect on the checkpoint {path}: leave it out")
        model = load_from_checkpoint(path)
    elif path.is_dir():
        raise ExportError(f"{path} is a folder: give a single file, or a run's checkpoint")
    else:
        refuse_part_of_folder(path)
        model = load_single_file(path, norm_num_groups=norm_num_groups)
    if scaling_factor is not None and not (math.isfinite(scaling_factor) and scaling_factor > 0):
        raise ExportError(f"--scaling-factor must be a positive number, got {scaling_factor:g}")
    if shift_factor is not None and not math.isfinite(shift_factor):
        raise ExportError(f"--shift-factor must be a finite number, got {shift_factor:g}")
    if idle := [name for name in scaling if name not in model.config]:
        raise ExportError(f"{idle[0]} has no effect on the {class_name(model)} of {path}: leave it out")
    model.register_to_config(**scaling)
    folder = sidecar(path)
    there = folder if folder.is_dir() else None
    return ModelSource(str(path), model, encoder_identity(model), there, load_pixel_format(str(path), model))


def unstated_scaling(path: Path) -> str | None:
    """A warning for a file that does not state the scale of its latents."""
    if states_scaling(str(path)):
        return None
    remedy = "let its run finish, which measures it, or import" if is_checkpoint(path) else "import"
    return (
        f"{path} does not state the scale of its latents, so the config has scaling_factor 1, which pipelines take as "
        f"it is: {remedy} it again with --scaling-factor (and --shift-factor) of the diffusion model that it belongs "
        "to, such as 0.18215 for Stable Diffusion 1 and 2, 0.13025 for XL, 1.5305 and 0.0609 for 3, 0.3611 and 0.1159 "
        "for FLUX.1"
    )


def sidecar(file: Path) -> Path:
    """The folder beside a single file: config.json, statistics, card and report."""
    return file.with_suffix(".config")


def config_of(model: Autoencoder) -> dict[str, Any]:
    """What a model's config.json is to say: its own, with a number for the shift, and no path of this machine.

    SD3's and FLUX's pipelines add `shift_factor` to latents without asking whether there is one.
    """
    config: dict[str, Any] = json.loads(model.to_json_string())
    config.pop("_name_or_path", None)
    if "shift_factor" in config:
        config["shift_factor"] = float(config["shift_factor"] or 0.0)
    return config


def channel_scale(source: ModelSource) -> dict[str, list[float]]:
    """`latents_mean` and `latents_std` for a model's config, from the statistics in its folder.

    With z the raw latents, (z - latents_mean) * scaling_factor / latents_std has mean 0 and standard deviation 1 in
    each channel. So latents_std is that of z * scaling_factor, and a program that knows scaling_factor alone is right
    on average over the channels. Raises ExportError where there are no such statistics.
    """
    config, file = source.model.config, None if source.folder is None else source.folder / STATISTICS
    if "latents_mean" not in config:
        raise ExportError(f"--per-channel needs an AutoencoderKL, got the {class_name(source.model)} {source.name}")
    if config["latents_mean"] is not None:
        raise ExportError(f"{source.name} has latents_mean and latents_std already: leave out --per-channel")
    try:
        stats = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
        mean, std = (list(map(float, stats["sample"][name])) for name in ("channel_mean", "channel_std"))
    except (OSError, ValueError, LookupError, TypeError):
        raise ExportError(
            f"--per-channel needs {STATISTICS} with the statistics of each channel, as the model/ of a run has it; "
            f"{source.name} has none"
        ) from None
    if stats.get("encoder_identity") != source.identity or {len(mean), len(std)} != {config["latent_channels"]}:
        raise ExportError(f"{file} is of another encoder than the weights beside it: measure the latents again")
    if not all(value > 0 for value in std):
        raise ExportError(f"channel {std.index(min(std))} of the latents is constant: it cannot be scaled by itself")
    return {"latents_mean": mean, "latents_std": [value * float(config["scaling_factor"]) for value in std]}


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json in diffusers' own form."""
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
