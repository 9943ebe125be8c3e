"""Attribute files: what is written is read, the stock library opens them, and others are refused in a line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from latent_ae.io.latent_file.attribute import Attribute, Separation, read_attribute, write_attribute
from latent_ae.io.latent_file.latents import LatentFileError, Latents, WrongEncoder, write_latents

ENCODER = "ab" * 32
ATTRIBUTE = Attribute(
    tensor=torch.arange(12.0).view(3, 2, 2) - 5,
    encoder=ENCODER,
    factor=8,
    from_name="calm",
    to_name="smiling",
    from_count=41,
    to_count=40,
    separation=Separation(0.875, 1e-4, 11, 10),
    model="mine",
    encoder_class="AutoencoderKL",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_attribute(tmp_path / "a.safetensors", ATTRIBUTE)
    found = read_attribute(tmp_path / "a.safetensors")
    assert torch.equal(found.tensor, ATTRIBUTE.tensor)
    assert replace(found, tensor=ATTRIBUTE.tensor) == ATTRIBUTE
    assert found.grid == (2, 2)


def test_the_stock_library_opens_it(tmp_path: Path) -> None:
    write_attribute(tmp_path / "a.safetensors", ATTRIBUTE)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = file.metadata()
        assert torch.equal(file.get_tensor("attribute"), ATTRIBUTE.tensor)
    expected = {"schema": "1", "kind": "attribute", "encoder": ENCODER, "from": "calm", "to": "smiling", "auc": "0.875"}
    assert expected.items() <= {name.removeprefix("latent_ae."): text for name, text in metadata.items()}.items()


def test_names_that_no_terminal_could_show_are_made_printable(tmp_path: Path) -> None:
    write_attribute(tmp_path / "a.safetensors", replace(ATTRIBUTE, from_name="a\x1b[2J\n"))
    assert read_attribute(tmp_path / "a.safetensors").from_name == "a?[2J?"


def test_the_encoder_is_checked_with_both_identities_shown() -> None:
    ATTRIBUTE.require_encoder(ENCODER)
    with pytest.raises(WrongEncoder, match=rf"{ENCODER[:16]} \(mine, AutoencoderKL\).*{'cd' * 8}"):
        ATTRIBUTE.require_encoder("cd" * 32)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"

    def refused(message: str) -> None:
        with pytest.raises(LatentFileError, match=message) as error:
            read_attribute(path)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(f"{path} is not an attribute file")

    write_latents(path, Latents("mean", torch.zeros(1, 3, 2, 2), ENCODER, 16, 16, 8))
    refused("kind is 'mean', expected one of attribute")
    save_file({"attribute": torch.zeros(3, 2, 2)}, path)
    refused("its metadata lack latent_ae.kind")
    path.write_bytes(b"\x89PNG" + bytes(100))
    refused("which do not hold its header")
    write_attribute(path, replace(ATTRIBUTE, tensor=torch.zeros(3, 2)))
    refused(r"expected attribute as \[c,h,w\]")
    write_attribute(path, replace(ATTRIBUTE, tensor=torch.full((3, 2, 2), torch.nan)))
    refused("not finite")
    write_attribute(path, replace(ATTRIBUTE, separation=Separation(1.5, 0.0, 3, 3)))
    refused("auc and p_value are 1.5 and 0.0")
    write_attribute(path, ATTRIBUTE)
    path.write_bytes(path.read_bytes()[:-4])
    refused("attribute as")


@pytest.mark.parametrize(
    ("separation", "words"),
    [
        (Separation(1.0, 1 / 252, 5, 5), "separates: AUC 1.000 on 5 + 5 held-out images"),
        (Separation(0.6, 1e-5, 500, 500), "separates weakly: AUC 0.600"),
        (Separation(0.52, 0.4, 20, 20), "does not separate: AUC 0.520 on 20 + 20 held-out images, chance gives 0.5"),
        (Separation(1.0, 1 / 70, 4, 4), "unknown whether it separates: 4 + 4 held-out images are too few"),
    ],
)
def test_the_verdict_is_in_words(separation: Separation, words: str) -> None:
    assert str(separation).startswith(words)
