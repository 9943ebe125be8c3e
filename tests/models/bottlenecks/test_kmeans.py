import pytest
import torch
from sklearn.cluster import KMeans

from latent_ae.models.bottlenecks import kmeans as room
from latent_ae.models.bottlenecks.codebook import code_counts, nearest_codes
from latent_ae.models.bottlenecks.kmeans import kmeans

VECTORS = torch.randn(300, 3, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("large", [10**9, 2])
def test_centres_are_nearer_than_vectors_drawn_at_random(
    monkeypatch: pytest.MonkeyPatch, spherical: bool, large: int
) -> None:
    monkeypatch.setattr(room, "_LARGE", large)
    vectors = torch.nn.functional.normalize(VECTORS, dim=1) if spherical else VECTORS
    centres, sizes = kmeans(VECTORS, 12, spherical=spherical, seed=1)
    again, _ = kmeans(VECTORS, 12, spherical=spherical, seed=1)
    assert torch.equal(centres, again)
    assert sizes.sum() == len(VECTORS)
    assert sizes.min() > 0

    def spread(codes: torch.Tensor) -> float:
        return float((vectors - codes[nearest_codes(vectors, codes)]).square().mean())

    assert spread(centres) < 0.8 * spread(vectors[:12])


def test_of_many_vectors_a_share_finds_the_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []
    monkeypatch.setattr(
        KMeans, "fit", lambda self, vectors, fit=KMeans.fit: fitted.append(len(vectors)) or fit(self, vectors)
    )
    centres, sizes = kmeans(VECTORS.repeat(10, 1), 8, spherical=False, seed=1)
    assert fitted == [8 * 256]
    assert sizes.sum() == 3000
    assert torch.equal(sizes, code_counts(nearest_codes(VECTORS, centres), 8) * 10)
