"""Training a part of a saved model: what is frozen keeps every bit, and so do the latents that others have stored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latent_ae.models import latent_channels
from latent_ae.models.discriminator import load_discriminator
from latent_ae.models.parts import encoder_identity
from latent_ae.models.run_folders import source_of_scale
from tests.program.running import arguments, assert_same_bits, metrics, state
from tests.program.test_bad_input import refused
from tests.program.variants import NO_KL, SMALL_GAN, exported, finetune_arguments

pytestmark = pytest.mark.slow  # whole runs

CODES = ["--bottleneck.codebook_size", "12"]
GAN = ["--adversarial.loss", "hinge", *SMALL_GAN]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, train_module) -> Callable[[str], Path]:
    """The folder of a saved tiny model of a kind, trained at first use."""
    folder, done = tmp_path_factory.mktemp("saved"), set()

    def of(kind: str) -> Path:
        if kind not in done:
            done.add(kind)
            codes = CODES if kind in ("vq", "ema_vq") else []
            argv = arguments(folder / kind, 4, *NO_KL, "--bottleneck.kind", kind, *codes)
            assert train_module.main(argv) == 0
        return folder / kind

    return of


def trained(folder: Path, step: int) -> dict[str, Tensor]:
    prefix = "weights/autoencoder."
    return {name.removeprefix(prefix): t for name, t in state(folder, step).items() if name.startswith(prefix)}


def moved(folder: Path, step: int, origin: Path) -> set[str]:
    """The parameters that a run changed, which must be the same in its checkpoint and its average."""
    before, after, average = exported(origin).state_dict(), trained(folder, step), exported(folder).state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name for name, tensor in average.items() if not torch.equal(tensor, before[name])} == changed
    return changed


def sides(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_decoder_alone(kind: str, saved, main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin = saved(kind)
    steps, setting = 30, ["--model.trained", "decoder", "--bottleneck.kind", kind]
    capsys.readouterr()
    assert main(finetune_arguments(tmp_path, steps, origin / "run" / "model", *setting)) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("gradient norm"))
    assert header.split() == ["gradient", "norm", "post_quant_conv", "decoder"]
    assert sides(moved(tmp_path, steps, origin)) == {"decoder", "post_quant_conv"}
    assert encoder_identity(exported(tmp_path)) == encoder_identity(exported(origin))
    losses = [line["reconstruction"] for line in metrics(tmp_path)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert not [name for name in state(tmp_path, steps) if name.startswith("optimizer/autoencoder.encoder")]


def test_the_encoder_alone_with_its_codebook(saved, main, tmp_path: Path) -> None:
    origin = saved("vq")
    setting = ["--model.trained", "encoder", "--bottleneck.kind", "vq"]
    assert main(finetune_arguments(tmp_path, 4, origin / "run" / "model", *setting)) == 0
    assert sides(moved(tmp_path, 4, origin)) == {"encoder", "quant_conv", "quantize"}
    assert encoder_identity(exported(tmp_path)) != encoder_identity(exported(origin))


def test_named_parts_and_a_resume(saved, main, tmp_path: Path) -> None:
    origin = saved("kl")
    setting = ["--model.trained", "decoder.conv_out", "decoder.up_blocks.1", "--train.checkpoint_every_steps", "2"]
    setting += ["--train.schedule", "constant"]
    whole = finetune_arguments(tmp_path / "whole", 4, origin / "run" / "model", *setting)
    assert main(whole) == 0
    changed = moved(tmp_path / "whole", 4, origin)
    assert changed == {n for n in trained(origin, 4) if n.startswith(("decoder.conv_out.", "decoder.up_blocks.1."))}
    for steps in (2, 4):
        assert main(finetune_arguments(tmp_path / "two", steps, origin / "run" / "model", *setting)) == 0
    assert_same_bits(state(tmp_path / "two", 4), state(tmp_path / "whole", 4))


def test_a_part_of_an_encoder_whose_codebook_is_frozen(saved, main, tmp_path: Path) -> None:
    origin = saved("vq")
    setting = ["--model.trained", "encoder.conv_out", "--bottleneck.kind", "vq"]
    assert main(finetune_arguments(tmp_path, 2, origin / "run" / "model", *setting)) == 0
    assert moved(tmp_path, 2, origin) == {"encoder.conv_out.weight", "encoder.conv_out.bias"}


def test_an_adversary_against_a_frozen_decoder(saved, main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin = saved("kl")
    setting = ["--model.trained", "encoder", *GAN]
    argv = finetune_arguments(tmp_path, 4, origin / "run" / "model", *setting)
    assert "give adversarial.adaptive false" in refused(main, capsys, argv)
    assert main([*argv, "--adversarial.adaptive", "false"]) == 0
    assert sides(moved(tmp_path, 4, origin)) == {"encoder", "quant_conv"}
    assert all(line["adversarial_weight"] == 0.5 for line in metrics(tmp_path))


def test_a_kl_weight_with_a_frozen_encoder_is_refused(
    saved, main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = ["--model.trained", "decoder", "--loss.beta", "1e-6"]
    argv = finetune_arguments(tmp_path, 2, saved("kl") / "run" / "model", *setting)
    assert "the kl term trains nothing, as all it reaches is frozen: give it the weight 0" in refused(
        main, capsys, argv
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("kl", "encoder, decoder, quant_conv, post_quant_conv"), ("vq", "encoder, quantize, decoder, quant_conv")],
)
def test_an_unknown_part_is_refused_with_those_there_are(
    kind: str, parts: str, *, saved, main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = ["--model.trained", "decoder", "neck", "--bottleneck.kind", kind]
    line = refused(main, capsys, finetune_arguments(tmp_path, 2, saved(kind) / "run" / "model", *setting))
    assert "model.trained neck: the model has no such part; its parts are" in line
    assert set(parts.split(", ")) <= set(line.partition("parts are ")[2].split(", "))


def test_the_discriminator_is_kept_and_another_run_starts_from_it(main, tmp_path: Path) -> None:
    first = arguments(tmp_path / "first", 4, *GAN, "--adversarial.lecam_weight", "0.1")
    assert main(first) == 0
    folder = tmp_path / "first" / "run" / "discriminator"
    kept = load_discriminator(folder, in_channels=1).state_dict()
    prefix = "discriminator/discriminator.network."
    for name, tensor in kept.items():
        assert torch.equal(tensor, state(tmp_path / "first", 4)[prefix + name])
    # At a learning rate of next to nothing it stays what it started as.
    still = ["--adversarial.loss", "hinge", "--adversarial.init_from", str(folder), "--adversarial.learning_rate"]
    assert main(arguments(tmp_path / "second", 2, *still, "1e-12")) == 0
    for name, tensor in kept.items():
        torch.testing.assert_close(state(tmp_path / "second", 2)[prefix + name], tensor, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("ema_vq", []),
        ("ema_vq", ["--bottleneck.revive_below", "0.5"]),
        ("vq", ["--bottleneck.kmeans_start", "true"]),
        ("vq", ["--bottleneck.l2_normalized", "true"]),
        ("identity", []),
    ],
)
def test_no_bottleneck_moves_what_is_frozen(
    kind: str, setting: list[str], *, saved, main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = saved("kl" if kind == "identity" else kind)
    more = ["--model.trained", "decoder", "--bottleneck.kind", kind, *setting]
    status = main(finetune_arguments(tmp_path, 3, origin / "run" / "model", *more))
    if status == 0:
        assert encoder_identity(exported(tmp_path)) == encoder_identity(exported(origin))
    else:  # or the run is refused
        assert status == 2
        assert "frozen" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["kl", "ema_vq"])
def test_a_model_of_other_channels_is_adapted_and_the_run_goes_on(
    kind: str, saved, main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(kind) / "run" / "model"
    setting = ["--bottleneck.kind", kind, "--model.image_channels", "4", "--model.latent_channels", "3"]
    argv = finetune_arguments(tmp_path, 4, source, *setting, "--train.checkpoint_every_steps", "2")
    capsys.readouterr()
    assert main(argv) == 0
    said = f"init_from {source}: image channels 1 -> 4: encoder.conv_in a third of grey's, "
    assert said in capsys.readouterr().out
    model = exported(tmp_path)
    assert (model.config["in_channels"], latent_channels(model)) == (4, 3)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert str(source) not in card
    assert "adapted: image channels 1 -> 4: " in card
    assert "; latent channels 2 -> 3: " in card
    assert "_adapted" not in (tmp_path / "run" / "model" / "config.json").read_text()
    stats = json.loads((tmp_path / "run" / "model" / "latent_stats.json").read_text())
    assert (stats["config_is"], len(stats["sample"]["channel_std"])) == ("measured", 3)
    whole = state(tmp_path, 4)
    for name in ("model", "checkpoints/step-00000004"):
        shutil.rmtree(tmp_path / "run" / name)
    assert main(argv) == 0
    assert "going on after step 2" in capsys.readouterr().out
    assert_same_bits(state(tmp_path, 4), whole)


def test_fewer_latents_of_a_frozen_encoder_get_a_scale_of_their_own(saved, main, tmp_path: Path) -> None:
    setting = ["--model.latent_channels", "1", "--model.trained", "decoder"]
    assert main(finetune_arguments(tmp_path, 2, saved("kl") / "run" / "model", *setting)) == 0
    stats = json.loads((tmp_path / "run" / "model" / "latent_stats.json").read_text())
    assert stats["config_is"] == "measured"
    assert exported(tmp_path).config["scaling_factor"] == stats["measured"]["scaling_factor"]
    assert source_of_scale(tmp_path / "run" / "checkpoints" / "step-00000002") is None
