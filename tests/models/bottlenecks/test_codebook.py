import pytest
import torch

from latent_ae.models.bottlenecks.codebook import (
    code_counts,
    code_logits,
    code_sums,
    codebook_usage,
    entropy_bits,
    grid_of,
    move_average,
    nearest_codes,
    on_sphere,
    perplexity,
    positions_from,
    rotated,
    vectors_of,
)
from latent_ae.models.bottlenecks.kmeans import kmeans


def test_vectors_and_grid_are_inverse() -> None:
    h = torch.randn(2, 3, 4, 5)
    assert torch.equal(grid_of(vectors_of(h), h), h)
    assert torch.equal(vectors_of(h)[1, 7], h[1, :, 1, 2])


def test_the_search_in_pieces_is_the_search() -> None:
    z, codes = torch.randn(2, 500, 4), torch.randn(30, 4)
    whole = nearest_codes(z, codes)
    exact = (z[..., None, :].double() - codes.double()).square().sum(-1).argmin(-1)
    assert torch.equal(whole, exact)
    assert torch.equal(nearest_codes(z, codes, max_distances=30 * 70), whole)
    assert torch.equal(nearest_codes(z, codes, max_distances=1), whole)


def test_the_search_keeps_nothing_for_a_backward() -> None:
    def refuse(tensor: torch.Tensor) -> None:
        raise AssertionError(f"{tuple(tensor.shape)} is kept")

    z = torch.randn(2, 50, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(refuse, lambda _: None):
        nearest_codes(z, torch.randn(30, 4))


def test_logits_are_negative_squared_distances_but_for_a_constant() -> None:
    z, codes = torch.randn(2, 5, 4), torch.randn(7, 4)
    distances = (z[..., None, :] - codes).square().sum(-1)
    torch.testing.assert_close(code_logits(z, codes).softmax(-1), (-distances).softmax(-1))


def test_opposite_vectors_are_turned_half_round() -> None:
    z = torch.tensor([-0.5], requires_grad=True)
    result = rotated(z, torch.tensor([2.0]))
    assert result.item() == pytest.approx(2.0)
    assert torch.autograd.grad(result.sum(), z)[0].item() == pytest.approx(-4.0)


def test_projection_onto_the_sphere_happens_once() -> None:
    vectors = 5 * torch.randn(1000, 3)
    once = on_sphere(vectors)
    torch.testing.assert_close(once, torch.nn.functional.normalize(vectors, dim=1))
    assert torch.equal(on_sphere(once), once)


def test_sums_and_counts_by_hand() -> None:
    codes = torch.tensor([[2, 0], [2, 2]])
    vectors = torch.tensor([[[1.0], [10.0]], [[2.0], [4.0]]])
    assert code_counts(codes, 4).tolist() == [1.0, 0.0, 3.0, 0.0]
    assert code_sums(codes, vectors, 4).tolist() == [[10.0], [0.0], [7.0], [0.0]]


def test_moving_average_by_hand() -> None:
    average = torch.tensor([1.0, 2.0])
    move_average(average, torch.tensor([3.0, 2.0]), 0.75)
    assert average.tolist() == [1.5, 2.0]


def test_positions_are_equally_likely() -> None:
    positions = positions_from(torch.randn(60_000, generator=torch.Generator().manual_seed(0)), 6)
    assert (positions.bincount(minlength=6) - 10_000).abs().max() < 400
    assert positions_from(torch.tensor([-50.0, 50.0]), 6).tolist() == [0, 5]


def test_counts_by_hand() -> None:
    counts = torch.tensor([2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    assert entropy_bits(counts) == pytest.approx(1.5)
    assert perplexity(counts) == pytest.approx(2**1.5)
    assert codebook_usage(counts) == 0.75
    assert perplexity(torch.ones(64)) == pytest.approx(64)
    assert perplexity(torch.tensor([0.0, 7.0])) == 1.0


@pytest.mark.parametrize("spherical", [False, True])
def test_k_means_is_a_function_of_its_seed(spherical: bool) -> None:
    vectors = torch.randn(300, 3)
    (first, sizes), (again, _) = (kmeans(vectors, 10, spherical=spherical, seed=1) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, kmeans(vectors, 10, spherical=spherical, seed=2)[0])
    assert sizes.sum() == 300
    if spherical:
        torch.testing.assert_close(first.norm(dim=1), torch.ones(10))


def test_spherical_k_means_sees_directions_alone() -> None:
    vectors = torch.randn(300, 3)
    lengths = torch.rand(300, 1) + 0.1
    centres, _ = kmeans(on_sphere(vectors), 5, spherical=True, seed=1)
    torch.testing.assert_close(kmeans(on_sphere(vectors) * lengths, 5, spherical=True, seed=1)[0], centres)
    # Each centre is the direction of the sum of its vectors: a fixed point of the iteration.
    unit = on_sphere(vectors)
    sums = code_sums(nearest_codes(unit, centres), unit, 5).float()
    assert (on_sphere(sums) * centres).sum(1).min() > 0.999
