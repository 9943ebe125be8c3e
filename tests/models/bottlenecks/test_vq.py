import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.models.bottlenecks.codebook import vectors_of
from latent_ae.models.bottlenecks.vq import VQBottleneck
from tests.models.bottlenecks.tiny import codebook, vq_model


def line(*codes: float) -> torch.nn.Embedding:
    """A codebook of one channel."""
    return torch.nn.Embedding.from_pretrained(torch.tensor(codes).reshape(-1, 1), freeze=False)


def image(*values: float) -> Tensor:
    """One image of one channel and one row."""
    return torch.tensor(values).reshape(1, 1, 1, -1)


def test_terms_by_hand() -> None:
    output = VQBottleneck(line(0.0, 10.0))(image(1.0, 3.0, 8.0), torch.zeros(1, 0))
    assert output.codes.tolist() == [[[0, 0, 1]]]
    assert output.latents.flatten().tolist() == [0.0, 0.0, 10.0]
    assert output.losses["codebook"].item() == output.losses["commitment"].item() == pytest.approx((1 + 9 + 4) / 3)
    assert output.sums["counts"].tolist() == [2.0, 1.0]


def test_straight_through_gradient() -> None:
    h = torch.randn(2, 2, 3, 3, requires_grad=True)
    upstream = torch.randn(2, 2, 3, 3)
    latents = VQBottleneck(codebook())(h, torch.zeros(2, 0)).latents
    assert torch.equal(torch.autograd.grad(latents, h, upstream)[0], upstream)


@pytest.mark.parametrize("normalized", [False, True])
def test_rotation_trick_is_that_of_the_reference(normalized: bool) -> None:
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    embedding = codebook()
    bottleneck = VQBottleneck(embedding, rotation_trick=True, l2_normalized=normalized)
    h = torch.randn(2, 2, 3, 3, requires_grad=True)
    upstream = torch.randn(2, 2, 3, 3)
    output = bottleneck(h, torch.zeros(2, 0))
    e = embedding(output.codes).movedim(3, 1)
    torch.testing.assert_close(output.latents, e)
    z = F.normalize(h, dim=1) if normalized else h
    theirs = rotate_to(vectors_of(z), vectors_of(e))
    ours = torch.autograd.grad(output.latents, h, upstream)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(theirs, h, vectors_of(upstream))[0])


def true_entropy_term(z: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """E[H(p)] - H(E[p]) over all vectors z [N, c]."""
    p = F.softmax(-(z[:, None] - codes).square().sum(-1) / temperature, dim=-1)
    return torch.special.entr(p).sum(-1).mean() - torch.special.entr(p.mean(0)).sum()


@pytest.mark.parametrize("normalized", [False, True])
def test_entropy_at_the_batch_marginal_is_that_of_the_batch(normalized: bool) -> None:
    embedding = codebook()
    bottleneck = VQBottleneck(embedding, entropy=True, entropy_temperature=0.7, l2_normalized=normalized)
    h = torch.randn(4, 2, 3, 3, requires_grad=True)
    assignments = bottleneck(h, torch.zeros(4, 0)).sums["assignments"]
    assert assignments.sum().item() == pytest.approx(4 * 9)
    bottleneck.marginal.copy_(assignments / assignments.sum())
    ours = bottleneck(h, torch.zeros(4, 0)).losses["entropy"].mean()
    z = vectors_of(h).flatten(0, 1)
    theirs = true_entropy_term(F.normalize(z, dim=-1) if normalized else z, embedding.weight, 0.7)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (h, embedding.weight)), torch.autograd.grad(theirs, (h, embedding.weight))
    )


def test_the_running_marginal_moves_to_the_batch_marginal() -> None:
    bottleneck = VQBottleneck(codebook(), entropy=True, entropy_temperature=0.7)
    sums = bottleneck(torch.randn(4, 2, 3, 3), torch.zeros(4, 0)).sums
    start = bottleneck.marginal.clone()
    batch = (sums["assignments"] / sums["assignments"].sum()).float()
    bottleneck.after_update(sums, None, seed=0)
    torch.testing.assert_close(bottleneck.marginal, 0.9 * start + 0.1 * batch)


def test_codes_stay_on_the_sphere() -> None:
    embedding = codebook()
    bottleneck = VQBottleneck(embedding, l2_normalized=True)
    ones = torch.ones(len(embedding.weight))
    torch.testing.assert_close(embedding.weight.norm(dim=1), ones)
    direction = embedding.weight.detach().clone()
    sums = bottleneck(torch.randn(2, 2, 3, 3), torch.zeros(2, 0)).sums
    with torch.no_grad():
        embedding.weight.mul_(3.0)
    bottleneck.after_update(sums, None, seed=0)
    torch.testing.assert_close(embedding.weight, direction)
    held = embedding.weight.detach().clone()
    VQBottleneck(embedding, l2_normalized=True)
    assert torch.equal(embedding.weight, held)  # a resumed run builds its bottleneck on codes that are there already


def test_averaged_codes_are_put_back_onto_the_sphere() -> None:
    model = vq_model()
    bottleneck = VQBottleneck(model.quantize.embedding, l2_normalized=True)
    codes = model.quantize.embedding.weight
    with torch.no_grad():
        codes.add_(codes.roll(1, dims=0)).div_(2)  # an average of unit vectors is shorter than one
    bottleneck.fold(model)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(len(codes)))


def test_candidates_are_vectors_of_their_image_at_places_the_noise_chooses() -> None:
    bottleneck = VQBottleneck(codebook(), revive_below=1.0)
    h = torch.randn(3, 2, 4, 4)
    noise = torch.tensor([-9.0, -1.6, -0.1, 0.0, 0.1, 1.0, 1.6, 9.0]).expand(3, 8)
    # Phi(n) * 16, rounded down
    positions = [0, 0, 7, 8, 8, 13, 15, 15]
    candidates = bottleneck(h, noise).candidates
    assert torch.equal(candidates, h.flatten(2).transpose(1, 2)[:, positions])
    assert bottleneck.eval()(h, noise).candidates is None


def with_dead_codes(**options: object) -> tuple[VQBottleneck, Tensor]:
    """Codes at 0, 1, 100 and 200, of which vectors around 0 and 1 have left the last two dead."""
    bottleneck = VQBottleneck(line(0.0, 1.0, 100.0, 200.0), revive_below=0.5, **options)
    h = image(0.1, 0.2, 0.9, 1.1)
    sums = bottleneck(h, torch.zeros(1, 8)).sums
    for step in range(100):
        assert bottleneck.wants_candidates() == bool(bottleneck.dead().any())
        bottleneck.after_update(sums, None, seed=step)
    assert bottleneck.dead().tolist() == [False, False, True, True]
    return bottleneck, h


def test_dead_codes_are_moved_to_candidates() -> None:
    bottleneck, h = with_dead_codes()
    assert bottleneck.wants_candidates()
    output = bottleneck(h, torch.randn(1, 8))
    log = bottleneck.after_update(output.sums, output.candidates.flatten(0, 1), seed=7)
    assert log["dead_codes"] == 2.0
    codes = bottleneck.codebook.weight.flatten().tolist()
    assert codes[:2] == [0.0, 1.0]
    assert set(codes[2:]) <= set(h.flatten().tolist())
    assert bottleneck.usage[2:].tolist() == [1.0, 1.0]
    assert not bottleneck.wants_candidates()


def test_revival_follows_from_the_seed_alone() -> None:
    candidates = torch.linspace(-5, 5, 64).reshape(-1, 1)
    found = []
    for seed in (1, 1, 2):
        bottleneck, h = with_dead_codes()
        bottleneck.after_update(bottleneck(h, torch.zeros(1, 8)).sums, candidates, seed=seed)
        found.append(bottleneck.codebook.weight.flatten().tolist())
        assert len(set(found[-1])) == 4
    assert found[0] == found[1] != found[2]


def test_fewer_candidates_than_dead_codes_revive_as_many() -> None:
    bottleneck, h = with_dead_codes()
    bottleneck.after_update(bottleneck(h, torch.zeros(1, 8)).sums, torch.tensor([[0.5]]), seed=0)
    assert sorted(bottleneck.codebook.weight.flatten().tolist())[:3] == [0.0, 0.5, 1.0]
    assert bottleneck.dead().sum() == 1


def test_a_revived_code_starts_with_an_even_share_of_the_marginal() -> None:
    bottleneck, h = with_dead_codes(entropy=True)
    assert bottleneck.marginal[2:].max() < 1e-4
    bottleneck.after_update(bottleneck(h, torch.zeros(1, 8)).sums, torch.tensor([[0.5], [0.6]]), seed=0)
    assert bottleneck.marginal[2:].tolist() == pytest.approx([1 / 6, 1 / 6], rel=1e-3)
    assert bottleneck.marginal.sum().item() == pytest.approx(1.0)


def test_without_revival_dead_codes_stay() -> None:
    bottleneck = VQBottleneck(line(0.0, 100.0))
    assert bottleneck.noise_shape((1, 4, 4)) == (0,)
    output = bottleneck(image(0.1, 0.2), torch.zeros(1, 0))
    assert output.candidates is None
    for step in range(100):
        log = bottleneck.after_update(output.sums, torch.zeros(5, 1), seed=step)
    assert log["dead_codes"] == 1.0
    assert not bottleneck.wants_candidates()
    assert bottleneck.codebook.weight.flatten().tolist() == [0.0, 100.0]


@pytest.mark.parametrize("normalized", [False, True])
def test_the_k_means_start(normalized: bool) -> None:
    centres = 3.0 * torch.nn.functional.normalize(codebook().weight, dim=1)
    vectors = (centres[:, None] + 0.01 * torch.randn(12, 20, 2)).flatten(0, 1).detach()
    embedding = codebook(seed=5)
    VQBottleneck(embedding, l2_normalized=normalized, kmeans_start=True).start_from(vectors, seed=0)
    distances = torch.cdist(centres / 3.0 if normalized else centres, embedding.weight)
    assert distances.amin(dim=1).max() < 0.02


def test_no_start_unless_asked_for() -> None:
    embedding = codebook()
    before = embedding.weight.detach().clone()
    VQBottleneck(embedding).start_from(torch.randn(100, 2), seed=0)
    assert torch.equal(embedding.weight, before)


def test_too_few_vectors_to_start_from() -> None:
    bottleneck = VQBottleneck(codebook(), kmeans_start=True)
    with pytest.raises(UserError, match="12 codes needs as many different vectors, got 11 of 22"):
        bottleneck.start_from(torch.randn(11, 2).repeat(2, 1), seed=0)
