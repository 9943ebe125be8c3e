"""What images are drawn from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_ae.inference import Codec
from latent_ae.io.image import from_tensor
from latent_ae.models import latent_space as space
from latent_ae.models.errors import ModelError
from latent_ae.models.hierarchical_prior import HierarchicalPrior, load_prior
from latent_ae.service import Service
from latent_ae.service.catalog import describe
from latent_ae.service.errors import BadRequest
from latent_ae.service.priors import load_priors, prior_note

from .conftest import closing, with_stats


@pytest.fixture(scope="module")
def folder(kl: Codec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of the latents of `kl`, images of 12 pixels a side."""
    torch.manual_seed(0)
    prior = HierarchicalPrior(channels=2, side=3, width=8, encoder_identity=kl.identity)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made = tmp_path_factory.mktemp("prior")
    prior.save_pretrained(made)
    return made


@pytest.fixture
def service(kl: Codec, vq: Codec, folder: Path) -> Iterator[Service]:
    with closing(Service({"vq": vq, "kl": kl}, priors=[str(folder)])) as made:
        yield made


def test_draws_come_with_what_speaks_against_them(tmp_path: Path, kl: Codec, vq: Codec) -> None:
    def note(**options: float | None) -> str:
        return prior_note(describe("tiny", with_stats(tmp_path, **options)))

    assert note() == ""
    assert "standard deviation of 6" in note(std=6.0)
    assert "hardly depend on the image" in note(std=0.01, logvar=0.0)
    assert "plain autoencoder" in note(logvar=None)
    assert "not measured" in prior_note(describe("kl", kl))
    assert "no prior" in prior_note(describe("vq", vq))


def test_a_prior_belongs_to_the_model_whose_latents_it_is_of(service: Service) -> None:
    assert {info.id: info.learned_prior for info in service.models()} == {"vq": None, "kl": 12}


def test_draws_of_a_learned_prior_are_those_of_the_seed(service: Service, kl: Codec, folder: Path) -> None:
    found = service.sample(model="kl", count=3, seed=5, prior="learned")
    expected = from_tensor(kl.decode_tensor(space.hierarchy_draw(load_prior(str(folder)), 3, seed=5)))
    assert found.note == ""
    assert np.array_equal(np.stack(found.images), expected)
    assert found.images[0].shape == (12, 12, 3)
    normal = service.sample(model="kl", count=3, seed=5, size=12)
    assert not np.array_equal(normal.images[0], found.images[0])
    calm = service.sample(model="kl", count=2, temperature=0.0, prior="learned", size=12).images
    assert np.array_equal(calm[0], calm[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "vq", "prior": "learned"}, "vq has no learned prior: take the normal one"),
        ({"model": "kl", "prior": "learned", "size": 16}, "the learned prior draws images of 12 pixels a side"),
        ({"model": "kl", "prior": "other"}, "prior must be normal or learned, got other"),
    ],
)
def test_what_a_prior_cannot_do_is_said(service: Service, wrong: dict, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        service.sample(**wrong)


def test_priors_that_belong_to_no_model_or_come_twice_are_refused(kl: Codec, grey: Codec, folder: Path) -> None:
    with pytest.raises(ModelError, match=f"of the encoder {kl.identity[:16]}, which no model of this server has"):
        load_priors([str(folder)], {"grey": grey})
    with pytest.raises(ModelError, match="is the second one of the latents of kl: give one of them"):
        load_priors([str(folder)] * 2, {"kl": kl})


def test_models_that_share_an_encoder_share_its_prior(kl: Codec, folder: Path) -> None:
    assert load_priors([str(folder)], {"one": kl, "other": kl}).keys() == {"one", "other"}
