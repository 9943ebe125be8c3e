import math

import pytest
import torch
from torch import nn

from latent_ae.models.bottlenecks.gumbel import GumbelBottleneck, gumbel_from
from tests.models.bottlenecks.tiny import codebook


def test_gumbel_numbers_by_hand() -> None:
    assert gumbel_from(torch.zeros(1)).item() == pytest.approx(-math.log(math.log(2.0)))
    noise = torch.linspace(-11, 11, 101)
    exact = -torch.log(-torch.special.log_ndtr(noise.double()))
    torch.testing.assert_close(gumbel_from(noise), exact.float())
    assert gumbel_from(torch.tensor([-1e9, -40.0, 40.0, 1e9])).isfinite().all()


def test_gumbel_numbers_have_the_distribution_of_gumbel() -> None:
    numbers = gumbel_from(torch.randn(200_000, generator=torch.Generator().manual_seed(0)))
    assert numbers.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert numbers.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.01)


def test_kl_by_hand() -> None:
    # Squared distances 0 and ln 3: probabilities 3/4 and 1/4, at both of two positions.
    embedding = nn.Embedding.from_pretrained(torch.tensor([[0.0], [math.sqrt(math.log(3.0))]]))
    output = GumbelBottleneck(embedding)(torch.zeros(1, 1, 1, 2), torch.zeros(1, 2, 1, 2))
    kl = math.log(2.0) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert output.losses["kl"].item() == pytest.approx(2 * kl)
    assert output.stats["kl_nats"].item() == pytest.approx(2 * kl)


@pytest.mark.parametrize("straight_through", [False, True])
def test_a_cold_softmax_draws_one_code_with_its_probability(straight_through: bool) -> None:
    embedding = codebook(4, 2)
    bottleneck = GumbelBottleneck(embedding, temperature=(1e-4, 1e-4), straight_through=straight_through)
    h = torch.tensor([0.3, -0.2]).reshape(1, 2, 1, 1).expand(1, 2, 100, 100)
    noise = torch.randn(1, 4, 100, 100, generator=torch.Generator().manual_seed(0))
    output = bottleneck(h, noise)
    distances = (h[0, :, 0, 0] - embedding.weight).square().sum(1)
    perturbed = gumbel_from(noise) - distances.reshape(1, 4, 1, 1)
    drawn = perturbed.argmax(1)
    first, second = perturbed.topk(2, dim=1).values.unbind(1)
    clear = (first - second > 2e-3).expand(2, -1, -1)
    assert clear.float().mean() > 0.99
    torch.testing.assert_close(output.latents[0][clear], embedding.weight[drawn[0]].movedim(2, 0)[clear])
    share = drawn.flatten().bincount(minlength=4) / drawn.numel()
    torch.testing.assert_close(share, (-distances).softmax(0), rtol=0, atol=0.02)


def test_hard_codes_have_the_soft_gradient() -> None:
    embedding = codebook()
    h, noise = torch.randn(2, 2, 3, 3, requires_grad=True), torch.randn(2, 12, 3, 3)
    upstream = torch.randn(2, 2, 3, 3)
    soft = GumbelBottleneck(embedding)(h, noise).latents
    hard = GumbelBottleneck(embedding, straight_through=True)(h, noise).latents
    assert torch.cdist(hard.movedim(1, 3).reshape(-1, 2), embedding.weight).amin(1).max() < 1e-5
    torch.testing.assert_close(*(torch.autograd.grad(latents, h, upstream)[0] for latents in (soft, hard)))


def test_the_temperature_falls_along_half_a_cosine() -> None:
    bottleneck = GumbelBottleneck(codebook(), temperature=(1.0, 0.2), temperature_steps=100)
    found = []
    for step in (0, 25, 50, 100, 1000):
        bottleneck.at_step(step)
        found.append(bottleneck.tau.item())
    assert found == pytest.approx([1.0, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.2, 0.2])
    assert "tau" not in bottleneck.state_dict()


def test_without_steps_the_first_temperature_stays() -> None:
    bottleneck = GumbelBottleneck(codebook(), temperature=(0.7, 0.1))
    bottleneck.at_step(1000)
    assert bottleneck.tau.item() == pytest.approx(0.7)


def test_the_start_follows_from_the_seed() -> None:
    found = []
    for seed in (1, 1, 2):
        embedding = nn.Embedding(1000, 4)
        GumbelBottleneck(embedding).start_from(torch.zeros(10, 4), seed=seed)
        found.append(embedding.weight.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert found[0].std().item() == pytest.approx(1.0, abs=0.05)
