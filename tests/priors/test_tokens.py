"""What a prior of codes is shown and minimises, and what it writes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from latent_ae.export.proof import ProofFailed
from latent_ae.models.token_prior import TokenPrior, load_token_prior
from latent_ae.priors import tokens
from latent_ae.priors.prior import SAMPLES
from latent_ae.priors.source import LatentSource, LatentSourceError
from latent_ae.priors.tokens import Sample, Tokens, TokensConfig, measured_bits, shown

K = 32
SMALL = {"width": 8, "depth": 1, "head_width": 4}


def built(source: LatentSource, **changes: Any) -> Tokens:
    torch.manual_seed(0)
    return TokensConfig(**SMALL, **changes).build(source, seed=0)


def row(codes: list[int], label: int) -> dict[str, torch.Tensor]:
    return {"latents": torch.tensor(codes).unflatten(0, (2, 2)), "label": torch.tensor(label)}


def seen(label: int, *, label_dropout: float = 0.0, code_dropout: float = 0.0, place: int = 0) -> Sample:
    return shown(
        row([3, 1, 0, 2], label),
        torch.Generator().manual_seed(place),
        class_tokens={5: 4},
        no_class=6,
        label_dropout=label_dropout,
        code_dropout=code_dropout,
    )


def test_the_network_sees_the_class_and_the_codes_before() -> None:
    assert [each.tolist() for each in seen(5)] == [[4, 3, 1, 0], [3, 1, 0, 2]]
    assert seen(-1).inputs[0] == 6, "a row without a label is of no class"


def test_what_is_dropped_is_hidden_and_still_to_be_told() -> None:
    assert [each.tolist() for each in seen(5, label_dropout=1.0, code_dropout=1.0)] == [[6] * 4, [3, 1, 0, 2]]
    many = torch.stack([seen(5, label_dropout=0.25, code_dropout=0.5, place=place).inputs for place in range(1000)])
    hidden = (many == 6).float().mean(0)
    assert hidden.tolist() == pytest.approx([0.25, 0.5, 0.5, 0.5], abs=0.06)


def test_the_loss_is_the_mean_cross_entropy_and_bits_are_those_of_an_image(codes: LatentSource) -> None:
    prior = built(codes)
    batch = torch.utils.data.default_collate([prior.samples[number] for number in range(4)])
    found = prior.loss(prior.network, batch, 0)
    inputs, targets = batch
    logits = prior.network(input_ids=inputs).logits[..., :K]
    expected = F.cross_entropy(logits.reshape(-1, K), targets.reshape(-1))
    assert float(found["loss"].detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float(found["bits"]) == pytest.approx(float(expected.detach()) * 64 / math.log(2), rel=1e-6)


def test_an_epoch_shows_every_row_once_with_its_class(codes: LatentSource) -> None:
    prior = built(codes, label_dropout=0.0, code_dropout=0.0)
    shown_rows = {tuple(torch.cat([s.inputs[:1], s.codes]).tolist()) for s in (prior.samples[n] for n in range(10))}
    assert shown_rows == {
        (K + int(codes.rows[number]["label"]), *codes.rows[number]["latents"].flatten().tolist())
        for number in range(10)
    }


def test_the_network_draws_nothing_at_random_in_training(codes: LatentSource) -> None:
    prior = built(codes)
    prior.network.train()
    batch = torch.utils.data.default_collate([prior.samples[0]])
    assert torch.equal(prior.loss(prior.network, batch, 0)["loss"], prior.loss(prior.network, batch, 0)["loss"])


def test_the_grid_of_draws_follows_from_the_seed_with_a_row_for_each_class(codes: LatentSource) -> None:
    prior = built(codes)
    network = prior.network.eval()
    grid = prior.draw(network)
    assert grid.shape[:2] == (2 * 16 + 2, 16 * 16 + 15 * 2)
    assert np.array_equal(grid, prior.draw(network))


def test_the_folder_holds_the_prior_its_picture_and_a_card(codes: LatentSource, tmp_path: Path) -> None:
    prior = built(codes)
    network = prior.network.eval()
    prior.write(network, tmp_path / "prior", name="mine", steps=7)
    loaded = load_token_prior(str(tmp_path / "prior"))
    assert (loaded.encoder_identity, loaded.side, loaded.codebook_size, loaded.classes) == (
        codes.identity,
        8,
        K,
        (0, 1),
    )
    bits = float(measured_bits(TokenPrior(network), codes.rows, 10).mean())
    card = (tmp_path / "prior" / "README.md").read_text()
    assert "| all codes as probable | 320.0 |" in card
    assert f"| under this prior, 10 training images | {bits:.1f} |" in card
    assert codes.identity in card
    assert np.array_equal(np.asarray(Image.open(tmp_path / "prior" / SAMPLES)), prior.draw(network)[:, :, 0])


def test_the_card_tells_the_bits_of_held_out_codes(codes: LatentSource, made: Path) -> None:
    prior = built(codes, heldout=str(made / "codes"))
    card = prior.card(prior.network.eval(), name="mine", steps=7)
    assert card.count("under this prior, 10") == 2
    assert "10 held-out images" in card
    with pytest.raises(LatentSourceError, match="holds latents: expected the codes"):
        built(codes, heldout=str(made / "latents"))


def test_a_prior_that_comes_back_changed_is_not_left_there(
    codes: LatentSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str) -> TokenPrior:
        loaded = load_token_prior(name)
        loaded.network.lm_head.weight.data[0] += 1e-3
        return loaded

    monkeypatch.setattr(tokens, "load_token_prior", changed)
    prior = built(codes)
    with pytest.raises(ProofFailed, match="has other weights than the one in memory"):
        prior.write(prior.network.eval(), tmp_path / "prior", name="mine", steps=7)
    assert not list(tmp_path.iterdir())


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prior.width 10 must be a multiple of prior.head_width 4"):
        TokensConfig(width=10, head_width=4)
