"""What a name means where a model is expected, by the files there. Needs no torch.

a model directory, a single file, a checkpoint => itself        a run's folder => its model/
the name of a model that comes with the package => its folder there
a name of the form OWNER/NAME                  => the hub        anything else  => an error that says what it is
"""

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from latent_ae.errors import ModelError
from latent_ae.io.paths import listed, near_names
from latent_ae.shipped import shipped_models

SUBFOLDERS = (None, "vae", "vqvae", "movq")
"""where a folder or a hub repository may keep its autoencoder, in the order in which they are tried"""
RUN_SETTINGS, CHECKPOINT_VALUES = "config.yaml", "trainer.json"
"""files of a run's folder and of a checkpoint's"""
PIPELINE = "model_index.json"
"""the file of a pipeline's folder that names its parts"""
DRAWING_PIPELINE = "DiTPipeline"
"""the pipeline that `latent-ae sample` draws with"""
WEIGHT_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
"""of files of tensors; the first two are safetensors, the others pickles by torch.save"""
RUNS = Path("runs")
"""where runs are written, and looked for"""
_MANIFEST = "manifest.json"
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")
_NO_MODELS = {
    "index.parquet": "is a data set of latents: give the model that made them",
    "model.onnx": "is an export for ONNX: give the model that it was made from",
    "*/model.onnx": "is an export for ONNX: give the model that it was made from",
    "*.pt2": "is an export of torch.export: give the model that it was made from",
}
"""(what lies in a folder, what such a folder is and what to do)"""


def find_model(name: str) -> Path | None:
    """Where the model of a name lies; None for one of the hub, which is not asked.

    Raises ModelError for a path where nothing is, with the names there that are like it, and as `located` does.
    """
    path = located(Path(name))
    if path.is_dir() and not is_checkpoint(path) and not _has_config(path):
        raise ModelError(
            f"cannot load an autoencoder from {name}: there is no config.json in it, nor in a vae/, vqvae/ or movq/ in "
            "it"
        )
    if path.exists():
        return path
    if _HUB_ID.fullmatch(name) and not Path(name).parent.is_dir() and not _looks_like_a_path(path):
        return None
    raise ModelError(f"{name}: there is no such folder or file{_advice(path)}")


def pipeline_note(name: str) -> str | None:
    """That a pipeline's autoencoder is meant by its folder, for the user; None for another model."""
    path = Path(name)
    if not (path / PIPELINE).is_file() or (path / "config.json").is_file():
        return None
    return next((f"{path} is a pipeline: its autoencoder, {path / part}, is used" for part in _parts(path)), None)


def drawing_pipeline(name: str) -> Path | None:
    """The folder of the pipeline that a name means, or that of its run; None for what is no pipeline.

    Raises ModelError for a pipeline that draws by more than a class.
    """
    folder = next((each for each in (Path(name), Path(name, "pipeline")) if (each / PIPELINE).is_file()), None)
    if folder is None or (Path(name) / "config.json").is_file():
        return None
    try:
        found = json.loads((folder / PIPELINE).read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / PIPELINE} is damaged: {error}") from None
    if found != DRAWING_PIPELINE:
        autoencoder = next((f", or give --model {folder / part}" for part in _parts(folder)), "")
        raise ModelError(
            f"{folder} is a {found}, and only a {DRAWING_PIPELINE} draws without a prompt or an image: use it in "
            f"diffusers{autoencoder} to draw with N(0, 1)"
        )
    return folder


def located(path: Path) -> Path:
    """What a path means where a model is expected: a run's folder its `model/`, the name of a model that comes with the
    package its folder there, any other path itself.

    Raises ModelError for a folder that is known to hold no model, with what it is and what to give.
    """
    if not path.exists():
        return shipped_models().get(str(path), path)
    if path.is_file() or is_checkpoint(path):
        return path
    if _has_config(path):
        return path
    if (path / "model" / "config.json").is_file():
        return path / "model"
    if (reason := what_else(path)) is not None:
        raise ModelError(f"{path} {reason}")
    return path


def result_in(folder: Path, name: str) -> Path:
    """A folder, or that of this name in it if it is a run's."""
    inside = folder / name
    return inside if (inside / "config.json").is_file() and not (folder / "config.json").is_file() else folder


def is_checkpoint(path: Path) -> bool:
    """Whether it is the folder of a run's checkpoint, or a file in one."""
    folder = path.parent if path.is_file() else path
    return (folder / CHECKPOINT_VALUES).is_file() and (folder / _MANIFEST).is_file()


def what_else(folder: Path) -> str | None:
    """What a folder without a model is, where the programs here write such folders, and what to give instead."""
    if (folder / RUN_SETTINGS).is_file():
        return _unfinished(folder)
    if steps := _checkpoints(folder):
        return f"holds the checkpoints of a run: give one of them, such as {steps[-1]}"
    if runs := sorted(folder.glob("*/model/config.json"), key=lambda file: file.stat().st_mtime):
        return f"holds runs: give one of them, such as {runs[-1].parent.parent}"
    for pattern, reason in _NO_MODELS.items():
        if any(folder.glob(pattern)):
            return reason
    file = folder.with_suffix(".safetensors")
    return f"goes with a single file: give that, {file}" if file.is_file() else None


def _unfinished(run: Path) -> str:
    for result, remedy in {"pipeline": "give that", "prior": "give that as a prior"}.items():
        if (run / result).is_dir():
            return f"is the folder of a run on latents, whose result is {run / result}: {remedy}"
    if steps := _checkpoints(run / "checkpoints"):
        return (
            "is the folder of a run without a result yet: run the same command to finish it, or give a checkpoint, "
            f"{steps[-1]}"
        )
    return "is the folder of a run without a result or a checkpoint yet: run the same command to finish it"


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if is_checkpoint(path))


def _has_config(path: Path) -> bool:
    return any((path / (subfolder or "") / "config.json").is_file() for subfolder in SUBFOLDERS)


def _parts(path: Path) -> Iterator[str]:
    return (part for part in SUBFOLDERS if part is not None and (path / part / "config.json").is_file())


def _looks_like_a_path(path: Path) -> bool:
    return path.parts[0] == RUNS.name or path.suffix.lower() in WEIGHT_SUFFIXES


def _advice(path: Path) -> str:
    """What to do about a path where nothing is."""
    known = {each.name.lower(): str(each) for each in listed(RUNS) if each.is_dir()}
    known |= {name: name for name in shipped_models()}
    named = [known[name] for name in difflib.get_close_matches(path.name.lower(), known)]
    if near := list(dict.fromkeys([*near_names(path), *named])):
        return f"; did you mean {' or '.join(near)}?"
    missing = next((each for each in reversed(path.parents) if not each.exists()), None)
    if missing is not None:
        return f", nor the folder {missing} (from {Path.cwd()})"
    return (
        "; give a model directory, the folder of a run, a single file, OWNER/NAME of the Hugging Face hub, or a model "
        f"that comes with this program: {', '.join(shipped_models())}"
    )
