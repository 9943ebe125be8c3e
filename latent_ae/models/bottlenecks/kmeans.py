"""A codebook's start: the k-means of what the encoder gives."""

import torch
from torch import Tensor

from latent_ae.models.bottlenecks.codebook import code_counts, code_sums, nearest_codes, on_sphere
from latent_ae.models.errors import ModelError
from latent_ae.randomness import derived_seed, torch_generator

_SPHERICAL_ITERATIONS = 10
_LARGE = 2048
"""codes from which on the careful search for starting places (k-means++) and its convergence would take hours"""
_VECTORS_PER_CODE = 256
"""as faiss takes at most; all of those of 512 crops of 256 px kept a run from its first update for minutes"""


@torch.no_grad()
def kmeans(vectors: Tensor, count: int, *, spherical: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors [N, c] => float32 centres [count, c] and float64 cluster sizes [count], a pure function of its arguments.

    Of more than 256 vectors per centre, so many are drawn to find the centres; the sizes are of all.
    `spherical` centres lie on the unit sphere and see directions alone: Euclidean k-means of the normalised vectors,
    then iterations whose means are projected onto the sphere (Dhillon & Modha 2001).

    Raises ModelError where the vectors are not `count` different ones.
    """
    vectors = on_sphere(vectors.float()) if spherical else vectors.float()
    seen = vectors
    if len(vectors) > (most := count * _VECTORS_PER_CODE):
        seen = vectors[torch.randperm(len(vectors), generator=torch_generator(seed, "kmeans vectors"))[:most]]
    if (distinct := len(torch.unique(seen, dim=0))) < count:
        raise ModelError(
            f"a k-means start of {count} codes needs as many different vectors, got {distinct} of {len(seen)}: "
            "take fewer codes, or bottleneck.kmeans_start false"
        )
    from sklearn.cluster import KMeans  # noqa: PLC0415  # a second at every program's start, for the few that want it
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    large = count >= _LARGE
    search = KMeans(
        n_clusters=count,
        init="random" if large else "k-means++",
        n_init=1,
        max_iter=5 if large else 100,
        random_state=derived_seed(seed, "kmeans") % 2**32,
    )
    with threadpool_limits(1):  # threads add up in the order in which they finish
        search.fit(seen.cpu().numpy())
    centres = torch.from_numpy(search.cluster_centers_).to(vectors)
    if spherical:
        centres = on_sphere(centres)
        for _ in range(_SPHERICAL_ITERATIONS):
            codes = nearest_codes(vectors, centres)
            sums = code_sums(codes, vectors, count).float()
            centres = torch.where(code_counts(codes, count)[:, None] > 0, on_sphere(sums), centres)
    return centres, code_counts(nearest_codes(vectors, centres), count)
