"""`latent-ae fit-prior`, and its result given to `sample` and to a server."""

import json
from pathlib import Path

import pytest
from PIL import Image

from latent_ae.cli import main
from latent_ae.inference import Codec
from latent_ae.service import catalog
from tests.priors.fixtures import made

__all__ = ["made"]


def test_a_fit_is_a_prior_that_sample_and_a_server_take(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "mixture", tmp_path / "fit.json"
    words = ["fit-prior", str(made / "latents"), "--components", "2", "-o", str(out), "--json", str(report)]
    assert main(words) == 0
    assert "2 components over 35 directions, fitted to 9 latents" in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert (found["components"], found["rows"], found["heldout_rows"]) == (2, 9, 1)
    assert {path.name for path in out.iterdir()} >= {"config.json", "README.md", "samples.png"}

    model, picture = str(made / "kl"), tmp_path / "draws.png"
    assert main(["sample", "--model", model, "--prior", str(out), "--count", "4", "-o", str(picture)]) == 0
    with Image.open(picture) as drawn:
        assert drawn.size == (34, 34)  # 2 by 2 images of 16 pixels
    codec = Codec.load(model)
    assert list(catalog.load_priors([str(out)], {"kl": codec})) == ["kl"]
    other = ["sample", "--model", str(made / "other"), "--prior", str(out), "--count", "1", "-o", str(picture)]
    assert main(other) == 2
    assert f"the prior {out} is of the latents of the encoder" in capsys.readouterr().err
    assert main(words) == 2
    assert f"{out} already exists" in capsys.readouterr().err


def test_too_few_latents_are_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit-prior", str(made / "latents"), "--components", "5", "-o", str(tmp_path / "mixture")]) == 2
    assert "has 10 latents, too few for 5 components: at least 12 are needed" in capsys.readouterr().err
    assert main(["fit-prior", str(made / "codes"), "-o", str(tmp_path / "mixture")]) == 2
    assert "holds codes" in capsys.readouterr().err
    assert not (tmp_path / "mixture").exists()
