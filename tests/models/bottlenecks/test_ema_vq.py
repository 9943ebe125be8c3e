import pytest
import torch
from torch import Tensor, nn

from latent_ae.models.bottlenecks.ema_vq import EMAVQBottleneck
from tests.models.bottlenecks.tiny import codebook


def line(*codes: float) -> nn.Embedding:
    """A codebook of one channel."""
    return nn.Embedding.from_pretrained(torch.tensor(codes).reshape(-1, 1))


def update(bottleneck: EMAVQBottleneck, *values: float, candidates: Tensor | None = None, seed: int = 0) -> list[float]:
    """One update on an image of one channel and one row => the codes."""
    h = torch.tensor(values).reshape(1, 1, 1, -1)
    sums = bottleneck(h, torch.zeros(1, *bottleneck.noise_shape((1, 1, len(values))))).sums
    bottleneck.after_update(sums, candidates, seed=seed)
    return bottleneck.codebook.weight.flatten().tolist()


def test_an_update_by_hand() -> None:
    # N = (1.5, 1), m = (2, 9) after vectors 1, 3 for the first code and 8 for the second.
    bottleneck = EMAVQBottleneck(line(0.0, 10.0), decay=0.5, epsilon=0.0)
    assert update(bottleneck, 1.0, 3.0, 8.0) == pytest.approx([2 / 1.5, 9 / 1])
    # With epsilon 1: (2.5, 2) / 4.5 * 2.5 in place of N.
    bottleneck = EMAVQBottleneck(line(0.0, 10.0), decay=0.5, epsilon=1.0)
    assert update(bottleneck, 1.0, 3.0, 8.0) == pytest.approx([2 / (2.5 / 4.5 * 2.5), 9 / (2 / 4.5 * 2.5)])


@pytest.mark.parametrize("normalized", [False, True])
def test_updates_are_those_of_the_reference(normalized: bool) -> None:
    from vector_quantize_pytorch import VectorQuantize

    embedding = codebook(3, 2)
    bottleneck = EMAVQBottleneck(embedding, decay=0.9, epsilon=1e-3, l2_normalized=normalized)
    theirs = VectorQuantize(
        2, codebook_size=3, decay=0.9, eps=1e-3, use_cosine_sim=normalized, threshold_ema_dead_code=0
    )
    theirs._codebook.embed.copy_(embedding.weight)
    theirs._codebook.embed_avg.copy_(embedding.weight)
    for _ in range(4):
        h = torch.randn(4, 2, 5, 5)
        output = bottleneck(h, torch.zeros(4, 0))
        assert output.sums["counts"].min() > 0  # the reference lets the others sink to the origin
        bottleneck.after_update(output.sums, None, seed=0)
        _, indices, _ = theirs(h.flatten(2).transpose(1, 2))
        assert torch.equal(indices, output.codes.flatten(1))
        torch.testing.assert_close(embedding.weight, theirs._codebook.embed[0], rtol=1e-5, atol=1e-6)


def test_no_gradient_trains_the_codes() -> None:
    embedding = codebook()
    assert embedding.weight.requires_grad
    bottleneck = EMAVQBottleneck(embedding)
    assert not embedding.weight.requires_grad
    assert set(bottleneck(torch.randn(2, 2, 3, 3), torch.zeros(2, 0)).losses) == {"commitment"}


@pytest.mark.parametrize("normalized", [False, True])
def test_a_code_without_vectors_keeps_its_place(normalized: bool) -> None:
    embedding = nn.Embedding.from_pretrained(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    bottleneck = EMAVQBottleneck(embedding, decay=0.5, l2_normalized=normalized)
    h = torch.tensor([2.0, 0.5]).reshape(1, 2, 1, 1)
    sums = bottleneck(h, torch.zeros(1, 0)).sums
    for step in range(300):  # 0.5^300 is below the smallest float32
        bottleneck.after_update(sums, None, seed=step)
    assert embedding.weight[1].tolist() == [0.0, 1.0]
    expected = h.flatten() / h.norm() if normalized else h.flatten()
    torch.testing.assert_close(embedding.weight[0], expected, rtol=1e-4, atol=1e-4)
    # and the first vector that comes to it takes it along
    sums = bottleneck(torch.tensor([0.3, 3.0]).reshape(1, 2, 1, 1), torch.zeros(1, 0)).sums
    assert sums["counts"].tolist() == [0.0, 1.0]
    bottleneck.after_update(sums, None, seed=0)
    target = torch.tensor([0.3, 3.0]) / (h.new_tensor([0.3, 3.0]).norm() if normalized else 1.0)
    torch.testing.assert_close(embedding.weight[1], target, rtol=1e-3, atol=1e-3)


def test_a_revived_code_forgets_where_it_was() -> None:
    bottleneck = EMAVQBottleneck(line(0.0, 100.0), decay=0.99, revive_below=0.5)
    for step in range(100):
        update(bottleneck, 0.1, 0.2, 5.0, seed=step)
    assert bottleneck.dead().tolist() == [False, True]
    update(bottleneck, 0.1, 0.2, 5.0, candidates=torch.tensor([[5.0]]), seed=100)
    assert bottleneck.codebook.weight[1].item() == 5.0
    assert bottleneck.cluster_sizes[1].item() == 1.0
    assert bottleneck.cluster_sums[1].item() == 5.0
    # Had it kept m = 100 * 0.99^100, one vector would throw it to about 100 again.
    codes = update(bottleneck, 0.1, 0.2, 5.2, seed=101)
    assert codes[1] == pytest.approx((0.99 * 5.0 + 0.01 * 5.2) / 1.0, rel=1e-4)


def test_averages_agree_with_a_k_means_start() -> None:
    vectors = torch.cat([torch.full((30, 1), -1.0), torch.full((10, 1), 1.0)]) + 0.01 * torch.randn(40, 1)
    bottleneck = EMAVQBottleneck(line(5.0, 6.0), epsilon=0.0, kmeans_start=True)
    bottleneck.start_from(vectors, seed=0)
    first, second = bottleneck.codebook.weight.flatten().argsort().tolist()
    assert bottleneck.cluster_sizes[[first, second]].tolist() == [30.0, 10.0]
    torch.testing.assert_close(bottleneck.cluster_sums / bottleneck.cluster_sizes[:, None], bottleneck.codebook.weight)
    before = bottleneck.codebook.weight.clone()
    update(bottleneck, *before.flatten().tolist())
    torch.testing.assert_close(bottleneck.codebook.weight, before)
