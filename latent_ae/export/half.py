"""What becomes of a model in half precision, measured on real images."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latent_ae.export.proof import Probe, answer
from latent_ae.models import Autoencoder

LATENT_ERROR = 0.01
"""largest relative error of an image's latents that is safe: norm of the difference over the norm"""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class HalfPrecision:
    """How a model does in weights and activations of one type."""

    variant: str
    """fp16 or bf16"""
    overflow: str | None
    """the first module whose output is not finite"""
    latents_error: float
    """the worst image's; NaN where latents are not finite"""

    @property
    def is_safe(self) -> bool:
        """Written so that NaN is not."""
        return self.overflow is None and self.latents_error <= LATENT_ERROR

    @property
    def warning(self) -> str:
        """What users of the model in this precision should know; empty where there is nothing."""
        if self.is_safe:
            return ""
        found = f"puts latents of held-out images off by {100 * self.latents_error:.2g} %"
        if self.overflow is not None:
            found = f"overflows in {self.overflow} on held-out images"
        return f"{self.variant} {found}: use it in float32{' or bfloat16' if self.variant == 'fp16' else ''}"


def measure_half(model: Autoencoder, variant: str, probes: Sequence[Probe]) -> HalfPrecision:
    """Encode and decode the real images among the probes, or all if none is, in `variant` (fp16 or bf16).

    As a GPU computes it: weights and outputs of layers are rounded, sums within a layer are float32's. A CPU's own
    fp16 would take a hundred times as long.
    """
    simulated = rounded(model, variant)
    overflows: list[str] = []
    for name, module in simulated.named_modules():
        if name:
            module.register_forward_hook(_rounding(name, DTYPES[variant], overflows))
    errors: list[float] = []
    for probe in [probe for probe in probes if probe.real] or probes:
        expected = probe.answer.latents.double()
        # The first channels are the latents; the others are their log-variance.
        encoded = answer(simulated, probe.pixels, latents=probe.answer.latents).encoded[:, : expected.shape[1]]
        norms = expected.flatten(1).norm(dim=1).clamp(min=1e-30)
        errors.append(float(((encoded.double() - expected).flatten(1).norm(dim=1) / norms).max()))
    worst = math.nan if any(map(math.isnan, errors)) else max(errors)
    return HalfPrecision(variant, overflows[0] if overflows else None, worst)


def rounded(model: Autoencoder, variant: str) -> Autoencoder:
    """A float32 model whose weights were converted to another type and back, like those of a file in it."""
    return in_type(model, variant).float()


def in_type(model: Autoencoder, variant: str) -> Autoencoder:
    """A copy in another type."""
    # The method of nn.Module: diffusers' own logs a warning, about no module at all for these classes.
    return nn.Module.to(copy.deepcopy(model), DTYPES[variant])


def _rounding(
    name: str, dtype: torch.dtype, overflows: list[str]
) -> Callable[[nn.Module, object, object], Tensor | None]:
    def hook(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None  # leaves the output what it is
        once = output.to(dtype).float()
        if not once.isfinite().all():
            overflows.append(name)
        return once

    return hook
