"""What `encode`, `decode` and `reconstruct` do about files and options that cannot be used."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from latent_ae.io.latent_file.latents import read_latents, write_latents
from tests.cli.conftest import FP32, Run, state


def test_two_hundred_images_of_which_three_are_damaged(models: Path, tmp_path: Path, run: Run) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(200):
        Image.fromarray(rng.integers(0, 256, (8, 8 + 2 * (number % 3)), dtype=np.uint8)).save(
            photos / f"{number:03d}.png"
        )
    (photos / "017.png").write_bytes(b"")
    (photos / "100.png").write_bytes((photos / "100.png").read_bytes()[:70])
    (photos / "199.png").write_bytes(b"no image at all")
    words = ("encode", photos, "-o", tmp_path / "out", "--model", models / "kl", *FP32)
    status, said, errors = run(*words)
    assert status == 1
    assert said == f"encoded 197 of 200 files into {tmp_path / 'out'}, 3 could not be used\n"
    assert [line.partition(": ")[0] for line in errors] == [
        str(photos / f"{name}.png") for name in ("017", "100", "199")
    ]
    assert len(state(tmp_path / "out")) == 197
    status, said, errors = run(*words)
    assert (status, len(errors)) == (1, 3)
    assert said.endswith(
        "encoded 0 of 200 files into {}, 197 were there already, 3 could not be used\n".format(tmp_path / "out")
    )


def test_what_cannot_be_decoded_does_not_keep_the_rest_from_it(
    models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    latents = tmp_path / "latents"
    run("encode", photos, "-o", latents, "--model", models / "kl", *FP32)
    run("encode", photos / "b.bmp", "-o", latents, "--model", models / "other", *FP32)
    (latents / "odd.safetensors").write_bytes((latents / "odd.safetensors").read_bytes()[:-3])
    safetensors.torch.save_file({"latent_tensor": torch.zeros(1, 4, 8, 8)}, latents / "sub" / "comfy.latent")
    missing = tmp_path / "missing.safetensors"
    os.mkfifo(tmp_path / "pipe.safetensors")
    paths = (latents, missing, tmp_path / "pipe.safetensors")
    status, _, errors = run("decode", *paths, "-o", tmp_path / "out", "--model", models / "kl", *FP32)
    assert status == 1
    told = dict(line.split(": ", 1) for line in errors)
    assert sorted(state(tmp_path / "out")) == ["a.png", "a.tif.png", "sub/a.png", "sub/c.png", "sub/tall.png"]
    assert len(told) == 5
    assert told[str(latents / "b.safetensors")].startswith("these latents are of the encoder")
    assert told[str(latents / "odd.safetensors")].startswith("a latent file cut short")
    assert told[str(latents / "sub/comfy.latent")].startswith("latents that do not say which encoder made them")
    assert told[str(missing)] == "No such file or directory"
    assert told[str(tmp_path / "pipe.safetensors")] == "it is no ordinary file"


def test_what_a_user_must_mend_is_a_line_and_status_2(models: Path, photos: Path, tmp_path: Path, run: Run) -> None:
    out, model = ("-o", tmp_path / "out"), ("--model", models / "kl", *FP32)
    (tmp_path / "empty").mkdir()
    before = state(photos)
    missing = tmp_path / "missing"
    certain = ("--model", models / "certain", *FP32)
    for words, message in [
        (("encode", photos, *out, "--model", missing), f"{missing}"),
        (("reconstruct", photos, "-o", photos, *model), "a.png is one of the files to read and would be overwritten"),
        (("encode", tmp_path / "empty", *out, *model), f"{tmp_path / 'empty'} holds no files that end in .avif, .bmp"),
        (("encode", photos, *out, *model, "--quality", "9"), "unknown option --quality"),
        (("encode", photos, *out, *model, "--data.path", "9"), "unknown option --data.path"),
        (("encode", photos, *out, "--model", models / "vq", "--dtype", "float16"), "--dtype float16 has no effect: "),
        (("encode", photos, *out, "--model", models / "vq", "--sample"), "--sample has no effect: "),
        (("encode", photos, *out, *certain, "--logvar"), "--logvar has no effect: "),
        (
            ("encode", photos, *out, *certain, "--sample", "--seed", "1"),
            "has no posterior to sample from; leave it out",
        ),
        (("encode", photos, *out, *model, "--seed", "1"), "--seed 1 has no effect without --sample"),
        (("encode", photos, *out, *model, "--compute", "exact"), "unknown option --compute; use --precision"),
        (("encode", photos, *out, *model, "--sample", "3"), "--sample takes no seed, got 3: use --sample --seed 3"),
        (("encode", "--sample", "3", photos, *out, *model), "--sample takes no seed, got 3: use --sample --seed 3"),
        (("decode", photos / "a.png", *out), "the latent files name 0 models (): give --model"),
    ]:
        status, said, errors = run(*words)
        assert (status, said) == (2, "")
        (line,) = errors
        assert message in line
    assert not (tmp_path / "out").exists()
    assert state(photos) == before


def test_a_model_that_a_strangers_file_names_is_not_fetched(
    models: Path, photos: Path, tmp_path: Path, run: Run
) -> None:
    run("encode", photos / "a.png", "-o", tmp_path, "--model", models / "kl", *FP32)
    mine = read_latents(tmp_path / "a.safetensors")
    write_latents(tmp_path / "a.safetensors", dataclasses.replace(mine, model="stranger/model"))
    _, _, errors = run("decode", tmp_path / "a.safetensors", "-o", tmp_path / "out")
    assert errors == [
        "the latent files were made by the model 'stranger/model', and no model in this folder, in runs/ or of this "
        f"program has its encoder {mine.encoder[:16]}: give --model"
    ]
