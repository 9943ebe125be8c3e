"""The README.md of a model directory."""

from pathlib import Path
from typing import Any

import yaml

from latent_ae.data.source import LeftOut
from latent_ae.evaluation.report import EvaluationReport
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models.naming import model_name
from latent_ae.training.scaling import unstated_scaling
from latent_ae.training.settings import RunConfig

_CAPTIONS = {
    "reconstructions": "Held-out images above their reconstructions.",
    "draws": "Draws from the prior: raw latents from N(0, 1), decoded.",
    "morph": "Held-out pairs: decodings along the straight line between their latents.",
}

_USE_CODES = """from diffusers import VQModel

vqvae = VQModel.from_pretrained("path/to/this/folder")
vectors = vqvae.encode(pixels).latents
codes = vqvae.quantize(vectors)[2][2]  # indices into vqvae.quantize.embedding, image by image, row by row
pixels = vqvae.decode(vectors).sample  # takes the nearest codes by itself"""


def model_card(
    config: RunConfig,
    report: EvaluationReport,
    stats: dict[str, Any],
    *,
    pixels: PixelFormat,
    steps: int,
    factor: int,
    parameters: int,
    pictures: list[str],
    made_with: str,
    adapted: str | None = None,
) -> str:
    """Markdown with data, recipe, metrics with their protocol, and pictures.

    Args:
        config: the resolved settings of the run.
        report: the held-out evaluation.
        stats: the contents of latent_stats.json.
        pixels: of the images.
        steps: updates made.
        factor: pixels per latent position along a side.
        parameters: number of the model's parameters.
        pictures: names of the PNGs in the model directory, of `_CAPTIONS`.
        made_with: program and date.
        adapted: what the run changed in `model.init_from` before it trained it.
    """
    recipe = config.model_dump(mode="json", exclude={"name", "output_dir"})
    shown = "\n\n".join(f"{_CAPTIONS[name]}\n\n![{name}]({name}.png)" for name in pictures)
    start = "" if adapted is None else f"\n\nIt started from `{config.model.init_from}`, adapted: {adapted}."
    kept = f"It has the {report.protocol['weights']}. " if "weights" in report.protocol else ""
    meaning = "" if pixels.is_default else f" for {pixels.describe()}, as `pixel_format.json` says"
    card = f"""---
library_name: diffusers
tags: [autoencoder, vae]
---

# {config.name}

{config.bottleneck.title} with {parameters:,} parameters and a factor of {factor}, trained on
`{config.data.source}` for {steps:,} steps of {config.train.batch_size} images. {kept}{made_with}.{start}

```python
{_usage(stats["config"]) if config.bottleneck.stock_class == "AutoencoderKL" else _USE_CODES}
```

Pixels are float NCHW in [-1, 1]{meaning}.

{shown}

{_measured(config, report, stats)}

Encoder identity: `{stats["encoder_identity"]}`

## Recipe

```yaml
{yaml.safe_dump(recipe, sort_keys=False, width=1 << 16).strip()}
```
"""
    for place in sorted(_places(recipe), key=len, reverse=True):
        card = card.replace(place, model_name(place))
    return card


def _measured(config: RunConfig, report: EvaluationReport, stats: dict[str, Any]) -> str:
    """The section with the metrics, their protocol and what should be known of them."""
    unstated = unstated_scaling(config)
    every = [*report.warnings, *([] if unstated is None else [unstated])]
    warnings = "".join(f"\n> **Warning:** {warning}\n" for warning in every)
    left_out = f" Of what was found, {LeftOut(report.left_out)}." if report.left_out else ""
    return f"""## Measured

{report.images} images: {report.protocol["data"]}, {report.protocol["size_rule"]}; {report.protocol["latents"]};
{report.protocol["pixels"]}.{left_out}

{_metric_table(report)}
{warnings}
{_scaling(config, stats)}"""


def _places(settings: object) -> set[str]:
    """Absolute paths among settings: the card leaves this machine, where they say nothing."""
    if isinstance(settings, dict):
        return set().union(*map(_places, settings.values()))
    return {settings} if isinstance(settings, str) and Path(settings).is_absolute() else set()


def _usage(stated: dict[str, Any]) -> str:
    """Pixels to scaled latents and back, by the config keys that state the scale."""
    factor = "vae.config.scaling_factor"
    by_channel = ""
    if stated.get("latents_mean") is not None and stated.get("latents_std") is not None:
        by_channel = """
mean, std = (torch.tensor(vae.config[key]).view(1, -1, 1, 1) for key in ("latents_mean", "latents_std"))"""
        there, back = f"(z - mean) * {factor} / std", f"latents * std / {factor} + mean"
    elif stated.get("shift_factor") is not None:
        there, back = f"(z - vae.config.shift_factor) * {factor}", f"latents / {factor} + vae.config.shift_factor"
    else:
        there, back = f"z * {factor}", f"latents / {factor}"
    return f"""{"import torch" + chr(10) if by_channel else ""}from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("path/to/this/folder"){by_channel}
z = vae.encode(pixels).latent_dist.sample()
latents = {there}
pixels = vae.decode({back}).sample"""


def _scaling(config: RunConfig, stats: dict[str, Any]) -> str:
    """Where the scale in the config comes from, and what was measured."""
    names = {"scaling_factor": "`scaling_factor`", "shift_factor": "`shift_factor`"}
    measured = stats["measured"]
    where = (
        f"{stats['images']} images ({stats['split']}) on {config.bottleneck.measured_on};\n"
        "`latent_stats.json` has the statistics per channel."
    )
    if stats["config_is"] == "measured":
        values = " and ".join(f"{names[key]} {measured[key]}" for key in names if key in stats["config"])
        return f"{values} were measured over\n{where}"
    values = ", ".join(f"`{key}` {'null' if value is None else value}" for key, value in stats["config"].items())
    return (
        f"The encoder was frozen, so the latents are those of `{config.model.init_from}`, and the config states their "
        f"scale as it does: {values}.\nFor comparison, 1/std {measured['scaling_factor']} and mean "
        f"{measured['shift_factor']} were measured over\n{where}"
    )


def _metric_table(report: EvaluationReport) -> str:
    lines = ["| measure | value | protocol |", "|---|---|---|"]
    for name, metric in report.metrics.items():
        value = f"- ({metric.reason})" if metric.value is None else f"{metric.value:.5g} {metric.unit}".rstrip()
        lines.append(f"| {name} | {value} | {metric.protocol} |")
    if report.codebook is not None:
        codebook = report.codebook
        lines.append(
            f"| codebook | {codebook['used']} of {codebook['codebook_size']} codes used, perplexity "
            f"{codebook['perplexity']:.5g} | over {codebook['codes']:,} positions |"
        )
        bits = f"{codebook['bits_per_pixel_uniform']:.4g} ({codebook['bits_per_pixel_entropy']:.4g})"
        lines.append(f"| bits per pixel | {bits} | log2 K a position (entropy of the used codes) |")
    protocols = {"colour bias": "mean of reconstruction - image by channel, on [-1, 1]"}
    lines += [f"| {name} | {values} | {protocols.get(name, '')} |" for name, values in report.by_channel().items()]
    return "\n".join(lines)
