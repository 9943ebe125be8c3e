"""`latent-ae encode`, `decode`, `reconstruct`: what they write."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from PIL import Image

from latent_ae.inference import Codec
from latent_ae.io.image import from_tensor, open_image, to_tensor, to_uint8
from latent_ae.io.latent_file.latents import read_latents, write_latents
from tests.cli.conftest import FP32, Run, state


def stock_pixels(model: Path, image: Path) -> np.ndarray:
    """What stock diffusers makes of an image of the model's factor."""
    stock = AutoencoderKL.from_pretrained(model).eval()
    with torch.no_grad():
        pixels = to_tensor(to_uint8(open_image(image), 1))[None]
        return from_tensor(stock.decode(stock.encode(pixels).latent_dist.mode()).sample)[0]


def test_a_folder_is_encoded_and_decoded_into_the_same_places(
    models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    latents, out = tmp_path / "new" / "latents", tmp_path / "out"
    status, said, errors = run("encode", photos, "-o", latents, "--model", models / "kl", *FP32)
    assert (status, errors) == (0, [])
    assert said == f"encoded 7 of 7 files into {latents}\n"
    stems = ["a", "a.tif", "b", "odd", "sub/a", "sub/c", "sub/tall"]
    assert sorted(state(latents)) == [f"{stem}.safetensors" for stem in stems]
    assert run("decode", latents, "-o", out, "--model", models / "kl", *FP32)[0] == 0
    assert sorted(state(out)) == [f"{stem}.png" for stem in stems]
    with Image.open(out / "odd.png") as image:
        assert (image.format, image.size) == ("PNG", (21, 13))
    with Image.open(out / "sub/tall.png") as image:
        assert image.size == (9, 30)
    assert (
        np.abs(
            np.asarray(Image.open(out / "sub/c.png")).astype(int)
            - stock_pixels(models / "kl", photos / "sub/c.png")[:, :, 0]
        ).max()
        <= 1
    )


def test_decoding_finds_the_model_that_the_files_name(
    models: Path, photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("encode", photos, "-o", tmp_path / "latents", "--model", models / "kl", *FP32)
    monkeypatch.chdir(models)
    status, said, _ = run("decode", tmp_path / "latents", "-o", tmp_path / "out", *FP32)
    assert (status, said) == (0, f"decoded 7 of 7 files into {tmp_path / 'out'}\n")


def test_a_run_is_found_by_its_encoder_whatever_the_files_call_it(
    models: Path, photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("encode", photos / "a.png", "-o", tmp_path, "--model", models / "kl", *FP32)
    encoder = read_latents(tmp_path / "a.safetensors").encoder
    shutil.copytree(models / "kl", tmp_path / "runs" / "moved" / "model")
    (tmp_path / "runs/moved/model/latent_stats.json").write_text(json.dumps({"encoder_identity": encoder}))
    monkeypatch.chdir(tmp_path)
    assert run("decode", "a.safetensors", "-o", "out", *FP32)[0] == 0


def test_nothing_that_is_written_carries_a_path_of_this_machine(
    models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    model = ("--model", models / "kl", *FP32)
    assert run("encode", photos, "-o", tmp_path / "out" / "latents", *model)[0] == 0
    assert run("decode", tmp_path / "out" / "latents", "-o", tmp_path / "out" / "decoded", *model)[0] == 0
    assert run("reconstruct", photos, "-o", tmp_path / "out" / "reconstructed", *model)[0] == 0
    assert run("sample", *model, "--count", 2, "-o", tmp_path / "out" / "draws.png")[0] == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 22
    for file in files:
        data = file.read_bytes()
        assert str(models).encode() not in data, file
        assert str(tmp_path).encode() not in data, file


def test_decoding_is_reconstructing(models: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    model = ("--model", models / "vq", "--precision", "exact")
    assert run("encode", photos, "-o", tmp_path / "latents", *model)[0] == 0
    assert run("decode", tmp_path / "latents", "-o", tmp_path / "decoded", *model)[0] == 0
    assert run("reconstruct", photos, "-o", tmp_path / "reconstructed", *model)[0] == 0
    decoded, reconstructed = (
        sorted((tmp_path / "decoded").rglob("*.png")),
        sorted((tmp_path / "reconstructed").rglob("*.png")),
    )
    assert len(decoded) == 7
    for one, two in zip(decoded, reconstructed, strict=True):
        assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(two)))


def test_a_latent_file_says_what_it_was_made_of(models: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    options = ("--sample", "--seed", "3", "--dtype", "bfloat16", "--logvar", *FP32)
    assert run("encode", photos / "odd.png", "-o", tmp_path, "--model", models / "kl", *options)[0] == 0
    latents = read_latents(tmp_path / "odd.safetensors")
    assert latents.sources == (hashlib.sha256((photos / "odd.png").read_bytes()).hexdigest(),)
    assert (latents.kind, latents.height, latents.width, latents.grid) == ("sample", 13, 21, (7, 11))
    assert latents.logvar is not None
    assert {latents.tensor.dtype, latents.logvar.dtype} == {torch.bfloat16}
    # The seed in the file is what the library needs to draw the same again.
    codec = Codec.load(str(models / "kl"), precision="fp32")
    again = codec.encode([to_uint8(open_image(photos / "odd.png"), 1)], seed=latents.seed)[0]
    assert again.tensor.bfloat16().equal(latents.tensor)


def test_no_two_files_get_the_same_noise_and_none_depends_on_the_others(models: Path, tmp_path: Path, run: Run) -> None:
    for name, value in (("a", 100), ("b", 101), ("c", 102)):
        Image.new("L", (16, 16), value).save(tmp_path / f"{name}.png")
    options = ("--sample", "--seed", "3", "--model", models / "kl", "--precision", "exact")
    files = [tmp_path / f"{name}.png" for name in "abc"]
    run("encode", *files, "-o", tmp_path / "all", *options)
    run("encode", files[1], "-o", tmp_path / "one", *options)
    a, b, c = (read_latents(tmp_path / "all" / f"{name}.safetensors") for name in "abc")
    assert b.tensor.equal(read_latents(tmp_path / "one" / "b.safetensors").tensor)
    assert len({a.seed, b.seed, c.seed}) == 3
    codec = Codec.load(str(models / "kl"), precision="exact")
    noise = [
        each.tensor - codec.encode([np.full((16, 16, 1), value, np.uint8)])[0].tensor
        for each, value in ((a, 100), (b, 101))
    ]
    assert (noise[0] - noise[1]).abs().mean() > 0.1 * noise[0].abs().mean()


def test_the_images_of_one_file_become_one_png_each(
    models: Path, photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    run("encode", photos / "a.png", photos / "sub/c.png", "-o", tmp_path, "--model", models / "kl", *FP32)
    both = [safetensors.torch.load_file(tmp_path / f"{name}.safetensors")["latent_tensor"] for name in "ac"]
    one = read_latents(tmp_path / "a.safetensors")
    write_latents(tmp_path / "both.safetensors", dataclasses.replace(one, tensor=torch.cat(both), sources=()))
    (tmp_path / "both-0001.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    files = [tmp_path / f"{name}.safetensors" for name in ("both-0001", "both", "c")]
    assert run("decode", *files, "-o", tmp_path / "out", *FP32)[0] == 0
    written = state(tmp_path / "out")
    assert sorted(written) == ["both-0001.png", "both-0001.safetensors.png", "both-0002.png", "c.png"]
    shown = {name: np.asarray(Image.open(tmp_path / "out" / name)).astype(int) for name in written}
    assert np.abs(shown["both-0001.png"] - shown["both-0001.safetensors.png"]).max() <= 1
    assert np.abs(shown["both-0002.png"] - shown["c.png"]).max() <= 1
    assert run("decode", *files, "-o", tmp_path / "out", *FP32)[1].endswith("3 were there already\n")
    assert state(tmp_path / "out") == written
