"""What a model is called in files that leave this machine, and where it is found again by that."""

import json
from collections.abc import Iterator
from pathlib import Path

from latent_ae.shipped import shipped_models

GENERAL = ("model", "vae", "vqvae", "movq")
"""folder names that say nothing of what is in them"""
_PLACES = (".", "*", "*/model", "runs/*/model")
"""folders, from the working directory on, that are looked through for a model"""
_STATISTICS = "latent_stats.json"


def model_name(name: str) -> str:
    """A name without the folders of this machine: of a path the last part that says something, or a hub id.

    runs/kl-digits/model => kl-digits, /data/vae.safetensors => vae.safetensors, stabilityai/sd-vae-ft-mse => itself
    """
    path = Path(name)
    is_hub_id = not path.exists() and not path.is_absolute() and len(path.parts) <= 2 and path.name not in GENERAL
    if is_hub_id and path.parts[:1] not in ((), ("..",), ("~",)):
        return name
    said = [part for part in path.resolve().parts if part not in (*GENERAL, path.resolve().anchor)]
    return said[-1] if said else path.name


def find_model(identity: str, name: str) -> str | None:
    """The model of a name and of an encoder's identity, if it is on this machine; nothing is downloaded.

    A model directory whose statistics are of that encoder comes first, in the working directory, a folder in it,
    `runs/`, or this package; then what the name means as a path, or as a run. The caller checks that the encoder is
    that one.
    """
    files = [file for place in _PLACES for file in sorted(Path().glob(f"{place}/{_STATISTICS}"))]
    for file in [*files, *(folder / _STATISTICS for folder in shipped_models().values())]:
        if _states(file, identity):
            return str(file.parent)
    return next((str(path) for path in _named(name) if path.is_file() or (path / "config.json").is_file()), None)


def _named(name: str) -> Iterator[Path]:
    if name:
        yield Path(name)
        yield Path("runs") / name / "model"


def _states(file: Path, identity: str) -> bool:
    try:
        statistics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # an error where that model is used
    return isinstance(statistics, dict) and statistics.get("encoder_identity") == identity
