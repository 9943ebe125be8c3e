"""What a model is called in files that leave this machine, and where it is found by that."""

import json
from pathlib import Path

import pytest

from latent_ae.models.naming import find_model, model_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse"),
        ("kl-digits", "kl-digits"),
        ("runs/kl-digits/model", "kl-digits"),
        ("runs/kl-digits", "kl-digits"),
        ("kl-digits/model", "kl-digits"),
        ("pipeline/vae", "pipeline"),
        ("/data/mine/vae", "mine"),
        ("../mine/model", "mine"),
        ("/data/vae.safetensors", "vae.safetensors"),
    ],
)
def test_a_name_has_no_folders_of_this_machine(
    name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "kl-digits" / "model").mkdir(parents=True)
    assert model_name(name) == expected


def test_the_working_directory_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "model")
    assert model_name(".") == "mine"


def test_a_model_is_found_by_its_encoder_and_then_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place, identity in (("runs/a/model", "1"), ("b", "2"), ("c/model", "3")):
        Path(place).mkdir(parents=True)
        Path(place, "latent_stats.json").write_text(json.dumps({"encoder_identity": identity}))
    Path("runs/broken/model").mkdir(parents=True)
    Path("runs/broken/model/latent_stats.json").write_text("{")
    for identity, expected in (("1", "runs/a/model"), ("2", "b"), ("3", "c/model"), ("4", None)):
        assert find_model(identity, "nothing") == expected
    Path("runs/silent/model").mkdir(parents=True)
    assert find_model("4", "silent") is None  # a folder without a model
    Path("runs/silent/model/config.json").write_text("{}")
    assert find_model("4", "silent") == "runs/silent/model"
    # Files of earlier versions name a path.
    assert find_model("4", str(tmp_path / "runs" / "silent" / "model")) == str(tmp_path / "runs" / "silent" / "model")
    assert find_model("4", "") is None
