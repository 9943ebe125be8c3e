"""A model's architecture in latent-diffusion's own words, from which it builds the model that takes the weights."""

from typing import Any

from diffusers import AutoencoderKL

from latent_ae.models import Autoencoder, factor_of

_GRID = 32
"""Side of the latents of an image of `resolution`, which LDM uses for nothing but to place attention at a level."""


def ldm_config(model: Autoencoder) -> dict[str, Any]:
    """For `ldm.util.instantiate_from_config`: `target` and `params`.

    The model must be one that latent-diffusion has (`compat`'s row for it).
    """
    config, is_kl = model.config, isinstance(model, AutoencoderKL)
    widths = tuple(config["block_out_channels"])
    resolution = _GRID * factor_of(model)
    levels = [level for level, kind in enumerate(config["down_block_types"]) if "Attn" in kind]
    codes = {} if is_kl else {"n_embed": int(config["num_vq_embeddings"])}
    return {
        "target": f"ldm.models.autoencoder.{'AutoencoderKL' if is_kl else 'VQModel'}",
        "params": {
            "embed_dim": int(
                config["latent_channels"] if is_kl else config["vq_embed_dim"] or config["latent_channels"]
            ),
            **codes,
            "ddconfig": {
                "double_z": is_kl,
                "z_channels": int(config["latent_channels"]),
                "resolution": resolution,
                "in_channels": int(config["in_channels"]),
                "out_ch": int(config["out_channels"]),
                "ch": widths[0],
                "ch_mult": [width // widths[0] for width in widths],
                "num_res_blocks": int(config["layers_per_block"]),
                "attn_resolutions": [resolution >> level for level in levels],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    }
