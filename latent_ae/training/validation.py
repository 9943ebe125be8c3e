"""What a run does with images it does not train on: sample grids and evaluation, shared out over its processes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import takewhile
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from latent_ae.config.section import size_of
from latent_ae.data import ImageSource, SourceParts, evaluation_batches
from latent_ae.data.transforms import size_text
from latent_ae.errors import UserError
from latent_ae.evaluation.coder import PIXELS_AT_ONCE
from latent_ae.evaluation.evaluate import Evaluator, measure_latents
from latent_ae.evaluation.forecast import Work, forecast
from latent_ae.evaluation.images import asked_for, batches
from latent_ae.evaluation.metrics.latents import LatentStatistics
from latent_ae.evaluation.metrics.quality import MS_SSIM_MINIMUM_SIDE, SSIM_MINIMUM_SIDE
from latent_ae.evaluation.report import EvaluationReport
from latent_ae.evaluation.run import build_networks, size_rule
from latent_ae.io.image import Pixels, image_grid, save_png
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import Autoencoder, factor_of, latent_shape
from latent_ae.models.encode_decode import decode, encode, reconstruct
from latent_ae.models.latent_space import interpolate, prior_draw
from latent_ae.training.checkpoint.state import AutoencoderState
from latent_ae.training.distributed import gather_from_processes
from latent_ae.training.logging import Logbook
from latent_ae.training.settings import RunConfig

SAMPLE_IMAGES = 16
PICTURE_SIDE = 512
"""pixels of a side of an image in a picture of samples, at most: of larger images the centre is shown"""


class Heldout:
    """A run's held-out images, and its training images as they are when measured: whole, not cropped at random."""

    def __init__(self, parts: SourceParts, config: RunConfig, accelerator: Accelerator, pixels: PixelFormat) -> None:
        self.parts = parts
        self.config = config
        self.accelerator = accelerator
        self.pixels = pixels
        self._networks = build_networks(config.evaluation, pixels, config.data.background)

    def check(self, model: Autoencoder) -> str | None:
        """What measuring will take, in a line; None if that is little.

        Raises UserError for what would else be met after hours: no image of a part, or not the measure by which weights
        are kept, can be measured, or not in the memory that is free.
        """
        evaluation, best = self.config.evaluation, self.config.train.keep_best
        network = {"perceptual": self._networks.perceptual, "rfid": self._networks.inception}.get(best or "")
        if isinstance(network, str):
            raise UserError(f"train.keep_best {best} cannot be measured: {network}")
        least = {"ssim": SSIM_MINIMUM_SIDE, "ms_ssim": MS_SSIM_MINIMUM_SIDE}.get(best or "", 0)
        if evaluation.size is not None and min(size_of(evaluation.size)) < least:
            size = size_text(size_of(evaluation.size))
            raise UserError(f"train.keep_best {best} needs evaluation.size of at least {least} pixels, got {size}")
        self._check(self.parts.heldout, "held-out", evaluation.max_images)
        self._check(self.parts.train, "training", evaluation.latent_images)
        every, steps = self.config.train.evaluate_every_steps, self.config.train.steps
        model.to(self.accelerator.device)
        line = forecast(
            model,
            self._networks,
            self.pixels,
            evaluation,
            measured=Work.of(self.parts.heldout, evaluation.max_images, evaluation.size),
            encoded=Work.of(self.parts.train, evaluation.latent_images, evaluation.size),
            times=1 + (steps - 1) // every if every else 1,
            processes=self.accelerator.num_processes,
            kept_bytes=self._kept_bytes,
        )
        model.to("cpu")
        return line

    def _kept_bytes(self) -> int:
        """Memory of the training images that a process and its workers keep, decoded, at most."""
        data = self.config.data
        if not data.by_number:  # streams keep none
            return 0
        each = 8 * self.pixels.channels if self.pixels.numbers else 4  # bytes of a pixel
        return min(data.keep_mib * 2**20, each * Work.of(self.parts.train, None, None).pixels)

    def _check(self, source: ImageSource, part: str, limit: int | None) -> None:
        left_out: list[str] = []
        size = self.config.evaluation.size
        found = evaluation_batches(
            source,
            self.pixels,
            size=size,
            background=self.config.data.background,
            fitting=self.config.data.fitting,
            batch_size=1,
            limit=limit,
            on_bad=lambda sample_id, reason: left_out.append(f"{sample_id}: {reason}"),
        )
        if next(found, None) is None:
            rule = "" if size is None else f" at evaluation.size {size_text(size_of(size))}"
            remedy = "repair or replace them" if size is None else "lower it, or null for images as they are"
            raise UserError(
                f"none of the {len(left_out)} {part} images to measure can be used{rule}; the first is {left_out[0]}: "
                f"{remedy}"
            )

    def images(self, source: ImageSource, count: int) -> list[Tensor]:
        """Images spread evenly over a source to look at, [C,H,W] each in [-1, 1], of large ones the centre; fewer than
        `count` where some cannot be used.
        """
        with self._batches(source, limit=count, shard=(0, 1)) as found:
            return [_centre(image, PICTURE_SIDE, PICTURE_SIDE) for pixels, _ in found for image in pixels]

    def draw_samples(self, model: Autoencoder, step: int, logbook: Logbook) -> Path | None:
        """Write samples/step-N.png, inputs above reconstructions; the main process alone. None if nothing was drawn."""
        if not self.accelerator.is_main_process or not (images := self.images(self.parts.heldout, SAMPLE_IMAGES)):
            return None
        file = self.config.run_dir / "samples" / f"step-{step}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        at_once = self.config.evaluation.pixels_at_once
        save_png(file, reconstruction_grid(model, images, self.pixels, pixels_at_once=at_once))
        logbook.picture(step, "reconstructions", file)
        return file

    def evaluate(self, model: Autoencoder, stop: Callable[[], bool]) -> EvaluationReport | None:
        """Measure the held-out images, each process its share; None on every process if one was told to stop."""
        evaluation = self.config.evaluation
        evaluator = Evaluator(
            model,
            self._networks,
            data=f"{self.config.data.source}, held-out part",
            size_rule=size_rule(evaluation.size, self.config.data.fitting),
            pixels=self.pixels,
            equivariance=evaluation.equivariance,
            seed=self.config.seed,
            pixels_at_once=evaluation.pixels_at_once,
        )
        bad: list[str] = []
        limit = evaluation.max_images
        with self._batches(self.parts.heldout, limit=limit, what="evaluating", bad=bad) as found:
            for pixels, sample_ids in takewhile(lambda _: not stop(), found):
                evaluator.update(pixels, sample_ids)
        states = gather_from_processes((stop(), evaluator.measurements, bad), self.accelerator)
        if any(stopped for stopped, *_ in states):
            return None
        for rank, (_, measured, _) in enumerate(states):
            if rank != self.accelerator.process_index:
                evaluator.measurements.merge(measured)
        unusable = sorted(sample_id for *_, ids in states for sample_id in ids)
        report = evaluator.measurements.report().with_unusable(unusable, asked_for(self.parts.heldout, limit))
        return report.model_copy(update={"left_out": dict(self.parts.left_out)})

    def validate(self, state: AutoencoderState, logbook: Logbook, stop: Callable[[], bool]) -> bool:
        """Evaluate in the middle of a run: one line, the measures at the tracker, and the best weights kept.

        False, on every process and with nothing kept, if one was told to stop. Raises UserError.
        """
        if (report := self.evaluate(state.averaged(), stop)) is None:
            return False
        values = {name: metric.value for name, metric in report.metrics.items() if metric.value is not None}
        logbook.say(
            f"step {state.step}: held-out " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        )
        logbook.heldout(state.step, values)
        if (best := state.best) is not None:
            measured = report.metrics[best.measure]
            # Every process sums up in an order of its own: the first one's value decides for all.
            value = gather_from_processes(measured.value, self.accelerator)[0]
            state.validated(value, measured.reason)
        return True

    def measure_training_latents(self, model: Autoencoder, stop: Callable[[], bool]) -> LatentStatistics | None:
        """Latent statistics over the training images, each process its share; None if one was told to stop."""
        evaluation = self.config.evaluation
        with self._batches(self.parts.train, limit=evaluation.latent_images, what="measuring latents") as found:
            going = takewhile(lambda _: not stop(), found)
            statistics = measure_latents(model, going, pixels_at_once=evaluation.pixels_at_once)
        gathered = gather_from_processes((stop(), statistics), self.accelerator)
        if any(stopped for stopped, _ in gathered):
            return None
        merged = LatentStatistics()
        for _, part in gathered:
            merged.merge(part)
        return merged

    def _batches(
        self,
        source: ImageSource,
        *,
        limit: int | None,
        what: str = "",
        shard: tuple[int, int] | None = None,
        bad: list[str] | None = None,
    ) -> AbstractContextManager[Iterator[tuple[Tensor, Sequence[str]]]]:
        """As `evaluation.images.batches`: this process's share, or that of a `shard`."""
        share = shard or (self.accelerator.process_index, self.accelerator.num_processes)
        config = self.config
        return batches(
            source, self.pixels, config.data, config.evaluation, limit=limit, what=what, bad=bad, shard=share
        )


def reconstruction_grid(
    model: Autoencoder,
    images: Sequence[Tensor],
    pixels: PixelFormat,
    *,
    columns: int = 8,
    pixels_at_once: int = PIXELS_AT_ONCE,
) -> Pixels:
    """Inputs above their reconstructions, for images [C,H,W] in [-1, 1] of any sizes (cut to the smallest)."""
    height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
    at_once = max(1, pixels_at_once // (height * width))
    rows = []
    for first in range(0, len(images), columns):
        group = torch.stack([_centre(image, height, width) for image in images[first : first + columns]])
        rebuilt = torch.cat([reconstruct(model, some) for some in group.split(at_once)])
        rows += [pixels.previews(group), pixels.previews(rebuilt)]
    return image_grid(rows)


def prior_draws(
    model: Autoencoder,
    pixels: PixelFormat,
    *,
    size: tuple[int, int],
    count: int,
    seed: int,
    columns: int = 16,
    pixels_at_once: int = PIXELS_AT_ONCE,
) -> Pixels:
    """Decoded draws of raw latents from N(0, 1), the prior that the KL term pulls the posterior to."""
    drawn = prior_draw(latent_shape(model, size), count, seed=seed)
    shown = pixels.previews(_decoded(model, drawn, pixels_at_once))
    return image_grid([shown[first : first + columns] for first in range(0, count, columns)])


def morph(
    model: Autoencoder,
    pairs: Sequence[tuple[Tensor, Tensor]],
    pixels: PixelFormat,
    *,
    steps: int = 9,
    pixels_at_once: int = PIXELS_AT_ONCE,
) -> Pixels:
    """A row for each pair of images [C,H,W]: decodings along the straight line between their posterior means."""
    rows = []
    for start, end in pairs:
        a, b = encode(model, torch.stack([start, end]))
        rows.append(pixels.previews(_decoded(model, interpolate(a, b, steps, spherical=False), pixels_at_once)))
    return image_grid(rows)


def _decoded(model: Autoencoder, latents: Tensor, pixels_at_once: int) -> Tensor:
    at_once = max(1, pixels_at_once // (latents[0, 0].numel() * factor_of(model) ** 2))
    return torch.cat([decode(model, some) for some in latents.split(at_once)])


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    """The centre of an image [C,H,W] in at most this size, without the rest of a larger one in memory."""
    height, width = min(height, image.shape[1]), min(width, image.shape[2])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width].clone()
