from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from latent_ae.models.bottlenecks.identity import IdentityBottleneck


@pytest.mark.parametrize("quant_conv", [True, False])
def test_the_folded_stock_model_gives_the_latents(tmp_path: Path, quant_conv: bool) -> None:
    model = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        latent_channels=2,
        norm_num_groups=4,
        use_quant_conv=quant_conv,
        use_post_quant_conv=quant_conv,
    )
    bottleneck = IdentityBottleneck()
    pixels = torch.rand(2, 1, 8, 8) * 2 - 1
    h = model.encoder(pixels)
    h = h if model.quant_conv is None else model.quant_conv(h)
    latents = bottleneck(h, torch.zeros(2, 0)).latents
    bottleneck.fold(model)
    model.save_pretrained(tmp_path)
    stock = AutoencoderKL.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    posterior = stock.encode(pixels).latent_dist
    torch.testing.assert_close(posterior.mode(), latents)
    torch.testing.assert_close(posterior.sample(torch.Generator().manual_seed(0)), latents, rtol=0, atol=3e-6)
