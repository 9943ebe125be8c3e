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
    bottleneck = IdentityBottleneck(latent_noise=0.5).eval()
    pixels = torch.rand(2, 1, 8, 8) * 2 - 1
    h = model.encoder(pixels)
    h = h if model.quant_conv is None else model.quant_conv(h)
    latents = bottleneck(h, torch.randn(2, 2, 8, 8)).latents
    bottleneck.fold(model)
    model.save_pretrained(tmp_path)
    stock = AutoencoderKL.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    posterior = stock.encode(pixels).latent_dist
    torch.testing.assert_close(posterior.mode(), latents)
    torch.testing.assert_close(posterior.sample(torch.Generator().manual_seed(0)), latents, rtol=0, atol=3e-6)


def test_noise_by_hand() -> None:
    moments = torch.tensor([1.0, 5.0]).reshape(1, 2, 1, 1)
    noise = torch.full((1, 1, 1, 1), 2.0)
    assert IdentityBottleneck()(moments, torch.zeros(1, 0)).latents.item() == 1.0
    assert IdentityBottleneck(latent_noise=0.25)(moments, noise).latents.item() == 1.5
    assert IdentityBottleneck(latent_noise=0.25).eval()(moments, noise).latents.item() == 1.0
