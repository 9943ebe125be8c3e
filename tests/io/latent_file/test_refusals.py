"""What is not a latent file, or not a whole one, is refused: by name, at once, and with nothing allocated for it."""

import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from latent_ae.io.latent_file.latents import (
    LatentFileError,
    Latents,
    Limits,
    describe,
    from_bytes,
    read_latents,
    to_bytes,
)
from latent_ae.io.pixel_format import PixelFormat
from tests.io.latent_file.test_latents import ENCODER, kl, normal, parts, vq


def whole(header: object, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def changed(change: Callable[[dict[str, Any]], object], latents: Latents | None = None) -> bytes:
    header, body = parts(to_bytes(latents or kl(logvar=True)))
    change(header)
    return whole(header, body)


def refused(data: bytes) -> str:
    """The one line that it is refused with, quickly and without much memory."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(LatentFileError) as caught:
            from_bytes(data)
        assert time.process_time() - started < 5
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 400
    return line


def entry(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda header: header["latent_tensor"].update(values)


def metadata(**values: str) -> Callable[[dict[str, Any]], object]:
    return lambda header: header["__metadata__"].update({f"latent_ae.{name}": value for name, value in values.items()})


def pixels(**values: object) -> Callable[[dict[str, Any]], object]:
    form = json.loads(PixelFormat(5, numbers=True, dtype="float32", ranges=((0.0, 1.0),)).to_json())
    return metadata(pixel_format=json.dumps(form | values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (entry(dtype="F64"), "latent_tensor is 'F64', expected one of F32, F16, BF16"),
        (entry(dtype="U16"), "latent_tensor is 'U16'"),
        (entry(dtype=["F32"]), "latent_tensor is ['F32']"),
        (entry(shape=[2, 3, 2, -3]), "has the shape [2, 3, 2, -3]"),
        (entry(shape=[2, 3, 2, True]), "has the shape [2, 3, 2, True]"),
        (entry(shape=[2, 3, 2, 3.0]), "has the shape [2, 3, 2, 3.0]"),
        (entry(shape=[1] * 9), "has the shape [1, 1, 1, 1, 1, 1, 1, 1, 1]"),
        (entry(shape=[1 << 62] * 4), "takes 144 bytes, expected 180925139433306555349329664076"),
        (entry(shape=[1 << 63, 1, 1, 1]), "whole numbers of at least 0"),
        (entry(shape="2323"), "has the shape '2323'"),
        (entry(shape=[2, 3, 3, 2]), "latent_logvar is [2, 3, 2, 3] beside a latent_tensor of [2, 3, 3, 2]"),
        (metadata(factor="3"), "2 latent positions of 3 pixels cannot come from an image height of 7"),
        (entry(data_offsets=[-144, 0]), "lies at [-144, 0]"),
        (entry(data_offsets=[0, 143]), "takes 143 bytes, expected 144"),
        (entry(data_offsets=[8, 152]), "its tensors overlap or leave holes"),
        (entry(data_offsets=[0]), "lies at [0]"),
        (entry(data_offsets=[144, 288]), "its tensors overlap or leave holes"),
        (entry(more=1), "expected dtype, shape and data_offsets of latent_tensor"),
        (lambda header: header.update(latent_tensor=[]), "expected dtype, shape and data_offsets of latent_tensor"),
        (lambda header: header.pop("latent_tensor"), "it has no tensor latent_tensor"),
        (lambda header: header.pop("latent_format_version_0"), "it has no tensor latent_format_version_0"),
        (lambda header: header.update(x={}), "1 tensors too many, among them 'x'; expected latent_format_version_0"),
        (lambda header: header["latent_format_version_0"].update(shape=[0, 2]), "(0, 2), expected [0]"),
        (lambda header: header.update(__metadata__=[]), "expected strings as metadata, got []"),
        (lambda header: header["__metadata__"].update(x=1), "expected strings as metadata"),
        (lambda header: header["__metadata__"].pop("latent_ae.width"), "its metadata lack latent_ae.width"),
        (metadata(schema="2"), "schema '2'; this program reads schema 1: update latent_ae"),
        (metadata(kind="vq_indices"), "it has no tensor indices"),
        (metadata(encoder=ENCODER.upper()), "expected 64 hex digits"),
        (metadata(height="-7"), "latent_ae.height is -7, expected a whole number of 1 to 65536"),
        (metadata(height="7.0"), "latent_ae.height is 7.0, expected a whole number"),
        (metadata(height="true"), "latent_ae.height is True, expected a whole number"),
        (metadata(height="9" * 5000), "latent_ae.height is no JSON that can be read"),
        (metadata(width="NaN"), "NaN is none of JSON's numbers"),
        (metadata(factor="0"), "latent_ae.factor is 0, expected a whole number of 1 to 1024"),
        (metadata(scaling_factor="1e999"), "latent_ae.scaling_factor is inf, expected a finite number"),
        (metadata(scaling_factor="[1]"), "latent_ae.scaling_factor is [1]"),
        (metadata(sources='["a", "b"]'), "expected a list of sha256"),
        (metadata(sources=json.dumps(["a" * 64])), "expected one for each of the 2 images"),
        (metadata(model="\x1b]0;hello"), "latent_ae.model is '\\x1b]0;hello', expected one printable line"),
        (metadata(model="x" * 1025), "at most 1024 characters"),
        (metadata(versions='{"a": 1}'), "expected an object of printable strings"),
        (metadata(versions='{"a": "1", "a": "2"}'), "a name stands twice"),
        (metadata(seed="-1", kind="sample"), "latent_ae.seed is -1"),
        (metadata(compute="fp32"), "latent_ae.compute is no JSON"),
        (metadata(compute='{"precision": "fp32", "tile": null}'), "an object of precision, tile and tiles"),
        (metadata(compute='{"precision": 32, "tile": null, "tiles": 1}'), "expected a precision, and either"),
        (metadata(compute='{"precision": "fp32", "tile": null, "tiles": 2}'), "expected a precision, and either"),
        (metadata(compute='{"precision": "fp32", "tile": true, "tiles": 2}'), "expected a precision, and either"),
        (metadata(compute='{"precision": "fp32", "tile": 512, "tiles": 1}'), "expected a precision, and either"),
        (pixels(more=1), "expected an object of channels, numbers, dtype, ranges"),
        (pixels(channels=65), "latent_ae.pixel_format cannot be read: images have 1 to 64 channels, got 65"),
        (pixels(channels=True), "latent_ae.pixel_format.channels is True"),
        (pixels(dtype="object"), "latent_ae.pixel_format.dtype is 'object'"),
        (pixels(ranges=[[0, 1]] * 3), "expected one range, or 5 (one a channel), got 3"),
        (pixels(ranges=[[0, 1]] * 65), "latent_ae.pixel_format.ranges is [[0, 1]"),
        (pixels(ranges=[[1, 0]]), "a range of values needs low < high, got 1 and 0"),
        (pixels(gamma=10**400), "latent_ae.pixel_format.gamma is 1000"),
        (pixels(gamma=-1), "gamma is a number above 0, got -1"),
        (pixels(alpha="some"), "latent_ae.pixel_format.alpha is 'some'"),
        (pixels(rgb=[6]), "of 1 to 5, got 6"),
        (pixels(unit="\x1b]0;hello"), "latent_ae.pixel_format.unit is '\\x1b]0;hello'"),
        (metadata(pixel_format="[]"), "latent_ae.pixel_format is [], expected an object"),
    ],
)
def test_a_header_that_is_not_right_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    assert message in refused(changed(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (metadata(codebook_size="null"), "latent_ae.codebook_size is None"),
        (metadata(codebook_size="511"), "the codes 0 to 511, expected codes of a codebook of 511"),
        (metadata(codebook_size="65537"), "codes of 65537 do not fit into U16, expected I32"),
        (metadata(codebook_size=str(1 << 40)), "expected a whole number of 1 to 16777216"),
        (lambda header: header["indices"].update(dtype="F16"), "indices is 'F16', expected one of U16, I32"),
        (lambda header: header["indices"].update(shape=[2, 6]), "(2, 6), expected 3 sides"),
    ],
)
def test_codes_that_are_not_right_are_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    assert message in refused(changed(change, vq()))


def test_values_that_are_not_finite_are_refused() -> None:
    for value in (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff"):  # nan, -inf
        header, body = parts(to_bytes(kl(logvar=True)))
        assert "not finite, as F32" in refused(whole(header, value + body[4:]))
        assert "not finite, as F32" in refused(whole(header, body[:-4] + value))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes, which do not hold its header"),
        (b"1234567", "7 bytes, which do not hold its header"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "10 bytes, which do not hold its header"),
        (b"\xff" * 64, "64 bytes, which do not hold its header"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "which do not hold its header"),
        (whole(b"{" + b" " * (1 << 20), b""), "a header of 1048577 bytes, expected at most 1048576"),
        (whole(b"", b""), "its header is no JSON"),
        (whole(b"[]", b""), "expected an object as header, got '[]'"),
        (whole(b" {}", b""), "expected an object as header"),
        (whole(b"\xff\xfe{}", b""), "its header is not UTF-8"),
        (whole("{}".encode("utf-16"), b""), "its header is not UTF-8"),
        (whole("{}".encode("utf-16-le"), b""), "its header is no JSON"),
        (whole(b'{"a": NaN}', b""), "NaN is none of JSON's numbers"),
        (whole(b'{"a": {}, "a": {}}', b""), "a name stands twice"),
        (whole(b'{"a":' * 90_000, b""), "its header is no JSON that can be read"),
        (whole(b"[" * 1_000_000, b""), "its header is no JSON that can be read"),
        (whole(b'{"a": 1' + b"0" * 900_000 + b"}", b""), "its header is no JSON that can be read"),
        (whole({str(i): {} for i in range(60_000)}, b""), "got a file with '0', '1', '2'"),
        (
            safetensors.torch.save({f"layer.{i}": torch.empty(0) for i in range(8000)}),
            "expected metadata latent_ae.sch",
        ),
        (whole({}, b""), "got a file with no tensors"),
    ],
)
def test_what_is_no_latent_file_is_refused(data: bytes, message: str) -> None:
    assert message in refused(data)


def test_a_hundred_thousand_tensors_beside_good_metadata_are_refused() -> None:
    data = changed(lambda header: header.update({f"{i:x}": 0 for i in range(60_000)}))
    assert "60000 tensors too many, among them '0'" in refused(data)


def test_a_latent_file_of_comfyui_is_refused_with_the_reason() -> None:
    tensors = {"latent_tensor": normal(1, 4, 8, 8), "latent_format_version_0": torch.tensor([])}
    line = refused(safetensors.torch.save(tensors, {"prompt": "{}", "workflow": "{}"}))
    assert line.startswith("latents that do not say which encoder made them (a plain ComfyUI .latent file")


def test_more_than_the_limits_is_refused() -> None:
    data = to_bytes(kl(logvar=True))
    for limits, message in [
        (Limits(images=1), "a latent file of 2 images, more than the 1 that are read"),
        (Limits(tensor_bytes=287), "the latents take 288 bytes, more than the 287"),
        (Limits(side=8), "latent_ae.width is 9, expected a whole number of 1 to 8"),
        (Limits(header_bytes=100), "expected at most 100"),
    ]:
        with pytest.raises(LatentFileError, match=message):
            from_bytes(data, limits=limits)


def test_a_file_cut_short_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    data = to_bytes(kl(logvar=True))
    file = tmp_path / "cut"
    for length in range(0, len(data), 3):
        with pytest.raises(LatentFileError):
            from_bytes(data[:length])
        file.write_bytes(data[:length])
        for read in (read_latents, describe):
            with pytest.raises(LatentFileError):
                read(file)
    with pytest.raises(LatentFileError, match="with something behind its tensors"):
        from_bytes(data + b"\0")


@pytest.mark.parametrize("latents", [kl(logvar=True), vq()], ids=["kl", "vq"])
def test_flipped_bits_give_latents_or_a_refusal_and_nothing_else(latents: Latents) -> None:
    data = bytearray(to_bytes(latents))
    accepted = 0
    for place in range(len(data)):
        for flip in (0x01 << place % 8, 0x80 >> place % 5):
            data[place] ^= flip
            try:
                read = from_bytes(bytes(data))
                to_bytes(read)  # whatever is taken is whole
                accepted += 1
            except LatentFileError as error:
                assert str(error).isprintable()  # noqa: PT017  # the other outcome is as good
            data[place] ^= flip
    assert 0 < accepted < 2 * len(data)


def test_what_is_no_ordinary_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        for read in (read_latents, describe):
            with pytest.raises(LatentFileError, match="no ordinary file"):
                read(path)
    with pytest.raises(FileNotFoundError):
        read_latents(tmp_path / "missing")
