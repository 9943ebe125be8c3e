"""What a side runs in follows from the device and from the error, never from a clock; the report says both."""

import time
from dataclasses import replace
from functools import cache

import pytest
import torch

from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.inference import Codec, PrecisionReport, winograd
from latent_ae.inference import precision as room
from latent_ae.inference.precision import (
    LATENT_ERROR,
    PIXEL_DECIBEL,
    SideChoice,
    Trial,
    choose,
    form_of,
)
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import DecoderSide, EncoderSide, Format, Side
from latent_ae.inference.winograd import WinogradConv
from latent_ae.models import Autoencoder, build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from tests.inference.side_runs import runs
from tests.models.stock_models import stock as any_stock

PLAIN, LAST = Format("fp32"), Format("fp32", channels_last=True, winograd=True)
HALF = Format("bf16", channels_last=True)


@pytest.fixture(autouse=True)
def _a_small_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PICTURE", 32)


def processor(monkeypatch: pytest.MonkeyPatch, *, bf16: bool) -> None:
    """One that multiplies bfloat16 by instructions of its own, or one that does not, whichever the tests run on."""
    monkeypatch.setattr(room, "multiplies_bf16", lambda: bf16)


def built(*, vq: bool = False) -> Autoencoder:
    bottleneck = VQConfig(codebook_size=8, code_channels=2) if vq else None
    return build_autoencoder(ModelConfig(preset="tiny", image_channels=3), bottleneck, seed=0, resolution=16).eval()


@cache
def tiny(*, vq: bool = False) -> Autoencoder:
    return built(vq=vq)


def test_the_picture_is_the_same_every_time_and_fills_the_range() -> None:
    picture = photo_like(3, 64)
    assert picture.shape == (1, 3, 64, 64)
    assert torch.equal(picture, photo_like(3, 64))
    assert picture.abs().max() <= 1
    assert picture.std() > 0.3
    assert photo_like(1, 32).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("name", ["stable diffusion", "flux", "vqgan", "movq"])
def test_the_sides_are_the_stock_models_halves(name: str) -> None:
    model, picture = any_stock(name), photo_like(3, 32)
    encoder, decoder = Side(EncoderSide(model), PLAIN), Side(DecoderSide(model), PLAIN)
    vq = name in ("vqgan", "movq")
    with torch.no_grad():
        outputs = encoder(picture)
        expected = model.encode(picture).latents if vq else model.encode(picture).latent_dist.parameters
        assert torch.equal(outputs, expected)
        latents = outputs[:, : encoder.module.channels]
        stock_pixels = model.decode(latents, force_not_quantize=True) if vq else model.decode(latents)
        assert torch.equal(decoder(latents), stock_pixels.sample)


@pytest.mark.parametrize("form", [LAST, HALF, Format("fp16")])
def test_a_side_takes_and_gives_float32_whatever_it_runs_in(form: Format) -> None:
    module = EncoderSide(tiny())
    side, picture = Side(module, form), photo_like(3, 16)
    with torch.no_grad():
        outputs, reference = side(picture), Side(module, PLAIN)(picture)
    assert outputs.dtype == torch.float32
    assert outputs.is_contiguous()
    assert next(side.module.parameters()).dtype == form.dtype
    assert (outputs - reference).norm() / reference.norm() < 0.02


def test_weights_are_shared_where_they_are_right_already() -> None:
    module = EncoderSide(tiny())
    assert Side(module, PLAIN).module is Side(module, Format("exact")).module is module
    assert Side(module, LAST).module is not module


@pytest.mark.parametrize("bf16", [False, True])
def test_auto_takes_what_the_processor_multiplies(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    processor(monkeypatch, bf16=bf16)
    report = Codec(tiny(), name="m", precision="auto").precision
    for choice in (report.encoder, report.decoder):
        assert (choice.asked, choice.chosen, choice.passed) == ("auto", HALF if bf16 else LAST, True)
        assert [trial.form for trial in choice.tried] == [HALF] * bf16
    if bf16:
        assert 1e-4 < report.encoder.tried[0].error <= LATENT_ERROR
        assert PIXEL_DECIBEL <= report.decoder.tried[0].error < 80


@pytest.mark.parametrize("bf16", [False, True])
def test_latents_are_float32_unless_asked_and_pixels_may_be_less(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    """Latents are kept, and must not follow from the processor that made them."""
    processor(monkeypatch, bf16=bf16)
    report = Codec(tiny(), name="m").precision
    assert (report.encoder.asked, report.encoder.precision) == ("fp32", "fp32")
    assert (report.decoder.asked, report.decoder.precision) == ("auto", "bf16" if bf16 else "fp32")


@pytest.mark.parametrize("slow", [LAST, HALF])
def test_how_long_a_format_takes_decides_nothing(monkeypatch: pytest.MonkeyPatch, slow: Format) -> None:
    run = Side.__call__

    def delayed(side: Side, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05 if side.form == slow else 0)
        return run(side, inputs)

    processor(monkeypatch, bf16=True)
    monkeypatch.setattr(Side, "__call__", delayed)
    report = Codec(tiny(), name="m", precision="auto").precision
    assert (report.encoder.chosen, report.decoder.chosen) == (HALF, HALF)


def test_the_error_is_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, bf16=True)
    seen, errors, run = set(), set(), Side.__call__

    def noted(side: Side, inputs: torch.Tensor) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return run(side, inputs)

    monkeypatch.setattr(Side, "__call__", noted)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            report = choose(tiny(), "auto", "auto")[2]
            errors.add((report.encoder.tried[0].error, report.decoder.tried[0].error))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert seen == {1}
    assert len(errors) == 1


def test_a_model_that_bf16_spoils_fails_the_check_and_auto_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand is added to the moments and taken off again, and pixels are stretched: bfloat16 has 8 bits."""
    model = built()
    with torch.no_grad():
        model.encoder.conv_out.bias += 1000
        model.quant_conv.bias -= 1000 * model.quant_conv.weight.sum((1, 2, 3))
        model.decoder.conv_out.weight *= 30
    processor(monkeypatch, bf16=True)
    report = Codec(model, name="m", precision="auto").precision
    for choice in (report.encoder, report.decoder):
        assert [(trial.form, trial.passed) for trial in choice.tried] == [(HALF, False)]
        assert choice.chosen == LAST
        assert choice.passed
    asked, ran = Codec(model, name="m", precision="bf16"), runs(monkeypatch)
    asked.decode_tensor(asked.encode_tensor(photo_like(3, 16)))
    assert [next(run.side.module.parameters()).dtype for run in ran] == [torch.bfloat16] * 2
    assert not asked.precision.encoder.passed
    assert not asked.precision.decoder.passed
    assert asked.precision.encoder.tried[0].error > LATENT_ERROR
    assert asked.precision.decoder.tried[0].error < PIXEL_DECIBEL
    assert str(asked.precision).count("FAILS the check") == 2


@pytest.mark.parametrize("close", [True, False])
def test_auto_takes_winograds_algorithm_where_it_is_close_enough(close: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, where it is less accurate than the direct sums; bfloat16 that is asked for by name is direct."""
    processor(monkeypatch, bf16=True)
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 4)
    monkeypatch.setattr(room, "LATENT_ERROR", 0.02)  # as this model's weights are random
    monkeypatch.setattr(room, "PIXEL_DECIBEL", 40)
    if not close:
        own = WinogradConv.forward
        monkeypatch.setattr(WinogradConv, "forward", lambda conv, inputs: 2 * own(conv, inputs))
    encoder, decoder, report = choose(built(), "auto", "auto")
    faster = replace(HALF, winograd=True)
    assert report.encoder.chosen == report.decoder.chosen == (faster if close else HALF)
    assert report.encoder.passed
    assert report.decoder.passed
    assert ("bf16 Winograd is not close enough" in str(report)) != close
    for side in (encoder, decoder):
        assert any(isinstance(module, WinogradConv) for module in side.module.modules()) == close
    assert choose(built(), "bf16", "bf16")[2].encoder.chosen == HALF


def test_values_that_overflow_fail_the_check() -> None:
    model = built()
    with torch.no_grad():
        model.encoder.conv_in.weight.mul_(1e6)  # float16 ends at 65,504
    _, _, report = choose(model, "fp16", "fp32")
    assert not report.encoder.passed
    assert not report.encoder.tried[0].error <= LATENT_ERROR


def test_each_side_has_its_own_precision() -> None:
    encoder, decoder, report = choose(tiny(), "exact", "bf16")
    assert [next(side.module.parameters()).dtype for side in (encoder, decoder)] == [torch.float32, torch.bfloat16]
    assert (report.encoder.precision, report.decoder.precision) == ("exact", "bf16")
    assert report.encoder.tried == ()
    with torch.no_grad():
        moments = encoder(photo_like(3, 16))
        assert moments.dtype == decoder(moments.chunk(2, dim=1)[0]).dtype == torch.float32


def test_codes_are_found_in_float32_in_any_precision() -> None:
    codec, picture = Codec(tiny(vq=True), name="m", precision="bf16"), photo_like(3, 16)
    encoder, _, _ = choose(codec.model, "bf16", "bf16")
    with torch.no_grad():
        vectors = encoder(picture)
        distances = (vectors.movedim(1, -1)[..., None, :] - codec.model.quantize.embedding.weight).square().sum(-1)
    assert codec.codebook is not None
    assert torch.equal(codec.encode_tensor(picture), codec.codebook.vectors(distances.argmin(-1)))
    assert codec.model.quantize.embedding.weight.dtype == torch.float32


def test_what_the_device_cannot_compute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(side: Side, inputs: torch.Tensor) -> torch.Tensor:
        if side.form.precision == "fp16":
            raise NotImplementedError("\"conv2d\" not implemented for 'Half'\nand so on")
        return inputs

    monkeypatch.setattr(Side, "__call__", lacking)
    with pytest.raises(UserError, match=r"encoder cannot run in fp16 on cpu \(\"conv2d\" not .* 'Half'\): take prec"):
        Codec(tiny(), name="m", precision="fp16")


def test_a_gpu_prefers_what_does_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Ampere and later bfloat16, then TensorFloat-32; before that float16. All in the order of the matrix units."""
    gpu = torch.device("cuda")
    for modern, expected in ((True, ["bf16", "tf32"]), (False, ["fp16"])):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, modern=modern: modern)
        # Private, as `choose` needs a model on the device.
        assert room._candidates("auto", gpu, winograd=True) == [Format(each, channels_last=True) for each in expected]
        assert room._candidates("fp16", gpu, winograd=True) == [Format("fp16", channels_last=True)]
    for asked, device in (("auto", torch.device("mps")), ("fp32", gpu)):
        assert room._candidates(asked, device, winograd=True) == []
    assert form_of("fp32", gpu) == form_of("fp32", torch.device("mps")) == PLAIN


@pytest.mark.parametrize("precision", ["fp32", "exact", "tf32", "fp16"])
def test_tensor_float_32_is_allowed_where_it_is_named_alone(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side, allowed = Side(EncoderSide(tiny()), Format(precision)), []
    monkeypatch.setattr(side, "module", lambda values: allowed.append(torch.backends.cudnn.allow_tf32) or values)
    side(photo_like(3, 16))
    assert allowed == [precision == "tf32"]


def test_the_report_is_a_line_a_side() -> None:
    encoder = SideChoice("encoder", "auto", HALF, (Trial(HALF, 0.0031, True),))
    decoder = SideChoice("decoder", "fp16", Format("fp16"), (Trial(Format("fp16"), 31.25, False),))
    assert str(PrecisionReport(encoder, decoder)).splitlines() == [
        "encoder bf16, 0.31 % from fp32",
        "decoder fp16, 31.2 dB from fp32, FAILS the check",
    ]
    assert str(SideChoice("encoder", "exact", Format("exact"))) == "encoder exact, every image alone"
    refused = SideChoice("decoder", "auto", LAST, (Trial(HALF, 44.3, False),))
    assert str(refused) == "decoder fp32; bf16 is not close enough: 44.3 dB from fp32"
    assert str(SideChoice("decoder", "auto", LAST)) == "decoder fp32"
