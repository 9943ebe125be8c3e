#!/usr/bin/env bash
# diffusers 0.42.1, torch 2.13.0: AutoencoderKLHunyuanVideo15 encodes and decodes one clip at a time only. The attention of
# its middle block adds a causal mask [B,N,N] to scores [B,1,N,N], which fits for B = 1 alone.
# Seen: a batch of 1 gives latents; a batch of 2 ends in RuntimeError "output with shape [2, 1, 4, 4] doesn't match the
# broadcast shape [2, 2, 4, 4]", encoding and decoding alike.
# What would be right: what a batch of 1 gives, for each.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 diffusers==0.42.1
cat > seen.py <<'PYTHON'
import torch
from diffusers import AutoencoderKLHunyuanVideo15

torch.manual_seed(0)
model = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8,) * 5, layers_per_block=1).eval()
sides = {
    "encode": lambda count: model.encode(torch.zeros(count, 3, 1, 32, 32)).latent_dist.mode(),
    "decode": lambda count: model.decode(torch.zeros(count, 4, 1, 2, 2)).sample,
}
for name, side in sides.items():
    with torch.no_grad():
        print(f"{name}, a batch of 1: {list(side(1).shape)}")
        try:
            shape = side(2).shape
        except RuntimeError as error:
            print(f"{name}, a batch of 2: {error}")
            assert "doesn't match the broadcast shape [2, 2, 4, 4]" in str(error), "behaves otherwise now"
        else:
            raise AssertionError(f"behaves otherwise now: {shape}")
PYTHON
venv/bin/python seen.py
