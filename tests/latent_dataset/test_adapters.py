"""A data set of the latents of a model of another class."""

from pathlib import Path

import pytest
import torch

from latent_ae.inference import Codec
from latent_ae.latent_dataset import LatentDataset, verify
from latent_ae.latent_dataset.manifest import LatentDatasetError
from tests.data.images import noise_image
from tests.latent_dataset.made import make, settings
from tests.models.adapted_models import network


@pytest.mark.parametrize(("name", "scaling"), [("AutoencoderTiny", "model"), ("AutoencoderKLQwenImage", "none")])
def test_a_data_set_holds_the_latents_of_any_class(name: str, scaling: str, tmp_path: Path) -> None:
    network(name).save_pretrained(tmp_path / "vae")
    (tmp_path / "pictures").mkdir()
    for seed in range(4):
        noise_image(seed, 17, 19).save(tmp_path / "pictures" / f"{seed}.png")
    make(settings(tmp_path / "vae", tmp_path / "out", path=tmp_path / "pictures", dtype="float32"), threads=2)
    assert not verify(tmp_path / "out", model=str(tmp_path / "vae")).problems
    dataset = LatentDataset(tmp_path / "out", posterior="mode", scaling=scaling)
    codec = Codec.load(str(tmp_path / "vae"), precision="exact")
    images = [codec.pixel_format.array(noise_image(seed, 17, 19)) for seed in range(4)]
    expected = [each.tensor[0] for each in codec.encode(images)]
    if scaling == "model":
        expected = [codec.normalisation.applied(each[None])[0] for each in expected]
    found = [dataset[number]["latents"] for number in range(4)]
    assert all(any(torch.allclose(each, one, atol=1e-6) for each in expected) for one in found)
    if scaling == "none":
        with pytest.raises(LatentDatasetError, match="there is no scaling_factor"):
            LatentDataset(tmp_path / "out", scaling="model")
