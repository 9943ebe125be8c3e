"""An autoencoder from one file of tensors, as latent-diffusion, ComfyUI and others keep it.

A file by `latent-ae export ldm` has its config in the metadata. Others have none: the architecture follows from the
names and shapes of the tensors. Three things do not: `norm_num_groups` is 32 unless given, the activation is SiLU, and
the scale of the latents stays neutral (`scaling_factor` 1, `shift_factor` 0), as only the diffusion model has it.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latent_ae.errors import one_line
from latent_ae.models.autoencoder import CLASSES, Autoencoder
from latent_ae.models.errors import ModelError
from latent_ae.models.ldm_keys import from_ldm_keys, linear_attention, to_ldm_name
from latent_ae.models.parts import CODEBOOK, DECODER_SIDE, ENCODER_SIDE, in_parts
from latent_ae.models.tensor_file import read_tensors

CONFIG, PIXELS = "latent_ae.config", "latent_ae.pixel_format"
"""entries of a safetensors file's metadata: the model's config.json, and pixel_format.json if it has one"""
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""parts of a name that stand for what a module was wrapped in, anywhere: by DDP, torch.compile, FSDP, checkpointing"""
_USUAL = ("first_stage_model.", "vae.")
"""what stands before the autoencoder of a diffusion model"""
_LEVEL = re.compile(r"((?:[^.]+\.)*?)(encoder\.down|decoder\.up)(_blocks)?\.([0-9]{1,3})\.")
"""what stands before an autoencoder in its names, side, diffusers' names or LDM's, level"""
_PARTS = (*ENCODER_SIDE, *DECODER_SIDE, "bn")
"""An autoencoder's own tensors, `bn` being FLUX.2's; others, as of a loss or an average, are left aside."""
_SAMPLE_SIZE = 512
"""pixels; diffusers' tiled encoding, where it is asked for, takes tiles of that side"""
_FIRST_LEVEL = "encoder.down_blocks.0.resnets."
_CODEBOOK = f"{CODEBOOK}.embedding.weight"
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""diffusers' names of before 0.15"""


def load_single_file(path: Path | str, *, norm_num_groups: int | None = None) -> Autoencoder:
    """The AutoencoderKL of a file, or VQModel if there is a codebook in it, in float32 and evaluation mode.

    Args:
        path: a safetensors file, or a pickle by torch.save, from which nothing but tensors is taken, whatever its
            suffix; an autoencoder alone or a checkpoint with one in it, under LDM's names or diffusers', with anything
            before them.
        norm_num_groups: of the group normalisations; 32 if neither given nor in the file's metadata.

    Raises ModelError if the file cannot be read, holds no autoencoder, or one whose tensors do not fit one another.
    """
    path = Path(path)
    config = stated_config(path)
    if config is not None and norm_num_groups is not None:
        raise ModelError(f"{path} states its own norm_num_groups: leave it out")
    file = _open(path)
    # Copies: what was read may be a view of the file, which may be overwritten.
    weights = {
        name: tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in file.tensors.items()
    }
    groups = norm_num_groups if config is None else config["norm_num_groups"]
    model = _inferred(file, 32 if groups is None else groups)
    if config is not None:
        model = _configured(file, config)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def stated_config(path: Path) -> dict[str, Any] | None:
    """The config of an autoencoder in the metadata of a safetensors file; None if there is none.

    Raises ModelError for metadata that are no such config.
    """
    metadata = _metadata(path)
    if CONFIG not in metadata:
        return None
    try:
        config = json.loads(metadata[CONFIG])
    except ValueError as error:
        raise ModelError(f"the metadata {CONFIG} of {path} is not JSON: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise ModelError(f"the metadata {CONFIG} of {path} must be an object, got {type(config).__name__}")
    if config.get("_class_name") not in CLASSES or not isinstance(config.get("norm_num_groups"), int):
        raise ModelError(f"the metadata {CONFIG} of {path} is not the config of an {' or '.join(CLASSES)}")
    return config


def stated_pixel_format(path: Path) -> str | None:
    """The pixel format in the metadata of a safetensors file, as JSON; None if there is none."""
    return _metadata(path).get(PIXELS)


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}  # the reader says what is wrong with it


def _inferred(file: "_File", norm_num_groups: int) -> Autoencoder:
    """The model without weights that the tensors of a file are of."""
    arguments = _architecture(file, norm_num_groups)
    kind = CLASSES["VQModel" if "num_vq_embeddings" in arguments else "AutoencoderKL"]
    try:
        with torch.device("meta"):  # shapes alone: nothing is drawn at random, or allocated for what does not fit
            model = kind(**arguments)
    except ValueError as error:
        raise ModelError(f"{file.path} holds no {kind.__name__}: {one_line(error)}") from error
    _check(file, model)
    return model


def _configured(file: "_File", config: dict[str, Any]) -> Autoencoder:
    """The model without weights that a config describes. Raises ModelError if the tensors of the file do not fit it."""
    try:
        with torch.device("meta"):
            model: Autoencoder = CLASSES[config["_class_name"]].from_config(config)
        model.load_state_dict(file.tensors, assign=True)
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        raise ModelError(f"the metadata {CONFIG} of {file.path} contradict its tensors: {one_line(error)}") from error
    return model


_OTHERS = {
    "latent_tensor": "latents, which `latent-ae decode` takes",
    "|exp_avg": "an optimizer's state",
    "lora_": "a LoRA",
    "diffusion_model.": "a diffusion model",
    "taesd": "a TAESD",
}
"""(part of a name, what has such names)"""


class _File(NamedTuple):
    path: Path
    prefix: str
    is_ldm: bool
    levels: int
    tensors: dict[str, Tensor]
    """of the autoencoder alone, under diffusers' names"""

    def own_name(self, name: str) -> str:
        """What the file calls a tensor with diffusers' name."""
        return self.prefix + (to_ldm_name(name, self.levels) if self.is_ldm else name)


def _open(path: Path) -> _File:
    tensors = _without_wrappers(path, read_tensors(path))
    matches = [match for name in tensors if (match := _LEVEL.match(name))]
    prefix = _only_prefix(path, matches, tensors)
    found = [match for match in matches if match[1] == prefix]
    down, up = (
        sorted({int(match[4]) for match in found if match[2] == side}) for side in ("encoder.down", "decoder.up")
    )
    if down != up or down != list(range(len(down))):
        raise ModelError(
            f"{path} has the levels {down} in its encoder and {up} in its decoder; the same are expected, from 0 on"
        )
    is_ldm, levels = found[0][3] is None, len(down)
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    own = {name: tensor for name, tensor in own.items() if in_parts(name, _PARTS)}
    named = from_ldm_keys(own, levels) if is_ldm else _from_old_attention(own)
    return _File(path, prefix, is_ldm, levels, named)


def _without_wrappers(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    bare: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if own in bare:
            raise ModelError(f"{path} holds {own} more than once, with and without what it was wrapped in")
        bare[own] = tensor
    return bare


def _only_prefix(path: Path, matches: list[re.Match[str]], tensors: dict[str, Tensor]) -> str:
    """What stands before the one autoencoder's names."""
    sides: dict[str, set[str]] = {}
    for match in matches:
        sides.setdefault(match[1], set()).add(match[2])
    if not sides:
        raise ModelError(f"{path} holds {_other_content(tensors)}")
    prefixes = [prefix for prefix, found in sides.items() if len(found) == 2] or list(sides)
    if len(prefixes) > 1:  # a diffusion model may hold a second one as a conditioner
        prefixes = [prefix for prefix in prefixes if prefix.endswith(_USUAL)] or prefixes
    if len(prefixes) > 1:
        named = ", ".join(prefix or "encoder." for prefix in sorted(prefixes))
        raise ModelError(
            f"{path} holds {len(prefixes)} autoencoders, under the names {named}: save the one that you mean in a file "
            "of its own"
        )
    return prefixes[0]


def _other_content(tensors: dict[str, Tensor]) -> str:
    """What a file holds that is no autoencoder, where its names are known."""
    for part, what in _OTHERS.items():
        if any(part in name for name in tensors):
            return f"{what}, and no autoencoder"
    return (
        "no autoencoder: names like encoder.down.0.block.0.norm1.weight were expected, the first of its "
        f"{len(tensors)} tensors are {', '.join(sorted(tensors)[:3]) or 'none'}"
    )


def _from_old_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    old = re.compile(rf"(?<=\.attentions\.[0-9]\.)({'|'.join(_OLD_ATTENTION)})(?=\.)")
    named = {old.sub(lambda match: _OLD_ATTENTION[match[0]], name): tensor for name, tensor in tensors.items()}
    return {name: linear_attention(name, tensor) for name, tensor in named.items()}


def _architecture(file: _File, norm_num_groups: int) -> dict[str, Any]:
    """Arguments of AutoencoderKL, or of VQModel, where `num_vq_embeddings` is among them."""
    names = file.tensors.keys()
    widths = tuple(
        _size(file, f"encoder.down_blocks.{level}.resnets.0.conv1.weight", 0) for level in range(file.levels)
    )
    if norm_num_groups < 1 or any(width % norm_num_groups for width in widths):
        raise ModelError(
            f"{file.path} has the widths {widths}, which norm_num_groups {norm_num_groups} does not divide: give the "
            "norm_num_groups it was trained with, which no file of tensors says, or a diffusers folder, which does"
        )
    arguments: dict[str, Any] = {
        "in_channels": _size(file, "encoder.conv_in.weight", 1),
        "out_channels": _size(file, "decoder.conv_out.weight", 0),
        "latent_channels": _size(file, "decoder.conv_in.weight", 1),
        "block_out_channels": widths,
        "layers_per_block": len({name.split(".")[4] for name in names if name.startswith(_FIRST_LEVEL)}),
        "down_block_types": _block_types(file, "encoder.down_blocks", "DownEncoderBlock2D"),
        "up_block_types": _block_types(file, "decoder.up_blocks", "UpDecoderBlock2D"),
        "mid_block_add_attention": any(".mid_block.attentions." in name for name in names),
        "norm_num_groups": norm_num_groups,
        "sample_size": _SAMPLE_SIZE,
        "scaling_factor": 1.0,
    }
    if any(in_parts(name, (CODEBOOK,)) for name in names):
        return arguments | {
            "num_vq_embeddings": _size(file, _CODEBOOK, 0),
            "vq_embed_dim": _size(file, _CODEBOOK, 1),
            "norm_type": "spatial" if "decoder.conv_norm_out.conv_y.weight" in names else "group",
        }
    return arguments | {
        "shift_factor": 0.0,
        "use_quant_conv": "quant_conv.weight" in names,
        "use_post_quant_conv": "post_quant_conv.weight" in names,
    }


def _size(file: _File, name: str, axis: int) -> int:
    _refuse_missing(file, [name])
    shape = tuple(file.tensors[name].shape)
    if len(shape) < 2 or 0 in shape:
        raise ModelError(f"{file.path}: {file.own_name(name)} has the shape {shape}, which no such layer has")
    return shape[axis]


def _block_types(file: _File, side: str, base: str) -> tuple[str, ...]:
    """Attention at a level of its own, beside that in the middle: latent-diffusion's `attn_resolutions`."""
    return tuple(
        f"Attn{base}" if any(name.startswith(f"{side}.{level}.attentions.") for name in file.tensors) else base
        for level in range(file.levels)
    )


def _check(file: _File, model: Autoencoder) -> None:
    """Raise ModelError unless the file holds exactly the tensors of the model that was inferred from it."""
    expected = model.state_dict()
    _refuse_missing(file, list(expected))
    if surplus := [name for name in file.tensors if name not in expected]:
        raise ModelError(
            f"{file.path} holds {len(surplus)} tensors for which {type(model).__name__} has no place, the first of "
            f"them {file.own_name(surplus[0])}"
        )
    for name, tensor in file.tensors.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{file.path} contradicts itself: {file.own_name(name)} has the shape {tuple(tensor.shape)}, and "
                f"{tuple(expected[name].shape)} fits the others"
            )
        if not tensor.is_floating_point():
            raise ModelError(
                f"{file.path}: {file.own_name(name)} is quantised to {tensor.dtype}: use the file that it was made from"
            )


def _refuse_missing(file: _File, expected: list[str]) -> None:
    if missing := [name for name in expected if name not in file.tensors]:
        raise ModelError(
            f"{file.path} lacks {len(missing)} of its tensors, the first of them {file.own_name(missing[0])}"
        )
