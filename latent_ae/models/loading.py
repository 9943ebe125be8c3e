"""A stock autoencoder from wherever it lies: a diffusers folder, a pipeline, the hub, or a single file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from diffusers import AutoencoderKL
from diffusers.utils import logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from latent_ae.errors import one_line
from latent_ae.io.model_place import SUBFOLDERS, find_model, is_checkpoint, located, what_else
from latent_ae.io.paths import near_names
from latent_ae.io.pixel_format import FILE as PIXEL_FORMAT
from latent_ae.io.pixel_format import PixelFormat, read_pixel_format
from latent_ae.models.adapters import ADAPTERS, Adapter
from latent_ae.models.autoencoder import CLASSES, AnyAutoencoder, Autoencoder
from latent_ae.models.errors import ModelError
from latent_ae.models.hub import downloaded
from latent_ae.models.parts import DECODER_SIDE, ENCODER_SIDE
from latent_ae.models.run_folders import checkpoint_pixel_format, load_from_checkpoint, source_of_scale
from latent_ae.models.single_file import load_single_file, stated_config, stated_pixel_format
from latent_ae.models.tensor_file import refuse_foreign

T = TypeVar("T")

_VARIANTS = ("fp16", "bf16")
"""names of weights that are taken where those in full precision are not there; fp16 rounds less"""
_WEIGHTS = re.compile(
    r"diffusion_pytorch_model(?:\.(?P<variant>[\w-]+?))??(?:-[0-9]{5}-of-[0-9]{5})?\.(?:safetensors|bin)"
    r"(?P<index>\.index(?:\.(?P<indexed>[\w-]+))?\.json)?"
)
"""diffusers' names of files of weights, in one or several pieces with an index"""
_PLACED = tuple(f"{part}." for part in (*ENCODER_SIDE, *DECODER_SIDE))
"""tensors that a model without a place for them was not trained as"""


def load_autoencoder(name: str, *, norm_num_groups: int | None = None) -> Autoencoder:
    """An AutoencoderKL or VQModel, to train or export, in float32, in evaluation mode.

    Args:
        name: a diffusers folder; a pipeline's folder or hub id with `vae/`, `vqvae/` or `movq/` in it; the hub id of an
            autoencoder; a run's folder, for its result; a checkpoint's folder or one of its files of weights; or a
            single file (`load_single_file`).
        norm_num_groups: of a single file, which does not say it.

    Raises ModelError if there is none, if it is of another class, or if its weights are not exactly those that its
    config asks for: diffusers would fill what is missing at random and leave out what is too much.
    """
    model = _load(name, norm_num_groups, (*CLASSES,))
    assert not isinstance(model, Adapter)
    return model


def load_any_autoencoder(name: str) -> AnyAutoencoder:
    """An autoencoder of any class that can be run here, in float32, in evaluation mode.

    The name and what is raised are as with `load_autoencoder`.
    """
    return _load(name, None, (*CLASSES, *ADAPTERS))


def _load(name: str, norm_num_groups: int | None, classes: Sequence[str]) -> AnyAutoencoder:
    path = _place(name)
    name = name if path == Path(name) else str(path)
    if is_checkpoint(path):
        _refuse_groups(name, norm_num_groups, "checkpoint")
        return load_from_checkpoint(path)
    if path.is_file():
        refuse_part_of_folder(path)
        return load_single_file(path, norm_num_groups=norm_num_groups)
    _refuse_groups(name, norm_num_groups, "config.json")
    reasons = []
    for subfolder in _subfolders(path):
        try:
            config = AutoencoderKL.load_config(name, subfolder=subfolder)
        except (OSError, ValueError) as error:
            reasons.append(one_line(error))
            continue
        if config.get("_class_name"):
            return _load_folder(name, subfolder, config, classes)
        reasons.append(f"the config.json in {subfolder or 'it'} has no _class_name")
    reason = reasons[0] if reasons else "there is no config.json in it, nor in a vae/, vqvae/ or movq/ in it"
    raise ModelError(f"cannot load an autoencoder from {name}: {reason}")


def load_pixel_format(name: str, model: AnyAutoencoder) -> PixelFormat:
    """What the pixels of the model mean that `load_autoencoder` loads by this name.

    By the file beside its weights, or the record in a checkpoint or a single file; grey or RGB pictures, with alpha or
    without, where nothing says otherwise. Raises UserError for a model of more channels without such a file, or one
    that is damaged.
    """
    channels = int(model.config["in_channels"])
    path = _place(name)
    if is_checkpoint(path):
        saved = checkpoint_pixel_format(path)
        return PixelFormat.picture(channels) if saved is None else PixelFormat.from_json(saved, str(path))
    if path.is_file():
        saved = stated_pixel_format(path)
        return read_pixel_format(path, channels) if saved is None else PixelFormat.from_json(saved, str(path))
    if path.is_dir():
        return read_pixel_format(path / (next(_subfolders(path), None) or ""), channels)
    for subfolder in SUBFOLDERS:
        with suppress(EntryNotFoundError, HFValidationError, OSError):
            return read_pixel_format(Path(hf_hub_download(name, PIXEL_FORMAT, subfolder=subfolder)).parent, channels)
    return read_pixel_format(path, channels)


def states_scaling(name: str) -> bool:
    """Whether what `load_autoencoder` loads by this name states the scale of its latents.

    A config.json does, if by diffusers' default; a single file only in the metadata of `latent-ae export ldm`.
    """
    path = located(Path(name))
    if is_checkpoint(path):
        source = source_of_scale(path)
        return source is not None and states_scaling(source)
    return not path.is_file() or stated_config(path) is not None


def _place(name: str) -> Path:
    """Where the model of a name lies on this machine, or the id of one on the hub, of which no file is here yet."""
    path = find_model(name)
    if path is not None:
        return path
    try:
        return downloaded(name) or Path(name)
    except ModelError as error:
        near = near_names(Path(name))
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ModelError(
            f"cannot load an autoencoder from {name}: there is no such folder, and it cannot be fetched from the hub: "
            f"{error}{hint}"
        ) from error


def _refuse_groups(name: str, norm_num_groups: int | None, where: str) -> None:
    if norm_num_groups is not None:
        raise ModelError(f"norm_num_groups has no effect on {name}, whose {where} has it: leave it out")


def _subfolders(path: Path) -> Iterator[str | None]:
    for subfolder in SUBFOLDERS:
        # Diffusers takes the folder's own config where a local subfolder has none.
        if not path.is_dir() or (path / (subfolder or "") / "config.json").is_file():
            yield subfolder


def _load_folder(name: str, subfolder: str | None, config: dict[str, Any], classes: Sequence[str]) -> AnyAutoencoder:
    found = config["_class_name"]
    place = name if subfolder is None else f"{name} ({subfolder}/)"
    if not isinstance(found, str) or found not in classes:
        raise ModelError(f"{place} holds a model of class {found}; {_what_works(found)}")
    if found in ADAPTERS:
        row = ADAPTERS[found]
        if reason := row.refused(config):
            raise ModelError(f"{place} holds an {found} that cannot be run here: {reason}")
        return Adapter(_load_weights(getattr(diffusers, found), name, subfolder, place, ("",)), row)
    return _load_weights(CLASSES[found], name, subfolder, place, _PLACED)


def _what_works(found: object) -> str:
    ours = " and ".join(CLASSES)
    if isinstance(found, str) and found in ADAPTERS:
        return f"it encodes, decodes and is measured here, while training and exports take {ours}"
    return f"{ours} can be loaded, and to encode, decode and measure also {', '.join(ADAPTERS)}"


def _load_weights(kind: type[T], name: str, subfolder: str | None, place: str, placed: tuple[str, ...]) -> T:
    folder = Path(name, subfolder or "")
    if folder.is_dir():
        variant = _variant(folder)
        return load_checked(kind, name, place=place, placed=placed, subfolder=subfolder, variant=variant)
    try:
        return load_checked(kind, name, place=place, placed=placed, subfolder=subfolder)
    except ModelError as error:
        for variant in _VARIANTS:
            with suppress(ModelError):
                return load_checked(kind, name, place=place, placed=placed, subfolder=subfolder, variant=variant)
        raise error


def _variant(folder: Path) -> str | None:
    """Which of a folder's weights to load: those without a variant's name, else fp16's, bf16's, or the only ones.

    Raises ModelError if there are none, several others, or files that hold no tensors.
    """
    found = {path: match for path in sorted(folder.iterdir()) if (match := _WEIGHTS.fullmatch(path.name))}
    if not found:
        reason = what_else(folder) or "holds a config.json without weights: give a folder with both"
        raise ModelError(f"{folder} {reason}")
    variants = {match["variant"] or match["indexed"] for match in found.values()}
    preferred = [variant for variant in (None, *_VARIANTS) if variant in variants]
    if not preferred and len(variants) > 1:
        raise ModelError(f"{folder} holds the variants {', '.join(sorted(map(str, variants)))}: give one of the files")
    variant = (preferred or list(variants))[0]
    for path, match in found.items():
        if (match["variant"] or match["indexed"]) == variant and not match["index"]:
            refuse_foreign(path)
    return variant


def load_checked(
    kind: type[T],
    name: str,
    *,
    place: str,
    placed: tuple[str, ...] = ("",),
    subfolder: str | None = None,
    variant: str | None = None,
) -> T:
    """A model of a diffusers class in float32 and evaluation mode, with exactly the weights that its config asks for.

    Args:
        kind: of the class.
        name: a folder or hub id.
        place: what errors call it.
        placed: beginnings of names that no tensor without a place in the model may have; any, if not given.
        subfolder: where it lies in there.
        variant: in the names of its files of weights, such as fp16.

    Raises ModelError if it cannot be loaded or its weights are others.
    """
    loader: Any = kind  # diffusers is untyped
    try:
        # Diffusers builds the model at random before it fills it, from the global generator.
        with torch.random.fork_rng(devices=[]), quiet_diffusers():
            model, info = loader.from_pretrained(
                name,
                subfolder=subfolder,
                variant=variant,
                torch_dtype=torch.float32,
                output_loading_info=True,
                low_cpu_mem_usage=False,
                ignore_mismatched_sizes=True,  # they are reported, and refused here
            )
    except (OSError, ValueError, RuntimeError, TypeError, LookupError) as error:
        raise ModelError(f"cannot load the {kind.__name__} of {place}: {one_line(error)}") from error
    check_weights(place, info, placed)
    loaded: T = model
    return loaded


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Without its progress bars, and its warnings about weights that do not fit: here they are errors."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def check_weights(place: str, info: Mapping[str, Any], placed: tuple[str, ...] = ("",)) -> None:
    """Raise ModelError unless a load gave a model exactly the weights that its config asks for.

    Args:
        place: what errors call it.
        info: `output_loading_info` of diffusers or transformers.
        placed: beginnings of names that no tensor without a place in the model may have.
    """
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{place} lacks {len(missing)} of its weights, the first of them {missing[0]}")
    if mismatched := sorted(info["mismatched_keys"]):
        tensor, got, expected = mismatched[0]
        raise ModelError(
            f"{place} has {len(mismatched)} weights that do not fit its config.json: the first of them, {tensor}, has "
            f"the shape {tuple(got)}, and the config asks for {tuple(expected)}"
        )
    if unexpected := sorted(key for key in info["unexpected_keys"] if key.startswith(placed)):
        raise ModelError(
            f"{place} holds {len(unexpected)} weights for which its config.json has no place, "
            f"the first of them {unexpected[0]}"
        )


def refuse_part_of_folder(path: Path) -> None:
    """Raise ModelError for a file whose folder has a config, which says what the file cannot: the groups above all."""
    if path.name.startswith("diffusion_pytorch_model") and (path.parent / "config.json").is_file():
        raise ModelError(f"{path} is part of a diffusers folder: give the folder, {path.parent}")
