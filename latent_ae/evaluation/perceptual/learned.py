"""LPIPS, and where the published weights of its backbones are. The only importer of lpips."""

import importlib.metadata
import importlib.resources
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latent_ae.errors import UserError, one_line
from latent_ae.evaluation.perceptual.distance import PerceptualDistance
from latent_ae.evaluation.weight_files import WeightFile
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


class PerceptualWeightsMissing(UserError):  # noqa: N818 - says what is wrong, and callers catch it by that
    """The backbone's weights are neither given, nor cached, nor to be downloaded; the message is one line."""


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
