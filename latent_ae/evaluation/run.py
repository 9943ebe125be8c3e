"""`latent-ae evaluate` and `likelihood`, in one process: models by name and the settings of images to reports."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from latent_ae.config import EvaluationConfig
from latent_ae.config.section import Size, size_of
from latent_ae.data.source import ImageSource
from latent_ae.data.transforms import Fitting
from latent_ae.device import best_device
from latent_ae.errors import UserError
from latent_ae.evaluation.evaluate import NO_NETWORKS, Evaluator, Networks, evaluate
from latent_ae.evaluation.forecast import Work, forecast
from latent_ae.evaluation.images import (
    MeasureConfig,
    Part,
    asked_for,
    batches,
    described,
    open_part,
    open_parts,
    pixel_format_of,
    reading_as,
)
from latent_ae.evaluation.likelihood import LikelihoodEstimator, check_numbers, check_posterior, fit_std
from latent_ae.evaluation.metrics.fid import FidUnavailable, InceptionFeatures
from latent_ae.evaluation.perceptual import PerceptualWeightsMissing, distance_of
from latent_ae.evaluation.report import EvaluationReport, LikelihoodReport
from latent_ae.evaluation.view import View
from latent_ae.io.image import Color
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import AnyAutoencoder, load_any_autoencoder
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.learned_prior import check_prior
from latent_ae.models.parts import encoder_identity
from latent_ae.models.prior_loading import load_prior

NOT_OF_LIKELIHOOD = (
    *("perceptual", "perceptual_weights_file", "fid", "fid_weights_file", "equivariance"),
    *("batch_size", "latent_images"),
)
"""fields of `evaluation` without effect on a likelihood, which is computed image by image"""
FITTED_IMAGES = 256
"""number of training images, evenly spread, on which the standard deviation of p(x|z) is fitted"""


def measure(
    model_names: Sequence[str], config: MeasureConfig, *, part: Part, mode: Literal["mode", "sample"]
) -> dict[str, EvaluationReport]:
    """Measure model directories or hub ids on a part of a data source, on the GPU if there is one.

    Every model is loaded before the first is measured. Raises UserError if a model or the images cannot be loaded.
    """
    models = {name: load_any_autoencoder(name) for name in model_names}
    formats = {name: pixel_format_of(name, model, config) for name, model in models.items()}
    config = reading_as(config, formats)
    source, left_out = open_part(config.data, part)
    reports = {
        name: _measured(model, formats[name], source, config, part=part, mode=mode) for name, model in models.items()
    }
    return {name: report.model_copy(update={"left_out": dict(left_out)}) for name, report in reports.items()}


def _measured(
    model: AnyAutoencoder,
    pixels: PixelFormat,
    source: ImageSource,
    config: MeasureConfig,
    *,
    part: Part,
    mode: Literal["mode", "sample"],
) -> EvaluationReport:
    """The report of one model, which is on the GPU, if there is one, for as long as it takes."""
    model.to(best_device())
    networks = build_networks(config.evaluation, pixels, config.data.background)
    evaluator = Evaluator(
        model,
        networks,
        data=described(config.data, part),
        size_rule=size_rule(config.evaluation.size, config.data.fitting),
        pixels=pixels,
        equivariance=config.evaluation.equivariance,
        mode=mode,
        pixels_at_once=config.evaluation.pixels_at_once,
    )
    bad: list[str] = []
    limit = config.evaluation.max_images
    work = Work.of(source, limit, config.evaluation.size)
    if (line := forecast(model, networks, pixels, config.evaluation, measured=work)) is not None:
        tqdm.write(line, file=sys.stderr)
    with batches(source, pixels, config.data, config.evaluation, limit=limit, what="evaluating", bad=bad) as found:
        report = evaluate(evaluator, found)
    model.to("cpu")
    return report.with_unusable(bad, asked_for(source, limit))


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
    model = load_any_autoencoder(model_name).to(best_device())
    check_posterior(model)
    pixels = pixel_format_of(model_name, model, config)
    if pixels.numbers:
        raise UserError(f"a likelihood is of 8-bit pictures, and {model_name} reads numbers ({pixels.describe()})")
    config = reading_as(config, {model_name: pixels})
    parts = open_parts(config.data)
    source = parts.heldout if part == "heldout" else parts.train
    prior = None if prior_name is None else load_prior(prior_name)
    if prior is not None:
        check_prior(prior, encoder_identity(model), str(prior_name))
        if not isinstance(prior, HierarchicalPrior):
            raise UserError(f"{prior_name} is a {type(prior).__name__}: a likelihood needs a HierarchicalPrior")
        prior.to(model.device)
    rule = "given"
    if std is None:
        with batches(
            parts.train, pixels, config.data, config.evaluation, limit=FITTED_IMAGES, what="fitting std"
        ) as found:
            std, count = fit_std(model, found, pixels_at_once=config.evaluation.pixels_at_once)
        rule = f"fitted: the largest mean single-sample ELBO of {count} images of the training part"
    estimator = LikelihoodEstimator(
        model,
        std=std,
        std_rule=rule,
        data=described(config.data, part),
        size_rule=size_rule(config.evaluation.size, config.data.fitting),
        samples=samples,
        prior=prior,
        prior_name="N(0, I)" if prior_name is None else f"the hierarchical prior {prior_name}",
        pixels_at_once=config.evaluation.pixels_at_once,
    )
    bad: list[str] = []
    limit = config.evaluation.max_images
    with batches(source, pixels, config.data, config.evaluation, limit=limit, what="measuring", bad=bad) as found:
        for images, sample_ids in found:
            estimator.update(images, sample_ids)
    return estimator.report().with_unusable(bad, asked_for(source, limit))


def build_networks(config: EvaluationConfig, pixels: PixelFormat, background: Color) -> Networks:
    """The networks that a config asks for. Raises UserError for a wrong file of weights, and for channels unchosen."""
    perceptual, inception = NO_NETWORKS
    if config.perceptual != "none":
        try:
            perceptual = distance_of(
                config.perceptual,
                pixels,
                background=background,
                weights_file=config.perceptual_weights_file,
                setting="evaluation.perceptual",
            )
        except PerceptualWeightsMissing as error:
            perceptual = str(error)
    if config.fid:
        view = View.chosen(pixels, background, "evaluation.fid")
        file = None if config.fid_weights_file is None else Path(config.fid_weights_file)
        try:
            inception = InceptionFeatures(file, view)
        except FidUnavailable as error:
            inception = str(error)
    return Networks(perceptual, inception)


def size_rule(setting: int | Size | None, fitting: Fitting) -> str:
    """How measured images are cut or resized, for the protocol."""
    if setting is None:
        return "whole images at their own size"
    height, width = size_of(setting)
    rule = {
        "crop": f"largest centred part of {height}x{width}, resized",
        "pad": f"scaled to fit into {height}x{width}",
        "resize": f"resized to {height}x{width} whatever their aspect ratio",
    }[fitting.fit]
    if fitting.fit == "crop" and height == width:
        rule = f"shorter side resized to {width}, centre crop {width}x{width}"
    return rule if fitting.filter == "auto" else f"{rule}, filter {fitting.filter}"
