"""What a file or folder is, of what the programs here write or read, and its facts. Needs no torch.

One function for each kind in KINDS: it is given a path and returns its facts, or None if it is of another kind.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latent_ae.config import load_yaml
from latent_ae.errors import UserError
from latent_ae.io.image_file.opening import PLUGINS, SUFFIXES, opened, upright_size
from latent_ae.io.model_place import PIPELINE, RUN_SETTINGS, WEIGHT_SUFFIXES, is_checkpoint
from latent_ae.io.paths import count_by_suffix

Facts = dict[str, object]
PICTURES = SUFFIXES | {suffix for plugin in PLUGINS.values() for suffix in plugin.suffixes}
_AUTOENCODER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "first_stage_model.", "vae.")
"""beginnings of the names of an autoencoder's tensors, alone or in a whole checkpoint"""
_TOLD = (
    *("in_channels", "latent_channels", "num_vq_embeddings", "channels", "side", "sample_size"),
    *("codebook_size", "grid", "classes", "scaling_factor", "shift_factor", "encoder_identity"),
)
"""of a config.json"""
_MAX_HEADER = 100_000_000
"""bytes of a safetensors header, as its format says"""


def product(path: Path) -> Facts | None:
    """What a path is, under `is`, and its facts; None for a latent file, and what is not known.

    Raises UserError for what is damaged, OSError.
    """
    for describe in KINDS:
        if (facts := describe(path)) is not None:
            return {"path": str(path), **facts}
    return None


def _run(path: Path) -> Facts | None:
    if not (path / RUN_SETTINGS).is_file() or is_checkpoint(path):
        return None
    settings = load_yaml(path / RUN_SETTINGS)
    train, data = (_section(settings, name) for name in ("train", "data"))
    results = [str(path / name) for name in ("model", "prior", "pipeline") if (path / name).is_dir()]
    steps = sorted(each.name for each in path.glob("checkpoints/step-*"))
    facts: Facts = {"is": "the folder of a run", "result": results[0] if results else "not finished yet"}
    facts |= {"updates": train.get("steps"), "last checkpoint": steps[-1] if steps else None}
    facts |= {
        "data": " ".join(str(data[name]) for name in ("source", "path") if data.get(name)) or settings.get("latents")
    }
    if (path / "evaluation.json").is_file():
        metrics = _json(path / "evaluation.json").get("metrics", {})
        facts["held-out psnr"] = metrics.get("psnr", {}).get("value")
    return facts


def _checkpoint(path: Path) -> Facts | None:
    if not path.is_dir() or not is_checkpoint(path):
        return None
    files = sorted(each.name for each in path.glob("*.safetensors"))
    return {"is": "a checkpoint of a run", "step": int(path.name.rpartition("-")[2] or 0), "files": ", ".join(files)}


def _latent_data_set(path: Path) -> Facts | None:
    if not (path / "manifest.json").is_file() or is_checkpoint(path):
        return None
    manifest = _json(path / "manifest.json")
    images, encoder, model = (_section(manifest, name) for name in ("images", "encoder", "model"))
    state = "complete" if (path / "index.parquet").is_file() else "not finished yet: the same command goes on"
    return {
        "is": "a data set of latents",
        "state": state,
        "latents": f"{manifest.get('kind')}, {manifest.get('dtype')}, of {images.get('count')} images",
        "model": model.get("name"),
        "scaling_factor": model.get("scaling_factor"),
        "encoder": encoder.get("identity"),
    }


def _pipeline(path: Path) -> Facts | None:
    if not (path / PIPELINE).is_file():
        return None
    index = _json(path / PIPELINE)
    parts = {name: each[1] for name, each in index.items() if isinstance(each, list) and len(each) == 2 and each[1]}
    return {"is": "a pipeline of diffusers", "class": index.get("_class_name"), **parts}


def _exported_graphs(path: Path) -> Facts | None:
    files = sorted([*path.glob("*.onnx"), *path.glob("*/model.onnx"), *path.glob("*.pt2")]) if path.is_dir() else []
    if path.is_file() and path.suffix in (".onnx", ".pt2"):
        files = [path]
    if not files:
        return None
    kind = "torch.export" if files[0].suffix == ".pt2" else "ONNX"
    return {"is": f"an export for {kind}", "files": ", ".join(map(str, files)), "bytes": sum(map(_size, files))}


def _model_directory(path: Path) -> Facts | None:
    if not (path / "config.json").is_file():
        return None
    config = _json(path / "config.json")
    kind = config.get("_class_name") or next(iter(config.get("architectures", [])), None)
    weights = sorted(path.glob("*.safetensors"))
    what = "a model of diffusers"
    if "encoder_identity" in config:
        what = "a prior of codes" if "codebook_size" in config else "a prior of latents"
    facts: Facts = {"is": what, "class": kind}
    if isinstance(widths := config.get("block_out_channels"), list):
        facts["factor"] = 2 ** (len(widths) - 1)
    facts |= {name: config[name] for name in _TOLD if config.get(name) is not None}
    if weights:
        facts["parameters"] = sum(math.prod(entry["shape"]) for file in weights for entry in _tensors(file)[0].values())
    if (path / "latent_stats.json").is_file():
        facts["encoder"] = _json(path / "latent_stats.json").get("encoder_identity")
    if (path / "pixel_format.json").is_file():
        facts["pixels"] = json.dumps(_json(path / "pixel_format.json"))
    return facts


def _single_file(path: Path) -> Facts | None:
    if not path.is_file() or path.suffix.lower() not in WEIGHT_SUFFIXES:
        return None
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return {"is": "a file of tensors by torch.save", "bytes": _size(path)}
    tensors, metadata = _tensors(path)
    if not any(name.startswith(_AUTOENCODER) for name in tensors):
        return None
    return {
        "is": "a single file with an autoencoder",
        "tensors": len(tensors),
        "parameters": sum(math.prod(entry["shape"]) for entry in tensors.values()),
        "dtypes": ", ".join(sorted({entry["dtype"] for entry in tensors.values()})),
        **{f"metadata {name}": value for name, value in metadata.items()},
    }


def _picture(path: Path) -> Facts | None:
    if not path.is_file() or path.suffix.lower() not in PICTURES:
        return None
    with opened(path) as image:
        height, width = upright_size(image)
        return {"is": "a picture", "format": image.format, "size": f"{height}x{width}", "mode": image.mode}


def _folder_of_pictures(path: Path) -> Facts | None:
    if not path.is_dir():
        return None
    files = [each for each in path.rglob("*") if each.suffix.lower() in PICTURES]
    return {"is": "a folder of pictures", "pictures": count_by_suffix(files)} if files else None


KINDS: tuple[Callable[[Path], Facts | None], ...] = (
    _run,
    _checkpoint,
    _latent_data_set,
    _pipeline,
    _exported_graphs,
    _model_directory,
    _single_file,
    _picture,
    _folder_of_pictures,
)
"""a function for each kind, in the order in which they are asked"""


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, dict) else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: expected an object, got {type(found).__name__}")
    return found


def _tensors(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The entries of a safetensors header by tensor, and its metadata. Raises UserError, OSError."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(_MAX_HEADER, _size(file)):
            raise UserError(f"{file} is damaged: it does not begin with the header of safetensors")
        try:
            header = json.loads(stream.read(length))
            metadata = header.pop("__metadata__", {})
            assert all({"shape", "dtype"} <= entry.keys() for entry in header.values())
        except (ValueError, AttributeError, AssertionError):
            raise UserError(f"{file} is damaged: its header is not that of safetensors") from None
    return header, metadata


def _size(file: Path) -> int:
    return file.stat().st_size
