import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_ae.inference import Codec
from latent_ae.io.image import from_tensor
from latent_ae.models.errors import ModelError
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.learned_prior import DrawOptions
from latent_ae.models.prior_loading import load_prior
from latent_ae.models.token_prior import build_network
from latent_ae.service.catalog import choose, choose_for_latents, describe, load_priors, model_ids, prior_note
from latent_ae.service.errors import BadRequest, UnknownModel, WrongModel
from latent_ae.service.service import Service

from .conftest import CODES, closing, with_stats


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["runs/kl-digits/model"], ["kl-digits"]),
        (["/srv/runs/kl digits/model/"], ["kl-digits"]),
        (["stabilityai/sd-vae-ft-mse", "./other/sd-vae-ft-mse"], ["sd-vae-ft-mse", "sd-vae-ft-mse-2"]),
        (["weights/vae.safetensors", "a/vae", "b/vae"], ["vae", "a", "b"]),
        (["model", "x/a/model", "y/a/model", "z/a-2/model"], ["model", "a", "a-2", "a-2-2"]),
        (["/", "..", "../model"], ["model", "model-2", "model-3"]),
        (["v1.5/model"], ["v1.5"]),
    ],
)
def test_ids_say_what_a_model_is_and_are_unique(names: list[str], ids: list[str]) -> None:
    assert model_ids(names) == ids


def test_a_model_is_described_by_the_files_beside_it(tmp_path: Path, vq: Codec) -> None:
    codec = with_stats(tmp_path)
    info = describe("tiny", codec)
    assert (info.id, info.kind, info.encoder) == ("tiny", "AutoencoderKL", codec.identity)
    assert (info.channels, info.factor, info.latent_channels, info.codebook_size) == (3, 4, 2, None)
    assert info.parameters == sum(weight.numel() for weight in codec.model.parameters())
    assert info.card == "# tiny\n\n---\nwords\n"
    assert info.stats is not None
    assert info.stats["images"] == 4
    assert info.native_size == 16
    assert describe("vq", vq).codebook_size == CODES
    assert describe("vq", vq).stats is None


def test_the_data_is_what_the_card_of_a_run_says(tmp_path: Path) -> None:
    codec = with_stats(tmp_path)
    assert describe("tiny", codec).trained_on == ""
    card = "# run\n\nA KL autoencoder with 5 parameters and a factor of 2, trained on\n`digits` for 3 steps.\n"
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert describe("tiny", codec).trained_on == "digits"


def test_a_card_comes_with_the_pictures_beside_it_and_with_no_other_file(tmp_path: Path) -> None:
    codec = with_stats(tmp_path)
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "large.png").write_bytes(bytes(4_000_001))
    (tmp_path.parent / "outside.png").write_bytes(b"outside")
    names = (
        "a.png",
        "large.png",
        "missing.png",
        "../outside.png",
        "config.json",
        "http://x/a.png",
        str(tmp_path / "a.png"),
    )
    card = "\n".join(f"![picture]({name})" for name in names)
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert describe("tiny", codec).card_pictures == {"a.png": b"a"}


def test_what_was_measured_of_another_encoder_is_left_out(tmp_path: Path) -> None:
    codec = with_stats(tmp_path)
    file = tmp_path / "latent_stats.json"
    for words in (json.dumps({"encoder_identity": "0" * 64}), "[]", "{", ""):
        file.write_text(words, encoding="utf-8")
        assert describe("tiny", codec).stats is None


def test_a_model_is_chosen_from_the_list_alone(kl: Codec, vq: Codec, tmp_path: Path) -> None:
    infos = {"kl": describe("kl", kl), "vq": describe("vq", vq)}
    assert choose(infos, None) == "kl"
    assert choose(infos, "vq") == "vq"
    for name in (str(tmp_path), "../kl", "", "KL", 7, ["kl"], "x" * 10_000):
        with pytest.raises(UnknownModel, match="this server has kl, vq") as caught:
            choose(infos, name)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 200


def test_latents_find_their_model(kl: Codec, vq: Codec, grey: Codec) -> None:
    infos = {name: describe(name, codec) for name, codec in (("kl", kl), ("vq", vq), ("again", kl))}
    assert choose_for_latents(infos, None, kl.identity) == "kl"
    assert choose_for_latents(infos, "again", kl.identity) == "again"
    assert choose_for_latents(infos, None, vq.identity) == "vq"
    with pytest.raises(WrongModel, match=f"{kl.identity[:16]}.*vq is {vq.identity[:16]}.*with kl or again"):
        choose_for_latents(infos, "vq", kl.identity)
    for model in (None, "vq"):
        with pytest.raises(WrongModel, match=rf"{grey.identity[:16]}.*kl \({kl.identity[:16]}\), vq \("):
            choose_for_latents(infos, model, grey.identity)
    with pytest.raises(UnknownModel):
        choose_for_latents(infos, "none", kl.identity)


# ------------------------------------------------------------------------------------------------------------- priors


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
def with_prior(kl: Codec, vq: Codec, folder: Path) -> Iterator[Service]:
    with closing(Service({"vq": vq, "kl": kl}, priors=[str(folder)])) as made:
        yield made


def test_draws_come_with_what_speaks_against_them(tmp_path: Path, kl: Codec, vq: Codec) -> None:
    def note(**options: float | None) -> str:
        return prior_note(describe("tiny", with_stats(tmp_path, **options)))

    assert note() == ""
    assert "standard deviation of 6" in note(std=6.0)
    assert "hardly depend on the image" in note(std=0.01, logvar=0.0)
    assert "without a posterior" in note(logvar=None)
    assert "not measured" in prior_note(describe("kl", kl))
    assert "no prior" in prior_note(describe("vq", vq))


def test_a_prior_belongs_to_the_model_whose_latents_it_is_of(with_prior: Service) -> None:
    assert {info.id: info.learned_prior for info in with_prior.models()} == {"vq": None, "kl": 12}


def test_draws_of_a_learned_prior_are_those_of_the_seed(with_prior: Service, kl: Codec, folder: Path) -> None:
    found = with_prior.sample(model="kl", count=3, seed=5, prior="learned")
    expected = from_tensor(kl.decode_tensor(load_prior(str(folder)).drawn(3, seed=5, options=DrawOptions())))
    assert found.note == ""
    assert np.array_equal(np.stack(found.images), expected)
    assert found.images[0].shape == (12, 12, 3)
    normal = with_prior.sample(model="kl", count=3, seed=5, size=12)
    assert not np.array_equal(normal.images[0], found.images[0])
    calm = with_prior.sample(model="kl", count=2, temperature=0.0, prior="learned", size=12).images
    assert np.array_equal(calm[0], calm[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "vq", "prior": "learned"}, "vq has no learned prior: use prior normal"),
        ({"model": "kl", "prior": "learned", "size": 16}, "the learned prior draws images of 12 pixels a side"),
        ({"model": "kl", "prior": "other"}, "prior must be normal or learned, got other"),
    ],
)
def test_what_a_prior_cannot_do_is_said(with_prior: Service, wrong: dict, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        with_prior.sample(**wrong)


def test_priors_that_belong_to_no_model_or_come_twice_are_refused(kl: Codec, grey: Codec, folder: Path) -> None:
    with pytest.raises(ModelError, match=f"of the encoder {kl.identity[:16]}, which no model of this server has"):
        load_priors([str(folder)], {"grey": grey})
    with pytest.raises(ModelError, match="is the second one of the latents of kl: give one of them"):
        load_priors([str(folder)] * 2, {"kl": kl})


def test_models_that_share_an_encoder_share_its_prior(kl: Codec, folder: Path) -> None:
    assert load_priors([str(folder)], {"one": kl, "other": kl}).keys() == {"one", "other"}


def test_a_prior_of_codes_draws_the_class_that_is_asked_for(vq: Codec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = {"codebook_size": vq.codebook_size, "side": 3, "classes": (0, 3), "width": 8, "depth": 1, "heads": 1}
    build_network(**size, encoder_identity=vq.identity).save_pretrained(tmp_path)
    with closing(Service({"vq": vq}, priors=[str(tmp_path)])) as service:
        (info,) = service.models()
        found = service.sample(count=4, seed=1, prior="learned", label=3, top_p=0.9, top_k=5)
        options = DrawOptions(1.0, label=3, top_p=0.9, top_k=5)
        codes = load_prior(str(tmp_path)).drawn(4, seed=1, options=options)
        assert vq.codebook is not None
        assert np.array_equal(np.stack(found.images), from_tensor(vq.decode_tensor(vq.codebook.vectors(codes))))
        assert (found.note, found.images[0].shape[0]) == ("", info.learned_prior)
        for wrong, message in (
            ({"label": 1}, "the prior knows no class 1: it knows 0, 3"),
            ({"top_k": 0}, "top_k must be a whole number from 1"),
            ({"top_p": 0.0}, "top_p must be a number from 1e-06 to 1"),
            ({"label": 3, "prior": "normal"}, "label has no effect on the normal prior"),
        ):
            with pytest.raises(BadRequest, match=message):
                service.sample(**{"count": 1, "prior": "learned", **wrong})


def test_a_hierarchical_prior_knows_no_classes(with_prior: Service) -> None:
    with pytest.raises(BadRequest, match="label 3 has no effect on a hierarchical prior"):
        with_prior.sample(model="kl", count=1, prior="learned", label=3)
