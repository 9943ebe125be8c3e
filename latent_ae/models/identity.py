"""The encoder's identity: what latents belong to.

It covers the encoder side alone because several decoders may share one encoder's latents.
"""

import hashlib
import json

import torch
from diffusers import VQModel
from torch import Tensor

from latent_ae.models.autoencoder import Autoencoder, class_name

ENCODER_SIDE = ("encoder.", "quant_conv.", "quantize.")
"""state-dict prefixes of the tensors that decide the latents"""

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


def encoder_identity(model: Autoencoder) -> str:
    """Sha256 in hex over the encoder side's tensors (name, dtype, shape, bytes) and the config that shapes it.

    The codebook is of the encoder side: it decides the codes.
    """
    config = {key: model.config.get(key) for key in ENCODER_CONFIG} | {"_class_name": class_name(model)}
    if isinstance(model, VQModel):
        config["num_vq_embeddings"] = model.config["num_vq_embeddings"]
        # Diffusers takes latent_channels where it is None: the same model.
        config["vq_embed_dim"] = model.config["vq_embed_dim"] or model.config["latent_channels"]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=list).encode())
    state = model.state_dict()
    for name in sorted(name for name in state if name.startswith(ENCODER_SIDE)):
        tensor = state[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(_raw_bytes(tensor))
    return digest.hexdigest()


def _raw_bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
