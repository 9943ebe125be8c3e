"""The eight defects of the usual trainer begin with a loss that trains nothing: preflight must catch it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from latent_ae.training.gan.discriminator_side import Adversary
from latent_ae.training.objective import Objective, Terms, Weights
from latent_ae.training.preflight import PreflightError, preflight
from tests.conftest import make_objective
from tests.training.tiny import make_adversary, make_coded

PIXELS = torch.linspace(-1, 1, 16 * 16).reshape(1, 1, 16, 16)
NOISE = torch.ones(1, 2, 8, 8)
WEIGHTS = Weights({"perceptual": 1.0, "kl": 1e-6})


class Wrapped(nn.Module):
    """A term, and something done to it."""

    def __init__(self, term: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.term, self.change = term, change

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.change(self.term(*arguments))


class NoGrad(Wrapped):
    """What the standard trainer does to LPIPS."""

    def forward(self, *arguments: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(*arguments)


def test_a_sound_objective_passes_and_keeps_no_gradient(objective: Objective) -> None:
    table = preflight(objective, PIXELS, NOISE, WEIGHTS)
    assert set(table.norms) == {"reconstruction", "perceptual", "kl"}
    assert table.norms["kl"]["decoder"] == 0.0
    assert table.norms["kl"]["encoder"] > 0.0
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert "perceptual" in str(table)


def test_a_learned_log_variance_is_trained_by_the_reconstruction_alone() -> None:
    table = preflight(make_objective("gaussian_nll"), PIXELS, NOISE, WEIGHTS)
    assert [table.norms[term]["reconstruction"] > 0 for term in ("reconstruction", "perceptual", "kl")] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("term", ["reconstruction", "perceptual"])
def test_a_term_under_no_grad_ends_the_run(objective: Objective, term: str) -> None:
    setattr(objective, term, NoGrad(getattr(objective, term), lambda value: value))
    with pytest.raises(PreflightError, match=f"the {term} term has no gradient in decoder"):
        preflight(objective, PIXELS, NOISE, WEIGHTS)


def test_a_non_finite_gradient_ends_the_run(objective: Objective) -> None:
    objective.reconstruction = Wrapped(objective.reconstruction, lambda value: (value - value).sqrt())
    with pytest.raises(PreflightError, match="the reconstruction term has a non-finite gradient in encoder"):
        preflight(objective, PIXELS, NOISE, WEIGHTS)


def test_a_thawed_perceptual_network_ends_the_run(objective: Objective) -> None:
    assert objective.perceptual is not None
    objective.perceptual.requires_grad_(True)
    with pytest.raises(PreflightError, match="perceptual network, which it is not meant to train"):
        preflight(objective, PIXELS, NOISE, WEIGHTS)


def test_a_frozen_decoder_ends_the_run(objective: Objective) -> None:
    objective.model.autoencoder.decoder.requires_grad_(False)
    with pytest.raises((PreflightError, ValueError), match="decoder"):
        preflight(objective, PIXELS, NOISE, WEIGHTS)


def test_a_term_that_has_no_weight_or_does_not_say_what_it_trains_is_named(
    objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = objective.forward

    def forward(*arguments: Tensor, **settings: object) -> Terms:
        terms = own(*arguments, **settings)  # type: ignore[arg-type]
        terms.losses["smoothness"] = terms.reconstruction.square().mean()
        return terms

    monkeypatch.setattr(objective, "forward", forward)
    with pytest.raises(PreflightError, match="no weight for smoothness"):
        preflight(objective, PIXELS, NOISE, WEIGHTS)
    with pytest.raises(PreflightError, match="the smoothness term is missing in"):
        preflight(objective, PIXELS, NOISE, Weights({**WEIGHTS.terms, "smoothness": 1.0}))


def test_terms_of_weight_zero_are_not_asked_for(objective: Objective) -> None:
    assert set(preflight(objective, PIXELS, NOISE, Weights({"perceptual": 0.0, "kl": 0.0})).norms) == {"reconstruction"}


def test_free_bits_above_a_fresh_models_kl_are_not_a_violation() -> None:
    objective = make_objective(free_bits=10.0)
    assert preflight(objective, PIXELS, NOISE, WEIGHTS).norms["kl"]["encoder"] > 0
    assert objective.model.bottleneck.free_bits == 10.0


def reached(objective: Objective, weights: Weights, adversary: Adversary | None = None) -> dict[str, set[str]]:
    """The modules in which each term has a gradient, of those with a column."""
    noise = torch.ones(1, *objective.model.bottleneck.noise_shape((2, 8, 8)))
    table = preflight(objective, PIXELS, noise, weights, adversary)
    return {term: {module for module, norm in row.items() if norm > 0} for term, row in table.norms.items()}


ENCODER, DECODER = {"encoder", "quant_conv"}, {"post_quant_conv", "decoder"}
CODED = Weights({"commitment": 0.25, "codebook": 1.0, "entropy": 0.1, "kl": 1e-6})


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("vq", {}, {"reconstruction": ENCODER | DECODER, "commitment": ENCODER, "codebook": {"quantize"}}),
        ("ema_vq", {}, {"reconstruction": ENCODER | DECODER, "commitment": ENCODER}),
        ("fsq", {}, {"reconstruction": ENCODER | DECODER}),
        (
            "gumbel",
            {},
            {"reconstruction": ENCODER | DECODER | {"quantize"}, "kl": ENCODER | {"quantize"}},
        ),
    ],
)
def test_each_bottlenecks_terms_reach_what_they_train(
    kind: str, options: dict[str, object], expected: dict[str, set[str]]
) -> None:
    assert reached(make_coded(kind, **options), CODED) == expected


def test_the_entropy_reaches_the_codebook_where_a_gradient_trains_it() -> None:
    of_vq = reached(make_coded("vq", entropy=True, entropy_temperature=1.0), CODED)
    of_ema = reached(make_coded("ema_vq", entropy=True, entropy_temperature=1.0), CODED)
    assert of_vq["entropy"] == ENCODER | {"quantize"}
    assert of_ema["entropy"] == ENCODER


def test_the_adversarial_rows_stay_on_their_side() -> None:
    objective = make_objective(perceptual=False)
    adversary = make_adversary(objective)
    before = {name: tensor.clone() for name, tensor in adversary.tensors().items()}
    discriminator = {"discriminator"}
    assert reached(objective, WEIGHTS, adversary) == {
        "reconstruction": ENCODER | DECODER,
        "kl": ENCODER,
        "adversarial": ENCODER | DECODER,
        "discriminator": discriminator,
        "lecam": discriminator,
        "r1": discriminator,
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in adversary.tensors().items())
    assert all(parameter.grad is None for parameter in (*objective.parameters(), *adversary.module.parameters()))


def test_terms_of_the_discriminator_without_weight_are_not_asked_for() -> None:
    objective = make_objective(perceptual=False)
    rows = reached(objective, WEIGHTS, make_adversary(objective, lecam_weight=0.0, r1_weight=0.0))
    assert set(rows) == {"reconstruction", "kl", "adversarial", "discriminator"}


def test_a_frozen_discriminator_ends_the_run() -> None:
    objective = make_objective(perceptual=False)
    adversary = make_adversary(objective, lecam_weight=0.0, r1_weight=0.0)
    adversary.network.requires_grad_(False)
    with pytest.raises(PreflightError, match="the discriminator term trains nothing"):
        preflight(objective, PIXELS, NOISE, WEIGHTS, adversary)


def test_a_codebook_frozen_by_accident_ends_the_run() -> None:
    objective = make_coded("vq")
    objective.model.autoencoder.quantize.requires_grad_(False)
    with pytest.raises(PreflightError, match="the codebook term has no gradient in quantize"):
        preflight(objective, PIXELS, torch.zeros(1, 0), CODED)


def test_a_codebook_of_averages_that_a_gradient_trains_too_ends_the_run() -> None:
    objective = make_coded("ema_vq", entropy=True, entropy_temperature=1.0)
    objective.model.autoencoder.quantize.requires_grad_(True)
    with pytest.raises(PreflightError, match="the entropy term has a gradient in quantize, which it is not meant"):
        preflight(objective, PIXELS, torch.zeros(1, 0), CODED)


@pytest.mark.parametrize(
    ("kind", "trained", "columns"),
    [
        ("vq", ("decoder",), DECODER),
        ("vq", ("encoder",), ENCODER | {"quantize"}),
        ("gumbel", ("decoder",), DECODER),
        ("fsq", ("decoder.conv_out",), {"decoder"}),
    ],
)
def test_what_is_frozen_on_purpose_has_no_column(kind: str, trained: tuple[str, ...], columns: set[str]) -> None:
    of_encoder = 0.0 if trained[0].startswith("decoder") else 1.0
    weights = Weights({"commitment": of_encoder, "codebook": of_encoder, "kl": of_encoder})
    noise = torch.ones(1, *make_coded(kind).model.bottleneck.noise_shape((2, 8, 8)))
    table = preflight(make_coded(kind, trained), PIXELS, noise, weights)
    assert {module for row in table.norms.values() for module in row} == columns
    assert set(str(table).splitlines()[0].split()) == {"gradient", "norm"} | columns


def test_a_term_of_which_all_is_frozen_ends_the_run() -> None:
    with pytest.raises(PreflightError, match="the commitment term trains nothing, as all it reaches is frozen"):
        preflight(make_coded("ema_vq", ("decoder",)), PIXELS, torch.zeros(1, 0), CODED)


class Sure(nn.Module):
    """A discriminator that knows PIXELS, by their slope from corner to corner, from anything flat."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B,1,16,16] => [B,1,1,1]."""
        return self.scale * (pixels * PIXELS).mean(dim=(1, 2, 3), keepdim=True) + self.bias


def test_a_discriminator_that_is_sure_of_the_first_batch_is_not_a_violation() -> None:
    objective = make_objective(perceptual=False)
    adversary = make_adversary(objective, lecam_weight=0.0, r1_weight=0.0)
    adversary.network = adversary.module.network = Sure()  # type: ignore[assignment]  # stands in for a network
    with torch.no_grad():
        reconstruction = objective(PIXELS, NOISE).reconstruction
        assert adversary.network(PIXELS).item() > 1
        assert adversary.network(reconstruction).item() < -1
    assert reached(objective, WEIGHTS, adversary)["discriminator"] == {"discriminator"}
