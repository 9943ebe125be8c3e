"""Train a hierarchical prior on latents: the upper part of a hierarchical VAE, whose lower part is their autoencoder.

    accelerate launch train/train_hierarchy.py --latents DIR [--FIELD VALUE ...]

    latents z -> q(u|z) -> levels u from 1x1 down -> p(z|u) -> -log p(z|u) + KL of every level
              -> runs/NAME/prior, which latent-ae sample and likelihood take

DIR is what train/encode_dataset.py made. What is special to the hierarchy is below; the run around it (resume, loop,
checkpoints) is latent_ae/priors/program.py. It runs the same way under `torchrun` and as plain
`python train/train_hierarchy.py`.
"""

import json
import math
import sys
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from latent_ae.io.image import Pixels
from latent_ae.latent_dataset.index import STATISTICS
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.priors.hierarchy.objective import beta_at, ladder_loss
from latent_ae.priors.hierarchy.result import LEVELS, card_text, draw_grid, levels_grid, measure, write_prior
from latent_ae.priors.hierarchy.samples import Sample, Samples
from latent_ae.priors.hierarchy.settings import HierarchyConfig
from latent_ae.priors.program import run_program
from latent_ae.priors.settings import SAMPLES
from latent_ae.priors.training import Batch, LatentTraining


def main(argv: list[str] | None = None) -> int:
    """Run one training; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error."""
    return run_program(sys.argv[1:] if argv is None else argv, Training)


class Training(LatentTraining[HierarchyConfig, HierarchicalPrior]):
    """A ladder of latents above those of an autoencoder."""

    PROGRAM: ClassVar[str] = "train_hierarchy.py"
    SUMMARY: ClassVar[str] = "Train a hierarchical prior on latents."
    SETTINGS: ClassVar[type[HierarchyConfig]] = HierarchyConfig
    SCALED: ClassVar[bool] = False
    PROMISE: ClassVar[str] = "latent-ae sample and likelihood take it as --prior"

    def build_network(self) -> HierarchicalPrior:
        """A ladder for the latents' size, that knows mean and deviation of their channels."""
        source, size = self.source, self.config.prior.model_dump()
        prior: HierarchicalPrior = HierarchicalPrior(
            channels=source.channels, side=source.side, encoder_identity=source.identity, **size
        )
        statistics = json.loads((source.rows.folder / STATISTICS).read_text(encoding="utf-8"))["latents"]
        prior.set_statistics(statistics["channel_mean"], statistics["channel_std"])
        return prior

    def build_samples(self, network: HierarchicalPrior) -> Samples:
        """Raw latents with the noise of the levels."""
        return Samples(self.source.rows, noise_values=network.noise_values, seed=self.config.seed)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The bound of -log p(z) in nats per latent value, its KL warmed up, and what it is made of."""
        train, shape = self.config.train, self.state.network.latent_shape
        beta = beta_at(self.state.step, train.kl_warmup_steps)
        terms = self.prepared(*Sample(*batch))
        return ladder_loss(terms, beta=beta, free_nats=train.free_nats, values=math.prod(shape))

    def draw(self) -> Pixels:
        """A grid of draws with the averaged weights."""
        return self._drawn(self.state.averaged_network())

    def write(self, folder: Path) -> None:
        """Write the prior with the averaged weights."""
        prior, source, seed = self.state.averaged_network(), self.source, self.config.seed
        card = card_text(
            name=self.config.name,
            data=source.data_name,
            autoencoder=source.autoencoder_name,
            prior=prior,
            steps=self.config.train.steps,
            measured=measure(prior, source.rows, seed=seed),
        )
        levels = levels_grid(prior, source.autoencoder, seed=seed)
        write_prior(prior, folder, {SAMPLES: self._drawn(prior), LEVELS: levels}, card)

    def _drawn(self, prior: HierarchicalPrior) -> Pixels:
        autoencoder = self.source.autoencoder.to(prior.device)
        return draw_grid(prior, autoencoder, seed=self.config.seed)


if __name__ == "__main__":
    sys.exit(main())
