"""Which tensors of an autoencoder are of the encoder's side and which of the decoder's: said here alone.

The encoder's side decides the latents. It has an identity of its own because several decoders may share one encoder.
"""

import hashlib
import json
from collections.abc import Sequence

import torch
from diffusers import VQModel

from latent_ae.models.adapters import Adapter
from latent_ae.models.autoencoder import AnyAutoencoder, Autoencoder, class_name
from latent_ae.models.errors import ModelError

CODEBOOK = "quantize"
"""name of the stock submodule that holds the codebook"""
ENCODER_NETWORK = ("encoder", "quant_conv")
"""submodules that pixels pass before the bottleneck"""
ENCODER_SIDE = (*ENCODER_NETWORK, CODEBOOK)
"""submodules that decide the latents: the codebook too, as it decides the codes"""
DECODER_SIDE = ("post_quant_conv", "decoder")
"""submodules that make pixels of latents"""
_SIDES = {"encoder": ENCODER_SIDE, "decoder": DECODER_SIDE}

ENCODER_CONFIG = (
    "_class_name",
    "in_channels",
    "down_block_types",
    "block_out_channels",
    "layers_per_block",
    "act_fn",
    "latent_channels",
    "norm_num_groups",
    "use_quant_conv",
    "mid_block_add_attention",
)
"""config keys that change what the encoder gives"""


def in_parts(name: str, parts: Sequence[str]) -> bool:
    """Whether a tensor or module of this name is one of the parts or lies in one: encoder.conv_in in encoder."""
    return name.startswith(tuple(f"{part}." for part in parts)) or name in parts


def learns(trained: Sequence[str] | None, module: str) -> bool:
    """Whether anything of a submodule learns with these `model.trained` (None: all of the model learns)."""
    side = "encoder" if module in ENCODER_SIDE else "decoder"
    return trained is None or any(part == side or part.split(".")[0] == module for part in trained)


def tensor_learns(trained: Sequence[str] | None, name: str) -> bool:
    """Whether a tensor learns with these `model.trained`."""
    return trained is None or any(in_parts(name, _SIDES.get(part, (part,))) for part in trained)


def encoder_learns(trained: Sequence[str] | None) -> bool:
    """Whether anything on the encoder's side learns, so that the latents change."""
    return any(learns(trained, module) for module in ENCODER_SIDE)


def freeze_all_but(model: Autoencoder, parts: Sequence[str]) -> frozenset[str]:
    """Let only the named parts learn, in place; the names of the submodules in which nothing learns any more.

    Args:
        model: all of its parameters may learn so far.
        parts: "encoder" or "decoder" for a side, or the beginnings of parameter names, whole words of them
            (decoder.conv_out).

    Raises ModelError for a part that the model does not have, with those that it has.
    """
    parameters = dict(model.named_parameters())
    wanted: set[str] = set()
    for part in parts:
        found = {name for name in parameters if in_parts(name, _SIDES.get(part, (part,)))}
        if not found:
            names = ", ".join(dict.fromkeys(name.split(".")[0] for name in parameters))
            raise ModelError(f"model.trained {part}: the model has no such part; its parts are {names}")
        wanted |= found
    for name, parameter in parameters.items():
        parameter.requires_grad_(parameter.requires_grad and name in wanted)
    modules = {name.split(".")[0] for name in parameters}
    return frozenset(modules - {name.split(".")[0] for name in wanted})


def encoder_identity(model: AnyAutoencoder) -> str:
    """Sha256 in hex over the encoder side's tensors (name, dtype, shape, bytes) and the config that shapes it."""
    if isinstance(model, Adapter):
        network, keys = model.network, model.row.encoder_config
        config = {name: network.config.get(name) for name in keys} | {"_class_name": class_name(model)}
        return _digest(network, ENCODER_NETWORK, json.dumps(config, sort_keys=True, default=list).encode())
    config = {key: model.config.get(key) for key in ENCODER_CONFIG} | {"_class_name": class_name(model)}
    if isinstance(model, VQModel):
        config["num_vq_embeddings"] = model.config["num_vq_embeddings"]
        # Diffusers takes latent_channels where it is None: the same model.
        config["vq_embed_dim"] = model.config["vq_embed_dim"] or model.config["latent_channels"]
    return _digest(model, ENCODER_SIDE, json.dumps(config, sort_keys=True, default=list).encode())


def decoder_identity(model: Autoencoder) -> str:
    """Sha256 in hex over the decoder side's tensors (name, dtype, shape, bytes)."""
    return _digest(model, DECODER_SIDE, b"")


def _digest(model: Autoencoder, side: Sequence[str], start: bytes) -> str:
    digest = hashlib.sha256(start)
    for name, tensor in sorted(model.state_dict().items()):
        if in_parts(name, side):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
