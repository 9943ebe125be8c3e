"""Mistakes with codebooks, discriminators and models to start from: each is one clear line and status 2."""

from pathlib import Path

import pytest

from tests.program.running import arguments
from tests.program.test_bad_input import refused
from tests.program.variants import NO_KL, SMALL_GAN, finetune_arguments

VQ = ["--bottleneck.kind", "vq", "--bottleneck.codebook_size", "12"]
EMA_VQ = ["--bottleneck.kind", "ema_vq", "--bottleneck.codebook_size", "12"]
FSQ = ["--bottleneck.kind", "fsq", "--bottleneck.levels"]
GUMBEL = ["--bottleneck.kind", "gumbel", "--bottleneck.codebook_size", "12"]
HINGE = ["--adversarial.loss", "hinge"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        # codebooks
        (["--bottleneck.kind", "vq", "--bottleneck.codebook_size", "0"], "bottleneck.codebook_size: got '0'; input"),
        (["--bottleneck.kind", "vq", "--bottleneck.codebook_size", "1"], "bottleneck.codebook_size: got '1'; input"),
        (["--bottleneck.kind", "vq"], "bottleneck.kind vq needs bottleneck.codebook_size, the number of codes"),
        (["--bottleneck.kind", "vqvae"], "bottleneck.kind: got 'vqvae', expected one of kl, identity, vq, "),
        (["--bottleneck.kind", "fsq"], "bottleneck.kind fsq needs bottleneck.levels, the values per latent channel"),
        ([*FSQ, "8", "5", "5"], "bottleneck.levels 8 5 5 are 3 channels, but the model has 2 latent channels"),
        ([*FSQ, "8", "1"], "bottleneck.levels.1: got '1'; input should be greater than or equal to 2"),
        ([*VQ, "--bottleneck.kmeans_start", "true", "--bottleneck.codebook_size", "99999"], "different vectors, got"),
        # settings without effect for a bottleneck
        ([*VQ, "--bottleneck.decay", "0.9"], "bottleneck.decay has no effect with bottleneck.kind vq: leave it out"),
        ([*EMA_VQ, "--bottleneck.temperature", "1", "0.5"], "bottleneck.temperature has no effect"),
        ([*GUMBEL, "--bottleneck.revive_below", "1"], "bottleneck.revive_below has no effect with bottleneck.kind gum"),
        ([*FSQ, "5", "3", "--bottleneck.codebook_size", "15"], "bottleneck.codebook_size has no effect"),
        (["--bottleneck.kind", "kl", "--bottleneck.l2_normalized", "true"], "bottleneck.l2_normalized has no effect"),
        ([*VQ, "--loss.beta", "0.1"], "loss.beta has no effect with bottleneck.kind vq: leave it out"),
        ([*EMA_VQ, "--loss.codebook_weight", "1"], "loss.codebook_weight has no effect with bottleneck.kind ema_vq"),
        ([*FSQ, "5", "3", "--loss.commitment_weight", "1"], "loss.commitment_weight has no effect"),
        ([*GUMBEL, "--loss.entropy_weight", "1"], "loss.entropy_weight has no effect with bottleneck.kind gumbel"),
        ([*VQ, "--model.start_logvar", "-1"], "model.start_logvar has no effect with bottleneck.kind vq"),
        # discriminators
        (
            ["--adversarial.weight", "0.1"],
            "adversarial.weight has no effect with adversarial.loss none: choose one, such as hinge",
        ),
        (["--adversarial.adaptive", "false", "--adversarial.layers", "2"], "adversarial.adaptive, adversarial.layers"),
        (HINGE, "a discriminator of 3 layers needs a data.resolution of at least 24, got 16: lower adversarial.layers"),
        ([*HINGE, *SMALL_GAN, "--loss.equivariance_share", "0.5"], "loss.equivariance_share bring them down to 4"),
        (["--data.resolution", "8", "--loss.equivariance_share", "0.5"], "loss.perceptual random_features needs sides"),
        ([*HINGE, *SMALL_GAN, "--adversarial.start_step", "2"], "adversarial.start_step 2 is not before the last of"),
        (
            [*HINGE, *SMALL_GAN, "--adversarial.start_step", "1", "--adversarial.warmup_steps", "2"],
            "adversarial.warmup_steps 2 come before adversarial.start_step 1, so they cannot be more",
        ),
        ([*HINGE, "--adversarial.init_from", "no/such"], "no/such is no discriminator: it has no config.json"),
        (["--adversarial.loss", "wgan"], "adversarial.loss: got 'wgan', expected one of none, hinge, non_saturating"),
        pytest.param(
            [*HINGE, "--adversarial.init_from", "no/such", "--adversarial.layers", "2"],
            "adversarial.layers",
        ),
        # the guard
        (["--train.skip_above_grad_norm", "5"], "train.skip_above_grad_norm needs train.max_skips_in_a_row"),
        # parts
        (["--model.trained", "neck"], "model.trained neck: the model has no such part; its parts are encoder, decoder"),
    ],
)
def test_settings(main, capsys: pytest.CaptureFixture[str], tmp_path: Path, more: list[str], message: str) -> None:
    assert message in refused(main, capsys, arguments(tmp_path, 2, *NO_KL, *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # whole runs, to have models to start from
def test_models_and_checkpoints_of_the_other_kind(main, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(arguments(tmp_path / "vq", 2, *NO_KL, *VQ)) == 0
    assert main(arguments(tmp_path / "kl", 2, *NO_KL)) == 0
    vq, kl = (tmp_path / name / "run" / "model" for name in ("vq", "kl"))
    capsys.readouterr()

    def line_of(argv: list[str]) -> str:
        line = refused(main, capsys, argv)
        assert not (tmp_path / "new").exists()
        return line

    line = refused(main, capsys, arguments(tmp_path / "vq", 2, *NO_KL))
    assert "the settings disagree with those of" in line
    assert "bottleneck.kind: vq -> kl; bottleneck.codebook_size: 12 -> None" in line
    line = line_of(finetune_arguments(tmp_path / "new", 2, vq))
    assert "is VQModel, but bottleneck.kind kl trains AutoencoderKL: give bottleneck.kind vq or ema_vq or fsq" in line
    line = line_of(finetune_arguments(tmp_path / "new", 2, kl, "--bottleneck.kind", "ema_vq"))
    assert "is AutoencoderKL, but bottleneck.kind ema_vq trains VQModel: give bottleneck.kind kl or identity" in line
    line = line_of(finetune_arguments(tmp_path / "new", 2, vq, *VQ))
    assert "model.init_from brings its own codebook, so bottleneck.codebook_size and" in line
    line = line_of(finetune_arguments(tmp_path / "new", 2, vq, *FSQ, "5", "3"))
    assert "fsq levels (5, 3) need a codebook of shape (15, 2), got (12, 2)" in line
