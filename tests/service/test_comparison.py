"""Comparisons of models: each row against the service's own reconstruction, and what happens where a model refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from latent_ae.inference import Codec
from latent_ae.service.comparison import compare
from latent_ae.service.errors import BadRequest, BrokenUpload, Busy, TooLarge, UnknownModel
from latent_ae.service.results import Reconstruction
from latent_ae.service.service import Service

from .conftest import CODES, pixels, png

IMAGE = png(pixels(9, 14))


def test_every_model_has_a_row_that_says_what_was_compared(service: Service, codecs: dict[str, Codec]) -> None:
    rows = service.compare(IMAGE)
    assert [row.model for row in rows] == ["kl", "vq", "grey"]
    assert [row.compared_in for row in rows] == ["colour", "colour", "grey"]
    for row in rows:
        assert row.made is not None
        alone = service.reconstruct(IMAGE, model=row.model)
        assert np.array_equal(row.made.original, alone.original)
        assert np.array_equal(row.made.reconstructed, codecs[row.model].reconstruct([alone.original])[0])
        assert row.made.metrics == alone.metrics
    kl, vq, grey = rows
    assert kl.made.original is vq.made.original  # once in memory
    assert grey.made.original.shape == (9, 14, 1)


def test_what_is_stored_is_counted(service: Service) -> None:
    kl, vq = service.compare(IMAGE, models=["kl", "vq"])
    bits = (CODES - 1).bit_length()
    assert (kl.shape, kl.bits_per_number) == ((2, 3, 4), 16)
    assert (vq.shape, vq.bits_per_number) == ((3, 4), bits)
    assert kl.stored.bytes == 2 * 3 * 4 * 2
    assert vq.stored.bytes == -(-3 * 4 * bits // 8)


def test_models_are_compared_in_the_order_in_which_they_are_named_and_once(service: Service) -> None:
    shares: list[float] = []
    rows = service.compare(IMAGE, models=["vq", "kl", "vq"], tick=shares.append)
    assert [row.model for row in rows] == ["vq", "kl"]
    assert shares == sorted(shares)
    assert shares[-1] > 0.9


@pytest.mark.parametrize(("models", "error"), [([], BadRequest), (["kl", "nobody"], UnknownModel)])
def test_models_that_cannot_be_compared_are_refused_at_once(
    service: Service, models: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        service.compare(IMAGE, models=models)
    assert service.stats().requests == {}


def test_an_image_that_no_model_can_read_is_refused(service: Service) -> None:
    with pytest.raises(BrokenUpload):
        service.compare(IMAGE[:100])


def refusing(made: Reconstruction, **errors: Exception) -> Callable[..., Reconstruction]:
    def reconstruct(*, model: str, tick: Any) -> Reconstruction:
        if model in errors:
            raise errors[model]
        return made

    return reconstruct


def test_a_model_that_refuses_has_its_reason_in_its_row(service: Service) -> None:
    made = service.reconstruct(IMAGE)
    error = TooLarge("try a smaller one")
    rows = compare(refusing(made, large=error), ["large", "kl"], None)
    assert (rows[0].made, rows[0].refusal, rows[0].compared_in, rows[0].shape) == (None, error, "", ())
    assert rows[1].made == made
    assert rows[1].refusal is None


def test_what_ends_the_request_ends_the_comparison(service: Service) -> None:
    with pytest.raises(Busy):
        compare(refusing(service.reconstruct(IMAGE), vq=Busy("full")), ["kl", "vq"], None)
