"""What a name means where a model is expected: a place, the hub, or an error that says what there is."""

import json
from pathlib import Path

import pytest

from latent_ae.errors import ModelError
from latent_ae.io.model_place import drawing_pipeline, find_model, pipeline_note
from latent_ae.io.paths import near_names


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a run, a run of a diffusion, two pipelines and a file."""
    monkeypatch.chdir(tmp_path)
    for folder in (
        "runs/kl-photos/model",
        "runs/kl-digits/model",
        "draws/vae",
        "text/vae",
        "runs/diffusion/pipeline/vae",
    ):
        Path(folder).mkdir(parents=True)
        Path(folder, "config.json").write_text("{}")
    for folder in ("runs/kl-photos", "runs/kl-digits", "runs/diffusion"):
        Path(folder, "config.yaml").write_text("name: x\n")
    for folder, kind in (("draws", "DiT"), ("text", "StableDiffusion"), ("runs/diffusion/pipeline", "DiT")):
        Path(folder, "model_index.json").write_text(json.dumps({"_class_name": f"{kind}Pipeline"}))
    Path("vae.safetensors").touch()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("runs/kl-photos", "runs/kl-photos/model"),
        ("runs/kl-photos/", "runs/kl-photos/model"),
        ("runs/kl-photos/model", "runs/kl-photos/model"),
        ("./draws", "draws"),
        ("vae.safetensors", "vae.safetensors"),
        ("stabilityai/sd-vae-ft-mse", None),
        ("CompVis/stable-diffusion-v1-4", None),
        ("owner/vae.v2", None),
    ],
)
def test_a_name_is_a_place_or_of_the_hub(name: str, place: str | None) -> None:
    assert find_model(name) == (None if place is None else Path(place))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("runs/kl-photo", "; did you mean runs/kl-photos?"),
        ("kl-photos", "; did you mean runs/kl-photos or photos-kl?"),
        ("KL-PHOTOS", "; did you mean runs/kl-photos or photos-kl?"),
        ("runs/kl-photos/modle", "; did you mean runs/kl-photos/model?"),
        ("vae.safetensor", "; did you mean vae.safetensors?"),
        ("owner/vae.safetensors", ", nor the folder owner (from "),
        ("runs/nothing/like/it", ", nor the folder runs/nothing (from "),
        ("/nowhere/at/all", ", nor the folder /nowhere (from "),
        ("../nothing-like-it", "; give a model directory, the folder of a run, a single file, OWNER/NAME"),
        ("nothing-like-it", "; give a model directory, the folder of a run, a single file, OWNER/NAME"),
        ("three/parts/long", ", nor the folder three (from "),
    ],
)
def test_a_path_where_nothing_is_is_never_looked_up_on_the_hub(name: str, advice: str) -> None:
    with pytest.raises(ModelError) as error:
        find_model(name)
    assert str(error.value).startswith(f"{name}: there is no such folder or file{advice}")


def test_hidden_files_are_not_near(tmp_path: Path) -> None:
    (tmp_path / ".vae").touch()
    assert near_names(tmp_path / "vae") == []


def test_a_pipelines_autoencoder_is_said() -> None:
    assert pipeline_note("draws") == "draws is a pipeline: its autoencoder, draws/vae, is used"
    assert pipeline_note("draws/vae") is None
    assert pipeline_note("runs/kl-photos") is None


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("draws", "draws"),
        ("runs/diffusion", "runs/diffusion/pipeline"),
        ("runs/diffusion/pipeline", "runs/diffusion/pipeline"),
        ("draws/vae", None),
        ("runs/kl-photos", None),
        ("nowhere", None),
    ],
)
def test_what_draws_by_itself(name: str, folder: str | None) -> None:
    assert drawing_pipeline(name) == (None if folder is None else Path(folder))


def test_a_pipeline_that_needs_a_prompt_is_refused() -> None:
    with pytest.raises(ModelError) as error:
        drawing_pipeline("text")
    assert str(error.value) == (
        "text is a StableDiffusionPipeline, and only a DiTPipeline draws without a prompt or an image: use it in "
        "diffusers, or give --model text/vae to draw with N(0, 1)"
    )
    Path("text/model_index.json").write_text("{")
    with pytest.raises(ModelError, match=r"text/model_index\.json is damaged"):
        drawing_pipeline("text")
