"""What other trainers read out of a converted data set, by their own rules, is what LatentDataset gives.

The readers here follow the sources that each writer names; the real ones were run beside them.
"""

import json
import re
import shutil
import struct
import tarfile
from collections.abc import Iterator
from io import BytesIO
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latent_ae.config import ModelConfig
from latent_ae.io.atomic import PlaceTakenError
from latent_ae.latent_dataset import LatentDataset, LatentDatasetError
from latent_ae.latent_dataset.conversion import ORIGIN, TARGETS, convert, lightningdit, mds, webdataset
from latent_ae.latent_dataset.index import write_index
from latent_ae.latent_dataset.manifest import read_manifest
from latent_ae.latent_dataset.shard import read_record, write_shard
from latent_ae.models import build_autoencoder
from tests.cli.conftest import Run, run
from tests.data.images import noise_image
from tests.io.test_atomic import no_room
from tests.latent_dataset.made import files, make, settings
from tests.program.forked import ROOT

__all__ = ["run"]

SIZES = [(40, 48), (48, 40), (64, 32), (48, 48), (40, 40)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sd` with mirror images and `flux` without, of 8 labelled images of several sizes; `own` at their own sizes."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(8):
        file = folder / "pictures" / ("cat" if number < 5 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise_image(number, *SIZES[number % len(SIZES)]).convert("RGB").save(file)
    (folder / "pictures" / "cat" / "1.txt").write_text("eine graue Fläche", encoding="utf-8")
    for name, channels, scaling in (("model-sd", 4, (0.18215, None)), ("model-flux", 16, (0.3611, 0.1159))):
        config = ModelConfig(
            preset="tiny", image_channels=3, latent_channels=channels, block_out_channels=(4,) * 4, norm_num_groups=2
        )
        model = build_autoencoder(config, seed=0, resolution=32)
        model.register_to_config(scaling_factor=scaling[0], shift_factor=scaling[1])
        model.save_pretrained(folder / name)
    square = {"path": folder / "pictures", "resolution": 32, "shard_images": 3}
    make(settings(folder / "model-sd", folder / "sd", flips=True, **square))
    make(settings(folder / "model-flux", folder / "flux", dtype="bfloat16", **square))
    make(settings(folder / "model-sd", folder / "own", path=folder / "pictures", logvar=False, dtype="float32"))
    return folder


def source_of(target: str) -> str:
    return "flux" if target in ("kohya-sd3", "kohya-flux") else "sd"


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_there_whole_and_says_what_it_was_made_of(made: Path, tmp_path: Path, target: str) -> None:
    totals: list[int] = []
    rows, _ = convert(made / source_of(target), target, tmp_path / "out", on_row=totals.append)
    dataset = LatentDataset(made / source_of(target))
    assert (rows, totals) == (len(dataset), [len(dataset)] * len(dataset))
    origin = json.loads((tmp_path / "out" / ORIGIN).read_text())
    manifest = dataset.manifest
    assert origin["encoder_identity"] == manifest.encoder.identity
    assert (origin["scaling_factor"], origin["label_names"]) == (manifest.model.scaling_factor, ["cat", "dog"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    before = files(tmp_path / "out")
    with pytest.raises(PlaceTakenError, match="already exists"):
        convert(made / source_of(target), target, tmp_path / "out")
    convert(made / source_of(target), target, tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "out") == before


@pytest.mark.parametrize("target", TARGETS)
def test_a_full_disk_leaves_nothing(made: Path, tmp_path: Path, target: str, run: Run) -> None:
    with no_room(200):
        status, _, errors = run("convert-dataset", made / source_of(target), "--to", target, "-o", tmp_path / "out")
    assert status == 1
    (error,) = errors
    assert error.startswith(f"File too large: {tmp_path / 'out'}")
    assert not list(tmp_path.iterdir())


def test_lightningdit_reads_draws_mirror_images_and_statistics(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightningdit, "_ROWS", 3)
    _, notes = convert(made / "sd", "lightningdit", tmp_path / "out", seed=5)
    assert notes[0] == "8 images, 8 of them with the latents of their mirror image"
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    tensors = [load_file(shard) for shard in shards]
    assert [len(each["labels"]) for each in tensors] == [3, 3, 2]
    read = {name: torch.cat([each[name] for each in tensors]) for name in ("latents", "latents_flip", "labels")}
    rows = list(LatentDataset(made / "sd", seed=5).rows())
    assert torch.equal(read["latents"], torch.stack([row.latents for row in rows if not row.flipped]))
    assert torch.equal(read["latents_flip"], torch.stack([row.latents for row in rows if row.flipped]))
    assert (read["labels"].dtype, read["labels"].tolist()) == (torch.int64, [r.label for r in rows if not r.flipped])
    statistics = torch.load(tmp_path / "out" / "latents_stats.pt")
    for name, expected in (
        ("mean", read["latents"].mean(dim=[0, 2, 3], keepdim=True)),
        ("std", read["latents"].std(dim=[0, 2, 3], keepdim=True)),
    ):
        assert (statistics[name].shape, statistics[name].dtype) == ((1, 4, 1, 1), torch.float32)
        torch.testing.assert_close(statistics[name], expected)


def test_lightningdit_without_mirror_images_is_said(made: Path, tmp_path: Path) -> None:
    _, notes = convert(made / "flux", "lightningdit", tmp_path / "out", posterior="mode")
    assert notes[0] == "8 images, 0 of them with the latents of their mirror image"
    assert notes[1].startswith("latents_flip repeats the latents of the other 8")
    tensors = load_file(tmp_path / "out" / "latents_rank00_shard00000.safetensors")
    assert torch.equal(tensors["latents"], tensors["latents_flip"])
    assert torch.equal(
        tensors["latents"], torch.stack([row.latents for row in LatentDataset(made / "flux", posterior="mode").rows()])
    )


@pytest.mark.parametrize("source", ["sd", "flux"])
def test_fast_dit_reads_scaled_draws_and_labels(made: Path, tmp_path: Path, source: str) -> None:
    _, notes = convert(made / source, "fast-dit", tmp_path / "out")
    features, labels = (tmp_path / "out" / f"imagenet256_{name}" for name in ("features", "labels"))
    rows = list(LatentDataset(made / source).rows())
    pairs = list(zip(sorted(features.iterdir()), sorted(labels.iterdir()), strict=True))
    assert len(pairs) == len(rows)
    scale, shift = (0.18215, 0.0) if source == "sd" else (0.3611, 0.1159)
    for row, (feature, label) in zip(rows, pairs, strict=True):
        scaled, number = np.load(feature), np.load(label)
        assert (scaled.dtype, scaled.shape, number.dtype, number.tolist()) == (
            np.float32,
            (1, *row.latents.shape),
            np.int64,
            [row.label],
        )
        assert torch.equal(torch.from_numpy(scaled[0]), (row.latents - shift) * scale)
    assert notes[0] == "for train.py: --num-classes 2"
    assert notes[1:] == (
        []
        if source == "sd"
        else ["in sample.py, replace samples / 0.18215 by samples / 0.3611 + 0.1159: the scale of this model"]
    )


CROPS = {
    (40, 48): (2.0, 0.0, 28.666666666666668, 32.0),
    (48, 40): (0.0, 2.0, 32.0, 28.666666666666668),
    (64, 32): (0.0, 8.0, 32.0, 24.0),
    (48, 48): (0.0, 0.0, 32.0, 32.0),
}
"""what get_crop_ltrb of sd-scripts gives for a bucket of 32 x 32 and an image of such a size"""


@pytest.mark.parametrize(
    ("target", "ending", "size", "scaled"),
    [
        ("kohya-sd", "sd", "", False),
        ("kohya-sdxl", "sdxl", "", False),
        ("kohya-sd3", "sd3", "_4x4", False),
        ("kohya-flux", "flux", "_4x4", True),
    ],
)
def test_kohya_finds_each_images_latents_beside_it(  # noqa: PLR0917  # a table
    made: Path, tmp_path: Path, target: str, ending: str, size: str, scaled: bool
) -> None:
    source = source_of(target)
    _, notes = convert(made / source, target, tmp_path / "out")
    rows = list(LatentDataset(made / source).rows())
    mirrors = {row.source_index: row for row in rows if row.flipped}
    entries = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text("utf-8").splitlines()]
    images = [row for row in rows if not row.flipped]
    for row, entry in zip(images, entries, strict=True):
        width, height = entry["image_size"]
        assert (entry["image_path"], (width, height)) == (row.name, (row.original_width, row.original_height))
        assert entry["caption"] == ("eine graue Fläche" if row.name == "cat/1.png" else "")
        bare = entry["image_path"].removesuffix(".png")
        arrays = np.load(tmp_path / "out" / f"{bare}_{width:04d}x{height:04d}_{ending}.npz")
        expected = {f"{name}{size}" for name in ("latents", "original_size", "crop_ltrb")}
        assert set(arrays.files) == expected | ({"latents_flipped"} if source == "sd" else set())
        assert arrays[f"original_size{size}"].tolist() == [width, height]
        if (width, height) in CROPS:
            assert arrays[f"crop_ltrb{size}"].tolist() == pytest.approx(list(CROPS[width, height]))
        latents = torch.from_numpy(arrays[f"latents{size}"])
        assert latents.dtype == torch.float32
        assert torch.equal(latents, 0.3611 * (row.latents - 0.1159) if scaled else row.latents)
        if source == "sd":
            assert torch.equal(torch.from_numpy(arrays["latents_flipped"]), mirrors[row.source_index].latents)
    assert notes[0] == f"8 images, {len(mirrors)} of them with the latents of their mirror image"
    warned = [note for note in notes if note.startswith("sd-scripts always takes scaling_factor")]
    assert len(warned) == (target in ("kohya-sdxl", "kohya-sd3"))  # the other two have the scale of sd-scripts


def tar_samples(file: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """As webdataset groups them: members that follow one another, by their name up to the first dot."""
    with tarfile.open(file) as tar:
        for key, members in groupby(tar, key=lambda member: member.name.partition(".")[0]):
            yield key, {member.name.partition(".")[2]: tar.extractfile(member).read() for member in members}


@pytest.mark.parametrize("source", ["sd", "flux", "own"])
def test_webdataset_reads_what_is_stored(
    made: Path, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset, "_ROWS", 5)
    convert(made / source, "webdataset", tmp_path / "out")
    dataset = LatentDataset(made / source)
    samples = [sample for file in sorted((tmp_path / "out").glob("*.tar")) for sample in tar_samples(file)]
    assert len({key for key, _ in samples}) == len(samples)
    for row, (_, sample) in zip(dataset.rows(), samples, strict=True):
        for name, tensor in dataset.stored(row.number).items():
            array = np.load(BytesIO(sample[f"{name}.npy"]))
            assert array.dtype == (np.float16 if source == "sd" else np.float32)
            assert torch.equal(torch.from_numpy(array), tensor if tensor.dtype != torch.bfloat16 else tensor.float())
        assert ("logvar.npy" in sample) == (source != "own")
        assert (int(sample["cls"]), sample.get("txt", b"").decode() or None) == (row.label, row.caption)
        said = json.loads(sample["json"])
        assert (said["name"], said["flipped"], said["crop"]) == (row.name, row.flipped, list(row.crop))


def mds_samples(folder: Path) -> Iterator[dict[str, Any]]:
    """As the format is described: offsets, then for each sample the sizes of what has no fixed one, and the columns."""
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        content = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(content) == shard["raw_data"]["bytes"]
        (count,) = struct.unpack_from("<I", content)
        assert count == shard["samples"]
        offsets = struct.unpack_from(f"<{count + 1}I", content, 4)
        for begin, end in pairwise(offsets):
            yield mds_sample(content[begin:end], shard)


def mds_sample(data: bytes, shard: dict[str, Any]) -> dict[str, Any]:
    place, sizes, sample = 0, [], {}
    for fixed in shard["column_sizes"]:
        sizes.append(fixed or struct.unpack_from("<I", data, place)[0])
        place += 0 if fixed else 4
    for name, encoding, size in zip(shard["column_names"], shard["column_encodings"], sizes, strict=True):
        value, place = data[place : place + size], place + size
        match encoding:
            case "str":
                sample[name] = value.decode()
            case "json":
                sample[name] = json.loads(value)
            case "int":
                (sample[name],) = struct.unpack("<q", value)
            case "ndarray":
                dtype = {16: "<u2", 18: "<f2", 33: "<i4", 34: "<f4"}[value[0]]
                ndim, width = value[1] >> 2, 1 << (value[1] & 3)
                shape = np.frombuffer(value, f"<u{width}", ndim, 2)
                sample[name] = np.frombuffer(value[2 + ndim * width :], dtype).reshape(shape)
    assert place == len(data)
    return sample


@pytest.mark.parametrize("source", ["sd", "flux", "own"])
def test_mds_reads_what_is_stored(made: Path, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mds, "_BYTES", 4000)
    convert(made / source, "mds", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.mds"))) > 1
    dataset = LatentDataset(made / source)
    for row, sample in zip(dataset.rows(), mds_samples(tmp_path / "out"), strict=True):
        for name, tensor in dataset.stored(row.number).items():
            expected = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            assert sample[name].dtype == expected.numpy().dtype
            assert np.array_equal(sample[name], expected.numpy())
        assert (sample["label"], sample["caption"], sample["id"]) == (row.label, row.caption or "", row.id)
        assert (sample["name"], sample["row"]["source_index"]) == (row.name, row.source_index)


@pytest.mark.parametrize("target", ["webdataset", "mds"])
def test_codes_and_rows_without_label_are_kept(models: Path, pictures: Path, tmp_path: Path, target: str) -> None:
    make(settings(models / "vq", tmp_path / "codes", path=pictures))
    dataset = LatentDataset(tmp_path / "codes")
    convert(tmp_path / "codes", target, tmp_path / "out")
    if target == "mds":
        read = [(sample["indices"], sample["label"]) for sample in mds_samples(tmp_path / "out")]
    else:
        samples = (sample for _, sample in tar_samples(tmp_path / "out" / "00000.tar"))
        read = [(np.load(BytesIO(sample["indices.npy"])), int(sample.get("cls", -1))) for sample in samples]
    for row, (codes, label) in zip(dataset.rows(), read, strict=True):
        assert codes.dtype == np.uint16
        assert np.array_equal(codes, row.latents.numpy())
        assert label == (-1 if row.label is None else row.label)
    assert {label for _, label in read} == {-1, 0, 1}


@pytest.mark.parametrize(
    ("target", "source", "given", "message"),
    [
        (
            "lightningdit",
            "own",
            {},
            r"holds latents of \d sizes \(.*\), this trainer reads one: encode with --resolution",
        ),
        ("fast-dit", "own", {}, r"holds latents of \d sizes"),
        ("kohya-sd", "own", {}, r"holds latents of \d sizes"),
        ("kohya-sd", "flux", {}, "holds latents of 16 channels, 8 pixels a position; .* has 4 channels, 8 pixels"),
        ("kohya-flux", "sd", {}, "holds latents of 4 channels, 8 pixels a position; FLUX has 16 channels, 8 pixels"),
        ("mds", "sd", {"posterior": "mode"}, "--posterior and --seed have no effect with mds"),
        ("webdataset", "sd", {"seed": 0}, "--posterior and --seed have no effect with webdataset"),
        (
            "fast-dit",
            "sd",
            {"posterior": "mode", "seed": 0},
            "--seed has no effect: the mode of each",
        ),
        ("fast-dit", "own", {"posterior": "sample"}, "without log-variances"),
    ],
)
def test_what_a_trainer_cannot_read_is_refused(  # noqa: PLR0917  # a table
    made: Path, tmp_path: Path, target: str, source: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(LatentDatasetError, match=message):
        convert(made / source, target, tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


def test_codes_and_missing_labels_are_refused(models: Path, pictures: Path, tmp_path: Path) -> None:
    make(settings(models / "vq", tmp_path / "codes", path=pictures, resolution=16))
    make(settings(models / "kl", tmp_path / "numbers", path=pictures, resolution=16))
    with pytest.raises(LatentDatasetError, match="holds codes of a VQModel, this trainer reads latents"):
        convert(tmp_path / "codes", "lightningdit", tmp_path / "out")
    for target in ("lightningdit", "fast-dit"):
        with pytest.raises(LatentDatasetError, match=r"2 of 9 rows of .* have no label, and this trainer needs one"):
            convert(tmp_path / "numbers", target, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../outside.png", "'../outside.png' is not a path below a folder"),
        ("/etc/outside.png", "'/etc/outside.png' is not a path below a folder"),
        ("cat/1.webp", "differ in their suffix alone, and sd-scripts has one file for both"),
    ],
)
def test_kohya_writes_nothing_outside_its_folder_and_nothing_twice(
    made: Path, tmp_path: Path, name: str, message: str
) -> None:
    """Names come from the index, which another may have written."""
    folder = shutil.copytree(made / "sd", tmp_path / "latents")
    manifest = read_manifest(folder)
    for number in range(manifest.shards):
        record = vars(read_record(folder, manifest, number))
        for row in record["rows"]:
            if row["name"] == "cat/2.png":
                row |= {"name": name, "original_width": 48, "original_height": 40}
        tensors = load_file(folder / "shards" / f"{number:05d}.safetensors")
        write_shard(folder, manifest, number, tensors, {k: v for k, v in record.items() if k not in ("sha256", "size")})
    write_index(folder)
    with pytest.raises(LatentDatasetError, match=message):
        convert(folder, "kohya-sd", tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())
    assert not (tmp_path / "outside_0048x0040_sd.npz").exists()


def test_the_command_says_how_many_and_what_to_set(made: Path, tmp_path: Path, run: Run) -> None:
    status, said, errors = run("convert-dataset", made / "sd", "--to", "lightningdit", "-o", tmp_path / "out")
    assert (status, errors) == (0, [])
    assert said.splitlines() == [
        f"wrote 16 rows of {made / 'sd'} into {tmp_path / 'out'}, for lightningdit",
        "8 images, 8 of them with the latents of their mirror image",
        "in the config: latent_norm: true, latent_multiplier: 1.0, num_classes: 2",
    ]
    status, _, errors = run("convert-dataset", made / "sd", "--to", "mds", "-o", tmp_path / "other", "--draw", "mode")
    assert (status, errors) == (2, ["unknown option --draw; use --posterior"])
    status, _, errors = run("convert-dataset", made / "none", "--to", "mds", "-o", tmp_path / "other")
    assert status == 2
    assert errors[0].startswith(f"{made / 'none'} does not exist")


def test_the_loop_of_the_documentation_runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (loop,) = re.findall(
        r"```python\n(import numpy.*?)```", (ROOT / "docs" / "latents.md").read_text("utf-8"), re.DOTALL
    )
    shutil.copytree(made / "sd", tmp_path / "latents")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    exec(loop, {})
    rows = list(LatentDataset("latents", posterior="mode", flipped=False).rows())
    written = [np.load(file) for file in sorted((tmp_path / "mine").iterdir())]
    assert all(np.array_equal(one, row.latents.numpy()) for one, row in zip(written, rows, strict=True))
