"""The model that is exported, and the config that goes with it."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_ae.models import Autoencoder, load_autoencoder
from latent_ae.models.parts import encoder_identity
from latent_ae.models.run_folders import located

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

    @classmethod
    def load(cls, name: str) -> "ModelSource":
        """A model directory, a single file or a hub id. Raises ModelError."""
        model = load_autoencoder(name)
        folder = located(Path(name))
        return cls(name, model, encoder_identity(model), folder if (folder / "config.json").is_file() else None)

    def copy_companions(self, target: Path, *, card: bool = True) -> None:
        """The statistics of its latents into a folder, and its card with the pictures that it shows."""
        if self.folder is None:
            return
        names = [STATISTICS]
        if card and (self.folder / CARD).is_file():
            names += [CARD, *_PICTURE.findall((self.folder / CARD).read_text(encoding="utf-8"))]
        for name in names:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, target / name)


def config_of(model: Autoencoder) -> dict[str, Any]:
    """What a model's config.json is to say: its own, with a number for the shift, and no path of this machine.

    SD3's and FLUX's pipelines add `shift_factor` to latents without asking whether there is one.
    """
    config: dict[str, Any] = json.loads(model.to_json_string())
    config.pop("_name_or_path", None)
    if "shift_factor" in config:
        config["shift_factor"] = float(config["shift_factor"] or 0.0)
    return config


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """As config.json, in diffusers' own form."""
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
