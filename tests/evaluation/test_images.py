"""Which images are measured: what the options say, what the models' runs say, and the two together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from latent_ae.cli import main
from latent_ae.config import ModelConfig
from latent_ae.data import FolderConfig
from latent_ae.data.settings import FilesConfig
from latent_ae.errors import UserError
from latent_ae.evaluation.images import measure_config, open_part
from latent_ae.io.pixel_format import FILE, PixelFormat
from latent_ae.models import build_autoencoder
from tests.data.images import write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images."""
    root = tmp_path_factory.mktemp("images") / "pictures"
    root.mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (12, 16, 16), np.uint8)
    for number, image in enumerate(levels):
        Image.fromarray(image).save(root / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """Runs on the folder, on a folder of its name that has been moved, and on the digits; and a model of no run."""
    root = tmp_path_factory.mktemp("runs")
    data = {
        "here": f"{{source: folder, path: {folder}, heldout_share: 0.5, resolution: 16}}",
        "moved": "{source: folder, path: /elsewhere/pictures, heldout_share: 0.4}",
        "digits": "{source: digits, flip: true}",
    }
    for seed, name in enumerate(data):
        model = build_autoencoder(ModelConfig(preset="tiny"), seed=seed, resolution=16)
        model.save_pretrained(root / name / "model")
        (root / name / "config.yaml").write_text(f"name: {name}\ndata: {data[name]}\n")
    model.save_pretrained(root / "foreign")
    return root


@pytest.mark.parametrize(
    ("models", "options", "found"),
    [
        (["here"], {}, ("folder", 0.5, "heldout")),
        (["here/model"], {"data.path": "{folder}"}, ("folder", 0.5, "heldout")),
        (
            ["here"],
            {"data.path": "{folder}", "data.source": "folder", "data.heldout_share": "0.5", "data.workers": "0"},
            (None, 0.5, "heldout"),
        ),
        (["here"], {"data.path": "{folder}/00.png"}, ("folder", 0.05, "all")),
        (["here"], {"data.path": "{runs}"}, ("folder", 0.05, "all")),
        (["here"], {"data.source": "digits"}, ("digits", None, "all")),
        (["moved"], {"data.path": "{folder}"}, ("folder", 0.4, "heldout")),
        (["foreign"], {"data.path": "{folder}"}, ("folder", 0.05, "all")),
        (["foreign"], {"data.path": "{folder}/images.parquet"}, ("hub", 0.05, "all")),
        (["foreign", "here"], {"data.path": "{folder}"}, ("folder", 0.5, "heldout")),
        (["foreign", "digits"], {"data.source": "digits"}, ("digits", None, "heldout")),
        (["digits", "digits/model"], {}, ("digits", None, "heldout")),
    ],
)
def test_the_images_and_the_part_follow_from_the_options_and_from_what_the_models_were_trained_on(
    runs: Path, folder: Path, models: list[str], options: dict[str, object], found: tuple[str | None, object, str]
) -> None:
    options = {
        name: value.format(folder=folder, runs=runs) if isinstance(value, str) else value
        for name, value in options.items()
    }
    config, part = measure_config(options, [str(runs / name) for name in models])
    source, share, expected = found
    assert (source or "folder", share, expected) == (
        config.data.source,
        getattr(config.data, "heldout_share", None),
        part,
    )
    if "data.path" in options:
        assert isinstance(config.data, FilesConfig)
        assert config.data.path == options["data.path"]


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (["here", "foreign"], {}, "no run's settings say which images .*foreign was trained on: give --data.path DIR"),
        (["here", "digits"], {}, "trained on different images, folder pictures and digits: give --data.path DIR"),
        (
            ["here"],
            {"data.heldout_share": "0.3"},
            r"data\.heldout_share 0\.3 is not that of the model's run, 0\.5, so that images",
        ),
        (["digits"], {"data.fit": "pad"}, "--data.fit brings images to --evaluation.size, which is not given"),
        (["digits"], {"data.flip": "true"}, "--data.flip only crops training images and has no effect here"),
    ],
)
def test_images_that_nothing_says_are_asked_for(
    runs: Path, models: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        measure_config(options, [str(runs / name) for name in models])


def test_all_images_are_the_parts_together_and_one_image_is_all_of_itself(folder: Path) -> None:
    data = FolderConfig(path=str(folder), heldout_share=0.5)
    train, heldout, every = (
        [source.sample_id(index) for index in range(len(source))]
        for source, _ in (open_part(data, "train"), open_part(data, "heldout"), open_part(data, "all"))
    )
    assert every == sorted(train + heldout) == [f"{number:02}.png" for number in range(12)]
    one = FolderConfig(path=str(folder / "07.png"))
    image, _ = open_part(one, "all")
    assert (len(image), image.sample_id(0), image.load(0).size) == (1, "07.png", (16, 16))
    with pytest.raises(UserError, match=r"07\.png holds 1 images, needs two or more"):
        open_part(one, "heldout")


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (("train", "val", "test"), {"train": 3, "heldout": 3, "test": 3, "all": 9}),
        (("train", "test"), {"train": 3, "heldout": 3, "test": 3, "all": 6}),
        (("test",), {"heldout": 3, "test": 3, "all": 3}),
        ((".",), {"test": "data.train_split test is not among its splits: train", "all": 3}),
    ],
)
def test_a_part_is_a_split_where_folders_say_so(
    folder: Path,
    tmp_path: Path,
    layout: tuple[str, ...],
    expected: dict[str, int | str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for place, name in enumerate(layout):
        (tmp_path / name).mkdir(exist_ok=True)
        for number in range(3):
            shutil.copy(folder / f"{3 * place + number:02}.png", tmp_path / name)
    data = FolderConfig(path=str(tmp_path))
    for part, count in expected.items():
        if isinstance(count, str):
            with pytest.raises(UserError, match=count):
                open_part(data, part)
            continue
        source, _ = open_part(data, part)
        names = [source.sample_id(index) for index in range(len(source))]
        assert (len(names), len(set(names)), source.load(0).size) == (count, count, (16, 16))
        assert all(part in ("all", "heldout") or name.startswith(part) for name in names)
    capsys.readouterr()
    open_part(data, "all")
    assert capsys.readouterr().out == "", "nothing is left out"


def test_several_models_are_measured_on_the_same_images_in_one_table(
    runs: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(runs / name) for name in ("here", "foreign")]
    options = ["--data.path", str(folder), "--evaluation.max_images", "null"]
    assert main(["evaluate", *names, *options, "--part", "all", "--json", str(tmp_path / "all.json")]) == 0
    table = capsys.readouterr().out
    reports = json.loads((tmp_path / "all.json").read_text())["models"]
    assert list(reports) == names
    assert [report["images"] for report in reports.values()] == [12, 12]
    for name in names:
        assert main(["evaluate", name, *options, "--part", "all", "--json", str(tmp_path / "one.json")]) == 0
        assert json.loads((tmp_path / "one.json").read_text()) == reports[name]
    values = [f"{report['metrics']['psnr']['value']:.5g}" for report in reports.values()]
    (line,) = [line for line in table.splitlines() if line.startswith("  psnr (dB)")]
    assert line.split() == ["psnr", "(dB)", *values]
    assert table.startswith("folder, all images\n")


def test_the_part_that_is_measured_is_said(runs: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, part in ([], "heldout"), (["--data.path", str(folder / "03.png")], "all"):
        assert main(["evaluate", str(runs / "here"), *options]) == 0
        captured = capsys.readouterr()
        assert f"part of the images: {part}; --part chooses another" in captured.err
        assert captured.out.startswith({"heldout": "folder, held-out part: ", "all": "folder, all images: 1 "}[part])
    assert main(["evaluate", str(runs / "here"), str(runs / "here")]) == 2
    assert "is given twice: give every model once" in capsys.readouterr().err


def test_the_report_says_what_is_left_out_and_all_images_are_those_of_every_split(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, ["train/a.png", "train/b.png", "val/c.png", "test/d.png", "e.png"])
    (tmp_path / "train" / "notes.doc").write_text("words")
    others = {"not read as images: .doc (1)": 1, "outside the folders of the splits": 1}
    unused = {"in the split test, which is not used (data.heldout_split test holds it out)": 1}
    for part, images, left_out in ("heldout", 1, others | unused), ("all", 4, others):
        options = ["--data.path", str(tmp_path), "--part", part, "--json", str(tmp_path / "report.json")]
        assert main(["evaluate", str(runs / "foreign"), *options]) == 0
        report = json.loads((tmp_path / "report.json").read_text())
        (tmp_path / "report.json").unlink()
        assert (report["images"], report["left_out"]) == (images, left_out)
        assert f"{len(left_out)} left out: " in capsys.readouterr().out


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four arrays of 16-bit numbers, and a model of them: `model`, without a run."""
    root = tmp_path_factory.mktemp("scans")
    (root / "ct").mkdir()
    values = np.random.default_rng(1).integers(-1000, 3000, (4, 16, 16), np.int16)
    for number, scan in enumerate(values):
        np.save(root / "ct" / f"{number}.npy", scan)
    build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16).save_pretrained(root / "model")
    form = PixelFormat(1, numbers=True, dtype="int16", ranges=((-1000.0, 3000.0),), unit="HU")
    (root / "model" / FILE).write_text(form.to_json())
    return root


def test_files_of_numbers_are_measured_as_the_model_reads_them(scans: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert main(["evaluate", str(scans / "model"), "--data.path", str(scans / "ct"), "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    model = AutoencoderKL.from_pretrained(scans / "model")
    values = np.stack([np.load(scans / "ct" / f"{number}.npy") for number in range(4)]).astype(np.float64)
    pixels = torch.from_numpy((values + 1000) / 4000 * 2 - 1).float()[:, None]
    with torch.no_grad():
        decoded = model.decode(model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)[:, 0].double().numpy()
    errors = np.abs((decoded + 1) / 2 * 4000 - 1000 - values)
    metrics = {name: found["metrics"][name] for name in ("mae", "rmse", "max_error")}
    assert metrics["mae"]["value"] == pytest.approx(errors.mean(), rel=1e-5)
    assert metrics["rmse"]["value"] == pytest.approx(np.sqrt(np.square(errors).mean((1, 2))).mean(), rel=1e-5)
    assert metrics["max_error"]["value"] == pytest.approx(errors.max(), rel=1e-5)
    assert {metric["unit"] for metric in metrics.values()} == {"HU"}
    assert found["protocol"]["data"] == "folder, all images"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "{scans}/model", "--data.value_range", "0", "10"], "data.value_range has no effect, "),
        (
            ["evaluate", "{scans}/model", "--data.percentiles", "1", "99"],
            "--data.percentiles has no effect: values are ",
        ),
        (
            ["evaluate", "{scans}/model", "--evaluation.rgb", "2"],
            "one channel (grey) or three (R, G, B) of 1 to 1, got 2",
        ),
        (
            ["evaluate", "{scans}/model", "--part", "test"],
            "--part test: data.path {scans}/ct: data.train_split test is not",
        ),
        (
            ["evaluate", "{runs}/foreign", "{scans}/model"],
            "reads grey and {scans}/model 1 channel, int16 in -1000..3000",
        ),
        (
            ["likelihood", "{scans}/model"],
            "a likelihood is of 8-bit pictures, and {scans}/model reads numbers (1 channel, ",
        ),
    ],
)
def test_what_does_not_go_with_the_models_is_one_line(
    scans: Path, runs: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, message = [word.format(scans=scans, runs=runs) for word in argv], message.format(scans=scans)
    assert main([*argv, "--data.path", str(scans / "ct")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
