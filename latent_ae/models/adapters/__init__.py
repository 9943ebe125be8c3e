"""The other image autoencoders of diffusers: what can be encoded, decoded and measured with, a row for each class.

Training and exports are for AutoencoderKL and VQModel. A class that gives moments or latents of any image or of a
single frame, and pixels in [-1, 1] of latents without drawing noise, needs nothing but its row.
"""

from latent_ae.models.adapters.adapter import Adapter, Config, Row, halvings, key
from latent_ae.models.adapters.normalisation import (
    by_batch_norm,
    by_buffers,
    by_channel,
    by_channel_and_frame,
    unscaled,
)

__all__ = ["ADAPTERS", "Adapter", "Row"]


def _wan_factor(config: Config) -> int:
    return halvings("dim_mult")(config) * (config.get("patch_size") or 1)


def _wan_channels(config: Config) -> int:
    return int(config["in_channels"]) // (config.get("patch_size") or 1) ** 2


def _ltx_factor(config: Config) -> int:
    stated = config.get("spatial_compression_ratio")
    return int(stated or config["patch_size"] * 2 ** sum(config["spatio_temporal_scaling"]))


_ratio = key("spatial_compression_ratio")

ADAPTERS: dict[str, Row] = {
    "AutoencoderTiny": Row(factor=halvings("encoder_block_out_channels"), posterior=False, encoder_config=("act_fn",)),
    "AutoencoderDC": Row(factor=halvings("encoder_block_out_channels"), posterior=False),
    "AsymmetricAutoencoderKL": Row(factor=halvings("down_block_out_channels"), encoder_config=("norm_num_groups",)),
    "AutoencoderKLFlux2": Row(
        factor=halvings("block_out_channels"), normalisation=by_batch_norm, encoder_config=("norm_num_groups",)
    ),
    "AutoencoderKLHunyuanImage": Row(factor=_ratio),
    "AutoencoderKLKVAE": Row(factor=halvings("ch_mult"), normalisation=unscaled, latent_channels=key("z_channels")),
    "AutoencoderKLTemporalDecoder": Row(factor=halvings("block_out_channels"), decoding={"num_frames": 1}),
    "AutoencoderKLQwenImage": Row(
        factor=halvings("dim_mult"),
        normalisation=by_channel,
        image_channels=key("input_channels"),
        latent_channels=key("z_dim"),
        time_axis=True,
    ),
    "AutoencoderKLQwenImage21": Row(
        factor=_wan_factor,
        normalisation=by_channel,
        image_channels=_wan_channels,
        latent_channels=key("z_dim"),
        time_axis=True,
    ),
    "AutoencoderKLWan": Row(
        factor=_wan_factor,
        normalisation=by_channel,
        image_channels=_wan_channels,
        latent_channels=key("z_dim"),
        time_axis=True,
    ),
    "AutoencoderKLCosmos": Row(factor=_ratio, normalisation=by_channel_and_frame, posterior=False, time_axis=True),
    "AutoencoderKLHunyuanImageRefiner": Row(factor=_ratio, time_axis=True),
    "AutoencoderKLHunyuanVideo": Row(factor=_ratio, time_axis=True, encoder_config=("norm_num_groups",)),
    "AutoencoderKLHunyuanVideo15": Row(factor=_ratio, time_axis=True, batches=False),
    "AutoencoderKLLTXVideo": Row(factor=_ltx_factor, normalisation=by_buffers, time_axis=True),
}
"""by `_class_name` in config.json"""
