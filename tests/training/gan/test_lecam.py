import pytest
import torch
from safetensors.torch import load, save

from latent_ae.training.gan.losses import LeCam
from tests.training.gan.test_losses import FAKE, REAL


def test_lecam_by_hand() -> None:
    lecam = LeCam(decay=0.75)
    assert lecam(REAL, FAKE).tolist() == [0.0, 0.0]
    lecam.after_update(0.5, -0.5)
    # relu(real + .5) and relu(.5 - fake): 2.5, 1 and .5, 3.5 in the first image, 0, 3.5 and 0, 1 in the second.
    by_hand = [(6.25 + 1.0 + 0.25 + 12.25) / 2, (0.0 + 12.25 + 0.0 + 1.0) / 2]
    assert lecam(REAL, FAKE).tolist() == pytest.approx(by_hand)
    lecam.after_update(3.0, 1.0)
    assert (lecam.mean_real.item(), lecam.mean_fake.item()) == pytest.approx((1.125, -0.125))


def test_lecams_averages_survive_a_file_and_its_forward_does_not_move_them() -> None:
    lecam, other = LeCam(), LeCam()
    lecam.after_update(0.3, -0.7)
    lecam.after_update(0.1, -0.9)
    other.load_state_dict(load(save(lecam.state_dict())))
    assert torch.equal(other(REAL, FAKE), lecam(REAL, FAKE))
    for module in (lecam, other):
        module.after_update(0.2, -0.2)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in lecam.state_dict().items())


def test_a_decay_that_never_ends_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1.0"):
        LeCam(decay=1.0)
