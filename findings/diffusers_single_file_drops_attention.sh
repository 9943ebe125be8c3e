#!/usr/bin/env bash
# diffusers 0.42.1, torch 2.13.0: AutoencoderKL.from_single_file(file, original_config=yaml) loads an autoencoder whose
# config has attention beside its residual blocks (`attn_resolutions`, as latent-diffusion's published kl-f16.yaml) as one
# without it. It names the unused tensors in a warning and returns a model; there is no error.
# Seen: latents and decoded pixels differ by a fifth of their norm from those of the same weights with their attention.
# What would be right: an error, or `AttnDownEncoderBlock2D` and `AttnUpDecoderBlock2D` for the levels that the config names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 diffusers==0.42.1 safetensors==0.8.0 pyyaml==6.0.3
cat > seen.py <<'PYTHON'
import re

import torch
import yaml
from diffusers import AutoencoderKL
from safetensors.torch import save_file

LEVELS = 2
NAMES = [
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.attentions", r"down.\1.attn"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets", lambda found: f"up.{LEVELS - 1 - int(found[1])}.block"),
    (r"up_blocks\.(\d)\.attentions", lambda found: f"up.{LEVELS - 1 - int(found[1])}.attn"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{LEVELS - 1 - int(found[1])}.upsample"),
    (r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"group_norm", "norm"),
    (r"to_out\.0", "proj_out"),
    (r"to_([qkv])", r"\1"),
]


def original(name, tensor):
    """A tensor of diffusers as latent-diffusion names and shapes it."""
    if re.search(r"to_(q|k|v|out\.0)\.weight$", name):
        tensor = tensor[:, :, None, None]
    for pattern, by in NAMES:
        name = re.sub(pattern, by, name)
    return name, tensor.contiguous()


torch.manual_seed(0)
vae = AutoencoderKL(
    block_out_channels=(32, 64),
    down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
).eval()
save_file(dict(original(*item) for item in vae.state_dict().items()), "vae.safetensors")
sizes = {"in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "z_channels": 4}
ddconfig = {**sizes, "double_z": True, "resolution": 32, "attn_resolutions": [16], "dropout": 0.0}
with open("vae.yaml", "w") as file:
    yaml.safe_dump({"model": {"params": {"first_stage_config": {"params": {"embed_dim": 4, "ddconfig": ddconfig}}}}}, file)

loaded = AutoencoderKL.from_single_file("vae.safetensors", original_config="vae.yaml").eval()
with torch.no_grad():
    pixels = torch.randn(1, 3, 32, 32)
    latents, others = (model.encode(pixels).latent_dist.mean for model in (vae, loaded))
    decoded, otherwise = (model.decode(latents).sample for model in (vae, loaded))
apart = [float((a - b).norm() / a.norm()) for a, b in ((latents, others), (decoded, otherwise))]
print(f"loaded as {loaded.config.down_block_types}; latents {apart[0]:.1%}, pixels {apart[1]:.1%} apart")
assert loaded.config.down_block_types == ["DownEncoderBlock2D"] * 2 and min(apart) > 0.1, "behaves otherwise now"
PYTHON
venv/bin/python seen.py
