"""Fast inference: images of any size to latents and back, and ways through the latent space."""

from latent_ae.device import best_device, device_named
from latent_ae.inference.codec import Codec, Decoded
from latent_ae.inference.memory import DoesNotFit, Plan
from latent_ae.inference.precision import PRECISIONS, Precision, PrecisionReport, SideChoice
from latent_ae.models.encode_decode import decode, encode, reconstruct

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
