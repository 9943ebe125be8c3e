"""Every recipe's architecture, shrunken, through every exporter."""

from pathlib import Path

import pytest
import torch
from diffusers import VQModel

from latent_ae.config import ModelConfig
from latent_ae.export import EXPORTERS, graphs
from latent_ae.export.exporter import export
from latent_ae.export.graphs import programs
from latent_ae.export.source import ModelSource
from latent_ae.models import PRESETS, Autoencoder, build_autoencoder, load_autoencoder
from latent_ae.models.parts import encoder_identity
from tests.export.conftest import place
from tests.export.test_contract import FAST
from tests.models.stock_models import arguments, filled
from tests.program.test_recipes import NAMES, narrower, recipe, smaller


def shrunken(name: str, levels: int | None = None) -> Autoencoder:
    """The model that a recipe trains, as small as the tests train it; a fine-tuned VAE is Stable Diffusion's.

    `levels` keeps the first of them alone.
    """
    config = recipe(name)
    changes = smaller(config)
    model, bottleneck = (
        {path.removeprefix(f"{section}."): value for path, value in changes.items() if path.startswith(f"{section}.")}
        for section in ("model", "bottleneck")
    )
    architecture = (
        ModelConfig(preset="sd", **narrower(PRESETS["sd"]))
        if config.model.init_from is not None
        else config.model.model_copy(update=model)
    )
    if levels is not None:
        widths = architecture.block_out_channels or PRESETS[architecture.preset]["block_out_channels"]
        architecture = architecture.model_copy(update={"block_out_channels": tuple(widths[:levels])})
    return build_autoencoder(
        architecture, config.bottleneck.model_copy(update=bottleneck), seed=0, resolution=changes["data.resolution"]
    )


def structure(model: Autoencoder) -> tuple[object, ...]:
    """What makes another graph, rather than the same in other sizes."""
    keys = ("mid_block_add_attention", "use_quant_conv", "use_post_quant_conv")
    return type(model), *(model.config.get(key) for key in keys)


def representatives() -> list[tuple[str, int]]:
    """A recipe for every structure, that with the fewest levels, and how many of them are to be converted.

    Converting takes seconds a level, which is like the one before: of the deepest three are converted, else two.
    """
    found: dict[tuple[object, ...], tuple[int, str]] = {}
    for name in NAMES:
        with torch.device("meta"):
            model = shrunken(name)
        depth = len(model.config["block_out_channels"])
        found[structure(model)] = min(found.get(structure(model), (depth, name)), (depth, name))
    deepest = max(found.values())
    return sorted((name, min(depth, 3 if (depth, name) == deepest else 2)) for depth, name in found.values())


def source_of(model: Autoencoder, name: str, folder: Path) -> ModelSource:
    model.save_pretrained(folder)
    loaded = load_autoencoder(str(folder))
    return ModelSource(name, loaded, encoder_identity(loaded))


def check(target: str, source: ModelSource, folder: Path) -> None:
    """Every target takes every model: what a program cannot use is `compat`'s to say."""
    assert export(source, place(folder, target), EXPORTERS[target]()).proof.comparisons


@pytest.mark.slow
@pytest.mark.parametrize("target", FAST)
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe(name: str, target: str, tmp_path: Path) -> None:
    check(target, source_of(shrunken(name), name, tmp_path / "model"), tmp_path)


@pytest.mark.slow  # half a minute of conversion each
@pytest.mark.parametrize(("name", "levels"), representatives())
def test_every_structure_of_a_recipe_becomes_graphs(
    name: str, levels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(shrunken(name, levels), name, tmp_path / "model")
    both = programs(source.model)
    monkeypatch.setattr(graphs, "programs", lambda *_arguments: both)  # each would trace the same again
    for target in ("onnx", "pt2"):
        check(target, source, tmp_path / target)


@pytest.mark.slow  # converts to ONNX
def test_what_no_recipe_trains_becomes_a_graph_too(tmp_path: Path) -> None:
    """MoVQ has a normalisation of its own, and one level makes nothing smaller."""
    other = arguments(32, mid_block_add_attention=False, num_vq_embeddings=4, norm_type="spatial")
    check("onnx", source_of(filled(VQModel, other), "movq", tmp_path / "model"), tmp_path)
