"""Models of other classes in a server: images, latents, and what is in them."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from latent_ae.inference import Codec
from latent_ae.io.latent_file.latents import from_bytes
from latent_ae.service.errors import WrongModel
from latent_ae.service.service import Service
from tests.models.adapted_models import adapted
from tests.service.conftest import closing, pixels, png
from tests.service.test_remote import remote_decode

NAMES = ("AutoencoderTiny", "AutoencoderKLFlux2", "AutoencoderKLQwenImage")
IMAGE = pixels(9, 14)


@pytest.fixture(scope="module")
def codecs() -> dict[str, Codec]:
    return {name: Codec(adapted(name), name=name, precision="fp32") for name in NAMES}


@pytest.fixture(scope="module")
def served(codecs: dict[str, Codec]) -> Iterator[Service]:
    with closing(Service(codecs)) as service:
        yield service


@pytest.mark.parametrize("name", NAMES)
def test_an_image_goes_to_a_latent_file_and_back(name: str, served: Service, codecs: dict[str, Codec]) -> None:
    encoded = served.encode(png(IMAGE), model=name)
    decoded = served.decode(encoded.file)
    assert decoded.model == name
    expected = codecs[name].reconstruct([IMAGE])[0]
    assert np.array_equal(decoded.images[0], expected)
    assert np.array_equal(served.reconstruct(png(IMAGE), model=name).reconstructed, expected)
    other = next(each for each in NAMES if each != name)
    assert from_bytes(encoded.file).encoder_class == name
    with pytest.raises(WrongModel, match=f"decode them with {name}"):
        served.decode(encoded.file, model=other)


@pytest.mark.parametrize("name", NAMES)
def test_latents_are_looked_at_as_the_pipeline_normalises_them(
    name: str, served: Service, codecs: dict[str, Codec]
) -> None:
    found = served.inspect(png(IMAGE), model=name)
    codec = codecs[name]
    scaled = codec.normalisation.applied(codec.encode([IMAGE])[0].tensor)
    assert f"they have mean {scaled.double().mean():.3g} and standard deviation" in found.text
    assert len(found.channel_images) == codec.latent_channels
    info = served.models()[NAMES.index(name)]
    assert (info.kind, info.factor, info.scaling_factor) == (name, 8, codec.scaling_factor)
    assert (codec.scaling_factor is not None) == (name == "AutoencoderTiny")


def test_remote_latents_are_taken_as_the_pipeline_normalised_them(served: Service, codecs: dict[str, Codec]) -> None:
    codec = codecs["AutoencoderKLFlux2"]
    raw = codec.encode([IMAGE])[0].tensor
    options = {"model": "AutoencoderKLFlux2", "output_type": "pt", "return_type": "pt", "do_scaling": True}
    found = remote_decode(served, codec.normalisation.applied(raw), **options)
    assert torch.allclose(found, codec.decode_tensor(raw), atol=1e-5)
