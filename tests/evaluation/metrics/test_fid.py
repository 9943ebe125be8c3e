"""rFID against numbers worked out by hand, scipy, torchmetrics and torch-fidelity; weights are never random."""

import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from latent_ae.errors import UserError
from latent_ae.evaluation.metrics import fid
from latent_ae.evaluation.metrics.fid import FidUnavailable, FrechetStatistics, InceptionFeatures
from latent_ae.evaluation.view import View
from latent_ae.evaluation.weight_files import WeightFile
from latent_ae.io.pixel_format import PixelFormat

pytestmark = pytest.mark.slow  # builds and hashes 95 MB of weights


def features(images: int, size: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Correlated, and of different means and scales."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(2, size, size, generator=generator, dtype=torch.float64) / math.sqrt(size)
    draws = torch.randn(2, images, size, generator=generator, dtype=torch.float64)
    one, other = draws @ mixing
    return 1.5 * one + 0.5, other


def measured(reconstructions: Tensor, targets: Tensor, *, cuts: tuple[int, ...] = ()) -> FrechetStatistics:
    statistics = FrechetStatistics()
    for first, last in zip((0, *cuts), (*cuts, len(targets)), strict=True):
        statistics.update(reconstructions[first:last], targets[first:last])
    return statistics


def test_by_hand() -> None:
    """One feature: 0 and 2 against 1 and 5. Means 1, 3; variances 2, 8: 4 + 2 + 8 - 2 sqrt(16) = 6."""
    assert measured(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])).fid() == pytest.approx(6)


def test_is_scipys_and_torchmetrics() -> None:
    one, other = features(60, 5)
    covariances = np.cov(one.T.numpy()), np.cov(other.T.numpy())
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = float((one.mean(0) - other.mean(0)).square().sum()) + np.trace(
        covariances[0] + covariances[1] - 2 * root
    )
    got = measured(one, other, cuts=(7, 30)).fid()
    assert got == pytest.approx(expected, rel=1e-8)
    given = nn.Identity()
    given.num_features = torch.tensor(5)
    stock = FrechetInceptionDistance(feature=given)
    stock.update(other, real=True)
    stock.update(one, real=False)
    assert got == pytest.approx(float(stock.compute()), rel=1e-8)


def test_identical_sets_are_at_no_distance_with_fewer_images_than_features() -> None:
    one, other = features(6, 400)
    assert measured(other, other).fid() == pytest.approx(0, abs=1e-10)
    assert measured(one, other).fid() > 1


def test_fewer_images_than_features_by_hand() -> None:
    """Features that share no direction: the root's trace is 0, so that rounding would show."""
    one, other = features(4, 300)
    one[:, 3:], other[:, :3] = 0, 0
    variances = sum(np.trace(np.cov(x.T.numpy())) for x in (one, other))
    expected = float((one.mean(0) - other.mean(0)).square().sum()) + variances
    assert measured(one, other).fid() == pytest.approx(expected, rel=1e-8)


def test_any_split_is_the_same() -> None:
    one, other = features(20, 30)
    whole = measured(one, other)
    parts = [measured(one[i::3], other[i::3], cuts=(1,)) for i in range(3)]
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = FrechetStatistics()
        for i in order:
            merged.merge(parts[i])
        assert (merged.fid(), merged.images) == (whole.fid(), 20)


def test_what_cannot_be_measured_is_refused() -> None:
    one, other = features(4, 3)
    with pytest.raises(ValueError, match="needs two images or more, got 0"):
        FrechetStatistics().fid()
    statistics = measured(one[:1], other[:1])
    with pytest.raises(ValueError, match="needs two images or more, got 1"):
        statistics.fid()
    with pytest.raises(RuntimeError, match="size of tensor"):
        statistics.update(one[:, :2], other[:, :2])
    with pytest.raises(ValueError, match=r"must be \[B, D\] of one shape, got \[4, 3\] and \[3, 3\]"):
        statistics.update(one, other[:3])
    one[2, 1] = math.nan
    statistics.update(one, other)
    assert (statistics.images, statistics.nonfinite_images) == (4, 1)
    with pytest.raises(ValueError, match="1 of 5 images gave features that are not finite"):
        statistics.fid()


def shapes(folder: Path) -> dict[str, Tensor]:
    """Torch-fidelity's own network, on the meta device."""

    class Empty(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: object, **kwargs: object) -> None:
            """Weights come from no file."""

    torch.save({}, folder / "empty.pth")
    with torch.device("meta"):
        return Empty("inception-v3-compat", ["2048"], str(folder / "empty.pth")).state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """He-normal weights under torch-fidelity's names; batch normalisation that leaves values as they are."""
    folder = tmp_path_factory.mktemp("weights")
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, value in shapes(folder).items():
        if value.ndim > 1:
            state[name] = torch.randn(value.shape, generator=generator) * math.sqrt(2 / value[0].numel())
        else:
            state[name] = torch.full(value.shape, int(name.endswith((".weight", "running_var"))), dtype=value.dtype)
    torch.save(state, folder / "inception.pth")
    return folder / "inception.pth"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def photographs(images: int) -> Tensor:
    """Smooth pictures with 8-bit levels in [-1, 1]."""
    generator = torch.Generator().manual_seed(2)
    small = torch.rand(images, 3, 6, 6, generator=generator)
    return (nn.functional.interpolate(small, (48, 40), mode="bilinear") * 255).round() / 127.5 - 1


def test_features_are_torch_fidelitys(weights: Path) -> None:
    state = torch.get_rng_state()
    network = InceptionFeatures(weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert hashlib.sha256(weights.read_bytes()).hexdigest()[:16] in network.protocol
    assert "(not torch-fidelity's weights-inception-2015-12-05-6726825d.pth)" in network.protocol
    images = photographs(2)
    images[1] = 3 * images[1, :1]  # grey, and to be clamped
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    (expected,) = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights))(levels)
    network.train()
    with torch.autocast("cpu", torch.bfloat16):
        got = network(images.requires_grad_())
    assert got.shape == (2, 2048)
    assert not got.requires_grad
    assert expected.std() > 1e-3
    torch.testing.assert_close(got, expected)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_grey_is_repeated_and_nan_is_kept(weights: Path) -> None:
    network = InceptionFeatures(weights)
    images = photographs(2)[:, :1]
    images[0, 0, 5, 5] = math.nan
    got = network(images)
    assert got.isnan().all(1).tolist() == [True, False]
    torch.testing.assert_close(network(images[1:].repeat(1, 3, 1, 1)), got[1:])
    with pytest.raises(ValueError, match=r"must be \[B, 1 or 3, H, W\], got \[3, 2, 8, 8\]"):
        network(torch.zeros(3, 2, 8, 8))
    bands = PixelFormat(5, numbers=True, rgb=(4, 2, 1))
    network.view = View(bands)
    five = torch.cat([images[1:].repeat(1, 4, 1, 1), torch.ones(1, 1, 48, 40)], 1)
    torch.testing.assert_close(network(five), got[1:])


def test_the_whole_is_torchmetrics(weights: Path) -> None:
    images = photographs(3)
    blurred = nn.functional.avg_pool2d(images, 5, 1, 2)
    network = InceptionFeatures(weights)
    statistics = FrechetStatistics()
    for part in (slice(0, 2), slice(2, 3)):
        statistics.update(network(blurred[part]), network(images[part]))
    stock = FrechetInceptionDistance(feature_extractor_weights_path=str(weights), antialias=False)
    for real, batch in ((True, images), (False, blurred)):
        stock.update(((batch + 1) * 127.5 + 0.5).floor().to(torch.uint8), real=real)
    expected = float(stock.compute())
    assert expected > 0.01
    assert statistics.fid() == pytest.approx(expected, rel=1e-3)


def test_weights_that_cannot_be_had(empty_cache: Path) -> None:
    with pytest.raises(FidUnavailable) as error:
        InceptionFeatures()
    message = one_line(error)
    for part in (fid.INCEPTION.address, str(empty_cache), "evaluation.fid_weights_file"):
        assert part in message
    assert not list(empty_cache.iterdir())


def test_torch_fidelity_that_is_not_installed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(FidUnavailable) as error:
        InceptionFeatures(weights)
    assert 'pip install "latent-ae[fid]"' in one_line(error)


@pytest.mark.parametrize("name", [fid.INCEPTION.name, *fid.INCEPTION.other_names])
def test_cached_weights_are_checked_and_used(
    name: str, empty_cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_cache / name).hardlink_to(weights)
    with pytest.raises(UserError, match="is damaged: its sha256 does not begin with 6726825d") as error:
        InceptionFeatures()
    assert str(empty_cache / name) in one_line(error)
    (empty_cache / name).unlink()
    ours = name.replace("6726825d", hashlib.sha256(weights.read_bytes()).hexdigest()[:8])
    (empty_cache / ours).hardlink_to(weights)
    monkeypatch.setattr(fid, "INCEPTION", WeightFile(f"https://example.org/{ours}"))
    protocol = InceptionFeatures().protocol
    assert ours in protocol
    assert "not torch-fidelity's" not in protocol


def test_wrong_files_are_refused(weights: Path, tmp_path: Path) -> None:
    incomplete, reshaped, nested = (tmp_path / f"{name}.pth" for name in ("incomplete", "reshaped", "nested"))
    zeros = {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape)  # a file of one number a tensor
        for name, value in shapes(tmp_path).items()
    }
    torch.save({"fc.bias": zeros["fc.bias"]}, incomplete)
    torch.save(zeros | {"fc.weight": torch.zeros(1000, 2048)}, reshaped)
    torch.save({"state_dict": zeros, "epoch": 3}, nested)
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("not found\nsorry")
    torch.save({"fc.bias": Path("x")}, tmp_path / "code.pth")
    for file, expected in {
        tmp_path / "absent.pth": "is not a file",
        incomplete: "holds other weights .* Missing key",
        reshaped: "holds other weights .* size mismatch for fc.weight",
        nested: "must hold tensors by name",
        tmp_path / "cut.pth": "cannot read the weights",
        tmp_path / "text.pth": "cannot read the weights",
        tmp_path / "code.pth": "cannot read the weights",  # an object that would be built while it is unpickled
    }.items():
        with pytest.raises(UserError, match=expected) as error:
            InceptionFeatures(file)
        assert str(file) in one_line(error)
