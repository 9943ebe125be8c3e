"""Fitting a mixture of Gaussians to a data set of latents, in closed form and by expectation maximisation: seconds.

rows -> draws from their posteriors -> main directions -> scikit-learn's GaussianMixture -> a folder as of any prior
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.export.source import CARD
from latent_ae.io.atomic import placed
from latent_ae.io.image import Pixels, image_grid, save_png
from latent_ae.latent_dataset import LatentDataset
from latent_ae.models.encode_decode import decode_latents, inference
from latent_ae.models.learned_prior import DrawOptions
from latent_ae.models.mixture_prior import GaussianMixturePrior
from latent_ae.priors.prior import SAMPLES
from latent_ae.priors.source import LatentSource

_DRAWS_PER_ROW = 4
"""of each posterior: a mixture of the posteriors is what the prior should be"""
_HELD_OUT_EVERY = 10
_SHARE_OF_VARIANCE = 1e-3
"""of the mean variance of a direction, added to each: no component may shrink to a few latents"""
MOST_DIRECTIONS = 256
_ROWS, _COLUMNS = 8, 16


@dataclass(frozen=True)
class Fit:
    """A mixture, and what it costs."""

    prior: GaussianMixturePrior
    rows: int
    """that it was fitted to"""
    heldout_rows: int
    nats: float
    """mean of -log p(z) of the fitted rows, in nats a latent"""
    heldout_nats: float
    """the same of rows that it was not fitted to"""
    normal_nats: float
    """of these, under N(0, I)"""

    def measured(self) -> dict[str, float]:
        """The numbers, for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "prior"}

    def __str__(self) -> str:
        count, directions = self.prior.config["components"], self.prior.config["directions"]
        return (
            f"{count} component{'s' if count > 1 else ''} over {directions} directions, fitted to {self.rows} latents "
            f"({self.nats:.2f} nats each); {self.heldout_nats:.2f} nats for each of {self.heldout_rows} held out, "
            f"{self.normal_nats:.2f} under N(0, I)"
        )


def fit_mixture(source: LatentSource, *, components: int, seed: int) -> Fit:
    """A mixture of all rows but every tenth, on which it is measured. Raises UserError for too few rows."""
    rows = source.rows
    numbers = list(range(len(rows)))
    heldout = numbers[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]
    fitted = sorted(set(numbers) - set(heldout))
    if not heldout or len(fitted) < 2 * components:
        raise UserError(
            f"{rows.folder} has {len(rows)} latents, too few for {components} components: at least "
            f"{max(_HELD_OUT_EVERY, -(-2 * components * _HELD_OUT_EVERY // (_HELD_OUT_EVERY - 1)))} are needed"
        )
    latents = torch.cat([_latents(rows, fitted, epoch) for epoch in range(_DRAWS_PER_ROW)])
    prior = mixture_of(latents, components=components, identity=source.identity, seed=seed)
    unseen = _latents(rows, heldout, 0)
    normal = 0.5 * (unseen.square() + math.log(2 * math.pi)).sum((1, 2, 3))
    nats, heldout_nats = (-float(prior.log_prob(each).mean()) for each in (latents, unseen))
    return Fit(prior, len(fitted), len(heldout), nats, heldout_nats, float(normal.mean()))


def mixture_of(latents: Tensor, *, components: int, identity: str, seed: int) -> GaussianMixturePrior:
    """The mixture of latents [N,c,h,h], which is the same for the same seed."""
    _, channels, side, _ = latents.shape
    z = latents.flatten(1).double()
    mean = z.mean(0)
    variances, basis = torch.linalg.eigh((z - mean).T @ (z - mean) / len(z))
    directions = min(MOST_DIRECTIONS, z.shape[1], len(z) - 1)
    basis, rest = basis[:, -directions:], variances[: z.shape[1] - directions]
    y = ((z - mean) @ basis).numpy()
    floor = _SHARE_OF_VARIANCE * float(y.var(0).mean())
    model = GaussianMixture(components, reg_covar=floor, random_state=np.random.RandomState(seed)).fit(y)
    prior: GaussianMixturePrior = GaussianMixturePrior(
        channels=channels, side=side, components=components, directions=directions, encoder_identity=identity
    )
    filled = {
        "mean": mean,
        "basis": basis,
        "residual_std": rest.mean().clamp(min=floor).sqrt() if len(rest) else torch.ones(()),
        "weights": torch.from_numpy(model.weights_),
        "means": torch.from_numpy(model.means_),
        "factors": torch.linalg.cholesky(torch.from_numpy(model.covariances_)),
    }
    prior.load_state_dict({name: tensor.float() for name, tensor in filled.items()})
    prior.eval()
    return prior


def write_mixture(fit: Fit, source: LatentSource, folder: Path, *, seed: int) -> None:
    """Write the prior, a picture of its draws and a card into a new folder, or nothing. Raises OSError."""
    with placed([folder]) as beside:
        made = beside / folder.name
        fit.prior.save_pretrained(made)
        save_png(made / SAMPLES, _picture(fit.prior, source, seed))
        (made / CARD).write_text(_card(fit, source), encoding="utf-8")


def _latents(rows: LatentDataset, numbers: list[int], epoch: int) -> Tensor:
    rows.set_epoch(epoch)
    return torch.stack([rows[number]["latents"] for number in numbers]).float()


def _picture(prior: GaussianMixturePrior, source: LatentSource, seed: int) -> Pixels:
    images = list[Pixels]()
    with inference(source.autoencoder):
        for part in prior.drawn(_ROWS * _COLUMNS, seed=seed, options=DrawOptions()).split(_COLUMNS):
            images.extend(source.pixels.previews(decode_latents(source.autoencoder, part)))
    return image_grid([images[first : first + _COLUMNS] for first in range(0, len(images), _COLUMNS)])


def _card(fit: Fit, source: LatentSource) -> str:
    size = "x".join(map(str, fit.prior.latent_shape))
    return f"""---
library_name: diffusers
tags: [gaussian-mixture, prior]
---

# A mixture of Gaussians over the latents of {source.autoencoder_name}

Of the {size} latents of {source.data_name}: {fit}.

![Draws, none chosen]({SAMPLES})

*Draws, none chosen.*

```bash
latent-ae sample --model MODEL --prior DIR -o draws.png
```

Encoder identity of the latents: `{fit.prior.encoder_identity}`.
"""
