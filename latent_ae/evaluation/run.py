"""`latent-ae evaluate` and `likelihood`, in one process: a model by name and the settings of images to a report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor
from tqdm import tqdm

from latent_ae.config import EvaluationConfig, Section
from latent_ae.data import AnySource, DigitsConfig, evaluation_batches
from latent_ae.data.source import ImageSource, SourceParts
from latent_ae.device import best_device
from latent_ae.evaluation.evaluate import Evaluator, evaluate
from latent_ae.evaluation.likelihood import LikelihoodEstimator, check_numbers, check_posterior, fit_std
from latent_ae.evaluation.metrics.fid import FidUnavailable, InceptionFeatures
from latent_ae.evaluation.perceptual import PerceptualDistance, PerceptualWeightsMissing, build_perceptual
from latent_ae.evaluation.report import EvaluationReport, LikelihoodReport
from latent_ae.models import Autoencoder, load_autoencoder
from latent_ae.models.hierarchical_prior import check_prior, load_prior
from latent_ae.models.parts import encoder_identity

NOT_OF_LIKELIHOOD = (
    *("perceptual", "perceptual_weights_file", "fid", "fid_weights_file", "equivariance"),
    *("batch_size", "latent_images"),
)
"""fields of `evaluation` without effect on a likelihood, which is computed image by image"""
FITTED_IMAGES = 256
"""number of training images, evenly spread, on which the standard deviation of p(x|z) is fitted"""


class MeasureConfig(Section):
    """Which images are measured, and how."""

    data: AnySource = DigitsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def measure(
    model_name: str, config: MeasureConfig, *, part: Literal["heldout", "train"], mode: Literal["mode", "sample"]
) -> EvaluationReport:
    """Measure a model directory or hub id on a part of a data source, on the GPU if there is one.

    Raises UserError if the model or the images cannot be loaded.
    """
    images = config.data.open()
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
    posterior, a prior of other latents, and if the model, the prior or the images cannot be loaded.
    """
    check_numbers(samples, std)
    images = config.data.open()
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
    """The part of that name; prints which files the source does not use."""
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
    """Pixels and ids of `limit` images of a source (None: evaluation.max_images).

    Prints those that cannot be used, and adds their ids to `bad`.
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
    """The networks of an evaluation, or the reason why there is none: a metric may be missing, a loss term may not."""

    perceptual: PerceptualDistance | str
    inception: InceptionFeatures | str


def build_networks(config: EvaluationConfig, image_channels: int) -> Networks:
    """The networks that a config asks for. Raises UserError for a wrong file of weights."""
    perceptual: PerceptualDistance | str = "not asked for (evaluation.perceptual none)"
    inception: InceptionFeatures | str = "not asked for (evaluation.fid false)"
    if config.perceptual != "none":
        file = None if config.perceptual_weights_file is None else Path(config.perceptual_weights_file)
        try:
            perceptual = build_perceptual(config.perceptual, image_channels=image_channels, weights_file=file)
        except PerceptualWeightsMissing as error:
            perceptual = str(error)
    if config.fid:
        file = None if config.fid_weights_file is None else Path(config.fid_weights_file)
        try:
            inception = InceptionFeatures(file)
        except FidUnavailable as error:
            inception = str(error)
    return Networks(perceptual, inception)


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
    perceptual, inception = networks
    return Evaluator(
        model,
        data=data,
        size_rule=size_rule(config.size),
        perceptual=perceptual if isinstance(perceptual, str) else perceptual.to(model.device),
        inception=inception if isinstance(inception, str) else inception.to(model.device),
        equivariance=config.equivariance,
        mode=mode,
        seed=seed,
    )


def size_rule(size: int | None) -> str:
    """How measured images are cut, for the protocol."""
    if size is None:
        return "whole images at their own size"
    return f"shorter side resized to {size}, centre crop {size}x{size}"
