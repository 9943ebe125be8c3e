"""What the transformer is shown and learns, and its schedule; the pipeline that stock diffusers loads at the end."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.export.proof import ProofFailed
from latent_ae.inference.pipeline_draws import NULL_CLASS, draw
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.latent_dataset import LatentDataset
from latent_ae.models import build_autoencoder
from latent_ae.models.loading import load_pixel_format
from latent_ae.models.parts import encoder_identity
from latent_ae.priors.diffusion import (
    TIMESTEPS,
    Diffusion,
    DiffusionConfig,
    Sample,
    build_network,
    build_scheduler,
    noised,
)
from latent_ae.priors.prior import Samples
from latent_ae.priors.source import LatentSource
from latent_ae.randomness import torch_generator

SAMPLING = {"guidance_scale": 2.0, "inference_steps": 3}


def tiny() -> DiTTransformer2DModel:
    return build_network(DiffusionConfig(width=8, depth=2, head_width=4, patch_size=2), channels=2, side=4)


def normal(*shape: int, purpose: str = "test") -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(0, purpose))


def test_it_starts_by_saying_nothing_whatever_it_is_given() -> None:
    timesteps, labels = torch.tensor([0, 999]), torch.tensor([3, NULL_CLASS])
    said = tiny()(normal(2, 2, 4, 4), timestep=timesteps, class_labels=labels).sample
    assert torch.equal(said, torch.zeros(2, 2, 4, 4))


def test_every_block_starts_as_the_identity() -> None:
    network = tiny()
    tokens = normal(1, 4, 8)
    for block in network.transformer_blocks:
        out = block(tokens, timestep=torch.tensor([500]), class_labels=torch.tensor([1]))
        assert torch.equal(out, tokens)


def test_no_label_is_dropped_inside() -> None:
    network = tiny().train()
    labels = torch.arange(200)
    embedding = network.transformer_blocks[0].norm1.emb.class_embedder
    assert torch.equal(embedding(labels), embedding.embedding_table(labels))
    assert embedding.embedding_table.num_embeddings == NULL_CLASS + 1


def test_the_last_step_is_pure_noise_and_the_first_nearly_none() -> None:
    scheduler = build_scheduler()
    latents, noise = normal(1, 2, 4, 4), normal(1, 2, 4, 4, purpose="noise")
    assert torch.equal(scheduler.add_noise(latents, noise, torch.tensor([TIMESTEPS - 1])), noise)
    first = scheduler.add_noise(latents, noise, torch.tensor([0]))
    assert (first - latents).abs().max() < 0.05


def test_the_loss_is_the_mean_squared_error_of_v(source: LatentSource) -> None:
    scheduler = build_scheduler()
    latents, noise = normal(2, 2, 4, 4), normal(2, 2, 4, 4, purpose="noise")
    timesteps = torch.tensor([100, 900])
    batch = Sample(latents, noise, timesteps, torch.tensor([0, 1]))
    loss = prior(source, tiny()).loss(tiny(), batch, 0)["loss"]
    share = scheduler.alphas_cumprod[timesteps].view(2, 1, 1, 1)
    # The network says nothing yet, so the loss is the mean square of v = sqrt(a) n - sqrt(1 - a) z.
    expected = (share.sqrt() * noise - (1 - share).sqrt() * latents).square().mean()
    assert torch.allclose(loss, expected, rtol=1e-6)


def test_a_network_that_knows_v_draws_the_latents_it_was_shown() -> None:
    """An oracle: v of one known z for any z_t. DDIM from pure noise must end at z."""
    scheduler = build_scheduler()
    latents = normal(1, 2, 4, 4)
    drawn = normal(1, 2, 4, 4, purpose="start")
    scheduler.set_timesteps(20)
    for timestep in scheduler.timesteps:
        share = scheduler.alphas_cumprod[timestep]
        noise = (drawn - share.sqrt() * latents) / (1 - share).sqrt()
        velocity = share.sqrt() * noise - (1 - share).sqrt() * latents
        drawn = scheduler.step(velocity, timestep, drawn).prev_sample
    assert torch.allclose(drawn, latents, atol=1e-5)


def test_a_side_that_cannot_be_cut_into_patches_is_refused() -> None:
    with pytest.raises(UserError, match=r"prior.patch_size 3 does not divide the side of the latents, 8: give"):
        build_network(DiffusionConfig(width=8, depth=1, head_width=4, patch_size=3), channels=2, side=8)


def test_labels_that_the_pipeline_has_no_place_for_are_refused(source: LatentSource) -> None:
    settings = DiffusionConfig(width=8, depth=1, head_width=4)
    for classes in ((), (0, 999)):
        settings.build(replace(source, classes=classes), seed=0)
    with pytest.raises(UserError, match="the latents have the label 1000: DiTPipeline knows the classes 0 to 999"):
        settings.build(replace(source, classes=(3, 1000)), seed=0)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    made = build_network(DiffusionConfig(width=8, depth=1, head_width=4, patch_size=2), channels=2, side=8)
    for parameter in made.parameters():  # none is zero, so that labels and guidance show
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def prior(source: LatentSource, trained: torch.nn.Module | None = None) -> Diffusion:
    return Diffusion(trained or network(), source, 0, DiffusionConfig(width=8, head_width=4, **SAMPLING))


@pytest.fixture
def pipeline(source: LatentSource) -> DiTPipeline:
    return prior(source).pipeline(network())


def test_stock_diffusers_loads_it_with_its_names_and_draws_the_same(
    source: LatentSource, pipeline: DiTPipeline, tmp_path: Path
) -> None:
    made = prior(source)
    made.write(network(), tmp_path / "out", name="n", steps=7)
    loaded = DiTPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.get_label_ids(["dog", "cat"]) == [1, 0]
    labels = [0, 1, NULL_CLASS]
    assert np.array_equal(draw(loaded, labels, seed=3, **SAMPLING), draw(pipeline, labels, seed=3, **SAMPLING))
    inside = AutoencoderKL.from_pretrained(tmp_path / "out", subfolder="vae")
    assert encoder_identity(inside) == encoder_identity(pipeline.vae)
    assert inside.config.scaling_factor == 0.5
    assert (tmp_path / "out" / "README.md").read_text() == made.card(network(), name="n", steps=7)
    assert (tmp_path / "out" / "samples.png").is_file()


def test_pictures_of_numbers_are_previews_and_the_pipeline_says_what_they_are(
    source: LatentSource, tmp_path: Path
) -> None:
    bands = PixelFormat(5, numbers=True, dtype="float32", ranges=((-1.0, 9.0),), rgb=(3, 2, 1))
    autoencoder = build_autoencoder(ModelConfig(preset="tiny", image_channels=5), seed=0, resolution=16)
    made = prior(replace(source, autoencoder=autoencoder, pixels=bands))
    drawn = draw(made.pipeline(network()), [0] * 16 + [1] * 16, seed=0, **SAMPLING)
    grid = made.draw(network())
    assert np.abs(grid[:16, :16].astype(int) - drawn[0, :, :, [2, 1, 0]].transpose(1, 2, 0)).max() <= 1
    made.write(network(), tmp_path / "out", name="n", steps=7)
    assert load_pixel_format(str(tmp_path / "out"), autoencoder) == bands


def test_the_autoencoder_is_where_the_network_is(source: LatentSource) -> None:
    """`meta` stands for a GPU."""
    pipeline = prior(source).pipeline(network().to("meta"))
    assert {parameter.device.type for parameter in pipeline.vae.parameters()} == {"meta"}
    assert pipeline.scheduler.alphas_cumprod.device.type == "cpu"


def test_draws_follow_seed_label_and_guidance(pipeline: DiTPipeline) -> None:
    first = draw(pipeline, [0, 1], seed=0, **SAMPLING)
    assert (first.shape, first.dtype) == ((2, 16, 16, 1), np.uint8)
    assert np.array_equal(first, draw(pipeline, [0, 1], seed=0, **SAMPLING))
    for other in ([1, 1], [0, 0]):
        assert not np.array_equal(first, draw(pipeline, other, seed=0, **SAMPLING))
    assert not np.array_equal(first, draw(pipeline, [0, 1], seed=1, **SAMPLING))
    assert not np.array_equal(first, draw(pipeline, [0, 1], seed=0, guidance_scale=1.0, inference_steps=3))


def test_a_grid_has_a_row_for_each_class_and_four_without(source: LatentSource) -> None:
    grids = [prior(replace(source, classes=classes)).draw(network()) for classes in ((0, 1), ())]
    rows = [grid.shape[0] // 16 for grid in grids]
    assert rows == [2, 4]


def test_an_earlier_folder_is_replaced_as_a_whole(source: LatentSource, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    prior(source).write(network(), tmp_path / "out", name="n", steps=7)
    assert (tmp_path / "out" / "model_index.json").is_file()
    assert not (tmp_path / "out" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("part", "message"), [("vae", "the autoencoder .* is another"), ("transformer", "draws another image")]
)
def test_what_was_written_otherwise_leaves_nothing(
    part: str, message: str, source: LatentSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = DiTPipeline.save_pretrained

    def damaged(self: DiTPipeline, folder: Path) -> None:
        with torch.no_grad():
            weights = [parameter.clone() for parameter in getattr(self, part).parameters()]
            for parameter in getattr(self, part).parameters():
                parameter.mul_(1.5)
            save(self, folder)
            for parameter, old in zip(getattr(self, part).parameters(), weights, strict=True):
                parameter.copy_(old)

    monkeypatch.setattr(DiTPipeline, "save_pretrained", damaged)
    with pytest.raises(ProofFailed, match=message):
        prior(source).write(network(), tmp_path / "out", name="n", steps=7)
    assert list(tmp_path.iterdir()) == []


def test_the_card_shows_how_to_draw(source: LatentSource) -> None:
    card = prior(source).card(network(), name="n", steps=7)
    assert 'DiTPipeline.from_pretrained("n")' in card
    assert f"The autoencoder is kl, encoder identity `{source.identity}`" in card
    assert "folder pictures, 7 updates" in card


def samples(source: LatentSource, *, label_dropout: float = 0.0, seed: int = 0) -> Samples:
    make = partial(noised, scaling_factor=0.5, label_dropout=label_dropout)
    return Samples(source.rows, make, kind="denoising", seed=seed)


def same(first: Sample, second: Sample) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_sample_follows_from_the_seed_and_its_number(source: LatentSource) -> None:
    assert same(samples(source)[13], samples(source)[13])
    assert not torch.equal(samples(source)[13].noise, samples(source)[14].noise)
    assert not torch.equal(samples(source)[13].noise, samples(source, seed=1)[13].noise)


def test_an_epoch_shows_every_row_once_drawn_anew_times_the_scale_and_without_the_shift(
    source: LatentSource, made: Path
) -> None:
    rows, shown = LatentDataset(made / "latents", seed=0), samples(source)
    for epoch in (0, 1):
        rows.set_epoch(epoch)
        expected = {tuple((row["latents"] * 0.5).flatten().tolist()): row["label"] for row in rows}
        found = [shown[number] for number in range(10 * epoch, 10 * epoch + 10)]
        assert {tuple(one.latents.flatten().tolist()): one.label for one in found} == expected
    assert not torch.equal(shown[0].latents, shown[10].latents)


def test_dropped_labels_are_the_null_class(source: LatentSource) -> None:
    shown = [int(samples(source)[number].label) for number in range(10)]
    assert sorted(shown) == [0] * 5 + [1] * 5
    assert all(samples(source, label_dropout=1.0)[number].label == NULL_CLASS for number in range(10))
    half = [int(samples(source, label_dropout=0.5)[number].label) for number in range(400)]
    assert 160 < half.count(NULL_CLASS) < 240  # four standard deviations


def test_timesteps_are_spread_over_all(source: LatentSource) -> None:
    timesteps = torch.stack([samples(source)[number].timestep for number in range(400)])
    assert timesteps.min() < 20
    assert 980 < timesteps.max() <= 999
    assert abs(float(timesteps.float().mean()) - 499.5) < 4 * 289 / 20
