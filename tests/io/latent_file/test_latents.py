"""The latent file: what is written comes back, other programs find what they expect, and nothing else is let in."""

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, VQModel

from latent_ae import __version__
from latent_ae.config import ModelConfig
from latent_ae.io.latent_file.latents import (
    DTYPES,
    Compute,
    Dtype,
    Kind,
    LatentFileError,
    Latents,
    WrongEncoder,
    describe,
    from_bytes,
    read_latents,
    to_bytes,
    write_latents,
)
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig

COMPUTES = [None, Compute("fp32"), Compute("bf16", 512, 12)]
ENCODER = "0123456789abcdef" * 4
SOURCES = ("a" * 64, "b" * 64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kl(kind: Kind = "mean", *, logvar: bool = False) -> Latents:
    """Of two images of 7x9 pixels: a padding of one row and three columns."""
    return Latents(
        kind=kind,
        tensor=normal(2, 3, 2, 3),
        logvar=normal(2, 3, 2, 3, seed=1) if logvar else None,
        encoder=ENCODER,
        height=7,
        width=9,
        factor=4,
        scaling_factor=0.18215,
        shift_factor=0.0,
        seed=5 if kind == "sample" else None,
        sources=SOURCES,
        model="runs/digits/model",
        versions={"diffusers": "0.42"},
    )


def vq(codebook_size: int = 512) -> Latents:
    codes = torch.randint(0, codebook_size, (2, 2, 3), generator=torch.Generator().manual_seed(0))
    codes[0, 0, 0], codes[1, 1, 2] = 0, codebook_size - 1
    return dataclasses.replace(kl("vq_indices"), tensor=codes, codebook_size=codebook_size)


def same(a: Latents, b: Latents) -> bool:
    """All fields, tensors with their type."""
    for name in ("tensor", "logvar"):
        one, two = getattr(a, name), getattr(b, name)
        if (one is None) != (two is None) or (one is not None and not (one.dtype == two.dtype and one.equal(two))):
            return False
    plain = [dataclasses.replace(each, tensor=torch.empty(0), logvar=None) for each in (a, b)]
    names = [field.name for field in dataclasses.fields(Latents) if field.name not in ("tensor", "logvar")]
    return all(getattr(plain[0], name) == getattr(plain[1], name) for name in names)


def expected(latents: Latents, dtype: Dtype = "float32") -> Latents:
    """What comes back: floats in the type that was asked for, and the versions of the libraries that wrote it."""
    stored = torch.int64 if latents.kind == "vq_indices" else DTYPES[dtype]
    return dataclasses.replace(
        latents,
        tensor=latents.tensor.to(stored),
        logvar=None if latents.logvar is None else latents.logvar.to(stored),
        versions={"latent_ae": __version__, "torch": torch.__version__, **latents.versions},
    )


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


# ----------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("latents", [kl(), kl("sample"), kl(logvar=True)], ids=["mean", "sample", "logvar"])
def test_latents_come_back(latents: Latents, dtype: Dtype, tmp_path: Path) -> None:
    write_latents(tmp_path / "a.safetensors", latents, dtype=dtype)
    back = read_latents(tmp_path / "a.safetensors")
    assert same(back, expected(latents, dtype))
    assert same(from_bytes((tmp_path / "a.safetensors").read_bytes()), back)
    assert (back.count, back.grid, back.padding) == (2, (2, 3), (1, 3))


@pytest.mark.parametrize(("codebook_size", "dtype"), [(512, "U16"), (1 << 16, "U16"), ((1 << 16) + 1, "I32")])
def test_codes_come_back(codebook_size: int, dtype: str, tmp_path: Path) -> None:
    write_latents(tmp_path / "a.safetensors", vq(codebook_size))
    assert same(read_latents(tmp_path / "a.safetensors"), expected(vq(codebook_size)))
    assert describe(tmp_path / "a.safetensors")["dtype"] == dtype


def test_a_sample_whose_seed_is_not_known_comes_back() -> None:
    assert from_bytes(to_bytes(dataclasses.replace(kl("sample"), seed=None))).seed is None


def test_equal_latents_give_equal_bytes() -> None:
    # The stock writer puts metadata in an order that changes from one process to the next.
    data = to_bytes(kl())
    assert data == to_bytes(kl())
    names = [name.removeprefix("latent_ae.") for name in parts(data)[0]["__metadata__"]]
    assert names[:6] == ["schema", "kind", "encoder", "height", "width", "factor"]
    assert names[6:] == ["codebook_size", "scaling_factor", "shift_factor", "seed", "sources", "model", "versions"]


NUMBERS = PixelFormat(
    5,
    numbers=True,
    dtype="float32",
    ranges=tuple((0.0, float(top)) for top in range(1, 6)),
    gamma=2.2,
    bands=(1, 2, 3, 4, 7),
    rgb=(3, 2, 1),
    unit="reflectance",
)


@pytest.mark.parametrize("form", [NUMBERS, PixelFormat.picture(4, alpha="premultiplied"), PixelFormat.picture(2)])
def test_the_pixel_format_is_in_the_file(tmp_path: Path, form: PixelFormat) -> None:
    latents = dataclasses.replace(kl(), pixel_format=form)
    assert from_bytes(to_bytes(latents)).pixel_format == form
    write_latents(tmp_path / "a.safetensors", latents)
    assert describe(tmp_path / "a.safetensors")["pixel_format"] == json.loads(form.to_json())


def test_latents_of_other_pixels_are_refused_with_both() -> None:
    grey, numbers = PixelFormat.picture(1), dataclasses.replace(kl(), pixel_format=NUMBERS)
    for form in (grey, PixelFormat.picture(3, rgb=(1,))):
        kl().require_pixels(form)
    numbers.require_pixels(NUMBERS.replace(rgb=(1,), unit="", bands=()))
    for latents, form, message in (
        (numbers, grey, r"of images of 5 channels, float32 in 0\.\.1, .* reflectance, gamma 2\.2, .* are of grey:"),
        (kl(), NUMBERS, "of images of grey or RGB, the model's are of 5 channels, float32"),
        (kl(), PixelFormat.picture(4), r"grey or RGB, the model's are of RGBA \(straight alpha\)"),
        (numbers, NUMBERS.replace(gamma=1.0), "gamma 2.2, the model's are of 5"),
    ):
        with pytest.raises(LatentFileError, match=message):
            latents.require_pixels(form)


def test_the_header_alone_says_what_is_in_a_file(tmp_path: Path) -> None:
    write_latents(tmp_path / "a.safetensors", kl("sample", logvar=True), dtype="float16")
    told = describe(tmp_path / "a.safetensors")
    assert json.loads(json.dumps(told)) == told
    assert told["bits_per_pixel"] == pytest.approx(3 * 2 * 3 * 16 / (7 * 9))
    assert told["bytes"] == (tmp_path / "a.safetensors").stat().st_size
    rest = {name: value for name, value in told.items() if name not in ("bits_per_pixel", "bytes", "versions")}
    sizes = {"height": 7, "width": 9, "grid": [2, 3], "factor": 4, "padding": [1, 3]}
    values = {"kind": "sample", "images": 2, "channels": 3, "dtype": "F16", "logvar_dtype": "F16"}
    model = {"encoder": ENCODER, "model": "runs/digits/model", "scaling_factor": 0.18215, "shift_factor": 0.0}
    others = {
        "codebook_size": None,
        "seed": 5,
        "sources": list(SOURCES),
        "compute": None,
        "pixel_format": None,
        "encoder_class": None,
    }
    assert rest == sizes | values | model | others


# -------------------------------------------------------------------------------------------------- other programs


def test_comfyui_takes_them_for_raw() -> None:
    tensors = safetensors.torch.load(to_bytes(kl()))
    # Its loader multiplies by 1 / 0.18215 unless the marker is there.
    multiplier = 1.0 if "latent_format_version_0" in tensors else 1.0 / 0.18215
    assert (tensors["latent_tensor"].float() * multiplier).equal(kl().tensor)
    assert tensors["latent_format_version_0"].shape == (0,)


def test_stock_diffusers_decodes_a_file_that_the_stock_reader_read(tmp_path: Path) -> None:
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16).eval()
    assert isinstance(model, AutoencoderKL)
    with torch.no_grad():
        mean = model.encode(normal(2, 1, 8, 8).clamp(-1, 1)).latent_dist.mode()
        wanted = model.decode(mean).sample
        write_latents(tmp_path / "a", Latents("mean", mean, ENCODER, height=8, width=8, factor=2))
        tensors = safetensors.torch.load_file(tmp_path / "a")
        assert model.decode(tensors["latent_tensor"]).sample.equal(wanted)
    with safetensors.safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata()["latent_ae.schema"] == "1"
        assert file.metadata()["latent_ae.encoder"] == ENCODER


def test_stock_diffusers_decodes_codes_that_the_stock_reader_read(tmp_path: Path) -> None:
    config = VQConfig(codebook_size=32, code_channels=2)
    model = build_autoencoder(ModelConfig(preset="tiny"), config, seed=0, resolution=16).eval()
    assert isinstance(model, VQModel)
    with torch.no_grad():
        vectors = model.encode(normal(2, 1, 8, 8).clamp(-1, 1)).latents
        codes = model.quantize(vectors)[2][2].view(2, 4, 4)
        file = Latents("vq_indices", codes, ENCODER, height=8, width=8, factor=2, codebook_size=32)
        write_latents(tmp_path / "a", file)
        read = safetensors.torch.load_file(tmp_path / "a")["indices"].long()
        entries = model.quantize.get_codebook_entry(read.flatten(), (2, 4, 4, 2))
        assert model.decode(entries, force_not_quantize=True).sample.equal(model.decode(vectors).sample)


def test_files_of_the_stock_writer_are_read() -> None:
    ours = to_bytes(kl(logvar=True))
    length = int.from_bytes(ours[:8], "little")
    metadata = json.loads(ours[8 : 8 + length])["__metadata__"]
    assert same(from_bytes(safetensors.torch.save(safetensors.torch.load(ours), metadata)), from_bytes(ours))


# --------------------------------------------------------------------------------------------- what is not written


def test_another_encoder_is_told_apart_with_both_identities() -> None:
    kl().require_encoder(ENCODER)
    with pytest.raises(WrongEncoder, match=r"0123456789abcdef \(runs/digits/model\), the model's encoder is ffffffff"):
        kl().require_encoder("f" * 64)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_written(value: float) -> None:
    for name in ("tensor", "logvar"):
        values = normal(2, 3, 2, 3)
        values[1, 0, 0, 0] = value
        with pytest.raises(LatentFileError, match="values that are not finite: nothing can decode them"):
            to_bytes(dataclasses.replace(kl(), **{name: values}))


def test_values_beyond_float16_are_not_written_as_infinity() -> None:
    large = dataclasses.replace(kl(), tensor=torch.full((2, 3, 2, 3), 70000.0))
    with pytest.raises(LatentFileError, match="float16 cannot: store them in float32 or bfloat16"):
        to_bytes(large, dtype="float16")
    assert from_bytes(to_bytes(large, dtype="bfloat16")).tensor.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 9}, "2 latent positions of 4 pixels cannot come from an image height of 9"),
        ({"width": 8}, "3 latent positions of 4 pixels cannot come from an image width of 8"),
        ({"encoder": "abc"}, "latent_ae.encoder is 'abc', expected 64 hex digits"),
        ({"sources": ("a" * 64,)}, "1 of them', expected one for each of the 2 images, or none"),
        ({"tensor": normal(3, 2, 3)}, r"latent_tensor has the shape \(3, 2, 3\), expected 4 sides"),
        ({"tensor": normal(0, 3, 2, 3)}, r"latent_tensor has the shape \(0, 3, 2, 3\)"),
        ({"logvar": normal(2, 3, 2, 2)}, r"latent_logvar is \[2, 3, 2, 2\] beside"),
        ({"scaling_factor": float("nan")}, "NaN is none of JSON's numbers"),
        ({"versions": {"a": "b\n"}}, "an object of printable strings"),
        ({"kind": "moments"}, "latent_ae.kind is 'moments', expected one of mean, sample, vq_indices"),
    ],
)
def test_what_would_not_be_read_is_not_written(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LatentFileError, match=message):
        to_bytes(dataclasses.replace(kl(), **change))


@pytest.mark.parametrize("code", [-1, 512])
def test_codes_beside_the_codebook_are_not_written(code: int) -> None:
    with pytest.raises(LatentFileError, match=r"the codes .*512|the codes -1 to"):
        to_bytes(dataclasses.replace(vq(), tensor=torch.full((2, 2, 3), code)))


def test_a_name_that_no_terminal_could_show_is_made_one_that_can() -> None:
    named = dataclasses.replace(kl(), model="a\x1b[31m\n" + "b" * 2000)
    assert from_bytes(to_bytes(named)).model == "a?[31m?" + "b" * 1017


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.safetensors"
    write_latents(file, kl())
    before = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync" if step == "fsync" else "pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_latents(file, kl("sample"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert file.read_bytes() == before


def test_a_file_may_be_read_by_whom_the_user_lets(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_latents(tmp_path / "a", kl())
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_class_of_the_encoder_comes_back(tmp_path: Path) -> None:
    """Files of older versions do not say it, and load."""
    latents = dataclasses.replace(kl(), encoder_class="AutoencoderTiny")
    assert from_bytes(to_bytes(latents)).encoder_class == "AutoencoderTiny"
    assert from_bytes(to_bytes(kl())).encoder_class == ""
    assert b"encoder_class" not in to_bytes(kl())
    write_latents(tmp_path / "a.safetensors", latents)
    assert describe(tmp_path / "a.safetensors")["encoder_class"] == "AutoencoderTiny"
    with pytest.raises(WrongEncoder, match=r"of the encoder [0-9a-f]{16} \(runs/digits/model, AutoencoderTiny\), the"):
        latents.require_encoder("0" * 64)
    for wrong in ("a\nline", "x" * 2000):
        with pytest.raises(LatentFileError, match="encoder_class"):
            to_bytes(dataclasses.replace(latents, encoder_class=wrong))


@pytest.mark.parametrize("compute", COMPUTES)
def test_how_the_encoder_ran_comes_back(tmp_path: Path, compute: Compute | None) -> None:
    """Files of older versions do not say it, and load."""
    latents = dataclasses.replace(kl(), compute=compute)
    data = to_bytes(latents)
    assert (b"latent_ae.compute" in data) is (compute is not None)
    assert from_bytes(data).compute == compute
    write_latents(tmp_path / "a.safetensors", latents)
    told = {None: None, "fp32": {"precision": "fp32", "tile": None, "tiles": 1}}
    told["bf16"] = {"precision": "bf16", "tile": 512, "tiles": 12}
    assert describe(tmp_path / "a.safetensors")["compute"] == told[compute and compute.precision]
