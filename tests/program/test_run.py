"""A run leaves behind what its contract says."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from PIL import Image

from latent_ae.data import DigitsConfig, evaluation_batches
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import load_autoencoder
from latent_ae.models.parts import encoder_identity
from latent_ae.training import build
from tests.program.running import arguments, metrics
from tests.program.test_bad_input import refused
from tests.program.variants import NO_KL

EVERY = [
    *("--train.sample_every_steps", "3"),
    *("--train.evaluate_every_steps", "4"),
    *("--train.checkpoint_every_steps", "3"),
]
NO_WARMUP = ["--train.warmup_steps", "0"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, train_module) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert train_module.main(arguments(folder, 7, *EVERY, "--train.tracker", "tensorboard")) == 0
    return folder / "run"


def test_the_run_directory_holds_what_is_promised(run_dir: Path) -> None:
    promised = "config.yaml metrics.jsonl heldout.jsonl samples checkpoints evaluation.json model tensorboard"
    assert {path.name for path in run_dir.iterdir()} >= set(promised.split())
    assert {path.name for path in (run_dir / "samples").iterdir()} >= {
        "step-3.png",
        "step-6.png",
        "step-7.png",
        "morph.png",
    }
    assert [path.name for path in sorted((run_dir / "checkpoints").iterdir())] == ["step-00000006", "step-00000007"]
    assert any((run_dir / "tensorboard").iterdir())


def test_every_logged_step_has_its_terms_and_they_add_up(run_dir: Path) -> None:
    lines = metrics(run_dir.parent)
    assert [line["step"] for line in lines] == list(range(1, 8))
    weight = yaml.safe_load((run_dir / "config.yaml").read_text())["loss"]["perceptual_weight"]
    for line in lines:
        assert line["images_seen"] == 8 * line["step"]
        total = line["reconstruction"] + weight * line["perceptual"] + line["beta"] * line["kl"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert line["kl"] == pytest.approx(line["kl_nats"] / 256, rel=1e-5)
        assert {"lr", "grad_norm", "psnr"} <= line.keys()


def test_the_sample_grid_has_inputs_above_reconstructions(run_dir: Path) -> None:
    images = next(
        evaluation_batches(
            DigitsConfig().open().heldout,
            PixelFormat.picture(1),
            size=16,
            background=(255, 255, 255),
            batch_size=8,
            limit=8,
            on_bad=print,
        )
    ).pixels
    grid = Image.open(run_dir / "samples" / "step-7.png").convert("L")
    first = torch.tensor(np.asarray(grid.crop((0, 0, 16, 16))), dtype=torch.float32)
    torch.testing.assert_close(first / 127.5 - 1, images[0, 0], atol=0.005, rtol=0)


def test_stock_diffusers_loads_the_model_with_measured_scaling(run_dir: Path) -> None:
    model = AutoencoderKL.from_pretrained(run_dir / "model")
    stats = json.loads((run_dir / "model" / "latent_stats.json").read_text())
    measured = {"scaling_factor": 1 / stats["sample"]["std"], "shift_factor": stats["sample"]["mean"]}
    assert {key: model.config[key] for key in measured} == stats["measured"] == stats["config"]
    assert stats["measured"] == pytest.approx(measured)
    assert stats["encoder_identity"] == encoder_identity(model)
    assert stats["images"] == 32
    source = DigitsConfig().open().train
    pixels = torch.cat(
        [
            batch.pixels
            for batch in evaluation_batches(
                source,
                PixelFormat.picture(1),
                size=16,
                background=(255, 255, 255),
                batch_size=32,
                limit=32,
                on_bad=print,
            )
        ]
    )
    with torch.no_grad():
        posterior = model.encode(pixels).latent_dist
    variance = posterior.mean.var(correction=0) + posterior.var.mean()
    assert variance.sqrt().item() * model.config["scaling_factor"] == pytest.approx(1, abs=1e-4)


def test_the_exported_weights_are_the_averaged_ones(run_dir: Path) -> None:
    from safetensors.torch import load_file

    checkpoint = run_dir / "checkpoints" / "step-00000007"
    exported = load_file(run_dir / "model" / "diffusion_pytorch_model.safetensors")
    average, trained = load_file(checkpoint / "ema.safetensors"), load_file(checkpoint / "weights.safetensors")
    assert all(torch.equal(exported[name], average[name]) for name in exported)
    assert not all(torch.equal(exported[name], trained[f"autoencoder.{name}"]) for name in exported)


def test_the_model_card_shows_pictures_that_are_there(run_dir: Path) -> None:
    card = (run_dir / "model" / "README.md").read_text()
    for name in ("reconstructions", "morph"):
        assert f"![{name}]({name}.png)" in card
        assert (run_dir / "model" / f"{name}.png").is_file()
    assert "| psnr |" in card
    assert "data range 2" in card


def test_the_evaluation_says_its_protocol_beside_every_number(run_dir: Path) -> None:
    report = json.loads((run_dir / "evaluation.json").read_text())
    assert report["images"] == 16
    for name in ("psnr", "ssim", "l1", "kl_nats", "kl_bits_per_pixel", "active_units"):
        assert report["metrics"][name]["value"] is not None
        assert report["metrics"][name]["protocol"]
    assert report["metrics"]["ms_ssim"]["value"] is None
    assert "176 pixels" in report["metrics"]["ms_ssim"]["reason"]
    assert report["protocol"]["latents"] == "posterior mode"


def test_a_finished_run_is_left_alone(run_dir: Path, main, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run_dir / "model" / "README.md").stat().st_mtime_ns
    assert main(arguments(run_dir.parent, 7, *EVERY)) == 0
    assert "is finished" in capsys.readouterr().out
    assert (run_dir / "model" / "README.md").stat().st_mtime_ns == before


def test_a_run_starts_from_the_model_of_another(run_dir: Path, main, tmp_path: Path) -> None:
    argv = arguments(
        tmp_path,
        1,
        "--model.init_from",
        str(run_dir / "model"),
        "--train.learning_rate",
        "1e-12",
        "--train.warmup_steps",
        "0",
        "--train.ema_decay",
        "null",
    )
    place = argv.index("--model.preset")
    del argv[place : place + 2]
    assert main(argv) == 0
    ours, theirs = (load_autoencoder(str(folder / "model")).state_dict() for folder in (tmp_path / "run", run_dir))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-10, rtol=0)


def test_preflight_only_prints_the_table_and_writes_nothing(
    main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, 5, "--preflight", "only")) == 0
    out = capsys.readouterr().out
    assert "gradient norm" in out
    assert "levels: the median of 16 training crops uses " in out
    assert "perceptual" in out
    assert not (tmp_path / "run").exists()


def test_the_start_says_beta_in_every_convention(main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path, 5, "--preflight", "only", "--loss.beta", "2e-6")) == 0
    out = capsys.readouterr().out
    # 1x16x16 pixel values and 2x8x8 latents: 2e-6 / 256, and 2e-6 * 128 / 256.
    assert "kl_weight 2e-06 in LDM" in out
    assert "7.81e-09 against a mean reconstruction and a summed KL" in out
    assert "1e-06 against means of both" in out


def test_precision_is_autocast_over_float32_weights(main, tmp_path: Path) -> None:
    assert main(arguments(tmp_path, 2, "--train.mixed_precision", "bf16")) == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["train"]["mixed_precision"] == "bf16"
    from tests.program.running import state

    assert {tensor.dtype for tensor in state(tmp_path, 2).values()} == {torch.float32}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU has this precision")
def test_a_precision_that_a_cpu_would_not_have_is_refused(
    main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(tmp_path, 2, "--train.mixed_precision", "fp16")
    assert "needs a GPU, got the cpu: give bf16 or no" in refused(main, capsys, argv)
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_makes_no_start_weights(main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = ["--bottleneck.kind", "vq", "--bottleneck.codebook_size", "8", "--bottleneck.kmeans_start", "true"]
    started: list[object] = []
    own = build.training_samples
    monkeypatch.setattr(
        build, "training_samples", lambda *given, **named: (started.append(given), own(*given, **named))[1]
    )
    for steps in (1, 2):
        assert main(arguments(tmp_path, steps, *NO_KL, *codes, "--train.schedule", "constant", *NO_WARMUP)) == 0
        assert len(started) == 1


@pytest.mark.slow  # trains for a while
def test_training_learns(main, tmp_path: Path) -> None:
    logging.getLogger().setLevel(logging.WARNING)
    assert main(arguments(tmp_path, 60, "--train.learning_rate", "3e-3")) == 0
    lines = metrics(tmp_path)
    assert lines[-1]["psnr"] > lines[0]["psnr"] + 3


def test_gradient_checkpointing_works_on_a_loaded_model_and_changes_no_bit(
    run_dir: Path, main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.utils.checkpoint

    from tests.program.running import assert_same_bits, state

    recomputed = []
    stock = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr("torch.utils.checkpoint.checkpoint", lambda *a, **k: (recomputed.append(1), stock(*a, **k))[1])
    for name, switch in (("with", "true"), ("without", "false")):
        argv = arguments(tmp_path / name, 2, "--model.init_from", str(run_dir / "model"))
        place = argv.index("--model.preset")
        del argv[place : place + 2]
        recomputed.clear()
        assert main([*argv, "--train.gradient_checkpointing", switch]) == 0
        assert bool(recomputed) == (name == "with")
    assert_same_bits(state(tmp_path / "with", 2), state(tmp_path / "without", 2))
