"""The number format of each side of a model: which there are, and which is the fastest that is good enough.

A choice is measured, not believed: what the device runs at speed codes one test picture, and the fastest that stays
close to float32 is taken. Encoder and decoder choose apart: an error in latents goes on into whatever is made of them,
one in pixels ends there.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from latent_ae.codec.picture import photo_like
from latent_ae.codec.sides import DecoderSide, EncoderSide, Format, Side
from latent_ae.codec.winograd import fits
from latent_ae.errors import UserError
from latent_ae.models import Autoencoder, factor_of

Precision = Literal["auto", "exact", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "exact", "fp32", "bf16", "fp16")

LATENT_ERROR = 0.01
"""the most that latents may be from float32's: norm of the difference over the norm"""
PIXEL_DECIBEL = 45.0
"""the least PSNR of decoded pixels to float32's, peak to peak 2; at 45 dB a value is off by half a level of 256"""

_WORTHWHILE = 1.1
"""as many times as fast as the plainest must something else be: less is noise, and would differ from start to start"""
_ROUNDS = 7
"""of measurements of a side, in turns"""
_SECONDS = 0.5
"""after which no further round is begun: slow models are measured once"""
_PICTURE = 64
_LARGE_PICTURE = {"cpu": 128, "cuda": 512}
"""what is measured on small pictures says little about large ones, least of all on a GPU"""
_QUICK = 1.0
"""a picture on which float32 takes less than these seconds may be twice as large"""


@dataclass(frozen=True)
class Trial:
    """One format on the test picture."""

    form: Format
    seconds: float
    error: float
    """latents: relative to float32's; pixels: PSNR in dB to float32's, infinite where nothing differs"""
    passed: bool


@dataclass(frozen=True)
class SideChoice:
    """What a side runs in, and why."""

    side: Literal["encoder", "decoder"]
    asked: Precision
    chosen: Format
    tried: tuple[Trial, ...] = ()
    """float32 first; empty where float32 was asked for and nothing had to be measured"""
    tried_pixels: int = 0
    """of the picture that they were tried on"""

    @property
    def seconds_per_pixel(self) -> float | None:
        """Of what was chosen, at its best; None where nothing was measured."""
        return min((trial.seconds / self.tried_pixels for trial in self._own()), default=None)

    @property
    def precision(self) -> str:
        """exact, fp32, bf16 or fp16."""
        return self.chosen.precision

    @property
    def passed(self) -> bool:
        """Whether what was chosen is as close to float32 as the check asks."""
        return all(trial.passed for trial in self._own())

    def __str__(self) -> str:
        if not self.tried:
            alone = ", every image alone" if self.precision == "exact" else ""
            return f"{self.side} {self.chosen}{alone}, as asked"
        others = [trial for trial in self.tried[1:] if trial.form != self.chosen]
        lines = "; ".join(self._line(trial) for trial in self._own() + others)
        return f"{self.side} {lines}"

    def _own(self) -> list[Trial]:
        return [trial for trial in self.tried if trial.form == self.chosen]

    def _line(self, trial: Trial) -> str:
        if trial is self.tried[0]:
            return f"{trial.form}: {1e3 * trial.seconds:.3g} ms"
        distance = f"{100 * trial.error:.2g} %" if self.side == "encoder" else f"{trial.error:.1f} dB"
        failed = "" if trial.passed else ", FAILS the check"
        return f"{trial.form}: {distance} from fp32, {self.tried[0].seconds / trial.seconds:.2f}x as fast{failed}"


@dataclass(frozen=True)
class PrecisionReport:
    """What both sides run in; prints as a line a side."""

    encoder: SideChoice
    decoder: SideChoice

    def __str__(self) -> str:
        return f"{self.encoder}\n{self.decoder}"


@torch.no_grad()
def choose(model: Autoencoder, encoder: Precision, decoder: Precision) -> tuple[Side, Side, PrecisionReport]:
    """Both sides of a float32 model in the precisions asked for, on the model's device.

    What is asked for by name is taken even if it fails the check; the report says so. The check is bounded: every
    format codes one picture, of 128 pixels a side where float32 encodes one of 64 in less than a second (on a GPU of up
    to 512, in the same way), and again up to seven times while that has taken less than half a second. Small models
    take less than a second, Stable Diffusion's architecture some ten on one core of a CPU.

    Raises UserError for a precision that the device cannot compute.
    """
    for asked in (encoder, decoder):
        if asked not in PRECISIONS:
            raise UserError(f"unknown precision {asked!r}: take one of {', '.join(PRECISIONS)}")
    plain_encoder, plain_decoder = Side(EncoderSide(model), Format("fp32")), Side(DecoderSide(model), Format("fp32"))
    picture = latents = None
    if not {encoder, decoder} <= {"exact", "fp32"}:
        picture = _picture(plain_encoder, int(model.config["in_channels"]), factor_of(model))
        latents = plain_encoder(picture)[:, : plain_encoder.module.channels]
    pixels = 0 if picture is None else picture[0, 0].numel()
    encoder_side, encoder_choice = _choose_side(plain_encoder, "encoder", encoder, picture, pixels)
    decoder_side, decoder_choice = _choose_side(plain_decoder, "decoder", decoder, latents, pixels)
    return encoder_side, decoder_side, PrecisionReport(encoder_choice, decoder_choice)


def _choose_side(
    plain: Side, name: Literal["encoder", "decoder"], asked: Precision, probe: Tensor | None, pixels: int
) -> tuple[Side, SideChoice]:
    """`probe` is what the candidates code; None where nothing has to be measured; `pixels` are its picture's."""
    if asked in ("exact", "fp32"):
        side = Side(plain.module, Format(asked))
        return side, SideChoice(name, asked, side.form)
    assert probe is not None
    try:
        sides = [plain, *(Side(plain.module, form) for form in _candidates(asked, plain))]
        tried = _measure(sides, probe, name)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if asked == "auto":
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the {name} cannot run in {asked} on {plain.device} ({reason}): take precision auto"
        ) from error
    seconds = [trial.seconds for trial in tried]
    if asked == "auto":
        best = min((i for i, trial in enumerate(tried) if trial.passed), key=seconds.__getitem__, default=0)
        best = best if seconds[0] > _WORTHWHILE * seconds[best] else 0
    else:
        best = min(range(1, len(tried)), key=seconds.__getitem__)
    return sides[best], SideChoice(name, asked, tried[best].form, tuple(tried), pixels)


def _candidates(asked: Precision, plain: Side) -> list[Format]:
    """What there is to try besides float32 as diffusers runs it."""
    if plain.device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)  # as old as TensorFloat-32
        precisions = ["tf32", "bf16", "fp16"] if bf16 else ["fp16"]
        return [Format(each, last) for each in (precisions if asked == "auto" else [asked]) for last in (False, True)]
    if asked != "auto":
        return [Format(asked, channels_last=True)]
    winograd = any(fits(module) for module in plain.module.modules())
    return (
        [Format("fp32", channels_last=True)]
        + [Format("fp32", channels_last=True, winograd=True)] * winograd
        + [Format("bf16", channels_last=True)] * _multiplies_bf16()
    )


def _multiplies_bf16() -> bool:
    """Whether the processor multiplies bfloat16 by instructions of its own; without, it is slower than float32."""
    file = Path("/proc/cpuinfo")
    flags = set(file.read_text(encoding="utf-8").split()) if file.exists() else set()
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _picture(encoder: Side, channels: int, factor: int) -> Tensor:
    encoder(photo_like(channels, max(16, factor)))  # what torch loads lazily counts for nobody
    size, largest = -(-_PICTURE // factor) * factor, _LARGE_PICTURE["cuda" if encoder.device.type == "cuda" else "cpu"]
    while 2 * size <= largest and _run(encoder, photo_like(channels, size))[1] < _QUICK:
        size *= 2
    return photo_like(channels, size)


def _measure(sides: Sequence[Side], inputs: Tensor, name: str) -> list[Trial]:
    """The first side is the reference. The sides take turns, so that a busy machine slows all of them."""
    if sides[0].device.type != "cpu":
        for side in sides:
            _run(side, inputs)  # what is loaded and tuned at the first run takes many times as long
    outputs, seconds = map(list, zip(*(_run(side, inputs) for side in sides), strict=True))
    end = time.perf_counter() + _SECONDS - sum(seconds)
    for _ in range(_ROUNDS):
        if time.perf_counter() > end:
            break
        seconds = [min(so_far, _run(side, inputs)[1]) for so_far, side in zip(seconds, sides, strict=True)]
    outputs = [output[:, : side.module.channels] for output, side in zip(outputs, sides, strict=True)]
    errors = [_relative(output, outputs[0]) if name == "encoder" else _psnr(output, outputs[0]) for output in outputs]
    # Written so that NaN fails.
    passed = [error <= LATENT_ERROR if name == "encoder" else error >= PIXEL_DECIBEL for error in errors]
    forms = [side.form for side in sides]
    return [Trial(*each) for each in zip(forms, seconds, errors, passed, strict=True)]


def _run(side: Side, inputs: Tensor) -> tuple[Tensor, float]:
    """Outputs, and the seconds that they took."""
    start = time.perf_counter()
    outputs = side(inputs)
    if outputs.device.type != "cpu":
        torch.accelerator.synchronize(outputs.device)
    return outputs, time.perf_counter() - start


def _relative(outputs: Tensor, reference: Tensor) -> float:
    outputs, reference = outputs.cpu().double(), reference.cpu().double()  # not every device has float64
    return float((outputs - reference).norm() / reference.norm().clamp(min=1e-30))


def _psnr(outputs: Tensor, reference: Tensor) -> float:
    mean = float((outputs.clamp(-1, 1) - reference.clamp(-1, 1)).cpu().double().square().mean())
    return 10 * math.log10(4 / mean) if mean else (math.inf if mean == 0 else math.nan)
