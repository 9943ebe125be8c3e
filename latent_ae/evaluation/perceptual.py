"""Perceptual distances between images: a loss term and a metric, from one table. The only importer of lpips.

B C H W: images, colour channels, height and width in pixels.
"""

import importlib.metadata
import importlib.resources
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_ae.errors import UserError, one_line
from latent_ae.evaluation.metrics.windows import windows
from latent_ae.evaluation.view import View
from latent_ae.evaluation.weight_files import WeightFile
from latent_ae.io.image import Color
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models.tensor_file import read_tensors

_PUBLIC_WEIGHTS = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""torchvision's IMAGENET1K_V1, on which LPIPS was calibrated: said here, as importing torchvision takes a second"""
_MINIMUM_SIDE = {"vgg": 16, "alex": 31, "squeeze": 17}  # below it a pooling layer has nothing left to pool
_STRIDES = {"vgg": (1, 2, 4, 8, 16), "alex": (4, 8, 16, 16, 16), "squeeze": (2, 4, 8, 16, 16, 16, 16)}
"""pixels of the image between the values of each layer"""
_MARGIN = 128
"""pixels around a part of an image that its features depend on, at most: half of squeeze's 207, and what lies beside"""
_FLOATS_PER_PIXEL = {"vgg": 400, "alex": 40, "squeeze": 100}
_WINDOW = 512
"""pixels a side of the parts of a large image"""
_RANDOM_SEED = 0
_RANDOM_WIDTHS = (16, 32, 64)


class PerceptualWeightsMissing(UserError):  # noqa: N818 - says what is wrong, and callers catch it by that
    """The backbone's weights are neither given, nor cached, nor to be downloaded; the message is one line."""


class PerceptualDistance(nn.Module):
    """Distance between the features of two images. Subclasses bring `_features`, `_distance` and `_maps`.

    Frozen, always in eval mode. The network may run under autocast; what is computed from its features is float32.
    """

    strides: tuple[int, ...]
    """pixels between the values of each layer, powers of two that grow"""
    margin: int
    """pixels around a part of an image that its features depend on, a multiple of the last stride"""
    floats_per_pixel: int
    """values that are held at once for a pixel of a pair of images, in about"""

    def __init__(self, *, image_channels: int, minimum_side: int, protocol: str) -> None:
        super().__init__()
        if image_channels not in (1, 3):
            raise ValueError(f"image_channels must be 1 or 3, got {image_channels}")
        self.image_channels = image_channels
        self.minimum_side = minimum_side
        """images with a smaller side, in pixels, have no distance"""
        self.protocol = protocol
        """network and weights: two numbers may be compared if their protocols are equal"""
        self.view: View | None = None

    @property
    def window_pixels(self) -> int:
        """Of a part of a large image with its margin."""
        return (_WINDOW + 2 * self.margin) ** 2

    def seeing(self, view: View) -> "PerceptualDistance":
        """The same distance, of images that it sees through `view`."""
        self.view = view
        self.protocol += str(view)
        return self

    def train(self, mode: bool = True) -> "PerceptualDistance":  # noqa: ARG002
        """Stays in eval mode: a loss inside a module that is switched to training must not change."""
        return super().train(False)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Per-image distance [B] float32 of two [B, C, H, W] batches in [-1, 1]; 0 for identical images.

        Gradient reaches `reconstruction` alone. Raises ValueError for another shape or a side under `minimum_side`.
        """
        if self.view is not None:
            reconstruction, target = self.view(reconstruction), self.view(target)
        shape = reconstruction.shape
        if shape != target.shape or len(shape) != 4 or shape[1] != self.image_channels:
            raise ValueError(
                f"perceptual distance takes two [B, {self.image_channels}, H, W] batches of one shape, "
                f"got {tuple(shape)} and {tuple(target.shape)}"
            )
        if min(shape[2:]) < self.minimum_side:
            raise ValueError(
                f"{self.protocol.split(',')[0]} needs sides of at least {self.minimum_side} pixels, got images of "
                f"{shape[2]}x{shape[3]}: use larger images or random_features"
            )
        with torch.no_grad():
            wanted = self._features(target.float())
        got = self._features(reconstruction.float())
        return self._distance([feature.float() for feature in got], [feature.float() for feature in wanted])

    @torch.no_grad()
    def in_windows(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """The distance [B] float64 of two large [B, C, H, W] in [-1, 1], of sides that `forward` takes, in bounded
        memory: the same up to the order of sums.
        """
        size = (target.shape[2], target.shape[3])
        sums = [torch.zeros(len(target), dtype=torch.float64, device=target.device) for _ in self.strides]
        counts = [0] * len(sums)
        for window in windows(size, side=_WINDOW, margin=self.margin):
            wanted, got = (
                [
                    window.without_margin(feature, size, stride).float().contiguous()
                    for feature, stride in zip(self._seen_features(window.of(images)), self.strides, strict=True)
                ]
                for images in (target, reconstruction)
            )
            for layer, values in enumerate(self._maps(got, wanted)):
                sums[layer] += values.sum((1, 2), dtype=torch.float64)
                counts[layer] += values[0].numel()
        return torch.stack([total / count for total, count in zip(sums, counts, strict=True)]).sum(0)

    def _seen_features(self, images: Tensor) -> list[Tensor]:
        seen = (images if self.view is None else self.view(images)).float()
        return self._features(seen.contiguous(memory_format=torch.channels_last))  # for CPUs, a quarter faster

    def _features(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError  # abstract: every distance has its own, and the two below

    def _distance(self, got: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """[B] from float32 features, without any operation that autocast would take to half precision."""
        raise NotImplementedError

    def _maps(self, got: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
        """[B, h, w] of each layer: the distance is the sum of their means."""
        raise NotImplementedError


class RandomFeatures(PerceptualDistance):
    """Squared differences of the features of a fixed random network: needs no weights file and no download.

    Liu et al. (CVPR 2021, "Generic Perceptual Loss for Modeling Structured Output Dependencies"): the structure of a
    randomly initialised VGG-like network already carries the dependence between neighbouring pixels. Three stages of
    two 3x3 convolutions with ReLU and no bias, 16, 32 and 64 wide, 2x average pooling between; He-normal weights.
    Unlike theirs the first kernels sum to 0: brightness, the pixel loss's task, would outweigh blur tenfold.

        d(a, b) = 1/3 * sum over stages k of  mean over positions and channels of (f_k(a) - f_k(b))^2 / s_k^2

    s_k^2 is the same mean over pairs of N(0, 1) noise images: such a pair is at distance 1 in every stage, so that no
    stage is lost beside another. On photographs, blur and noise come to about twice their mean squared error.
    """

    def __init__(self, *, image_channels: int, weights_file: Path | None = None) -> None:
        if weights_file is not None:
            raise UserError(f"random_features has no weights file, got {weights_file}: leave it out")
        super().__init__(
            image_channels=image_channels,
            minimum_side=4,
            protocol=f"random_features v1 (16-32-64), seed {_RANDOM_SEED}, {image_channels} channels",
        )
        self.strides, self.margin, self.floats_per_pixel = (1, 2, 4), 16, 100
        generator = torch.Generator().manual_seed(_RANDOM_SEED)
        draw = partial(torch.randn, generator=generator, dtype=torch.float32, device="cpu")
        self.kernels = nn.ParameterList()
        before = image_channels
        for width in _RANDOM_WIDTHS:
            for _ in range(2):
                kernel = draw(width, before, 3, 3) * math.sqrt(2 / (9 * before))
                if not len(self.kernels):
                    kernel = kernel - kernel.mean((2, 3), keepdim=True)
                self.kernels.append(kernel)
                before = width
        self.scales: Tensor
        self.register_buffer("scales", torch.ones(len(_RANDOM_WIDTHS)))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            one, other = (self._features(draw(4, image_channels, 64, 64)) for _ in range(2))
            self.scales = torch.stack([(a - b).square().mean() for a, b in zip(one, other, strict=True)])
        self.requires_grad_(False).eval()

    def _features(self, images: Tensor) -> list[Tensor]:
        stages = []
        for stage in range(len(_RANDOM_WIDTHS)):
            if stage:
                images = F.avg_pool2d(images, 2)
            for kernel in self.kernels[2 * stage : 2 * stage + 2]:
                # repeating the border keeps it from looking like an edge, which zeros would
                images = F.relu(F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel), inplace=True)
            stages.append(images)
        return stages

    def _distance(self, got: list[Tensor], wanted: list[Tensor]) -> Tensor:
        stages = [(a - b).square().mean((1, 2, 3)) for a, b in zip(got, wanted, strict=True)]
        return (torch.stack(stages) / self.scales[:, None]).mean(0)

    def _maps(self, got: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
        weights = 1 / (len(self.scales) * self.scales)
        return [(a - b).square().mean(1) * weight for a, b, weight in zip(got, wanted, weights, strict=True)]


class LearnedPerceptual(PerceptualDistance):
    """LPIPS v0.1 (Zhang et al., CVPR 2018, eq. 1), equal to `lpips.LPIPS` with the same weights.

    d(a, b) = sum over layers l of mean over positions of w_l . (u_l(a) - u_l(b))^2, where u_l are the features of unit
    length over the channels and w_l the calibrated heads that lpips ships. Grey images are repeated to three channels.
    """

    def __init__(self, name: str, *, image_channels: int, weights_file: Path | None = None) -> None:
        path = _find_weights(name, weights_file)
        backbone = backbone_file(name).described(path, "torchvision")
        super().__init__(
            image_channels=image_channels,
            minimum_side=_MINIMUM_SIDE[name],
            protocol=f"lpips {importlib.metadata.version('lpips')} {name}, heads v0.1, backbone {backbone}",
        )
        self.strides, self.margin, self.floats_per_pixel = _STRIDES[name], _MARGIN, _FLOATS_PER_PIXEL[name]
        self.lpips = _empty_lpips(name)
        loaded = {f"net.{key}": value for key, value in _backbone(self.lpips.net, path).items()}
        loaded |= _heads(name, self.lpips)
        loaded |= {key: value for key, value in self.lpips.state_dict().items() if key.startswith("scaling_layer.")}
        self.lpips.load_state_dict(loaded, strict=True, assign=True)
        self.requires_grad_(False).eval()

    def _features(self, images: Tensor) -> list[Tensor]:
        return list(self.lpips.net(self.lpips.scaling_layer(images.expand(-1, 3, -1, -1))))

    def _distance(self, got: list[Tensor], wanted: list[Tensor]) -> Tensor:
        total = got[0].new_zeros(len(got[0]))
        for values in self._maps(got, wanted):
            total = total + values.mean((1, 2))
        return total

    def _maps(self, got: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
        # the head is a 1x1 convolution; as a product it stays float32 where convolutions may use TF32
        return [
            ((_unit_length(a) - _unit_length(b)).square() * head.model[1].weight).sum(1)
            for head, a, b in zip(self.lpips.lins, got, wanted, strict=True)
        ]


def _unit_length(features: Tensor) -> Tensor:
    """lpips.normalize_tensor."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def backbone_file(name: str) -> WeightFile:
    """The published weights of the backbone vgg, alex or squeeze."""
    return WeightFile(_public_address(name))


def _public_address(name: str) -> str:
    return f"https://download.pytorch.org/models/{_PUBLIC_WEIGHTS[name]}"


def _empty_lpips(name: str) -> Any:
    """The modules of `lpips.LPIPS` on the meta device: no memory, no random numbers, no download, nothing printed."""
    import lpips  # noqa: PLC0415 - takes seconds (torchvision, scipy) that random_features need not spend

    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")  # lpips passes pretrained=False
        return lpips.LPIPS(net=name, version="0.1", pretrained=False, pnet_rand=True, verbose=False)


def _find_weights(name: str, given: Path | None) -> Path:
    """The backbone's file: the one given, else the cached one, else its download."""
    file = backbone_file(name)
    if (found := file.find(given, "loss.perceptual_weights_file")) is not None:
        return found
    try:
        return file.download()
    except (OSError, RuntimeError) as error:
        raise PerceptualWeightsMissing(
            f"the {name} perceptual distance needs {file.name}, which could not be downloaded ({one_line(error)}): "
            f"fetch {file.address} and put it at {file.place} or name it in loss.perceptual_weights_file, or choose "
            "random_features, which needs no weights"
        ) from error


def _backbone(net: nn.Module, path: Path) -> dict[str, Tensor]:
    """The tensors of lpips' backbone from torchvision's file: its slice2.5.weight is their features.5.weight."""
    names = {key: f"features.{key.partition('.')[2]}" for key in net.state_dict()}
    return _take(path, names, net, "give torchvision's file for this backbone")


def _heads(name: str, module: nn.Module) -> dict[str, Tensor]:
    """The calibrated linear heads inside lpips, under both names that `lpips.LPIPS` has for each: lins.0 and lin0."""
    path = Path(str(importlib.resources.files("lpips") / "weights" / "v0.1" / f"{name}.pth"))
    names = {key: key.replace("lins.", "lin") for key in module.state_dict() if key.startswith("lin")}
    return _take(path, names, module, "reinstall lpips")


def _take(path: Path, names: dict[str, str], module: nn.Module, advice: str) -> dict[str, Tensor]:
    """`module`'s tensors out of a file; `names` says what each is called there. Raises UserError if one is not."""
    tensors, expected = read_tensors(path), module.state_dict()
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    wrong = [
        f"{theirs} is {tuple(tensors[theirs].shape)} and must be {tuple(expected[ours].shape)}"
        for ours, theirs in names.items()
        if theirs in tensors and tensors[theirs].shape != expected[ours].shape
    ]
    if missing or wrong:
        problems = [f"it lacks {_some(missing)}"] * bool(missing) + [_some(wrong)] * bool(wrong)
        raise UserError(f"{path} holds other weights: {'; '.join(problems)}; {advice}")
    return {ours: tensors[theirs].float() for ours, theirs in names.items()}


def _some(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


PERCEPTUAL: dict[str, Callable[..., PerceptualDistance]] = {
    "random_features": RandomFeatures,
    "vgg": partial(LearnedPerceptual, "vgg"),
    "alex": partial(LearnedPerceptual, "alex"),
    "squeeze": partial(LearnedPerceptual, "squeeze"),
}


def build_perceptual(name: str, *, image_channels: int, weights_file: Path | None = None) -> PerceptualDistance:
    """The distance called `name` for images of `image_channels` (1 or 3) colour channels.

    LPIPS takes its backbone from `weights_file` (torchvision's state dict, .pth or .safetensors), else torchvision's
    cache, else its download. Raises PerceptualWeightsMissing if there is none, UserError for a wrong file or name.
    """
    if name not in PERCEPTUAL:
        raise UserError(f"unknown perceptual distance {name!r}: choose from {', '.join(PERCEPTUAL)}")
    return PERCEPTUAL[name](image_channels=image_channels, weights_file=weights_file)


def distance_of(
    name: str, pixels: PixelFormat, *, background: Color, weights_file: str | None, setting: str
) -> PerceptualDistance:
    """The distance called `name`, in `setting`, for images of any channels, of which it sees those that are shown.

    Raises UserError where these are not chosen, and as `build_perceptual`.
    """
    view = View.chosen(pixels, background, f"{setting} {name}")
    file = None if weights_file is None else Path(weights_file)
    return build_perceptual(name, image_channels=view.channels, weights_file=file).seeing(view)
