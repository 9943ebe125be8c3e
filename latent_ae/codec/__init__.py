"""Fast inference: images of any size to latents and back, and ways through the latent space."""

from latent_ae.codec.codec import Codec, Decoded
from latent_ae.codec.device import best_device, device_named
from latent_ae.codec.memory import DoesNotFit, Plan
from latent_ae.codec.plain import decode, encode, reconstruct
from latent_ae.codec.precision import PRECISIONS, Precision, PrecisionReport, SideChoice

__all__ = [
    "PRECISIONS",
    "Codec",
    "Decoded",
    "DoesNotFit",
    "Plan",
    "Precision",
    "PrecisionReport",
    "SideChoice",
    "best_device",
    "decode",
    "device_named",
    "encode",
    "reconstruct",
]
