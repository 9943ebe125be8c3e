"""The Compare tab's table and pictures, without a browser."""

import csv
import io

import pytest

from latent_ae.inference import Codec
from latent_ae.service.comparison import Compared
from latent_ae.service.errors import TooLarge
from latent_ae.service.service import Service
from tests.app.pictures import pixels, png
from tests.service.conftest import tiny

pytestmark = pytest.mark.usefixtures("gradio_folder")


@pytest.fixture(scope="module")
def found(codecs: dict[str, Codec]) -> tuple[Compared, ...]:
    """Rows of a colour, a codebook and a grey model, and of one that refused."""
    grey = Codec(tiny(channels=1), name="grey", precision="exact")
    with Service({**codecs, "grey": grey}) as service:
        rows = service.compare(png(pixels(24, 20)))
    return (*rows, Compared("large", None, TooLarge("an <image> of this size does not fit")))


def test_a_row_says_what_was_compared_with_what(found: tuple[Compared, ...]) -> None:
    from latent_ae.app.tabs.compare import as_html

    shown = as_html(found)
    kl = found[0].made
    times = " \N{MULTIPLICATION SIGN} "
    row = ["colour", f"4{times}6{times}5 numbers of 16 bits", "4", f"{kl.metrics['PSNR']:.2f}"]
    assert '<th scope="row">tiny-kl</th>' + "".join(f"<td>{cell}</td>" for cell in row) in shown
    assert f"<td>6{times}5 codes of 5 bits</td>" in shown
    assert "<td>grey</td>" in shown
    assert "figures in grey and in colour cannot be set against each other" in shown
    assert "large: an &lt;image&gt; of this size does not fit." in shown
    assert "LPIPS</th>" not in shown  # its weights are not here


def test_the_file_holds_the_rows_in_full(found: tuple[Compared, ...]) -> None:
    from latent_ae.app.tabs.compare import as_csv

    rows = list(csv.DictReader(io.StringIO(as_csv(found).decode())))
    assert [row["model"] for row in rows] == [row.model for row in found]
    assert [row["stored_shape"] for row in rows] == ["4x6x5", "6x5", "2x6x5", ""]
    assert float(rows[2]["psnr_db"]) == found[2].made.metrics["PSNR"]
    assert rows[3]["error"] == str(found[3].refusal)
    assert all(None not in row and len(row) == len(rows[0]) for row in rows)


def test_each_model_can_be_seen_beside_the_image_as_it_was_given_it(found: tuple[Compared, ...]) -> None:
    from latent_ae.app.tabs.compare import pictures

    seen = pictures(found)
    assert [each.name for each in seen] == ["Original in colour", "tiny-kl", "tiny-vq", "grey", "Original in grey"]
    assert seen[3].figures.endswith(", in grey")
    same = pictures(found[:2])
    assert [each.name for each in same] == ["Original", "tiny-kl", "tiny-vq"]
    assert same[1].figures == f"{found[0].made.metrics['PSNR']:.1f} dB, SSIM {found[0].made.metrics['SSIM']:.3f}"
