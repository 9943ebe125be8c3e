"""rFID: how far the reconstructions are from their images as sets, seen by an Inception network.

    images, reconstructions [B, C, H, W] in [-1, 1] --InceptionFeatures--> [B, 2048] --FrechetStatistics--> distance

Needs the extra `fid` (torch-fidelity) and a file of weights, which is never downloaded.
"""

import importlib.metadata
import importlib.util
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from latent_ae.errors import UserError, one_line
from latent_ae.evaluation.metrics.moments import merged, rounded
from latent_ae.evaluation.view import View
from latent_ae.evaluation.weight_files import WeightFile
from latent_ae.io.image import from_tensor

INCEPTION = WeightFile(
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    other_names=("pt_inception-2015-12-05-6726825d.pth",),  # pytorch-fid's
)

_ROUNDED_VALUES = 1 << 22
"""of images that become levels at once"""


class FidUnavailable(UserError):  # noqa: N818 - says what is wrong, and callers catch it by that
    """torch-fidelity is not installed, or no weights are given or cached; the message is one line."""


class InceptionFeatures(nn.Module):
    """The 2048 features that FID is defined on (Heusel et al. 2017), from torchmetrics' network.

    Frozen, always in eval mode. Images are rounded to 8 bits, as files are, and resized to 299x299 as TensorFlow 1 did
    (torchmetrics would antialias by default): the numbers are torch-fidelity's. Grey is repeated to three channels.
    """

    def __init__(self, weights_file: Path | None = None, view: View | None = None) -> None:
        """Weights from `weights_file` (torch-fidelity's or pytorch-fid's .pth), else torch hub's cache.

        `view` says which channels of the images are seen; None: they are grey or RGB.

        Raises FidUnavailable if there are none or torch-fidelity is not installed, UserError for a wrong file.
        """
        super().__init__()
        if importlib.util.find_spec("torch_fidelity") is None:
            raise FidUnavailable('rFID needs torch-fidelity, which is not installed: pip install "latent-ae[fid]"')
        path = INCEPTION.find(weights_file, "evaluation.fid_weights_file")
        if path is None:
            raise FidUnavailable(
                f"rFID needs the Inception weights {INCEPTION.name}: fetch {INCEPTION.address} and put it at "
                f"{INCEPTION.place} or name it in evaluation.fid_weights_file"
            )
        versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torchmetrics", "torch-fidelity"))
        self.protocol = (
            f"{versions}, Inception {INCEPTION.described(path, 'torch-fidelity')}, 2048 features, 8-bit images resized "
            f"to 299x299 as by TensorFlow 1{view or ''}"
        )
        """network, weights and resize: numbers over equally many images may be compared if their protocols are equal"""
        self.view = view
        self.inception = _load(path)

    def train(self, mode: bool = True) -> "InceptionFeatures":  # noqa: ARG002
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W], clamped to [-1, 1] => features [B, 2048] float32; NaN for an image with NaN in it."""
        images = images if self.view is None else self.view(images)
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must be [B, 1 or 3, H, W], got {list(images.shape)}")
        rows = max(1, _ROUNDED_VALUES // max(1, images[:, :, :1].numel()))
        pieces = [torch.from_numpy(from_tensor(piece.nan_to_num())) for piece in images.split(rows, dim=2)]
        levels = torch.cat(pieces, dim=1).movedim(-1, 1).to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            features: Tensor = self.inception(levels.expand(-1, 3, -1, -1))
        return features.masked_fill(images.isnan().flatten(1).any(1)[:, None], torch.nan)


class FrechetStatistics:
    """Gaussians fitted to the features of reconstructions and of their images: float64, one pass, mergeable.

        d^2 = |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2))        (Dowson and Landau 1982; Heusel et al. 2017, eq. 6)

    with means m and covariances S, divided by n - 1. FID is d^2. It falls as images are added (its bias is about 1/n),
    so it compares only between equally many images. Pairs with a feature that is not finite are counted and left out.
    """

    def __init__(self) -> None:
        self.images = 0
        """pairs in the statistics"""
        self.nonfinite_images = 0
        """pairs left out"""
        self._reconstructions: _Gaussian | None = None
        self._targets: _Gaussian | None = None

    def update(self, reconstructions: Tensor, targets: Tensor) -> None:
        """Add the features of a batch of reconstructions and of their images, [B, D] each.

        Raises ValueError for other shapes.
        """
        if reconstructions.shape != targets.shape or targets.ndim != 2:
            raise ValueError(
                f"features must be [B, D] of one shape, got {list(reconstructions.shape)} and {list(targets.shape)}"
            )
        pair = torch.stack([reconstructions.detach(), targets.detach()]).to("cpu").to(torch.float64)
        finite = pair.isfinite().all(2).all(0)
        batch = FrechetStatistics()
        batch.images, batch.nonfinite_images = int(finite.sum()), int((~finite).sum())
        if batch.images:
            batch._reconstructions, batch._targets = (_Gaussian.of(features[finite]) for features in pair)
        self.merge(batch)

    def merge(self, other: "FrechetStatistics") -> None:
        """Add the images of `other`, with as many features."""
        self._reconstructions = merged(self._reconstructions, other._reconstructions)
        self._targets = merged(self._targets, other._targets)
        self.images += other.images
        self.nonfinite_images += other.nonfinite_images

    def fid(self) -> float:
        """d^2, to 9 digits. Raises ValueError, one line, if an image was left out or there are fewer than 2."""
        if self.nonfinite_images:
            total = self.images + self.nonfinite_images
            raise ValueError(f"{self.nonfinite_images} of {total} images gave features that are not finite")
        if self._reconstructions is None or self._targets is None or self.images < 2:
            raise ValueError(f"needs two images or more, got {self.images}")
        return rounded(_frechet_distance(self._reconstructions, self._targets))


@dataclass(frozen=True)
class _Gaussian:
    """Count, mean [D] and scatter [D, D], the sum of (x - mean)(x - mean)^T, float64."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "_Gaussian":
        mean = features.mean(0)
        return cls(len(features), mean, (features - mean).T @ (features - mean))

    def merged(self, other: "_Gaussian") -> "_Gaussian":
        """Chan, Golub and LeVeque 1983, as `Moments.merged`."""
        count = self.count + other.count
        delta = other.mean - self.mean
        between = torch.outer(delta, delta) * (self.count * other.count / count)
        return _Gaussian(count, self.mean + delta * (other.count / count), self.scatter + other.scatter + between)

    def root(self) -> Tensor:
        """R [D, rank] with R R^T = S.

        Fewer images than features leave eigenvalues that are 0 but for rounding; thousands of their square roots
        would come to something.
        """
        values, vectors = torch.linalg.eigh(self.scatter / (self.count - 1))
        kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
        root: Tensor = vectors[:, kept] * values[kept].sqrt()
        return root


def _frechet_distance(one: _Gaussian, other: _Gaussian) -> float:
    """d^2, by Tr (S1 S2)^(1/2) = the sum of the singular values of R1^T R2, which needs no root of a noisy product."""
    roots = one.root(), other.root()
    spread = sum(float(root.square().sum()) for root in roots)
    shared = float(torch.linalg.svdvals(roots[0].T @ roots[1]).sum())
    return max(0.0, float((one.mean - other.mean).square().sum()) + spread - 2 * shared)  # below 0 by rounding alone


def _load(path: Path) -> nn.Module:
    """The network of torchmetrics with the weights of a file, every one of them."""
    try:  # torch-fidelity unpickles whatever it is given, so the file is first read without running what is in it
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"cannot read the weights in {path}: {one_line(error)[:300]}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path} must hold tensors by name (a state dict), got {type(tensors).__name__}")
    from torchmetrics.image.fid import NoTrainInceptionV3  # noqa: PLC0415 - takes seconds that others need not spend

    try:
        with torch.random.fork_rng(devices=[]):  # it is built at random before the weights are put in
            return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=False)
    except RuntimeError as error:  # a name or a shape does not fit
        raise UserError(
            f"{path} holds other weights than {INCEPTION.name}: {one_line(error)[:300]}; give {INCEPTION.address}"
        ) from error
