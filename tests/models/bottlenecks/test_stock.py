"""A trained bottleneck beside the stock VQModel that is exported: the same codes, the same pictures."""

from pathlib import Path

import pytest
import torch
from diffusers import VQModel
from diffusers.models.autoencoders.vae import VectorQuantizer

from tests.models.bottlenecks.tiny import QUANTIZERS, build, codebook, inputs, vq_model


@pytest.mark.parametrize("variant", QUANTIZERS)
def test_the_stock_model_alone_does_the_same(variant: str, tmp_path: Path) -> None:
    model = vq_model()
    bottleneck = build(variant, model.quantize.embedding)
    for step in range(3):
        output = bottleneck(*inputs(variant, bottleneck, seed=step))
        with torch.no_grad():  # an optimiser's step
            model.quantize.embedding.weight.mul_(1.01 if model.quantize.embedding.weight.requires_grad else 1.0)
        candidates = output.candidates.flatten(0, 1) if bottleneck.wants_candidates() else None
        bottleneck.after_update(output.sums, candidates, seed=step)
    with torch.no_grad():
        model.quant_conv.weight.mul_(4.0)  # so that the vectors reach many codes
        bottleneck.fold(model)
        pixels = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        bottleneck.eval()
        encoded = model.quant_conv(model.encoder(pixels))
        ours = bottleneck(encoded, torch.zeros(8, *bottleneck.noise_shape((2, 8, 8))))
        picture = model.decoder(model.post_quant_conv(ours.latents))
        model.save_pretrained(tmp_path)
        stock = VQModel.from_pretrained(tmp_path, low_cpu_mem_usage=False)
        latents = stock.encode(pixels).latents
        _, _, (_, _, indices) = stock.quantize(latents)
        assert ours.codes.unique().numel() > 3
        assert torch.equal(ours.codes.flatten(), indices)
        torch.testing.assert_close(stock(pixels).sample, picture, rtol=0, atol=1e-5)
        # What the decoder learned from in training, where that is the code itself.
        if not variant.startswith("gumbel"):
            trained_on = bottleneck.train()(encoded, torch.zeros(8, *bottleneck.noise_shape((2, 8, 8)))).latents
            torch.testing.assert_close(trained_on, ours.latents, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["vq", "ema_vq"])
def test_unit_codes_are_found_by_the_stock_search_at_any_length(kind: str, scale: float) -> None:
    embedding = codebook(64, 4)
    bottleneck = build(f"{kind}, normalized", embedding)
    h = torch.randn(8, 4, 8, 8) * scale
    output = bottleneck(h, torch.zeros(8, 0))
    stock = VectorQuantizer(64, 4, beta=0.25)
    stock.embedding.load_state_dict(embedding.state_dict())
    assert torch.equal(output.codes.flatten(), stock(h)[2][2])
    cosine = torch.einsum("bchw,kc->bhwk", torch.nn.functional.normalize(h.double(), dim=1), embedding.weight.double())
    found = cosine.gather(3, output.codes[..., None]).squeeze(3)
    torch.testing.assert_close(found, cosine.amax(dim=3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", [name for name in QUANTIZERS if name.startswith("vq") and "normalized" not in name])
def test_terms_add_up_to_the_stock_loss(variant: str) -> None:
    embedding = codebook()
    bottleneck = build(variant, embedding)
    h, noise = inputs(variant, bottleneck)
    stock = VectorQuantizer(*embedding.weight.shape, beta=0.25, legacy=False)
    stock.embedding.load_state_dict(embedding.state_dict())
    h.requires_grad_()
    losses = bottleneck(h, noise).losses
    ours = (0.25 * losses["commitment"] + losses["codebook"]).mean()
    theirs = stock(h)[1]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (h, embedding.weight)), torch.autograd.grad(theirs, (h, stock.embedding.weight))
    )
