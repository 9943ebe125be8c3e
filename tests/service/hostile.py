"""What strangers send. `main` answers the uploads in a folder and prints a line of JSON for each."""

import dataclasses
import io
import json
import resource
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from latent_ae.inference import Codec
from latent_ae.io.latent_file.latents import from_bytes, to_bytes
from latent_ae.service.errors import ServiceError
from latent_ae.service.service import Service

from .conftest import pixels, png, saved, tiny
from .test_uploads import chunk, claimed_bmp, claimed_png, claimed_tiff, claimed_webp, frames

Case = tuple[str, str, bytes, set[str]]
"""name, endpoint, upload, the outcomes that are right"""

REFUSED = {"too_large", "broken_image", "unsupported_format"}


def images() -> Iterator[Case]:
    """Uploads in the place of an image."""
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        data = saved(pixels(150, 160), kind)
        for length in range(0, len(data) - 100, max(1024, len(data) // 12)):
            yield f"{kind} cut at {length}", "reconstruct", data[:length], REFUSED
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 30_000 // 8)) for _ in range(30_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)  # of one bit, which PIL makes a byte
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert len(bomb) < 1_000_000
    yield "a PNG of 30000x30000", "reconstruct", bomb, {"too_large"}
    for name, data in {
        "PNG": claimed_png(2**31 - 1, 2**31 - 1),
        "WebP": claimed_webp(16_383, 16_383),
        "WebP lossless": claimed_webp(16_383, 16_383, "VP8L"),
        "BMP": claimed_bmp(60_000, 60_000),
        "TIFF": claimed_tiff(width=60_000, height=60_000, bits=8, compression=1, photometric=1, offset=8, count=1),
        "TIFF tile": claimed_tiff(
            width=16,
            height=16,
            bits=8,
            compression=1,
            photometric=1,
            tile=8,
            tile_bytes=64,
            tile_width=65_536,
            tile_height=65_536,
        ),
    }.items():
        yield f"{name} with a large claim", "reconstruct", data, {"too_large"}
    yield "a claim within the limit and nothing behind it", "reconstruct", claimed_png(4096, 4096), {"broken_image"}
    for kind in ("GIF", "WEBP", "PNG"):
        yield f"an animated {kind}", "reconstruct", frames(kind, count=3), {"ok"}
    yield "a TIFF whose pages go round", "reconstruct", round_tiff(), REFUSED | {"ok"}
    yield "a million pages", "reconstruct", pages_tiff(1_000_000), {"ok"}
    yield "a JPEG of many scans", "reconstruct", scans_jpeg(600_000), {"too_large"}
    yield "a JPEG of as many scans as are taken", "encode", scans_jpeg(38, side=1024), {"ok"}
    yield "a PNG with much text", "reconstruct", text_png(), REFUSED | {"ok"}
    yield "nothing", "reconstruct", b"", {"broken_image"}
    yield "zeros", "reconstruct", bytes(20_000_000), {"unsupported_format"}
    yield "too many bytes", "reconstruct", bytes(26_000_000), {"too_large"}
    for mode in ("CMYK", "I;16", "P", "LA", "1", "YCbCr", "RGBA"):
        kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
        yield f"an honest {mode}", "reconstruct", plain(mode, kind), {"ok"}
    for mode in ("P", "LA", "RGBA"):
        yield f"nothing but transparency, {mode}", "reconstruct", plain(mode, "PNG", opaque=False), {"broken_image"}
    for orientation in (0, 5, 9, 65_535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation {orientation}", "reconstruct", saved(pixels(), "JPEG", exif=exif), {"ok"}
    yield "broken EXIF", "reconstruct", saved(pixels(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), {"ok"}


def latent_files(service: Service) -> Iterator[Case]:
    """Uploads in the place of a latent file."""
    good = service.encode(png(pixels()), model="kl").file
    yield "a latent file", "decode", good, {"ok"}
    for length in range(0, len(good), 97):
        yield f"a latent file cut at {length}", "decode", good[:length], {"bad_latents", "broken_image"}
    latents = from_bytes(good)
    text = good[8 : 8 + int.from_bytes(good[:8], "little")]
    values = np.frombuffer(good[8 + len(text) :], np.float32).copy()
    values[0] = np.nan
    yield "latents with NaN", "decode", good[: 8 + len(text)] + values.tobytes(), {"bad_latents"}
    huge = dataclasses.replace(latents, tensor=torch.full_like(latents.tensor, 3e38))
    yield "latents without end", "decode", to_bytes(huge), {"bad_latents"}
    yield "another model's", "decode", to_bytes(dataclasses.replace(latents, encoder="f" * 64)), {"wrong_model"}
    header = json.loads(text)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for count in (1_000, 100_000, 350_000):
        many = json.dumps(header | {f"t{i}": empty for i in range(count)}).encode()
        data = len(many).to_bytes(8, "little") + many + good[8 + len(text) :]
        yield f"a header of {count} tensors", "decode", data, {"bad_latents", "too_large"}
    for name, header_text in {
        "nesting": b"[" * 900_000,
        "digits": b'{"a":' + b"9" * 900_000 + b"}",
        "no JSON": b"\xff" * 900_000,
        "a large shape": text.replace(b"[1,2,3,4]", b"[1,2,9999999,9999999]"),
        "a negative shape": text.replace(b"[1,2,3,4]", b"[1,2,-3,-4]"),
    }.items():
        yield name, "decode", len(header_text).to_bytes(8, "little") + header_text + bytes(96), {"bad_latents"}
    yield "a header without end", "decode", (2**63).to_bytes(8, "little") + bytes(100), {"bad_latents"}


def plain(mode: str, kind: str, *, opaque: bool = True) -> bytes:
    stream = io.BytesIO()
    image = Image.new(mode, (20, 12))
    if opaque and mode in ("P", "LA", "RGBA"):
        image.putpixel((0, 0), 1 if mode == "P" else (9, 255) if mode == "LA" else (9, 9, 9, 255))
    options = {"transparency": 0} if mode == "P" else {}
    image.save(stream, kind, **options)
    return stream.getvalue()


def round_tiff() -> bytes:
    data = bytearray(frames("TIFF", count=1))
    at = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[at : at + 2])[0]
    data[at + 2 + 12 * entries : at + 6 + 12 * entries] = struct.pack("<I", at)
    return bytes(data)


def pages_tiff(count: int) -> bytes:
    data = bytearray(frames("TIFF", count=1))
    at = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[at : at + 2])[0]
    data[at + 2 + 12 * entries : at + 6 + 12 * entries] = struct.pack("<I", len(data))
    return bytes(data) + b"".join(struct.pack("<HI", 0, len(data) + 6 * (i + 1)) for i in range(count))


def scans_jpeg(count: int, side: int = 4096) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + count * scan + data[-2:]


def text_png() -> bytes:
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000)))
    data = png(pixels())
    return data[:33] + 20 * text + data[33:]


def write_cases(folder: Path) -> int:
    """Write the uploads and what is right for each into a folder; how many there are."""
    with Service({"kl": Codec(tiny(), name="kl", precision="fp32")}) as service:
        cases = [*images(), *latent_files(service)]
    for number, (name, endpoint, data, right) in enumerate(cases):
        (folder / f"{number}.upload").write_bytes(data)
        case = {"name": name, "endpoint": endpoint, "right": sorted(right)}
        (folder / f"{number}.json").write_text(json.dumps(case), encoding="utf-8")
    return len(cases)


def main(argv: list[str]) -> int:
    """Answer the cases of `write_cases` in this process, whose peak memory is then theirs."""
    warnings.simplefilter("error")
    folder = Path(argv[0])
    with Service({"kl": Codec(tiny(), name="kl", precision="fp32")}) as service:
        service.reconstruct(png(pixels()))  # what is set up once is no fault of an upload
        for number in range(len(list(folder.glob("*.upload")))):
            case = json.loads((folder / f"{number}.json").read_text(encoding="utf-8"))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.process_time()  # of this process: other programs cost nothing
            try:
                getattr(service, case["endpoint"])(folder / f"{number}.upload")
                outcome = "ok"
            except ServiceError as error:
                outcome = error.code
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            seconds = time.process_time() - start
            growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            answer = {"outcome": outcome, "seconds": seconds, "MiB": growth}
            sys.stdout.write(json.dumps(case | answer) + "\n")
    return 0
