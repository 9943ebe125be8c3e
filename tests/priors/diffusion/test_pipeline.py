"""What is written at the end, through stock diffusers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTPipeline

from latent_ae.export.proof import ProofFailed
from latent_ae.models.parts import encoder_identity
from latent_ae.priors.diffusion.network import NULL_CLASS, build_network
from latent_ae.priors.diffusion.pipeline import assemble, card_text, draw, draw_grid, write_pipeline
from latent_ae.priors.source import LatentSource

SAMPLING = {"guidance_scale": 2.0, "inference_steps": 3}
GRID = np.zeros((4, 4, 1), np.uint8)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    made = build_network(channels=2, side=8, width=8, depth=1, head_width=4, patch_size=2)
    for parameter in made.parameters():  # none is zero, so that labels and guidance show
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


@pytest.fixture
def pipeline(source: LatentSource) -> DiTPipeline:
    return assemble(network(), source.autoencoder, source.label_names)


def test_stock_diffusers_loads_it_with_its_names_and_draws_the_same(pipeline: DiTPipeline, tmp_path: Path) -> None:
    write_pipeline(pipeline, tmp_path / "out", GRID, "card")
    loaded = DiTPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.get_label_ids(["dog", "cat"]) == [1, 0]
    labels = [0, 1, NULL_CLASS]
    assert np.array_equal(draw(loaded, labels, seed=3, **SAMPLING), draw(pipeline, labels, seed=3, **SAMPLING))
    inside = AutoencoderKL.from_pretrained(tmp_path / "out", subfolder="vae")
    assert encoder_identity(inside) == encoder_identity(pipeline.vae)
    assert inside.config.scaling_factor == 0.5
    assert (tmp_path / "out" / "README.md").read_text() == "card"
    assert (tmp_path / "out" / "samples.png").is_file()


def test_the_autoencoder_is_where_the_network_is(source: LatentSource) -> None:
    """`meta` stands for a GPU."""
    pipeline = assemble(network().to("meta"), source.autoencoder, source.label_names)
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


def test_a_grid_has_a_row_for_each_class_and_four_without(pipeline: DiTPipeline) -> None:
    rows = [draw_grid(pipeline, classes, seed=0, **SAMPLING).shape[0] // 16 for classes in ((0, 1), ())]
    assert rows == [2, 4]


def test_an_earlier_folder_is_replaced_as_a_whole(pipeline: DiTPipeline, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    write_pipeline(pipeline, tmp_path / "out", GRID, "card")
    assert (tmp_path / "out" / "model_index.json").is_file()
    assert not (tmp_path / "out" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("part", "message"), [("vae", "the autoencoder .* is another"), ("transformer", "draws another image")]
)
def test_what_was_written_otherwise_leaves_nothing(
    part: str, message: str, pipeline: DiTPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        write_pipeline(pipeline, tmp_path / "out", GRID, "card")
    assert list(tmp_path.iterdir()) == []


def test_the_card_shows_how_to_draw() -> None:
    card = card_text(name="n", data="digits", autoencoder="a/model", identity="f00", steps=7, scaling_factor=0.5)
    assert 'DiTPipeline.from_pretrained("n")' in card
    assert "`f00`" in card
    assert "digits, 7 updates" in card
