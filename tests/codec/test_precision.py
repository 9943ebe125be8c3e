"""What a side runs in is what was measured to be good enough, and the report says what was measured."""

import math
import re
import time
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from latent_ae.codec import Codec, PrecisionReport
from latent_ae.codec import precision as room
from latent_ae.codec.picture import photo_like
from latent_ae.codec.precision import (
    LATENT_ERROR,
    PIXEL_DECIBEL,
    SideChoice,
    Trial,
    choose,
)
from latent_ae.codec.sides import DecoderSide, EncoderSide, Format, Side
from latent_ae.config import BottleneckConfig, ModelConfig
from latent_ae.errors import UserError
from latent_ae.models import Autoencoder, build_autoencoder
from tests.models.stock_models import stock as any_stock

PLAIN, LAST = Format("fp32"), Format("fp32", channels_last=True)


@pytest.fixture(autouse=True)
def _a_small_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PICTURE", 32)
    monkeypatch.setattr(room, "_LARGE_PICTURE", {"cpu": 32})


def built(*, vq: bool = False) -> Autoencoder:
    bottleneck = BottleneckConfig(kind="vq", codebook_size=8, code_channels=2) if vq else None
    return build_autoencoder(ModelConfig(preset="tiny", image_channels=3), bottleneck, seed=0, resolution=16).eval()


@cache
def tiny(*, vq: bool = False) -> Autoencoder:
    return built(vq=vq)


def dtypes(codec: Codec) -> list[torch.dtype]:
    sides = (codec._encoder.side, codec._decoder.side)
    return [next(side.module.parameters()).dtype for side in sides]


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


@pytest.mark.parametrize("form", [LAST, Format("bf16", channels_last=True), Format("fp16")])
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


def test_auto_tries_what_the_device_can_do_at_speed_and_takes_what_passed() -> None:
    codec = Codec(tiny(), name="m")
    for choice in (codec.precision.encoder, codec.precision.decoder):
        assert [trial.form for trial in choice.tried][:2] == [PLAIN, LAST]
        assert all(trial.seconds > 0 for trial in choice.tried)
        assert choice.asked == "auto"
        assert choice.passed
        chosen = next(trial for trial in choice.tried if trial.form == choice.chosen)
        fastest = min(trial.seconds for trial in choice.tried if trial.passed)
        assert chosen.seconds <= 1.1 * fastest
    assert codec.precision.encoder.tried[0].error == 0
    assert codec.precision.decoder.tried[0].error == math.inf
    assert 0 < codec.precision.encoder.tried[1].error < 1e-5
    assert codec.precision.decoder.tried[1].error > 100


def measured(monkeypatch: pytest.MonkeyPatch, *trials: tuple[Format, float, bool]) -> Format:
    """What `auto` takes for these measurements of the encoder."""
    found = [Trial(form, seconds, 0.0, passed) for form, seconds, passed in trials]
    monkeypatch.setattr(room, "_candidates", lambda asked, plain: [trial.form for trial in found[1:]])
    monkeypatch.setattr(room, "_measure", lambda sides, inputs, name: found)
    return choose(tiny(), "auto", "fp32")[2].encoder.chosen


@pytest.mark.parametrize(
    ("last", "half", "taken"),
    [
        ((0.8, True), (0.5, True), "half"),
        ((0.8, True), (0.5, False), "last"),
        ((0.95, True), (0.97, True), "plain"),
        ((0.8, False), (0.1, False), "plain"),
        ((2.0, True), (3.0, True), "plain"),
    ],
)
def test_auto_takes_the_fastest_that_passed_and_is_worth_it(
    monkeypatch: pytest.MonkeyPatch, last: tuple[float, bool], half: tuple[float, bool], taken: str
) -> None:
    forms = {"plain": PLAIN, "last": LAST, "half": Format("bf16", channels_last=True)}
    chosen = measured(monkeypatch, (PLAIN, 1.0, True), (LAST, *last), (forms["half"], *half))
    assert chosen == forms[taken]


def test_a_model_that_bf16_spoils_fails_the_check_and_auto_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand is added to the moments and taken off again, and pixels are stretched: bfloat16 has 8 bits."""
    model = built()
    with torch.no_grad():
        model.encoder.conv_out.bias += 1000
        model.quant_conv.bias -= 1000 * model.quant_conv.weight.sum((1, 2, 3))
        model.decoder.conv_out.weight *= 30
    monkeypatch.setattr(room, "_multiplies_bf16", lambda: True)
    report = Codec(model, name="m").precision
    for choice in (report.encoder, report.decoder):
        assert [str(trial.form) for trial in choice.tried] == ["fp32", "fp32 channels-last", "bf16 channels-last"]
        assert choice.tried[1].passed
        assert not choice.tried[2].passed
        assert choice.precision == "fp32"
    asked = Codec(model, name="m", precision="bf16")
    assert dtypes(asked) == [torch.bfloat16] * 2
    assert not asked.precision.encoder.passed
    assert not asked.precision.decoder.passed
    assert asked.precision.encoder.tried[1].error > LATENT_ERROR
    assert asked.precision.decoder.tried[1].error < PIXEL_DECIBEL
    assert str(asked.precision).count("FAILS the check") == 2


def test_values_that_overflow_fail_the_check() -> None:
    model = built()
    with torch.no_grad():
        model.encoder.conv_in.weight.mul_(1e6)  # float16 ends at 65,504
    report = Codec(model, name="m", encoder_precision="fp16", decoder_precision="fp32").precision
    assert not report.encoder.passed
    assert not report.encoder.tried[1].error <= LATENT_ERROR


def test_each_side_has_its_own_precision() -> None:
    codec = Codec(tiny(), name="m", precision="exact", decoder_precision="bf16")
    assert dtypes(codec) == [torch.float32, torch.bfloat16]
    assert (codec.precision.encoder.precision, codec.precision.decoder.precision) == ("exact", "bf16")
    assert codec.precision.encoder.tried == ()
    latents = codec.encode_tensor(photo_like(3, 16))
    assert latents.dtype == codec.decode_tensor(latents).dtype == torch.float32


def test_codes_are_found_in_float32_in_any_precision() -> None:
    codec, picture = Codec(tiny(vq=True), name="m", precision="bf16"), photo_like(3, 16)
    with torch.no_grad():
        vectors = codec._encoder.side(picture)
        distances = (vectors.movedim(1, -1)[..., None, :] - codec.model.quantize.embedding.weight).square().sum(-1)
    assert torch.equal(codec.encode_indices(picture), distances.argmin(-1))
    assert codec.model.quantize.embedding.weight.dtype == torch.float32


def test_what_the_device_cannot_compute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(side: Side, inputs: torch.Tensor) -> torch.Tensor:
        if side.form.precision == "fp16":
            raise NotImplementedError("\"conv2d\" not implemented for 'Half'\nand so on")
        return inputs

    monkeypatch.setattr(Side, "__call__", lacking)
    with pytest.raises(UserError, match=r"encoder cannot run in fp16 on cpu \(\"conv2d\" not .* 'Half'\): take prec"):
        Codec(tiny(), name="m", precision="fp16")


class OnGpu:
    """What the measuring asks of a side on a GPU, where the first run loads kernels."""

    device = torch.device("cuda")
    module = SimpleNamespace(channels=3)

    def __init__(self, form: Format) -> None:
        self.form, self.runs = form, 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        if self.runs == 1:
            time.sleep(0.3)
        return inputs


def test_a_gpu_is_measured_warm() -> None:
    sides = [OnGpu(PLAIN), OnGpu(Format("fp16"))]
    tried = room._measure(sides, photo_like(3, 16), "encoder")  # type: ignore[arg-type]
    assert max(trial.seconds for trial in tried) < 0.2
    assert all(side.runs > 2 for side in sides)


def test_a_gpu_tries_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Ampere and later TensorFloat-32 and bfloat16; every one in both orders."""
    plain: Any = OnGpu(PLAIN)
    for modern, expected in ((True, ["tf32", "bf16", "fp16"]), (False, ["fp16"])):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, modern=modern: modern)
        found = room._candidates("auto", plain)
        assert found == [Format(each, last) for each in expected for last in (False, True)]
        assert room._candidates("fp16", plain) == [Format("fp16"), Format("fp16", True)]


@pytest.mark.parametrize("precision", ["fp32", "exact", "tf32", "fp16"])
def test_tensor_float_32_is_allowed_where_it_is_named_alone(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side, allowed = Side(EncoderSide(tiny()), Format(precision)), []
    monkeypatch.setattr(side, "module", lambda values: allowed.append(torch.backends.cudnn.allow_tf32) or values)
    side(photo_like(3, 16))
    assert allowed == [precision == "tf32"]


def test_the_report_is_a_line_a_side() -> None:
    half = Format("bf16", channels_last=True)
    tried = (Trial(PLAIN, 0.29, 0.0, True), Trial(LAST, 0.25, 1e-7, True), Trial(half, 0.1, 0.0031, True))
    encoder = SideChoice("encoder", "auto", half, tried)
    failed = (Trial(PLAIN, 0.3, math.inf, True), Trial(Format("fp16"), 0.1, 31.25, False))
    decoder = SideChoice("decoder", "fp16", Format("fp16"), failed)
    assert str(PrecisionReport(encoder, decoder)).splitlines() == [
        "encoder bf16 channels-last: 0.31 % from fp32, 2.90x as fast; "
        "fp32 channels-last: 1e-05 % from fp32, 1.16x as fast",
        "decoder fp16: 31.2 dB from fp32, 3.00x as fast, FAILS the check",
    ]
    assert str(SideChoice("encoder", "exact", Format("exact"))) == "encoder exact, every image alone, as asked"
    assert re.fullmatch(r"decoder fp32: [0-9.]+ ms", str(SideChoice("decoder", "auto", PLAIN, failed[:1])))


def test_bf16_is_told_by_the_processors_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (("flags : fpu avx2", False), ("flags : avx512_bf16 fpu", True), ("Features: bf16", True)):
        monkeypatch.setattr("pathlib.Path.read_text", lambda path, encoding, flags=flags: flags)
        assert room._multiplies_bf16() is expected
