"""The patch discriminator of adversarial training, and its folder on disk.

B C H W: images, channels, height and width in pixels. P Q: rows and columns of the logits map.
"""

import json
from pathlib import Path
from typing import Literal, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from latent_ae.errors import one_line
from latent_ae.io.atomic import placed
from latent_ae.io.model_place import result_in
from latent_ae.models.errors import ModelError
from latent_ae.randomness import torch_generator

Normalization = Literal["group", "none"]

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_SETTINGS = ("in_channels", "layers", "width", "normalization")
_INITIAL_DEVIATION = 0.02


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, section 3.2.2) in the arrangement of latent-diffusion and taming-transformers.

        pixels [B,C,H,W] -> conv s2 -> (conv s2, norm) x (layers - 1) -> conv s1, norm -> conv s1 -> logits [B,1,P,Q]

    Every convolution is 4x4 with padding 1, each but the last followed by LeakyReLU(0.2). Widths double from `width`
    up to 8 times it. With 3 layers a logit sees 70x70 pixels, and 256x256 pixels give 30x30 logits.

    The originals normalise over the batch, which makes a logit depend on the other images, and on how the global batch
    is split over processes. Group normalisation (Wu & He 2018) is per image; a logit then still sees the rest of its
    own image through the group's mean and variance. "none" leaves even that out, and gives the convolutions biases.

    Args:
        in_channels: colour channels C of the images.
        layers: convolutions of stride 2.
        width: channels after the first convolution.
        normalization: "group" or "none".
        seed: the weights follow from it: N(0, 0.02), biases 0 (Isola et al. 2017, section 6.2).

    Raises ModelError for arguments that give no network.
    """

    def __init__(
        self, in_channels: int, layers: int = 3, width: int = 64, normalization: Normalization = "group", *, seed: int
    ) -> None:
        super().__init__()
        if min(in_channels, layers, width) < 1:
            raise ModelError(
                "a discriminator needs in_channels, layers and width of 1 or more, "
                f"got in_channels {in_channels}, layers {layers}, width {width}"
            )
        if normalization not in get_args(Normalization):
            raise ModelError(
                f"unknown discriminator normalization {normalization!r}; there are {', '.join(get_args(Normalization))}"
            )
        self.in_channels, self.layers, self.width, self.normalization = in_channels, layers, width, normalization
        # A layer draws its own start weights before it gets ours; the fork keeps the global generator where it was.
        with torch.random.fork_rng(devices=[]):
            self.network = nn.Sequential(*self._modules_in_order())
        generator = torch_generator(seed, "discriminator")
        for module in self.network:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, _INITIAL_DEVIATION, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B,C,H,W] in [-1, 1] => logits [B,1,P,Q], positive for real.

        P = H // 2**layers - 2 and Q likewise. Raises ModelError for other channels or a side under `minimum_side`.
        """
        _, channels, height, width = pixels.shape
        if channels != self.in_channels:
            raise ModelError(f"the discriminator takes images of {self.in_channels} channels, got {channels}")
        if min(height, width) < (least := minimum_side(self.layers)):
            raise ModelError(
                f"a discriminator of {self.layers} layers needs sides of at least {least} pixels, "
                f"got {height}x{width}: take larger images or fewer layers"
            )
        logits: Tensor = self.network(pixels)
        return logits

    def settings(self) -> dict[str, int | str]:
        """The arguments that shape it, by name."""
        return {name: getattr(self, name) for name in _SETTINGS}

    def _modules_in_order(self) -> list[nn.Module]:
        modules: list[nn.Module] = [nn.Conv2d(self.in_channels, self.width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        before = self.width
        for level in range(1, self.layers + 1):
            after = self.width * min(2**level, 8)
            normalized = self.normalization == "group"
            stride = 2 if level < self.layers else 1
            modules.append(nn.Conv2d(before, after, 4, stride, 1, bias=not normalized))
            if normalized:
                modules.append(nn.GroupNorm(_groups(after), after))
            modules.append(nn.LeakyReLU(0.2, inplace=True))
            before = after
        return [*modules, nn.Conv2d(before, 1, 4, 1, 1)]


def minimum_side(layers: int) -> int:
    """The smallest image side in pixels that gives a logit: layers halvings, then two convolutions that take 1 each."""
    return int(3 * 2**layers)


def save_discriminator(folder: Path, discriminator: PatchDiscriminator) -> None:
    """Write a folder of config.json and model.safetensors, in place of an earlier one. Raises OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in discriminator.state_dict().items()}
    config = {"_class_name": PatchDiscriminator.__name__, **discriminator.settings()}
    with placed([folder], replace=True) as beside:
        made = beside / folder.name
        made.mkdir()
        safetensors.torch.save_file(tensors, made / _WEIGHTS)
        (made / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_discriminator(folder: Path, *, in_channels: int) -> PatchDiscriminator:
    """The discriminator in its folder or its run's, in float32 on the CPU, for images of `in_channels` channels.

    Raises ModelError if there is none, if it takes other images, or if its weights are not those of its config.
    """
    folder = result_in(folder, "discriminator")
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} is no discriminator: it has no {name}; give a folder with {_CONFIG} and {_WEIGHTS}"
            )
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if config["_class_name"] != PatchDiscriminator.__name__:
            raise ModelError(f"its class is {config['_class_name']}")
        discriminator = PatchDiscriminator(**{name: config[name] for name in _SETTINGS}, seed=0)  # replaced below
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)
        raise ModelError(f"{folder / _CONFIG} does not describe a {PatchDiscriminator.__name__}: {reason}") from None
    if discriminator.in_channels != in_channels:
        raise ModelError(
            f"the discriminator in {folder} takes images of {discriminator.in_channels} channels, "
            f"the run has images of {in_channels}"
        )
    file = folder / _WEIGHTS
    try:
        discriminator.load_state_dict(safetensors.torch.load_file(file))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the weights in {file}: {one_line(error)}") from None
    except RuntimeError as error:  # torch names every tensor that is missing, unexpected or of another shape
        raise ModelError(f"{file} does not fit its {_CONFIG}: {one_line(error)}") from None
    return discriminator


def _groups(channels: int) -> int:
    # With fewer than 4 channels a group a narrow network would normalise every channel by itself, which takes the
    # contrast out of an image, and has no variance at all where the map is a single position.
    candidates = (32, 16, 8, 4, 2, 1)
    return max(n for n in candidates if channels % n == 0 and (n == 1 or channels >= 4 * n))
