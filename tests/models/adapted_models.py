"""A tiny untrained model of every class in ADAPTERS."""

from functools import cache
from typing import Any

import diffusers
import torch

from latent_ae.models.adapters import ADAPTERS, Adapter

FOUR = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "block_out_channels": (4, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
VIDEO = {"latent_channels": 4, "block_out_channels": (8,) * 5, "layers_per_block": 1}
CAUSAL = {"base_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "AutoencoderTiny": {
        **dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (4,) * 4),
        **dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks"), (1,) * 4),
        "scaling_factor": 0.9,
        "shift_factor": 0.1,
    },
    "AutoencoderDC": {
        **dict.fromkeys(("encoder_block_types", "decoder_block_types"), ("ResBlock",) * 3 + ("EfficientViTBlock",)),
        **dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (8,) * 4),
        **dict.fromkeys(("encoder_layers_per_block", "decoder_layers_per_block"), (1,) * 4),
        **dict.fromkeys(("encoder_qkv_multiscales", "decoder_qkv_multiscales"), ((), (), (), (5,))),
        "attention_head_dim": 4,
        "latent_channels": 8,
        "scaling_factor": 0.41407,
    },
    "AsymmetricAutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        **dict.fromkeys(("down_block_out_channels", "up_block_out_channels"), (4, 8, 8)),
        "norm_num_groups": 4,
    },
    "AutoencoderKLFlux2": {**FOUR, "up_block_types": ("UpDecoderBlock2D",) * 4, "latent_channels": 4},
    "AutoencoderKLHunyuanImage": {
        **VIDEO,
        "latent_channels": 8,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (32,) * 6,
        "spatial_compression_ratio": 32,
        "sample_size": 64,
        "scaling_factor": 0.75,
    },
    "AutoencoderKLKVAE": {
        "channels": 32,
        "num_enc_blocks": 1,
        "num_dec_blocks": 1,
        "z_channels": 4,
        "ch_mult": (1, 1, 1, 1),
    },
    "AutoencoderKLTemporalDecoder": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "block_out_channels": (32,) * 4,
    },
    "AutoencoderKLQwenImage": CAUSAL,
    "AutoencoderKLQwenImage21": CAUSAL | {"decoder_base_dim": 4, "dim_mult": [1, 2, 2, 2, 2]},
    "AutoencoderKLWan": CAUSAL | {"in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16},
    "AutoencoderKLCosmos": {
        **dict.fromkeys(("encoder_block_out_channels", "decode_block_out_channels"), (8,) * 4),
        "num_layers": 1,
        "attention_resolutions": (8,),
        "resolution": 64,
    },
    "AutoencoderKLHunyuanImageRefiner": VIDEO,
    "AutoencoderKLHunyuanVideo": {
        "latent_channels": 4,
        "block_out_channels": (8,) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLHunyuanVideo15": VIDEO,
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8,
        **dict.fromkeys(("block_out_channels", "decoder_block_out_channels"), (8,) * 4),
        **dict.fromkeys(("layers_per_block", "decoder_layers_per_block"), (1,) * 5),
        "scaling_factor": 0.8,
    },
}


@cache
def network(name: str) -> Any:
    """The diffusers model of a class, whose normalisation changes something; shared, so for reading alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = getattr(diffusers, name)(**ARGUMENTS[name]).eval()
    generator = torch.Generator().manual_seed(8)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


def adapted(name: str) -> Adapter:
    """A tiny model of a class, as the table adapts it."""
    return Adapter(network(name), ADAPTERS[name])
