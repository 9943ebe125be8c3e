"""The result of a run: a model directory that stock diffusers loads, with what was measured beside it."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from latent_ae._version import __version__
from latent_ae.errors import UserError
from latent_ae.evaluation.metrics.latents import LatentStatistics
from latent_ae.evaluation.report import PRIOR_STD_RANGE, EvaluationReport
from latent_ae.evaluation.run import size_rule
from latent_ae.io.atomic import placed, write_atomically
from latent_ae.io.image import save_png
from latent_ae.io.pixel_format import FILE as PIXEL_FORMAT_FILE
from latent_ae.models import Autoencoder, factor_of
from latent_ae.models.adapt import ADAPTED
from latent_ae.models.discriminator import save_discriminator
from latent_ae.models.naming import model_name
from latent_ae.models.parts import encoder_identity
from latent_ae.training.checkpoint.resume import on_main
from latent_ae.training.checkpoint.state import AutoencoderState
from latent_ae.training.closing import COMPARED_IMAGES, closing
from latent_ae.training.finished import damage_of_result
from latent_ae.training.logging import Logbook
from latent_ae.training.model_card import model_card
from latent_ae.training.scaling import keeps_scaling, record_scaling, stated_scaling, unstated_scaling
from latent_ae.training.settings import RunConfig
from latent_ae.training.validation import Heldout, morph, prior_draws

_MORPH_ROWS = 6


def write_result(state: AutoencoderState, heldout: Heldout, logbook: Logbook, stop: Callable[[], bool]) -> bool:
    """Measure the latents, evaluate, draw, and write runs/NAME/{evaluation.json,samples,model,discriminator}.

    The averaged weights are exported, or the best ones where the run keeps them, to which the last are compared first;
    the model's config receives the measured scaling_factor and shift_factor. What is measured is what is stored, in
    `model.dtype`.
    `model/` comes last: it says that the run is finished. Returns False, with nothing written, if a process was told
    to stop meanwhile. What cannot be written is a CheckpointError on every process; the same command writes it later.
    """
    config, run_dir, best = heldout.config, heldout.config.run_dir, state.best
    if best is not None and state.step not in best.values and not heldout.validate(state, logbook, stop):
        return False
    model = state.result()
    stored = getattr(torch, config.model.dtype)
    model.load_state_dict({name: tensor.to(stored) for name, tensor in model.state_dict().items()})  # rounds
    statistics = heldout.measure_training_latents(model, stop)
    if statistics is None:
        return False
    if statistics.nonfinite_images:
        raise UserError(
            f"the trained model is unusable: {statistics.nonfinite_images} training images have non-finite latents"
        )
    record_scaling(model, statistics, config)
    report = heldout.evaluate(model, stop)
    if report is None:
        return False
    if best is not None:
        if state.step < config.train.steps:
            never = f"{best.measure} has not improved in {best.stale} validations"
            logbook.say(f"{never}: the run ends after update {state.step:,} of {config.train.steps:,}")
        report = report.model_copy(update={"protocol": {**report.protocol, "weights": best.summary()}})
        logbook.say(f"the result has the {best.summary()}")

    def write() -> None:
        pictures = draw_pictures(model, heldout, statistics, logbook, (best and best.step) or state.step)
        write_atomically(run_dir / "evaluation.json", report.to_json().encode())
        if state.adversary is not None:
            save_discriminator(run_dir / "discriminator", state.adversary.network)
        _write_model(model, state, heldout, statistics=statistics, report=report, pictures=pictures)
        logbook.say(report.summary())
        if (warning := unstated_scaling(config)) is not None:
            logbook.say(f"warning: {warning}")
        images = heldout.images(heldout.parts.heldout, COMPARED_IMAGES)
        count = len(heldout.parts.train) if config.data.by_number else None
        logbook.say(closing(report, model, images, training_images=count, folder=run_dir / "model"))

    on_main(write, heldout.accelerator)
    return True


def why_unfinished(config: RunConfig) -> str | None:
    """What a run that has made its last update lacks, for the user; None if it is finished."""
    model, discriminator = config.run_dir / "model", config.run_dir / "discriminator"
    if not os.path.lexists(model):
        return f"{config.run_dir} has no model yet"
    damage = damage_of_result(model, "config.json", "latent_stats.json")
    if damage is None and config.adversarial.loss != "none":
        damage = damage_of_result(discriminator, "config.json")
    return damage and f"{damage}: the results are written again"


def draw_pictures(
    model: Autoencoder, heldout: Heldout, statistics: LatentStatistics, logbook: Logbook, step: int
) -> dict[str, Path]:
    """Write the pictures of the weights of a step into samples/; their files by what they show."""
    folder = heldout.config.run_dir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    reconstructions = heldout.draw_samples(model, step, logbook)
    pictures = {} if reconstructions is None else {"reconstructions": reconstructions}
    low, high, at_once = *PRIOR_STD_RANGE, heldout.config.evaluation.pixels_at_once
    if statistics.has_posterior and low <= statistics.to_dict()["sample"]["std"] <= high:
        size, seed = heldout.config.data.crop_size, heldout.config.seed
        pictures["draws"] = folder / "draws.png"
        draws = prior_draws(model, heldout.pixels, size=size, count=64, seed=seed, pixels_at_once=at_once)
        save_png(pictures["draws"], draws)
    # Between two codes there is nothing: a line between codes jumps from one to another.
    rows = 0 if heldout.config.bottleneck.stock_class == "VQModel" else _MORPH_ROWS
    images = heldout.images(heldout.parts.heldout, 2 * rows)
    half = len(images) // 2  # neighbours are often alike
    pairs = [(a, b) for a, b in zip(images[:half], images[half:], strict=False) if a.shape == b.shape]
    if pairs:
        pictures["morph"] = folder / "morph.png"
        save_png(pictures["morph"], morph(model, pairs, heldout.pixels, pixels_at_once=at_once))
    for name in ("draws", "morph"):
        if name in pictures:
            logbook.picture(step, name, pictures[name])
    return pictures


def _write_model(
    model: Autoencoder,
    state: AutoencoderState,
    heldout: Heldout,
    *,
    statistics: LatentStatistics,
    report: EvaluationReport,
    pictures: dict[str, Path],
) -> None:
    """Write the run's model/, whole or not at all, in place of an earlier one. Raises OSError."""
    config, pixels, folder = heldout.config, heldout.pixels, heldout.config.run_dir / "model"
    stats = {
        "schema": 2,
        "encoder_identity": encoder_identity(model),
        "config": stated_scaling(model),
        "config_is": f"kept from {model_name(str(config.model.init_from))}" if keeps_scaling(config) else "measured",
        "measured": statistics.scaling()._asdict(),
        "of": config.bottleneck.latents_are,
        "split": f"{config.data.source}, training part",
        "size_rule": size_rule(config.evaluation.size, config.data.fitting),
        **statistics.to_dict(),
    }
    card = model_card(
        config,
        report,
        stats,
        pixels=pixels,
        steps=state.step,
        factor=factor_of(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        pictures=list(pictures),
        adapted=state.network.config.get(ADAPTED),
        made_with=f"latent_ae {__version__}, {datetime.now(UTC).date().isoformat()}",
    )
    with placed([folder], replace=True) as beside:
        made = beside / folder.name
        # not diffusers' own `to`, which warns of what it would keep in float32: nothing, of these models
        stored = torch.nn.Module.to(copy.deepcopy(model), getattr(torch, config.model.dtype))
        stored.save_pretrained(made)
        (made / "latent_stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
        (made / "README.md").write_text(card, encoding="utf-8")
        if not pixels.is_default:
            (made / PIXEL_FORMAT_FILE).write_text(pixels.to_json() + "\n", encoding="utf-8")
        for name, file in pictures.items():
            shutil.copyfile(file, made / f"{name}.png")
