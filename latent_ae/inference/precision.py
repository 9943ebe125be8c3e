"""The number format of each side of a model, by rules: the processor, the device and the error on one test picture.

Nothing is timed, and the test picture always has one size and is computed by one thread: every load of a model chooses
the same, however busy the machine is. Encoder and decoder are chosen separately: an error in latents stays in whatever
is made of them, an error in pixels ends there.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from latent_ae.device import multiplies_bf16, one_thread
from latent_ae.errors import UserError
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import DecoderSide, EncoderSide, Format, Side
from latent_ae.inference.winograd import pays
from latent_ae.models import AnyAutoencoder, factor_of

Precision = Literal["auto", "exact", "fp32", "bf16", "fp16"]
SideName = Literal["encoder", "decoder"]
PRECISIONS: tuple[Precision, ...] = ("auto", "exact", "fp32", "bf16", "fp16")

ENCODER_DEFAULT: Precision = "fp32"
DECODER_DEFAULT: Precision = "auto"

LATENT_ERROR = 0.01
"""largest accepted error of latents: norm of the difference from float32's over their norm"""
PIXEL_DECIBEL = 45.0
"""lowest accepted PSNR of decoded 8-bit pixels to float32's, peak to peak 2; 45 dB is off by half a level of 256"""
_DECIBEL_PER_BIT = 20 * math.log10(2)

_PICTURE = 64
"""pixels a side of the test picture, rounded up to a multiple of the model's factor"""


@dataclass(frozen=True)
class Trial:
    """One format on the test picture."""

    form: Format
    error: float
    """latents: relative to float32's; pixels: PSNR in dB to float32's, infinite where nothing differs"""
    passed: bool


@dataclass(frozen=True)
class SideChoice:
    """What a side runs in, and why."""

    side: SideName
    asked: Precision
    chosen: Format
    tried: tuple[Trial, ...] = ()
    """in order of preference, up to the first that passed; empty where float32 was asked for or nothing else is fast"""

    @property
    def precision(self) -> str:
        """exact, fp32, tf32, bf16 or fp16."""
        return self.chosen.precision

    @property
    def passed(self) -> bool:
        """Whether what was chosen is as close to float32 as the check asks."""
        return all(trial.passed for trial in self.tried if trial.form == self.chosen)

    def __str__(self) -> str:
        alone = ", every image alone" if self.precision == "exact" else ""
        chosen = next((trial for trial in self.tried if trial.form == self.chosen), None)
        distance = "" if chosen is None else f", {self._distance(chosen)}"
        refused = "".join(
            f"; {trial.form.precision}{' Winograd' * trial.form.winograd} is not close enough: {self._distance(trial)}"
            for trial in self.tried
            if trial.form != self.chosen
        )
        return f"{self.side} {self.precision}{alone}{distance}{refused}"

    def _distance(self, trial: Trial) -> str:
        distance = f"{100 * trial.error:.2g} %" if self.side == "encoder" else f"{trial.error:.1f} dB"
        failed = ", FAILS the check" if trial.form == self.chosen and not trial.passed else ""
        return f"{distance} from fp32{failed}"


@dataclass(frozen=True)
class PrecisionReport:
    """What both sides run in; prints as a line a side."""

    encoder: SideChoice
    decoder: SideChoice

    def __str__(self) -> str:
        return f"{self.encoder}\n{self.decoder}"


def form_of(precision: str, device: torch.device, *, as_written: bool = False) -> Format:
    """The format of a precision that is asked for by name, with the order in memory that is fastest on the device.

    `exact` is the stock module. On a CPU everything else runs in channels-last order, and float32 by Winograd's
    algorithm, which is as accurate; on other devices what their matrix units multiply is in channels-last order.
    `as_written` sides keep torch's own order.
    """
    if precision == "exact" or as_written:
        return Format(precision)
    cpu = device.type == "cpu"
    return Format(precision, channels_last=cpu or precision != "fp32", winograd=cpu and precision == "fp32")


@torch.no_grad()
def choose(
    model: AnyAutoencoder, encoder: Precision, decoder: Precision, *, bits: int = 8
) -> tuple[Side, Side, PrecisionReport]:
    """Both sides of a float32 model in the precisions asked for, on the model's device.

    `auto` takes the fastest format of the device that passes the check, float32 if none does. What is asked for by name
    is taken even if it fails the check; the report says so. The check encodes and decodes one picture of 64 pixels a
    side: a second for Stable Diffusion's architecture on a CPU. Decoded pixels may be off by half a level of `bits`.

    Raises UserError for a precision that the device cannot compute.
    """
    for asked in (encoder, decoder):
        if asked not in PRECISIONS:
            raise UserError(f"unknown precision {asked!r}: take one of {', '.join(PRECISIONS)}")
    encoder_module, decoder_module = EncoderSide(model), DecoderSide(model)
    as_written = encoder_module.as_written
    faster = not as_written and any(pays(module) for module in model.modules())
    candidates = [
        _candidates(asked, model.device, winograd=faster, as_written=as_written) for asked in (encoder, decoder)
    ]
    # The same sums on any number of threads: near the limits of the check they could decide.
    with one_thread() if model.device.type == "cpu" else nullcontext():
        probes: list[Tensor] = []
        if any(candidates):
            picture = photo_like(int(model.config["in_channels"]), _picture_side(model))
            moments = Side(encoder_module, Format("fp32"))(picture)
            probes = [picture, moments[:, : encoder_module.channels]]
        choice = partial(_choose, pixel_decibel=PIXEL_DECIBEL + (bits - 8) * _DECIBEL_PER_BIT)
        encoder_choice = choice(encoder_module, "encoder", encoder, candidates[0], probes[:1])
        decoder_choice = choice(decoder_module, "decoder", decoder, candidates[1], probes[1:])
    sides = Side(encoder_module, encoder_choice.chosen), Side(decoder_module, decoder_choice.chosen)
    return *sides, PrecisionReport(encoder_choice, decoder_choice)


def _choose(
    module: EncoderSide | DecoderSide,
    name: SideName,
    asked: Precision,
    candidates: list[Format],
    probe: list[Tensor],
    *,
    pixel_decibel: float,
) -> SideChoice:
    """`probe` holds what the candidates are tried on, if there are any."""
    device = next(module.parameters()).device
    trials: list[Trial] = []
    reference = Side(module, Format("fp32"))(probe[0]) if candidates else torch.empty(0)
    for form in candidates:
        try:
            outputs = Side(module, form)(probe[0])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if asked == "auto":
                raise
            reason = str(error).partition("\n")[0]
            raise UserError(f"the {name} cannot run in {asked} on {device} ({reason}): take precision auto") from error
        trials.append(_trial(form, name, outputs[:, : module.channels], reference[:, : module.channels], pixel_decibel))
        if trials[-1].passed:
            break
    named = "fp32" if asked == "auto" else asked
    fallback = form_of(named, device, as_written=module.as_written)
    chosen = trials[-1].form if trials and (trials[-1].passed or asked != "auto") else fallback
    return SideChoice(name, asked, chosen, tuple(trials))


def _candidates(asked: Precision, device: torch.device, *, winograd: bool, as_written: bool = False) -> list[Format]:
    """What has to be checked against float32, the preferred first; `winograd` where it makes the model faster.

    `auto` prefers bfloat16, which has float32's range: float16 may pass on the test picture and overflow on another
    image. It is taken where there is no bfloat16, and there an overflow is an error, never a wrong result.
    """
    precisions: tuple[str, ...] = () if asked in ("exact", "fp32") else (asked,)
    if asked == "auto" and device.type == "cuda":
        modern = torch.cuda.is_bf16_supported(including_emulation=False)  # as old as TensorFloat-32
        precisions = ("bf16", "tf32") if modern else ("fp16",)
    elif asked == "auto":
        precisions = ("bf16",) if device.type == "cpu" and multiplies_bf16() else ()
    forms = [form_of(each, device, as_written=as_written) for each in precisions]
    if asked == "auto" and winograd and device.type == "cpu":
        forms = [faster for form in forms for faster in (replace(form, winograd=True), form)]
    return forms


def _picture_side(model: AnyAutoencoder) -> int:
    factor = factor_of(model)
    return -(-_PICTURE // factor) * factor


def _trial(form: Format, name: str, outputs: Tensor, reference: Tensor, pixel_decibel: float) -> Trial:
    # Written so that NaN fails.
    if name == "encoder":
        error = _relative(outputs, reference)
        return Trial(form, error, error <= LATENT_ERROR)
    error = _psnr(outputs, reference)
    return Trial(form, error, error >= pixel_decibel)


def _relative(outputs: Tensor, reference: Tensor) -> float:
    outputs, reference = outputs.cpu().double(), reference.cpu().double()  # not every device has float64
    return float((outputs - reference).norm() / reference.norm().clamp(min=1e-30))


def _psnr(outputs: Tensor, reference: Tensor) -> float:
    mean = float((outputs.clamp(-1, 1) - reference.clamp(-1, 1)).cpu().double().square().mean())
    return 10 * math.log10(4 / mean) if mean else (math.inf if mean == 0 else math.nan)
