"""Shards and index hold what the codec makes of the images, to the last bit."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from latent_ae.inference import Codec, strips
from latent_ae.io.image import Pixels, open_image, to_uint8
from latent_ae.latent_dataset import encoder as encoder_module
from tests.data.images import noise_image
from tests.latent_dataset.conftest import NAMES
from tests.latent_dataset.made import encoder_of, files, index, lines, make, settings


def grey(path: Path) -> Pixels:
    return to_uint8(open_image(path), 1)


def stored(folder: Path, row: dict, name: str) -> torch.Tensor:
    return load_file(folder / row["shard"])[f"{name}.{row['grid']}"][row["row"]]


def test_every_row_is_what_the_codec_makes_of_its_image(models: Path, pictures: Path, tmp_path: Path) -> None:
    codec = Codec.load(str(models / "kl"), precision="exact", tile=None)
    expected = {name: codec.encode([grey(pictures / name)], logvar=True)[0] for name in NAMES}
    for dtype in ("float16", "bfloat16", "float32"):
        out = tmp_path / dtype
        make(settings(models / "kl", out, path=pictures, dtype=dtype), codec=codec)
        rows = index(out)
        assert {row["name"] for row in rows} == set(NAMES)
        for row in rows:
            latents = expected[row["name"]]
            for name, tensor in (("mean", latents.tensor[0]), ("logvar", latents.logvar[0])):
                found = stored(out, row, name)
                assert found.dtype == getattr(torch, dtype)
                assert torch.equal(found, tensor.to(found.dtype))


def test_codes_are_those_of_the_codec(models: Path, pictures: Path, tmp_path: Path) -> None:
    manifest = make(settings(models / "vq", tmp_path / "out", path=pictures))
    codec = Codec.load(str(models / "vq"), precision="exact")
    assert (manifest.kind, manifest.dtype) == ("vq_indices", "uint16")
    for row in index(tmp_path / "out"):
        codes = codec.encode([grey(pictures / row["name"])])[0].tensor[0]
        assert torch.equal(stored(tmp_path / "out", row, "indices").to(torch.int64), codes)


def test_the_index_says_where_an_image_comes_from(pictures: Path, latents: Path) -> None:
    rows = {row["name"]: row for row in index(latents)}
    row = rows["cat/b.png"]
    pixels = grey(pictures / "cat/b.png")
    assert row["id"] == hashlib.sha256(b"16x20x1|" + pixels.tobytes()).hexdigest()
    assert (row["original_height"], row["original_width"], row["crop"]) == (16, 20, [0, 0, 20, 16])
    assert (row["label"], row["caption"], row["flipped"], row["grid"]) == (0, "a grey noise", False, "8x10")
    assert (rows["dog/a.png"]["label"], rows["dog/a.png"]["caption"]) == (1, None)
    assert rows["e.png"]["label"] is None
    assert (rows["dog/c.png"]["height"], rows["dog/c.png"]["grid"]) == (11, "6x7")


def test_a_caption_may_begin_with_a_mark_of_its_encoding(models: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "cat" / "b.txt").write_bytes(b"\xef\xbb\xbfa grey noise")
    make(settings(models / "kl", tmp_path / "out", path=pictures))
    assert {row["caption"] for row in index(tmp_path / "out")} == {"a grey noise", None}


def test_a_resolution_shows_the_largest_centred_square(models: Path, pictures: Path, tmp_path: Path) -> None:
    make(settings(models / "kl", tmp_path / "out", path=pictures, resolution=8))
    codec = Codec.load(str(models / "kl"), precision="exact")
    row = next(row for row in index(tmp_path / "out") if row["name"] == "cat/a.png")
    assert row["crop"] == [2, 0, 18, 16]
    square = Image.fromarray(grey(pictures / "cat/a.png")[:, :, 0]).resize(
        (8, 8), Image.Resampling.LANCZOS, row["crop"]
    )
    expected = codec.encode([np.array(square)[:, :, None]])[0].tensor[0]
    assert torch.equal(stored(tmp_path / "out", row, "mean"), expected.half())


def test_flips_are_rows_of_their_own(models: Path, pictures: Path, tmp_path: Path) -> None:
    make(settings(models / "kl", tmp_path / "out", path=pictures, flips=True))
    rows = index(tmp_path / "out")
    assert [row["flipped"] for row in rows] == [False, True] * len(NAMES)
    codec = Codec.load(str(models / "kl"), precision="exact")
    plain, mirrored = rows[:2]
    assert plain["id"] == mirrored["id"]
    pixels = grey(pictures / plain["name"])
    expected = codec.encode([np.ascontiguousarray(pixels[:, ::-1])])[0].tensor[0].half()
    assert torch.equal(stored(tmp_path / "out", mirrored, "mean"), expected)
    assert not torch.equal(stored(tmp_path / "out", plain, "mean").flip(-1), expected)


@pytest.mark.parametrize("precision", ["exact", "fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_threads_and_workers_change_no_byte(models: Path, pictures: Path, tmp_path: Path, precision: str) -> None:
    changes = {} if precision == "exact" else {"batch_size": 3}
    for name, threads, workers in (("one", 1, 0), ("three", 3, 2 if precision == "exact" else 0)):
        config = settings(models / "kl", tmp_path / name, path=pictures, precision=precision, flips=True, **changes)
        make(config, threads=threads, workers=workers)
    assert files(tmp_path / "one") == files(tmp_path / "three")


def test_a_run_that_goes_on_ends_in_the_same_bytes(models: Path, pictures: Path, tmp_path: Path) -> None:
    make(settings(models / "kl", tmp_path / "whole", path=pictures))
    config = settings(models / "kl", tmp_path / "parts", path=pictures)
    make(config, shards=1)
    (tmp_path / "parts" / "shards" / ".partial-0123456789abcdef").write_bytes(b"of a run that was killed")
    (tmp_path / "parts" / "shards" / "00001.safetensors").write_bytes(b"renamed, but its record was not written")
    before = (tmp_path / "parts" / "shards" / "00000.safetensors").stat().st_mtime_ns
    make(config)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert (tmp_path / "parts" / "shards" / "00000.safetensors").stat().st_mtime_ns == before


def test_broken_images_are_listed_and_left_out(models: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "cat" / "b.png").write_bytes(b"no image")
    (pictures / "dog" / "b.txt").write_bytes(b"\xff\xfe\xff")
    make(settings(models / "kl", tmp_path / "out", path=pictures))
    skipped = {entry["id"]: entry["reason"] for entry in lines(tmp_path / "out" / "skipped.jsonl")}
    assert skipped.keys() == {"cat/b.png", "dog/b.png"}
    assert "its caption b.txt cannot be read" in skipped["dog/b.png"]
    assert {row["name"] for row in index(tmp_path / "out")} == set(NAMES) - skipped.keys()


def test_duplicates_are_encoded_once_in_a_shard_and_listed(models: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.png", "b.png", "c.bmp", "d.png", "z.png"):  # c is another file of the same pixels
        noise_image(1 if name in ("d.png",) else 0).save(pictures / name)
    config = settings(models / "kl", tmp_path / "out", path=pictures, shard_images=4)
    make(config)
    rows = index(tmp_path / "out")
    first = rows[0]["name"] if rows[0]["name"] != "d.png" else rows[1]["name"]
    same = [row for row in rows if row["name"] != "d.png"]
    assert len({row["id"] for row in same}) == 1
    listed = lines(tmp_path / "out" / "duplicates.jsonl")
    assert [entry["id"] for entry in listed] == [row["name"] for row in same[1:]]
    assert {entry["same_as"] for entry in listed} == {first}
    tensors = load_file(tmp_path / "out" / "shards" / "00000.safetensors")
    assert len(tensors["mean.8x10"]) == len({row["id"] for row in rows[:4]})
    assert all(
        torch.equal(stored(tmp_path / "out", row, "mean"), stored(tmp_path / "out", same[0], "mean")) for row in same
    )


def test_latents_that_are_not_finite_are_named_and_left_out(models: Path, pictures: Path, tmp_path: Path) -> None:
    """The model overflows where pixels are white, and one image has them."""
    codec = Codec.load(str(models / "kl"), precision="exact")
    Image.fromarray(np.full((16, 20), 255, np.uint8)).save(pictures / "dog" / "b.png")
    codec.model.encoder.conv_in.register_forward_pre_hook(
        lambda _, given: (torch.where((given[0] == 1).all(), torch.full_like(given[0], torch.nan), given[0]),)
    )
    config = settings(models / "kl", tmp_path / "out", path=pictures)
    make(config, codec=codec)
    (left_out,) = lines(tmp_path / "out" / "skipped.jsonl")
    assert left_out == {"id": "dog/b.png", "reason": "the encoder gives 320 values that are not finite"}
    assert {row["name"] for row in index(tmp_path / "out")} == set(NAMES) - {"dog/b.png"}
    others = make(settings(models / "kl", tmp_path / "others", path=pictures))
    assert others.images.count == len(NAMES)


def test_latents_too_large_for_float16_are_named_and_left_out(models: Path, pictures: Path, tmp_path: Path) -> None:
    codec = Codec.load(str(models / "kl"), precision="exact")
    with torch.no_grad():
        codec.model.quant_conv.weight[0] *= 1e6
    for dtype, count in (("float16", 0), ("bfloat16", len(NAMES))):
        config = settings(models / "kl", tmp_path / dtype, path=pictures, dtype=dtype)
        if count:
            make(config, codec=codec)
            assert len(index(tmp_path / dtype)) == count
        else:
            with pytest.raises(ValueError, match="too large for float16: store bfloat16 or float32"):
                make(config, codec=codec)


def test_a_model_without_posterior_stores_means_alone(models: Path, pictures: Path, tmp_path: Path) -> None:
    manifest = make(settings(models / "certain", tmp_path / "out", path=pictures))
    assert manifest.kind == "mean"
    names = load_file(tmp_path / "out" / "shards" / "00000.safetensors").keys()
    assert {name.partition(".")[0] for name in names} == {"mean"}


def test_an_image_that_does_not_fit_is_refused_before_it_is_encoded(models: Path) -> None:
    config = settings(models / "kl", Path("out"), source="digits")
    encoder = encoder_of(config, memory_bytes=1 << 20)
    with encoder, pytest.raises(ValueError, match=r"4096x4096 pixels would take .* even in strips of rows, 1 MiB"):
        encoder.submit([np.zeros((4096, 4096, 1), np.uint8)])


@pytest.mark.parametrize("model", ["kl", "vq"])
def test_large_images_go_through_in_strips_and_have_the_latents_of_whole_ones(
    models: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(models / model, Path("out"), source="digits", dtype="float32")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 1), np.uint8)
    with encoder_of(config) as encoder:
        assert not encoder._in_strips(1, 70, 90)
        (whole,) = encoder.submit([image]).result()
    monkeypatch.setattr(encoder_module, "STREAMED_PIXELS", 70 * 90 - 1)
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    with encoder_of(config) as encoder:
        assert encoder._in_strips(1, 70, 90)
        (made,) = encoder.submit([image]).result()
    assert made.grid == whole.grid
    for name, tensor in whole.tensors.items():
        assert torch.allclose(made.tensors[name].float(), tensor.float(), atol=1e-5)


def test_an_image_that_does_not_fit_whole_goes_through_in_strips(models: Path) -> None:
    config = settings(models / "kl", Path("out"), source="digits")
    size = (1024, 2048)
    with encoder_of(config) as encoder:
        whole, some = (encoder._bytes(1, *size, in_strips=in_strips) for in_strips in (False, True))
    assert some < whole
    with encoder_of(config, memory_bytes=whole - 1) as encoder:
        assert encoder._in_strips(1, *size)
        assert encoder.submit([np.zeros((*size, 1), np.uint8)]).result()[0].tensors.keys() == {"mean", "logvar"}


def test_statistics_are_those_of_all_stored_latents(models: Path, latents: Path) -> None:
    import json

    stats = json.loads((latents / "stats.json").read_text())["latents"]
    shards = [load_file(latents / "shards" / f"{number:05d}.safetensors") for number in range(3)]
    means = [each for shard in shards for name, each in shard.items() if name.startswith("mean")]
    logvars = [each for shard in shards for name, each in shard.items() if name.startswith("logvar")]
    flat, spread = (
        torch.cat([each.double().transpose(0, 1).flatten(1) for each in tensors], dim=1) for tensors in (means, logvars)
    )
    assert stats["images"] == len(NAMES)
    assert stats["channel_mean"] == pytest.approx(flat.mean(1).tolist(), rel=1e-6)
    variance = flat.var(1, correction=0) + spread.exp().mean(1)
    assert stats["channel_std"] == pytest.approx(variance.sqrt().tolist(), rel=1e-6)
    std = float((flat.var(correction=0) + spread.exp().mean()).sqrt())
    assert stats["scaling_factor"] == pytest.approx(1 / std, rel=1e-6)
    assert stats["channel_min"] == pytest.approx(flat.amin(1).tolist(), rel=1e-6)
