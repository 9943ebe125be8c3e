"""Train a class-conditional diffusion model on latents.

    accelerate launch train/train_diffusion.py --latents DIR [--FIELD VALUE ...]

    latents -> noise at a place in time -> transformer -> v -> mean squared error
            -> runs/NAME/pipeline, a stock diffusers.DiTPipeline with the autoencoder inside

DIR is what train/encode_dataset.py made. What is special to diffusion is below; the run around it (resume, loop,
checkpoints) is latent_ae/generation/program.py. It runs the same way under `torchrun` and as plain
`python train/train_diffusion.py`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor

from latent_ae.diffusion.network import build_network, build_scheduler, check_classes, denoising_loss
from latent_ae.diffusion.pipeline import assemble, card_text, draw_grid, write_pipeline
from latent_ae.diffusion.samples import Sample, Samples
from latent_ae.diffusion.settings import DiffusionConfig
from latent_ae.generation.program import run_program
from latent_ae.generation.source import LatentSource
from latent_ae.generation.training import Batch, LatentTraining
from latent_ae.image import Pixels
from latent_ae.training.signals import StopRequest

if TYPE_CHECKING:
    from diffusers import DiTPipeline


def main(argv: list[str] | None = None) -> int:
    """Run one training; the exit status: 0 for complete success, 128 + N after signal N, 2 for a user's error."""
    return run_program(
        sys.argv[1:] if argv is None else argv,
        program="train_diffusion.py",
        summary="Train a class-conditional diffusion model on latents.",
        settings=DiffusionConfig,
        start=Training,
    )


class Training(LatentTraining[DiffusionConfig, Any]):
    """A transformer that learns to take noise from latents."""

    PROMISE: ClassVar[str] = "stock diffusers loads it and draws the same images"

    def __init__(
        self, config: DiffusionConfig, accelerator: Accelerator, stop: StopRequest, source: LatentSource
    ) -> None:
        check_classes(source.classes)
        torch.manual_seed(config.seed)  # of the start weights alone: all else is drawn by number
        network = build_network(channels=source.channels, side=source.side, **config.network.model_dump())
        scale, dropout = source.scaling_factor, config.train.label_dropout
        samples = Samples(source.rows, scaling_factor=scale, label_dropout=dropout, seed=config.seed)
        super().__init__(config, accelerator, stop, source, network=network, samples=samples, scaling_factor=scale)
        self.scheduler = build_scheduler()

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
