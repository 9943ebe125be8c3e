"""The suite's own teeth: each of these bugs has been in a trainer, and here a check catches it.

Every check is the function that the sound code passes elsewhere in the suite.
"""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from latent_ae.config import LossConfig
from latent_ae.models.bottlenecks import BottleneckOutput
from latent_ae.models.bottlenecks.ema_vq import EMAVQBottleneck
from latent_ae.models.bottlenecks.vq import VQBottleneck
from latent_ae.training import build
from latent_ae.training.gan.discriminator_side import Adversary
from latent_ae.training.gan.losses import AdversarialLoss, Discrimination, DiscriminationTerms
from latent_ae.training.objective import Weights, weighted_sum
from latent_ae.training.preflight import PreflightError, preflight
from latent_ae.training.settings import RunConfig, resolved
from tests.models.bottlenecks import test_ema_vq
from tests.training.checkpoint.test_state import check_resume_with_an_adversary
from tests.training.test_preflight import CODED
from tests.training.test_two_steps import check_sides_stay_apart
from tests.training.tiny import PIXELS, Update, make_coded


@pytest.fixture(autouse=True)
def _fresh_accelerate_state() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Attached(torch.Tensor):
    """A tensor that cannot be detached; what is computed from it is an ordinary one."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def detach(self) -> Tensor:
        return self


def keep_reconstructions_attached(update: Update) -> None:
    own = update.objective.forward

    def forward(*arguments: Tensor, **named: Tensor) -> object:
        terms = own(*arguments, **named)
        return terms._replace(reconstruction=terms.reconstruction.as_subclass(Attached))

    update.objective.forward = forward  # type: ignore[assignment]  # the deliberate bug


def test_a_reconstruction_that_is_not_detached_is_refused_by_the_discriminator() -> None:
    check_sides_stay_apart()
    with pytest.raises(ValueError, match="carry a gradient to the autoencoder: pass them detached"):
        check_sides_stay_apart(keep_reconstructions_attached)


def test_and_without_that_refusal_its_gradient_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Discrimination, real: Tensor, fake: Tensor, penalise: bool = False) -> DiscriminationTerms:
        logits_real, logits_fake = self.network(real), self.network(fake)
        loss = self.loss.discriminator(logits_real, logits_fake).mean()
        stats = {"logits_real": logits_real.detach().mean(), "logits_fake": logits_fake.detach().mean()}
        return DiscriminationTerms({"discriminator": loss}, stats)

    monkeypatch.setattr(Discrimination, "forward", forward)
    check_sides_stay_apart()

    def keep_graph(update: Update) -> None:
        keep_reconstructions_attached(update)
        monkeypatch.setattr(torch.Tensor, "backward", lambda loss: torch.autograd.backward(loss, retain_graph=True))

    # Autograd itself objects where the update has changed the decoder's weights; where it does not, the check does.
    with pytest.raises(
        (RuntimeError, AssertionError), match=r"modified by an inplace operation|left a gradient on the"
    ):
        check_sides_stay_apart(keep_graph)


def test_a_discriminator_that_the_generators_step_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def generator_loss(network: torch.nn.Module, reconstruction: Tensor, loss: AdversarialLoss) -> Tensor:
        return loss.generator(network(reconstruction).float())

    monkeypatch.setattr("latent_ae.training.gan.discriminator_side.generator_loss", generator_loss)
    with pytest.raises(AssertionError, match="the generator's step left a gradient on the discriminator"):
        check_sides_stay_apart()


def check_preflight_of_a_codebook() -> None:
    """Commitment trains the encoder side and the codebook term the codes."""
    preflight(make_coded("vq"), PIXELS[:1], torch.zeros(1, 0), CODED)


def check_beta_is_on_the_commitment() -> None:
    """With the default weights codes move at full weight, and vectors are drawn to them at a quarter (van den Oord)."""
    config = resolved(
        RunConfig.model_validate({"bottleneck": {"kind": "vq", "codebook_size": 12}}),
        precision="no",
        device_type="cpu",
    )
    bottleneck = make_coded("vq").model.bottleneck
    h = torch.randn(2, 2, 4, 4).requires_grad_()
    output = bottleneck(h, torch.zeros(2, 0))
    losses = {name: value.mean() for name, value in output.losses.items()}
    codebook = bottleneck.codebook.weight
    sources = torch.autograd.grad(weighted_sum(losses, build.weights_at(None, config.loss)), (h, codebook))
    assert output.codes is not None
    # d/dh of beta * mean((h - e)^2) and d/de of mean((h - e)^2), over 2 * 2 * 4 * 4 values.
    e = codebook.detach()[output.codes].movedim(-1, 1)
    torch.testing.assert_close(sources[0], 0.25 * 2 * (h.detach() - e) / 64)
    flat = (2 * (e - h.detach()) / 64).movedim(1, -1).reshape(-1, 2)
    of_codes = torch.zeros_like(codebook).index_add(0, output.codes.flatten(), flat)
    torch.testing.assert_close(sources[1], of_codes)


def test_commitment_and_codebook_term_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    check_preflight_of_a_codebook()
    own = VQBottleneck.forward

    def forward(self: VQBottleneck, h: Tensor, noise: Tensor) -> BottleneckOutput:
        output = own(self, h, noise)
        losses = {"commitment": output.losses["codebook"], "codebook": output.losses["commitment"]}
        return output._replace(losses=losses)

    monkeypatch.setattr(VQBottleneck, "forward", forward)
    with pytest.raises(PreflightError, match="the commitment term has no gradient in encoder"):
        check_preflight_of_a_codebook()


def test_beta_on_the_wrong_term(monkeypatch: pytest.MonkeyPatch) -> None:
    check_beta_is_on_the_commitment()
    own = build.weights_at

    def swapped(step: int | None, config: LossConfig) -> Weights:
        terms = own(step, config).terms
        return Weights({**terms, "commitment": terms["codebook"], "codebook": terms["commitment"]})

    # Preflight cannot see it, nor can the loss: both terms have the same value.
    monkeypatch.setattr(build, "weights_at", swapped)
    with pytest.raises(AssertionError):
        check_beta_is_on_the_commitment()


def test_a_revived_code_that_keeps_its_old_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    check = test_ema_vq.test_a_revived_code_forgets_where_it_was
    check()
    monkeypatch.setattr(EMAVQBottleneck, "reset_averages", lambda *_: None)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.slow  # trains for a while
def test_lecams_averages_left_out_of_the_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_resume_with_an_adversary(tmp_path)
    own = Adversary.tensors

    def without(self: Adversary) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in own(self).items() if "lecam" not in name}

    monkeypatch.setattr(Adversary, "tensors", without)
    with pytest.raises(AssertionError):
        check_resume_with_an_adversary(tmp_path)
