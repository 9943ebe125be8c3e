"""A model by name and images by their settings in, a report out: `latent-ae evaluate` and `likelihood`, one process."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor
from tqdm import tqdm

from latent_ae.config import DataConfig, EvaluationConfig, Section
from latent_ae.data import evaluation_batches, open_source
from latent_ae.data.source import ImageSource, SourceParts
from latent_ae.device import best_device
from latent_ae.evaluation.evaluate import EvaluationReport, Evaluator, evaluate
from latent_ae.evaluation.likelihood import (
    LikelihoodEstimator,
    LikelihoodReport,
    check_numbers,
    check_posterior,
    fit_std,
)
from latent_ae.evaluation.metrics import FidUnavailable, InceptionFeatures
from latent_ae.evaluation.perceptual import PerceptualDistance, PerceptualWeightsMissing, build_perceptual
from latent_ae.models import Autoencoder, load_autoencoder
from latent_ae.models.hierarchical_prior import check_prior, load_prior
from latent_ae.models.parts import encoder_identity

TRAINING_ONLY = (
    *("resolution", "crop", "scale", "flip", "color_gain", "max_bad_share", "streams", "shuffle_block"),
    *("buckets", "bucket_multiple", "bucket_max_aspect"),
)
"""fields of `data` that say how training images are cut"""
NOT_OF_LIKELIHOOD = (
    *("perceptual", "perceptual_weights_file", "fid", "fid_weights_file", "equivariance"),
    *("batch_size", "latent_images"),
)
"""fields of `evaluation` that change nothing about a likelihood, which is computed image by image"""
FITTED_IMAGES = 256
"""training images, spread evenly over all, on which the standard deviation of p(x|z) is fitted"""


class MeasureConfig(Section):
    """Which images are measured, and how."""

    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def measure(
    model_name: str, config: MeasureConfig, *, part: Literal["heldout", "train"], mode: Literal["mode", "sample"]
) -> EvaluationReport:
    """Measure a model directory or hub id on a part of a data source, on the GPU if there is one.

    Raises UserError if the model or the images cannot be had.
    """
    images = open_source(config.data)
    source = _part(images, part)
    model = load_autoencoder(model_name).to(best_device())
    networks = build_networks(config.evaluation, model.config["in_channels"])
    bad: list[str] = []
    asked = min(config.evaluation.max_images, len(source))
    with tqdm(total=asked, unit="image") as bar:
        evaluator = build_evaluator(model, config.evaluation, data=_data(config, part), networks=networks, mode=mode)
        report = evaluate(evaluator, _batches(model, source, config, bad=bad), progress=bar.update)
    return report.with_unusable(bad, asked)


def measure_likelihood(
    model_name: str,
    config: MeasureConfig,
    *,
    part: Literal["heldout", "train"],
    samples: int,
    std: float | None,
    prior_name: str | None = None,
) -> LikelihoodReport:
    """Bound the likelihood of a part of a data source under a model directory or hub id, from `samples` draws an image.

    `std` is that of p(x|z) on [-1, 1]; None fits it on FITTED_IMAGES of the training part. `prior_name` is the folder
    of a prior of the model's latents; None is N(0, I). Raises UserError for numbers out of range, for a model without a
    posterior, a prior of other latents, and if the model, the prior or the images cannot be had.
    """
    check_numbers(samples, std)
    images = open_source(config.data)
    source = _part(images, part)
    model = load_autoencoder(model_name).to(best_device())
    check_posterior(model)
    prior = None if prior_name is None else load_prior(prior_name).to(model.device)
    if prior is not None:
        check_prior(prior, encoder_identity(model), str(prior_name))
    rule = "given"
    if std is None:
        limit = min(FITTED_IMAGES, len(images.train))
        with tqdm(total=limit, unit="image", desc="fitting std") as bar:
            std, count = fit_std(model, _batches(model, images.train, config, limit=limit), progress=bar.update)
        rule = f"fitted: the largest mean single-sample ELBO of {count} images of the training part"
    estimator = LikelihoodEstimator(
        model,
        std=std,
        std_rule=rule,
        data=_data(config, part),
        size_rule=size_rule(config.evaluation.size),
        samples=samples,
        prior=prior,
        prior_name="N(0, I)" if prior_name is None else f"the hierarchical prior {prior_name}",
    )
    bad: list[str] = []
    asked = min(config.evaluation.max_images, len(source))
    with tqdm(total=asked, unit="image") as bar:
        for pixels, sample_ids in _batches(model, source, config, bad=bad):
            estimator.update(pixels, sample_ids)
            bar.update(len(pixels))
    return estimator.report().with_unusable(bad, asked)


def _part(images: SourceParts, part: str) -> ImageSource:
    """The part of that name; says what the source leaves out of both."""
    if images.left_out:
        tqdm.write(images.left_out)
    return images.heldout if part == "heldout" else images.train


def _data(config: MeasureConfig, part: str) -> str:
    return f"{config.data.source}, {'held-out' if part == 'heldout' else 'training'} part"


def _batches(
    model: Autoencoder,
    source: ImageSource,
    config: MeasureConfig,
    *,
    limit: int | None = None,
    bad: list[str] | None = None,
) -> Iterator[tuple[Tensor, Sequence[str]]]:
    """`limit` images of a source, or as many as the settings say, as a model wants them.

    Says which cannot be used, and adds them to `bad`.
    """

    def leave_out(sample_id: str, reason: str) -> None:
        tqdm.write(f"left out: {sample_id}: {reason}")
        if bad is not None:
            bad.append(sample_id)

    for batch in evaluation_batches(
        source,
        channels=model.config["in_channels"],
        size=config.evaluation.size,
        background=config.data.background,
        batch_size=config.evaluation.batch_size,
        limit=config.evaluation.max_images if limit is None else limit,
        on_bad=leave_out,
        workers=config.data.workers,
    ):
        yield batch.pixels, batch.sample_ids


class Networks(NamedTuple):
    """What sees images as people do, or the reasons why it is not there: a measure may be missing, a term may not."""

    perceptual: PerceptualDistance | None
    perceptual_reason: str | None
    inception: InceptionFeatures | None
    inception_reason: str | None


def build_networks(config: EvaluationConfig, image_channels: int) -> Networks:
    """The networks that a config asks for. Raises UserError for a file that is given and wrong."""
    perceptual, reason = metric_or_reason(config, image_channels)
    if not config.fid:
        return Networks(perceptual, reason, None, "not asked for (evaluation.fid false)")
    file = None if config.fid_weights_file is None else Path(config.fid_weights_file)
    try:
        return Networks(perceptual, reason, InceptionFeatures(file), None)
    except FidUnavailable as error:
        return Networks(perceptual, reason, None, str(error))


def build_evaluator(
    model: Autoencoder,
    config: EvaluationConfig,
    *,
    data: str,
    networks: Networks,
    mode: Literal["mode", "sample"] = "mode",
    seed: int = 0,
) -> Evaluator:
    """The evaluator that a config asks for, its networks on the model's device."""
    return Evaluator(
        model,
        data=data,
        size_rule=size_rule(config.size),
        perceptual=None if networks.perceptual is None else networks.perceptual.to(model.device),
        perceptual_reason=networks.perceptual_reason,
        inception=None if networks.inception is None else networks.inception.to(model.device),
        inception_reason=networks.inception_reason,
        equivariance=config.equivariance,
        mode=mode,
        seed=seed,
    )


def size_rule(size: int | None) -> str:
    """How measured images are cut, in words for the protocol."""
    if size is None:
        return "whole images at their own size"
    return f"shorter side resized to {size}, centre crop {size}x{size}"


def metric_or_reason(config: EvaluationConfig, image_channels: int) -> tuple[PerceptualDistance | None, str | None]:
    """The distance to report, or the reason why there is none: a measure may be missing, a loss term may not."""
    if config.perceptual == "none":
        return None, "not asked for (evaluation.perceptual none)"
    file = None if config.perceptual_weights_file is None else Path(config.perceptual_weights_file)
    try:
        return build_perceptual(config.perceptual, image_channels=image_channels, weights_file=file), None
    except PerceptualWeightsMissing as error:
        return None, str(error)
