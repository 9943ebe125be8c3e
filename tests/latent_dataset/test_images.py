"""Labels and captions come from where a source has them."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from latent_ae.data import DataError, DigitsConfig, HubConfig
from latent_ae.data.transforms import Fit
from latent_ae.io.image import WHITE
from latent_ae.latent_dataset.images import Images, Unusable, View
from latent_ae.latent_dataset.manifest import PreprocessingPart
from tests.data.written import encoded

GREY = PreprocessingPart(channels=1, resolution=None, background=WHITE, flips=False)


def view(images: Images, index: int, **changes: Any) -> View:
    found = images.view(index, GREY.model_copy(update=changes))
    assert isinstance(found, View)
    return found


def test_digits_know_which_digit_they_are() -> None:
    from sklearn.datasets import load_digits

    parts = DigitsConfig().open()
    images = Images(parts, "all")
    assert len(images) == 1797
    assert images.label_names == tuple("0123456789")
    targets = load_digits().target
    for index in (0, 5, 1437, 1438, 1796):  # the held-out ones follow the others
        number = int(images.name(index).removeprefix("digits/"))
        assert view(images, index).row["label"] == targets[number]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows {image, kind (a class), number, text}; the last has no class and no text."""
    file = tmp_path_factory.mktemp("table") / "train.parquet"
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "kind": datasets.ClassLabel(names=["leaf", "stone"]),
            "number": datasets.Value("int64"),
            "text": datasets.Value("string"),
        }
    )
    rows = {
        "image": [{"bytes": encoded(seed), "path": None} for seed in range(6)],
        "kind": [0, 1, 0, 1, 0, -1],
        "number": [10, 11, 12, 13, 14, 15],
        "text": ["a", "b", "c", "d", "e", None],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    return file


def hub(table: Path, **columns: str) -> Images:
    parts = HubConfig(path=str(table), heldout_share=0.4).open()
    return Images(parts, "all", **columns)


def test_columns_of_a_hub_data_set_are_carried_over(table: Path) -> None:
    images = hub(table, label_column="kind", caption_column="text")
    assert images.label_names == ("leaf", "stone")
    by_name = {images.name(index): view(images, index) for index in range(6)}
    assert [by_name[f"train/{row:08d}"].row["label"] for row in range(6)] == [0, 1, 0, 1, 0, None]
    assert [by_name[f"train/{row:08d}"].row["caption"] for row in range(6)] == ["a", "b", "c", "d", "e", None]
    numbered = hub(table, label_column="number")
    assert numbered.label_names is None
    assert {view(numbered, index).row["label"] for index in range(6)} == set(range(10, 16))
    assert view(hub(table), 0).row["label"] is None


def test_a_column_that_is_not_there_is_refused(table: Path) -> None:
    with pytest.raises(DataError, match=r"hue is no column of split train; its columns are image .*, kind .*, number"):
        hub(table, label_column="hue")


def test_a_column_of_another_kind_is_refused(table: Path) -> None:
    with pytest.raises(DataError, match=r"its label is '.', expected an integer: give another label_column"):
        hub(table, label_column="text").view(0, GREY)
    with pytest.raises(DataError, match=r"its caption is 1., expected a string: give another caption_column"):
        hub(table, caption_column="number").view(0, GREY)


def test_a_part_without_images_is_refused_and_left_out_of_all(table: Path) -> None:
    parts = HubConfig(path=str(table), heldout_share=0).open()
    assert (len(parts.heldout), len(Images(parts, "all", label_column="kind"))) == (0, 6)
    with pytest.raises(DataError, match=r"the data set has no images in part heldout: give another --part"):
        Images(parts, "heldout")


def test_an_image_too_small_for_the_resolution_is_unusable(table: Path) -> None:
    found = hub(table).view(0, GREY.model_copy(update={"resolution": 128}))
    assert isinstance(found, Unusable)
    assert "too small: got 20x16, need 8 pixels a side and a quarter of 128x128" in found.reason


def test_an_image_comes_to_a_resolution_as_the_fit_says(table: Path) -> None:
    images = hub(table)
    cases: tuple[tuple[Fit, tuple[int, int], list[int]], ...] = (
        ("crop", (8, 16), [0, 3, 20, 13]),
        ("pad", (8, 10), [0, 0, 20, 16]),
        ("resize", (8, 16), [0, 0, 20, 16]),
    )
    for fit, size, crop in cases:
        found = view(images, 0, resolution=(8, 16), fit=fit)
        assert found.values.shape == (*size, 1)
        assert found.row["crop"] == crop
        assert (found.row["height"], found.row["width"]) == size
