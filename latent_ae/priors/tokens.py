"""A causal transformer over the codes of a VQModel, in raster order and by class: DALL-E's second stage, small.

    loss = mean over images and positions of -log p(code_i | class, codes before it), in nats

(van den Oord et al. 2017 draw codes with a PixelCNN; Ramesh et al. 2021 with a transformer.) The result is a stock
folder of the library transformers, of which `latent-ae sample` draws.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from latent_ae.config.section import Count, Share
from latent_ae.export.proof import ProofFailed
from latent_ae.io.image import Pixels, image_grid
from latent_ae.latent_dataset import LatentDataset
from latent_ae.models.bottlenecks.quantizer import stock_codebook
from latent_ae.models.encode_decode import decode_latents, inference
from latent_ae.models.learned_prior import DrawOptions
from latent_ae.models.token_prior import TokenPrior, build_network, code_nats, load_token_prior, quiet_transformers
from latent_ae.priors.prior import SAMPLES, Batch, Prior, PriorConfig, Samples
from latent_ae.priors.source import LatentSource, LatentSourceError, open_latents

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

_ROWS, _COLUMNS = 10, 16
_MEASURED = 1024
"""rows at most whose bits the card tells"""


class TokensConfig(PriorConfig):
    """The transformer's size, and what it is not shown."""

    SUMMARY: ClassVar[str] = "a causal transformer over the codes of a VQModel, which draws and gives exact bits"
    TRAIN: ClassVar[Mapping[str, object]] = {
        "steps": 500,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "weight_decay": 0.1,
    }
    RESULT: ClassVar[str] = "prior"
    INDEX: ClassVar[str] = "config.json"
    PROMISE: ClassVar[str] = "latent-ae sample takes it as --prior, and stock transformers loads it"
    SCALED: ClassVar[bool] = False
    CODES: ClassVar[bool] = True
    FREE_TO_CHANGE: ClassVar[tuple[str, ...]] = ("prior.heldout",)

    kind: Literal["tokens"] = "tokens"
    width: Count = 96
    """values of a token"""
    depth: Count = 3
    """blocks"""
    head_width: Count = 32
    """values of an attention head; divides width"""
    label_dropout: Share = 0.1
    """share of the images that are shown without their class, which is what draws of no class and completions need"""
    code_dropout: Share = 0.2
    """share of the codes that are hidden from the later ones (Bowman et al. 2016), which keeps few images from being
    learned by heart"""

    heldout: str | None = None
    """folder of codes of held-out images, by train/encode_dataset.py --part heldout: the card tells what they cost"""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.head_width:
            raise ValueError(f"prior.width {self.width} must be a multiple of prior.head_width {self.head_width}")
        return self

    def build(self, source: LatentSource, *, seed: int) -> "Tokens":
        """A transformer for the codes' grid and the data set's classes.

        Raises UserError for held-out codes of another encoder or grid.
        """
        heldout = None if self.heldout is None else open_latents(Path(self.heldout), source.name, seed=seed, codes=True)
        if heldout is not None and heldout.side != source.side:
            raise LatentSourceError(
                f"prior.heldout {self.heldout} holds codes of {heldout.side}x{heldout.side}: expected "
                f"{source.side}x{source.side}, those of --latents"
            )
        assert source.codebook_size is not None, "CODES is set"
        network = build_network(
            codebook_size=source.codebook_size,
            side=source.side,
            classes=source.classes,
            encoder_identity=source.identity,
            width=self.width,
            depth=self.depth,
            heads=self.width // self.head_width,
        )
        return Tokens(network, source, seed, self, heldout=None if heldout is None else heldout.rows)


class Sample(NamedTuple):
    """One, or with a first axis a batch."""

    inputs: Tensor
    """[L] int64 tokens: the class or none, then the codes but the last, some of them hidden"""
    codes: Tensor
    """[L] int64, which are to be told"""


def shown(
    row: dict[str, Tensor],
    generator: torch.Generator,
    *,
    class_tokens: dict[int, int],
    no_class: int,
    label_dropout: float,
    code_dropout: float,
) -> Sample:
    """A row's codes in raster order, and what the network sees of them.

    The token of no class stands for what is hidden: the class of a share of images, and a share of the codes.
    """
    codes = row["latents"].flatten()
    seen = codes.clone()
    seen[torch.rand(seen.shape, generator=generator) < code_dropout] = no_class
    dropped = bool(torch.rand((), generator=generator) < label_dropout)
    first = no_class if dropped else class_tokens.get(int(row["label"]), no_class)
    return Sample(torch.cat([torch.tensor([first]), seen[:-1]]), codes)


class Tokens(Prior["GPT2LMHeadModel"]):
    """A transformer that learns to tell the next code."""

    def __init__(
        self,
        network: "GPT2LMHeadModel",
        source: LatentSource,
        seed: int,
        settings: TokensConfig,
        *,
        heldout: LatentDataset | None = None,
    ) -> None:
        prior = TokenPrior(network)
        make = partial(
            shown,
            class_tokens=dict(zip(prior.classes, prior.class_tokens(prior.classes).tolist(), strict=True)),
            no_class=int(prior.class_tokens([None])),
            label_dropout=settings.label_dropout,
            code_dropout=settings.code_dropout,
        )
        super().__init__(network, Samples(source.rows, make, kind="tokens", seed=seed), source, seed)
        self._codebook_size, self._heldout = prior.codebook_size, heldout

    def untrained(self) -> "GPT2LMHeadModel":
        """Another network of the same config."""
        network = type(self.network)(self.network.config)
        network.generation_config = self.network.generation_config
        return network

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002  # as any prior's
        """The cross-entropy of the codes in nats, and beside it in bits an image."""
        inputs, codes = Sample(*batch)
        nats = code_nats(network(input_ids=inputs, use_cache=False).logits, codes, self._codebook_size).mean()
        return {"loss": nats, "bits": nats.detach() * codes.shape[1] / math.log(2)}

    def draw(self, network: "GPT2LMHeadModel") -> Pixels:
        """A row for each of the first classes; without any, rows of no class."""
        classes = self.source.classes[:_ROWS] or [None] * 4
        labels = [label for label in classes for _ in range(_COLUMNS)]
        codes = TokenPrior(network).draw(labels, seed=self.seed, options=DrawOptions())
        autoencoder = self.source.autoencoder.to(network.device)
        with inference(autoencoder):
            vectors = stock_codebook(autoencoder).weight[codes.to(network.device)].movedim(-1, 1)
            images = self.source.pixels.previews(decode_latents(autoencoder, vectors))
        return image_grid([images[first : first + _COLUMNS] for first in range(0, len(images), _COLUMNS)])

    def save(self, network: "GPT2LMHeadModel", folder: Path) -> None:
        """Write the prior, whose weights must come back the same."""
        with quiet_transformers():
            network.save_pretrained(folder)
        loaded, written = load_token_prior(str(folder)).network.state_dict(), network.state_dict()
        if not all(torch.equal(tensor, written[name].cpu()) for name, tensor in loaded.items()):
            raise ProofFailed("the prior that was written has other weights than the one in memory")

    def card(self, network: "GPT2LMHeadModel", *, name: str, steps: int) -> str:
        """How to draw, and what an image costs."""
        source, prior = self.source, TokenPrior(network)
        measured = {"training": source.rows} | ({} if self._heldout is None else {"held-out": self._heldout})
        bits = "\n".join(_bits_line(prior, rows, which) for which, rows in measured.items())
        classes = f"the class tokens {prior.codebook_size} to {prior.codebook_size + len(prior.classes) - 1}, "
        return f"""---
library_name: transformers
tags: [vq, autoregressive, prior]
---

# {name}

A causal transformer over the {source.side}x{source.side} codes of {source.data_name}, {steps} updates. With the decoder
of {source.autoencoder_name} it draws images.

![Draws, a row for each class]({SAMPLES})

| bits an image | |
|---|---|
| all codes as probable | {prior.uniform_bits:.1f} |
{bits}

```bash
latent-ae sample --model MODEL --prior DIR -o draws.png
```

Tokens: the {prior.codebook_size} codes, then {classes if prior.classes else ""}{network.config.bos_token_id} for no
class, which stands before the codes in raster order.

Encoder identity of the codes: `{prior.encoder_identity}`.
"""


def _bits_line(prior: TokenPrior, rows: LatentDataset, which: str) -> str:
    count = min(_MEASURED, len(rows))
    return f"| under this prior, {count} {which} images | {float(measured_bits(prior, rows, count).mean()):.1f} |"


def measured_bits(prior: TokenPrior, rows: LatentDataset, count: int) -> Tensor:
    """Bits of each of the first rows of a data set, in their order, given their classes: [count] float64."""
    some = [rows[number] for number in range(count)]
    labels = [int(row["label"]) for row in some]
    codes = torch.stack([row["latents"] for row in some])
    return prior.bits(codes, [label if label in prior.classes else None for label in labels])
