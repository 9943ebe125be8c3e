"""Small stock autoencoders of many architectures, and when two of them are the same."""

from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from latent_ae.models.autoencoder import Autoencoder, factor_of
from latent_ae.models.ldm_keys import to_ldm_keys


def arguments(*widths: int, attention: tuple[int, ...] = (), **others: Any) -> dict[str, Any]:
    """Of a stock autoencoder with attention of their own at the levels `attention`, in encoder and decoder."""
    kinds = ["Attn" if level in attention else "" for level in range(len(widths))]
    return {
        "block_out_channels": widths,
        "down_block_types": tuple(f"{kind}DownEncoderBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)),
        "norm_num_groups": 4,
        **others,
    }


STABLE_DIFFUSION = arguments(32, 64, 64, 64, layers_per_block=2, norm_num_groups=32)
GAUSSIAN = {
    "one level": arguments(4),
    "grey, uneven widths": arguments(8, 4, 12, in_channels=1, out_channels=1, latent_channels=2),
    "stable diffusion": STABLE_DIFFUSION,
    "flux": STABLE_DIFFUSION | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    "no attention": arguments(4, 8, layers_per_block=3, mid_block_add_attention=False),
    "one 1x1 convolution": arguments(4, 8, use_quant_conv=False, in_channels=4, out_channels=3),
}
WITH_LEVEL_ATTENTION = {"latent-diffusion f16": arguments(4, 4, 8, 8, attention=(3,), layers_per_block=2)}
QUANTISED = {
    "codebook": arguments(4, 8, num_vq_embeddings=5),
    "wider vectors": arguments(4, 8, latent_channels=2, num_vq_embeddings=7, vq_embed_dim=6),
    "vqgan": arguments(8, 8, 16, attention=(1, 2), layers_per_block=2, num_vq_embeddings=4),
    # Its spatial normalisation always has 32 groups.
    "movq": arguments(32, 64, attention=(1,), latent_channels=4, num_vq_embeddings=4, norm_type="spatial"),
}
ARCHITECTURES: dict[str, tuple[type, dict[str, Any]]] = {
    **{name: (AutoencoderKL, given) for name, given in (GAUSSIAN | WITH_LEVEL_ATTENTION).items()},
    **{name: (VQModel, given) for name, given in QUANTISED.items()},
}


@cache
def stock(name: str) -> Autoencoder:
    """One of ARCHITECTURES; shared, so for reading alone."""
    return filled(*ARCHITECTURES[name])


def filled(kind: type, given: dict[str, Any]) -> Autoencoder:
    """A stock model in which no two tensors are alike."""
    model: Autoencoder = kind(**given).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return model


def ldm_tensors(model: Autoencoder, prefix: str = "") -> dict[str, Tensor]:
    tensors = to_ldm_keys(model.state_dict(), len(model.config["block_out_channels"]))
    return {prefix + name: tensor.contiguous() for name, tensor in tensors.items()}


def outputs(model: Autoencoder) -> tuple[Tensor, Tensor]:
    side = 4 * factor_of(model)
    pixels = torch.rand(1, model.config["in_channels"], side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded = model.encode(pixels)
        latents = encoded.latents if isinstance(model, VQModel) else encoded.latent_dist.parameters
        z = latents if isinstance(model, VQModel) else encoded.latent_dist.mode()
        return latents, model.decode(z).sample


def assert_same(ours: Autoencoder, theirs: Autoencoder) -> None:
    assert type(ours) is type(theirs)
    got, expected = ours.state_dict(), theirs.state_dict()
    assert got.keys() == expected.keys()
    assert [name for name in got if not torch.equal(got[name], expected[name])] == []
    assert all(torch.equal(a, b) for a, b in zip(outputs(ours), outputs(theirs), strict=True))


def groups(name: str) -> int | None:
    given = ARCHITECTURES[name][1]["norm_num_groups"]
    return None if given == 32 else given
