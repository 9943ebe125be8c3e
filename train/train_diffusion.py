"""Train a class-conditional diffusion model on latents.

    accelerate launch train/train_diffusion.py --latents DIR [--FIELD VALUE ...]

    latents -> noise at a place in time -> transformer -> v -> mean squared error
            -> runs/NAME/pipeline, a stock diffusers.DiTPipeline with the autoencoder inside

DIR is what train/encode_dataset.py made. What is special to diffusion is below; the run around it (resume, loop,
checkpoints) is latent_ae/priors/program.py. It runs the same way under `torchrun` and as plain
`python train/train_diffusion.py`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from latent_ae.io.image import Pixels
from latent_ae.priors.diffusion.network import build_network, build_scheduler, check_classes, denoising_loss
from latent_ae.priors.diffusion.pipeline import assemble, card_text, draw_grid, write_pipeline
from latent_ae.priors.diffusion.samples import Sample, Samples
from latent_ae.priors.diffusion.settings import DiffusionConfig
from latent_ae.priors.program import run_program
from latent_ae.priors.training import Batch, LatentTraining

if TYPE_CHECKING:
    from diffusers import DiTPipeline, DiTTransformer2DModel


def main(argv: list[str] | None = None) -> int:
    """Run one training; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error."""
    return run_program(sys.argv[1:] if argv is None else argv, Training)


class Training(LatentTraining[DiffusionConfig, Any]):
    """A transformer that learns to take noise from latents."""

    PROGRAM: ClassVar[str] = "train_diffusion.py"
    SUMMARY: ClassVar[str] = "Train a class-conditional diffusion model on latents."
    SETTINGS: ClassVar[type[DiffusionConfig]] = DiffusionConfig
    SCALED: ClassVar[bool] = True
    PROMISE: ClassVar[str] = "stock diffusers loads it and draws the same images"

    def build_network(self) -> "DiTTransformer2DModel":
        """A transformer for the latents' size."""
        check_classes(self.source.classes)
        self.scheduler = build_scheduler()
        return build_network(channels=self.source.channels, side=self.source.side, **self.config.network.model_dump())

    def build_samples(self, network: "DiTTransformer2DModel") -> Samples:  # noqa: ARG002  # it does not matter to them
        """Latents with noise, a place in time and a label."""
        return Samples(
            self.source.rows,
            scaling_factor=self.source.scaling_factor,
            label_dropout=self.config.train.label_dropout,
            seed=self.config.seed,
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The mean squared error of v."""
        latents, noise, timesteps, labels = Sample(*batch)
        return {
            "loss": denoising_loss(
                self.prepared, self.scheduler, latents=latents, noise=noise, timesteps=timesteps, labels=labels
            )
        }

    def draw(self) -> Pixels:
        """A grid of draws with the averaged weights, a row for each class."""
        return self._drawn(self._pipeline())

    def write(self, folder: Path) -> None:
        """Write the pipeline with the averaged weights."""
        pipeline, source = self._pipeline(), self.source
        card = card_text(
            name=self.config.name,
            data=source.data_name,
            autoencoder=source.autoencoder_name,
            identity=source.identity,
            steps=self.config.train.steps,
            scaling_factor=source.scaling_factor,
        )
        write_pipeline(pipeline, folder, self._drawn(pipeline), card)

    def _pipeline(self) -> "DiTPipeline":
        network = self.state.averaged_network()
        return assemble(network, self.source.autoencoder, self.source.label_names)

    def _drawn(self, pipeline: "DiTPipeline") -> Pixels:
        classes, seed = self.source.classes, self.config.seed
        return draw_grid(pipeline, classes, seed=seed, **self.config.sampling.model_dump())


if __name__ == "__main__":
    sys.exit(main())
